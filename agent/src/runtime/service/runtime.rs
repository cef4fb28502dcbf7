//! `runtime.v1.RuntimeService`.

use std::collections::HashMap;
use std::pin::Pin;

use proto::cri::{self, runtime_service_server::RuntimeService};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status};

use super::super::engine::blocking;
use super::super::exec::Wanted;
use super::super::status::selected;
use super::{Service, absent};

type Answer<T> = Result<Response<T>, Status>;
type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl RuntimeService for Service {
    async fn version(&self, _: Request<cri::VersionRequest>) -> Answer<cri::VersionResponse> {
        Ok(Response::new(cri::VersionResponse {
            version: "0.1.0".to_owned(),
            runtime_name: "coracle".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: "v1".to_owned(),
        }))
    }

    async fn status(&self, request: Request<cri::StatusRequest>) -> Answer<cri::StatusResponse> {
        let network = self.engine.pod_network();
        let condition = |kind: &str, problem: Option<(&str, String)>| cri::RuntimeCondition {
            r#type: kind.to_owned(),
            status: problem.is_none(),
            reason: problem.as_ref().map(|(reason, _)| (*reason).to_owned()).unwrap_or_default(),
            message: problem.map(|(_, message)| message).unwrap_or_default(),
        };
        let missing = network.err().map(|error| ("NetworkPluginNotReady", error.to_string()));
        let mut info = HashMap::new();
        if request.into_inner().verbose {
            info.insert("cgroups".to_owned(), self.engine.cgroups.mode().to_owned());
        }
        Ok(Response::new(cri::StatusResponse {
            status: Some(cri::RuntimeStatus {
                conditions: vec![
                    condition("RuntimeReady", None),
                    condition("NetworkReady", missing),
                ],
            }),
            info,
            runtime_handlers: self.engine.handlers.list(),
            features: Some(cri::RuntimeFeatures {
                supplemental_groups_policy: true,
                user_namespaces_host_network: true,
                mount_options: true,
            }),
        }))
    }

    async fn runtime_config(
        &self,
        _: Request<cri::RuntimeConfigRequest>,
    ) -> Answer<cri::RuntimeConfigResponse> {
        let linux =
            cri::LinuxRuntimeConfiguration { cgroup_driver: cri::CgroupDriver::Cgroupfs as i32 };
        Ok(Response::new(cri::RuntimeConfigResponse { linux: Some(linux) }))
    }

    async fn update_runtime_config(
        &self,
        request: Request<cri::UpdateRuntimeConfigRequest>,
    ) -> Answer<cri::UpdateRuntimeConfigResponse> {
        let network = request
            .into_inner()
            .runtime_config
            .unwrap_or_default()
            .network_config
            .unwrap_or_default();
        let cidrs = network.pod_cidr;
        if !cidrs.is_empty() {
            // Of a dual-stack pair the one for which there is a network.
            let cidr = cidrs.split(',').find(|cidr| !cidr.contains(':')).unwrap_or(&cidrs);
            self.engine.set_pod_cidr(cidr).await?;
        }
        Ok(Response::new(cri::UpdateRuntimeConfigResponse {}))
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<cri::RunPodSandboxRequest>,
    ) -> Answer<cri::RunPodSandboxResponse> {
        let request = request.into_inner();
        let config = request.config.unwrap_or_default();
        // To its end even if the caller goes: half a sandbox is nobody's.
        let (engine, handler) = (self.engine.clone(), request.runtime_handler);
        let id = finished(async move { engine.run_sandbox(config, &handler).await }).await?;
        Ok(Response::new(cri::RunPodSandboxResponse { pod_sandbox_id: id }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<cri::StopPodSandboxRequest>,
    ) -> Answer<cri::StopPodSandboxResponse> {
        let (engine, id) = (self.engine.clone(), request.into_inner().pod_sandbox_id);
        finished(async move { engine.stop_sandbox(&id).await }).await?;
        Ok(Response::new(cri::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Answer<cri::RemovePodSandboxResponse> {
        let (engine, id) = (self.engine.clone(), request.into_inner().pod_sandbox_id);
        finished(async move { engine.remove_sandbox(&id).await }).await?;
        Ok(Response::new(cri::RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<cri::PodSandboxStatusRequest>,
    ) -> Answer<cri::PodSandboxStatusResponse> {
        let sandbox = self.engine.sandbox(&request.get_ref().pod_sandbox_id)?;
        let mut info = HashMap::new();
        if request.get_ref().verbose {
            info.insert("supervisor".to_owned(), sandbox.record.lock().supervisor.to_string());
            info.extend(self.engine.bandwidth_info(&sandbox).await?);
        }
        let containers = self.engine.containers_of(&sandbox.id);
        Ok(Response::new(cri::PodSandboxStatusResponse {
            status: Some(self.engine.sandbox_status(&sandbox)),
            info,
            containers_statuses: containers
                .iter()
                .map(|container| self.engine.container_status(container))
                .collect(),
            timestamp: self.engine.now(),
        }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Answer<cri::ListPodSandboxResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        Ok(Response::new(cri::ListPodSandboxResponse {
            items: self.engine.list_sandboxes(&filter),
        }))
    }

    type StreamPodSandboxesStream = Streamed<cri::StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<cri::StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let items = self.engine.list_sandboxes(&filter);
        Ok(streamed(items, |item| cri::StreamPodSandboxesResponse { pod_sandboxes: vec![item] }))
    }

    async fn create_container(
        &self,
        request: Request<cri::CreateContainerRequest>,
    ) -> Answer<cri::CreateContainerResponse> {
        let request = request.into_inner();
        let (engine, config) = (self.engine.clone(), request.config.unwrap_or_default());
        let id =
            finished(async move { engine.create_container(&request.pod_sandbox_id, config).await })
                .await?;
        Ok(Response::new(cri::CreateContainerResponse { container_id: id }))
    }

    async fn start_container(
        &self,
        request: Request<cri::StartContainerRequest>,
    ) -> Answer<cri::StartContainerResponse> {
        let (engine, id) = (self.engine.clone(), request.into_inner().container_id);
        finished(async move { engine.start_container(&id).await }).await?;
        Ok(Response::new(cri::StartContainerResponse {}))
    }

    async fn stop_container(
        &self,
        request: Request<cri::StopContainerRequest>,
    ) -> Answer<cri::StopContainerResponse> {
        let request = request.into_inner();
        self.engine.stop_container(&request.container_id, request.timeout).await?;
        Ok(Response::new(cri::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<cri::RemoveContainerRequest>,
    ) -> Answer<cri::RemoveContainerResponse> {
        let (engine, id) = (self.engine.clone(), request.into_inner().container_id);
        finished(async move { engine.remove_container(&id).await }).await?;
        Ok(Response::new(cri::RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<cri::ListContainersRequest>,
    ) -> Answer<cri::ListContainersResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        Ok(Response::new(cri::ListContainersResponse {
            containers: self.engine.list_containers(&filter),
        }))
    }

    type StreamContainersStream = Streamed<cri::StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<cri::StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let items = self.engine.list_containers(&filter);
        Ok(streamed(items, |item| cri::StreamContainersResponse { containers: vec![item] }))
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Answer<cri::ContainerStatusResponse> {
        let container = self.engine.container(&request.get_ref().container_id)?;
        let mut info = HashMap::new();
        if request.get_ref().verbose {
            let pid = container.process.lock().as_ref().map_or(0, |process| process.state().pid);
            info.insert("pid".to_owned(), pid.to_string());
            info.insert("cgroup".to_owned(), container.record.lock().cgroup.clone());
        }
        Ok(Response::new(cri::ContainerStatusResponse {
            status: Some(self.engine.container_status(&container)),
            info,
        }))
    }

    async fn update_container_resources(
        &self,
        request: Request<cri::UpdateContainerResourcesRequest>,
    ) -> Answer<cri::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        self.engine
            .update_resources(&request.container_id, &request.linux.unwrap_or_default())
            .await?;
        Ok(Response::new(cri::UpdateContainerResourcesResponse {}))
    }

    async fn reopen_container_log(
        &self,
        request: Request<cri::ReopenContainerLogRequest>,
    ) -> Answer<cri::ReopenContainerLogResponse> {
        self.engine.reopen_log(&request.get_ref().container_id).await?;
        Ok(Response::new(cri::ReopenContainerLogResponse {}))
    }

    async fn exec_sync(
        &self,
        request: Request<cri::ExecSyncRequest>,
    ) -> Answer<cri::ExecSyncResponse> {
        let request = request.into_inner();
        let engine = self.engine.clone();
        // To its end, or its timeout, even if the caller goes: somebody has to clean up.
        let run = async move {
            engine.exec_sync(&request.container_id, request.cmd, request.timeout).await
        };
        let output = finished(run).await?;
        Ok(Response::new(cri::ExecSyncResponse {
            stdout: output.stdout.into(),
            stderr: output.stderr.into(),
            exit_code: output.code,
        }))
    }

    async fn exec(&self, request: Request<cri::ExecRequest>) -> Answer<cri::ExecResponse> {
        let request = request.into_inner();
        let container = self.engine.container(&request.container_id)?;
        self.engine.running(&container)?;
        let wanted = Wanted {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            tty: request.tty,
        };
        let url = self.engine.offer_exec(&container.id, request.cmd, wanted)?;
        Ok(Response::new(cri::ExecResponse { url }))
    }

    async fn attach(&self, request: Request<cri::AttachRequest>) -> Answer<cri::AttachResponse> {
        let request = request.into_inner();
        let container = self.engine.container(&request.container_id)?;
        self.engine.running(&container)?;
        let wanted = Wanted {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            tty: request.tty,
        };
        let url = self.engine.offer_attach(&container.id, wanted)?;
        Ok(Response::new(cri::AttachResponse { url }))
    }

    async fn port_forward(
        &self,
        request: Request<cri::PortForwardRequest>,
    ) -> Answer<cri::PortForwardResponse> {
        let request = request.into_inner();
        let sandbox = self.engine.sandbox(&request.pod_sandbox_id)?;
        let url = self.engine.offer_port_forward(&sandbox.id, request.port)?;
        Ok(Response::new(cri::PortForwardResponse { url }))
    }

    async fn container_stats(
        &self,
        request: Request<cri::ContainerStatsRequest>,
    ) -> Answer<cri::ContainerStatsResponse> {
        let container = self.engine.container(&request.get_ref().container_id)?;
        let engine = self.engine.clone();
        let stats = blocking(move || engine.container_stats(&container)).await;
        Ok(Response::new(cri::ContainerStatsResponse { stats: Some(stats) }))
    }

    async fn list_container_stats(
        &self,
        request: Request<cri::ListContainerStatsRequest>,
    ) -> Answer<cri::ListContainerStatsResponse> {
        let stats = self.container_figures(request.into_inner().filter.unwrap_or_default()).await;
        Ok(Response::new(cri::ListContainerStatsResponse { stats }))
    }

    type StreamContainerStatsStream = Streamed<cri::StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<cri::StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        let stats = self.container_figures(request.into_inner().filter.unwrap_or_default()).await;
        Ok(streamed(stats, |item| cri::StreamContainerStatsResponse {
            container_stats: vec![item],
        }))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<cri::PodSandboxStatsRequest>,
    ) -> Answer<cri::PodSandboxStatsResponse> {
        let sandbox = self.engine.sandbox(&request.get_ref().pod_sandbox_id)?;
        let engine = self.engine.clone();
        let stats = blocking(move || engine.sandbox_stats(&sandbox)).await;
        Ok(Response::new(cri::PodSandboxStatsResponse { stats: Some(stats) }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<cri::ListPodSandboxStatsRequest>,
    ) -> Answer<cri::ListPodSandboxStatsResponse> {
        let stats = self.sandbox_figures(request.into_inner().filter.unwrap_or_default()).await;
        Ok(Response::new(cri::ListPodSandboxStatsResponse { stats }))
    }

    type StreamPodSandboxStatsStream = Streamed<cri::StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<cri::StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        let stats = self.sandbox_figures(request.into_inner().filter.unwrap_or_default()).await;
        Ok(streamed(stats, |item| cri::StreamPodSandboxStatsResponse {
            pod_sandbox_stats: vec![item],
        }))
    }

    type GetContainerEventsStream = Streamed<cri::ContainerEventResponse>;

    async fn get_container_events(
        &self,
        _: Request<cri::GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        let events = tokio_stream::wrappers::BroadcastStream::new(self.engine.events.subscribe());
        // One that does not keep up is told so: it lists again, as after any interruption.
        let events =
            events.map(|event| event.map_err(|lagged| Status::data_loss(lagged.to_string())));
        Ok(Response::new(Box::pin(events)))
    }

    async fn checkpoint_container(
        &self,
        _: Request<cri::CheckpointContainerRequest>,
    ) -> Answer<cri::CheckpointContainerResponse> {
        absent("CheckpointContainer")
    }

    async fn checkpoint_pod(
        &self,
        _: Request<cri::CheckpointPodRequest>,
    ) -> Answer<cri::CheckpointPodResponse> {
        absent("CheckpointPod")
    }

    async fn restore_pod(
        &self,
        _: Request<cri::RestorePodRequest>,
    ) -> Answer<cri::RestorePodResponse> {
        absent("RestorePod")
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<cri::ListMetricDescriptorsRequest>,
    ) -> Answer<cri::ListMetricDescriptorsResponse> {
        let descriptors = super::super::metrics::descriptors();
        Ok(Response::new(cri::ListMetricDescriptorsResponse { descriptors }))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<cri::ListPodSandboxMetricsRequest>,
    ) -> Answer<cri::ListPodSandboxMetricsResponse> {
        let pod_metrics = self.sandbox_metrics().await;
        Ok(Response::new(cri::ListPodSandboxMetricsResponse { pod_metrics }))
    }

    type StreamPodSandboxMetricsStream = Streamed<cri::StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<cri::StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        Ok(streamed(self.sandbox_metrics().await, |item| cri::StreamPodSandboxMetricsResponse {
            pod_sandbox_metrics: vec![item],
        }))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<cri::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<cri::UpdatePodSandboxResourcesResponse> {
        let request = request.into_inner();
        self.engine
            .update_sandbox_resources(
                &request.pod_sandbox_id,
                request.overhead,
                &request.resources.unwrap_or_default(),
            )
            .await?;
        Ok(Response::new(cri::UpdatePodSandboxResourcesResponse {}))
    }
}

impl Service {
    async fn container_figures(
        &self,
        filter: cri::ContainerStatsFilter,
    ) -> Vec<cri::ContainerStats> {
        let filter = cri::ContainerFilter {
            id: filter.id,
            pod_sandbox_id: filter.pod_sandbox_id,
            label_selector: filter.label_selector,
            state: Some(cri::ContainerStateValue {
                state: cri::ContainerState::ContainerRunning as i32,
            }),
        };
        let engine = self.engine.clone();
        blocking(move || {
            let found = engine.list_containers(&filter);
            let containers = found.iter().filter_map(|found| engine.container(&found.id).ok());
            containers.map(|container| engine.container_stats(&container)).collect()
        })
        .await
    }

    async fn sandbox_metrics(&self) -> Vec<cri::PodSandboxMetrics> {
        let engine = self.engine.clone();
        blocking(move || {
            let sandboxes: Vec<_> = engine.sandboxes.read().values().cloned().collect();
            sandboxes.iter().map(|sandbox| engine.sandbox_metrics(sandbox)).collect()
        })
        .await
    }

    async fn sandbox_figures(
        &self,
        filter: cri::PodSandboxStatsFilter,
    ) -> Vec<cri::PodSandboxStats> {
        let engine = self.engine.clone();
        blocking(move || {
            let sandboxes: Vec<_> = engine.sandboxes.read().values().cloned().collect();
            let matches = |sandbox: &&std::sync::Arc<super::super::engine::Sandbox>| {
                let record = sandbox.record.lock();
                let labels =
                    record.config.as_ref().map(|config| config.labels.clone()).unwrap_or_default();
                record.ready
                    && record.id.starts_with(&filter.id)
                    && selected(&filter.label_selector, &labels)
            };
            sandboxes.iter().filter(matches).map(|sandbox| engine.sandbox_stats(sandbox)).collect()
        })
        .await
    }
}

/// Runs to the end whether or not the caller waits.
async fn finished<T: Send + 'static>(
    work: impl Future<Output = Result<T, super::super::engine::Error>> + Send + 'static,
) -> Result<T, Status> {
    Ok(tokio::spawn(work).await.map_err(|error| Status::internal(error.to_string()))??)
}

fn streamed<T, R: Send + 'static>(items: Vec<T>, wrap: impl Fn(T) -> R) -> Response<Streamed<R>> {
    let parts: Vec<Result<R, Status>> = items.into_iter().map(|item| Ok(wrap(item))).collect();
    Response::new(Box::pin(tokio_stream::iter(parts)))
}
