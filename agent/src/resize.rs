//! Resizing running pods in place (Kubernetes: Resize CPU and Memory Resources assigned to
//! Containers): what was asked for, what runs until it is granted, and what is to be changed. Pure;
//! whether the node has room is the ledger's to say ([`crate::allocation`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::quantity::Quantity;
use serde_json::{Map, Value, json};

use crate::config;
use crate::events::{NORMAL, WARNING};
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

/// Does any container ask for another amount of cpu?
pub fn moves_cpus(before: &Pod, asked: &Pod) -> bool {
    let cpu = |pod: &Pod| -> Vec<Option<Quantity>> {
        let containers = pod.spec.init_containers.iter().chain(&pod.spec.containers);
        containers.map(|it| it.resources.requests.get("cpu").copied()).collect()
    };
    cpu(before) != cpu(asked)
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

/// What is to be told of a resize, as events: what `after` says that `before` did not.
pub fn news(pod: &Pod, before: &PodStatus, after: &PodStatus) -> Vec<Event> {
    let (pending, progress) = ("PodResizePending", "PodResizeInProgress");
    let said = |status: &PodStatus, kind: &str| {
        status.condition(kind).map(|it| (it.reason.clone(), it.message.clone()))
    };
    let new = |kind: &str| said(after, kind).filter(|now| said(before, kind).as_ref() != Some(now));
    let mut news = Vec::new();
    if let Some((reason, error)) = new(pending) {
        let message = summary(pod, &format!("Pod resize {reason}"), &error);
        news.push((WARNING, format!("Resize{reason}"), message));
    }
    match new(progress) {
        Some((reason, error)) if reason == "Error" => {
            news.push((WARNING, "ResizeError".into(), summary(pod, "Pod resize error", &error)));
        }
        Some(_) => {
            news.push((NORMAL, "ResizeStarted".into(), summary(pod, "Pod resize started", "")));
        }
        None if said(before, progress).is_some() && said(after, progress).is_none() => {
            news.push((NORMAL, "ResizeCompleted".into(), summary(pod, "Pod resize completed", "")));
        }
        None => {}
    }
    news
}

/// Severity, reason and message.
pub type Event = (&'static str, String, String);

/// Upstream's sentence: what the containers are to have, in this order of fields.
fn summary(pod: &Pod, what: &str, error: &str) -> String {
    let list = |containers: &[Container]| {
        let one = |container: &Container| {
            let name = Value::from(container.name.as_str());
            format!("{{\"name\":{name},\"resources\":{}}}", amounts(&container.resources))
        };
        containers.iter().map(one).collect::<Vec<_>>().join(",")
    };
    let mut fields = Vec::new();
    if !pod.spec.init_containers.is_empty() {
        fields.push(format!("\"initContainers\":[{}]", list(&pod.spec.init_containers)));
    }
    fields.push(format!("\"containers\":[{}]", list(&pod.spec.containers)));
    fields.push(format!("\"generation\":{}", pod.metadata.generation));
    if !error.is_empty() {
        fields.push(format!("\"error\":{}", Value::from(error)));
    }
    format!("{what}: {{{}}}", fields.join(","))
}

/// `{"limits": …, "requests": …}`, of which either may be missing.
pub fn amounts(resources: &Resources) -> Value {
    let parts = [("limits", &resources.limits), ("requests", &resources.requests)];
    let parts = parts.into_iter().filter(|(_, map)| !map.is_empty());
    parts.map(|(name, map)| (name.to_string(), json!(map))).collect::<Map<_, _>>().into()
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
    fn what_is_new_is_told() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {"generation": 2}, "spec":
            {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1"}}}]}}))
        .unwrap();
        let status = |kind: &str, reason: &str, message: &str| -> PodStatus {
            let condition = json!({"type": kind, "status": "True", "reason": reason,
                "message": message});
            let conditions = if kind.is_empty() { json!([]) } else { json!([condition]) };
            serde_json::from_value(json!({ "conditions": conditions })).unwrap()
        };
        let none = || status("", "", "");
        let deferred = || status("PodResizePending", "Deferred", "no room");
        let running = || status("PodResizeInProgress", "", "");
        let failed = || status("PodResizeInProgress", "Error", "broken");
        let json =
            r#"{"containers":[{"name":"c","resources":{"limits":{"cpu":"1"}}}],"generation":2"#;
        let table = [
            (
                none(),
                deferred(),
                format!("ResizeDeferred Pod resize Deferred: {json},\"error\":\"no room\"}}"),
            ),
            (deferred(), deferred(), String::new()),
            (deferred(), running(), format!("ResizeStarted Pod resize started: {json}}}")),
            (
                running(),
                failed(),
                format!("ResizeError Pod resize error: {json},\"error\":\"broken\"}}"),
            ),
            (running(), none(), format!("ResizeCompleted Pod resize completed: {json}}}")),
            (none(), none(), String::new()),
        ];
        for (before, after, expected) in table {
            let news = news(&pod, &before, &after);
            let news: Vec<String> = news
                .into_iter()
                .map(|(_, reason, message)| format!("{reason} {message}"))
                .collect();
            assert_eq!(news.join("; "), expected);
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
    fn who_asks_for_more_cpu() {
        let asks = |cpu: &str, memory: &str| {
            let amounts = json!({"cpu": cpu, "memory": memory});
            pod(json!({"requests": amounts, "limits": amounts}), json!([]))
        };
        let before = asks("1", "1Mi");
        assert!(moves_cpus(&before, &asks("2", "1Mi")));
        assert!(!moves_cpus(&before, &asks("1000m", "2Mi")));
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
