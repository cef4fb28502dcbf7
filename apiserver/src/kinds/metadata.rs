//! The rules of metav1.ObjectMeta, the same for every kind.

use proto::kind::Row;
use proto::status::{FieldError, Problem};
use serde_json::Value;

use super::lens::Lens;
use super::name::{self, NameRule};
use super::path::Path;

/// All keys and values of annotations together, in bytes.
const ANNOTATIONS_LIMIT: usize = 256 * 1024;
const ROOT: Path = Path::root("metadata");

/// Validates the metadata of an object that is being created.
pub fn validate(metadata: &Value, row: &Row, rule: NameRule) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let generate = metadata.text("generateName");
    if !generate.is_empty() {
        let path = ROOT.field("generateName");
        errors.extend(sentences(&path, generate, rule.check_prefix(generate)));
    }
    match metadata.text("name") {
        "" => errors
            .push(FieldError::required(ROOT.field("name"), "name or generateName is required")),
        name => errors.extend(sentences(&ROOT.field("name"), name, rule.check(name))),
    }
    let namespace = metadata.text("namespace");
    let path = ROOT.field("namespace");
    if !row.namespaced {
        if !namespace.is_empty() {
            errors.push(FieldError::forbidden(path, "not allowed on this type"));
        }
    } else if namespace.is_empty() {
        errors.push(FieldError::required(path, ""));
    } else {
        errors.extend(sentences(&path, namespace, name::label(namespace)));
    }
    changeable(metadata, row, &mut errors);
    errors
}

/// Validates the metadata of a replacement.
pub fn validate_update(new: &Value, old: &Value, row: &Row) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if old.has("deletionTimestamp") {
        let known = old.items("finalizers");
        let added: Vec<String> = new
            .items("finalizers")
            .iter()
            .filter(|finalizer| !known.contains(finalizer))
            .map(Value::to_string)
            .collect();
        if !added.is_empty() {
            let detail = format!(
                "no new finalizers can be added if the object is being deleted, found new \
                 finalizers []string{{{}}}",
                added.join(", ")
            );
            errors.push(FieldError::forbidden(ROOT.field("finalizers"), detail));
        }
    }
    if new.int("generation") < old.int("generation") {
        let generation = new.at("generation").clone();
        let path = ROOT.field("generation");
        errors.push(FieldError::invalid(path, generation, "must not be decremented"));
    }
    let fixed = ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp"].into_iter();
    for field in fixed.chain(["deletionGracePeriodSeconds"]) {
        immutable(&ROOT.field(field), new.at(field), old.at(field), &mut errors);
    }
    changeable(new, row, &mut errors);
    errors
}

/// Validates a map of labels, as metadata.labels, matchLabels or a Service's selector.
pub fn labels(path: &Path, labels: &Value, errors: &mut Vec<FieldError>) {
    for (key, value) in labels.as_object().into_iter().flatten() {
        errors.extend(sentences(path, key, name::qualified(key)));
        let value = value.as_str().unwrap_or("");
        errors.extend(sentences(path, value, name::label_value(value)));
    }
}

/// Validates annotations: their keys and their size.
pub fn annotations(path: &Path, annotations: &Value, errors: &mut Vec<FieldError>) {
    let mut size = 0;
    for (key, value) in annotations.as_object().into_iter().flatten() {
        // Upper case is fine in annotations, also in the prefix.
        let problems = name::qualified(key);
        if !problems.is_empty() {
            errors.extend(sentences(path, key, name::qualified(&key.to_lowercase())));
        }
        size += key.len() + value.as_str().map_or(0, str::len);
    }
    if size > ANNOTATIONS_LIMIT {
        let detail = format!("may not be more than {ANNOTATIONS_LIMIT} bytes");
        errors.push(FieldError::new(path, Problem::TooLong, detail));
    }
}

/// `field is immutable`, when it changed.
pub fn immutable(path: &Path, new: &Value, old: &Value, errors: &mut Vec<FieldError>) {
    if new != old {
        errors.push(FieldError::invalid(path, new.clone(), "field is immutable"));
    }
}

/// One Invalid per sentence.
pub fn sentences(path: &Path, value: &str, problems: Vec<String>) -> Vec<FieldError> {
    problems.into_iter().map(|problem| FieldError::invalid(path, value, problem)).collect()
}

fn changeable(metadata: &Value, row: &Row, errors: &mut Vec<FieldError>) {
    if metadata.int("generation").is_some_and(|generation| generation < 0) {
        let value = metadata.at("generation").clone();
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(ROOT.field("generation"), value, detail));
    }
    labels(&ROOT.field("labels"), metadata.at("labels"), errors);
    annotations(&ROOT.field("annotations"), metadata.at("annotations"), errors);
    owners(metadata, errors);
    finalizers(metadata, row, errors);
}

fn owners(metadata: &Value, errors: &mut Vec<FieldError>) {
    let path = ROOT.field("ownerReferences");
    let mut controller: Option<String> = None;
    for owner in metadata.items("ownerReferences") {
        let version = owner.text("apiVersion");
        if version.rsplit('/').next().is_none_or(str::is_empty) {
            let path = path.field("apiVersion");
            errors.push(FieldError::invalid(path, version, "version must not be empty"));
        }
        for field in ["kind", "name", "uid"] {
            if owner.text(field).is_empty() {
                errors.push(FieldError::invalid(path.field(field), "", "must not be empty"));
            }
        }
        if (version, owner.text("kind")) == ("v1", "Event") {
            let detail = "/v1, Kind=Event is disallowed from being an owner";
            errors.push(FieldError::invalid(path, owner.clone(), detail));
        }
        if owner.flag("controller") == Some(true) {
            let this = format!("{}/{}", owner.text("kind"), owner.text("name"));
            if let Some(first) = &controller {
                let detail = format!(
                    "Only one reference can have Controller set to true. Found \"true\" in \
                     references for {first} and {this}"
                );
                let all = metadata.at("ownerReferences").clone();
                errors.push(FieldError::invalid(path, all, detail));
            }
            controller.get_or_insert(this);
        }
    }
}

fn finalizers(metadata: &Value, row: &Row, errors: &mut Vec<FieldError>) {
    const STANDARD: [&str; 3] = ["kubernetes", "orphan", "foregroundDeletion"];
    let path = ROOT.field("finalizers");
    let all = || metadata.items("finalizers").iter().filter_map(Value::as_str);
    for finalizer in all() {
        errors.extend(sentences(&path, finalizer, name::qualified(finalizer)));
    }
    if all().any(|name| name == "orphan") && all().any(|name| name == "foregroundDeletion") {
        let detail = "finalizer orphan and foregroundDeletion cannot be both set";
        errors.push(FieldError::invalid(path, metadata.at("finalizers").clone(), detail));
    }
    if row.group.contains('.') && !row.group.ends_with(".k8s.io") {
        return;
    }
    for (index, finalizer) in all().enumerate() {
        if !finalizer.contains('/') && !STANDARD.contains(&finalizer) {
            let detail = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(FieldError::invalid(path.index(index), finalizer, detail));
        }
    }
}
