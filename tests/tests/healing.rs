//! What breaks is mended: a killed process, a deleted pod, a lost node; and what cannot be mended
//! says why.

use std::collections::BTreeSet;

use serde_json::Value;
use tests::cluster::Cluster;
use tests::needs;
use tests::wait::until;

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
      containers:
      - name: web
        image: coracle/hello:latest
        imagePullPolicy: IfNotPresent
        args: ["8090", "0"]
"#;

#[test]
fn what_breaks_is_mended() {
    needs!(root);
    let cluster = Cluster::create("e2e-heal", &["--nodes", "3"]);
    cluster.ctl_with(&["apply", "-f", "-"], WEB).ok();
    cluster.ctl(&["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
    a_killed_process_is_restarted(&cluster);
    a_deleted_pod_is_replaced(&cluster);
    a_lost_node_is_replaced_and_comes_back(&cluster);
    what_cannot_start_says_why(&cluster);
}

fn pods(cluster: &Cluster) -> Vec<Value> {
    cluster.get(&["pods", "-l", "app=web"])["items"].as_array().unwrap().clone()
}

fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    pod["metadata"]["deletionTimestamp"].is_null()
        && conditions.into_iter().any(|one| one["type"] == "Ready" && one["status"] == "True")
}

fn a_killed_process_is_restarted(cluster: &Cluster) {
    let pid = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .find(|pid| {
            std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| line == b"/hello\x008090\x000\x00")
        })
        .expect("a container's process is on this machine");
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    until("one restart of one container", 30, || {
        let counts: Vec<i64> = pods(cluster)
            .iter()
            .filter_map(|pod| pod["status"]["containerStatuses"][0]["restartCount"].as_i64())
            .collect();
        (counts.iter().sum::<i64>() == 1 && pods(cluster).iter().all(ready)).then_some(())
    });
    let restarted = pods(cluster)
        .into_iter()
        .find(|pod| pod["status"]["containerStatuses"][0]["restartCount"] == 1)
        .unwrap();
    let last = &restarted["status"]["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!(last["exitCode"], 137, "{last}");
    let name = restarted["metadata"]["name"].as_str().unwrap();
    let before = cluster.ctl(&["logs", name, "--previous"]).ok();
    assert!(before.contains("listening on port 8090"), "{before}");
}

fn a_deleted_pod_is_replaced(cluster: &Cluster) {
    let name = pods(cluster)[0]["metadata"]["name"].as_str().unwrap().to_string();
    let said = cluster.ctl(&["delete", "pod", &name]).ok();
    assert!(said.contains(&format!("pod {name:?} deleted")), "{said}");
    until("three ready pods, without the deleted one", 30, || {
        let pods = pods(cluster);
        let replaced = pods.iter().all(|pod| pod["metadata"]["name"] != name.as_str());
        (replaced && pods.iter().filter(|pod| ready(pod)).count() == 3).then_some(())
    });
}

fn a_lost_node_is_replaced_and_comes_back(cluster: &Cluster) {
    let lost = pods(cluster)[0]["spec"]["nodeName"].as_str().unwrap().to_string();
    cluster.ctl(&["cluster", "node", "stop", &lost, "--cluster", &cluster.name]).ok();
    until("the node to be NotReady", 90, || {
        let nodes = cluster.ctl(&["get", "nodes", "--no-headers"]).ok();
        nodes.lines().find(|line| line.starts_with(&lost))?.contains("NotReady").then_some(())
    });
    until("three ready pods on the other nodes", 60, || {
        let nodes: BTreeSet<String> = pods(cluster)
            .iter()
            .filter(|pod| ready(pod))
            .map(|pod| pod["spec"]["nodeName"].as_str().unwrap().to_string())
            .collect();
        let count = pods(cluster).iter().filter(|pod| ready(pod)).count();
        (count == 3 && !nodes.contains(&lost)).then_some(())
    });
    cluster.ctl(&["cluster", "node", "start", &lost, "--cluster", &cluster.name]).ok();
    until("the node to be Ready again", 60, || {
        let nodes = cluster.ctl(&["get", "nodes", "--no-headers"]).ok();
        let line = nodes.lines().find(|line| line.starts_with(&lost))?;
        (!line.contains("NotReady")).then_some(())
    });
}

fn what_cannot_start_says_why(cluster: &Cluster) {
    let pod = |name: &str, image: &str, command: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  containers:\n  - \
             {{name: c, image: \"{image}\", imagePullPolicy: IfNotPresent, command: [\"{command}\"]}}\n"
        )
    };
    cluster.ctl_with(&["apply", "-f", "-"], &pod("no-image", "127.0.0.1:1/nothing:1", "/x")).ok();
    cluster
        .ctl_with(&["apply", "-f", "-"], &pod("no-command", "coracle/hello:latest", "/no/such"))
        .ok();
    let waiting = |name: &str| {
        let pod = cluster.get(&["pod", name]);
        pod["status"]["containerStatuses"][0]["state"]["waiting"].clone()
    };
    let mut reasons = BTreeSet::new();
    until("ErrImagePull and then ImagePullBackOff", 60, || {
        let waiting = waiting("no-image");
        reasons.insert(waiting["reason"].as_str()?.to_string());
        let message = waiting["message"].as_str().unwrap_or_default();
        let both = reasons.contains("ErrImagePull") && reasons.contains("ImagePullBackOff");
        (both && message.contains("127.0.0.1:1/nothing:1")).then_some(())
    });
    let described = cluster.ctl(&["describe", "pod", "no-image"]).ok();
    assert!(described.contains("Failed to pull image \"127.0.0.1:1/nothing:1\""), "{described}");
    until("a container that cannot start to say so", 60, || {
        let pod = cluster.get(&["pod", "no-command"]);
        pod.to_string().contains("/no/such").then_some(())?;
        let state = pod["status"]["containerStatuses"][0].to_string();
        (state.contains("no such file or directory") || state.contains("executable file not found"))
            .then_some(())
    });
}
