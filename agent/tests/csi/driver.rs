//! A storage driver's node part, over its real sockets: what it was asked, and volumes that are real.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use proto::csi::node_server::{Node, NodeServer};
use proto::csi::node_service_capability::{Rpc, Type, rpc};
use proto::csi::*;
use proto::registration::registration_server::{Registration, RegistrationServer};
use proto::registration::*;
use rustix::mount::{MountFlags, UnmountFlags};
use tokio::net::UnixListener;
use tokio::sync::Notify;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Response, Status};

pub const NAME: &str = "csi.example.com";
pub const NODE: &str = "id-of-node";
pub const SEGMENT: (&str, &str) = ("topology.example.com/rack", "r1");

type Said<T> = Result<Response<T>, Status>;

/// What its volumes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Volumes {
    /// A tmpfs for each, staged once and bound where a pod is to have it.
    Mounted,
    /// Folders made where they are to be, for a node whose mounts are not the driver's. Each has one file.
    Folders,
}

/// Clones share it.
#[derive(Clone)]
pub struct Driver(Arc<State>);

struct State {
    volumes: Volumes,
    /// As whom it registers, and where it serves.
    kind: String,
    endpoint: PathBuf,
    calls: Mutex<Vec<String>>,
    last: Mutex<Last>,
    /// The next publication fails.
    fails: Mutex<bool>,
    told: Mutex<Option<RegistrationStatus>>,
    registered: Notify,
}

/// The last request of each kind.
#[derive(Clone, Debug, Default)]
pub struct Last {
    pub staged: NodeStageVolumeRequest,
    pub published: NodePublishVolumeRequest,
    pub expanded: NodeExpandVolumeRequest,
}

/// It serves for as long as this lives.
pub type Serving = Vec<AbortOnDropHandle<()>>;

impl Driver {
    /// Serves in `folder` and makes itself known, as a plugin of this kind, at `registry`.
    pub fn start(
        kind: &str,
        volumes: Volumes,
        folder: &Path,
        registry: &Path,
    ) -> (Driver, Serving) {
        let driver = Driver(Arc::new(State {
            volumes,
            kind: kind.into(),
            endpoint: folder.join("csi.sock"),
            calls: Mutex::default(),
            last: Mutex::default(),
            fails: Mutex::default(),
            told: Mutex::default(),
            registered: Notify::new(),
        }));
        let serve = |path: &Path, router: Router| {
            let listener = UnixListenerStream::new(UnixListener::bind(path).unwrap());
            let server = router.serve_with_incoming(listener);
            AbortOnDropHandle::new(tokio::spawn(async move { server.await.unwrap() }))
        };
        let nodes = Server::builder().add_service(NodeServer::new(driver.clone()));
        let known = Server::builder().add_service(RegistrationServer::new(driver.clone()));
        let serving = vec![serve(&driver.0.endpoint, nodes), serve(registry, known)];
        (driver, serving)
    }

    /// Until the node has answered, and what.
    pub async fn told(&self) -> RegistrationStatus {
        loop {
            if let Some(told) = self.0.told.lock().clone() {
                return told;
            }
            self.0.registered.notified().await;
        }
    }

    /// The calls since they were last asked for, and of which volumes.
    pub fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.calls.lock())
    }

    /// The same, to be asked for again.
    pub fn calls_so_far(&self) -> Vec<String> {
        self.0.calls.lock().clone()
    }

    pub fn last(&self) -> Last {
        self.0.last.lock().clone()
    }

    /// The next publication fails.
    pub fn fail(&self) {
        *self.0.fails.lock() = true;
    }

    fn note(&self, call: &str, volume: &str) {
        self.0.calls.lock().push(format!("{call} {volume}"));
    }

    fn mounts(&self) -> bool {
        self.0.volumes == Volumes::Mounted
    }
}

fn failed(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

fn is_mounted(path: &str) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| line.split(' ').nth(4) == Some(path))
}

fn unmount(path: &str) -> Result<(), Status> {
    match is_mounted(path) {
        true => rustix::mount::unmount(path, UnmountFlags::DETACH).map_err(failed),
        false => Ok(()),
    }
}

#[tonic::async_trait]
impl Node for Driver {
    async fn node_stage_volume(
        &self,
        request: tonic::Request<NodeStageVolumeRequest>,
    ) -> Said<NodeStageVolumeResponse> {
        let request = request.into_inner();
        self.note("stage", &request.volume_id);
        let path = request.staging_target_path.as_str();
        if self.mounts() && !is_mounted(path) {
            rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::NOSUID, None)
                .map_err(failed)?;
            fs::write(Path::new(path).join("of"), &request.volume_id).map_err(failed)?;
        }
        self.0.last.lock().staged = request;
        Ok(Response::new(NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: tonic::Request<NodeUnstageVolumeRequest>,
    ) -> Said<NodeUnstageVolumeResponse> {
        let request = request.into_inner();
        self.note("unstage", &request.volume_id);
        unmount(&request.staging_target_path)?;
        Ok(Response::new(NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: tonic::Request<NodePublishVolumeRequest>,
    ) -> Said<NodePublishVolumeResponse> {
        let request = request.into_inner();
        self.note("publish", &request.volume_id);
        self.0.last.lock().published = request.clone();
        if std::mem::take(&mut *self.0.fails.lock()) {
            return Err(Status::unavailable("the disk is away"));
        }
        let target = request.target_path.as_str();
        fs::create_dir_all(target).map_err(failed)?;
        if !self.mounts() {
            fs::write(Path::new(target).join("of"), &request.volume_id).map_err(failed)?;
        } else if !is_mounted(target) && !request.staging_target_path.is_empty() {
            rustix::mount::mount_bind(request.staging_target_path, target).map_err(failed)?;
        }
        Ok(Response::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: tonic::Request<NodeUnpublishVolumeRequest>,
    ) -> Said<NodeUnpublishVolumeResponse> {
        let request = request.into_inner();
        self.note("unpublish", &request.volume_id);
        if self.mounts() {
            unmount(&request.target_path)?;
        } else if Path::new(&request.target_path).exists() {
            fs::remove_dir_all(request.target_path).map_err(failed)?;
        }
        Ok(Response::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        _: tonic::Request<NodeGetVolumeStatsRequest>,
    ) -> Said<NodeGetVolumeStatsResponse> {
        Err(Status::unimplemented("no statistics"))
    }

    async fn node_expand_volume(
        &self,
        request: tonic::Request<NodeExpandVolumeRequest>,
    ) -> Said<NodeExpandVolumeResponse> {
        let request = request.into_inner();
        let capacity_bytes = request.capacity_range.map_or(0, |range| range.required_bytes);
        self.note(&format!("expand to {capacity_bytes}"), &request.volume_id);
        self.0.last.lock().expanded = request;
        Ok(Response::new(NodeExpandVolumeResponse { capacity_bytes }))
    }

    async fn node_get_capabilities(
        &self,
        _: tonic::Request<NodeGetCapabilitiesRequest>,
    ) -> Said<NodeGetCapabilitiesResponse> {
        let can = |what: rpc::Type| NodeServiceCapability {
            r#type: Some(Type::Rpc(Rpc { r#type: what as i32 })),
        };
        let capabilities = vec![can(rpc::Type::StageUnstageVolume), can(rpc::Type::ExpandVolume)];
        Ok(Response::new(NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(
        &self,
        _: tonic::Request<NodeGetInfoRequest>,
    ) -> Said<NodeGetInfoResponse> {
        let segments = [(SEGMENT.0.to_string(), SEGMENT.1.to_string())];
        Ok(Response::new(NodeGetInfoResponse {
            node_id: NODE.into(),
            max_volumes_per_node: 5,
            accessible_topology: Some(Topology { segments: segments.into() }),
        }))
    }
}

#[tonic::async_trait]
impl Registration for Driver {
    async fn get_info(&self, _: tonic::Request<InfoRequest>) -> Said<PluginInfo> {
        Ok(Response::new(PluginInfo {
            r#type: self.0.kind.clone(),
            name: NAME.into(),
            endpoint: self.0.endpoint.display().to_string(),
            supported_versions: vec!["1.0.0".into()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: tonic::Request<RegistrationStatus>,
    ) -> Said<RegistrationStatusResponse> {
        *self.0.told.lock() = Some(request.into_inner());
        self.0.registered.notify_one();
        Ok(Response::new(RegistrationStatusResponse {}))
    }
}
