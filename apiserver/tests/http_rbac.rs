//! Who may do what, and who is told so: roles, nodes and the kinds that are asked.

#[path = "http/api.rs"]
mod api;

use api::{Api, PODS, pod};
use proto::user::User;
use serde_json::json;

#[tokio::test]
async fn kinds_that_are_asked_leave_nothing_behind() {
    let api = Api::start().await;
    let review = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
    let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
    let answer = api.post(path, review).await.expect(201);
    assert_eq!(answer["status"]["userInfo"]["username"], "admin");
    assert_eq!(
        answer["status"]["userInfo"]["groups"],
        json!(["system:masters", "system:authenticated"])
    );
    assert!(answer["metadata"]["creationTimestamp"].is_string());
    assert_eq!(api.get(path).await.code, 405);
    assert_eq!(api.get(&format!("{path}/x")).await.code, 405);

    api.post(PODS, pod("p")).await.expect(201);
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    let path = "/api/v1/namespaces/default/bindings";
    let answer = api.post(path, binding.clone()).await.expect(201);
    assert_eq!((&answer["kind"], &answer["status"]), (&json!("Status"), &json!("Success")));
    let bound = api.get(&format!("{PODS}/p")).await.expect(200);
    assert_eq!(bound["spec"]["nodeName"], "n1");
    let again = api.post(path, binding).await.expect(409);
    assert_eq!(again["details"]["name"], "p");
    let nobody = json!({"metadata": {"name": "q"}, "target": {"kind": "Node", "name": "n1"}});
    assert_eq!(api.post(path, nobody).await.expect(404)["message"], "pods \"q\" not found");
    let alice = api.as_user(User::new("alice", &[]));
    assert_eq!(alice.get(PODS).await.code, 403);
}
