//! What a DaemonSet's status says.

use std::time::Duration;

use proto::kind::DAEMON_SET;
use proto::view::daemon_set::DaemonSetStatus;

use super::Round;
use super::nodes::Fit;
use crate::plan::status_difference;

impl Round<'_> {
    /// Plans the status where it changed; looks again when a ready pod will be available.
    pub(super) fn write_status(&mut self) {
        let before = &self.set.status;
        let mut status = DaemonSetStatus {
            observed_generation: self.set.metadata.generation,
            collision_count: before.collision_count,
            conditions: before.conditions.clone(),
            ..DaemonSetStatus::default()
        };
        if self.history.collisions > 0 {
            status.collision_count = Some(self.history.collisions);
        }
        for (node, fit) in &self.nodes {
            // Of several pods the oldest counts.
            let pod = self.pods.get(node).and_then(|pods| pods.first());
            if *fit != Fit::Runs {
                status.number_misscheduled += i32::from(pod.is_some());
                continue;
            }
            status.desired_number_scheduled += 1;
            let Some(pod) = pod else { continue };
            status.current_number_scheduled += 1;
            status.number_ready += i32::from(pod.is_ready());
            status.number_available += i32::from(self.is_available(pod));
            status.updated_number_scheduled += i32::from(self.is_updated(pod));
        }
        status.number_unavailable = status.desired_number_scheduled - status.number_available;
        let always = [
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
        ];
        if let Some(patch) = status_difference(before, &status, &always) {
            self.plan.status(&DAEMON_SET, &self.set.metadata, patch);
        }
        let wait = Duration::from_secs(self.set.spec.min_ready_seconds.max(0) as u64);
        let waiting = self.pods.values().flatten().filter(|pod| !self.is_available(pod));
        let dues = waiting.filter_map(|pod| Some(pod.ready_since()?.plus(wait)));
        if let Some(due) = dues.min() {
            self.plan.look_again(due);
        }
    }
}
