//! What large clusters cost, all of their control plane in one process: pods created and bound in a
//! second, Deployments brought up, CPU and memory, and how these grow with the number of nodes. Every
//! figure is set beside its bar.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use client::{CancellationToken, Client, Clock, Informers, Rng};
use futures::{StreamExt, stream};
use proto::user::User;
use proto::view::deployment::Deployment;
use proto::view::node::Node;
use proto::view::pod::Pod;
use serde_json::{Value, json};
use tests::world::World;

const SIZES: [usize; 4] = [100, 1000, 5000, 15_000];
/// Pods that are created and bound in each of these.
const PODS: usize = 10_000;
/// Clients that create them.
const CLIENTS: usize = 64;
/// Of the cluster whose memory is measured.
const NODES: usize = 5000;
const EXISTING: usize = 50_000;

/// What this program does in processes of their own, whose memory nothing else has used.
#[derive(Parser)]
struct Arguments {
    /// Makes a large cluster there
    #[arg(long)]
    fill: Option<PathBuf>,
    /// Measures the memory of the cluster that is there
    #[arg(long)]
    memory: Option<PathBuf>,
}

#[derive(Parser)]
struct ServerArguments {
    #[command(flatten)]
    options: apiserver::Options,
}

fn main() {
    let arguments = Arguments::parse();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    match arguments {
        Arguments { fill: Some(folder), .. } => return runtime.block_on(fill(&folder)),
        Arguments { memory: Some(folder), .. } => return runtime.block_on(memory(&folder)),
        _ => {}
    }
    println!("{:<58} {:>12} {:>12} {:>7}", "what", "measured", "bar", "ratio");
    runtime.block_on(async {
        bound_at_every_size().await;
        running(1000, 50, 1.0).await;
        running(10_000, 1000, 8.0).await;
    });
    let folder = tempfile::tempdir().expect("a temporary directory");
    for part in ["--fill", "--memory"] {
        let own = std::env::current_exe().expect("the path of this program");
        let mut child = std::process::Command::new(own);
        let ended = child.arg(part).arg(folder.path()).status().expect("it starts");
        assert!(ended.success(), "{part}");
    }
}

fn row(what: &str, measured: f64, bar: f64, unit: &str) {
    let ratio = measured / bar;
    let (measured, bar) = (format!("{measured:.1} {unit}"), format!("{bar} {unit}"));
    println!("{what:<58} {measured:>12} {bar:>12} {ratio:>7.2}");
}

/// A benchmark's own clock.
#[expect(clippy::disallowed_methods, reason = "what is measured happens in real time")]
fn now() -> Instant {
    Instant::now()
}

/// The CPU time of this process, in seconds.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("it runs");
    let fields: Vec<&str> = stat.rsplit_once(") ").expect("stat has a name").1.split(' ').collect();
    let ticks = |field: usize| fields[field].parse::<f64>().expect("ticks");
    (ticks(11) + ticks(12)) / 100.0
}

/// In MiB.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches("kB").trim().parse::<f64>().expect("a number") / 1024.0
}

/// An API server over the embedded store in this folder.
async fn server(folder: &Path, clock: &Clock, rng: &Rng) -> apiserver::Server {
    let data_dir = format!("--data-dir={}", folder.display());
    // Nobody here would take the taint of new nodes away.
    let without = "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition";
    let flags = ["apiserver", &data_dir, "--secure-port=0", without];
    let options = ServerArguments::parse_from(flags).options;
    let server = apiserver::Server::start(options, clock.clone(), rng.clone()).await;
    server.expect("the API server starts")
}

fn pod(name: &str, node: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "web:1",
            "resources": {"requests": {"cpu": "10m", "memory": "10Mi"}}}]},
    })
}

/// Nodes that nobody stands behind, all well.
async fn nodes(client: &Client, count: usize) {
    let nodes = (0..count).map(|number| {
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": format!("node-{number}"), "labels": {
                "kubernetes.io/hostname": format!("node-{number}"),
                "topology.kubernetes.io/zone": format!("zone-{}", number % 3)}},
            "status": {
                "capacity": {"cpu": "64", "memory": "256Gi", "pods": "250"},
                "allocatable": {"cpu": "64", "memory": "256Gi", "pods": "250"},
                "conditions": [{"type": "Ready", "status": "True"}]},
        })
    });
    let create = |node: Value| async move {
        client.create::<Node>("", &node).await.expect("the node is made");
    };
    stream::iter(nodes.map(create)).buffer_unordered(CLIENTS).collect::<Vec<()>>().await;
}

async fn pods(client: &Client, pods: impl Iterator<Item = Value>) {
    // A request runs where it is sent from: in one task all of them would share a processor.
    let create = |pod: Value| {
        let client = client.clone();
        tokio::spawn(async move {
            client.create::<Pod>("default", &pod).await.expect("the pod is made");
        })
    };
    let mut made = stream::iter(pods.map(create)).buffer_unordered(CLIENTS);
    while let Some(made) = made.next().await {
        made.expect("nothing panics");
    }
}

/// Through the API, on a disk, by the scheduler.
async fn bound_at_every_size() {
    let mut costs = Vec::new();
    for size in SIZES {
        let (rate, cost) = bound(size).await;
        let what = format!("pods created and bound in a second, {size} nodes");
        row(&what, rate, 4000.0, "/s");
        row("  of all parts of it: CPU per pod", cost, 400.0, "µs");
        costs.push(cost);
    }
    let growth = costs[costs.len() - 1] / costs[0];
    row("a pod's CPU with 15,000 nodes, to that with 100", growth, 1.5, "×");
}

async fn bound(size: usize) -> (f64, f64) {
    let (clock, rng) = (Clock::system(), Rng::from_os());
    let folder = tempfile::tempdir().expect("a temporary directory");
    let server = server(folder.path(), &clock, &rng).await;
    let client = server.client(User::new("admin", &["system:masters"]));
    nodes(&client, size).await;
    let informers = Informers::new(client.clone(), clock.clone(), rng.clone());
    let known = informers.of::<Node>();
    known.synced().await;
    let shutdown = CancellationToken::new();
    let options = scheduler::Options { leader_elect: false, ..Default::default() };
    let (c, i, k, r, s) =
        (client.clone(), informers.clone(), clock.clone(), rng.clone(), shutdown.clone());
    let scheduler = tokio::spawn(scheduler::run(options, c, i, k, r, s));
    let mut changes = informers.of::<Pod>().changes();
    informers.of::<Pod>().synced().await;

    let (before, start) = (cpu(), now());
    let maker = client.clone();
    let making = tokio::spawn(async move {
        pods(&maker, (0..PODS).map(|number| pod(&format!("pod-{number}"), ""))).await;
    });
    let mut bound = 0;
    while bound < PODS {
        let change = changes.next().await;
        let has = |pod: &Option<Arc<client::Entry<Pod>>>| {
            pod.as_ref().is_some_and(|pod| !pod.spec.node_name.is_empty())
        };
        bound += usize::from(has(&change.new) && !has(&change.old));
    }
    let (taken, spent) = (start.elapsed().as_secs_f64(), cpu() - before);
    making.await.expect("all pods are made");
    shutdown.cancel();
    scheduler.await.expect("it ends").expect("in order");
    (PODS as f64 / taken, spent * 1e6 / PODS as f64)
}

/// A Deployment on simulated nodes, with all parts of the control plane.
async fn running(pods: usize, nodes: usize, bar: f64) {
    let world = World::with(Clock::system(), Rng::seeded(1), nodes).await;
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": pods, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "web:1"}]},
        }},
    });
    let mut changes = world.informers.of::<Pod>().changes();
    let (before, start) = (cpu(), now());
    world.client.create::<Deployment>("default", &deployment).await.expect("created");
    let mut running = 0;
    while running < pods {
        let change = changes.next().await;
        let runs = |pod: &Option<Arc<client::Entry<Pod>>>| {
            pod.as_ref().is_some_and(|pod| pod.status.phase == "Running")
        };
        running += usize::from(runs(&change.new) && !runs(&change.old));
    }
    let (taken, spent) = (start.elapsed().as_secs_f64(), cpu() - before);
    row(&format!("{pods} pods on {nodes} simulated nodes, apply to Running"), taken, bar, "s");
    row("  of all parts of it: CPU per pod", spent * 1e6 / pods as f64, 400.0, "µs");
}

/// A large cluster on disk.
async fn fill(folder: &Path) {
    let server = server(folder, &Clock::system(), &Rng::from_os()).await;
    let client = server.client(User::new("admin", &["system:masters"]));
    nodes(&client, NODES).await;
    let all = (0..EXISTING)
        .map(|number| pod(&format!("pod-{number}"), &format!("node-{}", number % NODES)));
    pods(&client, all).await;
}

/// What scheduler and controllers keep beyond what the API server has: all share its bytes.
async fn memory(folder: &Path) {
    let (clock, rng) = (Clock::system(), Rng::from_os());
    let server = server(folder, &clock, &rng).await;
    let before = resident();
    let client = server.client(User::new("system:kube-controller-manager", &[]));
    let informers = Informers::new(client.clone(), clock.clone(), rng.clone());
    let shutdown = CancellationToken::new();
    let options = controller::Options { leader_elect: false, ..Default::default() };
    let (c, i, k, r, s) = (client, informers.clone(), clock.clone(), rng.clone(), shutdown.clone());
    tokio::spawn(controller::run(options, c, i, k, r, s));
    let options = scheduler::Options { leader_elect: false, ..Default::default() };
    let client = server.client(User::new("system:kube-scheduler", &[]));
    let (i, k, r, s) = (informers.clone(), clock.clone(), rng, shutdown.clone());
    tokio::spawn(scheduler::run(options, client, i, k, r, s));
    informers.of::<Pod>().synced().await;
    // They are at work on what they have read, and nodes are not yet missed.
    clock.sleep(Duration::from_secs(20)).await;
    let grown = resident() - before;
    row("scheduler and controllers, 5,000 nodes and 50,000 pods", grown, 250.0, "MiB");
    println!("{:<58} {before:>8.1} MiB", "  the API server with these, before");
    shutdown.cancel();
}
