//! The worker of one pod: observe, plan, report, execute, wait; one after the other and never two
//! at a time. Nothing it does can delay another pod's worker or the node's heartbeat.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Clock, Entry};
use proto::quantity::Quantity;
use proto::time::Time;
use proto::view;
use tokio::sync::{Notify, watch};

use crate::allocation::Allocations;
use crate::backoff::{Backoff, RETRY};
use crate::config::NodeConfig;
use crate::cpu_manager::CpuManager;
use crate::cri::{PodId, Runtime};
use crate::devices::Devices;
use crate::downward::Facts;
use crate::dra::{self, Dra};
use crate::ended::Ended;
use crate::events::{Events, NORMAL, WARNING};
use crate::metrics::Metrics;
use crate::node::pod_range::PodRange;
use crate::observed::Observed;
use crate::plan::{End, Memory, Plan, cleanup, finished, plan};
use crate::pod::{Pod, PodStatus, Qos};
use crate::probe::{Prober, Probes};
use crate::report::{Host, report};
use crate::resize::{self, Pending};
use crate::resolv::Dns;
use crate::volume::Disk;

mod admit;
mod claims;
mod csi;
mod execute;
mod hooks;
mod image;
mod mirror;
mod objects;
mod publish;
mod standing;
mod tokens;

pub use image::{NodeCredentials, Pulls};
pub use mirror::{Mirror, delete as delete_mirror};
pub use objects::Objects;
pub use standing::Own;

/// When to look again whether the API has the node for ready.
const NODE_AGAIN: Duration = Duration::from_secs(10);

/// What all workers of a node share.
pub struct Context {
    pub client: client::Client,
    pub clock: Clock,
    pub events: Events,
    pub runtime: Arc<dyn Runtime>,
    pub disk: Arc<dyn Disk>,
    pub prober: Arc<dyn Prober>,
    pub pulls: Pulls,
    pub objects: Objects,
    pub services: client::Informer<view::service::Service>,
    pub allocations: Allocations,
    pub ended: Ended,
    pub devices: Devices,
    pub dra: Dra,
    pub cpus: CpuManager,
    pub own: Own,
    pub config: NodeConfig,
    /// As configured; see [`Context::dns`].
    pub dns: Dns,
    pub pod_range: PodRange,
    pub host: Host,
    pub allocatable: BTreeMap<String, Quantity>,
    pub metrics: Arc<Metrics>,
}

impl Context {
    /// What the node contributes to a pod's resolv.conf: its own DNS where no other is named.
    fn dns(&self) -> Dns {
        let mut dns = self.dns.clone();
        if dns.servers.is_empty() {
            dns.servers.extend(self.pod_range.gateway().map(|address| address.to_string()));
        }
        dns
    }

    /// The pod holds nothing of the node any more.
    fn release(&self, uid: &str) {
        self.allocations.release(uid);
        self.devices.release(uid);
        self.cpus.release(uid);
    }
}

/// The newest a worker is told of its pod.
#[derive(Clone)]
pub enum Latest {
    Present(Arc<Entry<view::pod::Pod>>),
    /// The object is gone: what runs of it must go.
    Gone,
}

/// The other end of a worker.
#[derive(Clone)]
pub struct Handle {
    latest: Arc<watch::Sender<Latest>>,
    ender: Ender,
    stopped: watch::Receiver<bool>,
    wake: Arc<Notify>,
}

/// Ends a pod for the node's own reasons.
#[derive(Clone)]
pub struct Ender {
    end: Arc<watch::Sender<Option<End>>>,
    wake: Arc<Notify>,
}

impl Ender {
    /// What ends already is not ended anew.
    pub fn end(&self, end: End) {
        self.end.send_replace(Some(end));
        self.wake.notify_one();
    }
}

impl Handle {
    pub fn send(&self, latest: Latest) {
        self.latest.send_replace(latest);
        self.wake.notify_one();
    }

    /// The API has what this worker reported: worth remembering, but no work.
    pub fn remember(&self, latest: Latest) {
        self.latest.send_if_modified(|known| {
            *known = latest;
            false
        });
    }

    /// The node ends the pod.
    pub fn end(&self, end: End) {
        self.ender.end(end);
    }

    /// The node has ended the pod, or is about to.
    pub fn is_to_end(&self) -> bool {
        self.ender.end.borrow().is_some()
    }

    /// Until the pod is at its end and nothing of it runs.
    pub fn stopped(&self) -> impl Future<Output = ()> + use<> {
        let mut stopped = self.stopped.clone();
        // A worker that is gone has nothing running, either.
        async move { drop(stopped.wait_for(|stopped| *stopped).await) }
    }

    /// The pod as it was last told.
    pub fn latest(&self) -> Latest {
        self.latest.borrow().clone()
    }

    /// Something has changed in the runtime.
    pub fn wake(&self) {
        self.wake.notify_one();
    }
}

/// A worker that has not been started.
pub struct Worker {
    context: Arc<Context>,
    id: PodId,
    latest: watch::Receiver<Latest>,
    end: watch::Receiver<Option<End>>,
    ender: Ender,
    stopped: watch::Sender<bool>,
    wake: Arc<Notify>,
    /// Of a static pod: what stands for it in the API.
    mirror: Option<Mirror>,
    /// It is known whether the node takes the pod.
    judged: bool,
    /// None for a pod that only the runtime knows.
    pod: Option<Arc<Pod>>,
    /// The same as the API has it; the node may not have room for all it asks for.
    asked: Option<Arc<Pod>>,
    memory: Memory,
    status: Option<PodStatus>,
    /// Labels or annotations are not those that the volumes show.
    relabelled: bool,
}

impl Worker {
    pub fn new(context: Arc<Context>, id: PodId, latest: Latest) -> (Worker, Handle) {
        let (sender, receiver) = watch::channel(latest);
        let (ender, end) = watch::channel(None);
        let wake = Arc::new(Notify::new());
        let (stopper, stopped) = watch::channel(false);
        let ender = Ender { end: Arc::new(ender), wake: wake.clone() };
        let latest = Arc::new(sender);
        let handle = Handle { latest, ender: ender.clone(), stopped, wake: wake.clone() };
        let retention = context.config.retention;
        let worker = Worker {
            context,
            id,
            latest: receiver,
            end,
            ender,
            stopped: stopper,
            wake,
            mirror: None,
            judged: false,
            pod: None,
            asked: None,
            memory: Memory { retention, ..Memory::default() },
            status: None,
            relabelled: false,
        };
        (worker, handle)
    }

    /// The pod is a static one.
    pub fn mirrored(self, mirror: Mirror) -> Worker {
        Worker { mirror: Some(mirror), ..self }
    }

    /// Works until the object is gone and nothing of the pod is left.
    pub async fn run(mut self) {
        let publisher =
            publish::Publisher::start(self.context.clone(), self.id.clone(), self.mirror.clone());
        let mut probes = Probes::new(self.context.clone(), self.wake.clone());
        let mut watched = objects::Watched::default();
        let mut failure: Option<Backoff> = None;
        loop {
            let gone = self.refresh();
            let Some(observed) = self.observe(&mut failure).await else { continue };
            let now = self.context.clock.now();
            self.admit(&observed).await;
            self.settle(now);
            let Some(pod) = self.pod.clone().filter(|_| !gone) else {
                probes.stop();
                let plan = cleanup(&observed, &self.memory, self.last_grace(), now);
                match (plan.steps.is_empty(), plan.again) {
                    (false, _) => self.execute(plan, &observed, &publisher, &watched).await,
                    (true, Some(again)) => self.wait(Some(again)).await,
                    // Nothing of the pod runs: its devices may be taken down.
                    (true, None) if dra::ended(&self.context.dra, &self.id).await => break,
                    (true, None) => self.wait(Some(now.plus(RETRY.max))).await,
                }
                continue;
            };
            self.memory.start_time.get_or_insert(now);
            let over = self.ends(&pod, &observed, now);
            if over {
                let same = self.memory.terminating.filter(|(grace, _)| *grace == pod.grace());
                self.memory.terminating = same.or(Some((pod.grace(), now)));
            }
            if over && observed.running().next().is_none() {
                // Nothing reads any of it any more.
                watched = objects::Watched::default();
                self.context.release(&self.id.uid);
                // Once it is reported that the pod has ended, its devices may be given to another.
                if !dra::ended(&self.context.dra, &self.id).await {
                    self.wait(Some(now.plus(RETRY.max))).await;
                    continue;
                }
                self.stopped.send_replace(true);
            } else {
                watched.follow(&self.context.objects, &pod, &self.wake);
            }
            let changed = watched.take_changed() | std::mem::take(&mut self.relabelled);
            self.memory.health = probes.follow(&pod, &observed);
            self.remember(&pod, &observed, changed, now);
            let plan = plan(&pod, &observed, &self.memory, now);
            let status = self.report(&pod, &observed, &plan, now);
            let again =
                plan.again.into_iter().chain(self.tell(&publisher, &pod, status, now)).min();
            if changed && self.memory.mounted {
                self.remount(&pod, &observed, &watched).await;
            }
            let idle = plan.steps.is_empty();
            if !idle {
                self.execute(plan, &observed, &publisher, &watched).await;
            } else {
                self.wait(again).await;
            }
        }
        probes.stop();
        self.context.ended.forget(&self.id.uid);
        self.context.metrics.forget_pod(&self.id.namespace, &self.id.name);
        self.context.release(&self.id.uid);
        if let Err(error) = self.context.disk.remove(&self.id).await {
            tracing::warn!(pod = %self.id.name, %error, "cannot remove the folders of a pod");
        }
    }

    /// What others know of the pod, for the next plan; `changed` is what is mounted of the API.
    fn remember(&mut self, pod: &Pod, observed: &Observed, changed: bool, now: Time) {
        if let Some(due) = self.memory.growth.as_mut().filter(|_| changed) {
            *due = now;
        }
        if let Some(failure) = self.memory.setup.as_mut().filter(|_| changed) {
            // What was missing may be there now.
            failure.retry_at = now;
        }
        self.memory.excess = self.context.ended.put(&self.id.uid, observed, &self.wake);
        self.memory.cpus = self.context.cpus.of(pod);
        let mut devices = self.context.devices.health(&self.id.uid);
        for container in pod.spec.init_containers.iter().chain(&pod.spec.containers) {
            let claimed = self.context.dra.health(pod, container);
            if !claimed.is_empty() {
                devices.entry(container.name.clone()).or_default().extend(claimed);
            }
        }
        if !devices.is_empty() {
            // Whoever asks why a pod has ended may ask for the devices that it had.
            self.memory.devices = devices;
        }
    }

    /// Reports what is new, or what somebody else wrote over it; when to look at the latter again.
    fn tell(
        &mut self,
        publisher: &publish::Publisher,
        pod: &Pod,
        status: PodStatus,
        now: Time,
    ) -> Option<Time> {
        if self.status.as_ref() != Some(&status) {
            let before = self.status.as_ref().unwrap_or(&pod.status);
            let asked = self.asked.as_deref().unwrap_or(pod);
            for (kind, reason, message) in resize::news(asked, before, &status) {
                self.context.events.pod(pod, None, kind, &reason, &message);
            }
            publisher.status(pod, &status);
            self.status = Some(status);
            return None;
        }
        let ready = |status: &PodStatus| status.condition("Ready").map(|it| it.status == "True");
        if ready(&status) != Some(true) || ready(&pod.status) != Some(false) {
            return None;
        }
        // So the node's controller leaves pods whose node it misses, and would again.
        if !self.context.own.is_ready() {
            return Some(now.plus(NODE_AGAIN));
        }
        // Nothing is asked where it is only on its way.
        publisher.status(pod, &status);
        None
    }

    /// Takes over what the API last said; true when the object is gone.
    fn refresh(&mut self) -> bool {
        let entry = match &*self.latest.borrow() {
            Latest::Gone => return true,
            Latest::Present(entry) => entry.clone(),
        };
        let known = self.pod.as_ref().map(|pod| pod.metadata.revision());
        if known == Some(entry.view.metadata.revision()) {
            return false;
        }
        match serde_json::from_slice::<Pod>(&entry.bytes) {
            Ok(mut pod) => {
                pod.is_static = self.mirror.is_some();
                pod.resource_claims = entry.view.all_claims();
                let extended = &entry.view.status.extended_resource_claim_status;
                let mappings = extended.iter().flat_map(|status| &status.request_mappings);
                pod.claimed = mappings.cloned().collect();
                let shown =
                    |pod: &Pod| (pod.metadata.labels.clone(), pod.metadata.annotations.clone());
                self.relabelled |= self.pod.as_ref().is_some_and(|old| shown(old) != shown(&pod));
                self.pod = Some(Arc::new(pod));
                self.asked = self.pod.clone();
            }
            Err(error) => tracing::error!(pod = %self.id.name, %error, "cannot read a pod"),
        }
        false
    }

    /// Whether the pod is at its end, for whatever reason; from then on it stays there.
    fn ends(&mut self, pod: &Pod, observed: &Observed, now: Time) -> bool {
        if self.memory.end.is_none() {
            self.memory.end = self.end.borrow().clone();
            if let Some(end) = self.memory.end.as_ref().filter(|end| end.reason == "Preempting") {
                self.context.events.pod(pod, None, WARNING, &end.reason, &end.message);
            }
        }
        let end = finished(pod, observed, &self.memory, now);
        if let (Some(end), None) = (&end, &self.memory.end)
            && end.reason == "DeadlineExceeded"
        {
            self.context.events.pod(pod, None, NORMAL, &end.reason, &end.message);
        }
        self.memory.end = end;
        pod.deleting() || self.memory.end.is_some()
    }

    /// Decides whether the pod gets what it asks for now.
    fn settle(&mut self, now: Time) {
        let ended = self.memory.end.is_some();
        let Some(asked) = self.asked.clone().filter(|_| self.judged && !ended) else { return };
        let told = self.status.as_ref().unwrap_or(&asked.status);
        let grant = |pod: &Pod| {
            let Context { allocations, allocatable, cpus, .. } = &*self.context;
            let guaranteed = cpus.is_static() && pod.qos() == Qos::Guaranteed;
            if guaranteed && resize::moves_cpus(&resize::before(pod, told), pod) {
                let message = "Resize is infeasible for Guaranteed Pods alongside CPU Manager \
                               policy \"static\"";
                return Some(Pending { reason: "Infeasible", message: message.into() });
            }
            allocations.grant(pod, allocatable, now, &self.wake)
        };
        self.memory.resizing = resize::asked(&asked, told);
        if !self.memory.resizing {
            self.memory.resized.clear();
            self.memory.pod_resized = None;
            if self.memory.pending.is_some() {
                // It wants what it has: it waits for nothing any longer.
                grant(&asked);
            }
        }
        let (pod, pending) = resize::settle(&asked, told, grant);
        (self.pod, self.memory.pending) = (Some(pod), pending);
    }

    /// What the runtime holds; None after a failure and a pause.
    async fn observe(&self, failure: &mut Option<Backoff>) -> Option<Observed> {
        match self.context.runtime.observe(&self.id.uid).await {
            Ok(mut observed) => {
                *failure = None;
                if let Some(pod) = &self.pod {
                    self.context.disk.messages(pod, &mut observed).await;
                }
                Some(observed)
            }
            Err(error) => {
                let now = self.context.clock.now();
                let next = Backoff::next(*failure, RETRY, now);
                tracing::warn!(pod = %self.id.name, %error, "cannot observe a pod");
                *failure = Some(next);
                self.wait(Some(now.plus(next.delay))).await;
                None
            }
        }
    }

    fn report(&self, pod: &Pod, observed: &Observed, plan: &Plan, now: Time) -> PodStatus {
        let previous = match &self.status {
            Some(status) => {
                // Conditions of others, which readiness gates may name, come from the API.
                let mut previous = status.clone();
                let others = pod.status.conditions.iter();
                let others = others.filter(|theirs| status.condition(&theirs.kind).is_none());
                previous.conditions.extend(others.cloned());
                previous
            }
            None => pod.status.clone(),
        };
        report(pod, observed, &self.memory, plan, &self.context.host, &previous, now)
    }

    fn facts(&self, pod: &Pod, observed: &Observed) -> Facts {
        let pod_ips = match (pod.spec.host_network, observed.newest()) {
            (true, _) => self.context.host.ips.clone(),
            (false, sandbox) => sandbox.map(|sandbox| sandbox.ips.clone()).unwrap_or_default(),
        };
        Facts {
            pod_ips,
            host_ips: self.context.host.ips.clone(),
            allocatable: self.context.allocatable.clone(),
        }
    }

    /// Brings changed ConfigMaps and Secrets into the volumes of a running pod.
    async fn remount(&self, pod: &Pod, observed: &Observed, watched: &objects::Watched) {
        let facts = self.facts(pod, observed);
        let sources = match watched.sources(&self.context.clock).await {
            Ok(sources) => sources,
            Err(error) => {
                tracing::warn!(pod = %self.id.name, error, "cannot update volumes");
                return;
            }
        };
        if let Err(error) = self.context.disk.mount(pod, &facts, &sources).await {
            self.context.events.pod(pod, None, WARNING, "FailedMount", &error.to_string());
        }
    }

    /// How long the containers of a deleted object may take.
    fn last_grace(&self) -> Duration {
        let asked = self.pod.as_ref().and_then(|pod| match pod.is_static {
            // Its file is gone: that is its deletion.
            true => Some(pod.grace()),
            false => pod.metadata.deletion_grace_period_seconds,
        });
        Duration::from_secs(asked.unwrap_or(1).max(1).unsigned_abs())
    }

    /// Does the plan's steps, unless the pod's end comes in between: then what is under way is
    /// given up and planned anew.
    async fn execute(
        &mut self,
        plan: Plan,
        observed: &Observed,
        publisher: &publish::Publisher,
        watched: &objects::Watched,
    ) {
        let facts = match &self.pod {
            Some(pod) => self.facts(pod, observed),
            None => Facts::default(),
        };
        let urgent = self.urgent();
        let executor = execute::Executor {
            context: &self.context,
            id: &self.id,
            pod: self.pod.as_deref(),
            memory: &mut self.memory,
            publisher,
            watched,
            facts,
            observed,
        };
        tokio::select! {
            () = executor.run(plan.steps) => {}
            () = urgent => {}
        }
    }

    /// Ends when the pod is to be ended, or sooner than it was.
    fn urgent(&self) -> impl Future<Output = ()> + 'static {
        let (mut latest, mut end) = (self.latest.clone(), self.end.clone());
        let ended = self.memory.end.is_some();
        let grace = |latest: &Latest| match latest {
            Latest::Gone => 0,
            Latest::Present(entry) => match entry.view.metadata.deletion_timestamp {
                Some(_) => entry.view.metadata.deletion_grace_period_seconds.unwrap_or(30),
                None => i64::MAX,
            },
        };
        let now = match (&self.pod, &*latest.borrow()) {
            (_, Latest::Gone) => 0,
            (Some(pod), _) if pod.deleting() => pod.grace(),
            _ => i64::MAX,
        };
        async move {
            let sooner = async { latest.wait_for(|latest| grace(latest) < now).await.is_ok() };
            let ending = async { end.wait_for(|end| end.is_some() && !ended).await.is_ok() };
            let told = tokio::select! {
                told = sooner => told,
                told = ending => told,
            };
            if !told {
                std::future::pending().await
            }
        }
    }

    async fn wait(&self, until: Option<Time>) {
        match until {
            Some(until) => tokio::select! {
                () = self.wake.notified() => {}
                () = self.context.clock.sleep_until(until) => {}
            },
            None => self.wake.notified().await,
        }
    }
}
