//! Claims on a real cluster: what a container writes into a volume is there for the next one, and
//! gone when the claim is. Needs root.

use std::path::PathBuf;

use serde_json::Value;
use tests::cluster::Cluster;
use tests::needs;
use tests::wait::until;

const CLAIM: &str = r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec:
  accessModes: [ReadWriteOnce]
  resources: {requests: {storage: 1Mi}}
"#;

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: keeper}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {fsGroup: 4000}
  containers:
  - name: web
    image: coracle/hello:latest
    imagePullPolicy: IfNotPresent
    volumeMounts:
    - {name: data, mountPath: /data}
    - {name: data, mountPath: /part, subPath: a/b}
  volumes:
  - name: data
    persistentVolumeClaim: {claimName: data}
"#;

#[test]
fn what_is_written_outlives_the_pod() {
    needs!(root);
    let cluster = Cluster::create("e2e-storage", &["--nodes", "2"]);
    let classes = cluster.ctl(&["get", "storageclass"]).ok();
    assert!(classes.contains("host-path (default)"), "{classes}");
    cluster.ctl_with(&["apply", "-f", "-"], CLAIM).ok();
    cluster.ctl_with(&["apply", "-f", "-"], POD).ok();
    let first = running(&cluster);
    let seen = root_of(&first);
    std::fs::write(seen.join("data/kept"), "by the first").unwrap();
    std::fs::write(seen.join("part/deep"), "below").unwrap();
    let claim = cluster.get(&["pvc", "data"]);
    assert_eq!(claim["status"]["phase"], "Bound");
    let name = claim["spec"]["volumeName"].as_str().unwrap().to_string();
    let volume = cluster.get(&["pv", &name]);
    let folder = PathBuf::from(volume["spec"]["local"]["path"].as_str().unwrap());
    assert_eq!(std::fs::read_to_string(folder.join("kept")).unwrap(), "by the first");
    let group = std::os::unix::fs::MetadataExt::gid(&std::fs::metadata(&folder).unwrap());
    assert_eq!(group, 4000, "the fsGroup's");

    cluster.ctl(&["delete", "pod", "keeper"]).ok();
    assert!(std::fs::exists(folder.join("kept")).unwrap(), "the files went with the pod");
    cluster.ctl_with(&["apply", "-f", "-"], POD).ok();
    let second = running(&cluster);
    assert_ne!(second["metadata"]["uid"], first["metadata"]["uid"]);
    assert_eq!(second["spec"]["nodeName"], first["spec"]["nodeName"], "where the volume is");
    let seen = root_of(&second);
    assert_eq!(std::fs::read_to_string(seen.join("data/kept")).unwrap(), "by the first");
    assert_eq!(std::fs::read_to_string(seen.join("data/a/b/deep")).unwrap(), "below");

    cluster.ctl(&["delete", "pod", "keeper"]).ok();
    cluster.ctl(&["delete", "pvc", "data"]).ok();
    until("the end of the volume", 30, || {
        let volumes = cluster.get(&["pv"]);
        (volumes["items"].as_array().is_some_and(Vec::is_empty) && !folder.exists()).then_some(())
    });
}

fn running(cluster: &Cluster) -> Value {
    cluster.ctl(&["wait", "pod/keeper", "--for=condition=Ready", "--timeout=60s"]).ok();
    cluster.get(&["pod", "keeper"])
}

/// What the pod's container sees as its root.
fn root_of(pod: &Value) -> PathBuf {
    let id = pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap();
    let id = id.trim_start_matches("coracle://");
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let inside = pids.find(|pid| {
        std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(id))
    });
    format!("/proc/{}/root", inside.expect("the container runs")).into()
}
