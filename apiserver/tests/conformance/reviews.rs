//! Reviews: who is asking, and what somebody may do.

use proto::user::User;
use serde_json::{Value, json};

use crate::api::Api;

const AUTHORIZATION: &str = "/apis/authorization.k8s.io/v1";
const WHO_AM_I: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// Upstream asks the same three ways: of the account, in its namespace, and as the account.
#[tokio::test]
async fn reviews_of_one_account_agree() {
    let api = Api::start().await;
    let name = "system:serviceaccount:default:e2e";
    let metadata = json!({"metadata": {"name": "e2e"}});
    api.post("/api/v1/namespaces/default/serviceaccounts", metadata.clone()).await.expect(201);
    let rbac = "/apis/rbac.authorization.k8s.io/v1/namespaces/default";
    let rule = json!({"apiGroups": [""], "resources": ["configmaps"], "verbs": ["get", "list"]});
    let role = json!({"metadata": {"name": "e2e"}, "rules": [rule]});
    api.post(&format!("{rbac}/roles"), role).await.expect(201);
    let binding = json!({"metadata": {"name": "e2e"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "e2e"},
        "subjects": [{"kind": "ServiceAccount", "name": "e2e", "namespace": "default"}]});
    api.post(&format!("{rbac}/rolebindings"), binding).await.expect(201);
    for (verb, resource, namespace, allowed) in [
        ("get", "configmaps", "default", true),
        ("list", "configmaps", "default", true),
        ("delete", "configmaps", "default", false),
        ("get", "configmaps", "kube-system", false),
        ("list", "secrets", "default", false),
    ] {
        let what =
            json!({"verb": verb, "resource": resource, "namespace": namespace, "version": "v1"});
        let spec = json!({"resourceAttributes": what, "user": name});
        let path = format!("{AUTHORIZATION}/subjectaccessreviews");
        let answer = api.post(&path, json!({"spec": spec})).await.expect(201);
        assert_eq!(answer["kind"], "SubjectAccessReview");
        assert_eq!(answer["status"]["allowed"], allowed, "{verb} {resource} in {namespace}");
        let path = format!("{AUTHORIZATION}/namespaces/{namespace}/localsubjectaccessreviews");
        let object = json!({"metadata": {"namespace": namespace}, "spec": spec});
        let local = api.post(&path, object).await.expect(201);
        assert_eq!(local["kind"], "LocalSubjectAccessReview");
        assert_eq!(local["status"], answer["status"]);
        // As the account itself, which the test impersonates.
        let headers = [&*format!("impersonate-user: {name}"), "content-type: application/json"];
        let own = json!({"spec": {"resourceAttributes": what}}).to_string();
        let line = format!("POST {AUTHORIZATION}/selfsubjectaccessreviews");
        let own = api.send(&line, &headers, own).await.expect(201);
        assert_eq!(own["status"]["allowed"], allowed, "{verb} {resource} in {namespace}");
    }
}

#[tokio::test]
async fn everyone_may_ask_who_they_are() {
    let admin = Api::start().await;
    let mut user = User::new("jane", &["devs"]);
    user.uid = "u1".into();
    user.extra.insert("example.com/team".into(), vec!["a".into(), "b".into()]);
    let api = admin.as_user(user);
    let who = api.post(WHO_AM_I, json!({})).await.expect(201);
    assert_eq!(
        (&who["kind"], &who["apiVersion"]),
        (&json!("SelfSubjectReview"), &json!("authentication.k8s.io/v1"))
    );
    assert_eq!(
        who["status"]["userInfo"],
        json!({"username": "jane", "uid": "u1",
        "groups": ["devs", "system:authenticated"], "extra": {"example.com/team": ["a", "b"]}})
    );
    // What the request says of itself counts for nothing.
    let lie = json!({"status": {"userInfo": {"username": "root"}}});
    let said: Value = api.post(WHO_AM_I, lie).await.expect(201);
    assert_eq!(said["status"]["userInfo"]["username"], "jane");
    for method in ["GET", "DELETE", "PUT"] {
        let refused = admin.send(&format!("{method} {WHO_AM_I}"), &[], "").await;
        assert_eq!(refused.expect(405)["reason"], "MethodNotAllowed", "{method}");
    }
    let anonymous = api.as_user(User::default()).post(WHO_AM_I, json!({})).await;
    assert_eq!(anonymous.code, 403, "{}", anonymous.text());
}
