//! Sandbox, container and start through CRI, against `crun run` of the same root file system:
//!
//! ```text
//! cargo build --release -p agent --bin runtime
//! cargo run --release -p agent --example bench_runtime [rounds]
//! ```
//!
//! Prints medians of the same run and their ratio. Needs root, crun and busybox-static. The runtime
//! runs in a network namespace made for it.

use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use client::Clock;
use proto::cri::{self, NamespaceMode};

#[allow(dead_code)]
#[path = "../tests/runtime/lab.rs"]
mod lab;

use lab::{Lab, Setup, script};

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

    let (mut host, mut network, mut reference) = (Vec::new(), Vec::new(), Vec::new());
    let bundle = bundle(lab.folder.path());
    let mut holder = without_unified();
    for round in 0..rounds + 3 {
        let mut times = [Duration::ZERO; 3];
        times[0] = pod(&mut lab, &clock, &format!("host-{round}"), NamespaceMode::Node).await;
        times[1] = pod(&mut lab, &clock, &format!("network-{round}"), NamespaceMode::Pod).await;
        times[2] = crun(&clock, &bundle, &format!("{}-{round}", lab.cgroup), holder.id());
        if round >= 3 {
            host.push(times[0]);
            network.push(times[1]);
            reference.push(times[2]);
        }
    }
    holder.kill().expect("the holder ends");
    holder.wait().expect("the holder ends");
    let (host, network, reference) = (median(host), median(network), median(reference));
    let ratio = |time: Duration| time.as_secs_f64() / reference.as_secs_f64();
    println!("medians of {rounds} in series");
    println!("crun run, no network                 {:7.2} ms", milliseconds(reference));
    println!(
        "CRI pod + container, host network    {:7.2} ms   {:.2} of crun",
        milliseconds(host),
        ratio(host)
    );
    println!(
        "CRI pod + container, pod network     {:7.2} ms   {:.2} of crun",
        milliseconds(network),
        ratio(network)
    );
    lab.finish().await;
}

/// Sandbox, container, start: the time until the container runs.
async fn pod(lab: &mut Lab, clock: &Clock, name: &str, network: NamespaceMode) -> Duration {
    let mut config = lab.sandbox_config(name);
    let context = config.linux.as_mut().and_then(|linux| linux.security_context.as_mut());
    context.and_then(|context| context.namespace_options.as_mut()).expect("options").network =
        network as i32;
    let mut container = script("main", "");
    container.command = vec!["/bin/sleep".to_owned(), "1000".to_owned()];
    container.linux.as_mut().expect("linux").resources = Some(cri::LinuxContainerResources {
        cpu_shares: 102,
        memory_limit_in_bytes: 64 << 20,
        ..Default::default()
    });
    let start = clock.instant();
    let sandbox = lab.sandbox_of(config).await;
    let at_sandbox = start.elapsed();
    let id = lab.create(&sandbox, container).await;
    let at_create = start.elapsed();
    lab.start_container(&id).await.expect("the container starts");
    let time = start.elapsed();
    if std::env::var_os("BENCH_STEPS").is_some() {
        println!(
            "{name}: sandbox {at_sandbox:?}, create {:?}, start {:?}",
            at_create - at_sandbox,
            time - at_create
        );
    }
    lab.remove_sandbox(&sandbox).await;
    time
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
