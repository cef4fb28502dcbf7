//! Events in both groups, as the suites of instrumentation use them.

use serde_json::{Value, json};

use crate::api::Api;

const CORE: &str = "/api/v1/namespaces/default/events";
const EVENTS: &str = "/apis/events.k8s.io/v1/namespaces/default/events";

fn new_event(name: &str, label: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {label: "true"}},
        "regarding": {"namespace": "default"},
        "eventTime": "2017-09-19T13:49:16.000000Z",
        "note": format!("This is {name}"),
        "action": "Do",
        "reason": "Test",
        "type": "Normal",
        "reportingController": "test-controller",
        "reportingInstance": "test-node",
    })
}

/// Without what the server alone writes.
fn bare(mut event: Value) -> Value {
    let metadata = event["metadata"].as_object_mut().unwrap();
    metadata.remove("resourceVersion");
    metadata.remove("managedFields");
    event
}

async fn names(api: &Api, path: &str) -> Vec<String> {
    let list = api.get(path).await.expect(200);
    let items = list["items"].as_array().unwrap().iter();
    items.map(|item| item["metadata"]["name"].as_str().unwrap().to_string()).collect()
}

#[tokio::test]
async fn an_event_of_the_new_group_is_selected_patched_updated_and_deleted() {
    let api = Api::start().await;
    api.post(EVENTS, new_event("event-test", "testevent-constant")).await.expect(201);
    let other = json!({"metadata": {"name": "old"}, "reason": "Other", "type": "Normal",
        "source": {"component": "kubelet"}, "reportingComponent": "else",
        "involvedObject": {"namespace": "default"}});
    api.post(CORE, other).await.expect(201);
    for (path, expected) in [
        ("/apis/events.k8s.io/v1/events?labelSelector=testevent-constant%3Dtrue", "event-test"),
        (
            "/apis/events.k8s.io/v1/namespaces/default/events?fieldSelector=reportingController%3Dtest-controller",
            "event-test",
        ),
        ("/api/v1/namespaces/default/events?fieldSelector=reportingComponent%3Delse", "old"),
        // The component of the source, or else the reporting one.
        ("/api/v1/namespaces/default/events?fieldSelector=source%3Dtest-controller", "event-test"),
        ("/api/v1/namespaces/default/events?fieldSelector=source%3Dkubelet", "old"),
        ("/api/v1/namespaces/default/events?fieldSelector=source%3Delse", ""),
        (
            "/api/v1/namespaces/default/events?fieldSelector=involvedObject.namespace%3Ddefault,reason%3DTest",
            "event-test",
        ),
    ] {
        assert_eq!(names(&api, path).await.concat(), expected, "{path}");
    }
    let path = format!("{EVENTS}/event-test");
    let created = api.get(&path).await.expect(200);
    let series = json!({"count": 2, "lastObservedTime": "2017-09-19T13:49:11.000000Z"});
    let patch = json!({"series": series});
    api.patch(&path, "strategic-merge-patch+json", patch).await.expect(200);
    let mut expected = bare(created);
    expected["series"] = series;
    assert_eq!(bare(api.get(&path).await.expect(200)), expected);
    // What happened stays what it was.
    api.merge(&path, json!({"note": "another"})).await.expect(422);
    // Without a resourceVersion the update is unconditional.
    expected["series"] = json!({"count": 100, "lastObservedTime": "2017-09-19T13:49:16.000000Z"});
    api.put(&path, expected.clone()).await.expect(200);
    assert_eq!(bare(api.get(&path).await.expect(200)), expected);
    api.delete(&path).await.expect(200);
    let everywhere = "/apis/events.k8s.io/v1/events?labelSelector=testevent-constant%3Dtrue";
    assert_eq!(names(&api, everywhere).await, [""; 0]);
}

#[tokio::test]
async fn events_of_the_core_group_are_patched_and_deleted_as_a_collection() {
    let api = Api::start().await;
    for name in ["test-event-1", "test-event-2", "test-event-3"] {
        let event = json!({
            "metadata": {"name": name, "labels": {"testevent-set": "true"}},
            "message": format!("This is {name}"), "reason": "Test", "type": "Normal", "count": 1,
            "involvedObject": {"namespace": "default"}, "source": {},
            "firstTimestamp": null, "lastTimestamp": null, "eventTime": null,
            "reportingComponent": "", "reportingInstance": "",
        });
        api.post(CORE, event).await.expect(201);
    }
    let patch = json!({"message": "patched"});
    let path = format!("{CORE}/test-event-1");
    let patched = api.patch(&path, "strategic-merge-patch+json", patch).await.expect(200);
    assert_eq!(patched["message"], "patched");
    for collection in [CORE, EVENTS] {
        let path = format!("{collection}?labelSelector=testevent-set%3Dtrue");
        let before = if collection == CORE { 3 } else { 1 };
        assert_eq!(names(&api, &path).await.len(), before, "{collection}");
        api.delete(&path).await.expect(200);
        assert_eq!(names(&api, &path).await.len(), 0, "{collection}");
        api.post(EVENTS, new_event("again", "testevent-set")).await.expect(201);
    }
}
