//! The roles and bindings of every cluster, read from `defaults.txt`, which explains its form.

use std::sync::OnceLock;

use proto::{
    kind::{self, Row},
    view::rbac::PolicyRule,
};
use serde_json::{Value, json};

use super::rule;
use crate::{kinds::lens::Lens, registry::Completed};

static TEXT: &str = include_str!("defaults.txt");

const GROUP: &str = "rbac.authorization.k8s.io";
const LABEL: &str = "kubernetes.io/bootstrapping";
/// `false` on an object keeps it as its owner left it.
pub const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// One object of `defaults.txt`, complete but for what the server sets.
pub struct Default {
    pub row: &'static Row,
    pub object: Value,
}

/// All of them, in the order of the file.
pub fn objects() -> Vec<Default> {
    let mut objects: Vec<Default> = Vec::new();
    for line in TEXT.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#')) {
        if line.starts_with(' ') {
            let last = objects.iter_mut().rev().find(|it| it.object.has("rules"));
            let last = last.expect("defaults.txt: a rule follows its role");
            if let Some(rules) = last.object["rules"].as_array_mut() {
                rules.push(policy_rule(line));
            }
            continue;
        }
        match line.split_once(' ') {
            Some(("role", rest)) => objects.push(role(rest)),
            Some(("controller", name)) => {
                let role_name = format!("system:controller:{name}");
                let subjects = format!("ServiceAccount kube-system/{name}");
                objects.push(binding(&role_name, &role_name, &subjects));
                objects.push(role(&role_name));
            }
            Some(("bind", rest)) => {
                let (names, subjects) = rest.split_once(" to").expect("defaults.txt: bind … to");
                let (name, role) = names.split_once(' ').expect("defaults.txt: bind NAME ROLE");
                objects.push(binding(name, role, subjects));
            }
            _ => unreachable!("defaults.txt: {line}"),
        }
    }
    objects
}

/// The rules of the ClusterRole `system:node`, which the node authorizer speaks for.
pub fn node_rules() -> &'static [PolicyRule] {
    static RULES: OnceLock<Vec<PolicyRule>> = OnceLock::new();
    RULES.get_or_init(|| {
        let is_node = |it: &Default| it.object.at("metadata").text("name") == "system:node";
        let mut roles = objects().into_iter().filter(|it| *it.row == kind::CLUSTER_ROLE);
        let role = roles.find(is_node).expect("defaults.txt has system:node");
        rules_of(&role.object)
    })
}

/// What `existing` lacks of a default of the same name, added to it, unless it wants to be left
/// alone. What a binding binds may not change: one that binds another role is made anew.
pub fn completed(default: &Value, existing: &Value) -> Completed {
    let annotations = existing.at("metadata").at("annotations");
    if annotations.text(AUTOUPDATE) == "false" {
        return Completed::Keep;
    }
    if default.at("roleRef") != existing.at("roleRef") {
        return Completed::Replace;
    }
    let mut object = existing.clone();
    let metadata = object.section("metadata");
    for map in ["labels", "annotations"] {
        for (key, value) in default.at("metadata").at(map).as_object().into_iter().flatten() {
            if !existing.at("metadata").at(map).has(key) {
                metadata.section(map).set(key, value.clone());
            }
        }
    }
    // The controller fills roles that aggregate.
    if default.has("rules") && !default.has("aggregationRule") {
        let missing = rule::uncovered(&rules_of(existing), &rules_of(default));
        append(&mut object, "rules", missing.into_iter().map(|rule| json!(rule)));
    }
    if default.has("aggregationRule") {
        object.take_over("aggregationRule", default);
    }
    let missing = default.items("subjects").iter();
    let missing = missing.filter(|subject| !existing.items("subjects").contains(subject));
    append(&mut object, "subjects", missing.cloned());
    match object == *existing {
        true => Completed::Keep,
        false => Completed::Write(object),
    }
}

fn append(object: &mut Value, field: &str, more: impl Iterator<Item = Value>) {
    let more: Vec<Value> = more.collect();
    if !more.is_empty() {
        let all = [object.items(field).to_vec(), more].concat();
        object.set(field, all);
    }
}

fn rules_of(role: &Value) -> Vec<PolicyRule> {
    serde_json::from_value(role.at("rules").clone()).unwrap_or_default()
}

/// `NAME [from LABEL] [as LABEL]`, without its rules.
fn role(text: &str) -> Default {
    let mut words = text.split(' ');
    let (row, mut metadata) =
        place(words.next().unwrap_or_default(), &kind::CLUSTER_ROLE, &kind::ROLE);
    let mut object = json!({"rules": []});
    while let (Some(word), Some(label)) = (words.next(), words.next()) {
        let label = format!("{GROUP}/{label}");
        match word {
            "from" => {
                let selector = json!({"matchLabels": {label: "true"}});
                object["aggregationRule"] = json!({"clusterRoleSelectors": [selector]});
            }
            _ => metadata["labels"][label] = "true".into(),
        }
    }
    object["metadata"] = metadata;
    Default { row, object }
}

fn binding(name: &str, role: &str, subjects: &str) -> Default {
    let (row, metadata) = place(name, &kind::CLUSTER_ROLE_BINDING, &kind::ROLE_BINDING);
    let role_kind = if row.namespaced { "Role" } else { "ClusterRole" };
    let subjects = subjects.split(',').map(str::trim).filter(|subject| !subject.is_empty());
    let subjects: Vec<Value> = subjects.map(subject).collect();
    let mut object = json!({
        "metadata": metadata,
        "roleRef": {"apiGroup": GROUP, "kind": role_kind, "name": role},
    });
    if !subjects.is_empty() {
        object["subjects"] = subjects.into();
    }
    Default { row, object }
}

/// `[NAMESPACE/]NAME`. Names contain colons and dots, never a slash.
fn place(name: &str, wide: &'static Row, near: &'static Row) -> (&'static Row, Value) {
    let marks = |mut metadata: Value| {
        metadata["labels"] = json!({LABEL: "rbac-defaults"});
        metadata["annotations"] = json!({AUTOUPDATE: "true"});
        metadata
    };
    match name.split_once('/') {
        Some((namespace, name)) => (near, marks(json!({"name": name, "namespace": namespace}))),
        None => (wide, marks(json!({"name": name}))),
    }
}

/// `KIND NAME`; a service account's name comes with its namespace.
fn subject(text: &str) -> Value {
    let (kind, name) = text.split_once(' ').expect("defaults.txt: KIND NAME");
    match (kind, name.split_once('/')) {
        ("ServiceAccount", Some((namespace, name))) => {
            json!({"kind": kind, "name": name, "namespace": namespace})
        }
        _ => json!({"apiGroup": GROUP, "kind": kind, "name": name}),
    }
}

/// `VERBS GROUPS: RESOURCES [= NAMES]`, `VERBS urls: PATHS`. Lists are sorted, as upstream's.
fn policy_rule(line: &str) -> Value {
    let (verbs, rest) = line.trim().split_once(' ').expect("defaults.txt: VERBS …");
    let (groups, rest) = rest.split_once(": ").expect("defaults.txt: GROUPS: …");
    let words = |text: &str, separator: char| -> Vec<String> {
        let mut words: Vec<String> = text.split(separator).map(String::from).collect();
        words.sort();
        words
    };
    let verbs = verbs
        .replace("read", "get,list,watch")
        .replace("write", "create,delete,deletecollection,patch,update");
    let verbs = words(&verbs, ',');
    if groups == "urls" {
        return json!({"nonResourceURLs": words(rest, ' '), "verbs": verbs});
    }
    let groups = words(&groups.replace("core", ""), ',');
    match rest.split_once(" = ") {
        None => json!({"apiGroups": groups, "resources": words(rest, ' '), "verbs": verbs}),
        Some((resources, names)) => json!({
            "apiGroups": groups,
            "resources": words(resources, ' '),
            "resourceNames": words(names, ' '),
            "verbs": verbs,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_reads() {
        let objects = objects();
        let find = |row: &Row, name: &str| {
            let named = |it: &&Default| it.object["metadata"]["name"] == name && it.row == row;
            objects.iter().find(named).unwrap_or_else(|| panic!("no {name}")).object.clone()
        };
        let count = |row: &Row| objects.iter().filter(|it| it.row == row).count();
        assert!(count(&kind::CLUSTER_ROLE) > 70 && count(&kind::ROLE) == 7);
        for it in &objects {
            let of_role = it.object["rules"].as_array();
            let empty = of_role.is_some_and(|rules| rules.is_empty());
            assert_eq!(empty, it.object.has("aggregationRule"), "{}", it.object);
        }
        let gc = find(&kind::CLUSTER_ROLE, "system:controller:generic-garbage-collector");
        assert_eq!(
            gc["rules"],
            json!([
                {"apiGroups": ["*"], "resources": ["*"],
                    "verbs": ["delete", "get", "list", "patch", "update", "watch"]},
                {"apiGroups": ["", "events.k8s.io"], "resources": ["events"],
                    "verbs": ["create", "patch", "update"]},
            ])
        );
        let binding = find(&kind::CLUSTER_ROLE_BINDING, "system:controller:job-controller");
        assert_eq!(
            binding["subjects"],
            json!([{"kind": "ServiceAccount", "name": "job-controller", "namespace": "kube-system"}])
        );
        let edit = find(&kind::CLUSTER_ROLE, "edit");
        assert_eq!(
            edit["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-admin"],
            "true"
        );
        assert_eq!(find(&kind::CLUSTER_ROLE_BINDING, "system:node").get("subjects"), None);
    }

    #[test]
    fn what_is_missing_is_added_and_nothing_else_touched() {
        let role = |rules: Value, update: &str| json!({"metadata": {"name": "r", "annotations": {AUTOUPDATE: update}}, "rules": rules});
        let get = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]});
        let list = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["list"]});
        let all = json!({"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]});
        let default = role(json!([get, list]), "true");
        use Completed::{Keep, Replace, Write};
        let cases = [
            (role(json!([get, list]), "true"), Keep),
            (role(json!([all]), "true"), Keep),
            (role(json!([get]), "false"), Keep),
            (role(json!([get]), "true"), Write(role(json!([get, list]), "true"))),
            (role(json!([all, get]), "true"), Keep),
        ];
        for (existing, expected) in cases {
            assert_eq!(completed(&default, &existing), expected, "{existing}");
        }
        let bound = |role: &str, subjects: Value, update: &str| {
            let mut it = json!({"metadata": {"name": "b", "annotations": {AUTOUPDATE: update}},
                "roleRef": {"apiGroup": GROUP, "kind": "ClusterRole", "name": role}});
            it["subjects"] = subjects;
            it
        };
        let (one, two) = (subject("User one"), subject("Group two"));
        let default = bound("r", json!([one]), "true");
        let cases = [
            (bound("r", json!([one]), "true"), Keep),
            (bound("r", json!([two, one]), "true"), Keep),
            (bound("r", json!([two]), "true"), Write(bound("r", json!([two, one]), "true"))),
            (bound("other", json!([one]), "true"), Replace),
            (bound("other", json!([one]), "false"), Keep),
        ];
        for (existing, expected) in cases {
            assert_eq!(completed(&default, &existing), expected, "{existing}");
        }
    }
}
