//! What a Deployment's status says: counts, and whether it is available and progressing.

use std::time::Duration;

use proto::kind::DEPLOYMENT;
use proto::time::Time;
use proto::view::deployment::{DeploymentSpec, DeploymentStatus};

use crate::deployment::Rollout;
use crate::deployment::revision::Set;
use crate::deployment::scale;
use crate::plan::difference;

pub(super) use proto::view::Condition;

pub(super) const PROGRESSING: &str = "Progressing";
const AVAILABLE: &str = "Available";
const REPLICA_FAILURE: &str = "ReplicaFailure";
const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const PAUSED: &str = "DeploymentPaused";

pub(super) fn condition(
    kind: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Time,
) -> Condition {
    Condition {
        kind: kind.into(),
        status: status.into(),
        reason: reason.into(),
        message,
        last_update_time: Some(now),
        last_transition_time: Some(now),
        ..Condition::default()
    }
}

pub(super) fn find<'a>(list: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    Condition::find(list, kind)
}

/// Puts a condition into the list, unless one with the same status and reason is there.
pub(super) fn set(list: &mut Vec<Condition>, mut condition: Condition) {
    if let Some(old) = find(list, &condition.kind) {
        if old.status == condition.status && old.reason == condition.reason {
            return;
        }
        if old.status == condition.status {
            condition.last_transition_time = old.last_transition_time;
        }
    }
    list.retain(|old| old.kind != condition.kind);
    list.push(condition);
}

pub(super) fn has_deadline(spec: &DeploymentSpec) -> bool {
    spec.progress_deadline_seconds.is_some_and(|seconds| seconds != i32::MAX)
}

/// A paused Deployment makes no progress, and need not.
pub(super) fn note_pause(list: &mut Vec<Condition>, spec: &DeploymentSpec, now: Time) {
    let reason = find(list, PROGRESSING).map_or("", |condition| &condition.reason);
    if !has_deadline(spec) || reason == TIMED_OUT {
        return;
    }
    let (reason, message) = match (spec.paused, reason == PAUSED) {
        (true, false) => (PAUSED, "Deployment is paused"),
        (false, true) => ("DeploymentResumed", "Deployment is resumed"),
        _ => return,
    };
    set(list, condition(PROGRESSING, "Unknown", reason, message.into(), now));
}

impl Rollout<'_> {
    fn counts(&self) -> DeploymentStatus {
        let sets = || self.new.iter().chain(&self.old);
        let sum = |count: fn(&Set) -> i32| sets().map(count).sum::<i32>();
        let available = sum(|set| set.status.available_replicas);
        DeploymentStatus {
            observed_generation: self.deployment.metadata.generation,
            replicas: sum(|set| set.status.replicas),
            updated_replicas: self.new.as_ref().map_or(0, |set| set.status.replicas),
            ready_replicas: sum(|set| set.status.ready_replicas),
            available_replicas: available,
            unavailable_replicas: (sum(|set| set.replicas) - available).max(0),
            terminating_replicas: Some(sum(|set| set.status.terminating_replicas.unwrap_or(0))),
            collision_count: self.collisions,
            conditions: Vec::new(),
        }
    }

    /// Whether every pod is of the new set and available.
    pub(super) fn is_complete(&self) -> bool {
        self.completes(&self.counts())
    }

    fn completes(&self, status: &DeploymentStatus) -> bool {
        let wanted = self.deployment.replicas();
        status.updated_replicas == wanted
            && status.replicas == wanted
            && status.available_replicas == wanted
            && self.deployment.status.observed_generation >= self.deployment.metadata.generation
    }

    /// Plans the status where it changed; `rolling` says whether progress is to be judged.
    pub(super) fn write_status(&mut self, rolling: bool) {
        let mut status = self.counts();
        let least = self.deployment.replicas() - scale::max_unavailable(self.deployment);
        let (value, reason, message) = if status.available_replicas >= least {
            ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        } else {
            (
                "False",
                "MinimumReplicasUnavailable",
                "Deployment does not have minimum availability.",
            )
        };
        set(&mut self.conditions, condition(AVAILABLE, value, reason, message.into(), self.now));
        if rolling {
            self.judge(&status);
        }
        status.conditions = self.conditions.clone();
        let meta = &self.deployment.metadata;
        if let Some(patch) = difference(&self.deployment.status, &status) {
            self.plan.status(&DEPLOYMENT, meta, patch);
        }
    }

    fn judge(&mut self, status: &DeploymentStatus) {
        if !has_deadline(&self.deployment.spec) {
            self.conditions.retain(|condition| condition.kind != PROGRESSING);
        }
        let current = find(&self.conditions, PROGRESSING).cloned();
        let rested = status.replicas == status.updated_replicas
            && current.as_ref().is_some_and(|condition| condition.reason == COMPLETE);
        if has_deadline(&self.deployment.spec) && !rested {
            self.judge_progress(status, current);
        }
        let sets = self.new.iter().chain(&self.old);
        let failure = sets
            .filter(|set| set.replicas > 0 || set.entry.is_some())
            .find_map(|set| find(&set.status.conditions, REPLICA_FAILURE))
            .filter(|condition| condition.status == "True")
            .cloned();
        match failure {
            Some(failure) => set(
                &mut self.conditions,
                Condition { last_update_time: failure.last_transition_time, ..failure },
            ),
            None => self.conditions.retain(|condition| condition.kind != REPLICA_FAILURE),
        }
    }

    fn judge_progress(&mut self, status: &DeploymentStatus, current: Option<Condition>) {
        let subject = match &self.new {
            Some(new) => format!("ReplicaSet \"{}\"", new.name),
            None => format!("Deployment \"{}\"", self.deployment.metadata.name),
        };
        let before = &self.deployment.status;
        let old_pods = |status: &DeploymentStatus| status.replicas - status.updated_replicas;
        let progressed = status.updated_replicas > before.updated_replicas
            || old_pods(status) < old_pods(before)
            || status.ready_replicas > before.ready_replicas
            || status.available_replicas > before.available_replicas;
        if self.completes(status) {
            let message = format!("{subject} has successfully progressed.");
            set(&mut self.conditions, condition(PROGRESSING, "True", COMPLETE, message, self.now));
        } else if progressed {
            let message = format!("{subject} is progressing.");
            let mut next = condition(PROGRESSING, "True", "ReplicaSetUpdated", message, self.now);
            // Replaced even if it says the same: the deadline counts from the last progress.
            if let Some(current) = current.filter(|current| current.status == "True") {
                next.last_transition_time = current.last_transition_time;
            }
            self.conditions.retain(|condition| condition.kind != PROGRESSING);
            self.conditions.push(next);
        } else if let Some(current) = current {
            self.judge_delay(&current, subject);
            return;
        }
        if let Some(deadline) = find(&self.conditions, PROGRESSING).and_then(|now| self.due(now)) {
            self.plan.look_again(deadline);
        }
    }

    /// No progress: has it been too long?
    fn judge_delay(&mut self, current: &Condition, subject: String) {
        let Some(due) = self.due(current) else { return };
        if self.now < due {
            self.plan.look_again(due);
            return;
        }
        let message = format!("{subject} has timed out progressing.");
        set(&mut self.conditions, condition(PROGRESSING, "False", TIMED_OUT, message, self.now));
    }

    /// When a lack of progress is to be reported; `None` when it need not be.
    fn due(&self, progressing: &Condition) -> Option<Time> {
        if [COMPLETE, TIMED_OUT, PAUSED].contains(&progressing.reason.as_str()) {
            return None;
        }
        let seconds = self.deployment.spec.progress_deadline_seconds?.max(0) as u64;
        // The deadline must have passed, and times in the status are whole seconds.
        Some(progressing.last_update_time?.plus(Duration::from_secs(seconds + 1)))
    }
}
