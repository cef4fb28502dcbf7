//! DaemonSets as tables: nodes and pods before, steps after.

use std::sync::Arc;

use client::{Change, Entry, Key};
use proto::time::Time;
use proto::view::controller_revision::ControllerRevision;
use proto::view::daemon_set::DaemonSet;
use proto::view::node::Node;
use proto::view::pod::Pod;
use serde_json::{Value, json};

use super::DaemonSets;
use super::nodes::{Fit, concerned, fit};
use crate::failed_pods::BackOff;
use crate::plan::{Plan, Step};
use crate::run::Controller;
use crate::view::View;

const NOW: i64 = 1000;

fn template(spec: Value) -> Value {
    let mut template = json!({"metadata": {"labels": {"app": "log"}}, "spec": spec});
    template["spec"]["containers"] = json!([{"name": "c", "image": "i"}]);
    template
}

fn object(spec: Value, pod_spec: Value) -> Value {
    let mut object = json!({
        "metadata": {"name": "log", "namespace": "a", "uid": "u", "resourceVersion": "5",
            "generation": 1, "annotations": {"deprecated.daemonset.template.generation": "2"}},
        "spec": {"selector": {"matchLabels": {"app": "log"}}, "template": template(pod_spec),
            "updateStrategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}}},
    });
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    object
}

fn set(spec: Value, pod_spec: Value) -> Entry<DaemonSet> {
    Entry::decode(object(spec, pod_spec).to_string().into()).unwrap()
}

/// `n1`, or `n1 key:Effect`: a node with a taint; `n1 key=value`: with a label.
fn node(text: &str) -> Value {
    let mut words = text.split(' ');
    let mut node = json!({"metadata": {"name": words.next().unwrap()}});
    for word in words {
        if let Some((key, effect)) = word.split_once(':') {
            node["spec"]["taints"] = json!([{"key": key, "effect": effect}]);
        } else if let Some((key, value)) = word.split_once('=') {
            node["metadata"]["labels"][key] = value.into();
        }
    }
    node
}

/// `p1 n1 new ready`: name, node, revision, how it is (as for StatefulSets, or `waiting` for the
/// scheduler).
fn pod(text: &str) -> Value {
    let [name, node, revision, how] = text.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{text}")
    };
    let (how, since) = how.split_once('@').unwrap_or((how, "0"));
    let phase = match how {
        "failed" => "Failed",
        "succeeded" => "Succeeded",
        "waiting" => "Pending",
        _ => "Running",
    };
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "a", "uid": name,
            "labels": {"app": "log", "controller-revision-hash": revision},
            "ownerReferences": [{"kind": "DaemonSet", "uid": "u", "controller": true}]},
        "spec": {"nodeName": node},
        "status": {"phase": phase, "conditions": [{"type": "Ready",
            "status": if matches!(how, "ready" | "ending") { "True" } else { "False" },
            "lastTransitionTime": Time::from_unix(since.parse().unwrap()).to_string()}]},
    });
    match how {
        "waiting" => {
            pod["spec"] = json!({"affinity": {"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]},
                ]},
            }}});
        }
        "ending" => pod["metadata"]["deletionTimestamp"] = "1970-01-01T00:00:00Z".into(),
        _ => {}
    }
    pod
}

fn revision(name: &str, number: i64, mut template: Value) -> Value {
    template["$patch"] = "replace".into();
    json!({
        "metadata": {"name": format!("log-{name}"), "namespace": "a", "uid": name,
            "labels": {"app": "log", "controller-revision-hash": name},
            "ownerReferences": [{"kind": "DaemonSet", "uid": "u", "controller": true}]},
        "data": {"spec": {"template": template}},
        "revision": number,
    })
}

fn plan(
    back_off: &Arc<BackOff>,
    set: &Entry<DaemonSet>,
    nodes: &[Value],
    pods: &[Value],
    now: i64,
) -> Plan {
    let present = set.value()["spec"]["template"].clone();
    let revisions =
        [revision("old", 1, template(json!({"hostname": "x"}))), revision("new", 2, present)];
    let mut view = View::default()
        .with::<Pod>(pods)
        .with::<ControllerRevision>(&revisions)
        .with::<Node>(nodes)
        .with::<DaemonSet>(&[]);
    view.back_off = Arc::clone(back_off);
    DaemonSets.plan(set, &view, Time::from_unix(now)).unwrap()
}

/// `+n1` a pod created for that node, `-p1` deleted, events' messages; the status is left out.
fn steps(plan: &Plan) -> Vec<String> {
    let one = |step: &Step| match step {
        Step::Create(create) => {
            let affinity = &create.object["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
                ["nodeSelectorTerms"];
            assert_eq!(affinity.as_array().unwrap().len(), 1);
            Some(format!("+{}", affinity[0]["matchFields"][0]["values"][0].as_str().unwrap()))
        }
        Step::Delete(delete) => Some(format!("-{}", delete.target.name)),
        Step::Patch(patch) if patch.subresource == "status" => None,
        Step::Event(event) => Some(event.message.clone()),
        other => Some(format!("{other:?}")),
    };
    plan.steps.iter().filter_map(one).collect()
}

#[test]
fn plans() {
    let rolling = json!({});
    let two = json!({"updateStrategy": {"type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": "50%", "maxSurge": 0}}});
    let by_hand = json!({"updateStrategy": {"type": "OnDelete"}});
    let surge = json!({"updateStrategy": {"type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}});
    let failed = "Found failed daemon pod a/p on node n1, will try to kill it";
    let succeeded = "Found succeeded daemon pod a/p on node n1, will try to delete it";
    let tainted = "n1 key:NoSchedule";
    for (case, spec, nodes, pods, expected) in [
        ("one each", &rolling, vec!["n1", "n2"], vec![], vec!["+n1", "+n2"]),
        ("at rest", &rolling, vec!["n1"], vec!["p n1 new ready"], vec![]),
        ("the scheduler's turn", &rolling, vec!["n1"], vec!["p n1 new waiting"], vec![]),
        ("not before the old one is gone", &rolling, vec!["n1"], vec!["p n1 new ending"], vec![]),
        (
            "but beside it if that is wanted",
            &surge,
            vec!["n1"],
            vec!["p n1 new ending"],
            vec!["+n1"],
        ),
        ("a taint keeps new ones off", &rolling, vec![tainted], vec![], vec![]),
        ("but not those that are there", &rolling, vec![tainted], vec!["p n1 new ready"], vec![]),
        (
            "unless it says so",
            &rolling,
            vec!["n1 key:NoExecute"],
            vec!["p n1 new ready"],
            vec!["-p"],
        ),
        (
            "the node is gone",
            &rolling,
            vec![],
            vec!["p n1 new waiting", "q n2 new ready"],
            vec!["-p"],
        ),
        ("too many", &rolling, vec!["n1"], vec!["p n1 new ready", "q n1 new ready"], vec!["-q"]),
        ("failed", &rolling, vec!["n1"], vec!["p n1 new failed"], vec![failed, "-p"]),
        ("ended", &rolling, vec!["n1"], vec!["p n1 new succeeded"], vec![succeeded, "-p"]),
        (
            "one at a time",
            &rolling,
            vec!["n1", "n2"],
            vec!["p n1 old ready", "q n2 old ready"],
            vec!["-p"],
        ),
        (
            "two at a time",
            &two,
            vec!["n1", "n2", "n3"],
            vec!["p n1 old ready", "q n2 old ready", "r n3 old ready"],
            vec!["-p", "-q"],
        ),
        (
            "until it is well",
            &rolling,
            vec!["n1", "n2"],
            vec!["p n1 new unready", "q n2 old ready"],
            vec![],
        ),
        (
            "what is ill is replaced at once",
            &rolling,
            vec!["n1", "n2", "n3"],
            vec!["p n1 old unready", "q n2 old unready", "r n3 old ready"],
            vec!["-p", "-q"],
        ),
        ("first the missing ones", &rolling, vec!["n1", "n2"], vec!["q n2 old ready"], vec!["+n1"]),
        ("by hand", &by_hand, vec!["n1"], vec!["p n1 old ready"], vec![]),
        (
            "one beside",
            &surge,
            vec!["n1", "n2"],
            vec!["p n1 old ready", "q n2 old ready"],
            vec!["+n1"],
        ),
        (
            "until it can take over",
            &surge,
            vec!["n1", "n2"],
            vec!["p n1 old ready", "q n2 old ready", "r n1 new unready"],
            vec![],
        ),
        (
            "then the old one goes",
            &surge,
            vec!["n1", "n2"],
            vec!["p n1 old ready", "q n2 old ready", "r n1 new ready"],
            vec!["-p"],
        ),
        (
            "or when it is of no use",
            &surge,
            vec!["n1", "n2"],
            vec!["p n1 old unready", "q n2 old ready", "r n1 new unready"],
            vec!["-p"],
        ),
        (
            "beside what is ill, at once",
            &surge,
            vec!["n1", "n2", "n3"],
            vec!["p n1 old unready", "q n2 old unready", "r n3 old ready"],
            vec!["+n1", "+n2", "+n3"],
        ),
    ] {
        let nodes: Vec<Value> = nodes.into_iter().map(node).collect();
        let pods: Vec<Value> = pods.into_iter().map(pod).collect();
        let set = set(spec.clone(), json!({}));
        let plan = plan(&Arc::default(), &set, &nodes, &pods, NOW);
        assert_eq!(steps(&plan), expected, "{case}");
    }
}

#[test]
fn failures_slow_it_down() {
    let (back_off, set) = (Arc::default(), set(json!({}), json!({})));
    let plan = |name: &str, now| {
        let pods = [pod(&format!("{name} n1 new failed"))];
        let plan = plan(&back_off, &set, &[node("n1")], &pods, now);
        (steps(&plan).len(), plan.again)
    };
    assert_eq!(plan("p", NOW), (2, None));
    assert_eq!(plan("p", NOW), (2, None), "planning again changes nothing");
    assert_eq!(plan("q", NOW), (0, Some(Time::from_unix(NOW + 1))));
    assert_eq!(plan("q", NOW + 1), (2, None));
    assert_eq!(plan("r", NOW + 1), (0, Some(Time::from_unix(NOW + 3))));
}

#[test]
fn nodes_fit_or_not() {
    let affinity = json!({"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]}]},
        ]},
    }}});
    let network = "n1 node.kubernetes.io/network-unavailable:NoSchedule";
    for (pods, on, expected) in [
        (json!({}), "n1", Fit::Runs),
        (json!({"nodeName": "n2"}), "n1", Fit::Leaves),
        (json!({"nodeSelector": {"zone": "a"}}), "n1 zone=a", Fit::Runs),
        (json!({"nodeSelector": {"zone": "a"}}), "n1 zone=b", Fit::Leaves),
        (affinity.clone(), "n1 zone=a", Fit::Runs),
        (affinity, "n1", Fit::Leaves),
        (json!({}), "n1 node.kubernetes.io/unreachable:NoExecute", Fit::Runs),
        (json!({}), "n1 node.kubernetes.io/unschedulable:NoSchedule", Fit::Runs),
        (json!({}), network, Fit::Stays),
        (json!({"hostNetwork": true}), network, Fit::Runs),
        (json!({}), "n1 key:PreferNoSchedule", Fit::Runs),
        (json!({}), "n1 key:NoSchedule", Fit::Stays),
        (json!({}), "n1 key:NoExecute", Fit::Leaves),
        (json!({"tolerations": [{"operator": "Exists"}]}), "n1 key:NoExecute", Fit::Runs),
    ] {
        let entry = Entry::<Node>::decode(node(on).to_string().into()).unwrap();
        assert_eq!(fit(&set(json!({}), pods.clone()), &entry), expected, "{pods} on {on}");
    }
}

#[test]
fn a_node_concerns_only_some() {
    let mut other = object(json!({}), json!({"nodeSelector": {"zone": "a"}}));
    other["metadata"]["name"] = "zone".into();
    let view = View::default().with::<DaemonSet>(&[object(json!({}), json!({})), other]);
    let entry = |text: &str| {
        let mut node = node(text);
        // What a heartbeat changes.
        node["status"]["conditions"] = json!([{"type": "Ready", "lastHeartbeatTime": null}]);
        Some(std::sync::Arc::new(Entry::<Node>::decode(node.to_string().into()).unwrap()))
    };
    for (old, new, expected) in [
        (None, entry("n1"), vec!["log"]),
        (entry("n1"), entry("n1"), vec![]),
        (entry("n1"), entry("n1 x=y"), vec![]),
        (entry("n1"), entry("n1 zone=a"), vec!["zone"]),
        (entry("n1 zone=a"), None, vec!["log", "zone"]),
        (entry("n1"), entry("n1 key:NoSchedule"), vec!["log"]),
    ] {
        let change = Change { key: Key::new("", "n1"), old, new };
        let mut keys = concerned(&change, &view);
        keys.sort();
        assert_eq!(keys.iter().map(|key| &*key.name).collect::<Vec<_>>(), expected);
    }
}

#[test]
fn statuses() {
    let nodes = ["n1", "n2", "n3", "n4 key:NoSchedule", "n5"].map(node);
    let pods =
        ["p n1 new ready", "q n2 old ready@990", "r n3 new unready", "s n4 new ready"].map(pod);
    let set = set(json!({"minReadySeconds": 60}), json!({}));
    let plan = plan(&Arc::default(), &set, &nodes, &pods, NOW);
    let Some(Step::Patch(patch)) = plan.steps.first() else { panic!("{plan:?}") };
    assert_eq!(
        patch.body["status"],
        json!({"observedGeneration": 1, "desiredNumberScheduled": 4, "currentNumberScheduled": 3,
            "numberMisscheduled": 1, "numberReady": 2, "numberAvailable": 1,
            "numberUnavailable": 3, "updatedNumberScheduled": 2})
    );
    assert_eq!(plan.again, Some(Time::from_unix(1050)));
}

#[test]
fn pods_tolerate_what_nodes_go_through() {
    let spec = json!({
        "tolerations": [{"key": "k", "operator": "Exists"},
            {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": 5}],
        "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []},
            "podAntiAffinity": {}},
        "hostNetwork": true,
    });
    let plan = plan(&Arc::default(), &set(json!({}), spec), &[node("n1")], &[], NOW);
    let Some(Step::Create(create)) = plan.steps.last() else { panic!("{plan:?}") };
    let pod = &create.object;
    assert_eq!(
        pod["metadata"]["labels"],
        json!({"app": "log", "controller-revision-hash": "new", "pod-template-generation": "2"})
    );
    assert_eq!(pod["metadata"]["generateName"], "log-");
    let said: Vec<String> = pod["spec"]["tolerations"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            let word = |field: &str| it[field].as_str().unwrap_or_default();
            assert_eq!((word("operator"), it.get("tolerationSeconds")), ("Exists", None));
            format!("{}:{}", word("key").trim_start_matches("node.kubernetes.io/"), word("effect"))
        })
        .collect();
    assert_eq!(
        said,
        [
            "k:",
            "not-ready:NoExecute",
            "unreachable:NoExecute",
            "disk-pressure:NoSchedule",
            "memory-pressure:NoSchedule",
            "pid-pressure:NoSchedule",
            "unschedulable:NoSchedule",
            "network-unavailable:NoSchedule"
        ]
    );
    let affinity = pod["spec"]["affinity"].as_object().unwrap();
    assert!(affinity.contains_key("podAntiAffinity"));
    assert_eq!(affinity["nodeAffinity"].as_object().unwrap().len(), 2);
}

#[test]
fn revisions_of_one_template_become_one() {
    let set = set(json!({}), json!({}));
    let same = template(json!({}));
    let view = View::default()
        .with::<Pod>(&[pod("p n1 b ready"), pod("q n2 a ready")])
        .with::<ControllerRevision>(&[revision("a", 1, same.clone()), revision("b", 2, same)])
        .with::<Node>(&[node("n1"), node("n2")])
        .with::<DaemonSet>(&[]);
    let plan = DaemonSets.plan(&set, &view, Time::from_unix(NOW)).unwrap();
    let [Step::Patch(relabelled), Step::Delete(deleted), ..] = &plan.steps[..] else {
        panic!("{plan:?}")
    };
    assert_eq!(relabelled.target.name, "q");
    assert_eq!(relabelled.body["metadata"]["labels"], json!({"controller-revision-hash": "b"}));
    assert_eq!(deleted.target.name, "log-a");
}
