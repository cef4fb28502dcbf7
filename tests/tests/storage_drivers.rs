//! A storage driver on a real cluster: what the API knows of a volume reaches the driver, and the
//! volume the pod. The test is the driver's node part (by CSI), its attacher and its resizer (by
//! the API). Needs root.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use client::Client;
use client::kubeconfig::Kubeconfig;
use serde_json::{Value, json};
use tests::cluster::Cluster;
use tests::needs;
use tests::wait::until;

#[allow(dead_code)]
#[path = "../../agent/tests/csi/driver.rs"]
mod driver;

use driver::{Driver, NAME as DRIVER, Serving, Volumes};

fn objects() -> String {
    let secret = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
            "data": {"key": STANDARD.encode(name)}})
    };
    let reference = |name: &str| json!({"name": name, "namespace": "default"});
    let driver = json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver",
        "metadata": {"name": DRIVER}, "spec": {"attachRequired": true, "podInfoOnMount": true,
            "tokenRequests": [{"audience": "vault", "expirationSeconds": 3600}]}});
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": "disk"}, "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "persistentVolumeReclaimPolicy": "Retain", "storageClassName": "",
            "claimRef": {"namespace": "default", "name": "data"},
            "csi": {"driver": DRIVER, "volumeHandle": "h1", "fsType": "ext4",
                "volumeAttributes": {"tier": "gold"},
                "nodeStageSecretRef": reference("stage"),
                "nodePublishSecretRef": reference("publish"),
                "nodeExpandSecretRef": reference("expand")}}});
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
            "storageClassName": "", "volumeName": "disk",
            "resources": {"requests": {"storage": "1Gi"}}}});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "user"},
        "spec": {"terminationGracePeriodSeconds": 1,
            "containers": [{"name": "web", "image": "coracle/hello:latest",
                "imagePullPolicy": "IfNotPresent",
                "volumeMounts": [{"name": "data", "mountPath": "/data"}]}],
            "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]}});
    let all = [secret("stage"), secret("publish"), secret("expand"), driver, volume, claim, pod];
    all.map(|object| object.to_string()).join("\n---\n")
}

struct Test {
    cluster: Cluster,
    runtime: tokio::runtime::Runtime,
    api: Client,
    driver: Driver,
    _serving: Serving,
}

impl Test {
    /// A merge patch of what is at the path.
    fn patch(&self, path: &str, patch: Value) {
        let sent = self.api.send(
            http::Method::PATCH,
            path,
            "application/merge-patch+json",
            patch.to_string().into(),
        );
        self.runtime.block_on(sent).unwrap();
    }
}

#[test]
fn a_driver_is_told_what_the_api_knows() {
    needs!(root);
    let cluster = Cluster::create("e2e-csi", &["--nodes", "1"]);
    let folder = tempfile::tempdir().unwrap();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let kubelet = until("the agent's folder", 60, || folder_named("kubelet", &cluster.dir()));
    let registry = kubelet.join("plugins_registry");
    until("the folder of plugins", 60, || registry.exists().then_some(()));
    let (driver, _serving) = runtime.block_on(async {
        let socket = registry.join("csi-reg.sock");
        Driver::start("CSIPlugin", Volumes::Folders, folder.path(), &socket)
    });
    let config = Kubeconfig::read(&cluster.kubeconfig()).unwrap().config(None).unwrap();
    let api = Client::connect(&config).unwrap();
    let test = Test { cluster, runtime, api, driver, _serving };
    until("the driver on its node", 60, || {
        let nodes = test.cluster.get(&["csinodes"]);
        (nodes["items"][0]["spec"]["drivers"][0]["name"] == DRIVER).then_some(())
    });
    test.cluster.ctl_with(&["apply", "-f", "-"], &objects()).ok();
    waits_for_its_attacher(&test);
    let pod = is_told_everything(&test);
    grows_in_use(&test);
    test.cluster.ctl(&["delete", "pod", "user"]).ok();
    until("the end of the volume on the node", 60, || {
        (test.driver.calls_so_far() == ["unpublish h1", "unstage h1"]).then_some(())
    });
    let left = kubelet.join("pods").join(pod["metadata"]["uid"].as_str().unwrap());
    until("the end of the pod's folder", 60, || (!left.exists()).then_some(()));
}

/// Nothing is done before the volume is attached.
fn waits_for_its_attacher(test: &Test) {
    let attachment = until("the wish to attach", 60, || {
        let all = test.cluster.get(&["volumeattachments"]);
        Some(all["items"][0].clone()).filter(|one| one.is_object())
    });
    let spec = &attachment["spec"];
    assert_eq!(
        (&spec["attacher"], &spec["source"]["persistentVolumeName"]),
        (&json!(DRIVER), &json!("disk"))
    );
    assert_eq!(test.driver.calls(), [""; 0]);
    let name = attachment["metadata"]["name"].as_str().unwrap();
    let path = format!("/apis/storage.k8s.io/v1/volumeattachments/{name}/status");
    let said = json!({"attached": true, "attachmentMetadata": {"lun": "7"}});
    test.patch(&path, json!({ "status": said }));
}

fn is_told_everything(test: &Test) -> Value {
    test.cluster.ctl(&["wait", "pod/user", "--for=condition=Ready", "--timeout=60s"]).ok();
    let pod = test.cluster.get(&["pod", "user"]);
    assert_eq!(test.driver.calls(), ["stage h1", "publish h1"]);
    let pairs = |pairs: &[(&str, &str)]| {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    };
    let secret = |name: &str| -> HashMap<String, String> { pairs(&[("key", name)]) };
    let staged = test.driver.last().staged;
    assert_eq!((staged.volume_id.as_str(), &staged.secrets), ("h1", &secret("stage")));
    assert_eq!(staged.publish_context, pairs(&[("lun", "7")]));
    assert_eq!(staged.volume_context, pairs(&[("tier", "gold")]));

    let published = test.driver.last().published;
    assert_eq!((published.volume_id.as_str(), &published.secrets), ("h1", &secret("publish")));
    assert_eq!(published.publish_context, pairs(&[("lun", "7")]));
    let mut context = published.volume_context;
    let tokens = context.remove("csi.storage.k8s.io/serviceAccount.tokens").unwrap();
    let uid = pod["metadata"]["uid"].as_str().unwrap();
    let expected: HashMap<String, String> = pairs(&[
        ("tier", "gold"),
        ("csi.storage.k8s.io/pod.name", "user"),
        ("csi.storage.k8s.io/pod.namespace", "default"),
        ("csi.storage.k8s.io/pod.uid", uid),
        ("csi.storage.k8s.io/serviceAccount.name", "default"),
        ("csi.storage.k8s.io/ephemeral", "false"),
    ]);
    assert_eq!(context, expected);
    let tokens: Value = serde_json::from_str(&tokens).unwrap();
    assert!(tokens["vault"]["expirationTimestamp"].as_str().unwrap().ends_with('Z'), "{tokens}");
    let token = tokens["vault"]["token"].as_str().unwrap();
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    assert_eq!(claims["aud"], json!(["vault"]));
    assert_eq!(claims["sub"], "system:serviceaccount:default:default");
    assert_eq!(claims["kubernetes.io"]["pod"]["uid"], uid);
    let nodes = test.cluster.get(&["nodes"]);
    let used = json!([format!("kubernetes.io/csi/{DRIVER}^h1")]);
    assert_eq!(nodes["items"][0]["status"]["volumesInUse"], used);
    pod
}

/// The resizer has made the volume larger while the pod runs: its file system follows.
fn grows_in_use(test: &Test) {
    let claim = "/api/v1/namespaces/default/persistentvolumeclaims/data";
    test.patch("/api/v1/persistentvolumes/disk", json!({"spec": {"capacity": {"storage": "2Gi"}}}));
    let pending = json!([{"type": "FileSystemResizePending", "status": "True"}]);
    test.patch(&format!("{claim}/status"), json!({"status": {"conditions": pending}}));
    // The agent looks once a minute, and whenever the pod has changed.
    let changed = json!({"metadata": {"annotations": {"changed": "yes"}}});
    test.patch("/api/v1/namespaces/default/pods/user", changed);
    until("the larger file system", 90, || {
        let claim = test.cluster.get(&["pvc", "data"]);
        (claim["status"]["capacity"]["storage"] == "2Gi").then_some(())
    });
    let claim = test.cluster.get(&["pvc", "data"]);
    let conditions = claim["status"]["conditions"].as_array();
    assert!(conditions.is_none_or(Vec::is_empty), "{claim}");
    assert_eq!(test.driver.calls(), ["expand to 2147483648 h1"]);
    let expanded = test.driver.last().expanded;
    assert_eq!(expanded.capacity_range.unwrap().required_bytes, 2 << 30);
    assert_eq!(expanded.secrets["key"], "expand");
    assert_eq!(expanded.volume_path, test.driver.last().published.target_path);
    until("the event", 60, || {
        let events = test.cluster.get(&["events"]);
        let mut events = events["items"].as_array()?.iter();
        events.find(|event| event["reason"] == "FileSystemResizeSuccessful").map(drop)
    });
}

/// The first folder of this name below another.
fn folder_named(name: &str, below: &Path) -> Option<PathBuf> {
    let folders = fs::read_dir(below).ok()?.flatten().map(|entry| entry.path());
    let folders: Vec<PathBuf> = folders.filter(|path| path.is_dir()).collect();
    let own = folders.iter().find(|path| path.ends_with(name)).cloned();
    own.or_else(|| folders.iter().find_map(|folder| folder_named(name, folder)))
}
