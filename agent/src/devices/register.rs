//! How plugins of devices make themselves known, on the agent's own socket or in the folder of plugins,
//! and how they are listened to from then on.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use async_trait::async_trait;
use client::Clock;
use proto::device_plugin::device_plugin_client::DevicePluginClient;
use proto::device_plugin::registration_server::{Registration, RegistrationServer};
use proto::device_plugin::{Empty, RegisterRequest};
use proto::registration::PluginInfo;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response, Status};

use super::{Devices, Plugin, Shared, is_extended_resource};
use crate::plugins::{CallError, Error, Handler, patient_channel, sockets};

const VERSION: &str = "v1beta1";
const SOCKET: &str = "kubelet.sock";

/// Takes plugins of devices.
#[derive(Clone)]
pub struct Registrar {
    pub devices: Devices,
    pub clock: Clock,
}

impl Registrar {
    /// Serves the socket on which plugins register, for ever. Those that registered with an earlier
    /// agent know by the end of their sockets that they have to do it again.
    pub async fn serve(self) {
        let Some(folder) = self.devices.0.folder.clone() else { return };
        let served = match bind(&folder) {
            Ok(listener) => {
                let server = tonic::transport::Server::builder();
                let router = { server }.add_service(RegistrationServer::new(self));
                let incoming = UnixListenerStream::new(listener);
                router.serve_with_incoming(incoming).await.map_err(io::Error::other)
            }
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            let folder = folder.display().to_string();
            tracing::error!(folder, %error, "no device plugin can register");
        }
        std::future::pending().await
    }

    /// Takes the plugin on this socket; one that offered the resource before is heard no more.
    fn connect(&self, resource: &str, socket: PathBuf) {
        let mut state = self.devices.0.state.lock();
        state.plugins += 1;
        let number = state.plugins;
        let listener = Listener {
            devices: Arc::downgrade(&self.devices.0),
            clock: self.clock.clone(),
            resource: resource.to_string(),
            number,
        };
        // It waits for the lock that is held here before it says anything.
        let task = AbortOnDropHandle::new(tokio::spawn(listener.follow(socket.clone())));
        let known = state.resources.entry(resource.to_string()).or_default();
        known.plugin = Some(Plugin { number, socket, _task: task });
        tracing::info!(resource, "device plugin registered");
    }
}

/// Listens to one plugin, as long as somebody wants its devices.
struct Listener {
    devices: Weak<Shared>,
    clock: Clock,
    resource: String,
    number: u64,
}

impl Listener {
    async fn follow(self, socket: PathBuf) {
        let resource = &self.resource;
        if let Err(status) = self.listen(&socket).await {
            let error = CallError(status);
            tracing::warn!(resource, %error, "a device plugin does not answer");
        }
        tracing::info!(resource, "device plugin ended");
        if let Some(devices) = self.devices() {
            devices.end(resource, self.number, self.clock.now());
        }
    }

    async fn listen(&self, socket: &Path) -> Result<(), Status> {
        let mut client = DevicePluginClient::new(patient_channel(socket));
        let options = client.get_device_plugin_options(Empty {}).await?.into_inner();
        if let Some(devices) = self.devices()
            && let Some(known) = devices.0.state.lock().current(&self.resource, self.number)
        {
            known.options = options;
        }
        let mut lists = client.list_and_watch(Empty {}).await?.into_inner();
        while let Some(list) = lists.message().await? {
            let Some(devices) = self.devices() else { break };
            devices.update(&self.resource, self.number, list.devices);
        }
        Ok(())
    }

    fn devices(&self) -> Option<Devices> {
        self.devices.upgrade().map(Devices)
    }
}

/// Why no such plugin can be taken, if so; in the kubelet's words.
fn refusal(versions: &[String], resource: &str) -> Option<String> {
    if !versions.iter().any(|version| version == VERSION) {
        let asked = versions.join(",");
        return Some(format!(
            "requested API version {asked:?} is not supported by kubelet. Supported version is \
             [{VERSION:?}]"
        ));
    }
    let good = is_extended_resource(resource);
    (!good).then(|| format!("the ResourceName {resource:?} is invalid"))
}

#[async_trait]
impl Registration for Registrar {
    async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        let RegisterRequest { version, endpoint, resource_name, .. } = request.into_inner();
        if let Some(refusal) = refusal(&[version], &resource_name) {
            tracing::warn!(resource = resource_name, refusal, "device plugin not taken");
            return Err(Status::unknown(refusal));
        }
        let folder = self.devices.0.folder.clone().unwrap_or_default();
        self.connect(&resource_name, folder.join(endpoint.trim_start_matches('/')));
        Ok(Response::new(Empty {}))
    }
}

#[async_trait]
impl Handler for Registrar {
    fn kind(&self) -> &'static str {
        "DevicePlugin"
    }

    fn refusal(&self, info: &PluginInfo) -> Option<String> {
        refusal(&info.supported_versions, &info.name)
    }

    async fn take(&self, info: &PluginInfo, endpoint: &Path) -> Result<(), Error> {
        self.connect(&info.name, endpoint.to_path_buf());
        Ok(())
    }

    async fn gone(&self, name: &str) -> Result<(), Error> {
        let state = self.devices.0.state.lock();
        let plugin = state.resources.get(name).and_then(|known| known.plugin.as_ref());
        let number = plugin.map(|plugin| plugin.number);
        drop(state);
        if let Some(number) = number {
            self.devices.end(name, number, self.clock.now());
        }
        Ok(())
    }
}

/// The agent's socket, and no other, in the folder.
fn bind(folder: &Path) -> io::Result<UnixListener> {
    fs::DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
    for socket in sockets(folder) {
        fs::remove_file(socket)?;
    }
    UnixListener::bind(folder.join(SOCKET))
}
