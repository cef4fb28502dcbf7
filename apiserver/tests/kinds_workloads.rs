//! Workloads beside Deployments and ReplicaSets: what they default to, refuse, and show.

#[path = "kinds/pipeline.rs"]
mod pipeline;

use apiserver::kinds;
use pipeline::{cells, create, refuse, refuse_change, refuse_status, update, with};
use proto::kind::{CRON_JOB, DAEMON_SET, JOB, REPLICATION_CONTROLLER, Row, STATEFUL_SET};
use serde_json::{Value, json};

fn template() -> Value {
    json!({
        "metadata": {"labels": {"app": "a"}},
        "spec": {"containers": [{"name": "c", "image": "i:1"}]},
    })
}

fn workload(row: &Row) -> Value {
    let mut object = json!({
        "apiVersion": row.api_version(), "kind": row.kind,
        "metadata": {"name": "w", "namespace": "n", "uid": "u-1"},
        "spec": {"template": template()},
    });
    match &*row.kind {
        "DaemonSet" | "StatefulSet" => {
            object["spec"]["selector"] = json!({"matchLabels": {"app": "a"}});
        }
        "Job" => object["spec"]["template"]["spec"]["restartPolicy"] = json!("Never"),
        _ => {}
    }
    object
}

fn indexed() -> Value {
    let mut job = workload(&JOB);
    job["spec"]["completionMode"] = json!("Indexed");
    job["spec"]["completions"] = json!(3);
    job
}

fn cron_job() -> Value {
    let mut template = template();
    template["spec"]["restartPolicy"] = json!("OnFailure");
    json!({
        "apiVersion": "batch/v1", "kind": "CronJob",
        "metadata": {"name": "c", "namespace": "n"},
        "spec": {"schedule": "0 3 * * *", "jobTemplate": {"spec": {"template": template}}},
    })
}

/// The object with its defaults, without the pods' own.
fn defaulted(row: &Row, object: Value, template: &str) -> Value {
    let (mut object, errors) = create(row, object);
    assert_eq!(errors, Vec::<String>::new());
    let again = object.clone();
    kinds::strategy(row).default(&mut object);
    assert_eq!(object, again, "idempotent");
    let pods = object.pointer(&format!("{template}/spec")).unwrap();
    assert_eq!(pods["dnsPolicy"], "ClusterFirst");
    assert_eq!(pods["containers"][0]["imagePullPolicy"], "IfNotPresent");
    with(&object, &[(template, Value::Null)])
}

#[test]
fn defaults() {
    let controller =
        defaulted(&REPLICATION_CONTROLLER, workload(&REPLICATION_CONTROLLER), "/spec/template");
    assert_eq!(controller["spec"], json!({"replicas": 1, "selector": {"app": "a"}}));
    assert_eq!(controller["metadata"]["labels"], json!({"app": "a"}));
    assert_eq!(controller["status"], json!({"replicas": 0}));

    let daemons = defaulted(&DAEMON_SET, workload(&DAEMON_SET), "/spec/template");
    assert_eq!(
        daemons["spec"],
        json!({
            "revisionHistoryLimit": 10, "selector": {"matchLabels": {"app": "a"}},
            "updateStrategy": {
                "type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1},
            },
        })
    );
    assert_eq!(
        daemons["metadata"]["annotations"],
        json!({"deprecated.daemonset.template.generation": "1"})
    );

    let mut set = workload(&STATEFUL_SET);
    set["spec"]["volumeClaimTemplates"] = json!([{
        "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    }]);
    assert_eq!(
        defaulted(&STATEFUL_SET, set, "/spec/template")["spec"],
        json!({
            "persistentVolumeClaimRetentionPolicy": {
                "whenDeleted": "Retain", "whenScaled": "Retain",
            },
            "podManagementPolicy": "OrderedReady", "replicas": 1, "revisionHistoryLimit": 10,
            "selector": {"matchLabels": {"app": "a"}}, "serviceName": "",
            "updateStrategy": {
                "type": "RollingUpdate", "rollingUpdate": {"partition": 0},
            },
            "volumeClaimTemplates": [{
                "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
                "spec": {
                    "accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": "1Gi"}}, "volumeMode": "Filesystem",
                },
                "status": {"phase": "Pending"},
            }],
        })
    );

    let job = defaulted(&JOB, workload(&JOB), "/spec/template");
    assert_eq!(
        job["spec"],
        json!({
            "backoffLimit": 6, "completionMode": "NonIndexed", "completions": 1,
            "manualSelector": false, "parallelism": 1,
            "podReplacementPolicy": "TerminatingOrFailed",
            "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": "u-1"}},
            "suspend": false,
        })
    );
    assert_eq!(job["metadata"]["labels"], json!({"app": "a"}));
    let (job, _) = create(&JOB, workload(&JOB));
    assert_eq!(
        job["spec"]["template"]["metadata"]["labels"],
        json!({
            "app": "a", "batch.kubernetes.io/controller-uid": "u-1",
            "batch.kubernetes.io/job-name": "w", "controller-uid": "u-1", "job-name": "w",
        })
    );

    let cron = defaulted(&CRON_JOB, cron_job(), "/spec/jobTemplate/spec/template");
    assert_eq!(
        cron["spec"],
        json!({
            "concurrencyPolicy": "Allow", "failedJobsHistoryLimit": 1,
            "jobTemplate": {"metadata": {}, "spec": {}}, "schedule": "0 3 * * *",
            "successfulJobsHistoryLimit": 3, "suspend": false,
        })
    );
}

#[test]
fn defaults_of_jobs_that_depend_on_other_fields() {
    let cases = [
        (json!({"parallelism": 2}), "completions", Value::Null),
        (json!({"completions": 2}), "parallelism", json!(1)),
        (
            json!({"completionMode": "Indexed", "completions": 2, "backoffLimitPerIndex": 1}),
            "backoffLimit",
            json!(i32::MAX),
        ),
        (
            json!({"podFailurePolicy": {"rules": [
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
            ]}}),
            "podReplacementPolicy",
            json!("Failed"),
        ),
    ];
    for (spec, field, expected) in cases {
        let mut job = workload(&JOB);
        job["spec"].as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        let (job, errors) = create(&JOB, job);
        assert_eq!(errors, Vec::<String>::new());
        assert_eq!(job["spec"][field], expected, "{spec}");
    }
}

#[test]
fn generations() {
    for row in [&REPLICATION_CONTROLLER, &DAEMON_SET, &STATEFUL_SET, &JOB] {
        let (old, _) = create(row, workload(row));
        let (new, _) = update(row, &old, with(&old, &[("/spec/minReadySeconds", json!(5))]));
        let expected = if row.kind == "Job" { 1 } else { 2 };
        assert_eq!(new["metadata"]["generation"], expected, "{}", row.kind);
        let (same, _) = update(row, &old, with(&old, &[("/metadata/labels", json!({"a": "b"}))]));
        assert_eq!(same["metadata"]["generation"], 1, "{}", row.kind);
    }
    let (old, _) = create(&DAEMON_SET, workload(&DAEMON_SET));
    let image = ("/spec/template/spec/containers/0/image", json!("i:2"));
    let changed = with(&old, &[image, ("/metadata/annotations", json!({"a": "b"}))]);
    let (new, _) = update(&DAEMON_SET, &old, changed);
    assert_eq!(
        new["metadata"]["annotations"],
        json!({"a": "b", "deprecated.daemonset.template.generation": "2"})
    );
}

#[test]
fn templates_and_selectors() {
    let mismatch = "spec.template.metadata.labels: Invalid value: {\"app\":\"b\"}: `selector` does \
                    not match template `labels`";
    for (row, kind, empty) in [
        (&DAEMON_SET, "DaemonSet", "empty selector is invalid for daemonset"),
        (&STATEFUL_SET, "StatefulSet", "empty selector is invalid for statefulset"),
    ] {
        let empty = format!("spec.selector: Invalid value: {{}}: {empty}");
        let deadline = format!(
            "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in {kind} \
             is not Supported"
        );
        let cases: [(&str, Value, &str); 4] = [
            ("/spec/selector", json!({}), &empty),
            ("/spec/template/metadata/labels", json!({"app": "b"}), mismatch),
            ("/spec/template/spec/activeDeadlineSeconds", json!(1), &deadline),
            (
                "/spec/template/spec/restartPolicy",
                json!("Never"),
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \
                 \"Always\"",
            ),
        ];
        for (pointer, value, expected) in cases {
            let (_, errors) = create(row, with(&workload(row), &[(pointer, value)]));
            assert_eq!(errors, [expected], "{kind}");
        }
    }
    refuse(
        &REPLICATION_CONTROLLER,
        &workload(&REPLICATION_CONTROLLER),
        &[
            (
                "/spec/replicas",
                json!(-1),
                &["spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
            ),
            (
                "/spec/selector",
                json!({"app": "b"}),
                &[
                    "spec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: `selector` does \
                 not match template `labels`",
                ],
            ),
            ("/spec/template/metadata/labels", Value::Null, &["spec.selector: Required value"]),
            (
                "/spec/template",
                Value::Null,
                &["spec.selector: Required value", "spec.template: Required value"],
            ),
            (
                "/spec/template/spec/containers",
                json!([]),
                &["spec.template.spec.containers: Required value"],
            ),
        ],
    );
}

#[test]
fn update_strategies() {
    let daemons = workload(&DAEMON_SET);
    let rolling = |fields: Value| json!({"rollingUpdate": fields});
    refuse(
        &DAEMON_SET,
        &daemons,
        &[
            (
                "/spec/updateStrategy",
                json!({"type": "Sometimes"}),
                &["spec.updateStrategy.type: Unsupported value: \"Sometimes\": supported values: \
             \"RollingUpdate\", \"OnDelete\""],
            ),
            (
                "/spec/updateStrategy",
                rolling(json!({"maxSurge": 1})),
                &[
                    "spec.updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when \
             maxUnavailable is non-zero",
                ],
            ),
            (
                "/spec/updateStrategy",
                rolling(json!({"maxUnavailable": 0})),
                &[
                    "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when \
             maxSurge is 0",
                ],
            ),
            (
                "/spec/updateStrategy",
                rolling(json!({"maxUnavailable": "101%"})),
                &[
                    "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not \
             be greater than 100%",
                ],
            ),
        ],
    );
    refuse(
        &STATEFUL_SET,
        &workload(&STATEFUL_SET),
        &[
            (
                "/metadata/name",
                json!("a.b"),
                &[
                    "metadata.name: Invalid value: \"a.b\": a lowercase RFC 1123 label must consist of \
             lower case alphanumeric characters or '-', and must start and end with an \
             alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
             '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                ],
            ),
            (
                "/spec/podManagementPolicy",
                json!("Any"),
                &["spec.podManagementPolicy: Invalid value: \"Any\": must be 'OrderedReady' or \
             'Parallel'"],
            ),
            (
                "/spec/updateStrategy",
                json!({"type": "OnDelete", "rollingUpdate": {"partition": 1}}),
                &[
                    "spec.updateStrategy.rollingUpdate: Invalid value: {\"partition\":1}: only allowed for \
             updateStrategy 'RollingUpdate'",
                ],
            ),
            (
                "/spec/updateStrategy",
                rolling(json!({"partition": -1})),
                &[
                    "spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than \
             or equal to 0",
                ],
            ),
            (
                "/spec/updateStrategy",
                rolling(json!({"maxUnavailable": 0})),
                &[
                    "spec.updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0",
                ],
            ),
            (
                "/spec/persistentVolumeClaimRetentionPolicy",
                json!({"whenScaled": "Keep"}),
                &[
                    "spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: \"Keep\": \
             supported values: \"Retain\", \"Delete\"",
                ],
            ),
            (
                "/spec/ordinals",
                json!({"start": -1}),
                &["spec.ordinals.start: Invalid value: -1: must be greater than or equal to 0"],
            ),
        ],
    );
}

#[test]
fn what_may_not_change() {
    const FORBIDDEN: &[&str] =
        &["spec: Forbidden: updates to statefulset spec for fields other than \
                     'replicas', 'ordinals', 'template', 'updateStrategy', \
                     'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                     'minReadySeconds' are forbidden"];
    refuse_change(
        &STATEFUL_SET,
        &workload(&STATEFUL_SET),
        &[
            ("/spec/replicas", json!(3), &[]),
            ("/spec/serviceName", json!("s"), FORBIDDEN),
            ("/spec/podManagementPolicy", json!("Parallel"), FORBIDDEN),
        ],
    );
    refuse_change(
        &DAEMON_SET,
        &workload(&DAEMON_SET),
        &[(
            "/spec/selector",
            json!({"matchExpressions": [{"key": "app", "operator": "Exists"}]}),
            &[
                "spec.selector: Invalid value: {\"matchExpressions\":[{\"key\":\"app\",\"operator\":\
           \"Exists\"}]}: field is immutable",
            ],
        )],
    );
    refuse_change(
        &JOB,
        &workload(&JOB),
        &[
            ("/spec/parallelism", json!(3), &[]),
            (
                "/spec/completions",
                json!(3),
                &["spec.completions: Invalid value: 3: field is immutable"],
            ),
            (
                "/spec/backoffLimitPerIndex",
                json!(1),
                &[
                    "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode",
                    "spec.backoffLimitPerIndex: Invalid value: 1: field is immutable",
                ],
            ),
        ],
    );
    refuse_change(
        &JOB,
        &indexed(),
        &[(
            "/spec/completions",
            json!(5),
            &[
                "spec.completions: Invalid value: 5: can only be modified in tandem with spec.parallelism",
            ],
        )],
    );
    let (job, _) = create(&JOB, indexed());
    let scaled = [("/spec/completions", json!(5)), ("/spec/parallelism", json!(5))];
    assert_eq!(update(&JOB, &job, with(&job, &scaled)).1, Vec::<String>::new());
}

#[test]
fn directives_of_suspended_jobs() {
    let directives = [
        ("/spec/template/spec/nodeSelector", json!({"a": "b"})),
        ("/spec/template/spec/tolerations", json!([{"operator": "Exists"}])),
        ("/spec/template/spec/containers/0/resources", json!({"requests": {"cpu": "2"}})),
        ("/spec/template/metadata/annotations", json!({"a": "b"})),
        (
            "/spec/template/spec/affinity",
            json!({"nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                    {"matchExpressions": [{"key": "a", "operator": "Exists"}]},
                ]},
            }}),
        ),
    ];
    let image = [("/spec/template/spec/containers/0/image", json!("i:2"))];
    for suspended in [true, false] {
        let (job, _) = create(&JOB, with(&workload(&JOB), &[("/spec/suspend", json!(suspended))]));
        let refused = |changes: &[(&str, Value)]| {
            let (_, errors) = update(&JOB, &job, with(&job, changes));
            assert!(errors.iter().all(|error| error.ends_with("field is immutable")), "{errors:?}");
            !errors.is_empty()
        };
        for change in &directives {
            assert_eq!(refused(std::slice::from_ref(change)), !suspended, "{change:?}");
        }
        assert!(refused(&image));
    }
    let job = with(&workload(&JOB), &[("/spec/suspend", json!(true))]);
    let (job, _) = create(&JOB, job);
    let running = with(&job, &[("/status/startTime", json!("2024-01-01T00:00:00Z"))]);
    let (_, errors) = update(&JOB, &running, with(&running, &directives[..1]));
    assert_eq!(errors.len(), 1, "it has begun");
    let stopped = json!([{"type": "Suspended", "status": "True"}]);
    let stopped = with(&running, &[("/status/conditions", stopped)]);
    let (_, errors) = update(&JOB, &stopped, with(&stopped, &directives[..1]));
    assert_eq!(errors, Vec::<String>::new());
    let ending = with(&stopped, &[("/status/active", json!(1))]);
    let (_, errors) = update(&JOB, &ending, with(&ending, &directives[..1]));
    assert_eq!(errors.len(), 1, "pods of the old template are still there");
}

#[test]
fn jobs() {
    refuse(
        &JOB,
        &workload(&JOB),
        &[
            (
                "/spec/template/spec/restartPolicy",
                Value::Null,
                &[
                    "spec.template.spec.restartPolicy: Required value: valid values: [\"OnFailure\" \
             \"Never\"]",
                ],
            ),
            (
                "/spec/parallelism",
                json!(-1),
                &["spec.parallelism: Invalid value: -1: must be greater than or equal to 0"],
            ),
            ("/spec/completionMode", json!("Indexed"), &[]),
            (
                "/spec/successPolicy",
                json!({"rules": [{"succeededCount": 1}]}),
                &[
                    "spec.successPolicy: Invalid value: {\"rules\":[{\"succeededCount\":1}]}: requires \
             indexed completion mode",
                ],
            ),
            (
                "/spec/maxFailedIndexes",
                json!(1),
                &[
                    "spec.backoffLimitPerIndex: Required value: when maxFailedIndexes is specified",
                    "spec.maxFailedIndexes: Invalid value: 1: requires indexed completion mode",
                ],
            ),
            (
                "/spec/managedBy",
                json!("me"),
                &[
                    "spec.managedBy: Invalid value: \"me\": must be a domain-prefixed path (such as \
             \"acme.io/foo\")",
                ],
            ),
            (
                "/spec/podReplacementPolicy",
                json!("Never"),
                &["spec.podReplacementPolicy: Unsupported value: \"Never\": supported values: \
             \"Failed\", \"TerminatingOrFailed\""],
            ),
            (
                "/spec/manualSelector",
                json!(true),
                &[
                    "spec.selector: Required value",
                    "spec.template.metadata.labels: Invalid value: {\"app\":\"a\"}: `selector` does not \
             match template `labels`",
                ],
            ),
            (
                "/spec/template/metadata/labels",
                json!({"job-name": "other"}),
                &["spec.template.metadata.labels[job-name]: Invalid value: \
             {\"batch.kubernetes.io/controller-uid\":\"u-1\",\"batch.kubernetes.io/job-name\":\
             \"w\",\"controller-uid\":\"u-1\",\"job-name\":\"other\"}: must be 'w'"],
            ),
            (
                "/spec/selector",
                json!({"matchLabels": {"app": "a"}}),
                &["spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"a\",\
             \"batch.kubernetes.io/controller-uid\":\"u-1\"}}: `selector` not auto-generated"],
            ),
        ],
    );
    refuse(
        &JOB,
        &indexed(),
        &[
            (
                "/spec/parallelism",
                json!(100_001),
                &[
                    "spec.parallelism: Invalid value: 100001: must be less than or equal to 100000 when \
             completion mode is Indexed",
                ],
            ),
            (
                "/metadata/name",
                json!("w.x"),
                &[
                    "metadata.name: Invalid value: \"w.x\": will not able to create pod with invalid DNS \
             label: w.x-2",
                ],
            ),
            (
                "/spec/successPolicy",
                json!({"rules": []}),
                &[
                    "spec.successPolicy.rules: Required value: at least one rules must be specified when \
             the successPolicy is specified",
                ],
            ),
            (
                "/spec/successPolicy",
                json!({"rules": [{}, {"succeededCount": 4}, {
            "succeededIndexes": "0-1", "succeededCount": 3,
        }, {"succeededIndexes": "3"}]}),
                &[
                    "spec.successPolicy.rules[0]: Required value: at least one of succeededCount or \
             succeededIndexes must be specified",
                    "spec.successPolicy.rules[1].succeededCount: Invalid value: 4: must be less than or \
             equal to 3 (the number of specified completions)",
                    "spec.successPolicy.rules[2].succeededCount: Invalid value: 3: must be less than or \
             equal to 2 (the number of indexes in the specified succeededIndexes field)",
                    "spec.successPolicy.rules[3].succeededIndexes: Invalid value: \"3\": error parsing \
             succeededIndexes: too large index: \"3\"",
                ],
            ),
        ],
    );
}

#[test]
fn pod_failure_policies() {
    let rules = |rules: Value| json!({"rules": rules});
    refuse(
        &JOB,
        &workload(&JOB),
        &[
            (
                "/spec/podFailurePolicy",
                rules(json!([{"action": "FailJob", "onExitCodes": {
                    "containerName": "c", "operator": "In", "values": [1, 2],
                }}])),
                &[],
            ),
            (
                "/spec/podFailurePolicy",
                rules(json!([{"action": "FailJob"}, {"action": "FailIndex",
                    "onExitCodes": {"operator": "In", "values": [0, 2, 1, 2], "containerName": "x"},
                    "onPodConditions": [{"type": "a b"}],
                }])),
                &[
                    "spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and \
             OnPodConditions is required",
                    "spec.podFailurePolicy.rules[1].action: Invalid value: \"FailIndex\": requires the \
             backoffLimitPerIndex to be set",
                    "spec.podFailurePolicy.rules[1].onExitCodes.containerName: Invalid value: \"x\": must \
             be one of the container or initContainer names in the pod template",
                    "spec.podFailurePolicy.rules[1].onExitCodes.values[0]: Invalid value: 0: must not be \
             0 for the In operator",
                    "spec.podFailurePolicy.rules[1].onExitCodes.values[3]: Duplicate value: 2",
                    "spec.podFailurePolicy.rules[1].onExitCodes.values: Invalid value: [0,2,1,2]: must be \
             ordered",
                    "spec.podFailurePolicy.rules[1].onPodConditions[0].type: Invalid value: \"a b\": name \
             part must consist of alphanumeric characters, '-', '_' or '.', and must start and \
             end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', \
             regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                    "spec.podFailurePolicy.rules[1]: Invalid value: specifying both OnExitCodes and \
             OnPodConditions is not supported",
                ],
            ),
        ],
    );
    let job = with(&workload(&JOB), &[("/spec/template/spec/restartPolicy", json!("OnFailure"))]);
    refuse(
        &JOB,
        &job,
        &[(
            "/spec/podFailurePolicy",
            rules(json!([])),
            &["spec.template.spec.restartPolicy: Invalid value: \"OnFailure\": only \"Never\" is \
         supported when podFailurePolicy is specified"],
        )],
    );
}

#[test]
fn statuses() {
    let mut set = workload(&STATEFUL_SET);
    set["status"] = json!({"replicas": 2, "readyReplicas": 1, "collisionCount": 1});
    refuse_status(
        &STATEFUL_SET,
        &set,
        &[
            (
                "/status/currentReplicas",
                json!(3),
                &[
                    "status.currentReplicas: Invalid value: 3: cannot be greater than status.replicas",
                ],
            ),
            (
                "/status/availableReplicas",
                json!(2),
                &["status.availableReplicas: Invalid value: 2: cannot be greater than \
             status.readyReplicas"],
            ),
            (
                "/status/collisionCount",
                json!(0),
                &["status.collisionCount: Invalid value: 0: cannot be decremented"],
            ),
        ],
    );
    let mut daemons = workload(&DAEMON_SET);
    daemons["status"] = json!({});
    refuse_status(
        &DAEMON_SET,
        &daemons,
        &[(
            "/status/numberReady",
            json!(-1),
            &["status.numberReady: Invalid value: -1: must be greater than or equal to 0"],
        )],
    );
    let mut controller = workload(&REPLICATION_CONTROLLER);
    controller["status"] = json!({"replicas": 1});
    refuse_status(
        &REPLICATION_CONTROLLER,
        &controller,
        &[(
            "/status/readyReplicas",
            json!(2),
            &["status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas"],
        )],
    );
    let condition = |kind: &str| json!({"type": kind, "status": "True"});
    let (mut job, _) = create(&JOB, workload(&JOB));
    job["status"] = json!({"failed": 2, "startTime": "2024-01-01T00:00:00Z", "active": 1});
    let done = json!([condition("SuccessCriteriaMet"), condition("Complete")]);
    refuse_status(
        &JOB,
        &job,
        &[
            (
                "/status/failed",
                json!(1),
                &["status.failed: Invalid value: 1: cannot decrease the failed counter"],
            ),
            (
                "/status/ready",
                json!(2),
                &["status.ready: Invalid value: 2: cannot set more ready pods than active"],
            ),
            (
                "/status/conditions",
                done.clone(),
                &[
                    "status.active: Invalid value: 1: active>0 is invalid for finished job",
                    "status.completionTime: Required value: completionTime is required for Complete jobs",
                ],
            ),
            (
                "/status/conditions",
                json!([condition("Failed")]),
                &[
                    "status.conditions: Invalid value: cannot set Failed=True condition without the \
             FailureTarget=true condition",
                    "status.active: Invalid value: 1: active>0 is invalid for finished job",
                ],
            ),
            (
                "/status/completionTime",
                json!("2023-01-01T00:00:00Z"),
                &[
                    "status.completionTime: Invalid value: \"2023-01-01T00:00:00Z\": cannot set \
             completionTime when there is no Complete=True condition",
                    "status.completionTime: Invalid value: \"2023-01-01T00:00:00Z\": completionTime cannot \
             be set before startTime",
                ],
            ),
            (
                "/status/startTime",
                Value::Null,
                &[
                    "status.startTime: Required value: startTime cannot be removed for unsuspended job",
                ],
            ),
            (
                "/status/completedIndexes",
                json!("0"),
                &[
                    "status.completedIndexes: Invalid value: \"0\": cannot set non-empty completedIndexes \
             when non-indexed completion mode",
                ],
            ),
            (
                "/status/uncountedTerminatedPods",
                json!({"succeeded": ["a"], "failed": ["a", ""]}),
                &[
                    "status.uncountedTerminatedPods.failed[0]: Duplicate value: \"a\"",
                    "status.uncountedTerminatedPods.failed[1]: Invalid value: \"\": must not be empty",
                ],
            ),
        ],
    );
    // One that is resumed starts anew.
    job["status"] = json!({"startTime": "2024-01-01T00:00:00Z",
        "conditions": [condition("Suspended")]});
    let resumed = json!({"startTime": "2024-01-01T00:00:09Z",
        "conditions": [{"type": "Suspended", "status": "False"}]});
    refuse_status(&JOB, &job, &[("/status", resumed, &[])]);
    job["status"] = json!({"startTime": "2024-01-01T00:00:00Z",
        "completionTime": "2024-01-01T00:00:09Z", "succeeded": 1, "conditions": done});
    refuse_status(
        &JOB,
        &job,
        &[(
            "/status/conditions",
            json!([condition("Complete")]),
            &[
                "status.conditions: Invalid value: cannot disable the SuccessCriteriaMet=True condition",
            ],
        )],
    );
    assert_eq!(
        cells(&JOB, &job, 1_704_067_300),
        "w|Complete|1/1|9s|<unknown>|c|i:1|batch.kubernetes.io/controller-uid=u-1"
    );
}

#[test]
fn cron_jobs() {
    let long = "c".repeat(53);
    let too_long =
        format!("metadata.name: Invalid value: \"{long}\": must be no more than 52 characters");
    let (_, errors) = create(&CRON_JOB, with(&cron_job(), &[("/metadata/name", json!(long))]));
    assert_eq!(errors, [too_long]);
    refuse(
        &CRON_JOB,
        &cron_job(),
        &[
            ("/spec/schedule", json!(""), &["spec.schedule: Required value"]),
            (
                "/spec/schedule",
                json!("61 * * * *"),
                &[
                    "spec.schedule: Invalid value: \"61 * * * *\": end of range (61) above maximum (59): \
             61",
                ],
            ),
            (
                "/spec/schedule",
                json!("CRON_TZ=UTC * * * * *"),
                &[
                    "spec.schedule: Invalid value: \"CRON_TZ=UTC * * * * *\": cannot use TZ or CRON_TZ in \
             schedule, use timeZone field instead",
                ],
            ),
            ("/spec/timeZone", json!("UTC"), &[]),
            (
                "/spec/timeZone",
                json!("Europe/Pariss"),
                &[
                    "spec.timeZone: Invalid value: \"Europe/Pariss\": unknown time zone Europe/Pariss",
                ],
            ),
            (
                "/spec/timeZone",
                json!(""),
                &["spec.timeZone: Invalid value: \"\": timeZone must be nil or non-empty string"],
            ),
            (
                "/spec/timeZone",
                json!("Local"),
                &[
                    "spec.timeZone: Invalid value: \"Local\": timeZone must be an explicit time zone as \
             defined in https://www.iana.org/time-zones",
                ],
            ),
            (
                "/spec/concurrencyPolicy",
                json!("Maybe"),
                &[
                    "spec.concurrencyPolicy: Unsupported value: \"Maybe\": supported values: \"Allow\", \
             \"Forbid\", \"Replace\"",
                ],
            ),
            (
                "/spec/startingDeadlineSeconds",
                json!(-1),
                &[
                    "spec.startingDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0",
                ],
            ),
            (
                "/spec/jobTemplate/spec/selector",
                json!({"matchLabels": {"a": "b"}}),
                &[
                    "spec.jobTemplate.spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\"}}: \
             `selector` will be auto-generated",
                ],
            ),
            (
                "/spec/jobTemplate/spec/manualSelector",
                json!(true),
                &[
                    "spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: \
             \"nil\", \"false\"",
                ],
            ),
        ],
    );
    let (mut old, _) = create(&CRON_JOB, cron_job());
    old["spec"]["schedule"] = json!("TZ=UTC 0 0 * * *");
    assert_eq!(update(&CRON_JOB, &old, old.clone()).1, Vec::<String>::new());
    let (_, errors) = update(&CRON_JOB, &old, with(&old, &[("/spec/timeZone", json!("UTC"))]));
    assert_eq!(
        errors,
        ["spec.schedule: Invalid value: \"TZ=UTC 0 0 * * *\": cannot use both \
                         timeZone field and TZ or CRON_TZ in schedule"]
    );
}

#[test]
fn tables() {
    let shown = |row: &Row, object: Value, status: Value| {
        let (mut object, _) = create(row, object);
        object["status"] = status;
        object["metadata"]["creationTimestamp"] = json!("1970-01-01T00:00:00Z");
        cells(row, &object, 60)
    };
    let controller = workload(&REPLICATION_CONTROLLER);
    assert_eq!(
        shown(&REPLICATION_CONTROLLER, controller, json!({"replicas": 1, "readyReplicas": 1})),
        "w|1|1|1|60s|c|i:1|app=a"
    );
    let counts = json!({"desiredNumberScheduled": 5, "currentNumberScheduled": 4,
        "numberReady": 3, "updatedNumberScheduled": 2, "numberAvailable": 1});
    assert_eq!(
        shown(&DAEMON_SET, workload(&DAEMON_SET), counts),
        "w|5|4|3|2|1|<none>|60s|c|i:1|app=a"
    );
    let ready = json!({"readyReplicas": 1});
    assert_eq!(shown(&STATEFUL_SET, workload(&STATEFUL_SET), ready), "w|1/1|60s|c|i:1");
    let begun = json!({"startTime": "1970-01-01T00:00:10Z"});
    let selector = "batch.kubernetes.io/controller-uid=u-1";
    assert_eq!(
        shown(&JOB, workload(&JOB), begun),
        format!("w|Running|0/1|50s|60s|c|i:1|{selector}")
    );
    let queue = with(&workload(&JOB), &[("/spec/parallelism", json!(3))]);
    let suspended = json!({"conditions": [{"type": "Suspended", "status": "True"}]});
    assert_eq!(
        shown(&JOB, queue, suspended),
        format!("w|Suspended|0/1 of 3||60s|c|i:1|{selector}")
    );
    assert_eq!(
        shown(&CRON_JOB, cron_job(), json!({"lastScheduleTime": "1970-01-01T00:00:30Z"})),
        "c|0 3 * * *|<none>|False|0|30s|60s|c|i:1|<none>"
    );
}
