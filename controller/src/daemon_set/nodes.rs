//! Which nodes a DaemonSet's pods run on.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/#how-daemon-pods-are-scheduled>

use std::collections::BTreeMap;
use std::sync::LazyLock;

use client::{Change, Entry, Key};
use proto::view::daemon_set::{DaemonSet, Placement};
use proto::view::node::{Node, Taint};
use proto::view::pod::Toleration;

use crate::view::View;

/// What a node is to a DaemonSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// A pod should run there.
    Runs,
    /// A pod that runs there already may stay.
    Stays,
    /// None may be there.
    Leaves,
}

/// What each daemon tolerates: a key and an effect. The last only on the host's network.
pub const TOLERATED: [(&str, &str); 7] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
    ("node.kubernetes.io/network-unavailable", "NoSchedule"),
];

/// Those of them that a daemon of this placement gets.
pub fn tolerated(host_network: bool) -> &'static [(&'static str, &'static str)] {
    if host_network { &TOLERATED } else { &TOLERATED[..6] }
}

pub fn all(set: &DaemonSet, view: &View) -> BTreeMap<String, Fit> {
    let nodes = view.all::<Node>();
    nodes.iter().map(|node| (node.metadata.name.clone(), fit(set, node))).collect()
}

/// The DaemonSets to which a node is something else now.
pub fn concerned(change: &Change<Node>, view: &View) -> Vec<Key> {
    let (old, new) = (change.old.as_deref(), change.new.as_deref());
    if let (Some(old), Some(new)) = (old, new)
        && old.metadata.labels == new.metadata.labels
        && old.spec.taints == new.spec.taints
    {
        return Vec::new();
    }
    let fit = |set: &DaemonSet, node: Option<&Entry<Node>>| {
        node.map_or(Fit::Leaves, |node| fit(set, node))
    };
    let mut sets = view.all::<DaemonSet>();
    sets.retain(|set| fit(set, old) != fit(set, new));
    sets.iter().map(|set| Key::of(&set.metadata)).collect()
}

pub fn fit(set: &DaemonSet, node: &Node) -> Fit {
    let placement = &set.spec.template.spec;
    if !selects(placement, node) {
        return Fit::Leaves;
    }
    let tolerates = |taint: &Taint| tolerates(placement, taint);
    let repelled = |effect: &str| {
        node.spec.taints.iter().any(|taint| taint.effect == effect && !tolerates(taint))
    };
    match (repelled("NoExecute"), repelled("NoSchedule")) {
        (true, _) => Fit::Leaves,
        (false, true) => Fit::Stays,
        (false, false) => Fit::Runs,
    }
}

fn selects(placement: &Placement, node: &Node) -> bool {
    let (name, labels) = (&node.metadata.name, &node.metadata.labels);
    let required = placement.affinity.as_ref().and_then(|all| all.node_affinity.required.as_ref());
    (placement.node_name.is_empty() || placement.node_name == *name)
        && placement.node_selector.iter().all(|(key, value)| labels.get(key) == Some(value))
        && required.is_none_or(|required| required.admits(name, labels))
}

fn tolerates(placement: &Placement, taint: &Taint) -> bool {
    static OWN: LazyLock<Vec<Toleration>> = LazyLock::new(|| {
        let toleration = |(key, effect): &(&str, &str)| Toleration {
            key: key.to_string(),
            operator: "Exists".into(),
            effect: effect.to_string(),
            ..Toleration::default()
        };
        TOLERATED.iter().map(toleration).collect()
    });
    let own = &OWN[..tolerated(placement.host_network).len()];
    placement.tolerations.iter().chain(own).any(|toleration| toleration.tolerates(taint))
}
