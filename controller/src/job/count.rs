//! Counting the pods that have ended, each once.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use client::Entry;
use proto::indexes::Indexes;
use proto::view::job::Uncounted;
use proto::view::pod::Pod;

use super::{BURST, Jobs, Round, backoff, pods, policy};
use crate::run::Controller;

impl Round<'_> {
    fn uncounted(&mut self) -> &mut Uncounted {
        self.status.uncounted_terminated_pods.get_or_insert_default()
    }

    fn is_uncounted(&self, pod: &Pod) -> bool {
        let uid = &pod.metadata.uid;
        let lists = self.job.status.uncounted_terminated_pods.as_ref();
        lists.is_some_and(|lists| lists.succeeded.contains(uid) || lists.failed.contains(uid))
    }

    /// Whether the pod belongs to an index that the Job has (any pod of a Job without indexes).
    pub(super) fn has_place(&self, pod: &Pod) -> bool {
        let completions = self.job.spec.completions.map_or(0, i64::from);
        !self.job.is_indexed() || pods::index(pod).is_some_and(|index| index < completions)
    }

    /// Whether the pod is a failure: also one that is being deleted, unless the Job waits for its
    /// end before it replaces it.
    pub(super) fn is_failed(&self, pod: &Pod) -> bool {
        match pod.status.phase.as_str() {
            "Failed" => true,
            "Succeeded" => false,
            _ => pod.is_terminating() && !self.replaces_only_failed(),
        }
    }

    pub(super) fn replaces_only_failed(&self) -> bool {
        let spec = &self.job.spec;
        spec.pod_replacement_policy == "Failed" || spec.pod_failure_policy.is_some()
    }

    /// Whether the Job's failure policy lets the failure count.
    fn counts(&self, pod: &Pod) -> bool {
        let policy = self.job.spec.pod_failure_policy.as_ref();
        policy.is_none_or(|policy| policy::verdict(policy, pod).counts())
    }

    /// Those whose finalizer is gone go from `uncounted` into the counters.
    pub(super) fn count_untracked(&mut self) {
        let tracked: HashSet<String> = {
            let tracked = self.pods.iter().filter(|pod| pods::is_tracked(pod));
            tracked.map(|pod| pod.metadata.uid.clone()).collect()
        };
        let known: HashSet<String> = self.pods.iter().map(|pod| pod.metadata.uid.clone()).collect();
        let sees_all = self.sees_all;
        let stays = |uid: &String| tracked.contains(uid) || (!sees_all && !known.contains(uid));
        let uncounted = self.uncounted();
        let before = (uncounted.succeeded.len(), uncounted.failed.len());
        uncounted.succeeded.retain(stays);
        uncounted.failed.retain(stays);
        let after = (uncounted.succeeded.len(), uncounted.failed.len());
        let unseen = uncounted.succeeded.iter().chain(&uncounted.failed);
        let unseen = unseen.filter(|uid| !known.contains(*uid)).count() > 0;
        self.status.succeeded += (before.0 - after.0) as i32;
        self.status.failed += (before.1 - after.1) as i32;
        if unseen {
            self.look_again(self.now.plus(Jobs::BATCH));
        }
    }

    /// What there is, counted or not.
    pub(super) fn find_ended(&mut self) {
        let new = |pod: &&Arc<Entry<Pod>>| {
            pods::is_tracked(pod) && self.has_place(pod) && !self.is_uncounted(pod)
        };
        let is_succeeded = |pod: &Pod| pod.status.phase == "Succeeded";
        let succeeded = self.pods.iter().filter(new).filter(|pod| is_succeeded(pod)).count();
        let failed = self.pods.iter().filter(new);
        let failed = failed.filter(|pod| self.is_failed(pod) && self.counts(pod)).count();
        let lists = self.status.uncounted_terminated_pods.clone().unwrap_or_default();
        self.succeeded_pods =
            i64::from(self.status.succeeded) + (lists.succeeded.len() + succeeded) as i64;
        self.failed_pods = i64::from(self.status.failed) + (lists.failed.len() + failed) as i64;
        if !self.job.is_indexed() {
            return;
        }
        let tracked = || {
            let tracked = self.pods.iter().filter(|pod| pods::is_tracked(pod));
            tracked.filter(|pod| self.has_place(pod))
        };
        let succeeded: Indexes =
            tracked().filter(|pod| is_succeeded(pod)).filter_map(|pod| pods::index(pod)).collect();
        let all = self.completed.union(&succeeded);
        let lost: Indexes = match self.job.spec.backoff_limit_per_index {
            Some(limit) => tracked()
                .filter(|pod| self.is_failed(pod) && self.fails_its_index(pod, limit))
                .filter_map(|pod| pods::index(pod))
                .filter(|index| !all.contains(*index))
                .collect(),
            None => Indexes::default(),
        };
        self.failed = self.failed.union(&lost);
        self.completed = all;
        self.succeeded_pods = self.completed.count();
    }

    fn fails_its_index(&self, pod: &Pod, limit: i32) -> bool {
        let policy = self.job.spec.pod_failure_policy.as_ref();
        let verdict = policy.map(|policy| policy::verdict(policy, pod));
        match verdict {
            Some(policy::Verdict::FailIndex) => true,
            Some(verdict) if !verdict.counts() => false,
            _ => backoff::failures(pod) >= i64::from(limit),
        }
    }

    /// Puts those that have ended into the status, and lets the finalizers go of all that are in
    /// it or need not be. As the status shows them, each once.
    pub(super) fn track(&mut self) {
        let held: HashSet<String> =
            self.held().values().map(|pod| pod.metadata.uid.clone()).collect();
        let deleting = self.job.metadata.deletion_timestamp.is_some();
        let failing = self.ending.as_ref().is_some_and(|ending| ending.kind == "FailureTarget");
        let indexed = self.job.is_indexed();
        let (mut succeeded, mut failed) = (Vec::new(), Vec::new());
        let mut untracked = Vec::new();
        for pod in self.pods.iter().filter(|pod| pods::is_tracked(pod)) {
            let is_succeeded = pod.status.phase == "Succeeded";
            let is_failed = self.is_failed(pod);
            let over = deleting || self.ending.is_some();
            if !(is_succeeded || is_failed && !held.contains(&pod.metadata.uid) || over) {
                continue;
            }
            if untracked.len() >= BURST {
                break;
            }
            let counted = is_succeeded || is_failed || failing;
            untracked.push(match counted {
                true => pods::without_finalizer(pod),
                false => pods::released(pod),
            });
            if self.is_uncounted(pod) || !self.has_place(pod) {
                continue;
            }
            // An index in the status is enough for one that succeeded.
            if is_succeeded && !indexed {
                succeeded.push(pod.metadata.uid.clone());
            } else if !is_succeeded && (is_failed || failing) && self.counts(pod) {
                failed.push(pod.metadata.uid.clone());
            }
        }
        let uncounted = self.uncounted();
        uncounted.succeeded.append(&mut succeeded);
        uncounted.failed.append(&mut failed);
        self.untracked.append(&mut untracked);
        if indexed {
            self.status.completed_indexes = self.completed.to_string();
            self.status.succeeded = self.completed.count() as i32;
            if self.job.spec.backoff_limit_per_index.is_some() {
                self.status.failed_indexes = Some(self.failed.to_string());
            }
        }
        let active = self.active().count() as i32;
        let ready = self.active().filter(|pod| pod.is_ready()).count() as i32;
        let terminating = self.terminating().count() as i32;
        self.status.active = active;
        self.status.ready = Some(ready);
        self.status.terminating = Some(terminating);
    }

    /// Being deleted, but not at its end.
    pub(super) fn terminating(&self) -> impl Iterator<Item = &Arc<Entry<Pod>>> {
        self.pods.iter().filter(|pod| pod.is_terminating() && !pod.is_terminal())
    }

    /// With a limit per index, the last failure of each index that waits for a new pod: that one
    /// is told how many there were, so until it exists the old one must not go.
    pub(super) fn held(&self) -> HashMap<i64, &Arc<Entry<Pod>>> {
        let mut held: HashMap<i64, &Arc<Entry<Pod>>> = HashMap::new();
        if self.job.spec.backoff_limit_per_index.is_none() {
            return held;
        }
        let running: HashSet<i64> = self.active().filter_map(|pod| pods::index(pod)).collect();
        for pod in self.pods.iter().filter(|pod| pods::is_tracked(pod) && self.is_failed(pod)) {
            let Some(index) = pods::index(pod).filter(|_| self.has_place(pod)) else { continue };
            let done = self.completed.contains(index) || self.failed.contains(index);
            let rank = |pod: &Pod| (backoff::all_failures(pod), backoff::end(pod));
            let last = held.get(&index).is_none_or(|known| rank(known) <= rank(pod));
            if !done && !running.contains(&index) && last {
                held.insert(index, pod);
            }
        }
        held
    }
}
