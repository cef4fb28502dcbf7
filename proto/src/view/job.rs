//! Job.

use crate::meta::ObjectMeta;
use crate::selector::LabelSelector;
use crate::time::Time;
use crate::view::{Condition, object, views};

/// Jobs that name another manager in `spec.managedBy` are left alone.
pub const MANAGER: &str = "kubernetes.io/job-controller";

views! {
    pub struct Job {
        pub metadata: ObjectMeta,
        pub spec: JobSpec,
        pub status: JobStatus,
    }

    pub struct JobSpec {
        pub parallelism: Option<i32>,
        /// Absent: the success of any pod is that of the Job.
        pub completions: Option<i32>,
        pub active_deadline_seconds: Option<i64>,
        pub pod_failure_policy: Option<PodFailurePolicy>,
        pub success_policy: Option<SuccessPolicy>,
        pub backoff_limit: Option<i32>,
        pub backoff_limit_per_index: Option<i32>,
        pub max_failed_indexes: Option<i32>,
        pub selector: LabelSelector,
        pub ttl_seconds_after_finished: Option<i32>,
        /// `NonIndexed` (or empty) or `Indexed`.
        pub completion_mode: String,
        pub suspend: bool,
        /// `TerminatingOrFailed` or `Failed`.
        pub pod_replacement_policy: String,
        pub managed_by: String,
        pub template: JobTemplate,
    }

    /// What of the pod template bears on the plans; the rest is read from the object's bytes.
    pub struct JobTemplate {
        pub spec: JobPodSpec,
    }

    pub struct JobPodSpec {
        /// `OnFailure` or `Never`.
        pub restart_policy: String,
    }

    pub struct PodFailurePolicy {
        pub rules: Vec<PodFailureRule>,
    }

    /// Either exit codes or conditions are given.
    pub struct PodFailureRule {
        /// `FailJob`, `FailIndex`, `Ignore` or `Count`.
        pub action: String,
        pub on_exit_codes: Option<ExitCodes>,
        pub on_pod_conditions: Vec<ConditionPattern>,
    }

    pub struct ExitCodes {
        /// Absent: any.
        pub container_name: Option<String>,
        /// `In` or `NotIn`.
        pub operator: String,
        pub values: Vec<i32>,
    }

    pub struct ConditionPattern {
        #[serde(rename = "type")]
        pub kind: String,
        pub status: String,
    }

    pub struct SuccessPolicy {
        pub rules: Vec<SuccessRule>,
    }

    pub struct SuccessRule {
        pub succeeded_indexes: Option<String>,
        pub succeeded_count: Option<i32>,
    }

    pub struct JobStatus {
        pub conditions: Vec<Condition>,
        pub start_time: Option<Time>,
        pub completion_time: Option<Time>,
        pub active: i32,
        pub succeeded: i32,
        pub failed: i32,
        pub terminating: Option<i32>,
        pub completed_indexes: String,
        pub failed_indexes: Option<String>,
        pub uncounted_terminated_pods: Option<Uncounted>,
        pub ready: Option<i32>,
    }

    /// Uids of pods that have ended, bear our finalizer (or did a moment ago) and are not in the
    /// counters yet.
    pub struct Uncounted {
        pub succeeded: Vec<String>,
        pub failed: Vec<String>,
    }
}

object!(Job, JOB);

impl Job {
    /// The condition that says how it finished.
    pub fn finished(&self) -> Option<&Condition> {
        let list = self.status.conditions.iter();
        let ends = |condition: &&Condition| matches!(&*condition.kind, "Complete" | "Failed");
        list.filter(ends).find(|condition| condition.status == "True")
    }

    pub fn is_complete(&self) -> bool {
        Condition::is_true(&self.status.conditions, "Complete")
    }

    pub fn is_indexed(&self) -> bool {
        self.spec.completion_mode == "Indexed"
    }
}
