//! PersistentVolume.

use crate::meta::ObjectMeta;
use crate::view::{ObjectReference, Resources, object, views};

views! {
    pub struct PersistentVolume {
        pub metadata: ObjectMeta,
        pub spec: PersistentVolumeSpec,
        pub status: PersistentVolumeStatus,
    }

    pub struct PersistentVolumeSpec {
        pub access_modes: Vec<String>,
        pub capacity: Resources,
        pub claim_ref: Option<ObjectReference>,
        pub storage_class_name: String,
        pub volume_mode: String,
        /// `Retain`, `Delete` or `Recycle`.
        pub persistent_volume_reclaim_policy: String,
    }

    pub struct PersistentVolumeStatus {
        /// `Pending`, `Available`, `Bound`, `Released` or `Failed`.
        pub phase: String,
    }
}

object!(PersistentVolume, PERSISTENT_VOLUME);
