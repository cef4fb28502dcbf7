//! Deployment: a ReplicaSet per version of the template, scaled so that the newest takes over.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/deployment/>

mod revision;
mod scale;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use client::{Change, Entry, Key};
use proto::kind::{DEPLOYMENT, REPLICA_SET};
use proto::time::Time;
use proto::view::ObjectReference;
use proto::view::deployment::Deployment;
use proto::view::pod::Pod;
use proto::view::replica_set::ReplicaSet;
use serde_json::json;

use crate::plan::{Create, Plan, Step, Told, reference};
use crate::run::{Controller, PlanError, Watches, owner_key};
use crate::view::View;
use revision::Set;
use status::Condition;

/// Looks after Deployments.
pub struct Deployments;

impl Controller for Deployments {
    type Object = Deployment;
    const NAME: &'static str = "deployment-controller";

    fn watches(watches: &mut Watches<Deployment>) {
        watches
            .owns::<ReplicaSet>(|deployment| Some(&deployment.spec.selector), |_, _| true)
            .maps::<Pod>(ended_pod);
    }

    fn plan(
        &self,
        deployment: &Entry<Deployment>,
        view: &View,
        now: Time,
    ) -> Result<Plan, PlanError> {
        let regarding = reference(&DEPLOYMENT, &deployment.metadata);
        if deployment.spec.selector.is_empty() {
            let mut plan = Plan::default();
            let message =
                "This deployment is selecting all pods. A non-empty selector is required.";
            plan.event(&regarding, "Warning", "SelectingAll", message.into());
            return Ok(plan);
        }
        let selector = deployment.spec.selector.selector();
        let selector = selector.map_err(|source| PlanError::Selector { source })?;
        let claim = view.claim::<ReplicaSet>(&DEPLOYMENT, &deployment.metadata, &selector);
        let mut rollout = Rollout::new(deployment, view, now, regarding, claim.mine)?;
        rollout.plan.steps = claim.steps;
        rollout.run()?;
        Ok(rollout.finish())
    }
}

/// Of pods only the end of one matters, and only to Deployments that recreate.
fn ended_pod(change: &Change<Pod>, view: &View) -> Vec<Key> {
    let Some(old) = &change.old else { return Vec::new() };
    let ended = |pod: &Option<Arc<Entry<Pod>>>| pod.as_ref().is_none_or(|pod| pod.is_terminal());
    if old.is_terminal() || !ended(&change.new) {
        return Vec::new();
    }
    let key = || {
        let set = owner_key(&REPLICA_SET, &old.metadata, old.metadata.controller()?)?;
        let set = view.get::<ReplicaSet>(&set.namespace, &set.name)?;
        let key = owner_key(&DEPLOYMENT, &set.metadata, set.metadata.controller()?)?;
        let deployment = view.get::<Deployment>(&key.namespace, &key.name)?;
        (deployment.spec.strategy.kind == "Recreate").then_some(key)
    };
    key().into_iter().collect()
}

/// One look at a Deployment: what its sets are to become, and its status.
struct Rollout<'a> {
    deployment: &'a Entry<Deployment>,
    view: &'a View,
    now: Time,
    regarding: ObjectReference,
    /// The set of the present template, if it exists or is about to.
    new: Option<Set>,
    /// All other sets, oldest first.
    old: Vec<Set>,
    /// The conditions as they are to be.
    conditions: Vec<Condition>,
    collisions: Option<i32>,
    /// The Deployment's own revision annotation, where it has to change.
    revision: Option<String>,
    plan: Plan,
}

impl<'a> Rollout<'a> {
    fn new(
        deployment: &'a Entry<Deployment>,
        view: &'a View,
        now: Time,
        regarding: ObjectReference,
        sets: Vec<Arc<Entry<ReplicaSet>>>,
    ) -> Result<Rollout<'a>, PlanError> {
        let mut old = sets.into_iter().map(Set::existing).collect::<Result<Vec<_>, _>>()?;
        old.sort_by(|a, b| a.age().cmp(&b.age()));
        let template = revision::template(deployment)?;
        let same = |set: &Set| revision::same_template(&set.template, &template);
        let new = old.iter().position(same).map(|index| old.remove(index));
        Ok(Rollout {
            deployment,
            view,
            now,
            regarding,
            new,
            old,
            conditions: deployment.status.conditions.clone(),
            collisions: deployment.status.collision_count,
            revision: None,
            plan: Plan::default(),
        })
    }

    fn run(&mut self) -> Result<(), PlanError> {
        if self.deployment.metadata.deletion_timestamp.is_some() {
            self.write_status(false);
            return Ok(());
        }
        status::note_pause(&mut self.conditions, &self.deployment.spec, self.now);
        self.adopt_revision();
        if self.deployment.spec.paused || self.is_scaling() {
            self.scale_proportionally();
            if self.deployment.spec.paused {
                self.clean_up();
            }
            self.write_status(false);
            return Ok(());
        }
        match self.deployment.spec.strategy.kind.as_str() {
            "Recreate" => self.recreate(),
            _ => self.roll(),
        }
    }

    fn roll(&mut self) -> Result<(), PlanError> {
        if self.new.is_none() && !self.create_new(self.room_for_new())? {
            return Ok(());
        }
        if !self.scale_new(self.room_for_new()) && !self.scale_old_down() && self.is_complete() {
            self.clean_up();
        }
        self.write_status(true);
        Ok(())
    }

    fn recreate(&mut self) -> Result<(), PlanError> {
        let active = self.old.iter_mut().filter(|set| set.replicas > 0);
        let scaled = active.map(|set| set.resize(0, self.deployment)).count() > 0;
        if scaled || self.old_pods_running() {
            self.write_status(true);
            return Ok(());
        }
        let replicas = self.deployment.replicas();
        if self.new.is_none() && !self.create_new(replicas)? {
            return Ok(());
        }
        if !self.scale_new(replicas) && self.is_complete() {
            self.clean_up();
        }
        self.write_status(true);
        Ok(())
    }

    fn old_pods_running(&self) -> bool {
        let pods = self.old.iter().filter_map(Set::uid);
        let mut pods = pods.flat_map(|uid| self.view.owned_by::<Pod>(uid));
        pods.any(|pod| !pod.is_terminal())
    }

    /// Plans the set of the present template. False where the plan ends there: its name is taken
    /// by another (the next plan tries another name), or the last attempt failed.
    fn create_new(&mut self, replicas: i32) -> Result<bool, PlanError> {
        let revision = revision::next(&self.old).to_string();
        let (set, object) = revision::make(self.deployment, &revision, self.collisions, replicas)?;
        let namespace = &self.deployment.metadata.namespace;
        if self.view.get::<ReplicaSet>(namespace, &set.name).is_some() {
            self.collisions = Some(self.collisions.unwrap_or(0) + 1);
            self.write_status(false);
            return Ok(false);
        }
        let name = set.name.clone();
        let failure = self.view.failure(&self.deployment.metadata);
        if let Some(failure) = &failure {
            let message =
                format!("Failed to create new replica set \"{name}\": {}", failure.message);
            self.progress("False", failure.reason, message);
            self.write_status(false);
        }
        self.plan.steps.push(Step::Create(Create {
            row: &REPLICA_SET,
            namespace: namespace.clone(),
            object: Arc::new(object),
            count: 1,
            told: Some(Told {
                not_created: Some(("ReplicaSetCreateError", "Failed to create new replica set: ")),
                ..Told::new(self.regarding.clone())
            }),
        }));
        if failure.is_some() {
            return Ok(false);
        }
        if replicas > 0 {
            let message = format!("Scaled up replica set {name} from 0 to {replicas}");
            self.plan.event(&self.regarding, "Normal", "ScalingReplicaSet", message);
        }
        if status::has_deadline(&self.deployment.spec) {
            let message = format!("Created new replica set \"{name}\"");
            self.progress("True", "NewReplicaSetCreated", message);
        }
        self.revision = self.own_revision(&revision);
        self.new = Some(set);
        Ok(true)
    }

    /// The existing set of the present template gets the newest revision and our annotations.
    fn adopt_revision(&mut self) {
        let next = revision::next(&self.old);
        let Some(new) = &mut self.new else { return };
        new.annotate(self.deployment, next);
        new.min_ready_seconds = self.deployment.spec.min_ready_seconds;
        let (name, revision) = (new.name.clone(), new.revision().to_string());
        self.revision = self.own_revision(&revision);
        let known = status::find(&self.conditions, status::PROGRESSING).is_some();
        if status::has_deadline(&self.deployment.spec) && !known {
            let message = format!("Found new replica set \"{name}\"");
            self.progress("True", "FoundNewReplicaSet", message);
        }
    }

    /// What the Deployment's revision annotation has to become, if it has to change.
    fn own_revision(&self, revision: &str) -> Option<String> {
        let known = self.deployment.metadata.annotations.get(revision::REVISION);
        (known.map(String::as_str) != Some(revision)).then(|| revision.to_string())
    }

    fn progress(&mut self, status: &str, reason: &str, message: String) {
        let condition = status::condition(status::PROGRESSING, status, reason, message, self.now);
        status::set(&mut self.conditions, condition);
    }

    /// Turns what became of the sets into steps, before the status that was planned.
    fn finish(self) -> Plan {
        let Rollout { deployment, regarding, new, old, revision, mut plan, .. } = self;
        let status_at = plan.steps.iter().position(is_status).unwrap_or(plan.steps.len());
        let tail = plan.steps.split_off(status_at);
        for set in new.into_iter().chain(old) {
            set.write(&regarding, &mut plan);
        }
        plan.steps.extend(tail);
        if let Some(revision) = revision {
            // Not guarded by a revision: the status was just written.
            let body = json!({ "metadata": { "annotations": { revision::REVISION: revision } } });
            plan.merge(&DEPLOYMENT, &deployment.metadata, body);
        }
        plan
    }
}

fn is_status(step: &Step) -> bool {
    matches!(step, Step::Patch(patch) if patch.subresource == "status")
}
