//! ReplicaSet: as many active pods as it says, and a status that tells how many there are.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/>

pub(crate) mod victims;

use std::sync::Arc;
use std::time::Duration;

use client::{DeleteOptions, Entry, Object};
use proto::kind::POD;
use proto::meta::Labels;
use proto::selector::LabelSelector;
use proto::time::Time;
use proto::view::pod::Pod;
use proto::view::replica_set::{ReplicaSet, ReplicaSetStatus};
use proto::view::{Condition, ObjectReference, Template};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::plan::{
    Create, Delete, Plan, Step, Target, Told, controller_reference, reference, status_difference,
};
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

/// Looks after ReplicaSets.
pub struct ReplicaSets;

/// So many pods are created or deleted in one plan, at most.
const BURST: usize = 500;

impl Controller for ReplicaSets {
    type Object = ReplicaSet;
    const NAME: &'static str = "replicaset-controller";

    fn watches(watches: &mut Watches<ReplicaSet>) {
        watches.owns::<Pod>(|set| Some(&set.spec.selector), pod_matters);
    }

    fn plan(&self, set: &Entry<ReplicaSet>, view: &View, now: Time) -> Result<Plan, PlanError> {
        plan(set, view, now)
    }
}

/// A kind that wants so many pods of one template, no matter which.
pub trait Replicated: Object {
    fn wanted(&self) -> i32;
    fn min_ready_seconds(&self) -> i32;
    fn selector(&self) -> &LabelSelector;
    fn template(&self) -> &Template;
    fn status(&self) -> &ReplicaSetStatus;
    /// Whether its status tells how many pods are terminating.
    const TELLS_TERMINATING: bool;
}

impl Replicated for ReplicaSet {
    const TELLS_TERMINATING: bool = true;

    fn wanted(&self) -> i32 {
        self.replicas()
    }

    fn min_ready_seconds(&self) -> i32 {
        self.spec.min_ready_seconds
    }

    fn selector(&self) -> &LabelSelector {
        &self.spec.selector
    }

    fn template(&self) -> &Template {
        &self.spec.template
    }

    fn status(&self) -> &ReplicaSetStatus {
        &self.status
    }
}

/// What is to be done for this set now.
pub fn plan<R: Replicated>(set: &Entry<R>, view: &View, now: Time) -> Result<Plan, PlanError> {
    let meta = set.meta();
    let selector = set.selector().selector();
    let selector = selector.map_err(|source| PlanError::Selector { source })?;
    let claim = view.claim::<Pod>(R::row(), meta, &selector);
    let mut plan = Plan { steps: claim.steps, again: None };
    let terminating = claim.mine.iter().filter(|pod| pod.is_terminating() && !pod.is_terminal());
    let terminating = terminating.count();
    let mut active = claim.mine;
    active.retain(|pod| pod.is_active());

    let status = status(&set.view, &active, terminating, view, now);
    if let Some(patch) = status_difference(set.status(), &status, &["replicas"]) {
        plan.status(R::row(), meta, patch);
    }
    let waits = |pod: &Arc<Entry<Pod>>| {
        let available = pod.ready_since()?.plus(min_ready(&set.view));
        (available > now).then_some(available)
    };
    if let Some(next) = active.iter().filter_map(waits).min() {
        plan.look_again(next);
    }
    if meta.deletion_timestamp.is_none() {
        let wanted = set.wanted().max(0) as usize;
        if active.len() < wanted {
            let count = (wanted - active.len()).min(BURST);
            plan.steps.push(Step::Create(create(set, count)?));
        } else if active.len() > wanted {
            let count = (active.len() - wanted).min(BURST);
            let victims = victims::choose(active, count, &related(&set.view, view), now);
            let told = told(&reference(R::row(), meta));
            plan.steps.extend(victims.iter().map(|pod| delete(pod, &told)));
        }
    }
    Ok(plan)
}

/// Whether a change of a pod can change a ReplicaSet's plan.
pub fn pod_matters(old: &Pod, new: &Pod) -> bool {
    old.status.phase != new.status.phase
        || Condition::find(&old.status.conditions, "Ready")
            != Condition::find(&new.status.conditions, "Ready")
}

fn min_ready(set: &impl Replicated) -> Duration {
    Duration::from_secs(set.min_ready_seconds().max(0) as u64)
}

fn status(
    set: &impl Replicated,
    active: &[Arc<Entry<Pod>>],
    terminating: usize,
    view: &View,
    now: Time,
) -> ReplicaSetStatus {
    let count =
        |test: &dyn Fn(&Pod) -> bool| active.iter().filter(|pod| test(&pod.view)).count() as i32;
    let template = &set.template().metadata.labels;
    let labeled = |labels: &Labels| {
        template.iter().all(|(key, value)| labels.get(key).is_some_and(|other| other == value))
    };
    let seconds = i64::from(set.min_ready_seconds());
    let mut conditions = set.status().conditions.clone();
    let failing = Condition::is_true(&conditions, "ReplicaFailure");
    match view.failure(set.meta()) {
        Some(failure) if !failing => {
            conditions.retain(|condition| condition.kind != "ReplicaFailure");
            conditions.push(Condition {
                kind: "ReplicaFailure".into(),
                status: "True".into(),
                reason: failure.reason.into(),
                message: failure.message,
                last_transition_time: Some(now),
                ..Condition::default()
            });
        }
        None if failing => conditions.retain(|condition| condition.kind != "ReplicaFailure"),
        _ => {}
    }
    ReplicaSetStatus {
        replicas: active.len() as i32,
        fully_labeled_replicas: count(&|pod| labeled(&pod.metadata.labels)),
        ready_replicas: count(&Pod::is_ready),
        available_replicas: count(&|pod| pod.is_available(seconds, now)),
        terminating_replicas: tells(set).then_some(terminating as i32),
        observed_generation: set.meta().generation,
        conditions,
    }
}

fn tells<R: Replicated>(_: &R) -> bool {
    R::TELLS_TERMINATING
}

/// The active pods of all sets of this kind with the same owner: pods that share a node with many of
/// them go first.
fn related<R: Replicated>(set: &R, view: &View) -> Vec<Arc<Entry<Pod>>> {
    let sets = match set.meta().controller() {
        Some(owner) => {
            let siblings = view.owned_by::<R>(&owner.uid);
            siblings.iter().map(|sibling| sibling.meta().uid.clone()).collect()
        }
        None => vec![set.meta().uid.clone()],
    };
    let pods = sets.iter().flat_map(|uid| view.owned_by::<Pod>(uid));
    pods.filter(|pod| pod.is_active()).collect()
}

#[derive(Deserialize)]
struct Whole {
    spec: WholeSpec,
}

#[derive(Deserialize)]
struct WholeSpec {
    template: WholeTemplate,
}

#[derive(Deserialize)]
struct WholeTemplate {
    #[serde(default)]
    metadata: Value,
    spec: Value,
}

fn create<R: Replicated>(set: &Entry<R>, count: usize) -> Result<Create, PlanError> {
    let meta = set.meta();
    let whole: Whole = serde_json::from_slice(&set.bytes).map_err(|source| PlanError::Decode {
        kind: &R::row().kind,
        name: meta.name.clone(),
        source,
    })?;
    let mut template = whole.spec.template;
    let mut metadata = json!({
        "generateName": format!("{}-", meta.name),
        "namespace": meta.namespace,
        "ownerReferences": [controller_reference(R::row(), meta)],
    });
    for field in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template.metadata.get_mut(field).filter(|value| !value.is_null()) {
            metadata[field] = value.take();
        }
    }
    let object =
        json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template.spec });
    Ok(Create {
        row: &POD,
        namespace: meta.namespace.clone(),
        object: Arc::new(object),
        count,
        told: Some(told(&reference(R::row(), meta))),
    })
}

fn delete(pod: &Entry<Pod>, told: &Told) -> Step {
    Step::Delete(Delete {
        target: Target::of(&POD, &pod.metadata),
        options: DeleteOptions::uid(&pod.metadata.uid),
        told: Some(told.clone()),
    })
}

/// The events about pods that are made and deleted.
pub(crate) fn told(regarding: &ObjectReference) -> Told {
    Told {
        created: Some(("SuccessfulCreate", "Created pod: ")),
        deleted: Some(("SuccessfulDelete", "Deleted pod: ")),
        not_created: Some(("FailedCreate", "Error creating: ")),
        not_deleted: Some(("FailedDelete", "Error deleting: ")),
        ..Told::new(regarding.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(replicas: i32, status: Value) -> Entry<ReplicaSet> {
        let object = json!({
            "metadata": {"name": "web", "namespace": "a", "uid": "u", "resourceVersion": "5"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "c", "image": "i"}]}}},
            "status": status,
        });
        Entry::decode(object.to_string().into()).unwrap()
    }

    fn pod(name: &str, phase: &str, owner: Option<&str>) -> Value {
        let owners: Vec<Value> = owner
            .into_iter()
            .map(|uid| json!({"kind": "ReplicaSet", "uid": uid, "controller": true}))
            .collect();
        let ready = if phase == "Running" { "True" } else { "False" };
        json!({
            "metadata": {"name": name, "namespace": "a", "uid": name, "labels": {"app": "web"},
                "ownerReferences": owners, "resourceVersion": "1"},
            "spec": {"nodeName": "n"},
            "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready,
                "lastTransitionTime": "1970-01-01T00:00:00Z"}]},
        })
    }

    /// `+n` creations, `-name` deletions, `s…` the status' counts, `adopt`, `release`.
    fn summary(plan: &Plan) -> Vec<String> {
        let one = |step: &Step| match step {
            Step::Create(create) => format!("+{}", create.count),
            Step::Delete(delete) => format!("-{}", delete.target.name),
            Step::Adopt { patch, .. } => format!("adopt {}", patch.target.name),
            Step::Patch(patch) if patch.subresource == "status" => {
                let status = &patch.body["status"];
                format!("s{}/{}", status["replicas"], status["readyReplicas"])
            }
            Step::Patch(patch) => format!("release {}", patch.target.name),
            other => format!("{other:?}"),
        };
        plan.steps.iter().map(one).collect()
    }

    #[test]
    fn plans() {
        let other = json!({"metadata": {"name": "z", "namespace": "a", "uid": "z",
            "labels": {"app": "other"},
            "ownerReferences": [{"kind": "ReplicaSet", "uid": "u", "controller": true}]}});
        let ours = |name, phase| pod(name, phase, Some("u"));
        let settled = json!({"replicas": 1, "readyReplicas": 1, "availableReplicas": 1,
            "fullyLabeledReplicas": 1, "terminatingReplicas": 0});
        for (case, replicas, status, pods, expected) in [
            ("new", 3, json!({"replicas": 0}), vec![], vec!["snull/null", "+3"]),
            ("at rest", 1, settled.clone(), vec![ours("p", "Running")], vec![]),
            (
                "ended pods do not count",
                1,
                json!({"replicas": 0, "terminatingReplicas": 0}),
                vec![ours("p", "Failed")],
                vec!["+1"],
            ),
            (
                "too many",
                1,
                settled.clone(),
                vec![ours("p", "Running"), ours("q", "Pending")],
                vec!["s2/null", "-q"],
            ),
            ("orphan", 1, settled.clone(), vec![pod("p", "Running", None)], vec!["adopt p"]),
            (
                "another's",
                1,
                settled.clone(),
                vec![pod("p", "Running", Some("v")), ours("q", "Running")],
                vec![],
            ),
            (
                "no longer matching",
                1,
                settled,
                vec![ours("p", "Running"), other],
                vec!["release z"],
            ),
        ] {
            let view = View::default().with::<Pod>(&pods).with::<ReplicaSet>(&[]);
            let plan = ReplicaSets.plan(&set(replicas, status), &view, Time::from_unix(9)).unwrap();
            assert_eq!(summary(&plan), expected, "{case}");
        }
    }

    #[test]
    fn pods_come_from_the_template() {
        let Create { object, .. } = create(&set(1, json!({})), 1).unwrap();
        assert_eq!(object["metadata"]["generateName"], "web-");
        assert_eq!(object["metadata"]["labels"]["app"], "web");
        assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "u");
        assert_eq!(object["spec"]["containers"][0]["image"], "i");
    }

    #[test]
    fn availability_is_awaited() {
        let mut set = set(1, json!({}));
        set.view.spec.min_ready_seconds = 30;
        let view = View::default().with::<Pod>(&[pod("p", "Running", Some("u"))]);
        let plan = ReplicaSets.plan(&set, &view, Time::from_unix(9)).unwrap();
        assert_eq!(plan.again, Some(Time::from_unix(30)));
    }
}
