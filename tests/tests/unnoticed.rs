//! Every daemon is killed, one after the other, during a rolling update under load: no container
//! restarts, no acknowledged object is lost, no log line is lost, the update completes, and a
//! client that asks all along sees no failure.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tests::cluster::Cluster;
use tests::needs;
use tests::wait::until;

fn web(version: u32) -> String {
    format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: 6
  minReadySeconds: 1
  selector: {{matchLabels: {{app: web}}}}
  strategy: {{rollingUpdate: {{maxSurge: 1, maxUnavailable: 0}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      containers:
      - name: web
        image: coracle/hello:latest
        imagePullPolicy: IfNotPresent
        args: ["80", "5"]
        env: [{{name: VERSION, value: "{version}"}}]
        readinessProbe: {{httpGet: {{path: /, port: 80}}, periodSeconds: 1}}
---
apiVersion: v1
kind: Service
metadata: {{name: web}}
spec: {{type: LoadBalancer, selector: {{app: web}}, ports: [{{port: 80}}]}}
---
apiVersion: v1
kind: Pod
metadata: {{name: counter}}
spec:
  containers:
  - {{name: c, image: "coracle/hello:latest", imagePullPolicy: IfNotPresent, args: ["count", "50"]}}
"#
    )
}

fn names(cluster: &Cluster) -> Vec<String> {
    cluster.processes().into_keys().filter(|name| name != "supervisor").collect()
}

#[test]
fn nothing_notices() {
    needs!(root);
    let cluster = Cluster::create("e2e-kill", &["--nodes", "2", "--separate"]);
    cluster.ctl_with(&["apply", "-f", "-"], &web(1)).ok();
    cluster.ctl(&["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
    cluster.ctl(&["wait", "--for=condition=Ready", "pod/counter", "--timeout=30s"]).ok();
    let address = until("an address", 20, || {
        let service = cluster.get(&["service", "web"]);
        Some(service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str()?.to_string())
    });
    until("the address to answer", 20, || ask(&address).ok());

    let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let client = std::thread::spawn({
        let (stop, asked) = (stop.clone(), asked.clone());
        move || {
            let mut failures = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                if let Err(error) = ask(&address) {
                    failures.push(format!("request {}: {error}", asked.load(Ordering::Relaxed)));
                }
                asked.fetch_add(1, Ordering::Relaxed);
            }
            failures
        }
    });

    cluster.ctl_with(&["apply", "-f", "-"], &web(2)).ok();
    let mut acknowledged = Vec::new();
    for name in names(&cluster) {
        let map = format!("kept-{}", name.replace('/', "-"));
        cluster.ctl(&["create", "configmap", &map, "--from-literal=k=v"]).ok();
        acknowledged.push(map);
        let old = until("the daemon to run", 20, || cluster.pid(&name));
        let handle = rustix::process::Pid::from_raw(old).unwrap();
        rustix::process::kill_process(handle, rustix::process::Signal::KILL).unwrap();
        until("the daemon to be started again", 20, || {
            cluster.pid(&name).filter(|new| *new != old)
        });
        until("the API server to answer", 20, || {
            (cluster.ctl(&["get", "--raw", "/readyz"]).code == 0).then_some(())
        });
    }
    cluster.ctl(&["rollout", "status", "deployment/web", "--timeout=120s"]).ok();
    stop.store(true, Ordering::Relaxed);
    let failures = client.join().unwrap();
    let asked = asked.load(Ordering::Relaxed);
    assert!(asked > 100, "the client asked only {asked} times");
    assert!(
        failures.is_empty(),
        "{} of {asked} requests failed:\n{}",
        failures.len(),
        failures.join("\n")
    );

    for map in acknowledged {
        cluster.ctl(&["get", "configmap", &map]).ok();
    }
    let pods = cluster.get(&["pods"]);
    for pod in pods["items"].as_array().unwrap() {
        let status = &pod["status"]["containerStatuses"][0];
        assert_eq!(status["restartCount"], 0, "{}", pod["metadata"]["name"]);
    }
    let logs = cluster.ctl(&["logs", "counter"]).ok();
    let numbers: Vec<usize> =
        logs.lines().map(|line| line.trim().parse().expect("a number")).collect();
    assert!(numbers.len() > 50, "the counter counted only to {}", numbers.len());
    assert!(
        numbers.iter().enumerate().all(|(at, number)| at == *number),
        "a line was lost or doubled"
    );
}

fn ask(address: &str) -> std::io::Result<()> {
    let target = format!("{address}:80").parse().expect("an address");
    let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.starts_with("HTTP/1.1 200") {
        true => Ok(()),
        false => Err(std::io::Error::other(format!("the answer was {answer:?}"))),
    }
}
