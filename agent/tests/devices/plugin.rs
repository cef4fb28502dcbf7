//! A plugin of devices that does what its test says, as a program of its own would: nothing of it is left
//! when it is dropped.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use proto::device_plugin::device_plugin_server::{DevicePlugin, DevicePluginServer};
use proto::device_plugin::registration_client::RegistrationClient;
use proto::device_plugin::*;
use tokio::net::UnixListener;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio_stream::wrappers::{UnixListenerStream, WatchStream};
use tonic::{Request, Response, Status};

type Answer = dyn Fn(&[String]) -> Result<ContainerAllocateResponse, Status> + Send + Sync;

pub struct Plugin {
    /// Its socket's file name.
    pub endpoint: String,
    pub socket: PathBuf,
    state: Arc<State>,
    runtime: Option<Runtime>,
}

struct State {
    devices: watch::Sender<Vec<Device>>,
    calls: Mutex<Vec<String>>,
    options: Mutex<DevicePluginOptions>,
    /// What it prefers to give.
    preferred: Mutex<Vec<String>>,
    answer: Mutex<Arc<Answer>>,
}

/// A healthy device unless its name begins with a `-`, near the NUMA node that follows an `@`.
fn device(text: &str) -> Device {
    let (sick, text) = (text.starts_with('-'), text.trim_start_matches('-'));
    let (id, node) = text.split_once('@').unwrap_or((text, ""));
    let nodes: Vec<NumaNode> = node.parse().ok().map(|id| NumaNode { id }).into_iter().collect();
    Device {
        id: id.into(),
        health: if sick { "Unhealthy" } else { "Healthy" }.into(),
        topology: (!nodes.is_empty()).then_some(TopologyInfo { nodes }),
    }
}

impl Plugin {
    /// Serves in `folder` and offers these devices.
    pub fn start(folder: &Path, endpoint: &str, devices: &str) -> Plugin {
        let list = devices.split_whitespace().map(device).collect();
        let answer: Arc<Answer> = Arc::new(|ids: &[String]| {
            let envs = [("DEVICES".to_string(), ids.join(","))].into();
            Ok(ContainerAllocateResponse { envs, ..Default::default() })
        });
        let state = Arc::new(State {
            devices: watch::Sender::new(list),
            calls: Mutex::default(),
            options: Mutex::default(),
            preferred: Mutex::default(),
            answer: Mutex::new(answer),
        });
        let socket = folder.join(endpoint);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = {
            let _inside = runtime.enter();
            UnixListenerStream::new(UnixListener::bind(&socket).unwrap())
        };
        let service = DevicePluginServer::new(Service(state.clone()));
        let router = tonic::transport::Server::builder().add_service(service);
        runtime.spawn(router.serve_with_incoming(listener));
        Plugin { endpoint: endpoint.into(), socket, state, runtime: Some(runtime) }
    }

    /// Makes itself known on the agent's socket.
    pub async fn register(&self, agent: &Path, resource: &str) -> Result<(), Status> {
        self.register_as(agent, resource, "v1beta1").await
    }

    pub async fn register_as(
        &self,
        agent: &Path,
        resource: &str,
        version: &str,
    ) -> Result<(), Status> {
        let request = RegisterRequest {
            version: version.into(),
            endpoint: self.endpoint.clone(),
            resource_name: resource.into(),
            options: None,
        };
        let mut client = RegistrationClient::new(agent::plugins::channel(agent));
        client.register(request).await.map(drop)
    }

    pub fn offer(&self, devices: &str) {
        self.state.devices.send_replace(devices.split_whitespace().map(device).collect());
    }

    pub fn wants(&self, pre_start_required: bool, get_preferred_allocation_available: bool) {
        *self.state.options.lock() =
            DevicePluginOptions { pre_start_required, get_preferred_allocation_available };
    }

    pub fn prefers(&self, devices: &str) {
        *self.state.preferred.lock() = devices.split_whitespace().map(String::from).collect();
    }

    pub fn answers(
        &self,
        answer: impl Fn(&[String]) -> Result<ContainerAllocateResponse, Status> + Send + Sync + 'static,
    ) {
        *self.state.answer.lock() = Arc::new(answer);
    }

    /// What it was asked since it was last looked at.
    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.state.calls.lock())
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        // As a program that is killed: its socket stays, with nobody behind it.
    }
}

struct Service(Arc<State>);

impl Service {
    fn note(&self, call: String) {
        self.0.calls.lock().push(call);
    }
}

#[tonic::async_trait]
impl DevicePlugin for Service {
    async fn get_device_plugin_options(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(*self.0.options.lock()))
    }

    type ListAndWatchStream = BoxStream<'static, Result<ListAndWatchResponse, Status>>;

    async fn list_and_watch(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<Self::ListAndWatchStream>, Status> {
        let lists = WatchStream::new(self.0.devices.subscribe());
        let lists = lists.map(|devices| Ok(ListAndWatchResponse { devices }));
        Ok(Response::new(lists.boxed()))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        for one in request.into_inner().container_requests {
            let (free, certain) =
                (one.available_device_i_ds.join(","), one.must_include_device_i_ds.join(","));
            self.note(format!("prefer {} of {free} with [{certain}]", one.allocation_size));
        }
        let device_i_ds = self.0.preferred.lock().clone();
        let one = ContainerPreferredAllocationResponse { device_i_ds };
        Ok(Response::new(PreferredAllocationResponse { container_responses: vec![one] }))
    }

    async fn allocate(
        &self,
        request: Request<AllocateRequest>,
    ) -> Result<Response<AllocateResponse>, Status> {
        let answer = self.0.answer.lock().clone();
        let answer = |one: ContainerAllocateRequest| {
            self.note(format!("allocate {}", one.devices_ids.join(",")));
            answer(&one.devices_ids)
        };
        let all = request.into_inner().container_requests.into_iter().map(answer);
        let container_responses = all.collect::<Result<_, _>>()?;
        Ok(Response::new(AllocateResponse { container_responses }))
    }

    async fn pre_start_container(
        &self,
        request: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        self.note(format!("prepare {}", request.into_inner().devices_ids.join(",")));
        Ok(Response::new(PreStartContainerResponse {}))
    }
}
