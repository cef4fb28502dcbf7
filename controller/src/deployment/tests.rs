//! Deployments as tables: sets before, sets after.

use client::Entry;
use proto::time::Time;
use proto::view::Condition;
use proto::view::deployment::Deployment;
use proto::view::pod::Pod;
use proto::view::replica_set::ReplicaSet;
use serde_json::{Value, json};

use crate::deployment::Deployments;
use crate::plan::{Plan, Step};
use crate::run::Controller;
use crate::view::View;

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn deployment(spec: Value, status: Value) -> Entry<Deployment> {
    let mut object = json!({
        "metadata": {"name": "web", "namespace": "a", "uid": "d", "generation": 1,
            "resourceVersion": "9", "annotations": {"deployment.kubernetes.io/revision": "2"}},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": template("new"),
            "strategy": {"type": "RollingUpdate"}, "progressDeadlineSeconds": 600},
        "status": status,
    });
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    Entry::decode(object.to_string().into()).unwrap()
}

/// A set of this image with so many pods, so many of them available, made for that size.
fn set(name: &str, image: &str, replicas: i32, available: i32, size: (i32, i32)) -> Value {
    json!({
        "metadata": {"name": name, "namespace": "a", "uid": name, "labels": {"app": "web"},
            "creationTimestamp": if image == "new" { "2024-01-02T00:00:00Z" } else { "2024-01-01T00:00:00Z" },
            "resourceVersion": "3",
            "annotations": {
                "deployment.kubernetes.io/revision": if image == "new" { "2" } else { "1" },
                "deployment.kubernetes.io/desired-replicas": size.0.to_string(),
                "deployment.kubernetes.io/max-replicas": size.1.to_string()},
            "ownerReferences": [{"kind": "Deployment", "uid": "d", "controller": true}]},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": template(image)},
        "status": {"replicas": replicas, "readyReplicas": available,
            "availableReplicas": available},
    })
}

fn plan(deployment: &Entry<Deployment>, sets: &[Value], pods: &[Value]) -> Plan {
    let view = View::default().with::<ReplicaSet>(sets).with::<Pod>(pods).with::<Deployment>(&[]);
    Deployments.plan(deployment, &view, Time::from_unix(1000)).unwrap()
}

/// `+set:n` created with n pods, `set:n` scaled to n, `-set` deleted.
fn changes(plan: &Plan) -> Vec<String> {
    let one = |step: &Step| match step {
        Step::Create(create) => {
            let name = create.object["metadata"]["name"].as_str().unwrap().to_string();
            assert!(name.starts_with("web-"), "{name}");
            Some(format!("+new:{}", create.object["spec"]["replicas"]))
        }
        Step::Delete(delete) => Some(format!("-{}", delete.target.name)),
        Step::Patch(patch) if patch.subresource.is_empty() => {
            let replicas = patch.body["spec"].get("replicas")?;
            Some(format!("{}:{replicas}", patch.target.name))
        }
        _ => None,
    };
    plan.steps.iter().filter_map(one).collect()
}

fn status(plan: &Plan) -> Option<&Value> {
    plan.steps.iter().find_map(|step| match step {
        Step::Patch(patch) if patch.subresource == "status" => Some(&patch.body["status"]),
        _ => None,
    })
}

fn events(plan: &Plan) -> Vec<&str> {
    let mut messages = Vec::new();
    for step in &plan.steps {
        if let Step::Event(event) = step {
            messages.push(event.message.as_str());
        }
    }
    messages
}

#[test]
fn rolling() {
    let size = (10, 13);
    for (case, spec, sets, expected) in [
        ("first", json!({"replicas": 3}), vec![], vec!["+new:3"]),
        (
            "surge",
            json!({"replicas": 10}),
            vec![set("o", "old", 10, 10, size)],
            vec!["+new:3", "o:8"],
        ),
        (
            "wait",
            json!({"replicas": 10}),
            vec![set("n", "new", 5, 0, size), set("o", "old", 8, 8, size)],
            vec![],
        ),
        (
            "take over",
            json!({"replicas": 10}),
            vec![set("n", "new", 5, 3, size), set("o", "old", 8, 8, size)],
            vec!["o:5"],
        ),
        (
            "grow again",
            json!({"replicas": 10}),
            vec![set("n", "new", 5, 5, size), set("o", "old", 5, 5, size)],
            vec!["n:8"],
        ),
        (
            "unhealthy old ones first",
            json!({"replicas": 10}),
            vec![set("n", "new", 5, 0, size), set("o", "old", 8, 2, size)],
            vec![],
        ),
        (
            "stuck old version makes room",
            json!({"replicas": 10}),
            vec![set("n", "new", 3, 3, size), set("o", "old", 10, 0, size)],
            vec!["o:5"],
        ),
        (
            "one at a time",
            json!({"replicas": 3, "strategy": {"type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}}),
            vec![set("o", "old", 3, 3, (3, 3))],
            vec!["+new:0", "o:2"],
        ),
        ("scaled down", json!({"replicas": 2}), vec![set("n", "new", 5, 5, (5, 7))], vec!["n:2"]),
    ] {
        let status = json!({"collisionCount": null});
        assert_eq!(changes(&plan(&deployment(spec, status), &sets, &[])), expected, "{case}");
    }
}

#[test]
fn proportional_scaling() {
    // The documented example: 10 replicas, maxSurge 3, maxUnavailable 2, scaled to 15 half-way.
    let spec = json!({"replicas": 15, "strategy": {"type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": 3, "maxUnavailable": 2}}});
    let sets = [set("n", "new", 5, 0, (10, 13)), set("o", "old", 8, 8, (10, 13))];
    let scaled = plan(&deployment(spec.clone(), json!({})), &sets, &[]);
    assert_eq!(changes(&scaled), ["n:7", "o:11"]);
    assert_eq!(events(&scaled)[1], "Scaled up replica set o from 8 to 11");
    // Paused, it still scales, and does not roll.
    let mut paused = spec;
    paused["paused"] = true.into();
    let scaled = plan(&deployment(paused, json!({})), &sets, &[]);
    assert_eq!(changes(&scaled), ["n:7", "o:11"]);
    let conditions = &status(&scaled).unwrap()["conditions"];
    assert_eq!(conditions[0]["reason"], "DeploymentPaused");
}

#[test]
fn recreate_waits_for_the_old_pods() {
    let spec = json!({"replicas": 2, "strategy": {"type": "Recreate"}});
    let pod = |phase: &str| {
        json!({"metadata": {"name": "p", "namespace": "a", "uid": "p",
        "ownerReferences": [{"kind": "ReplicaSet", "uid": "o", "controller": true}]},
        "status": {"phase": phase}})
    };
    for (replicas, pods, expected) in [
        (2, vec![pod("Running")], vec!["o:0"]),
        (0, vec![pod("Running")], vec![]),
        (0, vec![pod("Failed")], vec!["+new:2"]),
        (0, vec![], vec!["+new:2"]),
    ] {
        let sets = [set("o", "old", replicas, replicas, (2, 2))];
        let plan = plan(&deployment(spec.clone(), json!({})), &sets, &pods);
        assert_eq!(changes(&plan), expected, "{replicas} {pods:?}");
    }
}

#[test]
fn history_is_cleaned_up_when_complete() {
    let mut older = set("older", "older", 0, 0, (1, 2));
    older["metadata"]["annotations"]["deployment.kubernetes.io/revision"] = "0".into();
    let sets = [set("n", "new", 1, 1, (1, 2)), set("o", "old", 0, 0, (1, 2)), older];
    let spec = json!({"replicas": 1, "revisionHistoryLimit": 1});
    let plan = plan(&deployment(spec, json!({"observedGeneration": 1})), &sets, &[]);
    assert_eq!(changes(&plan), ["-older"]);
}

#[test]
fn rollback_gives_the_old_set_the_next_revision() {
    let spec = json!({"replicas": 1, "template": template("old")});
    let sets = [set("n", "new", 1, 1, (1, 2)), set("o", "old", 0, 0, (1, 2))];
    let plan = plan(&deployment(spec, json!({})), &sets, &[]);
    assert_eq!(changes(&plan), ["o:1"]);
    let Some(Step::Patch(patch)) = plan.steps.first() else { panic!("{plan:?}") };
    let annotations = &patch.body["metadata"]["annotations"];
    assert_eq!(annotations["deployment.kubernetes.io/revision"], "3");
    assert_eq!(annotations["deployment.kubernetes.io/revision-history"], "1");
    let Some(Step::Patch(own)) = plan.steps.last() else { panic!("{plan:?}") };
    assert_eq!(own.body["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "3");
}

#[test]
fn progress_is_judged() {
    let progressing = |reason: &str, at: i64| {
        json!([
        {"type": "Progressing", "status": "True", "reason": reason,
            "lastUpdateTime": Time::from_unix(at), "lastTransitionTime": Time::from_unix(at)}])
    };
    let spec = json!({"replicas": 2});
    for (case, conditions, available, reason, again) in [
        ("complete", progressing("ReplicaSetUpdated", 900), 2, "NewReplicaSetAvailable", None),
        ("slow", progressing("ReplicaSetUpdated", 900), 1, "ReplicaSetUpdated", Some(1501)),
        ("too slow", progressing("ReplicaSetUpdated", 300), 1, "ProgressDeadlineExceeded", None),
        ("found", json!([]), 1, "FoundNewReplicaSet", Some(1601)),
    ] {
        let status = json!({"observedGeneration": 1, "replicas": 2, "updatedReplicas": 2,
            "readyReplicas": 1, "availableReplicas": 1, "conditions": conditions});
        let deployment = deployment(spec.clone(), status);
        let plan = plan(&deployment, &[set("n", "new", 2, available, (2, 3))], &[]);
        let patched = super::tests::status(&plan).and_then(|status| status.get("conditions"));
        let list: Vec<Condition> = match patched {
            Some(list) => serde_json::from_value(list.clone()).unwrap(),
            None => deployment.status.conditions.clone(),
        };
        let found = Condition::find(&list, "Progressing").unwrap();
        assert_eq!(found.reason, reason, "{case}");
        assert_eq!(plan.again, again.map(Time::from_unix), "{case}");
    }
}

#[test]
fn a_taken_name_is_avoided() {
    let wanted = deployment(json!({"replicas": 1}), json!({}));
    let first = plan(&wanted, &[], &[]);
    let Step::Create(create) = &first.steps[0] else { panic!("{first:?}") };
    let mut stranger = set("x", "stranger", 1, 1, (1, 1));
    stranger["metadata"]["name"] = create.object["metadata"]["name"].clone();
    stranger["metadata"]["ownerReferences"] = json!([{"uid": "other", "controller": true}]);
    let second = plan(&wanted, &[stranger], &[]);
    assert!(changes(&second).is_empty());
    assert_eq!(status(&second).unwrap()["collisionCount"], 1);
}

#[test]
fn at_rest_nothing_is_planned() {
    let wanted = deployment(json!({"replicas": 2}), json!({}));
    let first = plan(&wanted, &[set("n", "new", 2, 2, (2, 3))], &[]);
    let mut object = wanted.value();
    object["status"] = status(&first).unwrap().clone();
    let mut settled = Entry::<Deployment>::decode(object.to_string().into()).unwrap();
    settled.view.status.observed_generation = 1;
    // The rollout counts as complete only once its generation was observed.
    let second = plan(&settled, &[set("n", "new", 2, 2, (2, 3))], &[]);
    let complete = status(&second).unwrap()["conditions"].clone();
    settled.view.status.conditions = serde_json::from_value(complete).unwrap();
    let third = plan(&settled, &[set("n", "new", 2, 2, (2, 3))], &[]);
    assert_eq!(third, Plan::default());
}
