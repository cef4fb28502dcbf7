//! The claims, volumes and classes of the cluster, as far as they bear on where a pod may run.
//! Pure, like the snapshot that this is a part of.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use client::{Entry, Key};
use proto::meta::Labels;
use proto::view::csi_driver::CsiDriver;
use proto::view::csi_node::CsiNode;
use proto::view::csi_storage_capacity::CsiStorageCapacity;
use proto::view::persistent_volume::PersistentVolume;
use proto::view::persistent_volume_claim::PersistentVolumeClaim;
use proto::view::pod::ClaimUse;
use proto::view::storage_class::StorageClass;
use proto::volume::{Place, SELECTED_NODE, best, is_claimed_by, reaches};

use crate::snapshot::{NodeInfo, PodInfo};

type Claim = Arc<Entry<PersistentVolumeClaim>>;

#[derive(Debug, Default)]
pub struct Storage {
    claims: HashMap<Key, Claim>,
    volumes: BTreeMap<String, Arc<Entry<PersistentVolume>>>,
    classes: HashMap<String, Arc<Entry<StorageClass>>>,
    /// By node: what drivers it has.
    drivers: HashMap<String, Arc<Entry<CsiNode>>>,
    /// Drivers that say how much they can make.
    frank: BTreeSet<String>,
    capacities: HashMap<Key, Arc<Entry<CsiStorageCapacity>>>,
    /// By pod: volumes that will be its claims', though the API does not say so yet.
    promised: HashMap<Key, BTreeSet<String>>,
}

/// The claims of a pod.
#[derive(Debug, Default)]
pub struct Claims {
    pub bound: Vec<Claim>,
    /// They get their volume where the pod goes.
    pub waiting: Vec<Claim>,
}

/// What is to be written before a pod may go to its node.
#[derive(Clone, Debug)]
pub enum Promise {
    Bind {
        claim: Claim,
        volume: Arc<Entry<PersistentVolume>>,
    },
    Provision {
        claim: Claim,
    },
    /// Others have written it already; it only has to come true.
    Await {
        claim: Claim,
    },
}

/// Why a node cannot give a pod its volumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// A bound volume is not reached from it.
    Unreachable,
    /// There is none to be had.
    None,
    /// There is no room to make it.
    Space,
    /// A claim's volume does not exist.
    Gone,
}

impl Promise {
    pub fn claim(&self) -> &Claim {
        match self {
            Promise::Bind { claim, .. }
            | Promise::Provision { claim }
            | Promise::Await { claim } => claim,
        }
    }
}

impl Storage {
    pub fn put_claim(&mut self, key: Key, claim: Option<Claim>) {
        match claim {
            Some(claim) => drop(self.claims.insert(key, claim)),
            None => drop(self.claims.remove(&key)),
        }
    }

    pub fn put_volume(&mut self, name: &str, volume: Option<Arc<Entry<PersistentVolume>>>) {
        match volume {
            Some(volume) => drop(self.volumes.insert(name.into(), volume)),
            None => drop(self.volumes.remove(name)),
        }
    }

    pub fn put_class(&mut self, name: &str, class: Option<Arc<Entry<StorageClass>>>) {
        match class {
            Some(class) => drop(self.classes.insert(name.into(), class)),
            None => drop(self.classes.remove(name)),
        }
    }

    pub fn put_drivers(&mut self, node: &str, drivers: Option<Arc<Entry<CsiNode>>>) {
        match drivers {
            Some(drivers) => drop(self.drivers.insert(node.into(), drivers)),
            None => drop(self.drivers.remove(node)),
        }
    }

    pub fn put_driver(&mut self, name: &str, driver: Option<Arc<Entry<CsiDriver>>>) {
        match driver.is_some_and(|driver| driver.spec.storage_capacity) {
            true => drop(self.frank.insert(name.into())),
            false => drop(self.frank.remove(name)),
        }
    }

    pub fn put_capacity(&mut self, key: Key, capacity: Option<Arc<Entry<CsiStorageCapacity>>>) {
        match capacity {
            Some(capacity) => drop(self.capacities.insert(key, capacity)),
            None => drop(self.capacities.remove(&key)),
        }
    }

    /// How many volumes of a driver the node can have, where it says.
    pub fn most(&self, node: &str, driver: &str) -> Option<usize> {
        let all = &self.drivers.get(node)?.spec.drivers;
        let driver = all.iter().find(|known| known.name == driver)?;
        usize::try_from(driver.allocatable.as_ref()?.count?).ok()
    }

    /// The volumes that a pod has or will have of drivers: each driver, and what tells the volume
    /// from its others.
    pub fn driven(&self, pod: &PodInfo) -> BTreeSet<(String, String)> {
        let volume = |used: ClaimUse| {
            let claim = self.claim(pod.namespace(), &used.name)?;
            match self.volumes.get(&claim.spec.volume_name) {
                Some(volume) => {
                    let csi = volume.spec.csi.as_ref()?;
                    Some((csi.driver.clone(), csi.volume_handle.clone()))
                }
                None => {
                    let class = self.classes.get(claim.class())?;
                    Some((class.provisioner.clone(), format!("{}/{}", pod.namespace(), used.name)))
                }
            }
        };
        pod.object.claims().filter_map(volume).collect()
    }

    pub fn claim(&self, namespace: &str, name: &str) -> Option<&Claim> {
        self.claims.get(&Key::new(namespace, name))
    }

    pub fn volume(&self, name: &str) -> Option<&Arc<Entry<PersistentVolume>>> {
        self.volumes.get(name)
    }

    /// Keeps the volumes of these promises from other pods.
    pub fn promise(&mut self, pod: &Key, promises: &[Promise]) {
        let volumes = promises.iter().filter_map(|promise| match promise {
            Promise::Bind { volume, .. } => Some(volume.metadata.name.clone()),
            _ => None,
        });
        let volumes: BTreeSet<String> = volumes.collect();
        if !volumes.is_empty() {
            self.promised.insert(pod.clone(), volumes);
        }
    }

    /// The promises to the pod are kept, or will never be.
    pub fn release(&mut self, pod: &Key) {
        self.promised.remove(pod);
    }

    /// The claims of the pod, or why it cannot run anywhere yet.
    pub fn claims_of(&self, pod: &PodInfo) -> Result<Claims, String> {
        let mut claims = Claims::default();
        let mut immediate = false;
        for used in pod.object.claims() {
            let name = &used.name;
            let Some(claim) = self.claim(pod.namespace(), name) else {
                return Err(match used.ephemeral {
                    true => format!(
                        "waiting for ephemeral volume controller to create the \
                         persistentvolumeclaim \"{name}\""
                    ),
                    false => format!("persistentvolumeclaim \"{name}\" not found"),
                });
            };
            if claim.status.phase == "Lost" {
                return Err(format!(
                    "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{}\"",
                    claim.spec.volume_name
                ));
            }
            if claim.is_going() {
                return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
            if used.ephemeral && !claim.is_of(&pod.object) {
                return Err(format!(
                    "PVC {0}/{name} was not created for pod {0}/{1} (pod is not owner)",
                    pod.namespace(),
                    pod.key.name
                ));
            }
            if claim.is_bound() {
                claims.bound.push(claim.clone());
            } else if self.waits(claim) && claim.spec.volume_name.is_empty() {
                claims.waiting.push(claim.clone());
            } else {
                immediate = true;
            }
        }
        match immediate {
            true => Err("pod has unbound immediate PersistentVolumeClaims".into()),
            false => Ok(claims),
        }
    }

    fn waits(&self, claim: &PersistentVolumeClaim) -> bool {
        self.classes.get(claim.class()).is_some_and(|class| class.waits())
    }

    /// What is to be done so that the pod gets its volumes on the node, or why it cannot.
    pub fn on_node(
        &self,
        pod: &Key,
        claims: &Claims,
        node: &NodeInfo,
    ) -> Result<Vec<Promise>, Lack> {
        let (name, labels) = (&*node.name, node.labels());
        for claim in &claims.bound {
            let volume = self.volumes.get(&claim.spec.volume_name).ok_or(Lack::Gone)?;
            if !reaches(volume, name, labels) {
                return Err(Lack::Unreachable);
            }
        }
        let others = self.promised.iter().filter(|(owner, _)| *owner != pod);
        let mut taken: BTreeSet<String> =
            others.flat_map(|(_, volumes)| volumes.iter().cloned()).collect();
        let mut waiting: Vec<&Claim> = claims.waiting.iter().collect();
        // Who needs little must not take what another needs all of.
        waiting.sort_by_key(|claim| claim.size());
        let mut promises = Vec::new();
        for claim in waiting {
            match claim.metadata.annotations.get(SELECTED_NODE) {
                Some(selected) if selected == name => {
                    self.can_make(claim, labels)?;
                    promises.push(Promise::Await { claim: claim.clone() });
                    continue;
                }
                Some(_) => return Err(Lack::None),
                None => {}
            }
            let volumes = self.volumes.values().map(|entry| &entry.view);
            let found = best(claim, volumes, Place::Node(name, labels), &taken);
            if let Some(found) = found.and_then(|found| self.volumes.get(&found.metadata.name)) {
                taken.insert(found.metadata.name.clone());
                let (claim, volume) = (claim.clone(), found.clone());
                promises.push(match is_claimed_by(&volume, &claim) {
                    true => Promise::Await { claim },
                    false => Promise::Bind { claim, volume },
                });
                continue;
            }
            self.can_make(claim, labels)?;
            promises.push(Promise::Provision { claim: claim.clone() });
        }
        Ok(promises)
    }

    /// Whether a volume can be made for the claim and a node with these labels
    /// (<https://kubernetes.io/docs/concepts/storage/storage-capacity/>).
    fn can_make(&self, claim: &Claim, labels: &Labels) -> Result<(), Lack> {
        let name = claim.class();
        let class = self.classes.get(name).ok_or(Lack::None)?;
        let provisioner = class.provisioner.as_str();
        if ["", "kubernetes.io/no-provisioner"].contains(&provisioner) || !class.admits(labels) {
            return Err(Lack::None);
        }
        let size = claim.size();
        let room = !self.frank.contains(provisioner)
            || self.capacities.values().any(|known| known.holds(name, size, labels));
        if room { Ok(()) } else { Err(Lack::Space) }
    }
}
