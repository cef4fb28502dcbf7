//! What is done for a pod's claims on devices between the decision and the binding: what each was given
//! and for whom is written, and what its drivers want to do first is waited for. The decision itself
//! was made before, in [`crate::devices`].

use std::sync::Arc;
use std::time::Duration;

use client::{Client, Clock, DeleteOptions, Entry, Error, Informer, Key, Patch};
use proto::view::pod::Pod;
use proto::view::resource_claim::{Consumer, FINALIZER, ResourceClaim};
use serde_json::{Value, json};

use crate::devices::{self, Claim, Grant, Readiness, readiness};
use crate::snapshot::PodInfo;

/// How long drivers may take (kube-scheduler: ten minutes).
const PATIENCE: Duration = Duration::from_secs(600);
/// Attempts at one claim that somebody else writes, too.
const ATTEMPTS: usize = 5;

/// Why a pod's devices were not to be had after all.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Write(Error),
    #[error("create claim for extended resources {0}: {1}")]
    Make(String, Error),
    #[error("update pod {0} ExtendedResourceClaimStatus: {1}")]
    Tell(Key, Error),
    #[error("claim {0} got allocated elsewhere in the meantime")]
    Taken(String),
    #[error("claim {0} got deleted in the meantime")]
    Gone(String),
    #[error("device binding timeout")]
    Late,
    #[error("claim {0} binding failed: a binding failure condition of its devices is true")]
    Refused(String),
}

/// Carries out grants.
pub struct Reservation<'a> {
    pub client: &'a Client,
    pub clock: &'a Clock,
    pub claims: &'a Informer<ResourceClaim>,
    pub pod: &'a PodInfo,
}

impl Reservation<'_> {
    /// Makes the claim, without its devices.
    pub async fn make(&self, claim: &Claim) -> Result<Claim, Failure> {
        let namespace = &claim.metadata.namespace;
        let made = self.client.create::<ResourceClaim>(namespace, &devices::object(claim)).await;
        let failed = |error| Failure::Make(Key::of(&claim.metadata).to_string(), error);
        made.map(Arc::new).map_err(failed)
    }

    /// Says in the pod's status which claim answers which of its extended resources.
    pub async fn tell(&self, grant: &Grant) -> Result<(), Failure> {
        let name = &grant.claim.metadata.name;
        let status = json!({ "resourceClaimName": name, "requestMappings": grant.answers });
        let told = self.status(status).await;
        told.map_err(|error| Failure::Tell(self.pod.key.clone(), error))
    }

    /// What the pod's status says of its extended resources.
    async fn status(&self, status: Value) -> Result<(), Error> {
        let patch = Patch::Strategic(json!({
            "metadata": { "uid": self.pod.uid() },
            "status": { "extendedResourceClaimStatus": status },
        }));
        let (namespace, name) = (self.pod.namespace(), &*self.pod.key.name);
        self.client.patch::<Pod>(namespace, name, "status", &patch).await.map(drop)
    }

    /// Removes the claim, with its devices, that was made for the pod, and what the pod's status says
    /// of it.
    pub async fn withdraw(&self, claim: &Claim) {
        let failed = |error: Error| {
            if !error.is_not_found() && !error.is_conflict() {
                let claim = Key::of(&claim.metadata);
                tracing::warn!(%claim, %error, "cannot remove a claim for extended resources");
            }
        };
        if let Err(error) = self.remove(claim).await {
            failed(error);
        }
        if let Err(error) = self.status(Value::Null).await {
            failed(error);
        }
    }

    async fn remove(&self, claim: &Claim) -> Result<(), Error> {
        let meta = &claim.metadata;
        let (namespace, name) = (&meta.namespace, &meta.name);
        let patch = Patch::Strategic(json!({ "metadata": {
            "uid": meta.uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER],
        } }));
        self.patch(namespace, name, "", &patch).await?;
        let only = DeleteOptions::uid(&meta.uid);
        self.client.delete::<ResourceClaim>(namespace, name, &only).await
    }

    /// Writes the allocation, if there is one, and that the claim is the pod's; the finalizer first,
    /// so that no claim goes without giving its devices back. Answers with what was written, if
    /// anything was.
    pub async fn write(&self, grant: &Grant) -> Result<Option<Entry<ResourceClaim>>, Failure> {
        let meta = &grant.claim.metadata;
        let consumer = Consumer::pod(&self.pod.object.metadata);
        let Some(allocation) = &grant.allocation else {
            if grant.claim.is_reserved_for(&self.pod.object) {
                return Ok(None);
            }
            // Refused where it is no longer allocated.
            let status = json!({ "reservedFor": [consumer] });
            let patch =
                Patch::Strategic(json!({ "metadata": { "uid": meta.uid }, "status": status }));
            let written = self.patch(&meta.namespace, &meta.name, "status", &patch).await;
            return written.map(Some).map_err(Failure::Write);
        };
        let mut allocation = allocation.clone();
        allocation.allocation_timestamp = Some(self.clock.now());
        let status = json!({ "allocation": allocation, "reservedFor": [consumer] });
        let mut latest = None;
        for _ in 0..ATTEMPTS {
            let known: &Entry<ResourceClaim> = latest.as_ref().unwrap_or(&grant.claim);
            match self.allocate(known, &status).await {
                Ok(written) => return Ok(Some(written)),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(Failure::Write(error)),
            }
            let (namespace, name) = (&meta.namespace, &meta.name);
            let now = self.client.get::<ResourceClaim>(namespace, name).await;
            let now = now.map_err(Failure::Write)?;
            let key = || Key::of(meta).to_string();
            if now.metadata.uid != meta.uid || now.metadata.deletion_timestamp.is_some() {
                return Err(Failure::Gone(key()));
            }
            if now.status.allocation.is_some() {
                return Err(Failure::Taken(key()));
            }
            latest = Some(now);
        }
        Err(Failure::Taken(Key::of(meta).to_string()))
    }

    async fn allocate(
        &self,
        claim: &Entry<ResourceClaim>,
        status: &Value,
    ) -> Result<Entry<ResourceClaim>, Error> {
        let meta = &claim.metadata;
        let mut revision = meta.resource_version.clone();
        if !meta.finalizers.iter().any(|known| known == FINALIZER) {
            let mut finalizers = meta.finalizers.clone();
            finalizers.push(FINALIZER.into());
            let patch = Patch::Merge(json!({ "metadata": {
                "resourceVersion": revision, "finalizers": finalizers,
            } }));
            let written = self.patch(&meta.namespace, &meta.name, "", &patch).await?;
            revision = written.metadata.resource_version.clone();
        }
        let patch = Patch::Merge(json!({
            "metadata": { "resourceVersion": revision },
            "status": status,
        }));
        self.patch(&meta.namespace, &meta.name, "status", &patch).await
    }

    async fn patch(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        patch: &Patch,
    ) -> Result<Entry<ResourceClaim>, Error> {
        self.client.patch::<ResourceClaim>(namespace, name, subresource, patch).await
    }

    /// Whether drivers want to do something before the pod is bound.
    pub fn waits(grants: &[Grant]) -> bool {
        let allocations = grants.iter().filter_map(|grant| {
            grant.allocation.as_ref().or(grant.claim.status.allocation.as_ref())
        });
        let mut results = allocations.flat_map(|allocation| &allocation.devices.results);
        results.any(|result| !result.binding_conditions.is_empty())
    }

    /// Until drivers say that all is ready.
    pub async fn ready(&self, grants: &[Grant]) -> Result<(), Failure> {
        let mut changes = self.claims.changes();
        let wait = async {
            loop {
                let mut waits = false;
                for grant in grants {
                    waits |= !self.is_ready(grant)?;
                }
                if !waits {
                    return Ok(());
                }
                changes.next().await;
                while changes.try_next().is_some() {}
            }
        };
        self.clock.timeout(PATIENCE, wait).await.unwrap_or(Err(Failure::Late))
    }

    fn is_ready(&self, grant: &Grant) -> Result<bool, Failure> {
        let key = Key::of(&grant.claim.metadata);
        let claim = self.claims.get(&key.namespace, &key.name);
        let claim = claim.filter(|claim| claim.metadata.uid == grant.claim.metadata.uid);
        let claim = match claim {
            Some(claim) => claim,
            // That it is there is still on its way to us.
            None if grant.is_new() => return Ok(false),
            None => return Err(Failure::Gone(key.to_string())),
        };
        match readiness(&claim) {
            // What we wrote is still on its way to us.
            _ if claim.status.allocation.is_none() => Ok(false),
            Readiness::Ready => Ok(true),
            Readiness::Waiting => Ok(false),
            Readiness::Failed => Err(Failure::Refused(key.to_string())),
        }
    }

    /// The pod does not go there: its claims are not reserved for it any more, and those that drivers
    /// did not get ready are given back.
    pub async fn undo(&self, grants: &[Grant], why: Option<&Failure>) {
        let back = matches!(why, Some(Failure::Late | Failure::Refused(_)));
        for grant in grants {
            let meta = &grant.claim.metadata;
            if grant.is_new() {
                // One without a uid was not made.
                if !meta.uid.is_empty() {
                    self.withdraw(&grant.claim).await;
                }
                continue;
            }
            let consumer = json!([{ "$patch": "delete", "uid": self.pod.uid() }]);
            let mut status = json!({ "reservedFor": consumer });
            if back && grant.allocation.is_some() {
                status = json!({ "reservedFor": null, "allocation": null, "devices": null });
            }
            let body = json!({ "metadata": { "uid": meta.uid }, "status": status });
            let patch = Patch::Strategic(body);
            let written = self.patch(&meta.namespace, &meta.name, "status", &patch).await;
            if let Err(error) = written.map(drop)
                && !error.is_not_found()
            {
                tracing::warn!(claim = %Key::of(meta), %error, "cannot take back a reservation");
            }
        }
    }
}

/// Takes the devices of a claim back that nobody uses.
pub async fn deallocate(client: &Client, claim: &Entry<ResourceClaim>) -> Result<(), Error> {
    let meta = &claim.metadata;
    let patch = Patch::Merge(json!({
        "metadata": { "resourceVersion": meta.resource_version },
        "status": { "allocation": null, "reservedFor": null, "devices": null },
    }));
    client.patch::<ResourceClaim>(&meta.namespace, &meta.name, "status", &patch).await.map(drop)
}
