//! ServiceAccount.

use serde_json::json;

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
    ] {
        let refused = api.post(PODS, mirror(spec)).await.expect(403);
        assert_eq!(refused["message"], format!("pods \"m\" is forbidden: {why}"));
    }
    let made = api.post(PODS, mirror(json!({}))).await.expect(201);
    assert!(made["spec"].get("serviceAccountName").is_none());
}
