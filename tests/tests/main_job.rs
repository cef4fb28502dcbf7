//! The main job, as its users do it: a Deployment and a Service on three nodes, with ctl and with
//! kubectl, read back from the API, from /proc, from the cgroup files and over the network.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;

use tests::cluster::Cluster;
use tests::needs;
use tests::program::Said;
use tests::wait::until;

const MY_APP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/my-app.yaml");

#[test]
fn a_deployment_on_three_nodes() {
    needs!(root);
    let cluster = Cluster::create("e2e-main", &["--nodes", "3"]);
    deploys_with_ctl(&cluster);
    runs_isolated_containers(&cluster);
    answers_everywhere(&cluster);
    deletes_with_ctl(&cluster);
    if let Some(kubectl) = cluster.kubectl() {
        the_same_with(&cluster, &|arguments| kubectl.run(arguments));
    }
    the_same_with(&cluster, &|arguments| cluster.ctl(arguments));
}

#[test]
fn the_same_on_etcd() {
    needs!(root);
    needs!("etcd");
    let cluster = Cluster::create("e2e-etcd", &["--nodes", "2", "--etcd"]);
    deploys_with_ctl(&cluster);
    answers_everywhere(&cluster);
    deletes_with_ctl(&cluster);
}

#[test]
fn the_same_in_memory() {
    needs!(root);
    let cluster = Cluster::create("e2e-mem", &["--nodes", "2", "--ephemeral"]);
    deploys_with_ctl(&cluster);
    answers_everywhere(&cluster);
    deletes_with_ctl(&cluster);
}

fn deploys_with_ctl(cluster: &Cluster) {
    let said = cluster.ctl(&["apply", "-f", MY_APP]).ok();
    assert!(said.contains("deployment.apps/my-app-deployment created"), "{said}");
    assert!(said.contains("service/my-app-service created"), "{said}");
    let said = cluster.ctl(&["rollout", "status", "deployment/my-app-deployment", "--timeout=60s"]);
    assert!(said.ok().contains("deployment \"my-app-deployment\" successfully rolled out"));
    let said = cluster.ctl(&["apply", "-f", MY_APP]).ok();
    assert!(said.contains("deployment.apps/my-app-deployment unchanged"), "{said}");
}

/// Each container has namespaces of its own and the limits of its pod, by /proc and the cgroups.
fn runs_isolated_containers(cluster: &Cluster) {
    let pods = cluster.get(&["pods", "-l", "app=my-app"]);
    let nodes: BTreeSet<&str> = pods["items"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|pod| pod["spec"]["nodeName"].as_str())
        .collect();
    assert_eq!(nodes.len(), 3, "three replicas on three nodes: {nodes:?}");

    let limited = r#"
apiVersion: v1
kind: Pod
metadata: {name: limited}
spec:
  containers:
  - name: web
    image: coracle/hello:latest
    imagePullPolicy: IfNotPresent
    args: ["8080"]
    resources: {limits: {cpu: 250m, memory: 48Mi}}
"#;
    cluster.ctl_with(&["apply", "-f", "-"], limited).ok();
    cluster.ctl(&["wait", "--for=condition=Ready", "pod/limited", "--timeout=30s"]).ok();
    let pid = hello_processes("8080").pop().expect("its process is on this machine");
    let own = |name: &str| std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
    let its = |name: &str| std::fs::read_link(format!("/proc/{pid}/ns/{name}")).unwrap();
    for name in ["pid", "net", "mnt", "ipc", "uts", "cgroup"] {
        assert_ne!(own(name), its(name), "{name} namespace");
    }
    let memory = cgroup_value(pid, &["memory.max", "memory.limit_in_bytes"]);
    assert_eq!(memory, (48 * 1024 * 1024).to_string());
    let cpu = cgroup_value(pid, &["cpu.max", "cpu.cfs_quota_us"]);
    assert!(cpu == "25000" || cpu == "25000 100000", "{cpu}");
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    assert!(status.contains("Seccomp:\t2"), "the default seccomp profile is on\n{status}");
    cluster.ctl(&["delete", "pod", "limited", "--grace-period=1"]).ok();
}

/// Processes of the hello image with this argument, by /proc.
fn hello_processes(argument: &str) -> Vec<u32> {
    let wanted = format!("/hello\0{argument}\0");
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line == wanted.as_bytes())
    })
    .collect()
}

/// The first of these files in any of the process's cgroups.
fn cgroup_value(pid: u32, files: &[&str]) -> String {
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    for line in cgroups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next().unwrap(), parts.next().unwrap());
        let mounts = match controllers {
            "" => vec!["/sys/fs/cgroup".to_string(), "/sys/fs/cgroup/unified".into()],
            list => list.split(',').map(|one| format!("/sys/fs/cgroup/{one}")).collect(),
        };
        for mount in mounts {
            for file in files {
                if let Ok(value) = std::fs::read_to_string(format!("{mount}{path}/{file}")) {
                    return value.trim().to_string();
                }
            }
        }
    }
    panic!("none of {files:?} in the cgroups of {pid}:\n{cgroups}");
}

/// By LoadBalancer address from the machine; by pod IP, ClusterIP and DNS name from every pod.
fn answers_everywhere(cluster: &Cluster) {
    let service = until("an address for the LoadBalancer", 20, || {
        let service = cluster.get(&["service", "my-app-service"]);
        service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str()?;
        Some(service)
    });
    let address = service["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().unwrap();
    let pods = cluster.get(&["pods", "-l", "app=my-app"]);
    let pods = pods["items"].as_array().unwrap();
    let names: BTreeSet<String> =
        pods.iter().map(|pod| pod["metadata"]["name"].as_str().unwrap().to_string()).collect();
    let mut answered = BTreeSet::new();
    until("every replica to answer at the LoadBalancer's address", 30, || {
        let answer = http_get(address, 80)?;
        answered.insert(answer.trim().trim_start_matches("Hello from ").to_string());
        (answered == names).then_some(())
    });

    let client = r#"
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  containers:
  - name: client
    image: coracle/hello:latest
    imagePullPolicy: IfNotPresent
    args: ["8081"]
"#;
    cluster.ctl_with(&["apply", "-f", "-"], client).ok();
    cluster.ctl(&["wait", "--for=condition=Ready", "pod/client", "--timeout=30s"]).ok();
    let cluster_ip = service["spec"]["clusterIP"].as_str().unwrap();
    let pod_ips = pods.iter().map(|pod| pod["status"]["podIP"].as_str().unwrap().to_string());
    let short = ["my-app-service".to_string(), cluster_ip.to_string()];
    let long = "my-app-service.default.svc.cluster.local".to_string();
    for target in short.into_iter().chain([long]).chain(pod_ips) {
        let said = cluster.ctl(&["exec", "client", "--", "/hello", "get", &target, "80"]).ok();
        assert!(said.contains("Hello from my-app-deployment-"), "{target}: {said}");
    }
    cluster.ctl(&["delete", "pod", "client", "--grace-period=1"]).ok();
}

/// The body of `GET /`.
fn http_get(host: &str, port: u16) -> Option<String> {
    let mut stream = TcpStream::connect((host, port)).ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: hello\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer.split_once("\r\n\r\n")?.1.to_string())
}

fn deletes_with_ctl(cluster: &Cluster) {
    let said = cluster.ctl(&["delete", "-f", MY_APP]).ok();
    assert!(said.contains("deployment.apps \"my-app-deployment\" deleted"), "{said}");
    assert!(said.contains("service \"my-app-service\" deleted"), "{said}");
    until("the pods to go", 60, || {
        cluster.get(&["pods"])["items"].as_array().unwrap().is_empty().then_some(())
    });
}

/// The words and tables that a user of kubectl expects, from kubectl and from ctl.
fn the_same_with(cluster: &Cluster, tool: &dyn Fn(&[&str]) -> Said) {
    tool(&["apply", "-f", MY_APP]).ok();
    tool(&["rollout", "status", "deployment/my-app-deployment", "--timeout=60s"]).ok();

    let pods = tool(&["get", "pods"]).ok();
    let mut lines = pods.lines();
    let heads: Vec<&str> = lines.next().unwrap().split_whitespace().collect();
    assert_eq!(heads, ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]);
    let running = lines.filter(|line| line.contains("1/1") && line.contains("Running"));
    assert_eq!(running.count(), 3, "{pods}");

    let services = tool(&["get", "services"]).ok();
    let line = services.lines().find(|line| line.starts_with("my-app-service")).unwrap();
    let cells: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(cells[1], "LoadBalancer", "{services}");
    assert_ne!(cells[3], "<pending>", "{services}");
    assert!(cells[4].starts_with("80:") && cells[4].ends_with("/TCP"), "{services}");

    let name = pods.lines().nth(1).unwrap().split_whitespace().next().unwrap().to_string();
    let described = tool(&["describe", "pod", &name]).ok();
    for wanted in [
        "Name:",
        "Node:",
        "IP:",
        "Containers:",
        "my-app:latest",
        "Conditions:",
        "Events:",
        "Successfully assigned default/",
        "Started",
    ] {
        assert!(described.contains(wanted), "{wanted} is not in\n{described}");
    }

    let said = tool(&["scale", "deployment/my-app-deployment", "--replicas=5"]).ok();
    assert!(said.contains("deployment.apps/my-app-deployment scaled"), "{said}");
    let said = tool(&["rollout", "status", "deployment/my-app-deployment", "--timeout=60s"]).ok();
    assert!(said.contains("successfully rolled out"), "{said}");
    assert_eq!(tool(&["get", "pods", "-o", "name"]).ok().lines().count(), 5);

    let logs = tool(&["logs", &name]).ok();
    assert!(logs.contains("listening on port 80"), "{logs}");
    let said = tool(&["exec", &name, "--", "/hello", "get", "localhost", "80"]).ok();
    assert!(said.contains(&format!("Hello from {name}")), "{said}");

    let said = tool(&["delete", "deployment", "my-app-deployment"]).ok();
    assert!(said.contains("deployment.apps \"my-app-deployment\" deleted"), "{said}");
    let said = tool(&["delete", "service", "my-app-service"]).ok();
    assert!(said.contains("service \"my-app-service\" deleted"), "{said}");
    until("the pods to go", 60, || {
        cluster.get(&["pods"])["items"].as_array().unwrap().is_empty().then_some(())
    });
    let said = tool(&["get", "deployment", "my-app-deployment"]).fails();
    assert!(
        said.contains(
            "Error from server (NotFound): deployments.apps \"my-app-deployment\" not found"
        ),
        "{said}"
    );
}
