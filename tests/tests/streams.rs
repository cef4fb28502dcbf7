//! What flows between users and pods, with real kubectl and real containers: attach, exec with a
//! terminal, port forwarding, proxies, debugging and draining.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Command, Stdio};

use tests::cluster::Cluster;
use tests::program::{Said, run_with_input};
use tests::wait::until;
use tests::{image, machine, needs};

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers:
  - name: web
    image: coracle/hello:latest
    imagePullPolicy: IfNotPresent
    args: ["8080", "0"]
    ports: [{name: http, containerPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: shell}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: shell
    image: test/shell:1
    command: ["sh", "-c", "while read line; do echo got $line; done; sleep 3600"]
    stdin: true
---
apiVersion: v1
kind: Pod
metadata: {name: terminal}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: shell
    image: test/shell:1
    command: ["sh"]
    stdin: true
    tty: true
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
"#;

/// kubectl or ctl.
type Tool<'a> = &'a dyn Fn(&[&str]) -> Command;

#[test]
fn streams_reach_pods() {
    needs!(root);
    needs!("busybox");
    needs!("script");
    let cluster = Cluster::create("e2e-streams", &["--nodes", "2"]);
    let folder = tempfile::tempdir().unwrap();
    let busybox = machine::find("busybox").unwrap();
    let archive = image::shell(folder.path(), &busybox, &[]);
    cluster.ctl(&["image", "load", &archive.to_string_lossy()]).ok();
    cluster.ctl_with(&["apply", "-f", "-"], PODS).ok();
    for pod in ["web", "shell", "terminal"] {
        let pod = format!("pod/{pod}");
        cluster.ctl(&["wait", "--for=condition=Ready", &pod, "--timeout=60s"]).ok();
    }
    let kubectl = cluster.kubectl();
    let ctl: Tool = &|arguments| cluster.ctl_command(arguments);
    let kubectl_tool = |arguments: &[&str]| kubectl.as_ref().unwrap().command(arguments);
    // As kubectl before WebSockets: SPDY from end to end.
    let spdy_tool = |arguments: &[&str]| {
        let mut command = kubectl_tool(arguments);
        command.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false");
        command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false");
        command
    };
    let mut tools = vec![ctl];
    if kubectl.is_some() {
        tools.extend([&kubectl_tool as Tool, &spdy_tool]);
    }
    for tool in &tools {
        takes_stdin(*tool);
        attaches(*tool);
        gives_a_terminal(*tool);
        forwards_ports(*tool);
        serves_the_api(*tool);
    }
    serves_who_says_no_more(ctl);
    copies(&tools);
    // kubectl ends well or not, as it happens.
    let nothing = said(ctl(&["cp", "shell:/box/nothing", "nothing"]), "").fails();
    assert_eq!(nothing, "command terminated with exit code 1\n");
    if kubectl.is_some() {
        reaches_through_the_api(&kubectl_tool);
        debugs(&kubectl_tool);
        debugs_nodes(&cluster, &kubectl_tool);
        resizes(&cluster, &kubectl_tool);
        drains(&cluster, &kubectl_tool);
    }
}

fn said(mut command: Command, input: &str) -> Said {
    run_with_input(&mut command, input)
}

fn takes_stdin(tool: Tool) {
    let said = said(tool(&["exec", "-i", "shell", "--", "cat"]), "through stdin");
    assert_eq!(said.ok(), "through stdin");
}

/// What is written to the container's own process, and what it answers.
fn attaches(tool: Tool) {
    let mut child = started(tool(&["attach", "-i", "shell"]));
    let mut input = child.stdin.take().unwrap();
    let mut lines = lines(&mut child);
    input.write_all(b"hello\n").unwrap();
    until("an answer of the attached shell", 20, || {
        lines.by_ref().find(|line| line.contains("got hello"))
    });
    ended(child);
}

/// A terminal, and the exit code of what ran on it.
fn gives_a_terminal(tool: Tool) {
    let words = ["exec", "-it", "shell", "--", "sh", "-c", "tty; read x; exit $x"];
    let said = said(in_a_terminal(&tool(&words)), "7\n");
    assert!(said.out.contains("/dev/pts/0"), "{said:?}");
    assert_eq!(said.code, 7, "{said:?}");
    let mut child = started(in_a_terminal(&tool(&["attach", "-it", "terminal"])));
    let mut input = child.stdin.take().unwrap();
    let mut lines = lines(&mut child);
    input.write_all(b"echo sum $((40 + 2))\n").unwrap();
    until("an answer of the shell on its terminal", 20, || {
        lines.by_ref().find(|line| line.contains("sum 42"))
    });
    ended(child);
}

/// The same command on a terminal of its own.
fn in_a_terminal(command: &Command) -> Command {
    let words: Vec<String> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| format!("'{}'", word.to_string_lossy().replace('\'', "'\\''")))
        .collect();
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--flush", "--command"]).arg(words.join(" "));
    script.arg("/dev/null");
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            script.env(name, value);
        }
    }
    script
}

fn forwards_ports(tool: Tool) {
    for target in ["pod/web", "service/web"] {
        let remote = if target == "pod/web" { ":8080" } else { ":80" };
        let mut child = started(tool(&["port-forward", target, remote]));
        let mut lines = lines(&mut child);
        let line = lines.find(|line| line.starts_with("Forwarding from 127.0.0.1:"));
        let line = line.expect("it says where it listens");
        assert!(line.ends_with("-> 8080"), "{line}");
        let port = line.split([':', ' ']).find_map(|word| word.parse::<u16>().ok()).unwrap();
        for _ in 0..3 {
            let answer = http_get(port, "/", "");
            assert!(answer.ends_with("Hello from web\n"), "{target}: {answer}");
        }
        ended(child);
    }
}

fn serves_the_api(tool: Tool) {
    let mut child = started(tool(&["proxy", "--port=0"]));
    let mut lines = lines(&mut child);
    let line = lines.next().unwrap();
    let port = line.rsplit(':').next().unwrap().trim().parse().unwrap();
    let pods = http_get(port, "/api/v1/namespaces/default/pods", "");
    assert!(pods.starts_with("HTTP/1.1 200") && pods.contains("PodList"), "{pods}");
    let through = http_get(port, "/api/v1/namespaces/default/pods/web:8080/proxy/x", "");
    assert!(through.contains("Hello from web"), "{through}");
    let strange = http_get(port, "/api/v1/pods", "evil.example");
    assert!(strange.starts_with("HTTP/1.1 403"), "{strange}");
    ended(child);
}

/// `printf … | nc` ends its half of the connection when it has asked. kubectl does not answer then.
fn serves_who_says_no_more(ctl: Tool) {
    let mut child = started(ctl(&["proxy", "--port=0"]));
    let line = lines(&mut child).next().unwrap();
    let port: u16 = line.rsplit(':').next().unwrap().trim().parse().unwrap();
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.write_all(b"GET /version HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("gitVersion"), "{answer:?}");
    ended(child);
}

/// What a copying tool says: folder and words are its own, and so left out.
#[derive(Debug, PartialEq)]
struct Copied {
    out: String,
    err: String,
    code: i32,
    here: String,
    there: String,
}

/// Files and folders, there and back again; every tool says and does the same.
fn copies(tools: &[Tool]) {
    let all: Vec<Vec<Copied>> = tools.iter().map(|tool| copies_with(*tool)).collect();
    for one in &all {
        for (ours, theirs) in one.iter().zip(&all[0]) {
            assert_eq!(ours, theirs);
        }
    }
}

fn copies_with(tool: Tool) -> Vec<Copied> {
    let folder = tempfile::tempdir().unwrap();
    let here = |name: &str| folder.path().join(name);
    std::fs::create_dir_all(here("tree/deep/empty")).unwrap();
    std::fs::write(here("tree/a"), "one\n").unwrap();
    std::fs::write(here("tree/deep/b c"), "two\n").unwrap();
    std::os::unix::fs::symlink("a", here("tree/link")).unwrap();
    std::fs::write(here("big"), vec![b'x'; 3 << 20]).unwrap();
    let exec = |script: &str| said(tool(&["exec", "shell", "--", "sh", "-c", script]), "");
    exec("cd /; busybox rm -rf box; mkdir /box").ok();
    let list = |root: &std::path::Path| {
        let mut find = Command::new("find");
        find.args([".", "-printf", "%P %y %s\n"]).current_dir(root);
        let mut lines: Vec<String> = said(find, "").ok().lines().map(String::from).collect();
        // The sizes of folders are the file system's business.
        lines.iter_mut().filter(|line| line.contains(" d ")).for_each(|line| {
            line.truncate(line.find(" d ").unwrap() + 2);
        });
        lines.sort();
        lines.join("\n")
    };
    let cases: &[&[&str]] = &[
        &["tree", "shell:/box/tree"],
        &["tree", "shell:/box"],
        &["tree/a", "default/shell:/box/copy"],
        &["big", "shell:/box/big", "-c", "shell", "--no-preserve"],
        &["shell:/box/tree", "back"],
        &["shell:/box/copy", "back/copy"],
        &["shell:box/big", "again", "--retries=3"],
        &["nothing", "shell:/box"],
        &["tree/a", "shell:/nowhere/at/all"],
        &["tree/a", "back"],
        &["shell:/a", "shell:/b"],
        &[":x", "y"],
        &["a/b/c:x", "y"],
        &["shell:", "y"],
        &["tree/a", "gone:/box"],
        &["shell:/box/copy", "x", "-c", "other"],
    ];
    let copy = |words: &&[&str]| {
        let mut command = tool(&[&["cp"], *words].concat());
        let Said { out, err, code, .. } = said(
            {
                command.current_dir(folder.path());
                command
            },
            "",
        );
        let script =
            "cd /box; busybox find . -exec busybox stat -c '%n %F %a' {} ';' | busybox sort";
        // The archive may be complete before kubectl has read what tar said meanwhile.
        let out = out.replace("tar: removing leading '/' from member names\n", "");
        Copied {
            out,
            // Each names itself. What kubectl logs of its own connections comes and goes.
            err: err
                .split_inclusive('\n')
                .filter(|line| !is_logged(line))
                .collect::<String>()
                .replace("\"ctl exec", "\"kubectl exec"),
            code,
            here: list(folder.path()),
            there: exec(script).ok(),
        }
    };
    let done: Vec<Copied> = cases.iter().map(copy).collect();
    assert_eq!(std::fs::read_to_string(here("back/deep/b c")).unwrap(), "two\n");
    assert_eq!(std::fs::metadata(here("again")).unwrap().len(), 3 << 20);
    done
}

/// A line of kubectl's log of its own errors: E, month and day, time, thread, source file.
fn is_logged(line: &str) -> bool {
    let first = line.split(' ').next().unwrap_or_default();
    let is_error = first
        .strip_prefix('E')
        .is_some_and(|day| day.len() == 4 && day.bytes().all(|byte| byte.is_ascii_digit()));
    is_error && line.contains(".go:")
}

/// Proxies of pods, Services and nodes.
fn reaches_through_the_api(tool: Tool) {
    let default = "/api/v1/namespaces/default";
    let raw = |path: &str| said(tool(&["get", "--raw", path]), "");
    for path in ["pods/web:8080/proxy/", "pods/http:web:/proxy/a?b", "services/web:http/proxy/"] {
        assert_eq!(raw(&format!("{default}/{path}")).ok(), "Hello from web\n", "{path}");
    }
    let said = raw(&format!("{default}/services/web:81/proxy/")).fails();
    assert!(said.contains("no service port 81 found for service \"web\""), "{said}");
    let node = said_line(tool(&["get", "nodes", "-o", "name"]));
    let node = node.trim_start_matches("node/");
    assert_eq!(raw(&format!("/api/v1/nodes/{node}/proxy/healthz")).ok(), "ok");
    let pods = raw(&format!("/api/v1/nodes/{node}:10250/proxy/pods/")).ok();
    assert!(pods.contains("\"kind\":\"PodList\""), "{pods}");
}

fn said_line(command: Command) -> String {
    said(command, "").ok().lines().next().unwrap_or_default().to_string()
}

/// An ephemeral container beside one that has no shell, and among its processes.
fn debugs(tool: Tool) {
    let words = ["debug", "web", "--image=test/shell:1", "--image-pull-policy=IfNotPresent"];
    let more = ["--container=look", "--target=web", "--", "sh", "-c", "ps; sleep 3600"];
    said(tool(&[&words[..], &more].concat()), "").ok();
    let processes = until("the processes of the target", 30, || {
        let logs = said(tool(&["logs", "web", "-c", "look"]), "");
        logs.out.contains("/hello 8080").then_some(logs.out)
    });
    assert!(processes.contains("ps; sleep 3600"), "{processes}");
    let path = "{.status.ephemeralContainerStatuses[0].state.running.startedAt}";
    let output = format!("jsonpath={path}");
    until("the status of the ephemeral container", 10, || {
        let told = said(tool(&["get", "pod", "web", "-o", &output]), "").ok();
        (!told.is_empty()).then_some(())
    });
}

/// A pod among the node's processes, on its network, with its files.
fn debugs_nodes(cluster: &Cluster, tool: Tool) {
    let script = "ps; busybox ls /host/etc; echo seen";
    let words = ["debug", "node/node1", "--image=test/shell:1", "--", "sh", "-c", script];
    let told = said(tool(&words), "").ok();
    let name = told.split(' ').find(|word| word.starts_with("node-debugger-node1-"));
    let name = name.unwrap_or_else(|| panic!("it names the pod, and says {told:?}"));
    let seen = until("what the pod sees", 30, || {
        let logs = said(tool(&["logs", name]), "");
        logs.out.ends_with("seen\n").then_some(logs.out)
    });
    let agent = format!("{} ", cluster.pid("node1/agent").expect("the agent runs"));
    assert!(seen.lines().any(|line| line.trim_start().starts_with(&agent)), "{seen}");
    assert!(seen.lines().any(|line| line == "hostname"), "{seen}");
    let pod = cluster.get(&["pod", name]);
    assert_eq!(pod["status"]["podIP"], pod["status"]["hostIP"], "{pod:#}");
    cluster.ctl(&["delete", "pod", name]).ok();
}

/// More memory and cpu for a running container, by its cgroups; too much is not given.
fn resizes(cluster: &Cluster, tool: Tool) {
    let resizable = r#"
apiVersion: v1
kind: Pod
metadata: {name: resizable}
spec:
  containers:
  - name: web
    image: coracle/hello:latest
    imagePullPolicy: IfNotPresent
    args: ["8082", "0"]
    resources: {requests: {cpu: 100m, memory: 16Mi}, limits: {cpu: 200m, memory: 32Mi}}
"#;
    cluster.ctl_with(&["apply", "-f", "-"], resizable).ok();
    cluster.ctl(&["wait", "--for=condition=Ready", "pod/resizable", "--timeout=30s"]).ok();
    let patch = |resources: &str| {
        let patch =
            format!(r#"{{"spec":{{"containers":[{{"name":"web","resources":{resources}}}]}}}}"#);
        said(tool(&["patch", "pod", "resizable", "--subresource=resize", "-p", &patch]), "").ok();
    };
    patch(r#"{"limits":{"cpu":"300m","memory":"48Mi"}}"#);
    let status = until("the resized container", 20, || {
        let pod = cluster.get(&["pod", "resizable"]);
        let status = pod["status"]["containerStatuses"][0].clone();
        (status["resources"]["limits"]["memory"] == "48Mi").then_some(status)
    });
    assert_eq!(
        (&status["restartCount"], &status["resources"]["limits"]["cpu"]),
        (&0.into(), &"300m".into())
    );
    let pid = machine::processes("/hello\u{0}8082\u{0}0\u{0}").pop().expect("its process is here");
    let memory = machine::cgroup_value(pid, &["memory.max", "memory.limit_in_bytes"]);
    assert_eq!(memory, (48 << 20).to_string());
    let cpu = machine::cgroup_value(pid, &["cpu.max", "cpu.cfs_quota_us"]);
    assert!(cpu == "30000" || cpu == "30000 100000", "{cpu}");
    patch(r#"{"requests":{"cpu":"9000"},"limits":{"cpu":"9000"}}"#);
    let condition = until("the resize to be refused", 20, || {
        let pod = cluster.get(&["pod", "resizable"]);
        let conditions = pod["status"]["conditions"].as_array()?.clone();
        conditions.into_iter().find(|condition| condition["type"] == "PodResizePending")
    });
    assert_eq!(condition["reason"], "Infeasible", "{condition}");
    patch(r#"{"requests":{"cpu":"100m"},"limits":{"cpu":"300m"}}"#);
    until("the condition to pass", 20, || {
        let pod = cluster.get(&["pod", "resizable"]);
        let conditions = pod["status"]["conditions"].as_array()?;
        let pending = conditions.iter().any(|condition| condition["type"] == "PodResizePending");
        (!pending).then_some(())
    });
}

/// A budget lets a drain go on only as replacements become ready.
fn drains(cluster: &Cluster, tool: Tool) {
    let budget = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: guarded}
spec:
  replicas: 3
  selector: {matchLabels: {app: guarded}}
  template:
    metadata: {labels: {app: guarded}}
    spec:
      containers:
      - {name: web, image: "coracle/hello:latest", imagePullPolicy: IfNotPresent, args: ["8080", "0"]}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {name: guarded}
spec:
  minAvailable: 2
  selector: {matchLabels: {app: guarded}}
"#;
    cluster.ctl_with(&["apply", "-f", "-"], budget).ok();
    cluster.ctl(&["rollout", "status", "deployment/guarded", "--timeout=60s"]).ok();
    until("the budget to allow one disruption", 20, || {
        let budget = cluster.get(&["poddisruptionbudgets", "guarded"]);
        (budget["status"]["disruptionsAllowed"] == 1).then_some(())
    });
    let pods = cluster.get(&["pods", "-l", "app=guarded"]);
    let node = pods["items"][0]["spec"]["nodeName"].as_str().unwrap().to_string();
    let arguments = [
        "drain",
        &node,
        "--ignore-daemonsets",
        "--force",
        "--delete-emptydir-data",
        "--timeout=90s",
    ];
    let drained = said(tool(&arguments), "");
    assert_eq!(drained.code, 0, "{drained:?}");
    let left = cluster.get(&["pods", "-l", "app=guarded"]);
    let left = left["items"].as_array().unwrap();
    let there = |pod: &&serde_json::Value| pod["spec"]["nodeName"] == node.as_str();
    assert_eq!(left.iter().filter(there).count(), 0, "{left:?}");
    // Nothing else is left of those that had to be evicted one by one.
    cluster.ctl(&["rollout", "status", "deployment/guarded", "--timeout=60s"]).ok();
    until("the budget to count again", 20, || {
        let status = &cluster.get(&["poddisruptionbudgets", "guarded"])["status"];
        let condition = &status["conditions"][0];
        (status["currentHealthy"] == 3 && condition["reason"] == "SufficientPods").then_some(())
    });
    said(tool(&["uncordon", &node]), "").ok();
}

fn started(mut command: Command) -> Child {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

fn lines(child: &mut Child) -> impl Iterator<Item = String> + use<> {
    BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok)
}

/// Ours to end, by its id.
fn ended(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// The whole answer to a GET on a local port.
fn http_get(port: u16, path: &str, host: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let host = if host.is_empty() { "localhost" } else { host };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
