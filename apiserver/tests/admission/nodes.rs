//! NodeRestriction and TaintNodesByCondition.

use proto::user::User;
use serde_json::{Value, json};

use crate::api::{Api, PODS, pod};

const NODES: &str = "/api/v1/nodes";

fn node(api: &Api, name: &str) -> Api {
    // With the administrator's rights: what the authorizer leaves is what is tested here.
    let user = format!("system:node:{name}");
    api.as_user(User::new(&user, &["system:nodes", "system:masters"]))
}

#[tokio::test]
async fn nodes_write_themselves_and_little_of_that() {
    let api = Api::start().await;
    let n1 = node(&api, "n1");
    let object = |name: &str, labels: Value| json!({"metadata": {"name": name, "labels": labels}});
    let refused = n1.post(NODES, object("n2", json!({}))).await.expect(403);
    assert_eq!(
        refused["message"],
        "nodes \"n2\" is forbidden: node \"n1\" is not allowed to modify node \"n2\""
    );
    let labels = json!({"node-restriction.kubernetes.io/a": "1", "x.k8s.io/b": "1"});
    let refused = n1.post(NODES, object("n1", labels)).await.expect(403);
    assert_eq!(
        refused["message"],
        "nodes \"n1\" is forbidden: node \"n1\" is not allowed to set the following labels: \
         node-restriction.kubernetes.io/a, x.k8s.io/b"
    );
    let labels = json!({"kubernetes.io/hostname": "n1", "node.kubernetes.io/a": "1", "free": "1"});
    let made = n1.post(NODES, object("n1", labels)).await.expect(201);
    let taint = json!([{"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"}]);
    assert_eq!(made["spec"]["taints"], taint);
    let path = format!("{NODES}/n1");
    for (patch, why) in [
        (json!({"spec": {"taints": null}}), "node \"n1\" is not allowed to modify taints"),
        (
            json!({"metadata": {"labels": {"kubernetes.io/role": "x"}}}),
            "is not allowed to modify labels: kubernetes.io/role",
        ),
    ] {
        let refused = n1.merge(&path, patch).await.expect(403);
        assert_eq!(refused["message"], format!("nodes \"n1\" is forbidden: {why}"));
    }
    n1.merge(&path, json!({"metadata": {"labels": {"free": "2"}}})).await.expect(200);
}

#[tokio::test]
async fn nodes_write_their_own_pods() {
    let api = Api::start().await;
    let n1 = node(&api, "n1");
    let made = n1.post(NODES, json!({"metadata": {"name": "n1"}})).await.expect(201);
    let uid = made["metadata"]["uid"].as_str().unwrap();
    let mirror = |change: fn(&mut Value)| {
        let mut mirror = pod("m");
        mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        mirror["metadata"]["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "Node",
            "name": "n1", "uid": uid, "controller": true}]);
        mirror["spec"]["nodeName"] = json!("n1");
        change(&mut mirror);
        mirror
    };
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 6] = [
        (
            |pod| pod["metadata"]["annotations"] = json!({}),
            "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"n1\" can only \
             create mirror pods",
        ),
        (
            |pod| pod["spec"]["nodeName"] = json!("n2"),
            "node \"n1\" can only create pods with spec.nodeName set to itself",
        ),
        (
            |pod| pod["metadata"]["ownerReferences"] = json!([]),
            "node \"n1\" can only create pods with an owner reference set to itself",
        ),
        (
            |pod| pod["metadata"]["ownerReferences"][0]["controller"] = json!(false),
            "node \"n1\" can only create pods with a controller owner reference set to itself",
        ),
        (
            |pod| pod["metadata"]["ownerReferences"][0]["uid"] = json!("other"),
            "node n1 UID mismatch: expected other got ",
        ),
        (
            |pod| {
                let volume = json!({"name": "v", "configMap": {"name": "c"}});
                pod["spec"]["volumes"] = json!([volume]);
            },
            "node \"n1\" can not create pods that reference configmaps",
        ),
    ];
    for (change, why) in cases {
        let refused = n1.post(PODS, mirror(change)).await.expect(403);
        let expected = format!("pods \"m\" is forbidden: {why}");
        assert!(refused["message"].as_str().unwrap().starts_with(&expected), "{refused}");
    }
    n1.post(PODS, mirror(|_| {})).await.expect(201);

    api.post(PODS, pod("free")).await.expect(201);
    let refused = n1.delete(&format!("{PODS}/free")).await.expect(403);
    assert_eq!(
        refused["message"],
        "pods \"free\" is forbidden: node \"n1\" can only delete pods with spec.nodeName set to \
         itself"
    );
    let eviction = json!({"metadata": {"name": "free"}});
    let refused = n1.post(&format!("{PODS}/free/eviction"), eviction).await.expect(403);
    assert_eq!(
        refused["message"],
        "pods \"free\" is forbidden: node n1 can only evict pods with spec.nodeName set to itself"
    );
    let relabel = json!({"metadata": {"labels": {"a": "b"}}, "status": {"phase": "Running"}});
    let refused = n1.merge(&format!("{PODS}/m/status"), relabel).await.expect(403);
    assert_eq!(
        refused["message"],
        "pods \"m\" is forbidden: node \"n1\" cannot update labels through pod status"
    );
    n1.delete(&format!("{PODS}/m?gracePeriodSeconds=0")).await.expect(200);
}

#[tokio::test]
async fn nodes_renew_their_own_leases() {
    let api = Api::start().await;
    let n1 = node(&api, "n1");
    let lease = |name: &str| json!({"metadata": {"name": name}});
    let of =
        |namespace: &str| format!("/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases");
    for (namespace, name, why) in [
        ("default", "n1", "can only access leases in the \"kube-node-lease\" system namespace"),
        (
            "kube-node-lease",
            "n2",
            "can only access node lease with the same name as the requesting node",
        ),
    ] {
        let refused = n1.post(&of(namespace), lease(name)).await.expect(403);
        assert!(refused["message"].as_str().unwrap().ends_with(why), "{refused}");
    }
    n1.post(&of("kube-node-lease"), lease("n1")).await.expect(201);
    let csi = "/apis/storage.k8s.io/v1/csinodes";
    let other = json!({"metadata": {"name": "n2"}, "spec": {"drivers": []}});
    let refused = n1.post(csi, other).await.expect(403);
    assert!(refused["message"].as_str().unwrap().contains("can only access CSINode"), "{refused}");
}
