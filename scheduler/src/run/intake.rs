//! What happens in the cluster, on its way into the snapshot and the queue.

use std::sync::Arc;

use client::informer::Changes;
use client::{Change, Entry, Informer, Informers, Key, Object};
use futures::future::BoxFuture;
use proto::view::csi_driver::CsiDriver;
use proto::view::csi_node::CsiNode;
use proto::view::csi_storage_capacity::CsiStorageCapacity;
use proto::view::device::ResourceSlice;
use proto::view::namespace::Namespace;
use proto::view::node::Node;
use proto::view::persistent_volume::PersistentVolume;
use proto::view::persistent_volume_claim::PersistentVolumeClaim;
use proto::view::pod::Pod;
use proto::view::pod_disruption_budget::PodDisruptionBudget;
use proto::view::replica_set::ReplicaSet;
use proto::view::replication_controller::ReplicationController;
use proto::view::resource_claim::{DeviceClass, ResourceClaim};
use proto::view::service::Service;
use proto::view::stateful_set::StatefulSet;
use proto::view::storage_class::StorageClass;

use super::Scheduler;
use crate::plugins::Event;
use crate::profile::profile_of;
use crate::snapshot::{Kind, PodInfo};

/// Declares the kinds that are followed, in the order in which news of them is taken: pods come
/// last, so that what they depend on is there.
macro_rules! sources {
    ($($field:ident: $variant:ident($view:ty),)*) => {
        pub struct Sources {
            $($field: Changes<$view>,)*
            synced: Vec<BoxFuture<'static, ()>>,
        }

        pub enum News {
            $($variant(Change<$view>),)*
        }

        impl Sources {
            pub fn new(informers: &Informers) -> Sources {
                let mut synced = Vec::new();
                Sources { $($field: follow(informers.of::<$view>(), &mut synced),)* synced }
            }

            pub async fn next(&mut self) -> News {
                tokio::select! {
                    $(change = self.$field.next() => News::$variant(change),)*
                }
            }

            /// What has happened by now.
            pub fn try_next(&mut self) -> Option<News> {
                $(if let Some(change) = self.$field.try_next() {
                    return Some(News::$variant(change));
                })*
                None
            }
        }
    };
}

sources! {
    nodes: Node(Node),
    namespaces: Namespace(Namespace),
    classes: Class(StorageClass),
    drivers: Drivers(CsiNode),
    driver_settings: Driver(CsiDriver),
    capacities: Capacity(CsiStorageCapacity),
    volumes: Volume(PersistentVolume),
    claims: Claim(PersistentVolumeClaim),
    device_classes: DeviceClass(DeviceClass),
    slices: Slice(ResourceSlice),
    device_claims: DeviceClaim(ResourceClaim),
    services: Service(Service),
    replica_sets: ReplicaSet(ReplicaSet),
    stateful_sets: StatefulSet(StatefulSet),
    replication_controllers: ReplicationController(ReplicationController),
    budgets: Budget(PodDisruptionBudget),
    pods: Pod(Pod),
}

impl Sources {
    /// Each ends once all there was of a kind is known.
    pub fn synced(&mut self) -> Vec<BoxFuture<'static, ()>> {
        std::mem::take(&mut self.synced)
    }
}

fn follow<T: Object>(
    informer: Informer<T>,
    synced: &mut Vec<BoxFuture<'static, ()>>,
) -> Changes<T> {
    let changes = informer.changes();
    synced.push(Box::pin(async move { informer.synced().await }));
    changes
}

impl Scheduler {
    pub fn take(&mut self, news: News) {
        let now = self.clock.now();
        match news {
            News::Node(change) => self.node(change),
            News::Namespace(Change { key, new, .. }) => match new {
                Some(new) => self.snapshot.put_namespace(&key.name, new.metadata.labels.clone()),
                None => self.snapshot.remove_namespace(&key.name),
            },
            News::Class(Change { key, new, .. }) => {
                self.snapshot.storage.put_class(&key.name, new);
                self.queue.happened(Event::StorageClass, now);
            }
            News::Drivers(Change { key, new, .. }) => {
                self.snapshot.storage.put_drivers(&key.name, new);
                self.queue.happened(Event::Drivers, now);
            }
            News::Driver(Change { key, new, .. }) => {
                self.snapshot.storage.put_driver(&key.name, new);
                self.queue.happened(Event::StorageCapacity, now);
            }
            News::Capacity(Change { key, new, .. }) => {
                self.snapshot.storage.put_capacity(key, new);
                self.queue.happened(Event::StorageCapacity, now);
            }
            News::Volume(Change { key, new, .. }) => {
                self.snapshot.storage.put_volume(&key.name, new);
                self.queue.happened(Event::Volume, now);
            }
            News::Claim(Change { key, new, .. }) => {
                self.snapshot.storage.put_claim(key, new);
                self.queue.happened(Event::Claim, now);
            }
            News::DeviceClass(Change { key, new, .. }) => {
                self.snapshot.devices.put_class(&key.name, new);
                self.queue.happened(Event::DeviceClass, now);
            }
            News::Slice(Change { key, new, .. }) => {
                self.snapshot.devices.put_slice(&key.name, new);
                self.queue.happened(Event::ResourceSlice, now);
            }
            News::DeviceClaim(Change { key, new, .. }) => {
                self.snapshot.devices.put_claim(key, new);
                self.queue.happened(Event::DeviceClaim, now);
            }
            News::Service(Change { key, new, .. }) => {
                self.snapshot.put_service(&key, new.as_ref().map(|new| &new.spec.selector));
            }
            News::ReplicaSet(change) => self.controller(Kind::ReplicaSet, &change),
            News::StatefulSet(change) => self.controller(Kind::StatefulSet, &change),
            News::ReplicationController(change) => {
                self.controller(Kind::ReplicationController, &change);
            }
            News::Budget(Change { key, new, .. }) => {
                self.snapshot.budgets.put(&key, new.as_ref());
            }
            News::Pod(change) => self.pod(change),
        }
    }

    fn controller<T: Object>(&mut self, kind: Kind, change: &Change<T>) {
        let object = change.new.as_ref().map(|new| &*new.bytes);
        self.snapshot.put_controller(kind, &change.key, object);
    }

    fn node(&mut self, change: Change<Node>) {
        let now = self.clock.now();
        match (&change.old, &change.new) {
            (None, Some(new)) => {
                self.snapshot.put_node(Arc::clone(new));
                self.queue.happened(Event::NodeAdded, now);
            }
            (Some(old), Some(new)) => {
                self.snapshot.put_node(Arc::clone(new));
                for event in node_events(old, new) {
                    self.queue.happened(event, now);
                }
            }
            (_, None) => self.snapshot.remove_node(&change.key.name),
        }
    }

    fn pod(&mut self, change: Change<Pod>) {
        let now = self.clock.now();
        let Change { key, old, new } = change;
        let Some(object) = new.filter(|new| !new.is_terminal()) else {
            self.forget(&key);
            return;
        };
        let info = Arc::new(PodInfo::new(key.clone(), object));
        if !info.object.spec.node_name.is_empty() {
            self.queue.remove(&key);
            self.snapshot.storage.release(&key);
            let known = self.snapshot.placement(&key).is_some();
            let changed = old.is_none_or(|old| old.metadata.labels != *info.labels());
            self.snapshot.place(Arc::clone(&info), &info.object.spec.node_name);
            if !known {
                self.happened_to(&info, Event::PodAdded);
            } else if changed {
                self.happened_to(&info, Event::PodLabels);
            }
            return;
        }
        let assumed = self.snapshot.placement(&key).map(|(_, pod)| pod.uid() == info.uid());
        match assumed {
            // Our own decision is on its way; this is the state before it.
            Some(true) => return,
            Some(false) => self.release(&key),
            None => {}
        }
        if !self.is_ours(&info) {
            self.forget(&key);
            return;
        }
        if let Some(plugin) = gate(&info) {
            self.queue.gate(&info, plugin);
            self.give_back(&key);
            return;
        }
        self.nominate(&info, old.as_deref());
        if self.queue.get(&key).is_some_and(|old| same_wishes(&old.object, &info.object)) {
            self.queue.refresh(info);
        } else {
            self.queue.put(info, now);
        }
    }

    /// The pod asks for nothing any more.
    fn forget(&mut self, key: &Key) {
        self.queue.remove(key);
        self.give_back(key);
    }

    /// What was kept for the pod is free again.
    fn give_back(&mut self, key: &Key) {
        if self.snapshot.nominations.of(key).is_some() {
            self.snapshot.nominations.remove(key);
            self.queue.happened(Event::PodDeleted, self.clock.now());
        }
        self.release(key);
    }

    /// Keeps the pod's nomination as the API has it. Our own may not have got there yet: only one
    /// that was there and is gone has been taken back.
    fn nominate(&mut self, pod: &Arc<PodInfo>, old: Option<&Entry<Pod>>) {
        let nominations = &mut self.snapshot.nominations;
        let told = pod.object.status.nominated_node_name.as_str();
        let before = old.map_or("", |old| old.status.nominated_node_name.as_str());
        let node = match (told, before) {
            ("", "") => nominations.of(&pod.key).cloned(),
            ("", _) => None,
            // Nothing new: what we have decided since counts.
            (told, before) if told == before => {
                Some(nominations.of(&pod.key).cloned().unwrap_or_else(|| told.into()))
            }
            (told, _) => Some(told.into()),
        };
        match node {
            Some(node) => nominations.put(Arc::clone(pod), &node),
            None => nominations.remove(&pod.key),
        }
    }

    /// And not on its way out.
    fn is_ours(&self, pod: &PodInfo) -> bool {
        self.deciders.contains_key(profile_of(&pod.object)) && !pod.object.is_terminating()
    }
}

/// The plugin for whose sake the pod is not tried yet: somebody holds it, or not all claims are made
/// that are made for it.
fn gate(pod: &PodInfo) -> Option<&'static str> {
    match () {
        () if !pod.object.spec.scheduling_gates.is_empty() => Some("SchedulingGates"),
        () if pod.object.resource_claims().is_none() => Some("DynamicResources"),
        () => None,
    }
}

/// Whether nothing has changed that bears on placement.
fn same_wishes(old: &Entry<Pod>, new: &Entry<Pod>) -> bool {
    old.metadata.uid == new.metadata.uid
        && old.metadata.generation == new.metadata.generation
        && old.metadata.labels == new.metadata.labels
        && old.status.resource_claim_statuses == new.status.resource_claim_statuses
}

fn node_events(old: &Entry<Node>, new: &Entry<Node>) -> Vec<Event> {
    let taints =
        old.spec.taints != new.spec.taints || old.spec.unschedulable != new.spec.unschedulable;
    let differences = [
        (old.status.allocatable != new.status.allocatable, Event::NodeAllocatable),
        (old.metadata.labels != new.metadata.labels, Event::NodeLabels),
        (taints, Event::NodeTaints),
    ];
    differences.into_iter().filter(|(differs, _)| *differs).map(|(_, event)| event).collect()
}
