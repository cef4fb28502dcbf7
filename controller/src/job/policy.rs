//! What a Job's policies say of a failed pod, and of the indexes that have succeeded.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/job/#pod-failure-policy>

use proto::indexes::Indexes;
use proto::view::job::{ExitCodes, PodFailurePolicy, PodFailureRule, SuccessPolicy};
use proto::view::pod::Pod;

/// What the first rule that matches says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// No rule says otherwise: it counts.
    Count,
    Ignore,
    FailIndex,
    /// The whole Job fails, with this message.
    FailJob(String),
}

impl Verdict {
    /// Whether the failure counts towards the limits.
    pub fn counts(&self) -> bool {
        *self != Verdict::Ignore
    }
}

/// Of a pod that has failed.
pub(super) fn verdict(policy: &PodFailurePolicy, pod: &Pod) -> Verdict {
    for (number, rule) in policy.rules.iter().enumerate() {
        let Some(what) = matched(rule, pod) else { continue };
        return match rule.action.as_str() {
            "Ignore" => Verdict::Ignore,
            "FailIndex" => Verdict::FailIndex,
            "FailJob" => {
                Verdict::FailJob(format!("{what} matching FailJob rule at index {number}"))
            }
            _ => Verdict::Count,
        };
    }
    Verdict::Count
}

/// How the pod matches the rule, if it does.
fn matched(rule: &PodFailureRule, pod: &Pod) -> Option<String> {
    let (namespace, name) = (&pod.metadata.namespace, &pod.metadata.name);
    if let Some(codes) = &rule.on_exit_codes {
        let status = &pod.status;
        let all = status.container_statuses.iter().chain(&status.init_container_statuses);
        let named = |container: &str| {
            codes.container_name.as_deref().is_none_or(|wanted| wanted == container)
        };
        return all.filter(|container| named(&container.name)).find_map(|container| {
            let code = container.state.terminated.as_ref()?.exit_code;
            includes(codes, code).then(|| {
                let container = &container.name;
                format!(
                    "Container {container} for pod {namespace}/{name} failed with exit code {code}"
                )
            })
        });
    }
    rule.on_pod_conditions.iter().find_map(|pattern| {
        let met =
            pod.status.conditions.iter().any(|condition| {
                condition.kind == pattern.kind && condition.status == pattern.status
            });
        met.then(|| format!("Pod {namespace}/{name} has condition {}", pattern.kind))
    })
}

/// Success is never a failure.
fn includes(codes: &ExitCodes, code: i32) -> bool {
    let listed = codes.values.contains(&code);
    code != 0 && (codes.operator == "In") == listed
}

/// The number of the first rule that the succeeded indexes meet.
pub(super) fn success(policy: &SuccessPolicy, completed: &Indexes) -> Option<usize> {
    policy.rules.iter().position(|rule| {
        let wanted = rule.succeeded_count.map(i64::from);
        match &rule.succeeded_indexes {
            Some(indexes) => {
                let indexes = Indexes::parse(indexes, i64::MAX).unwrap_or_default();
                let wanted = wanted.unwrap_or(indexes.count());
                completed.common(&indexes) >= wanted
            }
            None => wanted.is_some_and(|wanted| completed.count() >= wanted),
        }
    })
}

/// The reason of a failure as events have it: they carry only reasons that there are.
pub(super) fn known_reason(reason: &str) -> &'static str {
    const REASONS: [&str; 6] = [
        "BackoffLimitExceeded",
        "DeadlineExceeded",
        "PodFailurePolicy",
        "FailedIndexes",
        "MaxFailedIndexesExceeded",
        "Failed",
    ];
    REASONS.into_iter().find(|known| *known == reason).unwrap_or("Failed")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn failure_rules() {
        let pod = json!({"metadata": {"name": "p", "namespace": "n"}, "status": {
            "phase": "Failed",
            "conditions": [{"type": "DisruptionTarget", "status": "True"}],
            "containerStatuses": [
                {"name": "side", "state": {"terminated": {"exitCode": 0}}},
                {"name": "main", "state": {"terminated": {"exitCode": 42}}}]}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let codes = |action: &str, operator: &str, values: &[i32], name: Value| {
            json!({"action": action,
                "onExitCodes": {"containerName": name, "operator": operator, "values": values}})
        };
        let none = Value::Null;
        let condition = json!({"action": "Ignore",
            "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]});
        let fails = |text: &str| Verdict::FailJob(text.into());
        for (rules, expected) in [
            (vec![], Verdict::Count),
            (vec![condition], Verdict::Ignore),
            (vec![codes("FailIndex", "In", &[42], none.clone())], Verdict::FailIndex),
            (vec![codes("Ignore", "In", &[1], none.clone())], Verdict::Count),
            // Exit code 0 is never matched.
            (vec![codes("Ignore", "NotIn", &[42], none.clone())], Verdict::Count),
            (vec![codes("Ignore", "In", &[42], json!("side"))], Verdict::Count),
            (
                vec![codes("FailJob", "NotIn", &[1], none.clone())],
                fails(
                    "Container main for pod n/p failed with exit code 42 matching FailJob rule \
                     at index 0",
                ),
            ),
            (
                vec![
                    codes("Count", "In", &[1], none),
                    json!({"action": "FailJob",
                        "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}),
                ],
                fails("Pod n/p has condition DisruptionTarget matching FailJob rule at index 1"),
            ),
        ] {
            let policy = serde_json::from_value(json!({ "rules": rules })).unwrap();
            assert_eq!(verdict(&policy, &pod), expected, "{policy:?}");
        }
    }

    #[test]
    fn success_rules() {
        let completed = Indexes::parse("0,2-4", 9).unwrap();
        for (rules, expected) in [
            (json!([{"succeededIndexes": "0,2"}]), Some(0)),
            (json!([{"succeededIndexes": "0-2"}, {"succeededCount": 4}]), Some(1)),
            (json!([{"succeededIndexes": "0-2", "succeededCount": 2}]), Some(0)),
            (json!([{"succeededCount": 5}]), None),
        ] {
            let policy = serde_json::from_value(json!({ "rules": rules })).unwrap();
            assert_eq!(success(&policy, &completed), expected, "{policy:?}");
        }
    }
}
