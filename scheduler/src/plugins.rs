//! The plugins: each a file, each pure. The table gives their order and weights, which are
//! kube-scheduler's defaults. A verdict explains itself, and a plugin says which events could cure
//! its rejections.

mod balanced;
mod dynamic_resources;
mod fit;
mod node_affinity;
mod node_name;
mod pod_affinity;
mod ports;
mod taints;
mod topology;
mod unschedulable;
mod volumes;

use std::borrow::Cow;

use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

/// The best score a plugin can give a node.
pub const BEST: i64 = 100;

/// Why a node cannot take a pod, in the words of the FailedScheduling event.
pub type Reason = Cow<'static, str>;

/// What happened in the cluster, as far as it can make a pod schedulable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    NodeAdded,
    NodeAllocatable,
    NodeLabels,
    NodeTaints,
    PodAdded,
    PodDeleted,
    PodLabels,
    Claim,
    Volume,
    StorageClass,
    /// How much a driver can make, or whether it says so.
    StorageCapacity,
    /// What drivers a node has.
    Drivers,
}

/// One rule of placement.
pub trait Plugin: Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// How much its scores count.
    fn weight(&self) -> i64 {
        1
    }

    /// Events after which a pod that this plugin rejected is worth another try.
    fn cures(&self) -> &'static [Event];

    /// Looks at the pod once; `None` when the plugin has nothing to say about it.
    fn judge<'a>(&self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Option<Box<dyn Judge + 'a>>;
}

/// A plugin's opinion on one pod.
pub trait Judge {
    /// Why no node whatsoever can take it.
    fn refuse(&self) -> Option<Reason> {
        None
    }

    /// The reasons why the node cannot take it; none when it can.
    fn filter(&self, _node: &NodeInfo) -> Vec<Reason> {
        Vec::new()
    }

    /// A raw score; `None` when the plugin only filters.
    fn score(&self, _node: &NodeInfo) -> Option<i64> {
        None
    }

    /// Brings the raw scores of all candidates to 0..=BEST.
    fn normalize(&self, _scores: &mut [i64]) {}
}

/// In the order in which they are asked; the first that rejects a node decides its reason.
pub static PLUGINS: &[&dyn Plugin] = &[
    &unschedulable::NodeUnschedulable,
    &node_name::NodeName,
    &taints::TaintToleration,
    &node_affinity::NodeAffinity,
    &ports::NodePorts,
    &fit::NodeResourcesFit,
    &volumes::VolumeRestrictions,
    &volumes::NodeVolumeLimits,
    &volumes::VolumeBinding,
    &volumes::VolumeZone,
    &topology::PodTopologySpread,
    &pod_affinity::InterPodAffinity,
    &dynamic_resources::DynamicResources,
    &balanced::BalancedAllocation,
];

/// The plugin of that name, which must be in the table.
pub fn cures(name: &str) -> &'static [Event] {
    PLUGINS.iter().find(|plugin| plugin.name() == name).map_or(&[], |plugin| plugin.cures())
}

/// Largest becomes `BEST`, the rest in proportion; turned round when less is better.
fn proportional(scores: &mut [i64], less_is_better: bool) {
    let largest = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let share = if largest == 0 { 0 } else { *score * BEST / largest };
        *score = if less_is_better { BEST - share } else { share };
    }
}
