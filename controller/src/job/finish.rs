//! Whether the Job ends, and why; and its conditions.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/job/#job-termination-and-cleanup>

use std::time::Duration;

use proto::view::Condition;

use super::policy::{self, Verdict};
use super::{BURST, Round, backoff, pods};

/// Where the spec says nothing.
const BACKOFF_LIMIT: i32 = 6;

pub(super) fn is_final(condition: &Condition) -> bool {
    matches!(condition.kind.as_str(), "Complete" | "Failed")
}

impl Round<'_> {
    /// Why the Job ends, before it has as many successes as it wants. What was once decided stays.
    pub(super) fn decide_ending(&mut self) {
        let decided = ["SuccessCriteriaMet", "FailureTarget"].iter().find_map(|kind| {
            let found = Condition::find(&self.status.conditions, kind)?;
            (found.status == "True").then(|| found.clone())
        });
        self.ending = decided
            .or_else(|| {
                let message = self.failed_by_policy()?;
                Some(self.condition("FailureTarget", "PodFailurePolicy", message))
            })
            .or_else(|| {
                let (reason, message) = self.limit_exceeded()?;
                Some(self.condition("FailureTarget", reason, message.into()))
            })
            .or_else(|| {
                let policy = self.job.spec.success_policy.as_ref();
                let rule = policy::success(policy?, &self.completed)?;
                let message = format!("Matched rules at index {rule}");
                Some(self.condition("SuccessCriteriaMet", "SuccessPolicy", message))
            });
    }

    fn failed_by_policy(&self) -> Option<String> {
        let policy = self.job.spec.pod_failure_policy.as_ref()?;
        let failed = self.pods.iter().filter(|pod| pod.status.phase == "Failed");
        failed.map(|pod| policy::verdict(policy, pod)).find_map(|verdict| match verdict {
            Verdict::FailJob(message) => Some(message),
            _ => None,
        })
    }

    fn limit_exceeded(&mut self) -> Option<(&'static str, &'static str)> {
        let spec = &self.job.spec;
        let limit = i64::from(spec.backoff_limit.unwrap_or(BACKOFF_LIMIT));
        if self.failed_pods > limit || self.restarted_too_often(limit) {
            let message = "Job has reached the specified backoff limit";
            return Some(("BackoffLimitExceeded", message));
        }
        if let (Some(seconds), Some(start), false) =
            (spec.active_deadline_seconds, self.status.start_time, spec.suspend)
        {
            let deadline = start.plus(Duration::from_secs(seconds.max(0) as u64));
            if self.now >= deadline {
                let message = "Job was active longer than specified deadline";
                return Some(("DeadlineExceeded", message));
            }
            self.look_again(deadline);
        }
        spec.backoff_limit_per_index?;
        let failed = self.failed.count();
        if spec.max_failed_indexes.is_some_and(|most| failed > i64::from(most)) {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            return Some(("MaxFailedIndexesExceeded", message));
        }
        let all = spec.completions.map_or(0, i64::from);
        let over = failed > 0 && failed + self.completed.count() >= all;
        over.then_some(("FailedIndexes", "Job has failed indexes"))
    }

    /// Containers that are started again in their pods count as failures too.
    fn restarted_too_often(&self, limit: i64) -> bool {
        if self.job.spec.template.spec.restart_policy != "OnFailure" {
            return false;
        }
        let living = self.pods.iter();
        let living = living.filter(|pod| matches!(&*pod.status.phase, "Running" | "Pending"));
        let restarts: i64 = living.map(|pod| backoff::restarts(pod)).sum();
        restarts > 0 && restarts >= limit
    }

    /// The pods of a Job that ends go.
    pub(super) fn end_active(&mut self) {
        let mut active: Vec<_> = self.active().cloned().collect();
        active.truncate(BURST);
        self.delete(&active);
    }

    pub(super) fn is_complete(&self) -> bool {
        let enough = match self.job.spec.completions {
            Some(completions) => self.succeeded_pods >= i64::from(completions),
            None => self.succeeded_pods > 0,
        };
        enough && self.active().next().is_none()
    }

    pub(super) fn note_suspension(&mut self) {
        let suspended = Condition::is_true(&self.status.conditions, "Suspended");
        if suspended == self.job.spec.suspend {
            return;
        }
        let (status, condition_reason, reason, message) = match suspended {
            false => ("True", "JobSuspended", "Suspended", "Job suspended"),
            true => ("False", "JobResumed", "Resumed", "Job resumed"),
        };
        let mut condition = self.condition("Suspended", condition_reason, message.into());
        condition.status = status.into();
        match self.status.conditions.iter_mut().find(|known| known.kind == "Suspended") {
            Some(known) => *known = condition,
            None => self.status.conditions.push(condition),
        }
        if suspended {
            self.status.start_time = Some(self.now);
        }
        self.events.event(&self.regarding, "Normal", reason, message.into());
    }

    /// First the interim condition; the final one when every pod has ended and is counted.
    pub(super) fn conclude(&mut self) {
        let Some(ending) = self.ending.clone() else { return };
        if !Condition::is_true(&self.status.conditions, &ending.kind) {
            self.status.conditions.push(ending.clone());
        }
        let uncounted = self.status.uncounted_terminated_pods.clone().unwrap_or_default();
        let living = self.pods.iter().any(|pod| !pod.is_terminal());
        let tracked = self.pods.iter().any(|pod| pods::is_tracked(pod));
        let left = !uncounted.succeeded.is_empty() || !uncounted.failed.is_empty();
        if living || tracked || left {
            return;
        }
        self.status.start_time = self.status.start_time.or(Some(self.now));
        let complete = ending.kind == "SuccessCriteriaMet";
        let kind = if complete { "Complete" } else { "Failed" };
        let condition = self.condition(kind, &ending.reason, ending.message.clone());
        self.status.conditions.push(condition);
        let completions = self.job.spec.completions;
        if !complete {
            let reason = policy::known_reason(&ending.reason);
            self.events.event(&self.regarding, "Warning", reason, ending.message);
            return;
        }
        self.status.completion_time = Some(self.now);
        if completions.is_some_and(|completions| self.status.succeeded > completions) {
            let message = "Too many succeeded pods".into();
            self.events.event(&self.regarding, "Warning", "TooManySucceededPods", message);
        }
        self.events.event(&self.regarding, "Normal", "Completed", "Job completed".into());
    }
}
