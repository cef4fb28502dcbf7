//! `device-plugins/kubelet_internal_checkpoint`: which container has which devices, and what its plugin
//! answered. The file is the kubelet's, checksum included.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use prost::Message;
use proto::device_plugin::ContainerAllocateResponse;
use serde::{Deserialize, Serialize};

use super::{Allotment, Owner};
use crate::checkpoint::{self, checksum};

pub const FILE: &str = "kubelet_internal_checkpoint";

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read it")]
    Io(#[from] io::Error),
    #[error("it is not the JSON that it should be")]
    Json(#[from] serde_json::Error),
    #[error("checkpoint is corrupted")]
    Checksum,
    #[error("the answer of a plugin is not base64")]
    Base64(#[from] base64::DecodeError),
    #[error("the answer of a plugin is not its message")]
    Answer(#[from] prost::DecodeError),
}

/// What is in the file.
#[derive(Debug, Default, PartialEq)]
pub struct Kept {
    pub held: BTreeMap<Owner, Allotment>,
    /// The healthy devices by resource.
    pub healthy: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct File {
    data: Data,
    checksum: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    pod_device_entries: Option<Vec<Entry>>,
    registered_devices: Option<BTreeMap<String, Option<Vec<String>>>>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    #[serde(rename = "PodUID")]
    pod_uid: String,
    #[serde(rename = "ContainerName")]
    container_name: String,
    #[serde(rename = "ResourceName")]
    resource_name: String,
    /// By NUMA node; -1: of none.
    #[serde(rename = "DeviceIDs")]
    device_ids: BTreeMap<i64, Vec<String>>,
    #[serde(rename = "AllocResp")]
    answer: Option<String>,
}

/// None where there is no file.
pub fn read(file: &Path) -> Result<Option<Kept>, Error> {
    let Some(text) = checkpoint::read(file)? else { return Ok(None) };
    let File { data, checksum } = serde_json::from_slice(&text)?;
    if checksum != self::checksum(&data.shown()?) {
        return Err(Error::Checksum);
    }
    let mut kept = Kept::default();
    for entry in data.pod_device_entries.into_iter().flatten() {
        let owner = Owner {
            pod: entry.pod_uid,
            container: entry.container_name,
            resource: entry.resource_name,
        };
        let answer = STANDARD.decode(entry.answer.unwrap_or_default())?;
        let answer = ContainerAllocateResponse::decode(answer.as_slice())?;
        kept.held.insert(owner, Allotment { devices: entry.device_ids, answer });
    }
    let healthy = data.registered_devices.into_iter().flatten();
    kept.healthy = healthy.map(|(name, ids)| (name, ids.into_iter().flatten().collect())).collect();
    Ok(Some(kept))
}

pub fn write(file: &Path, kept: &Kept) -> Result<(), Error> {
    let entry = |(owner, allotment): (&Owner, &Allotment)| Entry {
        pod_uid: owner.pod.clone(),
        container_name: owner.container.clone(),
        resource_name: owner.resource.clone(),
        device_ids: allotment.devices.clone(),
        answer: Some(STANDARD.encode(allotment.answer.encode_to_vec())),
    };
    let healthy = kept.healthy.iter();
    let healthy = healthy.map(|(name, ids)| (name.clone(), Some(ids.iter().cloned().collect())));
    let data = Data {
        pod_device_entries: Some(kept.held.iter().map(entry).collect()),
        registered_devices: Some(healthy.collect()),
    };
    let checksum = checksum(&data.shown()?);
    checkpoint::write(file, &serde_json::to_vec(&File { data, checksum })?)?;
    Ok(())
}

impl Data {
    /// As Go's deep printer shows the kubelet's struct: what the checksum is of.
    fn shown(&self) -> Result<String, Error> {
        let nil = || "<nil>".to_string();
        let list = |ids: &Vec<String>| format!("[{}]", ids.join(" "));
        let entry = |entry: &Entry| -> Result<String, Error> {
            let nodes: Vec<String> = entry
                .device_ids
                .iter()
                .map(|(node, ids)| format!("{node}:{}", list(ids)))
                .collect();
            let answer = entry.answer.as_ref().map(|text| STANDARD.decode(text)).transpose()?;
            let answer = answer.map_or_else(nil, |bytes| {
                let bytes: Vec<String> = bytes.iter().map(u8::to_string).collect();
                format!("[{}]", bytes.join(" "))
            });
            Ok(format!(
                "{{PodUID:(string){} ContainerName:(string){} ResourceName:(string){} \
                 DeviceIDs:(checkpoint.DevicesPerNUMA)map[{}] AllocResp:([]uint8){answer}}}",
                entry.pod_uid,
                entry.container_name,
                entry.resource_name,
                nodes.join(" ")
            ))
        };
        let entries = match &self.pod_device_entries {
            Some(entries) => {
                let entries: Vec<String> = entries.iter().map(entry).collect::<Result<_, _>>()?;
                format!("[{}]", entries.join(" "))
            }
            None => nil(),
        };
        let registered = self.registered_devices.as_ref().map_or_else(nil, |all| {
            let all = all.iter();
            let all =
                all.map(|(name, ids)| format!("{name}:{}", ids.as_ref().map_or_else(nil, list)));
            format!("map[{}]", all.collect::<Vec<_>>().join(" "))
        });
        Ok(format!(
            "(checkpoint.checkpointData){{PodDeviceEntries:([]checkpoint.PodDevicesEntry){entries} \
             RegisteredDevices:(map[string][]string){registered}}}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a kubelet wrote it.
    const KUBELETS: &str = r#"{"Data":{"PodDeviceEntries":[{"PodUID":"bf52b2cd-b611-4e79-86b1-280b283185c3","ContainerName":"check","ResourceName":"nvidia.com/gpu","DeviceIDs":{"-1":["tegra"]},"AllocResp":"Ch8KFk5WSURJQV9WSVNJQkxFX0RFVklDRVMSBXRlZ3Jh"}],"RegisteredDevices":{"nvidia.com/gpu":["tegra"]}},"Checksum":3660592824}"#;

    #[test]
    fn the_file_is_the_kubelets() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        assert!(read(&file).unwrap().is_none());
        std::fs::write(&file, KUBELETS).unwrap();
        let kept = read(&file).unwrap().unwrap();
        let (owner, allotment) = kept.held.first_key_value().unwrap();
        assert_eq!(
            (owner.container.as_str(), owner.resource.as_str()),
            ("check", "nvidia.com/gpu")
        );
        assert_eq!(allotment.answer.envs["NVIDIA_VISIBLE_DEVICES"], "tegra");
        write(&file, &kept).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), KUBELETS);
        std::fs::write(&file, KUBELETS.replace("tegra", "tigra")).unwrap();
        assert!(matches!(read(&file), Err(Error::Checksum)));
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        let owner = |container: &str| Owner {
            pod: "u".into(),
            container: container.into(),
            resource: "e.com/x".into(),
        };
        let devices = [(0, vec!["a".into(), "b".into()]), (-1, vec!["c".into()])];
        let full = Allotment { devices: devices.into(), answer: Default::default() };
        let kept = Kept {
            held: [(owner("c"), full.clone()), (owner("d"), Allotment::default())].into(),
            healthy: [("e.com/x".into(), ["a".to_string()].into()), ("e.com/y".into(), [].into())]
                .into(),
        };
        for kept in [kept, Kept::default()] {
            write(&file, &kept).unwrap();
            assert_eq!(read(&file).unwrap().unwrap(), kept);
        }
    }
}
