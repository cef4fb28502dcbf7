//! Which pods go first when there are too many.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/replicaset/#scaling-a-replicaset>

use std::cmp::Ordering;
use std::collections::HashMap;
use std::sync::Arc;

use client::Entry;
use proto::time::Time;
use proto::view::pod::Pod;

const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The `count` pods that are missed least. `related` are the pods beside which they may run.
pub(crate) fn choose(
    mut pods: Vec<Arc<Entry<Pod>>>,
    count: usize,
    related: &[Arc<Entry<Pod>>],
    now: Time,
) -> Vec<Arc<Entry<Pod>>> {
    let mut crowd: HashMap<&str, usize> = HashMap::new();
    for pod in related {
        *crowd.entry(pod.spec.node_name.as_str()).or_default() += 1;
    }
    let crowd = |pod: &Pod| crowd.get(pod.spec.node_name.as_str()).copied().unwrap_or(0);
    pods.sort_by(|a, b| compare(&a.view, &b.view, &crowd, now));
    pods.truncate(count);
    pods
}

/// The pod that goes first is the lesser one.
fn compare(a: &Pod, b: &Pod, crowd: &dyn Fn(&Pod) -> usize, now: Time) -> Ordering {
    let assigned = |pod: &Pod| !pod.spec.node_name.is_empty();
    let phase = |pod: &Pod| match pod.status.phase.as_str() {
        "Pending" => 0,
        "Running" => 2,
        _ => 1,
    };
    let cost = |pod: &Pod| {
        let cost = pod.metadata.annotations.get(DELETION_COST);
        cost.and_then(|cost| cost.parse::<i32>().ok()).unwrap_or(0)
    };
    let restarts = |pod: &Pod| {
        pod.status.container_statuses.iter().map(|status| status.restart_count).max().unwrap_or(0)
    };
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase(a).cmp(&phase(b)))
        .then_with(|| a.is_ready().cmp(&b.is_ready()))
        .then_with(|| cost(a).cmp(&cost(b)))
        .then_with(|| crowd(b).cmp(&crowd(a)))
        .then_with(|| age(a.ready_since(), b.ready_since(), now))
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| age(a.metadata.creation_timestamp, b.metadata.creation_timestamp, now))
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

/// The younger one is the lesser, by powers of two: among pods of about the same age chance
/// decides, so that not always the newest node loses its pods.
fn age(a: Option<Time>, b: Option<Time>, now: Time) -> Ordering {
    if a == b {
        return Ordering::Equal;
    }
    // A moment that is not known counts as just now.
    let power = |time: Option<Time>| match time.map_or(0, |time| now.since(time).as_nanos()) {
        0 => -1,
        nanos => i64::from(nanos.ilog2()),
    };
    power(a).cmp(&power(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn pod(
        name: &str,
        node: &str,
        phase: &str,
        ready: Option<i64>,
        more: Value,
    ) -> Arc<Entry<Pod>> {
        let mut object = json!({
            "metadata": {"name": name, "uid": name, "annotations": {},
                "creationTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {"nodeName": node},
            "status": {"phase": phase},
        });
        if let Some(since) = ready {
            object["status"]["conditions"] = json!([{"type": "Ready", "status": "True",
                "lastTransitionTime": Time::from_unix(since)}]);
        }
        if let Some(cost) = more.get("cost") {
            object["metadata"]["annotations"][DELETION_COST] = cost.clone();
        }
        if let Some(restarts) = more.get("restarts") {
            object["status"]["containerStatuses"] = json!([{"restartCount": restarts}]);
        }
        Arc::new(Entry::decode(object.to_string().into()).unwrap())
    }

    #[test]
    fn the_documented_order() {
        let none = json!({});
        let pods = vec![
            pod("i-old", "n1", "Running", Some(0), none.clone()),
            pod("h-restarted", "n1", "Running", Some(0), json!({"restarts": 2})),
            pod("g-ready-late", "n1", "Running", Some(990), none.clone()),
            pod("f-crowded", "n2", "Running", Some(0), none.clone()),
            pod("e-cheap", "n1", "Running", Some(0), json!({"cost": "-1"})),
            pod("d-unready", "n1", "Running", None, none.clone()),
            pod("c-unknown", "n1", "Unknown", None, none.clone()),
            pod("b-pending", "n1", "Pending", None, none.clone()),
            pod("a-unassigned", "", "Pending", None, none.clone()),
        ];
        let crowd: Vec<_> =
            (0..9).map(|n| pod(&n.to_string(), "n2", "Running", None, none.clone())).collect();
        let order = choose(pods, 9, &crowd, Time::from_unix(1000));
        let names: Vec<&str> = order.iter().map(|pod| &pod.metadata.name[..1]).collect();
        assert_eq!(names.concat(), "abcdefghi");
    }
}
