//! ReplicaSet.

use crate::meta::ObjectMeta;
use crate::selector::LabelSelector;
use crate::view::{Condition, Template, object, views};

views! {
    pub struct ReplicaSet {
        pub metadata: ObjectMeta,
        pub spec: ReplicaSetSpec,
        pub status: ReplicaSetStatus,
    }

    pub struct ReplicaSetSpec {
        /// Absent means 1.
        pub replicas: Option<i32>,
        pub min_ready_seconds: i32,
        pub selector: LabelSelector,
        pub template: Template,
    }

    pub struct ReplicaSetStatus {
        pub replicas: i32,
        pub fully_labeled_replicas: i32,
        pub ready_replicas: i32,
        pub available_replicas: i32,
        pub terminating_replicas: Option<i32>,
        pub observed_generation: i64,
        pub conditions: Vec<Condition>,
    }
}

object!(ReplicaSet, REPLICA_SET);

impl ReplicaSet {
    /// How many pods it wants.
    pub fn replicas(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }
}
