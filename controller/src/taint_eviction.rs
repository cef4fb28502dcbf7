//! Pods leave nodes with NoExecute taints, at once or when their tolerations run out.
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/taint-and-toleration/>

use std::sync::Arc;
use std::time::Duration;

use client::{Entry, Key};
use proto::kind::POD;
use proto::time::Time;
use proto::view::Condition;
use proto::view::node::{Node, Taint};
use proto::view::pod::Pod;
use serde_json::json;

use crate::plan::{Plan, reference};
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

/// Evicts pods from tainted nodes.
pub struct TaintEviction;

impl Controller for TaintEviction {
    type Object = Pod;
    const NAME: &'static str = "taint-eviction-controller";

    fn watches(watches: &mut Watches<Pod>) {
        watches.timed::<Node>(
            |change| no_execute(&change.old) != no_execute(&change.new),
            |change, view| {
                if no_execute(&change.old) == no_execute(&change.new) {
                    return Vec::new();
                }
                let pods = view.pods_on(&change.key.name);
                pods.iter().map(|pod| Key::of(&pod.metadata)).collect()
            },
        );
    }

    fn plan(&self, pod: &Entry<Pod>, view: &View, now: Time) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        let name = pod.spec.node_name.as_str();
        if name.is_empty() || !pod.is_active() {
            return Ok(plan);
        }
        let Some(node) = view.get::<Node>("", name) else { return Ok(plan) };
        let noticed = view.changed::<Node>("", name).unwrap_or(now);
        let taints = node.spec.taints.iter().filter(|taint| taint.effect == "NoExecute");
        let Some(due) = taints.filter_map(|taint| leaves(pod, taint, noticed)).min() else {
            return Ok(plan);
        };
        if now < due {
            plan.look_again(due);
            return Ok(plan);
        }
        let meta = &pod.metadata;
        let message = format!("Marking for deletion Pod {}/{}", meta.namespace, meta.name);
        plan.event(&reference(&POD, meta), "Normal", "TaintManagerEviction", message);
        let condition = Condition {
            kind: "DisruptionTarget".into(),
            status: "True".into(),
            reason: "DeletionByTaintManager".into(),
            message: "Taint manager: deleting due to NoExecute taint".into(),
            last_transition_time: Some(now),
            ..Condition::default()
        };
        plan.conditions(&POD, meta, &[condition], json!({}));
        plan.delete(&POD, meta);
        Ok(plan)
    }
}

fn no_execute(node: &Option<Arc<Entry<Node>>>) -> Vec<Taint> {
    let taints = node.iter().flat_map(|node| &node.spec.taints);
    taints.filter(|taint| taint.effect == "NoExecute").cloned().collect()
}

/// When the pod has to leave because of the taint; `None` if it may stay.
fn leaves(pod: &Pod, taint: &Taint, noticed: Time) -> Option<Time> {
    let since = taint.time_added.unwrap_or(noticed);
    let Some(toleration) = pod.spec.tolerations.iter().find(|one| one.tolerates(taint)) else {
        return Some(since);
    };
    let seconds = toleration.toleration_seconds?;
    Some(since.plus(Duration::from_secs(seconds.max(0) as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn plans() {
        let key = "node.kubernetes.io/unreachable";
        let taint = json!({"key": key, "effect": "NoExecute", "timeAdded": "1970-01-01T00:01:40Z"});
        let tolerates = |seconds: Value| {
            json!([{"key": key, "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": seconds}])
        };
        for (case, taints, tolerations, at, expected) in [
            ("no taint", json!([]), json!([]), 100, (0, None)),
            ("not tolerated", json!([taint]), json!([]), 100, (3, None)),
            ("for a while", json!([taint]), tolerates(json!(300)), 399, (0, Some(400))),
            ("no longer", json!([taint]), tolerates(json!(300)), 400, (3, None)),
            ("for ever", json!([taint]), tolerates(Value::Null), 9999, (0, None)),
        ] {
            let node = json!({"metadata": {"name": "n"}, "spec": {"taints": taints}});
            let pod = json!({"metadata": {"name": "p", "namespace": "a", "uid": "p"},
                "spec": {"nodeName": "n", "tolerations": tolerations},
                "status": {"phase": "Running"}});
            let view = View::default().with::<Node>(&[node]);
            let entry = Entry::decode(pod.to_string().into()).unwrap();
            let plan = TaintEviction.plan(&entry, &view, Time::from_unix(at)).unwrap();
            assert_eq!(
                (plan.steps.len(), plan.again),
                (expected.0, expected.1.map(Time::from_unix)),
                "{case}"
            );
        }
    }
}
