//! The executor: changes in, decisions through, bindings out. It makes no choices of its own.

use std::sync::Arc;

use client::informer::Changes;
use client::{
    CancellationToken, Change, Client, Clock, Entry, Error, Informer, Informers, Key, LeaseName,
    Patch, Recorder, Rng, lead,
};
use proto::kind;
use proto::view::{Condition, ObjectReference};

use proto::view::csi_driver::CsiDriver;
use proto::view::csi_node::CsiNode;
use proto::view::csi_storage_capacity::CsiStorageCapacity;
use proto::view::namespace::Namespace;
use proto::view::node::Node;
use proto::view::persistent_volume::PersistentVolume;
use proto::view::persistent_volume_claim::PersistentVolumeClaim;
use proto::view::pod::Pod;
use proto::view::storage_class::StorageClass;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};

use crate::cycle::{self, Unschedulable};
use crate::explanation;
use crate::plugins::Event;
use crate::prebind;
use crate::queue::Queue;
use crate::snapshot::{PodInfo, Snapshot};
use crate::storage::Promise;

/// Whom pods name that do not choose a scheduler.
pub const NAME: &str = "default-scheduler";

/// Writes under way at once.
const WRITERS: usize = 32;

/// Decisions between two looks at what has changed.
const BATCH: usize = 64;

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Of several schedulers only the leader decides
    #[arg(long = "leader-elect", default_value_t = true, action = clap::ArgAction::Set,
          num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub leader_elect: bool,
}

/// Schedules until `shutdown`; the leader's Lease is given back then. Ends early, with an error,
/// when the Lease is lost.
pub async fn run(
    options: Options,
    client: Client,
    informers: Informers,
    clock: Clock,
    rng: Rng,
    shutdown: CancellationToken,
) -> Result<(), client::lead::Lost> {
    let identity = rng.uuid();
    let work = |until: CancellationToken| {
        Scheduler::new(client.clone(), &informers, clock.clone(), rng.clone()).run(until)
    };
    if !options.leader_elect {
        work(shutdown).await;
        return Ok(());
    }
    let lease = LeaseName::system("kube-scheduler");
    lead(client.clone(), clock.clone(), rng.clone(), lease, identity, shutdown, work).await?;
    Ok(())
}

struct Scheduler {
    snapshot: Snapshot,
    queue: Queue,
    pods: Changes<Pod>,
    nodes: Changes<Node>,
    namespaces: Changes<Namespace>,
    claims: Changes<PersistentVolumeClaim>,
    volumes: Changes<PersistentVolume>,
    classes: Changes<StorageClass>,
    drivers: Changes<CsiNode>,
    driver_settings: Changes<CsiDriver>,
    capacities: Changes<CsiStorageCapacity>,
    writer: Writer,
    failed: mpsc::UnboundedReceiver<Key>,
    clock: Clock,
    rng: Rng,
    synced: Vec<futures::future::BoxFuture<'static, ()>>,
}

/// What a decision needs to be carried out.
#[derive(Clone)]
struct Writer {
    client: Client,
    clock: Clock,
    recorder: Recorder,
    permits: Arc<Semaphore>,
    claims: Informer<PersistentVolumeClaim>,
    /// Pods that could not be bound.
    failed: mpsc::UnboundedSender<Key>,
}

impl Scheduler {
    fn new(client: Client, informers: &Informers, clock: Clock, rng: Rng) -> Scheduler {
        let client = client.named("kube-scheduler");
        let (sender, failed) = mpsc::unbounded_channel();
        let (pods, nodes) = (informers.of::<Pod>(), informers.of::<Node>());
        let namespaces = informers.of::<Namespace>();
        let claims = informers.of::<PersistentVolumeClaim>();
        let (volumes, classes) =
            (informers.of::<PersistentVolume>(), informers.of::<StorageClass>());
        let drivers = informers.of::<CsiNode>();
        let settings = informers.of::<CsiDriver>();
        let capacities = informers.of::<CsiStorageCapacity>();
        Scheduler {
            snapshot: Snapshot::default(),
            queue: Queue::default(),
            pods: pods.changes(),
            nodes: nodes.changes(),
            namespaces: namespaces.changes(),
            claims: claims.changes(),
            volumes: volumes.changes(),
            classes: classes.changes(),
            drivers: drivers.changes(),
            driver_settings: settings.changes(),
            capacities: capacities.changes(),
            writer: Writer {
                recorder: Recorder::new(client.clone(), clock.clone(), rng.clone(), NAME, ""),
                client,
                clock: clock.clone(),
                permits: Arc::new(Semaphore::new(WRITERS)),
                claims: claims.clone(),
                failed: sender,
            },
            failed,
            clock,
            rng,
            synced: vec![
                Box::pin(async move { nodes.synced().await }),
                Box::pin(async move { pods.synced().await }),
                Box::pin(async move { namespaces.synced().await }),
                Box::pin(async move { claims.synced().await }),
                Box::pin(async move { volumes.synced().await }),
                Box::pin(async move { classes.synced().await }),
                Box::pin(async move { drivers.synced().await }),
                Box::pin(async move { settings.synced().await }),
                Box::pin(async move { capacities.synced().await }),
            ],
        }
    }

    async fn run(mut self, until: CancellationToken) {
        // Before all nodes and pods are known, decisions would be made on half a cluster.
        for synced in std::mem::take(&mut self.synced) {
            tokio::select! {
                () = synced => {}
                () = until.cancelled() => return,
            }
        }
        loop {
            self.take_in();
            if self.decide() {
                tokio::task::yield_now().await;
                continue;
            }
            let wake = self.queue.wake_at();
            let alarm = async {
                match wake {
                    Some(time) => self.clock.sleep_until(time).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                change = self.pods.next() => self.pod(change),
                change = self.nodes.next() => self.node(change),
                change = self.namespaces.next() => self.namespace(change),
                change = self.claims.next() => self.claim(change),
                change = self.volumes.next() => self.volume(change),
                change = self.classes.next() => self.class(change),
                change = self.drivers.next() => self.drivers(change),
                change = self.driver_settings.next() => self.driver(change),
                change = self.capacities.next() => self.capacity(change),
                Some(key) = self.failed.recv() => self.could_not_bind(&key),
                () = alarm => {}
                () = until.cancelled() => return,
            }
        }
    }

    /// Everything that has happened by now.
    fn take_in(&mut self) {
        while let Some(change) = self.nodes.try_next() {
            self.node(change);
        }
        while let Some(change) = self.namespaces.try_next() {
            self.namespace(change);
        }
        while let Some(change) = self.classes.try_next() {
            self.class(change);
        }
        while let Some(change) = self.drivers.try_next() {
            self.drivers(change);
        }
        while let Some(change) = self.driver_settings.try_next() {
            self.driver(change);
        }
        while let Some(change) = self.capacities.try_next() {
            self.capacity(change);
        }
        while let Some(change) = self.volumes.try_next() {
            self.volume(change);
        }
        while let Some(change) = self.claims.try_next() {
            self.claim(change);
        }
        while let Some(change) = self.pods.try_next() {
            self.pod(change);
        }
        while let Ok(key) = self.failed.try_recv() {
            self.could_not_bind(&key);
        }
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

    fn namespace(&mut self, change: Change<Namespace>) {
        match change.new {
            Some(new) => {
                let labels = new.metadata.labels.clone();
                self.snapshot.put_namespace(&change.key.name, labels);
            }
            None => self.snapshot.remove_namespace(&change.key.name),
        }
    }

    fn claim(&mut self, change: Change<PersistentVolumeClaim>) {
        self.snapshot.storage.put_claim(change.key, change.new);
        self.queue.happened(Event::Claim, self.clock.now());
    }

    fn volume(&mut self, change: Change<PersistentVolume>) {
        self.snapshot.storage.put_volume(&change.key.name, change.new);
        self.queue.happened(Event::Volume, self.clock.now());
    }

    fn class(&mut self, change: Change<StorageClass>) {
        self.snapshot.storage.put_class(&change.key.name, change.new);
        self.queue.happened(Event::StorageClass, self.clock.now());
    }

    fn drivers(&mut self, change: Change<CsiNode>) {
        self.snapshot.storage.put_drivers(&change.key.name, change.new);
        self.queue.happened(Event::Drivers, self.clock.now());
    }

    fn driver(&mut self, change: Change<CsiDriver>) {
        self.snapshot.storage.put_driver(&change.key.name, change.new);
        self.queue.happened(Event::StorageCapacity, self.clock.now());
    }

    fn capacity(&mut self, change: Change<CsiStorageCapacity>) {
        self.snapshot.storage.put_capacity(change.key, change.new);
        self.queue.happened(Event::StorageCapacity, self.clock.now());
    }

    fn pod(&mut self, change: Change<Pod>) {
        let now = self.clock.now();
        let key = change.key;
        let Some(object) = change.new else {
            self.queue.remove(&key);
            self.release(&key);
            return;
        };
        if object.is_terminal() {
            self.queue.remove(&key);
            self.release(&key);
            return;
        }
        let info = Arc::new(PodInfo::new(key.clone(), object));
        if !info.object.spec.node_name.is_empty() {
            self.queue.remove(&key);
            self.snapshot.storage.release(&key);
            let known = self.snapshot.placement(&key).is_some();
            self.snapshot.place(Arc::clone(&info), &info.object.spec.node_name);
            self.queue.happened(if known { Event::PodLabels } else { Event::PodAdded }, now);
            return;
        }
        let assumed = self.snapshot.placement(&key).map(|(_, pod)| pod.uid() == info.uid());
        match assumed {
            // Our own decision is on its way; this is the state before it.
            Some(true) => return,
            Some(false) => self.release(&key),
            None => {}
        }
        if !wants_node(&info) {
            self.queue.remove(&key);
        } else if self.queue.get(&key).is_some_and(|old| same_wishes(&old.object, &info.object)) {
            self.queue.refresh(info);
        } else {
            self.queue.put(info, now);
        }
    }

    fn release(&mut self, key: &Key) {
        self.snapshot.storage.release(key);
        if self.snapshot.placement(key).is_some() {
            self.snapshot.remove_pod(key);
            self.queue.happened(Event::PodDeleted, self.clock.now());
        }
    }

    fn could_not_bind(&mut self, key: &Key) {
        let Some((_, pod)) = self.snapshot.placement(key) else { return };
        let pod = Arc::clone(pod);
        if !pod.object.spec.node_name.is_empty() {
            return;
        }
        let now = self.clock.now();
        self.release(key);
        self.queue.put(pod, now);
        self.queue.back_off(key, now);
    }

    /// Decides about as many pods as a batch has; whether there was any.
    fn decide(&mut self) -> bool {
        let now = self.clock.now();
        for tried in 0..BATCH {
            let Some(pod) = self.queue.pop(now) else { return tried > 0 };
            match cycle::schedule(&pod, &self.snapshot, &self.rng) {
                Ok(placement) => {
                    self.queue.remove(&pod.key);
                    let promises = promises(&pod, &self.snapshot, &placement.node);
                    self.snapshot.storage.promise(&pod.key, &promises);
                    self.snapshot.place(Arc::clone(&pod), &placement.node);
                    self.writer.bind(pod, placement.node, promises);
                }
                Err(refused) => {
                    let plugins = refused.plugins.keys().copied().collect();
                    self.queue.refused(&pod.key, plugins, now);
                    self.writer.explain(pod, &refused);
                }
            }
        }
        true
    }
}

impl Writer {
    fn bind(&self, pod: Arc<PodInfo>, node: String, promises: Vec<Promise>) {
        let writer = self.clone();
        tokio::spawn(async move {
            if !promises.is_empty() {
                let (client, clock, claims) = (&writer.client, &writer.clock, &writer.claims);
                let kept = prebind::keep(client, clock, claims, &node, &promises).await;
                if let Err(error) = kept {
                    let message = error.to_string();
                    let about = reference(&pod.object);
                    writer.recorder.event(&about, "Warning", "FailedScheduling", message);
                    drop(writer.failed.send(pod.key.clone()));
                    return;
                }
            }
            let _permit = writer.permits.acquire().await;
            let path = format!("{}/binding", kind::POD.path(pod.namespace(), &pod.key.name));
            let binding = json!({
                "apiVersion": "v1",
                "kind": "Binding",
                "metadata": {"name": &*pod.key.name, "namespace": pod.namespace(), "uid": pod.uid()},
                "target": {"apiVersion": "v1", "kind": "Node", "name": node},
            });
            match writer.client.post(&path, &binding).await {
                Ok(_) => {
                    let message = format!("Successfully assigned {} to {node}", pod.key);
                    writer.recorder.event(&reference(&pod.object), "Normal", "Scheduled", message);
                }
                Err(error) => writer.could_not_bind(&pod, &node, &error),
            }
        });
    }

    fn could_not_bind(&self, pod: &PodInfo, node: &str, error: &Error) {
        // A pod that is gone has nothing left to tell about.
        if !error.is_not_found() {
            tracing::warn!(pod = %pod.key, node, %error, "cannot bind");
            let message = format!("binding rejected: {error}");
            self.recorder.event(&reference(&pod.object), "Warning", "FailedScheduling", message);
        }
        // The receiver is gone only when the scheduler is.
        drop(self.failed.send(pod.key.clone()));
    }

    /// Writes the condition, where it says something new, and the event.
    fn explain(&self, pod: Arc<PodInfo>, refused: &Unschedulable) {
        let message = explanation::sentence(refused);
        self.recorder.event(
            &reference(&pod.object),
            "Warning",
            "FailedScheduling",
            message.clone(),
        );
        let known = Condition::find(&pod.object.status.conditions, "PodScheduled")
            .is_some_and(|condition| condition.status == "False" && condition.message == message);
        if known {
            return;
        }
        let writer = self.clone();
        tokio::spawn(async move {
            let _permit = writer.permits.acquire().await;
            let now = writer.clock.now().to_string();
            let condition = json!({
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": message,
                "lastProbeTime": null,
                "lastTransitionTime": now,
                "observedGeneration": pod.object.metadata.generation,
            });
            let patch = Patch::Strategic(json!({
                "metadata": {"uid": pod.uid()},
                "status": {"conditions": [condition]},
            }));
            let (namespace, name) = (pod.namespace(), &*pod.key.name);
            let written = writer.client.patch::<Pod>(namespace, name, "status", &patch).await;
            if let Err(error) = written
                && !error.is_not_found()
            {
                tracing::warn!(pod = %pod.key, %error, "cannot write the PodScheduled condition");
            }
        });
    }
}

/// What the pod's volumes still need on the node that was chosen.
fn promises(pod: &PodInfo, snapshot: &Snapshot, node: &str) -> Vec<Promise> {
    let storage = &snapshot.storage;
    let (Ok(claims), Some(node)) = (storage.claims_of(pod), snapshot.node(node)) else {
        return Vec::new();
    };
    storage.on_node(&pod.key, &claims, node).unwrap_or_default()
}

/// Ours, not gated, and not on its way out.
fn wants_node(pod: &PodInfo) -> bool {
    let spec = &pod.object.spec;
    (spec.scheduler_name.is_empty() || spec.scheduler_name == NAME)
        && spec.scheduling_gates.is_empty()
        && !pod.object.is_terminating()
}

/// Whether nothing has changed that bears on placement.
fn same_wishes(old: &Entry<Pod>, new: &Entry<Pod>) -> bool {
    old.metadata.uid == new.metadata.uid
        && old.metadata.generation == new.metadata.generation
        && old.metadata.labels == new.metadata.labels
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

fn reference(pod: &Entry<Pod>) -> ObjectReference {
    ObjectReference::of(&kind::POD, &pod.metadata)
}
