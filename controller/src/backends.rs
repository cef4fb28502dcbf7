//! Which pods stand behind a Service, and on which ports: what EndpointSlices and Endpoints have
//! in common. Pure.

use std::sync::Arc;

use client::{Change, Entry, Key};
use proto::selector::Selector;
use proto::view::pod::{Container, Pod};
use proto::view::service::{Service, ServicePort};
use proto::view::{Condition, IntOrString};

use crate::view::View;

/// The Services that a pod's change bears on.
pub fn services_of(change: &Change<Pod>, view: &View) -> Vec<Key> {
    if let (Some(old), Some(new)) = (&change.old, &change.new)
        && !matters(old, new)
    {
        return Vec::new();
    }
    let pods = || change.old.iter().chain(&change.new);
    let services = view.namespace::<Service>(&change.key.namespace).into_iter();
    let selected = services.filter(|service| pods().any(|pod| selects(service, pod)));
    selected.map(|service| Key::of(&service.metadata)).collect()
}

fn matters(old: &Pod, new: &Pod) -> bool {
    let ready = |pod: &Pod| Condition::is_true(&pod.status.conditions, "Ready");
    old.metadata.labels != new.metadata.labels
        || old.metadata.uid != new.metadata.uid
        || old.is_terminating() != new.is_terminating()
        || old.is_terminal() != new.is_terminal()
        || ready(old) != ready(new)
        || !old.ips().eq(new.ips())
        || old.spec.node_name != new.spec.node_name
        || old.spec.hostname != new.spec.hostname
        || old.spec.subdomain != new.spec.subdomain
}

fn selects(service: &Service, pod: &Pod) -> bool {
    let labels = &pod.metadata.labels;
    !service.spec.selector.is_empty()
        && service.spec.selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

/// The pods that have an address and have not ended, by name.
pub fn pods(service: &Service, view: &View) -> Vec<Arc<Entry<Pod>>> {
    let selector = Selector::of(&service.spec.selector);
    let mut pods = view.selected(&service.metadata.namespace, &selector);
    pods.retain(|pod| !pod.is_terminal() && pod.ips().next().is_some());
    pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    pods
}

/// Whether this controller says who stands behind the Service: without a selector the user does.
pub fn is_selective(service: &Service) -> bool {
    !service.spec.selector.is_empty() && service.spec.kind != "ExternalName"
}

/// The port of the pod that a Service's port leads to; named ports are the pod's own.
pub fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match &port.target_port {
        None => return Some(port.port),
        Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(number)) => return i32::try_from(*number).ok(),
        Some(IntOrString::Text(name)) => name,
    };
    let protocol = protocol(&port.protocol);
    let sidecar = |container: &&Container| container.restart_policy == "Always";
    let sidecars = pod.spec.init_containers.iter().filter(sidecar);
    let mut ports =
        pod.spec.containers.iter().chain(sidecars).flat_map(|container| &container.ports);
    let found = ports.find(|own| own.name == *name && self::protocol(&own.protocol) == protocol);
    found.map(|own| own.container_port)
}

pub fn protocol(text: &str) -> &str {
    if text.is_empty() { "TCP" } else { text }
}

/// The name under which DNS knows a pod of this Service, if it has one.
pub fn hostname<'a>(pod: &'a Pod, service: &Service) -> Option<&'a str> {
    let named = !pod.spec.hostname.is_empty() && pod.spec.subdomain == service.metadata.name;
    named.then_some(pod.spec.hostname.as_str())
}

/// The address families of a Service, as EndpointSlices call them.
pub fn families(service: &Service) -> Vec<&'static str> {
    let known = |family: &String| match family.as_str() {
        "IPv6" => "IPv6",
        _ => "IPv4",
    };
    if !service.spec.ip_families.is_empty() {
        return service.spec.ip_families.iter().map(known).collect();
    }
    let ip = &service.spec.cluster_ip;
    vec![if ip.contains(':') { "IPv6" } else { "IPv4" }]
}

/// The pod's address of a family.
pub fn address<'a>(pod: &'a Pod, family: &str) -> Option<&'a str> {
    pod.ips().find(|ip| ip.contains(':') == (family == "IPv6"))
}
