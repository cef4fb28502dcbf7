//! How long failures delay the next pod: 10 s, doubling up to 10 min.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-backoff-failure-policy>

use std::sync::Arc;
use std::time::Duration;

use client::Entry;
use proto::time::Time;
use proto::view::Condition;
use proto::view::pod::Pod;

use super::{Round, pods, policy};

const FIRST: Duration = Duration::from_secs(10);
const LONGEST: Duration = Duration::from_secs(600);
pub(super) const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";
pub(super) const IGNORED: &str = "batch.kubernetes.io/job-index-ignored-failure-count";

/// How often containers of the pod were started again.
pub(super) fn restarts(pod: &Pod) -> i64 {
    let status = &pod.status;
    let all = status.init_container_statuses.iter().chain(&status.container_statuses);
    all.map(|container| i64::from(container.restart_count)).sum()
}

fn number(pod: &Pod, annotation: &str) -> i64 {
    let text = pod.metadata.annotations.get(annotation);
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// How many pods of its index had failed before it, without those that do not count.
pub(super) fn failures(pod: &Pod) -> i64 {
    number(pod, FAILURES)
}

/// With those that do not count.
pub(super) fn all_failures(pod: &Pod) -> i64 {
    failures(pod) + number(pod, IGNORED)
}

/// When a pod that has ended did; where nobody said, when it was to end or began.
pub(super) fn end(pod: &Pod) -> Option<Time> {
    let containers = pod.status.container_statuses.iter();
    let ends: Option<Vec<Time>> =
        containers.map(|container| container.state.terminated.as_ref()?.finished_at).collect();
    let last = ends.and_then(|ends| ends.into_iter().max());
    let unready = || Condition::find(&pod.status.conditions, "Ready")?.last_transition_time;
    last.or_else(unready).or(pod.metadata.deletion_timestamp).or(pod.metadata.creation_timestamp)
}

fn delay(failures: i64) -> Duration {
    match failures {
        ..=0 => Duration::ZERO,
        _ => FIRST.saturating_mul(1 << (failures - 1).min(20)).min(LONGEST),
    }
}

impl Round<'_> {
    /// Before when no new pod may start: after failures since the last success.
    pub(super) fn delayed_until(&self) -> Option<Time> {
        let ends = |phase: &'static str| {
            let ended = self.pods.iter().filter(move |pod| match phase {
                // One that is deleted before its end, and was not taken out of the count.
                "Failed" => self.is_failed(pod) && (pods::is_tracked(pod) || pod.is_terminal()),
                _ => pod.status.phase == phase,
            });
            ended.filter_map(|pod| end(pod))
        };
        let success = ends("Succeeded").max();
        let since = || ends("Failed").filter(|end| success.is_none_or(|success| *end > success));
        let wait = delay(since().count() as i64);
        since().max().map(|last| last.plus(wait)).filter(|until| *until > self.now)
    }

    /// The same of one index, after its last failure.
    pub(super) fn index_delayed_until(&self, last: Option<&Arc<Entry<Pod>>>) -> Option<Time> {
        let last = last?;
        let until = end(last)?.plus(delay(all_failures(last) + 1));
        (until > self.now).then_some(until)
    }

    /// The annotations by which a new pod knows the failures of its index: name and number.
    pub(super) fn failure_counts(
        &self,
        last: Option<&Arc<Entry<Pod>>>,
    ) -> Vec<(&'static str, i64)> {
        let Some(last) = last else { return vec![(FAILURES, 0)] };
        let policy = self.job.spec.pod_failure_policy.as_ref();
        let counts = policy.is_none_or(|policy| policy::verdict(policy, last).counts());
        let ignored = number(last, IGNORED) + i64::from(!counts);
        let mut counted = vec![(FAILURES, failures(last) + i64::from(counts))];
        if ignored > 0 {
            counted.push((IGNORED, ignored));
        }
        counted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double() {
        let seconds: Vec<u64> = (0..9).map(|failures| delay(failures).as_secs()).collect();
        assert_eq!(seconds, [0, 10, 20, 40, 80, 160, 320, 600, 600]);
    }
}
