//! EndpointSlices as tables.

use client::Entry;
use proto::time::Time;
use serde_json::Value;

use super::*;
use crate::plan::Step;

fn service(spec: Value) -> Entry<Service> {
    let mut object = json!({
        "metadata": {"name": "web", "namespace": "a", "uid": "s", "labels": {"team": "x"}},
        "spec": {"selector": {"app": "web"}, "clusterIP": "10.0.0.1", "ipFamilies": ["IPv4"],
            "ports": [{"port": 80, "targetPort": "http", "protocol": "TCP"}]},
    });
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    Entry::decode(object.to_string().into()).unwrap()
}

fn pod(name: &str, ip: &str, ready: bool, port: i32) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "a", "uid": name, "labels": {"app": "web"}},
        "spec": {"nodeName": "n", "containers": [{"name": "c",
            "ports": [{"name": "http", "containerPort": port, "protocol": "TCP"}]}]},
        "status": {"phase": "Running", "podIP": ip, "conditions": [{"type": "Ready",
            "status": if ready { "True" } else { "False" }}]},
    })
}

fn steps(service: &Entry<Service>, pods: &[Value], slices: &[Value]) -> Vec<Step> {
    let node = json!({"metadata": {"name": "n", "labels": {ZONE: "z"}}});
    let view =
        View::default().with::<Pod>(pods).with::<EndpointSlice>(slices).with::<Node>(&[node]);
    EndpointSlices.plan(service, &view, Time::from_unix(0)).unwrap().steps
}

/// What the steps would leave behind, as the API server would store it.
fn carried_out(steps: &[Step]) -> Vec<Value> {
    let creates = steps.iter().filter_map(|step| match step {
        Step::Create(create) => Some((*create.object).clone()),
        _ => None,
    });
    let named = creates.enumerate().map(|(index, mut object)| {
        object["metadata"]["name"] = format!("web-{index}").into();
        object["metadata"]["resourceVersion"] = "1".into();
        object
    });
    named.collect()
}

#[test]
fn a_slice_per_set_of_ports() {
    let pods = [
        pod("p1", "10.1.0.1", true, 8080),
        pod("p2", "10.1.0.2", false, 8080),
        pod("p3", "10.1.0.3", true, 9090),
        pod("unaddressed", "", true, 8080),
    ];
    let service = service(json!({}));
    let slices = carried_out(&steps(&service, &pods, &[]));
    assert_eq!(slices.len(), 2);
    let first = &slices[0];
    assert_eq!(first["ports"], json!([{"name": "", "protocol": "TCP", "port": 8080}]));
    assert_eq!(first["metadata"]["labels"][SERVICE_NAME], "web");
    assert_eq!(first["metadata"]["labels"]["team"], "x");
    assert_eq!(first["endpoints"][0]["zone"], "z");
    assert_eq!(
        first["endpoints"][1]["conditions"],
        json!({"ready": false, "serving": false, "terminating": false})
    );
    assert!(steps(&service, &pods, &slices).is_empty(), "at rest");
}

#[test]
fn at_most_a_hundred_each_and_few_writes() {
    let mut pods: Vec<Value> =
        (0..150).map(|n| pod(&format!("p{n}"), &format!("10.1.0.{n}"), true, 80)).collect();
    let service = service(json!({}));
    let slices = carried_out(&steps(&service, &pods, &[]));
    let sizes: Vec<usize> =
        slices.iter().map(|slice| slice["endpoints"].as_array().unwrap().len()).collect();
    assert_eq!(sizes, [100, 50]);
    pods[3]["status"]["conditions"][0]["status"] = "False".into();
    let one = steps(&service, &pods, &slices);
    assert!(matches!(one.as_slice(), [Step::Patch(_)]), "{one:?}");
    let none = steps(&service, &[], &slices);
    assert!(
        matches!(none.as_slice(), [Step::Create(_), Step::Delete(_), Step::Delete(_)]),
        "{none:?}"
    );
}

#[test]
fn special_services() {
    let ready = pod("p", "10.1.0.1", true, 80);
    let mut leaving = pod("q", "10.1.0.2", true, 80);
    leaving["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z".into();
    let first = |spec: Value, pod: &Value| {
        let made = carried_out(&steps(&service(spec), std::slice::from_ref(pod), &[]));
        made.first().cloned().unwrap_or(Value::Null)
    };
    let conditions = |slice: &Value| slice["endpoints"][0]["conditions"].clone();
    assert_eq!(
        conditions(&first(json!({}), &leaving)),
        json!({"ready": false, "serving": true, "terminating": true})
    );
    let published = first(json!({"publishNotReadyAddresses": true}), &leaving);
    assert_eq!(conditions(&published)["ready"], true);
    let headless = first(json!({"clusterIP": "None", "ports": []}), &ready);
    assert_eq!(
        (&headless["metadata"]["labels"][HEADLESS], &headless["ports"]),
        (&json!(""), &json!([]))
    );
    assert_eq!(first(json!({"selector": {}}), &ready), Value::Null);
    assert_eq!(first(json!({"type": "ExternalName"}), &ready), Value::Null);
    let empty = first(json!({"selector": {"app": "nobody"}}), &ready);
    assert_eq!(empty["endpoints"], json!([]));
}
