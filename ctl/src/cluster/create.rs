//! `ctl cluster create`: from nothing to nodes that are Ready, and what the manifests ask for
//! rolled out. A failure half way removes what was made.

use std::fs::{File, OpenOptions};
use std::net::{IpAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use apiserver::pki::{self, Pki};
use client::{Client, Clock, Informers, Kubeconfig, Rng};
use controller::service_account;
use proto::view::lease::Lease;
use proto::view::node::Node as NodeView;
use rustix::fs::{FlockOperation, flock};

use super::delete::remove;
use super::layout::{Cluster, MOST_NODES, Node, StateDir, Store, check_name, nodes};
use super::process::Processes;
use super::steps::Steps;
use super::{Error, network, privilege, rollout, storage};

/// What was asked for.
#[derive(Clone, Debug, clap::Args)]
pub struct Create {
    /// What the cluster is to be called; its context is coracle-NAME
    #[arg(default_value = super::DEFAULT_NAME)]
    pub name: String,
    /// How many nodes it has, each with a network, mounts and a host name of its own
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub nodes: u32,
    /// Further nodes whose containers exist in memory only
    #[arg(long, value_name = "M", default_value_t = 0)]
    pub simulated_nodes: u32,
    /// Keep the objects in etcd: three members of the machine's etcd, on loopback
    #[arg(long, conflicts_with = "ephemeral")]
    pub etcd: bool,
    /// Keep the objects in memory: they are gone when the API server ends
    #[arg(long)]
    pub ephemeral: bool,
    /// Manifest to apply and wait for (repeatable)
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub filename: Vec<PathBuf>,
    /// How pods are scheduled: a KubeSchedulerConfiguration, which the cluster keeps a copy of
    #[arg(long, value_name = "FILE")]
    pub scheduler_config: Option<PathBuf>,
    /// The kubeconfig that gets the cluster's context (default: the first of $KUBECONFIG, or
    /// ~/.kube/config)
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// API server, scheduler and controllers as processes of their own
    #[arg(long, hide = true)]
    pub separate: bool,
}

const READY_WITHIN: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(5);
const ETCD_MEMBERS: usize = 3;
/// A process that was started so often will not start.
const TOO_OFTEN: usize = 4;
const LOCK: &str = "/run/coracle.lock";

/// Makes the cluster; as root.
pub async fn create(create: &Create, state: &StateDir, clock: Clock) -> Result<Cluster, Error> {
    check(create)?;
    let steps = Steps::new(clock.clone());
    let lock = lock()?;
    if state.cluster(&create.name)?.is_some() {
        return Err(Error::Exists(create.name.clone()));
    }
    let cluster = describe(create, state)?;
    let work = async {
        build(create, &cluster, state, &steps, lock, &clock).await?;
        rollout::apply(create, &cluster, &steps, &clock).await
    };
    let result = tokio::select! {
        result = work => result,
        _ = tokio::signal::ctrl_c() => Err(Error::Interrupted),
    };
    match result {
        Ok(()) => {
            steps.done(&format!("cluster {} is up", cluster.name));
            Ok(cluster)
        }
        Err(error) => {
            anstream::eprintln!("removing what was made");
            for problem in remove(&cluster, &clock).await {
                anstream::eprintln!("{}", client::error::chain(&problem));
            }
            Err(error)
        }
    }
}

/// What can be known to be wrong before anything is made.
fn check(create: &Create) -> Result<(), Error> {
    check_name(&create.name)?;
    if create.nodes > MOST_NODES {
        return Err(Error::TooManyNodes(MOST_NODES));
    }
    let needed = [("nft", "nftables", true), ("etcd", "etcd-server", create.etcd)];
    for (program, package, wanted) in needed {
        let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
        let there = || std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
        if wanted && !there() {
            return Err(Error::Missing { program, package });
        }
    }
    let config = create.scheduler_config.clone();
    scheduler::Options { config, ..Default::default() }.configuration()?;
    rollout::check(&create.filename)
}

/// Networks and ports are looked for and taken by one `cluster create` at a time.
fn lock() -> Result<File, Error> {
    let path = Path::new(LOCK);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(Error::file("open", path))?;
    flock(&file, FlockOperation::LockExclusive)
        .map_err(|errno| Error::file("lock", path)(errno.into()))?;
    Ok(file)
}

/// Chooses what is the cluster's own, and writes it down before anything is made.
fn describe(create: &Create, state: &StateDir) -> Result<Cluster, Error> {
    let taken: Vec<u8> = state.all()?.iter().map(|cluster| cluster.slot).collect();
    let store = match (create.etcd, create.ephemeral) {
        (true, _) => Store::Etcd(free_ports()?),
        (_, true) => Store::Memory,
        _ => Store::Embedded,
    };
    let cluster = Cluster {
        name: create.name.clone(),
        slot: network::free_slot(&taken)?,
        nodes: nodes(create.nodes),
        simulated_nodes: create.simulated_nodes,
        store,
        separate: create.separate,
        scheduler_config: create.scheduler_config.is_some(),
        kubeconfig: super::kubeconfig_path(create.kubeconfig.as_deref()),
        dir: state.cluster_dir(&create.name),
    };
    let make = |path: &Path, mode| {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(mode).create(path).map_err(Error::file("make", path))
    };
    make(&cluster.dir.join("logs"), 0o755)?;
    make(&cluster.server_dir(), 0o700)?;
    make(&cluster.dir.join("nodes"), 0o700)?;
    make(&cluster.dir.join("etcd"), 0o700)?;
    make(&state.images(), 0o755)?;
    if let Some(path) = &create.scheduler_config {
        std::fs::copy(path, cluster.scheduler_config()).map_err(Error::file("copy", path))?;
    }
    cluster.write()?;
    Ok(cluster)
}

fn free_ports() -> Result<Vec<(u16, u16)>, Error> {
    let bind = || TcpListener::bind(("127.0.0.1", 0));
    let listeners: Result<Vec<_>, _> = (0..2 * ETCD_MEMBERS).map(|_| bind()).collect();
    let ports = listeners.and_then(|listeners| {
        listeners.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
    });
    let ports: Vec<u16> =
        ports.map_err(|source| Error::Start { process: "etcd".into(), source })?;
    Ok(ports.chunks(2).map(|pair| (pair[0], pair[1])).collect())
}

async fn build(
    create: &Create,
    cluster: &Cluster,
    state: &StateDir,
    steps: &Steps,
    lock: File,
    clock: &Clock,
) -> Result<(), Error> {
    let network = async {
        network::make_bridge(cluster)?;
        for node in &cluster.nodes {
            network::make_node(cluster, node).await?;
        }
        drop(lock);
        Ok(())
    };
    let gateway = cluster.networks().gateway();
    let what = match create.nodes {
        1 => format!("network of 1 node on {gateway}"),
        count => format!("network of {count} nodes on {gateway}"),
    };
    steps.step(&what, network).await?;
    steps.step("certificates", async { certify(cluster, clock) }).await?;
    let ready = async {
        start_supervisor(cluster, state)?;
        let client = Client::connect(&admin(cluster)?)?;
        wait_ready(cluster, &client, clock).await?;
        storage::make_class(&client).await?;
        Ok(client)
    };
    let client = steps.step(&format!("API server at {}", cluster.url()), ready).await?;
    let count = create.nodes + create.simulated_nodes;
    let nodes = async {
        wait_nodes(cluster, &client, count as usize, clock).await?;
        wait_account(cluster, &client, clock).await
    };
    steps.step(&format!("{count} node{} Ready", if count == 1 { "" } else { "s" }), nodes).await?;
    if let Some(path) = &cluster.kubeconfig {
        let what = format!("context {} in {}", cluster.context(), path.display());
        steps.step(&what, async { add_context(cluster, path) }).await?;
    }
    Ok(())
}

/// The identities of all processes, issued by the cluster's own authority, so that all processes
/// can start at once.
fn certify(cluster: &Cluster, clock: &Clock) -> Result<(), Error> {
    let gateway = cluster.networks().gateway().to_string();
    let pki_dir = cluster.server_dir().join("pki");
    let pki = Pki::open(&pki_dir, &[gateway], clock, &Rng::from_os())?;
    pki::service_account_key(&pki_dir)?;
    let url = cluster.url();
    pki.write_kubeconfigs(&cluster.server_dir(), &url)?;
    let write = |path: PathBuf, text: &str| pki::write_private(&path, text.as_bytes());
    const PROXY: &str = "system:kube-proxy";
    let proxy = pki::kubeconfig(&url, pki.ca(), PROXY, &pki.client(PROXY, &[])?);
    write(cluster.dir.join("proxy.kubeconfig"), &proxy)?;
    for node in &cluster.nodes {
        let dir = cluster.node_dir(node);
        std::fs::create_dir_all(&dir).map_err(Error::file("make", &dir))?;
        let address = IpAddr::V4(cluster.networks().node(node.number));
        let credentials = pki.node(&node.name, &[address])?;
        let user = format!("system:node:{}", node.name);
        let kubeconfig = pki::kubeconfig(&url, &credentials.ca, &user, &credentials.client);
        write(dir.join("kubeconfig"), &kubeconfig)?;
        write(dir.join("ca.crt"), &credentials.ca)?;
        write(dir.join("tls.crt"), &credentials.serving.certificate)?;
        write(dir.join("tls.key"), &credentials.serving.key)?;
    }
    Ok(())
}

/// How the cluster's administrator connects.
pub fn admin(cluster: &Cluster) -> Result<client::Config, Error> {
    Ok(Kubeconfig::read(&cluster.server_dir().join("admin.kubeconfig"))?.config(None)?)
}

fn start_supervisor(cluster: &Cluster, state: &StateDir) -> Result<(), Error> {
    let start = |source| Error::Start { process: "supervisor".into(), source };
    let path = cluster.log("supervisor");
    let log = OpenOptions::new().append(true).create(true).open(&path);
    let log = log.map_err(Error::file("open", &path))?;
    let program = std::env::current_exe().map_err(start)?;
    Command::new(program)
        .args(["cluster", "supervise"])
        .arg(&cluster.name)
        .arg("--state-dir")
        .arg(&state.0)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(start)?)
        .stderr(log)
        .spawn()
        .map_err(start)?;
    Ok(())
}

/// Asks /readyz until the answer is yes.
async fn wait_ready(cluster: &Cluster, client: &Client, clock: &Clock) -> Result<(), Error> {
    let deadline = clock.instant() + READY_WITHIN;
    let server = if cluster.separate { "apiserver" } else { "server" };
    let mut pids = Vec::new();
    while client.document("/readyz").await.is_err_and(|error| !is_text(&error)) {
        if clock.instant() > deadline {
            return Err(late(cluster, "a ready API server"));
        }
        if let Some(process) = Processes::read(&cluster.dir).0.get(server)
            && !pids.contains(&process.pid)
        {
            pids.push(process.pid);
        }
        if pids.len() >= TOO_OFTEN {
            let log = cluster.log(server);
            return Err(Error::Ends { process: server.into(), tail: tail(&log, 5), log });
        }
        clock.sleep(LOOK_AGAIN).await;
    }
    Ok(())
}

/// `ok` is an answer, and no JSON.
fn is_text(error: &client::Error) -> bool {
    matches!(error, client::Error::Decode { .. })
}

/// Waits until so many nodes are Ready.
async fn wait_nodes(
    cluster: &Cluster,
    client: &Client,
    count: usize,
    clock: &Clock,
) -> Result<(), Error> {
    let informers = Informers::new(client.clone(), clock.clone(), Rng::from_os());
    let nodes = informers.of::<NodeView>();
    let mut changes = nodes.changes();
    let ready = async {
        while nodes.snapshot().values().filter(|node| node.is_ready()).count() < count {
            changes.next().await;
        }
    };
    let late = |_| late(cluster, "the nodes' readiness");
    clock.timeout(READY_WITHIN, ready).await.map_err(late)
}

/// Waits until pods can be made: controllers that run beside the API server are no part of its
/// /readyz.
async fn wait_account(cluster: &Cluster, client: &Client, clock: &Clock) -> Result<(), Error> {
    let informers = Informers::new(client.clone(), clock.clone(), Rng::from_os());
    let late = |_| late(cluster, "the ServiceAccount of the default namespace");
    clock.timeout(READY_WITHIN, service_account::made(&informers)).await.map_err(late)
}

/// Waits until this node is Ready, by word that it gives from now on: what the API says of a node
/// that was stopped stays for a while.
pub async fn wait_node(
    cluster: &Cluster,
    node: &Node,
    client: &Client,
    clock: &Clock,
) -> Result<(), Error> {
    let informers = Informers::new(client.clone(), clock.clone(), Rng::from_os());
    let (nodes, leases) = (informers.of::<NodeView>(), informers.of::<Lease>());
    leases.synced().await;
    let renewed = || leases.get("kube-node-lease", &node.name).map(|lease| lease.spec.renew_time);
    let old = renewed();
    let mut changes = nodes.changes();
    let mut renewals = leases.changes();
    let ready = async {
        while renewed() == old || nodes.get("", &node.name).is_none_or(|node| !node.is_ready()) {
            tokio::select! {
                _ = changes.next() => {}
                _ = renewals.next() => {}
            }
        }
    };
    let late = |_| late(cluster, "the node's readiness");
    clock.timeout(READY_WITHIN, ready).await.map_err(late)
}

fn late(cluster: &Cluster, what: &str) -> Error {
    let logs = std::fs::read_dir(cluster.dir.join("logs")).into_iter().flatten().flatten();
    let tails = logs.map(|log| (log.path(), tail(&log.path(), 4)));
    let tails = tails.filter(|(_, tail)| !tail.is_empty());
    let tails: Vec<_> = tails.map(|(log, tail)| format!("{}:\n{tail}", log.display())).collect();
    Error::Late { what: what.into(), seconds: READY_WITHIN.as_secs(), tails: tails.join("\n") }
}

fn tail(log: &Path, lines: usize) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn add_context(cluster: &Cluster, path: &Path) -> Result<(), Error> {
    let made = privilege::missing_folders(path);
    Kubeconfig::single(&cluster.context(), &admin(cluster)?).merge_into(path)?;
    privilege::give(path, &made)
}
