//! The port to a container runtime: what the agent asks of one, in CRI v1's messages where it asks
//! and in the agent's own terms where it observes. Adapters: [`grpc`] for a real runtime,
//! [`simulated`] for none.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use proto::cri;

use crate::observed::Observed;

pub mod grpc;
mod measured;
pub mod simulated;

/// The labels and annotations by which the kubelet knows its containers in a runtime.
pub mod labels {
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    pub const HASH: &str = "io.kubernetes.container.hash";
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    pub const MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
    pub const MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
    pub const GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
    pub const PORTS: &str = "io.kubernetes.container.ports";
}

/// What a runtime says of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Info {
    pub name: String,
    pub version: String,
    /// Why it cannot run pods, or cannot connect them; None when it can.
    pub not_ready: Option<String>,
    /// Of that, why it cannot connect them.
    pub network_not_ready: Option<String>,
    pub handlers: Vec<cri::RuntimeHandler>,
    pub features: Option<cri::RuntimeFeatures>,
}

/// What runs, by id.
#[derive(Clone, Debug, Default)]
pub struct Running {
    /// The ready ones.
    pub sandboxes: HashMap<String, cri::PodSandbox>,
    pub containers: HashMap<String, cri::Container>,
}

/// What runs, and what it uses.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    pub pods: Vec<cri::PodSandboxStats>,
    pub running: Running,
}

/// Whose sandbox it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodId {
    pub uid: String,
    pub namespace: String,
    pub name: String,
}

/// The outcome of a command in a container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    pub code: i32,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

/// A call to the runtime that failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation}: {}", status.message())]
pub struct Error {
    /// The CRI method.
    pub operation: &'static str,
    status: tonic::Status,
}

impl Error {
    pub fn new(operation: &'static str, status: tonic::Status) -> Error {
        Error { operation, status }
    }

    pub fn is_not_found(&self) -> bool {
        self.status.code() == tonic::Code::NotFound
    }

    pub fn is_timeout(&self) -> bool {
        self.status.code() == tonic::Code::DeadlineExceeded
    }

    /// The runtime does not answer; it says nothing about the object.
    pub fn is_unavailable(&self) -> bool {
        self.status.code() == tonic::Code::Unavailable
    }

    /// The runtime's words as Go shows an error of gRPC, and with it the kubelet.
    pub fn described(&self) -> String {
        let message = self.status.message();
        match self.status.code() {
            tonic::Code::Unknown => message.to_string(),
            // The only one that Go spells otherwise.
            tonic::Code::Cancelled => format!("rpc error: code = Canceled desc = {message}"),
            code => format!("rpc error: code = {code:?} desc = {message}"),
        }
    }

    /// The runtime's own words.
    pub fn message(&self) -> &str {
        self.status.message()
    }
}

pub type Result<T> = std::result::Result<T, Error>;

/// CRI v1, as far as the agent uses it.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    async fn info(&self) -> Result<Info>;
    /// From this range pods get their addresses.
    async fn set_pod_cidr(&self, cidr: &str) -> Result<()>;
    /// Every pod of which there is a sandbox.
    async fn pods(&self) -> Result<Vec<PodId>>;
    async fn observe(&self, uid: &str) -> Result<Observed>;
    /// Uids of pods of which something has changed. It ends when the connection does; what
    /// happened in between must then be observed.
    async fn events(&self) -> Result<BoxStream<'static, String>>;

    /// Under one of the runtime's handlers; empty: its default.
    async fn run_sandbox(&self, config: cri::PodSandboxConfig, handler: &str) -> Result<String>;
    async fn stop_sandbox(&self, id: &str) -> Result<()>;
    async fn remove_sandbox(&self, id: &str) -> Result<()>;
    async fn create(
        &self,
        sandbox: &str,
        config: cri::ContainerConfig,
        sandbox_config: cri::PodSandboxConfig,
    ) -> Result<String>;
    async fn start(&self, id: &str) -> Result<()>;
    /// TERM, and KILL after `grace`.
    async fn stop(&self, id: &str, grace: Duration) -> Result<()>;
    async fn remove(&self, id: &str) -> Result<()>;
    /// Changes the limits of a running container, or of a pod as a whole.
    async fn resize(&self, id: &str, resources: cri::LinuxContainerResources) -> Result<()>;
    async fn resize_sandbox(&self, id: &str, resources: cri::LinuxContainerResources)
    -> Result<()>;
    /// The bytes of memory that a running container uses; None where the runtime cannot tell.
    async fn memory_in_use(&self, id: &str) -> Result<Option<u64>>;
    async fn exec(&self, id: &str, command: &[String], timeout: Duration) -> Result<Output>;
    /// Where the streams of an exec are served.
    async fn exec_url(&self, request: cri::ExecRequest) -> Result<String>;
    async fn attach_url(&self, request: cri::AttachRequest) -> Result<String>;
    async fn port_forward_url(&self, request: cri::PortForwardRequest) -> Result<String>;
    /// The log file has been moved away.
    async fn reopen_log(&self, id: &str) -> Result<()>;

    async fn running(&self) -> Result<Running>;
    /// Costs the runtime something: for those who ask, not for a loop.
    async fn usage(&self) -> Result<Usage>;
    /// What images take, and writable layers.
    async fn file_systems(&self) -> Result<cri::ImageFsInfoResponse>;

    async fn image(&self, image: &cri::ImageSpec) -> Result<Option<cri::Image>>;
    async fn images(&self) -> Result<Vec<cri::Image>>;
    /// Ids and names of the images that containers have.
    async fn images_in_use(&self) -> Result<BTreeSet<String>>;
    /// On whose file system they are; None where on none.
    async fn image_folder(&self) -> Result<Option<String>>;
    async fn remove_image(&self, id: &str) -> Result<()>;
    /// The reference by which containers name the pulled image.
    async fn pull(&self, image: cri::ImageSpec, auth: Option<cri::AuthConfig>) -> Result<String>;
}
