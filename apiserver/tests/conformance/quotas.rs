//! ResourceQuotas: their status over HTTP, and what their scopes take in. No controller runs here.

use serde_json::{Value, json};

use crate::api::{Api, PODS, pod};

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";
const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";

async fn quota(api: &Api, name: &str, mut spec: Value) {
    let hard = spec["hard"].clone();
    let none: serde_json::Map<String, Value> =
        hard.as_object().unwrap().keys().map(|key| (key.clone(), json!("0"))).collect();
    let spec = spec.take();
    api.post(QUOTAS, json!({"metadata": {"name": name}, "spec": spec})).await.expect(201);
    let status = json!({"status": {"hard": hard, "used": none}});
    api.merge(&format!("{QUOTAS}/{name}/status"), status).await.expect(200);
}

async fn used(api: &Api, name: &str) -> Value {
    let quota = api.get(&format!("{QUOTAS}/{name}")).await.expect(200);
    quota["status"]["used"].clone()
}

#[tokio::test]
async fn the_status_of_a_quota_is_written_apart_from_its_spec() {
    let api = Api::start().await;
    let spec = json!({"hard": {"cpu": "500m", "memory": "500Mi"}});
    let metadata = json!({"name": "q", "labels": {"e2e": "yes"}});
    let created = api.post(QUOTAS, json!({"metadata": metadata, "spec": spec})).await.expect(201);
    assert_eq!(created["status"], json!({}));
    let object = format!("{QUOTAS}/q");
    let everywhere = "/api/v1/resourcequotas?labelSelector=e2e%3Dyes";
    let list = api.get(everywhere).await.expect(200);
    assert_eq!(list["items"].as_array().unwrap().len(), 1);
    let since = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = api.watch(&format!("{everywhere}&watch=true&resourceVersion={since}")).await;

    let mut update = created.clone();
    update["status"] = json!({"hard": {"cpu": "1", "memory": "1Gi"}});
    update["spec"]["hard"]["cpu"] = "9".into();
    let status = format!("{object}/status");
    let updated = api.put(&status, update).await.expect(200);
    assert_eq!(updated["status"]["hard"], json!({"cpu": "1", "memory": "1Gi"}));
    assert_eq!(updated["spec"], created["spec"]);
    assert_eq!(watch.next().await, json!({"type": "MODIFIED", "object": updated}));
    let patch = json!({"metadata": {"labels": {"e2e-rq-status": "patched"}},
        "status": {"hard": {"cpu": "2", "memory": "2Gi"}}, "spec": {"hard": {"pods": "1"}}});
    let patched = api.merge(&status, patch).await.expect(200);
    assert_eq!(patched["metadata"]["labels"]["e2e-rq-status"], "patched");
    assert_eq!(patched["status"]["hard"], json!({"cpu": "2", "memory": "2Gi"}));
    assert_eq!(patched["spec"], created["spec"]);
    assert_eq!(watch.next().await["object"], patched);
    assert_eq!(api.get(&status).await.expect(200), patched);
    // And the other way round: the spec leaves the status.
    let spec = json!({"spec": {"hard": {"cpu": "3"}}, "status": {"hard": {"cpu": "9"}}});
    let changed = api.merge(&object, spec).await.expect(200);
    assert_eq!(changed["spec"]["hard"]["cpu"], "3");
    assert_eq!(changed["status"], patched["status"]);
}

/// Pods that end by themselves and pods that do not; pods that ask for something and that do not.
#[tokio::test]
async fn every_pod_is_charged_to_the_scopes_it_is_in() {
    let api = Api::start().await;
    for scope in ["Terminating", "NotTerminating", "BestEffort", "NotBestEffort"] {
        let name = scope.to_lowercase();
        quota(&api, &name, json!({"hard": {"pods": "9"}, "scopes": [scope]})).await;
    }
    let cases = [
        (false, false, [0, 1, 1, 0]),
        (false, true, [0, 2, 1, 1]),
        (true, false, [1, 2, 2, 1]),
        (true, true, [2, 2, 2, 2]),
    ];
    for (ends, asks, expected) in cases {
        let mut object = pod(&format!("p-{ends}-{asks}"));
        if ends {
            object["spec"]["activeDeadlineSeconds"] = 3600.into();
        }
        if asks {
            object["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "10m"}});
        }
        api.post(PODS, object).await.expect(201);
        let mut found = Vec::new();
        for name in ["terminating", "notterminating", "besteffort", "notbesteffort"] {
            let used = used(&api, name).await;
            found.push(used["pods"].as_str().unwrap().parse::<u64>().unwrap());
        }
        assert_eq!(found, expected, "ends: {ends}, asks: {asks}");
    }
}

/// The table that upstream goes through with operators of the PriorityClass scope.
#[tokio::test]
async fn priority_classes_select_pods_by_every_operator() {
    let api = Api::start().await;
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    for (name, value) in [("gold", 3), ("silver", 2)] {
        api.post(classes, json!({"metadata": {"name": name}, "value": value})).await.expect(201);
    }
    let cases = [
        ("In", json!(["gold"]), [true, false, false]),
        ("In", json!(["gold", "silver"]), [true, true, false]),
        ("NotIn", json!(["gold"]), [false, true, true]),
        ("Exists", json!([]), [true, true, false]),
        ("DoesNotExist", json!([]), [false, false, true]),
    ];
    for (index, (operator, values, charged)) in cases.into_iter().enumerate() {
        let name = format!("q{index}");
        let selector = json!({"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": operator, "values": values}]});
        quota(&api, &name, json!({"hard": {"pods": "1"}, "scopeSelector": selector})).await;
        for (class, charged) in ["gold", "silver", ""].into_iter().zip(charged) {
            let mut object = pod("p");
            if !class.is_empty() {
                object["spec"]["priorityClassName"] = class.into();
            }
            let full = json!({"status": {"used": {"pods": "1"}}});
            api.merge(&format!("{QUOTAS}/{name}/status"), full).await.expect(200);
            let code = api.post(&format!("{PODS}?dryRun=All"), object).await.code;
            assert_eq!(code, if charged { 403 } else { 201 }, "{operator} {values}: {class:?}");
        }
        api.delete(&format!("{QUOTAS}/{name}")).await.expect(200);
    }
}

#[tokio::test]
async fn attributes_classes_select_claims() {
    let api = Api::start().await;
    let gold = json!({"matchExpressions": [
        {"scopeName": "VolumeAttributesClass", "operator": "In", "values": ["gold"]}]});
    let hard = json!({"persistentvolumeclaims": "1", "requests.storage": "5Gi"});
    quota(&api, "gold", json!({"hard": hard, "scopeSelector": gold})).await;
    let claim = |name: &str, class: Value| {
        json!({"metadata": {"name": name}, "spec": {"volumeAttributesClassName": class,
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
    };
    api.post(CLAIMS, claim("plain", Value::Null)).await.expect(201);
    api.post(CLAIMS, claim("silver", json!("silver"))).await.expect(201);
    let nothing = json!({"persistentvolumeclaims": "0", "requests.storage": "0"});
    assert_eq!(used(&api, "gold").await, nothing);
    api.post(CLAIMS, claim("a", json!("gold"))).await.expect(201);
    let one = json!({"persistentvolumeclaims": "1", "requests.storage": "1Gi"});
    assert_eq!(used(&api, "gold").await, one);
    let refused = api.post(CLAIMS, claim("b", json!("gold"))).await.expect(403);
    let expected = "persistentvolumeclaims \"b\" is forbidden: exceeded quota: gold, requested: \
                    persistentvolumeclaims=1, used: persistentvolumeclaims=1, limited: \
                    persistentvolumeclaims=1";
    assert_eq!(refused["message"], expected);
}

#[tokio::test]
async fn scopes_that_cannot_limit_what_is_asked_are_refused() {
    let api = Api::start().await;
    let selector = |scope: &str, operator: &str, values: Value| json!({"matchExpressions": [{"scopeName": scope, "operator": operator, "values": values}]});
    let cases = [
        (
            json!({"hard": {"cpu": "1"}, "scopes": ["BestEffort"]}),
            "unsupported scope applied to resource",
        ),
        (
            json!({"hard": {"pods": "1"}, "scopes": ["Terminating", "NotTerminating"]}),
            "conflicting scopes",
        ),
        (
            json!({"hard": {"services": "1"}, "scopes": ["Terminating"]}),
            "unsupported scope applied to resource",
        ),
        (json!({"hard": {"pods": "1"}, "scopes": ["Bogus"]}), "unsupported scope"),
        (
            json!({"hard": {"pods": "1"}, "scopeSelector": selector("PriorityClass", "In", json!([]))}),
            "must be at least one value",
        ),
        (
            json!({"hard": {"pods": "1"},
            "scopeSelector": selector("PriorityClass", "Exists", json!(["a"]))}),
            "must be no value",
        ),
        (json!({"hard": {"pods": "-1"}}), "must be greater than or equal to 0"),
        (json!({"hard": {"pods": "1.5"}}), "must be an integer"),
    ];
    for (spec, why) in cases {
        let object = json!({"metadata": {"name": "q"}, "spec": spec});
        let refused = api.post(QUOTAS, object).await.expect(422);
        let message = refused["message"].as_str().unwrap();
        assert!(message.contains(why), "{spec}: {message}");
    }
}
