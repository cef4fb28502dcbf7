//! The main job, as its users do it: a Deployment and a Service on three nodes, with ctl and with
//! kubectl, read back from the API, from /proc, from the cgroup files and over the network.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;
use tests::cluster::Cluster;
use tests::kubectl::Kubectl;
use tests::program::Said;
use tests::wait::until;
use tests::{machine, needs};

const MY_APP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../manifests/my-app.yaml");

/// Three replicas with limits, one on each node.
const LIMITED: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: limited}
spec:
  replicas: 3
  selector: {matchLabels: {app: limited}}
  template:
    metadata: {labels: {app: limited}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
      - maxSkew: 1
        topologyKey: kubernetes.io/hostname
        whenUnsatisfiable: DoNotSchedule
        labelSelector: {matchLabels: {app: limited}}
      containers:
      - name: web
        image: coracle/hello:latest
        imagePullPolicy: IfNotPresent
        args: ["8080"]
        resources: {limits: {cpu: 250m, memory: 48Mi}}
"#;

/// A pod outside the Deployment that answers too, on the same port.
const CLIENT: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  containers:
  - name: client
    image: coracle/hello:latest
    imagePullPolicy: IfNotPresent
    args: ["80"]
"#;

/// A StatefulSet and a DaemonSet.
const SETS: &str = r#"
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: state}
spec:
  serviceName: state
  selector: {matchLabels: {app: state}}
  template:
    metadata: {labels: {app: state}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: hello, image: "my-app:latest", imagePullPolicy: Never}]
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: everywhere}
spec:
  selector: {matchLabels: {app: everywhere}}
  template:
    metadata: {labels: {app: everywhere}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: hello, image: "my-app:latest", imagePullPolicy: Never}]
"#;

/// A pod with something on every line of its description.
const RICH: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: rich, labels: {a: b}, annotations: {c: d, e: f}}
spec:
  nodeSelector: {kubernetes.io/os: linux}
  containers:
  - name: web
    image: coracle/hello:latest
    imagePullPolicy: IfNotPresent
    args: ["8080"]
    ports: [{containerPort: 8080, name: http}, {containerPort: 8081}]
    env:
    - {name: PLAIN, value: text}
    - {name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: MAP, valueFrom: {configMapKeyRef: {name: map, key: key, optional: true}}}
    - {name: KEY, valueFrom: {secretKeyRef: {name: keys, key: key, optional: true}}}
    - {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
    envFrom:
    - configMapRef: {name: map, optional: true}
    - {prefix: P_, secretRef: {name: keys, optional: true}}
    resources: {limits: {cpu: 250m, memory: 48Mi}}
    readinessProbe: {httpGet: {path: /, port: http}}
    livenessProbe: {tcpSocket: {port: 8080}}
    startupProbe: {exec: {command: [/hello, get, localhost, "8080"]}}
    volumeMounts: [{name: empty, mountPath: /z, readOnly: true}, {name: map, mountPath: /a}]
  volumes:
  - {name: empty, emptyDir: {}}
  - {name: map, configMap: {name: map, optional: true}}
  - {name: keys, secret: {secretName: keys, optional: true}}
  - {name: host, hostPath: {path: /tmp}}
  - {name: down, downwardAPI: {items: [{path: l, fieldRef: {fieldPath: metadata.labels}}]}}
  - {name: all, projected: {sources: [{configMap: {name: map, optional: true}}]}}
"#;

#[test]
fn a_deployment_on_three_nodes() {
    needs!(root);
    let cluster = Cluster::create("e2e-main", &["--nodes", "3"]);
    deploys_with_ctl(&cluster);
    runs_isolated_containers(&cluster);
    answers_everywhere(&cluster);
    let kubectl = cluster.kubectl();
    if let Some(kubectl) = &kubectl {
        reads_as_with_kubectl(&cluster, kubectl);
    }
    deletes_with_ctl(&cluster);
    let by_ctl = the_same_with(&cluster, &|arguments| cluster.ctl(arguments));
    if let Some(kubectl) = &kubectl {
        assert_eq!(by_ctl, the_same_with(&cluster, &|arguments| kubectl.run(arguments)));
    }
}

#[test]
fn the_same_on_etcd() {
    needs!(root);
    needs!("etcd");
    let cluster = Cluster::create("e2e-etcd", &["--nodes", "3", "--etcd"]);
    deploys_with_ctl(&cluster);
    runs_isolated_containers(&cluster);
    answers_everywhere(&cluster);
    deletes_with_ctl(&cluster);
}

#[test]
fn the_same_in_memory() {
    needs!(root);
    let cluster = Cluster::create("e2e-mem", &["--nodes", "3", "--ephemeral"]);
    deploys_with_ctl(&cluster);
    runs_isolated_containers(&cluster);
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

/// Each container on each node has namespaces of its own and the limits of its pod, by /proc and
/// the cgroups.
fn runs_isolated_containers(cluster: &Cluster) {
    cluster.ctl_with(&["apply", "-f", "-"], LIMITED).ok();
    cluster.ctl(&["rollout", "status", "deployment/limited", "--timeout=60s"]).ok();
    let free = replicas(cluster, "my-app");
    let limited = replicas(cluster, "limited");

    let all: Vec<&Replica> = free.iter().chain(&limited).collect();
    for name in ["pid", "net", "mnt", "ipc", "uts", "cgroup"] {
        let namespace = |pid: &str| {
            let link = format!("/proc/{pid}/ns/{name}");
            std::fs::read_link(&link).unwrap_or_else(|error| panic!("{link}: {error}"))
        };
        let theirs = all.iter().map(|replica| namespace(&replica.pid.to_string()));
        let distinct: BTreeSet<_> = theirs.chain([namespace("self")]).collect();
        assert_eq!(distinct.len(), all.len() + 1, "{name} namespaces: {distinct:?}");
    }
    for replica in &all {
        let status = std::fs::read_to_string(format!("/proc/{}/status", replica.pid)).unwrap();
        assert!(status.contains("Seccomp:\t2"), "the default seccomp profile is on\n{status}");
        let innermost = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
        let innermost = innermost.and_then(|pids| pids.split_whitespace().last());
        assert_eq!(innermost, Some("1"), "it is the first process in its container");
        let root = format!("/proc/{}/root/etc/hostname", replica.pid);
        assert_eq!(std::fs::read_to_string(root).unwrap().trim(), replica.pod);
    }
    for replica in &limited {
        let memory = machine::cgroup_value(replica.pid, &["memory.max", "memory.limit_in_bytes"]);
        assert_eq!(memory, (48 * 1024 * 1024).to_string(), "{}", replica.pod);
        let cpu = machine::cgroup_value(replica.pid, &["cpu.max", "cpu.cfs_quota_us"]);
        assert!(cpu == "25000" || cpu == "25000 100000", "{}: {cpu}", replica.pod);
    }
    for replica in &free {
        let memory = machine::cgroup_value(replica.pid, &["memory.max", "memory.limit_in_bytes"]);
        // Hybrid machines write the largest number of pages.
        let none = memory == "max" || memory.parse().is_ok_and(|bytes: u64| bytes > 1 << 60);
        assert!(none, "{} asked for no limit and has {memory}", replica.pod);
        let cpu = machine::cgroup_value(replica.pid, &["cpu.max", "cpu.cfs_quota_us"]);
        assert!(cpu == "-1" || cpu == "max 100000", "{}: {cpu}", replica.pod);
    }
    cluster.ctl(&["delete", "deployment", "limited"]).ok();
    until("the limited pods to go", 30, || {
        let pods = cluster.get(&["pods", "-l", "app=limited"]);
        pods["items"].as_array().unwrap().is_empty().then_some(())
    });
}

/// A pod and the process of its only container.
struct Replica {
    pod: String,
    pid: u32,
}

/// The three of an app, of which each node has one.
fn replicas(cluster: &Cluster, app: &str) -> Vec<Replica> {
    let pods = cluster.get(&["pods", "-l", &format!("app={app}")]);
    let pods = pods["items"].as_array().unwrap();
    let nodes: BTreeSet<&str> =
        pods.iter().filter_map(|pod| pod["spec"]["nodeName"].as_str()).collect();
    assert_eq!((pods.len(), nodes.len()), (3, 3), "three replicas on three nodes: {nodes:?}");
    let replica = |pod: &Value| {
        let container = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap();
        Replica {
            pod: pod["metadata"]["name"].as_str().unwrap().to_string(),
            pid: process_of(container.trim_start_matches("coracle://")),
        }
    };
    pods.iter().map(replica).collect()
}

/// The only process in the container's cgroup.
fn process_of(container: &str) -> u32 {
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let inside = pids.filter(|pid: &u32| {
        std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .is_ok_and(|cgroups| cgroups.contains(container))
    });
    let inside: Vec<u32> = inside.collect();
    assert_eq!(inside.len(), 1, "processes of container {container}: {inside:?}");
    inside[0]
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

    cluster.ctl_with(&["apply", "-f", "-"], CLIENT).ok();
    cluster.ctl(&["wait", "--for=condition=Ready", "pod/client", "--timeout=30s"]).ok();
    let client = cluster.get(&["pod", "client"]);
    let all: Vec<(&str, &str)> = pods
        .iter()
        .chain([&client])
        .map(|pod| {
            let name = pod["metadata"]["name"].as_str().unwrap();
            (name, pod["status"]["podIP"].as_str().unwrap())
        })
        .collect();
    let service = [
        service["spec"]["clusterIP"].as_str().unwrap(),
        "my-app-service",
        "my-app-service.default",
        "my-app-service.default.svc.cluster.local",
    ];
    for (asker, _) in &all {
        let ask = |target: &str, expected: &str| {
            let said = cluster.ctl(&["exec", asker, "--", "/hello", "get", target, "80"]).ok();
            let expected = format!("Hello from {expected}");
            assert!(said.contains(&expected), "{asker} asks {target} for {expected:?}: {said}");
        };
        let others = all.iter().filter(|(name, _)| name != asker);
        others.for_each(|(name, ip)| ask(ip, &format!("{name}\n")));
        service.iter().for_each(|target| ask(target, "my-app-deployment-"));
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

/// What only reads says the same with both, to the letter.
fn reads_as_with_kubectl(cluster: &Cluster, kubectl: &Kubectl) {
    cluster.ctl_with(&["apply", "-f", "-"], RICH).ok();
    cluster.ctl_with(&["apply", "-f", "-"], SETS).ok();
    for set in ["statefulset/state", "daemonset/everywhere"] {
        cluster.ctl(&["rollout", "status", set, "--timeout=60s"]).ok();
        let said = cluster.ctl(&["rollout", "restart", set]).ok();
        assert!(said.contains("restarted"), "{said}");
        cluster.ctl(&["rollout", "status", set, "--timeout=60s"]).ok();
    }
    cluster.ctl(&["wait", "--for=condition=Ready", "pod/rich", "--timeout=30s"]).ok();
    let pods = cluster.ctl(&["get", "pods", "-l", "app=my-app", "-o", "name"]).ok();
    let pod = pods.lines().next().unwrap();
    for line in [
        "get pods",
        "get pods -o wide",
        "get pods -o name",
        "get pods --show-labels -l app=my-app",
        "get services",
        "get services -o wide",
        "get deployment -o wide",
        "get replicasets -o wide",
        "get all",
        "get nodes",
        "get pods -n nowhere",
        "get pod nowhere",
        "get nonsense",
        "describe pod rich",
        "describe POD",
        "describe deployment my-app-deployment",
        "describe replicaset",
        "describe service my-app-service",
        "rollout status deployment/my-app-deployment",
        "rollout history deployment/my-app-deployment",
        "get statefulsets -o wide",
        "get daemonsets -o wide",
        "rollout status statefulset/state",
        "rollout status daemonset/everywhere",
        "rollout history statefulset/state",
        "rollout history daemonset/everywhere",
        "scale deployment/my-app-deployment --replicas=3",
        "logs POD",
        "exec POD -- /hello get localhost 80",
    ] {
        let arguments: Vec<&str> =
            line.split(' ').map(|word| if word == "POD" { pod } else { word }).collect();
        // Ages grow between the two: a second look finds them equal.
        let mut both = [Said::default(), Said::default()];
        for _ in 0..5 {
            both = [cluster.ctl(&arguments), kubectl.run(&arguments)];
            if both[0].out == both[1].out && both[0].code == both[1].code {
                break;
            }
        }
        let [ours, theirs] = both;
        assert_eq!(ours.code, theirs.code, "{line}\n{}\n{}", ours.err, theirs.err);
        assert!(ours.out == theirs.out, "{line}\nctl:\n{}\nkubectl:\n{}", ours.out, theirs.out);
        assert_eq!(ours.err, theirs.err, "{line}");
    }
    let said = cluster.ctl(&["rollout", "undo", "daemonset/everywhere"]).ok();
    assert_eq!(said.trim(), "daemonset.apps/everywhere rolled back");
    cluster.ctl(&["rollout", "status", "daemonset/everywhere", "--timeout=60s"]).ok();
    cluster.ctl(&["delete", "statefulset/state", "daemonset/everywhere"]).ok();
    cluster.ctl(&["delete", "pod", "rich", "--grace-period=1"]).ok();
}

/// The words and tables that a user of kubectl expects, from kubectl and from ctl. Returns the
/// sentences about what was changed.
fn the_same_with(cluster: &Cluster, tool: &dyn Fn(&[&str]) -> Said) -> Vec<String> {
    let mut sentences = vec![tool(&["apply", "-f", MY_APP]).ok()];
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
    sentences.push(said);
    let said = tool(&["rollout", "status", "deployment/my-app-deployment", "--timeout=60s"]).ok();
    assert!(said.contains("successfully rolled out"), "{said}");
    assert_eq!(tool(&["get", "pods", "-o", "name"]).ok().lines().count(), 5);

    let logs = tool(&["logs", &name]).ok();
    assert!(logs.contains("listening on port 80"), "{logs}");
    let said = tool(&["exec", &name, "--", "/hello", "get", "localhost", "80"]).ok();
    assert!(said.contains(&format!("Hello from {name}")), "{said}");

    let said = tool(&["delete", "deployment", "my-app-deployment"]).ok();
    assert!(said.contains("deployment.apps \"my-app-deployment\" deleted"), "{said}");
    // kubectl says where since 1.34.
    sentences.push(said.replace(" from default namespace", ""));
    let said = tool(&["delete", "service", "my-app-service"]).ok();
    assert!(said.contains("service \"my-app-service\" deleted"), "{said}");
    sentences.push(said.replace(" from default namespace", ""));
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
    sentences.push(said);
    sentences
}
