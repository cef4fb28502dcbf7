//! What is done for a pod's volumes between the decision and the binding: promises are written and
//! waited for. The decision itself was made before, in [`crate::storage`].

use std::time::Duration;

use client::{Client, Clock, Informer, Patch};
use proto::kind::PERSISTENT_VOLUME_CLAIM;
use proto::view::ObjectReference;
use proto::view::persistent_volume::PersistentVolume;
use proto::view::persistent_volume_claim::PersistentVolumeClaim;
use proto::volume::{BOUND_BY_CONTROLLER, SELECTED_NODE};
use serde_json::json;

use crate::storage::Promise;

/// Why a pod's volumes were not to be had after all.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("binding volumes: {0}")]
    Write(client::Error),
    #[error("binding volumes: provisioning failed for PVC \"{0}\"")]
    Refused(String),
    #[error("binding volumes: persistentvolumeclaim \"{0}\" not found")]
    Gone(String),
    #[error("binding volumes: context deadline exceeded")]
    Late,
}

/// Keeps the promises; ends when all claims are bound, or with the patience.
pub async fn keep(
    client: &Client,
    clock: &Clock,
    claims: &Informer<PersistentVolumeClaim>,
    node: &str,
    promises: &[Promise],
    patience: Duration,
) -> Result<(), Error> {
    let mut changes = claims.changes();
    for promise in promises {
        write(client, node, promise).await.map_err(Error::Write)?;
    }
    let wait = async {
        loop {
            let mut left = false;
            for promise in promises {
                left |= !is_kept(claims, node, promise)?;
            }
            if !left {
                return Ok(());
            }
            changes.next().await;
            while changes.try_next().is_some() {}
        }
    };
    clock.timeout(patience, wait).await.unwrap_or(Err(Error::Late))
}

/// With the revision that was looked at: who decides on something older is refused.
async fn write(client: &Client, node: &str, promise: &Promise) -> Result<(), client::Error> {
    match promise {
        Promise::Await { .. } => Ok(()),
        Promise::Bind { claim, volume } => {
            let reference = ObjectReference::of(&PERSISTENT_VOLUME_CLAIM, &claim.metadata);
            let meta = &volume.metadata;
            let patch = Patch::Merge(json!({
                "metadata": {
                    "resourceVersion": meta.resource_version,
                    "annotations": { BOUND_BY_CONTROLLER: "yes" },
                },
                "spec": { "claimRef": reference },
            }));
            client.patch::<PersistentVolume>("", &meta.name, "", &patch).await.map(drop)
        }
        Promise::Provision { claim } => {
            let meta = &claim.metadata;
            let patch = Patch::Merge(json!({ "metadata": {
                "resourceVersion": meta.resource_version,
                "annotations": { SELECTED_NODE: node },
            } }));
            let (namespace, name) = (&meta.namespace, &meta.name);
            client.patch::<PersistentVolumeClaim>(namespace, name, "", &patch).await.map(drop)
        }
    }
}

fn is_kept(
    claims: &Informer<PersistentVolumeClaim>,
    node: &str,
    promise: &Promise,
) -> Result<bool, Error> {
    let before = promise.claim();
    let meta = &before.metadata;
    let Some(claim) = claims.get(&meta.namespace, &meta.name) else {
        return Err(Error::Gone(meta.name.clone()));
    };
    if claim.metadata.uid != meta.uid || claim.is_going() {
        return Err(Error::Gone(meta.name.clone()));
    }
    if claim.is_bound() {
        return Ok(true);
    }
    // Whoever cannot make a volume for that node takes its name off the claim.
    let written = claim.metadata.revision() > meta.revision();
    let selected = claim.metadata.annotations.get(SELECTED_NODE);
    let provisioned = !matches!(promise, Promise::Bind { .. });
    let had = matches!(promise, Promise::Provision { .. })
        || before.metadata.annotations.contains_key(SELECTED_NODE);
    if provisioned && had && written && selected.is_none_or(|selected| selected != node) {
        return Err(Error::Refused(meta.name.clone()));
    }
    Ok(false)
}
