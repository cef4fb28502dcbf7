//! Keeps what stands for a static pod in the API: it is made, made anew when somebody deletes it
//! or when it is another pod's, and gets the status that the worker reports. The pod itself does
//! not depend on any of it.

use std::sync::Arc;

use client::{DeleteOptions, Entry};
use proto::view;
use tokio::sync::watch;

use super::Context;
use super::publish::{Desired, FIRST_DELAY, MAX_DELAY, send};
use crate::manifest::Manifest;
use crate::pod::{CONFIG_MIRROR, Pod, PodStatus};

/// Which static pod, and what the API has for it now.
#[derive(Clone)]
pub struct Mirror {
    pub manifest: Manifest,
    pub seen: watch::Receiver<Option<Arc<Entry<view::pod::Pod>>>>,
}

pub struct Task {
    context: Arc<Context>,
    mirror: Mirror,
    desired: watch::Receiver<Option<Arc<Desired>>>,
    /// What the API answered last, and at which revision.
    known: Option<(u64, PodStatus)>,
}

#[derive(Debug, PartialEq)]
enum Next {
    Create,
    Delete { uid: String },
    Report,
}

/// What the mirror needs before a status can be reported in it.
fn next(uid: &str, seen: Option<&view::pod::Pod>) -> Next {
    let Some(seen) = seen else { return Next::Create };
    let meta = &seen.metadata;
    let ours = meta.annotations.get(CONFIG_MIRROR).is_some_and(|hash| hash == uid);
    match ours && meta.deletion_timestamp.is_none() {
        true => Next::Report,
        false => Next::Delete { uid: meta.uid.clone() },
    }
}

/// Deletes it at once, whatever grace somebody gave it: nothing runs in it.
pub async fn delete(
    client: &client::Client,
    namespace: &str,
    name: &str,
    uid: &str,
) -> Result<(), client::Error> {
    let options = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::uid(uid) };
    client.delete::<view::pod::Pod>(namespace, name, &options).await
}

impl Task {
    pub fn new(
        context: Arc<Context>,
        mirror: Mirror,
        desired: watch::Receiver<Option<Arc<Desired>>>,
    ) -> Task {
        Task { context, mirror, desired, known: None }
    }

    pub async fn run(mut self) {
        let mut delay = FIRST_DELAY;
        loop {
            match self.once().await {
                Ok(()) => delay = FIRST_DELAY,
                // The node may not be registered yet, or the mirror not be seen as it is.
                Err(error) => {
                    let pod = &self.mirror.manifest.name;
                    tracing::warn!(%pod, %error, "cannot keep the mirror of a static pod yet");
                    self.context.clock.sleep(delay).await;
                    delay = (delay * 2).min(MAX_DELAY);
                    continue;
                }
            }
            let open = tokio::select! {
                changed = self.desired.changed() => changed.is_ok(),
                changed = self.mirror.seen.changed() => changed.is_ok(),
            };
            if !open {
                return;
            }
        }
    }

    async fn once(&mut self) -> Result<(), client::Error> {
        let seen = self.mirror.seen.borrow_and_update().clone();
        let desired = self.desired.borrow_and_update().clone();
        let Manifest { namespace, name, uid, .. } = &self.mirror.manifest;
        let client = &self.context.client;
        match next(uid, seen.as_ref().map(|entry| &entry.view)) {
            Next::Create => {
                let node = &self.context.own.name;
                let known = client.get::<view::node::Node>("", node).await?;
                let object = self.mirror.manifest.mirror(node, &known.view.metadata.uid);
                client.create::<view::pod::Pod>(namespace, &object).await.map(drop)
            }
            Next::Delete { uid } => delete(client, namespace, name, &uid).await,
            Next::Report => {
                let (Some(seen), Some(desired)) = (seen, desired) else { return Ok(()) };
                let Ok(object) = serde_json::from_slice::<Pod>(&seen.bytes) else { return Ok(()) };
                let revision = object.metadata.revision();
                let api = match &self.known {
                    Some((known, status)) if *known >= revision => status,
                    _ => &object.status,
                };
                let mut status = desired.status.clone();
                // It began when it was first told to have.
                status.start_time = api.start_time.or(status.start_time);
                let answer = send(client, (namespace, name, &object.metadata.uid), api, &status);
                self.known = answer.await?.or(self.known.take());
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_mirror_is_the_pods_own_or_goes() {
        let pod = |value| serde_json::from_value::<view::pod::Pod>(value).unwrap();
        let mirror = |hash: &str| json!({"uid": "u", "annotations": {CONFIG_MIRROR: hash}});
        let mut deleted = mirror("h");
        deleted["deletionTimestamp"] = json!("2020-01-01T00:00:00Z");
        let delete = || Next::Delete { uid: "u".into() };
        let table = [
            (None, Next::Create),
            (Some(mirror("h")), Next::Report),
            (Some(mirror("other")), delete()),
            (Some(deleted), delete()),
            (Some(json!({"uid": "u"})), delete()),
        ];
        for (seen, expected) in table {
            let seen = seen.map(|meta| pod(json!({ "metadata": meta })));
            assert_eq!(next("h", seen.as_ref()), expected, "{seen:?}");
        }
    }
}
