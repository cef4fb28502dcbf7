//! Leader election on a Lease: of several copies of a component one works at a time. A leader
//! that cannot renew stops before anyone else may start; one that ends in order gives the Lease
//! back, so that the next one need not wait.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use proto::exposition::Text;
use proto::time::MicroTime;
use proto::view::lease::{Lease, LeaseSpec};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{Client, Clock, Entry, Error, Rng};

/// How long others wait after the last renewal they saw.
const LEASE_DURATION: Duration = Duration::from_secs(15);
/// How long a leader tries to renew before it stops.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
const RETRY_PERIOD: Duration = Duration::from_secs(2);
const JITTER: f64 = 1.2;
/// How much longer than its Lease lasts a leader may go without renewing before it is unwell.
const STUCK: Duration = Duration::from_secs(20);

/// Which Lease is fought over.
#[derive(Clone, Debug)]
pub struct LeaseName {
    pub namespace: String,
    pub name: String,
}

impl LeaseName {
    /// A Lease in `kube-system`, as upstream's components use.
    pub fn system(name: &str) -> LeaseName {
        LeaseName { namespace: "kube-system".into(), name: name.into() }
    }
}

/// Who stands for election, and for which Lease.
pub struct Candidate {
    pub lease: LeaseName,
    pub identity: String,
    pub standing: Standing,
}

impl Candidate {
    pub fn new(lease: LeaseName, identity: String) -> Candidate {
        Candidate { lease, identity, standing: Standing::default() }
    }
}

/// How a candidate stands, for those who look at it from outside. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Standing(Arc<Mutex<Option<Instant>>>);

impl Standing {
    pub fn is_leader(&self) -> bool {
        self.0.lock().is_some()
    }

    /// Whether a leader has renewed lately. One that neither did nor gave up is stuck.
    pub fn is_well(&self, clock: &Clock) -> bool {
        let renewed = *self.0.lock();
        renewed.is_none_or(|at| clock.instant().duration_since(at) <= LEASE_DURATION + STUCK)
    }

    /// `leader_election_master_status`.
    pub fn write(&self, lease: &str, text: &mut Text) {
        let help = "[ALPHA] 1 for who holds the Lease, 0 for who waits for it";
        text.gauge("leader_election_master_status", help)
            .sample(&[("name", lease)], f64::from(u8::from(self.is_leader())));
    }
}

/// The leader could not renew its Lease in time; its work was stopped.
#[derive(Debug, thiserror::Error)]
#[error("leader election lost: lease {namespace}/{name} was not renewed in time")]
pub struct Lost {
    pub namespace: String,
    pub name: String,
}

struct Election<'a> {
    client: &'a Client,
    clock: &'a Clock,
    rng: &'a Rng,
    candidate: &'a Candidate,
    /// The Lease as last seen, and when by our own clock: other machines' clocks are not trusted.
    seen: Option<(Entry<Lease>, Instant)>,
}

/// Waits to become leader, then runs `task` while renewing. When `shutdown` is cancelled, the
/// token given to the task is, the task is awaited and the Lease released. Returns early when the
/// task ends by itself. When the Lease is lost, the task is dropped where it stands.
pub async fn lead<F: Future>(
    client: Client,
    clock: Clock,
    rng: Rng,
    candidate: Candidate,
    shutdown: CancellationToken,
    task: impl FnOnce(CancellationToken) -> F,
) -> Result<Option<F::Output>, Lost> {
    let Candidate { lease, identity, standing } = &candidate;
    let mut election =
        Election { client: &client, clock: &clock, rng: &rng, candidate: &candidate, seen: None };
    tokio::select! {
        () = election.acquire() => {}
        () = shutdown.cancelled() => return Ok(None),
    }
    tracing::info!(lease = %lease.name, %identity, "became leader");
    let mut working = std::pin::pin!(task(shutdown.clone()));
    let outcome = tokio::select! {
        output = &mut working => Ok(Some(output)),
        () = election.renew() => Err(Lost { namespace: lease.namespace.clone(), name: lease.name.clone() }),
    };
    if outcome.is_ok() {
        election.release().await;
    }
    *standing.0.lock() = None;
    outcome
}

impl Election<'_> {
    async fn acquire(&mut self) {
        loop {
            match self.try_hold().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(lease = %self.candidate.lease.name, %error, "cannot become leader yet");
                }
            }
            self.clock.sleep(self.rng.jitter(RETRY_PERIOD, JITTER)).await;
        }
    }

    /// Renews until that fails for too long or someone else holds the Lease.
    async fn renew(&mut self) {
        loop {
            self.clock.sleep(RETRY_PERIOD).await;
            let deadline = self.clock.instant() + RENEW_DEADLINE;
            loop {
                let left = deadline.duration_since(self.clock.instant());
                let clock = self.clock.clone();
                match clock.timeout(left, self.try_hold()).await {
                    Ok(Ok(true)) => break,
                    Ok(Ok(false)) => return,
                    Ok(Err(error)) => {
                        tracing::warn!(lease = %self.candidate.lease.name, %error, "cannot renew the lease");
                    }
                    Err(_) => return,
                }
                if self.clock.instant() >= deadline {
                    return;
                }
                self.clock.sleep(RETRY_PERIOD).await;
            }
        }
    }

    /// Creates, takes or renews the Lease. False: someone else holds it.
    async fn try_hold(&mut self) -> Result<bool, Error> {
        // A holder knows what it wrote last and need not read it.
        if let Some((held, _)) = &self.seen
            && held.spec.holder_identity == self.candidate.identity
        {
            match self.write(held.clone()).await {
                Err(error) if error.is_conflict() || error.is_not_found() => {}
                other => return other.map(|()| true),
            }
        }
        let LeaseName { namespace, name } = &self.candidate.lease;
        let current = match self.client.get::<Lease>(namespace, name).await {
            Ok(current) => current,
            Err(error) if error.is_not_found() => {
                let object = self.object(json!({ "name": name, "namespace": namespace }), 0, None);
                let made = self.client.create::<Lease>(namespace, &object).await?;
                self.hold(made);
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        if !self.seen.as_ref().is_some_and(|(seen, _)| seen.spec == current.spec) {
            self.seen = Some((current.clone(), self.clock.instant()));
        }
        let holder = &current.spec.holder_identity;
        if *holder != self.candidate.identity && !holder.is_empty() && !self.expired() {
            return Ok(false);
        }
        match self.write(current).await {
            // Someone was faster; the next try sees who.
            Err(error) if error.is_conflict() => Ok(false),
            other => other.map(|()| true),
        }
    }

    /// Makes the Lease, as it was seen, ours from now on.
    async fn write(&mut self, current: Entry<Lease>) -> Result<(), Error> {
        let spec = &current.spec;
        let ours = spec.holder_identity == self.candidate.identity;
        let acquired = if ours { spec.acquire_time } else { None };
        let transitions = spec.lease_transitions + i32::from(!ours);
        let metadata = current.value()["metadata"].take();
        let object = self.object(metadata, transitions, acquired);
        let LeaseName { namespace, name } = &self.candidate.lease;
        let held = self.client.update::<Lease>(namespace, name, "", &object).await?;
        self.hold(held);
        Ok(())
    }

    fn hold(&mut self, held: Entry<Lease>) {
        let now = self.clock.instant();
        self.seen = Some((held, now));
        *self.candidate.standing.0.lock() = Some(now);
    }

    fn expired(&self) -> bool {
        let Some((lease, at)) = &self.seen else { return false };
        let said = lease.spec.lease_duration_seconds.unwrap_or(0).max(0) as u64;
        *at + Duration::from_secs(said) < self.clock.instant()
    }

    fn object(&self, metadata: Value, transitions: i32, acquired: Option<MicroTime>) -> Value {
        let now = MicroTime(self.clock.now());
        let spec = LeaseSpec {
            holder_identity: self.candidate.identity.clone(),
            lease_duration_seconds: Some(LEASE_DURATION.as_secs() as i32),
            acquire_time: Some(acquired.unwrap_or(now)),
            renew_time: Some(now),
            lease_transitions: transitions,
        };
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": metadata, "spec": spec,
        })
    }

    /// Gives the Lease back, if it is still ours.
    async fn release(&mut self) {
        let Some((lease, _)) = self.seen.take() else { return };
        let now = MicroTime(self.clock.now());
        let mut object = lease.value();
        let spec = LeaseSpec {
            holder_identity: String::new(),
            lease_duration_seconds: Some(1),
            acquire_time: Some(now),
            renew_time: Some(now),
            lease_transitions: lease.spec.lease_transitions,
        };
        object["spec"] = json!(spec);
        let LeaseName { namespace, name } = &self.candidate.lease;
        let write = self.client.update::<Lease>(namespace, name, "", &object);
        match self.clock.timeout(RETRY_PERIOD, write).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(%name, %error, "the lease was not released"),
            Err(_) => tracing::debug!(%name, "the lease was not released in time"),
        }
    }
}
