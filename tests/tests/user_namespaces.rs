//! Pods with `hostUsers: false` on a real cluster: root in the pod is nobody on the node, and the
//! pod's volumes are still its own. Needs root.

use std::path::PathBuf;

use serde_json::{Value, json};
use tests::cluster::Cluster;
use tests::{image, machine, needs};

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "hostUsers": false,
            "terminationGracePeriodSeconds": 1,
            "containers": [{
                "name": "shell", "image": "test/shell:1", "command": ["sleep", "3600"],
                "volumeMounts": [
                    {"name": "scratch", "mountPath": "/scratch"},
                    {"name": "memory", "mountPath": "/memory"},
                    {"name": "config", "mountPath": "/config"},
                ],
            }],
            "volumes": [
                {"name": "scratch", "emptyDir": {}},
                {"name": "memory", "emptyDir": {"medium": "Memory"}},
                {"name": "config", "configMap": {"name": "kube-root-ca.crt"}},
            ],
        },
    })
}

#[test]
fn root_in_a_pod_is_nobody_on_the_node() {
    needs!(root);
    needs!("busybox");
    let cluster = Cluster::create("e2e-users", &["--nodes", "1"]);
    let nodes = cluster.get(&["nodes"]);
    let handlers = nodes["items"][0]["status"]["runtimeHandlers"].as_array().cloned();
    let able = |handler: &Value| handler["features"]["userNamespaces"] == true;
    if !handlers.unwrap_or_default().iter().any(able) {
        eprintln!("SKIPPED: pods with users of their own need Linux 6.3 or newer");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let archive = image::shell(folder.path(), &machine::find("busybox").unwrap(), &[]);
    cluster.ctl(&["image", "load", &archive.to_string_lossy()]).ok();
    let mut firsts = Vec::new();
    for name in ["one", "two"] {
        cluster.ctl_with(&["apply", "-f", "-"], &pod(name).to_string()).ok();
        let target = format!("pod/{name}");
        cluster.ctl(&["wait", &target, "--for=condition=Ready", "--timeout=60s"]).ok();
        let process = process_of(&cluster.get(&["pod", name]));
        let maps = ["uid_map", "gid_map"].map(|file| {
            let text = std::fs::read_to_string(process.join(file)).unwrap();
            let numbers = text.split_whitespace().map(|word| word.parse().unwrap());
            numbers.collect::<Vec<u32>>()
        });
        let [0, first, length @ 65_536] = maps[0][..] else { panic!("{maps:?}") };
        assert!(first >= length && first % length == 0, "{maps:?}");
        assert_eq!(maps[0], maps[1]);
        firsts.push(first);
        // On the node it is another user; what it writes into its volumes is root's there.
        assert_eq!(owner(&process), first);
        let script = "echo x > /scratch/new && echo x > /memory/new && cat /config/ca.crt && \
                      stat -c %u /scratch/new /memory/new /config/ca.crt /";
        let said = cluster.ctl(&["exec", name, "--", "sh", "-c", script]).ok();
        assert!(said.contains("BEGIN CERTIFICATE") && said.ends_with("\n0\n0\n0\n0\n"), "{said}");
        assert_eq!(owner(&volume(&cluster, name, "scratch").join("new")), 0);
        let said = cluster.ctl(&["exec", name, "--", "cat", "/proc/self/uid_map"]).ok();
        assert_eq!(said.split_whitespace().nth(1), Some(first.to_string().as_str()));
    }
    assert_ne!(firsts[0], firsts[1], "pods do not share their ids");
}

fn owner(path: &std::path::Path) -> u32 {
    std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(path).unwrap())
}

/// `/proc/PID` of the pod's container.
fn process_of(pod: &Value) -> PathBuf {
    let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap();
    let id = id.trim_start_matches("coracle://");
    let all = std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let mut inside = all.filter(|process| {
        std::fs::read_to_string(process.join("cgroup")).is_ok_and(|text| text.contains(id))
    });
    inside.next().expect("the container runs")
}

/// Where the node keeps a pod's volume, which is no mount of its own.
fn volume(cluster: &Cluster, pod: &str, volume: &str) -> PathBuf {
    let uid = cluster.get(&["pod", pod])["metadata"]["uid"].as_str().unwrap().to_owned();
    let below = format!("kubelet/pods/{uid}/volumes/kubernetes.io~empty-dir/{volume}");
    let nodes = cluster.dir().join("nodes");
    let mut nodes = std::fs::read_dir(nodes).unwrap().flatten();
    nodes.next().expect("there is one node").path().join(below)
}
