//! What objects count for, and which quotas concern them, as tables.

use super::*;
use crate::kind::{DEPLOYMENT, PERSISTENT_VOLUME_CLAIM, POD, SECRET, SERVICE};
use crate::view::resource_claim::EXTENDED_CLAIM;

fn written(usage: &Resources) -> String {
    let parts: Vec<String> = usage.iter().map(|(name, q)| format!("{name}={q}")).collect();
    parts.join(" ")
}

#[test]
fn what_devices_cost() {
    let request = |value: serde_json::Value| serde_json::json!({"exactly": value});
    let exactly = |class: &str, count: i64| {
        serde_json::json!({"deviceClassName": class, "allocationMode": "ExactCount",
            "count": count})
    };
    let all = serde_json::json!({"deviceClassName": "gold", "allocationMode": "All"});
    let first = |of: &[serde_json::Value]| serde_json::json!({"firstAvailable": of});
    let claim = |requests: &[serde_json::Value]| -> ResourceClaim {
        let spec = serde_json::json!({"spec": {"devices": {"requests": requests}}});
        serde_json::from_value(spec).unwrap()
    };
    let extended = BTreeMap::from([("tin".to_string(), "example.com/tin".to_string())]);
    let paid = Resources::from([("requests.example.com/tin".into(), Quantity::new(1))]);
    let around = Surroundings { extended, paid };
    for (requests, expected) in [
        (
            vec![request(exactly("gold", 1)), request(exactly("gold", 2))],
            "gold.deviceclass.resource.k8s.io/devices=3 \
             requests.deviceclass.resource.kubernetes.io/gold=3",
        ),
        (
            vec![request(all)],
            "gold.deviceclass.resource.k8s.io/devices=32 \
             requests.deviceclass.resource.kubernetes.io/gold=32",
        ),
        (
            vec![first(&[exactly("gold", 1), exactly("gold", 3), exactly("lead", 2)])],
            "gold.deviceclass.resource.k8s.io/devices=3 \
             lead.deviceclass.resource.k8s.io/devices=2 \
             requests.deviceclass.resource.kubernetes.io/gold=3 \
             requests.deviceclass.resource.kubernetes.io/lead=2",
        ),
        (
            vec![request(exactly("tin", 3))],
            "requests.deviceclass.resource.kubernetes.io/tin=3 requests.example.com/tin=2 \
             tin.deviceclass.resource.k8s.io/devices=3",
        ),
    ] {
        let claim = claim(&requests);
        let mut usage =
            usage(&kind::RESOURCE_CLAIM, &Counted::Devices(&claim, &around), Time::from_unix(0));
        let count = usage.remove("count/resourceclaims.resource.k8s.io");
        assert_eq!(count, Some(Quantity::new(1)));
        assert_eq!(written(&usage), expected);
        for resource in usage.keys() {
            assert!(concerns(&kind::RESOURCE_CLAIM, resource), "{resource}");
        }
    }
}

/// A pod that asks for an extended resource pays for it, and the claim made of that does not
/// pay again; only one claim is made of it.
#[test]
fn what_a_claims_pod_has_paid() {
    let pod: Pod = serde_json::from_value(serde_json::json!({"metadata": {"uid": "p"},
        "spec": {"containers": [{"resources": {"requests": {"example.com/tin": "1"}}}]}}))
    .unwrap();
    let claim = |name: &str, uid: &str, made: &str| -> ResourceClaim {
        let owner = serde_json::json!({"apiVersion": "v1", "kind": "Pod", "name": "p",
            "uid": uid, "controller": true});
        let metadata = serde_json::json!({"name": name, "ownerReferences": [owner],
            "annotations": {EXTENDED_CLAIM: made}});
        serde_json::from_value(serde_json::json!({ "metadata": metadata })).unwrap()
    };
    let (first, second) = (claim("a", "p", "true"), claim("b", "p", "true"));
    let claims = [first.clone(), second.clone()];
    let paid = |claim: &ResourceClaim| {
        let paid = paid(claim, &pod, &claims, Time::from_unix(0));
        paid.contains_key("requests.example.com/tin")
    };
    assert!(paid(&first));
    assert!(!paid(&second));
    assert!(!paid(&claim("a", "another", "true")));
    assert!(!paid(&claim("a", "p", "false")));
}

#[test]
fn what_pods_cost() {
    let now = Time::from_unix(100);
    for (spec, status, expected) in [
        (r#"{"containers":[{}]}"#, "{}", "count/pods=1 pods=1"),
        (
            r#"{"containers":[{"resources":{"requests":{"cpu":"1","example.com/gpu":"2",
                "hugepages-2Mi":"4Mi"},"limits":{"cpu":"2"}}},
                {"resources":{"requests":{"cpu":"500m"}}}]}"#,
            "{}",
            "count/pods=1 cpu=1500m hugepages-2Mi=4Mi limits.cpu=2 pods=1 requests.cpu=1500m \
             requests.example.com/gpu=2 requests.hugepages-2Mi=4Mi",
        ),
        (
            r#"{"containers":[{"resources":{"requests":{"memory":"1Gi"}}}],
                "initContainers":[
                    {"restartPolicy":"Always","resources":{"requests":{"memory":"1Gi"}}},
                    {"resources":{"requests":{"memory":"2Gi"}}}],
                "overhead":{"memory":"1Mi"}}"#,
            "{}",
            "count/pods=1 memory=3073Mi pods=1 requests.memory=3073Mi",
        ),
        (
            r#"{"containers":[{"resources":{"requests":{"cpu":"1","memory":"1Gi"}}}],
                "resources":{"requests":{"cpu":"3"},"limits":{"cpu":"4"}},
                "overhead":{"cpu":"100m"}}"#,
            "{}",
            "count/pods=1 cpu=3100m limits.cpu=4100m memory=1Gi pods=1 requests.cpu=3100m \
             requests.memory=1Gi",
        ),
        (
            r#"{"containers":[{"resources":{"requests":{"cpu":"1"}}}]}"#,
            r#"{"phase":"Succeeded"}"#,
            "count/pods=1",
        ),
    ] {
        let pod = format!(r#"{{"spec":{spec},"status":{status}}}"#);
        let pod: Pod = serde_json::from_str(&pod).unwrap();
        let usage = usage(&POD, &Counted::Pod(&pod), now);
        assert_eq!(written(&usage), expected);
        assert!(usage.keys().all(|resource| concerns(&POD, resource)), "{usage:?}");
    }
    let pod: Pod = serde_json::from_str(
        r#"{"metadata":{"deletionTimestamp":"1970-01-01T00:01:00Z","deletionGracePeriodSeconds":30}}"#,
    )
    .unwrap();
    assert_eq!(usage(&POD, &Counted::Pod(&pod), Time::from_unix(90)).len(), 2);
    assert_eq!(usage(&POD, &Counted::Pod(&pod), Time::from_unix(91)).len(), 1);
}

#[test]
fn who_asks_for_nothing() {
    let pod =
        |spec: &str| -> Pod { serde_json::from_str(&format!(r#"{{"spec":{spec}}}"#)).unwrap() };
    let plain = pod(r#"{"containers":[{"name":"a"}]}"#);
    let missing = [("requests.cpu".to_string(), vec!["a".to_string()])];
    assert_eq!(unspecified(&plain, &["requests.cpu", "pods"]), missing);
    let whole = pod(r#"{"containers":[{"name":"a"}],"resources":{"limits":{"cpu":"1"}}}"#);
    assert_eq!(unspecified(&whole, &["requests.cpu", "limits.memory"]), []);
}

#[test]
fn what_others_cost() {
    let now = Time::from_unix(0);
    let service = |text: &str| serde_json::from_str::<Service>(text).unwrap();
    for (text, expected) in [
        (r#"{"spec":{"type":"ClusterIP","ports":[{}]}}"#, (0, 0)),
        (r#"{"spec":{"type":"NodePort","ports":[{},{}]}}"#, (0, 2)),
        (r#"{"spec":{"type":"LoadBalancer","ports":[{}]}}"#, (1, 1)),
        (
            r#"{"spec":{"type":"LoadBalancer","allocateLoadBalancerNodePorts":false,
                "ports":[{},{"nodePort":30000}]}}"#,
            (1, 1),
        ),
    ] {
        let usage = usage(&SERVICE, &Counted::Service(&service(text)), now);
        let of = |name: &str| usage[name].value();
        assert_eq!((of("services.loadbalancers"), of("services.nodeports")), expected);
    }
    let claim: PersistentVolumeClaim = serde_json::from_str(
        r#"{"spec":{"storageClassName":"fast","resources":{"requests":{"storage":"1Gi"}}},
            "status":{"allocatedResources":{"storage":"2Gi"}}}"#,
    )
    .unwrap();
    assert_eq!(
        written(&usage(&PERSISTENT_VOLUME_CLAIM, &Counted::Claim(&claim), now)),
        "count/persistentvolumeclaims=1 \
         fast.storageclass.storage.k8s.io/persistentvolumeclaims=1 \
         fast.storageclass.storage.k8s.io/requests.storage=2Gi persistentvolumeclaims=1 \
         requests.storage=2Gi"
    );
    let other = |row| written(&usage(row, &Counted::Other, now));
    assert_eq!(other(&SECRET), "count/secrets=1 secrets=1");
    assert_eq!(other(&DEPLOYMENT), "count/deployments.apps=1");
    assert!(!concerns(&DEPLOYMENT, "pods") && !concerns(&SECRET, "cpu"));
}

#[test]
fn scopes() {
    let quota = |spec: &str| -> ResourceQuota {
        serde_json::from_str(&format!(r#"{{"spec":{spec}}}"#)).unwrap()
    };
    let pod: Pod = serde_json::from_str(
        r#"{"spec":{"activeDeadlineSeconds":5,"priorityClassName":"high","affinity":
            {"podAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":
            [{"namespaces":["a"]}]}}},"status":{"qosClass":"BestEffort"}}"#,
    )
    .unwrap();
    let class = |operator: &str, values: &str| {
        format!(
            r#"{{"scopeSelector":{{"matchExpressions":[{{"scopeName":"PriorityClass",
                "operator":"{operator}","values":[{values}]}}]}}}}"#
        )
    };
    for (spec, expected) in [
        ("{}".to_string(), true),
        (r#"{"scopes":["BestEffort","Terminating"]}"#.into(), true),
        (r#"{"scopes":["BestEffort","NotTerminating"]}"#.into(), false),
        (r#"{"scopes":["NotBestEffort"]}"#.into(), false),
        (r#"{"scopes":["CrossNamespacePodAffinity","PriorityClass"]}"#.into(), true),
        (class("In", r#""high""#), true),
        (class("In", r#""low""#), false),
        (class("NotIn", r#""low""#), true),
        (class("Exists", ""), true),
        (class("DoesNotExist", ""), false),
    ] {
        assert_eq!(in_scopes(&quota(&spec), &Counted::Pod(&pod)), expected, "{spec}");
    }
    assert!(!in_scopes(&quota(r#"{"scopes":["BestEffort"]}"#), &Counted::Other));
}

#[test]
fn scopes_of_claims() {
    let claim = |text: &str| -> PersistentVolumeClaim { serde_json::from_str(text).unwrap() };
    let gold = claim(r#"{"spec":{"volumeAttributesClassName":"gold"}}"#);
    let changing = claim(
        r#"{"spec":{"volumeAttributesClassName":"gold"},"status":{
            "currentVolumeAttributesClassName":"silver",
            "modifyVolumeStatus":{"targetVolumeAttributesClassName":"gold"}}}"#,
    );
    let plain = claim("{}");
    for (operator, values, expected) in [
        ("In", r#""gold""#, [true, true, false]),
        ("In", r#""silver""#, [false, true, false]),
        ("NotIn", r#""gold""#, [false, true, true]),
        ("Exists", "", [true, true, false]),
        ("DoesNotExist", "", [false, false, true]),
    ] {
        let quota: ResourceQuota = serde_json::from_str(&format!(
            r#"{{"spec":{{"scopeSelector":{{"matchExpressions":[{{
                "scopeName":"VolumeAttributesClass","operator":"{operator}",
                "values":[{values}]}}]}}}}}}"#
        ))
        .unwrap();
        let found =
            [&gold, &changing, &plain].map(|claim| in_scopes(&quota, &Counted::Claim(claim)));
        assert_eq!(found, expected, "{operator} {values}");
        let pod = Pod::default();
        assert!(!in_scopes(&quota, &Counted::Pod(&pod)), "{operator}");
    }
}
