//! All pods of a node: one worker each, told of what changes in the API, in the node's own
//! manifests and in the runtime.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::Change;
use futures::StreamExt;
use parking_lot::Mutex;
use proto::view::Condition;
use proto::view::pod::Pod;
use tokio::sync::broadcast;

use crate::cri::PodId;
use crate::plan::End;
use crate::pod::CONFIG_MIRROR;
use crate::shutdown::Ending;
use crate::worker::{Context, Handle, Latest, Worker};

mod statics;

/// The workers of one node, by pod uid. Clones share them.
#[derive(Clone)]
pub struct Pods {
    context: Arc<Context>,
    workers: Arc<Mutex<HashMap<String, Handle>>>,
    statics: Arc<Mutex<statics::Statics>>,
    tasks: Arc<Mutex<tokio::task::JoinSet<()>>>,
    /// The runtime's events, for others than the workers.
    events: broadcast::Sender<Arc<str>>,
}

impl Pods {
    pub fn new(context: Arc<Context>) -> Pods {
        let events = broadcast::Sender::new(256);
        let (workers, statics) = (Arc::default(), Arc::default());
        Pods { context, workers, statics, tasks: Arc::default(), events }
    }

    /// Uids of pods of which something has changed in the runtime; empty: perhaps of all.
    pub fn events(&self) -> broadcast::Receiver<Arc<str>> {
        self.events.subscribe()
    }

    pub fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub fn len(&self) -> usize {
        self.workers.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Passes a change on to the worker of the pod; the pod is one of this node.
    pub fn change(&self, change: &Change<Pod>) {
        let mirrors = |entry: &Option<Arc<client::Entry<Pod>>>| {
            let meta = entry.as_ref().map(|entry| &entry.view.metadata);
            meta.is_some_and(|meta| meta.annotations.contains_key(CONFIG_MIRROR))
        };
        if mirrors(&change.new) || (change.new.is_none() && mirrors(&change.old)) {
            return self.mirror(change);
        }
        let uid = |entry: &Arc<client::Entry<Pod>>| entry.view.metadata.uid.clone();
        let old = change.old.as_ref().map(uid);
        let Some(new) = &change.new else {
            if let Some(uid) = old {
                self.gone(&uid);
            }
            return;
        };
        let now = uid(new);
        if let Some(old) = old.filter(|old| *old != now) {
            // The same name, another pod.
            self.gone(&old);
        }
        let latest = Latest::Present(new.clone());
        let known = self.workers.lock().get(&now).cloned();
        match (known, &change.old) {
            (Some(worker), Some(old)) if only_reported(&old.view, &new.view) => {
                worker.remember(latest);
            }
            (Some(worker), _) => worker.send(latest),
            (None, _) => {
                let meta = &new.view.metadata;
                let (namespace, name) = (meta.namespace.clone(), meta.name.clone());
                self.begin(PodId { uid: now, namespace, name }, latest);
            }
        }
    }

    /// Of these the API knows nothing: what runs of them must go.
    pub fn orphans(&self, pods: Vec<PodId>) {
        for pod in pods {
            let known = self.workers.lock().contains_key(&pod.uid);
            if !known {
                self.begin(pod, Latest::Gone);
            }
        }
    }

    /// Follows the runtime's events for ever. After a break everything is looked at again.
    pub async fn follow_runtime(&self) {
        let mut delay = Duration::from_millis(100);
        let mut complained = false;
        loop {
            match self.context.runtime.events().await {
                Ok(mut events) => {
                    (delay, complained) = (Duration::from_millis(100), false);
                    self.wake_all();
                    while let Some(uid) = events.next().await {
                        if let Some(worker) = self.workers.lock().get(&uid) {
                            worker.wake();
                        }
                        // Nobody may be listening.
                        let _ = self.events.send(uid.into());
                    }
                }
                Err(error) => {
                    // containerd before 1.7 never has any: then pods are looked at again and again.
                    if !std::mem::replace(&mut complained, true) {
                        tracing::warn!(%error, "the runtime sends no events");
                    }
                    delay = (delay * 2).min(Duration::from_secs(2));
                    self.wake_all();
                }
            }
            self.context.clock.sleep(delay).await;
        }
    }

    /// Lets the pods see, for ever, what becomes of their devices and of the CPUs that they share.
    pub async fn follow_resources(&self) {
        let (mut devices, mut cpus) = (self.context.devices.changes(), self.context.cpus.changes());
        let mut claimed = self.context.dra.changes();
        loop {
            let of_all = tokio::select! {
                _ = devices.changed() => false,
                _ = claimed.changed() => false,
                _ = cpus.changed() => true,
            };
            let mut holders = self.context.devices.holders();
            holders.extend(self.context.dra.holders());
            let workers = self.workers.lock();
            let concerned = workers.iter().filter(|(uid, _)| of_all || holders.contains(*uid));
            concerned.for_each(|(_, worker)| worker.wake());
        }
    }

    /// Frees what pods had that have gone while nobody looked.
    pub fn forget_missing(&self) {
        let is_there = |uid: &str| self.workers.lock().contains_key(uid);
        self.context.devices.retain(is_there);
        self.context.cpus.retain(is_there);
        for gone in self.context.dra.holders().into_iter().filter(|uid| !is_there(uid)) {
            let (dra, clock) = (self.context.dra.clone(), self.context.clock.clone());
            tokio::spawn(crate::dra::forget(dra, clock, gone));
        }
    }

    /// The pods that would have to end before the machine does.
    pub fn endings(&self) -> Vec<Ending> {
        let workers = self.workers.lock();
        let pods = workers.iter().filter_map(|(uid, worker)| match worker.latest() {
            Latest::Present(entry) if !entry.view.is_terminal() => Some(Ending {
                uid: uid.clone(),
                priority: entry.view.spec.priority.unwrap_or(0),
                grace: {
                    let own = entry.view.spec.termination_grace_period_seconds;
                    Duration::from_secs(own.unwrap_or(30).max(0).unsigned_abs())
                },
            }),
            _ => None,
        });
        pods.collect()
    }

    /// Until the pod is at its end and nothing of it runs.
    pub fn stopped(&self, uid: &str) -> impl Future<Output = ()> + use<> {
        let stopped = self.workers.lock().get(uid).map(Handle::stopped);
        async move {
            if let Some(stopped) = stopped {
                stopped.await;
            }
        }
    }

    /// The node ends this pod.
    pub fn end(&self, uid: &str, end: End) {
        if let Some(worker) = self.workers.lock().get(uid) {
            worker.end(end);
        }
    }

    /// The pods that have not ended and are not about to for the node's own reasons; and whether
    /// each is a static one.
    pub fn active(&self) -> Vec<(Arc<client::Entry<Pod>>, bool)> {
        let statics = self.statics.lock().uids();
        let workers = self.workers.lock();
        let active = workers.iter().filter(|(_, worker)| !worker.is_to_end());
        let active = active.filter_map(|(uid, worker)| match worker.latest() {
            Latest::Present(entry) if !entry.view.is_terminal() => {
                Some((entry, statics.contains(uid)))
            }
            _ => None,
        });
        active.collect()
    }

    fn wake_all(&self) {
        self.workers.lock().values().for_each(Handle::wake);
        let _ = self.events.send("".into());
    }

    fn gone(&self, uid: &str) {
        if let Some(worker) = self.workers.lock().get(uid) {
            worker.send(Latest::Gone);
        }
    }

    fn begin(&self, pod: PodId, latest: Latest) {
        let uid = pod.uid.clone();
        let (worker, handle) = Worker::new(self.context.clone(), pod, latest);
        let workers = self.workers.clone();
        self.spawn(worker, handle, uid.clone(), move || drop(workers.lock().remove(&uid)));
    }

    fn spawn(
        &self,
        worker: Worker,
        handle: Handle,
        uid: String,
        ended: impl FnOnce() + Send + 'static,
    ) {
        self.workers.lock().insert(uid, handle);
        let mut tasks = self.tasks.lock();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            worker.run().await;
            ended();
        });
    }
}

/// Is the change nothing but a status that this node reported itself? Other's conditions matter
/// where the pod has readiness gates.
fn only_reported(old: &Pod, new: &Pod) -> bool {
    let meta = |pod: &Pod| {
        let mut meta = pod.metadata.clone();
        meta.resource_version.clear();
        meta
    };
    let others = |pod: &Pod| {
        let ours = [
            "PodReadyToStartContainers",
            "Initialized",
            "Ready",
            "ContainersReady",
            "PodScheduled",
            "AllContainersRestarting",
        ];
        let all = pod.status.conditions.iter();
        let all = all.filter(|condition| !ours.contains(&condition.kind.as_str()));
        all.map(|condition| (condition.kind.clone(), condition.status.clone())).collect::<Vec<_>>()
    };
    let condition = |kind| Condition::is_true(&new.status.conditions, kind);
    // So the node's controller leaves a pod while it misses the node: that wants an answer.
    let taken = condition("ContainersReady") && !condition("Ready");
    old.spec == new.spec
        && !taken
        && meta(old) == meta(new)
        && others(old) == others(new)
        && (old.status.phase == new.status.phase || !matches!(&*new.status.phase, "Failed"))
}
