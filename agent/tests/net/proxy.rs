//! Services through real rules: a client machine, two nodes on one segment, pods on both.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use agent::net::Cidr;
use agent::net::netlink::{Netlink, Request, Route};
use agent::net::pod::PodNetwork;
use agent::net::proxy::{self, Facts, HostPort, Protocol, RuleSet, ServicePort};
use tempfile::TempDir;

use super::lab::{Host, root};
use super::pod;

const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
const BALANCED_IP: Ipv4Addr = Ipv4Addr::new(10, 78, 0, 200);
const NODE_PORT: u16 = 30080;

/// A machine in front (10.78.n.1) and two nodes (10.78.n.2) with routes to each other through it.
struct Lab {
    machine: Host,
    nodes: Vec<Node>,
}

struct Node {
    host: Host,
    network: PodNetwork,
    rules: std::sync::Mutex<Option<RuleSet>>,
    number: u8,
    _state: TempDir,
}

impl Lab {
    async fn new() -> Self {
        let machine = Host::new();
        let mut nodes = Vec::new();
        for number in [1, 2] {
            let host = Host::new();
            let (near, far) = (Ipv4Addr::new(10, 78, number, 1), Ipv4Addr::new(10, 78, number, 2));
            machine.connect(&format!("node{number}"), near, &host, ("eth0", far)).await;
            let state = tempfile::tempdir().unwrap();
            let network = pod::open(&host, &format!("10.77.{number}.0/24"), state.path()).await;
            route(&host, "0.0.0.0/0", near).await;
            // A redirect would use up the budget of ICMP errors, and refusals are such.
            let redirects = "/proc/sys/net/ipv4/conf/eth0/send_redirects";
            host.run(move || std::fs::write(redirects, "0").unwrap()).await;
            route(&machine, &format!("10.77.{number}.0/24"), far).await;
            let rules = Default::default();
            nodes.push(Node { host, network, rules, number, _state: state });
        }
        route(&machine, "10.96.0.0/16", Ipv4Addr::new(10, 78, 1, 2)).await;
        route(&machine, "10.78.0.0/24", Ipv4Addr::new(10, 78, 1, 2)).await;
        machine.run(|| std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap()).await;
        Self { machine, nodes }
    }

    /// A pod on node `n` that serves its name on port 8080.
    async fn pod(&self, n: usize, name: &str) -> (Host, Ipv4Addr) {
        let node = &self.nodes[n];
        let (host, ip) = pod::pod(&node.host, &node.network, name).await;
        host.serve(8080, name).await;
        (host, ip)
    }

    async fn apply(&self, port: &ServicePort, host_ports: &[HostPort]) {
        for node in &self.nodes {
            let mut port = port.clone();
            let pods: Cidr = format!("10.77.{}.0/24", node.number).parse().unwrap();
            port.local_endpoints = port.endpoints.clone();
            port.local_endpoints.retain(|(ip, _)| pods.contains(*ip));
            let mut host_ports = BTreeSet::from_iter(host_ports.iter().cloned());
            host_ports.retain(|port| pods.contains(port.target.0));
            let facts = Facts {
                node: Some(format!("node{}", node.number)),
                pod_cidr: Some(pods),
                masquerade: Some(pods),
                cluster: ["10.77.0.0/16", "10.78.0.0/16", "10.77.1.0/24"]
                    .map(|cidr| cidr.parse().unwrap())
                    .into(),
            };
            node.apply(proxy::rules([&port], &host_ports, &facts)).await;
        }
    }

    async fn ask_often(from: &Host, address: (Ipv4Addr, u16)) -> BTreeMap<String, usize> {
        let mut answers = BTreeMap::new();
        for _ in 0..40 {
            let answer = from.ask(address).await.expect("an answer");
            let name = answer.split(' ').next().unwrap().to_owned();
            *answers.entry(name).or_default() += 1;
        }
        answers
    }
}

impl Node {
    async fn apply(&self, rules: RuleSet) {
        let old = self.rules.lock().unwrap().replace(rules.clone());
        let transaction = proxy::transaction("coracle-test", old.as_ref(), &rules);
        if !transaction.is_empty() {
            nft(&self.host, transaction).await;
        }
    }
}

async fn nft(host: &Host, transaction: String) {
    host.sockets(move || {
        let applied = futures::executor::block_on(proxy::apply(&transaction));
        applied.unwrap_or_else(|error| panic!("{error}\n{transaction}"));
    })
    .await;
}

async fn route(host: &Host, destination: &str, gateway: Ipv4Addr) {
    let destination = destination.parse().unwrap();
    host.run(move || {
        let route = Route { destination, gateway: Some(gateway), link: None };
        Netlink::open().unwrap().apply(vec![Request::route(&route, 4)]).unwrap();
    })
    .await;
}

#[track_caller]
fn refused(answer: std::io::Result<String>) {
    assert_eq!(answer.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
}

fn service(endpoints: &[Ipv4Addr]) -> ServicePort {
    ServicePort {
        id: "default/web/tcp/http".into(),
        protocol: Protocol::Tcp,
        port: 80,
        cluster_ips: vec![CLUSTER_IP],
        load_balancer_ips: vec![BALANCED_IP],
        node_port: Some(NODE_PORT),
        endpoints: endpoints.iter().map(|ip| (*ip, 8080)).collect(),
        ..ServicePort::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_answers_on_all_its_addresses() {
    if !root() {
        return;
    }
    let lab = Lab::new().await;
    let (a, a_ip) = lab.pod(0, "a").await;
    let (_b, b_ip) = lab.pod(0, "b").await;
    let (c, c_ip) = lab.pod(1, "c").await;
    lab.apply(&service(&[a_ip, b_ip, c_ip]), &[]).await;

    for (from, what) in [(&a, "pod"), (&c, "pod"), (&lab.nodes[1].host, "node")] {
        let answers = Lab::ask_often(from, (CLUSTER_IP, 80)).await;
        assert_eq!(answers.keys().collect::<Vec<_>>(), ["a", "b", "c"], "from {what}");
    }
    let node_ip = Ipv4Addr::new(10, 78, 2, 2);
    for address in [(node_ip, NODE_PORT), (BALANCED_IP, 80), (CLUSTER_IP, 80)] {
        let answers = Lab::ask_often(&lab.machine, address).await;
        assert_eq!(answers.len(), 3, "from outside to {address:?}: {answers:?}");
    }
    // A pod of another node, through a third node's port: the answer must come back that way.
    assert_eq!(Lab::ask_often(&a, (node_ip, NODE_PORT)).await.len(), 3);
    // Pods keep their address among themselves.
    lab.apply(&service(&[c_ip]), &[]).await;
    assert_eq!(a.ask((CLUSTER_IP, 80)).await.unwrap(), format!("c {a_ip}"));
    // To itself: the only endpoint asks its own Service.
    assert_eq!(Lab::ask_often(&c, (CLUSTER_IP, 80)).await["c"], 40);
    assert_eq!(Lab::ask_often(&c, (node_ip, NODE_PORT)).await["c"], 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_endpoints_connections_are_refused() {
    if !root() {
        return;
    }
    let lab = Lab::new().await;
    let (a, a_ip) = lab.pod(0, "a").await;
    lab.apply(&service(&[]), &[]).await;
    refused(a.ask((CLUSTER_IP, 80)).await);
    refused(lab.nodes[1].host.ask((CLUSTER_IP, 80)).await);
    refused(lab.machine.ask((BALANCED_IP, 80)).await);
    refused(lab.machine.ask((Ipv4Addr::new(10, 78, 1, 2), NODE_PORT)).await);
    lab.apply(&service(&[a_ip]), &[]).await;
    assert_eq!(a.ask((CLUSTER_IP, 80)).await.unwrap().split(' ').next(), Some("a"));
    refused(a.ask((CLUSTER_IP, 81)).await);
    lab.apply(&service(&[]), &[]).await;
    refused(a.ask((CLUSTER_IP, 80)).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_affinity_and_host_ports() {
    if !root() {
        return;
    }
    let lab = Lab::new().await;
    let (a, a_ip) = lab.pod(0, "a").await;
    let (_b, b_ip) = lab.pod(0, "b").await;
    let (c, c_ip) = lab.pod(1, "c").await;
    let node_ips = [Ipv4Addr::new(10, 78, 1, 2), Ipv4Addr::new(10, 78, 2, 2)];

    // Local: only this node's endpoints, and the client's own address.
    let mut local = service(&[a_ip, b_ip, c_ip]);
    (local.external_local, local.internal_local) = (true, true);
    lab.apply(&local, &[]).await;
    assert_eq!(lab.machine.ask((node_ips[1], NODE_PORT)).await.unwrap(), "c 10.78.2.1");
    assert_eq!(Lab::ask_often(&a, (CLUSTER_IP, 80)).await.len(), 2);
    assert_eq!(Lab::ask_often(&c, (node_ips[1], NODE_PORT)).await.len(), 3, "inside: all");
    local.endpoints.retain(|(ip, _)| *ip != c_ip);
    lab.apply(&local, &[]).await;
    assert!(c.ask((CLUSTER_IP, 80)).await.is_err());
    assert!(lab.machine.ask((node_ips[1], NODE_PORT)).await.is_err());

    let mut sticky = service(&[a_ip, b_ip, c_ip]);
    sticky.affinity = Some(10);
    lab.apply(&sticky, &[]).await;
    assert_eq!(Lab::ask_often(&a, (CLUSTER_IP, 80)).await.len(), 1);
    let chosen = lab.machine.ask((node_ips[0], NODE_PORT)).await.unwrap();
    let chosen = chosen.split(' ').next().unwrap();
    assert_eq!(Lab::ask_often(&lab.machine, (node_ips[0], NODE_PORT)).await[chosen], 40);

    let mut fenced = service(&[a_ip, b_ip, c_ip]);
    fenced.source_ranges = vec!["10.78.1.0/24".parse().unwrap(), "10.78.1.1/32".parse().unwrap()];
    lab.apply(&fenced, &[]).await;
    assert!(lab.machine.ask((BALANCED_IP, 80)).await.is_ok());
    assert!(c.ask((BALANCED_IP, 80)).await.is_err());

    let host_port = |ip, port| HostPort { protocol: Protocol::Tcp, ip, port, target: (b_ip, 8080) };
    lab.apply(&service(&[]), &[host_port(None, 88), host_port(Some(node_ips[0]), 89)]).await;
    for port in [88, 89] {
        assert_eq!(lab.machine.ask((node_ips[0], port)).await.unwrap(), "b 10.78.1.1");
        assert!(lab.machine.ask((node_ips[1], port)).await.is_err());
    }
    assert!(lab.nodes[0].host.ask((node_ips[0], 88)).await.unwrap().starts_with("b "));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn updates_lose_no_connection_and_touch_only_what_changed() {
    if !root() {
        return;
    }
    let lab = Lab::new().await;
    let (a, a_ip) = lab.pod(0, "a").await;
    let (_b, b_ip) = lab.pod(1, "b").await;
    lab.apply(&service(&[a_ip, b_ip]), &[]).await;
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let asking = {
        let done = done.clone();
        tokio::spawn(async move {
            let mut asked = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                a.ask((CLUSTER_IP, 80)).await.expect("no update loses a connection");
                asked += 1;
            }
            asked
        })
    };
    for round in 0..20 {
        let endpoints = if round % 2 == 0 { vec![a_ip] } else { vec![a_ip, b_ip] };
        lab.apply(&service(&endpoints), &[]).await;
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    assert!(asking.await.unwrap() > 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_udp_client_is_not_kept_with_an_endpoint_that_went() {
    if !root() {
        return;
    }
    if std::process::Command::new("conntrack").arg("--version").output().is_err() {
        eprintln!("SKIPPED: needs conntrack (package conntrack)");
        return;
    }
    let lab = Lab::new().await;
    let (a, a_ip) = lab.pod(0, "a").await;
    let (b, b_ip) = lab.pod(1, "b").await;
    let (c, _) = lab.pod(0, "c").await;
    a.serve_udp(53, "a").await;
    b.serve_udp(53, "b").await;
    let dns = |ip| ServicePort {
        id: "default/dns/udp/dns".into(),
        protocol: Protocol::Udp,
        port: 53,
        cluster_ips: vec![CLUSTER_IP],
        endpoints: vec![(ip, 53)],
        ..ServicePort::default()
    };
    let socket = c.udp(4000).await;
    let mut old = BTreeMap::new();
    for (ip, name) in [(a_ip, "a"), (b_ip, "b"), (a_ip, "a")] {
        let port = dns(ip);
        lab.apply(&port, &[]).await;
        let new = BTreeMap::from([(port.id.clone(), port)]);
        let stale = proxy::stale(&old, &new);
        let node = &lab.nodes[0].host;
        node.sockets(move || futures::executor::block_on(proxy::forget(&stale)).unwrap()).await;
        old = new;
        // Always from the same port, so that it is the same connection to the kernel.
        socket.send_to(b"?", (CLUSTER_IP, 53)).await.unwrap();
        let mut buffer = [0; 8];
        let receive = socket.recv_from(&mut buffer);
        let clock = client::Clock::system();
        let (length, from) =
            clock.timeout(std::time::Duration::from_secs(2), receive).await.unwrap().unwrap();
        assert_eq!(&buffer[..length], name.as_bytes());
        assert_eq!(from.ip(), CLUSTER_IP);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_services_load_and_change_quickly() {
    if !root() {
        return;
    }
    let host = Host::new();
    let mut ports: Vec<_> = (0..1000u32)
        .map(|n| ServicePort {
            id: format!("default/s{n}/tcp/http"),
            cluster_ips: vec![Ipv4Addr::from_bits(CLUSTER_IP.to_bits() + n)],
            endpoints: (0..5).map(|e| (Ipv4Addr::from_bits((10 << 24) + n * 5 + e), 80)).collect(),
            ..service(&[])
        })
        .collect();
    ports.iter_mut().for_each(|port| (port.node_port, port.load_balancer_ips) = Default::default());
    let facts = Facts { node: Some("n".into()), ..Facts::default() };
    let clock = client::Clock::system();
    let started = clock.instant();
    let old = proxy::rules(&ports, &BTreeSet::new(), &facts);
    let transaction = proxy::transaction("coracle-test", None, &old);
    let computed = started.elapsed();
    nft(&host, transaction).await;
    eprintln!("1,000 Services: rules {computed:?}, load {:?}", started.elapsed() - computed);
    ports[500].endpoints.pop();
    let started = clock.instant();
    let new = proxy::rules(&ports, &BTreeSet::new(), &facts);
    let transaction = proxy::transaction("coracle-test", Some(&old), &new);
    assert_eq!(transaction.lines().count(), 2, "{transaction}");
    nft(&host, transaction).await;
    eprintln!("one change: {:?}", started.elapsed());
}
