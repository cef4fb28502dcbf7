//! Namespaces: their status, their finalizers, their labels.

use serde_json::json;

use crate::api::Api;

const NAMESPACES: &str = "/api/v1/namespaces";

#[tokio::test]
async fn changes_to_a_namespaces_status_are_applied() {
    let api = Api::start().await;
    let path = format!("{NAMESPACES}/default");
    let status = format!("{path}/status");
    let read = api.get(&status).await.expect(200);
    assert_eq!((&read["kind"], &read["status"]["phase"]), (&json!("Namespace"), &json!("Active")));
    let condition = |kind: &str| {
        json!({"type": kind, "status": "True", "lastTransitionTime": null, "reason": "E2E",
            "message": "Set by an e2e test"})
    };
    let patch = json!({"metadata": {"annotations": {"e2e-patched-ns-status": "default"}},
        "status": {"conditions": [condition("StatusPatch")]}});
    let patched = api.merge(&status, patch).await.expect(200);
    assert_eq!(patched["metadata"]["annotations"]["e2e-patched-ns-status"], "default");
    assert_eq!(patched["status"]["conditions"][0]["reason"], "E2E");
    let mut update = patched.clone();
    update["status"]["conditions"].as_array_mut().unwrap().push(condition("StatusUpdate"));
    let updated = api.put(&status, update).await.expect(200);
    assert_eq!(updated["status"]["conditions"][1]["type"], "StatusUpdate");
    // A client that speaks protobuf reads the conditions, too.
    let accept = "accept: application/vnd.kubernetes.protobuf";
    let binary = api.send(&format!("GET {path}"), &[accept], "").await;
    let contains = |text: &[u8]| binary.bytes.windows(text.len()).any(|part| part == text);
    assert!(contains(b"StatusPatch") && contains(b"StatusUpdate") && contains(b"E2E"));
}

#[tokio::test]
async fn finalizers_of_a_namespace_are_added_and_removed() {
    let api = Api::start().await;
    let created = api.post(NAMESPACES, json!({"metadata": {"name": "n"}})).await.expect(201);
    let finalize = format!("{NAMESPACES}/n/finalize");
    let fake = "e2e.example.com/fakeFinalizer";
    let mut object = created.clone();
    object["spec"]["finalizers"] = json!(["kubernetes", fake]);
    let added = api.put(&finalize, object.clone()).await.expect(200);
    assert_eq!(added["spec"]["finalizers"], json!(["kubernetes", fake]));
    let stale = api.put(&finalize, object.clone()).await;
    assert_eq!(stale.code, 409, "{}", stale.text());
    let mut wrong = added.clone();
    wrong["spec"]["finalizers"] = json!(["kubernetes", "unqualified"]);
    let refused = api.put(&finalize, wrong).await;
    assert_eq!(
        (refused.code, &*refused.message()),
        (
            422,
            "Namespace \"n\" is invalid: spec.finalizers[1]: Invalid value: \"unqualified\": name \
             is neither a standard finalizer name nor is it fully qualified"
        )
    );
    let mut removed = added.clone();
    removed["spec"]["finalizers"] = json!(["kubernetes"]);
    let removed = api.put(&finalize, removed).await.expect(200);
    assert_eq!(removed["spec"]["finalizers"], json!(["kubernetes"]));
    assert_eq!(removed["status"]["phase"], "Active");
}

#[tokio::test]
async fn a_namespace_keeps_the_label_of_its_name_and_takes_others() {
    let api = Api::start().await;
    let created = api.post(NAMESPACES, json!({"metadata": {"name": "n"}})).await.expect(201);
    let label = "kubernetes.io/metadata.name";
    assert_eq!(created["metadata"]["labels"][label], "n");
    let path = format!("{NAMESPACES}/n");
    let patch = json!({"metadata": {"labels": {"testLabel": "testValue", label: null}}});
    let patched = api.patch(&path, "strategic-merge-patch+json", patch).await.expect(200);
    assert_eq!(patched["metadata"]["labels"], json!({label: "n", "testLabel": "testValue"}));
    let mut update = patched;
    update["metadata"]["labels"]["n"] = "updated".into();
    let updated = api.put(&path, update).await.expect(200);
    assert_eq!(updated["metadata"]["labels"]["n"], "updated");
    let refused = api.delete(NAMESPACES).await.expect(405);
    assert_eq!(refused["reason"], "MethodNotAllowed", "namespaces go one by one");
}
