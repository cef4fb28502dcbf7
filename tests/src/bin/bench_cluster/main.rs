//! What a cluster costs: seconds to start and to run a Deployment, from a pod's binding to its
//! running, memory and CPU at rest, and a thousand pods on a hundred simulated nodes. Needs root. Every figure is set beside its bar.

use std::process::Command;
use std::time::{Duration, Instant};

use client::{Clock, Rng};
use proto::view::deployment::Deployment;
use proto::view::pod::Pod;
use serde_json::{Value, json};
use tests::cluster::Cluster;
use tests::program::run;
use tests::server::free_port;
use tests::wait::until;
use tests::world::World;

mod paced;

const HELLO: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/hello.yaml");
const ROUNDS: usize = 5;

fn main() {
    println!("{:<58} {:>10} {:>10} {:>7}", "what", "measured", "bar", "ratio");
    server_start();
    simulated();
    real();
}

fn row(what: &str, measured: f64, bar: f64, unit: &str) {
    let ratio = measured / bar;
    println!(
        "{what:<58} {:>10} {:>10} {ratio:>7.2}",
        format!("{measured:.1} {unit}"),
        format!("{bar} {unit}")
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A benchmark's own clock.
#[expect(clippy::disallowed_methods, reason = "real processes live in real time")]
fn now() -> Instant {
    Instant::now()
}

fn milliseconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}

/// From exec to a /readyz that says ok, on a new data directory.
fn server_start() {
    let once = |_| {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let port = free_port().to_string();
        let started = now();
        let mut child = Command::new(tests::program::built("ctl"))
            .args(["server", "--secure-port", &port, "--data-dir"])
            .arg(folder.path())
            .stderr(std::process::Stdio::null())
            .spawn()
            .expect("ctl starts");
        let url = format!("https://127.0.0.1:{port}/readyz");
        loop {
            let said = run(Command::new("curl").args(["--silent", "--insecure", "--fail", &url]));
            if said.code == 0 {
                break;
            }
        }
        let taken = milliseconds(started);
        child.kill().expect("our own child");
        child.wait().expect("our own child");
        taken
    };
    row(
        "ctl server, exec to /readyz (asked through curl)",
        median((0..ROUNDS).map(once).collect()),
        150.0,
        "ms",
    );
}

fn simulated() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let world = World::with(Clock::system(), Rng::seeded(1), 100).await;
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"replicas": 1000, "selector": {"matchLabels": {"app": "web"}}, "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "web:1"}]},
            }},
        });
        let started = now();
        world.client.create::<Deployment>("default", &deployment).await.expect("created");
        world.until::<Pod>(|_| world.running().values().sum::<usize>() == 1000).await;
        row(
            "1,000 pods on 100 simulated nodes, apply to Running",
            milliseconds(started),
            2000.0,
            "ms",
        );
    });
}

fn real() {
    if !tests::machine::is_root() {
        println!("(skipped: real containers need root)");
        return;
    }
    // Building the image archive is none of the cluster's business.
    tests::image::hello();
    let started = now();
    let cluster = Cluster::create("bench", &["--nodes", "3"]);
    row("image loaded, cluster created, three nodes Ready", milliseconds(started), 1000.0, "ms");
    let apply = |_| {
        let started = now();
        cluster.ctl(&["apply", "-f", HELLO]).ok();
        cluster.ctl(&["rollout", "status", "deployment/hello"]).ok();
        let taken = milliseconds(started);
        cluster.ctl(&["delete", "-f", HELLO]).ok();
        until("the pods to go", 60, || {
            cluster.get(&["pods"])["items"].as_array().is_some_and(Vec::is_empty).then_some(())
        });
        taken
    };
    row("hello, 3 replicas, apply to Ready", median((0..ROUNDS).map(apply).collect()), 500.0, "ms");

    let book = cluster.state().join("clusters/bench/processes.json");
    let book: Value =
        serde_json::from_slice(&std::fs::read(book).expect("the book")).expect("JSON");
    let pids = |part: &str| -> Vec<i64> {
        let book = book.as_object().into_iter().flatten();
        book.filter(|(name, _)| name.contains(part))
            .filter_map(|(_, one)| one["pid"].as_i64())
            .collect()
    };
    let server = pids("server")[0];
    row("control plane at rest, 3 nodes: CPU of a core", busy(&[server]), 0.5, "%");
    for (field, what) in [("Rss:", "resident"), ("Pss:", "proportional set")] {
        let what = |of: &str| format!("{of}: {what}");
        row(&what("control plane at rest, 3 nodes"), memory(server, field), 45.0, "MiB");
        let node = pids("node1").into_iter().map(|pid| memory(pid, field)).sum();
        row(&what("agent and runtime of a node"), node, 25.0, "MiB");
    }
    paced::measure(&cluster);
    hundred(&cluster, &pids("node1"));
}

/// What a node of 100 pods costs that do nothing: its agent and its runtime together.
fn hundred(cluster: &Cluster, processes: &[i64]) {
    let nodes = cluster.get(&["nodes"]);
    let names = nodes["items"].as_array().into_iter().flatten();
    let mut names = names.filter_map(|node| node["metadata"]["name"].as_str());
    let node = names.find(|name| name.contains("node1")).expect("a first node");
    let deployment = serde_json::json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "hundred"},
        "spec": {"replicas": 100, "selector": {"matchLabels": {"app": "hundred"}},
            "template": {"metadata": {"labels": {"app": "hundred"}}, "spec": {"nodeName": node,
                "containers": [{"name": "hello", "image": "coracle/hello:latest",
                    "imagePullPolicy": "IfNotPresent"}]}}}});
    let manifest = cluster.state().join("hundred.json");
    std::fs::write(&manifest, deployment.to_string()).expect("a manifest");
    let manifest = manifest.display().to_string();
    cluster.ctl(&["apply", "-f", &manifest]).ok();
    cluster.ctl(&["rollout", "status", "deployment/hundred"]).ok();
    for (field, what) in [("Rss:", "resident"), ("Pss:", "proportional set")] {
        let all = processes.iter().map(|pid| memory(*pid, field)).sum();
        row(&format!("agent and runtime with 100 pods: {what}"), all, 30.0, "MiB");
    }
    let busy = busy(processes);
    row("the same at rest: CPU of a core", busy, 0.5, "%");
    cluster.ctl(&["delete", "-f", &manifest]).ok();
}

/// How much of a core these processes use, in percent.
fn busy(processes: &[i64]) -> f64 {
    let period = Duration::from_secs(20);
    let ticks = || processes.iter().map(|pid| cpu_ticks(*pid)).sum::<u64>();
    let (before, started) = (ticks(), now());
    while started.elapsed() < period {
        std::thread::park_timeout(period.saturating_sub(started.elapsed()));
    }
    (ticks() - before) as f64 / period.as_secs_f64()
}

/// User and system time in hundredths of a second.
fn cpu_ticks(pid: i64) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit_once(") ").expect("stat has a name").1.split(' ').collect();
    fields[11].parse::<u64>().expect("utime") + fields[12].parse::<u64>().expect("stime")
}

/// `Rss` counts all of the program file's pages that are in memory, though all daemons share them;
/// `Pss` counts its share of them (proc(5)).
fn memory(pid: i64, field: &str) -> f64 {
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("it runs");
    let line = rollup.lines().find_map(|line| line.strip_prefix(field)).expect(field);
    line.trim().trim_end_matches("kB").trim().parse::<f64>().expect("a number") / 1024.0
}
