//! ClusterRoles that aggregate others: their rules are those of every role that one of their
//! selectors matches.
//! <https://kubernetes.io/docs/reference/access-authn-authz/rbac/#aggregated-clusterroles>

use client::{Entry, Key};
use proto::kind::CLUSTER_ROLE;
use proto::time::Time;
use proto::view::rbac::{PolicyRule, Role};
use serde_json::json;

use crate::plan::Plan;
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

/// Fills roles that aggregate.
pub struct Aggregation;

impl Controller for Aggregation {
    type Object = Role;
    const NAME: &'static str = "clusterrole-aggregation-controller";

    fn watches(watches: &mut Watches<Role>) {
        // Any role may be, or may have been, a part of any that aggregates.
        watches.maps::<Role>(|_, view| {
            let aggregating = view.all::<Role>().into_iter();
            let aggregating = aggregating.filter(|role| role.aggregation_rule.is_some());
            aggregating.map(|role| Key::of(&role.metadata)).collect()
        });
    }

    fn plan(&self, role: &Entry<Role>, view: &View, _: Time) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        let Some(aggregation) = &role.aggregation_rule else { return Ok(plan) };
        let mut parts = view.all::<Role>();
        parts.retain(|part| part.metadata.name != role.metadata.name);
        parts.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let mut rules: Vec<PolicyRule> = Vec::new();
        // A selector that cannot be read selects nothing.
        let selectors = aggregation.cluster_role_selectors.iter();
        for selector in selectors.filter_map(|selector| selector.selector().ok()) {
            for part in parts.iter().filter(|part| selector.matches(&part.metadata.labels)) {
                for rule in &part.rules {
                    if !rules.contains(rule) {
                        rules.push(rule.clone());
                    }
                }
            }
        }
        if rules != role.rules {
            plan.patch(&CLUSTER_ROLE, &role.metadata, json!({ "rules": rules }));
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn role(name: &str, label: &str, verbs: &[&str]) -> Value {
        let rules: Vec<Value> = verbs
            .iter()
            .map(|verb| json!({"apiGroups": [""], "resources": ["pods"], "verbs": [verb]}))
            .collect();
        json!({"metadata": {"name": name, "labels": {label: "true"}}, "rules": rules})
    }

    #[test]
    fn plans() {
        let rule = |verb: &str| json!({"apiGroups": [""], "resources": ["pods"], "verbs": [verb]});
        let aggregating = |rules: Value| {
            json!({
                "metadata": {"name": "sum", "labels": {"to-b": "true"}},
                "aggregationRule": {"clusterRoleSelectors": [
                    {"matchLabels": {"to-a": "true"}}, {"matchLabels": {"to-b": "true"}},
                ]},
                "rules": rules,
            })
        };
        let parts = [
            role("z", "to-a", &["get"]),
            role("y", "to-a", &["list", "get"]),
            role("x", "to-b", &["watch"]),
            role("w", "to-c", &["delete"]),
        ];
        let all = json!([rule("list"), rule("get"), rule("watch")]);
        let cases: [(Value, &[Value], Option<Value>); 4] = [
            (aggregating(Value::Null), &parts, Some(all.clone())),
            (aggregating(all.clone()), &parts, None),
            (aggregating(all), &[], Some(json!([]))),
            (role("plain", "to-a", &["get"]), &parts, None),
        ];
        for (object, others, expected) in cases {
            let entry = Entry::decode(object.to_string().into()).unwrap();
            let mut known = others.to_vec();
            known.push(object.clone());
            let view = View::default().with::<Role>(&known);
            let plan = Aggregation.plan(&entry, &view, Time::from_unix(0)).unwrap();
            let mut wanted = Plan::default();
            if let Some(rules) = expected {
                wanted.patch(&CLUSTER_ROLE, &entry.metadata, json!({"rules": rules}));
            }
            assert_eq!(plan, wanted, "{object}");
        }
    }
}
