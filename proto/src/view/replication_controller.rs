//! ReplicationController: a ReplicaSet whose selector is a map.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::meta::{Labels, ObjectMeta};
use crate::selector::LabelSelector;
use crate::view::replica_set::ReplicaSetStatus;
use crate::view::{Template, object, views};

views! {
    pub struct ReplicationController {
        pub metadata: ObjectMeta,
        pub spec: ReplicationControllerSpec,
        /// Of the same fields as a ReplicaSet's, but for the terminating pods.
        pub status: ReplicaSetStatus,
    }

    pub struct ReplicationControllerSpec {
        /// Absent means 1.
        pub replicas: Option<i32>,
        pub min_ready_seconds: i32,
        pub selector: LabelMap,
        pub template: Template,
    }
}

object!(ReplicationController, REPLICATION_CONTROLLER);

/// A selector that is written as the labels it wants.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LabelMap(pub LabelSelector);

impl<'de> Deserialize<'de> for LabelMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<LabelMap, D::Error> {
        let match_labels = Labels::deserialize(deserializer)?;
        Ok(LabelMap(LabelSelector { match_labels, ..LabelSelector::default() }))
    }
}

impl Serialize for LabelMap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.match_labels.serialize(serializer)
    }
}
