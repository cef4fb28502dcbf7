//! What `kubectl get pods` shows.

use proto::time::Time;
use serde_json::Value;

use crate::kinds::Column;
use crate::kinds::lens::Lens;
use crate::kinds::table::{self, column};

pub const COLUMNS: &[Column] = &[
    table::NAME,
    column(
        "Ready",
        "string",
        0,
        "The aggregate readiness state of this pod for accepting traffic.",
    ),
    column("Status", "string", 0, "The aggregate status of the containers in this pod."),
    column(
        "Restarts",
        "string",
        0,
        "The number of times the containers in this pod have been restarted and when the last \
         container in this pod has restarted.",
    ),
    table::AGE,
    column(
        "IP",
        "string",
        1,
        "podIP address allocated to the pod. Routable at least within the cluster. Empty if not \
         yet allocated.",
    ),
    column(
        "Node",
        "string",
        1,
        "NodeName indicates in which node this pod is scheduled. If empty, this pod is a \
         candidate for scheduling by the scheduler defined in schedulerName. Once this field is \
         set, the kubelet for this node becomes responsible for the lifecycle of this pod. This \
         field should not be used to express a desire for the pod to be scheduled on a specific \
         node. \
         https://kubernetes.io/docs/concepts/scheduling-eviction/assign-pod-node/#nodename",
    ),
    column(
        "Nominated Node",
        "string",
        1,
        "nominatedNodeName is set only when this pod preempts other pods on the node, but it \
         cannot be scheduled right away as preemption victims receive their graceful termination \
         periods. This field does not guarantee that the pod will be scheduled on this node. \
         Scheduler may decide to place the pod elsewhere if other nodes become available sooner. \
         Scheduler may also decide to give the resources on this node to a higher priority pod \
         that is created after preemption. As a result, this field may be different than \
         PodSpec.nodeName when the pod is scheduled.",
    ),
    column(
        "Readiness Gates",
        "string",
        1,
        "If specified, all readiness gates will be evaluated for pod readiness. A pod is ready \
         when all its containers are ready AND all conditions specified in the readiness gates \
         have status equal to \"True\" More info: \
         https://git.k8s.io/enhancements/keps/sig-network/580-pod-readiness-gates",
    ),
];

pub fn cells(pod: &Value, now: Time) -> Vec<Value> {
    let summary = summarise(pod);
    let restarts = match summary.last_restart {
        Some(last) if summary.restarts > 0 => {
            format!("{} ({} ago)", summary.restarts, table::since(last, now))
        }
        _ => summary.restarts.to_string(),
    };
    let (spec, status) = (pod.at("spec"), pod.at("status"));
    let ip = match status.items("podIPs").first() {
        Some(first) => first.text("ip"),
        None => status.text("podIP"),
    };
    vec![
        table::name(pod),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        table::age(pod, now),
        table::or_none(ip).into(),
        table::or_none(spec.text("nodeName")).into(),
        table::or_none(status.text("nominatedNodeName")).into(),
        readiness_gates(spec, status).into(),
    ]
}

/// What the containers of a pod say together.
struct Summary<'a> {
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<&'a str>,
    reason: String,
}

fn summarise(pod: &Value) -> Summary<'_> {
    let (spec, status) = (pod.at("spec"), pod.at("status"));
    let phase = status.text("phase");
    let mut summary = Summary {
        ready: 0,
        total: spec.items("containers").len() + sidecars(spec).count(),
        restarts: 0,
        last_restart: None,
        reason: [status.text("reason"), phase]
            .into_iter()
            .find(|r| !r.is_empty())
            .unwrap_or("")
            .into(),
    };
    let gated = |condition: &Value| {
        condition.text("type") == "PodScheduled" && condition.text("reason") == "SchedulingGated"
    };
    if status.items("conditions").iter().any(gated) {
        summary.reason = "SchedulingGated".into();
    }
    let initializing = init_containers(&mut summary, spec, status);
    if !initializing || condition(status, "Initialized") {
        main_containers(&mut summary, spec, status);
    }
    if pod.at("metadata").has("deletionTimestamp") {
        if status.text("reason") == "NodeLost" {
            summary.reason = "Unknown".into();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            summary.reason = "Terminating".into();
        }
    }
    summary
}

/// Whether initialisation is still going on; then the reason says how far it is.
fn init_containers<'a>(summary: &mut Summary<'a>, spec: &Value, status: &'a Value) -> bool {
    for (index, container) in status.items("initContainerStatuses").iter().enumerate() {
        summary.count(container);
        let state = container.at("state");
        let (ended, waiting) = (state.at("terminated"), state.at("waiting"));
        let sidecar = sidecars(spec).any(|name| name == container.text("name"));
        if ended.int("exitCode") == Some(0) {
            continue;
        }
        if sidecar && container.flag("started") == Some(true) {
            summary.ready += usize::from(container.flag("ready") == Some(true));
            continue;
        }
        summary.reason = if !ended.is_null() {
            format!("Init:{}", end(ended))
        } else if !matches!(waiting.text("reason"), "" | "PodInitializing") {
            format!("Init:{}", waiting.text("reason"))
        } else {
            format!("Init:{index}/{}", spec.items("initContainers").len())
        };
        return true;
    }
    false
}

fn main_containers<'a>(summary: &mut Summary<'a>, spec: &Value, status: &'a Value) {
    (summary.restarts, summary.last_restart) = (0, None);
    for container in status.items("initContainerStatuses") {
        if sidecars(spec).any(|name| name == container.text("name")) {
            summary.count(container);
        }
    }
    let mut running = false;
    for container in status.items("containerStatuses").iter().rev() {
        summary.count(container);
        let state = container.at("state");
        let waiting = state.at("waiting").text("reason");
        if !waiting.is_empty() {
            summary.reason = waiting.into();
        } else if state.has("terminated") {
            summary.reason = end(state.at("terminated"));
        } else if container.flag("ready") == Some(true) && state.has("running") {
            running = true;
            summary.ready += 1;
        }
    }
    if summary.reason == "Completed" && running {
        summary.reason = if condition(status, "Ready") { "Running" } else { "NotReady" }.into();
    }
}

impl<'a> Summary<'a> {
    fn count(&mut self, container: &'a Value) {
        self.restarts += container.int("restartCount").unwrap_or(0);
        let last = container.at("lastState").at("terminated").text("finishedAt");
        if !last.is_empty() {
            // Both are UTC with whole seconds, so their texts compare as the times do.
            self.last_restart = self.last_restart.max(Some(last));
        }
    }
}

/// Why a container ended.
fn end(terminated: &Value) -> String {
    match (terminated.text("reason"), terminated.int("signal").unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", terminated.int("exitCode").unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.into(),
    }
}

/// The names of the init containers that run as long as the pod.
fn sidecars(spec: &Value) -> impl Iterator<Item = &str> {
    spec.items("initContainers")
        .iter()
        .filter(|container| container.text("restartPolicy") == "Always")
        .map(|container| container.text("name"))
}

fn condition(status: &Value, kind: &str) -> bool {
    let mut conditions = status.items("conditions").iter();
    conditions.any(|item| item.text("type") == kind && item.text("status") == "True")
}

fn readiness_gates(spec: &Value, status: &Value) -> String {
    let gates = spec.items("readinessGates");
    if gates.is_empty() {
        return "<none>".into();
    }
    let open = gates.iter().filter(|gate| condition(status, gate.text("conditionType"))).count();
    format!("{open}/{}", gates.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// READY, STATUS and RESTARTS.
    fn shown(pod: &Value) -> String {
        let cells = cells(pod, Time::from_unix(100));
        let text = |index: usize| cells[index].as_str().unwrap().to_string();
        format!("{} {} {}", text(1), text(2), text(3))
    }

    fn pod(status: Value) -> Value {
        json!({
            "metadata": {"name": "p", "creationTimestamp": "1970-01-01T00:00:00Z"},
            "spec": {
                "initContainers": [
                    {"name": "i"}, {"name": "s", "restartPolicy": "Always"},
                ],
                "containers": [{"name": "c"}],
            },
            "status": status,
        })
    }

    #[test]
    fn the_status_that_kubectl_shows() {
        let running = json!({"name": "c", "ready": true, "state": {"running": {}}});
        let crashed = json!({
            "name": "c", "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"finishedAt": "1970-01-01T00:01:35Z"}},
        });
        let ended = json!({"name": "c", "state": {"terminated": {"exitCode": 137}}});
        let done = json!({"name": "i", "state": {"terminated": {"exitCode": 0}}});
        let failed =
            json!({"name": "i", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}});
        let sidecar = json!({"name": "s", "started": true, "ready": true});
        let cases = [
            (json!({"phase": "Pending"}), "0/2 Pending 0"),
            (
                json!({"phase": "Pending", "initContainerStatuses": [{"name": "i"}]}),
                "0/2 Init:0/2 0",
            ),
            (json!({"phase": "Pending", "initContainerStatuses": [failed]}), "0/2 Init:Error 0"),
            (
                json!({
                    "phase": "Running", "initContainerStatuses": [done, sidecar],
                    "containerStatuses": [running],
                }),
                "2/2 Running 0",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [crashed]}),
                "0/2 CrashLoopBackOff 3 (5s ago)",
            ),
            (json!({"phase": "Failed", "containerStatuses": [ended]}), "0/2 ExitCode:137 0"),
            (json!({"phase": "Failed", "reason": "Evicted"}), "0/2 Evicted 0"),
            (
                json!({"phase": "Pending", "conditions": [
                    {"type": "PodScheduled", "reason": "SchedulingGated"},
                ]}),
                "0/2 SchedulingGated 0",
            ),
        ];
        for (status, expected) in cases {
            assert_eq!(shown(&pod(status.clone())), expected, "{status}");
        }
        let mut deleted = pod(json!({"phase": "Running", "containerStatuses": [running]}));
        deleted["metadata"]["deletionTimestamp"] = "1970-01-01T00:00:00Z".into();
        assert_eq!(shown(&deleted), "1/2 Terminating 0");
        deleted["status"]["phase"] = "Succeeded".into();
        assert_eq!(shown(&deleted), "1/2 Succeeded 0");
    }

    #[test]
    fn a_cell_for_every_column() {
        let cells = cells(&pod(json!({})), Time::from_unix(0));
        assert_eq!(cells.len(), COLUMNS.len());
        assert_eq!(
            cells[5..],
            [json!("<none>"), json!("<none>"), json!("<none>"), json!("<none>")]
        );
    }
}
