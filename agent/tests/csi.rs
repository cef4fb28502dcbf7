//! A storage driver of our own, over its real sockets: it makes itself known, brings volumes to
//! pods and takes them away. Needs root, as it mounts.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use agent::config::NodeConfig;
use agent::cri::PodId;
use agent::csi::{Plugins, Registration, Wanted};
use agent::downward::Facts;
use agent::environment::Sources;
use agent::plugins::Registry;
use agent::pod::Pod;
use agent::volume::{Bound, Disk, Machine};
use bytes::Bytes;
use client::{Client, Clock};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use parking_lot::Mutex;
use proto::user::User;
use proto::view::persistent_volume::PersistentVolume;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

#[allow(dead_code)]
#[path = "csi/driver.rs"]
mod driver;

use driver::{Driver, Serving, Volumes};

/// An API server that keeps objects by their paths, and merges what it is sent.
#[derive(Clone, Default)]
struct Api {
    objects: Arc<Mutex<BTreeMap<String, Value>>>,
    changed: Arc<Notify>,
}

impl Api {
    fn client(&self) -> Client {
        let api = self.clone();
        let service = tower::service_fn(move |request: Request<Full<Bytes>>| {
            let api = api.clone();
            async move { Ok::<_, Infallible>(api.answer(request).await) }
        });
        Client::in_process(client::Service::new(service), User::new("system:node:n", &[]))
    }

    async fn answer(&self, request: Request<Full<Bytes>>) -> Response<client::Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let sent: Value = serde_json::from_slice(&body).unwrap_or_default();
        let mut path = parts.uri.path().to_string();
        let mut objects = self.objects.lock();
        if parts.method == Method::POST {
            path = format!("{path}/{}", sent["metadata"]["name"].as_str().unwrap());
            objects.insert(path.clone(), sent);
        } else if let Some(known) = objects.get_mut(&path) {
            merge(known, sent);
        }
        let found = objects.get(&path).cloned();
        drop(objects);
        self.changed.notify_waiters();
        let missing = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure",
            "code": 404, "reason": "NotFound", "message": "not found"});
        let code = if found.is_some() { 200 } else { 404 };
        let body = Full::new(Bytes::from(found.unwrap_or(missing).to_string()));
        let body = body.map_err(client::BoxError::from).boxed_unsync();
        Response::builder().status(code).body(body).unwrap()
    }

    fn get(&self, path: &str) -> Value {
        self.objects.lock().get(path).cloned().unwrap_or_default()
    }
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                match value {
                    Value::Null => drop(into.remove(&key)),
                    value => merge(into.entry(key).or_insert(Value::Null), value),
                }
            }
        }
        (_, Value::Null) => {}
        (into, from) => *into = from,
    }
}

const NODE: &str = "/api/v1/nodes/n";
const CSI_NODE: &str = "/apis/storage.k8s.io/v1/csinodes/n";

struct Bench {
    _dir: tempfile::TempDir,
    config: NodeConfig,
    plugins: Plugins,
    disk: Machine,
    driver: Driver,
    api: Api,
    socket: PathBuf,
    _tasks: Serving,
}

impl Bench {
    /// A driver of this kind of plugin; None, and a word about it, without root.
    async fn new(kind: &str) -> Option<Bench> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: mounting needs root");
            return None;
        }
        let dir = tempfile::tempdir().unwrap();
        let config = NodeConfig {
            root: dir.path().join("root"),
            logs: dir.path().join("logs"),
            ..NodeConfig::default()
        };
        let registry = config.root.join("plugins_registry");
        fs::create_dir_all(&registry).unwrap();
        let api = Api::default();
        let node = json!({"metadata": {"name": "n", "uid": "of-n", "resourceVersion": "1"}});
        api.objects.lock().insert(NODE.into(), node);
        let plugins = Plugins::default();
        let registration =
            Registration { plugins: plugins.clone(), client: api.client(), node: "n".into() };
        let drivers = Registry {
            clock: Clock::system(),
            folder: registry.clone(),
            handlers: vec![Arc::new(registration)],
        };
        let socket = registry.join("csi.example.com-reg.sock");
        let keep = AbortOnDropHandle::new(tokio::spawn(drivers.keep()));
        let (driver, mut tasks) = Driver::start(kind, Volumes::Mounted, dir.path(), &socket);
        tasks.push(keep);
        driver.told().await;
        let disk = Machine::with_plugins(config.clone(), plugins.clone());
        Some(Bench { _dir: dir, config, plugins, disk, driver, api, socket, _tasks: tasks })
    }

    fn mounts(&self) -> usize {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = self.config.root.to_str().unwrap();
        table.lines().filter(|line| line.contains(root)).count()
    }

    /// Nothing of any volume or pod is left.
    fn is_clean(&self) -> bool {
        let empty = |path: &str| {
            let folder = self.config.root.join(path);
            fs::read_dir(folder).is_ok_and(|mut all| all.next().is_none())
        };
        let staged = self.config.root.join("plugins/kubernetes.io/csi/csi.example.com");
        let staged = fs::read_dir(staged).into_iter().flatten().count();
        self.mounts() == 0 && empty("pods") && staged == 0
    }

    async fn end(&self, uid: &str) {
        let pod = PodId { uid: uid.into(), namespace: "n".into(), name: "p".into() };
        self.disk.unmount(&pod).await.unwrap();
        self.disk.remove(&pod).await.unwrap();
    }
}

fn pod(uid: &str, volume: Value) -> Pod {
    let mut volume = volume;
    volume["name"] = "v".into();
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": uid},
        "spec": {"volumes": [volume], "securityContext": {"fsGroup": 4000},
            "containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}]},
    }))
    .unwrap()
}

fn claimed(uid: &str) -> Pod {
    pod(uid, json!({"persistentVolumeClaim": {"claimName": "k"}}))
}

fn sources() -> Sources {
    let volume = json!({"metadata": {"name": "pv"}});
    let wanted = Wanted {
        name: "pv".into(),
        driver: "csi.example.com".into(),
        handle: "h1".into(),
        group_policy: "File".into(),
        pod_info: true,
        ..Wanted::default()
    };
    let bound = Bound {
        volume: serde_json::from_value::<PersistentVolume>(volume).unwrap(),
        source: "csi".into(),
        csi: Some(Box::new(wanted)),
        reachable: true,
        ..Bound::default()
    };
    Sources { claims: [("v".to_string(), Ok(bound))].into(), ..Sources::default() }
}

#[tokio::test]
async fn a_driver_makes_itself_known_and_goes() {
    let Some(bench) = Bench::new("CSIPlugin").await else { return };
    let told = bench.driver.told().await;
    assert!(told.plugin_registered, "{}", told.error);
    let node = bench.api.get(NODE);
    let annotations = &node["metadata"]["annotations"];
    assert_eq!(
        annotations["csi.volume.kubernetes.io/nodeid"],
        "{\"csi.example.com\":\"id-of-node\"}"
    );
    assert_eq!(node["metadata"]["labels"]["topology.example.com/rack"], "r1");
    let known = bench.api.get(CSI_NODE);
    assert_eq!(known["metadata"]["ownerReferences"][0]["uid"], "of-n");
    assert_eq!(
        known["spec"]["drivers"],
        json!([{"name": "csi.example.com", "nodeID": "id-of-node",
            "topologyKeys": ["topology.example.com/rack"], "allocatable": {"count": 5}}])
    );
    let gone = async {
        loop {
            let changed = bench.api.changed.notified();
            if bench.api.get(CSI_NODE)["spec"]["drivers"] == json!([]) {
                return;
            }
            changed.await;
        }
    };
    fs::remove_file(&bench.socket).unwrap();
    gone.await;
    assert!(bench.plugins.get("csi.example.com").is_none());
    let error = bench.disk.mount(&claimed("a"), &Facts::default(), &sources()).await.unwrap_err();
    let why = "MountVolume.SetUp failed for volume \"pv\" : driver name csi.example.com not found \
               in the list of registered CSI drivers";
    assert_eq!(error.to_string(), why);
}

#[tokio::test]
async fn other_plugins_are_told_why_not() {
    let Some(bench) = Bench::new("DRAPlugin").await else { return };
    let told = bench.driver.told().await;
    let why = "plugins of type \"DRAPlugin\" are not supported by this node";
    assert_eq!((told.plugin_registered, told.error.as_str()), (false, why));
    assert!(bench.api.get(CSI_NODE).is_null());
}

#[tokio::test]
async fn volumes_are_staged_once_and_published_to_each_pod() {
    let Some(bench) = Bench::new("CSIPlugin").await else { return };
    let facts = Facts::default();
    for uid in ["a", "b"] {
        bench.disk.mount(&claimed(uid), &facts, &sources()).await.unwrap();
    }
    assert_eq!(bench.driver.calls(), ["stage h1", "publish h1", "stage h1", "publish h1"]);
    assert_eq!(bench.driver.last().published.volume_context["csi.storage.k8s.io/pod.uid"], "b");
    let target = |uid: &str| {
        bench.config.root.join(format!("pods/{uid}/volumes/kubernetes.io~csi/pv/mount"))
    };
    assert_eq!(fs::read_to_string(target("a").join("of")).unwrap(), "h1");
    assert_eq!(fs::metadata(target("a").join("of")).unwrap().gid(), 4000, "the fsGroup's");
    fs::write(target("a").join("shared"), "x").unwrap();
    assert_eq!(fs::read_to_string(target("b").join("shared")).unwrap(), "x");
    bench.end("a").await;
    assert_eq!(bench.driver.calls(), ["unpublish h1"]);
    assert!(target("b").join("shared").exists());
    bench.end("b").await;
    assert_eq!(bench.driver.calls(), ["unpublish h1", "unstage h1"]);
    assert!(bench.is_clean());
}

#[tokio::test]
async fn a_volume_that_has_grown() {
    let Some(bench) = Bench::new("CSIPlugin").await else { return };
    let mut sources = sources();
    for bound in sources.claims.values_mut().flatten() {
        bound.csi.as_mut().unwrap().grow_to = Some(2048);
    }
    bench.disk.mount(&claimed("a"), &Facts::default(), &sources).await.unwrap();
    assert_eq!(bench.driver.calls(), ["stage h1", "publish h1", "expand to 2048 h1"]);
    bench.end("a").await;
    assert!(bench.is_clean());
}

#[tokio::test]
async fn a_volume_grows_under_its_pod() {
    let Some(bench) = Bench::new("CSIPlugin").await else { return };
    let (pod, sources) = (claimed("a"), sources());
    bench.disk.mount(&pod, &Facts::default(), &sources).await.unwrap();
    bench.driver.calls();
    let bound = sources.claims["v"].as_ref().unwrap();
    let mut wanted = bound.csi.as_deref().unwrap().clone();
    wanted.grow_to = Some(4096);
    bench.disk.grow(&pod, &wanted).await.unwrap();
    assert_eq!(bench.driver.calls(), ["expand to 4096 h1"]);
    wanted.driver = "gone.example.com".into();
    let error = bench.disk.grow(&pod, &wanted).await.unwrap_err();
    let why = "NodeExpandVolume.NodeExpandVolume failed for volume \"pv\" : driver name \
               gone.example.com not found in the list of registered CSI drivers";
    assert_eq!(error.to_string(), why);
    bench.end("a").await;
    assert!(bench.is_clean());
}

#[tokio::test]
async fn whatever_was_begun_is_undone_after_a_restart() {
    let Some(bench) = Bench::new("CSIPlugin").await else { return };
    bench.driver.fail();
    let error = bench.disk.mount(&claimed("a"), &Facts::default(), &sources()).await.unwrap_err();
    let why = "MountVolume.SetUp failed for volume \"pv\" : rpc error: code = Unavailable desc = \
               the disk is away";
    assert_eq!(error.to_string(), why);
    bench.driver.calls();
    // An agent that remembers nothing and whose pod is gone from the API.
    let fresh = Machine::with_plugins(bench.config.clone(), bench.plugins.clone());
    for orphan in fresh.pods().await {
        fresh.unmount(&orphan).await.unwrap();
        fresh.remove(&orphan).await.unwrap();
    }
    assert_eq!(bench.driver.calls(), ["unpublish h1", "unstage h1"]);
    assert!(bench.is_clean());
}

#[tokio::test]
async fn a_volume_of_the_pods_own_is_only_published() {
    let Some(bench) = Bench::new("CSIPlugin").await else { return };
    let pod = pod("a", json!({"csi": {"driver": "csi.example.com"}}));
    let wanted = Wanted {
        name: "v".into(),
        driver: "csi.example.com".into(),
        handle: agent::csi::inline_handle("a", "v"),
        ephemeral: true,
        pod_info: true,
        ..Wanted::default()
    };
    let handle = wanted.handle.clone();
    let sources = Sources { inline: [("v".to_string(), Ok(wanted))].into(), ..Sources::default() };
    bench.disk.mount(&pod, &Facts::default(), &sources).await.unwrap();
    assert_eq!(bench.driver.calls(), [format!("publish {handle}")]);
    assert_eq!(
        bench.driver.last().published.volume_context["csi.storage.k8s.io/ephemeral"],
        "true"
    );
    bench.end("a").await;
    assert_eq!(bench.driver.calls(), [format!("unpublish {handle}")]);
    assert!(bench.is_clean());
}
