//! The resource metrics API, with a node's agent that this test plays.

#[path = "http/agent.rs"]
mod agent;
#[path = "http/api.rs"]
mod api;
#[path = "http/served.rs"]
mod served;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use api::{PODS, pod};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use serde_json::{Value, json};
use served::Served;

const GROUP: &str = "/apis/metrics.k8s.io/v1beta1";

/// The figures of the n-th time that they are asked for: ten seconds after the last, in which the node
/// used half a core and its container a quarter.
fn figures(turn: u32) -> String {
    let turn = f64::from(turn);
    let at = 1_700_000_000_000.0 + turn * 10_000.0;
    let of = r#"{container="c",namespace="default",pod="p"}"#;
    format!(
        "# TYPE node_cpu_usage_seconds_total counter\n\
         node_cpu_usage_seconds_total {} {at}\n\
         # TYPE node_memory_working_set_bytes gauge\n\
         node_memory_working_set_bytes 1073741824 {at}\n\
         container_cpu_usage_seconds_total{of} {} {at}\n\
         container_memory_working_set_bytes{of} 2097152 {at}\n\
         container_start_time_seconds{of} 1699999000\n",
        100.0 + turn * 5.0,
        7.0 + turn * 2.5,
    )
}

struct Cluster {
    _served: Served,
    admin: client::Client,
    turns: Arc<AtomicU32>,
    port: u16,
}

impl Cluster {
    async fn start() -> Cluster {
        let served = Served::start(&[]).await;
        let turns = Arc::new(AtomicU32::new(0));
        let counted = turns.clone();
        let port = agent::listen(&served, move |request| {
            assert_eq!(request.uri().path(), "/metrics/resource");
            let text = figures(counted.fetch_add(1, Relaxed));
            async move { Ok(Response::new(Full::from(text))) }
        })
        .await;
        Cluster { admin: served.admin(), _served: served, turns, port }
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Said {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Bytes::from(body.to_string())).unwrap();
        let response = self.admin.request(request).await.unwrap();
        let code = response.status().as_u16();
        Said { code, bytes: response.into_body().collect().await.unwrap().to_bytes() }
    }

    async fn get(&self, path: &str) -> Said {
        self.send("GET", path, &[], "").await
    }

    async fn write(&self, method: &str, path: &str, object: Value) {
        let kind = match method {
            "PATCH" => "application/merge-patch+json",
            _ => "application/json",
        };
        let said = self.send(method, path, &[("content-type", kind)], &object.to_string()).await;
        assert!(said.code < 300, "{path}: {}", String::from_utf8_lossy(&said.bytes));
    }

    async fn node(&self) {
        let node = json!({"metadata": {"name": "n1", "labels": {"zone": "a"}}});
        self.write("POST", "/api/v1/nodes", node).await;
        let status = json!({"status": {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.port}},
        }});
        self.write("PATCH", "/api/v1/nodes/n1/status", status).await;
    }

    async fn pod(&self, name: &str, phase: &str) {
        let mut object = pod(name);
        object["metadata"]["labels"] = json!({"app": name});
        self.write("POST", PODS, object).await;
        let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": "n1"}});
        self.write("POST", &format!("{PODS}/{name}/binding"), binding).await;
        let running = json!({"running": {"startedAt": "2023-11-14T22:00:00Z"}});
        let status = json!({"status": {"phase": phase, "containerStatuses": [{
            "name": "c", "state": running, "ready": true, "restartCount": 0,
            "image": "i", "imageID": "i",
        }]}});
        self.write("PATCH", &format!("{PODS}/{name}/status"), status).await;
    }
}

struct Said {
    code: u16,
    bytes: Bytes,
}

impl Said {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.bytes)))
    }

    fn items(&self) -> Vec<Value> {
        assert_eq!(self.code, 200, "{}", self.json());
        self.json()["items"].as_array().unwrap().clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_without_nodes_has_empty_lists() {
    let cluster = Cluster::start().await;
    for (resource, kind) in [("nodes", "NodeMetricsList"), ("pods", "PodMetricsList")] {
        let said = cluster.get(&format!("{GROUP}/{resource}")).await;
        assert_eq!(said.items(), Vec::<Value>::new());
        assert_eq!(said.json()["kind"], kind);
    }
    let resources = cluster.get(GROUP).await.json();
    let named = |name: &str| {
        let resources = resources["resources"].as_array().unwrap();
        resources.iter().find(|resource| resource["name"] == name).cloned().unwrap()
    };
    let expected = json!({"name": "pods", "singularName": "", "namespaced": true,
        "kind": "PodMetrics", "verbs": ["get", "list"]});
    assert_eq!(named("pods"), expected);
    let groups = cluster.get("/apis").await.json();
    let mut groups = groups["groups"].as_array().unwrap().iter();
    let version = "metrics.k8s.io/v1beta1";
    assert!(groups.any(|group| group["preferredVersion"]["groupVersion"] == version));
    let api = cluster.get("/openapi/v3/apis/metrics.k8s.io/v1beta1").await.json();
    let schemas = &api["components"]["schemas"];
    let metrics = &schemas["io.k8s.metrics.pkg.apis.metrics.v1beta1.NodeMetrics"];
    assert_eq!(metrics["required"], json!(["timestamp", "usage", "window"]));
    let role = "/apis/rbac.authorization.k8s.io/v1/clusterroles/system:aggregated-metrics-reader";
    let role = cluster.get(role).await.json();
    let label = "rbac.authorization.k8s.io/aggregate-to-view";
    assert_eq!(role["metadata"]["labels"][label], "true");
    for (method, path) in [("POST", "pods"), ("DELETE", "nodes"), ("GET", "nodes?watch=true")] {
        let code = cluster.send(method, &format!("{GROUP}/{path}"), &[], "{}").await.code;
        assert!(matches!(code, 404 | 405), "{method} {path}: {code}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_used_is_measured_when_it_is_asked_for() {
    let cluster = Cluster::start().await;
    cluster.node().await;
    cluster.pod("p", "Running").await;
    cluster.pod("waiting", "Pending").await;
    cluster.pod("unmeasured", "Running").await;
    assert_eq!(cluster.turns.load(Relaxed), 0);

    let nodes = cluster.get(&format!("{GROUP}/nodes")).await.items();
    let [node] = nodes.as_slice() else { panic!("{nodes:?}") };
    assert_eq!(
        (&node["metadata"]["name"], &node["metadata"]["labels"]["zone"]),
        (&json!("n1"), &json!("a"))
    );
    assert_eq!(node["usage"], json!({"cpu": "500m", "memory": "1Gi"}));
    assert_eq!(
        (&node["window"], &node["timestamp"]),
        (&json!("10s"), &json!("2023-11-14T22:13:30Z"))
    );
    assert_eq!(cluster.turns.load(Relaxed), 2);

    // Whoever asks within a few seconds gets the same answer.
    let pods = cluster.get(&format!("{GROUP}/pods")).await.items();
    assert_eq!(cluster.turns.load(Relaxed), 2);
    let [pod] = pods.as_slice() else { panic!("{pods:?}") };
    assert_eq!(
        (&pod["metadata"]["name"], &pod["metadata"]["namespace"]),
        (&json!("p"), &json!("default"))
    );
    let usage = json!({"cpu": "250m", "memory": "2Mi"});
    assert_eq!(pod["containers"], json!([{"name": "c", "usage": usage}]));

    let own = format!("{GROUP}/namespaces/default/pods");
    let count = async |path: &str| cluster.get(&format!("{own}?{path}")).await.items().len();
    assert_eq!(count("labelSelector=app%3Dp").await, 1);
    assert_eq!(count("labelSelector=app%3Dother").await, 0);
    assert_eq!(count("fieldSelector=metadata.name%3Dp").await, 1);
    let elsewhere = cluster.get(&format!("{GROUP}/namespaces/other/pods")).await;
    assert_eq!(elsewhere.items().len(), 0);
    let one = cluster.get(&format!("{own}/p")).await;
    assert_eq!((one.code, &one.json()["kind"]), (200, &json!("PodMetrics")));
    for (path, message) in [
        (format!("{own}/waiting"), "pods.metrics.k8s.io \"waiting\" not found"),
        (format!("{GROUP}/nodes/other"), "nodes.metrics.k8s.io \"other\" not found"),
    ] {
        let said = cluster.get(&path).await;
        assert_eq!((said.code, &said.json()["message"]), (404, &json!(message)));
    }

    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let table = cluster.send("GET", &own, &[("accept", table)], "").await.json();
    assert_eq!(table["rows"][0]["cells"], json!(["p", "250m", "2Mi", "10s"]));
    let protobuf = "application/vnd.kubernetes.protobuf";
    let bytes = cluster.send("GET", &own, &[("accept", protobuf)], "").await.bytes;
    // The window of ten seconds: field 3, in it field 1, a varint of nanoseconds.
    let window = [0x1a, 6, 0x08, 0x80, 0xc8, 0xaf, 0xa0, 0x25];
    assert!(bytes.starts_with(b"k8s\0"));
    assert!(bytes.windows(window.len()).any(|part| part == window), "{bytes:02x?}");
    assert_eq!(cluster.turns.load(Relaxed), 2);
}
