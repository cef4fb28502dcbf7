//! How many pods run: no more than `parallelism`, and no more than completions are missing.

use std::collections::HashSet;
use std::sync::Arc;

use client::{DeleteOptions, Entry};
use proto::kind::POD;
use proto::view::pod::Pod;

use super::{BURST, Round, pods};
use crate::plan::{Delete, Step, Target};
use crate::replica_set::{told, victims};
use crate::run::PlanError;

impl Round<'_> {
    /// Creates or deletes pods; not both in one round.
    pub(super) fn scale(&mut self) -> Result<(), PlanError> {
        let active: Vec<_> = self.active().cloned().collect();
        let wanted = if self.job.spec.suspend { 0 } else { self.wanted(active.len()) };
        let (mut gone, rest) = self.misplaced(active.clone());
        let surplus = active.len().saturating_sub(wanted).saturating_sub(gone.len());
        gone.extend(victims::choose(rest, surplus, &[], self.now));
        if !gone.is_empty() {
            gone.truncate(BURST);
            // Who is taken away does not count as failed.
            let released = gone.iter().map(|pod| pods::released(pod)).collect();
            self.pods_steps.push(Step::PatchEach(released));
            self.delete(&gone);
            return Ok(());
        }
        let ending = if self.replaces_only_failed() { self.terminating().count() } else { 0 };
        let missing = wanted.saturating_sub(active.len() + ending).min(BURST);
        if missing > 0 {
            self.create(missing, &active)?;
        }
        Ok(())
    }

    /// How many pods should be active.
    fn wanted(&self, active: usize) -> usize {
        let parallelism = i64::from(self.job.spec.parallelism.unwrap_or(1));
        let wanted = match self.job.spec.completions {
            Some(completions) => (i64::from(completions) - self.succeeded_pods).min(parallelism),
            // One success is enough: no more pods, but those that run may end.
            None if self.succeeded_pods > 0 => active as i64,
            None => parallelism,
        };
        wanted.max(0) as usize
    }

    /// Active pods that cannot be counted any more, whose index there is not or is already worked
    /// on; and the others.
    fn misplaced(
        &self,
        active: Vec<Arc<Entry<Pod>>>,
    ) -> (Vec<Arc<Entry<Pod>>>, Vec<Arc<Entry<Pod>>>) {
        let count = active.len();
        let mut taken = HashSet::new();
        // The one that would be missed most comes last: it keeps the index.
        let mut sorted = victims::choose(active, count, &[], self.now);
        sorted.reverse();
        sorted.into_iter().partition(|pod| {
            let index = pods::index(pod).unwrap_or_default();
            let mut twice = || self.job.is_indexed() && !taken.insert(index);
            !pods::is_tracked(pod) || !self.has_place(pod) || twice()
        })
    }

    fn create(&mut self, missing: usize, active: &[Arc<Entry<Pod>>]) -> Result<(), PlanError> {
        let per_index = self.job.spec.backoff_limit_per_index.is_some();
        if !per_index && let Some(until) = self.delayed_until() {
            self.look_again(until);
            return Ok(());
        }
        let template = pods::Template::of(self.job)?;
        if !self.job.is_indexed() {
            self.pods_steps.push(Step::Create(template.create(self.job, missing)));
            return Ok(());
        }
        let mut taken: HashSet<i64> = active.iter().filter_map(|pod| pods::index(pod)).collect();
        if self.replaces_only_failed() {
            taken.extend(self.terminating().filter_map(|pod| pods::index(pod)));
        }
        let pending = (0..self.job.spec.completions.map_or(0, i64::from)).filter(|index| {
            !taken.contains(index)
                && !self.completed.contains(*index)
                && !self.failed.contains(*index)
        });
        let held = self.held();
        let (mut creates, mut next) = (Vec::new(), None);
        for index in pending.take(missing) {
            let last = held.get(&index).copied();
            let failures = if per_index { self.failure_counts(last) } else { Vec::new() };
            match self.index_delayed_until(last) {
                Some(until) => next = Some(next.map_or(until, |next| until.min(next))),
                None => creates.push(template.create_for(self.job, index, &failures)),
            }
        }
        if let Some(next) = next {
            self.look_again(next);
        }
        if !creates.is_empty() {
            self.pods_steps.push(Step::CreateEach(creates));
        }
        Ok(())
    }

    pub(super) fn delete(&mut self, gone: &[Arc<Entry<Pod>>]) {
        let told = told(&self.regarding);
        self.pods_steps.extend(gone.iter().map(|pod| {
            Step::Delete(Delete {
                target: Target::of(&POD, &pod.metadata),
                options: DeleteOptions::uid(&pod.metadata.uid),
                told: Some(told.clone()),
            })
        }));
    }
}
