//! Sets of fields, in the form in which managedFields store them (FieldsV1): a tree of objects
//! whose keys are path elements: `f:name` a field or map key, `k:{"name":"a"}` a list item by its
//! keys, `v:"a"` a list item by its value. A node is in the set when it is empty or holds `.`.
//! Working on the stored form spares a conversion on every write.

use serde_json::{Map, Value};

/// The root is a container; it is never itself a member.
pub type Set = Map<String, Value>;

/// A member without children.
pub fn leaf() -> Value {
    Value::Object(Map::new())
}

pub fn is_member(node: &Set) -> bool {
    node.is_empty() || node.contains_key(".")
}

/// Makes a node with these children a member or not. Without children it must be one.
pub fn mark(node: &mut Set, member: bool) {
    if !member {
        node.remove(".");
    } else if node.keys().any(|key| key != ".") {
        node.insert(".".into(), leaf());
    } else {
        node.clear();
    }
}

/// Adds the members of `more`.
pub fn union(set: &mut Set, more: Set) {
    for (key, theirs) in more {
        if key == "." {
            continue;
        }
        let Value::Object(theirs) = theirs else { continue };
        match set.get_mut(&key) {
            Some(Value::Object(ours)) => {
                let member = is_member(ours) || is_member(&theirs);
                union(ours, theirs);
                mark(ours, member);
            }
            _ => drop(set.insert(key, Value::Object(theirs))),
        }
    }
}

/// Takes away the members of `less`; their children stay unless they are members of it, too.
pub fn subtract(set: &mut Set, less: &Set) {
    if less.is_empty() {
        return;
    }
    set.retain(|key, ours| {
        let (Value::Object(ours), Some(Value::Object(theirs))) = (ours, less.get(key)) else {
            return true;
        };
        if key == "." {
            return true;
        }
        let member = is_member(ours) && !is_member(theirs);
        ours.remove(".");
        subtract(ours, theirs);
        if ours.is_empty() {
            return member;
        }
        mark(ours, member);
        true
    });
}

/// The common members.
pub fn intersection(a: &Set, b: &Set) -> Set {
    let mut common = Set::new();
    for (key, ours) in a {
        let (Value::Object(ours), Some(Value::Object(theirs))) = (ours, b.get(key)) else {
            continue;
        };
        if key == "." {
            continue;
        }
        let member = is_member(ours) && is_member(theirs);
        let mut node = intersection(ours, theirs);
        if member || !node.is_empty() {
            mark(&mut node, member);
            common.insert(key.clone(), Value::Object(node));
        }
    }
    common
}

/// Whether all members of `a` are members of `b`.
pub fn is_subset(a: &Set, b: &Set) -> bool {
    a.iter().filter(|(key, _)| *key != ".").all(|(key, ours)| match (ours, b.get(key)) {
        (Value::Object(ours), Some(Value::Object(theirs))) => {
            (!is_member(ours) || is_member(theirs)) && is_subset(ours, theirs)
        }
        _ => false,
    })
}

/// Whether a value is a stored set.
pub fn valid(value: &Value) -> bool {
    let known =
        |key: &str| key == "." || ["f:", "k:", "v:", "i:"].iter().any(|p| key.starts_with(p));
    match value {
        Value::Object(node) => node.iter().all(|(key, child)| known(key) && valid(child)),
        _ => false,
    }
}

/// The paths of all members, as conflicts print them: `.spec.containers[name="a"].image`.
pub fn paths(set: &Set) -> Vec<String> {
    let mut paths = Vec::new();
    collect(set, &mut String::new(), &mut paths);
    paths
}

fn collect(set: &Set, prefix: &mut String, paths: &mut Vec<String>) {
    for (key, node) in set {
        let Value::Object(node) = node else { continue };
        if key == "." {
            continue;
        }
        let length = prefix.len();
        *prefix += &printed(key);
        if is_member(node) {
            paths.push(prefix.clone());
        }
        collect(node, prefix, paths);
        prefix.truncate(length);
    }
}

/// One path element as people read it.
pub fn printed(element: &str) -> String {
    let (sort, rest) = element.split_once(':').unwrap_or(("f", element));
    match sort {
        "k" => {
            let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
            let pairs: Vec<String> =
                keys.iter().map(|(key, value)| format!("{key}={value}")).collect();
            format!("[{}]", pairs.join(","))
        }
        "v" => format!("[={rest}]"),
        "i" => format!("[{rest}]"),
        _ => format!(".{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(value: Value) -> Set {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn a_parent_and_its_children_are_owned_apart() {
        let mut a = set(json!({"f:a": {".": {}, "f:b": {}, "f:c": {}}}));
        subtract(&mut a, &set(json!({"f:a": {}})));
        assert_eq!(Value::Object(a.clone()), json!({"f:a": {"f:b": {}, "f:c": {}}}));
        union(&mut a, set(json!({"f:a": {}, "f:d": {}})));
        assert_eq!(
            Value::Object(a.clone()),
            json!({"f:a": {".": {}, "f:b": {}, "f:c": {}}, "f:d": {}})
        );
        let common = intersection(&a, &set(json!({"f:a": {".": {}, "f:b": {}}})));
        assert_eq!(Value::Object(common), json!({"f:a": {".": {}, "f:b": {}}}));
        subtract(&mut a, &set(json!({"f:a": {"f:b": {}, "f:c": {}}, "f:d": {}})));
        assert_eq!(Value::Object(a.clone()), json!({"f:a": {}}));
        subtract(&mut a, &set(json!({"f:a": {}})));
        assert!(a.is_empty());
    }

    #[test]
    fn paths_print_as_kubernetes_prints_them() {
        let a = set(json!({"f:spec": {"f:ports": {
            "k:{\"port\":80,\"protocol\":\"TCP\"}": {".": {}, "f:port": {}}}},
            "f:metadata": {"f:finalizers": {"v:\"x\"": {}}}}));
        assert_eq!(
            paths(&a),
            [
                ".metadata.finalizers[=\"x\"]",
                ".spec.ports[port=80,protocol=\"TCP\"]",
                ".spec.ports[port=80,protocol=\"TCP\"].port",
            ]
        );
    }
}
