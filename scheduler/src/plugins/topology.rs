//! PodTopologySpread: a pod's own constraints (Kubernetes: Pod Topology Spread Constraints), or,
//! for pods without any, a preference to keep the replicas of one owner apart: by host with a skew
//! of 3 and by zone with a skew of 5.

use std::collections::HashMap;

use proto::selector::Selector;
use proto::view::pod::TopologySpreadConstraint;

use super::taints::tolerates;
use super::{BEST, Event, Judge, Plugin, Reason, node_affinity};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

pub struct PodTopologySpread;

const HOST: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// One constraint with the matching pods counted by topology value.
struct Counted<'a> {
    key: &'a str,
    max_skew: i64,
    required: bool,
    /// The pod itself would count.
    matches_self: bool,
    /// Of the nodes that count for it.
    counts: HashMap<&'a str, i64>,
    /// Fewest in any domain; 0 when there are fewer domains than `minDomains`.
    fewest: i64,
}

struct Spread<'a>(Vec<Counted<'a>>);

/// Which pods a constraint counts.
enum Siblings {
    Selected(Selector),
    Nobody,
    /// Those with the same controller.
    Owned(String),
}

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn cures(&self) -> &'static [Event] {
        use Event::{NodeAdded, NodeLabels, NodeTaints, PodAdded, PodDeleted, PodLabels};
        &[NodeAdded, NodeLabels, NodeTaints, PodAdded, PodDeleted, PodLabels]
    }

    fn judge<'a>(&self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Option<Box<dyn Judge + 'a>> {
        let own = &pod.object.spec.topology_spread_constraints;
        let constraints: Vec<Counted<'a>> = if own.is_empty() {
            let owner = pod.object.metadata.controller()?;
            let siblings = Siblings::Owned(owner.uid.clone());
            let by =
                |key, max_skew| count(pod, snapshot, key, max_skew, false, &siblings, |_| true);
            vec![by(HOST, 3), by(ZONE, 5)]
        } else {
            own.iter().map(|constraint| counted(pod, snapshot, constraint)).collect()
        };
        Some(Box::new(Spread(constraints)))
    }
}

fn counted<'a>(
    pod: &'a PodInfo,
    snapshot: &'a Snapshot,
    constraint: &'a TopologySpreadConstraint,
) -> Counted<'a> {
    let mut selector = constraint.label_selector.clone().unwrap_or_default();
    for key in &constraint.match_label_keys {
        if let Some(value) = pod.labels().get(key) {
            selector.match_labels.insert(key.clone(), value.clone());
        }
    }
    // The API server has checked the selector; one that it would refuse selects nothing.
    let siblings = match (&constraint.label_selector, selector.selector()) {
        (Some(_), Ok(selector)) => Siblings::Selected(selector),
        _ => Siblings::Nobody,
    };
    let honours_taints = constraint.node_taints_policy.as_deref() == Some("Honor");
    let ignores_affinity = constraint.node_affinity_policy.as_deref() == Some("Ignore");
    let counts_node = |node: &NodeInfo| {
        let tolerated = |taint| tolerates(&pod.object.spec.tolerations, taint);
        (ignores_affinity || node_affinity::admits(pod, node))
            && (!honours_taints || node.object.spec.taints.iter().all(tolerated))
    };
    let required = constraint.when_unsatisfiable != "ScheduleAnyway";
    let skew = i64::from(constraint.max_skew);
    let mut counted =
        count(pod, snapshot, &constraint.topology_key, skew, required, &siblings, counts_node);
    if counted.counts.len() < constraint.min_domains.unwrap_or(1).max(1) as usize {
        counted.fewest = 0;
    }
    counted
}

fn count<'a>(
    pod: &'a PodInfo,
    snapshot: &'a Snapshot,
    key: &'a str,
    max_skew: i64,
    required: bool,
    siblings: &Siblings,
    counts_node: impl Fn(&NodeInfo) -> bool,
) -> Counted<'a> {
    let is_sibling = |other: &PodInfo| match siblings {
        Siblings::Selected(selector) => selector.matches(other.labels()),
        Siblings::Nobody => false,
        Siblings::Owned(uid) => {
            other.object.metadata.controller().is_some_and(|owner| owner.uid == *uid)
        }
    };
    let mut counts = HashMap::new();
    for node in snapshot.nodes() {
        let Some(value) = node.labels().get(key) else { continue };
        if !counts_node(node) {
            continue;
        }
        let pods = node.pods.iter().filter(|other| {
            other.namespace() == pod.namespace()
                && other.key != pod.key
                && other.object.metadata.deletion_timestamp.is_none()
                && is_sibling(other)
        });
        *counts.entry(value.as_str()).or_default() += pods.count() as i64;
    }
    let fewest = counts.values().copied().min().unwrap_or(0);
    Counted { key, max_skew, required, matches_self: is_sibling(pod), counts, fewest }
}

impl Judge for Spread<'_> {
    fn filter(&self, node: &NodeInfo) -> Vec<Reason> {
        for constraint in self.0.iter().filter(|constraint| constraint.required) {
            let Some(value) = node.labels().get(constraint.key) else {
                return vec![
                    "node(s) didn't match pod topology spread constraints (missing required label)"
                        .into(),
                ];
            };
            let there = constraint.counts.get(value.as_str()).copied().unwrap_or(0);
            let after = there + i64::from(constraint.matches_self);
            if after - constraint.fewest > constraint.max_skew {
                return vec!["node(s) didn't match pod topology spread constraints".into()];
            }
        }
        Vec::new()
    }

    /// Fewer siblings in the node's domains are better; large topologies weigh more.
    fn score(&self, node: &NodeInfo) -> Option<i64> {
        let soft = self.0.iter().filter(|constraint| !constraint.required);
        let share = soft.filter_map(|constraint| {
            let there = *constraint.counts.get(node.labels().get(constraint.key)?.as_str())?;
            let weight = ((constraint.counts.len() + 2) as f64).ln();
            Some(there as f64 * weight + (constraint.max_skew - 1) as f64)
        });
        Some(share.sum::<f64>().round() as i64)
    }

    fn normalize(&self, scores: &mut [i64]) {
        let most = scores.iter().copied().max().unwrap_or(0);
        let least = scores.iter().copied().min().unwrap_or(0);
        for score in scores {
            *score = if most == 0 { BEST } else { BEST * (most + least - *score) / most };
        }
    }
}
