//! From Services to rules: pure.
//!
//! A packet is looked up once in a map, however many Services there are. The map leads to the
//! chain of a Service's port: `ext/…` for traffic from outside (masquerades, unless the policy is
//! Local), `svc/…` for endpoints on all nodes, `loc/…` for those of this node, `fw/…` for a load
//! balancer's source ranges, `ep/…` for one endpoint of a Service with session affinity.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use super::rule_set::{Chain, RuleSet, Set};
use super::service_port::{HostPort, Protocol, ServicePort, Target};
use crate::net::Cidr;

/// Where the proxy runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// This node's name; `None` where the proxy serves a machine that is not a node: it then opens
    /// no node ports and takes no endpoint for local.
    pub node: Option<String>,
    /// The addresses of this node's pods.
    pub pod_cidr: Option<Cidr>,
    /// Traffic from here to addresses outside of `cluster` leaves with this machine's address.
    pub masquerade: Option<Cidr>,
    /// Pods and nodes of the cluster.
    pub cluster: BTreeSet<Cidr>,
}

const SERVICE_IPS: &str = "service-ips";
const NODE_PORTS: &str = "node-ports";
const HOST_PORTS: &str = "host-ports";
const HOST_IP_PORTS: &str = "host-ip-ports";
const NO_ENDPOINTS: &str = "no-endpoints";
const NO_ENDPOINT_NODE_PORTS: &str = "no-endpoint-node-ports";
const CLUSTER_IPS: &str = "cluster-ips";
const HAIRPIN: &str = "hairpin";
const CLUSTER: &str = "cluster-nets";

/// Name, keyword, type.
const SETS: &[(&str, &str, &str)] = &[
    (SERVICE_IPS, "map", "type ipv4_addr . inet_proto . inet_service : verdict;"),
    (NODE_PORTS, "map", "type inet_proto . inet_service : verdict;"),
    (HOST_PORTS, "map", "type inet_proto . inet_service : ipv4_addr . inet_service;"),
    (
        HOST_IP_PORTS,
        "map",
        "type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service;",
    ),
    (NO_ENDPOINTS, "map", "type ipv4_addr . inet_proto . inet_service : verdict;"),
    (NO_ENDPOINT_NODE_PORTS, "map", "type inet_proto . inet_service : verdict;"),
    (CLUSTER_IPS, "set", "type ipv4_addr;"),
    (HAIRPIN, "set", "type ipv4_addr . ipv4_addr;"),
    (CLUSTER, "set", "type ipv4_addr; flags interval;"),
];

const TO_NODE: &str = "fib daddr type local ip daddr != 127.0.0.0/8";
const MARK: &str = "jump mark-for-masquerade";

/// Name, hook, rules. The mark is the one by which kube-proxy, too, says "to be masqueraded":
/// several proxies in one network namespace mean the same by it.
const CHAINS: &[(&str, &str, &[&str])] = &[
    ("prerouting", "type nat hook prerouting priority dstnat;", &["jump services"]),
    ("output", "type nat hook output priority -100;", &["jump services"]),
    ("mark-for-masquerade", "", &["meta mark set meta mark or 0x4000"]),
    ("refuse", "", &["reject"]),
    (
        "forward-check",
        "type filter hook forward priority filter;",
        &["ct state new jump unserved", "ct state new ip daddr @cluster-ips reject"],
    ),
    (
        "output-check",
        "type filter hook output priority filter;",
        &["ct state new jump unserved", "ct state new ip daddr @cluster-ips reject"],
    ),
    (
        "input-check",
        "type filter hook input priority filter;",
        &[
            "ct state new jump unserved",
            "ct state new fib daddr type local ip daddr != 127.0.0.0/8 \
             meta l4proto . th dport vmap @no-endpoint-node-ports",
        ],
    ),
    ("unserved", "", &["ip daddr . meta l4proto . th dport vmap @no-endpoints"]),
];

/// The table's content for these Services.
pub fn rules<'a>(
    ports: impl IntoIterator<Item = &'a ServicePort>,
    host_ports: &BTreeSet<HostPort>,
    facts: &Facts,
) -> RuleSet {
    let mut rules = base(facts);
    for port in ports {
        rules.add(port, facts);
    }
    for host_port in host_ports {
        let HostPort { protocol, ip, port, target: (pod, container_port) } = host_port;
        let value = format!("{pod} . {container_port}");
        match ip {
            Some(ip) => rules.element(HOST_IP_PORTS, format!("{ip} . {protocol} . {port}"), value),
            None => rules.element(HOST_PORTS, format!("{protocol} . {port}"), value),
        }
        rules.element(HAIRPIN, format!("{pod} . {pod}"), "");
    }
    for cidr in outermost(&facts.cluster) {
        rules.element(CLUSTER, cidr.to_string(), "");
    }
    rules.rules
}

/// What is there without any Service.
fn base(facts: &Facts) -> Builder {
    let mut rules = RuleSet::default();
    for (name, keyword, declaration) in SETS {
        let set = Set { keyword, declaration: (*declaration).into(), elements: BTreeMap::new() };
        rules.sets.insert((*name).into(), set);
    }
    for (name, hook, lines) in CHAINS {
        let rules_of = lines.iter().map(|line| (*line).to_owned()).collect();
        rules.chains.insert((*name).into(), Chain { hook, rules: rules_of });
    }
    let mut builder = Builder { rules };
    let mut services = vec!["ip daddr . meta l4proto . th dport vmap @service-ips".to_owned()];
    if facts.node.is_some() {
        services.extend([
            format!("{TO_NODE} meta l4proto . th dport vmap @node-ports"),
            format!("{TO_NODE} dnat ip to ip daddr . meta l4proto . th dport map @host-ip-ports"),
            format!("{TO_NODE} dnat ip to meta l4proto . th dport map @host-ports"),
        ]);
    }
    builder.chain("services", services);
    let mut postrouting = vec![
        "meta mark & 0x4000 != 0 meta mark set meta mark xor 0x4000 masquerade fully-random"
            .to_owned(),
        "ct status dnat ip saddr . ip daddr @hairpin masquerade fully-random".to_owned(),
    ];
    if let Some(source) = facts.masquerade {
        let multicast = "224.0.0.0/4";
        postrouting.push(format!(
            "ip saddr {source} ip daddr != @cluster-nets ip daddr != {multicast} masquerade fully-random"
        ));
    }
    builder.rules.chains.insert(
        "postrouting".into(),
        Chain { hook: "type nat hook postrouting priority srcnat;", rules: postrouting },
    );
    builder
}

struct Builder {
    rules: RuleSet,
}

impl Builder {
    fn add(&mut self, port: &ServicePort, facts: &Facts) {
        let ServicePort { id, protocol, port: number, .. } = port;
        let address = |ip: &Ipv4Addr| format!("{ip} . {protocol} . {number}");
        let is_node = facts.node.is_some();
        for ip in &port.cluster_ips {
            self.element(CLUSTER_IPS, ip.to_string(), "");
        }
        let outside = port.external_ips.iter().chain(&port.load_balancer_ips);
        if port.endpoints.is_empty() {
            for ip in port.cluster_ips.iter().chain(outside) {
                self.element(NO_ENDPOINTS, address(ip), "goto refuse");
            }
            if let Some(node_port) = port.node_port.filter(|_| is_node) {
                let key = format!("{protocol} . {node_port}");
                self.element(NO_ENDPOINT_NODE_PORTS, key, "goto refuse");
            }
            return;
        }
        for (ip, _) in &port.local_endpoints {
            self.element(HAIRPIN, format!("{ip} . {ip}"), "");
        }
        self.service_chain(port, facts);
        let internal_local = port.internal_local && is_node;
        let external_local = port.external_local && is_node;
        let has_outside = outside.clone().next().is_some() || port.node_port.is_some();
        if internal_local || (external_local && has_outside) {
            self.local_chain(port);
        }
        let internal = if internal_local { format!("loc/{id}") } else { format!("svc/{id}") };
        for ip in &port.cluster_ips {
            self.element(SERVICE_IPS, address(ip), format!("goto {internal}"));
        }
        if !has_outside {
            return;
        }
        self.external_chain(port, facts);
        for ip in &port.external_ips {
            self.element(SERVICE_IPS, address(ip), format!("goto ext/{id}"));
        }
        let balanced = if port.source_ranges.is_empty() { "ext" } else { "fw" };
        if balanced == "fw" && !port.load_balancer_ips.is_empty() {
            let ranges = outermost(&port.source_ranges).map(|range| range.to_string());
            let ranges = ranges.collect::<Vec<_>>().join(", ");
            self.chain(
                &format!("fw/{id}"),
                vec![format!("ip saddr {{ {ranges} }} goto ext/{id}"), "drop".into()],
            );
        }
        for ip in &port.load_balancer_ips {
            self.element(SERVICE_IPS, address(ip), format!("goto {balanced}/{id}"));
        }
        if let Some(node_port) = port.node_port.filter(|_| is_node) {
            let key = format!("{protocol} . {node_port}");
            self.element(NODE_PORTS, key, format!("goto ext/{id}"));
        }
    }

    fn service_chain(&mut self, port: &ServicePort, facts: &Facts) {
        // Whoever is not a pod of this node gets the answer through this node.
        let outsiders = facts.pod_cidr.map(|pods| format!("ip saddr != {pods} {MARK}"));
        let mut lines = Vec::from_iter(outsiders);
        lines.extend(self.choose(port, &port.endpoints));
        self.chain(&format!("svc/{}", port.id), lines);
    }

    fn local_chain(&mut self, port: &ServicePort) {
        let lines = match port.local_endpoints.as_slice() {
            [] => vec!["drop".to_owned()],
            targets => self.choose(port, targets),
        };
        self.chain(&format!("loc/{}", port.id), lines);
    }

    fn external_chain(&mut self, port: &ServicePort, facts: &Facts) {
        let id = &port.id;
        let lines = match (port.external_local, &facts.node) {
            (false, _) => vec![MARK.to_owned(), format!("goto svc/{id}")],
            // A machine in front of the nodes: all answers come back through it anyway.
            (true, None) => vec![format!("goto svc/{id}")],
            (true, Some(_)) => {
                // Traffic from inside the cluster is not "external": it may use every endpoint.
                let pods = facts.pod_cidr.map(|pods| format!("ip saddr {pods} goto svc/{id}"));
                let mut lines = Vec::from_iter(pods);
                lines.push(format!("fib saddr type local {MARK}"));
                lines.push(format!("fib saddr type local goto svc/{id}"));
                lines.push(format!("goto loc/{id}"));
                lines
            }
        };
        self.chain(&format!("ext/{id}"), lines);
    }

    /// Sends a new connection to one of the targets, of which there is at least one.
    fn choose(&mut self, port: &ServicePort, targets: &[Target]) -> Vec<String> {
        let (id, protocol) = (&port.id, port.protocol);
        let count = targets.len();
        let Some(seconds) = port.affinity else {
            return vec![match targets {
                [target] => dnat(protocol, *target),
                _ => {
                    let entry =
                        |(n, (ip, number)): (usize, &Target)| format!("{n} : {ip} . {number}");
                    let entries: Vec<_> = targets.iter().enumerate().map(entry).collect();
                    format!(
                        "meta l4proto {protocol} dnat ip to numgen random mod {count} map {{ {} }}",
                        entries.join(", ")
                    )
                }
            }];
        };
        let mut lines = Vec::new();
        let mut entries = Vec::new();
        for (n, target) in targets.iter().enumerate() {
            let (ip, number) = target;
            let chain = format!("ep/{id}/{ip}-{number}");
            let set = format!("affinity/{id}/{ip}-{number}/{seconds}");
            lines.push(format!("ip saddr @{set} goto {chain}"));
            entries.push(format!("{n} : goto {chain}"));
            self.chain(
                &chain,
                vec![format!("update @{set} {{ ip saddr }}"), dnat(protocol, *target)],
            );
            let declaration = format!("type ipv4_addr; flags dynamic,timeout; timeout {seconds}s;");
            let elements = BTreeMap::new();
            self.rules.sets.insert(set, Set { keyword: "set", declaration, elements });
        }
        lines.push(format!("numgen random mod {count} vmap {{ {} }}", entries.join(", ")));
        lines
    }

    fn chain(&mut self, name: &str, rules: Vec<String>) {
        self.rules.chains.insert(name.to_owned(), Chain { hook: "", rules });
    }

    /// The first to name a key keeps it.
    fn element(&mut self, set: &str, key: String, value: impl Into<String>) {
        if let Some(set) = self.rules.sets.get_mut(set) {
            set.elements.entry(key).or_insert(value.into());
        }
    }
}

fn dnat(protocol: Protocol, (ip, port): Target) -> String {
    format!("meta l4proto {protocol} dnat ip to {ip}:{port}")
}

/// Those that no other one contains: an interval set takes no overlaps.
fn outermost<'a>(cidrs: impl IntoIterator<Item = &'a Cidr>) -> impl Iterator<Item = Cidr> {
    let mut outermost: Vec<Cidr> = Vec::new();
    let mut sorted: Vec<_> = cidrs.into_iter().copied().collect();
    sorted.sort_by_key(|cidr| (cidr.address(), cidr.length()));
    for cidr in sorted {
        if !outermost.iter().any(|outer| outer.contains(cidr.address())) {
            outermost.push(cidr);
        }
    }
    outermost.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, last)
    }

    fn web() -> ServicePort {
        ServicePort {
            id: "default/web/tcp/http".into(),
            port: 80,
            cluster_ips: vec![ip(1)],
            load_balancer_ips: vec![ip(2)],
            node_port: Some(30080),
            endpoints: vec![(ip(11), 8080), (ip(12), 8080)],
            local_endpoints: vec![(ip(11), 8080)],
            ..ServicePort::default()
        }
    }

    fn node() -> Facts {
        let pods = "10.0.0.0/24".parse().unwrap();
        Facts { node: Some("n".into()), pod_cidr: Some(pods), ..Facts::default() }
    }

    /// What a packet to the Service's addresses meets: cluster address, load balancer's, node port.
    fn ways(port: &ServicePort, facts: &Facts) -> [String; 3] {
        let rules = rules([port], &BTreeSet::new(), facts);
        let find =
            |set: &str, key: &str| rules.sets[set].elements.get(key).cloned().unwrap_or_default();
        let address = |ip: Ipv4Addr| {
            let key = format!("{ip} . tcp . 80");
            let (served, not) = (find(SERVICE_IPS, &key), find(NO_ENDPOINTS, &key));
            assert!(served.is_empty() || not.is_empty());
            format!("{served}{not}").replace("/default/web/tcp/http", "")
        };
        let key = "tcp . 30080";
        let node_port = find(NODE_PORTS, key) + &find(NO_ENDPOINT_NODE_PORTS, key);
        [address(ip(1)), address(ip(2)), node_port.replace("/default/web/tcp/http", "")]
    }

    #[test]
    fn ways_to_the_endpoints() {
        let (node, machine) = (node(), Facts::default());
        let local = |internal_local, external_local| ServicePort {
            internal_local,
            external_local,
            ..web()
        };
        let nowhere = ServicePort { endpoints: vec![], local_endpoints: vec![], ..web() };
        let fenced = ServicePort { source_ranges: vec!["10.0.0.0/8".parse().unwrap()], ..web() };
        for (port, facts, expected) in [
            (web(), &node, ["goto svc", "goto ext", "goto ext"]),
            (web(), &machine, ["goto svc", "goto ext", ""]),
            (local(true, true), &node, ["goto loc", "goto ext", "goto ext"]),
            (local(true, true), &machine, ["goto svc", "goto ext", ""]),
            (nowhere.clone(), &node, ["goto refuse"; 3]),
            (nowhere, &machine, ["goto refuse", "goto refuse", ""]),
            (fenced, &node, ["goto svc", "goto fw", "goto ext"]),
        ] {
            assert_eq!(ways(&port, facts), expected, "{port:?}");
        }
    }

    #[test]
    fn chains_say_what_kubernetes_says() {
        let chain = |port: &ServicePort, facts: &Facts, kind: &str| {
            let rules = rules([port], &BTreeSet::new(), facts);
            rules.chains[&format!("{kind}/default/web/tcp/http")].rules.join("; ")
        };
        let balanced = "meta l4proto tcp dnat ip to numgen random mod 2 \
                        map { 0 : 10.0.0.11 . 8080, 1 : 10.0.0.12 . 8080 }";
        let outsiders = "ip saddr != 10.0.0.0/24 jump mark-for-masquerade";
        let (node, machine) = (node(), Facts::default());
        assert_eq!(chain(&web(), &node, "svc"), format!("{outsiders}; {balanced}"));
        assert_eq!(chain(&web(), &machine, "svc"), balanced);
        assert_eq!(
            chain(&web(), &node, "ext"),
            "jump mark-for-masquerade; goto svc/default/web/tcp/http"
        );
        let local = ServicePort { external_local: true, ..web() };
        assert_eq!(chain(&local, &node, "loc"), "meta l4proto tcp dnat ip to 10.0.0.11:8080");
        assert!(chain(&local, &node, "ext").ends_with("goto loc/default/web/tcp/http"));
        assert_eq!(chain(&local, &machine, "ext"), "goto svc/default/web/tcp/http");
        let elsewhere = ServicePort { local_endpoints: vec![], ..local };
        assert_eq!(chain(&elsewhere, &node, "loc"), "drop");
        let sticky = ServicePort { affinity: Some(60), ..web() };
        assert!(chain(&sticky, &node, "svc").contains(
            "ip saddr @affinity/default/web/tcp/http/10.0.0.11-8080/60 \
             goto ep/default/web/tcp/http/10.0.0.11-8080"
        ));
    }

    #[test]
    fn intervals_do_not_overlap() {
        let cidrs = ["10.1.0.0/16", "10.0.0.0/8", "10.0.0.0/24", "11.0.0.1/32"]
            .map(|cidr| cidr.parse().unwrap());
        let found: Vec<_> = outermost(&cidrs).map(|cidr| cidr.to_string()).collect();
        assert_eq!(found, ["10.0.0.0/8", "11.0.0.1/32"]);
    }
}
