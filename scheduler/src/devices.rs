//! The devices of the cluster and the claims on them (dynamic resource allocation), as far as they bear
//! on where a pod may run. Pure, like the snapshot that this is a part of.
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/>

mod allocate;
mod capacity;
mod extended;
mod inventory;
mod outcome;
mod selector;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use client::{Entry, Key};
use proto::view::Condition;
use proto::view::device::ResourceSlice;
use proto::view::pod::RequestMapping;
use proto::view::resource_claim::{Allocation, DeviceClass, ResourceClaim};

use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

use extended::slot;
pub use extended::{Backed, Stock, object};
pub use inventory::Inventory;
use selector::Selectors;

pub type Claim = Arc<Entry<ResourceClaim>>;

/// Of one claim.
const MOST_CONSUMERS: usize = 256;

#[derive(Debug, Default)]
pub struct Devices {
    claims: HashMap<Key, Claim>,
    classes: HashMap<String, Arc<Entry<DeviceClass>>>,
    slices: BTreeMap<String, Arc<Entry<ResourceSlice>>>,
    /// By [`slot`]: what a claim will have, though the API does not say so yet.
    assumed: BTreeMap<Key, Assumed>,
    selectors: Selectors,
}

#[derive(Debug)]
struct Assumed {
    pod: Key,
    /// Of the claim; empty until it is made.
    uid: String,
    /// The claim is made for the pod, and has no use without it.
    made: bool,
    allocation: Allocation,
    /// The revision at which the API says so; none yet.
    written: Option<u64>,
}

/// What is to be written of a claim before its pod may go to its node.
#[derive(Clone, Debug)]
pub struct Grant {
    pub claim: Claim,
    /// None: it has one, which is to be reserved or waited for.
    pub allocation: Option<Allocation>,
    /// Of a claim that is still to be made for the pod's extended resources: what answers what.
    pub answers: Vec<RequestMapping>,
}

/// What a pod wants of the cluster's devices.
#[derive(Debug, Default)]
pub struct Wishes {
    pub claims: Vec<Claim>,
    /// Its extended resources, which it need not get as devices.
    pub backed: Backed,
    /// It has a claim that is of no use any more.
    pub stale: bool,
}

/// Why a node cannot give a pod its devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// A claim's devices are elsewhere.
    Elsewhere,
    /// There are not enough.
    None,
    /// What was claimed for the pod when it was to go somewhere has to go first.
    Stale,
    /// Something is wrong with a claim, a class or a pool.
    Wrong(String),
}

impl Devices {
    pub fn put_claim(&mut self, key: Key, claim: Option<Claim>) {
        let old = match &claim {
            Some(claim) => self.claims.insert(key, claim.clone()),
            None => self.claims.remove(&key),
        };
        let Some(known) = claim.as_ref().or(old.as_ref()) else { return };
        let (slot, meta) = (slot(known), &known.metadata);
        let caught_up = self.assumed.get(&slot).is_some_and(|assumed| match &claim {
            // Of a claim that was made before it says nothing of the one that is to be made.
            _ if assumed.made && meta.uid != assumed.uid => false,
            None => true,
            Some(claim) => {
                let written = assumed.written.is_some_and(|at| meta.revision() >= at);
                meta.uid != assumed.uid || claim.status.allocation.is_some() || written
            }
        });
        if caught_up {
            self.assumed.remove(&slot);
        }
    }

    pub fn put_class(&mut self, name: &str, class: Option<Arc<Entry<DeviceClass>>>) {
        match class {
            Some(class) => drop(self.classes.insert(name.into(), class)),
            None => drop(self.classes.remove(name)),
        }
    }

    pub fn put_slice(&mut self, name: &str, slice: Option<Arc<Entry<ResourceSlice>>>) {
        match slice {
            Some(slice) => drop(self.slices.insert(name.into(), slice)),
            None => drop(self.slices.remove(name)),
        }
    }

    /// Keeps the devices of these grants from other pods.
    pub fn assume(&mut self, pod: &Key, grants: &[Grant]) {
        for grant in grants {
            let Some(allocation) = grant.allocation.clone() else { continue };
            let uid = grant.claim.metadata.uid.clone();
            let (pod, made) = (pod.clone(), grant.is_new());
            let assumed = Assumed { pod, uid, made, allocation, written: None };
            self.assumed.insert(slot(&grant.claim), assumed);
        }
    }

    /// The claim's allocation was written; this is what the API says of it since.
    pub fn written(&mut self, claim: &ResourceClaim) {
        let (meta, slot) = (&claim.metadata, slot(claim));
        let revision = meta.revision();
        let known = self.claims.get(&Key::of(meta));
        if known.is_some_and(|it| it.metadata.revision() >= revision) {
            self.assumed.remove(&slot);
        } else if let Some(assumed) = self.assumed.get_mut(&slot) {
            (assumed.uid, assumed.written) = (meta.uid.clone(), Some(revision));
        }
    }

    /// What the pod was to have and has not been written will not be. Whether there was anything.
    pub fn release(&mut self, pod: &Key) -> bool {
        let before = self.assumed.len();
        self.assumed
            .retain(|_, assumed| assumed.pod != *pod || assumed.written.is_some() && !assumed.made);
        self.assumed.len() < before
    }

    /// Whether the pod may need any devices.
    pub fn concern(&self, pod: &PodInfo) -> bool {
        !pod.object.spec.resource_claims.is_empty() || !self.backed(pod).is_empty()
    }

    /// What the pod wants, or why it cannot run anywhere yet.
    pub fn wishes(&self, pod: &PodInfo) -> Result<Wishes, String> {
        let (mut claims, mut backed) = (self.claims_of(pod)?, self.backed(pod));
        let mut made = self.stale(pod).filter(|_| !backed.is_empty());
        // Where a pod is already, what was claimed for it is what it has.
        if !pod.object.spec.node_name.is_empty()
            && let Some(made) = made.take()
        {
            claims.push(made.clone());
            backed.clear();
        }
        Ok(Wishes { claims, backed, stale: made.is_some() })
    }

    /// The claims of the pod that it names, or why it cannot run anywhere yet.
    pub fn claims_of(&self, pod: &PodInfo) -> Result<Vec<Claim>, String> {
        let namespace = pod.namespace();
        let Some(named) = pod.object.resource_claims() else {
            let name = &pod.key.name;
            return Err(format!("pod \"{namespace}/{name}\": ResourceClaim not created yet"));
        };
        let mut claims: Vec<Claim> = Vec::new();
        for used in named {
            let key = Key::new(namespace, &used.name);
            let Some(claim) = self.claims.get(&key) else {
                return Err(format!("could not find ResourceClaim \"{key}\""));
            };
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(format!("resourceclaim {:?} is being deleted", used.name));
            }
            if used.made && !claim.is_of(&pod.object) {
                return Err(format!(
                    "ResourceClaim {key} was not created for pod {namespace}/{} (pod is not owner)",
                    pod.key.name
                ));
            }
            self.check(&key, claim, pod)?;
            // Two of the pod's claims may be the same.
            if !claims.iter().any(|known| known.metadata.uid == claim.metadata.uid) {
                claims.push(claim.clone());
            }
        }
        Ok(claims)
    }

    fn check(&self, key: &Key, claim: &Claim, pod: &PodInfo) -> Result<(), String> {
        let status = &claim.status;
        if status.allocation.is_some() {
            let full = status.reserved_for.len() >= MOST_CONSUMERS;
            return match full && !claim.is_reserved_for(&pod.object) {
                true => Err("resourceclaim in use".into()),
                false => Ok(()),
            };
        }
        if self.assumed.contains_key(key) {
            return Err(format!("resource claim {key} is in the process of being allocated"));
        }
        let class = |request: &str, class: &str| match self.classes.contains_key(class) {
            true => Ok(()),
            false => Err(format!("request {request}: device class {class} does not exist")),
        };
        for request in &claim.spec.devices.requests {
            if let Some(exactly) = &request.exactly {
                class(&request.name, &exactly.device_class_name)?;
            }
            for one in &request.first_available {
                class(&format!("{}/{}", request.name, one.name), &one.device_class_name)?;
            }
        }
        Ok(())
    }

    /// What there is and who has it, for the decisions on one pod.
    pub fn inventory(&self) -> Inventory {
        let held = self.claims.values().filter_map(|claim| claim.status.allocation.as_ref());
        let assumed = self.assumed.values().map(|assumed| &assumed.allocation);
        Inventory::new(&self.slices, held.chain(assumed))
    }

    /// What is to be done so that the pod has its devices on the node, or why it cannot.
    pub fn on_node(
        &self,
        pod: &PodInfo,
        wishes: &Wishes,
        inventory: &Inventory,
        node: &NodeInfo,
    ) -> Result<Vec<Grant>, Lack> {
        if wishes.stale {
            return Err(Lack::Stale);
        }
        let claims = &wishes.claims;
        if claims.iter().any(|claim| !is_usable(claim, node)) {
            return Err(Lack::Elsewhere);
        }
        let (had, wanted): (Vec<&Claim>, Vec<&Claim>) =
            claims.iter().partition(|claim| claim.status.allocation.is_some());
        let grant = |claim: &Claim| Grant::of(claim, None);
        let mut grants: Vec<Grant> = wanted.into_iter().map(grant).collect();
        grants.extend(extended::made(pod, &wishes.backed, node));
        if !grants.is_empty() {
            let views: Vec<&ResourceClaim> = grants.iter().map(|it| &it.claim.view).collect();
            let place = inventory::Place { name: &node.name, labels: node.labels() };
            let found = allocate::search(self, inventory, &place, &views).map_err(Lack::Wrong)?;
            let found = found.ok_or(Lack::None)?;
            for (grant, picks) in grants.iter_mut().zip(found) {
                let made = outcome::allocation(self, inventory, &grant.claim, &picks, &node.name);
                grant.allocation = Some(made);
            }
        }
        let reserve = had.into_iter().filter(|claim| {
            !claim.is_reserved_for(&pod.object) || readiness(claim) != Readiness::Ready
        });
        grants.extend(reserve.map(grant));
        Ok(grants)
    }

    /// A claim of the pod that has devices where the pod cannot use them, while nobody else does.
    pub fn misplaced(&self, pod: &PodInfo, cluster: &Snapshot) -> Option<Claim> {
        let claims = self.claims_of(pod).ok()?;
        let mut free = claims.into_iter().filter(|claim| {
            let mut others = claim.status.reserved_for.iter();
            !others.any(|consumer| consumer.uid != pod.uid())
        });
        free.find(|claim| {
            claim.status.allocation.is_some()
                && cluster.nodes().iter().any(|node| !is_usable(claim, node))
        })
    }
}

impl Grant {
    pub fn of(claim: &Claim, allocation: Option<Allocation>) -> Grant {
        Grant { claim: claim.clone(), allocation, answers: Vec::new() }
    }

    /// Whether the claim is still to be made.
    pub fn is_new(&self) -> bool {
        !self.answers.is_empty()
    }
}

/// Whether the claim may yet get its devices, or has them within the node's reach and ready.
fn is_usable(claim: &ResourceClaim, node: &NodeInfo) -> bool {
    let Some(allocation) = &claim.status.allocation else { return true };
    let selector = allocation.node_selector.as_ref();
    selector.is_none_or(|selector| selector.admits(&node.name, node.labels()))
        && readiness(claim) != Readiness::Failed
}

/// Whether the drivers of a claim's devices say that its pod may be bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    Ready,
    Waiting,
    Failed,
}

/// What the conditions of the claim's devices come to
/// (<https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/#device-binding-conditions>).
pub fn readiness(claim: &ResourceClaim) -> Readiness {
    let results = claim.status.allocation.iter().flat_map(|it| &it.devices.results);
    let mut readiness = Readiness::Ready;
    for result in results.filter(|result| !result.binding_conditions.is_empty()) {
        let mut statuses = claim.status.devices.iter();
        let status = statuses.find(|status| {
            (&status.driver, &status.pool, &status.device, &status.share_id)
                == (&result.driver, &result.pool, &result.device, &result.share_id)
        });
        let holds = |kind: &String| {
            status.is_some_and(|status| Condition::is_true(&status.conditions, kind))
        };
        if result.binding_failure_conditions.iter().any(holds) {
            return Readiness::Failed;
        }
        if !result.binding_conditions.iter().all(holds) {
            readiness = Readiness::Waiting;
        }
    }
    readiness
}

#[cfg(test)]
mod tests;
