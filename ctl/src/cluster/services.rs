//! The processes of a cluster and their command lines: a pure table.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::layout::{API_PORT, Cluster, Node, StateDir, Store};

/// One process that the supervisor keeps running.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Unique in the cluster: `node1/agent`.
    pub name: String,
    /// The file of its output, in `logs/`, without `.log`.
    pub log: String,
    /// The node in whose namespaces it runs; `None` for the machine's own.
    pub node: Option<String>,
    pub program: PathBuf,
    pub arguments: Vec<OsString>,
}

/// All processes that the cluster should have now.
pub fn services(cluster: &Cluster, own_program: &Path, state: &StateDir) -> Vec<Service> {
    let mut services = Vec::new();
    let mut ours = |name: &str, node: Option<&Node>, arguments: Vec<OsString>| {
        services.push(Service {
            name: name.to_owned(),
            log: name.replace('/', "-"),
            node: node.map(|node| node.name.clone()),
            program: own_program.to_owned(),
            arguments,
        });
    };
    if cluster.separate {
        let kubeconfig = |file: &str| cluster.server_dir().join(file);
        ours("apiserver", None, api_server("apiserver", cluster));
        // Each cluster has an address of its own, where the ports are free.
        let gateway = cluster.networks().gateway().to_string();
        let mut scheduler = Line::new("scheduler")
            .flag("--kubeconfig", kubeconfig("scheduler.kubeconfig"))
            .flag("--bind-address", &gateway);
        if cluster.scheduler_config {
            scheduler = scheduler.flag("--config", cluster.scheduler_config());
        }
        ours("scheduler", None, scheduler.0);
        let controller = Line::new("controller")
            .flag("--kubeconfig", kubeconfig("controller.kubeconfig"))
            .flag("--bind-address", &gateway)
            .flag("--root-ca-file", cluster.server_dir().join("pki/ca.crt"))
            .flag("--service-account-private-key-file", cluster.server_dir().join("pki/sa.key"))
            .flag("--load-balancer-cidr", cluster.networks().load_balancers().to_string());
        ours("controller", None, controller.0);
    } else {
        let mut line = Line(api_server("server", cluster));
        line = line.flag("--load-balancer-cidr", cluster.networks().load_balancers().to_string());
        if cluster.scheduler_config {
            line = line.flag("--scheduler-config", cluster.scheduler_config());
        }
        ours("server", None, line.0);
    }
    ours("proxy", None, proxy(cluster));
    for node in cluster.nodes.iter().filter(|node| !node.stopped) {
        ours(&format!("{}/runtime", node.name), Some(node), runtime(cluster, node, state));
        ours(&format!("{}/agent", node.name), Some(node), agent(cluster, node));
    }
    if cluster.simulated_nodes > 0 {
        let line = Line::new("simulate")
            .flag("--kubeconfig", cluster.server_dir().join("admin.kubeconfig"))
            .flag("--nodes", cluster.simulated_nodes.to_string());
        ours("simulated", None, line.0);
    }
    if let Store::Etcd(ports) = &cluster.store {
        services.extend((0..ports.len()).map(|member| etcd(cluster, ports, member)));
    }
    services
}

/// The client URLs of etcd's members.
pub fn etcd_urls(ports: &[(u16, u16)]) -> String {
    let urls: Vec<_> =
        ports.iter().map(|(client, _)| format!("http://127.0.0.1:{client}")).collect();
    urls.join(",")
}

/// A command line that grows.
struct Line(Vec<OsString>);

impl Line {
    fn new(command: &str) -> Self {
        Self(vec![command.into()])
    }

    fn flag(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.0.extend([name.into(), value.into()]);
        self
    }
}

fn api_server(command: &str, cluster: &Cluster) -> Vec<OsString> {
    let networks = cluster.networks();
    let line = Line::new(command)
        .flag("--data-dir", cluster.server_dir())
        .flag("--bind-address", networks.gateway().to_string())
        .flag("--secure-port", API_PORT.to_string())
        .flag("--service-cluster-ip-range", networks.services().to_string());
    match &cluster.store {
        Store::Embedded => line.0,
        Store::Memory => {
            let mut arguments = line.0;
            arguments.push("--ephemeral".into());
            arguments
        }
        Store::Etcd(ports) => line.flag("--etcd-servers", etcd_urls(ports)).0,
    }
}

fn proxy(cluster: &Cluster) -> Vec<OsString> {
    let all = cluster.networks().all().to_string();
    Line::new("service-proxy")
        .flag("--kubeconfig", cluster.dir.join("proxy.kubeconfig"))
        .flag("--nftables-table", cluster.table())
        .flag("--cluster-cidr", all)
        .0
}

fn runtime(cluster: &Cluster, node: &Node, state: &StateDir) -> Vec<OsString> {
    let dir = cluster.node_dir(node);
    Line::new("runtime")
        .flag("--root", dir.join("runtime"))
        .flag("--listen", socket(&dir))
        .flag("--image-root", state.images())
        .flag("--cgroup-parent", cluster.node_cgroup(node))
        .0
}

fn agent(cluster: &Cluster, node: &Node) -> Vec<OsString> {
    let (dir, networks) = (cluster.node_dir(node), cluster.networks());
    Line::new("agent")
        .flag("--kubeconfig", dir.join("kubeconfig"))
        .flag("--runtime-endpoint", socket(&dir))
        .flag("--node-name", &node.name)
        .flag("--node-ip", networks.node(node.number).to_string())
        .flag("--pod-cidr", networks.pods(node.number).to_string())
        .flag("--root-dir", dir.join("kubelet"))
        .flag("--pod-logs-dir", dir.join("pod-logs"))
        .flag("--pod-manifest-path", dir.join("manifests"))
        .flag("--cgroup-root", cluster.node_cgroup(node))
        .flag("--resolv-conf", resolv_conf())
        // A machine may be full of other things than pods: it is the user's to judge.
        .flag("--eviction-hard", "memory.available<100Mi")
        .flag("--image-gc-high-threshold", "100")
        // The runtimes of a machine share one store, and fetch nothing twice.
        .flag("--serialize-image-pulls", "false")
        .flag("--tls-cert-file", dir.join("tls.crt"))
        .flag("--tls-private-key-file", dir.join("tls.key"))
        .flag("--client-ca-file", dir.join("ca.crt"))
        .flag("--nftables-table", cluster.table())
        .0
}

fn etcd(cluster: &Cluster, ports: &[(u16, u16)], member: usize) -> Service {
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let (client, peer) = ports[member];
    let name = |member: usize| format!("etcd{}", member + 1);
    let everybody: Vec<_> = ports
        .iter()
        .enumerate()
        .map(|(member, (_, peer))| format!("{}={}", name(member), url(*peer)))
        .collect();
    let line = Line(Vec::new())
        .flag("--name", name(member))
        .flag("--data-dir", cluster.dir.join("etcd").join(name(member)))
        .flag("--listen-client-urls", url(client))
        .flag("--advertise-client-urls", url(client))
        .flag("--listen-peer-urls", url(peer))
        .flag("--initial-advertise-peer-urls", url(peer))
        .flag("--initial-cluster", everybody.join(","))
        .flag("--initial-cluster-token", cluster.context())
        .flag("--initial-cluster-state", "new");
    Service {
        name: name(member),
        log: name(member),
        node: None,
        program: "etcd".into(),
        arguments: line.0,
    }
}

fn socket(node_dir: &Path) -> OsString {
    let mut url = OsString::from("unix://");
    url.push(node_dir.join("runtime.sock"));
    url
}

/// A node cannot reach a resolver on the machine's loopback, which systemd-resolved is; it says
/// beside it which servers it asks itself.
fn resolv_conf() -> &'static str {
    const STUB: &str = "/etc/resolv.conf";
    const REAL: &str = "/run/systemd/resolve/resolv.conf";
    let stub = std::fs::read_to_string(STUB).unwrap_or_default();
    let on_loopback = stub.lines().any(|line| line.trim().starts_with("nameserver 127."));
    if on_loopback && Path::new(REAL).exists() { REAL } else { STUB }
}
