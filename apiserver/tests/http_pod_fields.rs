//! What pods and templates may say, over HTTP: what is taken comes back as it was sent, what is
//! refused names the field in upstream's words, and what a gate keeps off is dropped with a
//! warning.

#[path = "http/api.rs"]
mod api;

#[path = "http/pod_security.rs"]
mod security;
#[path = "http/pod_volumes.rs"]
mod volumes;

use api::{Api, DEPLOYMENTS, PODS, pod};
use serde_json::{Value, json};

const SUBDOMAIN: &str = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric \
    characters, '-' or '.', and must start and end with an alphanumeric character (e.g. \
    'example.com', regex used for validation is \
    '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
const LABEL: &str = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters \
    or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', \
    regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')";

/// Merges an object into another, field by field.
fn merge(base: &mut Value, more: &Value) {
    match (base, more) {
        (Value::Object(base), Value::Object(more)) => {
            for (key, value) in more {
                merge(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, more) => *base = more.clone(),
    }
}

/// Whether everything in `part` is in `whole`.
fn holds(whole: &Value, part: &Value) -> bool {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            part.iter().all(|(key, value)| whole.get(key).is_some_and(|it| holds(it, value)))
        }
        (Value::Array(whole), Value::Array(part)) => {
            whole.len() == part.len()
                && whole.iter().zip(part).all(|(whole, part)| holds(whole, part))
        }
        (whole, part) => whole == part,
    }
}

fn causes(status: &Value) -> Vec<String> {
    let causes = status["details"]["causes"].as_array().into_iter().flatten();
    causes
        .map(|cause| format!("{}: {}", cause["field"].as_str().unwrap(), text(&cause["message"])))
        .collect()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_string()
}

impl Api {
    /// Sends a pod and a Deployment with this in their specs, without keeping them: both are taken
    /// as they are, or both refused with these causes (the pod's paths).
    async fn both(&self, spec: &Value, expected: &[&str]) {
        let mut object = pod("p");
        // Its token would be one more volume.
        object["spec"]["automountServiceAccountToken"] = false.into();
        merge(&mut object["spec"], spec);
        let reply = self.post(&format!("{PODS}?dryRun=All"), object.clone()).await;
        let (code, answer) = (reply.code, reply.json());
        assert_eq!(causes(&answer), expected, "{spec}: {}", answer["message"]);
        assert_eq!(code, if expected.is_empty() { 201 } else { 422 }, "{spec}: {answer}");
        if expected.is_empty() {
            assert!(holds(&answer["spec"], spec), "{spec}\n{}", answer["spec"]);
        }
        let deployment = json!({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"},
            "spec": {
                "selector": {"matchLabels": {"a": "b"}},
                "template": {"metadata": {"labels": {"a": "b"}}, "spec": object["spec"]},
            },
        });
        let answer = self.post(&format!("{DEPLOYMENTS}?dryRun=All"), deployment).await.json();
        let of_template: Vec<String> =
            expected.iter().map(|cause| format!("spec.template.{cause}")).collect();
        assert_eq!(causes(&answer), of_template, "{spec}: {}", answer["message"]);
        if expected.is_empty() {
            let kept = &answer["spec"]["template"]["spec"];
            assert!(holds(kept, spec), "{spec}\n{kept}");
        }
    }

    async fn create(&self, spec: Value, expected: &[&str]) {
        let mut object = pod("p");
        merge(&mut object["spec"], &spec);
        let answer = self.post(&format!("{PODS}?dryRun=All"), object).await.json();
        assert_eq!(causes(&answer), expected, "{spec}: {}", answer["message"]);
    }
}

fn container(more: Value) -> Value {
    let mut container = json!({"name": "c", "image": "i:1"});
    merge(&mut container, &more);
    container
}

/// A spec whose one container has this, too.
fn with(more: Value) -> Value {
    json!({ "containers": [container(more)] })
}

#[tokio::test]
async fn resource_claims() {
    let api = Api::start().await;
    let claims = |list: Value, used: Value| {
        let mut spec = with(json!({"resources": {"claims": used}}));
        spec["resourceClaims"] = list;
        spec
    };
    let two = json!([
        {"name": "a", "resourceClaimName": "x"}, {"name": "b", "resourceClaimTemplateName": "y"},
    ]);
    for (list, used, expected) in [
        (two.clone(), json!([{"name": "a"}, {"name": "b", "request": "r"}]), &[][..]),
        (
            json!([{"name": "A", "resourceClaimName": "X"}]),
            json!([]),
            &[
                &*format!("spec.resourceClaims[0].name: Invalid value: \"A\": {LABEL}"),
                &*format!(
                    "spec.resourceClaims[0].resourceClaimName: Invalid value: \"X\": {SUBDOMAIN}"
                ),
            ],
        ),
        (
            json!([{"name": "a", "resourceClaimName": "x", "resourceClaimTemplateName": "y"},
                {"name": "b"}]),
            json!([]),
            &[
                "spec.resourceClaims[0]: Invalid value: {\"Name\":\"a\",\"ResourceClaimName\":\
                 \"x\",\"ResourceClaimTemplateName\":\"y\"}: at most one of `resourceClaimName` \
                 or `resourceClaimTemplateName` may be specified",
                "spec.resourceClaims[1]: Invalid value: {\"Name\":\"b\",\"ResourceClaimName\":\
                 null,\"ResourceClaimTemplateName\":null}: must specify one of: \
                 `resourceClaimName`, `resourceClaimTemplateName`",
            ],
        ),
        (
            json!([{"resourceClaimName": "x"}]),
            json!([]),
            &["spec.resourceClaims[0].name: Required value"],
        ),
        (
            two.clone(),
            json!([{"name": "a", "request": "r"}, {"name": "a"}, {"name": "a"}]),
            &[
                "spec.containers[0].resources.claims[1]: Duplicate value: \"a\"",
                "spec.containers[0].resources.claims[2]: Duplicate value: \"a\"",
            ],
        ),
        (
            two.clone(),
            json!([{"name": "c"}]),
            &[
                "spec.containers[0].resources.claims[0]: Not found: \"c\": must be one of the names \
               in pod.spec.resourceClaims: a, b",
            ],
        ),
        (
            json!([]),
            json!([{"name": "c"}]),
            &[
                "spec.containers[0].resources.claims[0]: Not found: \"c\": must be one of the names \
               in pod.spec.resourceClaims which is empty",
            ],
        ),
    ] {
        let spec = claims(list, used);
        // What is empty is not sent back.
        let spec: Value = match spec["resourceClaims"].as_array().unwrap().is_empty() {
            true => with(json!({"resources": spec["containers"][0]["resources"]})),
            false => spec,
        };
        let spec = match spec["containers"][0]["resources"]["claims"].as_array() {
            Some(used) if used.is_empty() => json!({"resourceClaims": spec["resourceClaims"]}),
            _ => spec,
        };
        api.both(&spec, expected).await;
    }
    let duplicate = json!({"resourceClaims": [
        {"name": "a", "resourceClaimName": "x"}, {"name": "a", "resourceClaimName": "x"},
    ]});
    api.create(duplicate, &["spec.resourceClaims[1].name: Duplicate value: \"a\""]).await;
    claims_of_a_pod(&api, two).await;
}

/// Claims are for ever, and their status names only them.
async fn claims_of_a_pod(api: &Api, claims: Value) {
    let mut object = pod("p");
    object["spec"]["resourceClaims"] = claims;
    api.post(PODS, object).await.expect(201);
    let path = format!("{PODS}/p");
    let change = json!({"spec": {"resourceClaims": [{"name": "a", "resourceClaimName": "z"}]}});
    let reply = api.patch(&path, "strategic-merge-patch+json", change).await;
    assert_eq!(reply.code, 422);
    assert!(reply.message().contains("pod updates may not change fields"), "{}", reply.message());
    let status = format!("{path}/status");
    let known = json!({"status": {"resourceClaimStatuses": [
        {"name": "b", "resourceClaimName": "p-b-x"},
    ]}});
    let kept = api.patch(&status, "merge-patch+json", known.clone()).await.expect(200);
    assert_eq!(kept["status"]["resourceClaimStatuses"], known["status"]["resourceClaimStatuses"]);
    let unknown = json!({"status": {"resourceClaimStatuses": [{"name": "z"}, {"name": "z"}]}});
    let answer = api.patch(&status, "merge-patch+json", unknown).await.expect(422);
    let unmatched = "Invalid value: \"z\": must match the name of an entry in \
        `spec.resourceClaims`";
    assert_eq!(
        causes(&answer),
        [
            format!("status.resourceClaimStatuses[0].name: {unmatched}"),
            format!("status.resourceClaimStatuses[1].name: {unmatched}"),
            "status.resourceClaimStatuses[1].name: Duplicate value: \"z\"".to_string(),
        ]
    );
}

#[tokio::test]
async fn pod_level_resources() {
    let api = Api::start().await;
    let half = json!({"requests": {"cpu": "500m"}, "limits": {"cpu": "1"}});
    for (own, expected) in [
        (json!({"requests": {"cpu": "1", "memory": "1Gi"}}), &[][..]),
        (
            json!({"requests": {"cpu": "200m"}}),
            &["spec.resources.requests[cpu]: Invalid value: \"200m\": must be greater than or \
               equal to aggregate container requests of 500m"],
        ),
        (
            json!({"limits": {"cpu": "600m"}, "requests": {"cpu": "600m"}}),
            &["spec.resources.containers[0][cpu].limits: Invalid value: \"1\": must be less than \
               or equal to pod limits of 600m"],
        ),
        (
            json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}),
            &["spec.resources.requests: Invalid value: \"2\": must be less than or equal to cpu \
               limit of 1"],
        ),
        (
            json!({"requests": {"example.com/gpu": "1"}, "limits": {"example.com/gpu": "1"}}),
            &[
                "spec.resources.limits[example.com/gpu]: Unsupported value: \
                 \"example.com/gpu\": supported values: \"cpu\", \"hugepages-\", \"memory\"",
                "spec.resources.requests[example.com/gpu]: Unsupported value: \
                 \"example.com/gpu\": supported values: \"cpu\", \"hugepages-\", \"memory\"",
            ],
        ),
    ] {
        let mut spec = with(json!({ "resources": half }));
        spec["resources"] = own;
        api.both(&spec, expected).await;
    }
    let mut object = pod("p");
    merge(&mut object["spec"], &with(json!({ "resources": half })));
    object["spec"]["resources"] = json!({"limits": {"cpu": "2", "memory": "1Gi"}});
    let made = api.post(PODS, object).await.expect(201);
    assert_eq!(
        made["spec"]["resources"],
        json!({
            "limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "500m", "memory": "1Gi"},
        })
    );
    assert_eq!(made["status"]["qosClass"], "Burstable");
    let resize = format!("{PODS}/p/resize");
    let more = json!({"spec": {"resources": {"limits": {"cpu": "3"}, "requests": {"cpu": "1"}}}});
    let resized = api.patch(&resize, "merge-patch+json", more).await.expect(200);
    assert_eq!(resized["spec"]["resources"]["limits"]["cpu"], "3");
    assert_eq!(resized["spec"]["resources"]["requests"]["cpu"], "1");
    assert_eq!(resized["metadata"]["generation"], 2);
    let none = json!({"spec": {"resources": {"limits": {"memory": null}}}});
    let answer = api.patch(&resize, "merge-patch+json", none).await.expect(422);
    assert_eq!(
        causes(&answer),
        ["spec.resources.limits: Forbidden: pod-level resource limits cannot be removed"]
    );
    let status = json!({"status": {
        "resources": {"requests": {"cpu": "1"}}, "allocatedResources": {"cpu": "1"},
    }});
    let path = format!("{PODS}/p/status");
    let kept = api.patch(&path, "merge-patch+json", status.clone()).await.expect(200);
    assert!(holds(&kept["status"], &status["status"]), "{}", kept["status"]);
}

#[tokio::test]
async fn quotas_count_the_pod_as_a_whole() {
    let api = Api::start().await;
    let quotas = "/api/v1/namespaces/default/resourcequotas";
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"requests.cpu": "3"}}});
    api.post(quotas, quota).await.expect(201);
    let status = json!({"status": {"hard": {"requests.cpu": "3"}, "used": {"requests.cpu": "0"}}});
    api.patch(&format!("{quotas}/q/status"), "merge-patch+json", status).await.expect(200);
    let sized = |name: &str, cpu: &str| {
        let mut object = pod(name);
        object["spec"]["resources"] = json!({"requests": {"cpu": cpu}});
        object
    };
    api.post(PODS, sized("a", "2")).await.expect(201);
    let reply = api.post(PODS, sized("b", "2")).await;
    assert_eq!(reply.code, 403);
    assert!(
        reply.message().ends_with(
            "exceeded quota: q, requested: requests.cpu=2, used: requests.cpu=2, limited: \
             requests.cpu=3"
        ),
        "{}",
        reply.message()
    );
    let reply = api.post(PODS, pod("c")).await;
    assert!(reply.message().ends_with("must specify requests.cpu for: c"), "{}", reply.message());
    let ranges = "/api/v1/namespaces/default/limitranges";
    let range = json!({"metadata": {"name": "r"}, "spec": {"limits": [
        {"type": "Pod", "max": {"memory": "1Gi"}},
    ]}});
    api.post(ranges, range).await.expect(201);
    let mut object = sized("d", "1");
    object["spec"]["resources"]["limits"] = json!({"memory": "2Gi"});
    let reply = api.post(PODS, object).await;
    assert!(
        reply.message().ends_with("maximum memory usage per Pod is 1Gi, but limit is 2Gi"),
        "{}",
        reply.message()
    );
}

#[tokio::test]
async fn environment() {
    let api = Api::start().await;
    let env = |from: Value| {
        let mut spec = with(json!({"env": [{"name": "A", "valueFrom": from}]}));
        spec["volumes"] = json!([
            {"name": "files", "emptyDir": {}}, {"name": "host", "hostPath": {"path": "/a"}},
        ]);
        spec
    };
    let file = |volume: &str, path: &str, key: &str| json!({"fileKeyRef": {"volumeName": volume, "path": path, "key": key}});
    let at = "spec.containers[0].env[0].valueFrom";
    for (from, expected) in [
        (file("files", "a/env", "KEY"), vec![]),
        (
            file("files", "../env", "A=B"),
            vec![
                format!(
                    "{at}.fileKeyRef.key: Invalid value: \"A=B\": a valid environment variable \
                     name must consist only of printable ASCII characters other than '='"
                ),
                format!("{at}.fileKeyRef.path: Invalid value: \"../env\": must not contain '..'"),
            ],
        ),
        (
            json!({"fileKeyRef": {"volumeName": "files", "path": "", "key": ""}}),
            vec![
                format!("{at}.fileKeyRef.key: Required value"),
                format!("{at}.fileKeyRef.path: Required value"),
            ],
        ),
        (file("gone", "a", "K"), vec![format!("{at}.fileKeyRef.volumeName: Not found: \"gone\"")]),
        (
            file("host", "a", "K"),
            vec![format!(
                "{at}.fileKeyRef.volumeName: Invalid value: \"host\": referenced volume must be \
                 of type emptyDir"
            )],
        ),
        (
            json!({}),
            vec![format!(
                "{at}: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, \
                 `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`"
            )],
        ),
        (
            json!({"secretKeyRef": {"name": "", "key": "k"}}),
            vec![format!("{at}.secretKeyRef.name: Invalid value: \"\": {SUBDOMAIN}")],
        ),
    ] {
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        api.both(&env(from), &expected).await;
    }
    let spec = with(json!({"envFrom": [{}, {"configMapRef": {"name": "a-"}}]}));
    let sources = "spec.containers[0].envFrom: Invalid value: \"\": must specify one of: \
        `configMapRef` or `secretRef`";
    api.both(&spec, &[sources]).await;
}

#[tokio::test]
async fn restarts() {
    let api = Api::start().await;
    let rules = |policy: Value, rules: Value| {
        let mut spec = with(json!({ "restartPolicyRules": rules }));
        if !policy.is_null() {
            spec["containers"][0]["restartPolicy"] = policy;
        }
        spec
    };
    let rule = |action: &str, operator: &str| json!({"action": action, "exitCodes": {"operator": operator, "values": [1, 2]}});
    let many: Vec<Value> = (0..21).map(|_| rule("Restart", "In")).collect();
    for (policy, list, expected) in [
        (json!("Never"), json!([rule("Restart", "In")]), &[][..]),
        (json!("OnFailure"), json!([rule("RestartAllContainers", "NotIn")]), &[]),
        (
            Value::Null,
            json!([rule("Restart", "In")]),
            &["spec.containers[0].restartPolicy: Required value: must specify restartPolicy when \
               restart rules are used"],
        ),
        (
            json!("Sometimes"),
            json!([rule("Stop", "Equals"), {"action": "Restart"}]),
            &[
                "spec.containers[0].restartPolicy: Unsupported value: \"Sometimes\": supported \
                 values: \"Always\", \"Never\", \"OnFailure\"",
                "spec.containers[0].restartPolicyRules[0].action: Unsupported value: \"Stop\": \
                 supported values: \"Restart\", \"RestartAllContainers\"",
                "spec.containers[0].restartPolicyRules[0].exitCodes.operator: Unsupported value: \
                 \"Equals\": supported values: \"In\", \"NotIn\"",
                "spec.containers[0].restartPolicyRules[1].exitCodes: Required value: must be \
                 specified",
            ],
        ),
        (
            json!("Never"),
            json!(many),
            &["spec.containers[0].restartPolicyRules: Too many: 21: must have at most 20 items"],
        ),
    ] {
        api.both(&rules(policy, list), expected).await;
    }
    let init = json!({"initContainers": [
        container(json!({"name": "i", "restartPolicy": "OnFailure"})),
        container(json!({"name": "s", "restartPolicy": "Always",
            "restartPolicyRules": [rule("RestartAllContainers", "In")]})),
    ]});
    api.both(&init, &[]).await;
    let mut resize = with(json!({"resizePolicy": [
        {"resourceName": "cpu", "restartPolicy": "RestartContainer"},
    ]}));
    api.both(&resize, &[]).await;
    resize["restartPolicy"] = json!("Never");
    let expected = "spec.containers[0].resizePolicy: Invalid value: \"RestartContainer\": must be \
        'NotRequired' when pod `restartPolicy` is 'Never'";
    api.create(resize, &[expected]).await;
    may_run_again(&api).await;
}

/// A container whose rule has it started again may leave its end.
async fn may_run_again(api: &Api) {
    let rules = json!([{"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]);
    let mut object = pod("p");
    object["spec"]["restartPolicy"] = json!("Never");
    object["spec"]["containers"] = json!([
        container(json!({"restartPolicy": "Never", "restartPolicyRules": rules})),
        container(json!({"name": "d"})),
    ]);
    api.post(PODS, object).await.expect(201);
    let path = format!("{PODS}/p/status");
    let status = |name: &str, state: Value| {
        json!({"name": name, "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": state})
    };
    let both = |state: Value| json!({"status": {"containerStatuses": [status("c", state.clone()), status("d", state)]}});
    let ended = both(json!({"terminated": {"exitCode": 42}}));
    api.patch(&path, "merge-patch+json", ended).await.expect(200);
    let running = both(json!({"running": {}}));
    let answer = api.patch(&path, "merge-patch+json", running).await.expect(422);
    assert_eq!(
        causes(&answer),
        [
            "status.containerStatuses[1].state: Forbidden: may not be transitioned to non-terminated \
          state"
        ]
    );
}
