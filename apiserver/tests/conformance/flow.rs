//! Priority and fairness as the suite sees it: conditions, and who was put where.

use proto::user::User;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::api::Api;

const GROUP: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";

fn schema(name: &str, level: &str, user: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {
        "matchingPrecedence": 1000,
        "priorityLevelConfiguration": {"name": level},
        "distinguisherMethod": {"type": "ByUser"},
        "rules": [{
            "subjects": [{"kind": "User", "user": {"name": user}}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
        }],
    }})
}

fn level(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 1, "limitResponse": {"type": "Reject"}}}})
}

/// Conditions are kept by servers that serve.
async fn serving() -> Api {
    let mut api = Api::start().await;
    tokio::spawn(api.server.take().unwrap().serve(CancellationToken::new()));
    api
}

/// The condition once it has this status.
async fn dangling(api: &Api, name: &str, status: &str) -> Value {
    let path = format!("{GROUP}/flowschemas?watch=true&fieldSelector=metadata.name%3D{name}");
    let mut watch = api.watch(&path).await;
    loop {
        let event = watch.next().await;
        let conditions = event["object"]["status"]["conditions"].as_array().cloned();
        let found = conditions.into_iter().flatten().find(|it| it["type"] == "Dangling");
        if let Some(condition) = found.filter(|it| it["status"] == status) {
            return condition;
        }
    }
}

#[tokio::test]
async fn a_schema_says_whether_its_level_exists() {
    let api = serving().await;
    let list = api.get(&format!("{GROUP}/flowschemas")).await.expect(200);
    for schema in list["items"].as_array().unwrap() {
        let condition = &schema["status"]["conditions"][0];
        assert_eq!(
            (&condition["type"], &condition["status"], &condition["reason"]),
            (&json!("Dangling"), &json!("False"), &json!("Found")),
            "{schema}"
        );
    }
    let created =
        api.post(&format!("{GROUP}/flowschemas"), schema("s", "l", "u")).await.expect(201);
    let missing = dangling(&api, "s", "True").await;
    assert_eq!(missing["reason"], "NotFound");
    assert_eq!(
        missing["message"],
        "This FlowSchema references the PriorityLevelConfiguration \
        object named \"l\" but there is no such object"
    );
    let levels = format!("{GROUP}/prioritylevelconfigurations");
    api.post(&levels, level("l")).await.expect(201);
    let found = dangling(&api, "s", "False").await;
    assert_eq!(
        found["message"],
        "This FlowSchema references the PriorityLevelConfiguration \
        object named \"l\" and it exists"
    );
    assert!(found["lastTransitionTime"].is_string());
    let now = api.get(&format!("{GROUP}/flowschemas/s")).await.expect(200);
    assert_eq!(now["spec"], created["spec"]);
    let managers = now["metadata"]["managedFields"].as_array().unwrap();
    let ours = managers.iter().find(|it| it["subresource"] == "status").unwrap();
    assert_eq!(
        (&ours["manager"], &ours["operation"]),
        (&json!("api-priority-and-fairness-config-consumer-v1"), &json!("Apply"))
    );
    // What others say of the schema stays.
    let own = json!({"status": {"conditions": [{"type": "PatchStatusFailed", "status": "False",
        "reason": "e2e"}, found]}});
    let patched = api.merge(&format!("{GROUP}/flowschemas/s/status"), own).await.expect(200);
    assert_eq!(patched["status"]["conditions"].as_array().unwrap().len(), 2);
    api.delete(&format!("{levels}/l")).await.expect(200);
    dangling(&api, "s", "True").await;
    let now = api.get(&format!("{GROUP}/flowschemas/s")).await.expect(200);
    assert_eq!(now["status"]["conditions"].as_array().unwrap().len(), 2, "{now}");
    let table = "accept: application/json;as=Table;v=v1;g=meta.k8s.io";
    let table = api.send(&format!("GET {GROUP}/flowschemas/s"), &[table], "").await.expect(200);
    assert_eq!(table["rows"][0]["cells"][5], "True", "MissingPL");
}

#[tokio::test]
async fn requests_are_classified_by_the_schemas_that_are_added() {
    let api = serving().await;
    let levels = format!("{GROUP}/prioritylevelconfigurations");
    let level = api.post(&levels, level("e2e-level")).await.expect(201);
    let schemas = format!("{GROUP}/flowschemas");
    let schema = api.post(&schemas, schema("e2e-schema", "e2e-level", "noxu")).await.expect(201);
    dangling(&api, "e2e-schema", "False").await;
    let header =
        |reply: &crate::api::Reply, name: &str| reply.headers[name].to_str().unwrap().to_string();
    // As the suite does: the administrator acts as the user.
    let acting = ["impersonate-user: noxu", "impersonate-group: system:authenticated"];
    let (schema_uid, level_uid) =
        (schema["metadata"]["uid"].as_str().unwrap(), level["metadata"]["uid"].as_str().unwrap());
    let reply = loop {
        let reply = api.send("GET /version", &acting, "").await;
        // The configuration is read a moment after the condition is written.
        if header(&reply, "x-kubernetes-pf-flowschema-uid") == schema_uid {
            break reply;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(reply.code, 200);
    assert_eq!(header(&reply, "x-kubernetes-pf-prioritylevel-uid"), level_uid);
    let others = api.as_user(User::new("foo", &["system:authenticated"]));
    let reply = others.get("/version").await;
    for name in ["x-kubernetes-pf-flowschema-uid", "x-kubernetes-pf-prioritylevel-uid"] {
        assert!(!header(&reply, name).is_empty(), "{name}");
        assert_ne!(header(&reply, name), schema_uid);
    }
    let metrics = api.get("/metrics").await.text();
    let seats = "apiserver_flowcontrol_nominal_limit_seats{priority_level=\"e2e-level\"}";
    assert!(metrics.contains(seats), "{metrics}");
}
