//! Revisions: which ReplicaSet stands for which template, how it is named and annotated.

use std::sync::Arc;

use client::{Entry, Object};
use proto::kind::{DEPLOYMENT, REPLICA_SET};
use proto::meta::Labels;
use proto::time::Time;
use proto::view::ObjectReference;
use proto::view::deployment::Deployment;
use proto::view::replica_set::{ReplicaSet, ReplicaSetStatus};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::deployment::scale;
use crate::plan::{Plan, controller_reference};
use crate::run::PlanError;

pub(super) const REVISION: &str = "deployment.kubernetes.io/revision";
const HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(super) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
pub(super) const MAX: &str = "deployment.kubernetes.io/max-replicas";
const HASH: &str = "pod-template-hash";
/// Annotations of a Deployment that its ReplicaSets do not get.
const OWN: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    HISTORY,
    DESIRED,
    MAX,
    "deprecated.deployment.rollback.to",
];
/// The letters of the hash: k8s.io/apimachinery util/rand.SafeEncodeString.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// A ReplicaSet and what it is to become.
pub(super) struct Set {
    pub name: String,
    /// Absent while it is only planned.
    pub entry: Option<Arc<Entry<ReplicaSet>>>,
    pub status: ReplicaSetStatus,
    /// Without the hash.
    pub template: Value,
    pub replicas: i32,
    pub min_ready_seconds: i32,
    pub annotations: Labels,
}

impl Set {
    pub fn existing(entry: Arc<Entry<ReplicaSet>>) -> Result<Set, PlanError> {
        Ok(Set {
            name: entry.metadata.name.clone(),
            status: entry.status.clone(),
            template: template(&entry)?,
            replicas: entry.replicas(),
            min_ready_seconds: entry.spec.min_ready_seconds,
            annotations: entry.metadata.annotations.clone(),
            entry: Some(entry),
        })
    }

    pub fn uid(&self) -> Option<&str> {
        self.entry.as_ref().map(|entry| entry.metadata.uid.as_str())
    }

    /// Orders by creation; what is only planned is the youngest.
    pub fn age(&self) -> (bool, Option<Time>, &str) {
        let created = self.entry.as_ref().map(|entry| entry.metadata.creation_timestamp);
        (created.is_none(), created.flatten(), &self.name)
    }

    /// The revision it stands for; 0 for none.
    pub fn revision(&self) -> i64 {
        self.number(REVISION).unwrap_or(0)
    }

    pub fn number(&self, annotation: &str) -> Option<i64> {
        self.annotations.get(annotation)?.parse().ok()
    }

    /// Sets how many pods it is to have, and notes of which size this is a part.
    pub fn resize(&mut self, replicas: i32, deployment: &Deployment) {
        self.replicas = replicas;
        self.note_size(deployment);
    }

    /// Notes of which size its pods are a part, for proportional scaling.
    fn note_size(&mut self, deployment: &Deployment) {
        let desired = deployment.replicas();
        let max = desired + scale::max_surge(deployment);
        self.annotations.insert(DESIRED.into(), desired.to_string());
        self.annotations.insert(MAX.into(), max.to_string());
    }

    /// Takes over the Deployment's annotations and, if it is newer, the revision.
    pub fn annotate(&mut self, deployment: &Deployment, revision: i64) {
        copy_annotations(deployment, &mut self.annotations);
        let before = self.annotations.get(REVISION).cloned().unwrap_or_default();
        if !before.is_empty() && before.parse::<i64>().is_err() || self.revision() >= revision {
            return;
        }
        self.annotations.insert(REVISION.into(), revision.to_string());
        if !before.is_empty() {
            let history = self.annotations.entry(HISTORY.into()).or_default();
            let comma = if history.is_empty() { "" } else { "," };
            *history += &format!("{comma}{before}");
        }
    }

    /// The steps from what it is to what it is to become.
    pub fn write(self, regarding: &ObjectReference, plan: &mut Plan) {
        let Some(entry) = &self.entry else { return };
        let mut body = json!({});
        let before = entry.replicas();
        if self.replicas != before {
            body["spec"]["replicas"] = self.replicas.into();
        }
        if self.min_ready_seconds != entry.spec.min_ready_seconds {
            body["spec"]["minReadySeconds"] = self.min_ready_seconds.into();
        }
        for (key, value) in &self.annotations {
            if entry.metadata.annotations.get(key) != Some(value) {
                body["metadata"]["annotations"][key] = value.as_str().into();
            }
        }
        if body == json!({}) {
            return;
        }
        plan.patch(&REPLICA_SET, &entry.metadata, body);
        if self.replicas != before {
            let direction = if self.replicas > before { "up" } else { "down" };
            let (name, after) = (&self.name, self.replicas);
            let message = format!("Scaled {direction} replica set {name} from {before} to {after}");
            plan.event(regarding, "Normal", "ScalingReplicaSet", message);
        }
    }
}

/// The revision after those of these sets.
pub(super) fn next(old: &[Set]) -> i64 {
    old.iter().map(Set::revision).max().unwrap_or(0) + 1
}

#[derive(Deserialize)]
struct Whole {
    spec: WholeSpec,
}

#[derive(Deserialize)]
struct WholeSpec {
    template: Value,
}

/// The whole pod template of a Deployment or ReplicaSet, without the hash.
pub(super) fn template<T: Object>(entry: &Entry<T>) -> Result<Value, PlanError> {
    let whole: Whole = serde_json::from_slice(&entry.bytes).map_err(|source| {
        PlanError::Decode { kind: &T::row().kind, name: entry.meta().name.clone(), source }
    })?;
    let mut template = whole.spec.template;
    if let Some(metadata) = template.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|_, value| !value.is_null());
        if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
            labels.remove(HASH);
        }
    }
    Ok(template)
}

/// Templates are equal whatever their hash says.
pub(super) fn same_template(one: &Value, other: &Value) -> bool {
    let metadata = |template: &Value| match template.get("metadata") {
        Some(Value::Object(metadata)) => {
            let filled = |value: &Value| value.as_object().is_none_or(|map| !map.is_empty());
            metadata
                .iter()
                .filter(|(_, value)| filled(value))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect()
        }
        _ => serde_json::Map::new(),
    };
    one.get("spec") == other.get("spec") && metadata(one) == metadata(other)
}

/// The set of the Deployment's template, as planned and as it is to be created.
pub(super) fn make(
    deployment: &Entry<Deployment>,
    revision: &str,
    collisions: Option<i32>,
    replicas: i32,
) -> Result<(Set, Value), PlanError> {
    let mut template = template(deployment)?;
    let hash = hash(&template, collisions);
    let name = format!("{}-{hash}", deployment.metadata.name);
    let mut annotations = Labels::new();
    copy_annotations(deployment, &mut annotations);
    annotations.insert(REVISION.into(), revision.into());
    let mut set = Set {
        name: name.clone(),
        entry: None,
        status: ReplicaSetStatus::default(),
        template: template.clone(),
        replicas,
        min_ready_seconds: deployment.spec.min_ready_seconds,
        annotations,
    };
    set.note_size(deployment);
    template["metadata"]["labels"][HASH] = hash.as_str().into();
    let mut selector = deployment.spec.selector.clone();
    selector.match_labels.insert(HASH.into(), hash);
    let mut object = json!({
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": name,
            "namespace": deployment.metadata.namespace,
            "labels": template["metadata"]["labels"],
            "annotations": set.annotations,
            "ownerReferences": [controller_reference(&DEPLOYMENT, &deployment.metadata)],
        },
        "spec": { "replicas": replicas, "selector": selector, "template": template },
    });
    if set.min_ready_seconds != 0 {
        object["spec"]["minReadySeconds"] = set.min_ready_seconds.into();
    }
    Ok((set, object))
}

fn copy_annotations(deployment: &Deployment, annotations: &mut Labels) {
    for (key, value) in &deployment.metadata.annotations {
        if !OWN.contains(&key.as_str()) {
            annotations.insert(key.clone(), value.clone());
        }
    }
}

/// FNV-32a of the template's canonical JSON and the collision count, in letters that make no
/// words.
fn hash(template: &Value, collisions: Option<i32>) -> String {
    let mut bytes = template.to_string().into_bytes();
    if let Some(count) = collisions {
        bytes.extend_from_slice(&(count as u32 as u64).to_le_bytes());
    }
    let step = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
    let sum = bytes.iter().fold(0x811c_9dc5, step);
    let letter = |digit: u8| char::from(ALPHABET[usize::from(digit) % ALPHABET.len()]);
    sum.to_string().bytes().map(letter).collect()
}
