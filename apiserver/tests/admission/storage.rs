//! DefaultStorageClass, StorageObjectInUseProtection, PersistentVolumeClaimResize.

use serde_json::{Value, json};

use crate::api::Api;

const CLAIMS: &str = "/api/v1/namespaces/default/persistentvolumeclaims";
const VOLUMES: &str = "/api/v1/persistentvolumes";
const CLASSES: &str = "/apis/storage.k8s.io/v1/storageclasses";

fn claim(name: &str, class: Value) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": class,
            "resources": {"requests": {"storage": "1Gi"}},
        },
    })
}

async fn class(api: &Api, name: &str, is_default: bool, grows: bool) {
    let mark = json!({"storageclass.kubernetes.io/is-default-class": is_default.to_string()});
    let class = json!({
        "metadata": {"name": name, "annotations": mark},
        "provisioner": "example.com/p",
        "allowVolumeExpansion": grows,
    });
    api.post(CLASSES, class).await.expect(201);
}

#[tokio::test]
async fn claims_get_the_default_class() {
    let api = Api::start().await;
    let made = api.post(CLAIMS, claim("none", Value::Null)).await.expect(201);
    assert!(made["spec"].get("storageClassName").is_none());
    class(&api, "a", false, false).await;
    class(&api, "b", true, false).await;
    class(&api, "c", true, false).await;
    for (name, wanted, expected) in
        [("given", json!("a"), "a"), ("no-class", json!(""), ""), ("defaulted", Value::Null, "b")]
    {
        let made = api.post(CLAIMS, claim(name, wanted)).await.expect(201);
        // All were made in one second: the first by name counts as the newest.
        assert_eq!(made["spec"]["storageClassName"], expected, "{name}");
    }
}

#[tokio::test]
async fn storage_in_use_is_protected() {
    let api = Api::start().await;
    let made = api.post(CLAIMS, claim("c", Value::Null)).await.expect(201);
    assert_eq!(made["metadata"]["finalizers"], json!(["kubernetes.io/pvc-protection"]));
    let volume = json!({
        "metadata": {"name": "v", "finalizers": ["example.com/own"]},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "capacity": {"storage": "1Gi"},
            "hostPath": {"path": "/tmp"},
        },
    });
    let made = api.post(VOLUMES, volume).await.expect(201);
    let expected = json!(["example.com/own", "kubernetes.io/pv-protection"]);
    assert_eq!(made["metadata"]["finalizers"], expected);
}

#[tokio::test]
async fn only_bound_claims_of_growing_classes_grow() {
    let api = Api::start().await;
    class(&api, "fixed", false, false).await;
    class(&api, "grows", false, true).await;
    let bigger = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    for (name, bound, code, why) in [
        // The kind's own rules, or admission: `Only bound persistent volume claims …`.
        ("fixed", false, [403, 422], ""),
        (
            "fixed",
            true,
            [403, 403],
            "only dynamically provisioned pvc can be resized and the storageclass that provisions \
             the pvc must support resize",
        ),
        ("grows", true, [200, 200], ""),
    ] {
        let path = format!("{CLAIMS}/{name}-{bound}");
        api.post(CLAIMS, claim(&format!("{name}-{bound}"), json!(name))).await.expect(201);
        if bound {
            let status = json!({"status": {"phase": "Bound"}});
            api.merge(&format!("{path}/status"), status).await.expect(200);
        }
        let reply = api.merge(&path, bigger.clone()).await;
        assert!(code.contains(&reply.code), "{name} {bound}: {}", reply.text());
        assert!(reply.message().ends_with(why), "{}", reply.message());
    }
}
