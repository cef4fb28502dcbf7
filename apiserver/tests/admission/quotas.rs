//! ResourceQuota. No controller runs here: the tests write the status as it would.

use futures::future::join_all;
use serde_json::{Value, json};

use crate::api::{Api, CONFIG_MAPS, PODS, config_map, pod};

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";
const SERVICES: &str = "/api/v1/namespaces/default/services";
const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";

/// A quota of which nothing is used.
async fn quota(api: &Api, name: &str, hard: Value, rest: Value) {
    let mut spec = json!({"hard": hard});
    for (field, value) in rest.as_object().unwrap() {
        spec[field] = value.clone();
    }
    api.post(QUOTAS, json!({"metadata": {"name": name}, "spec": spec})).await.expect(201);
    let none: serde_json::Map<String, Value> =
        hard.as_object().unwrap().keys().map(|key| (key.clone(), json!("0"))).collect();
    let status = json!({"status": {"hard": hard, "used": none}});
    api.merge(&format!("{QUOTAS}/{name}/status"), status).await.expect(200);
}

async fn used(api: &Api, name: &str) -> Value {
    let quota = api.get(&format!("{QUOTAS}/{name}")).await.expect(200);
    quota["status"]["used"].clone()
}

fn sized(name: &str, resources: Value) -> Value {
    let mut object = pod(name);
    object["spec"]["containers"][0]["resources"] = resources;
    object
}

#[tokio::test]
async fn what_is_over_is_refused() {
    let api = Api::start().await;
    quota(&api, "q", json!({"pods": "2", "count/configmaps": "1"}), json!({})).await;
    api.post(PODS, pod("a")).await.expect(201);
    api.post(PODS, pod("b")).await.expect(201);
    let refused = api.post(PODS, pod("c")).await.expect(403);
    assert_eq!(
        refused["message"],
        "pods \"c\" is forbidden: exceeded quota: q, requested: pods=1, used: pods=2, limited: \
         pods=2"
    );
    let dry = format!("{CONFIG_MAPS}?dryRun=All");
    api.post(&dry, config_map("dry")).await.expect(201);
    assert_eq!(used(&api, "q").await["count/configmaps"], "0");
    api.post(CONFIG_MAPS, config_map("m")).await.expect(201);
    assert_eq!(used(&api, "q").await, json!({"pods": "2", "count/configmaps": "1"}));
    let refused = api.post(&dry, config_map("n")).await.expect(403);
    assert!(refused["message"].as_str().unwrap().contains("exceeded quota: q"), "{refused}");
    // What fails afterwards, or changes nothing that counts, is not charged.
    api.post(CONFIG_MAPS, config_map("m")).await.expect(409);
    api.merge(&format!("{CONFIG_MAPS}/m"), json!({"data": {"a": "b"}})).await.expect(200);
    assert_eq!(used(&api, "q").await["count/configmaps"], "1");
}

#[tokio::test]
async fn amounts_must_be_given_and_fit() {
    let api = Api::start().await;
    let hard = json!({"requests.cpu": "2", "limits.cpu": "3", "memory": "1Gi",
        "requests.example.com/gpu": "1"});
    quota(&api, "q", hard, json!({})).await;
    let refused = api.post(PODS, pod("p")).await.expect(403);
    assert_eq!(
        refused["message"],
        "pods \"p\" is forbidden: failed quota: q: must specify limits.cpu for: c; memory for: c; \
         requests.cpu for: c"
    );
    let resources = |cpu: &str, gpu: &str| {
        json!({
            "requests": {"cpu": cpu, "memory": "256Mi", "example.com/gpu": gpu},
            "limits": {"cpu": cpu, "example.com/gpu": gpu},
        })
    };
    api.post(PODS, sized("a", resources("1500m", "0"))).await.expect(201);
    let expected = json!({"requests.cpu": "1500m", "limits.cpu": "1500m", "memory": "256Mi",
        "requests.example.com/gpu": "0"});
    assert_eq!(used(&api, "q").await, expected);
    let refused = api.post(PODS, sized("b", resources("1800m", "2"))).await.expect(403);
    assert_eq!(
        refused["message"],
        "pods \"b\" is forbidden: exceeded quota: q, requested: \
         limits.cpu=1800m,requests.cpu=1800m,requests.example.com/gpu=2, used: \
         limits.cpu=1500m,requests.cpu=1500m,requests.example.com/gpu=0, limited: \
         limits.cpu=3,requests.cpu=2,requests.example.com/gpu=1"
    );
}

#[tokio::test]
async fn a_quota_that_was_not_counted_refuses() {
    let api = Api::start().await;
    let spec = json!({"hard": {"pods": "1"}});
    api.post(QUOTAS, json!({"metadata": {"name": "q"}, "spec": spec})).await.expect(201);
    // Without any status it holds nothing yet.
    api.post(PODS, pod("a")).await.expect(201);
    let status = json!({"status": {"hard": {"pods": "1"}}});
    api.merge(&format!("{QUOTAS}/q/status"), status).await.expect(200);
    let refused = api.post(PODS, pod("b")).await.expect(403);
    assert_eq!(
        refused["message"],
        "pods \"b\" is forbidden: status unknown for quota: q, resources: pods"
    );
}

#[tokio::test]
async fn scopes_decide_whom_a_quota_concerns() {
    let api = Api::start().await;
    quota(&api, "besteffort", json!({"pods": "0"}), json!({"scopes": ["BestEffort"]})).await;
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    api.post(classes, json!({"metadata": {"name": "high"}, "value": 9})).await.expect(201);
    let high = json!({"matchExpressions":
        [{"scopeName": "PriorityClass", "operator": "In", "values": ["high"]}]});
    quota(&api, "high", json!({"pods": "0"}), json!({"scopeSelector": high})).await;
    let refused = api.post(PODS, pod("p")).await.expect(403);
    assert!(refused["message"].as_str().unwrap().contains("quota: besteffort"), "{refused}");
    let some = json!({"requests": {"cpu": "1"}});
    api.post(PODS, sized("burstable", some.clone())).await.expect(201);
    let mut important = sized("important", some);
    important["spec"]["priorityClassName"] = json!("high");
    let refused = api.post(PODS, important).await.expect(403);
    assert!(refused["message"].as_str().unwrap().contains("exceeded quota: high"), "{refused}");
}

#[tokio::test]
async fn services_and_claims_are_charged_for_what_they_become() {
    let api = Api::start().await;
    let hard = json!({"services": "3", "services.nodeports": "1", "services.loadbalancers": "1"});
    quota(&api, "services", hard, json!({})).await;
    let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [{"port": 80}]}});
    api.post(SERVICES, service).await.expect(201);
    let path = format!("{SERVICES}/s");
    api.merge(&path, json!({"spec": {"type": "NodePort"}})).await.expect(200);
    let expected =
        json!({"services": "1", "services.nodeports": "1", "services.loadbalancers": "0"});
    assert_eq!(used(&api, "services").await, expected);
    let other = json!({"metadata": {"name": "t"},
        "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}});
    let refused = api.post(SERVICES, other).await.expect(403);
    assert_eq!(
        refused["message"],
        "services \"t\" is forbidden: exceeded quota: services, requested: services.nodeports=1, \
         used: services.nodeports=1, limited: services.nodeports=1"
    );
    let hard = json!({"requests.storage": "3Gi",
        "fast.storageclass.storage.k8s.io/persistentvolumeclaims": "1"});
    quota(&api, "storage", hard, json!({})).await;
    let claim = |name: &str| {
        json!({"metadata": {"name": name}, "spec": {"storageClassName": "fast",
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}})
    };
    api.post(CLAIMS, claim("a")).await.expect(201);
    let refused = api.post(CLAIMS, claim("b")).await.expect(403);
    assert_eq!(
        refused["message"],
        "persistentvolumeclaims \"b\" is forbidden: exceeded quota: storage, requested: \
         fast.storageclass.storage.k8s.io/persistentvolumeclaims=1, used: \
         fast.storageclass.storage.k8s.io/persistentvolumeclaims=1, limited: \
         fast.storageclass.storage.k8s.io/persistentvolumeclaims=1"
    );
}

#[tokio::test]
async fn many_at_once_get_exactly_what_there_is() {
    let api = Api::start().await;
    quota(&api, "q", json!({"pods": "10"}), json!({})).await;
    let creates = (0..50).map(|n| {
        let api = &api;
        async move { api.post(PODS, pod(&format!("p{n}"))).await.code }
    });
    let codes = join_all(creates).await;
    assert_eq!(codes.iter().filter(|code| **code == 201).count(), 10, "{codes:?}");
    assert_eq!(codes.iter().filter(|code| **code == 403).count(), 40, "{codes:?}");
    assert_eq!(used(&api, "q").await, json!({"pods": "10"}));
    let pods = api.get(PODS).await.expect(200);
    assert_eq!(pods["items"].as_array().unwrap().len(), 10);
}

/// Devices cost by their class, and by the extended resource that the class goes by.
#[tokio::test]
async fn devices_are_charged_by_their_class() {
    let api = Api::start().await;
    let class = json!({"metadata": {"name": "gold"},
        "spec": {"extendedResourceName": "example.com/gold"}});
    api.post("/apis/resource.k8s.io/v1/deviceclasses", class).await.expect(201);
    let hard = json!({"gold.deviceclass.resource.k8s.io/devices": "2",
        "requests.example.com/gold": "5", "count/resourceclaims.resource.k8s.io": "9"});
    quota(&api, "q", hard, json!({})).await;
    let claims = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
    let claim = |name: &str, count: i64| {
        let exactly = json!({"deviceClassName": "gold", "count": count});
        json!({"metadata": {"name": name},
            "spec": {"devices": {"requests": [{"name": "r", "exactly": exactly}]}}})
    };
    api.post(claims, claim("two", 2)).await.expect(201);
    let charged = json!({"gold.deviceclass.resource.k8s.io/devices": "2",
        "requests.example.com/gold": "2", "count/resourceclaims.resource.k8s.io": "1"});
    assert_eq!(used(&api, "q").await, charged);
    let refused = api.post(claims, claim("one", 1)).await.expect(403);
    assert_eq!(
        refused["message"],
        "resourceclaims.resource.k8s.io \"one\" is forbidden: exceeded quota: q, requested: \
         gold.deviceclass.resource.k8s.io/devices=1, used: \
         gold.deviceclass.resource.k8s.io/devices=2, limited: \
         gold.deviceclass.resource.k8s.io/devices=2"
    );
}
