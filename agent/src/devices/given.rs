//! What a container is made with so that it has its devices: what their plugins answered when they gave
//! them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use client::Clock;
use proto::cri;
use proto::device_plugin::PreStartContainerRequest;
use proto::device_plugin::device_plugin_client::DevicePluginClient;

use super::{Allotment, Devices, Owner};
use crate::config::mount;
use crate::plugins::{CallError, patient_channel};

/// How long a plugin may take to get devices ready for a run of their container (kubelet: 30 s).
const PREPARATION: Duration = Duration::from_secs(30);

/// The container cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("device plugin PreStartContainer rpc failed with err: {0}")]
    PreStart(CallError),
    #[error(
        "device plugin PreStartContainer rpc failed with err: endpoint of {0} has been stopped"
    )]
    Stopped(String),
}

/// For one container.
#[derive(Debug, Default, PartialEq)]
pub struct Given {
    pub environment: BTreeMap<String, String>,
    pub mounts: Vec<cri::Mount>,
    pub devices: Vec<cri::Device>,
    pub annotations: BTreeMap<String, String>,
    /// By their whole names.
    pub cdi_devices: Vec<String>,
}

/// What of a container's devices there is to prepare before it runs.
struct Preparation {
    resource: String,
    /// None: nobody is there to do it.
    socket: Option<PathBuf>,
    ids: Vec<String>,
}

impl Devices {
    /// For a run of the container that is about to be made. Plugins that want to prepare their
    /// devices for it have done so.
    pub async fn given(&self, pod: &str, container: &str, clock: &Clock) -> Result<Given, Error> {
        let (given, preparations) = {
            let state = self.0.state.lock();
            let own = state.of_pod(pod).filter(|(owner, _)| owner.container == container);
            let own: Vec<(&Owner, &Allotment)> = own.collect();
            let preparations = own.iter().filter_map(|(owner, allotment)| {
                let resource = state.resources.get(&owner.resource)?;
                resource.options.pre_start_required.then(|| Preparation {
                    resource: owner.resource.clone(),
                    socket: resource.plugin.as_ref().map(|plugin| plugin.socket.clone()),
                    ids: allotment.ids().into_iter().collect(),
                })
            });
            let preparations: Vec<Preparation> = preparations.collect();
            (merged(own.iter().map(|(_, allotment)| *allotment)), preparations)
        };
        for Preparation { resource, socket, ids } in preparations {
            let socket = socket.ok_or(Error::Stopped(resource))?;
            let mut client = DevicePluginClient::new(patient_channel(&socket));
            let call = client.pre_start_container(PreStartContainerRequest { devices_ids: ids });
            let late = || tonic::Status::deadline_exceeded("context deadline exceeded");
            let answer = clock.timeout(PREPARATION, call).await;
            answer
                .map_err(|_| late())
                .flatten()
                .map_err(|status| Error::PreStart(CallError(status)))?;
        }
        Ok(given)
    }
}

/// What is named twice is given once, as it was named first.
fn merged<'a>(allotments: impl Iterator<Item = &'a Allotment>) -> Given {
    let mut given = Given::default();
    let (mut mounted, mut made, mut named) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for Allotment { answer, .. } in allotments {
        for (name, value) in &answer.envs {
            given.environment.entry(name.clone()).or_insert_with(|| value.clone());
        }
        for (name, value) in &answer.annotations {
            given.annotations.entry(name.clone()).or_insert_with(|| value.clone());
        }
        for wanted in answer.mounts.iter().filter(|it| mounted.insert(&it.container_path)) {
            let (host, path) = (Path::new(&wanted.host_path), &wanted.container_path);
            given.mounts.push(mount(host, path, wanted.read_only, None));
        }
        for device in answer.devices.iter().filter(|it| made.insert(&it.container_path)) {
            given.devices.push(cri::Device {
                container_path: device.container_path.clone(),
                host_path: device.host_path.clone(),
                permissions: device.permissions.clone(),
            });
        }
        let names = answer.cdi_devices.iter().map(|device| &device.name);
        given.cdi_devices.extend(names.filter(|name| named.insert(*name)).cloned());
    }
    given
}

#[cfg(test)]
mod tests {
    use proto::device_plugin::{CdiDevice, ContainerAllocateResponse, DeviceSpec, Mount};

    use super::*;

    #[test]
    fn what_two_plugins_give() {
        let answer = |path: &str, value: &str| {
            let both = |key: &str| [(key.to_string(), value.to_string())].into();
            let spec = |path: &str| DeviceSpec {
                container_path: path.into(),
                host_path: value.into(),
                permissions: "rw".into(),
            };
            let answer = ContainerAllocateResponse {
                envs: both("E"),
                mounts: vec![Mount {
                    container_path: "/m".into(),
                    host_path: value.into(),
                    read_only: true,
                }],
                devices: vec![spec(path), spec("/dev/both")],
                annotations: both("a"),
                cdi_devices: vec![CdiDevice { name: "e.com/c=both".into() }],
            };
            Allotment { answer, ..Allotment::default() }
        };
        let given = merged([answer("/dev/a", "1"), answer("/dev/b", "2")].iter());
        assert_eq!((given.environment["E"].as_str(), given.annotations["a"].as_str()), ("1", "1"));
        let mounts = given.mounts.iter();
        let mounts: Vec<_> = mounts.map(|it| (it.host_path.as_str(), it.readonly)).collect();
        assert_eq!(mounts, [("1", true)]);
        let devices = given.devices.iter();
        let devices: Vec<_> =
            devices.map(|it| (it.container_path.as_str(), it.host_path.as_str())).collect();
        assert_eq!(devices, [("/dev/a", "1"), ("/dev/both", "1"), ("/dev/b", "2")]);
        assert_eq!(given.cdi_devices, ["e.com/c=both"]);
    }
}
