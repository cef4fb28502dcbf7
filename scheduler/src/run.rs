//! The executor: changes in, decisions through, bindings out. It makes no choices of its own.

mod intake;
mod pages;
mod writer;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use client::{CancellationToken, Candidate, Client, Clock, Informers, Key, Rng, endpoint, lead};
use proto::exposition::Histogram;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::config::{self, Config};
use crate::cycle::{DEALLOCATED, DELETED, Decider, Placement, Unschedulable};
use crate::devices::Grant;
use crate::metrics::{self, Metrics, UNSCHEDULABLE};
use crate::plugins::{Event, Plugin};
use crate::preemption::{Preemption, Victims};
use crate::profile::{Profile, profile_of};
use crate::queue::Queue;
use crate::snapshot::{PodInfo, Snapshot};
use crate::storage::Promise;

use intake::Sources;
use writer::{Attempt, Done, Nomination, Writer};

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
    /// The port on which metrics and health are served over HTTPS; 0: nowhere
    #[arg(long, value_name = "PORT", default_value_t = 10259)]
    pub secure_port: u16,
    #[command(flatten)]
    pub endpoint: endpoint::Flags,
}

/// The command line's defaults, but for the endpoint: who runs a scheduler in a process of others
/// says whether there is one.
impl Default for Options {
    fn default() -> Options {
        let endpoint = endpoint::Flags::default();
        Options { leader_elect: true, config: None, secure_port: 0, endpoint }
    }
}

impl Options {
    /// The configuration, by the file that is named.
    pub fn configuration(&self) -> Result<Config, Error> {
        let config = self.config.as_deref().map(Config::load).transpose();
        Ok(config.map_err(Error::Config)?.unwrap_or_default())
    }
}

/// Why a scheduler ended early.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot use the configuration")]
    Config(#[source] config::Error),
    #[error("cannot serve metrics and health")]
    Endpoint(#[source] endpoint::Error),
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
    let config = options.configuration()?;
    let candidate = Candidate::new(config.lease.clone(), rng.uuid());
    let elects = options.leader_elect && config.leader_elect.unwrap_or(true);
    let standing = elects.then(|| (config.lease.name.clone(), candidate.standing.clone()));
    let metrics = Arc::new(Metrics::default());
    // A follower waits for nothing but its turn.
    let follows = Arc::new(AtomicBool::new(elects));
    let pages = pages::of(&metrics, standing, &follows, &informers, &clock, &shutdown);
    let (port, flags) = (options.secure_port, &options.endpoint);
    let endpoint = endpoint::open(port, flags, &client, &clock, pages).await;
    let _endpoint = endpoint.map_err(Error::Endpoint)?;
    let work = |until: CancellationToken| {
        let (client, clock, rng) = (client.clone(), clock.clone(), rng.clone());
        let scheduler = Scheduler::new(&config, client, &informers, clock, rng, metrics.clone());
        scheduler.run(until, follows.clone())
    };
    if !elects {
        work(shutdown).await;
        return Ok(());
    }
    lead(client.clone(), clock.clone(), rng.clone(), candidate, shutdown, work)
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
    metrics: Arc<Metrics>,
    /// Seconds that decisions of this turn took.
    decisions: Histogram,
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
        metrics: Arc<Metrics>,
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
            writer: Writer::new(
                &config.profiles,
                client,
                informers,
                (clock.clone(), &rng),
                sender,
                metrics.clone(),
            ),
            done,
            metrics,
            decisions: metrics::algorithm(),
            clock,
            rng,
        }
    }

    /// `follows` becomes true once all that there is is known.
    async fn run(mut self, until: CancellationToken, follows: Arc<AtomicBool>) {
        follows.store(false, Relaxed);
        // Before all nodes and pods are known, decisions would be made on half a cluster.
        for synced in self.sources.synced() {
            tokio::select! {
                () = synced => {}
                () = until.cancelled() => return,
            }
        }
        follows.store(true, Relaxed);
        loop {
            while let Some(news) = self.sources.try_next() {
                self.take(news);
            }
            while let Ok(done) = self.done.try_recv() {
                self.finish(done);
            }
            let busy = self.decide();
            self.tell();
            if busy {
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

    /// Makes known how things are.
    fn tell(&mut self) {
        let (queue, snapshot) = (&self.queue, &self.snapshot);
        self.metrics.turn(&mut self.decisions, |state| {
            state.pending = queue.counts();
            if state.queue != *queue.figures() {
                state.queue.clone_from(queue.figures());
            }
            state.nodes = snapshot.nodes().len();
            (state.pods, state.assumed) = snapshot.placed();
        });
    }

    /// What a write came to.
    fn finish(&mut self, done: Done) {
        let now = self.clock.now();
        match done {
            Done::NotBound(key, waited) => {
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
                self.queue.put_back(pod, waited, now);
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
        let mut begun = self.clock.instant();
        for tried in 0..BATCH {
            let Some(pod) = self.queue.pop(now) else { return tried > 0 };
            let name = profile_of(&pod.object);
            // Pods of other schedulers do not enter the queue.
            let Some(decider) = self.deciders.get_mut(name) else { continue };
            let decision = decider.schedule(&pod, &self.snapshot);
            // To read the clock costs: the end of one decision is the beginning of the next.
            let ended = self.clock.instant();
            let took = ended.duration_since(begun);
            self.decisions.observe(took.as_secs_f64());
            match decision {
                Ok(placement) => self.bind(pod, placement, begun),
                Err(refused) => self.refuse(pod, &refused, took),
            }
            begun = ended;
        }
        true
    }

    fn bind(&mut self, pod: Arc<PodInfo>, placement: Placement, begun: Instant) {
        let Some(waited) = self.queue.remove(&pod.key) else { return };
        let promises = promises(&pod, &self.snapshot, &placement.node);
        self.snapshot.storage.promise(&pod.key, &promises);
        let grants = grants(&pod, &self.snapshot, &placement.node, &self.rng);
        self.snapshot.devices.assume(&pod.key, &grants);
        self.snapshot.place(Arc::clone(&pod), &placement.node);
        self.writer.bind(pod, placement.node, promises, grants, Attempt { begun, waited });
    }

    fn refuse(&mut self, pod: Arc<PodInfo>, refused: &Unschedulable, took: Duration) {
        self.metrics.attempt(profile_of(&pod.object), UNSCHEDULABLE, took);
        if let Some(preemption) = &refused.preemption {
            self.metrics.preemption(match preemption {
                Preemption::Found(victims) => Some(victims.pods.len()),
                _ => None,
            });
        }
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
