//! Webhooks, admission policies and devices, over HTTP: what is refused, what is set, what is shown.

#[path = "http/api.rs"]
mod api;
#[path = "http/rules.rs"]
mod rules;

use api::Api;
use rules::{Case, Kind, errors, with};
use serde_json::{Value, json};

const ADMISSION: &str = "/apis/admissionregistration.k8s.io/v1";
const RESOURCE: &str = "/apis/resource.k8s.io/v1";

fn changed(pointer: &'static str, value: Value, errors: &'static [&'static str]) -> Case {
    Case { pointer, value, errors }
}

fn rule() -> Value {
    json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]})
}

#[tokio::test]
async fn webhooks() {
    let api = Api::start().await;
    let base = json!({"metadata": {"name": "w"}, "webhooks": [{"name": "h.example.com",
        "clientConfig": {"service": {"namespace": "n", "name": "s"}}, "rules": [rule()],
        "sideEffects": "None", "admissionReviewVersions": ["v1"]}]});
    let url = format!("{ADMISSION}/mutatingwebhookconfigurations");
    let kind = Kind { api: &api, path: &url, base };
    let created = kind.create().await;
    let hook = &created["webhooks"][0];
    for (field, value) in [
        ("failurePolicy", json!("Fail")),
        ("matchPolicy", json!("Equivalent")),
        ("reinvocationPolicy", json!("Never")),
        ("timeoutSeconds", json!(10)),
        ("namespaceSelector", json!({})),
        ("objectSelector", json!({})),
    ] {
        assert_eq!(hook[field], value, "{field}");
    }
    assert_eq!(hook["rules"][0]["scope"], "*");
    assert_eq!(hook["clientConfig"]["service"]["port"], 443);
    kind.refuses(&[
        changed("/webhooks/0/name", json!("h"), &[
            "webhooks[0].name: Invalid value: \"h\": should be a domain with at least three \
             segments separated by dots",
        ]),
        changed("/webhooks/0/sideEffects", json!("Some"), &[
            "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \
             \"NoneOnDryRun\"",
        ]),
        changed("/webhooks/0/sideEffects", Value::Null, &[
            "webhooks[0].sideEffects: Required value: must specify one of None, NoneOnDryRun",
        ]),
        changed("/webhooks/0/timeoutSeconds", json!(31), &[
            "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 \
             and 30 seconds",
        ]),
        changed("/webhooks/0/clientConfig", json!({}), &[
            "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
        ]),
        changed("/webhooks/0/clientConfig", json!({"url": "http://u@h/p?q"}), &[
            "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed \
             URL scheme; desired format: https://host[/path]",
            "webhooks[0].clientConfig.url: Invalid value: \"u\": user information is not permitted \
             in the URL",
            "webhooks[0].clientConfig.url: Invalid value: \"q\": query parameters are not \
             permitted in the URL",
        ]),
        changed("/webhooks/0/clientConfig/service/path", json!("/a//b"), &[
            "webhooks[0].clientConfig.service.path: Invalid value: \"/a//b\": segment[1] may not \
             be empty",
        ]),
        changed("/webhooks/0/admissionReviewVersions", json!(["v2"]), &[
            "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\"]: must include at least \
             one of v1, v1beta1",
        ]),
        changed("/webhooks/0/rules/0/operations", json!(["*", "READ"]), &[
            "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"READ\"]: if '*' is present, \
             must not specify other operations",
            "webhooks[0].rules[0].operations[1]: Unsupported value: \"READ\": supported values: \
             \"*\", \"CONNECT\", \"CREATE\", \"DELETE\", \"UPDATE\"",
        ]),
        changed("/webhooks/0/rules/0/resources", json!(["pods/*", "pods/log"]), &[
            "webhooks[0].rules[0].resources[1]: Invalid value: \"pods/log\": if 'pods/*' is \
             present, must not specify pods/log",
        ]),
        changed("/webhooks/0/matchConditions", json!([{"name": "a"}]), &[
            "webhooks[0].matchConditions[0].expression: Required value",
        ]),
    ])
    .await;
    kind.keeps(&[changed("/webhooks/0/timeoutSeconds", json!(5), &[])]).await;
    assert_eq!(kind.get().await["metadata"]["generation"], 2);
    kind.shows("Name,Webhooks,Age", json!(["w", 1])).await;
}

#[tokio::test]
async fn admission_policies() {
    let api = Api::start().await;
    let base = json!({"metadata": {"name": "p.example.com"}, "spec": {
        "matchConstraints": {"resourceRules": [rule()]},
        "validations": [{"expression": "true"}]}});
    let kind = Kind { api: &api, path: &format!("{ADMISSION}/validatingadmissionpolicies"), base };
    let created = kind.create().await;
    assert_eq!(created["spec"]["failurePolicy"], "Fail");
    let matched = &created["spec"]["matchConstraints"];
    assert_eq!(
        (&matched["matchPolicy"], &matched["objectSelector"]),
        (&json!("Equivalent"), &json!({}))
    );
    kind.refuses(&[
        changed("/spec/matchConstraints", Value::Null, &["spec.matchConstraints: Required value"]),
        changed("/spec/validations", json!([]), &[
            "spec.validations: Required value: validations or auditAnnotations must contain at \
             least one item",
            "spec.auditAnnotations: Required value: validations or auditAnnotations must contain \
             at least one item",
        ]),
        changed("/spec/validations/0", json!({"message": "a\nb"}), &[
            "spec.validations[0].expression: Required value: expression is not specified",
            "spec.validations[0].message: Invalid value: \"a\\nb\": message must not contain line \
             breaks",
        ]),
        changed("/spec/variables", json!([{"name": "in", "expression": "1"}]), &[
            "spec.variables[0].name: Invalid value: \"in\": name is not a valid CEL identifier",
        ]),
        changed("/spec/paramKind", json!({"apiVersion": "v1"}), &[
            "spec.paramKind.kind: Required value",
        ]),
    ])
    .await;
    let columns = "Name,Validations,ParamKind,Age";
    kind.shows(columns, json!(["p.example.com", 1, "<unset>"])).await;

    let base = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p.example.com",
        "paramRef": {"name": "c", "parameterNotFoundAction": "Deny"},
        "validationActions": ["Deny"]}});
    let url = format!("{ADMISSION}/validatingadmissionpolicybindings");
    let kind = Kind { api: &api, path: &url, base };
    kind.create().await;
    kind.refuses(&[
        changed("/spec/policyName", json!(""), &["spec.policyName: Required value"]),
        changed(
            "/spec/validationActions",
            json!([]),
            &["spec.validationActions: Required value: at least one validation action is required"],
        ),
        changed(
            "/spec/paramRef/selector",
            json!({}),
            &[
                "spec.paramRef.name: Forbidden: name and selector are mutually exclusive",
                "spec.paramRef.selector: Forbidden: name and selector are mutually exclusive",
            ],
        ),
        changed(
            "/spec/paramRef/parameterNotFoundAction",
            Value::Null,
            &["spec.paramRef.parameterNotFoundAction: Required value"],
        ),
    ])
    .await;
    kind.shows("Name,PolicyName,ParamRef,Age", json!(["b", "p.example.com", "c"])).await;

    let base = json!({"metadata": {"name": "m"}, "spec": {"reinvocationPolicy": "Never",
        "matchConstraints": {"resourceRules": [rule()]},
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}]}});
    let kind = Kind { api: &api, path: &format!("{ADMISSION}/mutatingadmissionpolicies"), base };
    kind.create().await;
    kind.refuses(&[
        changed(
            "/spec/reinvocationPolicy",
            json!(""),
            &["spec.reinvocationPolicy: Required value"],
        ),
        changed(
            "/spec/mutations",
            json!([]),
            &["spec.mutations: Required value: mutations must contain at least one item"],
        ),
        changed(
            "/spec/mutations/0/patchType",
            json!("Merge"),
            &["spec.mutations[0].patchType: Unsupported value: \"Merge\": supported values: \
             \"ApplyConfiguration\", \"JSONPatch\""],
        ),
    ])
    .await;
    kind.shows("Name,Mutations,ParamKind,Age", json!(["m", 1, "<unset>"])).await;
}

#[tokio::test]
async fn device_claims() {
    let api = Api::start().await;
    let base = json!({"metadata": {"name": "c"}, "spec": {"devices": {
        "requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}}});
    let url = format!("{RESOURCE}/namespaces/default/resourceclaims");
    let kind = Kind { api: &api, path: &url, base };
    let created = kind.create().await;
    let exactly = &created["spec"]["devices"]["requests"][0]["exactly"];
    assert_eq!((&exactly["allocationMode"], &exactly["count"]), (&json!("ExactCount"), &json!(1)));
    let exactly = "/spec/devices/requests/0/exactly/selectors";
    selectors(&kind, exactly, "spec.devices.requests[0].exactly.selectors").await;
    kind.refuses(&[
        changed("/spec/devices/requests/0/exactly", Value::Null, &[
            "spec.devices.requests[0]: Required value: exactly one of `exactly` or \
             `firstAvailable` is required",
        ]),
        changed("/spec/devices/requests/0/exactly/count", json!(-1), &[
            "spec.devices.requests[0].exactly.count: Invalid value: -1: must be greater than zero",
        ]),
        changed("/spec/devices/requests/0/exactly/deviceClassName", json!(""), &[
            "spec.devices.requests[0].exactly.deviceClassName: Required value",
        ]),
        changed("/spec/devices/requests/0/exactly/selectors", json!([{}]), &[
            "spec.devices.requests[0].exactly.selectors[0].cel: Required value",
        ]),
        changed("/spec/devices/constraints", json!([{"requests": ["x"], "matchAttribute": "a/b"}]), &[
            "spec.devices.constraints[0].requests[0]: Invalid value: \"x\": must be the name of a \
             request in the claim or the name of a request and a subrequest separated by '/'",
        ]),
        changed("/spec/devices/config", json!([{"requests": ["r"]}]), &[
            "spec.devices.config[0].opaque: Required value",
        ]),
    ])
    .await;
    let found = kind.update("/spec/devices/requests/0/name", json!("s")).await;
    assert!(found[0].starts_with("spec: Invalid value: {"), "{found:?}");
    kind.shows("Name,State,Age", json!(["c", "pending"])).await;

    let status = format!("{url}/c/status");
    let consumer = json!({"resource": "pods", "name": "p", "uid": "1"});
    let reserved = json!({"status": {"reservedFor": [consumer]}});
    assert_eq!(
        errors(&api.merge(&status, reserved).await),
        ["status.reservedFor: Forbidden: may not be specified when `allocated` is not set",]
    );
    let result = json!({"request": "r", "driver": "d.example.com", "pool": "n", "device": "g0"});
    let allocation = json!({"devices": {"results": [result]}});
    let all = json!({"status": {"allocation": allocation, "reservedFor": [consumer]}});
    let bad = with(&all, "/status/allocation/devices/results/0/request", json!("q"));
    assert!(errors(&api.merge(&status, bad).await)[0].contains("must be the name of a request"));
    api.merge(&status, all).await.expect(200);
    let other = json!({"status": {"allocation": {"devices": {"results": []}}}});
    let found = errors(&api.merge(&status, other).await);
    assert!(found[0].ends_with("field is immutable"), "{found:?}");
    kind.shows("Name,State,Age", json!(["c", "allocated,reserved"])).await;

    let spec = kind.base["spec"].clone();
    let base = json!({"metadata": {"name": "t"}, "spec": {"spec": spec}});
    let url = format!("{RESOURCE}/namespaces/default/resourceclaimtemplates");
    let kind = Kind { api: &api, path: &url, base };
    kind.create().await;
    let found = kind.refused("/spec/metadata", json!({"labels": {"a b": ""}})).await;
    assert!(found[0].starts_with("spec.metadata.labels: Invalid value: \"a b\""), "{found:?}");
}

/// Expressions that cannot be used are not stored.
async fn selectors(kind: &Kind<'_>, pointer: &str, path: &str) {
    let all = |expression: &str| json!([{"cel": {"expression": expression}}]);
    let refused = async |expression: &str| kind.refused(pointer, all(expression)).await;
    let path = format!("{path}[0].cel.expression");
    let unknown = "device.driver == 'd' && nonsense";
    assert_eq!(
        refused(unknown).await,
        [format!(
            "{path}: Invalid value: {unknown:?}: compilation failed: ERROR: <input>:1:25: undeclared \
         reference to 'nonsense' (in container '')\n | {unknown}\n | ........................^"
        )]
    );
    let unread = refused("device.").await;
    let start = format!(
        "{path}: Invalid value: \"device.\": compilation failed: ERROR: <input>:1:8: Syntax error: "
    );
    assert!(unread[0].starts_with(&start), "{unread:?}");
    assert_eq!(
        refused("1 + 1").await,
        [format!(
            "{path}: Invalid value: \"1 + 1\": must evaluate to bool or the unknown type, not int"
        )]
    );
    let ten = "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10].all(x, ";
    let costly = format!("{}true{}", ten.repeat(7), ")".repeat(7));
    let too_complex = format!("{path}: Forbidden: too complex, exceeds cost limit");
    assert_eq!(refused(&costly).await, [too_complex]);
    let long = format!("device.driver == {:?}", "x".repeat(10 * 1024));
    let too_long = format!("{path}: Too long: may not be more than 10240 bytes");
    assert_eq!(refused(&long).await, [too_long]);
}

#[tokio::test]
async fn device_classes_and_slices() {
    let api = Api::start().await;
    let base = json!({"metadata": {"name": "gpu"}, "spec": {"selectors": [
        {"cel": {"expression": "true"}}]}});
    let kind = Kind { api: &api, path: &format!("{RESOURCE}/deviceclasses"), base };
    kind.create().await;
    kind.refuses(&[
        changed("/spec/extendedResourceName", json!("cpu"), &[
            "spec.extendedResourceName: Invalid value: \"cpu\": must be a valid extended resource \
             name",
        ]),
        changed("/spec/config", json!([{"opaque": {"driver": "d", "parameters": 1}}]), &[
            "spec.config[0].opaque.parameters: Invalid value: \"<value omitted>\": must be a valid \
             JSON object",
        ]),
    ])
    .await;
    kind.keeps(&[changed("/spec/selectors", json!([]), &[])]).await;
    assert_eq!(kind.get().await["metadata"]["generation"], 2);
    selectors(&kind, "/spec/selectors", "spec.selectors").await;

    let device = json!({"name": "g0", "attributes": {"model": {"string": "a"}},
        "taints": [{"key": "broken", "effect": "NoSchedule"}]});
    let base = json!({"metadata": {"name": "s"}, "spec": {"driver": "d.example.com",
        "pool": {"name": "n", "generation": 1, "resourceSliceCount": 1}, "nodeName": "n",
        "devices": [device]}});
    let url = format!("{RESOURCE}/resourceslices");
    let kind = Kind { api: &api, path: &url, base };
    let created = kind.create().await;
    assert!(created["spec"]["devices"][0]["taints"][0]["timeAdded"].is_string());
    kind.refuses(&[
        changed("/spec/nodeName", Value::Null, &[
            "spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, \
             `perDeviceNodeSelection` is required",
        ]),
        changed("/spec/allNodes", json!(true), &[
            "spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of `nodeName`, \
             `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields \
             are set",
        ]),
        changed("/spec/pool/resourceSliceCount", json!(0), &[
            "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
        ]),
        changed("/spec/devices/0/attributes", json!({"model": {}}), &[
            "spec.devices[0].attributes[model]: Invalid value: \"\": exactly one value must be \
             specified",
        ]),
        changed("/spec/devices/0/attributes", json!({"v": {"version": "1.02.3"}}), &[
            "spec.devices[0].attributes[v].version: Invalid value: \"1.02.3\": must be a string \
             compatible with semver.org spec 2.0.0",
        ]),
        changed("/spec/devices/0/taints/0/effect", json!("Maybe"), &[
            "spec.devices[0].taints[0].effect: Unsupported value: \"Maybe\": supported values: \
             \"NoExecute\", \"NoSchedule\", \"None\"",
        ]),
    ])
    .await;
    kind.keeps(&[changed(
        "/spec/driver",
        json!("e.example.com"),
        &["spec.driver: Invalid value: \"e.example.com\": field is immutable"],
    )])
    .await;
    kind.shows("Name,Node,Driver,Pool,Age", json!(["s", "n", "d.example.com", "n"])).await;
    let found = api.get(&format!("{url}?fieldSelector=spec.nodeName%3Dm")).await.expect(200);
    assert_eq!(found["items"], json!([]));
}

/// Admin access is for namespaces that are marked for it, in claims, in templates and in what is
/// allocated.
#[tokio::test]
async fn admin_access_to_devices() {
    const REFUSAL: &str = "admin access to devices requires the \
        `resource.kubernetes.io/admin-access: true` label on the containing namespace";
    let api = Api::start().await;
    let labels = json!({"resource.kubernetes.io/admin-access": "true"});
    api.post("/api/v1/namespaces", json!({"metadata": {"name": "admins", "labels": labels}}))
        .await
        .expect(201);
    let exactly = |admin: bool| json!({"deviceClassName": "gold", "adminAccess": admin});
    let devices = |admin: bool| {
        json!({"devices": {"requests": [{"name": "a", "exactly": exactly(false)},
            {"name": "b", "exactly": exactly(admin)}]}})
    };
    let claim = |admin: bool| json!({"metadata": {"name": "c"}, "spec": devices(admin)});
    let template = json!({"metadata": {"name": "t"}, "spec": {"spec": devices(true)}});
    let path =
        |namespace: &str, resource: &str| format!("{RESOURCE}/namespaces/{namespace}/{resource}");
    for (resource, kind, object) in [
        ("resourceclaims", "ResourceClaim", claim(true)),
        ("resourceclaimtemplates", "ResourceClaimTemplate", template),
    ] {
        let name = object["metadata"]["name"].as_str().unwrap();
        let refused = api.post(&path("default", resource), object.clone()).await.expect(422);
        assert_eq!(
            refused["message"],
            format!(
                "{kind}.resource.k8s.io \"{name}\" is invalid: spec.devices.requests[1].adminAccess: \
                 Forbidden: {REFUSAL}"
            )
        );
        api.post(&path("admins", resource), object).await.expect(201);
    }
    let claims = path("default", "resourceclaims");
    api.post(&claims, claim(false)).await.expect(201);
    let allocate = |admin: bool, share: &str| {
        json!({"status": {"allocation": {"devices": {"results": [{"request": "b",
            "driver": "d.example.com", "pool": "p", "device": "x", "adminAccess": admin,
            "shareID": share}]}}}})
    };
    let (status, uid) = (format!("{claims}/c/status"), "0a1b2c3d-0000-4000-8000-000000000000");
    let refused = api.merge(&status, allocate(true, uid)).await.expect(422);
    assert_eq!(
        refused["message"],
        format!(
            "ResourceClaim.resource.k8s.io \"c\" is invalid: \
             status.allocation.devices.results[0].adminAccess: Forbidden: {REFUSAL}"
        )
    );
    let refused = api.merge(&status, allocate(false, "one")).await.expect(422);
    assert!(
        refused["message"].as_str().unwrap().ends_with(
            "results[0].shareID: Invalid value: \"one\": error validating uid: invalid UUID \
             length: 3"
        ),
        "{refused}"
    );
    api.merge(&status, allocate(false, uid)).await.expect(200);
}

/// What has no effect yet says so where it is written.
#[tokio::test]
async fn what_is_kept_and_not_used_is_warned_of() {
    let api = Api::start().await;
    let webhook = json!({"name": "h.example.com", "clientConfig": {"url": "https://h.example.com"},
        "rules": [rule()], "sideEffects": "None", "admissionReviewVersions": ["v1"]});
    let spec = json!({"policyName": "p", "validationActions": ["Deny"]});
    for (resource, object, said) in [
        ("validatingwebhookconfigurations", json!({"webhooks": [webhook]}), "calls no webhooks"),
        ("validatingadmissionpolicybindings", json!({ "spec": spec }), "does not evaluate"),
    ] {
        let mut object = object;
        object["metadata"] = json!({"name": "x"});
        let made = api.post(&format!("{ADMISSION}/{resource}"), object).await;
        assert_eq!(made.code, 201, "{}", made.text());
        let warnings = made.warnings();
        assert!(matches!(&warnings[..], [one] if one.contains(said)), "{warnings:?}");
    }
}
