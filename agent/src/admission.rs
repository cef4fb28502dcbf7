//! Whether this node may run a pod that was bound to it, in the kubelet's reasons and messages: a
//! scheduler that knows less, or a user who names a node, may ask for what cannot be. Pure; what
//! pods hold already is the ledger's business ([`crate::allocation`]).

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use proto::meta::Labels;
use proto::quantity::Quantity;
use proto::selector::Expression;
use proto::view::node::Taint;
use proto::view::pod::NodeSelectorTerm;

use crate::eviction::Condition;
use crate::pod::{Pod, Port, Qos};

/// The node as pods may ask for it.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    pub name: String,
    pub labels: Labels,
    pub taints: Vec<Taint>,
    pub allocatable: BTreeMap<String, Quantity>,
    /// The machine is about to shut down.
    pub shutting_down: bool,
    pub pressure: BTreeSet<Condition>,
    /// `--allowed-unsafe-sysctls`.
    pub unsafe_sysctls: Vec<String>,
}

/// Why a pod is not taken; it fails with this reason and message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub reason: String,
    pub message: String,
}

impl Rejection {
    pub fn new(reason: impl Into<String>, message: impl Into<String>) -> Rejection {
        Rejection { reason: reason.into(), message: message.into() }
    }

    fn predicate(name: &str, why: &str) -> Rejection {
        Rejection::new(name, format!("Predicate {name} failed: {why}"))
    }

    /// Would it be taken if others held less?
    pub fn lacks_room(&self) -> bool {
        self.reason.starts_with("OutOf")
    }

    /// Could another look at the Node object change it?
    pub fn depends_on_node(&self) -> bool {
        matches!(self.reason.as_str(), "NodeAffinity" | "TaintToleration")
    }
}

/// What a pod holds of its node beside time: amounts by resource, and ports.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    pub amounts: BTreeMap<String, Quantity>,
    pub ports: Vec<HostPort>,
    /// How much it matters, the least first: critical or not, its class, its priority.
    pub worth: (bool, Reverse<Qos>, i32),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    ip: String,
    protocol: String,
    port: i32,
}

impl Default for Held {
    fn default() -> Held {
        let worth = (false, Reverse(Qos::BestEffort), 0);
        Held { amounts: BTreeMap::new(), ports: Vec::new(), worth }
    }
}

impl Held {
    pub fn of(pod: &Pod) -> Held {
        let mut amounts = pod.requests();
        amounts.insert("pods".into(), Quantity::new(1));
        let ports = pod.spec.containers.iter().chain(&pod.spec.init_containers);
        let ports = ports.flat_map(|container| &container.ports).filter_map(HostPort::of);
        let worth = (pod.is_critical(), Reverse(pod.qos()), pod.spec.priority.unwrap_or(0));
        Held { amounts, ports: ports.collect(), worth }
    }

    pub fn amount(&self, name: &str) -> Quantity {
        self.amounts.get(name).copied().unwrap_or_default()
    }
}

impl HostPort {
    fn of(port: &Port) -> Option<HostPort> {
        (port.host_port > 0).then(|| HostPort {
            ip: match port.host_ip.as_str() {
                "" | "::" => "0.0.0.0".into(),
                ip => ip.into(),
            },
            protocol: port.protocol.clone().unwrap_or("TCP".into()),
            port: port.host_port,
        })
    }

    fn conflicts(&self, other: &HostPort) -> bool {
        let any = |port: &HostPort| port.ip == "0.0.0.0";
        self.port == other.port
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(self) || any(other))
    }
}

/// What is asked before anything is set aside for the pod.
pub fn preliminary(pod: &Pod, node: &Standing) -> Result<(), Rejection> {
    if node.shutting_down {
        let why = "Pod was rejected as the node is shutting down.";
        return Err(Rejection::new("NodeShutdown", why));
    }
    pressure(pod, node)?;
    sysctls(pod, node)
}

/// Takes the pod, or says why not. `others` is what the other pods of the node hold together.
pub fn admit(pod: &Pod, node: &Standing, others: &Held) -> Result<(), Rejection> {
    preliminary(pod, node)?;
    operating_system(pod, node)?;
    resources(&Held::of(pod), node, others)?;
    if !affinity(pod, node) {
        let why = "node(s) didn't match Pod's node affinity/selector";
        return Err(Rejection::predicate("NodeAffinity", why));
    }
    let ports = Held::of(pod).ports;
    if ports.iter().any(|port| others.ports.iter().any(|other| port.conflicts(other))) {
        let why = "node(s) didn't have free ports for the requested pod ports";
        return Err(Rejection::predicate("NodePorts", why));
    }
    let tolerated =
        |taint: &Taint| pod.spec.tolerations.iter().any(|toleration| toleration.tolerates(taint));
    let mut taints = node.taints.iter().filter(|taint| taint.effect == "NoExecute");
    if !pod.is_static && taints.any(|taint| !tolerated(taint)) {
        let why = "node(s) had taints that the pod didn't tolerate";
        return Err(Rejection::predicate("TaintToleration", why));
    }
    Ok(())
}

/// A node that is short of something takes only who matters or, where it is memory, who said how
/// much is needed (Kubernetes: Node-pressure Eviction, "Node conditions").
fn pressure(pod: &Pod, node: &Standing) -> Result<(), Rejection> {
    if node.pressure.is_empty() || pod.is_critical() {
        return Ok(());
    }
    let memory_alone = node.pressure.iter().eq([&Condition::MemoryPressure]);
    let taint = Taint {
        key: "node.kubernetes.io/memory-pressure".into(),
        effect: "NoSchedule".into(),
        ..Taint::default()
    };
    let tolerated = || pod.spec.tolerations.iter().any(|it| it.tolerates(&taint));
    if memory_alone && (pod.qos() != Qos::BestEffort || tolerated()) {
        return Ok(());
    }
    let names: Vec<&str> = node.pressure.iter().map(|condition| condition.name()).collect();
    let why = format!("The node had condition: [{}]. ", names.join(" "));
    Err(Rejection::new("Evicted", why))
}

/// cpu, memory, ephemeral-storage and pods first, in the kubelet's order. What the node does not
/// have at all is not the node's to refuse.
fn resources(wanted: &Held, node: &Standing, others: &Held) -> Result<(), Rejection> {
    let known = ["pods", "cpu", "memory", "ephemeral-storage"];
    let further = node.allocatable.keys().map(String::as_str).filter(|name| !known.contains(name));
    for name in known.into_iter().chain(further) {
        let Some(capacity) = node.allocatable.get(name).copied() else { continue };
        let (asked, used) = (wanted.amount(name), others.amount(name));
        if asked.is_zero() || asked + used <= capacity {
            continue;
        }
        let shown = |amount| shown(name, amount);
        let message = format!(
            "Node didn't have enough resource: {name}, requested: {}, used: {}, capacity: {}",
            shown(asked),
            shown(used),
            shown(capacity)
        );
        return Err(Rejection::new(format!("OutOf{name}"), message));
    }
    Ok(())
}

/// cpu in thousandths, everything else in units.
pub fn shown(name: &str, amount: Quantity) -> i64 {
    match name {
        "cpu" => amount.milli(),
        _ => amount.value(),
    }
}

fn operating_system(pod: &Pod, node: &Standing) -> Result<(), Rejection> {
    let label = "kubernetes.io/os";
    let system = node.labels.get(label).map_or("linux", String::as_str);
    if pod.metadata.labels.get(label).is_some_and(|asked| asked != system) {
        let message =
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label";
        return Err(Rejection::new("PodOSSelectorNodeLabelDoesNotMatch", message));
    }
    if pod.spec.os.as_ref().is_some_and(|os| !os.name.is_empty() && os.name != "linux") {
        let message = "Failed to admit pod as the OS field doesn't match node OS";
        return Err(Rejection::new("PodOSNotSupported", message));
    }
    Ok(())
}

fn affinity(pod: &Pod, node: &Standing) -> bool {
    let selected = pod
        .spec
        .node_selector
        .iter()
        .all(|(key, value)| node.labels.get(key).is_some_and(|actual| actual == value));
    let required = pod.spec.affinity.as_ref().and_then(|it| it.node_affinity.required.as_ref());
    let term = |term: &NodeSelectorTerm| {
        let label = |key: &str| node.labels.get(key).map(String::as_str);
        let field = |key: &str| (key == "metadata.name").then_some(node.name.as_str());
        let empty = term.match_expressions.is_empty() && term.match_fields.is_empty();
        !empty
            && term.match_expressions.iter().all(|wanted| holds(wanted, label(&wanted.key)))
            && term.match_fields.iter().all(|wanted| holds(wanted, field(&wanted.key)))
    };
    selected && required.is_none_or(|required| required.node_selector_terms.iter().any(term))
}

fn holds(wanted: &Expression, actual: Option<&str>) -> bool {
    wanted.requirement(true).is_ok_and(|requirement| requirement.matches(actual))
}

/// Set without asking: they are namespaced and harm nobody else (Kubernetes: Using sysctls in a
/// Kubernetes Cluster).
const SAFE_SYSCTLS: &[&str] = &[
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

fn sysctls(pod: &Pod, node: &Standing) -> Result<(), Rejection> {
    let forbidden =
        |why: String| Err(Rejection::new("SysctlForbidden", format!("forbidden sysctl: {why}")));
    for sysctl in &pod.spec.security_context.sysctls {
        let name = sysctl.name.replace('/', ".");
        let matches = |pattern: &str| match pattern.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == pattern,
        };
        let allowed = SAFE_SYSCTLS.iter().any(|safe| matches(safe))
            || node.unsafe_sysctls.iter().any(|pattern| matches(pattern));
        if !allowed {
            return forbidden(format!("{name:?} not allowlisted"));
        }
        if pod.spec.host_network && name.starts_with("net.") {
            return forbidden(format!("{name:?} not allowed with host net enabled"));
        }
        let of_ipc = ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."];
        if pod.spec.host_ipc && of_ipc.iter().any(|prefix| name.starts_with(prefix)) {
            return forbidden(format!("{name:?} not allowed with host ipc enabled"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::pod::CRITICAL;

    fn node() -> Standing {
        let amounts = [("cpu", "2"), ("memory", "1Gi"), ("pods", "3"), ("example.com/x", "1")];
        Standing {
            name: "n".into(),
            labels: [("disk".to_string(), "ssd".to_string())].into(),
            taints: serde_json::from_value(json!([
                {"key": "a", "effect": "NoSchedule"}, {"key": "b", "effect": "NoExecute"}]))
            .unwrap(),
            allocatable: amounts
                .map(|(name, amount)| (name.to_string(), amount.parse().unwrap()))
                .into(),
            shutting_down: false,
            pressure: BTreeSet::new(),
            unsafe_sysctls: vec!["net.core.*".into()],
        }
    }

    fn pod(metadata: Value, mut spec: Value) -> Pod {
        if spec.get("tolerations").is_none() {
            spec["tolerations"] = json!([{"operator": "Exists"}]);
        }
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    /// A pod with one container like this.
    fn with(container: Value) -> Value {
        json!({"containers": [container]})
    }

    /// Who uses half a cpu and a port already.
    fn others() -> Held {
        let taken = json!({"hostPort": 80, "hostIP": "127.0.0.1"});
        let taken: Port = serde_json::from_value(taken).unwrap();
        Held {
            amounts: [("cpu".to_string(), "500m".parse().unwrap())].into(),
            ports: vec![HostPort::of(&taken).unwrap()],
            ..Held::default()
        }
    }

    fn check(spec: Value, reason: &str, message: &str) {
        let said = admit(&pod(json!({}), spec.clone()), &node(), &others());
        let expected = match reason {
            "" => Ok(()),
            reason => Err(Rejection::new(reason, message)),
        };
        assert_eq!(said, expected, "{spec}");
    }

    #[test]
    fn what_there_is_not_enough_of() {
        let out = "Node didn't have enough resource: ";
        let table = [
            (json!({"cpu": "1500m"}), "", ""),
            (json!({"cpu": "1501m"}), "cpu", "requested: 1501, used: 500, capacity: 2000"),
            (
                json!({"memory": "2Gi"}),
                "memory",
                "requested: 2147483648, used: 0, capacity: 1073741824",
            ),
            (json!({"example.com/x": "2"}), "example.com/x", "requested: 2, used: 0, capacity: 1"),
            (json!({"example.com/unknown": "2"}), "", ""),
        ];
        for (requests, name, rest) in table {
            let spec = with(json!({"resources": {"requests": requests}}));
            match name {
                "" => check(spec, "", ""),
                name => check(spec, &format!("OutOf{name}"), &format!("{out}{name}, {rest}")),
            }
        }
        let full = [("pods".to_string(), Quantity::new(3))].into();
        let full = Held { amounts: full, ..Held::default() };
        let said = admit(&pod(json!({}), json!({})), &node(), &full).unwrap_err();
        assert_eq!(said.reason, "OutOfpods");
        assert_eq!(said.message, format!("{out}pods, requested: 1, used: 3, capacity: 3"));
    }

    #[test]
    fn what_a_node_refuses() {
        let port = |port: Value| with(json!({"ports": [port]}));
        let required = |terms: Value| {
            let required = json!({"nodeSelectorTerms": terms});
            json!({"affinity": {"nodeAffinity":
                {"requiredDuringSchedulingIgnoredDuringExecution": required}}})
        };
        let expression =
            |key: &str, value: &str| json!([{"key": key, "operator": "In", "values": [value]}]);
        let sysctl =
            |name: &str| json!({"securityContext": {"sysctls": [{"name": name, "value": "1"}]}});
        let mismatch =
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
        let ports = "Predicate NodePorts failed: node(s) didn't have free ports for the requested \
                     pod ports";
        let taints =
            "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate";
        let os = "Failed to admit pod as the OS field doesn't match node OS";
        let elsewhere = required(json!([{"matchExpressions": expression("disk", "hdd")}]));
        let here = required(json!([{"matchFields": expression("metadata.name", "n")}]));
        let tolerates = |key: &str| json!({"tolerations": [{"key": key, "operator": "Exists"}]});
        let forbidden = "forbidden sysctl: \"kernel.msgmax\" not allowlisted";
        let table = [
            (json!({}), "", ""),
            (json!({"nodeSelector": {"disk": "ssd"}}), "", ""),
            (json!({"nodeSelector": {"disk": "hdd"}}), "NodeAffinity", mismatch),
            (elsewhere, "NodeAffinity", mismatch),
            (here, "", ""),
            (port(json!({"hostPort": 80})), "NodePorts", ports),
            (port(json!({"hostPort": 80, "protocol": "UDP"})), "", ""),
            (port(json!({"hostPort": 80, "hostIP": "127.0.0.2"})), "", ""),
            (port(json!({"hostPort": 80, "hostIP": "127.0.0.1"})), "NodePorts", ports),
            (json!({"os": {"name": "windows"}}), "PodOSNotSupported", os),
            (tolerates("a"), "TaintToleration", taints),
            (tolerates("b"), "", ""),
            (sysctl("kernel.shm_rmid_forced"), "", ""),
            (sysctl("net.core.somaxconn"), "", ""),
            (sysctl("kernel.msgmax"), "SysctlForbidden", forbidden),
        ];
        for (spec, reason, message) in table {
            check(spec, reason, message);
        }
    }

    #[test]
    fn what_a_node_under_pressure_takes() {
        use Condition::{DiskPressure, MemoryPressure};
        let tolerations = json!([{"key": "node.kubernetes.io/memory-pressure",
            "operator": "Exists", "effect": "NoSchedule"}]);
        let nothing = json!({"tolerations": []});
        let patient = json!({ "tolerations": tolerations });
        let burstable = json!({"tolerations": [], "containers": [
            {"resources": {"requests": {"memory": "1"}}}]});
        let critical = json!({"tolerations": [], "priority": CRITICAL});
        let (memory, both) = (vec![MemoryPressure], vec![MemoryPressure, DiskPressure]);
        let table = [
            (&memory, &nothing, Some("The node had condition: [MemoryPressure]. ")),
            (&memory, &patient, None),
            (&memory, &burstable, None),
            (&both, &burstable, Some("The node had condition: [MemoryPressure DiskPressure]. ")),
            (&both, &patient, Some("The node had condition: [MemoryPressure DiskPressure]. ")),
            (&both, &critical, None),
        ];
        for (conditions, spec, expected) in table {
            let pressure = conditions.iter().copied().collect();
            let node = Standing { pressure, taints: Vec::new(), ..node() };
            let said = admit(&pod(json!({}), spec.clone()), &node, &Held::default());
            let expected = expected.map_or(Ok(()), |why| Err(Rejection::new("Evicted", why)));
            assert_eq!(said, expected, "{spec}");
        }
    }

    #[test]
    fn the_nodes_own_pods_tolerate_it() {
        let pod = Pod { is_static: true, ..pod(json!({}), json!({"tolerations": []})) };
        assert_eq!(admit(&pod, &node(), &Held::default()), Ok(()));
    }
}
