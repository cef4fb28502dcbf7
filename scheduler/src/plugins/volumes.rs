//! VolumeBinding: a pod runs where its volumes are, or can be made. VolumeRestrictions: a claim
//! that only one pod may have is not given to a second. NodeVolumeLimits: a node has no more volumes
//! of a driver than the driver can bring there. VolumeZone: the labels of volumes say where
//! they are, as node affinity does.

use std::collections::BTreeSet;

use proto::volume::ONE_POD;

use super::{Event, Judge, Plugin, Reason};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};
use crate::storage::{Claims, Lack};

pub struct VolumeBinding;
pub struct VolumeRestrictions;
pub struct NodeVolumeLimits;
pub struct VolumeZone;

/// Claims that can be had somewhere.
struct Wanted<'a> {
    pod: &'a PodInfo,
    snapshot: &'a Snapshot,
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

    fn judge<'a>(&self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Option<Box<dyn Judge + 'a>> {
        pod.object.claims().next()?;
        Some(match snapshot.storage.claims_of(pod) {
            Ok(claims) => Box::new(Wanted { pod, snapshot, claims }),
            Err(why) => Box::new(Nowhere(why.into())),
        })
    }
}

impl Judge for Nowhere {
    fn refuse(&self) -> Option<Reason> {
        Some(self.0.clone())
    }

    fn filter(&self, _: &NodeInfo) -> Vec<Reason> {
        vec![self.0.clone()]
    }
}

impl Judge for Wanted<'_> {
    fn filter(&self, node: &NodeInfo) -> Vec<Reason> {
        let found = self.snapshot.storage.on_node(&self.pod.key, &self.claims, node);
        let Err(lack) = found else { return Vec::new() };
        vec![match lack {
            Lack::Unreachable => "node(s) didn't match PersistentVolume's node affinity".into(),
            Lack::None => "node(s) didn't find available persistent volumes to bind".into(),
            Lack::Space => "node(s) did not have enough free storage".into(),
            Lack::Gone => {
                "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)".into()
            }
        }]
    }
}

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn cures(&self) -> &'static [Event] {
        &[Event::NodeAdded, Event::PodDeleted, Event::Claim]
    }

    fn judge<'a>(&self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Option<Box<dyn Judge + 'a>> {
        let alone = |name: &str| {
            let claim = snapshot.storage.claim(pod.namespace(), name);
            claim.is_some_and(|claim| claim.spec.access_modes.iter().any(|mode| mode == ONE_POD))
        };
        let names: Vec<String> =
            pod.object.claims().map(|used| used.name).filter(|name| alone(name)).collect();
        if names.is_empty() {
            return None;
        }
        let mut others = snapshot.nodes().iter().flat_map(|node| &node.pods);
        let taken = others.any(|other| {
            other.key.namespace == pod.key.namespace
                && other.key != pod.key
                && other.object.claims().any(|used| names.contains(&used.name))
        });
        taken.then(|| Box::new(InUse) as Box<dyn Judge>)
    }
}

struct InUse;

impl Judge for InUse {
    fn filter(&self, _: &NodeInfo) -> Vec<Reason> {
        let why = "node has pod using PersistentVolumeClaim with the same name and \
                   ReadWriteOncePod access mode";
        vec![why.into()]
    }
}

struct Limited<'a> {
    snapshot: &'a Snapshot,
    pod: &'a PodInfo,
    wanted: BTreeSet<(String, String)>,
}

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }

    fn cures(&self) -> &'static [Event] {
        &[Event::NodeAdded, Event::PodDeleted, Event::Claim, Event::Drivers]
    }

    fn judge<'a>(&self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Option<Box<dyn Judge + 'a>> {
        let wanted = snapshot.storage.driven(pod);
        (!wanted.is_empty()).then(|| Box::new(Limited { snapshot, pod, wanted }) as Box<dyn Judge>)
    }
}

impl Judge for Limited<'_> {
    fn filter(&self, node: &NodeInfo) -> Vec<Reason> {
        let storage = &self.snapshot.storage;
        let mut drivers: BTreeSet<&str> =
            self.wanted.iter().map(|(driver, _)| driver.as_str()).collect();
        drivers.retain(|driver| storage.most(&node.name, driver).is_some());
        if drivers.is_empty() {
            return Vec::new();
        }
        let others = node.pods.iter().filter(|other| other.key != self.pod.key);
        let mut all: BTreeSet<(String, String)> =
            others.flat_map(|other| storage.driven(other)).collect();
        all.extend(self.wanted.iter().cloned());
        let exceeded = drivers.into_iter().any(|driver| {
            let count = all.iter().filter(|(of, _)| of == driver).count();
            storage.most(&node.name, driver).is_some_and(|most| count > most)
        });
        match exceeded {
            true => vec!["node(s) exceed max volume count".into()],
            false => Vec::new(),
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

    fn judge<'a>(&self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Option<Box<dyn Judge + 'a>> {
        let storage = &snapshot.storage;
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
    fn filter(&self, node: &NodeInfo) -> Vec<Reason> {
        let labels = node.labels();
        // A node without any such label is in no zone, and so everywhere.
        if !ZONES.iter().any(|key| labels.contains_key(*key)) {
            return Vec::new();
        }
        let here = |(key, zones): &(&str, String)| {
            labels.get(*key).is_some_and(|zone| zones.split("__").any(|one| one == zone))
        };
        match self.0.iter().all(here) {
            true => Vec::new(),
            false => vec!["node(s) had no available volume zone".into()],
        }
    }
}
