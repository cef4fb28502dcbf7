//! StatefulSets as tables: pods before, steps after.

use client::Entry;
use proto::time::Time;
use proto::view::controller_revision::ControllerRevision;
use proto::view::persistent_volume_claim::PersistentVolumeClaim;
use proto::view::pod::Pod;
use proto::view::stateful_set::StatefulSet;
use serde_json::{Value, json};

use super::StatefulSets;
use crate::plan::{Plan, Step};
use crate::run::Controller;
use crate::view::View;

const NOW: i64 = 1000;

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn set(spec: Value, status: Value) -> Entry<StatefulSet> {
    let mut object = json!({
        "metadata": {"name": "web", "namespace": "a", "uid": "u", "resourceVersion": "5",
            "generation": 1},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}}, "serviceName": "svc",
            "template": template("new"), "podManagementPolicy": "OrderedReady",
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}},
        "status": {"replicas": 0, "currentRevision": "old"},
    });
    for (part, changes) in [("spec", spec), ("status", status)] {
        for (key, value) in changes.as_object().unwrap() {
            object[part][key] = value.clone();
        }
    }
    Entry::decode(object.to_string().into()).unwrap()
}

fn revision(name: &str, number: i64) -> Value {
    let mut template = template(name);
    template["$patch"] = "replace".into();
    json!({
        "metadata": {"name": name, "namespace": "a", "uid": name, "labels": {"app": "web"},
            "ownerReferences": [{"kind": "StatefulSet", "uid": "u", "controller": true}]},
        "data": {"spec": {"template": template}},
        "revision": number,
    })
}

/// `web-0 new ready`: name, revision and how it is (`ready`, `ready@N` since then, `unready`,
/// `pending`, `failed`, `succeeded`, `ending`).
fn pod(text: &str) -> Value {
    let [name, revision, how] = text.split(' ').collect::<Vec<_>>()[..] else { panic!("{text}") };
    let (how, since) = how.split_once('@').unwrap_or((how, "0"));
    let phase = match how {
        "failed" => "Failed",
        "succeeded" => "Succeeded",
        "pending" => "Pending",
        _ => "Running",
    };
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "a", "uid": format!("uid-{name}"),
            "labels": {"app": "web", "statefulset.kubernetes.io/pod-name": name,
                "controller-revision-hash": revision},
            "ownerReferences": [{"kind": "StatefulSet", "uid": "u", "controller": true}]},
        "status": {"phase": phase, "conditions": [{"type": "Ready",
            "status": if matches!(how, "ready" | "ending") { "True" } else { "False" },
            "lastTransitionTime": Time::from_unix(since.parse().unwrap()).to_string()}]},
    });
    if how == "ending" {
        pod["metadata"]["deletionTimestamp"] = "1970-01-01T00:00:00Z".into();
    }
    pod
}

fn plan_with(set: &Entry<StatefulSet>, pods: &[Value], claims: &[Value]) -> Plan {
    let view = View::default()
        .with::<Pod>(pods)
        .with::<ControllerRevision>(&[revision("old", 1), revision("new", 2)])
        .with::<PersistentVolumeClaim>(claims)
        .with::<StatefulSet>(&[]);
    StatefulSets.plan(set, &view, Time::from_unix(NOW)).unwrap()
}

/// `+web-0=new` created at that revision, `-web-0` deleted, `+data-web-0` a claim, `data-web-0=…`
/// owned by that kind from now on; the status is left out.
fn steps(plan: &Plan) -> Vec<String> {
    let one = |step: &Step| match step {
        Step::Create(create) => {
            let meta = &create.object["metadata"];
            let name = meta["name"].as_str().unwrap();
            match meta["labels"].get("controller-revision-hash") {
                Some(revision) => Some(format!("+{name}={}", revision.as_str().unwrap())),
                None => Some(format!("+{name}")),
            }
        }
        Step::Delete(delete) => Some(format!("-{}", delete.target.name)),
        Step::Patch(patch) if patch.subresource == "status" => None,
        Step::Patch(patch) => {
            let meta = &patch.body["metadata"];
            let owner = meta["ownerReferences"][0]["kind"].as_str().unwrap_or("nobody");
            Some(match meta.get("labels") {
                Some(labels) => format!("{}: {labels}", patch.target.name),
                None => format!("{}={owner}", patch.target.name),
            })
        }
        Step::Event(event) => Some(event.message.clone()),
        other => Some(format!("{other:?}")),
    };
    plan.steps.iter().filter_map(one).collect()
}

fn status(plan: &Plan) -> Value {
    let status = plan.steps.iter().find_map(|step| match step {
        Step::Patch(patch) if patch.subresource == "status" => Some(patch.body["status"].clone()),
        _ => None,
    });
    status.unwrap_or_default()
}

#[test]
fn plans() {
    let ordered = json!({});
    let parallel = json!({"podManagementPolicy": "Parallel"});
    let of = |replicas: i32| json!({"replicas": replicas});
    let parallel_of =
        |replicas: i32| json!({"replicas": replicas, "podManagementPolicy": "Parallel"});
    let part = |partition: i32| {
        json!({"updateStrategy":
        {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}}})
    };
    for (case, spec, pods, expected) in [
        ("the first comes first", &ordered, vec![], vec!["+web-0=new"]),
        ("all at once", &parallel, vec![], vec!["+web-0=new", "+web-1=new"]),
        ("not ready: nothing more", &ordered, vec!["web-0 new unready"], vec![]),
        ("not ready: no matter", &parallel, vec!["web-0 new unready"], vec!["+web-1=new"]),
        ("then the next", &ordered, vec!["web-0 new ready"], vec!["+web-1=new"]),
        ("at rest", &ordered, vec!["web-0 new ready", "web-1 new ready"], vec![]),
        ("a gap", &ordered, vec!["web-1 new ready"], vec!["+web-0=new"]),
        ("failed", &ordered, vec!["web-0 new failed", "web-1 new ready"], vec!["-web-0"]),
        ("evicted well", &ordered, vec!["web-0 new succeeded"], vec!["-web-0"]),
        ("one of a name", &ordered, vec!["web-0 new ending", "web-1 old ready"], vec![]),
        (
            "the last goes first",
            &of(1),
            vec!["web-0 new ready", "web-1 new ready", "web-2 new ready"],
            vec!["-web-2"],
        ),
        (
            "one by one",
            &of(1),
            vec!["web-0 new ready", "web-1 new ready", "web-2 new ending"],
            vec![],
        ),
        (
            "blocked by one that is ill",
            &of(1),
            vec!["web-0 new ready", "web-1 new unready", "web-2 new unready"],
            vec![],
        ),
        (
            "but the ill one may go",
            &of(1),
            vec!["web-0 new ready", "web-1 new ready", "web-2 new unready"],
            vec!["-web-2"],
        ),
        (
            "none goes while one is ill",
            &of(1),
            vec!["web-0 new unready", "web-1 new ready"],
            vec![],
        ),
        (
            "down at once",
            &parallel_of(0),
            vec!["web-0 new unready", "web-1 new ready", "web-10 new ready"],
            vec!["-web-10", "-web-1", "-web-0"],
        ),
        (
            "update from the last",
            &ordered,
            vec!["web-0 old ready", "web-1 old ready"],
            vec!["-web-1"],
        ),
        ("until it is back", &ordered, vec!["web-0 old ready"], vec!["+web-1=new"]),
        ("and well", &ordered, vec!["web-0 old ready", "web-1 new unready"], vec![]),
        (
            "then the one before",
            &ordered,
            vec!["web-0 old ready", "web-1 new ready"],
            vec!["-web-0"],
        ),
        (
            "an update that is ill waits",
            &parallel,
            vec!["web-0 old ready", "web-1 new unready"],
            vec![],
        ),
        ("below the partition", &part(1), vec!["web-0 old ready", "web-1 new ready"], vec![]),
        ("there the old is made", &part(1), vec!["web-1 new ready"], vec!["+web-0=old"]),
        ("all below", &part(7), vec!["web-0 old ready", "web-1 old ready"], vec![]),
        (
            "by hand",
            &json!({"updateStrategy": {"type": "OnDelete"}}),
            vec!["web-0 old ready", "web-1 old ready"],
            vec![],
        ),
        (
            "by hand, gone",
            &json!({"updateStrategy": {"type": "OnDelete"}}),
            vec!["web-0 old ready"],
            vec!["+web-1=new"],
        ),
        (
            "other ordinals",
            &json!({"ordinals": {"start": 3}}),
            vec!["web-3 new ready"],
            vec!["+web-4=new"],
        ),
        (
            "moved ordinals",
            &json!({"ordinals": {"start": 1}}),
            vec!["web-0 new ready", "web-1 new ready", "web-2 new ready"],
            vec!["-web-0"],
        ),
        (
            "others' pods",
            &ordered,
            vec!["web-0 new ready", "web-1 new ready", "web-x new ready", "web-01 new ready"],
            vec!["web-01=nobody", "web-x=nobody"],
        ),
        ("not long enough", &json!({"minReadySeconds": 60}), vec!["web-0 new ready@950"], vec![]),
        (
            "long enough",
            &json!({"minReadySeconds": 60}),
            vec!["web-0 new ready@940"],
            vec!["+web-1=new"],
        ),
        (
            "update, not long enough",
            &json!({"minReadySeconds": 60}),
            vec!["web-0 old ready", "web-1 new ready@950"],
            vec![],
        ),
    ] {
        let pods: Vec<Value> = pods.into_iter().map(pod).collect();
        let plan = plan_with(&set(spec.clone(), json!({})), &pods, &[]);
        let mut steps = steps(&plan);
        if case == "others' pods" {
            steps.sort();
        }
        assert_eq!(steps, expected, "{case}");
        if case.ends_with("not long enough") {
            assert_eq!(plan.again, Some(Time::from_unix(1010)), "{case}");
        }
    }
}

#[test]
fn pods_without_a_partition_follow_the_count() {
    let spec = json!({"updateStrategy": {"type": "RollingUpdate"}});
    let set = set(spec, json!({"currentReplicas": 1}));
    let pods = [pod("web-1 new ready")];
    assert_eq!(steps(&plan_with(&set, &pods, &[])), ["+web-0=old"]);
}

#[test]
fn statuses() {
    for (case, spec, before, pods, expected) in [
        (
            "new",
            json!({}),
            json!({"currentRevision": ""}),
            vec![],
            json!({"observedGeneration": 1, "collisionCount": 0, "currentRevision": "new",
                "updateRevision": "new"}),
        ),
        (
            "in between",
            json!({}),
            json!({}),
            vec!["web-0 old ready", "web-1 new unready", "web-2 new ending"],
            json!({"observedGeneration": 1, "collisionCount": 0, "updateRevision": "new",
                "replicas": 3, "readyReplicas": 2, "availableReplicas": 2, "currentReplicas": 1,
                "updatedReplicas": 1}),
        ),
        (
            "done",
            json!({}),
            json!({}),
            vec!["web-0 new ready", "web-1 new ready"],
            json!({"observedGeneration": 1, "collisionCount": 0, "updateRevision": "new",
                "currentRevision": "new", "replicas": 2, "readyReplicas": 2,
                "availableReplicas": 2, "currentReplicas": 2, "updatedReplicas": 2}),
        ),
        (
            "done by hand",
            json!({"updateStrategy": {"type": "OnDelete"}, "minReadySeconds": 60}),
            json!({}),
            vec!["web-0 new ready@999", "web-1 new ready"],
            json!({"observedGeneration": 1, "collisionCount": 0, "updateRevision": "new",
                "replicas": 2, "readyReplicas": 2, "availableReplicas": 1, "updatedReplicas": 2}),
        ),
        (
            "to nothing",
            json!({"replicas": 0}),
            json!({"replicas": 1, "readyReplicas": 1, "availableReplicas": 1, "updatedReplicas": 1,
                "currentReplicas": 1, "currentRevision": "new", "updateRevision": "new",
                "observedGeneration": 1, "collisionCount": 0}),
            vec![],
            json!({"replicas": 0, "readyReplicas": null, "availableReplicas": 0,
                "updatedReplicas": null, "currentReplicas": null}),
        ),
    ] {
        let pods: Vec<Value> = pods.into_iter().map(pod).collect();
        assert_eq!(status(&plan_with(&set(spec, before), &pods, &[])), expected, "{case}");
    }
}

fn with_claims(when_scaled: &str, when_deleted: &str) -> Value {
    json!({
        "replicas": 1,
        "volumeClaimTemplates": [{"metadata": {"name": "data", "labels": {"x": "y"}},
            "spec": {"accessModes": ["ReadWriteOnce"]}}],
        "persistentVolumeClaimRetentionPolicy":
            {"whenScaled": when_scaled, "whenDeleted": when_deleted},
    })
}

/// `data-web-0 Kind/uid`: a claim and who owns it; `going`: it is about to be deleted.
fn claim(text: &str) -> Value {
    let (name, owner) = text.split_once(' ').unwrap_or((text, ""));
    let mut claim = json!({"metadata": {"name": name, "namespace": "a", "uid": name}});
    match owner.split_once('/') {
        Some((kind, uid)) => {
            let (version, name) = match kind {
                "StatefulSet" => ("apps/v1", "web"),
                "Pod" => ("v1", uid.trim_start_matches("uid-")),
                _ => ("v1", "x"),
            };
            claim["metadata"]["ownerReferences"] = json!([{"apiVersion": version, "kind": kind,
                "name": name, "uid": uid, "controller": true, "blockOwnerDeletion": true}]);
        }
        None if owner == "going" => {
            claim["metadata"]["deletionTimestamp"] = "1970-01-01T00:00:00Z".into();
        }
        None => {}
    }
    claim
}

#[test]
fn claims() {
    let keep = with_claims("Retain", "Retain");
    let (scaled, deleted) = (with_claims("Delete", "Retain"), with_claims("Retain", "Delete"));
    let both = with_claims("Delete", "Delete");
    let well = vec!["web-0 new ready"];
    let more = vec!["web-0 new ready", "web-1 new ready"];
    let going = "create Pod web-0 in StatefulSet web failed error: pvc data-web-0 is being deleted";
    let foreign = "PersistentVolumeClaim data-web-0 has a conflicting OwnerReference that acts as a \
        manging controller, the retention policy is ignored for this claim";
    for (case, spec, pods, before, expected) in [
        ("claim, then pod", &keep, vec![], vec![], vec!["+data-web-0", "+web-0=new"]),
        ("it is there", &keep, vec![], vec!["data-web-0"], vec!["+web-0=new"]),
        ("it is going", &keep, vec![], vec!["data-web-0 going"], vec![going]),
        ("lost", &keep, vec!["web-0 new pending"], vec![], vec!["+data-web-0"]),
        ("kept", &keep, more.clone(), vec!["data-web-0", "data-web-1"], vec!["-web-1"]),
        (
            "no longer the set's",
            &keep,
            well.clone(),
            vec!["data-web-0 StatefulSet/u"],
            vec!["data-web-0=nobody"],
        ),
        ("the set's", &deleted, well.clone(), vec!["data-web-0"], vec!["data-web-0=StatefulSet"]),
        ("the set's, at rest", &deleted, well.clone(), vec!["data-web-0 StatefulSet/u"], vec![]),
        (
            "to go with the pod",
            &scaled,
            more.clone(),
            vec!["data-web-0", "data-web-1"],
            vec!["data-web-1=Pod", "-web-1"],
        ),
        (
            "from the set to the pod",
            &both,
            more.clone(),
            vec!["data-web-0 StatefulSet/u", "data-web-1 StatefulSet/u"],
            vec!["data-web-1=Pod", "-web-1"],
        ),
        (
            "wanted again",
            &both,
            well.clone(),
            vec!["data-web-0 Pod/uid-web-0"],
            vec!["data-web-0=StatefulSet"],
        ),
        ("of a pod that was", &scaled, vec![], vec!["data-web-0 Pod/uid-web-0"], vec![]),
        ("someone else's", &deleted, well, vec!["data-web-0 Thing/t"], vec![foreign]),
    ] {
        let pods: Vec<Value> = pods.into_iter().map(pod).collect();
        let before: Vec<Value> = before.into_iter().map(claim).collect();
        let plan = plan_with(&set(spec.clone(), json!({})), &pods, &before);
        assert_eq!(steps(&plan), expected, "{case}");
    }
}

#[test]
fn a_pod_is_itself() {
    let mut spec = with_claims("Retain", "Delete");
    spec["template"] = json!({
        "metadata": {"labels": {"app": "web"}, "annotations": {"a": "b"}},
        "spec": {"containers": [], "volumes": [{"name": "data", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}}]},
    });
    let set = set(spec, json!({}));
    let plan = plan_with(&set, &[], &[]);
    let created: Vec<&Value> = plan
        .steps
        .iter()
        .filter_map(|step| match step {
            Step::Create(create) => Some(&*create.object),
            _ => None,
        })
        .collect();
    let [revision, claim, pod] = created[..] else { panic!("{created:?}") };
    let revision = &revision["metadata"]["name"];
    assert_eq!(claim["metadata"]["labels"], json!({"app": "web", "x": "y"}));
    assert_eq!(claim["metadata"]["ownerReferences"][0]["uid"], "u");
    assert_eq!(claim["spec"]["accessModes"], json!(["ReadWriteOnce"]));
    assert_eq!(
        *pod,
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "web-0", "generateName": "web-", "namespace": "a",
                "annotations": {"a": "b"},
                "labels": {"app": "web", "apps.kubernetes.io/pod-index": "0",
                    "controller-revision-hash": revision,
                    "statefulset.kubernetes.io/pod-name": "web-0"},
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "web",
                    "uid": "u", "controller": true, "blockOwnerDeletion": true}],
            },
            "spec": {
                "containers": [], "hostname": "web-0", "subdomain": "svc",
                "volumes": [
                    {"name": "data", "persistentVolumeClaim": {"claimName": "data-web-0"}},
                    {"name": "tmp", "emptyDir": {}},
                ],
            },
        })
    );
}

#[test]
fn a_pod_gets_its_name_back() {
    let mut nameless = pod("web-0 new ready");
    nameless["metadata"]["labels"]["statefulset.kubernetes.io/pod-name"] = "x".into();
    let plan = plan_with(&set(json!({"replicas": 1}), json!({})), &[nameless], &[]);
    assert_eq!(
        steps(&plan),
        ["web-0: {\"apps.kubernetes.io/pod-index\":\"0\",\
          \"statefulset.kubernetes.io/pod-name\":\"web-0\"}"]
    );
}

#[test]
fn failures_slow_it_down() {
    let (back_off, set) = (std::sync::Arc::default(), set(json!({}), json!({})));
    let plan = |uid: &str, now| {
        let mut failed = pod("web-0 new failed");
        failed["metadata"]["uid"] = uid.into();
        let mut view = View::default()
            .with::<Pod>(&[failed])
            .with::<ControllerRevision>(&[revision("old", 1), revision("new", 2)])
            .with::<PersistentVolumeClaim>(&[])
            .with::<StatefulSet>(&[]);
        view.back_off = std::sync::Arc::clone(&back_off);
        let plan = StatefulSets.plan(&set, &view, Time::from_unix(now)).unwrap();
        (steps(&plan).len(), plan.again)
    };
    assert_eq!(plan("p", NOW), (1, None));
    assert_eq!(plan("q", NOW), (0, Some(Time::from_unix(NOW + 1))));
    assert_eq!(plan("q", NOW + 1), (1, None));
    assert_eq!(plan("r", NOW + 1), (0, Some(Time::from_unix(NOW + 3))));
}

#[test]
fn a_set_that_ends_only_counts() {
    let mut ending = set(json!({}), json!({"updateRevision": "new"}));
    ending.view.metadata.deletion_timestamp = Some(Time::from_unix(NOW));
    let plan = plan_with(&ending, &[pod("web-0 new ready")], &[]);
    assert!(steps(&plan).is_empty(), "{plan:?}");
    assert_eq!(status(&plan)["readyReplicas"], 1);
}

#[test]
fn events_use_the_words_of_kubernetes() {
    let plan = plan_with(&set(with_claims("Retain", "Retain"), json!({})), &[], &[]);
    let mut told = Vec::new();
    for step in &plan.steps {
        if let Step::Create(create) = step
            && let Some(about) = &create.told
        {
            let name = create.object["metadata"]["name"].as_str().unwrap();
            told.push(about.message(about.created.unwrap().1, name, name));
            told.push(about.message(about.not_created.unwrap().1, name, "no"));
        }
    }
    assert_eq!(
        told,
        [
            "create Claim data-web-0 Pod web-0 in StatefulSet web success",
            "create Claim data-web-0 for Pod web-0 in StatefulSet web failed error: no",
            "create Pod web-0 in StatefulSet web successful",
            "create Pod web-0 in StatefulSet web failed error: no",
        ]
    );
}

#[test]
fn pods_are_known_by_their_names() {
    let meta = |name: &str| proto::meta::ObjectMeta { name: name.into(), ..Default::default() };
    for (pod, expected) in [
        ("web-0", Some(0)),
        ("web-12", Some(12)),
        ("web-07", None),
        ("web-1-2", None),
        ("web-", None),
        ("web", None),
        ("website-1", None),
        ("web-99999999999", None),
        ("web-+1", None),
    ] {
        assert_eq!(super::identity::ordinal(&meta("web"), &meta(pod)), expected, "{pod}");
    }
}
