//! The pods of a Job: how they are told apart, and how new ones look.

use std::sync::Arc;

use client::Entry;
use proto::kind::{JOB, POD};
use proto::view::job::Job;
use proto::view::pod::Pod;
use serde::Deserialize;
use serde_json::{Value, json};

use super::FINALIZER;
use crate::plan::{Create, Patch, Step, Target, controller_reference, reference};
use crate::replica_set::told;
use crate::run::PlanError;
use crate::view::View;

/// The completion index, as annotation and as label.
pub(super) const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const INDEX_VARIABLE: &str = "JOB_COMPLETION_INDEX";
/// What leaves room for five random letters in a name.
const NAME_PREFIX: usize = 58;

/// Whether the pod is still to be counted, or was a moment ago.
pub(super) fn is_tracked(pod: &Pod) -> bool {
    pod.metadata.finalizers.iter().any(|finalizer| finalizer == FINALIZER)
}

/// The pod's completion index.
pub(super) fn index(pod: &Pod) -> Option<i64> {
    let index: i64 = pod.metadata.annotations.get(INDEX)?.parse().ok()?;
    (index >= 0).then_some(index)
}

/// The pod need not wait for us any longer.
pub(super) fn without_finalizer(pod: &Pod) -> Patch {
    let body = json!({ "metadata": {
        "uid": pod.metadata.uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER],
    } });
    Patch { target: Target::of(&POD, &pod.metadata), subresource: "", strategic: true, body }
}

/// The same for one that has not ended, refused if it has meanwhile: then it is to be counted.
pub(super) fn released(pod: &Pod) -> Patch {
    let mut patch = without_finalizer(pod);
    patch.body["metadata"]["resourceVersion"] = json!(pod.metadata.resource_version);
    patch
}

/// For several that have ended.
pub(super) fn untrack(pods: &[Arc<Entry<Pod>>]) -> Option<Step> {
    let patches: Vec<Patch> = pods.iter().map(|pod| without_finalizer(pod)).collect();
    (!patches.is_empty()).then_some(Step::PatchEach(patches))
}

/// Who is adopted gets our finalizer, who is released loses it: in the same write.
pub(super) fn tracking(mut claims: Vec<Step>, view: &View) -> Vec<Step> {
    for step in &mut claims {
        let (patch, ours) = match step {
            Step::Adopt { patch, .. } => (patch, true),
            Step::Patch(patch) => (patch, false),
            _ => continue,
        };
        let pod = view.get::<Pod>(&patch.target.namespace, &patch.target.name);
        let mut finalizers = pod.map(|pod| pod.metadata.finalizers.clone()).unwrap_or_default();
        finalizers.retain(|finalizer| finalizer != FINALIZER);
        if ours {
            finalizers.push(FINALIZER.into());
        }
        patch.body["metadata"]["finalizers"] = finalizers.into();
    }
    claims
}

#[derive(Deserialize)]
struct Whole {
    spec: WholeSpec,
}

#[derive(Deserialize)]
struct WholeSpec {
    template: Template,
}

/// The whole pod template.
#[derive(Clone, Deserialize)]
pub(super) struct Template {
    #[serde(default)]
    metadata: Value,
    spec: Value,
}

impl Template {
    pub fn of(job: &Entry<Job>) -> Result<Template, PlanError> {
        let whole = serde_json::from_slice::<Whole>(&job.bytes);
        let whole = whole.map_err(|source| PlanError::Decode {
            kind: "Job",
            name: job.metadata.name.clone(),
            source,
        })?;
        Ok(whole.spec.template)
    }

    /// `count` pods as the template says.
    pub fn create(self, job: &Job, count: usize) -> Create {
        let prefix = format!("{}-", job.metadata.name);
        create(job, &prefix, self, count)
    }

    /// A pod that works on one index, with the failures of that index as annotations.
    pub fn create_for(&self, job: &Job, index: i64, failures: &[(&'static str, i64)]) -> Create {
        let mut template = self.clone();
        let number = index.to_string();
        template.note("annotations", INDEX, &number);
        template.note("labels", INDEX, &number);
        for (name, count) in failures {
            template.note("annotations", name, &count.to_string());
        }
        let name = &job.metadata.name;
        template.spec["hostname"] = format!("{name}-{index}").into();
        let source = json!({ "fieldRef": { "fieldPath": format!("metadata.labels['{INDEX}']") } });
        let variable = json!({ "name": INDEX_VARIABLE, "valueFrom": source });
        for list in ["initContainers", "containers"] {
            for container in template.spec[list].as_array_mut().into_iter().flatten() {
                let known = |env: &Value| env["name"] == INDEX_VARIABLE;
                match container["env"].as_array_mut() {
                    Some(all) if all.iter().any(known) => {}
                    Some(all) => all.push(variable.clone()),
                    None => container["env"] = json!([variable]),
                }
            }
        }
        let ending = format!("-{index}-");
        let kept = name.len().min(NAME_PREFIX.saturating_sub(ending.len()));
        create(job, &format!("{}{ending}", &name[..kept]), template, 1)
    }

    fn note(&mut self, field: &str, name: &str, value: &str) {
        if self.metadata.is_null() {
            self.metadata = json!({});
        }
        self.metadata[field][name] = value.into();
    }
}

fn create(job: &Job, prefix: &str, mut template: Template, count: usize) -> Create {
    let meta = &job.metadata;
    let mut metadata = json!({
        "generateName": prefix,
        "namespace": meta.namespace,
        "ownerReferences": [controller_reference(&JOB, meta)],
    });
    for field in ["labels", "annotations"] {
        if let Some(value) = template.metadata.get_mut(field).filter(|value| !value.is_null()) {
            metadata[field] = value.take();
        }
    }
    let finalizers = template.metadata["finalizers"].as_array().cloned().unwrap_or_default();
    let others = finalizers.into_iter().filter(|finalizer| finalizer != FINALIZER);
    metadata["finalizers"] = others.chain([json!(FINALIZER)]).collect();
    let object =
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template.spec });
    Create {
        row: &POD,
        namespace: meta.namespace.clone(),
        object: Arc::new(object),
        count,
        told: Some(told(&reference(&JOB, meta))),
    }
}
