//! What may change in the spec of an existing pod.

use proto::status::FieldError;
use serde_json::Value;

use crate::kinds::check::Errors;
use crate::kinds::lens::Lens;
use crate::kinds::path::Path;

/// Validates the change; both specs are valid on their own.
pub fn validate(path: &Path, new: &Value, old: &Value, errors: &mut Errors) {
    let start = errors.len();
    for field in ["containers", "initContainers"] {
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
    let munged = munge(new, old);
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
    for field in ["containers", "initContainers"] {
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
    if !old.vacant("schedulingGates") {
        let kept = |(key, value)| new.at("nodeSelector").get(key) == Some(value);
        if old.pairs("nodeSelector").all(kept) {
            munged.take_over("nodeSelector", old);
        }
    }
    munged
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
        if !known.contains(gate) {
            let name = gate.text("name");
            let detail =
                format!("only deletion is allowed, but found new scheduling gate '{name}'");
            errors.push(FieldError::forbidden(path.index(index), detail));
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
