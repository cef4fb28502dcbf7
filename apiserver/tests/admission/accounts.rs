//! ServiceAccount.

use serde_json::{Value, json};

use crate::api::{Api, PODS, pod};

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";

#[tokio::test]
async fn pods_act_as_accounts_that_exist() {
    let api = Api::start().await;
    let made = api.post(PODS, pod("p")).await.expect(201);
    assert_eq!(made["spec"]["serviceAccountName"], "default");
    assert_eq!(made["spec"]["serviceAccount"], "default");

    let mut stray = pod("q");
    stray["spec"]["serviceAccountName"] = json!("robot");
    let refused = api.post(PODS, stray.clone()).await.expect(403);
    assert_eq!(
        refused["message"],
        "pods \"q\" is forbidden: error looking up service account default/robot: serviceaccount \
         \"robot\" not found"
    );
    let robot = json!({"metadata": {"name": "robot"}, "imagePullSecrets": [{"name": "s"}]});
    api.post(ACCOUNTS, robot).await.expect(201);
    let made = api.post(PODS, stray).await.expect(201);
    assert_eq!(made["spec"]["imagePullSecrets"], json!([{"name": "s"}]));
}

const FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Where the token is mounted: the containers' names, and the names of the volumes.
fn mounts(pod: &Value) -> (Vec<String>, Vec<String>) {
    let names = |list: &Value, wanted: &dyn Fn(&Value) -> bool| {
        let items = list.as_array().into_iter().flatten().filter(|item| wanted(item));
        items.map(|item| item["name"].as_str().unwrap().to_string()).collect::<Vec<_>>()
    };
    let ours = |mount: &Value| {
        let name = mount["name"].as_str().unwrap();
        mount["mountPath"] == FOLDER && name.starts_with("kube-api-access-")
    };
    let mounted = |container: &Value| {
        let mounts = container["volumeMounts"].as_array();
        mounts.is_some_and(|mounts| mounts.iter().any(ours))
    };
    let spec = &pod["spec"];
    let lists = ["initContainers", "containers"].map(|list| names(&spec[list], &mounted));
    let volumes = names(&spec["volumes"], &|volume| {
        volume["name"].as_str().unwrap().starts_with("kube-api-access-")
    });
    (lists.concat(), volumes)
}

#[tokio::test]
async fn pods_get_the_token_of_their_account() {
    let api = Api::start().await;
    let made = api.post(PODS, pod("p")).await.expect(201);
    let (mounted, volumes) = mounts(&made);
    assert_eq!((mounted, volumes.len()), (vec!["c".to_string()], 1));
    assert_eq!(volumes[0].len(), "kube-api-access-".len() + 5);
    assert_eq!(
        made["spec"]["volumes"],
        json!([{"name": volumes[0], "projected": {
            "defaultMode": 420,
            "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt",
                    "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace",
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
            ],
        }}])
    );
    assert_eq!(
        made["spec"]["containers"][0]["volumeMounts"],
        json!([{"name": volumes[0], "readOnly": true, "mountPath": FOLDER}])
    );
}

/// What the account says, what the spec says, where the token is mounted, and how many volumes
/// there are for it.
#[tokio::test]
async fn who_does_without_a_token() {
    let api = Api::start().await;
    let quiet = json!({"metadata": {"name": "quiet"}, "automountServiceAccountToken": false});
    api.post(ACCOUNTS, quiet).await.expect(201);
    let container = |name: &str, path: &str| {
        let mounts = json!([{"name": "v", "mountPath": path}]);
        json!({"name": name, "image": "i", "volumeMounts": mounts})
    };
    let own = json!([{"name": "v", "emptyDir": {}}]);
    let same = json!([{"name": "kube-api-access-mine", "emptyDir": {}}]);
    let cases: [(&str, Value, &[&str], usize); 8] = [
        ("default", json!({}), &["c"], 1),
        ("quiet", json!({}), &[], 0),
        ("quiet", json!({"automountServiceAccountToken": true}), &["c"], 1),
        ("default", json!({"automountServiceAccountToken": false}), &[], 0),
        ("default", json!({"initContainers": [{"name": "i", "image": "i"}]}), &["i", "c"], 1),
        // What is mounted there already stays.
        ("default", json!({"containers": [container("a", FOLDER)], "volumes": own}), &[], 0),
        (
            "default",
            json!({"containers": [container("a", FOLDER), container("b", "/else")],
                "volumes": own}),
            &["b"],
            1,
        ),
        ("default", json!({"volumes": same}), &["c"], 1),
    ];
    for (number, (account, fields, expected, volumes)) in cases.into_iter().enumerate() {
        let mut object = pod(&format!("p{number}"));
        object["spec"]["serviceAccountName"] = json!(account);
        for (field, value) in fields.as_object().unwrap() {
            object["spec"][field] = value.clone();
        }
        let made = api.post(PODS, object).await.expect(201);
        let (mounted, found) = mounts(&made);
        assert_eq!(
            (mounted, found.len()),
            (expected.iter().map(|name| name.to_string()).collect(), volumes),
            "{fields}"
        );
    }
    let patch = json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "i"}]}});
    let kind = "strategic-merge-patch+json";
    let path = format!("{PODS}/p0/ephemeralcontainers");
    let made = api.patch(&path, kind, patch).await.expect(200);
    assert!(made["spec"]["ephemeralContainers"][0].get("volumeMounts").is_none(), "{made}");
}

#[tokio::test]
async fn mirror_pods_act_as_nobody() {
    let api = Api::start().await;
    let mirror = |spec: serde_json::Value| {
        let mut mirror = pod("m");
        mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        for (field, value) in spec.as_object().unwrap() {
            mirror["spec"][field] = value.clone();
        }
        mirror
    };
    for (spec, why) in [
        (
            json!({"serviceAccountName": "default"}),
            "a mirror pod may not reference service accounts",
        ),
        (
            json!({"volumes": [{"name": "v", "secret": {"secretName": "s"}}]}),
            "a mirror pod may not reference secrets",
        ),
        (json!({"imagePullSecrets": [{"name": "s"}]}), "a mirror pod may not reference secrets"),
        (
            json!({"volumes": [{"name": "v", "projected": {"sources": [
                {"serviceAccountToken": {"path": "t"}}]}}]}),
            "a mirror pod may not use ServiceAccountToken volume projections",
        ),
    ] {
        let refused = api.post(PODS, mirror(spec)).await.expect(403);
        assert_eq!(refused["message"], format!("pods \"m\" is forbidden: {why}"));
    }
    let made = api.post(PODS, mirror(json!({}))).await.expect(201);
    assert!(made["spec"].get("serviceAccountName").is_none());
    assert_eq!(mounts(&made), Default::default());
}

/// What a pod asks for whose account lists one Secret, and why it does not get it.
#[tokio::test]
async fn secrets_that_accounts_do_not_list() {
    let api = Api::start().await;
    let strict = json!({
        "metadata": {"name": "strict",
            "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}},
        "secrets": [{"name": "listed"}],
        "imagePullSecrets": [{"name": "pull"}],
    });
    api.post(ACCOUNTS, strict).await.expect(201);
    let volume =
        |secret: &str| json!({"volumes": [{"name": "v", "secret": {"secretName": secret}}]});
    let with = |list: &str, field: &str, value: Value| {
        let mut containers = json!([{"name": "c", "image": "i"}]);
        if list == "initContainers" {
            containers[0]["name"] = json!("i");
        }
        containers[0][field] = value;
        json!({ list: containers })
    };
    let variable = |secret: &str| json!([{"name": "A", "valueFrom": {"secretKeyRef": {"name": secret, "key": "k"}}}]);
    let all = |secret: &str| json!([{"secretRef": {"name": secret}}]);
    let cases = [
        (volume("listed"), ""),
        (volume("x"), "volume with secret.secretName=\"x\""),
        (with("containers", "env", variable("listed")), ""),
        (
            with("containers", "env", variable("x")),
            "container c with envVar A referencing secret.secretName=\"x\"",
        ),
        (
            with("initContainers", "env", variable("x")),
            "init container i with envVar A referencing secret.secretName=\"x\"",
        ),
        (
            with("containers", "envFrom", all("x")),
            "container c with envFrom referencing secret.secretName=\"x\"",
        ),
        (
            with("initContainers", "envFrom", all("x")),
            "init container i with envFrom referencing secret.secretName=\"x\"",
        ),
    ];
    let because = |what: &str| {
        format!("is not allowed because service account strict does not reference that {what}")
    };
    for (number, (spec, why)) in cases.into_iter().enumerate() {
        let mut object = pod(&format!("p{number}"));
        for (field, value) in spec.as_object().unwrap() {
            object["spec"][field] = value.clone();
        }
        // Whose account does not ask for it is let in.
        let mut free = object.clone();
        free["metadata"]["name"] = json!(format!("free{number}"));
        api.post(PODS, free).await.expect(201);
        object["spec"]["serviceAccountName"] = json!("strict");
        let reply = api.post(PODS, object).await;
        let expected = format!("pods \"p{number}\" is forbidden: {why} {}", because("secret"));
        assert_eq!(reply.code, if why.is_empty() { 201 } else { 403 }, "{}", reply.text());
        assert!(why.is_empty() || reply.message() == expected, "{}", reply.message());
    }
    let mut pulling = pod("pulling");
    pulling["spec"]["serviceAccountName"] = json!("strict");
    pulling["spec"]["imagePullSecrets"] = json!([{"name": "pull"}, {"name": "x"}]);
    let refused = api.post(PODS, pulling).await.expect(403);
    let expected = format!("imagePullSecrets[1].name=\"x\" {}", because("imagePullSecret"));
    assert_eq!(refused["message"], format!("pods \"pulling\" is forbidden: {expected}"));

    let patch = |secret: &str| {
        json!({"spec": {"ephemeralContainers": [
            {"name": "e", "image": "i", "env": variable(secret)}]}})
    };
    let (path, kind) = (format!("{PODS}/p0/ephemeralcontainers"), "strategic-merge-patch+json");
    let refused = api.patch(&path, kind, patch("x")).await.expect(403);
    let expected = format!(
        "pods \"p0\" is forbidden: ephemeral container e with envVar A referencing \
         secret.secretName=\"x\" {}",
        because("secret")
    );
    assert_eq!(refused["message"], expected);
    api.patch(&path, kind, patch("listed")).await.expect(200);
}
