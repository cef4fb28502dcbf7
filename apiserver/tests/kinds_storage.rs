//! Volumes, claims, budgets, limits, quotas and autoscalers: what they default to, refuse, show.

#[path = "http/api.rs"]
mod api;
#[path = "kinds/pipeline.rs"]
mod pipeline;

use api::Api;
use pipeline::{cells, create, refuse, refuse_change, refuse_status, update, with};
use proto::kind::{
    HORIZONTAL_POD_AUTOSCALER, LIMIT_RANGE, PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM,
    POD_DISRUPTION_BUDGET, RESOURCE_QUOTA, Row,
};
use serde_json::{Value, json};

fn object(row: &Row, spec: Value) -> Value {
    let mut metadata = json!({"name": "x"});
    if row.namespaced {
        metadata["namespace"] = json!("n");
    }
    json!({
        "apiVersion": row.api_version(), "kind": row.kind, "metadata": metadata, "spec": spec,
    })
}

fn volume() -> Value {
    object(
        &PERSISTENT_VOLUME,
        json!({
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": "/data"},
        }),
    )
}

fn claim() -> Value {
    object(
        &PERSISTENT_VOLUME_CLAIM,
        json!({
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
        }),
    )
}

fn budget() -> Value {
    object(
        &POD_DISRUPTION_BUDGET,
        json!({
            "minAvailable": 1, "selector": {"matchLabels": {"app": "a"}},
        }),
    )
}

fn limits(limit: Value) -> Value {
    object(&LIMIT_RANGE, json!({ "limits": [limit] }))
}

fn quota() -> Value {
    object(&RESOURCE_QUOTA, json!({"hard": {"pods": "3", "limits.cpu": "2"}}))
}

fn autoscaler() -> Value {
    object(
        &HORIZONTAL_POD_AUTOSCALER,
        json!({
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"},
            "maxReplicas": 5,
        }),
    )
}

#[test]
fn volumes() {
    let (made, errors) = create(&PERSISTENT_VOLUME, volume());
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(
        made["spec"],
        json!({
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": "/data", "type": ""},
            "persistentVolumeReclaimPolicy": "Retain", "volumeMode": "Filesystem",
        })
    );
    let phase = json!({"phase": "Pending", "lastPhaseTransitionTime": "1970-01-01T00:00:00Z"});
    assert_eq!(made["status"], phase);
    assert_eq!(made["metadata"].get("generation"), None);
    refuse(
        &PERSISTENT_VOLUME,
        &volume(),
        &[
            ("/spec/hostPath", Value::Null, &["spec: Required value: must specify a volume type"]),
            (
                "/spec/nfs",
                json!({"server": "s", "path": "/p"}),
                &["spec.nfs: Forbidden: may not specify more than 1 volume type"],
            ),
            (
                "/spec/capacity",
                json!({}),
                &[
                    "spec.capacity: Required value",
                    "spec.capacity: Unsupported value: null: supported values: \"storage\"",
                ],
            ),
            (
                "/spec/capacity",
                json!({"storage": "0"}),
                &["spec.capacity[storage]: Invalid value: \"0\": must be greater than zero"],
            ),
            ("/spec/accessModes", json!([]), &["spec.accessModes: Required value"]),
            (
                "/spec/accessModes",
                json!(["ReadWriteOncePod", "ReadWriteOnce"]),
                &[
                    "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
                ],
            ),
            (
                "/spec/persistentVolumeReclaimPolicy",
                json!("Keep"),
                &[
                    "spec.persistentVolumeReclaimPolicy: Unsupported value: \"Keep\": supported values: \
             \"Delete\", \"Recycle\", \"Retain\"",
                ],
            ),
            (
                "/spec/volumeMode",
                json!("Raw"),
                &["spec.volumeMode: Unsupported value: \"Raw\": supported values: \"Block\", \
             \"Filesystem\""],
            ),
        ],
    );
    let local =
        with(&volume(), &[("/spec/hostPath", Value::Null), ("/spec/local", json!({"path": "/d"}))]);
    let (_, errors) = create(&PERSISTENT_VOLUME, local);
    let missing = "spec.nodeAffinity: Required value: Local volume requires node affinity";
    assert_eq!(errors, [missing]);
    refuse_change(
        &PERSISTENT_VOLUME,
        &volume(),
        &[
            ("/spec/capacity", json!({"storage": "2Gi"}), &[]),
            (
                "/spec/hostPath",
                json!({"path": "/other"}),
                &[
                    "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable \
             after creation",
                ],
            ),
            (
                "/spec/volumeMode",
                json!("Block"),
                &["spec.volumeMode: Invalid value: \"Block\": field is immutable"],
            ),
        ],
    );
    let bound = with(
        &made,
        &[
            ("/status/phase", json!("Bound")),
            ("/spec/claimRef", json!({"namespace": "n", "name": "c"})),
        ],
    );
    assert_eq!(
        cells(&PERSISTENT_VOLUME, &bound, 0),
        "x|1Gi|RWO|Retain|Bound|n/c||<unset>||<unknown>|Filesystem"
    );
}

#[test]
fn claims() {
    let (made, errors) = create(&PERSISTENT_VOLUME_CLAIM, claim());
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(made["spec"]["volumeMode"], "Filesystem");
    assert_eq!(made["status"], json!({"phase": "Pending"}));
    refuse(
        &PERSISTENT_VOLUME_CLAIM,
        &claim(),
        &[
            (
                "/spec/accessModes",
                json!([]),
                &["spec.accessModes: Required value: at least one access mode is required"],
            ),
            (
                "/spec/accessModes",
                json!(["Any"]),
                &[
                    "spec.accessModes: Unsupported value: \"Any\": supported values: \"ReadOnlyMany\", \
             \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
                ],
            ),
            ("/spec/resources", json!({}), &["spec.resources[storage]: Required value"]),
            (
                "/spec/dataSource",
                json!({"kind": "Pod", "name": "p"}),
                &[
                    "spec.dataSource: Invalid value: \"Pod\": must be 'PersistentVolumeClaim' when \
             referencing the default apiGroup",
                    "spec.dataSourceRef: Invalid value: \"Pod\": must be 'PersistentVolumeClaim' when \
             referencing the default apiGroup",
                ],
            ),
        ],
    );
    const FIXED: &str = "spec: Forbidden: spec is immutable after creation except \
                         resources.requests and volumeAttributesClassName for bound claims";
    refuse_change(
        &PERSISTENT_VOLUME_CLAIM,
        &claim(),
        &[
            ("/spec/volumeName", json!("pv"), &[]),
            ("/spec/storageClassName", json!("fast"), &[]),
            ("/spec/volumeAttributesClassName", json!("gold"), &[]),
            ("/spec/accessModes", json!(["ReadWriteMany"]), &[FIXED]),
            ("/spec/resources/requests", json!({"storage": "2Gi"}), &[FIXED]),
        ],
    );
    let bound = with(
        &made,
        &[
            ("/spec/volumeName", json!("pv")),
            (
                "/status",
                json!({
                    "phase": "Bound", "capacity": {"storage": "1Gi"},
                    "accessModes": ["ReadWriteMany", "ReadWriteOnce"],
                }),
            ),
        ],
    );
    let resized = |size: &str| {
        let size = ("/spec/resources/requests/storage", json!(size));
        update(&PERSISTENT_VOLUME_CLAIM, &bound, with(&bound, &[size])).1
    };
    assert_eq!(resized("2Gi"), Vec::<String>::new());
    assert_eq!(
        resized("1Mi"),
        ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]
    );
    let growing = with(&bound, &[("/spec/resources/requests/storage", json!("3Gi"))]);
    let taken_back = |size: &str| {
        let size = ("/spec/resources/requests/storage", json!(size));
        update(&PERSISTENT_VOLUME_CLAIM, &growing, with(&growing, &[size])).1
    };
    assert_eq!(taken_back("2Gi"), Vec::<String>::new());
    assert_eq!(
        taken_back("1Gi"),
        ["spec.resources.requests.storage: Forbidden: field can not be less than status.capacity"]
    );
    let unmeasured = with(&growing, &[("/status/capacity", Value::Null)]);
    let smaller = with(&unmeasured, &[("/spec/resources/requests/storage", json!("1Gi"))]);
    let (_, errors) = update(&PERSISTENT_VOLUME_CLAIM, &unmeasured, smaller);
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(
        cells(&PERSISTENT_VOLUME_CLAIM, &bound, 0),
        "x|Bound|pv|1Gi|RWO,RWX||<unset>|<unknown>|Filesystem"
    );
}

#[test]
fn budgets() {
    let (made, _) = create(&POD_DISRUPTION_BUDGET, budget());
    assert_eq!(made["metadata"]["generation"], 1);
    assert_eq!(made["status"]["disruptionsAllowed"], 0);
    refuse(
        &POD_DISRUPTION_BUDGET,
        &budget(),
        &[
            ("/spec/minAvailable", json!("50%"), &[]),
            (
                "/spec/minAvailable",
                json!("101%"),
                &["spec.minAvailable: Invalid value: \"101%\": must not be greater than 100%"],
            ),
            (
                "/spec/minAvailable",
                json!(-1),
                &["spec.minAvailable: Invalid value: -1: must be greater than or equal to 0"],
            ),
            (
                "/spec/maxUnavailable",
                json!(1),
                &["spec: Invalid value: {\"maxUnavailable\":1,\"minAvailable\":1,\"selector\":\
             {\"matchLabels\":{\"app\":\"a\"}}}: minAvailable and maxUnavailable cannot be both \
             set"],
            ),
            (
                "/spec/unhealthyPodEvictionPolicy",
                json!("Never"),
                &[
                    "spec.unhealthyPodEvictionPolicy: Unsupported value: \"Never\": supported values: \
             \"AlwaysAllow\", \"IfHealthyBudget\"",
                ],
            ),
        ],
    );
    refuse_status(
        &POD_DISRUPTION_BUDGET,
        &made,
        &[
            (
                "/status/currentHealthy",
                json!(-1),
                &["status.currentHealthy: Invalid value: -1: must be greater than or equal to 0"],
            ),
            (
                "/status/conditions",
                json!([{"type": "DisruptionAllowed", "status": "Maybe"}]),
                &[
                    "status.conditions[0].status: Unsupported value: \"Maybe\": supported values: \
             \"False\", \"True\", \"Unknown\"",
                    "status.conditions[0].lastTransitionTime: Required value: must be set",
                    "status.conditions[0].reason: Required value: must be set",
                ],
            ),
        ],
    );
    assert_eq!(cells(&POD_DISRUPTION_BUDGET, &made, 0), "x|1|N/A|0|<unknown>");
}

#[test]
fn limit_ranges() {
    let container = json!({"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}});
    let (made, errors) = create(&LIMIT_RANGE, limits(container));
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(made["spec"]["limits"][0]["default"], json!({"cpu": "2"}));
    assert_eq!(made["spec"]["limits"][0]["defaultRequest"], json!({"cpu": "2", "memory": "1Mi"}));
    let base = limits(json!({"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1"}}));
    refuse(
        &LIMIT_RANGE,
        &base,
        &[
            (
                "/spec/limits/0/min",
                json!({"cpu": "3"}),
                &[
                    "spec.limits[0].min[cpu]: Invalid value: \"3\": min value 3 is greater than max value \
             2",
                    "spec.limits[0].defaultRequest[cpu]: Invalid value: \"2\": min value 3 is greater than \
             default request value 2",
                    "spec.limits[0].default[cpu]: Invalid value: \"3\": min value 3 is greater than \
             default value 2",
                ],
            ),
            (
                "/spec/limits/0/maxLimitRequestRatio",
                json!({"cpu": "4"}),
                &[
                    "spec.limits[0].maxLimitRequestRatio[cpu]: Invalid value: \"4\": ratio 4 is greater \
             than max/min = 2.000000",
                ],
            ),
            (
                "/spec/limits/0",
                json!({"type": "Pod", "default": {"cpu": "1"}}),
                &["spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'"],
            ),
            (
                "/spec/limits/0",
                json!({"type": "PersistentVolumeClaim"}),
                &[
                    "spec.limits[0].limits: Required value: either minimum or maximum storage value is \
             required, but neither was provided",
                ],
            ),
            (
                "/spec/limits/0",
                json!({"type": "Thing"}),
                &[
                    "spec.limits[0].type: Invalid value: \"Thing\": must be a standard limit type or fully \
             qualified",
                ],
            ),
            (
                "/spec/limits/-",
                json!({"type": "Container"}),
                &["spec.limits[1].type: Duplicate value: \"Container\""],
            ),
        ],
    );
    let dated = with(&made, &[("/metadata/creationTimestamp", json!("2024-01-01T00:00:00Z"))]);
    assert_eq!(cells(&LIMIT_RANGE, &dated, 0), "x|2024-01-01T00:00:00Z");
}

#[test]
fn quotas() {
    refuse(
        &RESOURCE_QUOTA,
        &quota(),
        &[
            ("/spec/hard", json!({"count/jobs.batch": "1", "requests.nvidia.com/gpu": "1"}), &[]),
            (
                "/spec/hard",
                json!({"pods": "1500m"}),
                &["spec.hard[pods]: Invalid value: \"1500m\": must be an integer"],
            ),
            (
                "/spec/hard",
                json!({"storage": "1"}),
                &[
                    "spec.hard[storage]: Invalid value: \"storage\": must be a standard resource for quota",
                ],
            ),
            (
                "/spec/scopes",
                json!(["Some"]),
                &["spec.scopes: Invalid value: [\"Some\"]: unsupported scope"],
            ),
            (
                "/spec/scopes",
                json!(["BestEffort"]),
                &[
                    "spec.scopes: Invalid value: [\"BestEffort\"]: unsupported scope applied to resource",
                ],
            ),
            (
                "/spec/scopes",
                json!(["Terminating", "NotTerminating"]),
                &[
                    "spec.scopes: Invalid value: [\"Terminating\",\"NotTerminating\"]: conflicting scopes",
                ],
            ),
            (
                "/spec/scopeSelector",
                json!({"matchExpressions": [
                    {"scopeName": "PriorityClass", "operator": "In"},
                    {"scopeName": "Terminating", "operator": "DoesNotExist"},
                ]}),
                &[
                    "spec.scopeSelector.matchExpressions.values: Required value: must be at least one \
             value when `operator` is 'In' or 'NotIn' for scope selector",
                    "spec.scopeSelector.matchExpressions.operator: Invalid value: \"DoesNotExist\": must \
             be 'Exist' when scope is any of ResourceQuotaScopeTerminating, \
             ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, \
             ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
                ],
            ),
        ],
    );
    refuse_change(
        &RESOURCE_QUOTA,
        &quota(),
        &[(
            "/spec/scopes",
            json!(["NotBestEffort"]),
            &["spec.scopes: Invalid value: [\"NotBestEffort\"]: field is immutable"],
        )],
    );
    let (made, _) = create(&RESOURCE_QUOTA, quota());
    let used = json!({"hard": {"pods": "3", "limits.cpu": "2"}, "used": {"pods": "1"}});
    let used = with(&made, &[("/status", used)]);
    assert_eq!(cells(&RESOURCE_QUOTA, &used, 0), "x|pods: 1/3|limits.cpu: 0/2|<unknown>");
}

#[test]
fn autoscalers() {
    let (made, errors) = create(&HORIZONTAL_POD_AUTOSCALER, autoscaler());
    assert_eq!(errors, Vec::<String>::new());
    assert_eq!(made["spec"]["minReplicas"], 1);
    assert_eq!(
        cells(&HORIZONTAL_POD_AUTOSCALER, &made, 0),
        "x|Deployment/d|cpu: <unknown>/80%|1|5|0|<unknown>"
    );
    let behavior = json!({"scaleDown": {"stabilizationWindowSeconds": 60}});
    let fast = with(&autoscaler(), &[("/spec/behavior", behavior)]);
    let (fast, _) = create(&HORIZONTAL_POD_AUTOSCALER, fast);
    assert_eq!(
        fast["spec"]["behavior"],
        json!({
            "scaleDown": {
                "stabilizationWindowSeconds": 60, "selectPolicy": "Max",
                "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
            },
            "scaleUp": {
                "stabilizationWindowSeconds": 0, "selectPolicy": "Max",
                "policies": [
                    {"type": "Pods", "value": 4, "periodSeconds": 15},
                    {"type": "Percent", "value": 100, "periodSeconds": 15},
                ],
            },
        })
    );
    refuse(
        &HORIZONTAL_POD_AUTOSCALER,
        &autoscaler(),
        &[
            (
                "/spec/minReplicas",
                json!(0),
                &[
                    "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
                    "spec.metrics: Forbidden: must specify at least one Object or External metric to \
             support scaling to zero replicas",
                ],
            ),
            (
                "/spec/minReplicas",
                json!(6),
                &[
                    "spec.maxReplicas: Invalid value: 5: must be greater than or equal to `minReplicas`",
                ],
            ),
            (
                "/spec/maxReplicas",
                json!(0),
                &[
                    "spec.maxReplicas: Invalid value: 0: must be greater than 0",
                    "spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`",
                ],
            ),
            (
                "/spec/scaleTargetRef",
                json!({"kind": "a/b"}),
                &[
                    "spec.scaleTargetRef.kind: Invalid value: \"a/b\": may not contain '/'",
                    "spec.scaleTargetRef.name: Required value",
                ],
            ),
            (
                "/spec/metrics",
                json!([{"type": "Resource"}]),
                &[
                    "spec.metrics[0].resource: Required value: must populate information for the given \
             metric source",
                ],
            ),
            (
                "/spec/metrics",
                json!([{"type": "Resource", "resource": {
                    "name": "cpu", "target": {"type": "Utilization"},
                }}]),
                &[
                    "spec.metrics[0].resource.target.averageUtilization: Required value: must set either a \
             target raw value or a target utilization",
                ],
            ),
            (
                "/spec/metrics",
                json!([{"type": "Pods", "pods": {
                    "metric": {"name": "m"}, "target": {"type": "AverageValue", "averageValue": "0"},
                }}]),
                &[
                    "spec.metrics[0].pods.target.averageValue: Invalid value: \"0\": must be positive",
                ],
            ),
            (
                "/spec/behavior",
                json!({"scaleUp": {
                    "stabilizationWindowSeconds": 4000, "selectPolicy": "Any",
                    "policies": [{"type": "All", "value": 0, "periodSeconds": 2000}],
                }}),
                &[
                    "spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 4000: must be less \
             than or equal to 3600",
                    "spec.behavior.scaleUp.selectPolicy: Unsupported value: \"Any\": supported values: \
             \"Disabled\", \"Max\", \"Min\"",
                    "spec.behavior.scaleUp.policies[0].type: Unsupported value: \"All\": supported values: \
             \"Percent\", \"Pods\"",
                    "spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
                    "spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 2000: must be less \
             than or equal to 1800",
                ],
            ),
        ],
    );
}

#[tokio::test]
async fn one_autoscaler_in_two_versions() {
    let api = Api::start().await;
    let (v1, v2) = (
        "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers",
        "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers",
    );
    let old = json!({
        "apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "a"},
        "spec": {
            "scaleTargetRef": {"kind": "Deployment", "name": "d"}, "maxReplicas": 3,
            "targetCPUUtilizationPercentage": 50,
        },
    });
    let shown = api.post(v1, old).await.expect(201);
    assert_eq!(shown["apiVersion"], "autoscaling/v1");
    assert_eq!(shown["spec"]["targetCPUUtilizationPercentage"], 50);
    let new = api.get(&format!("{v2}/a")).await.expect(200);
    assert_eq!(new["apiVersion"], "autoscaling/v2");
    assert_eq!(
        new["spec"]["metrics"],
        json!([{"type": "Resource", "resource": {
            "name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50},
        }}])
    );
    let queue = json!({"type": "Object", "object": {
        "describedObject": {"apiVersion": "v1", "kind": "Service", "name": "s"},
        "metric": {"name": "queue", "selector": {"matchLabels": {"a": "b"}}},
        "target": {"type": "AverageValue", "averageValue": "30"},
    }});
    let memory = json!({"type": "Resource", "resource": {
        "name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"},
    }});
    let changed = with(
        &new,
        &[
            ("/spec/metrics", json!([queue, memory, new["spec"]["metrics"][0]])),
            ("/spec/behavior", json!({"scaleDown": {"selectPolicy": "Disabled"}})),
        ],
    );
    let changed = api.put(&format!("{v2}/a"), changed).await.expect(200);
    let shown = api.get(&format!("{v1}/a")).await.expect(200);
    let annotations = &shown["metadata"]["annotations"];
    let read = |name: &str| {
        let text = annotations[format!("autoscaling.alpha.kubernetes.io/{name}")].as_str();
        serde_json::from_str::<Value>(text.unwrap_or_else(|| panic!("no {name}"))).unwrap()
    };
    assert_eq!(
        read("metrics"),
        json!([
            {"type": "Object", "object": {
                "target": {"apiVersion": "v1", "kind": "Service", "name": "s"},
                "metricName": "queue", "selector": {"matchLabels": {"a": "b"}}, "averageValue": "30",
            }},
            {"type": "Resource", "resource": {"name": "memory", "targetAverageValue": "1Gi"}},
        ])
    );
    assert_eq!(read("behavior")["ScaleDown"]["SelectPolicy"], "Disabled");
    assert_eq!(read("behavior")["ScaleUp"]["Policies"][0]["PeriodSeconds"], 15);
    assert_eq!(shown["spec"]["targetCPUUtilizationPercentage"], 50);
    api.put(&format!("{v1}/a"), shown).await.expect(200);
    let again = api.get(&format!("{v2}/a")).await.expect(200);
    assert_eq!(again["spec"], changed["spec"], "nothing is lost on the way through version 1");
    assert_eq!(again["metadata"].get("annotations"), None);
}

#[tokio::test]
async fn scales_and_orphans() {
    let api = Api::start().await;
    let template = json!({
        "metadata": {"labels": {"app": "a", "b": "c"}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    });
    let controllers = "/api/v1/namespaces/default/replicationcontrollers";
    let controller = json!({
        "apiVersion": "v1", "kind": "ReplicationController", "metadata": {"name": "r"},
        "spec": {"template": template},
    });
    api.post(controllers, controller).await.expect(201);
    let scale = api.get(&format!("{controllers}/r/scale")).await.expect(200);
    assert_eq!(scale["spec"], json!({"replicas": 1}));
    assert_eq!(scale["status"], json!({"replicas": 0, "selector": "app=a,b=c"}));
    let patch = json!({"spec": {"replicas": 4}});
    api.merge(&format!("{controllers}/r/scale"), patch.clone()).await.expect(200);
    let scaled = api.get(&format!("{controllers}/r")).await.expect(200);
    assert_eq!(scaled["spec"]["replicas"], 4);
    assert_eq!(scaled["metadata"]["generation"], 2);
    let sets = "/apis/apps/v1/namespaces/default/statefulsets";
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "s"},
        "spec": {"selector": {"matchLabels": {"app": "a"}}, "template": template},
    });
    api.post(sets, set).await.expect(201);
    let scale = api.merge(&format!("{sets}/s/scale"), patch).await.expect(200);
    assert_eq!(scale["spec"]["replicas"], 4);
    assert_eq!(scale["status"]["selector"], "app=a");

    let jobs = "/apis/batch/v1/namespaces/default/jobs";
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "j"},
        "spec": {"template": template},
    });
    job["spec"]["template"]["spec"]["restartPolicy"] = json!("Never");
    let made = api.post(jobs, job).await.expect(201);
    assert_eq!(
        made["spec"]["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"],
        made["metadata"]["uid"]
    );
    let reply = api.delete(&format!("{jobs}/j")).await;
    assert!(reply.warnings()[0].contains("child pods are preserved by default"));
    reply.expect(200);
    let left = api.get(&format!("{jobs}/j")).await.expect(200);
    assert_eq!(left["metadata"]["finalizers"], json!(["orphan"]));
    let reply = api.delete(&format!("{jobs}/j?propagationPolicy=Background")).await;
    assert_eq!(reply.warnings(), Vec::<String>::new());
    reply.expect(200);
    assert_eq!(api.get(&format!("{jobs}/j")).await.code, 404);
}
