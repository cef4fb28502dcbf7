//! What a node may read and write over HTTP: what its pods lead to, and nothing of another node.

#[path = "http/api.rs"]
mod api;

use api::{Api, PODS, pod};
use proto::user::User;
use serde_json::{Value, json};

const CORE: &str = "/api/v1/namespaces/default";
const STORAGE: &str = "/apis/storage.k8s.io/v1";
const DEVICES: &str = "/apis/resource.k8s.io/v1";

fn node(api: &Api, name: &str) -> Api {
    api.as_user(User::new(&format!("system:node:{name}"), &["system:nodes"]))
}

/// One of every kind that a node reads for its pods, led to by the pod `p` on n1.
async fn cluster() -> Api {
    let api = Api::start().await;
    for name in ["n1", "n2"] {
        api.post("/api/v1/nodes", json!({"metadata": {"name": name}})).await.expect(201);
        let csi = json!({"metadata": {"name": name}, "spec": {"drivers": []}});
        api.post(&format!("{STORAGE}/csinodes"), csi).await.expect(201);
        let slice = json!({"metadata": {"name": format!("of-{name}")}, "spec": {"driver": "d.example",
            "nodeName": name, "pool": {"name": name, "resourceSliceCount": 1, "generation": 1}}});
        api.post(&format!("{DEVICES}/resourceslices"), slice).await.expect(201);
        let attachment = json!({"metadata": {"name": format!("at-{name}")}, "spec": {
            "attacher": "d.example", "nodeName": name, "source": {"persistentVolumeName": "pv"}}});
        api.post(&format!("{STORAGE}/volumeattachments"), attachment).await.expect(201);
        let lease = json!({"metadata": {"name": name}});
        let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        api.post(leases, lease).await.expect(201);
    }
    api.namespace("other", json!({})).await;
    for name in ["direct", "env", "all", "pull", "projected", "inline", "stage", "attach", "far"] {
        let object = json!({"metadata": {"name": name}});
        api.post(&format!("{CORE}/secrets"), object.clone()).await.expect(201);
        api.post("/api/v1/namespaces/other/secrets", object).await.expect(201);
    }
    for name in ["map", "key", "whole", "part", "far"] {
        let object = json!({"metadata": {"name": name}});
        api.post(&format!("{CORE}/configmaps"), object).await.expect(201);
    }
    for name in ["robot", "far"] {
        let object = json!({"metadata": {"name": name}});
        api.post(&format!("{CORE}/serviceaccounts"), object).await.expect(201);
    }
    let size = json!({"requests": {"storage": "1Gi"}});
    for name in ["data", "p-scratch", "far"] {
        let claim = json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": size, "storageClassName": "", "volumeName": format!("pv-{name}")}});
        api.post(&format!("{CORE}/persistentvolumeclaims"), claim).await.expect(201);
        let secret = |secret: &str| json!({"name": secret, "namespace": "other"});
        let volume = json!({"metadata": {"name": format!("pv-{name}")}, "spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "claimRef": {"namespace": "default", "name": name},
            "csi": {"driver": "d.example", "volumeHandle": name,
                "nodeStageSecretRef": secret(if name == "data" { "stage" } else { "all" }),
                "controllerPublishSecretRef": secret("attach")}}});
        let volume = match name {
            "far" => {
                let mut volume = volume;
                volume["spec"]["csi"]["nodeStageSecretRef"] = secret("far");
                volume
            }
            _ => volume,
        };
        api.post("/api/v1/persistentvolumes", volume).await.expect(201);
    }
    for name in ["gpu", "far"] {
        let claim = json!({"metadata": {"name": name}, "spec": {}});
        let path = format!("{DEVICES}/namespaces/default/resourceclaims");
        api.post(&path, claim).await.expect(201);
    }
    api.post(PODS, wide()).await.expect(201);
    let mut far = pod("far");
    far["spec"]["serviceAccountName"] = "far".into();
    far["spec"]["volumes"] = json!([
        {"name": "s", "secret": {"secretName": "far"}},
        {"name": "c", "configMap": {"name": "far"}},
        {"name": "d", "persistentVolumeClaim": {"claimName": "far"}},
    ]);
    far["spec"]["containers"][0]["resources"] = json!({"limits": {GPU: "1"}});
    api.post(PODS, far).await.expect(201);
    api
}

/// A resource for which claims are made.
const GPU: &str = "example.com/gpu";

/// A pod that leads to one of everything.
fn wide() -> Value {
    let mut pod = pod("p");
    pod["spec"]["serviceAccountName"] = "robot".into();
    pod["spec"]["imagePullSecrets"] = json!([{"name": "pull"}]);
    pod["spec"]["volumes"] = json!([
        {"name": "a", "secret": {"secretName": "direct"}},
        {"name": "b", "configMap": {"name": "map"}},
        {"name": "c", "projected": {"sources": [
            {"secret": {"name": "projected"}}, {"configMap": {"name": "part"}}]}},
        {"name": "d", "csi": {"driver": "d.example", "nodePublishSecretRef": {"name": "inline"}}},
        {"name": "e", "persistentVolumeClaim": {"claimName": "data"}},
        {"name": "scratch", "ephemeral": {"volumeClaimTemplate": {"spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}}},
    ]);
    pod["spec"]["containers"][0]["env"] = json!([
        {"name": "A", "valueFrom": {"secretKeyRef": {"name": "env", "key": "k"}}},
        {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "key", "key": "k"}}},
    ]);
    pod["spec"]["containers"][0]["resources"] = json!({"limits": {GPU: "1"}});
    pod["spec"]["containers"][0]["envFrom"] =
        json!([{"secretRef": {"name": "all"}}, {"configMapRef": {"name": "whole"}}]);
    pod
}

async fn bind(api: &Api, pod: &str, node: &str) {
    let target = json!({"metadata": {"name": pod}, "target": {"kind": "Node", "name": node}});
    api.post(&format!("{PODS}/{pod}/binding"), target).await.expect(201);
}

/// What the pod `p` leads to.
const NEEDED: &[&str] = &[
    "secrets/direct",
    "secrets/env",
    "secrets/all",
    "secrets/pull",
    "secrets/projected",
    "secrets/inline",
    "../other/secrets/stage",
    "../other/secrets/all",
    "configmaps/map",
    "configmaps/key",
    "configmaps/whole",
    "configmaps/part",
    "persistentvolumeclaims/data",
    "persistentvolumeclaims/p-scratch",
    "serviceaccounts/robot",
    "/api/v1/persistentvolumes/pv-data",
    "/api/v1/persistentvolumes/pv-p-scratch",
    "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims/gpu",
    "pods/p",
];

/// What it does not, though it is there.
const FOREIGN: &[&str] = &[
    "secrets/far",
    "secrets/stage",
    "../other/secrets/direct",
    "../other/secrets/attach",
    "../other/secrets/far",
    "configmaps/far",
    "persistentvolumeclaims/far",
    "serviceaccounts/far",
    "serviceaccounts/default",
    "/api/v1/persistentvolumes/pv-far",
    "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims/far",
    "pods/far",
];

fn path(what: &str) -> String {
    match (what.strip_prefix("../"), what.starts_with('/')) {
        (Some(rest), _) => format!("/api/v1/namespaces/{rest}"),
        (None, true) => what.to_string(),
        (None, false) => format!("{CORE}/{what}"),
    }
}

#[tokio::test]
async fn a_node_reads_what_its_pods_lead_to() {
    let api = cluster().await;
    let (n1, n2) = (node(&api, "n1"), node(&api, "n2"));
    // Before the pod is anywhere it leads nobody to anything.
    for what in NEEDED.iter().chain(FOREIGN) {
        assert_eq!(n1.get(&path(what)).await.code, 403, "{what}");
    }
    bind(&api, "p", "n1").await;
    bind(&api, "far", "n2").await;
    for (pod, claim) in [("p", "gpu"), ("far", "far")] {
        let status = json!({"extendedResourceClaimStatus": {"resourceClaimName": claim,
            "requestMappings": [{"containerName": "c", "requestName": "r",
                "resourceName": GPU}]}});
        api.merge(&format!("{PODS}/{pod}/status"), json!({ "status": status })).await.expect(200);
    }
    for what in NEEDED {
        n1.get(&path(what)).await.expect(200);
        let refused = n2.get(&path(what)).await;
        let why = "no relationship found between node 'n2' and this object";
        assert_eq!(refused.code, 403, "{what}");
        assert!(refused.message().ends_with(why), "{what}: {}", refused.message());
    }
    for what in FOREIGN {
        let refused = n1.get(&path(what)).await;
        assert_eq!(refused.code, 403, "{what}: {}", refused.text());
    }
    // Who only says that it is a node is none, and neither is another's user.
    for user in [User::new("system:node:n1", &[]), User::new("n1", &["system:nodes"])] {
        assert_eq!(api.as_user(user).get(&path("secrets/direct")).await.code, 403);
    }
    // Once the pod is gone, so is the way.
    api.delete(&format!("{PODS}/p?gracePeriodSeconds=0")).await.expect(200);
    for what in NEEDED {
        assert_eq!(n1.get(&path(what)).await.code, 403, "{what}");
    }
}

#[tokio::test]
async fn nothing_is_read_across() {
    let api = cluster().await;
    bind(&api, "p", "n1").await;
    let n1 = node(&api, "n1");
    let selected = |what: &str, field: &str| format!("{CORE}/{what}?fieldSelector={field}");
    let watched = |path: String| {
        let mark = if path.contains('?') { '&' } else { '?' };
        format!("{path}{mark}watch=1&timeoutSeconds=1")
    };
    let one = "No Object name found";
    let cases = [
        (format!("{CORE}/secrets"), one),
        (format!("{CORE}/configmaps"), one),
        ("/api/v1/secrets".into(), "can only read namespaced object of this type"),
        (
            "/api/v1/secrets?fieldSelector=metadata.name%3Ddirect".into(),
            "can only read namespaced object of this type",
        ),
        (
            selected("secrets", "metadata.name%3Dfar"),
            "no relationship found between node 'n1' and this object",
        ),
        (selected("secrets", "metadata.name!%3Dx"), one),
        (selected("secrets", "type%3DOpaque"), one),
        (selected("secrets", "metadata.namespace%3Ddefault"), one),
        (
            format!("{CORE}/persistentvolumeclaims"),
            "can only get individual resources of this type",
        ),
        ("/api/v1/persistentvolumes".into(), "can only get individual resources of this type"),
        (format!("{STORAGE}/volumeattachments"), "can only get individual resources of this type"),
        (
            format!("{DEVICES}/namespaces/default/resourceclaims"),
            "can only get individual resources of this type",
        ),
        (
            format!("{CORE}/serviceaccounts"),
            "can only create tokens for individual service accounts",
        ),
        (PODS.into(), "can only list/watch pods with spec.nodeName field selector"),
        (
            selected("pods", "spec.nodeName%3Dn2"),
            "can only list/watch pods with spec.nodeName field selector",
        ),
        (
            "/api/v1/pods?fieldSelector=spec.nodeName!%3Dn1".into(),
            "can only list/watch pods with spec.nodeName field selector",
        ),
        (format!("{STORAGE}/csinodes"), "can only get, create, update, patch, or delete a CSINode"),
        (
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases".into(),
            "can only get, create, update, patch, or delete a node lease",
        ),
        (
            format!("{DEVICES}/resourceslices"),
            "can only list/watch/deletecollection resourceslices with spec.nodeName field selector",
        ),
        (
            format!("{DEVICES}/resourceslices?fieldSelector=spec.nodeName%3Dn2"),
            "can only list/watch/deletecollection resourceslices with spec.nodeName field selector",
        ),
    ];
    for (path, why) in cases {
        for path in [path.clone(), watched(path)] {
            let refused = n1.get(&path).await;
            assert_eq!(refused.code, 403, "{path}: {}", refused.text());
            assert!(refused.message().ends_with(why), "{path}: {}", refused.message());
        }
    }
    for path in [
        selected("secrets", "metadata.name%3Ddirect"),
        selected("configmaps", "metadata.name%3Dmap"),
        selected("pods", "metadata.name%3Dp"),
        selected("pods", "spec.nodeName%3Dn1"),
        "/api/v1/pods?fieldSelector=spec.nodeName%3Dn1".into(),
        format!("{DEVICES}/resourceslices?fieldSelector=spec.nodeName%3Dn1"),
    ] {
        let list = n1.get(&path).await.expect(200);
        assert_eq!(list["items"].as_array().unwrap().len(), 1, "{path}");
        assert_eq!(n1.get(&watched(path.clone())).await.code, 200, "{path}");
    }
}

#[tokio::test]
async fn a_watch_of_one_secret_shows_no_other() {
    let api = cluster().await;
    bind(&api, "p", "n1").await;
    let n1 = node(&api, "n1");
    let path = format!("{CORE}/secrets?fieldSelector=metadata.name%3Ddirect&watch=1");
    let mut watch = n1.watch(&path).await;
    assert_eq!(watch.short().await, "ADDED direct");
    let label = json!({"metadata": {"labels": {"a": "b"}}});
    api.merge(&format!("{CORE}/secrets/far"), label.clone()).await.expect(200);
    api.merge(&format!("{CORE}/secrets/direct"), label).await.expect(200);
    assert_eq!(watch.short().await, "MODIFIED direct");
}

/// What a node does, by line and body, and what comes of it.
#[tokio::test]
async fn a_node_writes_its_own_things_only() {
    let api = cluster().await;
    bind(&api, "p", "n1").await;
    bind(&api, "far", "n2").await;
    let n1 = node(&api, "n1");
    let lease = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    let label = || json!({"metadata": {"labels": {"a": "b"}}});
    let slice = |node: &str| {
        json!({"metadata": {"name": format!("new-{node}")}, "spec": {"driver": "d.example",
            "nodeName": node, "pool": {"name": "x", "resourceSliceCount": 1, "generation": 1}}})
    };
    let unrelated = "no relationship found between node 'n1' and this object";
    let own = "can only access node lease with the same name as the requesting node";
    let csi = "can only access CSINode with the same name as the requesting node";
    let reads = "can only read resources of this type";
    let gets = "can only get individual resources of this type";
    let nothing = Value::Null;
    let cases: Vec<(String, Value, u16, &str)> = vec![
        ("PATCH /api/v1/nodes/n1".into(), label(), 200, ""),
        (
            "PATCH /api/v1/nodes/n2".into(),
            label(),
            403,
            "node \"n1\" is not allowed to modify node \"n2\"",
        ),
        (
            "PATCH /api/v1/nodes/n2/status".into(),
            json!({"status": {"phase": "x"}}),
            403,
            "node \"n1\" is not allowed to modify node \"n2\"",
        ),
        (
            "PATCH /api/v1/nodes/n1".into(),
            json!({"metadata": {"ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "u"}]}}),
            403,
            "node \"n1\" is not allowed to modify ownerReferences",
        ),
        (
            "PATCH /api/v1/nodes/n1".into(),
            json!({"spec": {"configSource": {"configMap": {"name": "map", "namespace": "default",
                "kubeletConfigKey": "k"}}}}),
            403,
            "is not allowed to update configSource to a new non-nil configSource",
        ),
        ("DELETE /api/v1/nodes/n1".into(), nothing.clone(), 403, "at the cluster scope"),
        ("DELETE /api/v1/nodes/n2".into(), nothing.clone(), 403, "at the cluster scope"),
        (format!("PATCH {lease}/n1"), label(), 200, ""),
        (format!("PATCH {lease}/n2"), label(), 403, own),
        (format!("DELETE {lease}/n2"), nothing.clone(), 403, own),
        (
            "POST /apis/coordination.k8s.io/v1/namespaces/default/leases".into(),
            json!({"metadata": {"name": "n1"}}),
            403,
            "can only access leases in the \"kube-node-lease\" system namespace",
        ),
        (format!("PATCH {STORAGE}/csinodes/n1"), label(), 200, ""),
        (format!("PATCH {STORAGE}/csinodes/n2"), label(), 403, csi),
        (format!("DELETE {STORAGE}/csinodes/n2"), nothing.clone(), 403, csi),
        (format!("PATCH {DEVICES}/resourceslices/of-n1"), label(), 200, ""),
        (format!("PATCH {DEVICES}/resourceslices/of-n2"), label(), 403, unrelated),
        (format!("DELETE {DEVICES}/resourceslices/of-n2"), nothing.clone(), 403, unrelated),
        (format!("POST {DEVICES}/resourceslices"), slice("n1"), 201, ""),
        (
            format!("POST {DEVICES}/resourceslices"),
            slice("n2"),
            403,
            "can only create ResourceSlice with the same NodeName as the requesting node",
        ),
        (
            format!("DELETE {DEVICES}/resourceslices"),
            nothing.clone(),
            403,
            "with spec.nodeName field selector",
        ),
        (
            format!("DELETE {DEVICES}/resourceslices?fieldSelector=spec.nodeName%3Dn1"),
            nothing.clone(),
            200,
            "",
        ),
        (format!("PATCH {STORAGE}/volumeattachments/at-n1"), label(), 403, gets),
        (format!("PATCH {CORE}/secrets/direct"), label(), 403, reads),
        (format!("DELETE {CORE}/secrets/direct"), nothing.clone(), 403, reads),
        (format!("POST {CORE}/secrets"), json!({"metadata": {"name": "x"}}), 403, reads),
        (format!("DELETE {CORE}/configmaps"), nothing.clone(), 403, reads),
        (format!("PATCH {CORE}/persistentvolumeclaims/data"), label(), 403, gets),
        (
            format!("PATCH {CORE}/persistentvolumeclaims/data/status"),
            json!({"status": {"capacity": {"storage": "2Gi"}}}),
            200,
            "",
        ),
        (
            format!("PATCH {CORE}/persistentvolumeclaims/data/status"),
            json!({"status": {"phase": "Lost"}}),
            403,
            "is not allowed to update fields other than status.capacity and status.conditions",
        ),
        (
            format!("PATCH {CORE}/persistentvolumeclaims/far/status"),
            json!({"status": {"capacity": {"storage": "2Gi"}}}),
            403,
            unrelated,
        ),
        (
            format!("GET {CORE}/persistentvolumeclaims/data/status"),
            nothing.clone(),
            403,
            "can only get/update/patch this type",
        ),
        ("PATCH /api/v1/persistentvolumes/pv-data".into(), label(), 403, gets),
        (
            format!("PATCH {CORE}/serviceaccounts/robot"),
            label(),
            403,
            "can only create tokens for individual service accounts",
        ),
        (format!("PATCH {PODS}/p/status"), json!({"status": {"reason": "x"}}), 200, ""),
        (
            format!("PATCH {PODS}/p/status"),
            json!({"status": {"extendedResourceClaimStatus": {"resourceClaimName": "c"}}}),
            403,
            "node \"n1\" cannot update extended resource claim status",
        ),
        (
            format!("PATCH {PODS}/far/status"),
            json!({"status": {"reason": "x"}}),
            403,
            "node \"n1\" can only update pod status for pods with spec.nodeName set to itself",
        ),
        (format!("PATCH {PODS}/p"), label(), 403, "in the namespace \"default\""),
        (
            format!("DELETE {PODS}/far"),
            nothing.clone(),
            403,
            "node \"n1\" can only delete pods with spec.nodeName set to itself",
        ),
        (format!("DELETE {PODS}/none"), nothing.clone(), 404, "pods \"none\" not found"),
        (format!("DELETE {PODS}"), nothing.clone(), 403, "in the namespace \"default\""),
        (format!("GET {PODS}/p/log"), nothing.clone(), 403, "in the namespace \"default\""),
        (format!("POST {PODS}"), pod("new"), 403, "node \"n1\" can only create mirror pods"),
        (format!("DELETE {PODS}/p?gracePeriodSeconds=0"), nothing, 200, ""),
    ];
    for (line, body, code, why) in cases {
        let kind = match line.starts_with("PATCH") {
            true => "content-type: application/merge-patch+json",
            false => "content-type: application/json",
        };
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let reply = n1.send(&line, &[kind], body).await;
        assert_eq!(reply.code, code, "{line}: {}", reply.text());
        let said = if code < 300 { String::new() } else { reply.message() };
        assert!(said.ends_with(why), "{line}: {said}");
    }
}

/// A pod that a node shows as its own leads it to nothing, should one ever come in.
#[tokio::test]
async fn a_mirror_pod_leads_nowhere() {
    let off = "--disable-admission-plugins=NodeRestriction,ServiceAccount";
    let api = Api::start_with(&[off]).await;
    let secret = json!({"metadata": {"name": "s"}});
    api.post(&format!("{CORE}/secrets"), secret).await.expect(201);
    let mut mirror = pod("m");
    mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
    mirror["spec"]["nodeName"] = "n1".into();
    mirror["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "s"}}]);
    let n1 = node(&api, "n1");
    n1.post(PODS, mirror).await.expect(201);
    assert_eq!(n1.get(&format!("{CORE}/secrets/s")).await.code, 403);
}

/// Asked for, by whom, with how many audiences; what comes of it.
#[tokio::test]
async fn tokens_are_for_whom_the_pod_names() {
    let api = cluster().await;
    let driver = |name: &str, audience: &str| {
        json!({"metadata": {"name": name},
            "spec": {"attachRequired": false, "tokenRequests": [{"audience": audience}]}})
    };
    for (name, audience) in [("d.example", "claimed"), ("e.example", "inline")] {
        let drivers = format!("{STORAGE}/csidrivers");
        api.post(&drivers, driver(name, audience)).await.expect(201);
    }
    let mut object = pod("t");
    object["spec"]["serviceAccountName"] = "robot".into();
    object["spec"]["volumes"] = json!([
        {"name": "a", "projected": {"sources": [
            {"serviceAccountToken": {"path": "t", "audience": "vault"}}]}},
        {"name": "b", "csi": {"driver": "e.example"}},
        {"name": "c", "persistentVolumeClaim": {"claimName": "data"}},
    ]);
    let made = api.post(PODS, object).await.expect(201);
    bind(&api, "t", "n1").await;
    let group = "/apis/rbac.authorization.k8s.io/v1";
    let role = json!({"metadata": {"name": "registry"}, "rules": [{"apiGroups": [""],
        "resources": ["registry"], "verbs": ["request-serviceaccounts-token-audience"]}]});
    api.post(&format!("{group}/clusterroles"), role).await.expect(201);
    let binding = json!({"metadata": {"name": "registry"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "registry"},
        "subjects": [{"kind": "Group", "name": "system:nodes", "apiGroup": "rbac.authorization.k8s.io"}]});
    api.post(&format!("{group}/clusterrolebindings"), binding).await.expect(201);
    let bound = json!({"apiVersion": "v1", "kind": "Pod", "name": "t",
        "uid": made["metadata"]["uid"]});
    let path = format!("{CORE}/serviceaccounts/robot/token");
    let refused = "serviceaccounts \"robot\" is forbidden: audience \"other\" not found in pod \
                   spec volume, system:node:n1 is not authorized to request tokens for this \
                   audience";
    let two = "serviceaccounts \"robot\" is forbidden: node may only request 0 or 1 audiences";
    for (audiences, code, why) in [
        (json!([]), 201, ""),
        (json!(["vault"]), 201, ""),
        (json!(["inline"]), 201, ""),
        (json!(["claimed"]), 201, ""),
        (json!(["registry"]), 201, ""),
        (json!(["other"]), 403, refused),
        (json!(["vault", "inline"]), 403, two),
    ] {
        let spec = json!({"audiences": audiences, "boundObjectRef": bound});
        let reply = node(&api, "n1").post(&path, json!({"spec": spec})).await;
        assert_eq!(reply.code, code, "{audiences}: {}", reply.text());
        assert!(code == 201 || reply.message() == why, "{}", reply.message());
    }
    // Whoever is no node asks for whom they like.
    let spec = json!({"audiences": ["other", "vault"], "boundObjectRef": bound});
    api.post(&path, json!({"spec": spec})).await.expect(201);
}

/// A node asks for certificates of its own only.
#[tokio::test]
async fn certificates_of_nodes() {
    use base64::{Engine, prelude::BASE64_STANDARD};
    let api = Api::start().await;
    let request = |name: &str| {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
        let key = rcgen::KeyPair::generate().unwrap();
        BASE64_STANDARD.encode(params.serialize_request(&key).unwrap().pem().unwrap())
    };
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let client = "kubernetes.io/kube-apiserver-client-kubelet";
    for (number, (signer, name, code)) in [
        (client, "system:node:n1", 201),
        (client, "system:node:n2", 403),
        ("kubernetes.io/kubelet-serving", "system:node:n2", 403),
        ("example.com/other", "system:node:n2", 201),
    ]
    .into_iter()
    .enumerate()
    {
        let usages = match signer {
            "kubernetes.io/kubelet-serving" => json!(["digital signature", "server auth"]),
            _ => json!(["digital signature", "client auth"]),
        };
        let object = json!({"metadata": {"name": format!("r{number}")},
            "spec": {"signerName": signer, "usages": usages, "request": request(name)}});
        let reply = node(&api, "n1").post(path, object).await;
        assert_eq!(reply.code, code, "{signer} {name}: {}", reply.text());
        let why = "can only create a node CSR with CN=system:node:n1";
        assert!(code == 201 || reply.message().ends_with(why), "{}", reply.message());
    }
}
