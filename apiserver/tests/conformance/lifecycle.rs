//! The life that upstream's suites lead every kind through: create, get, list, watch, patch,
//! update, the status subresource, delete, delete a collection.

use serde_json::{Value, json};

use crate::api::{Api, Reply};

/// Where the kind is served, and the least that is valid beyond metadata.
fn kinds() -> Vec<(&'static str, Value)> {
    let labels = json!({"matchLabels": {"app": "a"}});
    let template = json!({
        "metadata": {"labels": {"app": "a"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    });
    let mut once = template.clone();
    once["spec"]["restartPolicy"] = "Never".into();
    let workload = json!({"spec": {"selector": labels, "template": template}});
    let subject = json!({"kind": "User", "name": "u", "apiGroup": "rbac.authorization.k8s.io"});
    let role =
        |kind: &str| json!({"kind": kind, "name": "r", "apiGroup": "rbac.authorization.k8s.io"});
    let rule = json!({"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"],
        "resources": ["deployments"]});
    vec![
        ("/api/v1/namespaces/default/configmaps", json!({"data": {"k": "v"}})),
        ("/api/v1/namespaces/default/secrets", json!({"stringData": {"k": "v"}})),
        ("/api/v1/namespaces/default/serviceaccounts", json!({})),
        ("/api/v1/namespaces/default/limitranges", json!({"spec": {"limits": []}})),
        ("/api/v1/namespaces/default/resourcequotas", json!({"spec": {"hard": {"pods": "90"}}})),
        ("/api/v1/namespaces/default/podtemplates", json!({"template": template})),
        ("/api/v1/namespaces/default/endpoints", json!({})),
        ("/api/v1/namespaces/default/services", json!({"spec": {"ports": [{"port": 80}]}})),
        ("/api/v1/namespaces/default/pods", json!({"spec": template["spec"]})),
        (
            "/api/v1/namespaces/default/replicationcontrollers",
            json!({"spec": {"selector": {"app": "a"}, "template": template}}),
        ),
        ("/api/v1/nodes", json!({})),
        ("/apis/apps/v1/namespaces/default/deployments", workload.clone()),
        ("/apis/apps/v1/namespaces/default/replicasets", workload.clone()),
        ("/apis/apps/v1/namespaces/default/daemonsets", workload.clone()),
        ("/apis/apps/v1/namespaces/default/statefulsets", workload),
        (
            "/apis/apps/v1/namespaces/default/controllerrevisions",
            json!({"revision": 1, "data": {"k": 1}}),
        ),
        ("/apis/batch/v1/namespaces/default/jobs", json!({"spec": {"template": once}})),
        (
            "/apis/batch/v1/namespaces/default/cronjobs",
            json!({"spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template": once}}}}),
        ),
        (
            "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers",
            json!({"spec": {"maxReplicas": 2, "scaleTargetRef": {"kind": "Deployment",
                "name": "d", "apiVersion": "apps/v1"}}}),
        ),
        ("/apis/coordination.k8s.io/v1/namespaces/default/leases", json!({"spec": {}})),
        (
            "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
            json!({"addressType": "IPv4", "endpoints": []}),
        ),
        (
            "/apis/networking.k8s.io/v1/namespaces/default/ingresses",
            json!({"spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}}),
        ),
        (
            "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies",
            json!({"spec": {"podSelector": {}}}),
        ),
        (
            "/apis/networking.k8s.io/v1/ingressclasses",
            json!({"spec": {"controller": "example.com/c"}}),
        ),
        (
            "/apis/policy/v1/namespaces/default/poddisruptionbudgets",
            json!({"spec": {"maxUnavailable": 1, "selector": labels}}),
        ),
        ("/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles", json!({"rules": []})),
        (
            "/apis/rbac.authorization.k8s.io/v1/namespaces/default/rolebindings",
            json!({"roleRef": role("Role"), "subjects": [subject]}),
        ),
        ("/apis/rbac.authorization.k8s.io/v1/clusterroles", json!({"rules": []})),
        (
            "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
            json!({"roleRef": role("ClusterRole"), "subjects": [subject]}),
        ),
        ("/apis/node.k8s.io/v1/runtimeclasses", json!({"handler": "h"})),
        ("/apis/scheduling.k8s.io/v1/priorityclasses", json!({"value": 1})),
        ("/apis/storage.k8s.io/v1/storageclasses", json!({"provisioner": "example.com/p"})),
        ("/apis/storage.k8s.io/v1/csidrivers", json!({"spec": {}})),
        ("/apis/storage.k8s.io/v1/csinodes", json!({"spec": {"drivers": []}})),
        (
            "/apis/storage.k8s.io/v1/namespaces/default/csistoragecapacities",
            json!({"storageClassName": "s"}),
        ),
        (
            "/apis/storage.k8s.io/v1/volumeattachments",
            json!({"spec": {"attacher": "csi.example.com", "nodeName": "n",
                "source": {"persistentVolumeName": "v"}}}),
        ),
        (
            "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations",
            json!({"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": 2,
                "limitResponse": {"type": "Reject"}}}}),
        ),
        (
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicies",
            json!({"spec": {"matchConstraints": {"resourceRules": [rule]},
                "validations": [{"expression": "true"}]}}),
        ),
        (
            "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings",
            json!({"spec": {"policyName": "p", "validationActions": ["Deny"]}}),
        ),
    ]
}

fn with(metadata: Value, rest: &Value) -> Value {
    let mut object = rest.clone();
    object["metadata"] = metadata;
    object
}

fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn every_kind_is_created_listed_watched_patched_updated_and_deleted() {
    let api = Api::start().await;
    for (path, rest) in kinds() {
        let of_life = format!("{path}?labelSelector=life%3Dyes");
        let empty = api.get(&of_life).await.expect(200);
        assert_eq!(empty["items"], json!([]), "{path}: an empty list is there");
        let metadata = json!({"generateName": "e2e-", "labels": {"life": "yes"}});
        let mut created = Value::Null;
        for _ in 0..3 {
            created = api.post(path, with(metadata.clone(), &rest)).await.expect(201);
        }
        let (kind, version) = (&created["kind"], &created["apiVersion"]);
        assert!(kind.is_string() && version.is_string(), "{created}");
        let name = created["metadata"]["name"].as_str().unwrap().to_string();
        let object = format!("{path}/{name}");
        assert_eq!(api.get(&object).await.expect(200), created);

        let list = api.get(&of_life).await.expect(200);
        assert_eq!(list["kind"], format!("{}List", kind.as_str().unwrap()));
        assert_eq!(list["items"].as_array().unwrap().len(), 3, "{path}");
        assert!(list["items"][0].get("kind").is_none());
        let since = format!("{of_life}&watch=true&resourceVersion={}", revision(&list));
        let mut watch = api.watch(&since).await;

        let patch = json!({"metadata": {"annotations": {"patched": "true"}}});
        let patched = api.merge(&object, patch).await.expect(200);
        assert_eq!(patched["metadata"]["annotations"]["patched"], "true", "{path}");
        assert!(revision(&patched) > revision(&created));
        let seen = watch.next().await;
        assert_eq!((&seen["type"], &seen["object"]), (&json!("MODIFIED"), &patched), "{path}");
        let mut update = patched.clone();
        update["metadata"]["annotations"]["updated"] = "true".into();
        let updated = api.put(&object, update).await.expect(200);
        assert_eq!(updated["metadata"]["annotations"]["updated"], "true");
        assert_eq!(updated["spec"], created["spec"], "{path}");
        assert_eq!(watch.next().await["object"], updated);
        let stale = api.put(&object, patched).await.expect(409);
        assert_eq!(stale["reason"], "Conflict", "{path}");

        let options = "propagationPolicy=Background&gracePeriodSeconds=0";
        let deleted = api.delete(&format!("{object}?{options}")).await;
        is_deletion(&deleted, &updated);
        let last = watch.next().await;
        assert_eq!(last["type"], "DELETED", "{path}: {last}");
        assert!(revision(&last["object"]) > revision(&updated));
        let gone = api.get(&object).await.expect(404);
        assert_eq!((&gone["kind"], &gone["reason"]), (&json!("Status"), &json!("NotFound")));
        assert_eq!(gone["details"]["name"], name);
        assert_eq!(api.get(&of_life).await.expect(200)["items"].as_array().unwrap().len(), 2);

        let rest = api.delete(&format!("{of_life}&{options}")).await.expect(200);
        assert_eq!(rest["kind"], format!("{}List", kind.as_str().unwrap()), "{path}");
        assert_eq!(api.get(&of_life).await.expect(200)["items"], json!([]), "{path}");
    }
}

/// The object as it was, or a Status that names it.
fn is_deletion(reply: &Reply, object: &Value) {
    assert_eq!(reply.code, 200, "{}", reply.text());
    let (answer, metadata) = (reply.json(), &object["metadata"]);
    if answer["kind"] == "Status" {
        assert_eq!(answer["status"], "Success");
        let details = &answer["details"];
        assert_eq!((&details["name"], &details["uid"]), (&metadata["name"], &metadata["uid"]));
        assert!(details["kind"].is_string(), "{answer}");
    } else {
        assert_eq!(
            (&answer["kind"], &answer["metadata"]["uid"]),
            (&object["kind"], &metadata["uid"])
        );
    }
}

/// Kinds whose deletion answers with the object, and with a Status.
#[tokio::test]
async fn deletions_answer_as_upstreams_do() {
    let api = Api::start().await;
    const OBJECTS: [&str; 9] = [
        "CSIDriver",
        "CSINode",
        "Pod",
        "PodTemplate",
        "ResourceQuota",
        "Service",
        "ServiceAccount",
        "StorageClass",
        "VolumeAttachment",
    ];
    for (path, rest) in kinds() {
        let created = api.post(path, with(json!({"name": "one"}), &rest)).await.expect(201);
        let kind = created["kind"].as_str().unwrap();
        let gone = api.delete(&format!("{path}/one?propagationPolicy=Background")).await;
        let expected = if OBJECTS.contains(&kind) { kind } else { "Status" };
        assert_eq!(gone.expect(200)["kind"], expected, "{path}");
    }
}

/// Suites patch annotations through `/status`; the spec stays whatever the patch says, and of some
/// kinds the metadata, too.
#[tokio::test]
async fn a_patch_of_status_takes_metadata_and_leaves_the_spec() {
    const APART: [&str; 3] =
        ["PriorityLevelConfiguration", "ValidatingAdmissionPolicy", "VolumeAttachment"];
    let api = Api::start().await;
    let mut tried = 0;
    for (path, rest) in kinds() {
        let created = api.post(path, with(json!({"name": "one"}), &rest)).await.expect(201);
        let status = format!("{path}/one/status");
        let read = api.get(&status).await;
        if read.code == 404 {
            continue;
        }
        let read = read.expect(200);
        assert_eq!(
            (&read["kind"], &read["metadata"]["uid"]),
            (&created["kind"], &created["metadata"]["uid"]),
            "{path}"
        );
        let patch = json!({"metadata": {"annotations": {"patchedstatus": "true"}},
            "spec": {"replicas": 77, "unschedulable": true}});
        let patched =
            api.merge(&format!("{status}?fieldValidation=Ignore"), patch).await.expect(200);
        let kept = APART.contains(&created["kind"].as_str().unwrap());
        let expected = if kept { Value::Null } else { "true".into() };
        assert_eq!(patched["metadata"]["annotations"]["patchedstatus"], expected, "{path}");
        assert_eq!(patched["spec"], read["spec"], "{path}");
        let put = api.put(&status, patched.clone()).await.expect(200);
        assert_eq!(put["metadata"]["uid"], created["metadata"]["uid"]);
        tried += 1;
    }
    assert!(tried > 12, "{tried}");
}
