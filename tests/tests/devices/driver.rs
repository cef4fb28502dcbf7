//! A driver of claimed devices that does what its test says, as a program of its own would; and its
//! description of them for container runtimes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use proto::dra::dra_plugin_server::{DraPlugin, DraPluginServer};
use proto::dra::*;
use proto::dra_health::dra_resource_health_server::{DraResourceHealth, DraResourceHealthServer};
use proto::dra_health::{
    DeviceHealth, DeviceIdentifier, HealthStatus, NodeWatchResourcesRequest,
    NodeWatchResourcesResponse,
};
use proto::registration::registration_server::{Registration, RegistrationServer};
use proto::registration::{
    InfoRequest, PluginInfo, RegistrationStatus, RegistrationStatusResponse,
};
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tonic::{Request, Response, Status};

pub const DRIVER: &str = "things.example.com";

pub struct Driver {
    state: Arc<State>,
    socket: PathBuf,
    /// Its file in the node's folder of descriptions.
    description: PathBuf,
    _runtime: Runtime,
}

#[derive(Default)]
struct State {
    calls: Mutex<Vec<String>>,
    /// Why it does not get anything ready.
    refusal: Mutex<String>,
    /// For which request of a claim it gives its device.
    request: Mutex<String>,
    health: watch::Sender<NodeWatchResourcesResponse>,
    cdi: String,
}

impl Drop for Driver {
    fn drop(&mut self) {
        for file in [&self.socket, &self.description] {
            let _ = std::fs::remove_file(file);
        }
    }
}

impl Driver {
    /// Makes itself known in `folder`, with a device that has a node, a variable and a manual.
    pub fn start(folder: &Path, manual: &Path) -> Driver {
        // Whoever else tests this on the machine has another process.
        let kind = format!("{DRIVER}/thing{}", std::process::id());
        let content = serde_json::json!({
            "cdiVersion": "0.6.0",
            "kind": kind,
            "containerEdits": {"env": ["THINGS=all"]},
            "devices": [{"name": "large", "containerEdits": {
                "env": ["THING=large"],
                "deviceNodes": [{"path": "/dev/thing", "hostPath": "/dev/full"}],
                "mounts": [{"hostPath": manual, "containerPath": "/manual",
                    "options": ["ro", "nosuid", "nodev", "bind"]}],
            }}],
        });
        let descriptions = Path::new("/var/run/cdi");
        std::fs::create_dir_all(descriptions).unwrap();
        let description = descriptions.join(format!("coracle-test-{}.json", std::process::id()));
        std::fs::write(&description, content.to_string()).unwrap();
        let state = Arc::new(State {
            cdi: format!("{kind}=large"),
            request: Mutex::new("r".into()),
            ..State::default()
        });
        std::fs::create_dir_all(folder).unwrap();
        let socket = folder.join("things-reg.sock");
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = {
            let _inside = runtime.enter();
            UnixListenerStream::new(UnixListener::bind(&socket).unwrap())
        };
        let router = tonic::transport::Server::builder()
            .add_service(RegistrationServer::new(Service(state.clone())))
            .add_service(DraPluginServer::new(Service(state.clone())))
            .add_service(DraResourceHealthServer::new(Service(state.clone())));
        runtime.spawn(router.serve_with_incoming(listener));
        Driver { state, socket, description, _runtime: runtime }
    }

    /// From now on it says this instead of doing anything; unless it is empty.
    pub fn refuses(&self, why: &str) {
        *self.state.refusal.lock() = why.into();
    }

    /// From now on its device is for this request of whoever claims it.
    pub fn answers(&self, request: &str) {
        *self.state.request.lock() = request.into();
    }

    /// Says of its device how it is, for the next minute.
    pub fn tells(&self, health: HealthStatus, message: &str) {
        let device = DeviceIdentifier { pool_name: "alone".into(), device_name: "large".into() };
        let told = DeviceHealth {
            device: Some(device),
            health: health.into(),
            health_check_timeout_seconds: 60,
            message: message.into(),
            ..DeviceHealth::default()
        };
        self.state.health.send_replace(NodeWatchResourcesResponse { devices: vec![told] });
    }

    pub fn calls(&self) -> Vec<String> {
        self.state.calls.lock().clone()
    }

    pub fn cdi(&self) -> &str {
        &self.state.cdi
    }
}

struct Service(Arc<State>);

#[tonic::async_trait]
impl Registration for Service {
    async fn get_info(&self, _: Request<InfoRequest>) -> Result<Response<PluginInfo>, Status> {
        Ok(Response::new(PluginInfo {
            r#type: "DRAPlugin".into(),
            name: DRIVER.into(),
            endpoint: String::new(),
            supported_versions: vec!["v1.DRAPlugin".into()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: Request<RegistrationStatus>,
    ) -> Result<Response<RegistrationStatusResponse>, Status> {
        assert_eq!(request.into_inner().error, "");
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}

#[tonic::async_trait]
impl DraPlugin for Service {
    async fn node_prepare_resources(
        &self,
        request: Request<NodePrepareResourcesRequest>,
    ) -> Result<Response<NodePrepareResourcesResponse>, Status> {
        let error = self.0.refusal.lock().clone();
        let one = |claim: Claim| {
            let said = if error.is_empty() { "ready" } else { "refused" };
            self.0.calls.lock().push(format!("{said} {}", claim.name));
            let device = Device {
                request_names: vec![self.0.request.lock().clone()],
                pool_name: "alone".into(),
                device_name: "large".into(),
                cdi_device_ids: vec![self.0.cdi.clone()],
            };
            let devices = if error.is_empty() { vec![device] } else { Vec::new() };
            (claim.uid, NodePrepareResourceResponse { devices, error: error.clone() })
        };
        let claims = request.into_inner().claims.into_iter().map(one).collect();
        Ok(Response::new(NodePrepareResourcesResponse { claims }))
    }

    async fn node_unprepare_resources(
        &self,
        request: Request<NodeUnprepareResourcesRequest>,
    ) -> Result<Response<NodeUnprepareResourcesResponse>, Status> {
        let one = |claim: Claim| {
            self.0.calls.lock().push(format!("over {}", claim.name));
            (claim.uid, NodeUnprepareResourceResponse::default())
        };
        let claims = request.into_inner().claims.into_iter().map(one).collect();
        Ok(Response::new(NodeUnprepareResourcesResponse { claims }))
    }
}

#[tonic::async_trait]
impl DraResourceHealth for Service {
    type NodeWatchResourcesStream = BoxStream<'static, Result<NodeWatchResourcesResponse, Status>>;

    async fn node_watch_resources(
        &self,
        _: Request<NodeWatchResourcesRequest>,
    ) -> Result<Response<Self::NodeWatchResourcesStream>, Status> {
        let told = WatchStream::new(self.0.health.subscribe());
        Ok(Response::new(told.map(Ok).boxed()))
    }
}
