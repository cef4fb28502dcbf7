//! HorizontalPodAutoscaler: as many replicas as keep a metric at its target.
//! <https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/>
//!
//! Every fifteen seconds the scale of the target and the metrics are asked for; what follows from
//! them is decided by a pure function ([`decide`]), and written here.

mod behavior;
mod decide;
mod metrics;
mod replicas;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use client::error::chain;
use client::{Client, Clock, Entry, Informer, Key, Patch, Recorder, WorkQueue};
use futures::future::join_all;
use http::Method;
use parking_lot::Mutex;
use proto::kind::{HORIZONTAL_POD_AUTOSCALER, SERVED};
use proto::selector::Selector;
use proto::view::horizontal_pod_autoscaler::{AutoscalerStatus, HorizontalPodAutoscaler};
use proto::view::pod::Pod;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::plan::{difference, group_of, reference};
use crate::run::Setup;
use behavior::History;
use decide::{Decision, Scale, Seen};

pub const NAME: &str = "horizontal-pod-autoscaler-controller";

/// How often each autoscaler is looked after.
const PERIOD: Duration = Duration::from_secs(15);
const WORKERS: usize = 5;

/// Looks after autoscalers until the future is dropped.
pub async fn run(setup: Setup) {
    let autoscalers = setup.informers.of::<HorizontalPodAutoscaler>();
    let pods = setup.informers.of::<Pod>();
    let queue = setup.queue(NAME, "");
    let worker = Arc::new(Worker {
        client: setup.client,
        clock: setup.clock,
        recorder: setup.recorder,
        autoscalers: autoscalers.clone(),
        pods: pods.clone(),
        queue: queue.clone(),
        histories: Mutex::default(),
    });
    autoscalers.synced().await;
    pods.synced().await;
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut changes = autoscalers.changes();
        loop {
            let change = changes.next().await;
            match (&change.old, &change.new) {
                (Some(old), Some(new)) if old.spec == new.spec => {}
                _ => queue.add(change.key),
            }
        }
    });
    for _ in 0..WORKERS {
        let worker = worker.clone();
        tasks.spawn(async move { worker.work().await });
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(controller = NAME, %error, "a task of the controller ended");
        }
    }
}

struct Worker {
    client: Client,
    clock: Clock,
    recorder: Recorder,
    autoscalers: Informer<HorizontalPodAutoscaler>,
    pods: Informer<Pod>,
    queue: Arc<WorkQueue<Key>>,
    histories: Mutex<HashMap<Key, Known>>,
}

/// What is remembered of an autoscaler.
#[derive(Clone, Default)]
struct Known {
    uid: String,
    history: History,
    /// Of its target's pods.
    selector: String,
}

/// An autoscaler's target, as it is served.
struct Target {
    path: String,
    /// The Scale, to be sent back with another number.
    body: Value,
    scale: Scale,
}

impl Worker {
    async fn work(&self) {
        loop {
            let key = self.queue.next().await;
            match self.autoscalers.get(&key.namespace, &key.name) {
                Some(autoscaler) => {
                    let known = self.histories.lock().get(&key).cloned().unwrap_or_default();
                    let uid = &autoscaler.metadata.uid;
                    let fresh = Known { uid: uid.clone(), ..Known::default() };
                    let mut known = if known.uid == *uid { known } else { fresh };
                    let status = self.look_after(&autoscaler, &mut known).await;
                    self.histories.lock().insert(key.clone(), known);
                    self.write(&autoscaler, &status).await;
                    self.queue.add_after(key.clone(), PERIOD);
                }
                None => drop(self.histories.lock().remove(&key)),
            }
            self.queue.done(&key);
        }
    }

    /// Scales the target if it has to be; the autoscaler's status afterwards.
    async fn look_after(
        &self,
        autoscaler: &Entry<HorizontalPodAutoscaler>,
        known: &mut Known,
    ) -> AutoscalerStatus {
        let now = self.clock.now();
        let mut status = autoscaler.status.clone();
        let target = match self.target(autoscaler).await {
            Ok(target) => target,
            Err(error) => {
                self.tell(autoscaler, "Warning", "FailedGetScale", error.clone());
                let message = format!(
                    "the HPA controller was unable to get the target's current scale: {error}"
                );
                decide::set(&mut status, "AbleToScale", false, "FailedGetScale", message, now);
                return status;
            }
        };
        let (mut pods, mut readings) = (Vec::new(), Vec::new());
        if decide::needs_metrics(autoscaler, &target.scale) {
            known.selector = target.scale.selector.clone();
            pods = match self.pods(autoscaler, &target.scale) {
                Ok(pods) => pods,
                Err((reason, error, message)) => {
                    self.tell(autoscaler, "Warning", reason, error);
                    decide::set(&mut status, "ScalingActive", false, reason, message, now);
                    return status;
                }
            };
            let namespace = &autoscaler.metadata.namespace;
            let selector = &target.scale.selector;
            let metrics = autoscaler.spec.metrics.iter();
            let read = metrics.map(|one| metrics::read(&self.client, namespace, selector, one));
            readings = join_all(read).await;
        }
        let seen = Seen { scale: &target.scale, pods: &pods, readings: &readings, now };
        let mut decision = decide::decide(autoscaler, &seen, &mut known.history);
        for (reason, message) in std::mem::take(&mut decision.warnings) {
            self.tell(autoscaler, "Warning", reason, message);
        }
        self.rescale(autoscaler, target, &mut decision, &mut known.history).await;
        known.history.trim(now);
        decision.status
    }

    async fn rescale(
        &self,
        autoscaler: &Entry<HorizontalPodAutoscaler>,
        target: Target,
        decision: &mut Decision,
        history: &mut History,
    ) {
        let Some((wanted, why)) = &decision.rescale else { return };
        let (now, status) = (self.clock.now(), &mut decision.status);
        let Target { path, mut body, scale } = target;
        body["spec"]["replicas"] = (*wanted).into();
        let body = Bytes::from(body.to_string());
        match self.client.send(Method::PUT, &path, "application/json", body).await {
            Ok(_) => {
                let message =
                    format!("the HPA controller was able to update the target scale to {wanted}");
                decide::set(status, "AbleToScale", true, "SucceededRescale", message, now);
                status.desired_replicas = *wanted;
                status.last_scale_time = Some(now);
                history.scaled(now, scale.wanted, *wanted);
                let message = format!("New size: {wanted}; reason: {why}");
                self.tell(autoscaler, "Normal", "SuccessfulRescale", message);
            }
            Err(error) => {
                let message =
                    format!("the HPA controller was unable to update the target scale: {error}");
                decide::set(status, "AbleToScale", false, "FailedUpdateScale", message, now);
                status.desired_replicas = autoscaler.status.desired_replicas;
                let message = format!("New size: {wanted}; reason: {why}; error: {error}");
                self.tell(autoscaler, "Warning", "FailedRescale", message);
            }
        }
    }

    async fn target(&self, autoscaler: &HorizontalPodAutoscaler) -> Result<Target, String> {
        let target = &autoscaler.spec.scale_target_ref;
        let namespace = &autoscaler.metadata.namespace;
        let group = group_of(&target.api_version);
        let known = SERVED.iter().find(|row| row.group == group && row.kind == target.kind);
        let path = match known {
            Some(row) => row.path(namespace, &target.name),
            None => {
                let plural = metrics::plural(&self.client, &target.api_version, &target.kind);
                let plural = plural.await.map_err(|error| {
                    format!("unable to determine resource for scale target reference: {error}")
                })?;
                let (version, name) = (&target.api_version, &target.name);
                format!("/apis/{version}/namespaces/{namespace}/{plural}/{name}")
            }
        };
        let path = format!("{path}/scale");
        let body = self.client.document(&path).await.map_err(|error| error.to_string())?;
        let number = |part: &str| body[part]["replicas"].as_i64().unwrap_or(0) as i32;
        let scale = Scale {
            wanted: number("spec"),
            there: number("status"),
            selector: body["status"]["selector"].as_str().unwrap_or_default().into(),
        };
        Ok(Target { path, body, scale })
    }

    /// The target's pods; or why they cannot be told: reason, error and the condition's message.
    fn pods(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        scale: &Scale,
    ) -> Result<Vec<Arc<Entry<Pod>>>, (&'static str, String, String)> {
        if scale.selector.is_empty() {
            let message = "the HPA target's scale is missing a selector";
            return Err(("InvalidSelector", "selector is required".into(), message.into()));
        }
        let selector = Selector::parse(&scale.selector).map_err(|error| {
            let error = format!(
                "couldn't convert selector into a corresponding internal selector object: {error}"
            );
            ("InvalidSelector", error.clone(), error)
        })?;
        let namespace = &autoscaler.metadata.namespace;
        let pods = self.pods.selected(namespace, &selector);
        let rivals = self.rivals(autoscaler, &pods);
        if rivals.len() > 1 {
            let error = format!(
                "pods by selector {selector} are controlled by multiple HPAs: [{}]",
                rivals.join(" ")
            );
            return Err(("AmbiguousSelector", error.clone(), error));
        }
        Ok(pods)
    }

    /// The autoscalers, this one among them, whose targets have any of the pods.
    fn rivals(&self, own: &HorizontalPodAutoscaler, pods: &[Arc<Entry<Pod>>]) -> Vec<String> {
        let own = Key::of(&own.metadata);
        let histories = self.histories.lock();
        let selects = |known: &Known| {
            let selector = Selector::parse(&known.selector).ok().filter(|one| !one.is_empty());
            selector.is_some_and(|selector| {
                pods.iter().any(|pod| selector.matches(&pod.metadata.labels))
            })
        };
        let others = histories.iter().filter(|(key, _)| **key != own);
        let others = others.filter(|(key, known)| key.namespace == own.namespace && selects(known));
        let mut names: Vec<String> = others.map(|(key, _)| key.to_string()).collect();
        names.push(own.to_string());
        names.sort();
        names
    }

    async fn write(&self, autoscaler: &Entry<HorizontalPodAutoscaler>, status: &AutoscalerStatus) {
        let Some(mut patch) = difference(&autoscaler.status, status) else { return };
        for count in ["currentReplicas", "desiredReplicas"] {
            if patch.get(count).is_some_and(Value::is_null) {
                patch[count] = 0.into();
            }
        }
        let meta = &autoscaler.metadata;
        let body = serde_json::json!({ "metadata": { "uid": meta.uid }, "status": patch });
        let (namespace, name) = (&meta.namespace, &meta.name);
        let written = self
            .client
            .patch::<HorizontalPodAutoscaler>(namespace, name, "status", &Patch::Merge(body))
            .await;
        if let Err(error) = written {
            let error = chain(&error);
            tracing::warn!(controller = NAME, namespace, name, error, "the status is not written");
        }
    }

    fn tell(
        &self,
        autoscaler: &HorizontalPodAutoscaler,
        kind: &'static str,
        reason: &'static str,
        message: String,
    ) {
        let regarding = reference(&HORIZONTAL_POD_AUTOSCALER, &autoscaler.metadata);
        self.recorder.event(&regarding, kind, reason, message);
    }
}
