//! One row per kind that is stored: the least object that is valid, a change of it, a status.

use proto::kind::{self, Row};
use serde_json::{Value, json};

pub struct Life {
    pub row: &'static Row,
    /// Without apiVersion, kind and metadata.
    pub object: Value,
    /// A merge patch that the kind allows; null where nothing of it may change.
    pub change: Value,
    /// A status that a client may write; null where the kind has none.
    pub status: Value,
}

impl Life {
    /// Three objects that are made and a fourth that is only tried.
    pub fn names(&self) -> [&'static str; 4] {
        match &*self.row.kind {
            "IPAddress" => ["192.0.2.1", "192.0.2.2", "2001:db8::3", "192.0.2.4"],
            _ => ["one", "two", "three", "tried"],
        }
    }

    /// The finalizer that the server gives its objects, which nobody takes off without controllers.
    pub fn finalizer(&self) -> Option<&'static str> {
        match &*self.row.kind {
            "PersistentVolume" => Some("kubernetes.io/pv-protection"),
            "PersistentVolumeClaim" => Some("kubernetes.io/pvc-protection"),
            _ => None,
        }
    }

    /// By how much the generation grows with the annotations, and with the change.
    pub fn counts(&self) -> (u64, u64) {
        match &*self.row.kind {
            "Deployment" => (1, 1),
            "PriorityClass" => (0, 0),
            _ => (0, 1),
        }
    }

    /// Whether a PUT of an object that is not there makes it.
    pub fn made_by_put(&self) -> bool {
        let access = &*self.row.group == "rbac.authorization.k8s.io";
        let kinds = ["Endpoints", "Event", "Lease", "LimitRange", "Service"];
        access || kinds.contains(&&*self.row.kind)
    }

    /// Whether a write of the status leaves labels and annotations alone.
    pub fn status_alone(&self) -> bool {
        let kinds = [
            "FlowSchema",
            "PriorityLevelConfiguration",
            "ResourceClaim",
            "ServiceCIDR",
            "ValidatingAdmissionPolicy",
            "VolumeAttachment",
        ];
        kinds.contains(&&*self.row.kind)
    }
}

fn life(row: &'static Row, object: Value, change: Value) -> Life {
    Life { row, object, change, status: Value::Null }
}

fn with_status(row: &'static Row, object: Value, change: Value, status: Value) -> Life {
    Life { row, object, change, status }
}

/// All of them, in the order of the kind table.
pub fn all() -> Vec<Life> {
    let parts = [core(), admission(), workloads(), cluster(), networking(), access(), devices()];
    parts.into_iter().flatten().chain(storage()).collect()
}

fn containers() -> Value {
    json!([{"name": "c", "image": "i"}])
}

fn template() -> Value {
    json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": containers()}})
}

fn once() -> Value {
    json!({"spec": {"containers": containers(), "restartPolicy": "Never"}})
}

fn condition(kind: &str) -> Value {
    json!([{"type": kind, "status": "True", "reason": "Tested", "message": "by hand",
        "lastTransitionTime": "2026-01-01T00:00:00Z"}])
}

fn core() -> Vec<Life> {
    let port = json!([{"name": "http", "port": 80}]);
    let subset = |ip: &str| json!({"subsets": [{"addresses": [{"ip": ip}], "ports": port}]});
    let limit =
        |cpu: &str| json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": cpu}}]}});
    let storage = json!({"requests": {"storage": "1Gi"}});
    vec![
        life(&kind::CONFIG_MAP, json!({"data": {"k": "v"}}), json!({"data": {"k": "w"}})),
        life(&kind::ENDPOINTS, subset("10.1.2.3"), subset("10.1.2.4")),
        life(
            &kind::EVENT,
            json!({"involvedObject": {"kind": "Pod", "name": "p", "namespace": "life"},
                "reason": "Tested", "message": "m", "type": "Normal",
                "source": {"component": "test"}}),
            json!({"message": "n"}),
        ),
        life(&kind::LIMIT_RANGE, limit("2"), limit("3")),
        with_status(
            &kind::NAMESPACE,
            json!({}),
            Value::Null,
            json!({"conditions": condition("StatusPatch")}),
        ),
        with_status(
            &kind::NODE,
            // The one kind that is born with a status.
            json!({"status": {"phase": "Running", "conditions": [{"type": "Ready",
                "status": "True", "reason": "Tested", "message": "by hand"}]}}),
            json!({"spec": {"unschedulable": true}}),
            json!({"conditions": condition("StatusPatch")}),
        ),
        with_status(
            &kind::PERSISTENT_VOLUME_CLAIM,
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "resources": storage,
                "storageClassName": ""}}),
            json!({"spec": {"volumeName": "v"}}),
            json!({"conditions": condition("StatusPatched")}),
        ),
        with_status(
            &kind::PERSISTENT_VOLUME,
            json!({"spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
                "hostPath": {"path": "/data"}}}),
            json!({"spec": {"persistentVolumeReclaimPolicy": "Delete"}}),
            json!({"message": "patched", "reason": "Tested"}),
        ),
        with_status(
            &kind::POD,
            json!({"spec": {"containers": containers()}}),
            json!({"spec": {"activeDeadlineSeconds": 60}}),
            json!({"message": "patched", "reason": "Tested",
                "conditions": [{"type": "Ready", "status": "False"}]}),
        ),
        life(
            &kind::POD_TEMPLATE,
            json!({"template": template()}),
            json!({"template": {"metadata": {"labels": {"app": "b"}}}}),
        ),
        with_status(
            &kind::REPLICATION_CONTROLLER,
            json!({"spec": {"replicas": 1, "selector": {"app": "a"}, "template": template()}}),
            json!({"spec": {"minReadySeconds": 2}}),
            json!({"replicas": 1, "readyReplicas": 1, "conditions": condition("StatusUpdate")}),
        ),
        with_status(
            &kind::RESOURCE_QUOTA,
            json!({"spec": {"hard": {"services": "5"}}}),
            json!({"spec": {"hard": {"services": "6"}}}),
            json!({"hard": {"services": "5"}, "used": {"services": "1"}}),
        ),
        life(&kind::SECRET, json!({"data": {"k": "dg=="}}), json!({"data": {"k": "dw=="}})),
        life(&kind::SERVICE_ACCOUNT, json!({}), json!({"automountServiceAccountToken": false})),
        with_status(
            &kind::SERVICE,
            json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 80}],
                "selector": {"app": "a"}}}),
            json!({"spec": {"selector": {"app": "b"}}}),
            json!({"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]},
                "conditions": condition("StatusUpdate")}),
        ),
    ]
}

/// For objects that nobody has, so that nothing else is judged by them.
fn rule() -> Value {
    json!({"operations": ["CREATE"], "apiGroups": ["life.example.com"], "apiVersions": ["v1"],
        "resources": ["nothings"]})
}

fn admission() -> Vec<Life> {
    let hooks = |timeout: u64| {
        json!({"webhooks": [{"name": "h.example.com", "rules": [rule()], "sideEffects": "None",
            "clientConfig": {"service": {"namespace": "n", "name": "s"}},
            "timeoutSeconds": timeout, "admissionReviewVersions": ["v1"]}]})
    };
    let ignore = json!({"spec": {"failurePolicy": "Ignore"}});
    let constraints = json!({"resourceRules": [rule()]});
    vec![
        life(
            &kind::MUTATING_ADMISSION_POLICY,
            json!({"spec": {"reinvocationPolicy": "Never", "matchConstraints": constraints,
                "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}]}}),
            ignore.clone(),
        ),
        life(
            &kind::MUTATING_ADMISSION_POLICY_BINDING,
            json!({"spec": {"policyName": "absent"}}),
            json!({"spec": {"policyName": "gone"}}),
        ),
        life(&kind::MUTATING_WEBHOOK_CONFIGURATION, hooks(5), hooks(6)),
        with_status(
            &kind::VALIDATING_ADMISSION_POLICY,
            json!({"spec": {"matchConstraints": constraints,
                "validations": [{"expression": "true"}]}}),
            ignore,
            json!({"observedGeneration": 1, "conditions": condition("Tested")}),
        ),
        life(
            &kind::VALIDATING_ADMISSION_POLICY_BINDING,
            json!({"spec": {"policyName": "absent", "validationActions": ["Audit"]}}),
            json!({"spec": {"validationActions": ["Audit", "Deny"]}}),
        ),
        life(&kind::VALIDATING_WEBHOOK_CONFIGURATION, hooks(5), hooks(6)),
    ]
}

fn workloads() -> Vec<Life> {
    let selector = json!({"matchLabels": {"app": "a"}});
    let replicated = || json!({"replicas": 1, "selector": selector, "template": template()});
    let ready = json!({"replicas": 1, "readyReplicas": 1, "conditions": condition("StatusUpdate")});
    let scaled = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
    let scaler = json!({"spec": {"scaleTargetRef": scaled, "maxReplicas": 3}});
    let counted = json!({"currentReplicas": 1, "desiredReplicas": 2});
    let patient = json!({"spec": {"minReadySeconds": 2}});
    vec![
        life(
            &kind::CONTROLLER_REVISION,
            json!({"data": {"spec": {"a": 1}}, "revision": 1}),
            json!({"revision": 2}),
        ),
        with_status(
            &kind::DAEMON_SET,
            json!({"spec": {"selector": selector, "template": template()}}),
            patient.clone(),
            json!({"currentNumberScheduled": 1, "numberMisscheduled": 0,
                "desiredNumberScheduled": 1, "numberReady": 1,
                "conditions": condition("StatusUpdate")}),
        ),
        with_status(
            &kind::DEPLOYMENT,
            json!({"spec": replicated()}),
            patient.clone(),
            ready.clone(),
        ),
        with_status(
            &kind::REPLICA_SET,
            json!({"spec": replicated()}),
            patient.clone(),
            ready.clone(),
        ),
        with_status(&kind::STATEFUL_SET, json!({"spec": replicated()}), patient, ready),
        with_status(
            &kind::HORIZONTAL_POD_AUTOSCALER,
            scaler.clone(),
            json!({"spec": {"maxReplicas": 4}}),
            counted.clone(),
        ),
        with_status(
            &kind::HORIZONTAL_POD_AUTOSCALER_V1,
            scaler,
            json!({"spec": {"maxReplicas": 4}}),
            counted,
        ),
        with_status(
            &kind::CRON_JOB,
            json!({"spec": {"schedule": "* */1 * * ?",
                "jobTemplate": {"spec": {"template": once()}}}}),
            json!({"spec": {"suspend": true}}),
            json!({"lastScheduleTime": "2026-01-01T00:00:00Z"}),
        ),
        with_status(
            &kind::JOB,
            json!({"spec": {"suspend": true, "template": once()}}),
            json!({"spec": {"parallelism": 2}}),
            json!({"conditions": condition("StatusUpdate")}),
        ),
    ]
}

fn cluster() -> Vec<Life> {
    let subject = json!([{"kind": "User", "user": {"name": "nobody"}}]);
    let urls = json!([{"verbs": ["*"], "nonResourceURLs": ["/life"]}]);
    let level = |shares: u64| {
        json!({"spec": {"type": "Limited", "limited": {"nominalConcurrencyShares": shares,
            "limitResponse": {"type": "Reject"}}}})
    };
    let slice = |ip: &str| json!({"addressType": "IPv4", "endpoints": [{"addresses": [ip]}]});
    vec![
        with_status(
            &kind::CERTIFICATE_SIGNING_REQUEST,
            json!({"spec": {"request": super::request(), "signerName": "life.example.com/s",
                "usages": ["digital signature", "client auth"]}}),
            Value::Null,
            json!({"conditions": [{"type": "Failed", "status": "True", "reason": "Tested",
                "message": "by hand"}]}),
        ),
        life(
            &kind::LEASE,
            json!({"spec": {"holderIdentity": "a", "leaseDurationSeconds": 30,
                // As far back as Go's clock goes.
                "acquireTime": "0001-01-01T00:00:02.000000Z",
                "renewTime": "2026-01-01T00:00:00.000001Z", "leaseTransitions": 0}}),
            json!({"spec": {"holderIdentity": "b", "leaseTransitions": 1}}),
        ),
        life(&kind::ENDPOINT_SLICE, slice("10.1.2.3"), slice("10.1.2.4")),
        life(
            &kind::EVENTS_EVENT,
            json!({"eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "test",
                "reportingInstance": "test-1", "action": "Do", "reason": "Tested",
                "type": "Normal", "note": "m",
                "regarding": {"kind": "Pod", "name": "p", "namespace": "life"}}),
            json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}}),
        ),
        with_status(
            &kind::FLOW_SCHEMA,
            json!({"spec": {"matchingPrecedence": 9000,
                "priorityLevelConfiguration": {"name": "global-default"},
                "rules": [{"subjects": subject, "nonResourceRules": urls}]}}),
            json!({"spec": {"matchingPrecedence": 9001}}),
            json!({"conditions": condition("Tested")}),
        ),
        with_status(
            &kind::PRIORITY_LEVEL_CONFIGURATION,
            level(2),
            level(4),
            json!({"conditions": condition("Tested")}),
        ),
    ]
}

fn networking() -> Vec<Life> {
    let backend = |name: &str| json!({"spec": {"defaultBackend": {"service": {"name": name, "port": {"number": 80}}}}});
    let policy = |label: &str| json!({"spec": {"podSelector": {"matchLabels": {"app": label}}}});
    let parameters = json!({"kind": "P", "name": "p", "scope": "Cluster"});
    vec![
        life(
            &kind::INGRESS_CLASS,
            json!({"spec": {"controller": "example.com/c"}}),
            json!({"spec": {"parameters": parameters}}),
        ),
        with_status(
            &kind::INGRESS,
            backend("a"),
            backend("b"),
            json!({"loadBalancer": {"ingress": [{"ip": "169.1.1.1"}]}}),
        ),
        life(
            &kind::IP_ADDRESS,
            json!({"spec": {"parentRef": {"group": "g.example.com", "resource": "things",
                "namespace": "foo", "name": "bar"}}}),
            Value::Null,
        ),
        life(&kind::NETWORK_POLICY, policy("a"), policy("b")),
        with_status(
            &kind::SERVICE_CIDR,
            json!({"spec": {"cidrs": ["203.0.113.0/24"]}}),
            json!({"spec": {"cidrs": ["203.0.113.0/24", "2001:db8::/64"]}}),
            json!({"conditions": condition("Tested")}),
        ),
        life(
            &kind::RUNTIME_CLASS,
            json!({"handler": "h"}),
            json!({"overhead": {"podFixed": {"cpu": "1m"}}}),
        ),
        with_status(
            &kind::POD_DISRUPTION_BUDGET,
            json!({"spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "a"}}}}),
            json!({"spec": {"minAvailable": 2}}),
            json!({"disruptionsAllowed": 1, "currentHealthy": 2, "desiredHealthy": 1,
                "expectedPods": 2, "disruptedPods": {"p": "2026-01-01T00:00:00Z"}}),
        ),
    ]
}

fn access() -> Vec<Life> {
    let rules = |verb: &str| json!({"rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": [verb]}]});
    let group = "rbac.authorization.k8s.io";
    let binding = |kind: &str| json!({"roleRef": {"apiGroup": group, "kind": kind, "name": "r"}});
    let subject = json!({"subjects": [{"apiGroup": group, "kind": "User", "name": "nobody"}]});
    vec![
        life(&kind::CLUSTER_ROLE_BINDING, binding("ClusterRole"), subject.clone()),
        life(&kind::CLUSTER_ROLE, rules("get"), rules("list")),
        life(&kind::ROLE_BINDING, binding("Role"), subject),
        life(&kind::ROLE, rules("get"), rules("list")),
    ]
}

fn devices() -> Vec<Life> {
    let requests = json!([{"name": "r", "exactly": {"deviceClassName": "gpu"}}]);
    let claim = json!({"devices": {"requests": requests}});
    let offered = |device: &str| {
        json!({"spec": {"driver": "d.example.com", "nodeName": "n",
            "pool": {"name": "n", "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": device}]}})
    };
    let result = json!({"request": "r", "driver": "d.example.com", "pool": "n", "device": "g0"});
    vec![
        life(
            &kind::DEVICE_CLASS,
            json!({"spec": {}}),
            json!({"spec": {"selectors": [{"cel": {"expression": "true"}}],
                "config": [{"opaque": {"driver": "d.example.com",
                    "parameters": {"apiVersion": "v1", "kind": "Any", "deep": {"a": [1, null]}}}}]}}),
        ),
        with_status(
            &kind::RESOURCE_CLAIM,
            json!({"spec": claim}),
            Value::Null,
            json!({"allocation": {"devices": {"results": [result]}},
                "devices": [{"driver": "d.example.com", "pool": "n", "device": "g0",
                    "data": {"kind": "Any", "a": {"b": 1}}}]}),
        ),
        life(&kind::RESOURCE_CLAIM_TEMPLATE, json!({"spec": {"spec": claim}}), Value::Null),
        life(&kind::RESOURCE_SLICE, offered("g0"), offered("g1")),
        life(&kind::PRIORITY_CLASS, json!({"value": 5}), json!({"description": "five"})),
    ]
}

fn storage() -> Vec<Life> {
    let driver = |name: &str| json!({"name": format!("{name}.example.com"), "nodeID": "n"});
    vec![
        life(&kind::CSI_DRIVER, json!({"spec": {}}), json!({"spec": {"requiresRepublish": true}})),
        life(
            &kind::CSI_NODE,
            json!({"spec": {"drivers": [driver("one")]}}),
            json!({"spec": {"drivers": [driver("one"), driver("two")]}}),
        ),
        life(
            &kind::CSI_STORAGE_CAPACITY,
            json!({"storageClassName": "fast", "capacity": "1Gi"}),
            json!({"capacity": "2Gi"}),
        ),
        life(
            &kind::STORAGE_CLASS,
            json!({"provisioner": "example.com/disk"}),
            json!({"allowVolumeExpansion": true, "mountOptions": ["ro", "soft"]}),
        ),
        with_status(
            &kind::VOLUME_ATTACHMENT,
            json!({"spec": {"attacher": "d.example.com", "nodeName": "n",
                "source": {"persistentVolumeName": "v"}}}),
            Value::Null,
            json!({"attached": true}),
        ),
        life(
            &kind::VOLUME_ATTRIBUTES_CLASS,
            json!({"driverName": "d.example.com", "parameters": {"iops": "9"}}),
            Value::Null,
        ),
    ]
}
