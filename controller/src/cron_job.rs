//! CronJob: a Job at each time of a schedule.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/>
//!
//! A Job is named for its time, so that a time has one Job whatever goes wrong; what the status
//! says of it follows from the Job.

mod history;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use client::{DeleteOptions, Entry, Propagation};
use proto::cron::{Schedule, Zone};
use proto::kind::{CRON_JOB, JOB};
use proto::time::Time;
use proto::view::ObjectReference;
use proto::view::cron_job::{CronJob, CronJobStatus};
use proto::view::job::Job;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::plan::{
    Create, Delete, Plan, Step, Target, Told, controller_reference, difference, reference,
};
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

/// Looks after CronJobs.
pub struct CronJobs {
    /// For schedules that name none.
    pub zone: Zone,
}

/// For when the Job was meant.
const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed starts than these are told of.
const MANY: u64 = 100;

impl Controller for CronJobs {
    type Object = CronJob;
    const NAME: &'static str = "cronjob-controller";

    fn watches(watches: &mut Watches<CronJob>) {
        watches
            .owns::<Job>(|_| None, |old, new| old.finished().is_some() != new.finished().is_some());
    }

    fn plan(&self, cron: &Entry<CronJob>, view: &View, now: Time) -> Result<Plan, PlanError> {
        let mut jobs = view.owned_by::<Job>(&cron.metadata.uid);
        jobs.retain(|job| {
            job.metadata.controller().is_some_and(|owner| owner.uid == cron.metadata.uid)
        });
        let mut round = Round {
            cron,
            jobs,
            view,
            now,
            regarding: reference(&CRON_JOB, &cron.metadata),
            status: cron.status.clone(),
            plan: Plan::default(),
            events: Plan::default(),
            starts: Vec::new(),
        };
        round.follow();
        if cron.metadata.deletion_timestamp.is_none() && !cron.spec.suspend {
            round.schedule(&self.zone)?;
        }
        round.clean_up();
        Ok(round.finish())
    }
}

/// One look at a CronJob.
struct Round<'a> {
    cron: &'a Entry<CronJob>,
    jobs: Vec<Arc<Entry<Job>>>,
    view: &'a View,
    now: Time,
    regarding: ObjectReference,
    /// The status as it is to be.
    status: CronJobStatus,
    plan: Plan,
    /// Follow the status.
    events: Plan,
    /// Follow those: what is replaced and what starts.
    starts: Vec<Step>,
}

impl Round<'_> {
    /// What became of the Jobs that were started.
    fn follow(&mut self) {
        for job in &self.jobs {
            let active = self.status.active.iter().position(|one| one.uid == job.metadata.uid);
            let meant = scheduled(self.cron, job);
            self.status.last_schedule_time = self.status.last_schedule_time.max(meant);
            match (active, job.finished()) {
                (Some(place), Some(condition)) => {
                    self.status.active.remove(place);
                    let (name, kind) = (&job.metadata.name, &condition.kind);
                    let message = format!("Saw completed job: {name}, condition: {kind}");
                    self.events.event(&self.regarding, "Normal", "SawCompletedJob", message);
                }
                (None, None) if meant.is_some() && job.metadata.deletion_timestamp.is_none() => {
                    self.status.active.push(ObjectReference::of(&JOB, &job.metadata));
                }
                _ => {}
            }
            if job.is_complete() {
                let ended = job.status.completion_time;
                self.status.last_successful_time = self.status.last_successful_time.max(ended);
            }
        }
        let exists = |uid: &str| self.jobs.iter().any(|job| job.metadata.uid == uid);
        let (known, missing): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.status.active).into_iter().partition(|one| exists(&one.uid));
        self.status.active = known;
        for job in missing {
            let ObjectReference { namespace, name, uid, .. } = job;
            let message = format!("Active job went missing: {name}");
            self.plan.steps.push(Step::Absent(Target { row: &JOB, namespace, name, uid }));
            self.events.event(&self.regarding, "Normal", "MissingJob", message);
        }
    }

    /// Starts what is due, and sees to be woken for what comes next.
    fn schedule(&mut self, local: &Zone) -> Result<(), PlanError> {
        let spec = &self.cron.spec;
        let zone = spec.time_zone.as_deref().map(|name| (name, Zone::named(name)));
        let zone = match zone {
            None => local.clone(),
            Some((_, Some(zone))) => zone,
            Some((name, None)) => {
                let message = format!("invalid timeZone: {name:?}: unknown time zone {name}");
                self.warn("UnknownTimeZone", message);
                return Ok(());
            }
        };
        let schedule = match Schedule::parse(&spec.schedule) {
            Ok(schedule) => schedule,
            Err(error) => {
                let message = format!("unparseable schedule: {:?} : {error}", spec.schedule);
                self.warn("UnparseableSchedule", message);
                return Ok(());
            }
        };
        let since = self.status.last_schedule_time.or(self.cron.metadata.creation_timestamp);
        let since = since.unwrap_or(self.now);
        let next = schedule.next(schedule.last(since, self.now, &zone).unwrap_or(since), &zone);
        let Some(next) = next else {
            let message = format!(
                "invalid schedule: {} : time difference between two schedules is less than 1 \
                 second",
                spec.schedule
            );
            self.warn("InvalidSchedule", message);
            return Ok(());
        };
        self.plan.look_again(next);
        let earliest = match spec.starting_deadline_seconds {
            Some(seconds) => since.max(before(self.now, seconds)),
            None => since,
        };
        match schedule.last(earliest, self.now, &zone) {
            Some(due) => self.start(due, missed(&schedule, earliest, self.now, &zone)),
            None => Ok(()),
        }
    }

    fn start(&mut self, due: Time, missed: u64) -> Result<(), PlanError> {
        let (cron, meta) = (self.cron, &self.cron.metadata);
        let name = job_name(cron, due);
        // Somebody else's, or it is about to be in the status.
        if self.view.get::<Job>(&meta.namespace, &name).is_some() {
            return Ok(());
        }
        if missed > MANY {
            let message = "too many missed start times. Set or decrease \
                           .spec.startingDeadlineSeconds or check clock skew";
            self.warn("TooManyMissedTimes", message.into());
        }
        match cron.spec.concurrency_policy.as_str() {
            "Forbid" if !self.status.active.is_empty() => {
                let message = "Not starting job because prior execution is running and \
                               concurrency policy is Forbid";
                self.events.event(&self.regarding, "Normal", "JobAlreadyActive", message.into());
                return Ok(());
            }
            "Replace" => self.replace(),
            _ => {}
        }
        let strangers = self
            .jobs
            .iter()
            .filter(|job| job.finished().is_none() && scheduled(cron, job).is_none());
        for job in strangers {
            let name = &job.metadata.name;
            let message = format!("Saw a job that the controller did not create or forgot: {name}");
            self.events.event(&self.regarding, "Warning", "UnexpectedJob", message);
        }
        if cron.spec.schedule.contains("TZ") {
            let message = format!(
                "CRON_TZ or TZ used in schedule {:?} is not officially supported, see \
                 https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more \
                 details",
                cron.spec.schedule
            );
            self.warn("UnsupportedSchedule", message);
        }
        let object = Arc::new(job(cron, &name, due)?);
        self.starts.push(Step::Create(Create {
            row: &JOB,
            namespace: meta.namespace.clone(),
            object,
            count: 1,
            told: Some(Told {
                created: Some(("SuccessfulCreate", "Created job ")),
                not_created: Some(("FailedCreate", "Error creating job: ")),
                ..Told::new(self.regarding.clone())
            }),
        }));
        Ok(())
    }

    fn replace(&mut self) {
        let active = std::mem::take(&mut self.status.active);
        let jobs = self.jobs.iter();
        let replaced: Vec<_> = jobs
            .filter(|job| active.iter().any(|one| one.uid == job.metadata.uid))
            .map(|job| self.delete(job))
            .collect();
        self.starts.extend(replaced);
    }

    /// Its pods go too.
    fn delete(&self, job: &Entry<Job>) -> Step {
        Step::Delete(Delete {
            target: Target::of(&JOB, &job.metadata),
            options: DeleteOptions {
                propagation: Some(Propagation::Background),
                ..DeleteOptions::uid(&job.metadata.uid)
            },
            told: Some(Told {
                deleted: Some(("SuccessfulDelete", "Deleted job ")),
                not_deleted: Some(("FailedDelete", "Deleted job: ")),
                ..Told::new(self.regarding.clone())
            }),
        })
    }

    fn warn(&mut self, reason: &'static str, message: String) {
        self.events.event(&self.regarding, "Warning", reason, message);
    }

    fn finish(mut self) -> Plan {
        if let Some(patch) = difference(&self.cron.status, &self.status) {
            self.plan.status(&CRON_JOB, &self.cron.metadata, patch);
        }
        self.plan.steps.append(&mut self.events.steps);
        if !self.starts.is_empty() {
            // What was started has to come into the status.
            self.plan.look_again(self.now);
        }
        self.plan.steps.append(&mut self.starts);
        self.plan
    }
}

fn before(now: Time, seconds: i64) -> Time {
    let span = Duration::from_secs(seconds.max(0) as u64);
    Time(now.0.saturating_sub(span).unwrap_or(now.0))
}

/// About how many times lie between two moments.
fn missed(schedule: &Schedule, since: Time, now: Time, zone: &Zone) -> u64 {
    let first = schedule.next(since, zone);
    let second = first.and_then(|first| schedule.next(first, zone));
    match (first, second) {
        (Some(first), Some(second)) if first <= now => {
            now.since(first).as_secs() / second.since(first).as_secs().max(1) + 1
        }
        _ => 0,
    }
}

fn job_name(cron: &CronJob, time: Time) -> String {
    format!("{}-{}", cron.metadata.name, time.0.as_second() / 60)
}

/// For when the Job was made by the CronJob's schedule, if it was.
fn scheduled(cron: &CronJob, job: &Job) -> Option<Time> {
    let time: Time = job.metadata.annotations.get(SCHEDULED)?.parse().ok()?;
    (job_name(cron, time) == job.metadata.name).then_some(time)
}

#[derive(Deserialize)]
struct Whole {
    spec: WholeSpec,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct WholeSpec {
    job_template: JobTemplate,
}

#[derive(Deserialize)]
struct JobTemplate {
    #[serde(default)]
    metadata: Value,
    spec: Value,
}

fn job(cron: &Entry<CronJob>, name: &str, time: Time) -> Result<Value, PlanError> {
    let meta = &cron.metadata;
    let whole = serde_json::from_slice::<Whole>(&cron.bytes)
        .map_err(|source| PlanError::Decode { kind: "CronJob", name: meta.name.clone(), source })?;
    let mut template = whole.spec.job_template;
    let zone = cron.spec.time_zone.as_deref().and_then(Zone::named).unwrap_or(Zone::UTC);
    let mut metadata = json!({
        "name": name,
        "namespace": meta.namespace,
        "ownerReferences": [controller_reference(&CRON_JOB, meta)],
    });
    for field in ["labels", "annotations"] {
        if let Some(value) = template.metadata.get_mut(field).filter(|value| !value.is_null()) {
            metadata[field] = value.take();
        }
    }
    metadata["annotations"][SCHEDULED] = zone.show(time).into();
    Ok(json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template.spec,
    }))
}
