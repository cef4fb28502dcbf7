//! DynamicResources: a pod with ResourceClaims, or with extended resources for which a class of devices
//! stands, runs where its devices are, or can be had.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use proto::view::resource_claim::ResourceClaim;

use super::{Event, Judge, Plugin, Reason, Reasons, Rejection, proportional};
use crate::devices::{Claim, Grant, Inventory, Lack, Wishes};
use crate::profile::Args;
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

pub struct DynamicResources;

/// A request has no more alternatives.
const MOST_ALTERNATIVES: i64 = 8;

/// Devices that can be had somewhere.
struct Wanted {
    pod: Arc<PodInfo>,
    wishes: Wishes,
    inventory: Inventory,
    /// Whether it matters which devices they get.
    choosy: bool,
    /// By node, for its score.
    found: RefCell<HashMap<Arc<str>, i64>>,
}

/// No node can take the pod.
struct Nowhere(Reason);

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        "DynamicResources"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn cures(&self) -> &'static [Event] {
        &[
            Event::NodeAdded,
            Event::NodeAllocatable,
            Event::NodeLabels,
            Event::DeviceClaim,
            Event::DeviceClass,
            Event::ResourceSlice,
        ]
    }

    fn judge(&self, pod: &Arc<PodInfo>, cluster: &Snapshot, _: &Args) -> Option<Box<dyn Judge>> {
        let devices = &cluster.devices;
        if !devices.concern(pod) {
            return None;
        }
        let wishes = match devices.wishes(pod) {
            Ok(wishes) => wishes,
            Err(why) => return Some(Box::new(Nowhere(why.into()))),
        };
        let waits = |claim: &Claim| claim.status.allocation.is_none();
        let inventory = match !wishes.backed.is_empty() || wishes.claims.iter().any(waits) {
            true => devices.inventory(),
            false => Inventory::default(),
        };
        let waiting = wishes.claims.iter().filter(|claim| waits(claim));
        let mut requests = waiting.flat_map(|claim| &claim.spec.devices.requests);
        let choosy = requests.any(|request| !request.first_available.is_empty());
        let (pod, found) = (Arc::clone(pod), RefCell::default());
        Some(Box::new(Wanted { pod, wishes, inventory, choosy, found }))
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
        let found = cluster.devices.on_node(&self.pod, &self.wishes, &self.inventory, node);
        match found {
            Ok(grants) => {
                if self.choosy {
                    let score = grants.iter().map(preference).sum();
                    self.found.borrow_mut().insert(node.name.clone(), score);
                }
                None
            }
            Err(Lack::Elsewhere) => Rejection::lasting("resourceclaim not available on the node"),
            Err(Lack::None) => Rejection::lasting("cannot allocate all claims"),
            Err(Lack::Stale) => Rejection::lasting("cannot schedule extended resource claim"),
            Err(Lack::Wrong(why)) => {
                Some(Rejection { reasons: Reasons::Many(vec![why.into()]), curable: false })
            }
        }
    }

    fn score(&self, node: &NodeInfo, _: &Snapshot) -> Option<i64> {
        self.choosy.then(|| self.found.borrow().get(&node.name).copied().unwrap_or(0))
    }

    fn is_relative(&self) -> bool {
        true
    }

    fn normalize(&self, scores: &mut [i64]) {
        proportional(scores, false);
    }
}

/// The more, the earlier the alternatives that a claim was given.
fn preference(grant: &Grant) -> i64 {
    let Some(allocation) = &grant.allocation else { return 0 };
    let claim: &ResourceClaim = &grant.claim;
    let results = &allocation.devices.results;
    let alternatives = claim.spec.devices.requests.iter().flat_map(|request| {
        let all = (0..).zip(&request.first_available);
        all.map(|(at, one)| (at, format!("{}/{}", request.name, one.name)))
    });
    let given = alternatives.filter(|(_, name)| results.iter().any(|it| it.request == *name));
    given.map(|(at, _)| MOST_ALTERNATIVES - at).sum()
}
