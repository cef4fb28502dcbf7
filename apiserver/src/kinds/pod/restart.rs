//! When a container is started again: its own policy and rules, before the pod's.

use proto::status::FieldError;
use serde_json::Value;

use crate::kinds::check::{self, Errors};
use crate::kinds::lens::Lens;
use crate::kinds::path::Path;

const MOST_RULES: usize = 20;
const MOST_CODES: usize = 255;
const ALL: &str = "RestartAllContainers";

/// Validates `restartPolicy` and `restartPolicyRules` of the container at `path`.
pub fn validate(path: &Path, container: &Value, is_init: bool, errors: &mut Errors) {
    let (policy, rules) = (path.field("restartPolicy"), container.items("restartPolicyRules"));
    if !container.has("restartPolicy") {
        if !rules.is_empty() {
            let detail = "must specify restartPolicy when restart rules are used";
            errors.push(FieldError::required(policy, detail));
        }
        if is_init {
            return;
        }
    } else {
        let (supported, value) =
            (["Always", "Never", "OnFailure"], container.text("restartPolicy"));
        if !supported.contains(&value) {
            errors.push(FieldError::not_supported(policy, value, &supported));
        }
    }
    let path = path.field("restartPolicyRules");
    check::items(&path, rules.len(), MOST_RULES, errors);
    for (index, rule) in rules.iter().enumerate() {
        let path = path.index(index);
        let (supported, action) = (["Restart", ALL], rule.text("action"));
        if !supported.contains(&action) {
            errors.push(FieldError::not_supported(path.field("action"), action, &supported));
        }
        let (path, codes) = (path.field("exitCodes"), rule.at("exitCodes"));
        if codes.is_null() {
            errors.push(FieldError::required(path, "must be specified"));
            continue;
        }
        let (supported, operator) = (["In", "NotIn"], codes.text("operator"));
        if !supported.contains(&operator) {
            errors.push(FieldError::not_supported(path.field("operator"), operator, &supported));
        }
        check::items(&path.field("values"), codes.items("values").len(), MOST_CODES, errors);
    }
}

/// Whether one container's end may start all of them again.
pub fn may_restart_all(spec: &Value) -> bool {
    let containers = spec.items("containers").iter().chain(spec.items("initContainers"));
    containers
        .flat_map(|container| container.items("restartPolicyRules"))
        .any(|rule| rule.text("action") == ALL)
}

/// Whether a container of this spec that ended with this code is started again.
pub fn restarts(container: &Value, spec: &Value, code: i64) -> bool {
    let matches = |rule: &&Value| {
        let codes = rule.at("exitCodes");
        let listed = codes.items("values").iter().any(|value| value.as_i64() == Some(code));
        match codes.text("operator") {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        }
    };
    let own = container.has("restartPolicy");
    if own && container.items("restartPolicyRules").iter().any(|rule| matches(&rule)) {
        return true;
    }
    match if own { container } else { spec }.text("restartPolicy") {
        "Always" => true,
        "OnFailure" => code != 0,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_is_started_again() {
        let rule = |operator: &str| {
            json!({"restartPolicy": "Never", "restartPolicyRules": [
                {"action": "Restart", "exitCodes": {"operator": operator, "values": [42]}},
            ]})
        };
        let cases = [
            (json!({}), "Always", 0, true),
            (json!({}), "OnFailure", 0, false),
            (json!({}), "OnFailure", 1, true),
            (json!({}), "Never", 1, false),
            (json!({"restartPolicy": "OnFailure"}), "Never", 1, true),
            (json!({"restartPolicy": "Never"}), "Always", 1, false),
            (rule("In"), "Never", 42, true),
            (rule("In"), "Always", 1, false),
            (rule("NotIn"), "Never", 42, false),
            (rule("NotIn"), "Never", 0, true),
        ];
        for (container, policy, code, expected) in cases {
            let spec = json!({ "restartPolicy": policy });
            assert_eq!(restarts(&container, &spec, code), expected, "{container} {policy} {code}");
        }
        let all = json!({"initContainers": [{"restartPolicyRules": [{"action": ALL}]}]});
        assert!(may_restart_all(&all) && !may_restart_all(&json!({"containers": [rule("In")]})));
    }
}
