//! What deletions leave for the garbage collector, and what they refuse.

use serde_json::{Value, json};

use crate::api::{Api, CONFIG_MAPS, DEPLOYMENTS, config_map, deployment};

const CLASSES: &str = "/apis/scheduling.k8s.io/v1/priorityclasses";

#[tokio::test]
async fn system_priority_classes_stay() {
    let api = Api::start().await;
    for name in ["system-node-critical", "system-cluster-critical"] {
        let refused = api.delete(&format!("{CLASSES}/{name}")).await.expect(403);
        assert_eq!(refused["reason"], "Forbidden");
        assert_eq!(
            refused["message"],
            format!(
                "priorityclasses.scheduling.k8s.io \"{name}\" is \
            forbidden: this is a system priority class and cannot be deleted"
            )
        );
        assert_eq!(
            (&refused["details"]["name"], &refused["details"]["kind"]),
            (&json!(name), &json!("priorityclasses"))
        );
        api.get(&format!("{CLASSES}/{name}")).await.expect(200);
    }
    api.post(CLASSES, json!({"metadata": {"name": "own"}, "value": 1})).await.expect(201);
    api.delete(&format!("{CLASSES}/own")).await.expect(200);
}

/// The three forms in which clients ask for it, in the body and in the URL.
#[tokio::test]
async fn propagation_in_body_and_url() {
    let api = Api::start().await;
    let cases: &[(Value, &str, Value)] = &[
        (json!({"propagationPolicy": "Orphan"}), "", json!(["orphan"])),
        (json!({"orphanDependents": true}), "", json!(["orphan"])),
        (json!({"propagationPolicy": "Foreground"}), "", json!(["foregroundDeletion"])),
        (json!({}), "", Value::Null),
        (json!({"propagationPolicy": "Background"}), "", Value::Null),
        (json!({"orphanDependents": false}), "", Value::Null),
        (Value::Null, "?propagationPolicy=Orphan", json!(["orphan"])),
        (Value::Null, "?orphanDependents=true", json!(["orphan"])),
        (Value::Null, "?propagationPolicy=Foreground", json!(["foregroundDeletion"])),
    ];
    for (index, (options, query, finalizers)) in cases.iter().enumerate() {
        let name = format!("d{index}");
        let created = api.post(DEPLOYMENTS, deployment(&name)).await.expect(201);
        let mut options = options.clone();
        if options.is_object() {
            options["kind"] = "DeleteOptions".into();
            options["apiVersion"] = "v1".into();
            options["preconditions"] = json!({"uid": created["metadata"]["uid"]});
        }
        let body = if options.is_null() { String::new() } else { options.to_string() };
        let line = format!("DELETE {DEPLOYMENTS}/{name}{query}");
        let reply = api.send(&line, &["content-type: application/json"], body).await;
        assert!(reply.code < 300, "{}", reply.text());
        let after = api.get(&format!("{DEPLOYMENTS}/{name}")).await;
        if finalizers.is_null() {
            assert_eq!(after.code, 404, "{options} {query}");
            continue;
        }
        let after = after.expect(200);
        assert_eq!(after["metadata"]["finalizers"], *finalizers, "{options} {query}");
        assert!(after["metadata"]["deletionTimestamp"].is_string());
        // The collector takes its finalizer off, and that is the end.
        let end = json!({"metadata": {"finalizers": null}});
        api.merge(&format!("{DEPLOYMENTS}/{name}"), end).await.expect(200);
        assert_eq!(api.get(&format!("{DEPLOYMENTS}/{name}")).await.code, 404);
    }
    let both = json!({"propagationPolicy": "Orphan", "orphanDependents": true}).to_string();
    let line = format!("DELETE {DEPLOYMENTS}/x");
    let refused = api.send(&line, &["content-type: application/json"], both).await;
    assert_eq!(refused.code, 422, "{}", refused.text());
}

/// Owners are named by clients; a strategic patch adds one by its uid.
#[tokio::test]
async fn owners_are_added_and_checked() {
    let api = Api::start().await;
    let path = format!("{CONFIG_MAPS}/x");
    api.post(CONFIG_MAPS, config_map("x")).await.expect(201);
    let owner =
        |uid: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": uid, "uid": uid});
    for (uid, count) in [("a", 1), ("b", 2), ("b", 2)] {
        let patch = json!({"metadata": {"ownerReferences": [owner(uid)]}});
        let patched = api.patch(&path, "strategic-merge-patch+json", patch).await.expect(200);
        assert_eq!(patched["metadata"]["ownerReferences"].as_array().unwrap().len(), count);
    }
    let mut two = [owner("a"), owner("b")];
    two.iter_mut().for_each(|owner| owner["controller"] = true.into());
    let refused = api.merge(&path, json!({"metadata": {"ownerReferences": two}})).await;
    assert_eq!(refused.code, 422);
    assert!(refused.message().contains("Only one reference can have Controller set to true"));
}

/// Of these kinds the object comes back, of the others a Status that names it.
#[tokio::test]
async fn deletions_answer_with_the_object_or_name_it() {
    let api = Api::start().await;
    let template = json!({"metadata": {"labels": {"app": "a"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let claim =
        json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
    let volume = json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
        "hostPath": {"path": "/v"}});
    let attachment = json!({"attacher": "csi.example.com", "nodeName": "n",
        "source": {"persistentVolumeName": "v"}});
    let (core, storage) = ("/api/v1/namespaces/default", "/apis/storage.k8s.io/v1");
    let cases = [
        (format!("{core}/pods"), json!({"spec": template["spec"]}), true),
        (format!("{core}/podtemplates"), json!({"template": template}), true),
        (format!("{core}/services"), json!({"spec": {"ports": [{"port": 80}]}}), true),
        (format!("{core}/serviceaccounts"), json!({}), true),
        (format!("{core}/resourcequotas"), json!({"spec": {"hard": {"pods": "9"}}}), true),
        (format!("{core}/persistentvolumeclaims"), json!({"spec": claim}), true),
        ("/api/v1/persistentvolumes".into(), json!({"spec": volume}), true),
        (format!("{storage}/storageclasses"), json!({"provisioner": "example.com/p"}), true),
        (format!("{storage}/volumeattachments"), json!({"spec": attachment}), true),
        (format!("{storage}/csidrivers"), json!({"spec": {}}), true),
        (format!("{storage}/csinodes"), json!({"spec": {"drivers": []}}), true),
        (format!("{core}/configmaps"), json!({}), false),
        (format!("{core}/secrets"), json!({}), false),
        ("/api/v1/nodes".into(), json!({}), false),
        ("/apis/node.k8s.io/v1/runtimeclasses".into(), json!({"handler": "h"}), false),
        ("/apis/scheduling.k8s.io/v1/priorityclasses".into(), json!({"value": 1}), false),
        ("/apis/rbac.authorization.k8s.io/v1/clusterroles".into(), json!({"rules": []}), false),
    ];
    for (path, mut object, comes_back) in cases {
        object["metadata"] = json!({"name": "one"});
        let created = api.post(&path, object).await.expect(201);
        let gone = api.delete(&format!("{path}/one?gracePeriodSeconds=0")).await.expect(200);
        let (kind, uid) = (&created["kind"], &created["metadata"]["uid"]);
        if comes_back {
            assert_eq!((&gone["kind"], &gone["metadata"]["uid"]), (kind, uid), "{path}");
            continue;
        }
        assert_eq!((&gone["kind"], &gone["status"]), (&json!("Status"), &json!("Success")));
        let details = &gone["details"];
        assert_eq!((&details["name"], &details["uid"]), (&json!("one"), uid), "{path}");
        let resource = path.rsplit_once('/').unwrap().1;
        assert_eq!(details["kind"], resource, "{path}");
    }
}
