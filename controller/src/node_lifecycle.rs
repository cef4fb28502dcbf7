//! Nodes that fall silent become not ready, are tainted, and their pods are no longer ready.
//! <https://kubernetes.io/docs/concepts/architecture/nodes/#node-controller>

use std::sync::Arc;
use std::time::Duration;

use client::{Entry, Key};
use proto::kind::{NODE, POD};
use proto::time::Time;
use proto::view::Condition;
use proto::view::lease::Lease;
use proto::view::node::{Node, Taint};
use proto::view::pod::Pod;
use serde_json::json;

use crate::plan::{Plan, reference};
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

/// Watches over nodes.
pub struct NodeLifecycle {
    /// How long a node may be silent.
    pub grace: Duration,
}

/// One node of a zone is evicted in this time.
const INTERVAL: Duration = Duration::from_secs(10);
/// The same where most of a zone with more than [`LARGE`] nodes is not well.
const SLOW_INTERVAL: Duration = Duration::from_secs(100);
const LARGE: usize = 50;
const UNHEALTHY_PERCENT: usize = 55;

const LEASES: &str = "kube-node-lease";
const READY: &str = "Ready";
/// What the agent reports, and so is unknown when it does not.
const REPORTED: [&str; 4] = [READY, "MemoryPressure", "DiskPressure", "PIDPressure"];
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// A condition, its value, and the taint that keeps new pods away from such a node.
const NO_SCHEDULE: [(&str, &str, &str); 6] = [
    (READY, "False", NOT_READY),
    (READY, "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];

impl Controller for NodeLifecycle {
    type Object = Node;
    const NAME: &'static str = "node-lifecycle-controller";
    // Two plans at a time would each evict a node in the time of one.
    const WORKERS: usize = 1;

    fn watches(watches: &mut Watches<Node>) {
        watches
            .timed::<Lease>(
                |change| {
                    let renewed = |lease: &Option<Arc<Entry<Lease>>>| {
                        lease.as_ref().and_then(|lease| lease.spec.renew_time)
                    };
                    &*change.key.namespace == LEASES && renewed(&change.old) != renewed(&change.new)
                },
                // A lease needs no plan: it only postpones the one that is due.
                |_, _| Vec::new(),
            )
            .timed::<Node>(
                |change| heartbeat(&change.old) != heartbeat(&change.new),
                |change, view| {
                    let ready =
                        |node: &Option<Arc<Entry<Node>>>| node.as_ref().map(|node| node.is_ready());
                    if ready(&change.old) == ready(&change.new) {
                        return Vec::new();
                    }
                    // Whether others are evicted depends on whether anyone is well.
                    let nodes = view.all::<Node>().into_iter().filter(|node| !node.is_ready());
                    nodes.map(|node| Key::of(&node.metadata)).collect()
                },
            )
            .maps::<Pod>(|change, view| {
                let Some(pod) = &change.new else { return Vec::new() };
                let node = view.get::<Node>("", &pod.spec.node_name);
                let silent = node.is_some_and(|node| !node.is_ready());
                if silent && pod.is_ready() {
                    vec![Key::new("", &pod.spec.node_name)]
                } else {
                    Vec::new()
                }
            });
    }

    fn plan(&self, node: &Entry<Node>, view: &View, now: Time) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        let meta = &node.metadata;
        if meta.deletion_timestamp.is_some() {
            return Ok(plan);
        }
        let heard =
            view.changed::<Lease>(LEASES, &meta.name).max(view.changed::<Node>("", &meta.name));
        let due = heard.unwrap_or(now).plus(self.grace);
        let conditions = &node.status.conditions;
        if now < due {
            plan.look_again(due);
        } else {
            // The lease may be renewed without any other change of the node.
            plan.look_again(now.plus(self.grace));
            let unknown = unknown(conditions, node, now);
            if !unknown.is_empty() {
                if node.is_ready() {
                    let message = format!("Node {} status is now: NodeNotReady", meta.name);
                    plan.event(&reference(&NODE, meta), "Normal", "NodeNotReady", message);
                }
                // The rest follows from the conditions, once they are written.
                plan.conditions(&NODE, meta, &unknown, json!({}));
                return Ok(plan);
            }
        }
        let well = node.is_ready();
        let evicts = evicts(node, view, now, &mut plan);
        let taints = taints(node, conditions, evicts, now);
        if taints != node.spec.taints {
            let taints = if taints.is_empty() { json!(null) } else { json!(taints) };
            plan.patch(&NODE, meta, json!({ "spec": { "taints": taints } }));
        }
        if !well && Condition::find(conditions, READY).is_some() {
            for pod in
                view.pods_on(&meta.name).iter().filter(|pod| pod.is_ready() && !pod.is_terminal())
            {
                mark_not_ready(pod, now, &mut plan);
            }
        }
        Ok(plan)
    }
}

/// Whether the node's pods are told to leave, if it is not well; looks again when they may be.
fn evicts(node: &Node, view: &View, now: Time, plan: &mut Plan) -> bool {
    if node.is_ready() {
        return true;
    }
    let nodes = view.all::<Node>();
    if tainted(node) {
        // When it turns out to be all of the cluster, those that were told to leave may stay.
        return nodes.iter().any(|node| node.is_ready());
    }
    match eviction(node, &nodes, now) {
        Eviction::Now => true,
        Eviction::Never => false,
        Eviction::At(time) => {
            plan.look_again(time);
            false
        }
    }
}

/// Whether the pods of a node that is not well may be told to leave.
#[derive(Debug, PartialEq, Eq)]
enum Eviction {
    Now,
    At(Time),
    Never,
}

/// The more nodes of a zone are not well, the likelier the fault is not theirs: one node after
/// the other is evicted, slowly where most of a large zone is not well, and none where most of a
/// small one or all of the cluster is not.
/// <https://kubernetes.io/docs/concepts/architecture/nodes/#rate-limits-on-eviction>
fn eviction(node: &Node, nodes: &[Arc<Entry<Node>>], now: Time) -> Eviction {
    if !nodes.iter().any(|node| node.is_ready()) {
        return Eviction::Never;
    }
    let zone = |node: &Node| {
        let label = |key: &str| node.metadata.labels.get(key).cloned().unwrap_or_default();
        (label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"))
    };
    let own = zone(node);
    let peers: Vec<_> = nodes.iter().filter(|peer| zone(peer) == own).collect();
    let unwell = peers.iter().filter(|peer| !peer.is_ready()).count();
    let any_well = unwell < peers.len();
    let mostly_unwell = any_well && unwell > 2 && unwell * 100 >= peers.len() * UNHEALTHY_PERCENT;
    let interval = match mostly_unwell {
        true if peers.len() <= LARGE => return Eviction::Never,
        true => SLOW_INTERVAL,
        false => INTERVAL,
    };
    let last = peers.iter().flat_map(|peer| &peer.spec.taints).filter(|taint| is_eviction(taint));
    match last.filter_map(|taint| taint.time_added).max().map(|last| last.plus(interval)) {
        Some(next) if next > now => Eviction::At(next),
        _ => Eviction::Now,
    }
}

fn is_eviction(taint: &Taint) -> bool {
    taint.effect == "NoExecute" && [NOT_READY, UNREACHABLE].contains(&taint.key.as_str())
}

/// Whether the node's pods were told to leave already.
fn tainted(node: &Node) -> bool {
    node.spec.taints.iter().any(is_eviction)
}

/// What changes when the agent reports.
fn heartbeat(node: &Option<Arc<Entry<Node>>>) -> Option<Option<Time>> {
    let node = node.as_ref()?;
    Some(
        Condition::find(&node.status.conditions, READY).and_then(|ready| ready.last_heartbeat_time),
    )
}

/// The conditions that the silence makes unknown.
fn unknown(conditions: &[Condition], node: &Node, now: Time) -> Vec<Condition> {
    let unknown = |kind: &&str| {
        let (reason, message, heard) = match Condition::find(conditions, kind) {
            Some(known) if known.status == "Unknown" => return None,
            Some(known) => (
                "NodeStatusUnknown",
                "Kubelet stopped posting node status.",
                known.last_heartbeat_time,
            ),
            None => (
                "NodeStatusNeverUpdated",
                "Kubelet never posted node status.",
                node.metadata.creation_timestamp,
            ),
        };
        Some(Condition {
            kind: kind.to_string(),
            status: "Unknown".into(),
            reason: reason.into(),
            message: message.into(),
            last_heartbeat_time: heard,
            last_transition_time: Some(now),
            ..Condition::default()
        })
    };
    REPORTED.iter().filter_map(unknown).collect()
}

/// The taints a node in these conditions has to bear, besides those of others. Unless it
/// `evicts`, its pods are left where they are.
fn taints(node: &Node, conditions: &[Condition], evicts: bool, now: Time) -> Vec<Taint> {
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    for (kind, status, key) in NO_SCHEDULE {
        let is = |condition: &Condition| condition.status == status;
        if Condition::find(conditions, kind).is_some_and(is) {
            wanted.push((key, "NoSchedule"));
            if kind == READY && evicts {
                wanted.push((key, "NoExecute"));
            }
        }
    }
    if node.spec.unschedulable {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let ours = |taint: &Taint| match taint.effect.as_str() {
        "NoSchedule" => {
            taint.key == UNSCHEDULABLE || NO_SCHEDULE.iter().any(|(_, _, key)| *key == taint.key)
        }
        _ => is_eviction(taint),
    };
    let same =
        |taint: &Taint, (key, effect): (&str, &str)| taint.key == key && taint.effect == effect;
    let mut taints = node.spec.taints.clone();
    taints.retain(|taint| !ours(taint) || wanted.iter().any(|want| same(taint, *want)));
    for want in wanted {
        if !taints.iter().any(|taint| same(taint, want)) {
            let (key, effect) = want;
            taints.push(Taint {
                key: key.into(),
                effect: effect.into(),
                time_added: Some(now),
                ..Taint::default()
            });
        }
    }
    taints
}

fn mark_not_ready(pod: &Entry<Pod>, now: Time, plan: &mut Plan) {
    let Some(ready) = Condition::find(&pod.status.conditions, READY) else { return };
    let condition =
        Condition { status: "False".into(), last_transition_time: Some(now), ..ready.clone() };
    plan.conditions(&POD, &pod.metadata, &[condition], json!({}));
    let message = "Node is not ready".to_string();
    plan.event(&reference(&POD, &pod.metadata), "Warning", "NodeNotReady", message);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Step;
    use serde_json::Value;

    fn node(name: &str, ready: &str, taints: Value) -> Value {
        json!({"metadata": {"name": name, "uid": name, "resourceVersion": "7"},
            "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}})
    }

    /// `unknown:n`, `taints:a,b`, `pod:name`.
    fn plan(nodes: &[Value], pods: &[Value], at: i64) -> (Vec<String>, Option<Time>) {
        let mut view = View::default().with::<Node>(nodes).with::<Lease>(&[]).with::<Pod>(pods);
        view.start(Time::from_unix(0));
        let entry = Entry::decode(nodes[0].to_string().into()).unwrap();
        let controller = NodeLifecycle { grace: Duration::from_secs(40) };
        let plan = controller.plan(&entry, &view, Time::from_unix(at)).unwrap();
        let word = |step: &Step| match step {
            Step::Patch(patch) if patch.target.row.kind == "Pod" => {
                Some(format!("pod:{}", patch.target.name))
            }
            Step::Patch(patch) if patch.subresource == "status" => {
                let list = patch.body["status"]["conditions"].as_array().unwrap();
                Some(format!("unknown:{}", list.len()))
            }
            Step::Patch(patch) => {
                let taints: Vec<Taint> =
                    serde_json::from_value(patch.body["spec"]["taints"].clone())
                        .unwrap_or_default();
                let short = |taint: &Taint| {
                    format!("{}:{}", taint.key.split('/').next_back().unwrap_or(""), taint.effect)
                };
                Some(format!("taints:{}", taints.iter().map(short).collect::<Vec<_>>().join(",")))
            }
            _ => None,
        };
        (plan.steps.iter().filter_map(word).collect(), plan.again)
    }

    #[test]
    fn plans() {
        let other = node("other", "True", json!([]));
        let pod = json!({"metadata": {"name": "p", "namespace": "a"}, "spec": {"nodeName": "n"},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}});
        let well = node("n", "True", json!([]));
        let (steps, again) = plan(&[well.clone(), other.clone()], std::slice::from_ref(&pod), 39);
        assert_eq!((steps, again), (vec![], Some(Time::from_unix(40))));
        let (steps, _) = plan(&[well.clone(), other.clone()], std::slice::from_ref(&pod), 40);
        assert_eq!(steps, ["unknown:4"]);
        let mut silent = node("n", "Unknown", json!([]));
        for kind in &REPORTED[1..] {
            let conditions = silent["status"]["conditions"].as_array_mut().unwrap();
            conditions.push(json!({"type": kind, "status": "Unknown"}));
        }
        let (steps, _) = plan(&[silent, other.clone()], std::slice::from_ref(&pod), 40);
        assert_eq!(steps, ["taints:unreachable:NoSchedule,unreachable:NoExecute", "pod:p"]);
        let down = node("n", "False", json!([]));
        let (steps, _) = plan(&[down.clone(), other.clone()], &[], 1);
        assert_eq!(steps, ["taints:not-ready:NoSchedule,not-ready:NoExecute"]);
        let (steps, _) = plan(&[down], &[], 1);
        assert_eq!(steps, ["taints:not-ready:NoSchedule"], "no node is well: none is evicted");
        let evicted = json!([{"key": NOT_READY, "effect": "NoSchedule"},
            {"key": NOT_READY, "effect": "NoExecute"}]);
        let evicted = node("n", "False", evicted);
        let (steps, _) = plan(std::slice::from_ref(&evicted), &[], 1);
        assert_eq!(steps, ["taints:not-ready:NoSchedule"], "nor those that were told to leave");
        assert_eq!(plan(&[evicted, other], &[], 1).0, [""; 0], "others stay told");
    }

    #[test]
    fn evictions_are_paced() {
        let zone = |ready: usize,
                    unwell: usize,
                    evicted_at: Option<i64>|
         -> Vec<Arc<Entry<Node>>> {
            let one = |index: usize| {
                let ready = if index < ready { "True" } else { "Unknown" };
                let mut object = node(&format!("n{index}"), ready, json!([]));
                if let (0, Some(at)) = (index, evicted_at) {
                    object["spec"]["taints"] = json!([{"key": UNREACHABLE, "effect": "NoExecute",
                        "timeAdded": Time::from_unix(at)}]);
                }
                Arc::new(Entry::decode(object.to_string().into()).unwrap())
            };
            (0..ready + unwell).map(one).collect()
        };
        let at = |second| Eviction::At(Time::from_unix(second));
        for (case, nodes, expected) in [
            ("one of three", zone(2, 1, None), Eviction::Now),
            ("two of three", zone(1, 2, None), Eviction::Now),
            ("another was just evicted", zone(2, 1, Some(95)), at(105)),
            ("another was evicted long ago", zone(2, 1, Some(80)), Eviction::Now),
            ("most of a small zone", zone(2, 3, None), Eviction::Never),
            ("most of a large zone", zone(20, 40, Some(80)), at(180)),
            ("all", zone(0, 3, None), Eviction::Never),
        ] {
            let outcome = eviction(nodes.last().unwrap(), &nodes, Time::from_unix(100));
            assert_eq!(outcome, expected, "{case}");
        }
    }

    #[test]
    fn taints_of_others_stay_and_ours_go() {
        let taints = json!([
            {"key": "mine", "effect": "NoSchedule"},
            {"key": NOT_READY, "effect": "NoSchedule"},
            {"key": NOT_READY, "effect": "NoExecute"}]);
        let (steps, _) = plan(&[node("n", "True", taints)], &[], 1);
        assert_eq!(steps, ["taints:mine:NoSchedule"]);
        let mut cordoned = node("n", "True", json!([]));
        cordoned["spec"]["unschedulable"] = true.into();
        let (steps, _) = plan(&[cordoned], &[], 1);
        assert_eq!(steps, ["taints:unschedulable:NoSchedule"]);
    }
}
