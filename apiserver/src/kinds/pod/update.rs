//! What may change in the spec of an existing pod.

use proto::status::FieldError;
use serde_json::Value;

use crate::kinds::check::Errors;
use crate::kinds::lens::Lens;
use crate::kinds::path::Path;

const CONTAINERS: [&str; 2] = ["containers", "initContainers"];

/// Validates the change; both specs are valid on their own.
pub fn validate(path: &Path, new: &Value, old: &Value, errors: &mut Errors) {
    let start = errors.len();
    for field in CONTAINERS {
        if new.items(field).len() != old.items(field).len() {
            let detail = "pod updates may not add or remove containers";
            errors.push(FieldError::forbidden(path.field(field), detail));
        }
    }
    if errors.len() > start {
        return;
    }
    deadline(&path.field("activeDeadlineSeconds"), new, old, errors);
    tolerations(&path.field("tolerations"), new, old, errors);
    gates(&path.field("schedulingGates"), new, old, errors);
    let mut munged = munge(new, old);
    if !old.vacant("schedulingGates") {
        node_selector(&path.field("nodeSelector"), &mut munged, old, errors);
        node_affinity(&path.field("affinity"), &mut munged, old, errors);
    }
    if errors.len() == start && munged != *old {
        let mut difference = String::new();
        differences(&munged, old, "spec", &mut difference);
        let detail = format!("{FORBIDDEN}{difference}");
        errors.push(FieldError::forbidden(path, detail));
    }
}

/// The new spec with everything that may change put back.
fn munge(new: &Value, old: &Value) -> Value {
    let mut munged = new.clone();
    for field in CONTAINERS {
        for (container, old) in munged.items_mut(field).iter_mut().zip(old.items(field)) {
            container.take_over("image", old);
        }
    }
    for field in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        munged.take_over(field, old);
    }
    let grace = "terminationGracePeriodSeconds";
    if new.int(grace) == Some(1) && old.int(grace).is_some_and(|grace| grace < 0) {
        munged.take_over(grace, old);
    }
    munged
}

/// A pod that waits at its gates may be told more precisely where to run. What it was told is put
/// back.
fn node_selector(path: &Path, new: &mut Value, old: &Value, errors: &mut Errors) {
    let field = "nodeSelector";
    if !old.pairs(field).all(|(key, value)| new.at(field).get(key) == Some(value)) {
        let detail = "only additions to spec.nodeSelector are allowed (no mutations or deletions)";
        let value = if new.has(field) { new.at(field).clone() } else { Value::Null };
        errors.push(FieldError::invalid(path, value, detail));
    }
    new.take_over(field, old);
}

fn node_affinity(path: &Path, new: &mut Value, old: &Value, errors: &mut Errors) {
    const FIELD: &str = "nodeAffinity";
    let (asked, known) = (new.at("affinity").at(FIELD), old.at("affinity").at(FIELD));
    if asked == known {
        return;
    }
    required_terms(&path.field(FIELD), asked, known, errors);
    match old.at("affinity").has(FIELD) {
        true => new.section("affinity").take_over(FIELD, old.at("affinity")),
        false => new.section("affinity").drop(FIELD),
    }
    if new.vacant("affinity") && !old.has("affinity") {
        new.drop("affinity");
    }
}

/// Each alternative may only get narrower; preferences are free.
fn required_terms(path: &Path, new: &Value, old: &Value, errors: &mut Errors) {
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let path = path.field(REQUIRED);
    let path = path.field("nodeSelectorTerms");
    let asked = new.at(REQUIRED).items("nodeSelectorTerms");
    let known = old.at(REQUIRED).items("nodeSelectorTerms");
    if known.is_empty() {
        return;
    }
    if known.len() != asked.len() {
        let detail = "no additions/deletions to non-empty NodeSelectorTerms list are allowed";
        errors.push(FieldError::invalid(path, asked.to_vec(), detail));
        return;
    }
    let fields = ["matchExpressions", "matchFields"];
    for (index, (new, old)) in asked.iter().zip(known).enumerate() {
        let nothing = fields.iter().all(|field| old.vacant(field));
        let empty = fields.iter().all(|field| new.vacant(field));
        let grown = fields.iter().all(|field| new.items(field).starts_with(old.items(field)));
        if (nothing && !empty) || !grown {
            let detail = "only additions are allowed (no mutations or deletions)";
            errors.push(FieldError::invalid(path.index(index), new.clone(), detail));
        }
    }
}

/// From none to some, or from some to less.
fn deadline(path: &Path, new: &Value, old: &Value, errors: &mut Errors) {
    let field = "activeDeadlineSeconds";
    match (new.int(field), old.int(field)) {
        (Some(new), Some(old)) if old < new => {
            let detail = "must be less than or equal to previous value";
            errors.push(FieldError::invalid(path, new, detail));
        }
        (None, Some(_)) => {
            let detail = "must not update from a positive integer to nil value";
            errors.push(FieldError::invalid(path, Value::Null, detail));
        }
        _ => {}
    }
}

/// Only additions, and other seconds.
fn tolerations(path: &Path, new: &Value, old: &Value, errors: &mut Errors) {
    let without = |toleration: &Value| {
        let mut toleration = toleration.clone();
        toleration.drop("tolerationSeconds");
        toleration
    };
    let now: Vec<Value> = new.items("tolerations").iter().map(without).collect();
    if !old.items("tolerations").iter().all(|toleration| now.contains(&without(toleration))) {
        let detail = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(FieldError::forbidden(path, detail));
    }
}

fn gates(path: &Path, new: &Value, old: &Value, errors: &mut Errors) {
    let known = old.items("schedulingGates");
    for (index, gate) in new.items("schedulingGates").iter().enumerate() {
        let name = gate.text("name");
        if !known.iter().any(|known| known.text("name") == name) {
            let detail =
                format!("only deletion is allowed, but found new scheduling gate '{name}'");
            let path = path.index(index);
            errors.push(FieldError::forbidden(path.field("name"), detail));
        }
    }
}

/// Appends a line for every leaf that differs: `-` as it is, `+` as it was asked to be.
pub(super) fn differences(new: &Value, old: &Value, path: &str, text: &mut String) {
    if new == old {
        return;
    }
    match (new, old) {
        (Value::Object(new_map), Value::Object(old_map)) => {
            let added = new_map.keys().filter(|key| !old_map.contains_key(*key));
            for key in old_map.keys().chain(added) {
                differences(new.at(key), old.at(key), &format!("{path}.{key}"), text);
            }
        }
        (Value::Array(new), Value::Array(old)) if new.len() == old.len() => {
            for (index, (new, old)) in new.iter().zip(old).enumerate() {
                differences(new, old, &format!("{path}[{index}]"), text);
            }
        }
        _ => {
            for (sign, value) in [('-', old), ('+', new)] {
                if !value.is_null() {
                    *text += &format!("\n{sign} {path}: {value}");
                }
            }
        }
    }
}

const FORBIDDEN: &str = "pod updates may not change fields other than \
    `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,\
    `spec.tolerations` (only additions to existing tolerations),\
    `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
