//! Validation of a Job's pod failure and success policies.

use std::collections::HashSet;

use proto::indexes::Indexes;
use proto::status::{FieldError, Problem};
use serde_json::Value;

use crate::kinds::check::{self, Errors};
use crate::kinds::lens::Lens;
use crate::kinds::path::Path;

/// The most rules of a policy, and of conditions of a rule.
const RULES: usize = 20;
const EXIT_CODES: usize = 255;
const INDEXES_BYTES: usize = 64 * 1024;

/// Validates `podFailurePolicy` of the spec; `path` is the policy's.
pub fn failure(path: &Path, spec: &Value, errors: &mut Errors) {
    let path = path.field("rules");
    let rules = spec.at("podFailurePolicy").items("rules");
    at_most(&path, rules.len(), RULES, errors);
    let pods = spec.at("template").at("spec");
    let containers: HashSet<&str> = ["initContainers", "containers"]
        .into_iter()
        .flat_map(|list| pods.items(list))
        .map(|container| container.text("name"))
        .collect();
    for (index, rule) in rules.iter().enumerate() {
        let path = path.index(index);
        action(&path.field("action"), rule.text("action"), spec, errors);
        if rule.has("onExitCodes") {
            let path = path.field("onExitCodes");
            exit_codes(&path, rule.at("onExitCodes"), &containers, errors);
        }
        conditions(&path.field("onPodConditions"), rule.items("onPodConditions"), errors);
        let detail = match (rule.has("onExitCodes"), rule.vacant("onPodConditions")) {
            (true, false) => "specifying both OnExitCodes and OnPodConditions is not supported",
            (false, true) => "specifying one of OnExitCodes and OnPodConditions is required",
            _ => continue,
        };
        errors.push(FieldError::new(path, Problem::InvalidWhole, detail));
    }
}

/// Validates `successPolicy` of the spec of an indexed Job; `path` is the policy's.
pub fn success(path: &Path, spec: &Value, errors: &mut Errors) {
    let path = path.field("rules");
    let rules = spec.at("successPolicy").items("rules");
    if rules.is_empty() {
        let detail = "at least one rules must be specified when the successPolicy is specified";
        errors.push(FieldError::required(path, detail));
    }
    at_most(&path, rules.len(), RULES, errors);
    let completions = spec.int("completions").unwrap_or(0);
    for (index, rule) in rules.iter().enumerate() {
        success_rule(&path.index(index), rule, completions, errors);
    }
}

fn success_rule(path: &Path, rule: &Value, completions: i64, errors: &mut Errors) {
    let (count, indexes) = (rule.int("succeededCount"), rule.at("succeededIndexes").as_str());
    if count.is_none() && indexes.is_none() {
        let detail = "at least one of succeededCount or succeededIndexes must be specified";
        errors.push(FieldError::required(path, detail));
    }
    let mut total = 0;
    if let Some(indexes) = indexes {
        let path = path.field("succeededIndexes");
        if indexes.len() > INDEXES_BYTES {
            let detail = format!("may not be more than {INDEXES_BYTES} bytes");
            errors.push(FieldError::new(path, Problem::TooLong, detail));
        }
        match Indexes::parse(indexes, completions) {
            Ok(indexes) => total = indexes.count(),
            Err(error) => {
                let detail = format!("error parsing succeededIndexes: {error}");
                errors.push(FieldError::invalid(path, indexes, detail));
            }
        }
    }
    check::nonnegative(path, rule, &["succeededCount"], errors);
    let Some(count) = count else { return };
    let path = path.field("succeededCount");
    if count > completions {
        let detail = format!(
            "must be less than or equal to {completions} (the number of specified completions)"
        );
        errors.push(FieldError::invalid(path, count, detail));
    }
    if indexes.is_some() && count > total {
        let detail = format!(
            "must be less than or equal to {total} (the number of indexes in the specified \
             succeededIndexes field)"
        );
        errors.push(FieldError::invalid(path, count, detail));
    }
}

fn action(path: &Path, action: &str, spec: &Value, errors: &mut Errors) {
    match action {
        "" => {
            let detail = "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]";
            errors.push(FieldError::required(path, detail));
        }
        "FailIndex" if !spec.has("backoffLimitPerIndex") => {
            let detail = "requires the backoffLimitPerIndex to be set";
            errors.push(FieldError::invalid(path, action, detail));
        }
        action => {
            let supported = ["Count", "FailIndex", "FailJob", "Ignore"];
            check::optional_one_of(path, action, &supported, errors);
        }
    }
}

fn exit_codes(path: &Path, codes: &Value, containers: &HashSet<&str>, errors: &mut Errors) {
    let operator = codes.text("operator");
    match operator {
        "" => {
            let detail = "valid values: [\"In\" \"NotIn\"]";
            errors.push(FieldError::required(path.field("operator"), detail));
        }
        operator => {
            check::optional_one_of(&path.field("operator"), operator, &["In", "NotIn"], errors);
        }
    }
    if let Some(name) = codes.at("containerName").as_str().filter(|name| !containers.contains(name))
    {
        let detail = "must be one of the container or initContainer names in the pod template";
        errors.push(FieldError::invalid(path.field("containerName"), name, detail));
    }
    let (path, values) = (path.field("values"), codes.items("values"));
    if values.is_empty() {
        let detail = "at least one value is required";
        errors.push(FieldError::invalid(path, values.to_vec(), detail));
    }
    at_most(&path, values.len(), EXIT_CODES, errors);
    let mut seen = HashSet::new();
    for (index, value) in values.iter().enumerate() {
        if operator == "In" && value.as_i64() == Some(0) {
            let detail = "must not be 0 for the In operator";
            errors.push(FieldError::invalid(path.index(index), 0, detail));
        }
        if !seen.insert(value.as_i64()) {
            errors.push(FieldError::duplicate(path.index(index), value.clone()));
        }
    }
    if !values.is_sorted_by_key(Value::as_i64) {
        errors.push(FieldError::invalid(path, values.to_vec(), "must be ordered"));
    }
}

fn conditions(path: &Path, patterns: &[Value], errors: &mut Errors) {
    at_most(path, patterns.len(), RULES, errors);
    for (index, pattern) in patterns.iter().enumerate() {
        let path = path.index(index);
        check::qualified(&path.field("type"), pattern.text("type"), errors);
        let path = path.field("status");
        match pattern.text("status") {
            "" => {
                let detail = "valid values: [\"False\" \"True\" \"Unknown\"]";
                errors.push(FieldError::required(path, detail));
            }
            status => {
                check::optional_one_of(&path, status, &["False", "True", "Unknown"], errors);
            }
        }
    }
}

fn at_most(path: &Path, count: usize, most: usize, errors: &mut Errors) {
    if count > most {
        let detail = format!("must have at most {most} items");
        errors.push(FieldError::new(path, Problem::TooMany(count), detail));
    }
}
