//! Priority, RuntimeClass, DefaultIngressClass, AlwaysPullImages, ExtendedResourceToleration,
//! DenyServiceExternalIPs, PodTopologyLabels.

use serde_json::{Value, json};

use crate::api::{Api, PODS, pod};

const PRIORITIES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";
const RUNTIMES: &str = "/apis/node.k8s.io/v1/runtimeclasses";
const NODES: &str = "/api/v1/nodes";

fn with(name: &str, spec: Value) -> Value {
    let mut object = pod(name);
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    object
}

#[tokio::test]
async fn priorities_come_from_classes() {
    let api = Api::start().await;
    let class = |name: &str, value: i64, rest: Value| {
        let mut class = json!({"metadata": {"name": name}, "value": value});
        for (field, value) in rest.as_object().unwrap() {
            class[field] = value.clone();
        }
        class
    };
    let high = class("high", 1000, json!({"preemptionPolicy": "Never"}));
    api.post(PRIORITIES, high).await.expect(201);
    let made = api.post(PODS, pod("plain")).await.expect(201);
    assert_eq!(made["spec"]["priority"], 0);
    assert_eq!(made["spec"]["preemptionPolicy"], "PreemptLowerPriority");
    let cases = [
        ("high", json!({"priorityClassName": "high"}), (1000, "Never")),
        ("same", json!({"priorityClassName": "high", "priority": 1000}), (1000, "Never")),
        (
            "system",
            json!({"priorityClassName": "system-node-critical"}),
            (2_000_001_000, "PreemptLowerPriority"),
        ),
    ];
    for (name, spec, (priority, policy)) in cases {
        let made = api.post(PODS, with(name, spec)).await.expect(201);
        assert_eq!(made["spec"]["priority"], priority, "{name}");
        assert_eq!(made["spec"]["preemptionPolicy"], policy, "{name}");
    }
    let refusals = [
        (json!({"priorityClassName": "x"}), "no PriorityClass with name x was found"),
        (
            json!({"priorityClassName": "high", "priority": 7}),
            "the integer value of priority (7) must not be provided in pod spec; priority \
             admission controller computed 1000 from the given PriorityClass name",
        ),
        (
            json!({"priorityClassName": "high", "preemptionPolicy": "PreemptLowerPriority"}),
            "the string value of PreemptionPolicy (PreemptLowerPriority) must not be provided in \
             pod spec; priority admission controller computed Never from the given PriorityClass \
             name",
        ),
    ];
    for (spec, why) in refusals {
        let refused = api.post(PODS, with("p", spec)).await.expect(403);
        assert_eq!(refused["message"], format!("pods \"p\" is forbidden: {why}"));
    }

    api.post(PRIORITIES, class("usual", 5, json!({"globalDefault": true}))).await.expect(201);
    let made = api.post(PODS, pod("defaulted")).await.expect(201);
    assert_eq!(made["spec"]["priorityClassName"], "usual");
    assert_eq!(made["spec"]["priority"], 5);
    let second = class("second", 6, json!({"globalDefault": true}));
    let refused = api.post(PRIORITIES, second).await.expect(403);
    assert_eq!(
        refused["message"],
        "priorityclasses.scheduling.k8s.io \"second\" is forbidden: PriorityClass usual is already \
         marked as default. Only one default can exist"
    );
    let renewed = json!({"description": "for most"});
    api.merge(&format!("{PRIORITIES}/usual"), renewed).await.expect(200);
}

#[tokio::test]
async fn runtimes_cost_and_place() {
    let api = Api::start().await;
    api.post(
        RUNTIMES,
        json!({
            "metadata": {"name": "vm"},
            "handler": "vm",
            "overhead": {"podFixed": {"memory": "64Mi"}},
            "scheduling": {
                "nodeSelector": {"vm": "yes"},
                "tolerations": [{"key": "vm", "operator": "Exists"}],
            },
        }),
    )
    .await
    .expect(201);
    let made = api.post(PODS, with("p", json!({"runtimeClassName": "vm"}))).await.expect(201);
    assert_eq!(made["spec"]["overhead"], json!({"memory": "64Mi"}));
    assert_eq!(made["spec"]["nodeSelector"], json!({"vm": "yes"}));
    let tolerations = made["spec"]["tolerations"].as_array().unwrap();
    assert!(tolerations.iter().any(|toleration| toleration["key"] == "vm"), "{tolerations:?}");
    let refusals = [
        (json!({"runtimeClassName": "x"}), "pod rejected: RuntimeClass \"x\" not found"),
        (
            json!({"runtimeClassName": "vm", "overhead": {"memory": "1Mi"}}),
            "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead",
        ),
        (
            json!({"overhead": {"memory": "1Mi"}}),
            "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
        ),
        (
            json!({"runtimeClassName": "vm", "nodeSelector": {"vm": "no"}}),
            "conflict: runtimeClass.scheduling.nodeSelector[vm] = yes; pod.spec.nodeSelector[vm] = \
             no",
        ),
    ];
    for (spec, why) in refusals {
        let refused = api.post(PODS, with("q", spec)).await.expect(403);
        assert_eq!(refused["message"], format!("pods \"q\" is forbidden: {why}"));
    }
}

#[tokio::test]
async fn ingresses_get_the_default_class() {
    let api = Api::start().await;
    let classes = "/apis/networking.k8s.io/v1/ingressclasses";
    let ingresses = "/apis/networking.k8s.io/v1/namespaces/default/ingresses";
    let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
    let ingress = |name: &str, class: Value| {
        json!({
            "metadata": {"name": name},
            "spec": {"ingressClassName": class, "defaultBackend": backend},
        })
    };
    let made = api.post(ingresses, ingress("none", Value::Null)).await.expect(201);
    assert!(made["spec"].get("ingressClassName").is_none());
    let marked = json!({"ingressclass.kubernetes.io/is-default-class": "true"});
    for (name, annotations) in [("plain", json!({})), ("usual", marked)] {
        let metadata = json!({"name": name, "annotations": annotations});
        let class = json!({"metadata": metadata, "spec": {"controller": "example.com/c"}});
        api.post(classes, class).await.expect(201);
    }
    for (name, class, expected) in
        [("given", json!("plain"), "plain"), ("defaulted", Value::Null, "usual")]
    {
        let made = api.post(ingresses, ingress(name, class)).await.expect(201);
        assert_eq!(made["spec"]["ingressClassName"], expected);
    }
}

#[tokio::test]
async fn some_are_off_unless_asked_for() {
    let gpu = json!({"requests": {"example.com/gpu": "1"}, "limits": {"example.com/gpu": "1"}});
    let wanted = json!({"containers": [{"name": "c", "image": "i:1", "resources": gpu}]});
    let service = json!({
        "metadata": {"name": "s"},
        "spec": {"ports": [{"port": 80}], "externalIPs": ["192.0.2.1"]},
    });
    let services = "/api/v1/namespaces/default/services";
    let tolerates = |pod: &Value| {
        let tolerations = pod["spec"]["tolerations"].as_array().unwrap();
        tolerations.iter().any(|toleration| toleration["key"] == "example.com/gpu")
    };

    let api = Api::start().await;
    let made = api.post(PODS, with("p", wanted.clone())).await.expect(201);
    assert_eq!(made["spec"]["containers"][0]["imagePullPolicy"], "IfNotPresent");
    assert!(!tolerates(&made));
    api.post(services, service.clone()).await.expect(201);

    let on = "--enable-admission-plugins=AlwaysPullImages,ExtendedResourceToleration,\
              DenyServiceExternalIPs";
    let api = Api::start_with(&[on]).await;
    let made = api.post(PODS, with("p", wanted)).await.expect(201);
    assert_eq!(made["spec"]["containers"][0]["imagePullPolicy"], "Always");
    assert!(tolerates(&made));
    let refused = api.post(services, service).await.expect(403);
    assert_eq!(
        refused["message"],
        "services \"s\" is forbidden: Use of external IPs is denied by admission control."
    );
}

#[tokio::test]
async fn pods_carry_where_their_node_is() {
    let api = Api::start().await;
    let labels = json!({"topology.kubernetes.io/zone": "z", "topology.kubernetes.io/region": "r",
        "other": "x"});
    let node = json!({"metadata": {"name": "n", "labels": labels}});
    api.post(NODES, node).await.expect(201);
    let mut own = pod("p");
    own["metadata"]["labels"] = json!({"topology.kubernetes.io/region": "mine"});
    api.post(PODS, own).await.expect(201);
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n"}});
    api.post(&format!("{PODS}/p/binding"), binding).await.expect(201);
    let bound = api.get(&format!("{PODS}/p")).await.expect(200);
    let expected =
        json!({"topology.kubernetes.io/region": "mine", "topology.kubernetes.io/zone": "z"});
    assert_eq!(bound["metadata"]["labels"], expected);
    let placed = api.post(PODS, with("q", json!({"nodeName": "n"}))).await.expect(201);
    let expected =
        json!({"topology.kubernetes.io/region": "r", "topology.kubernetes.io/zone": "z"});
    assert_eq!(placed["metadata"]["labels"], expected);
}
