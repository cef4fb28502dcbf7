//! What the runtime takes, through CRI, against `crun run` of the same root file system and against
//! containerd with runc:
//!
//! ```text
//! cargo build --release --workspace --bins --examples
//! target/release/examples/bench_runtime [rounds]
//! ```
//!
//! Prints medians of the same run, each beside its bar. Needs root, crun and busybox-static;
//! containerd where it is compared with. The runtime runs in a network namespace made for it.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use client::Clock;
use proto::cri::runtime_service_client::RuntimeServiceClient;
use proto::cri::{self, NamespaceMode};
use tonic::transport::Channel;

mod bare;
mod containerd;
#[allow(dead_code)]
#[path = "../../tests/runtime/lab.rs"]
mod lab;
mod many;

use lab::{Lab, Setup, script};

type Runtime = RuntimeServiceClient<Channel>;

/// Pods that come at once.
const AT_ONCE: usize = 8;
/// What a container writes to its log, and how much of it at a time.
const LOGGED: u64 = 10 * LINES;
const LINES: u64 = 100_000_000;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let rounds: usize =
        std::env::args().nth(1).and_then(|rounds| rounds.parse().ok()).unwrap_or(50);
    let clock = Clock::system();
    let namespace = agent::net::namespace::create().expect("a network namespace");
    let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
    let Some(mut lab) = Lab::start_with(Setup { namespace: Some(path), ..Setup::default() }).await
    else {
        return;
    };
    let config = cri::NetworkConfig { pod_cidr: "10.251.0.0/16".to_owned() };
    let request = cri::UpdateRuntimeConfigRequest {
        runtime_config: Some(cri::RuntimeConfig { network_config: Some(config) }),
    };
    lab.runtime.update_runtime_config(request).await.expect("a pod network");
    println!("{:<62} {:>12} {:>10} {:>7}", "what", "measured", "bar", "ratio");
    let bundle = bundle(lab.folder.path());
    one_by_one(&mut lab, &clock, &bundle, rounds).await;
    at_once(&lab, &clock, &bundle, rounds / 5).await;
    exec(&mut lab, &clock, rounds).await;
    log(&mut lab, &clock).await;
    many::measure(&mut lab, &clock).await;
    lab.finish().await;
}

fn row(what: &str, measured: f64, bar: f64, unit: &str) {
    let ratio = measured / bar;
    let (measured, bar) = (format!("{measured:.2} {unit}"), format!("{bar:.2} {unit}"));
    println!("{what:<62} {measured:>12} {bar:>10} {ratio:>7.2}");
}

/// Pods in series, and what others take for one.
async fn one_by_one(lab: &mut Lab, clock: &Clock, bundle: &Path, rounds: usize) {
    let mut times: [Vec<Duration>; 4] = Default::default();
    let mut holder = without_unified();
    for round in 0..rounds + 3 {
        let config = sandbox(lab, &format!("host-{round}"), NamespaceMode::Node);
        let host = pod(&mut lab.runtime, clock, config).await;
        let config = sandbox(lab, &format!("network-{round}"), NamespaceMode::Pod);
        let network = pod(&mut lab.runtime, clock, config).await;
        let reference = crun(clock, bundle, &format!("{}-{round}", lab.cgroup), holder.id());
        // Everything is used before it is measured.
        if round >= 3 {
            let measured = [host.started, network.started, network.ended, reference];
            times.iter_mut().zip(measured).for_each(|(times, time)| times.push(time));
        }
    }
    holder.kill().expect("the holder ends");
    holder.wait().expect("the holder ends");
    let [host, network, ended, crun] = times.map(|times| milliseconds(median(times)));
    row("sandbox, container, start: host network", host, 6.0, "ms");
    row("sandbox, container, start: pod network", network, 8.0, "ms");
    row("the same to `crun run` without network", network, crun, "ms");
    row("stop and remove", ended, 10.0, "ms");
    let Some(theirs) = containerd::pods(lab, clock, rounds.div_ceil(5)).await else { return };
    row("host network, to a fifteenth of containerd's", host, milliseconds(theirs) / 15.0, "ms");
}

/// What a pod took.
struct Took {
    started: Duration,
    ended: Duration,
}

/// Sandbox, container, start, until the container runs; and its end.
async fn pod(runtime: &mut Runtime, clock: &Clock, config: cri::PodSandboxConfig) -> Took {
    let start = clock.instant();
    let sandbox = running(runtime, config).await;
    let started = start.elapsed();
    let start = clock.instant();
    let request = cri::StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() };
    runtime.stop_pod_sandbox(request).await.expect("the sandbox stops");
    remove(runtime, sandbox).await;
    Took { started, ended: start.elapsed() }
}

/// A sandbox on the host's network or one of its own.
fn sandbox(lab: &Lab, name: &str, network: NamespaceMode) -> cri::PodSandboxConfig {
    let mut config = lab.sandbox_config(name);
    if network == NamespaceMode::Node {
        // That is the node's.
        config.hostname.clear();
    }
    let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
    context.and_then(|context| context.namespace_options.as_mut()).expect("options").network =
        network as i32;
    config
}

/// A pod of one container that sleeps; its sandbox.
async fn running(runtime: &mut Runtime, config: cri::PodSandboxConfig) -> String {
    let mut container = script("main", "");
    container.command = vec!["/bin/sleep".to_owned(), "1000".to_owned()];
    container.linux.as_mut().expect("linux").resources = Some(cri::LinuxContainerResources {
        cpu_shares: 102,
        memory_limit_in_bytes: 64 << 20,
        ..Default::default()
    });
    let request = cri::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
    let made = runtime.run_pod_sandbox(request).await.expect("a sandbox").into_inner();
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: made.pod_sandbox_id.clone(),
        config: Some(container),
        sandbox_config: Some(config),
    };
    let container = runtime.create_container(request).await.expect("a container").into_inner();
    let request = cri::StartContainerRequest { container_id: container.container_id };
    runtime.start_container(request).await.expect("it starts");
    made.pod_sandbox_id
}

async fn remove(runtime: &mut Runtime, sandbox: String) {
    let request = cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox };
    runtime.remove_pod_sandbox(request).await.expect("the sandbox goes");
}

/// So many pods at once, so many times what the kernel takes for one, and so many `crun run`.
async fn at_once(lab: &Lab, clock: &Clock, bundle: &Path, rounds: usize) {
    let mut holder = without_unified();
    let [mut ours, mut kernels, mut theirs]: [Vec<Duration>; 3] = Default::default();
    for round in 0..rounds + 1 {
        let start = clock.instant();
        let pods = (0..AT_ONCE).map(|number| {
            let mut runtime = lab.runtime.clone();
            let config = sandbox(lab, &format!("at-once-{round}-{number}"), NamespaceMode::Pod);
            async move { running(&mut runtime, config).await }
        });
        let sandboxes = futures::future::join_all(pods).await;
        ours.push(start.elapsed() / AT_ONCE as u32);
        for sandbox in sandboxes {
            remove(&mut lab.runtime.clone(), sandbox).await;
        }
        let start = clock.instant();
        let bare: Vec<_> = std::thread::scope(|scope| {
            let start = |number: usize| {
                let folder = lab.folder.path().join(format!("bare-{round}-{number}"));
                scope.spawn(move || bare::start(bundle, &folder, format!("bare{number}")))
            };
            let all: Vec<_> = (0..AT_ONCE).map(start).collect();
            all.into_iter().map(|thread| thread.join().expect("it starts")).collect()
        });
        kernels.push(start.elapsed() / AT_ONCE as u32);
        bare.into_iter().for_each(bare::Bare::end);
        let start = clock.instant();
        std::thread::scope(|scope| {
            for number in 0..AT_ONCE {
                let name = format!("{}-at-once-{round}-{number}", lab.cgroup);
                let (clock, bundle, holder) = (clock, bundle, holder.id());
                scope.spawn(move || crun(clock, bundle, &name, holder));
            }
        });
        theirs.push(start.elapsed() / AT_ONCE as u32);
    }
    holder.kill().expect("the holder ends");
    holder.wait().expect("the holder ends");
    let [ours, kernels, theirs] = [ours, kernels, theirs].map(|times| milliseconds(median(times)));
    row("8 pods at once, each, to 1.5 of bare clone3, mounts, veth", ours, 1.5 * kernels, "ms");
    row("8 pods at once, each, to as many `crun run` without network", ours, theirs, "ms");
}

async fn exec(lab: &mut Lab, clock: &Clock, rounds: usize) {
    let sandbox = lab.sandbox("exec").await;
    let id = lab.run(&sandbox, script("exec", "exec sleep 1000")).await;
    let mut times = Vec::new();
    for _ in 0..rounds {
        let start = clock.instant();
        assert_eq!(lab.exec(&id, &["/bin/true"]).await.exit_code, 0);
        times.push(start.elapsed());
    }
    row("exec of true", milliseconds(median(times)), 5.0, "ms");
    lab.remove_sandbox(&sandbox).await;
}

/// Lines of a hundred bytes from a file in memory, as fast as they come, until the last is in the log.
async fn log(lab: &mut Lab, clock: &Clock) {
    let sandbox = lab.sandbox("log").await;
    let times = LOGGED / LINES;
    let cat = format!(
        "until [ -e /go ]; do sleep 0.01; done; n=0; \
         while [ $n -lt {times} ]; do cat /lines; n=$((n+1)); done"
    );
    let id = lab.run(&sandbox, script("log", &cat)).await;
    let line = "x".repeat(99);
    lab.output(&id, &format!("yes {line} | head -c {LINES} > /lines")).await;
    let start = clock.instant();
    lab.output(&id, "touch /go").await;
    // However long it takes.
    while lab.status(&id).await.state() != cri::ContainerState::ContainerExited {
        clock.sleep(Duration::from_millis(10)).await;
    }
    let rate = LOGGED as f64 / start.elapsed().as_secs_f64() / 1e6;
    let file = std::fs::File::open(lab.log_folder().join("log.log")).expect("a log");
    let written = std::io::BufRead::split(std::io::BufReader::new(file), b'\n').count() as u64;
    assert_eq!(written, LOGGED / 100, "lines in the log");
    row("lines of a container in its log, a second", rate, 500.0, "MB");
    lab.remove_sandbox(&sandbox).await;
}

/// A mount namespace in which the machine looks like cgroup v1 alone: Debian's crun refuses hybrid
/// ones. It lives as long as the process.
fn without_unified() -> Child {
    let script = "umount /sys/fs/cgroup/unified 2>/dev/null; echo ready; exec sleep 1000000";
    let mut command = Command::new("unshare");
    command.args(["-m", "--propagation", "private", "sh", "-c", script]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("unshare");
    let mut ready = [0; 6];
    child.stdout.as_mut().expect("piped").read_exact(&mut ready).expect("it is ready");
    child
}

/// `crun run` of /bin/true, until it has started and, being what it is, ended. What entering the
/// namespace takes is left out.
fn crun(clock: &Clock, bundle: &Path, name: &str, within: u32) -> Duration {
    let timed = |words: &[&str]| {
        let mut command = Command::new("nsenter");
        command.args(["-m", "-t", &within.to_string()]).args(words).stdin(Stdio::null());
        let start = clock.instant();
        assert!(command.status().expect("nsenter").success(), "{words:?} fails");
        start.elapsed()
    };
    let bundle = bundle.display().to_string();
    let entering = timed(&["/bin/true"]);
    timed(&["crun", "--cgroup-manager=cgroupfs", "run", "--bundle", &bundle, name])
        .saturating_sub(entering)
}

/// An OCI bundle of the test image's files, on the host's network.
fn bundle(folder: &Path) -> std::path::PathBuf {
    let bundle = folder.join("bundle");
    std::fs::create_dir_all(bundle.join("rootfs")).expect("a directory");
    tar::Archive::new(&lab::busybox_layer()[..])
        .unpack(bundle.join("rootfs"))
        .expect("a root file system");
    let status =
        Command::new("crun").arg("spec").current_dir(&bundle).status().expect("crun is installed");
    assert!(status.success(), "crun spec fails");
    let path = bundle.join("config.json");
    let mut spec: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).expect("a spec")).expect("JSON");
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = serde_json::json!(["/bin/true"]);
    spec["root"]["readonly"] = false.into();
    if let Some(namespaces) = spec["linux"]["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
    }
    std::fs::write(&path, spec.to_string()).expect("a spec");
    bundle
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
