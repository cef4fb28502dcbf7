//! Resizing running pods in place (Kubernetes: Resize CPU and Memory Resources assigned to
//! Containers): what was asked for, what runs until it is granted, and what is to be changed. Pure;
//! whether the node has room is the ledger's to say ([`crate::allocation`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::quantity::Quantity;
use serde_json::Value;

use crate::config;
use crate::observed::Container as Run;
use crate::pod::status::PodStatus;
use crate::pod::{COMPUTE, Container, Pod, Resources};

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

/// Does the pod ask for something else than it was last told to have?
pub fn asked(pod: &Pod, told: &PodStatus) -> bool {
    let containers = pod.spec.containers.iter().chain(&pod.spec.init_containers);
    let of_container = |container: &Container| {
        let told = told.container(&container.name)?;
        Some(differ(&container.resources, &read(told.resources.as_ref())?))
    };
    let whole = || Some(differ(pod.level_resources()?, &read(told.resources.as_ref())?));
    containers.filter_map(of_container).chain(whole()).any(|differs| differs)
}

/// The pod with what it was last told to have.
pub fn before(pod: &Pod, told: &PodStatus) -> Pod {
    let mut before = pod.clone();
    let spec = &mut before.spec;
    for container in spec.containers.iter_mut().chain(&mut spec.init_containers) {
        let told = told.container(&container.name).and_then(|told| read(told.resources.as_ref()));
        container.resources = told.unwrap_or_else(|| container.resources.clone());
    }
    if let (Some(_), Some(told)) = (&spec.resources, read(told.resources.as_ref())) {
        spec.resources = Some(told);
    }
    before
}

/// The pod as it may run now: where the node does not `grant` what it asks for, with what it has.
pub fn settle(
    pod: &Arc<Pod>,
    told: &PodStatus,
    grant: impl FnOnce(&Pod) -> Option<Pending>,
) -> (Arc<Pod>, Option<Pending>) {
    if !asked(pod, told) {
        return (pod.clone(), None);
    }
    if pod.is_static {
        let message = "In-place resize of static-pods is not supported".into();
        return (Arc::new(before(pod, told)), Some(Pending { reason: "Infeasible", message }));
    }
    match grant(pod) {
        Some(pending) => (Arc::new(before(pod, told)), Some(pending)),
        None => (pod.clone(), None),
    }
}

/// What a running container's cgroup has to become, if it is something else than it is.
pub fn due(pod: &Pod, container: &Container, run: &Run) -> Option<Due> {
    let (held, wanted) = (run.applied?, config::applied(pod, container));
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

fn read(told: Option<&Value>) -> Option<Resources> {
    serde_json::from_value(told?.clone()).ok()
}

fn differ(a: &Resources, b: &Resources) -> bool {
    let any = |a: &BTreeMap<String, Quantity>, b: &BTreeMap<String, Quantity>| {
        COMPUTE.iter().any(|name| a.get(*name) != b.get(*name))
    };
    any(&a.requests, &b.requests) || any(&a.limits, &b.limits)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

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
    fn what_is_not_granted_does_not_run() {
        let (half, one) = (json!({"requests": {"cpu": "500m"}}), json!({"requests": {"cpu": "1"}}));
        let deferred = Pending { reason: "Deferred", message: "no room".into() };
        let table = [
            (&half, &half, Some(deferred.clone()), None, "500m"),
            (&half, &one, None, None, "1"),
            (&half, &one, Some(deferred.clone()), Some(deferred), "500m"),
        ];
        for (has, asks, says, expected, runs) in table {
            let asking = pod(asks.clone(), json!([]));
            let (settled, pending) = settle(&asking, &told(has.clone()), |_| says);
            assert_eq!(pending, expected);
            let cpu = settled.spec.containers[0].resources.requests["cpu"].to_string();
            assert_eq!(cpu, runs, "{has} {asks}");
        }
    }

    #[test]
    fn pods_are_resized_as_a_whole() {
        let whole = |cpu: &str| json!({"limits": {"cpu": cpu}});
        let pod: Pod = serde_json::from_value(json!({"spec": {"resources": whole("2"),
            "containers": [{"name": "c"}]}}))
        .unwrap();
        let told: PodStatus = serde_json::from_value(json!({ "resources": whole("1") })).unwrap();
        let pod = Arc::new(pod);
        assert!(asked(&pod, &told) && !asked(&pod, &PodStatus::default()));
        let denied = || Some(Pending { reason: "Deferred", message: String::new() });
        let (settled, _) = settle(&pod, &told, |_| denied());
        let limits = &settled.level_resources().unwrap().limits;
        assert_eq!(limits["cpu"].to_string(), "1");
    }

    #[test]
    fn policies_decide_on_restarts() {
        let policy = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
        let pod = pod(json!({"limits": {"cpu": "1", "memory": "1Mi"}}), policy);
        let container = &pod.spec.containers[0];
        let wanted = config::applied(&pod, container);
        let cases = [
            (None, None),
            (Some(wanted), None),
            (Some(Applied { quota: 5, ..wanted }), Some(Due::InPlace)),
            (Some(Applied { memory: 5, ..wanted }), Some(Due::Restart)),
        ];
        for (applied, expected) in cases {
            let run = Run { applied, ..Run::default() };
            assert_eq!(due(&pod, container, &run), expected, "{applied:?}");
        }
    }
}
