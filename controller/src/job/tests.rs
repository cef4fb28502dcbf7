use super::*;
use serde_json::{Value, json};

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

fn job(spec: Value, status: Value) -> Entry<Job> {
    let mut object = json!({
        "metadata": {"name": "pi", "namespace": "a", "uid": "u", "resourceVersion": "5",
            "generation": 1},
        "spec": {"parallelism": 2, "completions": 4, "backoffLimit": 6,
            "selector": {"matchLabels": {"job": "pi"}},
            "podReplacementPolicy": "TerminatingOrFailed",
            "template": {"metadata": {"labels": {"job": "pi"}}, "spec": {"restartPolicy": "Never",
                "containers": [{"name": "c", "image": "i"}]}}},
        "status": {"startTime": "1970-01-01T00:00:00Z", "uncountedTerminatedPods": {}},
    });
    merge(&mut object, json!({"spec": spec, "status": status}));
    Entry::decode(object.to_string().into()).unwrap()
}

/// A pod that bears the finalizer, has this name and uid, and ended at 10 s if it has.
fn pod(name: &str, phase: &str, changes: Value) -> Value {
    let state = match phase {
        "Succeeded" | "Failed" => json!({"terminated": {"exitCode": i32::from(phase == "Failed"),
            "finishedAt": "1970-01-01T00:00:10Z"}}),
        _ => json!({"running": {}}),
    };
    let mut pod = json!({
        "metadata": {"name": name, "namespace": "a", "uid": name, "resourceVersion": "1",
            "labels": {"job": "pi"}, "finalizers": [FINALIZER],
            "ownerReferences": [{"kind": "Job", "uid": "u", "controller": true}]},
        "spec": {"nodeName": "n"},
        "status": {"phase": phase, "containerStatuses": [{"name": "c", "state": state}]},
    });
    merge(&mut pod, changes);
    pod
}

fn of_index(index: i64, phase: &str, changes: Value) -> Value {
    let mut all = json!({"metadata": {"annotations": {pods::INDEX: index.to_string()}}});
    merge(&mut all, changes);
    pod(&format!("{phase}{index}"), phase, all)
}

fn plan(job: &Entry<Job>, pods: &[Value], at: i64) -> Plan {
    let view = View::default().with::<Pod>(pods);
    let mut round = Jobs.plan(job, &view, Time::from_unix(at)).unwrap();
    // The view of a test has seen nothing; a plan waits for what it does not see.
    if round.again == Some(Time::from_unix(at)) {
        round.again = None;
    }
    round
}

/// The status without times and zero counts, then the steps in short.
fn summary(plan: &Plan) -> Vec<String> {
    let names = |patches: &[Patch]| {
        patches.iter().map(|patch| patch.target.name.clone()).collect::<Vec<_>>().join(",")
    };
    let index = |create: &crate::plan::Create| {
        let index = &create.object["metadata"]["annotations"][pods::INDEX];
        let count = &create.object["metadata"]["annotations"][backoff::FAILURES];
        let (index, count) = (index.as_str().unwrap_or_default(), count.as_str());
        count.map_or(index.to_string(), |count| format!("{index}:{count}"))
    };
    let line = |step: &Step| match step {
        Step::Patch(patch) if patch.subresource == "status" => {
            let mut status = patch.body["status"].clone();
            for condition in status["conditions"].as_array_mut().into_iter().flatten() {
                *condition = json!(format!(
                    "{}={} {}",
                    condition["type"].as_str().unwrap(),
                    condition["status"].as_str().unwrap(),
                    condition["reason"].as_str().unwrap()
                ));
            }
            let fields = status.as_object_mut().unwrap();
            fields.retain(|_, value| !value.is_null() && *value != 0);
            status.to_string().replace('"', "")
        }
        Step::PatchEach(patches) => format!("untrack {}", names(patches)),
        Step::Create(create) if !index(create).is_empty() => format!("+[{}]", index(create)),
        Step::Create(create) => format!("+{}", create.count),
        Step::Delete(delete) => format!("-{}", delete.target.name),
        Step::Event(event) => format!("{} {}", event.reason, event.message),
        Step::Adopt { patch, .. } => {
            format!("adopt {} {}", patch.target.name, patch.body["metadata"]["finalizers"])
        }
        Step::Patch(patch) => {
            format!("release {} {}", patch.target.name, patch.body["metadata"]["finalizers"])
        }
        other => panic!("{other:?}"),
    };
    let mut lines: Vec<String> = Vec::new();
    for line in plan.steps.iter().map(line) {
        match (lines.last_mut(), line.strip_prefix("+[")) {
            // Made together.
            (Some(last), Some(index)) if last.starts_with("+[") => {
                *last = format!("{},{index}", last.trim_end_matches(']'));
            }
            _ => lines.push(line),
        }
    }
    lines
}

type Case = (&'static str, Value, Value, Vec<Value>, Vec<&'static str>);

fn check(cases: Vec<Case>) {
    for (case, spec, status, pods, expected) in cases {
        let plan = plan(&job(spec, status), &pods, 1000);
        assert_eq!(summary(&plan), expected, "{case}");
    }
}

#[test]
fn pods_are_counted_once() {
    let none = json!({});
    let rest = json!({"active": 2, "ready": 0, "terminating": 0});
    let running = |name: &str| pod(name, "Running", json!({}));
    let untracked = json!({"metadata": {"finalizers": null}});
    let uncounted = json!({"active": 1, "ready": 0, "terminating": 0, "succeeded": 1,
        "uncountedTerminatedPods": {"succeeded": ["b"], "failed": ["x"]}});
    check(vec![
        (
            "new",
            none.clone(),
            json!({"startTime": null}),
            vec![],
            vec!["{startTime:1970-01-01T00:16:40Z}", "+2"],
        ),
        ("at rest", none.clone(), rest.clone(), vec![running("a"), running("b")], vec![]),
        (
            "one ends: first the status, then the finalizer, then the next pod",
            none.clone(),
            rest.clone(),
            vec![running("a"), pod("b", "Succeeded", none.clone())],
            vec!["{active:1,uncountedTerminatedPods:{succeeded:[b]}}", "untrack b", "+1"],
        ),
        (
            "a crash after the status",
            none.clone(),
            uncounted.clone(),
            vec![running("a"), pod("b", "Succeeded", none.clone()), running("c")],
            vec!["{active:2}", "untrack b"],
        ),
        (
            "a crash after the finalizer",
            none.clone(),
            json!({"active": 2, "ready": 0, "terminating": 0, "succeeded": 1,
                "uncountedTerminatedPods": {"succeeded": ["b"]}}),
            vec![running("a"), pod("b", "Succeeded", untracked.clone()), running("c")],
            vec!["{succeeded:2,uncountedTerminatedPods:{succeeded:null}}"],
        ),
        (
            "what has been counted is not counted again",
            none.clone(),
            json!({"active": 2, "ready": 0, "terminating": 0, "succeeded": 1}),
            vec![running("a"), pod("b", "Succeeded", untracked.clone()), running("c")],
            vec![],
        ),
        (
            "who cannot be counted must go",
            none.clone(),
            rest,
            vec![running("a"), pod("b", "Running", untracked)],
            vec!["untrack b", "-b"],
        ),
    ]);
}

#[test]
fn who_is_not_seen_is_not_counted_yet() {
    let status = json!({"active": 2, "ready": 0, "terminating": 0,
        "uncountedTerminatedPods": {"succeeded": ["gone"]}});
    let job = job(json!({}), status);
    let running = ["a", "b"].map(|name| pod(name, "Running", json!({})));
    // The test's view is at revision 1, the Job at 5.
    let Plan { steps, again } = plan(&job, &running, 1000);
    assert_eq!((steps, again), (vec![], Some(Time::from_unix(1001))));
    let view = View::default().with::<Pod>(&running);
    let mut round = Round::new(&job, view.owned_by("u"), Time::from_unix(1000));
    round.sees_all = true;
    round.run().unwrap();
    assert_eq!(round.status.succeeded, 1);
}

#[test]
fn endings() {
    let none = json!({});
    let idle = |more: Value| {
        let mut status = json!({"ready": 0, "terminating": 0});
        merge(&mut status, more);
        status
    };
    let met = json!([{"type": "SuccessCriteriaMet", "status": "True",
        "reason": "CompletionsReached", "message": "Reached expected number of succeeded pods"}]);
    let target = json!([{"type": "FailureTarget", "status": "True",
        "reason": "BackoffLimitExceeded", "message": "m"}]);
    let done = json!({"metadata": {"finalizers": null}});
    let leaving = json!({"metadata": {"finalizers": null,
        "deletionTimestamp": "1970-01-01T00:00:09Z"}});
    check(vec![
        (
            "enough",
            none.clone(),
            idle(json!({"succeeded": 3})),
            vec![pod("a", "Succeeded", none.clone())],
            vec![
                "{conditions:[SuccessCriteriaMet=True CompletionsReached],\
                 uncountedTerminatedPods:{succeeded:[a]}}",
                "untrack a",
            ],
        ),
        (
            "and counted",
            none.clone(),
            idle(json!({"conditions": met, "succeeded": 3,
                "uncountedTerminatedPods": {"succeeded": ["a"]}})),
            vec![pod("a", "Succeeded", done.clone())],
            vec![
                "{completionTime:1970-01-01T00:16:40Z,conditions:[SuccessCriteriaMet=True \
                 CompletionsReached,Complete=True CompletionsReached],succeeded:4,\
                 uncountedTerminatedPods:{succeeded:null}}",
                "Completed Job completed",
            ],
        ),
        (
            "one success is enough where none are asked",
            json!({"completions": null}),
            idle(json!({"succeeded": 1, "active": 1})),
            vec![pod("a", "Running", none.clone())],
            vec![],
        ),
        (
            "too many failures: who runs counts as failed too",
            json!({"backoffLimit": 1}),
            idle(json!({"failed": 1, "active": 1})),
            vec![pod("a", "Failed", none.clone()), pod("b", "Running", none.clone())],
            vec![
                "{conditions:[FailureTarget=True BackoffLimitExceeded],\
                 uncountedTerminatedPods:{failed:[a,b]}}",
                "untrack a,b",
                "-b",
            ],
        ),
        (
            "it fails only when the last pod has ended",
            none.clone(),
            idle(json!({"failed": 2, "conditions": target, "terminating": 1})),
            vec![pod("b", "Running", leaving)],
            vec![],
        ),
        (
            "then it does",
            none.clone(),
            idle(json!({"failed": 2, "conditions": target})),
            vec![pod("a", "Failed", done)],
            vec![
                "{conditions:[FailureTarget=True BackoffLimitExceeded,\
                 Failed=True BackoffLimitExceeded]}",
                "BackoffLimitExceeded m",
            ],
        ),
        (
            "late",
            json!({"activeDeadlineSeconds": 999, "parallelism": 1}),
            idle(json!({"active": 1})),
            vec![pod("a", "Running", none.clone())],
            vec![
                "{conditions:[FailureTarget=True DeadlineExceeded],\
                 uncountedTerminatedPods:{failed:[a]}}",
                "untrack a",
                "-a",
            ],
        ),
        (
            "restarts in place",
            json!({"backoffLimit": 2, "parallelism": 1,
                "template": {"spec": {"restartPolicy": "OnFailure"}}}),
            idle(json!({"active": 1})),
            vec![pod(
                "a",
                "Running",
                json!({"status": {"containerStatuses":
                [{"name": "c", "restartCount": 2}]}}),
            )],
            vec![
                "{conditions:[FailureTarget=True BackoffLimitExceeded],\
                 uncountedTerminatedPods:{failed:[a]}}",
                "untrack a",
                "-a",
            ],
        ),
    ]);
}

#[test]
fn finished_jobs_and_those_of_others_are_left_alone() {
    let pods = [pod("a", "Running", json!({}))];
    let complete = json!({"conditions": [{"type": "Complete", "status": "True"}]});
    let expected: [&str; 0] = [];
    let managed = job(json!({"managedBy": "example.com/mine"}), json!({}));
    assert_eq!(summary(&plan(&managed, &pods, 9)), expected);
    assert_eq!(summary(&plan(&job(json!({}), complete), &pods, 9)), ["untrack a"]);
}

#[test]
fn suspension() {
    let none = json!({});
    let suspended = json!([{"type": "Suspended", "status": "True", "reason": "JobSuspended"}]);
    check(vec![
        (
            "suspended from the start",
            json!({"suspend": true}),
            json!({"startTime": null}),
            vec![],
            vec!["{conditions:[Suspended=True JobSuspended]}", "Suspended Job suspended"],
        ),
        (
            "who runs goes, and does not count as failed",
            json!({"suspend": true}),
            json!({"active": 1, "ready": 0, "terminating": 0, "conditions": suspended}),
            vec![pod("a", "Running", none.clone())],
            vec!["untrack a", "-a"],
        ),
        (
            "resumed: its time begins anew",
            json!({"parallelism": 1}),
            json!({"ready": 0, "terminating": 0, "conditions": suspended}),
            vec![],
            vec![
                "{conditions:[Suspended=False JobResumed],startTime:1970-01-01T00:16:40Z}",
                "+1",
                "Resumed Job resumed",
            ],
        ),
    ]);
}

#[test]
fn sizes() {
    let none = json!({});
    let two = json!({"active": 2, "ready": 0, "terminating": 0});
    let pair = || {
        vec![pod("a", "Running", json!({})), pod("b", "Pending", json!({"spec": {"nodeName": ""}}))]
    };
    let leaving = json!({"metadata": {"deletionTimestamp": "1970-01-01T00:00:09Z"}});
    check(vec![
        ("fewer", json!({"parallelism": 1}), two.clone(), pair(), vec!["untrack b", "-b"]),
        ("none", json!({"parallelism": 0}), two.clone(), pair(), vec!["untrack b,a", "-b", "-a"]),
        ("no more than are missing", json!({"completions": 2}), two.clone(), pair(), vec![]),
        (
            "who is being deleted has failed and is replaced",
            none.clone(),
            json!({"active": 1, "ready": 0, "terminating": 1}),
            vec![pod("a", "Running", none.clone()), pod("b", "Running", leaving.clone())],
            vec!["{uncountedTerminatedPods:{failed:[b]}}", "untrack b", "+1"],
        ),
        (
            "or is waited for",
            json!({"podReplacementPolicy": "Failed"}),
            json!({"active": 1, "ready": 0, "terminating": 1}),
            vec![pod("a", "Running", none.clone()), pod("b", "Running", leaving)],
            vec![],
        ),
    ]);
}

#[test]
fn failures_delay_the_next_pod() {
    let failed = |name: &str, at: &str| {
        pod(
            name,
            "Failed",
            json!({"metadata": {"finalizers": null}, "status":
            {"containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 1,
                "finishedAt": at}}}]}}),
        )
    };
    let status = json!({"failed": 2, "ready": 0, "terminating": 0});
    let job = job(json!({"parallelism": 1}), status);
    let pods = [failed("a", "1970-01-01T00:00:10Z"), failed("b", "1970-01-01T00:00:30Z")];
    let early = plan(&job, &pods, 49);
    assert_eq!((early.steps, early.again), (vec![], Some(Time::from_unix(50))));
    assert_eq!(summary(&plan(&job, &pods, 50)), ["+1"]);
    // A success in between starts the count anew.
    let success = pod(
        "c",
        "Succeeded",
        json!({"metadata": {"finalizers": null}, "status":
        {"containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 0,
            "finishedAt": "1970-01-01T00:00:20Z"}}}]}}),
    );
    let [a, b] = pods;
    assert_eq!(summary(&plan(&job, &[a, b, success], 40)), ["+1"]);
}

#[test]
fn indexes() {
    let none = json!({});
    let spec = |more: Value| {
        let mut spec = json!({"completionMode": "Indexed", "parallelism": 3});
        merge(&mut spec, more);
        spec
    };
    let rest = |more: Value| {
        let mut status = json!({"ready": 0, "terminating": 0});
        merge(&mut status, more);
        status
    };
    check(vec![
        ("new", spec(none.clone()), rest(none.clone()), vec![], vec!["+[0,1,2]"]),
        (
            "who succeeds is remembered by index",
            spec(none.clone()),
            rest(json!({"active": 3, "completedIndexes": "0", "succeeded": 1})),
            vec![of_index(1, "Running", none.clone()), of_index(2, "Succeeded", none.clone())],
            vec!["{active:1,completedIndexes:0,2,succeeded:2}", "untrack Succeeded2", "+[3]"],
        ),
        (
            "an index is worked on once",
            spec(none.clone()),
            rest(json!({"active": 3})),
            vec![
                of_index(0, "Running", none.clone()),
                of_index(0, "Pending", none.clone()),
                of_index(7, "Running", none.clone()),
            ],
            vec!["untrack Running7,Pending0", "-Running7", "-Pending0"],
        ),
        (
            "a Job that shrinks forgets",
            spec(json!({"completions": 2, "parallelism": 2})),
            rest(json!({"completedIndexes": "1-3", "succeeded": 3, "active": 1})),
            vec![of_index(0, "Running", none.clone())],
            vec!["{completedIndexes:1,succeeded:1}"],
        ),
        (
            "a success policy",
            spec(json!({"successPolicy": {"rules": [{"succeededIndexes": "0"}]}})),
            rest(json!({"active": 2})),
            vec![of_index(0, "Succeeded", none.clone()), of_index(1, "Running", none.clone())],
            vec![
                "{active:1,completedIndexes:0,conditions:[SuccessCriteriaMet=True SuccessPolicy],\
                 succeeded:1}",
                "untrack Running1,Succeeded0",
                "-Running1",
            ],
        ),
    ]);
}

#[test]
fn limits_per_index() {
    let spec = |more: Value| {
        let mut spec = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2,
            "backoffLimit": 2147483647, "backoffLimitPerIndex": 1});
        merge(&mut spec, more);
        spec
    };
    let status = json!({"active": 1, "ready": 0, "terminating": 0, "failedIndexes": ""});
    let failed = |count: &str| {
        of_index(0, "Failed", json!({"metadata": {"annotations": {backoff::FAILURES: count}}}))
    };
    let running = || {
        of_index(
            1,
            "Running",
            json!({"metadata": {"annotations":
        {backoff::FAILURES: "0"}}}),
        )
    };
    check(vec![
        (
            "the last failure stays until the next pod knows of it",
            spec(json!({})),
            status.clone(),
            vec![failed("0"), running()],
            vec!["+[0:1]"],
        ),
        (
            "then it is counted",
            spec(json!({})),
            json!({"active": 2, "ready": 0, "terminating": 0, "failedIndexes": ""}),
            vec![failed("0"), of_index(0, "Running", json!({})), running()],
            vec!["{uncountedTerminatedPods:{failed:[Failed0]}}", "untrack Failed0"],
        ),
        (
            "an index fails",
            spec(json!({})),
            status.clone(),
            vec![failed("1"), running()],
            vec!["{failedIndexes:0,uncountedTerminatedPods:{failed:[Failed0]}}", "untrack Failed0"],
        ),
        (
            "too many do",
            spec(json!({"maxFailedIndexes": 0})),
            status.clone(),
            vec![failed("1"), running()],
            vec![
                "{conditions:[FailureTarget=True MaxFailedIndexesExceeded],failedIndexes:0,\
                 uncountedTerminatedPods:{failed:[Failed0,Running1]}}",
                "untrack Failed0,Running1",
                "-Running1",
            ],
        ),
        (
            "the others are done",
            spec(json!({})),
            json!({"ready": 0, "terminating": 0, "failedIndexes": "0", "completedIndexes": "1",
                "succeeded": 1}),
            vec![],
            vec![
                "{conditions:[FailureTarget=True FailedIndexes,Failed=True FailedIndexes]}",
                "FailedIndexes Job has failed indexes",
            ],
        ),
    ]);
    let early = plan(&job(spec(json!({})), status), &[failed("0"), running()], 19);
    assert_eq!((early.steps, early.again), (vec![], Some(Time::from_unix(20))));
}

#[test]
fn pods_of_indexes_know_theirs() {
    let plan = plan(&job(json!({"completionMode": "Indexed"}), json!({})), &[], 9);
    let Some(Step::Create(create)) = plan.steps.last() else { panic!("{plan:?}") };
    let pod = &create.object;
    assert_eq!(pod["metadata"]["generateName"], "pi-1-");
    assert_eq!(pod["metadata"]["labels"], json!({"job": "pi", pods::INDEX: "1"}));
    assert_eq!(pod["metadata"]["finalizers"], json!([FINALIZER]));
    assert_eq!(pod["spec"]["hostname"], "pi-1");
    let source = "metadata.labels['batch.kubernetes.io/job-completion-index']";
    let env = json!([{"name": "JOB_COMPLETION_INDEX",
        "valueFrom": {"fieldRef": {"fieldPath": source}}}]);
    assert_eq!(pod["spec"]["containers"][0]["env"], env);
}

#[test]
fn adoption_and_release() {
    let orphan = pod(
        "o",
        "Running",
        json!({"metadata":
        {"ownerReferences": null, "finalizers": null}}),
    );
    let other = pod("r", "Running", json!({"metadata": {"labels": {"job": "other"}}}));
    let status = json!({"active": 1, "ready": 0, "terminating": 0});
    let plan = plan(&job(json!({"parallelism": 1}), status), &[orphan, other], 9);
    assert_eq!(
        summary(&plan)[..2],
        ["release r []".to_string(), format!("adopt o [\"{FINALIZER}\"]"),]
    );
}

#[test]
fn orphans_lose_the_finalizer() {
    let plan = |pod: Value, jobs: &[Value]| {
        let entry = Entry::decode(pod.to_string().into()).unwrap();
        let view = View::default().with::<Pod>(&[pod]).with::<Job>(jobs);
        orphans::Orphans.plan(&entry, &view, Time::from_unix(9)).unwrap().steps
    };
    let owned = json!({"metadata": {"ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job",
        "name": "pi", "uid": "u", "controller": true}]}});
    let owned = || pod("a", "Running", owned.clone());
    let jobs = [job(json!({}), json!({})).value()];
    assert_eq!(plan(owned(), &jobs), []);
    let steps = plan(owned(), &[]);
    assert!(matches!(&steps[..], [Step::Absent(job), Step::Patch(_)] if job.uid == "u"));
    let lone = || pod("a", "Running", json!({"metadata": {"ownerReferences": null}}));
    assert_eq!(plan(lone(), &jobs), [], "the Job adopts it");
    assert_eq!(plan(lone(), &[]).len(), 1);
    let done = pod(
        "a",
        "Running",
        json!({"metadata": {"ownerReferences": null,
        "finalizers": null}}),
    );
    assert_eq!(plan(done, &[]), []);
}
