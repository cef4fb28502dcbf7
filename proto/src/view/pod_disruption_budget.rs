//! PodDisruptionBudget.

use std::collections::BTreeMap;

use crate::meta::ObjectMeta;
use crate::selector::LabelSelector;
use crate::time::Time;
use crate::view::{Condition, IntOrString, object, views};

views! {
    pub struct PodDisruptionBudget {
        pub metadata: ObjectMeta,
        pub spec: PodDisruptionBudgetSpec,
        pub status: PodDisruptionBudgetStatus,
    }

    pub struct PodDisruptionBudgetSpec {
        /// Absent: none. Empty: all pods of the namespace.
        pub selector: Option<LabelSelector>,
        /// At most one of the two is set.
        pub min_available: Option<IntOrString>,
        pub max_unavailable: Option<IntOrString>,
    }

    pub struct PodDisruptionBudgetStatus {
        pub observed_generation: i64,
        pub disruptions_allowed: i64,
        pub current_healthy: i64,
        pub desired_healthy: i64,
        pub expected_pods: i64,
        /// Evicted pods that have not gone yet, and when they were evicted.
        pub disrupted_pods: BTreeMap<String, Time>,
        pub conditions: Vec<Condition>,
    }
}

object!(PodDisruptionBudget, POD_DISRUPTION_BUDGET);
