//! ServiceAccounts: their life, their tokens, and the Secrets their pods may use.

use proto::user::User;
use serde_json::{Value, json};

use crate::api::{Api, PODS, pod};

const ACCOUNTS: &str = "/api/v1/namespaces/default/serviceaccounts";

#[tokio::test]
async fn an_account_lives_and_is_watched() {
    let api = Api::start().await;
    let everywhere = "/api/v1/serviceaccounts?labelSelector=test%3Dyes";
    let list = api.get(everywhere).await.expect(200);
    assert_eq!(list["items"], json!([]));
    let since = list["metadata"]["resourceVersion"].as_str().unwrap();
    let mut watch = api.watch(&format!("{everywhere}&watch=true&resourceVersion={since}")).await;
    let metadata = json!({"name": "robot", "labels": {"test": "yes"}});
    let created = api.post(ACCOUNTS, json!({"metadata": metadata})).await.expect(201);
    assert_eq!(watch.next().await, json!({"type": "ADDED", "object": created}));
    let robot = format!("{ACCOUNTS}/robot");
    let patch = json!({"automountServiceAccountToken": false});
    let patched = api.patch(&robot, "strategic-merge-patch+json", patch).await.expect(200);
    assert_eq!(patched["automountServiceAccountToken"], false);
    assert_eq!(watch.next().await, json!({"type": "MODIFIED", "object": patched}));
    let mut update = patched.clone();
    update["automountServiceAccountToken"] = true.into();
    let updated = api.put(&robot, update).await.expect(200);
    assert_eq!(updated["automountServiceAccountToken"], true);
    assert_eq!(watch.next().await["object"], updated);
    let all = api.get(everywhere).await.expect(200);
    assert_eq!(all["items"][0]["metadata"]["uid"], created["metadata"]["uid"]);
    api.delete(&format!("{ACCOUNTS}?labelSelector=test%3Dyes")).await.expect(200);
    assert_eq!(watch.short().await, "DELETED robot");
    assert_eq!(api.get(everywhere).await.expect(200)["items"], json!([]));
}

#[tokio::test]
async fn a_requested_token_is_the_accounts() {
    let api = Api::start().await;
    let request = json!({"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1",
        "metadata": {"name": "default", "namespace": "default"},
        "spec": {"audiences": ["https://kubernetes.default.svc.cluster.local"]}});
    let path = format!("{ACCOUNTS}/default/token");
    let made = api.post(&path, request).await.expect(201);
    assert_eq!(
        (&made["kind"], &made["apiVersion"]),
        (&json!("TokenRequest"), &json!("authentication.k8s.io/v1"))
    );
    let token = made["status"]["token"].as_str().unwrap();
    let header = format!("authorization: Bearer {token}");
    let line = "POST /apis/authentication.k8s.io/v1/selfsubjectreviews";
    let bearer = api.as_user(User::default());
    let headers = [&*header, "content-type: application/json"];
    let who = bearer.send(line, &headers, "{}").await.expect(201);
    assert_eq!(who["status"]["userInfo"]["username"], "system:serviceaccount:default:default");
    let missing = api.post(&format!("{ACCOUNTS}/nobody/token"), json!({"spec": {}})).await;
    assert_eq!(missing.expect(404)["message"], "serviceaccounts \"nobody\" not found");
}

/// What a pod refers to, and what it is told where its account does not list that.
#[tokio::test]
async fn pods_of_a_marked_account_use_the_secrets_it_lists() {
    let api = Api::start().await;
    let marked = json!({"metadata": {"name": "marked",
            "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}},
        "secrets": [{"name": "listed"}], "imagePullSecrets": [{"name": "pull"}]});
    let reply = api.post(ACCOUNTS, marked.clone()).await;
    assert_eq!(reply.code, 201, "{}", reply.text());
    let warnings = reply.warnings().concat();
    let expected = "metadata.annotations[kubernetes.io/enforce-mountable-secrets]: deprecated in \
                    v1.32+; prefer separate namespaces to isolate access to mounted secrets";
    assert!(warnings.contains(expected), "{warnings}");
    let variable = |secret: &str| {
        json!([{"name": "VAR",
        "valueFrom": {"secretKeyRef": {"name": secret, "key": "k"}}}])
    };
    let source = |secret: &str| json!([{"secretRef": {"name": secret}}]);
    let volume = |secret: &str| json!([{"name": "v", "secret": {"secretName": secret}}]);
    let init = |secret: &str| json!([{"name": "i", "image": "i", "env": variable(secret)}]);
    let pull = |secret: &str| json!([{"name": secret}]);
    let because = |noun: &str| {
        format!("is not allowed because service account marked does not reference that {noun}")
    };
    type Case<'a> = (&'a str, &'a dyn Fn(&str) -> Value, &'a str, &'a str, &'a str);
    let cases: [Case; 5] = [
        ("/volumes", &volume, "listed", "volume with secret.secretName=\"x\" ", "secret"),
        (
            "/containers/0/env",
            &variable,
            "listed",
            "container c with envVar VAR referencing secret.secretName=\"x\" ",
            "secret",
        ),
        (
            "/containers/0/envFrom",
            &source,
            "listed",
            "container c with envFrom referencing secret.secretName=\"x\" ",
            "secret",
        ),
        (
            "/initContainers",
            &init,
            "listed",
            "init container i with envVar VAR referencing secret.secretName=\"x\" ",
            "secret",
        ),
        ("/imagePullSecrets", &pull, "pull", "imagePullSecrets[0].name=\"x\" ", "imagePullSecret"),
    ];
    let create = async |name: String, account: &str, place: &str, value: Value| {
        let mut object = pod(&name);
        object["spec"]["serviceAccountName"] = account.into();
        let (parent, field) = place.rsplit_once('/').unwrap();
        object["spec"].pointer_mut(parent).unwrap()[field] = value;
        api.post(PODS, object).await
    };
    for (index, (place, make, listed, message, noun)) in cases.into_iter().enumerate() {
        let allowed = create(format!("allowed-{index}"), "marked", place, make(listed)).await;
        allowed.expect(201);
        let refused = create("refused".into(), "marked", place, make("x")).await.expect(403);
        let expected = format!("pods \"refused\" is forbidden: {message}{}", because(noun));
        assert_eq!(refused["message"], expected);
        create(format!("free-{index}"), "default", place, make("x")).await.expect(201);
    }
    let late = |secret: &str| {
        json!({"spec": {"ephemeralContainers": [
        {"name": "e", "image": "i", "env": variable(secret)}]}})
    };
    let path = format!("{PODS}/allowed-0/ephemeralcontainers");
    let kind = "strategic-merge-patch+json";
    let refused = api.patch(&path, kind, late("x")).await.expect(403);
    let message = refused["message"].as_str().unwrap();
    let start = "ephemeral container e with envVar VAR referencing secret.secretName=\"x\" ";
    assert!(message.contains(&format!("{start}{}", because("secret"))), "{message}");
    api.patch(&path, kind, late("listed")).await.expect(200);
}
