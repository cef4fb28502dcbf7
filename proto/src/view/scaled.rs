//! StatefulSet and ReplicationController, as far as their scale.

use crate::meta::ObjectMeta;
use crate::view::{object, views};

views! {
    pub struct StatefulSet {
        pub metadata: ObjectMeta,
        pub spec: ScaledSpec,
    }

    pub struct ReplicationController {
        pub metadata: ObjectMeta,
        pub spec: ScaledSpec,
    }

    pub struct ScaledSpec {
        /// Absent means 1.
        pub replicas: Option<i32>,
    }
}

object!(StatefulSet, STATEFUL_SET);
object!(ReplicationController, REPLICATION_CONTROLLER);
