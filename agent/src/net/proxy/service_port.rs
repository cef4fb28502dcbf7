//! What the proxy needs to know of one port of one Service, from the Service and its slices.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use proto::view::endpoint_slice::{Endpoint, EndpointSlice};
use proto::view::pod::Pod;
use proto::view::service::{self, Service};

use crate::net::Cidr;

/// One port of one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePort {
    /// `namespace/name/protocol/port`, the port by its name where it has one.
    pub id: String,
    pub protocol: Protocol,
    pub port: u16,
    pub cluster_ips: Vec<Ipv4Addr>,
    pub external_ips: Vec<Ipv4Addr>,
    pub load_balancer_ips: Vec<Ipv4Addr>,
    /// Who may use the load balancer's addresses; empty for everybody.
    pub source_ranges: Vec<Cidr>,
    pub node_port: Option<u16>,
    /// How many seconds a client stays with its endpoint after its last connection.
    pub affinity: Option<u32>,
    /// internalTrafficPolicy: Local.
    pub internal_local: bool,
    /// externalTrafficPolicy: Local.
    pub external_local: bool,
    /// The endpoints to use, on all nodes; sorted.
    pub endpoints: Vec<Target>,
    /// The endpoints to use on this node; sorted.
    pub local_endpoints: Vec<Target>,
}

/// Where a connection goes.
pub type Target = (Ipv4Addr, u16);

/// A port of the node that belongs to a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    pub protocol: Protocol,
    /// `None` for all of the node's addresses.
    pub ip: Option<Ipv4Addr>,
    pub port: u16,
    pub target: Target,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    #[default]
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// From the API's name; empty means TCP.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "" | "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// The label by which a Service names another proxy than the node's own.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
/// sessionAffinityConfig.clientIP.timeoutSeconds where it is not set.
const AFFINITY_SECONDS: i32 = 10800;

/// All ports that the proxy serves, by id. `node` is this node's name, if it is one.
pub fn service_ports<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    node: Option<&str>,
) -> BTreeMap<String, ServicePort> {
    let mut slices_of: BTreeMap<(&str, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices.into_iter().filter(|slice| slice.address_type == "IPv4") {
        let key = (slice.metadata.namespace.as_str(), slice.service());
        slices_of.entry(key).or_default().push(slice);
    }
    let mut ports = BTreeMap::new();
    for service in services.into_iter().filter(|service| is_ours(service)) {
        let meta = &service.metadata;
        let slices = slices_of.get(&(meta.namespace.as_str(), meta.name.as_str()));
        for port in &service.spec.ports {
            let slices = slices.map_or(&[][..], Vec::as_slice);
            if let Some(port) = service_port(service, port, slices, node) {
                ports.insert(port.id.clone(), port);
            }
        }
    }
    ports
}

/// The host ports of this node's pods.
pub fn host_ports<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> BTreeSet<HostPort> {
    let mut ports = BTreeSet::new();
    for pod in pods.into_iter().filter(|pod| !pod.spec.host_network && !pod.is_terminal()) {
        let Ok(pod_ip) = pod.status.pod_ip.parse() else { continue };
        let sidecars = pod.spec.init_containers.iter();
        for port in pod.spec.containers.iter().chain(sidecars).flat_map(|c| &c.ports) {
            let target = u16::try_from(port.container_port).map(|number| (pod_ip, number));
            let (Some(protocol), Ok(target), Some(number)) =
                (Protocol::parse(&port.protocol), target, number(port.host_port))
            else {
                continue;
            };
            let ip = port.host_ip.parse().ok().filter(|ip: &Ipv4Addr| !ip.is_unspecified());
            ports.insert(HostPort { protocol, ip, port: number, target });
        }
    }
    ports
}

fn is_ours(service: &Service) -> bool {
    service.spec.kind != "ExternalName"
        && !service.is_headless()
        && !service.metadata.labels.contains_key(OTHER_PROXY)
}

fn service_port(
    service: &Service,
    port: &service::ServicePort,
    slices: &[&EndpointSlice],
    node: Option<&str>,
) -> Option<ServicePort> {
    let (meta, spec) = (&service.metadata, &service.spec);
    let protocol = Protocol::parse(&port.protocol)?;
    let name = match port.name.as_str() {
        "" => port.port.to_string(),
        name => name.to_owned(),
    };
    let all = targets(slices, port, protocol, |_| true);
    let is_local = |endpoint: &Endpoint| node.is_some() && endpoint.node_name.as_deref() == node;
    let cluster_ips = match spec.cluster_ips.as_slice() {
        [] => addresses([spec.cluster_ip.as_str()]),
        ips => addresses(ips.iter().map(String::as_str)),
    };
    let ingress = service.status.load_balancer.ingress.iter();
    let virtual_ips = ingress.filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"));
    let affinity = || {
        let config = spec.session_affinity_config.as_ref();
        config.and_then(|config| config.client_ip.timeout_seconds).unwrap_or(AFFINITY_SECONDS)
    };
    Some(ServicePort {
        id: format!("{}/{}/{protocol}/{name}", meta.namespace, meta.name),
        protocol,
        port: number(port.port)?,
        cluster_ips,
        external_ips: addresses(spec.external_ips.iter().map(String::as_str)),
        load_balancer_ips: addresses(virtual_ips.map(|ingress| ingress.ip.as_str())),
        source_ranges: spec
            .load_balancer_source_ranges
            .iter()
            .filter_map(|range| range.trim().parse().ok())
            .collect(),
        node_port: number(port.node_port),
        affinity: (spec.session_affinity == "ClientIP")
            .then(|| u32::try_from(affinity()).unwrap_or_default()),
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local: spec.external_traffic_policy == "Local",
        endpoints: all,
        local_endpoints: targets(slices, port, protocol, is_local),
    })
}

/// The ready endpoints among those chosen; where none is ready, those that still serve while they
/// terminate (kubernetes.io: "Virtual IPs and Service Proxies", traffic to terminating endpoints).
fn targets(
    slices: &[&EndpointSlice],
    port: &service::ServicePort,
    protocol: Protocol,
    chosen: impl Fn(&Endpoint) -> bool,
) -> Vec<Target> {
    let mut ready = BTreeSet::new();
    let mut draining = BTreeSet::new();
    for slice in slices {
        let number = slice.ports.iter().find_map(|candidate| {
            let same = candidate.name.as_deref().unwrap_or_default() == port.name
                && Protocol::parse(candidate.protocol.as_deref().unwrap_or_default())
                    == Some(protocol);
            candidate.port.filter(|_| same).and_then(number)
        });
        let Some(number) = number else { continue };
        for endpoint in slice.endpoints.iter().filter(|endpoint| chosen(endpoint)) {
            let conditions = &endpoint.conditions;
            let group = match (conditions.is_ready(), conditions.is_serving()) {
                (true, _) => &mut ready,
                (false, true) if conditions.is_terminating() => &mut draining,
                _ => continue,
            };
            // All addresses of an endpoint are fungible; consumers take the first.
            let ip = endpoint.addresses.first().and_then(|ip| ip.parse().ok());
            group.extend(ip.map(|ip| (ip, number)));
        }
    }
    if ready.is_empty() { draining } else { ready }.into_iter().collect()
}

fn addresses<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<Ipv4Addr> {
    texts.into_iter().filter_map(|text| text.parse().ok()).collect()
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port > 0)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn one(spec: Value, status: Value, endpoints: Value) -> ServicePort {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": "web"}, "spec": spec, "status": status,
        }))
        .unwrap();
        let slice: EndpointSlice = serde_json::from_value(json!({
            "metadata": {"namespace": "default", "name": "web-abc",
                         "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "endpoints": endpoints,
            "ports": [{"name": "http", "port": 8080, "protocol": "TCP"},
                      {"name": "dns", "port": 5353, "protocol": "UDP"}],
        }))
        .unwrap();
        service_ports([&service], [&slice], Some("n1")).into_values().next().unwrap()
    }

    #[test]
    fn fields_and_their_defaults() {
        let http = json!({"name": "http", "port": 80, "nodePort": 30080});
        let port = one(
            json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
                   "ports": [http], "externalIPs": ["192.0.2.9"], "sessionAffinity": "ClientIP",
                   "externalTrafficPolicy": "Local", "loadBalancerSourceRanges": ["10.0.0.0/8"]}),
            json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.200"}, {"hostname": "x"},
                                                {"ip": "10.0.0.201", "ipMode": "Proxy"}]}}),
            json!([{"addresses": ["10.1.0.2"], "nodeName": "n1"},
                   {"addresses": ["10.1.1.2"], "nodeName": "n2"}]),
        );
        let ip = |text: &str| text.parse::<Ipv4Addr>().unwrap();
        assert_eq!(
            port,
            ServicePort {
                id: "default/web/tcp/http".into(),
                protocol: Protocol::Tcp,
                port: 80,
                cluster_ips: vec![ip("10.96.0.1")],
                external_ips: vec![ip("192.0.2.9")],
                load_balancer_ips: vec![ip("10.0.0.200")],
                source_ranges: vec!["10.0.0.0/8".parse().unwrap()],
                node_port: Some(30080),
                affinity: Some(10800),
                internal_local: false,
                external_local: true,
                endpoints: vec![(ip("10.1.0.2"), 8080), (ip("10.1.1.2"), 8080)],
                local_endpoints: vec![(ip("10.1.0.2"), 8080)],
            }
        );
    }

    #[test]
    fn which_endpoints_are_used() {
        let ready = json!({"addresses": ["10.1.0.1"]});
        let unready = json!({"addresses": ["10.1.0.2"], "conditions": {"ready": false}});
        let draining = json!({"addresses": ["10.1.0.3"],
            "conditions": {"ready": false, "serving": true, "terminating": true}});
        let gone = json!({"addresses": ["10.1.0.4"],
            "conditions": {"ready": false, "serving": false, "terminating": true}});
        for (endpoints, used) in [
            (json!([ready, unready, draining, gone, ready]), &[1][..]),
            (json!([unready, draining, gone]), &[3]),
            (json!([unready, gone]), &[]),
        ] {
            let spec = json!({"clusterIP": "10.96.0.1",
                              "ports": [{"name": "dns", "port": 53, "protocol": "UDP"}]});
            let port = one(spec, json!({}), endpoints.clone());
            let last: Vec<_> = port.endpoints.iter().map(|(ip, _)| ip.octets()[3]).collect();
            assert_eq!(last, used, "{endpoints}");
            assert!(port.endpoints.iter().all(|(_, number)| *number == 5353));
        }
    }

    #[test]
    fn services_that_are_not_ours() {
        for spec in [
            json!({"type": "ExternalName", "ports": [{"port": 80}]}),
            json!({"clusterIP": "None", "ports": [{"port": 80}]}),
        ] {
            let service: Service = serde_json::from_value(json!({"spec": spec})).unwrap();
            assert!(service_ports([&service], [], None).is_empty());
        }
    }

    #[test]
    fn host_ports_of_pods() {
        let pod = |spec: Value| {
            let status = json!({"podIP": "10.1.0.7", "phase": "Running"});
            serde_json::from_value::<Pod>(json!({"spec": spec, "status": status})).unwrap()
        };
        let containers = json!([{"ports": [
            {"containerPort": 80, "hostPort": 8080}, {"containerPort": 81},
            {"containerPort": 53, "hostPort": 53, "protocol": "UDP", "hostIP": "127.0.0.9"}]}]);
        let found = host_ports([
            &pod(json!({"containers": containers})),
            &pod(json!({"containers": containers, "hostNetwork": true})),
        ]);
        let found: Vec<_> = found
            .iter()
            .map(|p| format!("{} {:?} {} -> {}", p.protocol, p.ip, p.port, p.target.1))
            .collect();
        assert_eq!(found, ["tcp None 8080 -> 80", "udp Some(127.0.0.9) 53 -> 53"]);
    }
}
