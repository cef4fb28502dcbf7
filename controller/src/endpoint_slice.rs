//! EndpointSlices: who stands behind each Service, in slices of at most a hundred.
//! <https://kubernetes.io/docs/concepts/services-networking/endpoint-slices/>

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Change, Entry, Key};
use proto::kind::{ENDPOINT_SLICE, POD, SERVICE};
use proto::meta::Labels;
use proto::time::Time;
use proto::view::ObjectReference;
use proto::view::endpoint_slice::{
    Endpoint, EndpointConditions, EndpointPort, EndpointSlice, MANAGED_BY, SERVICE_NAME,
};
use proto::view::node::Node;
use proto::view::pod::Pod;
use proto::view::service::Service;
use serde_json::json;

use crate::backends;
use crate::plan::{Plan, controller_reference};
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

/// Looks after the EndpointSlices of Services.
pub struct EndpointSlices;

const MANAGER: &str = "endpointslice-controller.k8s.io";
const HEADLESS: &str = "service.kubernetes.io/headless";
const ZONE: &str = "topology.kubernetes.io/zone";
const MAX_ENDPOINTS: usize = 100;

/// Family and ports: what the endpoints of one slice have in common.
pub(crate) type Group = (&'static str, Vec<PortKey>);
/// Name, protocol, number, application protocol: comparable.
pub(crate) type PortKey = (String, String, i32, Option<String>);

impl Controller for EndpointSlices {
    type Object = Service;
    const NAME: &'static str = "endpointslice-controller";

    fn watches(watches: &mut Watches<Service>) {
        watches
            .maps::<Pod>(backends::services_of)
            .maps::<EndpointSlice>(|change, _| {
                let slices = change.old.iter().chain(&change.new);
                let ours = slices.filter(|slice| is_ours(slice) && !slice.service().is_empty());
                let key = |slice: &Arc<Entry<EndpointSlice>>| {
                    Key::new(&slice.metadata.namespace, slice.service())
                };
                ours.map(key).collect()
            })
            .maps::<Node>(|change: &Change<Node>, view| {
                let zone = |node: &Option<Arc<Entry<Node>>>| {
                    node.as_ref().and_then(|node| node.metadata.labels.get(ZONE).cloned())
                };
                if zone(&change.old) == zone(&change.new) {
                    return Vec::new();
                }
                view.all::<Service>().iter().map(|service| Key::of(&service.metadata)).collect()
            });
    }

    fn plan(&self, service: &Entry<Service>, view: &View, _: Time) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        let meta = &service.metadata;
        if meta.deletion_timestamp.is_some() || service.spec.selector.is_empty() {
            return Ok(plan);
        }
        let mut existing = view.owned_by::<EndpointSlice>(&meta.uid);
        existing.retain(|slice| is_ours(slice) && slice.metadata.deletion_timestamp.is_none());
        existing.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let mut wanted: BTreeMap<Group, Vec<Endpoint>> = BTreeMap::new();
        if backends::is_selective(service) {
            for family in backends::families(service) {
                for pod in backends::pods(service, view) {
                    if let Some((ports, endpoint)) = endpoint(service, &pod, family, view) {
                        wanted.entry((family, ports)).or_default().push(endpoint);
                    }
                }
                if !wanted.keys().any(|(known, _)| *known == family) {
                    // Says that there is nothing, rather than nothing at all.
                    wanted.insert((family, Vec::new()), Vec::new());
                }
            }
        }
        let labels = labels(service);
        for ((family, ports), endpoints) in wanted {
            let same = |slice: &Arc<Entry<EndpointSlice>>| {
                slice.address_type == family && keys(&slice.ports) == ports
            };
            let slices: Vec<_> = existing.extract_if(.., |slice| same(slice)).collect();
            reconcile(service, family, &ports, endpoints, &slices, &labels, &mut plan);
        }
        for slice in existing {
            plan.delete(&ENDPOINT_SLICE, &slice.metadata);
        }
        Ok(plan)
    }
}

fn is_ours(slice: &EndpointSlice) -> bool {
    slice.metadata.labels.get(MANAGED_BY).is_some_and(|manager| manager == MANAGER)
}

/// Brings the slices of one group to hold just these endpoints, with few writes: what stays,
/// stays where it is; new ones go where there is room.
fn reconcile(
    service: &Service,
    family: &str,
    ports: &[PortKey],
    endpoints: Vec<Endpoint>,
    slices: &[Arc<Entry<EndpointSlice>>],
    labels: &Labels,
    plan: &mut Plan,
) {
    let mut wanted: BTreeMap<String, Endpoint> =
        endpoints.into_iter().map(|endpoint| (identity(&endpoint), endpoint)).collect();
    let mut contents: Vec<Vec<Endpoint>> = Vec::new();
    for slice in slices {
        let ids = slice.endpoints.iter().map(identity);
        contents.push(ids.filter_map(|id| wanted.remove(&id)).collect());
    }
    let mut fresh = wanted.into_values();
    for (slice, content) in slices.iter().zip(&mut contents) {
        if *content != slice.endpoints {
            content.extend(fresh.by_ref().take(MAX_ENDPOINTS - content.len().min(MAX_ENDPOINTS)));
        }
    }
    for content in &mut contents {
        content.extend(fresh.by_ref().take(MAX_ENDPOINTS - content.len().min(MAX_ENDPOINTS)));
    }
    let fresh: Vec<Endpoint> = fresh.collect();
    let empty = contents.iter().all(Vec::is_empty) && fresh.is_empty();
    for (index, (slice, content)) in slices.iter().zip(contents).enumerate() {
        if content.is_empty() && !(empty && index == 0) {
            plan.delete(&ENDPOINT_SLICE, &slice.metadata);
        } else if content != slice.endpoints || slice.metadata.labels != *labels {
            let mut patch = json!({ "endpoints": content, "metadata": { "labels": labels } });
            for key in slice.metadata.labels.keys().filter(|key| !labels.contains_key(*key)) {
                patch["metadata"]["labels"][key] = serde_json::Value::Null;
            }
            plan.patch(&ENDPOINT_SLICE, &slice.metadata, patch);
        }
    }
    let mut chunks: Vec<&[Endpoint]> = fresh.chunks(MAX_ENDPOINTS).collect();
    if empty && slices.is_empty() {
        chunks.push(&[]);
    }
    for chunk in chunks {
        plan.create(
            &ENDPOINT_SLICE,
            &service.metadata.namespace,
            json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "generateName": format!("{}-", service.metadata.name),
                    "namespace": service.metadata.namespace,
                    "labels": labels,
                    "ownerReferences": [controller_reference(&SERVICE, &service.metadata)],
                },
                "addressType": family,
                "endpoints": chunk,
                "ports": ports.iter().map(port).collect::<Vec<_>>(),
            }),
        );
    }
}

/// What makes two states of an endpoint the same one.
fn identity(endpoint: &Endpoint) -> String {
    let uid = endpoint.target_ref.as_ref().map_or("", |target| &target.uid);
    format!("{}/{uid}", endpoint.addresses.first().map_or("", String::as_str))
}

fn labels(service: &Service) -> Labels {
    let mut labels = service.metadata.labels.clone();
    labels.insert(SERVICE_NAME.into(), service.metadata.name.clone());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    labels.remove(HEADLESS);
    if service.is_headless() {
        labels.insert(HEADLESS.into(), String::new());
    }
    labels
}

fn endpoint(
    service: &Service,
    pod: &Pod,
    family: &str,
    view: &View,
) -> Option<(Vec<PortKey>, Endpoint)> {
    let address = backends::address(pod, family)?;
    let mut ports = Vec::new();
    for port in &service.spec.ports {
        if let Some(number) = backends::target_port(pod, port) {
            let protocol = backends::protocol(&port.protocol).to_string();
            ports.push((port.name.clone(), protocol, number, port.app_protocol.clone()));
        }
    }
    ports.sort();
    let (serving, terminating) = (pod.is_ready(), pod.is_terminating());
    let ready = service.spec.publish_not_ready_addresses || (serving && !terminating);
    let node_name = &pod.spec.node_name;
    let node = view.get::<Node>("", node_name);
    let endpoint = Endpoint {
        addresses: vec![address.into()],
        conditions: EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        },
        hostname: backends::hostname(pod, service).map(String::from),
        target_ref: Some(ObjectReference {
            kind: POD.kind.to_string(),
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            uid: pod.metadata.uid.clone(),
            ..ObjectReference::default()
        }),
        node_name: Some(node_name.clone()).filter(|name| !name.is_empty()),
        zone: node.and_then(|node| node.metadata.labels.get(ZONE).cloned()),
        ..Endpoint::default()
    };
    Some((ports, endpoint))
}

/// The ports of a slice, to be compared.
pub(crate) fn keys(ports: &[EndpointPort]) -> Vec<PortKey> {
    let key = |port: &EndpointPort| {
        (
            port.name.clone().unwrap_or_default(),
            port.protocol.clone().unwrap_or_else(|| "TCP".into()),
            port.port.unwrap_or(0),
            port.app_protocol.clone(),
        )
    };
    let mut keys: Vec<PortKey> = ports.iter().map(key).collect();
    keys.sort();
    keys
}

/// The name is written even when it is empty.
pub(crate) fn port((name, protocol, number, application): &PortKey) -> serde_json::Value {
    let mut port = json!({ "name": name, "protocol": protocol, "port": number });
    if let Some(application) = application {
        port["appProtocol"] = application.as_str().into();
    }
    port
}

#[cfg(test)]
mod tests;
