//! Server-side apply of built-in kinds, case by case as upstream's suite.

use serde_json::{Value, json};

use crate::api::{Api, DEPLOYMENTS, PODS, Reply};

async fn apply(api: &Api, path: &str, manager: &str, object: &Value) -> Reply {
    let path = format!("{path}?fieldManager={manager}");
    api.patch(&path, "apply-patch+yaml", object.clone()).await
}

fn deployment(name: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "labels": {"app": "nginx"}},
        "spec": {
            "replicas": 3,
            "selector": {"matchLabels": {"app": "nginx"}},
            "template": {
                "metadata": {"labels": {"app": "nginx"}},
                "spec": {"containers": [{"name": "nginx", "image": "nginx:1",
                    "ports": [{"containerPort": 80, "protocol": "TCP"}]}]},
            },
        },
    })
}

/// A field taken out, by JSON pointer.
fn without(object: &Value, parent: &str, field: &str) -> Value {
    let mut object = object.clone();
    object.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(field).unwrap();
    object
}

#[tokio::test]
async fn an_object_that_is_not_there_is_created_and_shared_by_its_appliers() {
    let api = Api::start().await;
    let cases = [
        (
            "pods",
            json!({"kind": "Pod", "spec": {"containers":
                [{"name": "test-container", "image": "test-image"}]}}),
            json!({"f:spec": {"f:containers": {r#"k:{"name":"test-container"}"#:
                {".": {}, "f:image": {}, "f:name": {}}}}}),
        ),
        (
            "services",
            json!({"kind": "Service", "spec": {"ports": [{"port": 8080, "protocol": "UDP"}]}}),
            json!({"f:spec": {"f:ports": {r#"k:{"port":8080,"protocol":"UDP"}"#:
                {".": {}, "f:port": {}, "f:protocol": {}}}}}),
        ),
    ];
    for (resource, mut object, fields) in cases {
        object["apiVersion"] = "v1".into();
        object["metadata"] = json!({"name": "test"});
        let path = format!("/api/v1/namespaces/default/{resource}/test");
        apply(&api, &path, "one", &object).await.expect(201);
        api.get(&path).await.expect(200);
        let shared = apply(&api, &path, "two", &object).await.expect(200);
        let entries = shared["metadata"]["managedFields"].as_array().unwrap();
        let appliers: Vec<&Value> =
            entries.iter().filter(|entry| entry["operation"] == "Apply").collect();
        assert_eq!(appliers.len(), 2, "{resource}");
        for entry in appliers {
            assert_eq!(entry["fieldsV1"], fields, "{resource}: {}", entry["manager"]);
        }
    }
}

#[tokio::test]
async fn the_status_is_applied_where_it_is_asked_for() {
    let api = Api::start().await;
    let path = format!("{PODS}/p");
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "spec": {"containers": [{"name": "nginx", "image": "nginx:1"}]}});
    apply(&api, &path, "one", &pod).await.expect(201);
    let status = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"},
        "status": {"conditions": [{"type": "MyStatus", "status": "True"}]}});
    let has = async || {
        let pod = api.get(&path).await.expect(200);
        let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| condition["type"] == "MyStatus")
    };
    apply(&api, &path, "two", &status).await.expect(200);
    assert!(!has().await);
    apply(&api, &format!("{path}/status"), "two", &status).await.expect(200);
    assert!(has().await);
}

#[tokio::test]
async fn what_is_not_applied_any_more_goes_unless_another_owns_it() {
    let api = Api::start().await;
    let path = format!("{DEPLOYMENTS}/alone");
    let full = deployment("alone");
    apply(&api, &path, "one", &full).await.expect(201);
    let less = without(&full, "/spec/template/spec/containers/0", "ports");
    let left = apply(&api, &path, "one", &less).await.expect(200);
    assert_eq!(left["spec"]["template"]["spec"]["containers"][0].get("ports"), None);

    let path = format!("{DEPLOYMENTS}/shared");
    let mut full = deployment("shared");
    full["spec"]["template"]["spec"]["hostname"] = "test-hostname".into();
    for (manager, code) in [("one", 201), ("two", 200)] {
        apply(&api, &path, manager, &full).await.expect(code);
    }
    let less = without(&full, "/spec/template/spec", "hostname");
    let left = apply(&api, &path, "one", &without(&less, "/spec", "replicas")).await.expect(200);
    assert_eq!(left["spec"]["replicas"], 3);
    assert_eq!(left["spec"]["template"]["spec"]["hostname"], "test-hostname");
}

#[tokio::test]
async fn conflicts_are_named_and_forced() {
    let api = Api::start().await;
    let path = format!("{DEPLOYMENTS}/d");
    let object = deployment("d");
    apply(&api, &path, "one", &object).await.expect(201);
    api.merge(&path, json!({"spec": {"replicas": 5}})).await.expect(200);
    let conflict = apply(&api, &path, "one", &object).await.expect(409);
    assert_eq!(conflict["reason"], "Conflict");
    let causes = conflict["details"]["causes"].as_array().unwrap();
    assert_eq!(causes.len(), 1, "{conflict}");
    let cause = (&causes[0]["reason"], &causes[0]["field"]);
    assert_eq!(cause, (&json!("FieldManagerConflict"), &json!(".spec.replicas")));
    let forced = apply(&api, &path, "one&force=true", &object).await.expect(200);
    assert_eq!(forced["spec"]["replicas"], 3);
}

/// An update takes a field over; who applied it lets it go by not applying it again.
#[tokio::test]
async fn an_applier_lets_go_of_what_an_update_took() {
    let api = Api::start().await;
    let path = format!("{DEPLOYMENTS}/d");
    let object = deployment("d");
    let mut taken = apply(&api, &path, "one", &object).await.expect(201);
    taken["spec"]["replicas"] = 4.into();
    api.put(&path, taken).await.expect(200);
    let left = apply(&api, &path, "one", &without(&object, "/spec", "replicas")).await.expect(200);
    assert_eq!(left["spec"]["replicas"], 4);
}
