//! The agent on somebody else's runtime: a node of a cluster loses its own and gets Debian's
//! containerd, with runc and the CNI plugins. The agent's flags stay as they are but for
//! `--runtime-endpoint`, so the pod's range reaches CNI by CRI's UpdateRuntimeConfig.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tests::cluster::Cluster;
use tests::program::{Said, run};
use tests::wait::{patiently, until};
use tests::{image, machine, needs};

const PLUGINS: &str = "/usr/lib/cni";

const PODS: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: words}
data: {greeting: hello}
---
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  initContainers:
  - {name: first, image: "test/shell:1", command: [sh, -c, "echo from the init container; exit 0"]}
  containers:
  - name: web
    image: coracle/hello:latest
    imagePullPolicy: IfNotPresent
    args: ["8080", "0"]
    ports: [{name: http, containerPort: 8080}]
    resources: {limits: {cpu: 250m, memory: 48Mi}}
    startupProbe:
      exec: {command: [/hello, get, localhost, "8080"]}
      periodSeconds: 1
      timeoutSeconds: 60
      failureThreshold: 60
    readinessProbe: {httpGet: {path: /, port: http}, periodSeconds: 1, timeoutSeconds: 60}
    livenessProbe: {tcpSocket: {port: http}, periodSeconds: 1, timeoutSeconds: 60}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: http}]}
---
apiVersion: v1
kind: Pod
metadata: {name: shell}
spec:
  containers:
  - name: shell
    image: test/shell:1
    command:
    - sh
    - -c
    - |
      trap 'echo told to end >>/shared/book; exit 0' TERM
      echo started >>/shared/book
      echo > /alive
      cat /words/greeting; echo
      while :; do sleep 1 & wait $!; done
    livenessProbe:
      exec: {command: [test, -e, /alive]}
      initialDelaySeconds: 1
      periodSeconds: 1
      failureThreshold: 1
      # Only the missing file is a failure, never a busy machine.
      timeoutSeconds: 60
    volumeMounts:
    - {name: words, mountPath: /words}
    - {name: shared, mountPath: /shared}
  volumes:
  - {name: words, configMap: {name: words}}
  - {name: shared, hostPath: {path: BOOK}}
"#;

#[test]
fn pods_run_on_containerd() {
    needs!(root);
    needs!("busybox");
    needs!("containerd");
    needs!("runc");
    needs!("nsenter");
    if !Path::new(PLUGINS).join("bridge").exists() {
        eprintln!("SKIPPED: needs {PLUGINS}/bridge (package containernetworking-plugins)");
        return;
    }
    let cluster = Cluster::create("e2e-cri", &["--nodes", "1"]);
    let node = Foreign::replace(&cluster);
    until("the node to be Ready on containerd", 60, || {
        let node = cluster.get(&["node", "node1"]);
        let version = node["status"]["nodeInfo"]["containerRuntimeVersion"].as_str()?.to_owned();
        (version.starts_with("containerd://") && condition(&node, "Ready") == "True").then_some(())
    });
    let book = node.folder.path().join("shared");
    std::fs::create_dir(&book).unwrap();
    let pods = PODS.replace("BOOK", &book.to_string_lossy());
    cluster.ctl_with(&["apply", "-f", "-"], &pods).ok();
    for pod in ["pod/web", "pod/shell"] {
        cluster.ctl(&["wait", "--for=condition=Ready", pod, "--timeout=90s"]).ok();
    }
    is_containerds(&cluster, &node);
    speaks(&cluster);
    restarts_what_is_not_alive(&cluster);
    cluster.ctl(&["delete", "pods", "--all", "--timeout=60s"]).ok();
    let book = std::fs::read_to_string(book.join("book")).unwrap();
    let told = ["started", "told to end", "started", "told to end"];
    assert_eq!(book.lines().collect::<Vec<_>>(), told);
    let gone = patiently(30, || node.left(&cluster).is_empty());
    assert!(gone, "this is left of the pods: {:#?}", node.left(&cluster));
}

/// The containers are where they are said to be, with their addresses and limits.
fn is_containerds(cluster: &Cluster, node: &Foreign) {
    let web = cluster.get(&["pod", "web"]);
    let status = &web["status"]["containerStatuses"][0];
    let id = status["containerID"].as_str().unwrap().strip_prefix("containerd://").unwrap();
    assert!(node.ctr(&["containers", "ls", "-q"]).ok().contains(id), "{status}");
    assert_eq!(status["restartCount"], 0, "{status}");
    let first = &web["status"]["initContainerStatuses"][0]["state"]["terminated"];
    assert_eq!((&first["exitCode"], &first["reason"]), (&0.into(), &"Completed".into()), "{web:#}");
    let cidr = cluster.get(&["node", "node1"])["spec"]["podCIDR"].as_str().unwrap().to_owned();
    let prefix = cidr.rsplit_once('.').unwrap().0;
    let ip = web["status"]["podIP"].as_str().unwrap();
    assert!(ip.starts_with(&format!("{prefix}.")), "{ip} is not in {cidr}");
    let pid = machine::processes("/hello\u{0}8080\u{0}0\u{0}").pop().expect("its process is here");
    let memory = machine::cgroup_value(pid, &["memory.max", "memory.limit_in_bytes"]);
    assert_eq!(memory, (48 << 20).to_string());
    let cpu = machine::cgroup_value(pid, &["cpu.max", "cpu.cfs_quota_us"]);
    assert!(cpu == "25000" || cpu == "25000 100000", "{cpu}");
}

/// Logs, exec with its exit code and its stdin, Services and their names.
fn speaks(cluster: &Cluster) {
    assert_eq!(cluster.ctl(&["logs", "shell"]).ok(), "hello\n");
    let first = cluster.ctl(&["logs", "web", "-c", "first"]).ok();
    assert_eq!(first, "from the init container\n");
    let said = cluster.ctl(&["exec", "shell", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((said.out.as_str(), said.code), ("out\n", 7), "{said:?}");
    assert!(said.err.starts_with("err\n"), "{said:?}");
    // The WebSocket of this containerd has no word for the end of stdin and knows no ports: the agent
    // speaks SPDY with it.
    let cat = ["exec", "-i", "shell", "--", "cat"];
    assert_eq!(cluster.ctl_with(&cat, "through stdin").ok(), "through stdin");
    let large = "0123456789".repeat(200_000);
    assert!(cluster.ctl_with(&cat, &large).ok() == large, "it is not what was sent");
    if let Some(kubectl) = cluster.kubectl() {
        assert_eq!(kubectl.with(&cat, "through stdin").ok(), "through stdin");
    }
    forwards(cluster);
    let proxied = "/api/v1/namespaces/default/pods/web:8080/proxy/";
    assert_eq!(cluster.ctl(&["get", "--raw", proxied]).ok(), "Hello from web\n");
    for host in ["web", "web.default.svc.cluster.local"] {
        let ask = format!(r"printf 'GET / HTTP/1.0\r\n\r\n' | busybox nc {host} 80");
        let answer = cluster.ctl(&["exec", "shell", "--", "sh", "-c", &ask]).ok();
        assert!(answer.contains("Hello from web"), "{host}: {answer}");
    }
}

/// Connections to a pod's port, one after the other.
fn forwards(cluster: &Cluster) {
    let mut command = cluster.ctl_command(&["port-forward", "pod/web", ":8080"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    // Kept to the end: it says a line for each connection.
    let mut output = BufReader::new(child.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    let address = line.split_whitespace().nth(2).expect("Forwarding from ADDRESS").to_owned();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("Hello from web\n"), "{answer:?}");
    }
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A failed liveness probe ends the container, which is told first, and is started again.
fn restarts_what_is_not_alive(cluster: &Cluster) {
    cluster.ctl(&["exec", "shell", "--", "busybox", "rm", "/alive"]).ok();
    let status = until("the container to be started again", 60, || {
        let pod = cluster.get(&["pod", "shell"]);
        let status = pod["status"]["containerStatuses"][0].clone();
        (status["restartCount"] == 1 && status["ready"] == true).then_some(status)
    });
    let last = &status["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"]), (&0.into(), &"Completed".into()), "{status}");
    assert_eq!(cluster.ctl(&["logs", "shell", "--previous"]).ok(), "hello\n");
}

fn condition(object: &Value, name: &str) -> String {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    let mut found = conditions.filter(|condition| condition["type"] == name);
    found.next().and_then(|one| one["status"].as_str()).unwrap_or_default().to_owned()
}

/// containerd and the agent in the network of the cluster's only node.
struct Foreign {
    folder: tempfile::TempDir,
    /// The node's files, among which the agent mounts volumes.
    node: PathBuf,
    namespace: String,
    children: Vec<Child>,
}

impl Foreign {
    fn replace(cluster: &Cluster) -> Foreign {
        let agent = cluster.pid("node1/agent").expect("the agent runs");
        let line = std::fs::read(format!("/proc/{agent}/cmdline")).expect("it has a command line");
        let line = String::from_utf8(line).expect("of text");
        cluster.ctl(&["cluster", "node", "stop", "node1", "--cluster", &cluster.name]).ok();
        // Power is back on, but nobody starts the node's own runtime.
        run(Command::new("ip").args(["link", "set", "e2e-cri-n1", "up"])).ok();
        let folder = tempfile::Builder::new().prefix("coracle-containerd-").tempdir().unwrap();
        let namespace = format!("/run/netns/coracle-{}-node1", cluster.name);
        let files = cluster.dir().join("nodes/node1");
        let mut node = Foreign { folder, node: files, namespace, children: Vec::new() };
        let old = node.inside("ip").args(["link", "delete", "coracle0"]).output();
        drop(old.expect("ip runs"));
        node.start_containerd();
        let mut words: Vec<String> =
            line.trim_end_matches('\0').split('\0').map(str::to_owned).collect();
        let endpoint = words.iter().position(|word| word == "--runtime-endpoint").unwrap();
        words[endpoint + 1] = format!("unix://{}", node.socket().display());
        let mut command = node.inside(&words[0]);
        command.args(&words[1..]);
        node.spawn(command, "agent");
        node
    }

    fn start_containerd(&mut self) {
        let config = self.path("config.toml");
        std::fs::write(&config, self.config()).unwrap();
        std::fs::create_dir(self.path("cni")).unwrap();
        std::fs::write(self.path("template.json"), TEMPLATE.replace("DIR", &self.text("")))
            .unwrap();
        let mut command = self.inside("containerd");
        command.arg("--config").arg(config);
        self.spawn(command, "containerd");
        until("containerd to answer", 30, || (self.ctr(&["version"]).code == 0).then_some(()));
        let busybox = machine::find("busybox").unwrap();
        let folder = self.folder.path();
        let archives =
            [image::hello(), image::shell(folder, &busybox, &[]), image::pause(folder, &busybox)];
        for archive in archives {
            self.ctr(&["images", "import", &archive.to_string_lossy()]).ok();
        }
    }

    /// Everything in a folder of its own; and no score below what this machine allows.
    fn config(&self) -> String {
        format!(
            r#"
version = 2
root = "{root}"
state = "{state}"
disabled_plugins = ["io.containerd.internal.v1.restart"]
[grpc]
address = "{socket}"
[plugins."io.containerd.internal.v1.opt"]
path = "{opt}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "test/pause:1"
restrict_oom_score_adj = true
netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{PLUGINS}"
conf_dir = "{cni}"
conf_template = "{template}"
"#,
            root = self.text("root"),
            state = self.text("state"),
            socket = self.socket().display(),
            opt = self.text("opt"),
            cni = self.text("cni"),
            template = self.text("template.json"),
        )
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn socket(&self) -> PathBuf {
        self.path("containerd.sock")
    }

    /// A program in the node's network.
    fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.namespace)).arg(program);
        command
    }

    fn spawn(&mut self, mut command: Command, name: &str) {
        let log = std::fs::File::create(self.path(name).with_extension("log")).unwrap();
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        // Not with what a terminal sends to the test.
        command.process_group(0);
        self.children.push(command.spawn().unwrap());
    }

    /// containerd's own client, in the namespace of CRI.
    fn ctr(&self, arguments: &[&str]) -> Said {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(self.socket()).args(["--namespace", "k8s.io"]);
        run(command.args(arguments))
    }

    /// What the pods left behind: containers, tasks, snapshots, mounts, folders and cgroups.
    fn left(&self, cluster: &Cluster) -> Vec<String> {
        let mut left = Vec::new();
        for words in [["containers", "ls", "-q"], ["tasks", "ls", "-q"]] {
            left.extend(self.ctr(&words).ok().lines().map(str::to_owned));
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let own = self.text("");
        left.extend(mounts.lines().filter(|line| line.contains(&own)).map(str::to_owned));
        let folders =
            [self.node.join("kubelet/pods"), self.path("state/netns"), self.path("leases/pods")];
        let entries = folders.iter().filter_map(|folder| std::fs::read_dir(folder).ok());
        let names = entries.flatten().flatten().map(|entry| entry.path().display().to_string());
        // Beside the addresses that are taken lie the plugin's lock and its last address.
        let own = ["/lock", "/last_reserved_ip.0"];
        left.extend(names.filter(|name| !own.iter().any(|own| name.ends_with(own))));
        left.extend(cgroups_of_pods(&format!("coracle-{}/node1", cluster.name)));
        left
    }
}

fn cgroups_of_pods(parent: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = std::fs::read_dir("/sys/fs/cgroup")
        .unwrap()
        .flatten()
        .map(|entry| entry.path().join(parent))
        .collect();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
                if entry.file_name().to_string_lossy().starts_with("pod") {
                    found.push(entry.path().display().to_string());
                }
            }
        }
    }
    found
}

impl Drop for Foreign {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for name in ["containerd.log", "agent.log"] {
                let text = std::fs::read_to_string(self.path(name)).unwrap_or_default();
                let lines: Vec<&str> = text.lines().collect();
                eprintln!("--- {name}\n{}", lines[lines.len().saturating_sub(60)..].join("\n"));
            }
        }
        // The agent first: it would start again what is ended here. Its shims end with their tasks.
        if let Some(mut agent) = self.children.pop() {
            let _ = agent.kill().and_then(|()| agent.wait().map(drop));
        }
        for task in self.ctr(&["tasks", "ls", "-q"]).out.lines() {
            self.ctr(&["tasks", "delete", "--force", task]);
        }
        for mut child in self.children.drain(..) {
            let _ = child.kill().and_then(|()| child.wait().map(drop));
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let own = |point: &&str| {
            [self.folder.path(), &self.node].iter().any(|own| Path::new(point).starts_with(own))
        };
        let points = mounts.lines().rev().filter_map(|line| line.split(' ').nth(4));
        for point in points.filter(own) {
            let _ = run(Command::new("umount").args(["--lazy", point]));
        }
    }
}

/// CNI's configuration, to which containerd adds the range that the agent tells it.
const TEMPLATE: &str = r#"{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [{
    "type": "bridge",
    "bridge": "cni0",
    "isGateway": true,
    "ipam": {
      "type": "host-local",
      "dataDir": "DIRleases",
      "ranges": [[{"subnet": "{{.PodCIDR}}"}]],
      "routes": [{"dst": "0.0.0.0/0"}]
    }
  }]
}"#;
