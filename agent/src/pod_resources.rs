//! `pod-resources/kubelet.sock`: what the pods of this node have of its devices and CPUs, for who watches
//! over these (Kubernetes: Device Plugins, "Monitoring device plugin resources").

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use async_trait::async_trait;
use proto::pod_resources::pod_resources_lister_server::{
    PodResourcesLister, PodResourcesListerServer,
};
use proto::pod_resources::{
    AllocatableResourcesRequest, AllocatableResourcesResponse, CdiDevice, ClaimResource,
    ContainerDevices, ContainerResources, DynamicResource, GetPodResourcesRequest,
    GetPodResourcesResponse, ListPodResourcesRequest, ListPodResourcesResponse, NumaNode,
    PodResources, TopologyInfo,
};
use proto::view;
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

use crate::cpu_manager::CpuSet;
use crate::devices::Item;
use crate::dra;
use crate::pods::Pods;

/// Answers about the pods of one node.
struct Lister {
    pods: Pods,
}

/// Serves the socket in `folder`, `<root>/pod-resources`, for ever.
pub async fn serve(folder: &Path, pods: Pods) {
    let served = match bind(folder) {
        Ok(listener) => {
            let router = tonic::transport::Server::builder()
                .add_service(PodResourcesListerServer::new(Lister { pods }));
            let incoming = UnixListenerStream::new(listener);
            router.serve_with_incoming(incoming).await.map_err(io::Error::other)
        }
        Err(error) => Err(error),
    };
    if let Err(error) = served {
        let folder = folder.display().to_string();
        tracing::error!(folder, %error, "what pods have of devices and CPUs is not told");
    }
    std::future::pending().await
}

fn bind(folder: &Path) -> io::Result<UnixListener> {
    fs::DirBuilder::new().recursive(true).mode(0o750).create(folder)?;
    let socket = folder.join("kubelet.sock");
    match fs::remove_file(&socket) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(socket)
}

impl Lister {
    fn pod(&self, pod: &view::pod::Pod) -> PodResources {
        let context = self.pods.context();
        // The runtime, and all that is given, knows a static pod by another uid than the API.
        let uid = self.pods.runtime_uid(pod);
        let sidecars = pod.spec.init_containers.iter().filter(|it| it.restart_policy == "Always");
        let container = |container: &view::pod::Container| ContainerResources {
            name: container.name.clone(),
            devices: context.devices.held(&uid, &container.name).into_iter().map(device).collect(),
            cpu_ids: numbers(&context.cpus.exclusive(&uid, &container.name)),
            dynamic_resources: self.claimed(pod, &uid, container),
            ..ContainerResources::default()
        };
        PodResources {
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            containers: sidecars.chain(&pod.spec.containers).map(container).collect(),
        }
    }
}

impl Lister {
    /// What the container has by ResourceClaims: each claim once, with its devices.
    fn claimed(
        &self,
        pod: &view::pod::Pod,
        uid: &str,
        container: &view::pod::Container,
    ) -> Vec<DynamicResource> {
        let uses = container.resources.claims.iter();
        let mut uses: Vec<(String, String)> =
            uses.map(|used| (used.name.clone(), used.request.clone())).collect();
        let extended = pod.status.extended_resource_claim_status.iter();
        let mappings = extended.flat_map(|status| &status.request_mappings);
        uses.extend(dra::mapped(mappings, &container.name));
        let named = pod.all_claims().unwrap_or_default();
        let mut all: Vec<DynamicResource> = Vec::new();
        for (held, driver_name, device) in self.pods.context().dra.used(uid, named.iter(), &uses) {
            let resource = ClaimResource {
                cdi_devices: device.cdi.into_iter().map(|name| CdiDevice { name }).collect(),
                driver_name,
                pool_name: device.pool,
                device_name: device.device,
            };
            match all.iter_mut().find(|known| known.claim_name == held.name) {
                Some(known) => known.claim_resources.push(resource),
                None => all.push(DynamicResource {
                    claim_name: held.name,
                    claim_namespace: held.namespace,
                    claim_resources: vec![resource],
                    ..DynamicResource::default()
                }),
            }
        }
        all
    }
}

#[async_trait]
impl PodResourcesLister for Lister {
    async fn list(
        &self,
        _: Request<ListPodResourcesRequest>,
    ) -> Result<Response<ListPodResourcesResponse>, Status> {
        let active = self.pods.active();
        let pod_resources = active.iter().map(|(entry, _)| self.pod(&entry.view)).collect();
        Ok(Response::new(ListPodResourcesResponse { pod_resources }))
    }

    async fn get(
        &self,
        request: Request<GetPodResourcesRequest>,
    ) -> Result<Response<GetPodResourcesResponse>, Status> {
        let GetPodResourcesRequest { pod_name: name, pod_namespace: namespace } =
            request.into_inner();
        let active = self.pods.active();
        let found = active
            .iter()
            .map(|(entry, _)| &entry.view)
            .find(|pod| (&pod.metadata.name, &pod.metadata.namespace) == (&name, &namespace));
        let missing = || Status::unknown(format!("pod {name} in namespace {namespace} not found"));
        let pod_resources = Some(self.pod(found.ok_or_else(missing)?));
        Ok(Response::new(GetPodResourcesResponse { pod_resources }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        let context = self.pods.context();
        Ok(Response::new(AllocatableResourcesResponse {
            devices: context.devices.allocatable().into_iter().map(device).collect(),
            cpu_ids: numbers(&context.cpus.allocatable()),
            memory: Vec::new(),
        }))
    }
}

fn device(item: Item) -> ContainerDevices {
    let Item { resource, id, nodes } = item;
    let nodes: Vec<NumaNode> = nodes.into_iter().map(|id| NumaNode { id }).collect();
    ContainerDevices {
        resource_name: resource,
        device_ids: vec![id],
        topology: (!nodes.is_empty()).then_some(TopologyInfo { nodes }),
    }
}

fn numbers(cpus: &CpuSet) -> Vec<i64> {
    cpus.0.iter().map(|cpu| i64::from(*cpu)).collect()
}
