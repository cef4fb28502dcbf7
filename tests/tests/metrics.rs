//! What a real node says that it and its containers use: the endpoint's figures against the kernel's,
//! the resource metrics API on top of them, and both command line tools on top of that.

use proto::exposition::{Parsed, parse};
use serde_json::Value;
use tests::cluster::Cluster;
use tests::machine::{cgroup_value, processes};
use tests::needs;
use tests::program::{Said, run};
use tests::wait::until;

const POD: &str = r#"{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"},
    "spec": {"containers": [{"name": "web", "image": "coracle/hello:latest",
        "imagePullPolicy": "Never", "args": ["8093"],
        "resources": {"limits": {"memory": "64Mi"}}}]}}"#;

/// The container's figures in a cgroup: CPU seconds and the working set in bytes.
fn in_cgroup(pid: u32) -> (f64, f64) {
    let keyed = |text: &str, key: &str| -> f64 {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.map_or(0.0, |value| value.trim().parse().expect("a number"))
    };
    // Where there is a group of v2 it counts, whoever has the controllers.
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("a process");
    let unified = groups.lines().find_map(|line| line.strip_prefix("0::"));
    let cpu = unified.and_then(|path| {
        let mounts = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];
        let stat = |mount| std::fs::read_to_string(format!("{mount}{path}/cpu.stat")).ok();
        mounts.into_iter().find_map(stat)
    });
    let cpu = match cpu {
        Some(stat) => keyed(&stat, "usage_usec ") / 1e6,
        None => cgroup_value(pid, &["cpuacct.usage"]).parse::<f64>().expect("a number") / 1e9,
    };
    let used = cgroup_value(pid, &["memory.usage_in_bytes", "memory.current"]);
    let stat = cgroup_value(pid, &["memory.stat"]);
    let inactive = match stat.contains("total_inactive_file ") {
        true => keyed(&stat, "total_inactive_file "),
        false => keyed(&stat, "inactive_file "),
    };
    (cpu, used.parse::<f64>().expect("a number") - inactive)
}

fn value(parsed: &Parsed, name: &str, container: &str) -> f64 {
    let mut samples = parsed.samples.iter();
    let found = samples.find(|one| one.name == name && one.label("container") == container);
    found.unwrap_or_else(|| panic!("no {name} of {container:?}")).value
}

/// The words of each line.
fn words(said: Said) -> Vec<Vec<String>> {
    let lines = said.ok();
    lines.lines().map(|line| line.split_whitespace().map(String::from).collect()).collect()
}

#[test]
fn figures_are_the_kernel_s_and_tools_show_them() {
    needs!(root);
    let cluster = Cluster::create("metrics", &["--nodes", "1"]);
    cluster.ctl_with(&["apply", "-f", "-"], POD).ok();
    cluster.ctl(&["wait", "pod/web", "--for=condition=Ready", "--timeout=60s"]).ok();
    let node = cluster.get(&["nodes"])["items"][0].clone();
    let name = node["metadata"]["name"].as_str().expect("a name").to_string();
    let raw = |path: &str| {
        cluster.ctl(&["get", "--raw", &format!("/api/v1/nodes/{name}/proxy/{path}")]).ok()
    };
    endpoint(&raw);
    status(&node);
    tools(&cluster);
}

fn endpoint(raw: &impl Fn(&str) -> String) {
    let pids = processes("/hello\08093\0");
    let [pid] = pids.as_slice() else { panic!("one server, not {pids:?}") };
    let (before, _) = in_cgroup(*pid);
    let parsed = parse(&raw("metrics/resource")).expect("metrics");
    let (after, memory) = in_cgroup(*pid);
    let cpu = value(&parsed, "container_cpu_usage_seconds_total", "web");
    assert!(before <= cpu + 1e-6 && cpu <= after + 1e-6, "{before} <= {cpu} <= {after}");
    let told = value(&parsed, "container_memory_working_set_bytes", "web");
    assert!((told - memory).abs() < 2e6, "{told} is not {memory}");
    assert_eq!(value(&parsed, "resource_scrape_error", ""), 0.0);
    let all = std::fs::read_to_string("/proc/meminfo").expect("/proc/meminfo");
    let total = all.lines().find_map(|line| line.strip_prefix("MemTotal:")?.strip_suffix("kB"));
    let total: f64 = total.and_then(|kb| kb.trim().parse().ok()).expect("kilobytes");
    let of_node = value(&parsed, "node_memory_working_set_bytes", "");
    assert!(0.0 < of_node && of_node < total * 1024.0, "{of_node}");
    let cadvisor = parse(&raw("metrics/cadvisor")).expect("metrics");
    assert!(value(&cadvisor, "container_memory_usage_bytes", "web") >= told * 0.5);
    let own = parse(&raw("metrics")).expect("metrics");
    assert_eq!(value(&own, "kubelet_running_pods", ""), 1.0);
    let operations = own.samples.iter().filter(|it| it.name == "kubelet_runtime_operations_total");
    let started = operations.filter(|it| it.label("operation_type") == "start_container");
    assert!(started.map(|it| it.value).sum::<f64>() >= 1.0);

    let summary: Value = serde_json::from_str(&raw("stats/summary")).expect("JSON");
    let pod = &summary["pods"][0];
    assert_eq!(pod["podRef"]["name"], "web");
    assert_eq!(pod["network"]["name"], "eth0");
    assert!(pod["process_stats"]["process_count"].as_u64().expect("a count") >= 1);
    let container = &pod["containers"][0];
    for part in ["rootfs", "logs"] {
        assert!(container[part]["capacityBytes"].as_u64().is_some_and(|bytes| bytes > 0), "{part}");
    }
    let left = container["memory"]["availableBytes"].as_u64().expect("of a limit");
    assert!(left < 64 << 20, "{left}");
    let running: Value = serde_json::from_str(&raw("runningpods/")).expect("JSON");
    assert_eq!(running["items"][0]["spec"]["containers"][0]["name"], "web");
    let configz: Value = serde_json::from_str(&raw("configz")).expect("JSON");
    assert_eq!(configz["kubeletconfig"]["authentication"]["anonymous"]["enabled"], false);
}

fn status(node: &Value) {
    let status = &node["status"];
    for field in ["bootID", "kernelVersion", "osImage", "containerRuntimeVersion"] {
        assert!(status["nodeInfo"][field].as_str().is_some_and(|text| !text.is_empty()), "{field}");
    }
    assert_eq!(status["features"]["supplementalGroupsPolicy"], true);
    assert!(status["runtimeHandlers"][0]["features"].is_object());
    let images = status["images"].as_array().expect("images");
    let named = |image: &Value| image["names"].to_string().contains("coracle/hello:latest");
    assert!(images.iter().any(named), "{images:?}");
}

/// `ctl top` beside `kubectl top`: the same answer within a few seconds, so the same words.
fn tools(cluster: &Cluster) {
    let pod = until("the pod's metrics", 60, || {
        let said = cluster.ctl(&["top", "pod", "web", "--no-headers"]);
        (said.code == 0).then(|| words(said).remove(0))
    });
    assert!(pod[0] == "web" && pod[1].ends_with('m') && pod[2].ends_with("Mi"), "{pod:?}");
    let Some(kubectl) = cluster.kubectl() else { return };
    for arguments in [
        &["top", "pods"][..],
        &["top", "pods", "--containers"],
        &["top", "pods", "-A", "--sum"],
        &["top", "nodes"],
        &["top", "nodes", "--no-headers", "--sort-by=memory"],
    ] {
        // Between the two a new sample may have come.
        until(&format!("both tools to say the same: {arguments:?}"), 60, || {
            let theirs = words(run(&mut kubectl.command(arguments)));
            let ours = words(cluster.ctl(arguments));
            (ours == theirs).then_some(()).or_else(|| {
                eprintln!("{ours:?}\n{theirs:?}");
                None
            })
        });
    }
    let said = cluster.ctl(&["top", "pods", "-n", "kube-public"]);
    assert_eq!((said.code, said.err.trim()), (0, "No resources found in kube-public namespace."));
}
