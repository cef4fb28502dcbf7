//! What a StatefulSet's status says.

use client::Entry;
use proto::kind::STATEFUL_SET;
use proto::time::Time;
use proto::view::stateful_set::{StatefulSet, StatefulSetStatus};

use super::{Pods, is_running_and_ready, revision};
use crate::plan::{Plan, status_difference};
use crate::revisions::{History, Revision};

/// The revision that pods had before the update; the update's where that is not known.
pub(super) fn current<'a>(set: &StatefulSet, history: &'a History) -> &'a Revision {
    history.find(&set.status.current_revision).unwrap_or(history.update())
}

/// Plans the status where it changed. Without a history the revisions stay.
pub(super) fn write(
    set: &Entry<StatefulSet>,
    pods: &Pods,
    history: Option<&History>,
    plan: &mut Plan,
    now: Time,
) {
    let mut status = set.status.clone();
    if let Some(history) = history {
        status.current_revision = current(set, history).name.clone();
        status.update_revision = history.update().name.clone();
        status.collision_count = Some(history.collisions);
    }
    status.observed_generation = set.metadata.generation;
    count(&mut status, pods, i64::from(set.spec.min_ready_seconds), now);
    let wanted = set.replicas();
    if history.is_some()
        && set.spec.update_strategy.kind == "RollingUpdate"
        && [status.updated_replicas, status.ready_replicas, status.replicas] == [wanted; 3]
    {
        status.current_replicas = status.updated_replicas;
        status.current_revision = status.update_revision.clone();
    }
    let always = ["replicas", "availableReplicas"];
    if let Some(patch) = status_difference(&set.status, &status, &always) {
        plan.status(&STATEFUL_SET, &set.metadata, patch);
    }
}

fn count(status: &mut StatefulSetStatus, pods: &Pods, min_ready_seconds: i64, now: Time) {
    status.replicas = pods.len() as i32;
    let [mut ready, mut available, mut current, mut updated] = [0; 4];
    for pod in pods.values() {
        let well = is_running_and_ready(pod);
        ready += i32::from(well);
        available += i32::from(well && pod.is_available(min_ready_seconds, now));
        let living = |name: &str| i32::from(!pod.is_terminating() && revision(pod) == name);
        current += living(&status.current_revision);
        updated += living(&status.update_revision);
    }
    [status.ready_replicas, status.available_replicas] = [ready, available];
    [status.current_replicas, status.updated_replicas] = [current, updated];
}
