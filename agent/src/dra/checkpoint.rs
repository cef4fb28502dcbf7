//! `dra_manager_state`: which claims are ready for which pods, and what their drivers answered. The file
//! is in the kubelet's form, checksum included.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Device, Held};
use crate::checkpoint::{self, checksum};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("read or write it")]
    Io(#[from] io::Error),
    #[error("it is not the JSON that it should be")]
    Json(#[from] serde_json::Error),
    #[error("checkpoint is corrupted")]
    Checksum,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct File {
    /// JSON again.
    data: String,
    checksum: u32,
}

#[derive(Serialize, Deserialize)]
struct Data {
    kind: String,
    #[serde(rename = "apiVersion")]
    api_version: String,
    #[serde(rename = "ClaimInfoStateList")]
    claims: Option<Vec<Claim>>,
}

#[derive(Serialize, Deserialize)]
struct Claim {
    #[serde(rename = "ClaimUID")]
    uid: String,
    #[serde(rename = "ClaimName")]
    name: String,
    #[serde(rename = "Namespace")]
    namespace: String,
    /// A set, as Go writes it.
    #[serde(rename = "PodUIDs")]
    pods: Map<String, Value>,
    #[serde(rename = "DriverState")]
    drivers: BTreeMap<String, Driver>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Driver {
    devices: Option<Vec<Known>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Known {
    pool_name: String,
    device_name: String,
    request_names: Option<Vec<String>>,
    #[serde(rename = "CDIDeviceIDs")]
    cdi_device_ids: Option<Vec<String>>,
}

/// By the claim's uid; none where there is no file.
pub fn read(file: &Path) -> Result<BTreeMap<String, Held>, Error> {
    let Some(text) = checkpoint::read(file)? else { return Ok(BTreeMap::new()) };
    let File { data, checksum } = serde_json::from_slice(&text)?;
    if checksum != of(&data) {
        return Err(Error::Checksum);
    }
    let data: Data = serde_json::from_str(&data)?;
    let device = |known: Known| Device {
        requests: known.request_names.unwrap_or_default(),
        pool: known.pool_name,
        device: known.device_name,
        cdi: known.cdi_device_ids.unwrap_or_default(),
    };
    let held = |claim: Claim| {
        let drivers = claim.drivers.into_iter().map(|(driver, state)| {
            let devices = state.devices.into_iter().flatten().map(device).collect();
            (driver, devices)
        });
        let devices: BTreeMap<String, Vec<Device>> = drivers.collect();
        // One that has answered may have to answer again; one that has not must.
        let ready = devices.values().all(|devices| !devices.is_empty());
        let (namespace, name) = (claim.namespace, claim.name);
        let pods = claim.pods.into_iter().map(|(uid, _)| uid).collect();
        (claim.uid, Held { namespace, name, pods, devices, ready })
    };
    Ok(data.claims.into_iter().flatten().map(held).collect())
}

pub fn write(file: &Path, claims: &BTreeMap<String, Held>) -> Result<(), Error> {
    let known = |device: &Device| Known {
        pool_name: device.pool.clone(),
        device_name: device.device.clone(),
        request_names: Some(device.requests.clone()),
        cdi_device_ids: Some(device.cdi.clone()),
    };
    let claim = |(uid, held): (&String, &Held)| {
        let drivers = held.devices.iter().map(|(driver, devices)| {
            (driver.clone(), Driver { devices: Some(devices.iter().map(known).collect()) })
        });
        let pods = held.pods.iter().map(|uid| (uid.clone(), Value::Object(Map::new())));
        Claim {
            uid: uid.clone(),
            name: held.name.clone(),
            namespace: held.namespace.clone(),
            pods: pods.collect(),
            drivers: drivers.collect(),
        }
    };
    let data = Data {
        kind: "DRACheckpoint".into(),
        api_version: "checkpoint.dra.kubelet.k8s.io/v1".into(),
        claims: Some(claims.iter().map(claim).collect()),
    };
    let data = serde_json::to_string(&data)?;
    let checksum = of(&data);
    checkpoint::write(file, &serde_json::to_vec(&File { data, checksum })?)?;
    Ok(())
}

/// Of the text as Go's deep printer shows it.
fn of(data: &str) -> u32 {
    checksum(&format!("(string){data:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("dra_manager_state");
        assert_eq!(read(&file).unwrap(), BTreeMap::new());
        let device = Device {
            requests: vec!["r".into()],
            pool: "node".into(),
            device: "x".into(),
            cdi: vec!["v.com/c=x".into()],
        };
        let ready = Held {
            namespace: "n".into(),
            name: "c".into(),
            pods: ["p".to_string(), "q".to_string()].into(),
            devices: [("d".to_string(), vec![device])].into(),
            ready: true,
        };
        let begun =
            Held { devices: [("d".to_string(), vec![])].into(), ready: false, ..ready.clone() };
        let claims = BTreeMap::from([("u".to_string(), ready), ("v".to_string(), begun)]);
        write(&file, &claims).unwrap();
        assert_eq!(read(&file).unwrap(), claims);
        let text = std::fs::read_to_string(&file).unwrap().replace("node", "nope");
        std::fs::write(&file, text).unwrap();
        assert!(matches!(read(&file), Err(Error::Checksum)));
    }
}
