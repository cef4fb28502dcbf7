//! What ValidatingAdmissionPolicies are told about their expressions.

use proto::view::validating_admission_policy::ValidatingAdmissionPolicy as Policy;

use super::*;

fn policy(name: &str, resources: &[&str], spec: Value) -> Value {
    let mut policy = json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {"matchConstraints": {"resourceRules": [{
            "apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"],
            "resources": resources,
        }]}},
    });
    for (field, value) in spec.as_object().into_iter().flatten() {
        policy["spec"][field] = value.clone();
    }
    policy
}

impl Rig {
    /// The status of a policy, once its present generation has been looked at.
    async fn checked(&self, name: &str) -> Value {
        let policies = self.informers.of::<Policy>();
        let seen = || {
            policies.get("", name).is_some_and(|policy| {
                policy.status.observed_generation == policy.metadata.generation
            })
        };
        self.until(name, seen).await;
        policies.get("", name).unwrap().value()["status"].clone()
    }

    /// The warnings: field, and text.
    async fn warnings(&self, name: &str) -> Vec<(String, String)> {
        let status = self.checked(name).await;
        let warnings = status["typeChecking"]["expressionWarnings"].as_array().cloned();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
        let one = |warning: &Value| (text(&warning["fieldRef"]), text(&warning["warning"]));
        warnings.unwrap_or_default().iter().map(one).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn expressions_of_policies_are_checked() {
    let rig = Rig::new(21, 1).await;
    rig.informers.of::<Policy>().synced().await;
    let right = policy(
        "right",
        &["deployments", "statefulsets"],
        json!({
            "variables": [
                {"name": "containers", "expression": "object.spec.template.spec.containers"},
                {"name": "images", "expression": "variables.containers.map(c, c.image)"},
            ],
            "matchConditions": [{"name": "m", "expression": "!request.userInfo.groups.exists(g, g == 'x')"}],
            "validations": [{
                "expression": "object.spec.replicas <= 5 && variables.images.all(i, i != '') \
                    && object.metadata.namespace == request.namespace",
                "messageExpression": "'got ' + string(object.spec.replicas)",
            }],
            "auditAnnotations": [{"key": "k", "valueExpression": "object.metadata.labels['a']"}],
        }),
    );
    rig.client.create::<Policy>("", &right).await.unwrap();
    assert_eq!(rig.checked("right").await, json!({"observedGeneration": 1, "typeChecking": {}}));

    let confused = policy(
        "confused",
        &["deployments"],
        json!({
            "variables": [{"name": "wanted", "expression": "object.spec.replicas + 1"}],
            "matchConditions": [{"name": "m", "expression": "object.spec.nothing"}],
            "validations": [
                {
                    "expression": "object.spec.replicas > '1'",
                    "messageExpression": "'wants replicas > 1, got ' + object.spec.replicas",
                },
                {"expression": "variables.wanted.startsWith('a')"},
                {"expression": "variables.later"},
                {"expression": "object.spec.replicas > 1"},
            ],
            "auditAnnotations": [{"key": "k", "valueExpression": "object.metadata.nothing"}],
        }),
    );
    rig.client.create::<Policy>("", &confused).await.unwrap();
    let expected = [
        (
            "spec.validations[0].expression",
            "1:22: found no matching overload for '_>_' applied to '(int, string)'\n | \
             object.spec.replicas > '1'\n | .....................^\n",
        ),
        (
            "spec.validations[0].messageExpression",
            "1:28: found no matching overload for '_+_' applied to '(string, int)'\n | 'wants \
             replicas > 1, got ' + object.spec.replicas\n | ...........................^\n",
        ),
        (
            "spec.validations[1].expression",
            "1:28: found no matching overload for 'startsWith' applied to 'int.(string)'\n | \
             variables.wanted.startsWith('a')\n | ...........................^\n",
        ),
        (
            "spec.validations[2].expression",
            "1:10: undefined field 'later'\n | variables.later\n | .........^\n",
        ),
        (
            "spec.auditAnnotations[0].valueExpression",
            "1:16: undefined field 'nothing'\n | object.metadata.nothing\n | ...............^\n",
        ),
        (
            "spec.matchConditions[0].expression",
            "1:12: undefined field 'nothing'\n | object.spec.nothing\n | ...........^\n",
        ),
    ];
    let place = "apps/v1, Kind=Deployment: ERROR: <input>:";
    let expected = expected.map(|(field, text)| (field.to_string(), format!("{place}{text}")));
    assert_eq!(rig.warnings("confused").await, expected);

    // Put right, it is looked at again.
    let spec = json!({
        "matchConditions": null, "auditAnnotations": null,
        "validations": [{"expression": "object.spec.replicas > 1"}],
    });
    let patch = Patch::Merge(json!({ "spec": spec }));
    rig.client.patch::<Policy>("", "confused", "", &patch).await.unwrap();
    let policies = rig.informers.of::<Policy>();
    rig.until("the change", || policies.get("", "confused").unwrap().metadata.generation == 2)
        .await;
    // What server-side apply empties goes.
    assert_eq!(rig.checked("confused").await, json!({"observedGeneration": 2}));
}

#[tokio::test(start_paused = true)]
async fn expressions_are_checked_by_every_type_there_is() {
    let rig = Rig::new(22, 1).await;
    rig.informers.of::<Policy>().synced().await;
    let both = "object.spec.paused && params.data.max == 1";
    let limited = policy(
        "limited",
        &["replicasets", "deployments", "deployments/scale", "nothings"],
        json!({
            "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "validations": [
                {"expression": "object.spec.replicas <= int(params.data['max'])"},
                {"expression": both},
                {"expression": "params.metadata.name in params.data && params.immutable"},
            ],
        }),
    );
    rig.client.create::<Policy>("", &limited).await.unwrap();
    let shown = |column: usize, message: &str| {
        format!("ERROR: <input>:1:{column}: {message}\n | {both}\n | {}^", ".".repeat(column - 1))
    };
    let compared = shown(39, "found no matching overload for '_==_' applied to '(string, int)'");
    let paused = shown(12, "undefined field 'paused'");
    let expected = format!(
        "apps/v1, Kind=Deployment: {compared}\n\napps/v1, Kind=ReplicaSet: {paused}\n{compared}\n"
    );
    let field = "spec.validations[1].expression".to_string();
    assert_eq!(rig.warnings("limited").await, [(field, expected)]);

    // Whoever means everything, or what is not served, is told nothing.
    for resources in ["*", "nothings"] {
        let validations = json!([{"expression": "object.nothing"}]);
        let spec = json!({ "validations": validations });
        let name = resources.replace('*', "everything");
        rig.client.create::<Policy>("", &policy(&name, &[resources], spec)).await.unwrap();
        let warnings = rig.warnings(&name).await;
        assert!(warnings.is_empty(), "{name} {warnings:?}");
    }
}
