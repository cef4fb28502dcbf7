//! A storage driver of our own, over its real sockets: it makes itself known, brings volumes to
//! pods and takes them away. Needs root, as it mounts.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
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
use proto::csi::node_server::{Node, NodeServer};
use proto::csi::node_service_capability::{Rpc, Type, rpc};
use proto::csi::*;
use proto::registration::registration_server::{Registration as Registers, RegistrationServer};
use proto::registration::*;
use proto::user::User;
use proto::view::persistent_volume::PersistentVolume;
use rustix::mount::{MountFlags, UnmountFlags};
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::Notify;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Response as Answer, Status};

type Said<T> = Result<Answer<T>, Status>;

/// Stages a tmpfs for each volume, and binds it where a pod is to have it.
#[derive(Clone, Default)]
struct Driver(Arc<State>);

#[derive(Default)]
struct State {
    calls: Mutex<Vec<String>>,
    /// The next publication fails.
    fails: Mutex<bool>,
    context: Mutex<HashMap<String, String>>,
    told: Mutex<Option<RegistrationStatus>>,
    registered: Notify,
    kind: Mutex<String>,
    endpoint: Mutex<String>,
}

impl Driver {
    fn note(&self, call: &str, volume: &str) {
        self.0.calls.lock().push(format!("{call} {volume}"));
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.calls.lock())
    }
}

fn failed(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

fn is_mounted(path: &str) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    table.lines().any(|line| line.split(' ').nth(4) == Some(path))
}

fn unmount(path: &str) -> Result<(), Status> {
    match is_mounted(path) {
        true => rustix::mount::unmount(path, UnmountFlags::DETACH).map_err(failed),
        false => Ok(()),
    }
}

#[tonic::async_trait]
impl Node for Driver {
    async fn node_stage_volume(
        &self,
        request: tonic::Request<NodeStageVolumeRequest>,
    ) -> Said<NodeStageVolumeResponse> {
        let request = request.into_inner();
        self.note("stage", &request.volume_id);
        let path = request.staging_target_path.as_str();
        if !is_mounted(path) {
            rustix::mount::mount("tmpfs", path, "tmpfs", MountFlags::NOSUID, None)
                .map_err(failed)?;
            fs::write(Path::new(path).join("of"), &request.volume_id).map_err(failed)?;
        }
        Ok(Answer::new(NodeStageVolumeResponse {}))
    }

    async fn node_unstage_volume(
        &self,
        request: tonic::Request<NodeUnstageVolumeRequest>,
    ) -> Said<NodeUnstageVolumeResponse> {
        let request = request.into_inner();
        self.note("unstage", &request.volume_id);
        unmount(&request.staging_target_path)?;
        Ok(Answer::new(NodeUnstageVolumeResponse {}))
    }

    async fn node_publish_volume(
        &self,
        request: tonic::Request<NodePublishVolumeRequest>,
    ) -> Said<NodePublishVolumeResponse> {
        let request = request.into_inner();
        self.note("publish", &request.volume_id);
        *self.0.context.lock() = request.volume_context;
        if std::mem::take(&mut *self.0.fails.lock()) {
            return Err(Status::unavailable("the disk is away"));
        }
        let target = request.target_path.as_str();
        fs::create_dir_all(target).map_err(failed)?;
        if !is_mounted(target) && !request.staging_target_path.is_empty() {
            rustix::mount::mount_bind(request.staging_target_path, target).map_err(failed)?;
        }
        Ok(Answer::new(NodePublishVolumeResponse {}))
    }

    async fn node_unpublish_volume(
        &self,
        request: tonic::Request<NodeUnpublishVolumeRequest>,
    ) -> Said<NodeUnpublishVolumeResponse> {
        let request = request.into_inner();
        self.note("unpublish", &request.volume_id);
        unmount(&request.target_path)?;
        Ok(Answer::new(NodeUnpublishVolumeResponse {}))
    }

    async fn node_get_volume_stats(
        &self,
        _: tonic::Request<NodeGetVolumeStatsRequest>,
    ) -> Said<NodeGetVolumeStatsResponse> {
        Err(Status::unimplemented("no statistics"))
    }

    async fn node_expand_volume(
        &self,
        request: tonic::Request<NodeExpandVolumeRequest>,
    ) -> Said<NodeExpandVolumeResponse> {
        let request = request.into_inner();
        let capacity_bytes = request.capacity_range.map_or(0, |range| range.required_bytes);
        self.note(&format!("expand to {capacity_bytes}"), &request.volume_id);
        Ok(Answer::new(NodeExpandVolumeResponse { capacity_bytes }))
    }

    async fn node_get_capabilities(
        &self,
        _: tonic::Request<NodeGetCapabilitiesRequest>,
    ) -> Said<NodeGetCapabilitiesResponse> {
        let can = |what: rpc::Type| NodeServiceCapability {
            r#type: Some(Type::Rpc(Rpc { r#type: what as i32 })),
        };
        let capabilities = vec![can(rpc::Type::StageUnstageVolume), can(rpc::Type::ExpandVolume)];
        Ok(Answer::new(NodeGetCapabilitiesResponse { capabilities }))
    }

    async fn node_get_info(
        &self,
        _: tonic::Request<NodeGetInfoRequest>,
    ) -> Said<NodeGetInfoResponse> {
        let segments = [("topology.example.com/rack".to_string(), "r1".to_string())];
        Ok(Answer::new(NodeGetInfoResponse {
            node_id: "id-of-n".into(),
            max_volumes_per_node: 5,
            accessible_topology: Some(Topology { segments: segments.into() }),
        }))
    }
}

#[tonic::async_trait]
impl Registers for Driver {
    async fn get_info(&self, _: tonic::Request<InfoRequest>) -> Said<PluginInfo> {
        Ok(Answer::new(PluginInfo {
            r#type: self.0.kind.lock().clone(),
            name: "csi.example.com".into(),
            endpoint: self.0.endpoint.lock().clone(),
            supported_versions: vec!["1.0.0".into()],
        }))
    }

    async fn notify_registration_status(
        &self,
        request: tonic::Request<RegistrationStatus>,
    ) -> Said<RegistrationStatusResponse> {
        *self.0.told.lock() = Some(request.into_inner());
        self.0.registered.notify_one();
        Ok(Answer::new(RegistrationStatusResponse {}))
    }
}

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
    _tasks: Vec<AbortOnDropHandle<()>>,
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
        let (driver, api) = (Driver::default(), Api::default());
        let own = dir.path().join("csi.sock");
        *driver.0.kind.lock() = kind.into();
        *driver.0.endpoint.lock() = own.display().to_string();
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
        let serve = |path: &Path, router: tonic::transport::server::Router| {
            let listener = UnixListenerStream::new(UnixListener::bind(path).unwrap());
            let server = router.serve_with_incoming(listener);
            AbortOnDropHandle::new(tokio::spawn(async move { server.await.unwrap() }))
        };
        let socket = registry.join("csi.example.com-reg.sock");
        let nodes = NodeServer::new(driver.clone());
        let registers = RegistrationServer::new(driver.clone());
        let tasks = vec![
            AbortOnDropHandle::new(tokio::spawn(drivers.keep())),
            serve(&own, tonic::transport::Server::builder().add_service(nodes)),
            serve(&socket, tonic::transport::Server::builder().add_service(registers)),
        ];
        driver.0.registered.notified().await;
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
    let told = bench.driver.0.told.lock().clone().unwrap();
    assert!(told.plugin_registered, "{}", told.error);
    let node = bench.api.get(NODE);
    let annotations = &node["metadata"]["annotations"];
    assert_eq!(annotations["csi.volume.kubernetes.io/nodeid"], "{\"csi.example.com\":\"id-of-n\"}");
    assert_eq!(node["metadata"]["labels"]["topology.example.com/rack"], "r1");
    let known = bench.api.get(CSI_NODE);
    assert_eq!(known["metadata"]["ownerReferences"][0]["uid"], "of-n");
    assert_eq!(
        known["spec"]["drivers"],
        json!([{"name": "csi.example.com", "nodeID": "id-of-n",
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
    let told = bench.driver.0.told.lock().clone().unwrap();
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
    assert_eq!(bench.driver.0.context.lock()["csi.storage.k8s.io/pod.uid"], "b");
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
    *bench.driver.0.fails.lock() = true;
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
    assert_eq!(bench.driver.0.context.lock()["csi.storage.k8s.io/ephemeral"], "true");
    bench.end("a").await;
    assert_eq!(bench.driver.calls(), [format!("unpublish {handle}")]);
    assert!(bench.is_clean());
}
