//! Job: pods that run to their end, so many at a time, until so many have succeeded.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/job/>
//!
//! Every pod bears a finalizer until it is counted: first its uid is written into the status
//! (`uncountedTerminatedPods`), then the finalizer goes, then the counter grows. Whatever happens
//! in between, the next look goes on from there: no pod is lost and none counts twice.

mod backoff;
mod count;
mod finish;
mod orphans;
mod pods;
mod policy;
mod scale;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use client::Entry;
use futures::future::join;
use proto::indexes::Indexes;
use proto::kind::JOB;
use proto::time::Time;
use proto::view::job::{Job, JobStatus, MANAGER};
use proto::view::pod::Pod;
use proto::view::{Condition, ObjectReference};

use crate::plan::{Patch, Plan, Step, difference, reference};
use crate::run::{self, Controller, PlanError, Setup, Watches};
use crate::view::View;

pub const NAME: &str = "job-controller";

/// Looks after Jobs, and after pods that outlived theirs, until the future is dropped.
pub async fn run(setup: Setup) {
    join(run::run(Jobs, setup.clone()), run::run(orphans::Orphans, setup)).await;
}

/// Looks after Jobs.
pub struct Jobs;

/// So many pods are created, deleted or counted in one plan, at most.
const BURST: usize = 500;
const FINALIZER: &str = "batch.kubernetes.io/job-tracking";

impl Controller for Jobs {
    type Object = Job;
    const NAME: &'static str = NAME;
    const BATCH: Duration = Duration::from_secs(1);

    fn watches(watches: &mut Watches<Job>) {
        watches.owns::<Pod>(|job| Some(&job.spec.selector), pod_matters);
    }

    fn plan(&self, job: &Entry<Job>, view: &View, now: Time) -> Result<Plan, PlanError> {
        if !matches!(job.spec.managed_by.as_str(), "" | MANAGER) {
            return Ok(Plan::default());
        }
        if job.finished().is_some() {
            let mut left = view.owned_by::<Pod>(&job.metadata.uid);
            left.retain(|pod| pods::is_tracked(pod));
            let steps = pods::untrack(&left).into_iter().collect();
            return Ok(Plan { steps, again: None });
        }
        let selector = job.spec.selector.selector();
        let selector = selector.map_err(|source| PlanError::Selector { source })?;
        let claim = view.claim::<Pod>(&JOB, &job.metadata, &selector);
        let mut round = Round::new(job, claim.mine, now);
        round.sees_all = view.seen::<Pod>() >= job.metadata.revision();
        round.run()?;
        Ok(round.finish(pods::tracking(claim.steps, view)))
    }
}

/// Whether a change of a pod can change a Job's plan.
fn pod_matters(old: &Pod, new: &Pod) -> bool {
    old.status.phase != new.status.phase
        || old.is_ready() != new.is_ready()
        || old.metadata.finalizers != new.metadata.finalizers
        || backoff::restarts(old) != backoff::restarts(new)
}

/// One look at a Job: what its status is to become and what is to be done, in three parts.
struct Round<'a> {
    job: &'a Entry<Job>,
    pods: Vec<Arc<Entry<Pod>>>,
    now: Time,
    regarding: ObjectReference,
    /// The pods that are in `uncounted` and not to be seen are really gone: every change up to the
    /// Job's own has been seen.
    sees_all: bool,
    /// The status as it is to be.
    status: JobStatus,
    /// Why the Job ends, once it is known: `FailureTarget` or `SuccessCriteriaMet`.
    ending: Option<Condition>,
    /// Of an indexed Job, with what was found in this round.
    completed: Indexes,
    failed: Indexes,
    /// Succeeded and failed pods, counted or not.
    succeeded_pods: i64,
    failed_pods: i64,
    /// Follow the status: finalizers that go.
    untracked: Vec<Patch>,
    /// Follow those: creations and deletions.
    pods_steps: Vec<Step>,
    /// Follow all.
    events: Plan,
    again: Option<Time>,
}

impl<'a> Round<'a> {
    fn new(job: &'a Entry<Job>, pods: Vec<Arc<Entry<Pod>>>, now: Time) -> Round<'a> {
        let completions = job.spec.completions.map_or(0, i64::from);
        // What is beyond the completions of a Job that shrank is forgotten.
        let indexes = |text: &str| {
            let all = Indexes::parse(text, i64::MAX).unwrap_or_default();
            all.below(completions)
        };
        Round {
            job,
            pods,
            now,
            regarding: reference(&JOB, &job.metadata),
            sees_all: false,
            status: job.status.clone(),
            ending: None,
            completed: indexes(&job.status.completed_indexes),
            failed: indexes(job.status.failed_indexes.as_deref().unwrap_or_default()),
            succeeded_pods: 0,
            failed_pods: 0,
            untracked: Vec::new(),
            pods_steps: Vec::new(),
            events: Plan::default(),
            again: None,
        }
    }

    fn run(&mut self) -> Result<(), PlanError> {
        self.status.uncounted_terminated_pods.get_or_insert_default();
        self.count_untracked();
        self.find_ended();
        if self.status.start_time.is_none() && !self.job.spec.suspend {
            self.status.start_time = Some(self.now);
        }
        self.decide_ending();
        let deleting = self.job.metadata.deletion_timestamp.is_some();
        if self.ending.is_some() {
            self.end_active();
        } else {
            if !deleting {
                self.scale()?;
            }
            if self.is_complete() {
                self.ending = Some(self.condition(
                    "SuccessCriteriaMet",
                    "CompletionsReached",
                    "Reached expected number of succeeded pods".into(),
                ));
            } else if !deleting {
                self.note_suspension();
            }
        }
        self.track();
        self.conclude();
        Ok(())
    }

    fn active(&self) -> impl Iterator<Item = &Arc<Entry<Pod>>> {
        self.pods.iter().filter(|pod| pod.is_active())
    }

    fn condition(&self, kind: &str, reason: &str, message: String) -> Condition {
        Condition {
            kind: kind.into(),
            status: "True".into(),
            reason: reason.into(),
            message,
            last_probe_time: Some(self.now),
            last_transition_time: Some(self.now),
            ..Condition::default()
        }
    }

    fn look_again(&mut self, time: Time) {
        self.again = Some(self.again.map_or(time, |again| again.min(time)));
    }

    /// Claims, the status, finalizers, pods, events: in this order.
    fn finish(mut self, claims: Vec<Step>) -> Plan {
        let claimed = !claims.is_empty();
        let mut plan = Plan { steps: claims, again: None };
        if let Some(patch) = difference(&self.job.status, &self.status) {
            plan.status(&JOB, &self.job.metadata, patch);
        }
        if !self.untracked.is_empty() {
            plan.steps.push(Step::PatchEach(std::mem::take(&mut self.untracked)));
        }
        plan.steps.append(&mut self.pods_steps);
        plan.steps.append(&mut self.events.steps);
        let finished = self.status.conditions.len() != self.job.status.conditions.len()
            && self.status.conditions.iter().any(finish::is_final);
        if claimed {
            // Who adopts has to see what came of it.
            self.look_again(self.now.plus(Jobs::BATCH));
        } else if !plan.steps.is_empty() && !finished {
            self.look_again(self.now);
        }
        plan.again = self.again;
        plan
    }
}
