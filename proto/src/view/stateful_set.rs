//! StatefulSet.

use crate::meta::ObjectMeta;
use crate::selector::LabelSelector;
use crate::view::{Condition, Template, object, views};

views! {
    pub struct StatefulSet {
        pub metadata: ObjectMeta,
        pub spec: StatefulSetSpec,
        pub status: StatefulSetStatus,
    }

    pub struct StatefulSetSpec {
        /// Absent means 1.
        pub replicas: Option<i32>,
        pub selector: LabelSelector,
        pub template: Template,
        pub service_name: String,
        /// `OrderedReady` or `Parallel`.
        pub pod_management_policy: String,
        pub update_strategy: UpdateStrategy,
        pub min_ready_seconds: i32,
        pub revision_history_limit: Option<i32>,
        pub ordinals: Ordinals,
        /// The claims' metadata; the rest is read from the object's bytes.
        pub volume_claim_templates: Vec<Template>,
        pub persistent_volume_claim_retention_policy: RetentionPolicy,
    }

    pub struct UpdateStrategy {
        /// `RollingUpdate` or `OnDelete`.
        #[serde(rename = "type")]
        pub kind: String,
        pub rolling_update: Option<RollingUpdate>,
    }

    pub struct RollingUpdate {
        /// So many pods, the first ones, keep the current revision.
        pub partition: i32,
    }

    pub struct Ordinals {
        pub start: i32,
    }

    /// `Retain` or `Delete`.
    pub struct RetentionPolicy {
        pub when_deleted: String,
        pub when_scaled: String,
    }

    pub struct StatefulSetStatus {
        pub observed_generation: i64,
        pub replicas: i32,
        pub ready_replicas: i32,
        pub current_replicas: i32,
        pub updated_replicas: i32,
        pub available_replicas: i32,
        pub current_revision: String,
        pub update_revision: String,
        pub collision_count: Option<i32>,
        pub conditions: Vec<Condition>,
    }
}

object!(StatefulSet, STATEFUL_SET);

impl StatefulSet {
    /// How many pods it wants.
    pub fn replicas(&self) -> i32 {
        self.spec.replicas.unwrap_or(1)
    }
}
