//! The executor: changes in, decisions through, bindings out. It makes no choices of its own.

mod intake;
mod writer;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use client::{CancellationToken, Client, Clock, Entry, Informers, Key, Rng, lead};
use proto::view::pod::Pod;
use tokio::sync::mpsc;

use crate::config::{self, Config};
use crate::cycle::{DEALLOCATED, DELETED, Decider, Placement, Unschedulable};
use crate::devices::Grant;
use crate::plugins::{Event, Plugin};
use crate::preemption::{Preemption, Victims};
use crate::profile::Profile;
use crate::queue::Queue;
use crate::snapshot::{PodInfo, Snapshot};
use crate::storage::Promise;

use intake::Sources;
use writer::{Done, Nomination, Writer};

/// Decisions between two looks at what has changed.
const BATCH: usize = 64;

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Of several schedulers only the leader decides
    #[arg(long = "leader-elect", default_value_t = true, action = clap::ArgAction::Set,
          num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub leader_elect: bool,
    /// A KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1)
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Options {
        Options { leader_elect: true, config: None }
    }
}

/// Why a scheduler ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot use the configuration")]
    Config(#[source] config::Error),
    #[error("the scheduler may not go on")]
    Lost(#[source] client::lead::Lost),
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
) -> Result<(), Error> {
    let config = options.config.map(|path| Config::load(&path)).transpose();
    let config = config.map_err(Error::Config)?.unwrap_or_default();
    let identity = rng.uuid();
    let work = |until: CancellationToken| {
        Scheduler::new(&config, client.clone(), &informers, clock.clone(), rng.clone()).run(until)
    };
    if !(options.leader_elect && config.leader_elect.unwrap_or(true)) {
        work(shutdown).await;
        return Ok(());
    }
    let (lease, ending) = (config.lease.clone(), shutdown);
    lead(client.clone(), clock.clone(), rng.clone(), lease, identity, ending, work)
        .await
        .map_err(Error::Lost)?;
    Ok(())
}

struct Scheduler {
    snapshot: Snapshot,
    queue: Queue,
    /// By the name that pods ask for.
    deciders: HashMap<String, Decider>,
    sources: Sources,
    writer: Writer,
    done: mpsc::UnboundedReceiver<Done>,
    clock: Clock,
    rng: Rng,
}

impl Scheduler {
    fn new(
        config: &Config,
        client: Client,
        informers: &Informers,
        clock: Clock,
        rng: Rng,
    ) -> Scheduler {
        let client = client.named("kube-scheduler");
        let (sender, done) = mpsc::unbounded_channel();
        let decider = |profile: &Arc<Profile>| {
            (profile.name.clone(), Decider::new(Arc::clone(profile), rng.clone()))
        };
        Scheduler {
            snapshot: Snapshot::default(),
            queue: Queue::new(config.first_backoff, config.longest_backoff),
            deciders: config.profiles.iter().map(decider).collect(),
            sources: Sources::new(informers),
            writer: Writer::new(&config.profiles, client, informers, clock.clone(), &rng, sender),
            done,
            clock,
            rng,
        }
    }

    async fn run(mut self, until: CancellationToken) {
        // Before all nodes and pods are known, decisions would be made on half a cluster.
        for synced in self.sources.synced() {
            tokio::select! {
                () = synced => {}
                () = until.cancelled() => return,
            }
        }
        loop {
            while let Some(news) = self.sources.try_next() {
                self.take(news);
            }
            while let Ok(done) = self.done.try_recv() {
                self.finish(done);
            }
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
                news = self.sources.next() => self.take(news),
                Some(done) = self.done.recv() => self.finish(done),
                () = alarm => {}
                () = until.cancelled() => return,
            }
        }
    }

    /// What a write came to.
    fn finish(&mut self, done: Done) {
        let now = self.clock.now();
        match done {
            Done::NotBound(key) => {
                let Some((_, pod)) = self.snapshot.placement(&key) else { return };
                let pod = Arc::clone(pod);
                if !pod.object.spec.node_name.is_empty() {
                    return;
                }
                self.release(&key);
                let node = pod.object.status.nominated_node_name.clone();
                if !node.is_empty() {
                    self.snapshot.nominations.put(Arc::clone(&pod), &node);
                }
                self.queue.put(pod, now);
                self.queue.back_off(&key, now);
            }
            Done::Allocated(claim) => self.snapshot.devices.written(&claim),
            Done::Preempted { key, plugins } => self.queue.refused(&key, plugins, now),
            Done::NotPreempted(key) => self.queue.retry(&key, now),
        }
    }

    fn release(&mut self, key: &Key) {
        self.snapshot.storage.release(key);
        if self.snapshot.devices.release(key) {
            // No claim changes by it.
            self.queue.happened(Event::DeviceClaim, self.clock.now());
        }
        if let Some((_, pod)) = self.snapshot.placement(key) {
            let pod = Arc::clone(pod);
            self.snapshot.remove_pod(key);
            self.happened_to(&pod, Event::PodDeleted);
        }
    }

    fn happened_to(&mut self, pod: &PodInfo, event: Event) {
        let (cluster, now) = (&self.snapshot, self.clock.now());
        let matters =
            |plugin: &dyn Plugin, waiting: &PodInfo| plugin.heeds(waiting, event, pod, cluster);
        self.queue.happened_where(event, now, matters);
    }

    /// Decides about as many pods as a batch has; whether there was any.
    fn decide(&mut self) -> bool {
        let now = self.clock.now();
        for tried in 0..BATCH {
            let Some(pod) = self.queue.pop(now) else { return tried > 0 };
            let name = profile_of(&pod.object);
            // Pods of other schedulers do not enter the queue.
            let Some(decider) = self.deciders.get_mut(name) else { continue };
            match decider.schedule(&pod, &self.snapshot) {
                Ok(placement) => self.bind(pod, placement),
                Err(refused) => self.refuse(pod, &refused),
            }
        }
        true
    }

    fn bind(&mut self, pod: Arc<PodInfo>, placement: Placement) {
        self.queue.remove(&pod.key);
        let promises = promises(&pod, &self.snapshot, &placement.node);
        self.snapshot.storage.promise(&pod.key, &promises);
        let grants = grants(&pod, &self.snapshot, &placement.node, &self.rng);
        self.snapshot.devices.assume(&pod.key, &grants);
        self.snapshot.place(Arc::clone(&pod), &placement.node);
        self.writer.bind(pod, placement.node, promises, grants);
    }

    fn refuse(&mut self, pod: Arc<PodInfo>, refused: &Unschedulable) {
        if refused.devices_back == Some(DEALLOCATED)
            && let Some(claim) = self.snapshot.devices.misplaced(&pod, &self.snapshot)
        {
            self.writer.deallocate(claim);
        }
        if refused.devices_back == Some(DELETED)
            && let Some(claim) = self.snapshot.devices.stale(&pod)
        {
            self.writer.withdraw(Arc::clone(&pod), claim.clone());
        }
        let plugins = refused.plugins.keys().copied().collect();
        let nomination = match &refused.preemption {
            Some(Preemption::Found(victims)) => {
                let nomination = Nomination::Node(victims.node.clone());
                self.writer.explain(&pod, refused, nomination);
                self.preempt(pod, victims, plugins);
                return;
            }
            Some(Preemption::Useless { .. }) if self.is_nominated(&pod) => {
                self.snapshot.nominations.remove(&pod.key);
                Nomination::Nowhere
            }
            _ => Nomination::AsItIs,
        };
        self.queue.refused(&pod.key, plugins, self.clock.now());
        self.writer.explain(&pod, refused, nomination);
    }

    fn is_nominated(&self, pod: &PodInfo) -> bool {
        self.snapshot.nominations.of(&pod.key).is_some()
            || !pod.object.status.nominated_node_name.is_empty()
    }

    /// Until the victims have been told to go the pod is not tried again: it would look for more.
    fn preempt(&mut self, pod: Arc<PodInfo>, victims: &Victims, plugins: Vec<&'static str>) {
        let nominations = &mut self.snapshot.nominations;
        let lower = nominations.on(&victims.node).iter();
        let lower = lower.filter(|other| other.priority() < pod.priority() && other.key != pod.key);
        // They may no longer fit there, and find another place sooner if they do not wait for it.
        let displaced: Vec<Arc<PodInfo>> = lower.cloned().collect();
        for other in &displaced {
            nominations.remove(&other.key);
            self.queue.retry(&other.key, self.clock.now());
        }
        nominations.put(Arc::clone(&pod), &victims.node);
        self.writer.preempt(pod, victims, displaced, plugins);
    }
}

/// What the pod's volumes still need on the node that was chosen.
fn promises(pod: &PodInfo, snapshot: &Snapshot, node: &str) -> Vec<Promise> {
    if pod.object.claims().next().is_none() {
        return Vec::new();
    }
    let storage = &snapshot.storage;
    let (Ok(claims), Some(node)) = (storage.claims_of(pod), snapshot.node(node)) else {
        return Vec::new();
    };
    storage.on_node(&pod.key, &claims, node).unwrap_or_default()
}

/// What the pod is to be given by claims on the node that was chosen, each share with an id.
fn grants(pod: &PodInfo, snapshot: &Snapshot, node: &str, rng: &Rng) -> Vec<Grant> {
    let devices = &snapshot.devices;
    if !devices.concern(pod) {
        return Vec::new();
    }
    let (Ok(wishes), Some(node)) = (devices.wishes(pod), snapshot.node(node)) else {
        return Vec::new();
    };
    let found = devices.on_node(pod, &wishes, &devices.inventory(), node);
    let mut grants = found.unwrap_or_default();
    let allocations = grants.iter_mut().filter_map(|grant| grant.allocation.as_mut());
    let results = allocations.flat_map(|allocation| &mut allocation.devices.results);
    for share in results.filter_map(|result| result.share_id.as_mut()) {
        *share = rng.uuid();
    }
    grants
}

/// The profile that the pod asks for.
fn profile_of(pod: &Entry<Pod>) -> &str {
    match pod.spec.scheduler_name.as_str() {
        "" => crate::profile::DEFAULT_NAME,
        name => name,
    }
}
