//! LimitRanger.

use serde_json::{Value, json};

use crate::api::{Api, PODS, pod};

const RANGES: &str = "/api/v1/namespaces/default/limitranges";
const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";

async fn limited(limits: Value) -> Api {
    let api = Api::start().await;
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": limits}});
    api.post(RANGES, range).await.expect(201);
    api
}

fn with(containers: Value) -> Value {
    let mut object = pod("p");
    object["spec"]["containers"] = containers;
    object
}

fn of(resources: Value) -> Value {
    json!([{"name": "c", "image": "i", "resources": resources}])
}

#[tokio::test]
async fn containers_get_defaults() {
    let api = limited(json!([{
        "type": "Container",
        "default": {"cpu": "2", "memory": "2Gi"},
        "defaultRequest": {"cpu": "1", "memory": "1Gi"},
    }]))
    .await;
    let mut object = with(json!([
        {"name": "c", "image": "i"},
        {"name": "d", "image": "i", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}}},
    ]));
    object["spec"]["initContainers"] = json!([{"name": "e", "image": "i"}]);
    let made = api.post(PODS, object).await.expect(201);
    let both = json!({"limits": {"cpu": "2", "memory": "2Gi"},
        "requests": {"cpu": "1", "memory": "1Gi"}});
    assert_eq!(made["spec"]["containers"][0]["resources"], both);
    assert_eq!(made["spec"]["initContainers"][0]["resources"], both);
    assert_eq!(
        made["metadata"]["annotations"]["kubernetes.io/limit-ranger"],
        "LimitRanger plugin set: cpu, memory request for container c; cpu, memory limit for \
         container c; memory request for container d; memory limit for container d; cpu, memory \
         request for init container e; cpu, memory limit for init container e"
    );
    let complete = of(both);
    let mut object = with(complete);
    object["metadata"]["name"] = json!("q");
    let made = api.post(PODS, object).await.expect(201);
    assert!(made["metadata"].get("annotations").is_none());
}

#[tokio::test]
async fn containers_are_bounded() {
    let api = limited(json!([{
        "type": "Container",
        "min": {"cpu": "100m"},
        "max": {"memory": "1Gi"},
        "maxLimitRequestRatio": {"memory": "2"},
        // Given, so that nothing is derived from the bounds.
        "default": {"cpu": "1", "memory": "1Gi"},
        "defaultRequest": {"cpu": "1", "memory": "1Gi"},
    }]))
    .await;
    let amounts = |requests: Value, limits: Value| json!({"requests": requests, "limits": limits});
    for (resources, why) in [
        (
            amounts(json!({"memory": "1Gi"}), json!({"memory": "2Gi"})),
            "maximum memory usage per Container is 1Gi, but limit is 2Gi",
        ),
        (
            amounts(json!({"cpu": "50m"}), json!({"cpu": "1"})),
            "minimum cpu usage per Container is 100m, but request is 50m",
        ),
        (
            amounts(json!({"memory": "256Mi"}), json!({"memory": "1Gi"})),
            "memory max limit to request ratio per Container is 2, but provided ratio is 4.000000",
        ),
        (
            amounts(json!({"cpu": "10m", "memory": "3Gi"}), json!({"memory": "3Gi"})),
            "[minimum cpu usage per Container is 100m, but request is 10m, maximum memory usage \
             per Container is 1Gi, but limit is 3Gi]",
        ),
    ] {
        let refused = api.post(PODS, with(of(resources))).await.expect(403);
        assert_eq!(refused["message"], format!("pods \"p\" is forbidden: {why}"));
    }
    api.post(PODS, with(of(json!({})))).await.expect(201);
}

#[tokio::test]
async fn pods_are_bounded_as_a_whole() {
    let api =
        limited(json!([{"type": "Pod", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}}])).await;
    let sum = |cpu: &str| {
        let resources = json!({"limits": {"cpu": cpu, "memory": "1Gi"}});
        json!([
            {"name": "a", "image": "i", "resources": resources},
            {"name": "b", "image": "i", "resources": resources},
        ])
    };
    for (containers, why) in [
        (sum("1500m"), "maximum cpu usage per Pod is 2, but limit is 3"),
        (
            of(json!({"limits": {"memory": "1Gi"}})),
            "maximum cpu usage per Pod is 2.  No limit is specified",
        ),
        (
            of(json!({"limits": {"cpu": "1"}})),
            "minimum memory usage per Pod is 1Mi.  No request is specified",
        ),
    ] {
        let refused = api.post(PODS, with(containers)).await.expect(403);
        assert_eq!(refused["message"], format!("pods \"p\" is forbidden: {why}"));
    }
    let mut starting = with(sum("500m"));
    starting["spec"]["initContainers"] = json!([{"name": "i", "image": "i",
        "resources": {"limits": {"cpu": "3", "memory": "1Gi"}}}]);
    let refused = api.post(PODS, starting).await.expect(403);
    assert!(refused["message"].as_str().unwrap().ends_with("but limit is 3"), "{refused}");
    api.post(PODS, with(sum("1"))).await.expect(201);
}

#[tokio::test]
async fn claims_are_bounded() {
    let limit = json!([{"type": "PersistentVolumeClaim",
        "min": {"storage": "1Gi"}, "max": {"storage": "5Gi"}}]);
    let api = limited(limit).await;
    let claim = |size: &str| {
        json!({
            "metadata": {"name": "c"},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": size}},
            },
        })
    };
    for (size, why) in [
        ("500Mi", "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 500Mi"),
        ("6Gi", "maximum storage usage per PersistentVolumeClaim is 5Gi, but request is 6Gi"),
    ] {
        let refused = api.post(CLAIMS, claim(size)).await.expect(403);
        let expected = format!("persistentvolumeclaims \"c\" is forbidden: {why}");
        assert_eq!(refused["message"], expected);
    }
    api.post(CLAIMS, claim("2Gi")).await.expect(201);
}
