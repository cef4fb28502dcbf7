//! PersistentVolume.

use serde_json::Value;

use crate::meta::ObjectMeta;
use crate::view::pod::NodeSelector;
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
        /// `Filesystem` or `Block`.
        pub volume_mode: String,
        /// `Retain`, `Delete` or `Recycle`.
        pub persistent_volume_reclaim_policy: String,
        pub volume_attributes_class_name: Option<String>,
        pub mount_options: Vec<String>,
        pub node_affinity: Option<VolumeNodeAffinity>,
        pub local: Option<LocalVolume>,
        pub host_path: Option<HostPathVolume>,
        pub nfs: Option<NfsVolume>,
        pub csi: Option<CsiVolume>,
    }

    /// The nodes that reach the volume.
    pub struct VolumeNodeAffinity {
        pub required: Option<NodeSelector>,
    }

    pub struct LocalVolume {
        pub path: String,
        pub fs_type: Option<String>,
    }

    pub struct HostPathVolume {
        pub path: String,
        #[serde(rename = "type")]
        pub kind: String,
    }

    pub struct NfsVolume {
        pub server: String,
        pub path: String,
        pub read_only: bool,
    }

    pub struct CsiVolume {
        pub driver: String,
        pub volume_handle: String,
        pub read_only: bool,
        pub fs_type: String,
        pub volume_attributes: std::collections::BTreeMap<String, String>,
        pub node_stage_secret_ref: Option<SecretReference>,
        pub node_publish_secret_ref: Option<SecretReference>,
        pub node_expand_secret_ref: Option<SecretReference>,
    }

    pub struct SecretReference {
        pub name: String,
        pub namespace: String,
    }

    pub struct PersistentVolumeStatus {
        /// `Pending`, `Available`, `Bound`, `Released` or `Failed`.
        pub phase: String,
        pub message: String,
        pub reason: String,
    }
}

object!(PersistentVolume, PERSISTENT_VOLUME);

/// The fields of a volume's spec that are no source.
const NO_SOURCE: [&str; 10] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
    "status",
];

impl PersistentVolume {
    /// The class it is of, by the old annotation or by the field; empty for none.
    pub fn class(&self) -> &str {
        let annotation = self.metadata.annotations.get("volume.beta.kubernetes.io/storage-class");
        annotation.map_or(&self.spec.storage_class_name, |class| class).as_str()
    }

    pub fn is_block(&self) -> bool {
        self.spec.volume_mode == "Block"
    }

    pub fn is_going(&self) -> bool {
        self.metadata.deletion_timestamp.is_some()
    }

    /// The name of its source's field in the whole object, as `hostPath`.
    pub fn source(object: &Value) -> Option<&str> {
        let fields = object["spec"].as_object()?;
        let mut sources = fields.iter().filter(|(_, value)| !value.is_null());
        sources
            .find(|(field, _)| !NO_SOURCE.contains(&field.as_str()))
            .map(|(field, _)| field.as_str())
    }
}
