//! The adapter to a real runtime: CRI v1 over gRPC on a Unix socket. Each method converts, calls
//! and maps; nothing is decided here.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::Clock;
use futures::StreamExt;
use futures::stream::BoxStream;
use proto::cri::image_service_client::ImageServiceClient;
use proto::cri::runtime_service_client::RuntimeServiceClient;
use proto::cri::{self, ContainerState, PodSandboxState};
use proto::time::Time;
use tonic::transport::{Endpoint, Uri};

use super::measured::Measured;
use super::{Error, Info, Output, PodId, Result, Running, Runtime, Usage, labels};
use crate::metrics::Metrics;
use crate::observed::{Container, Exit, Observed, Sandbox, State};

/// Answers carry at most this much (an exec's output).
const MAX_MESSAGE: usize = 64 << 20;

/// A CRI v1 runtime behind a Unix socket. It connects when first used, and again when the runtime
/// has been restarted.
pub struct Grpc {
    runtime: RuntimeServiceClient<Measured>,
    images: ImageServiceClient<Measured>,
}

/// `--runtime-endpoint` is not a Unix socket.
#[derive(Debug, thiserror::Error)]
#[error("the runtime endpoint {0:?} is not unix:// and an absolute path")]
pub struct BadEndpoint(String);

/// Calls a method and maps its failure.
macro_rules! call {
    ($client:expr, $method:ident, $operation:literal, $request:expr) => {{
        let mut client = $client.clone();
        let answer = client.$method($request).await;
        answer.map(tonic::Response::into_inner).map_err(|status| Error::new($operation, status))
    }};
}

impl Grpc {
    /// `endpoint` is `unix:///run/….sock`.
    pub fn new(
        endpoint: &str,
        metrics: Arc<Metrics>,
        clock: Clock,
    ) -> std::result::Result<Grpc, BadEndpoint> {
        let path = endpoint.strip_prefix("unix://").filter(|path| path.starts_with('/'));
        let path = PathBuf::from(path.ok_or_else(|| BadEndpoint(endpoint.into()))?);
        let connect = tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move {
                let stream = tokio::net::UnixStream::connect(path).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        });
        // The authority is never resolved; HTTP/2 wants one.
        let channel =
            Endpoint::from_static("http://localhost").connect_with_connector_lazy(connect);
        let channel = Measured::new(channel, metrics, clock);
        let runtime =
            RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE);
        let images = ImageServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE);
        Ok(Grpc { runtime, images })
    }

    async fn sandbox(&self, sandbox: cri::PodSandbox) -> Result<Option<Sandbox>> {
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: sandbox.id.clone(),
            ..Default::default()
        };
        let status = call!(self.runtime, pod_sandbox_status, "PodSandboxStatus", request);
        let Some(status) = missing_is_none(status)?.and_then(|answer| answer.status) else {
            return Ok(None);
        };
        let network = status.network.unwrap_or_default();
        let first = (!network.ip.is_empty()).then_some(network.ip);
        let rest = network.additional_ips.into_iter().map(|ip| ip.ip);
        Ok(Some(Sandbox {
            id: sandbox.id,
            attempt: sandbox.metadata.unwrap_or_default().attempt,
            ready: status.state == PodSandboxState::SandboxReady as i32,
            ips: first.into_iter().chain(rest).collect(),
        }))
    }

    async fn container(&self, container: cri::Container) -> Result<Option<Container>> {
        let request = cri::ContainerStatusRequest {
            container_id: container.id.clone(),
            ..Default::default()
        };
        let status = call!(self.runtime, container_status, "ContainerStatus", request);
        let Some(status) = missing_is_none(status)?.and_then(|answer| answer.status) else {
            return Ok(None);
        };
        Ok(Some(observed(container.pod_sandbox_id, status)))
    }
}

#[async_trait]
impl Runtime for Grpc {
    async fn info(&self) -> Result<Info> {
        let request = cri::VersionRequest { version: "v1".into() };
        let version = call!(self.runtime, version, "Version", request)?;
        let request = cri::StatusRequest::default();
        let answer = call!(self.runtime, status, "Status", request)?;
        let conditions = answer.status.map(|status| status.conditions).unwrap_or_default();
        let said = |kind: &str, what: &str| {
            let bad = conditions.iter().find(|it| it.r#type == kind && !it.status)?;
            let cri::RuntimeCondition { r#type, reason, message, .. } = bad;
            Some(format!("{what} not ready: {type}=false reason:{reason} message:{message}"))
        };
        let network_not_ready = said("NetworkReady", "container runtime network");
        let bad = [said("RuntimeReady", "container runtime"), network_not_ready.clone()];
        let bad: Vec<String> = bad.into_iter().flatten().collect();
        let not_ready = match bad.as_slice() {
            [] => None,
            [one] => Some(one.clone()),
            all => Some(format!("[{}]", all.join(", "))),
        };
        Ok(Info {
            name: version.runtime_name,
            version: version.runtime_version,
            not_ready,
            network_not_ready,
            handlers: answer.runtime_handlers,
            features: answer.features,
        })
    }

    async fn set_pod_cidr(&self, cidr: &str) -> Result<()> {
        let network_config = Some(cri::NetworkConfig { pod_cidr: cidr.into() });
        let runtime_config = Some(cri::RuntimeConfig { network_config });
        let request = cri::UpdateRuntimeConfigRequest { runtime_config };
        call!(self.runtime, update_runtime_config, "UpdateRuntimeConfig", request).map(drop)
    }

    async fn pods(&self) -> Result<Vec<PodId>> {
        let request = cri::ListPodSandboxRequest::default();
        let list = call!(self.runtime, list_pod_sandbox, "ListPodSandbox", request)?;
        let mut pods: Vec<PodId> = list
            .items
            .into_iter()
            .filter_map(|sandbox| sandbox.metadata)
            .map(|meta| PodId { uid: meta.uid, namespace: meta.namespace, name: meta.name })
            .collect();
        pods.sort();
        pods.dedup();
        Ok(pods)
    }

    async fn observe(&self, uid: &str) -> Result<Observed> {
        let label_selector = HashMap::from([(labels::POD_UID.to_string(), uid.to_string())]);
        let filter =
            cri::PodSandboxFilter { label_selector: label_selector.clone(), ..Default::default() };
        let request = cri::ListPodSandboxRequest { filter: Some(filter) };
        let sandboxes = async { call!(self.runtime, list_pod_sandbox, "ListPodSandbox", request) };
        let filter = cri::ContainerFilter { label_selector, ..Default::default() };
        let all = cri::ListContainersRequest { filter: Some(filter) };
        let containers = async { call!(self.runtime, list_containers, "ListContainers", all) };
        let (sandboxes, containers) = tokio::try_join!(sandboxes, containers)?;
        let sandboxes = sandboxes.items.into_iter().map(|sandbox| self.sandbox(sandbox));
        let containers = containers.containers.into_iter().map(|one| self.container(one));
        let sandboxes = futures::future::try_join_all(sandboxes);
        let containers = futures::future::try_join_all(containers);
        let (sandboxes, containers) = tokio::try_join!(sandboxes, containers)?;
        let mut sandboxes: Vec<Sandbox> = sandboxes.into_iter().flatten().collect();
        sandboxes.sort_by_key(|sandbox| Reverse(sandbox.attempt));
        let mut containers: Vec<Container> = containers.into_iter().flatten().collect();
        containers.sort_by_key(|container| Reverse(container.attempt));
        Ok(Observed { sandboxes, containers })
    }

    async fn events(&self) -> Result<BoxStream<'static, String>> {
        let request = cri::GetEventsRequest::default();
        let stream = call!(self.runtime, get_container_events, "GetContainerEvents", request);
        let uids = stream?.filter_map(|event| async {
            let event = event.ok()?;
            let sandbox = event.pod_sandbox_status.and_then(|status| status.metadata);
            let label = |status: &cri::ContainerStatus| status.labels.get(labels::POD_UID).cloned();
            sandbox
                .map(|meta| meta.uid)
                .or_else(|| event.containers_statuses.iter().find_map(label))
        });
        Ok(uids.boxed())
    }

    async fn run_sandbox(&self, config: cri::PodSandboxConfig, handler: &str) -> Result<String> {
        let (config, runtime_handler) = (Some(config), handler.to_string());
        let request = cri::RunPodSandboxRequest { config, runtime_handler };
        let answer = call!(self.runtime, run_pod_sandbox, "RunPodSandbox", request)?;
        Ok(answer.pod_sandbox_id)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let request = cri::StopPodSandboxRequest { pod_sandbox_id: id.into() };
        let answer = call!(self.runtime, stop_pod_sandbox, "StopPodSandbox", request);
        missing_is_none(answer).map(drop)
    }

    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let request = cri::RemovePodSandboxRequest { pod_sandbox_id: id.into() };
        let answer = call!(self.runtime, remove_pod_sandbox, "RemovePodSandbox", request);
        missing_is_none(answer).map(drop)
    }

    async fn create(
        &self,
        sandbox: &str,
        config: cri::ContainerConfig,
        sandbox_config: cri::PodSandboxConfig,
    ) -> Result<String> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox.into(),
            config: Some(config),
            sandbox_config: Some(sandbox_config),
        };
        let answer = call!(self.runtime, create_container, "CreateContainer", request);
        Ok(answer?.container_id)
    }

    async fn start(&self, id: &str) -> Result<()> {
        let request = cri::StartContainerRequest { container_id: id.into() };
        call!(self.runtime, start_container, "StartContainer", request).map(drop)
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<()> {
        let timeout = i64::try_from(grace.as_secs()).unwrap_or(i64::MAX);
        let request = cri::StopContainerRequest { container_id: id.into(), timeout };
        let answer = call!(self.runtime, stop_container, "StopContainer", request);
        missing_is_none(answer).map(drop)
    }

    async fn remove(&self, id: &str) -> Result<()> {
        let request = cri::RemoveContainerRequest { container_id: id.into() };
        let answer = call!(self.runtime, remove_container, "RemoveContainer", request);
        missing_is_none(answer).map(drop)
    }

    async fn resize(&self, id: &str, resources: cri::LinuxContainerResources) -> Result<()> {
        let request = cri::UpdateContainerResourcesRequest {
            container_id: id.into(),
            linux: Some(resources),
            ..Default::default()
        };
        let answer =
            call!(self.runtime, update_container_resources, "UpdateContainerResources", request);
        answer.map(drop)
    }

    async fn resize_sandbox(
        &self,
        id: &str,
        resources: cri::LinuxContainerResources,
    ) -> Result<()> {
        let request = cri::UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: id.into(),
            resources: Some(resources),
            ..Default::default()
        };
        let answer =
            call!(self.runtime, update_pod_sandbox_resources, "UpdatePodSandboxResources", request);
        answer.map(drop)
    }

    async fn memory_in_use(&self, id: &str) -> Result<Option<u64>> {
        let request = cri::ContainerStatsRequest { container_id: id.into() };
        let answer = call!(self.runtime, container_stats, "ContainerStats", request)?;
        let memory = answer.stats.and_then(|stats| stats.memory);
        Ok(memory.and_then(|memory| memory.working_set_bytes).map(|bytes| bytes.value))
    }

    async fn exec(&self, id: &str, command: &[String], timeout: Duration) -> Result<Output> {
        let request = cri::ExecSyncRequest {
            container_id: id.into(),
            cmd: command.to_vec(),
            timeout: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        };
        let answer = call!(self.runtime, exec_sync, "ExecSync", request)?;
        Ok(Output {
            code: answer.exit_code,
            stdout: answer.stdout.into(),
            stderr: answer.stderr.into(),
        })
    }

    async fn exec_url(&self, request: cri::ExecRequest) -> Result<String> {
        Ok(call!(self.runtime, exec, "Exec", request)?.url)
    }

    async fn attach_url(&self, request: cri::AttachRequest) -> Result<String> {
        Ok(call!(self.runtime, attach, "Attach", request)?.url)
    }

    async fn port_forward_url(&self, request: cri::PortForwardRequest) -> Result<String> {
        Ok(call!(self.runtime, port_forward, "PortForward", request)?.url)
    }

    async fn reopen_log(&self, id: &str) -> Result<()> {
        let request = cri::ReopenContainerLogRequest { container_id: id.into() };
        call!(self.runtime, reopen_container_log, "ReopenContainerLog", request).map(drop)
    }

    async fn running(&self) -> Result<Running> {
        let state = PodSandboxState::SandboxReady as i32;
        let state = Some(cri::PodSandboxStateValue { state });
        let filter = cri::PodSandboxFilter { state, ..Default::default() };
        let request = cri::ListPodSandboxRequest { filter: Some(filter) };
        let sandboxes = async { call!(self.runtime, list_pod_sandbox, "ListPodSandbox", request) };
        let state = ContainerState::ContainerRunning as i32;
        let state = Some(cri::ContainerStateValue { state });
        let filter = cri::ContainerFilter { state, ..Default::default() };
        let all = cri::ListContainersRequest { filter: Some(filter) };
        let containers = async { call!(self.runtime, list_containers, "ListContainers", all) };
        let (sandboxes, containers) = tokio::try_join!(sandboxes, containers)?;
        let sandboxes = sandboxes.items.into_iter().map(|one| (one.id.clone(), one));
        let containers = containers.containers.into_iter().map(|one| (one.id.clone(), one));
        Ok(Running { sandboxes: sandboxes.collect(), containers: containers.collect() })
    }

    async fn usage(&self) -> Result<Usage> {
        let stats = async {
            let request = cri::ListPodSandboxStatsRequest::default();
            call!(self.runtime, list_pod_sandbox_stats, "ListPodSandboxStats", request)
        };
        let (stats, running) = tokio::try_join!(stats, self.running())?;
        Ok(Usage { pods: stats.stats, running })
    }

    async fn file_systems(&self) -> Result<cri::ImageFsInfoResponse> {
        let request = cri::ImageFsInfoRequest::default();
        call!(self.images, image_fs_info, "ImageFsInfo", request)
    }

    async fn image(&self, image: &cri::ImageSpec) -> Result<Option<cri::Image>> {
        let request = cri::ImageStatusRequest { image: Some(image.clone()), ..Default::default() };
        let answer = call!(self.images, image_status, "ImageStatus", request)?;
        Ok(answer.image)
    }

    async fn images(&self) -> Result<Vec<cri::Image>> {
        let request = cri::ListImagesRequest::default();
        Ok(call!(self.images, list_images, "ListImages", request)?.images)
    }

    async fn images_in_use(&self) -> Result<BTreeSet<String>> {
        let request = cri::ListContainersRequest::default();
        let list = call!(self.runtime, list_containers, "ListContainers", request)?.containers;
        let named = |one: cri::Container| {
            [one.image_id, one.image_ref, one.image.unwrap_or_default().image]
        };
        Ok(list.into_iter().flat_map(named).filter(|name| !name.is_empty()).collect())
    }

    async fn image_folder(&self) -> Result<Option<String>> {
        let request = cri::ImageFsInfoRequest {};
        let info = call!(self.images, image_fs_info, "ImageFsInfo", request)?;
        let first = info.image_filesystems.into_iter().next().and_then(|one| one.fs_id);
        Ok(first.map(|id| id.mountpoint).filter(|path| !path.is_empty()))
    }

    async fn remove_image(&self, id: &str) -> Result<()> {
        let image = Some(cri::ImageSpec { image: id.into(), ..Default::default() });
        let request = cri::RemoveImageRequest { image };
        call!(self.images, remove_image, "RemoveImage", request).map(drop)
    }

    async fn pull(&self, image: cri::ImageSpec, auth: Option<cri::AuthConfig>) -> Result<String> {
        let request = cri::PullImageRequest { image: Some(image), auth, ..Default::default() };
        Ok(call!(self.images, pull_image, "PullImage", request)?.image_ref)
    }
}

fn missing_is_none<T>(answer: Result<T>) -> Result<Option<T>> {
    match answer {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The exit code of what was killed.
const KILLED: i32 = 137;

fn observed(sandbox: String, status: cri::ContainerStatus) -> Container {
    let meta = status.metadata.unwrap_or_default();
    let exit = || Exit {
        code: status.exit_code,
        reason: status.reason.clone(),
        message: status.message.clone(),
        started: time(status.started_at),
        finished: time(status.finished_at),
    };
    let state = match ContainerState::try_from(status.state) {
        Ok(ContainerState::ContainerCreated) => State::Created,
        Ok(ContainerState::ContainerRunning) => {
            State::Running { started: time(status.started_at).unwrap_or(Time::from_unix(0)) }
        }
        // Removed before it was started, by half: as good as only made.
        Ok(ContainerState::ContainerExited)
            if status.started_at == 0 && status.exit_code == KILLED =>
        {
            State::Created
        }
        Ok(ContainerState::ContainerExited) => State::Exited(exit()),
        _ => State::Unknown,
    };
    let restarts = status.annotations.get(labels::RESTART_COUNT).and_then(|n| n.parse().ok());
    let user = status.user.and_then(|user| user.linux);
    let resources = status.resources.and_then(|it| it.linux);
    Container {
        state,
        sandbox,
        id: status.id,
        name: meta.name,
        attempt: restarts.unwrap_or(meta.attempt),
        hash: status.annotations.get(labels::HASH).cloned().unwrap_or_default(),
        image: status.image.map(|spec| spec.image).unwrap_or_default(),
        image_ref: status.image_ref,
        log_path: status.log_path,
        user: user.map(|user| (user.uid, user.gid, user.supplemental_groups)),
        applied: resources.as_ref().map(crate::config::observed),
        cpus: resources.map(|it| it.cpuset_cpus).unwrap_or_default(),
    }
}

/// Nanoseconds since 1970; 0 is never.
fn time(nanoseconds: i64) -> Option<Time> {
    let since = Duration::from_nanos(u64::try_from(nanoseconds).ok()?);
    (nanoseconds != 0).then(|| Time::from_unix(0).plus(since))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_never_started_has_not_exited() {
        let table = [
            (ContainerState::ContainerCreated, 0, 0, true),
            (ContainerState::ContainerExited, 0, 137, true),
            (ContainerState::ContainerExited, 5, 137, false),
            // A start that failed.
            (ContainerState::ContainerExited, 0, 128, false),
        ];
        for (state, started_at, exit_code, created) in table {
            let state = state as i32;
            let status =
                cri::ContainerStatus { state, started_at, exit_code, ..Default::default() };
            let run = observed(String::new(), status);
            assert_eq!(run.state == State::Created, created, "{run:?}");
        }
    }
}
