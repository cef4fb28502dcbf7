//! Resizing running pods in place (Kubernetes: Resize CPU and Memory Resources assigned to
//! Containers): whether the node has room, what runs until it has, and what is to be changed. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::quantity::Quantity;
use proto::view;

use crate::config;
use crate::observed::Container as Run;
use crate::pod::status::PodStatus;
use crate::pod::{Container, Pod, Resources};

/// Why a pod has not got what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pending {
    /// `Infeasible`, or `Deferred` until others leave.
    pub reason: &'static str,
    pub message: String,
}

/// How a container gets what it asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    InPlace,
    Restart,
}

/// What can be resized.
const RESOURCES: [&str; 2] = ["cpu", "memory"];

/// Does the pod ask for something else than it was last told to have?
pub fn asked(pod: &Pod, told: &PodStatus) -> bool {
    held(pod, told).any(|(container, held)| differ(&container.resources, &held))
}

/// The pod as it may run now: where the node has no room for what it asks for, with what it has.
/// `others` are the requests of the other pods of the node.
pub fn settle(
    pod: &Arc<Pod>,
    told: &PodStatus,
    allocatable: &BTreeMap<String, Quantity>,
    others: impl FnOnce() -> BTreeMap<&'static str, Quantity>,
) -> (Arc<Pod>, Option<Pending>) {
    if !asked(pod, told) {
        return (pod.clone(), None);
    }
    let mut before = Pod::clone(pod);
    let spec = &mut before.spec;
    for container in spec.containers.iter_mut().chain(&mut spec.init_containers) {
        if let Some(held) = resources_of(container, told) {
            container.resources = held;
        }
    }
    let more = RESOURCES.into_iter().filter(|name| total(pod, name) > total(&before, name));
    let more: Vec<(&'static str, Quantity)> = more.map(|name| (name, total(pod, name))).collect();
    let capacity = |name: &str| allocatable.get(name).copied().unwrap_or_default();
    let shown = |name: &str, amount: Quantity| match name {
        "cpu" => amount.milli(),
        _ => amount.value(),
    };
    let too_much = more.iter().find(|(name, wanted)| *wanted > capacity(name));
    if let Some((name, wanted)) = too_much {
        let (requested, capacity) = (shown(name, *wanted), shown(name, capacity(name)));
        let message = format!(
            "Node didn't have enough capacity: {name}, requested: {requested}, capacity: {capacity}"
        );
        return (Arc::new(before), Some(Pending { reason: "Infeasible", message }));
    }
    let others = others();
    let used = |name: &str| others.get(name).copied().unwrap_or_default();
    let crowded = more.iter().find(|(name, wanted)| *wanted + used(name) > capacity(name));
    if let Some((name, wanted)) = crowded {
        let message = format!(
            "Node didn't have enough resource: {name}, requested: {}, used: {}, capacity: {}",
            shown(name, *wanted),
            shown(name, used(name)),
            shown(name, capacity(name))
        );
        return (Arc::new(before), Some(Pending { reason: "Deferred", message }));
    }
    (pod.clone(), None)
}

/// What a running container's cgroup has to become, if it is something else than it is.
pub fn due(container: &Container, run: &Run) -> Option<Due> {
    let (held, wanted) = (run.applied?, config::applied(container));
    let changed = [
        ("cpu", (held.shares, held.quota) != (wanted.shares, wanted.quota)),
        ("memory", held.memory != wanted.memory),
    ];
    let restarts = |name: &str| {
        let mut policies = container.resize_policy.iter();
        policies.any(|it| it.resource_name == name && it.restart_policy == "RestartContainer")
    };
    let mut changed = changed.iter().filter(|(_, changed)| *changed).peekable();
    changed.peek()?;
    Some(if changed.any(|(name, _)| restarts(name)) { Due::Restart } else { Due::InPlace })
}

/// The requests of these pods together.
pub fn requests<'a>(
    pods: impl Iterator<Item = &'a view::pod::Pod>,
) -> BTreeMap<&'static str, Quantity> {
    let mut sums = BTreeMap::new();
    for pod in pods.filter(|pod| !pod.is_terminal()) {
        let sidecars = pod.spec.init_containers.iter();
        let sidecars = sidecars.filter(|container| container.restart_policy == "Always");
        for container in pod.spec.containers.iter().chain(sidecars) {
            for name in RESOURCES {
                let requests = &container.resources.requests;
                *sums.entry(name).or_default() += requests.get(name).copied().unwrap_or_default();
            }
        }
    }
    sums
}

fn total(pod: &Pod, name: &str) -> Quantity {
    let sidecars = pod.spec.init_containers.iter().filter(|container| container.is_sidecar());
    let all = pod.spec.containers.iter().chain(sidecars);
    let requests = all.filter_map(|container| container.resources.requests.get(name).copied());
    requests.sum()
}

/// The containers that can be resized, with what they have.
fn held<'a>(pod: &'a Pod, told: &'a PodStatus) -> impl Iterator<Item = (&'a Container, Resources)> {
    let all = pod.spec.containers.iter().chain(&pod.spec.init_containers);
    all.filter_map(|container| Some((container, resources_of(container, told)?)))
}

fn resources_of(container: &Container, told: &PodStatus) -> Option<Resources> {
    let told = told.container(&container.name)?.resources.clone()?;
    serde_json::from_value(told).ok()
}

fn differ(a: &Resources, b: &Resources) -> bool {
    let any = |a: &BTreeMap<String, Quantity>, b: &BTreeMap<String, Quantity>| {
        RESOURCES.iter().any(|name| a.get(*name) != b.get(*name))
    };
    any(&a.requests, &b.requests) || any(&a.limits, &b.limits)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::observed::Applied;

    fn pod(resources: Value, policy: Value) -> Arc<Pod> {
        let container = json!({"name": "c", "resources": resources, "resizePolicy": policy});
        Arc::new(serde_json::from_value(json!({"spec": {"containers": [container]}})).unwrap())
    }

    fn told(resources: Value) -> PodStatus {
        let status = json!({"containerStatuses": [{"name": "c", "resources": resources}]});
        serde_json::from_value(status).unwrap()
    }

    #[test]
    fn a_node_gives_what_it_has() {
        let allocatable = [("cpu".to_string(), Quantity::new(4))].into();
        let (half, one) = (json!({"requests": {"cpu": "500m"}}), json!({"requests": {"cpu": "1"}}));
        let (much, more) = (json!({"requests": {"cpu": "3"}}), json!({"requests": {"cpu": "5"}}));
        let cases = [
            (&half, &half, 3, None),
            (&half, &one, 3, None),
            (&much, &half, 9, None),
            (
                &half,
                &much,
                2,
                Some(
                    "Node didn't have enough resource: cpu, requested: 3000, used: 2000, \
                      capacity: 4000",
                ),
            ),
            (
                &half,
                &more,
                0,
                Some("Node didn't have enough capacity: cpu, requested: 5000, capacity: 4000"),
            ),
        ];
        for (has, asks, others, expected) in cases {
            let asking = pod(asks.clone(), json!([]));
            let others = || BTreeMap::from([("cpu", Quantity::new(others))]);
            let (settled, pending) = settle(&asking, &told(has.clone()), &allocatable, others);
            assert_eq!(pending.map(|pending| pending.message), expected.map(String::from));
            let runs = if expected.is_some() { has } else { asks };
            let expected: Resources = serde_json::from_value(runs.clone()).unwrap();
            assert!(!differ(&settled.spec.containers[0].resources, &expected), "{runs}");
        }
    }

    #[test]
    fn policies_decide_on_restarts() {
        let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
        let pod = pod(json!({"limits": {"cpu": "1", "memory": "1Mi"}}), policy);
        let container = &pod.spec.containers[0];
        let wanted = config::applied(container);
        let cases = [
            (None, None),
            (Some(wanted), None),
            (Some(Applied { quota: 5, ..wanted }), Some(Due::InPlace)),
            (Some(Applied { memory: 5, ..wanted }), Some(Due::Restart)),
        ];
        for (applied, expected) in cases {
            let run = Run { applied, ..Run::default() };
            assert_eq!(due(container, &run), expected, "{applied:?}");
        }
    }
}
