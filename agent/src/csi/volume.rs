//! What a driver is told of a volume, and what it is called in all places. Pure.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use proto::csi::node_service_capability::rpc;
use proto::csi::volume_capability::access_mode::Mode;
use proto::csi::volume_capability::{AccessMode, AccessType, BlockVolume, MountVolume};
use proto::csi::{
    CapacityRange, NodeExpandVolumeRequest, NodePublishVolumeRequest, NodeStageVolumeRequest,
    VolumeCapability,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Driver;
use crate::pod::Pod;

const TOKENS: &str = "csi.storage.k8s.io/serviceAccount.tokens";

/// A driver's volume that a pod is to have, with everything that the API says of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// The PersistentVolume's name, or that of the pod's volume.
    pub name: String,
    pub driver: String,
    pub handle: String,
    pub attributes: BTreeMap<String, String>,
    /// It lives and dies with the pod.
    pub ephemeral: bool,
    pub read_only: bool,
    pub block: bool,
    pub fs_type: String,
    pub mount_options: Vec<String>,
    /// The first of the volume's.
    pub access_mode: String,
    /// `ReadWriteOnceWithFSType` (or empty), `File` or `None`.
    pub group_policy: String,
    /// The driver wants to know whose it is.
    pub pod_info: bool,
    pub stage_secrets: BTreeMap<String, String>,
    pub publish_secrets: BTreeMap<String, String>,
    /// Tokens by audience as JSON, where the driver wants any.
    pub tokens: Option<String>,
    pub tokens_in_secrets: bool,
    pub attachment: Option<Attachment>,
    /// The volume has grown to so many bytes, and its file system is to follow.
    pub grow_to: Option<i64>,
    pub expand_secrets: BTreeMap<String, String>,
}

/// What the attacher said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Attachment {
    pub name: String,
    pub metadata: BTreeMap<String, String>,
}

/// What is remembered on the disk of a volume; the file and its fields are the kubelet's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Known {
    pub driver_name: String,
    pub volume_handle: String,
    pub spec_vol_id: String,
    pub volume_lifecycle_mode: String,
    #[serde(rename = "attachmentID")]
    pub attachment: String,
}

/// The name of the VolumeAttachment of this volume and node.
pub fn attachment_name(handle: &str, driver: &str, node: &str) -> String {
    format!("csi-{}", hex::encode(Sha256::digest(format!("{handle}{driver}{node}"))))
}

/// The handle of a volume that lives and dies with its pod.
pub fn inline_handle(uid: &str, volume: &str) -> String {
    format!("csi-{}", hex::encode(Sha256::digest(format!("{uid}{volume}"))))
}

/// As the status of a Node calls the volume.
pub fn unique_name(driver: &str, handle: &str) -> String {
    format!("kubernetes.io/csi/{driver}^{handle}")
}

/// Where a volume's things are.
pub(super) struct Places {
    /// What is remembered of it for this pod.
    pub record: PathBuf,
    /// Where the driver puts it for this pod.
    pub target: PathBuf,
    /// What is remembered of it for the node, and where the driver puts it for all pods.
    pub stage_record: PathBuf,
    pub stage: PathBuf,
}

impl Places {
    /// `root` is the agent's.
    pub fn of(root: &Path, uid: &str, known: &Known, block: bool) -> Places {
        let plugin = root.join("plugins/kubernetes.io/csi");
        let pod = root.join("pods").join(uid);
        let stage = plugin.join(&known.driver_name);
        let stage = stage.join(hex::encode(Sha256::digest(&known.volume_handle)));
        let kind = if block { "volumeDevices" } else { "volumes" };
        let own = pod.join(kind).join("kubernetes.io~csi").join(&known.spec_vol_id);
        Places {
            record: own.join("vol_data.json"),
            target: own.join(if block { "device" } else { "mount" }),
            stage_record: stage.join("vol_data.json"),
            stage: stage.join("globalmount"),
        }
    }
}

impl Wanted {
    pub(super) fn known(&self) -> Known {
        Known {
            driver_name: self.driver.clone(),
            volume_handle: self.handle.clone(),
            spec_vol_id: self.name.clone(),
            volume_lifecycle_mode: self.lifecycle().into(),
            attachment: self.attachment.as_ref().map(|it| it.name.clone()).unwrap_or_default(),
        }
    }

    pub fn lifecycle(&self) -> &'static str {
        if self.ephemeral { "Ephemeral" } else { "Persistent" }
    }

    pub(super) fn stage(
        &self,
        driver: &Driver,
        group: Option<u32>,
        to: &Path,
    ) -> NodeStageVolumeRequest {
        NodeStageVolumeRequest {
            volume_id: self.handle.clone(),
            publish_context: self.publish_context(),
            staging_target_path: to.to_string_lossy().into_owned(),
            volume_capability: Some(self.capability(driver, group)),
            secrets: map(&self.stage_secrets),
            volume_context: map(&self.attributes),
        }
    }

    pub(super) fn publish(
        &self,
        driver: &Driver,
        pod: &Pod,
        group: Option<u32>,
        stage: Option<&Path>,
        to: &Path,
    ) -> NodePublishVolumeRequest {
        let mut context = map(&self.attributes);
        let mut secrets = map(&self.publish_secrets);
        if self.pod_info {
            let meta = &pod.metadata;
            let account = &pod.spec.service_account_name;
            for (key, value) in [
                ("pod.name", meta.name.as_str()),
                ("pod.namespace", &meta.namespace),
                ("pod.uid", &meta.uid),
                ("serviceAccount.name", account),
                ("ephemeral", if self.ephemeral { "true" } else { "false" }),
            ] {
                context.insert(format!("csi.storage.k8s.io/{key}"), value.into());
            }
        }
        if let Some(tokens) = &self.tokens {
            let place = if self.tokens_in_secrets { &mut secrets } else { &mut context };
            place.insert(TOKENS.into(), tokens.clone());
        }
        NodePublishVolumeRequest {
            volume_id: self.handle.clone(),
            publish_context: self.publish_context(),
            staging_target_path: stage
                .map(|stage| stage.to_string_lossy().into_owned())
                .unwrap_or_default(),
            target_path: to.to_string_lossy().into_owned(),
            volume_capability: Some(self.capability(driver, group)),
            readonly: self.read_only,
            secrets,
            volume_context: context,
        }
    }

    pub(super) fn expand(
        &self,
        driver: &Driver,
        stage: Option<&Path>,
        at: &Path,
    ) -> Option<NodeExpandVolumeRequest> {
        let required_bytes = self.grow_to.filter(|_| driver.can(rpc::Type::ExpandVolume))?;
        Some(NodeExpandVolumeRequest {
            volume_id: self.handle.clone(),
            volume_path: at.to_string_lossy().into_owned(),
            capacity_range: Some(CapacityRange { required_bytes, limit_bytes: 0 }),
            staging_target_path: stage
                .map(|stage| stage.to_string_lossy().into_owned())
                .unwrap_or_default(),
            volume_capability: Some(self.capability(driver, None)),
            secrets: map(&self.expand_secrets),
        })
    }

    fn publish_context(&self) -> HashMap<String, String> {
        self.attachment.as_ref().map(|it| map(&it.metadata)).unwrap_or_default()
    }

    fn capability(&self, driver: &Driver, group: Option<u32>) -> VolumeCapability {
        let access_type = match self.block {
            true => AccessType::Block(BlockVolume {}),
            false => AccessType::Mount(MountVolume {
                fs_type: self.fs_type.clone(),
                mount_flags: self.mount_options.clone(),
                volume_mount_group: group
                    .filter(|_| driver.can(rpc::Type::VolumeMountGroup))
                    .map(|group| group.to_string())
                    .unwrap_or_default(),
            }),
        };
        let fine = driver.can(rpc::Type::SingleNodeMultiWriter);
        let mode = match self.access_mode.as_str() {
            "ReadOnlyMany" => Mode::MultiNodeReaderOnly,
            "ReadWriteMany" => Mode::MultiNodeMultiWriter,
            "ReadWriteOncePod" if fine => Mode::SingleNodeSingleWriter,
            _ if fine => Mode::SingleNodeMultiWriter,
            _ => Mode::SingleNodeWriter,
        };
        VolumeCapability {
            access_mode: Some(AccessMode { mode: mode as i32 }),
            access_type: Some(access_type),
        }
    }

    /// Whether the agent is to give the files to the pod's group.
    pub(super) fn is_to_be_owned(&self, driver: &Driver) -> bool {
        if self.block || self.read_only || driver.can(rpc::Type::VolumeMountGroup) {
            return false;
        }
        match self.group_policy.as_str() {
            "None" => false,
            "File" => true,
            _ => {
                !self.fs_type.is_empty()
                    && matches!(self.access_mode.as_str(), "ReadWriteOnce" | "ReadWriteOncePod")
            }
        }
    }
}

fn map(from: &BTreeMap<String, String>) -> HashMap<String, String> {
    from.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;

    fn driver(capabilities: &[rpc::Type]) -> Driver {
        Driver {
            name: "d".into(),
            socket: PathBuf::new(),
            node_id: "n".into(),
            most: None,
            topology: BTreeMap::new(),
            capabilities: capabilities.iter().map(|one| *one as i32).collect::<BTreeSet<_>>(),
        }
    }

    #[test]
    fn access_modes_and_groups() {
        use rpc::Type::{SingleNodeMultiWriter as Fine, VolumeMountGroup as Group};
        for (mode, capabilities, fs_type, policy, expected) in [
            ("ReadWriteOnce", vec![], "ext4", "", (Mode::SingleNodeWriter, "", true)),
            ("ReadWriteOnce", vec![], "", "", (Mode::SingleNodeWriter, "", false)),
            ("ReadWriteOnce", vec![Fine], "ext4", "None", (Mode::SingleNodeMultiWriter, "", false)),
            ("ReadWriteOncePod", vec![Fine], "ext4", "", (Mode::SingleNodeSingleWriter, "", true)),
            ("ReadWriteMany", vec![], "ext4", "", (Mode::MultiNodeMultiWriter, "", false)),
            ("ReadWriteMany", vec![], "", "File", (Mode::MultiNodeMultiWriter, "", true)),
            ("ReadOnlyMany", vec![Group], "", "File", (Mode::MultiNodeReaderOnly, "7", false)),
        ] {
            let wanted = Wanted {
                access_mode: mode.into(),
                fs_type: fs_type.into(),
                group_policy: policy.into(),
                ..Wanted::default()
            };
            let driver = driver(&capabilities);
            let capability = wanted.capability(&driver, Some(7));
            let Some(AccessType::Mount(mount)) = capability.access_type else { panic!() };
            let found = capability.access_mode.unwrap().mode();
            let owned = wanted.is_to_be_owned(&driver);
            assert_eq!(
                (found, mount.volume_mount_group.as_str(), owned),
                expected,
                "{mode} {policy}"
            );
        }
    }

    #[test]
    fn what_the_driver_is_told() {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"serviceAccountName": "robot"}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let wanted = Wanted {
            pod_info: true,
            ephemeral: true,
            tokens: Some("{}".into()),
            tokens_in_secrets: true,
            attributes: [("a".to_string(), "b".to_string())].into(),
            ..Wanted::default()
        };
        let request = wanted.publish(&driver(&[]), &pod, None, None, Path::new("/t"));
        let mut context: Vec<_> = request.volume_context.into_iter().collect();
        context.sort();
        let expected = [
            ("a", "b"),
            ("csi.storage.k8s.io/ephemeral", "true"),
            ("csi.storage.k8s.io/pod.name", "p"),
            ("csi.storage.k8s.io/pod.namespace", "n"),
            ("csi.storage.k8s.io/pod.uid", "u"),
            ("csi.storage.k8s.io/serviceAccount.name", "robot"),
        ];
        let expected: Vec<_> =
            expected.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        assert_eq!(context, expected);
        assert_eq!(request.secrets.get(TOKENS).map(String::as_str), Some("{}"));
        assert_eq!(request.staging_target_path, "");
    }
}
