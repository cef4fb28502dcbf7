//! VolumeBinding: a pod runs where its volumes are, or can be made. VolumeRestrictions: a claim
//! that only one pod may have is not given to a second. NodeVolumeLimits: a node has no more volumes
//! of a driver than the driver can bring there. VolumeZone: the labels of volumes say where
//! they are, as node affinity does.

use std::collections::BTreeSet;
use std::sync::Arc;

use proto::volume::ONE_POD;

use super::{Event, Judge, Plugin, Reason, Reasons, Rejection, Scope};
use crate::profile::Args;
use crate::snapshot::{Change, NodeInfo, PodInfo, Snapshot};
use crate::storage::{Claims, Lack};

pub struct VolumeBinding;
pub struct VolumeRestrictions;
pub struct NodeVolumeLimits;
pub struct VolumeZone;

/// Claims that can be had somewhere.
struct Wanted {
    pod: Arc<PodInfo>,
    claims: Claims,
}

/// No node can take the pod.
struct Nowhere(Reason);

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        "VolumeBinding"
    }

    fn cures(&self) -> &'static [Event] {
        &[
            Event::NodeAdded,
            Event::NodeLabels,
            Event::Claim,
            Event::Volume,
            Event::StorageClass,
            Event::StorageCapacity,
        ]
    }

    fn judge(&self, pod: &Arc<PodInfo>, cluster: &Snapshot, _: &Args) -> Option<Box<dyn Judge>> {
        pod.object.claims().next()?;
        Some(match cluster.storage.claims_of(pod) {
            Ok(claims) => Box::new(Wanted { pod: Arc::clone(pod), claims }),
            Err(why) => Box::new(Nowhere(why.into())),
        })
    }
}

impl Judge for Nowhere {
    fn refuse(&self) -> Option<Reason> {
        Some(self.0.clone())
    }

    fn filter(&self, _: &NodeInfo, _: &Snapshot) -> Option<Rejection> {
        Some(Rejection { reasons: Reasons::Many(vec![self.0.clone()]), curable: false })
    }
}

impl Judge for Wanted {
    fn filter(&self, node: &NodeInfo, cluster: &Snapshot) -> Option<Rejection> {
        let found = cluster.storage.on_node(&self.pod.key, &self.claims, node);
        Rejection::lasting(match found.err()? {
            Lack::Unreachable => "node(s) didn't match PersistentVolume's node affinity",
            Lack::None => "node(s) didn't find available persistent volumes to bind",
            Lack::Space => "node(s) did not have enough free storage",
            Lack::Gone => {
                "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
            }
        })
    }
}

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn cures(&self) -> &'static [Event] {
        &[Event::NodeAdded, Event::PodDeleted, Event::Claim]
    }

    fn judge(&self, pod: &Arc<PodInfo>, cluster: &Snapshot, _: &Args) -> Option<Box<dyn Judge>> {
        let alone = |name: &str| {
            let claim = cluster.storage.claim(pod.namespace(), name);
            claim.is_some_and(|claim| claim.spec.access_modes.iter().any(|mode| mode == ONE_POD))
        };
        let names: Vec<String> =
            pod.object.claims().map(|used| used.name).filter(|name| alone(name)).collect();
        if names.is_empty() {
            return None;
        }
        let mut alone = Alone { namespace: pod.key.namespace.clone(), names, others: 0 };
        let others = cluster.nodes().iter().flat_map(|node| &node.pods);
        alone.others = others.filter(|other| alone.conflicts(other)).count();
        Some(Box::new(alone))
    }
}

/// Claims that only one pod may have, and how many have them.
struct Alone {
    namespace: Arc<str>,
    names: Vec<String>,
    others: usize,
}

impl Alone {
    fn conflicts(&self, other: &PodInfo) -> bool {
        other.key.namespace == self.namespace
            && other.object.claims().any(|used| self.names.contains(&used.name))
    }
}

impl Judge for Alone {
    fn scope(&self) -> Scope {
        Scope::Cluster
    }

    fn filter(&self, _: &NodeInfo, _: &Snapshot) -> Option<Rejection> {
        match self.others {
            0 => None,
            _ => Rejection::curable(
                "node has pod using PersistentVolumeClaim with the same name and \
                 ReadWriteOncePod access mode",
            ),
        }
    }

    fn follow(&mut self, change: &Change, _: &Snapshot) -> bool {
        match change {
            Change::Placed { pod, .. } if self.conflicts(pod) => self.others += 1,
            Change::Removed { pod, .. } if self.conflicts(pod) => self.others -= 1,
            _ => {}
        }
        true
    }
}

struct Limited {
    wanted: BTreeSet<(String, String)>,
}

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }

    fn cures(&self) -> &'static [Event] {
        &[Event::NodeAdded, Event::PodDeleted, Event::Claim, Event::Drivers]
    }

    fn judge(&self, pod: &Arc<PodInfo>, cluster: &Snapshot, _: &Args) -> Option<Box<dyn Judge>> {
        let wanted = cluster.storage.driven(pod);
        (!wanted.is_empty()).then(|| Box::new(Limited { wanted }) as Box<dyn Judge>)
    }
}

impl Judge for Limited {
    fn filter(&self, node: &NodeInfo, cluster: &Snapshot) -> Option<Rejection> {
        let storage = &cluster.storage;
        let mut drivers: BTreeSet<&str> =
            self.wanted.iter().map(|(driver, _)| driver.as_str()).collect();
        drivers.retain(|driver| storage.most(&node.name, driver).is_some());
        if drivers.is_empty() {
            return None;
        }
        let mut all: BTreeSet<(String, String)> =
            node.pods.iter().flat_map(|other| storage.driven(other)).collect();
        all.extend(self.wanted.iter().cloned());
        let exceeded = drivers.into_iter().any(|driver| {
            let count = all.iter().filter(|(of, _)| of == driver).count();
            storage.most(&node.name, driver).is_some_and(|most| count > most)
        });
        match exceeded {
            true => Rejection::curable("node(s) exceed max volume count"),
            false => None,
        }
    }
}

/// The labels by which volumes and nodes say where they are.
const ZONES: [&str; 4] = [
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
];

struct Zones(Vec<(&'static str, String)>);

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }

    fn cures(&self) -> &'static [Event] {
        &[Event::NodeAdded, Event::NodeLabels, Event::Claim, Event::Volume, Event::StorageClass]
    }

    fn judge(&self, pod: &Arc<PodInfo>, cluster: &Snapshot, _: &Args) -> Option<Box<dyn Judge>> {
        let storage = &cluster.storage;
        let mut zones = Vec::new();
        for used in pod.object.claims() {
            let claim = storage.claim(pod.namespace(), &used.name);
            let volume = claim.and_then(|claim| storage.volume(&claim.spec.volume_name));
            let Some(volume) = volume else { continue };
            let labels = &volume.metadata.labels;
            zones.extend(ZONES.iter().filter_map(|key| Some((*key, labels.get(*key)?.clone()))));
        }
        (!zones.is_empty()).then(|| Box::new(Zones(zones)) as Box<dyn Judge>)
    }
}

impl Judge for Zones {
    fn filter(&self, node: &NodeInfo, _: &Snapshot) -> Option<Rejection> {
        let labels = node.labels();
        // A node without any such label is in no zone, and so everywhere.
        if !ZONES.iter().any(|key| labels.contains_key(*key)) {
            return None;
        }
        let here = |(key, zones): &(&str, String)| {
            labels.get(*key).is_some_and(|zone| zones.split("__").any(|one| one == zone))
        };
        match self.0.iter().all(here) {
            true => None,
            false => Rejection::lasting("node(s) had no available volume zone"),
        }
    }
}
