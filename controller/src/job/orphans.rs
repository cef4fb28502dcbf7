//! Pods that outlived their Job: nobody will count them, so our finalizer must not hold them.

use client::{Change, Entry, Key};
use proto::kind::JOB;
use proto::time::Time;
use proto::view::job::Job;
use proto::view::pod::Pod;

use super::pods;
use crate::plan::{Plan, Step, Target};
use crate::run::{Controller, PlanError, Watches, owner_key};
use crate::view::View;

/// Looks after tracked pods without a Job.
pub struct Orphans;

impl Controller for Orphans {
    type Object = Pod;
    const NAME: &'static str = "job-orphans-controller";

    fn watches(watches: &mut Watches<Pod>) {
        watches.maps::<Job>(|change, view| match living(change) {
            true => Vec::new(),
            false => tracked_by(change, view),
        });
    }

    fn plan(&self, pod: &Entry<Pod>, view: &View, _now: Time) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        if !pods::is_tracked(pod) {
            return Ok(plan);
        }
        let meta = &pod.metadata;
        match meta.controller() {
            Some(owner) => {
                let Some(key) = owner_key(&JOB, meta, owner) else { return Ok(plan) };
                let job = view.get::<Job>(&key.namespace, &key.name);
                if job.is_some_and(|job| job.metadata.uid == owner.uid) {
                    return Ok(plan);
                }
                plan.steps.push(Step::Absent(Target {
                    row: &JOB,
                    namespace: meta.namespace.clone(),
                    name: owner.name.clone(),
                    uid: owner.uid.clone(),
                }));
            }
            None if is_wanted(pod, view) => return Ok(plan),
            None => {}
        }
        // Refused if a Job adopts it in between.
        plan.steps.push(Step::Patch(pods::released(pod)));
        Ok(plan)
    }
}

fn living(change: &Change<Job>) -> bool {
    change.new.as_ref().is_some_and(|job| can_adopt(job))
}

fn can_adopt(job: &Job) -> bool {
    job.metadata.deletion_timestamp.is_none() && job.finished().is_none()
}

/// Whether a Job will adopt the pod.
fn is_wanted(pod: &Pod, view: &View) -> bool {
    view.namespace::<Job>(&pod.metadata.namespace).iter().any(|job| {
        let selector = job.spec.selector.selector();
        let selects = |labels| selector.is_ok_and(|s| !s.is_empty() && s.matches(labels));
        can_adopt(job) && selects(&pod.metadata.labels)
    })
}

/// The pods that a Job had, and those that it might have had.
fn tracked_by(change: &Change<Job>, view: &View) -> Vec<Key> {
    let Some(job) = change.old.as_ref().or(change.new.as_ref()) else { return Vec::new() };
    let had = view.owned_by::<Pod>(&job.metadata.uid);
    let orphans = view.orphans::<Pod>(&job.metadata.namespace);
    let tracked = had.iter().chain(&orphans).filter(|pod| pods::is_tracked(pod));
    tracked.map(|pod| Key::of(&pod.metadata)).collect()
}
