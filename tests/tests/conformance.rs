//! What upstream's end-to-end suites ask of garbage collection, namespaces, quotas and the root
//! certificates, in a whole cluster under virtual time.

use std::time::Duration;

use bytes::Bytes;
use client::{Clock, Rng};
use http::Method;
use proto::time::Time;
use serde_json::{Value, json};
use tests::world::World;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

/// Requests as kubectl makes them.
struct Cluster {
    world: World,
}

impl Cluster {
    async fn new(seed: u64) -> Cluster {
        let cluster = Cluster { world: World::new(seed, 1).await };
        cluster.until("the default account", async || cluster.holds(ACCOUNT).await).await;
        cluster
    }

    async fn send(&self, method: Method, path: &str, body: Value) -> Result<Value, client::Error> {
        let kind = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let bytes = Bytes::from(body.to_string());
        let answer = self.world.client.send(method, path, kind, bytes).await?;
        Ok(serde_json::from_slice(&answer).unwrap())
    }

    async fn create(&self, path: &str, object: Value) -> Value {
        self.send(Method::POST, path, object).await.unwrap()
    }

    async fn change(&self, path: &str, patch: Value) -> Value {
        self.send(Method::PATCH, path, patch).await.unwrap()
    }

    async fn delete(&self, path: &str, propagation: &str) {
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1",
            "propagationPolicy": propagation});
        self.send(Method::DELETE, path, options).await.unwrap();
    }

    async fn get(&self, path: &str) -> Option<Value> {
        match self.world.client.send(Method::GET, path, "", Bytes::new()).await {
            Ok(bytes) => Some(serde_json::from_slice(&bytes).unwrap()),
            Err(error) if error.is_not_found() => None,
            Err(error) => panic!("{error}"),
        }
    }

    async fn holds(&self, path: &str) -> bool {
        self.get(path).await.is_some()
    }

    async fn until(&self, what: &str, met: impl AsyncFn() -> bool) {
        for _ in 0..600 {
            if met().await {
                return;
            }
            self.world.clock.sleep(Duration::from_millis(500)).await;
        }
        panic!("{what} did not come to be in five minutes");
    }

    async fn gone(&self, path: &str) {
        self.until(&format!("the end of {path}"), async || !self.holds(path).await).await;
    }

    /// Long enough for whatever would be collected.
    async fn rest(&self) {
        self.world.clock.sleep(Duration::from_secs(60)).await;
    }
}

const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts/default";

/// A ConfigMap with these owners.
fn map(name: &str, owners: &[Value]) -> Value {
    json!({"metadata": {"name": name, "ownerReferences": owners}})
}

fn owner(object: &Value) -> Value {
    let metadata = &object["metadata"];
    json!({"apiVersion": object["apiVersion"], "kind": object["kind"], "name": metadata["name"],
        "uid": metadata["uid"], "blockOwnerDeletion": true})
}

fn at(name: &str) -> String {
    format!("{MAPS}/{name}")
}

#[tokio::test(start_paused = true)]
async fn dependents_follow_orphan_or_go_first() {
    let cluster = Cluster::new(21).await;
    for propagation in ["Background", "Foreground", "Orphan"] {
        let name = propagation.to_lowercase();
        let (child, grandchild) = (format!("{name}-child"), format!("{name}-grandchild"));
        let top = cluster.create(MAPS, map(&name, &[])).await;
        let middle = cluster.create(MAPS, map(&child, &[owner(&top)])).await;
        let mut last = map(&grandchild, &[owner(&middle)]);
        last["metadata"]["finalizers"] = json!(["example.com/hold"]);
        cluster.create(MAPS, last).await;
        cluster.delete(&at(&name), propagation).await;
        match propagation {
            "Background" => {
                assert!(!cluster.holds(&at(&name)).await, "the owner goes at once");
                cluster.gone(&at(&child)).await;
            }
            "Foreground" => {
                cluster.rest().await;
                let waiting = cluster.get(&at(&name)).await.expect("it waits for its dependents");
                assert_eq!(waiting["metadata"]["finalizers"], json!(["foregroundDeletion"]));
                assert!(waiting["metadata"]["deletionTimestamp"].is_string());
                assert!(cluster.holds(&at(&child)).await);
            }
            _ => {
                cluster.gone(&at(&name)).await;
                cluster.rest().await;
                let child = cluster.get(&at(&child)).await.expect("orphans stay");
                assert!(child["metadata"].get("ownerReferences").is_none(), "{child}");
                let grandchild = cluster.get(&at(&grandchild)).await.unwrap();
                assert_eq!(grandchild["metadata"]["ownerReferences"][0]["name"], "orphan-child");
                continue;
            }
        }
        let ending = async || {
            let object = cluster.get(&at(&grandchild)).await.unwrap();
            object["metadata"]["deletionTimestamp"].is_string()
        };
        cluster.until("the deletion of the last", ending).await;
        cluster.change(&at(&grandchild), json!({"metadata": {"finalizers": null}})).await;
        for name in [&grandchild, &child, &name] {
            cluster.gone(&at(name)).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_circle_of_owners_does_not_block() {
    let cluster = Cluster::new(22).await;
    let pod = |name: &str| {
        json!({"metadata": {"name": name},
        "spec": {"containers": [{"name": "c", "image": "i:1"}]}})
    };
    let mut pods = Vec::new();
    for name in ["one", "two", "three"] {
        pods.push(cluster.create(PODS, pod(name)).await);
    }
    for (index, name) in ["one", "two", "three"].into_iter().enumerate() {
        let owners = json!([owner(&pods[(index + 2) % 3])]);
        let patch = json!({"metadata": {"ownerReferences": owners}});
        cluster.change(&format!("{PODS}/{name}"), patch).await;
    }
    cluster.delete(&format!("{PODS}/one"), "Foreground").await;
    for name in ["one", "two", "three"] {
        cluster.gone(&format!("{PODS}/{name}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_dependent_with_another_valid_owner_stays() {
    let cluster = Cluster::new(23).await;
    let ending = cluster.create(MAPS, map("ending", &[])).await;
    let staying = cluster.create(MAPS, map("staying", &[])).await;
    for number in 0..10 {
        let both = [owner(&ending), owner(&staying)];
        let owners = if number < 5 { &both[..] } else { &both[..1] };
        cluster.create(MAPS, map(&format!("d{number}"), owners)).await;
    }
    cluster.delete(&at("ending"), "Foreground").await;
    cluster.gone(&at("ending")).await;
    cluster.rest().await;
    for number in 0..10 {
        let dependent = cluster.get(&at(&format!("d{number}"))).await;
        if number < 5 {
            let dependent = dependent.expect("it has an owner");
            let owners = &dependent["metadata"]["ownerReferences"];
            assert_eq!(owners, &json!([owner(&staying)]));
            assert!(dependent["metadata"].get("deletionTimestamp").is_none());
        } else {
            assert_eq!(dependent, None, "d{number}");
        }
    }
}

/// What becomes of dependents whose owner is not where they say.
#[tokio::test(start_paused = true)]
async fn owners_that_cannot_be_found() {
    let cluster = Cluster::new(24).await;
    let here = cluster.create(MAPS, map("here", &[])).await;
    let there =
        cluster.create("/api/v1/namespaces/kube-system/configmaps", map("there", &[])).await;
    let node = cluster.get("/api/v1/nodes/simulated-1").await.unwrap();
    let with = |field: &str, value: &str| {
        let mut reference = owner(&here);
        reference[field] = value.into();
        reference
    };
    let no_uid = "00000000-0000-4000-8000-000000000000";
    let cases = [
        ("never-was", with("uid", no_uid), false),
        ("other-name", with("name", "elsewhere"), false),
        ("unknown-kind", with("apiVersion", "example.com/v1"), true),
        ("other-namespace", owner(&there), false),
        ("of-the-cluster", owner(&node), true),
        ("well-owned", owner(&here), true),
    ];
    for (name, reference, _) in &cases {
        cluster.create(MAPS, map(name, std::slice::from_ref(reference))).await;
    }
    let roles = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    for (name, uid) in [("real-owner", None), ("no-owner", Some(no_uid))] {
        let mut reference = owner(&here);
        if let Some(uid) = uid {
            reference["uid"] = uid.into();
        }
        cluster.create(roles, map(name, &[reference])).await;
    }
    cluster.rest().await;
    for (name, _, stays) in &cases {
        assert_eq!(cluster.holds(&at(name)).await, *stays, "{name}");
    }
    for name in ["real-owner", "no-owner"] {
        let path = format!("{roles}/{name}");
        assert!(cluster.holds(&path).await, "{name}: nobody can tell where the owner is");
    }
    let mut told = Vec::new();
    for namespace in ["default", "kube-system"] {
        let path = format!("/api/v1/namespaces/{namespace}/events");
        let events = cluster.get(&path).await.unwrap();
        let events = events["items"].as_array().unwrap();
        let mut ours: Vec<&Value> = events.iter().collect();
        ours.retain(|event| event["reason"] == "OwnerRefInvalidNamespace");
        let named = ours.iter().map(|event| event["involvedObject"]["name"].as_str().unwrap());
        told.extend(named.map(str::to_string));
    }
    told.sort();
    told.dedup();
    assert_eq!(told, ["no-owner", "other-namespace", "real-owner"]);
    let collected = cluster.get("/api/v1/namespaces/kube-system/configmaps/there").await;
    assert!(collected.is_some(), "owners are left alone");
}

#[tokio::test(start_paused = true)]
async fn a_namespace_ends_with_its_pods_first() {
    let cluster = Cluster::new(25).await;
    cluster.create("/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await;
    let account = "/api/v1/namespaces/n/serviceaccounts/default";
    cluster.until("its account", async || cluster.holds(account).await).await;
    let pod = json!({"metadata": {"name": "p", "finalizers": ["example.com/hold"]},
        "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    cluster.create("/api/v1/namespaces/n/pods", pod).await;
    cluster.create("/api/v1/namespaces/n/configmaps", map("m", &[])).await;
    cluster.delete("/api/v1/namespaces/n", "Background").await;
    cluster.rest().await;

    let namespace = cluster.get("/api/v1/namespaces/n").await.expect("the pod holds it");
    assert_eq!(namespace["status"]["phase"], "Terminating");
    let conditions = namespace["status"]["conditions"].as_array().unwrap();
    let mut said: Vec<(&str, &str)> = Vec::new();
    for condition in conditions {
        said.push((condition["type"].as_str().unwrap(), condition["status"].as_str().unwrap()));
    }
    said.sort_unstable();
    assert_eq!(
        said,
        [
            ("NamespaceContentRemaining", "True"),
            ("NamespaceDeletionContentFailure", "False"),
            ("NamespaceDeletionDiscoveryFailure", "False"),
            ("NamespaceDeletionGroupVersionParsingFailure", "False"),
            ("NamespaceFinalizersRemaining", "True"),
        ]
    );
    let map = cluster.get("/api/v1/namespaces/n/configmaps/m").await.expect("pods go first");
    assert!(map["metadata"].get("deletionTimestamp").is_none());
    cluster.change("/api/v1/namespaces/n/pods/p", json!({"metadata": {"finalizers": null}})).await;
    cluster.gone("/api/v1/namespaces/n").await;
}

#[tokio::test(start_paused = true)]
async fn every_namespace_has_the_root_certificates_again() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.crt");
    std::fs::write(&file, "-----BEGIN CERTIFICATE-----\n").unwrap();
    let options =
        controller::Options { root_ca_file: Some(file), ..controller::Options::default() };
    let clock = Clock::simulated(Time::from_unix(1_780_000_000));
    let world = World::with_controllers(clock, Rng::seeded(26), 0, options).await;
    let cluster = Cluster { world };
    let path = at("kube-root-ca.crt");
    let right = async || {
        let data = cluster.get(&path).await.map(|map| map["data"].clone());
        data == Some(json!({"ca.crt": "-----BEGIN CERTIFICATE-----\n"}))
    };
    cluster.until("the certificates", right).await;
    cluster.delete(&path, "Background").await;
    cluster.until("the certificates after deletion", right).await;
    let wrong = json!({"data": {"ca.crt": "", "more": "x"}});
    cluster.change(&path, wrong).await;
    cluster.until("the certificates after a change", right).await;
    cluster.create("/api/v1/namespaces", json!({"metadata": {"name": "n"}})).await;
    let other = "/api/v1/namespaces/n/configmaps/kube-root-ca.crt";
    cluster.until("the same in a new namespace", async || cluster.holds(other).await).await;
}

/// Everything that upstream creates under a quota is counted, and not any more when it is gone.
#[tokio::test(start_paused = true)]
async fn a_quota_counts_what_is_made_and_gives_back_what_is_gone() {
    let cluster = Cluster::new(27).await;
    let class = "gold.storageclass.storage.k8s.io";
    let service = |spec: Value| json!({"metadata": {"name": "it"}, "spec": spec});
    let ports = json!([{"port": 80}]);
    let labels = json!({"app": "a"});
    let template = json!({"metadata": {"labels": labels},
        "spec": {"containers": [{"name": "c", "image": "i:1"}]}});
    let container = json!({"name": "c", "image": "i:1", "resources": {
        "requests": {"cpu": "500m", "memory": "252Mi", "ephemeral-storage": "30Gi",
            "example.com/dongle": "2"},
        "limits": {"example.com/dongle": "2"}}});
    let claim = |class: Option<&str>| {
        json!({"metadata": {"name": "it"}, "spec": {"storageClassName": class,
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
    };
    let core = "/api/v1/namespaces/default";
    let apps = "/apis/apps/v1/namespaces/default";
    let cases = [
        (
            format!("{core}/services"),
            service(json!({"ports": ports})),
            vec![("services", "1"), ("count/services", "1")],
        ),
        (
            format!("{core}/services"),
            service(json!({"ports": ports, "type": "NodePort"})),
            vec![("services", "1"), ("services.nodeports", "1")],
        ),
        (
            format!("{core}/services"),
            service(json!({"ports": ports, "type": "LoadBalancer"})),
            vec![("services.loadbalancers", "1"), ("services.nodeports", "1")],
        ),
        (format!("{core}/secrets"), map("it", &[]), vec![("secrets", "1"), ("count/secrets", "1")]),
        (format!("{core}/configmaps"), map("it", &[]), vec![("configmaps", "1")]),
        (
            format!("{core}/persistentvolumeclaims"),
            claim(None),
            vec![("persistentvolumeclaims", "1"), ("requests.storage", "1Gi")],
        ),
        (
            format!("{core}/persistentvolumeclaims"),
            claim(Some("gold")),
            vec![
                ("persistentvolumeclaims", "1"),
                ("gold.storageclass.storage.k8s.io/persistentvolumeclaims", "1"),
                ("gold.storageclass.storage.k8s.io/requests.storage", "1Gi"),
            ],
        ),
        (
            format!("{core}/replicationcontrollers"),
            json!({"metadata": {"name": "it"},
                "spec": {"replicas": 0, "selector": labels, "template": template}}),
            vec![("replicationcontrollers", "1"), ("count/replicationcontrollers", "1")],
        ),
        (
            format!("{apps}/replicasets"),
            json!({"metadata": {"name": "it"}, "spec": {"replicas": 0,
                "selector": {"matchLabels": labels}, "template": template}}),
            vec![("count/replicasets.apps", "1")],
        ),
        (
            format!("{core}/pods"),
            json!({"metadata": {"name": "it"}, "spec": {"containers": [container]}}),
            vec![
                ("pods", "1"),
                ("cpu", "500m"),
                ("requests.memory", "252Mi"),
                ("requests.ephemeral-storage", "30Gi"),
                ("requests.example.com/dongle", "2"),
            ],
        ),
    ];
    let mut hard = json!({});
    for (_, _, costs) in &cases {
        for (name, _) in costs {
            hard[name] = "500Gi".into();
        }
    }
    assert!(hard.get(format!("{class}/requests.storage")).is_some());
    let quotas = format!("{core}/resourcequotas");
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": hard}});
    cluster.create(&quotas, quota).await;
    let used = async || {
        let quota = cluster.get(&format!("{quotas}/q")).await.unwrap();
        quota["status"]["used"].clone()
    };
    cluster.until("a count", async || used().await["pods"] == "0").await;
    let before = used().await;
    for (path, object, costs) in cases {
        cluster.create(&path, object).await;
        let after = used().await;
        for (name, cost) in &costs {
            // Only ConfigMaps are there already.
            let already = before[name].as_str().unwrap().parse::<u64>().unwrap();
            let expected = match already {
                0 => (*cost).to_string(),
                already => (already + cost.parse::<u64>().unwrap()).to_string(),
            };
            assert_eq!(after[name], expected, "{path}: {name}");
        }
        cluster.delete(&format!("{path}/it"), "Background").await;
        cluster.until("what is given back", async || used().await == before).await;
    }
}
