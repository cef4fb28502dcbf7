//! PersistentVolumeClaim.

use crate::meta::ObjectMeta;
use crate::view::{Resources, object, pod::Requirements, views};

views! {
    pub struct PersistentVolumeClaim {
        pub metadata: ObjectMeta,
        pub spec: PersistentVolumeClaimSpec,
        pub status: PersistentVolumeClaimStatus,
    }

    pub struct PersistentVolumeClaimSpec {
        pub access_modes: Vec<String>,
        pub resources: Requirements,
        /// `None`: the default class is wanted; empty: none at all.
        pub storage_class_name: Option<String>,
        pub volume_name: String,
        pub volume_mode: String,
    }

    pub struct PersistentVolumeClaimStatus {
        /// `Pending`, `Bound` or `Lost`.
        pub phase: String,
        pub capacity: Resources,
        pub allocated_resources: Resources,
    }
}

object!(PersistentVolumeClaim, PERSISTENT_VOLUME_CLAIM);

impl PersistentVolumeClaim {
    /// The class it asks for, by the old annotation or by the field; empty for none.
    pub fn class(&self) -> &str {
        let annotation = self.metadata.annotations.get("volume.beta.kubernetes.io/storage-class");
        annotation.or(self.spec.storage_class_name.as_ref()).map_or("", String::as_str)
    }
}
