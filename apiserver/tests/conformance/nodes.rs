//! What a node may do, asked as upstream's suite does: the administrator acts as it.

use http::Method;
use serde_json::{Value, json};

use crate::api::{Api, PODS, Reply, pod};

async fn as_node(api: &Api, method: Method, path: &str, body: Value) -> Reply {
    let headers = [
        "impersonate-user: system:node:n1",
        "impersonate-group: system:nodes",
        "content-type: application/json",
    ];
    api.send(&format!("{method} {path}"), &headers, body.to_string()).await
}

/// Nobody learns from the refusal whether the object is there.
#[tokio::test]
async fn a_node_reads_what_its_pods_need_and_nothing_else() {
    let api = Api::start().await;
    api.post("/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await.expect(201);
    for (resource, volume) in [
        ("secrets", json!({"name": "v", "secret": {"secretName": "it"}})),
        ("configmaps", json!({"name": "v", "configMap": {"name": "it"}})),
    ] {
        let all = format!("/api/v1/namespaces/default/{resource}");
        let path = format!("{all}/it");
        let refused = async || {
            let refused = as_node(&api, Method::GET, &path, json!({})).await.expect(403);
            assert_eq!(refused["reason"], "Forbidden", "{resource}");
            refused["message"].clone()
        };
        let before = refused().await;
        api.post(&all, json!({"metadata": {"name": "it"}})).await.expect(201);
        assert_eq!(refused().await, before);
        let mut user = pod(&format!("uses-{resource}"));
        user["spec"]["nodeName"] = "n1".into();
        user["spec"]["volumes"] = json!([volume]);
        api.post(PODS, user).await.expect(201);
        as_node(&api, Method::GET, &path, json!({})).await.expect(200);
        let list = as_node(&api, Method::GET, &all, json!({})).await;
        assert_eq!(list.code, 403, "{resource}: {}", list.text());
    }
}

#[tokio::test]
async fn a_node_neither_creates_nor_deletes_another() {
    let api = Api::start().await;
    let other = json!({"kind": "Node", "apiVersion": "v1", "metadata": {"name": "foo"}});
    as_node(&api, Method::POST, "/api/v1/nodes", other.clone()).await.expect(403);
    as_node(&api, Method::DELETE, "/api/v1/nodes/foo", json!({})).await.expect(403);
    api.post("/api/v1/nodes", other).await.expect(201);
    as_node(&api, Method::DELETE, "/api/v1/nodes/foo", json!({})).await.expect(403);
}
