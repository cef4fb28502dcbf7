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

use crate::backoff::{Backoff, RETRY};
use crate::config::NodeConfig;
use crate::cri::{PodId, Runtime};
use crate::downward::Facts;
use crate::events::{Events, WARNING};
use crate::metrics::Metrics;
use crate::observed::Observed;
use crate::plan::{Memory, Plan, cleanup, finished, plan};
use crate::pod::{Pod, PodStatus};
use crate::probe::{Prober, Probes};
use crate::report::{Host, report};
use crate::resize;
use crate::resolv::Dns;
use crate::volume::Disk;

mod execute;
mod hooks;
mod image;
mod objects;
mod publish;
mod tokens;

pub use image::{NodeCredentials, Pulls};
pub use objects::Objects;

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
    /// At least the pods of the node.
    pub pods: client::Informer<view::pod::Pod>,
    pub config: NodeConfig,
    pub dns: Dns,
    pub host: Host,
    pub allocatable: BTreeMap<String, Quantity>,
    pub metrics: Arc<Metrics>,
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
    wake: Arc<Notify>,
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
    wake: Arc<Notify>,
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
        let wake = Arc::new(Notify::new());
        let handle = Handle { latest: Arc::new(sender), wake: wake.clone() };
        let worker = Worker {
            context,
            id,
            latest: receiver,
            wake,
            pod: None,
            asked: None,
            memory: Memory::default(),
            status: None,
            relabelled: false,
        };
        (worker, handle)
    }

    /// Works until the object is gone and nothing of the pod is left.
    pub async fn run(mut self) {
        let publisher = publish::Publisher::start(self.context.clone(), self.id.clone());
        let mut probes = Probes::new(self.context.clone(), self.wake.clone());
        let mut watched = objects::Watched::default();
        let mut failure: Option<Backoff> = None;
        loop {
            let gone = self.refresh();
            let Some(observed) = self.observe(&mut failure).await else { continue };
            let now = self.context.clock.now();
            self.settle();
            let Some(pod) = self.pod.clone().filter(|_| !gone) else {
                probes.stop();
                let plan = cleanup(&observed, &self.memory, self.last_grace());
                if plan.steps.is_empty() {
                    break;
                }
                self.execute(plan, &observed, &publisher, &watched).await;
                continue;
            };
            if pod.deleting() {
                let same = self.memory.terminating.filter(|(grace, _)| *grace == pod.grace());
                self.memory.terminating = same.or(Some((pod.grace(), now)));
            }
            let over = pod.deleting() || finished(&pod, &observed, now).is_some();
            if over && observed.running().next().is_none() {
                // Nothing reads any of it any more.
                watched = objects::Watched::default();
            } else {
                watched.follow(&self.context.objects, &pod, &self.wake);
            }
            let changed = watched.take_changed() | std::mem::take(&mut self.relabelled);
            if let Some(failure) = self.memory.setup.as_mut().filter(|_| changed) {
                // What was missing may be there now.
                failure.retry_at = now;
            }
            self.memory.health = probes.follow(&pod, &observed);
            let plan = plan(&pod, &observed, &self.memory, now);
            let status = self.report(&pod, &observed, &plan, now);
            if self.status.as_ref() != Some(&status) {
                publisher.status(&pod, &status);
                self.status = Some(status);
            }
            if changed && self.memory.mounted {
                self.remount(&pod, &observed, &watched).await;
            }
            let again = plan.again;
            let idle = plan.steps.is_empty();
            if !idle {
                self.execute(plan, &observed, &publisher, &watched).await;
            } else {
                self.wait(again).await;
            }
        }
        probes.stop();
        self.context.metrics.forget_pod(&self.id.namespace, &self.id.name);
        if let Err(error) = self.context.disk.remove(&self.id).await {
            tracing::warn!(pod = %self.id.name, %error, "cannot remove the folders of a pod");
        }
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
            Ok(pod) => {
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

    /// Decides whether the node has room for what the pod asks for.
    fn settle(&mut self) {
        let Some(asked) = self.asked.clone() else { return };
        let told = self.status.as_ref().unwrap_or(&asked.status);
        self.memory.resizing = resize::asked(&asked, told);
        if !self.memory.resizing {
            self.memory.resized.clear();
        }
        let others = || {
            let pods = self.context.pods.snapshot();
            let (uid, node) = (&asked.metadata.uid, &asked.spec.node_name);
            let others = pods
                .values()
                .map(|entry| &entry.view)
                .filter(|pod| pod.metadata.uid != *uid && pod.spec.node_name == *node);
            resize::requests(others)
        };
        let (pod, pending) = resize::settle(&asked, told, &self.context.allocatable, others);
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
        let asked = self.pod.as_ref().and_then(|pod| pod.metadata.deletion_grace_period_seconds);
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
        let mut latest = self.latest.clone();
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
            if latest.wait_for(|latest| grace(latest) < now).await.is_err() {
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
