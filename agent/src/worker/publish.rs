//! Tells the API the status of one pod, apart from its worker: an API server that does not answer
//! delays no container. Only the newest status is sent; a failure is tried again.

use std::sync::Arc;
use std::time::Duration;

use client::{DeleteOptions, Patch};
use proto::view;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use super::Context;
use super::mirror::{self, Mirror};
use crate::cri::PodId;
use crate::pod::{Pod, PodStatus};
use crate::report::patch;

/// The worker's end. The task lives as long as it.
pub struct Publisher {
    sender: watch::Sender<Option<Arc<Desired>>>,
    _task: AbortOnDropHandle<()>,
}

pub struct Desired {
    /// The API's object when this was decided.
    pod: Arc<PodStatus>,
    revision: u64,
    pub status: PodStatus,
    /// The graceful deletion is complete.
    finish: bool,
}

impl Publisher {
    /// The status goes into the pod's own object, or into its mirror.
    pub fn start(context: Arc<Context>, id: PodId, mirror: Option<Mirror>) -> Publisher {
        let (sender, receiver) = watch::channel(None);
        let task = match mirror {
            None => tokio::spawn(Task { context, id, receiver, known: None }.run()),
            Some(mirror) => tokio::spawn(mirror::Task::new(context, mirror, receiver).run()),
        };
        Publisher { sender, _task: AbortOnDropHandle::new(task) }
    }

    pub fn status(&self, pod: &Pod, status: &PodStatus) {
        // Once the object may go, it may, whatever else there is to say.
        let finish = self.sender.borrow().as_ref().is_some_and(|last| last.finish);
        self.send(pod, status.clone(), finish);
    }

    /// After this status the object may go.
    pub fn finish(&self, pod: &Pod) {
        let last = self.sender.borrow().as_ref().map(|desired| desired.status.clone());
        self.send(pod, last.unwrap_or_else(|| pod.status.clone()), true);
    }

    fn send(&self, pod: &Pod, status: PodStatus, finish: bool) {
        let (revision, pod) = (pod.metadata.revision(), Arc::new(pod.status.clone()));
        self.sender.send_replace(Some(Arc::new(Desired { pod, revision, status, finish })));
    }
}

struct Task {
    context: Arc<Context>,
    id: PodId,
    receiver: watch::Receiver<Option<Arc<Desired>>>,
    /// What the API answered last, and at which revision.
    known: Option<(u64, PodStatus)>,
}

pub const FIRST_DELAY: Duration = Duration::from_millis(100);
pub const MAX_DELAY: Duration = Duration::from_secs(10);

impl Task {
    async fn run(mut self) {
        let mut delay = FIRST_DELAY;
        while self.receiver.changed().await.is_ok() {
            loop {
                let desired = self.receiver.borrow_and_update().clone();
                let Some(desired) = desired else { break };
                match self.publish(&desired).await {
                    Ok(()) => {
                        delay = FIRST_DELAY;
                        break;
                    }
                    Err(error) if error.is_not_found() => break,
                    Err(error) if error.is_conflict() && self.is_another().await => break,
                    Err(error) => {
                        tracing::warn!(pod = %self.id.name, %error, "cannot report a pod's status");
                        self.context.clock.sleep(delay).await;
                        delay = (delay * 2).min(MAX_DELAY);
                    }
                }
            }
        }
    }

    /// Whether the name is another pod's by now. A conflict alone does not say so: others may only
    /// have written to the same object, too often for the server.
    async fn is_another(&self) -> bool {
        let PodId { uid, namespace, name } = &self.id;
        match self.context.client.get::<view::pod::Pod>(namespace, name).await {
            Ok(entry) => entry.metadata.uid != *uid,
            Err(error) => error.is_not_found(),
        }
    }

    async fn publish(&mut self, desired: &Desired) -> Result<(), client::Error> {
        let PodId { uid, namespace, name } = &self.id;
        let api = match &self.known {
            Some((revision, known)) if *revision >= desired.revision => known,
            _ => &desired.pod,
        };
        let client = &self.context.client;
        let answer = send(client, (namespace, name, uid), api, &desired.status).await?;
        self.known = answer.or(self.known.take());
        if desired.finish {
            let options =
                DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::uid(uid) };
            self.context.client.delete::<view::pod::Pod>(namespace, name, &options).await?;
        }
        Ok(())
    }
}

/// Brings the API's status to what it should be, if it is not; what it is then.
pub async fn send(
    client: &client::Client,
    (namespace, name, uid): (&str, &str, &str),
    api: &PodStatus,
    status: &PodStatus,
) -> Result<Option<(u64, PodStatus)>, client::Error> {
    let Some(changes) = patch(uid, api, status) else { return Ok(None) };
    let changes = Patch::Strategic(changes);
    let entry = client.patch::<view::pod::Pod>(namespace, name, "status", &changes).await?;
    let answer: Option<Pod> = serde_json::from_slice(&entry.bytes).ok();
    Ok(answer.map(|pod| (pod.metadata.revision(), pod.status)))
}
