//! What the end of a container asks for: the restart policies of pods and of containers, and the
//! rules of containers (Kubernetes: Pod Lifecycle, "Container restarts"). Pure.

use proto::meta::or_default;
use serde::Deserialize;

use super::{Container, Pod};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum RestartPolicy {
    #[default]
    Always,
    OnFailure,
    Never,
}

/// The first rule that an exit matches goes before the container's policy.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RestartRule {
    /// `Restart` or `RestartAllContainers`.
    pub action: String,
    pub exit_codes: Option<ExitCodes>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ExitCodes {
    /// `In` or `NotIn`.
    pub operator: String,
    #[serde(deserialize_with = "or_default")]
    pub values: Vec<i32>,
}

/// What becomes of a container that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnExit {
    /// It has ended for good.
    Stay,
    Restart,
    /// All containers of the pod begin anew, init containers too.
    RestartAll,
}

impl RestartPolicy {
    fn on_exit(self, code: i32) -> OnExit {
        match self {
            RestartPolicy::Always => OnExit::Restart,
            RestartPolicy::OnFailure if code != 0 => OnExit::Restart,
            RestartPolicy::OnFailure | RestartPolicy::Never => OnExit::Stay,
        }
    }
}

impl RestartRule {
    fn matches(&self, code: i32) -> bool {
        self.exit_codes.as_ref().is_some_and(|codes| match codes.operator.as_str() {
            "In" => codes.values.contains(&code),
            "NotIn" => !codes.values.contains(&code),
            _ => false,
        })
    }
}

impl Pod {
    /// What an exit of one of the pod's containers with this code asks for.
    pub fn on_exit(&self, container: &Container, code: i32) -> OnExit {
        let rule = container.restart_policy_rules.iter().find(|rule| rule.matches(code));
        match rule.map(|rule| rule.action.as_str()) {
            Some("Restart") => return OnExit::Restart,
            Some("RestartAllContainers") => return OnExit::RestartAll,
            _ => {}
        }
        if self.is_ephemeral(&container.name) {
            return OnExit::Stay;
        }
        let once = self.is_init(&container.name) && !container.is_sidecar();
        match container.restart_policy.unwrap_or(self.spec.restart_policy) {
            // An init container that has done is not repeated.
            RestartPolicy::Always if once => RestartPolicy::OnFailure.on_exit(code),
            policy => policy.on_exit(code),
        }
    }

    /// Whether some exit may restart the whole pod.
    pub fn may_restart_all(&self) -> bool {
        let mut rules = self.containers().flat_map(|container| &container.restart_policy_rules);
        rules.any(|rule| rule.action == "RestartAllContainers")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn rules_go_before_policies() {
        let rule = |action: &str, operator: &str, values: Value| json!({"action": action, "exitCodes": {"operator": operator, "values": values}});
        let retry = json!([rule("Restart", "In", json!([42]))]);
        let all = json!([rule("RestartAllContainers", "NotIn", json!([0, 1]))]);
        let none = json!([]);
        let table = [
            ("Always", "containers", Value::Null, &none, 0, OnExit::Restart),
            ("Always", "initContainers", Value::Null, &none, 0, OnExit::Stay),
            ("Always", "initContainers", Value::Null, &none, 1, OnExit::Restart),
            ("Never", "initContainers", json!("Always"), &none, 0, OnExit::Restart),
            ("Always", "initContainers", json!("Never"), &none, 1, OnExit::Stay),
            ("OnFailure", "containers", json!("Never"), &none, 1, OnExit::Stay),
            ("Never", "containers", json!("OnFailure"), &none, 1, OnExit::Restart),
            ("Never", "containers", json!("Never"), &retry, 42, OnExit::Restart),
            ("Never", "containers", json!("Never"), &retry, 41, OnExit::Stay),
            ("Never", "containers", json!("Never"), &all, 7, OnExit::RestartAll),
            ("Never", "containers", json!("Never"), &all, 1, OnExit::Stay),
            ("Always", "ephemeralContainers", Value::Null, &none, 1, OnExit::Stay),
        ];
        for (of_pod, sort, own, rules, code, expected) in table {
            let container = json!({"name": "c", "restartPolicy": own, "restartPolicyRules": rules});
            let spec = json!({"restartPolicy": of_pod, sort: [container]});
            let pod: Pod = serde_json::from_value(json!({ "spec": spec.clone() })).unwrap();
            let container = pod.container("c").unwrap();
            assert_eq!(pod.on_exit(container, code), expected, "{spec} {code}");
        }
    }
}
