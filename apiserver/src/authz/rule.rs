//! What rules allow, what they cover of each other, and how they are written in messages
//! (kubernetes.io/docs, "Using RBAC Authorization"). Pure.

use proto::view::rbac::PolicyRule;

use super::What;

const ANY: &str = "*";

/// Whether the rule allows this verb on this thing.
pub fn allows(rule: &PolicyRule, verb: &str, what: What) -> bool {
    has(&rule.verbs, verb)
        && match what {
            What::Path(path) => rule.non_resource_urls.iter().any(|url| is_below(url, path)),
            What::Resource { group, resource, subresource, name, .. } => {
                has(&rule.api_groups, group)
                    && rule.resources.iter().any(|known| names(known, resource, subresource))
                    && (rule.resource_names.is_empty()
                        || rule.resource_names.iter().any(|known| known == name))
            }
        }
}

/// The parts of `wanted` that `held` does not cover, verbs of the same thing together.
pub fn uncovered(held: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    let atoms = wanted.iter().flat_map(atoms);
    let missing = atoms.filter(|atom| !held.iter().any(|rule| covers(rule, atom)));
    let mut compact: Vec<PolicyRule> = Vec::new();
    for atom in missing {
        let same = |other: &&mut PolicyRule| {
            other.non_resource_urls.is_empty()
                && PolicyRule { verbs: Vec::new(), ..(*other).clone() }
                    == PolicyRule { verbs: Vec::new(), ..atom.clone() }
        };
        match compact.iter_mut().find(same) {
            Some(other) if !other.verbs.contains(&atom.verbs[0]) => other.verbs.extend(atom.verbs),
            Some(_) => {}
            None => compact.push(atom),
        }
    }
    compact
}

/// `{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`.
pub fn describe(rule: &PolicyRule) -> String {
    let parts = [
        ("APIGroups", &rule.api_groups),
        ("Resources", &rule.resources),
        ("NonResourceURLs", &rule.non_resource_urls),
        ("ResourceNames", &rule.resource_names),
        ("Verbs", &rule.verbs),
    ];
    let filled = parts.iter().filter(|(_, values)| !values.is_empty());
    let texts: Vec<String> =
        filled.map(|(name, values)| format!("{name}:{}", quoted(values))).collect();
    format!("{{{}}}", texts.join(", "))
}

/// A list as Go's `%q` writes it: `["a" "b"]`.
pub fn quoted(values: &[String]) -> String {
    let values: Vec<String> = values.iter().map(|value| format!("{value:?}")).collect();
    format!("[{}]", values.join(" "))
}

fn has(list: &[String], value: &str) -> bool {
    list.iter().any(|known| known == ANY || known == value)
}

fn has_all(list: &[String], wanted: &[String]) -> bool {
    wanted.iter().all(|value| has(list, value))
}

/// `pods`, `pods/log`, `*` and `*/scale`.
fn names(known: &str, resource: &str, subresource: &str) -> bool {
    if known == ANY {
        return true;
    }
    match known.split_once('/') {
        None => subresource.is_empty() && known == resource,
        Some((parent, part)) => {
            part == subresource && (parent == resource || (parent == ANY && !part.is_empty()))
        }
    }
}

fn is_below(url: &str, path: &str) -> bool {
    url == path || url.strip_suffix('*').is_some_and(|root| path.starts_with(root))
}

/// One rule per group, resource, name and verb, and per path and verb.
fn atoms(rule: &PolicyRule) -> Vec<PolicyRule> {
    let mut atoms = Vec::new();
    let one = |value: &String| vec![value.clone()];
    for group in &rule.api_groups {
        for resource in &rule.resources {
            for verb in &rule.verbs {
                let atom = PolicyRule {
                    api_groups: one(group),
                    resources: one(resource),
                    verbs: one(verb),
                    ..PolicyRule::default()
                };
                if rule.resource_names.is_empty() {
                    atoms.push(atom.clone());
                }
                for name in &rule.resource_names {
                    atoms.push(PolicyRule { resource_names: one(name), ..atom.clone() });
                }
            }
        }
    }
    for url in &rule.non_resource_urls {
        for verb in &rule.verbs {
            let (non_resource_urls, verbs) = (one(url), one(verb));
            atoms.push(PolicyRule { non_resource_urls, verbs, ..PolicyRule::default() });
        }
    }
    atoms
}

fn covers(rule: &PolicyRule, atom: &PolicyRule) -> bool {
    let resource = |wanted: &String| {
        rule.resources.iter().any(|known| {
            known == ANY
                || known == wanted
                || wanted
                    .split_once('/')
                    .is_some_and(|(_, part)| known.strip_prefix("*/") == Some(part))
        })
    };
    let url = |wanted: &String| rule.non_resource_urls.iter().any(|known| is_below(known, wanted));
    let named = match atom.resource_names.is_empty() {
        true => rule.resource_names.is_empty(),
        false => {
            rule.resource_names.is_empty() || has_all(&rule.resource_names, &atom.resource_names)
        }
    };
    has_all(&rule.verbs, &atom.verbs)
        && has_all(&rule.api_groups, &atom.api_groups)
        && atom.resources.iter().all(resource)
        && atom.non_resource_urls.iter().all(url)
        && named
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn rule(value: Value) -> PolicyRule {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_a_rule_allows() {
        let pods = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]});
        let logs = json!({"apiGroups": [""], "resources": ["pods/log"], "verbs": ["*"]});
        let scales = json!({"apiGroups": ["*"], "resources": ["*/scale"], "verbs": ["update"]});
        let all = json!({"apiGroups": ["apps"], "resources": ["*"], "verbs": ["*"]});
        let one = json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"],
            "verbs": ["get"]});
        let urls = json!({"nonResourceURLs": ["/healthz", "/api/*"], "verbs": ["get"]});
        let everywhere = json!({"nonResourceURLs": ["*"], "verbs": ["*"]});
        // rule, verb, `group/resource/subresource/name` or `/path`, verdict
        let cases = [
            (&pods, "get", "|pods||p", true),
            (&pods, "list", "|pods||", true),
            (&pods, "delete", "|pods||p", false),
            (&pods, "get", "|pods|log|p", false),
            (&pods, "get", "apps|pods||p", false),
            (&logs, "get", "|pods|log|p", true),
            (&logs, "get", "|pods||p", false),
            (&scales, "update", "apps|deployments|scale|d", true),
            (&scales, "update", "apps|deployments||d", false),
            (&scales, "get", "apps|deployments|scale|d", false),
            (&all, "delete", "apps|deployments|status|d", true),
            (&all, "delete", "batch|jobs||d", false),
            (&one, "get", "|secrets||a", true),
            (&one, "get", "|secrets||b", false),
            (&one, "list", "|secrets||", false),
            (&urls, "get", "/healthz", true),
            (&urls, "get", "/healthz/ping", false),
            (&urls, "get", "/api/v1", true),
            (&urls, "post", "/api/v1", false),
            (&everywhere, "put", "/x", true),
            (&pods, "get", "/healthz", false),
            (&everywhere, "get", "|pods||p", false),
        ];
        for (value, verb, what, expected) in cases {
            let parts: Vec<&str> = what.split('|').collect();
            let what = match parts.as_slice() {
                [group, resource, subresource, name] => {
                    What::Resource { group, resource, subresource, namespace: "n", name }
                }
                _ => What::Path(what),
            };
            assert_eq!(
                allows(&rule(value.clone()), verb, what),
                expected,
                "{value} {verb} {what:?}"
            );
        }
    }

    #[test]
    fn what_is_not_covered() {
        let held = [
            rule(json!({"apiGroups": [""], "resources": ["pods", "*/scale"], "verbs": ["get"]})),
            rule(json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a"],
                "verbs": ["*"]})),
            rule(json!({"nonResourceURLs": ["/api/*"], "verbs": ["get"]})),
        ];
        let group = |resource: &str| {
            json!({"apiGroups": [""], "resources": [resource],
            "verbs": ["get", "list"]})
        };
        let cases = [
            (group("pods"), vec![r#"{APIGroups:[""], Resources:["pods"], Verbs:["list"]}"#]),
            (
                group("nodes"),
                vec![r#"{APIGroups:[""], Resources:["nodes"], Verbs:["get" "list"]}"#],
            ),
            (json!({"apiGroups": [""], "resources": ["x/scale"], "verbs": ["get"]}), vec![]),
            (json!({"nonResourceURLs": ["/api/v1"], "verbs": ["get"]}), vec![]),
            (
                json!({"nonResourceURLs": ["/metrics"], "verbs": ["get"]}),
                vec![r#"{NonResourceURLs:["/metrics"], Verbs:["get"]}"#],
            ),
            (
                json!({"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a", "b"],
                    "verbs": ["get"]}),
                vec![
                    r#"{APIGroups:[""], Resources:["secrets"], ResourceNames:["b"], Verbs:["get"]}"#,
                ],
            ),
            (
                json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}),
                vec![r#"{APIGroups:["*"], Resources:["*"], Verbs:["*"]}"#],
            ),
        ];
        for (wanted, expected) in cases {
            let missing = uncovered(&held, &[rule(wanted.clone())]);
            let texts: Vec<String> = missing.iter().map(describe).collect();
            assert_eq!(texts, expected, "{wanted}");
        }
    }
}
