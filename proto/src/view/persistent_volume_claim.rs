//! PersistentVolumeClaim.

use crate::meta::ObjectMeta;
use crate::selector::LabelSelector;
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
        pub selector: Option<LabelSelector>,
        pub volume_name: String,
        pub volume_mode: String,
        pub volume_attributes_class_name: Option<String>,
    }

    pub struct PersistentVolumeClaimStatus {
        /// `Pending`, `Bound` or `Lost`.
        pub phase: String,
        pub access_modes: Vec<String>,
        pub capacity: Resources,
        pub allocated_resources: Resources,
        pub current_volume_attributes_class_name: Option<String>,
        pub modify_volume_status: ModifyVolumeStatus,
    }

    pub struct ModifyVolumeStatus {
        pub target_volume_attributes_class_name: String,
    }
}

object!(PersistentVolumeClaim, PERSISTENT_VOLUME_CLAIM);

impl PersistentVolumeClaim {
    /// The classes of attributes that it asks for, has, or is on its way to.
    pub fn attributes_classes(&self) -> impl Iterator<Item = &str> {
        let wanted = self.spec.volume_attributes_class_name.as_deref();
        let current = self.status.current_volume_attributes_class_name.as_deref();
        let target = self.status.modify_volume_status.target_volume_attributes_class_name.as_str();
        let classes = [wanted.unwrap_or_default(), current.unwrap_or_default(), target];
        classes.into_iter().filter(|class| !class.is_empty())
    }

    /// The class it asks for, by the old annotation or by the field; empty for none.
    pub fn class(&self) -> &str {
        let annotation = self.metadata.annotations.get("volume.beta.kubernetes.io/storage-class");
        annotation.or(self.spec.storage_class_name.as_ref()).map_or("", String::as_str)
    }

    pub fn is_block(&self) -> bool {
        self.spec.volume_mode == "Block"
    }

    pub fn is_going(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// Whether it is bound for good: its volume is known and knows it.
    pub fn is_bound(&self) -> bool {
        !self.spec.volume_name.is_empty()
            && self.metadata.annotations.contains_key(crate::volume::BIND_COMPLETED)
    }

    /// How much it asks for.
    pub fn size(&self) -> crate::quantity::Quantity {
        crate::volume::storage(&self.spec.resources.requests)
    }

    /// Whether it was made for the pod, as the claims of ephemeral volumes are.
    pub fn is_of(&self, pod: &crate::view::pod::Pod) -> bool {
        self.metadata.controller().is_some_and(|owner| owner.uid == pod.metadata.uid)
    }
}
