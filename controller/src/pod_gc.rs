//! Pods that no agent will ever finish: of nodes that are gone, never placed and being deleted,
//! and ended ones beyond a number.
//! <https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/#pod-garbage-collection>

use std::sync::Arc;
use std::time::Duration;

use client::{DeleteOptions, Entry, Key};
use proto::kind::{NODE, POD};
use proto::time::Time;
use proto::view::Condition;
use proto::view::node::Node;
use proto::view::pod::Pod;
use serde_json::json;

use crate::plan::{Delete, Plan, Step, Target};
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

/// Clears away pods.
pub struct PodGc {
    /// How many ended pods may exist; 0: any number.
    pub threshold: usize,
}

/// A node that is gone may be back soon under its name.
const QUARANTINE: Duration = Duration::from_secs(40);
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";

impl Controller for PodGc {
    type Object = Pod;
    const NAME: &'static str = "pod-garbage-collector-controller";

    fn watches(watches: &mut Watches<Pod>) {
        watches.timed::<Node>(
            |change| change.new.is_none(),
            |change, view| {
                let taints = |node: &Option<Arc<Entry<Node>>>| {
                    node.as_ref().map(|node| (node.spec.taints.clone(), node.is_ready()))
                };
                if change.new.is_some() && taints(&change.old) == taints(&change.new) {
                    return Vec::new();
                }
                let pods = view.pods_on(&change.key.name);
                pods.iter().map(|pod| Key::of(&pod.metadata)).collect()
            },
        );
    }

    fn plan(&self, pod: &Entry<Pod>, view: &View, now: Time) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        let node_name = pod.spec.node_name.as_str();
        if node_name.is_empty() {
            if pod.is_terminating() {
                // A Job that replaces only what has failed waits for that.
                fail(pod, None, now, &mut plan);
                plan.steps.push(delete(pod));
            } else if pod.is_terminal() {
                self.clear_ended(pod, view, &mut plan);
            }
            return Ok(plan);
        }
        match view.get::<Node>("", node_name) {
            None => {
                let since = view.changed::<Node>("", node_name).unwrap_or(now);
                let over = since.plus(QUARANTINE);
                if now < over {
                    plan.look_again(over);
                    return Ok(plan);
                }
                plan.steps.push(Step::Absent(Target {
                    row: &NODE,
                    namespace: String::new(),
                    name: node_name.into(),
                    uid: String::new(),
                }));
                fail(pod, Some("PodGC: node no longer exists"), now, &mut plan);
                plan.steps.push(delete(pod));
            }
            Some(node) => {
                let tainted = node.spec.taints.iter().any(|taint| taint.key == OUT_OF_SERVICE);
                if pod.is_terminating() && tainted && !node.is_ready() {
                    fail(pod, Some("PodGC: node is out-of-service"), now, &mut plan);
                    plan.steps.push(delete(pod));
                } else if pod.is_terminal() && !pod.is_terminating() {
                    self.clear_ended(pod, view, &mut plan);
                }
            }
        }
        Ok(plan)
    }
}

impl PodGc {
    /// Deletes the pod if it is among those that are too many, the oldest first.
    fn clear_ended(&self, pod: &Entry<Pod>, view: &View, plan: &mut Plan) {
        if self.threshold == 0 || view.count::<Pod>() <= self.threshold {
            return;
        }
        let mut ended = view.all::<Pod>();
        ended.retain(|pod| pod.is_terminal() && !pod.is_terminating());
        let surplus = ended.len().saturating_sub(self.threshold);
        let age = |pod: &Pod| (pod.metadata.creation_timestamp, pod.metadata.name.clone());
        ended.sort_by_cached_key(|pod| age(pod));
        if ended.iter().take(surplus).any(|old| old.metadata.uid == pod.metadata.uid) {
            plan.steps.push(delete(pod));
        }
    }
}

/// No agent will say how the pod ended, so this does; `why` where a node's end was the reason.
fn fail(pod: &Entry<Pod>, why: Option<&str>, now: Time, plan: &mut Plan) {
    if pod.is_terminal() {
        return;
    }
    let condition = why.map(|why| Condition {
        kind: "DisruptionTarget".into(),
        status: "True".into(),
        reason: "DeletionByPodGC".into(),
        message: why.into(),
        last_transition_time: Some(now),
        ..Condition::default()
    });
    plan.conditions(&POD, &pod.metadata, condition.as_slice(), json!({ "phase": "Failed" }));
}

fn delete(pod: &Entry<Pod>) -> Step {
    let options =
        DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::uid(&pod.metadata.uid) };
    Step::Delete(Delete { target: Target::of(&POD, &pod.metadata), options, told: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn pod(name: &str, node: &str, phase: &str, terminating: bool) -> Value {
        let mut pod = json!({"metadata": {"name": name, "namespace": "a", "uid": name},
            "spec": {"nodeName": node}, "status": {"phase": phase}});
        if terminating {
            pod["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z".into();
        }
        pod
    }

    #[test]
    fn plans() {
        let node = json!({"metadata": {"name": "n"}, "spec": {"taints": []}});
        let out = json!({"metadata": {"name": "out"},
            "spec": {"taints": [{"key": OUT_OF_SERVICE, "effect": "NoExecute"}]}});
        for (case, object, at, expected) in [
            ("well", pod("p", "n", "Running", false), 100, "-"),
            ("node just gone", pod("p", "gone", "Running", false), 39, "again"),
            ("node gone", pod("p", "gone", "Running", false), 40, "absent fail delete"),
            ("ended on a gone node", pod("p", "gone", "Failed", false), 40, "absent delete"),
            ("never placed", pod("p", "", "Pending", true), 0, "fail delete"),
            ("never placed, and failed", pod("p", "", "Failed", true), 0, "delete"),
            ("out of service", pod("p", "out", "Running", true), 0, "fail delete"),
            ("too many ended", pod("e0", "n", "Failed", false), 0, "delete"),
            ("not too many", pod("e2", "n", "Failed", false), 0, "-"),
        ] {
            let ended: Vec<Value> =
                (0..3).map(|n| pod(&format!("e{n}"), "n", "Failed", false)).collect();
            let mut view =
                View::default().with::<Node>(&[node.clone(), out.clone()]).with::<Pod>(&ended);
            view.start(Time::from_unix(0));
            let entry = Entry::decode(object.to_string().into()).unwrap();
            let controller = PodGc { threshold: 2 };
            let plan = controller.plan(&entry, &view, Time::from_unix(at)).unwrap();
            let word = |step: &Step| match step {
                Step::Absent(_) => "absent",
                Step::Patch(_) => "fail",
                Step::Delete(_) => "delete",
                _ => "other",
            };
            let mut words: Vec<&str> = plan.steps.iter().map(word).collect();
            words.extend(plan.again.map(|_| "again"));
            let words = if words.is_empty() { "-".into() } else { words.join(" ") };
            assert_eq!(words, expected, "{case}");
        }
    }
}
