//! Volumes on a real disk: mounts, modes, changes, and that nothing stays. Needs root.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use agent::config::NodeConfig;
use agent::cri::PodId;
use agent::downward::Facts;
use agent::environment::Sources;
use agent::pod::Pod;
use agent::volume::{Bound, Disk, Machine, Run};
use serde_json::{Value, json};

struct Bench {
    _dir: tempfile::TempDir,
    config: NodeConfig,
    disk: Machine,
}

impl Bench {
    /// None, and a word about it, without root.
    fn new() -> Option<Bench> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: mounting needs root");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let config = NodeConfig {
            root: dir.path().join("root"),
            logs: dir.path().join("logs"),
            domain: "cluster.local".into(),
            ..NodeConfig::default()
        };
        let disk = Machine::new(config.clone());
        Some(Bench { _dir: dir, config, disk })
    }

    fn mounts(&self) -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = self.config.root.to_str().unwrap();
        table.lines().filter(|line| line.contains(root)).map(String::from).collect()
    }

    async fn host_path(&self, pod: &Pod, path: &str) -> PathBuf {
        let container = &pod.spec.containers[0];
        let facts = Facts { pod_ips: vec!["10.0.0.1".into()], ..Facts::default() };
        let run = run(&facts);
        let given = self.disk.container(pod, container, run).await.unwrap();
        let found = given.mounts.iter().find(|mount| mount.container_path == path).unwrap();
        PathBuf::from(&found.host_path)
    }
}

/// The first run of a container.
fn run(facts: &Facts) -> Run<'_> {
    static NOTHING: BTreeMap<String, String> = BTreeMap::new();
    static NO_IMAGES: BTreeMap<String, proto::cri::ImageSpec> = BTreeMap::new();
    Run { attempt: 0, facts, environment: &NOTHING, images: &NO_IMAGES }
}

fn pod(volumes: Value, mounts: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "b"}},
        "spec": {"volumes": volumes, "containers": [{"name": "c", "volumeMounts": mounts}]},
    }))
    .unwrap()
}

fn id() -> PodId {
    PodId { uid: "u".into(), namespace: "n".into(), name: "p".into() }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[tokio::test]
async fn volumes_come_change_and_go() {
    let Some(bench) = Bench::new() else { return };
    let pod = pod(
        json!([
            {"name": "e", "emptyDir": {}},
            {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
            {"name": "cm", "configMap": {"name": "cm"}},
            {"name": "s", "secret": {"secretName": "s", "defaultMode": 0o400}}]),
        json!([
            {"name": "e", "mountPath": "/e"}, {"name": "m", "mountPath": "/m"},
            {"name": "cm", "mountPath": "/cm"}, {"name": "s", "mountPath": "/s"},
            {"name": "e", "mountPath": "/sub", "subPath": "a/b"}]),
    );
    let mut sources = Sources::default();
    sources.config_maps.insert("cm".into(), [("k".to_string(), b"1".to_vec())].into());
    sources.secrets.insert("s".into(), [("k".to_string(), b"x".to_vec())].into());
    let facts = Facts::default();
    bench.disk.mount(&pod, &facts, &sources).await.unwrap();
    assert_eq!(mode(&bench.host_path(&pod, "/e").await), 0o777);
    let memory = bench.host_path(&pod, "/m").await;
    assert!(fs::write(memory.join("large"), vec![0; 2 << 20]).is_err(), "the limit does not hold");
    let secret = bench.host_path(&pod, "/s").await.join("k");
    assert_eq!(mode(&secret), 0o400);
    assert!(bench.mounts().iter().any(|line| line.contains("secret") && line.contains("tmpfs")));
    let config = bench.host_path(&pod, "/cm").await.join("k");
    sources.config_maps.insert("cm".into(), [("k".to_string(), b"2".to_vec())].into());
    bench.disk.mount(&pod, &facts, &sources).await.unwrap();
    assert_eq!(fs::read_to_string(config).unwrap(), "2");
    // A restart of the container finds its subPath again.
    let sub = bench.host_path(&pod, "/sub").await;
    fs::write(sub.join("f"), "kept").unwrap();
    let again = bench.host_path(&pod, "/sub").await;
    assert_eq!(fs::read_to_string(again.join("f")).unwrap(), "kept");
    let hosts = fs::read_to_string(bench.host_path(&pod, "/etc/hosts").await).unwrap();
    assert!(hosts.contains("10.0.0.1\tp\n"), "{hosts}");
    bench.disk.unmount(&id()).await.unwrap();
    assert_eq!(bench.mounts(), Vec::<String>::new());
    bench.disk.remove(&id()).await.unwrap();
    assert!(fs::read_dir(bench.config.root.join("pods")).unwrap().next().is_none());
    assert!(fs::read_dir(&bench.config.logs).unwrap().next().is_none());
}

/// As admission gives it to every pod: in memory, changed at once, and only for its user.
#[tokio::test]
async fn the_token_of_a_pod() {
    let Some(bench) = Bench::new() else { return };
    let projected = json!({"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace",
            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}]});
    let path = "/var/run/secrets/kubernetes.io/serviceaccount";
    let mut pod = pod(
        json!([{"name": "kube-api-access-x", "projected": projected}]),
        json!([{"name": "kube-api-access-x", "mountPath": path, "readOnly": true}]),
    );
    pod.spec.security_context.run_as_user = Some(1000);
    let mut sources = Sources::default();
    let (key, facts) = ((String::new(), 3607), Facts::default());
    sources.tokens.insert(key.clone(), Err("serviceaccounts \"default\" not found".into()));
    let error = bench.disk.mount(&pod, &facts, &sources).await.unwrap_err();
    let why = "MountVolume.SetUp failed for volume \"kube-api-access-x\" : failed to fetch token: \
               serviceaccounts \"default\" not found";
    assert_eq!(error.to_string(), why);
    sources.tokens.insert(key.clone(), Ok(b"one".to_vec()));
    let error = bench.disk.mount(&pod, &facts, &sources).await.unwrap_err();
    assert!(error.to_string().ends_with(" : configmap \"kube-root-ca.crt\" not found"), "{error}");
    let authority = [("ca.crt".to_string(), b"pem".to_vec())];
    sources.config_maps.insert("kube-root-ca.crt".into(), authority.into());
    bench.disk.mount(&pod, &facts, &sources).await.unwrap();
    let folder = bench.host_path(&pod, path).await;
    let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
    assert_eq!([read("token"), read("ca.crt"), read("namespace")], ["one", "pem", "n"]);
    assert_eq!((mode(&folder.join("token")), mode(&folder.join("ca.crt"))), (0o600, 0o644));
    assert_eq!(fs::metadata(folder.join("token")).unwrap().uid(), 1000);
    assert!(bench.mounts().iter().any(|line| line.contains("kube-api-access-x")));
    sources.tokens.insert(key, Ok(b"two".to_vec()));
    bench.disk.mount(&pod, &facts, &sources).await.unwrap();
    assert_eq!(read("token"), "two");
    bench.disk.unmount(&id()).await.unwrap();
    bench.disk.remove(&id()).await.unwrap();
    assert_eq!(bench.mounts(), Vec::<String>::new());
}

#[tokio::test]
async fn a_sub_path_cannot_leave_its_volume() {
    let Some(bench) = Bench::new() else { return };
    let outside = bench.config.root.join("outside");
    fs::create_dir_all(&outside).unwrap();
    for sub in ["../..", "link", "link/deeper"] {
        let pod = pod(
            json!([{"name": "e", "emptyDir": {}}]),
            json!([{"name": "e", "mountPath": "/e"},
                   {"name": "e", "mountPath": "/sub", "subPath": sub}]),
        );
        bench.disk.mount(&pod, &Facts::default(), &Sources::default()).await.unwrap();
        let volume = bench.config.root.join("pods/u/volumes/kubernetes.io~empty-dir/e");
        // The pod's own doing.
        let _ = symlink(&outside, volume.join("link"));
        let container = &pod.spec.containers[0];
        let facts = Facts::default();
        let result = bench.disk.container(&pod, container, run(&facts)).await;
        let expected = "failed to prepare subPath for volumeMount \"e\" of container \"c\"";
        assert_eq!(result.unwrap_err().to_string(), expected, "{sub}");
    }
    bench.disk.remove(&id()).await.unwrap();
    assert!(fs::read_dir(&outside).unwrap().next().is_none());
}

#[tokio::test]
async fn what_cannot_be_mounted_is_named() {
    let Some(bench) = Bench::new() else { return };
    let table = [
        (
            json!({"iscsi": {"targetPortal": "192.0.2.1", "iqn": "x", "lun": 0}}),
            "volumes of type \"iscsi\" are not supported by this node",
        ),
        (json!({"configMap": {"name": "no"}}), "configmap \"no\" not found"),
        (
            json!({"hostPath": {"path": "/etc/passwd", "type": "Directory"}}),
            "hostPath type check failed: /etc/passwd is not a directory",
        ),
    ];
    for (mut volume, why) in table {
        volume["name"] = "v".into();
        let pod = pod(json!([volume]), json!([]));
        let result = bench.disk.mount(&pod, &Facts::default(), &Sources::default()).await;
        let expected = format!("MountVolume.SetUp failed for volume \"v\" : {why}");
        assert_eq!(result.unwrap_err().to_string(), expected);
    }
    bench.disk.remove(&id()).await.unwrap();
}
