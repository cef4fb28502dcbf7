//! Finished Jobs go when their time to live is over.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/ttlafterfinished/>

use std::time::Duration;

use client::{DeleteOptions, Entry, Propagation};
use proto::kind::JOB;
use proto::time::Time;
use proto::view::job::Job;

use crate::plan::{Delete, Plan, Step, Target};
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

/// Deletes finished Jobs.
pub struct TtlAfterFinished;

impl Controller for TtlAfterFinished {
    type Object = Job;
    const NAME: &'static str = "ttl-after-finished-controller";

    fn watches(_watches: &mut Watches<Job>) {}

    fn plan(&self, job: &Entry<Job>, _view: &View, now: Time) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        let Some(due) = due(job).filter(|_| job.metadata.deletion_timestamp.is_none()) else {
            return Ok(plan);
        };
        if now < due {
            plan.look_again(due);
            return Ok(plan);
        }
        // Its time to live may just have been made longer: only this very revision goes.
        let options = DeleteOptions {
            uid: job.metadata.uid.clone(),
            resource_version: job.metadata.resource_version.clone(),
            propagation: Some(Propagation::Foreground),
            ..DeleteOptions::default()
        };
        let target = Target::of(&JOB, &job.metadata);
        plan.steps.push(Step::Delete(Delete { target, options, told: None }));
        Ok(plan)
    }
}

/// When the Job is to go.
fn due(job: &Job) -> Option<Time> {
    let seconds = job.spec.ttl_seconds_after_finished?;
    let finished = job.finished()?.last_transition_time?;
    Some(finished.plus(Duration::from_secs(seconds.max(0) as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn only_finished_ones_and_only_in_time() {
        let finished = json!([{"type": "Failed", "status": "True",
            "lastTransitionTime": "1970-01-01T00:00:10Z"}]);
        let leaving = json!("1970-01-01T00:00:11Z");
        let none = Value::Null;
        for (ttl, conditions, deleted, at, expected) in [
            (json!(5), none.clone(), &none, 99, (0, None)),
            (none.clone(), finished.clone(), &none, 99, (0, None)),
            (json!(5), finished.clone(), &none, 14, (0, Some(15))),
            (json!(5), finished.clone(), &none, 15, (1, None)),
            (json!(0), finished.clone(), &none, 10, (1, None)),
            (json!(5), finished, &leaving, 15, (0, None)),
        ] {
            let job = json!({"metadata": {"name": "j", "deletionTimestamp": deleted},
                "spec": {"ttlSecondsAfterFinished": ttl}, "status": {"conditions": conditions}});
            let job = Entry::decode(job.to_string().into()).unwrap();
            let view = View::default();
            let plan = TtlAfterFinished.plan(&job, &view, Time::from_unix(at)).unwrap();
            let (count, again) = expected;
            assert_eq!((plan.steps.len(), plan.again), (count, again.map(Time::from_unix)));
        }
    }
}
