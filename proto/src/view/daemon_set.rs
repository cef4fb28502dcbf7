//! DaemonSet.

use crate::meta::{Labels, ObjectMeta};
use crate::selector::LabelSelector;
use crate::view::deployment::Strategy;
use crate::view::pod::{Affinity, Toleration};
use crate::view::{Condition, object, views};

views! {
    pub struct DaemonSet {
        pub metadata: ObjectMeta,
        pub spec: DaemonSetSpec,
        pub status: DaemonSetStatus,
    }

    pub struct DaemonSetSpec {
        pub selector: LabelSelector,
        pub template: DaemonTemplate,
        /// `RollingUpdate` or `OnDelete`.
        pub update_strategy: Strategy,
        pub min_ready_seconds: i32,
        pub revision_history_limit: Option<i32>,
    }

    pub struct DaemonTemplate {
        pub metadata: ObjectMeta,
        pub spec: Placement,
    }

    /// What of a pod's spec says on which nodes it may run.
    pub struct Placement {
        pub node_name: String,
        pub node_selector: Labels,
        pub affinity: Option<Box<Affinity>>,
        pub tolerations: Vec<Toleration>,
        pub host_network: bool,
    }

    pub struct DaemonSetStatus {
        pub observed_generation: i64,
        pub current_number_scheduled: i32,
        pub number_misscheduled: i32,
        pub desired_number_scheduled: i32,
        pub number_ready: i32,
        pub updated_number_scheduled: i32,
        pub number_available: i32,
        pub number_unavailable: i32,
        pub collision_count: Option<i32>,
        pub conditions: Vec<Condition>,
    }
}

object!(DaemonSet, DAEMON_SET);
