//! Kinds that belong to the whole cluster, over HTTP: what is refused, what is set, what is shown.

#[path = "http/api.rs"]
mod api;
#[path = "http/rules.rs"]
mod rules;

use api::{Api, options};
use apiserver::store::StoreError;
use client::{Clock, Rng};
use proto::kind::{self, Row};
use proto::user::User;
use rules::{Case, Kind, at, with};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const STORAGE: &str = "/apis/storage.k8s.io/v1";
const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";
const FLOW: &str = "/apis/flowcontrol.apiserver.k8s.io/v1";
const CSR: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

fn changed(pointer: &'static str, value: Value, errors: &'static [&'static str]) -> Case {
    Case { pointer, value, errors }
}

#[tokio::test]
async fn storage_classes() {
    let api = Api::start().await;
    let base = json!({"metadata": {"name": "fast"}, "provisioner": "Example.com/disk",
        "parameters": {"type": "ssd"}});
    let kind = Kind { api: &api, path: &format!("{STORAGE}/storageclasses"), base };
    let created = kind.create().await;
    assert_eq!(created["reclaimPolicy"], "Delete");
    assert_eq!(created["volumeBindingMode"], "Immediate");
    assert_eq!(created["metadata"].get("generation"), None);
    kind.refuses(&[
        changed("/provisioner", json!(""), &["provisioner: Required value"]),
        changed("/reclaimPolicy", json!("Recycle"), &[
            "reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\"",
        ]),
        changed("/volumeBindingMode", json!("Later"), &[
            "volumeBindingMode: Unsupported value: \"Later\": supported values: \"Immediate\", \
             \"WaitForFirstConsumer\"",
        ]),
        changed("/parameters", json!({"": "x"}), &[
            "parameters: Invalid value: \"\": field can not be empty.",
        ]),
        changed("/allowedTopologies", json!([
            {"matchLabelExpressions": [{"key": "zone", "values": ["a", "a"]}, {"key": "zone"}]},
        ]), &[
            "allowedTopologies[0].matchLabelExpressions[0].values[1]: Duplicate value: \"a\"",
            "allowedTopologies[0].matchLabelExpressions[1].values: Required value",
            "allowedTopologies[0].matchLabelExpressions[1].key: Duplicate value: \"zone\"",
        ]),
    ])
    .await;
    kind.keeps(&[
        changed(
            "/parameters/type",
            json!("hdd"),
            &["parameters: Forbidden: updates to parameters are forbidden."],
        ),
        changed(
            "/provisioner",
            json!("other"),
            &["provisioner: Forbidden: updates to provisioner are forbidden."],
        ),
        changed(
            "/reclaimPolicy",
            json!("Retain"),
            &["reclaimPolicy: Forbidden: updates to reclaimPolicy are forbidden."],
        ),
        changed(
            "/volumeBindingMode",
            json!("WaitForFirstConsumer"),
            &["volumeBindingMode: Invalid value: \"WaitForFirstConsumer\": field is immutable"],
        ),
        changed("/allowVolumeExpansion", json!(true), &[]),
        changed(
            "/metadata/annotations",
            json!({
                "storageclass.kubernetes.io/is-default-class": "true",
            }),
            &[],
        ),
    ])
    .await;
    kind.shows(
        "Name,Provisioner,ReclaimPolicy,VolumeBindingMode,AllowVolumeExpansion,Age",
        json!(["fast (default)", "Example.com/disk", "Delete", "Immediate", true]),
    )
    .await;
}

#[tokio::test]
async fn other_kinds_of_storage() {
    let api = Api::start().await;
    let base = json!({"metadata": {"name": "gold"}, "driverName": "d.example.com",
        "parameters": {"iops": "9"}});
    let kind = Kind { api: &api, path: &format!("{STORAGE}/volumeattributesclasses"), base };
    kind.create().await;
    kind.refuses(&[changed(
        "/parameters",
        json!({}),
        &["parameters: Required value: must contain at least one key/value pair"],
    )])
    .await;
    kind.keeps(&[changed(
        "/driverName",
        json!("e"),
        &["driverName: Forbidden: updates to driverName are forbidden."],
    )])
    .await;
    kind.shows("Name,DriverName,Age", json!(["gold", "d.example.com"])).await;

    let base = json!({"metadata": {"name": "c"}, "storageClassName": "fast", "capacity": "1Gi"});
    let path = "/apis/storage.k8s.io/v1/namespaces/default/csistoragecapacities";
    let kind = Kind { api: &api, path, base };
    kind.create().await;
    kind.refuses(&[changed(
        "/capacity",
        json!("-1"),
        &["capacity: Invalid value: \"-1\": must be greater than or equal to 0"],
    )])
    .await;
    kind.keeps(&[
        changed(
            "/storageClassName",
            json!("slow"),
            &["storageClassName: Invalid value: \"slow\": field is immutable"],
        ),
        changed("/capacity", json!("2Gi"), &[]),
    ])
    .await;
    kind.shows("Name,StorageClassName,Capacity", json!(["c", "fast", "2Gi"])).await;

    let base = json!({"metadata": {"name": "a"}, "spec": {"attacher": "d.example.com",
        "nodeName": "n", "source": {"persistentVolumeName": "pv"}}});
    let kind = Kind { api: &api, path: &format!("{STORAGE}/volumeattachments"), base };
    kind.create().await;
    kind.refuses(&[
        changed(
            "/spec/source",
            json!({}),
            &["spec.source: Required value: must specify exactly one of inlineVolumeSpec and \
             persistentVolumeName"],
        ),
        changed("/spec/attacher", json!(""), &["spec.attacher: Required value"]),
    ])
    .await;
    let errors = kind.update("/spec/nodeName", json!("m")).await;
    assert!(errors[0].starts_with("spec: Invalid value: {"), "{errors:?}");
    kind.shows(
        "Name,Attacher,PV,Node,Attached,Age",
        json!(["a", "d.example.com", "pv", "n", false]),
    )
    .await;
}

#[tokio::test]
async fn csi_drivers_and_nodes() {
    let api = Api::start().await;
    let base = json!({"metadata": {"name": "d.example.com"}, "spec": {}});
    let kind = Kind { api: &api, path: &format!("{STORAGE}/csidrivers"), base };
    let created = kind.create().await;
    let spec = json!({"attachRequired": true, "podInfoOnMount": false, "storageCapacity": false,
        "fsGroupPolicy": "ReadWriteOnceWithFSType", "volumeLifecycleModes": ["Persistent"],
        "requiresRepublish": false, "seLinuxMount": false});
    assert_eq!(created["spec"], spec);
    assert_eq!(created["metadata"].get("generation"), None);
    kind.refuses(&[
        changed("/spec/fsGroupPolicy", json!("Some"), &[
            "spec.fsGroupPolicy: Unsupported value: \"Some\": supported values: \"File\", \
             \"None\", \"ReadWriteOnceWithFSType\"",
        ]),
        changed("/spec/volumeLifecycleModes", json!(["Odd"]), &[
            "spec.volumeLifecycleModes: Unsupported value: \"Odd\": supported values: \
             \"Persistent\", \"Ephemeral\"",
        ]),
        changed("/spec/tokenRequests", json!([
            {"audience": "a", "expirationSeconds": 599}, {"audience": "a"},
        ]), &[
            "spec.tokenRequests[0].expirationSeconds: Invalid value: 599: may not specify a \
             duration less than 10 minutes",
            "spec.tokenRequests[1].audience: Duplicate value: \"a\"",
        ]),
        changed("/spec/nodeAllocatableUpdatePeriodSeconds", json!(9), &[
            "spec.nodeAllocatableUpdatePeriodSeconds: Invalid value: 9: must be greater than or \
             equal to 10 seconds",
        ]),
    ])
    .await;
    kind.keeps(&[
        changed(
            "/spec/attachRequired",
            json!(false),
            &["spec.attachedRequired: Invalid value: false: field is immutable"],
        ),
        changed("/spec/podInfoOnMount", json!(true), &[]),
    ])
    .await;
    assert_eq!(kind.get().await["metadata"]["generation"], 1);
    let columns = "Name,AttachRequired,PodInfoOnMount,StorageCapacity,TokenRequests,\
                   RequiresRepublish,Modes,Age";
    let cells = json!(["d.example.com", true, true, false, "<unset>", false, "Persistent"]);
    kind.shows(columns, cells).await;
    let asks = with(&kind.base, "/spec/tokenRequests", json!([{"audience": "a"}]));
    let reply = api.post(kind.path, with(&asks, "/metadata/name", json!("e.example.com"))).await;
    assert!(reply.warnings()[0].contains("spec.serviceAccountTokenInSecrets is unset"));

    let driver = json!({"name": "d.example.com", "nodeID": "n", "topologyKeys": ["zone"]});
    let base = json!({"metadata": {"name": "n"}, "spec": {"drivers": [driver]}});
    let kind = Kind { api: &api, path: &format!("{STORAGE}/csinodes"), base };
    kind.create().await;
    kind.refuses(&[
        changed("/spec/drivers/0/nodeID", json!(""), &["spec.drivers[0].nodeID: Required value"]),
        changed(
            "/spec/drivers/0/topologyKeys",
            json!(["a", "a"]),
            &["spec.drivers[0]: Duplicate value: \"a\""],
        ),
        changed("/spec/drivers/0/name", json!(""), &["spec.drivers[0].name: Required value"]),
    ])
    .await;
    kind.keeps(&[changed("/spec/drivers/0/allocatable", json!({"count": 3}), &[])]).await;
    let errors = kind.update("/spec/drivers/0/nodeID", json!("m")).await;
    assert!(errors[0].starts_with("spec.drivers: Invalid value: {"), "{errors:?}");
    kind.shows("Name,Drivers,Age", json!(["n", 1])).await;
}

#[tokio::test]
async fn priority_and_runtime_classes() {
    let api = Api::start().await;
    let base = json!({"metadata": {"name": "high"}, "value": 1000});
    let kind = Kind { api: &api, path: "/apis/scheduling.k8s.io/v1/priorityclasses", base };
    let created = kind.create().await;
    assert_eq!(created["preemptionPolicy"], "PreemptLowerPriority");
    assert_eq!(created["metadata"]["generation"], 1);
    kind.refuses(&[
        changed("/value", json!(1_000_000_001), &[
            "value: Forbidden: maximum allowed value of a user defined priority is 1000000000",
        ]),
        changed("/preemptionPolicy", json!("Ever"), &[
            "preemptionPolicy: Unsupported value: \"Ever\": supported values: \
             \"PreemptLowerPriority\", \"Never\"",
        ]),
        changed("/metadata/name", json!("system-mine"), &[
            "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for \
             system use only. error: system-mine is not a known system priority class",
        ]),
    ])
    .await;
    kind.keeps(&[
        changed("/value", json!(1), &["value: Forbidden: may not be changed in an update."]),
        changed(
            "/preemptionPolicy",
            json!("Never"),
            &["preemptionPolicy: Invalid value: \"Never\": field is immutable"],
        ),
        changed("/description", json!("higher"), &[]),
    ])
    .await;
    assert_eq!(kind.get().await["metadata"]["generation"], 1);
    kind.shows(
        "Name,Value,Global-Default,Age,PreemptionPolicy",
        json!(["high", 1000, false, null, "PreemptLowerPriority"]),
    )
    .await;

    kind.keeps(&[changed("/globalDefault", json!(true), &[])]).await;
    let second = json!({"metadata": {"name": "low"}, "value": 1, "globalDefault": true});
    assert_eq!(
        api.post(kind.path, second).await.expect(403)["message"],
        "priorityclasses.scheduling.k8s.io \"low\" is forbidden: PriorityClass high is already \
         marked as default. Only one default can exist"
    );

    let base = json!({"metadata": {"name": "sandboxed"}, "handler": "gvisor"});
    let kind = Kind { api: &api, path: "/apis/node.k8s.io/v1/runtimeclasses", base };
    kind.create().await;
    let errors = kind.refused("/handler", json!("No_Label")).await;
    assert!(errors[0].starts_with("handler: Invalid value: \"No_Label\": a lowercase RFC 1123"));
    kind.keeps(&[changed(
        "/handler",
        json!("kata"),
        &["handler: Invalid value: \"kata\": field is immutable"],
    )])
    .await;
    kind.shows("Name,Handler,Age", json!(["sandboxed", "gvisor"])).await;
}

#[tokio::test]
async fn roles_and_bindings() {
    let api = Api::start().await;
    let rule = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]});
    let base = json!({"metadata": {"name": "a:b"}, "rules": [rule]});
    let path = format!("{RBAC}/namespaces/default/roles");
    let kind = Kind { api: &api, path: &path, base: base.clone() };
    let created = kind.create().await;
    kind.refuses(&[
        changed("/metadata/name", json!("a%b"), &[
            "metadata.name: Invalid value: \"a%b\": may not contain '%'",
        ]),
        changed("/rules/0", json!({"verbs": ["get"]}), &[
            "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
            "rules[0].resources: Required value: resource rules must supply at least one resource",
        ]),
        changed("/rules/0/verbs", json!([]), &[
            "rules[0].verbs: Required value: verbs must contain at least one value",
        ]),
        changed("/rules/0", json!({"verbs": ["get"], "nonResourceURLs": ["/x"]}), &[
            "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to \
             non-resource URLs",
        ]),
    ])
    .await;
    let time = created["metadata"]["creationTimestamp"].clone();
    kind.shows("Name,Created At", json!(["a:b", time])).await;

    let kind = Kind { api: &api, path: &format!("{RBAC}/clusterroles"), base };
    kind.create().await;
    kind.refuses(&[
        changed("/aggregationRule", json!({}), &[
            "aggregationRule.clusterRoleSelectors: Required value: at least one \
             clusterRoleSelector required if aggregationRule is non-nil",
        ]),
        changed("/rules/0/nonResourceURLs", json!(["/x"]), &[
            "rules[0].nonResourceURLs: Invalid value: [\"/x\"]: rules cannot apply to both regular \
             resources and non-resource URLs",
        ]),
    ])
    .await;

    let base = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "c"},
        "subjects": [{"kind": "User", "name": "u"}, {"kind": "Group", "name": "g"},
            {"kind": "ServiceAccount", "name": "s", "namespace": "n"}]});
    let kind = Kind { api: &api, path: &format!("{RBAC}/clusterrolebindings"), base };
    let created = kind.create().await;
    assert_eq!(created["roleRef"]["apiGroup"], "rbac.authorization.k8s.io");
    assert_eq!(created["subjects"][0]["apiGroup"], "rbac.authorization.k8s.io");
    assert_eq!(created["subjects"][2].get("apiGroup"), None);
    kind.refuses(&[
        changed(
            "/roleRef/kind",
            json!("Role"),
            &["roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\""],
        ),
        changed("/roleRef/name", json!(""), &["roleRef.name: Required value"]),
        changed("/subjects/2/namespace", json!(""), &["subjects[2].namespace: Required value"]),
        changed(
            "/subjects/0/kind",
            json!("Robot"),
            &["subjects[0].kind: Unsupported value: \"Robot\": supported values: \
             \"ServiceAccount\", \"User\", \"Group\""],
        ),
        changed(
            "/subjects/0/apiGroup",
            json!("x"),
            &["subjects[0].apiGroup: Unsupported value: \"x\": supported values: \
             \"rbac.authorization.k8s.io\""],
        ),
    ])
    .await;
    kind.keeps(&[changed(
        "/roleRef/name",
        json!("d"),
        &["roleRef: Invalid value: {\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\
         \"ClusterRole\",\"name\":\"d\"}: cannot change roleRef"],
    )])
    .await;
    kind.shows(
        "Name,Role,Age,Users,Groups,ServiceAccounts",
        json!(["b", "ClusterRole/c", null, "u", "g", "n/s"]),
    )
    .await;
}

#[tokio::test]
async fn flow_schemas() {
    let api = Api::start().await;
    let rules = json!([{"subjects": [{"kind": "User", "user": {"name": "u"}}],
        "resourceRules": [{"verbs": ["get"], "apiGroups": ["*"], "resources": ["*"],
            "namespaces": ["*"]}]}]);
    let base = json!({"metadata": {"name": "f"}, "spec": {
        "priorityLevelConfiguration": {"name": "workload-low"}, "rules": rules}});
    let kind = Kind { api: &api, path: &format!("{FLOW}/flowschemas"), base };
    let created = kind.create().await;
    assert_eq!(created["spec"]["matchingPrecedence"], 1000);
    assert_eq!(created["metadata"]["generation"], 1);
    kind.refuses(&[
        changed("/spec/matchingPrecedence", json!(1), &[
            "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have \
             matchingPrecedence 1",
        ]),
        changed("/spec/matchingPrecedence", json!(10_001), &[
            "spec.matchingPrecedence: Invalid value: 10001: must not be greater than 10000",
        ]),
        changed("/spec/priorityLevelConfiguration/name", json!(""), &[
            "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
        ]),
        changed("/spec/rules/0/subjects", json!([]), &[
            "spec.rules[0].subjects: Required value: subjects must contain at least one value",
        ]),
        changed("/spec/rules/0/subjects/0/group", json!({"name": "g"}), &[
            "spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is \
             not 'Group'",
        ]),
        changed("/spec/rules/0/resourceRules/0/verbs", json!(["*", "get"]), &[
            "spec.rules[0].resourceRules[0].verbs: Invalid value: [\"*\",\"get\"]: if '*' is \
             present, must not specify other verbs",
        ]),
        changed("/spec/rules/0/resourceRules/0/namespaces", json!([]), &[
            "spec.rules[0].resourceRules[0].namespaces: Required value: resource rules that are \
             not cluster scoped must supply at least one namespace",
        ]),
        changed("/spec/rules/0/nonResourceRules", json!([
            {"verbs": ["get"], "nonResourceURLs": ["/a*"]},
        ]), &[
            "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"/a*\": \
             wildcard can only do suffix matching",
        ]),
    ])
    .await;
    kind.keeps(&[changed("/spec/matchingPrecedence", json!(900), &[])]).await;
    assert_eq!(kind.get().await["metadata"]["generation"], 2);
    kind.shows(
        "Name,PriorityLevel,MatchingPrecedence,DistinguisherMethod,Age,MissingPL",
        json!(["f", "workload-low", 900, "<none>", null, "?"]),
    )
    .await;
    let mut fixed = api.get(&format!("{FLOW}/flowschemas/exempt")).await.expect(200);
    fixed["spec"]["matchingPrecedence"] = 2.into();
    let reply = api.put(&format!("{FLOW}/flowschemas/exempt"), fixed).await;
    assert!(reply.message().ends_with("spec of 'exempt' must equal the fixed value"));
}

#[tokio::test]
async fn priority_levels() {
    let api = Api::start().await;
    let base = json!({"metadata": {"name": "p"}, "spec": {"type": "Limited", "limited": {
        "limitResponse": {"type": "Queue", "queuing": {}}}}});
    let kind = Kind { api: &api, path: &format!("{FLOW}/prioritylevelconfigurations"), base };
    let created = kind.create().await;
    let limited = json!({"nominalConcurrencyShares": 30, "lendablePercent": 0, "limitResponse": {
        "type": "Queue", "queuing": {"queues": 64, "handSize": 8, "queueLengthLimit": 50}}});
    assert_eq!(created["spec"]["limited"], limited);
    let queuing = "/spec/limited/limitResponse/queuing";
    assert!(at(&created, queuing).is_object());
    kind.refuses(&[
        changed("/spec/type", json!("Exempt"), &[
            "spec.type: Invalid value: \"Exempt\": type must be 'Exempt' if and only if name is \
             'exempt'",
            "spec.limited: Forbidden: must be nil if the type is not Limited",
        ]),
        changed("/spec/limited/lendablePercent", json!(101), &[
            "spec.limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive",
        ]),
        changed("/spec/limited/limitResponse/type", json!("Reject"), &[
            "spec.limited.limitResponse.queuing: Forbidden: must be nil if \
             limited.limitResponse.type is not Limited",
        ]),
        changed("/spec/limited/limitResponse/queuing/handSize", json!(65), &[
            "spec.limited.limitResponse.queuing.handSize: Invalid value: 65: should not be greater \
             than queues (64)",
        ]),
        changed("/spec/limited/limitResponse/queuing/handSize", json!(11), &[
            "spec.limited.limitResponse.queuing.handSize: Invalid value: 11: required entropy bits \
             of deckSize 64 and handSize 11 should not be greater than 60",
        ]),
    ])
    .await;
    kind.shows(
        "Name,Type,NominalConcurrencyShares,Queues,HandSize,QueueLengthLimit,Age",
        json!(["p", "Limited", 30, 64, 8, 50]),
    )
    .await;
    let path = format!("{FLOW}/prioritylevelconfigurations/exempt");
    let mut exempt = api.get(&path).await.expect(200);
    exempt["spec"]["exempt"]["lendablePercent"] = 50.into();
    api.put(&path, exempt).await.expect(200);
}

/// A request for a certificate of this name, as the API has it.
fn csr(name: &str) -> Value {
    let key = rcgen::KeyPair::generate().unwrap();
    let request = rcgen::CertificateParams::new(vec![name.into()]).unwrap();
    let pem = request.serialize_request(&key).unwrap().pem().unwrap();
    encoded(pem.as_bytes())
}

fn encoded(bytes: &[u8]) -> Value {
    use base64::Engine;
    base64::engine::general_purpose::STANDARD.encode(bytes).into()
}

#[tokio::test]
async fn certificate_signing_requests() {
    let admin = Api::start().await;
    let mut user = User::new("jane", &["system:masters"]);
    user.uid = "7".into();
    user.extra.insert("example.com/team".into(), vec!["a".into()]);
    let api = admin.as_user(user);
    let base = json!({"metadata": {"name": "Any Name"}, "spec": {"request": csr("jane"),
        "signerName": "example.com/s", "usages": ["client auth"], "username": "root"},
        "status": {"conditions": [{"type": "Approved", "status": "True"}]}});
    let kind = Kind { api: &api, path: CSR, base: with(&base, "/metadata/name", json!("a")) };
    let created = kind.create().await;
    let spec = &created["spec"];
    assert_eq!((&spec["username"], &spec["uid"]), (&json!("jane"), &json!("7")));
    assert_eq!(spec["groups"], json!(["system:masters", "system:authenticated"]));
    assert_eq!(spec["extra"], json!({"example.com/team": ["a"]}));
    assert_eq!(created["status"], json!({}));
    kind.refuses(&[
        changed("/spec/usages", json!([]), &["spec.usages: Required value"]),
        changed("/spec/usages", json!(["any", "any"]), &[
            "spec.usages[1]: Duplicate value: \"any\"",
        ]),
        changed("/spec/signerName", json!("a"), &[
            "spec.signerName: Invalid value: \"a\": must be a fully qualified domain and path of \
             the form 'example.com/signer-name'",
        ]),
        changed("/spec/signerName", json!("kubernetes.io/legacy-unknown"), &[
            "spec.signerName: Invalid value: \"kubernetes.io/legacy-unknown\": the legacy \
             signerName is not allowed via this API version",
        ]),
        changed("/spec/expirationSeconds", json!(599), &[
            "spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 \
             seconds (10 minutes)",
        ]),
        changed("/spec/request", json!("eA=="), &[
            "spec.request: Invalid value: \"eA==\": PEM block type must be CERTIFICATE REQUEST",
        ]),
    ])
    .await;
    // What was asked for cannot be changed, and nobody is told.
    kind.update("/spec/usages", json!(["any"])).await;
    assert_eq!(kind.get().await["spec"]["usages"], json!(["client auth"]));

    let object = format!("{CSR}/a");
    let approved = json!([{"type": "Approved", "status": "True", "reason": "Fine"}]);
    let approval = with(&kind.get().await, "/status/conditions", approved.clone());
    let reply = api.put(&format!("{object}/status"), approval.clone()).await;
    assert_eq!(reply.code, 422);
    assert!(reply.message().ends_with("updates may not add a condition of type \"Approved\""));
    let written = api.put(&format!("{object}/approval"), approval).await.expect(200);
    let condition = &written["status"]["conditions"][0];
    assert!(condition["lastUpdateTime"].is_string() && condition["lastTransitionTime"].is_string());
    let reply = api.merge(&format!("{object}/approval"), json!({"status": null})).await;
    assert!(reply.message().ends_with("updates may not remove a condition of type \"Approved\""));
    let denied =
        json!({"status": {"conditions": [approved[0], {"type": "Denied", "status": "True"}]}});
    let reply = api.merge(&format!("{object}/approval"), denied).await;
    assert!(reply.message().contains("Approved and Denied conditions are mutually exclusive"));

    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["jane".into()]).unwrap();
    let certificate = encoded(params.self_signed(&key).unwrap().pem().as_bytes());
    let issue = json!({"status": {"certificate": certificate}});
    let junk = json!({"status": {"certificate": "eA=="}});
    let message = api.merge(&format!("{object}/status"), junk).await.message();
    assert!(message.contains("must contain at least one CERTIFICATE PEM block"), "{message}");
    api.merge(&format!("{object}/status"), issue).await.expect(200);
    kind.shows(
        "Name,Age,SignerName,Requestor,RequestedDuration,Condition",
        json!(["a", null, "example.com/s", "jane", "<none>", "Approved,Issued"]),
    )
    .await;
    let found = api.get(&format!("{CSR}?fieldSelector=spec.signerName%3Dexample.com%2Fs")).await;
    assert_eq!(found.expect(200)["items"].as_array().unwrap().len(), 1);
}

/// Made at the start, left alone by the next start, and made again when they are deleted.
#[tokio::test]
async fn what_every_cluster_has() {
    let dir = tempfile::tempdir().unwrap();
    let mut api = Api::start().await;
    let list = async |api: &Api, path: &str| -> Vec<Value> {
        api.get(path).await.expect(200)["items"].as_array().unwrap().clone()
    };
    assert_eq!(list(&api, &format!("{FLOW}/flowschemas")).await.len(), 13);
    assert_eq!(list(&api, &format!("{FLOW}/prioritylevelconfigurations")).await.len(), 8);
    let classes = "/apis/scheduling.k8s.io/v1/priorityclasses";
    let value = |class: &Value| class["value"].as_i64().unwrap();
    let values: Vec<i64> = list(&api, classes).await.iter().map(value).collect();
    assert_eq!(values, [2_000_000_000, 2_000_001_000]);
    let range = "/apis/networking.k8s.io/v1/servicecidrs/kubernetes";
    let range = api.get(range).await.expect(200);
    assert_eq!(range["spec"]["cidrs"], json!(["10.96.0.0/12"]));
    assert_eq!(range["status"]["conditions"][0]["type"], "Ready");

    let stop = CancellationToken::new();
    let serving = tokio::spawn(api.server.take().unwrap().serve(stop.clone()));
    let path = format!("{FLOW}/flowschemas/probes");
    let mut watch = api.watch(&format!("{FLOW}/flowschemas?watch=true&resourceVersion=1")).await;
    api.delete(&path).await.expect(200);
    while watch.short().await != "DELETED probes" {}
    assert_eq!(watch.short().await, "ADDED probes");
    stop.cancel();
    serving.await.unwrap();

    let first = revisions_after_start(dir.path()).await;
    assert_eq!(revisions_after_start(dir.path()).await, first);
}

/// Starts a server over the store in `dir`, and stops it: when its objects were last written.
async fn revisions_after_start(dir: &std::path::Path) -> Vec<u64> {
    let start = async {
        loop {
            let mut options = options(dir, &[]);
            options.ephemeral = false;
            // A store that was just closed may still be locked.
            match apiserver::Server::start(options, Clock::system(), Rng::seeded(7)).await {
                Err(apiserver::ServerError::Store(StoreError::Locked { .. })) => {
                    tokio::task::yield_now().await;
                }
                server => return server.unwrap(),
            }
        }
    };
    let limit = std::time::Duration::from_secs(10);
    let server = Clock::system().timeout(limit, start).await.expect("the store is let go");
    let revision = |row: &Row, name: &str| {
        server.registry().of(row).cache.get("", name).expect("made at the start").revision
    };
    let revisions = vec![
        revision(&kind::FLOW_SCHEMA, "exempt"),
        revision(&kind::FLOW_SCHEMA, "probes"),
        revision(&kind::PRIORITY_LEVEL_CONFIGURATION, "system"),
        revision(&kind::PRIORITY_CLASS, "system-node-critical"),
        revision(&kind::SERVICE_CIDR, "kubernetes"),
    ];
    let stop = CancellationToken::new();
    stop.cancel();
    server.serve(stop).await;
    revisions
}
