//! The FlowSchemas and PriorityLevelConfigurations that a server makes for itself: the mandatory
//! ones, whose specs are fixed, and the suggested ones, which an administrator may change.

use serde_json::{Value, json};

/// The annotation by which an administrator says whether the server keeps the spec up to date.
pub const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

/// Of a limited level: name, shares, lendable percent, and queues, hand size and queue length.
type Level = (&'static str, i64, i64, Option<(i64, i64, i64)>);

const LEVELS: &[Level] = &[
    ("system", 30, 33, Some((64, 6, 50))),
    ("node-high", 40, 25, Some((64, 6, 50))),
    ("leader-election", 10, 0, Some((16, 4, 50))),
    ("workload-high", 40, 50, Some((128, 6, 50))),
    ("workload-low", 100, 90, Some((128, 6, 50))),
    ("global-default", 20, 50, Some((128, 6, 50))),
];

/// The mandatory levels, or the suggested ones.
pub fn priority_levels(mandatory: bool) -> Vec<Value> {
    if !mandatory {
        return LEVELS.iter().map(limited).collect();
    }
    let exempt = json!({
        "type": "Exempt",
        "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0},
    });
    let exempt = object("PriorityLevelConfiguration", "exempt", exempt);
    vec![exempt, limited(&("catch-all", 5, 0, None))]
}

/// The mandatory schemas, or the suggested ones.
pub fn flow_schemas(mandatory: bool) -> Vec<Value> {
    if !mandatory {
        return suggested_schemas();
    }
    let masters = everything(groups(&["system:masters"]));
    vec![
        schema("exempt", "exempt", 1, "", masters),
        schema("catch-all", "catch-all", 10_000, "ByUser", everything(everyone())),
    ]
}

fn everyone() -> Value {
    groups(&["system:unauthenticated", "system:authenticated"])
}

fn suggested_schemas() -> Vec<Value> {
    let nodes = || groups(&["system:nodes"]);
    let writes = ["get", "create", "update"];
    let leases = || resources(&writes, "coordination.k8s.io", &["leases"], "*", false);
    let records =
        |namespace| resources(&writes, "", &["endpoints", "configmaps"], namespace, false);
    let endpoints = resources(&writes, "", &["endpoints"], "*", false);
    let probes = json!([{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]);
    let managers = users(&["system:kube-controller-manager"]);
    let elected = users(&["system:kube-controller-manager", "system:kube-scheduler"]);
    let slices = accounts(&["endpoint-controller", "endpointslicemirroring-controller"]);
    let node_writes = json!([
        resources(&["*"], "", &["nodes", "nodes/status"], "*", true),
        resources(&["*"], "coordination.k8s.io", &["leases"], "*", false),
    ]);
    vec![
        schema("system-nodes", "system", 500, "ByUser", everything(nodes())),
        schema("system-node-high", "node-high", 400, "ByUser", rule(nodes(), node_writes)),
        schema(
            "probes",
            "exempt",
            2,
            "",
            json!([{"subjects": everyone(), "nonResourceRules": probes}]),
        ),
        schema(
            "system-leader-election",
            "leader-election",
            100,
            "ByUser",
            rule(joined(elected, accounts(&["*"])), json!([records("kube-system"), leases()])),
        ),
        schema(
            "workload-leader-election",
            "leader-election",
            200,
            "ByUser",
            rule(accounts(&["*"]), json!([records("*"), leases()])),
        ),
        schema(
            "endpoint-controller",
            "workload-high",
            150,
            "ByUser",
            rule(joined(managers.clone(), slices), json!([endpoints])),
        ),
        schema(
            "kube-controller-manager",
            "workload-high",
            800,
            "ByNamespace",
            everything(managers),
        ),
        schema(
            "kube-scheduler",
            "workload-high",
            800,
            "ByNamespace",
            everything(users(&["system:kube-scheduler"])),
        ),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            "ByNamespace",
            everything(accounts(&["*"])),
        ),
        schema(
            "service-accounts",
            "workload-low",
            9000,
            "ByUser",
            everything(groups(&["system:serviceaccounts"])),
        ),
        schema("global-default", "global-default", 9900, "ByUser", everything(everyone())),
    ]
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "flowcontrol.apiserver.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": name, "annotations": {AUTO_UPDATE: "true"}},
        "spec": spec,
    })
}

fn limited((name, shares, lendable, queuing): &Level) -> Value {
    let response = match queuing {
        None => json!({"type": "Reject"}),
        Some((queues, hand, length)) => json!({
            "type": "Queue",
            "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": length},
        }),
    };
    let limited = json!({
        "nominalConcurrencyShares": shares,
        "lendablePercent": lendable,
        "limitResponse": response,
    });
    let spec = json!({"type": "Limited", "limited": limited});
    object("PriorityLevelConfiguration", name, spec)
}

/// A schema; an empty `method` tells flows not apart.
fn schema(name: &str, level: &str, precedence: i64, method: &str, rules: Value) -> Value {
    let mut spec = json!({
        "priorityLevelConfiguration": {"name": level},
        "matchingPrecedence": precedence,
        "rules": rules,
    });
    if !method.is_empty() {
        spec["distinguisherMethod"] = json!({"type": method});
    }
    object("FlowSchema", name, spec)
}

fn everything(subjects: Value) -> Value {
    let all = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
    let resources = json!([resources(&["*"], "*", &["*"], "*", true)]);
    json!([{"subjects": subjects, "resourceRules": resources, "nonResourceRules": all}])
}

fn rule(subjects: Value, resources: Value) -> Value {
    json!([{"subjects": subjects, "resourceRules": resources}])
}

fn resources(verbs: &[&str], group: &str, kinds: &[&str], namespace: &str, cluster: bool) -> Value {
    let mut rule = json!({
        "verbs": verbs,
        "apiGroups": [group],
        "resources": kinds,
        "namespaces": [namespace],
    });
    if cluster {
        rule["clusterScope"] = true.into();
    }
    rule
}

fn groups(names: &[&str]) -> Value {
    names.iter().map(|name| json!({"kind": "Group", "group": {"name": name}})).collect()
}

fn users(names: &[&str]) -> Value {
    names.iter().map(|name| json!({"kind": "User", "user": {"name": name}})).collect()
}

/// Service accounts of kube-system; `*` for all.
fn accounts(names: &[&str]) -> Value {
    let subject = |name| {
        let account = json!({"name": name, "namespace": "kube-system"});
        json!({"kind": "ServiceAccount", "serviceAccount": account})
    };
    names.iter().map(subject).collect()
}

fn joined(first: Value, second: Value) -> Value {
    [first, second].iter().filter_map(Value::as_array).flatten().cloned().collect()
}
