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
use proto::view::persistent_volume::PersistentVolume;
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

fn claimed(name: &str) -> Value {
    json!({"name": name, "persistentVolumeClaim": {"claimName": "k"}})
}

/// What the API would say of the claim's volume.
fn bound(spec: Value) -> Bound {
    let volume = json!({"metadata": {"name": "pv"}, "spec": spec});
    let volume: PersistentVolume = serde_json::from_value(volume).unwrap();
    let source =
        ["local", "hostPath", "nfs", "iscsi"].into_iter().find(|it| spec.get(it).is_some());
    Bound { volume, source: source.unwrap().into(), reachable: true, ..Bound::default() }
}

fn with(claim: Bound) -> Sources {
    Sources { claims: [("v".to_string(), Ok(claim))].into(), ..Sources::default() }
}

#[tokio::test]
async fn persistent_volumes_come_and_go() {
    let Some(bench) = Bench::new() else { return };
    let disk = bench.config.root.join("disk");
    fs::create_dir_all(&disk).unwrap();
    fs::write(disk.join("old"), "1").unwrap();
    let mut pod = pod(json!([claimed("v")]), json!([{"name": "v", "mountPath": "/v"}]));
    pod.spec.security_context.fs_group = Some(4000);
    let local = json!({"local": {"path": disk}, "accessModes": ["ReadWriteOnce"]});
    let facts = Facts::default();
    bench.disk.mount(&pod, &facts, &with(bound(local.clone()))).await.unwrap();
    let seen = bench.host_path(&pod, "/v").await;
    assert!(seen.ends_with("u/volumes/kubernetes.io~local-volume/pv"), "{}", seen.display());
    assert_eq!(fs::read_to_string(seen.join("old")).unwrap(), "1");
    assert_eq!(fs::metadata(disk.join("old")).unwrap().gid(), 4000);
    fs::write(seen.join("new"), "2").unwrap();
    // What is mounted is not looked for again.
    bench.disk.mount(&pod, &facts, &Sources::default()).await.unwrap();
    // An agent that was started again finds it mounted.
    let again = Machine::new(bench.config.clone());
    again.mount(&pod, &facts, &with(bound(local.clone()))).await.unwrap();
    assert_eq!(bench.mounts().len(), 1);
    bench.disk.unmount(&id()).await.unwrap();
    assert_eq!(bench.mounts(), Vec::<String>::new());
    assert_eq!(fs::read_to_string(disk.join("new")).unwrap(), "2", "the data went with the pod");

    // Only to be read; with options.
    let mut reader = bound(local);
    reader.read_only = true;
    reader.volume.spec.mount_options = vec!["noexec".into()];
    bench.disk.mount(&pod, &facts, &with(reader)).await.unwrap();
    let seen = bench.host_path(&pod, "/v").await;
    assert!(fs::write(seen.join("more"), "3").is_err(), "it can be written");
    assert!(bench.mounts()[0].contains("noexec"), "{:?}", bench.mounts());
    let given = bench.disk.container(&pod, &pod.spec.containers[0], run(&facts)).await.unwrap();
    assert!(given.mounts[0].readonly);
    bench.disk.unmount(&id()).await.unwrap();
    bench.disk.remove(&id()).await.unwrap();
    assert!(disk.join("new").exists());
    assert!(fs::read_dir(bench.config.root.join("pods")).unwrap().next().is_none());
}

#[tokio::test]
async fn a_device_is_given_to_the_container() {
    let Some(bench) = Bench::new() else { return };
    fs::create_dir_all(&bench.config.root).unwrap();
    let device = bench.config.root.join("disk");
    let (kind, mode) = (rustix::fs::FileType::BlockDevice, rustix::fs::Mode::from_raw_mode(0o600));
    let number = rustix::fs::makedev(7, 200);
    rustix::fs::mknodat(rustix::fs::CWD, &device, kind, mode, number).unwrap();
    let mut pod = pod(json!([claimed("v")]), json!([]));
    let devices = json!([{"name": "v", "devicePath": "/dev/xvda"}]);
    pod.spec.containers[0].volume_devices = serde_json::from_value(devices).unwrap();
    let spec = json!({"local": {"path": device}, "volumeMode": "Block"});
    let facts = Facts::default();
    bench.disk.mount(&pod, &facts, &with(bound(spec.clone()))).await.unwrap();
    let given = bench.disk.container(&pod, &pod.spec.containers[0], run(&facts)).await.unwrap();
    let [given] = given.devices.as_slice() else { panic!("{:?}", given.devices) };
    assert_eq!(given.container_path, "/dev/xvda");
    assert_eq!((Path::new(&given.host_path), &*given.permissions), (device.as_path(), "rwm"));
    bench.disk.unmount(&id()).await.unwrap();
    bench.disk.remove(&id()).await.unwrap();
    assert!(device.exists());
    // A volume is used as what it is.
    let mounts = json!([{"name": "v", "mountPath": "/v"}]);
    pod.spec.containers[0].volume_mounts = serde_json::from_value(mounts).unwrap();
    let error = bench.disk.mount(&pod, &facts, &with(bound(spec))).await.unwrap_err();
    let why = "volume v has volumeMode Block, but is specified in volumeMounts";
    assert_eq!(error.to_string(), why);
    bench.disk.remove(&id()).await.unwrap();
}

#[tokio::test]
async fn claims_that_cannot_be_mounted() {
    let Some(bench) = Bench::new() else { return };
    let dir = bench.config.root.join("disk");
    fs::create_dir_all(&dir).unwrap();
    let pod = pod(json!([claimed("v")]), json!([{"name": "v", "mountPath": "/v"}]));
    let facts = Facts::default();
    let unbound = Sources {
        claims: [("v".to_string(), Err("error processing PVC n/k: PVC is not bound".into()))]
            .into(),
        ..Sources::default()
    };
    let error = bench.disk.mount(&pod, &facts, &unbound).await.unwrap_err();
    let why = "Unable to attach or mount volumes: unmounted volumes=[v], unattached volumes=[], \
               failed to process volumes=[v]: error processing PVC n/k: PVC is not bound";
    assert_eq!(error.to_string(), why);
    let elsewhere = Bound { reachable: false, ..bound(json!({"local": {"path": dir}})) };
    let error = bench.disk.mount(&pod, &facts, &with(elsewhere)).await.unwrap_err();
    let why = "MountVolume.NodeAffinity check failed for volume \"pv\" : no matching \
               NodeSelectorTerms";
    assert_eq!(error.to_string(), why);
    for (spec, why) in [
        (json!({"local": {"path": "/nowhere"}}), "path \"/nowhere\" does not exist"),
        (json!({"local": {"path": "/etc/passwd"}}), "/etc/passwd is not a folder"),
        (
            json!({"local": {"path": dir}, "mountOptions": ["acl"]}),
            "mount option \"acl\" is not supported here: leave it out",
        ),
        (
            json!({"hostPath": {"path": dir}, "mountOptions": ["ro"]}),
            "Mount options are not supported by the provided plugin",
        ),
        (
            json!({"hostPath": {"path": dir, "type": "File"}}),
            &format!("hostPath type check failed: {} is not a file", dir.display()),
        ),
        (json!({"iscsi": {}}), "volumes of type \"iscsi\" are not supported by this node"),
        (
            json!({"nfs": {"server": "192.0.2.1", "path": "/"}, "mountOptions": ["nfsvers=3"]}),
            "mount option \"nfsvers=3\" is not supported here: leave it out",
        ),
    ] {
        let error = bench.disk.mount(&pod, &facts, &with(bound(spec.clone()))).await.unwrap_err();
        let expected = format!("MountVolume.SetUp failed for volume \"pv\" : {why}");
        assert_eq!(error.to_string(), expected, "{spec}");
    }
    // One pod has it; the other waits for its turn.
    let alone = json!({"local": {"path": dir}, "accessModes": ["ReadWriteOncePod"]});
    let mut first = pod.clone();
    first.metadata.uid = "first".into();
    bench.disk.mount(&first, &facts, &with(bound(alone.clone()))).await.unwrap();
    let error = bench.disk.mount(&pod, &facts, &with(bound(alone.clone()))).await.unwrap_err();
    assert!(error.to_string().ends_with("is already in use by another pod"), "{error}");
    let first = PodId { uid: "first".into(), ..id() };
    bench.disk.unmount(&first).await.unwrap();
    bench.disk.remove(&first).await.unwrap();
    bench.disk.mount(&pod, &facts, &with(bound(alone))).await.unwrap();
    bench.disk.unmount(&id()).await.unwrap();
    bench.disk.remove(&id()).await.unwrap();
    assert_eq!(bench.mounts(), Vec::<String>::new());
}

#[tokio::test]
async fn an_image_is_left_to_the_runtime() {
    let Some(bench) = Bench::new() else { return };
    let pod = pod(
        json!([{"name": "i", "image": {"reference": "registry.example/files:1"}}]),
        json!([{"name": "i", "mountPath": "/i", "subPath": "docs"}]),
    );
    let facts = Facts::default();
    bench.disk.mount(&pod, &facts, &Sources::default()).await.unwrap();
    let spec = proto::cri::ImageSpec { image: "sha256:1".into(), ..Default::default() };
    let images = [("i".to_string(), spec.clone())].into();
    let run = Run { images: &images, ..run(&facts) };
    let given = bench.disk.container(&pod, &pod.spec.containers[0], run).await.unwrap();
    let mount = &given.mounts[0];
    assert_eq!((mount.image.as_ref(), &*mount.image_sub_path), (Some(&spec), "docs"));
    assert!(mount.readonly && mount.host_path.is_empty());
    bench.disk.remove(&id()).await.unwrap();
}

/// The folder of an agent that is to be killed; see below.
const KILLED: &str = "TEST_ROOT_OF_A_KILLED_AGENT";

/// No test by itself: the other process of the next one.
#[tokio::test]
async fn is_killed_at_work() {
    let Ok(root) = std::env::var(KILLED) else { return };
    let config = NodeConfig { root: Path::new(&root).join("root"), ..NodeConfig::default() };
    let disk = Machine::new(config.clone());
    let kept = config.root.join("disk");
    fs::create_dir_all(&kept).unwrap();
    fs::write(kept.join("f"), "kept").unwrap();
    let pod = pod(
        json!([claimed("v"), {"name": "m", "emptyDir": {"medium": "Memory"}},
            {"name": "bad", "configMap": {"name": "missing"}}]),
        json!([{"name": "v", "mountPath": "/v"}, {"name": "v", "mountPath": "/s", "subPath": "a"}]),
    );
    let sources = with(bound(json!({"local": {"path": kept}})));
    let facts = Facts::default();
    disk.mount(&pod, &facts, &sources).await.unwrap_err();
    disk.container(&pod, &pod.spec.containers[0], run(&facts)).await.unwrap();
    let own = rustix::process::getpid();
    rustix::process::kill_process(own, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn what_a_killed_agent_leaves_is_cleaned_up() {
    let Some(bench) = Bench::new() else { return };
    let status = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "is_killed_at_work", "--nocapture"])
        .env(KILLED, bench.config.root.parent().unwrap())
        .status()
        .unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9));
    assert_eq!(
        bench.mounts().len(),
        3,
        "the volume, its part and the memory: {:?}",
        bench.mounts()
    );
    let disk = Machine::new(bench.config.clone());
    let orphans = disk.pods().await;
    assert_eq!(orphans.iter().map(|pod| &*pod.uid).collect::<Vec<_>>(), ["u"]);
    for orphan in orphans {
        disk.unmount(&orphan).await.unwrap();
        disk.remove(&orphan).await.unwrap();
    }
    assert_eq!(bench.mounts(), Vec::<String>::new());
    assert!(fs::read_dir(bench.config.root.join("pods")).unwrap().next().is_none());
    assert_eq!(fs::read_to_string(bench.config.root.join("disk/f")).unwrap(), "kept");
}
