//! The plugins: each a file, each pure. The table gives their order and weights, which are
//! kube-scheduler's defaults. A verdict explains itself, and a plugin says which events could cure
//! its rejections.

mod balanced;
mod dynamic_resources;
mod fit;
mod image_locality;
mod node_affinity;
mod node_name;
mod pod_affinity;
mod ports;
pub mod strategy;
mod taints;
mod topology;
mod unschedulable;
mod volumes;

use std::borrow::Cow;
use std::sync::Arc;

use crate::profile::Args;
use crate::snapshot::{Change, NodeInfo, PodInfo, Snapshot};

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
    DeviceClaim,
    DeviceClass,
    ResourceSlice,
}

impl Event {
    /// Upstream's name of it, as figures have it. One that stands for several there bears the name
    /// of the most general.
    pub fn label(self) -> &'static str {
        match self {
            Event::NodeAdded => "NodeAdd",
            Event::NodeAllocatable => "NodeUpdateNodeAllocatable",
            Event::NodeLabels => "NodeUpdateNodeLabel",
            Event::NodeTaints => "NodeUpdateNodeTaint",
            Event::PodAdded => "AssignedPodAdd",
            Event::PodDeleted => "AssignedPodDelete",
            Event::PodLabels => "AssignedPodUpdatePodLabel",
            Event::Claim => "PersistentVolumeClaimUpdate",
            Event::Volume => "PersistentVolumeUpdate",
            Event::StorageClass => "storage.k8s.io/StorageClassUpdate",
            Event::StorageCapacity => "storage.k8s.io/CSIStorageCapacityUpdate",
            Event::Drivers => "storage.k8s.io/CSINodeUpdate",
            Event::DeviceClaim => "resource.k8s.io/ResourceClaimUpdate",
            Event::DeviceClass => "resource.k8s.io/DeviceClassUpdate",
            Event::ResourceSlice => "resource.k8s.io/ResourceSliceUpdate",
        }
    }
}

/// That a node cannot take a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub reasons: Reasons,
    /// Whether it could if other pods made room.
    pub curable: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reasons {
    One(&'static str),
    Many(Vec<Reason>),
}

/// One rule of placement.
pub trait Plugin: Sync {
    /// Upstream's name.
    fn name(&self) -> &'static str;

    /// How much its scores count; nothing where it gives none.
    fn weight(&self) -> i64 {
        0
    }

    /// Whether it may reject a node.
    fn filters(&self) -> bool {
        true
    }

    /// Events after which a pod that this plugin rejected is worth another try.
    fn cures(&self) -> &'static [Event];

    /// Whether what happened to that pod could cure the rejection of the one that waits.
    fn heeds(&self, _waiting: &PodInfo, _event: Event, _pod: &PodInfo, _: &Snapshot) -> bool {
        true
    }

    /// Looks at the pod once; `None` when the plugin has nothing to say about it, whatever pods
    /// come and go.
    fn judge(&self, pod: &Arc<PodInfo>, cluster: &Snapshot, args: &Args) -> Option<Box<dyn Judge>>;
}

/// On what a judge's opinion of a node depends, besides the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// On that node and its pods alone.
    Node,
    /// On other nodes' pods, too; the judge must follow them.
    Cluster,
}

/// A plugin's opinion on one pod, or on any pod of the same signature.
pub trait Judge: Send {
    fn scope(&self) -> Scope {
        Scope::Node
    }

    /// Why no node whatsoever can take it; whether others' leaving would help does not matter.
    fn refuse(&self) -> Option<Reason> {
        None
    }

    /// The only nodes that are worth asking, by name.
    fn only(&self) -> Option<&[String]> {
        None
    }

    /// Why the node cannot take it, if so.
    fn filter(&self, _node: &NodeInfo, _cluster: &Snapshot) -> Option<Rejection> {
        None
    }

    /// Told of a change that the node passed to `filter` has or will have, too. Whether the judge
    /// could follow; if not it has to be made anew. Pods coming and going it must follow.
    fn follow(&mut self, _change: &Change, _cluster: &Snapshot) -> bool {
        true
    }

    /// Told of all candidates before they are scored.
    fn prepare(&mut self, _candidates: &[u32], _cluster: &Snapshot) {}

    /// A raw score; `None` when the plugin does not score this pod.
    fn score(&self, _node: &NodeInfo, _cluster: &Snapshot) -> Option<i64> {
        None
    }

    /// Whether raw scores only mean something among those of other candidates.
    fn is_relative(&self) -> bool {
        false
    }

    /// Brings the raw scores of all candidates to 0..=BEST.
    fn normalize(&self, _scores: &mut [i64]) {}
}

/// In the order in which they are asked; the first that rejects a node decides its reason. Those
/// that look at more than the node come last.
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
    &image_locality::ImageLocality,
];

/// The plugin of that name.
pub fn find(name: &str) -> Option<&'static dyn Plugin> {
    PLUGINS.iter().find(|plugin| plugin.name() == name).copied()
}

impl Rejection {
    /// Other pods stand in the way.
    pub fn curable(reason: &'static str) -> Option<Rejection> {
        Some(Rejection { reasons: Reasons::One(reason), curable: true })
    }

    /// The node itself is not the right one.
    pub fn lasting(reason: &'static str) -> Option<Rejection> {
        Some(Rejection { reasons: Reasons::One(reason), curable: false })
    }
}

impl Reasons {
    pub fn iter(&self) -> impl Iterator<Item = Reason> {
        let (one, many) = match self {
            Reasons::One(one) => (Some(Cow::Borrowed(*one)), &[][..]),
            Reasons::Many(many) => (None, many.as_slice()),
        };
        one.into_iter().chain(many.iter().cloned())
    }
}

/// Largest becomes `BEST`, the rest in proportion; turned round when less is better.
fn proportional(scores: &mut [i64], less_is_better: bool) {
    let largest = scores.iter().copied().max().unwrap_or(0);
    for score in scores {
        let share = if largest == 0 { 0 } else { *score * BEST / largest };
        *score = if less_is_better { BEST - share } else { share };
    }
}
