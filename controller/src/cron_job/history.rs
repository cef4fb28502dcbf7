//! Finished Jobs beyond the limits go, the oldest first.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/#jobs-history-limits>

use super::Round;

impl Round<'_> {
    pub(super) fn clean_up(&mut self) {
        let spec = &self.cron.spec;
        let limits =
            [(true, spec.successful_jobs_history_limit), (false, spec.failed_jobs_history_limit)];
        for (complete, limit) in limits {
            let Some(limit) = limit else { continue };
            let finished = self.jobs.iter().filter(|job| {
                job.finished().is_some()
                    && job.is_complete() == complete
                    && job.metadata.deletion_timestamp.is_none()
            });
            let mut finished: Vec<_> = finished.collect();
            finished.sort_by_key(|job| {
                let start = job.status.start_time;
                (start.is_none(), start, job.metadata.name.clone())
            });
            let surplus = finished.len().saturating_sub(limit.max(0) as usize);
            let gone: Vec<_> = finished[..surplus].iter().map(|job| self.delete(job)).collect();
            self.events.steps.extend(gone);
        }
    }
}
