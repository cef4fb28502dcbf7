//! Budgets and what they come to.

use bytes::Bytes;

use super::*;
use crate::plan::Step;

fn pod(name: &str, owner: Option<&str>, ready: bool) -> Value {
    let owner = owner.map(|uid| {
        json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": uid, "uid": uid,
            "controller": true}])
    });
    let ready = if ready { "True" } else { "False" };
    json!({
        "metadata": {"name": name, "namespace": "a", "uid": name, "labels": {"app": "x"},
            "ownerReferences": owner},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
    })
}

fn set(name: &str, replicas: i32, owner: Option<&str>) -> Value {
    let owner = owner.map(|uid| {
        json!([{"apiVersion": "apps/v1", "kind": "Deployment", "name": uid, "uid": uid,
            "controller": true}])
    });
    json!({
        "metadata": {"name": name, "namespace": "a", "uid": name, "ownerReferences": owner},
        "spec": {"replicas": replicas, "selector": {}},
    })
}

fn budget(spec: Value, status: Value) -> Entry<PodDisruptionBudget> {
    let mut spec = spec;
    spec["selector"] = json!({"matchLabels": {"app": "x"}});
    let object = json!({
        "metadata": {"name": "b", "namespace": "a", "uid": "b", "generation": 1},
        "spec": spec, "status": status,
    });
    Entry::decode(Bytes::from(object.to_string())).unwrap()
}

fn world(pods: &[Value], sets: &[Value], deployments: &[Value]) -> View {
    View::default()
        .with::<Pod>(pods)
        .with::<ReplicaSet>(sets)
        .with::<Deployment>(deployments)
        .with::<StatefulSet>(&[])
        .with::<ReplicationController>(&[])
        .with::<PodDisruptionBudget>(&[])
}

fn status(plan: &Plan) -> Option<Value> {
    plan.steps.iter().find_map(|step| match step {
        Step::Patch(patch) => Some(patch.body["status"].clone()),
        _ => None,
    })
}

#[test]
fn how_many_may_be_disrupted() {
    let deployment = json!({
        "metadata": {"name": "d", "namespace": "a", "uid": "d"}, "spec": {"replicas": 10},
    });
    let sets = [set("old", 4, Some("d")), set("new", 7, Some("d")), set("own", 3, None)];
    let owned = |owner: &'static str, ready: usize, all: usize| -> Vec<Value> {
        (0..all).map(|n| pod(&format!("{owner}{n}"), Some(owner), n < ready)).collect()
    };
    let both = [owned("old", 4, 4), owned("new", 4, 6)].concat();
    // spec, pods → current, desired, expected, allowed
    let cases = [
        (json!({"minAvailable": 2}), owned("own", 3, 3), [3, 2, 3, 1]),
        (json!({"minAvailable": 3}), owned("own", 2, 3), [2, 3, 3, 0]),
        (json!({"minAvailable": "50%"}), owned("own", 3, 3), [3, 2, 3, 1]),
        (json!({"maxUnavailable": 1}), owned("own", 3, 3), [3, 2, 3, 1]),
        (json!({"maxUnavailable": "25%"}), both.clone(), [8, 7, 10, 1]),
        (json!({"maxUnavailable": "100%"}), both, [8, 0, 10, 8]),
        (json!({"minAvailable": 0}), Vec::new(), [0, 0, 0, 0]),
        (json!({}), owned("own", 3, 3), [3, 0, 0, 0]),
        // A pod alone has no scale, but counts.
        (json!({"minAvailable": 0}), vec![pod("alone", None, true)], [1, 0, 1, 1]),
        (json!({"maxUnavailable": 1}), vec![pod("alone", None, true)], [1, 0, 0, 0]),
    ];
    for (spec, pods, [current, desired, expected, allowed]) in cases {
        let view = world(&pods, &sets, std::slice::from_ref(&deployment));
        let budget = budget(spec.clone(), Value::Null);
        let plan = Disruption.plan(&budget, &view, Time::from_unix(0)).unwrap();
        let status = status(&plan).unwrap();
        let found = ["currentHealthy", "desiredHealthy", "expectedPods", "disruptionsAllowed"]
            .map(|field| status[field].as_i64().unwrap());
        assert_eq!(found, [current, desired, expected, allowed], "{spec}");
        let reason = if allowed > 0 { "SufficientPods" } else { "InsufficientPods" };
        assert_eq!(status["conditions"][0]["reason"], reason, "{spec}");
        // At rest nothing is to be done.
        let mut after = serde_json::to_value(&budget.view).unwrap();
        after["status"] = status;
        let settled = Entry::decode(Bytes::from(after.to_string())).unwrap();
        let plan = Disruption.plan(&settled, &view, Time::from_unix(9)).unwrap();
        assert_eq!(plan, Plan::default(), "{spec}");
    }
}

#[test]
fn a_controller_that_is_not_there_stops_all_disruptions() {
    let view = world(&[pod("p", Some("none"), true)], &[], &[]);
    let known = json!({"disruptionsAllowed": 1, "observedGeneration": 1});
    let budget = budget(json!({"maxUnavailable": 1}), known);
    let plan = Disruption.plan(&budget, &view, Time::from_unix(0)).unwrap();
    let status = status(&plan).unwrap();
    assert_eq!(status["disruptionsAllowed"], 0);
    let condition = &status["conditions"][0];
    assert_eq!(condition["reason"], "SyncFailed");
    assert_eq!(condition["message"], "found no controllers for pod \"p\"");
}

#[test]
fn evicted_pods_count_as_gone_for_two_minutes() {
    let pods = [pod("p", None, true), pod("q", None, true)];
    let view = world(&pods, &[], &[]);
    let evicted = json!({
        "disruptedPods": {"p": "1970-01-01T00:00:00Z", "gone": "1970-01-01T00:00:00Z"},
    });
    let budget = budget(json!({"minAvailable": 1}), evicted);
    let at = |seconds| {
        let plan = Disruption.plan(&budget, &view, Time::from_unix(seconds)).unwrap();
        (status(&plan).unwrap(), plan.again)
    };
    let (soon, again) = at(10);
    assert_eq!(soon["currentHealthy"], 1);
    assert_eq!(soon["disruptedPods"], json!({"p": "1970-01-01T00:00:00Z", "gone": null}));
    assert_eq!(again, Some(Time::from_unix(121)));
    let (late, _) = at(121);
    assert_eq!((&late["currentHealthy"], &late["disruptedPods"]["p"]), (&json!(2), &Value::Null));
}
