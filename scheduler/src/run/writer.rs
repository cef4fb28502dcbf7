//! What was decided, on its way to the API server.

use std::collections::HashMap;
use std::sync::Arc;

use client::{Client, Clock, DeleteOptions, Error, Informer, Informers, Key, Patch, Recorder, Rng};
use futures::future::try_join_all;
use proto::kind;
use proto::view::persistent_volume_claim::PersistentVolumeClaim;
use proto::view::pod::Pod;
use proto::view::resource_claim::ResourceClaim;
use proto::view::{Condition, ObjectReference};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;

use crate::cycle::Unschedulable;
use crate::devices::{Claim, Grant};
use crate::explanation;
use crate::metrics::{ERROR, Metrics};
use crate::prebind;
use crate::preemption::Victims;
use crate::profile::{Profile, profile_of};
use crate::queue::Waited;
use crate::reservation::{self, Failure, Reservation};
use crate::snapshot::PodInfo;
use crate::storage::Promise;

/// Writes under way at once.
const WRITERS: usize = 32;

/// What a decision needs to be carried out.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    clock: Clock,
    /// By profile, under whose name it tells of its pods.
    profiles: Arc<HashMap<String, (Arc<Profile>, Recorder)>>,
    permits: Arc<Semaphore>,
    claims: Informer<PersistentVolumeClaim>,
    device_claims: Informer<ResourceClaim>,
    done: mpsc::UnboundedSender<Done>,
    metrics: Arc<Metrics>,
}

/// An attempt to schedule a pod, as far as it had come when a node was chosen.
#[derive(Clone, Copy)]
pub struct Attempt {
    pub begun: Instant,
    pub waited: Waited,
}

/// What a write came to, where that matters.
pub enum Done {
    NotBound(Key, Waited),
    /// The claim has its devices; as the API has it since.
    Allocated(Box<ResourceClaim>),
    /// All victims have been told to go. The plugins refused the pod before.
    Preempted {
        key: Key,
        plugins: Vec<&'static str>,
    },
    NotPreempted(Key),
}

/// What becomes of `status.nominatedNodeName`.
pub enum Nomination {
    AsItIs,
    Node(Arc<str>),
    Nowhere,
}

impl Writer {
    pub fn new(
        profiles: &[Arc<Profile>],
        client: Client,
        informers: &Informers,
        (clock, rng): (Clock, &Rng),
        done: mpsc::UnboundedSender<Done>,
        metrics: Arc<Metrics>,
    ) -> Writer {
        let recorder = |profile: &Arc<Profile>| {
            let (name, rng) = (&profile.name, rng.clone());
            let recorder = Recorder::new(client.clone(), clock.clone(), rng, name, "");
            (name.clone(), (Arc::clone(profile), recorder))
        };
        Writer {
            profiles: Arc::new(profiles.iter().map(recorder).collect()),
            permits: Arc::new(Semaphore::new(WRITERS)),
            claims: informers.of::<PersistentVolumeClaim>(),
            device_claims: informers.of::<ResourceClaim>(),
            client,
            clock,
            done,
            metrics,
        }
    }

    pub fn bind(
        &self,
        pod: Arc<PodInfo>,
        node: Arc<str>,
        promises: Vec<Promise>,
        grants: Vec<Grant>,
        attempt: Attempt,
    ) {
        let writer = self.clone();
        tokio::spawn(async move {
            if !promises.is_empty() {
                let patience =
                    writer.profile(&pod).map_or_else(Default::default, |own| own.args.bind_timeout);
                let (client, clock, claims) = (&writer.client, &writer.clock, &writer.claims);
                let kept = prebind::keep(client, clock, claims, &node, &promises, patience).await;
                if let Err(error) = kept {
                    writer.tell(&pod, &pod, "Warning", "FailedScheduling", error.to_string());
                    writer.not_bound(&pod, attempt);
                    return;
                }
            }
            let mut grants = grants;
            if let Err(failure) = writer.reserve(&pod, &node, &mut grants).await {
                let message = format!("running PreBind plugin \"DynamicResources\": {failure}");
                writer.tell(&pod, &pod, "Warning", "FailedScheduling", message);
                writer.reservation(&pod).undo(&grants, Some(&failure)).await;
                writer.not_bound(&pod, attempt);
                return;
            }
            let _permit = writer.permits.acquire().await;
            let path = format!("{}/binding", kind::POD.path(pod.namespace(), &pod.key.name));
            let binding = json!({
                "apiVersion": "v1",
                "kind": "Binding",
                "metadata": {"name": &*pod.key.name, "namespace": pod.namespace(), "uid": pod.uid()},
                "target": {"apiVersion": "v1", "kind": "Node", "name": &*node},
            });
            match writer.client.post(&path, &binding).await {
                Ok(_) => {
                    let message = format!("Successfully assigned {} to {node}", pod.key);
                    writer.tell(&pod, &pod, "Normal", "Scheduled", message);
                    writer.bound(&pod, attempt);
                }
                Err(error) => {
                    writer.reservation(&pod).undo(&grants, None).await;
                    writer.could_not_bind(&pod, &node, &error, attempt);
                }
            }
        });
    }

    fn reservation<'a>(&'a self, pod: &'a PodInfo) -> Reservation<'a> {
        let (client, clock, claims) = (&self.client, &self.clock, &self.device_claims);
        Reservation { client, clock, claims, pod }
    }

    /// Makes the claims that are still to be made, too.
    async fn reserve(
        &self,
        pod: &PodInfo,
        node: &str,
        grants: &mut [Grant],
    ) -> Result<(), Failure> {
        let reservation = self.reservation(pod);
        for grant in grants.iter_mut() {
            if grant.is_new() {
                grant.claim = reservation.make(&grant.claim).await?;
            }
            let written = reservation.write(grant).await?;
            if let Some(written) = written.filter(|_| grant.allocation.is_some()) {
                self.report(Done::Allocated(Box::new(written.view)));
            }
            if grant.is_new() {
                reservation.tell(grant).await?;
            }
        }
        let grants = &*grants;
        if !Reservation::waits(grants) {
            return Ok(());
        }
        let message = format!("waiting for binding conditions for device on node {node}");
        self.tell(pod, pod, "Normal", "BindingConditionsPending", message);
        reservation.ready(grants).await
    }

    /// Takes the devices of a claim back that are where its pod cannot go.
    pub fn deallocate(&self, claim: Claim) {
        let writer = self.clone();
        tokio::spawn(async move {
            let _permit = writer.permits.acquire().await;
            if let Err(error) = reservation::deallocate(&writer.client, &claim).await {
                tracing::warn!(claim = %Key::of(&claim.metadata), %error, "cannot deallocate");
            }
        });
    }

    /// Removes what was claimed for the pod's extended resources in vain.
    pub fn withdraw(&self, pod: Arc<PodInfo>, claim: Claim) {
        let writer = self.clone();
        tokio::spawn(async move {
            let _permit = writer.permits.acquire().await;
            writer.reservation(&pod).withdraw(&claim).await;
        });
    }

    fn could_not_bind(&self, pod: &PodInfo, node: &str, error: &Error, attempt: Attempt) {
        // A pod that is gone has nothing left to tell about.
        if !error.is_not_found() {
            tracing::warn!(pod = %pod.key, node, %error, "cannot bind");
            let message = format!("binding rejected: {error}");
            self.tell(pod, pod, "Warning", "FailedScheduling", message);
        }
        self.not_bound(pod, attempt);
    }

    fn bound(&self, pod: &PodInfo, Attempt { begun, waited }: Attempt) {
        let took = self.clock.instant().duration_since(begun);
        let (profile, since) = (profile_of(&pod.object), self.clock.now().since(waited.since));
        self.metrics.scheduled(profile, took, waited.attempts, since);
    }

    fn not_bound(&self, pod: &PodInfo, Attempt { begun, waited }: Attempt) {
        let took = self.clock.instant().duration_since(begun);
        self.metrics.attempt(profile_of(&pod.object), ERROR, took);
        self.report(Done::NotBound(pod.key.clone(), waited));
    }

    /// Writes the condition and the nomination, where they say something new, and the event.
    pub fn explain(&self, pod: &Arc<PodInfo>, refused: &Unschedulable, nomination: Nomination) {
        let message = explanation::sentence(refused);
        self.tell(pod, pod, "Warning", "FailedScheduling", message.clone());
        let known = Condition::find(&pod.object.status.conditions, "PodScheduled")
            .is_some_and(|condition| condition.status == "False" && condition.message == message);
        let mut status = json!({});
        match nomination {
            Nomination::AsItIs => {}
            Nomination::Node(node) => status["nominatedNodeName"] = json!(&*node),
            Nomination::Nowhere => status["nominatedNodeName"] = Value::Null,
        }
        if !known {
            status["conditions"] = json!([{
                "type": "PodScheduled",
                "status": "False",
                "reason": "Unschedulable",
                "message": message,
                "lastProbeTime": null,
                "lastTransitionTime": self.clock.now().to_string(),
                "observedGeneration": pod.object.metadata.generation,
            }]);
        }
        if status == json!({}) {
            return;
        }
        let (writer, pod) = (self.clone(), Arc::clone(pod));
        tokio::spawn(async move {
            let _permit = writer.permits.acquire().await;
            if let Err(error) = writer.patch_status(&pod, status).await {
                tracing::warn!(pod = %pod.key, %error, "cannot write why the pod has no node");
            }
        });
    }

    /// Tells the victims to go, and takes the nominations of displaced pods off them.
    pub fn preempt(
        &self,
        pod: Arc<PodInfo>,
        victims: &Victims,
        displaced: Vec<Arc<PodInfo>>,
        plugins: Vec<&'static str>,
    ) {
        let (writer, node) = (self.clone(), victims.node.clone());
        let mut victims = victims.pods.clone();
        victims.retain(|victim| !victim.object.is_terminating());
        tokio::spawn(async move {
            for other in displaced {
                let status = json!({ "nominatedNodeName": null });
                if let Err(error) = writer.patch_status(&other, status).await {
                    tracing::warn!(pod = %other.key, %error, "cannot take back a nomination");
                }
            }
            let all = victims.iter().map(|victim| writer.evict(&pod, victim, &node));
            let key = pod.key.clone();
            writer.report(match try_join_all(all).await {
                Ok(_) => Done::Preempted { key, plugins },
                Err(error) => {
                    tracing::warn!(pod = %key, %error, "cannot make room");
                    Done::NotPreempted(key)
                }
            });
        });
    }

    async fn evict(&self, pod: &PodInfo, victim: &PodInfo, node: &str) -> Result<(), Error> {
        let _permit = self.permits.acquire().await;
        let profile = profile_of(&pod.object);
        let condition = json!({
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "PreemptionByScheduler",
            "message": format!("{profile}: preempting to accommodate a higher priority pod"),
            "lastProbeTime": null,
            "lastTransitionTime": self.clock.now().to_string(),
            "observedGeneration": victim.object.metadata.generation,
        });
        self.patch_status(victim, json!({ "conditions": [condition] })).await?;
        let (namespace, name) = (victim.namespace(), &*victim.key.name);
        let only = DeleteOptions::uid(victim.uid());
        match self.client.delete::<Pod>(namespace, name, &only).await {
            // Another pod of that name has come in its place.
            Err(error) if error.is_not_found() || error.is_conflict() => Ok(()),
            Err(error) => Err(error),
            Ok(()) => {
                let message = format!("Preempted by pod {} on node {node}", pod.uid());
                self.tell(pod, victim, "Normal", "Preempted", message);
                Ok(())
            }
        }
    }

    /// A pod that is gone needs no status.
    async fn patch_status(&self, pod: &PodInfo, status: Value) -> Result<(), Error> {
        let patch = Patch::Strategic(json!({ "metadata": { "uid": pod.uid() }, "status": status }));
        let (namespace, name) = (pod.namespace(), &*pod.key.name);
        match self.client.patch::<Pod>(namespace, name, "status", &patch).await {
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(()),
        }
    }

    fn profile(&self, pod: &PodInfo) -> Option<&Arc<Profile>> {
        self.profiles.get(profile_of(&pod.object)).map(|(profile, _)| profile)
    }

    /// In the name of the profile that decides for `of`.
    fn tell(
        &self,
        of: &PodInfo,
        about: &PodInfo,
        kind: &'static str,
        reason: &str,
        message: String,
    ) {
        if let Some((_, recorder)) = self.profiles.get(profile_of(&of.object)) {
            let about = ObjectReference::of(&kind::POD, &about.object.metadata);
            recorder.event(&about, kind, reason, message);
        }
    }

    fn report(&self, done: Done) {
        // The receiver is gone only when the scheduler is.
        drop(self.done.send(done));
    }
}
