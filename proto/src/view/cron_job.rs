//! CronJob.

use crate::meta::ObjectMeta;
use crate::time::Time;
use crate::view::{ObjectReference, object, views};

views! {
    pub struct CronJob {
        pub metadata: ObjectMeta,
        pub spec: CronJobSpec,
        pub status: CronJobStatus,
    }

    pub struct CronJobSpec {
        pub schedule: String,
        /// Absent: the controller's own.
        pub time_zone: Option<String>,
        pub starting_deadline_seconds: Option<i64>,
        /// `Allow`, `Forbid` or `Replace`.
        pub concurrency_policy: String,
        pub suspend: bool,
        pub successful_jobs_history_limit: Option<i32>,
        pub failed_jobs_history_limit: Option<i32>,
    }

    pub struct CronJobStatus {
        pub active: Vec<ObjectReference>,
        pub last_schedule_time: Option<Time>,
        pub last_successful_time: Option<Time>,
    }
}

object!(CronJob, CRON_JOB);
