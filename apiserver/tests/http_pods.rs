//! Evictions under disruption budgets, and the parts of pods that are subresources.

#[path = "http/api.rs"]
mod api;

use api::{Api, PODS, pod};
use serde_json::{Value, json};

const BUDGETS: &str = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";

impl Api {
    /// A running pod `app=x`.
    async fn running(&self, name: &str, ready: bool) {
        let mut object = pod(name);
        object["metadata"]["labels"] = json!({"app": "x"});
        self.post(PODS, object).await.expect(201);
        let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": "n"}});
        self.post(&format!("{PODS}/{name}/binding"), binding).await.expect(201);
        let ready = if ready { "True" } else { "False" };
        let status = json!({"status": {"phase": "Running",
            "conditions": [{"type": "Ready", "status": ready}]}});
        self.patch(&format!("{PODS}/{name}/status"), "merge-patch+json", status).await.expect(200);
    }

    async fn budget(&self, name: &str, mut status: Value) {
        let budget = json!({
            "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}},
        });
        self.post(BUDGETS, budget).await.expect(201);
        // As its controller would say of its first generation.
        status["observedGeneration"] = 1.into();
        for field in ["currentHealthy", "desiredHealthy", "disruptionsAllowed", "expectedPods"] {
            if status[field].is_null() {
                status[field] = 0.into();
            }
        }
        let status = json!({ "status": status });
        self.patch(&format!("{BUDGETS}/{name}/status"), "merge-patch+json", status)
            .await
            .expect(200);
    }

    async fn evict(&self, name: &str, options: Value) -> (u16, String) {
        let eviction = json!({
            "apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name},
            "deleteOptions": options,
        });
        let reply = self.post(&format!("{PODS}/{name}/eviction"), eviction).await;
        let status = reply.json();
        let cause = status["details"]["causes"][0]["message"].as_str();
        let message = status["message"].as_str();
        (reply.code, cause.or(message).unwrap_or_default().to_string())
    }
}

#[tokio::test]
async fn a_budget_is_spent_once() {
    let api = Api::start().await;
    for name in ["a", "b", "c"] {
        api.running(name, true).await;
    }
    api.running("unready", false).await;
    let now = json!({"currentHealthy": 3, "desiredHealthy": 2, "disruptionsAllowed": 1});
    api.budget("one", now).await;
    let ok = (201, String::new());
    assert_eq!(api.evict("a", json!({"dryRun": ["All"]})).await, ok);
    let wrong = api.evict("a", json!({"preconditions": {"uid": "other"}})).await;
    assert_eq!(wrong.0, 409, "{}", wrong.1);
    api.patch(
        &format!("{BUDGETS}/one/status"),
        "merge-patch+json",
        json!({"status": {"disruptionsAllowed": 1, "disruptedPods": null}}),
    )
    .await
    .expect(200);
    let (a, b) = tokio::join!(api.evict("a", Value::Null), api.evict("b", Value::Null));
    let refused = "The disruption budget one needs 2 healthy pods and has 3 currently";
    let mut both = [a, b];
    both.sort();
    assert_eq!(both, [ok.clone(), (429, refused.to_string())]);
    let budget = api.get(&format!("{BUDGETS}/one")).await.json();
    assert_eq!(budget["status"]["disruptionsAllowed"], 0);
    assert_eq!(budget["status"]["disruptedPods"].as_object().unwrap().len(), 1);
    let gone = budget["status"]["disruptedPods"].as_object().unwrap().keys().next().unwrap();
    let pod = api.get(&format!("{PODS}/{gone}")).await.json();
    let conditions = pod["status"]["conditions"].as_array().unwrap();
    let target = conditions.iter().find(|it| it["type"] == "DisruptionTarget").unwrap();
    assert_eq!(target["reason"], "EvictionByEvictionAPI");
    assert!(pod["metadata"]["deletionTimestamp"].is_string());
    // It serves nobody, and there are enough that do.
    assert_eq!(api.evict("unready", Value::Null).await, ok);
    api.budget("two", json!({})).await;
    let (code, why) = api.evict("c", Value::Null).await;
    assert_eq!(code, 500);
    assert!(why.starts_with("This pod has more than one PodDisruptionBudget"), "{why}");
    assert_eq!(api.evict("none", Value::Null).await, (404, "pods \"none\" not found".into()));
}

#[tokio::test]
async fn ephemeral_containers_are_only_added() {
    let api = Api::start().await;
    api.running("p", true).await;
    let path = format!("{PODS}/p/ephemeralcontainers");
    let add = |name: &str| {
        json!({
            "metadata": {"labels": {"ignored": "true"}},
            "spec": {
                "terminationGracePeriodSeconds": 5,
                "ephemeralContainers": [
                    {"name": name, "image": "busybox", "targetContainerName": "c"},
                ],
            },
        })
    };
    let strategic = "strategic-merge-patch+json";
    let pod = api.patch(&path, strategic, add("debug")).await.expect(200);
    assert_eq!(pod["metadata"]["generation"], 2);
    assert_eq!(pod["metadata"]["labels"], json!({"app": "x"}));
    assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], 30);
    let debug = &pod["spec"]["ephemeralContainers"][0];
    assert_eq!(debug["terminationMessagePolicy"], "File");
    let pod = api.patch(&path, strategic, add("more")).await.expect(200);
    assert_eq!(pod["spec"]["ephemeralContainers"].as_array().unwrap().len(), 2);
    assert_eq!(api.get(&path).await.expect(200)["metadata"]["generation"], 3);
    let change = json!({"spec": {"ephemeralContainers": [{"name": "more", "image": "other"}]}});
    let refused = api.patch(&path, strategic, change).await;
    assert_eq!(refused.code, 422);
    let why = "existing ephemeral containers \"more\" may not be changed";
    assert!(refused.message().contains(why), "{}", refused.message());
    let refused = api.patch(&path, strategic, add("c")).await;
    assert!(refused.message().contains("name: Duplicate value: \"c\""), "{}", refused.message());
    let refused = api.patch(&format!("{PODS}/p"), strategic, add("direct")).await;
    assert!(refused.message().contains("pod updates may not change fields"));
}

#[tokio::test]
async fn resizes_change_cpu_and_memory_alone() {
    let api = Api::start().await;
    let mut object = pod("p");
    let requests = json!({"cpu": "100m", "memory": "64Mi"});
    object["spec"]["containers"][0]["resources"] = json!({ "requests": requests });
    api.post(PODS, object).await.expect(201);
    let path = format!("{PODS}/p/resize");
    let to = |requests: Value| {
        json!({
            "metadata": {"labels": {"ignored": "true"}},
            "spec": {
                "terminationGracePeriodSeconds": 5,
                "containers": [{"name": "c", "image": "other", "resources": {"requests": requests}}],
            },
        })
    };
    let strategic = "strategic-merge-patch+json";
    let resized = api.patch(&path, strategic, to(json!({"cpu": "200m"}))).await.expect(200);
    assert_eq!(resized["metadata"]["generation"], 2);
    assert_eq!(resized["metadata"]["labels"], Value::Null);
    let container = &resized["spec"]["containers"][0];
    assert_eq!(container["resources"]["requests"], json!({"cpu": "200m", "memory": "64Mi"}));
    assert_eq!(
        (&container["image"], &resized["spec"]["terminationGracePeriodSeconds"]),
        (&json!("i"), &json!(30))
    );
    let status = json!({"status": {"phase": "Running", "containerStatuses": [
        {"name": "c", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"running": {}}},
    ]}});
    let cases = [
        (to(json!({"memory": null})), "resource requests cannot be removed"),
        (to(json!({"ephemeral-storage": "1Gi"})), "only cpu and memory resources are mutable"),
        (
            json!({"spec": {"containers": [{"name": "c", "resources": {
                "requests": {"cpu": "1"}, "limits": {"cpu": "1", "memory": "64Mi"}}}]}}),
            "Pod QOS Class may not change as a result of resizing",
        ),
    ];
    for (patch, why) in cases {
        let refused = api.patch(&path, strategic, patch).await;
        assert_eq!(refused.code, 422);
        assert!(refused.message().contains(why), "{}", refused.message());
    }
    api.patch(&format!("{PODS}/p/status"), "merge-patch+json", status).await.expect(200);
    let refused = api.patch(&path, strategic, to(json!({"cpu": "300m"}))).await;
    assert!(refused.message().contains("Pod running on node without support for resize"));
    let refused = api.patch(&format!("{PODS}/p"), strategic, to(json!({"cpu": "1"}))).await;
    assert!(refused.message().contains("pod updates may not change fields"));
}
