//! Many connections and much data through one `port-forward`, and logs that are followed over
//! rotations: with ctl and kubectl, by WebSocket and by SPDY.
//!
//! `CORACLE_FORWARD_CONNECTIONS=10000 CORACLE_FORWARD_MIB=1024` for the long form.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use client::Clock;
use tests::cluster::Cluster;
use tests::wait::until;
use tests::{image, machine, needs};

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
  - {name: web, image: "coracle/hello:latest", imagePullPolicy: IfNotPresent, args: ["8080", "0"]}
---
apiVersion: v1
kind: Pod
metadata: {name: echo}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: echo
    image: test/shell:1
    command: [nc, -ll, -p, "9000", -e, cat]
---
apiVersion: v1
kind: Pod
metadata: {name: counter}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: counter
    image: test/shell:1
    command:
    - sh
    - -c
    - |
      next() { while [ ! -e /go$1 ]; do sleep 0.1; done; }
      next 1; busybox seq 1 300000
      next 2; busybox seq 300001 600000
      next 3; busybox seq 600001 600010
      sleep 3600
"#;

const COUNTED: usize = 600_010;

/// How a tool is started, and what it is called.
type Tool<'a> = (&'a str, &'a dyn Fn(&[&str]) -> Command);

#[test]
fn much_flows() {
    needs!(root);
    needs!("busybox");
    let cluster = Cluster::create("e2e-forward", &["--nodes", "1"]);
    let folder = tempfile::tempdir().unwrap();
    let archive = image::shell(folder.path(), &machine::find("busybox").unwrap(), &[]);
    cluster.ctl(&["image", "load", &archive.to_string_lossy()]).ok();
    cluster.ctl_with(&["apply", "-f", "-"], PODS).ok();
    for pod in ["pod/web", "pod/echo", "pod/counter"] {
        cluster.ctl(&["wait", "--for=condition=Ready", pod, "--timeout=60s"]).ok();
    }
    let kubectl = cluster.kubectl();
    let ctl = |arguments: &[&str]| cluster.ctl_command(arguments);
    let websocket = |arguments: &[&str]| kubectl.as_ref().unwrap().command(arguments);
    let spdy = |arguments: &[&str]| {
        let mut command = websocket(arguments);
        command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false");
        command
    };
    let mut tools: Vec<Tool> = vec![("ctl", &ctl)];
    if kubectl.is_some() {
        tools.extend([("kubectl by WebSocket", &websocket as _), ("kubectl by SPDY", &spdy as _)]);
    }
    for tool in &tools {
        answers_every_connection(*tool, number("CORACLE_FORWARD_CONNECTIONS", 200));
        carries_every_byte(*tool, number("CORACLE_FORWARD_MIB", 16) << 20);
    }
    // Logs are followed alike whatever port-forward speaks.
    tools.truncate(2);
    follows_over_rotations(&cluster, &tools);
}

fn number(name: &str, otherwise: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Connections of eight at a time through one forward; every one has its whole answer.
fn answers_every_connection((name, tool): Tool, connections: usize) {
    let (child, port) = forwarded(tool(&["port-forward", "pod/web", ":8080"]));
    let (clock, left) = (Clock::system(), Arc::new(AtomicUsize::new(connections)));
    let began = clock.instant();
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let left = left.clone();
            std::thread::spawn(move || {
                let take = |left: usize| left.checked_sub(1);
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
                    let request = b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n";
                    stream.write_all(request).unwrap();
                    let mut answer = String::new();
                    stream.read_to_string(&mut answer).unwrap();
                    assert!(answer.ends_with("Hello from web\n"), "{answer:?}");
                }
            })
        })
        .collect();
    clients.into_iter().for_each(|client| client.join().unwrap());
    eprintln!("{name}: {connections} connections in {:?}", clock.instant() - began);
    ended(child);
}

/// One connection to an echo: what comes back is what was sent, in its order.
fn carries_every_byte((name, tool): Tool, bytes: usize) {
    let (child, port) = forwarded(tool(&["port-forward", "pod/echo", ":9000"]));
    let clock = Clock::system();
    let began = clock.instant();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut sender = stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        for block in 0..bytes / BLOCK {
            sender.write_all(&pattern(block)).unwrap();
        }
    });
    let mut found = vec![0; BLOCK];
    for block in 0..bytes / BLOCK {
        stream.read_exact(&mut found).unwrap();
        assert!(found == pattern(block), "{name}: block {block} came back as something else");
    }
    writer.join().unwrap();
    let took = clock.instant() - began;
    eprintln!("{name}: {} MiB there and back in {took:?}", bytes >> 20);
    ended(child);
}

const BLOCK: usize = 64 << 10;

/// Bytes that differ from block to block, and within a block.
fn pattern(block: usize) -> Vec<u8> {
    (0..BLOCK / 8).flat_map(|word| (block * BLOCK + word * 8).to_le_bytes()).collect()
}

/// Two rotations happen under those who follow; nobody misses a line or has one twice.
fn follows_over_rotations(cluster: &Cluster, tools: &[Tool]) {
    let followers: Vec<_> = tools
        .iter()
        .map(|(name, tool)| {
            let mut child = started(tool(&["logs", "-f", "counter"]));
            let lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let count = std::thread::spawn(move || {
                for (number, line) in (1..=COUNTED).zip(lines) {
                    assert_eq!(line.unwrap(), number.to_string());
                    if number == COUNTED {
                        return;
                    }
                }
                panic!("the log ended too early");
            });
            (name, child, count)
        })
        .collect();
    for rotation in 1..=2 {
        let go = format!("echo >/go{rotation}");
        cluster.ctl(&["exec", "counter", "--", "sh", "-c", &go]).ok();
        until("the log to be rotated", 60, || (rotated(cluster).len() == rotation).then_some(()));
    }
    cluster.ctl(&["exec", "counter", "--", "sh", "-c", "echo >/go3"]).ok();
    for (name, child, count) in followers {
        count.join().unwrap_or_else(|_| panic!("{name} followed something else"));
        ended(child);
    }
}

/// The counter's older log files, packed or not.
fn rotated(cluster: &Cluster) -> Vec<PathBuf> {
    let logs = cluster.dir().join("nodes/node1/pod-logs");
    let pods = std::fs::read_dir(logs).unwrap().flatten();
    let pod = pods
        .map(|entry| entry.path())
        .find(|path| path.display().to_string().contains("_counter_"));
    let files = std::fs::read_dir(pod.expect("its logs").join("counter")).unwrap().flatten();
    let old = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("0.log.") && !name.ends_with(".tmp")
    };
    files.map(|entry| entry.path()).filter(old).collect()
}

/// The tool, and the port on which it listens.
fn forwarded(command: Command) -> (Child, u16) {
    let mut child = started(command);
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    let port = line.split([':', ' ']).find_map(|word| word.parse().ok());
    // It says a line for each connection, and must never wait for a reader.
    std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
    (child, port.unwrap_or_else(|| panic!("it says where it listens, not {line:?}")))
}

fn started(mut command: Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Ours to end, by its id.
fn ended(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}
