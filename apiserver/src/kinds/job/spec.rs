//! Validation of a Job's spec, alone or in a CronJob's template.

use proto::status::{FieldError, Problem};
use serde_json::Value;

use super::policy;
use crate::kinds::check::{self, Errors};
use crate::kinds::lens::Lens;
use crate::kinds::name;
use crate::kinds::path::Path;
use crate::kinds::template;

const INDEXED_PARALLELISM: i64 = 100_000;
const INDEXED_FAILURES: i64 = 100_000;
/// Above this many completions the limits per index are tighter.
const MANY: i64 = 100_000;
const PARALLELISM_OF_MANY: i64 = 10_000;
const FAILURES_OF_MANY: i64 = 10_000;

pub fn validate(path: &Path, spec: &Value, errors: &mut Errors) {
    let numbers = [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ];
    check::nonnegative(path, spec, &numbers, errors);
    if spec.has("maxFailedIndexes") && !spec.has("backoffLimitPerIndex") {
        let path = path.field("backoffLimitPerIndex");
        errors.push(FieldError::required(path, "when maxFailedIndexes is specified"));
    }
    if let Some(manager) = spec.at("managedBy").as_str() {
        managed_by(&path.field("managedBy"), manager, errors);
    }
    let mode = spec.text("completionMode");
    let supported = ["NonIndexed", "Indexed"];
    check::optional_one_of(&path.field("completionMode"), mode, &supported, errors);
    if mode == "Indexed" {
        indexed(path, spec, errors);
    } else {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            only_indexed(path, spec, field, errors);
        }
    }
    if spec.has("podFailurePolicy") {
        policy::failure(&path.field("podFailurePolicy"), spec, errors);
    }
    if mode != "Indexed" {
        only_indexed(path, spec, "successPolicy", errors);
    } else if spec.has("successPolicy") {
        policy::success(&path.field("successPolicy"), spec, errors);
    }
    let replaced = match spec.has("podFailurePolicy") {
        true => &["Failed"][..],
        false => &["Failed", "TerminatingOrFailed"],
    };
    let policy = spec.text("podReplacementPolicy");
    check::optional_one_of(&path.field("podReplacementPolicy"), policy, replaced, errors);
    let path = path.field("template");
    template::validate(&path, spec.at("template"), errors);
    restart(&path, spec, errors);
}

/// Numbers that cannot be meant.
pub fn warnings(path: &Path, spec: &Value, old: Option<&Value>) -> Vec<String> {
    if old == Some(spec) || spec.text("completionMode") != "Indexed" {
        return Vec::new();
    }
    let (completions, parallelism) = (spec.int("completions"), spec.int("parallelism"));
    let huge = completions.is_some_and(|count| count > MANY)
        && parallelism.is_some_and(|count| count > PARALLELISM_OF_MANY);
    let path = path.field("completions");
    let sentence = "In Indexed Jobs with a number of completions higher than 10^5 and a \
                    parallelism higher than 10^4, Kubernetes might not be able to track completed \
                    indexes indefinitely";
    huge.then(|| format!("{path}: {sentence}")).into_iter().collect()
}

fn only_indexed(path: &Path, spec: &Value, field: &str, errors: &mut Errors) {
    if spec.has(field) {
        let detail = "requires indexed completion mode";
        errors.push(FieldError::invalid(path.field(field), spec.at(field).clone(), detail));
    }
}

fn indexed(path: &Path, spec: &Value, errors: &mut Errors) {
    let (completions, failures) = (spec.int("completions"), spec.int("maxFailedIndexes"));
    let parallelism = spec.int("parallelism").unwrap_or(0);
    let path_failures = path.field("maxFailedIndexes");
    let path_parallelism = path.field("parallelism");
    let Some(completions) = completions else {
        let detail = "when completion mode is Indexed";
        errors.push(FieldError::required(path.field("completions"), detail));
        return;
    };
    if parallelism > INDEXED_PARALLELISM {
        let detail = format!(
            "must be less than or equal to {INDEXED_PARALLELISM} when completion mode is Indexed"
        );
        errors.push(FieldError::invalid(path_parallelism, parallelism, detail));
    }
    if let Some(failures) = failures {
        if failures > completions {
            let detail = "must be less than or equal to completions";
            errors.push(FieldError::invalid(path_failures, failures, detail));
        }
        if failures > INDEXED_FAILURES {
            let detail = format!("must be less than or equal to {INDEXED_FAILURES}");
            errors.push(FieldError::invalid(path_failures, failures, detail));
        }
    }
    if completions <= MANY || !spec.has("backoffLimitPerIndex") {
        return;
    }
    let tighter = |limit: i64| {
        format!(
            "must be less than or equal to {limit} when completions are above {MANY} and used \
             with backoff limit per index"
        )
    };
    if failures.is_none() {
        let detail = format!("must be specified when completions is above {MANY}");
        errors.push(FieldError::required(path_failures, detail));
    }
    if parallelism > PARALLELISM_OF_MANY {
        let detail = tighter(PARALLELISM_OF_MANY);
        errors.push(FieldError::invalid(path_parallelism, parallelism, detail));
    }
    if let Some(failures) = failures.filter(|failures| *failures > FAILURES_OF_MANY) {
        errors.push(FieldError::invalid(path_failures, failures, tighter(FAILURES_OF_MANY)));
    }
}

/// The pods of Jobs end; with a failure policy no kubelet may restart their containers.
fn restart(path: &Path, spec: &Value, errors: &mut Errors) {
    let path = path.field("spec");
    let path = path.field("restartPolicy");
    match spec.at("template").at("spec").text("restartPolicy") {
        "" | "Always" => {
            let detail = "valid values: [\"OnFailure\" \"Never\"]";
            errors.push(FieldError::required(path, detail));
        }
        "Never" => {}
        "OnFailure" if !spec.has("podFailurePolicy") => {}
        "OnFailure" => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.push(FieldError::invalid(path, "OnFailure", detail));
        }
        other => {
            errors.push(FieldError::not_supported(path, other, &["OnFailure", "Never"]));
        }
    }
}

/// A path with a domain before it: `acme.io/foo`.
fn managed_by(path: &Path, manager: &str, errors: &mut Errors) {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte);
    match manager.split_once('/') {
        _ if manager.is_empty() => errors.push(FieldError::required(path, "")),
        Some((domain, rest)) if !domain.is_empty() && !rest.is_empty() => {
            for problem in name::subdomain(domain) {
                errors.push(FieldError::invalid(path, domain, problem));
            }
            if !rest.bytes().all(fine) {
                let detail = "Invalid path (regex used for validation is \
                              '[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+')";
                errors.push(FieldError::invalid(path, rest, detail));
            }
        }
        _ => {
            let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            errors.push(FieldError::invalid(path, manager, detail));
        }
    }
    if manager.len() > 63 {
        let detail = "may not be more than 63 bytes";
        errors.push(FieldError::new(path, Problem::TooLong, detail));
    }
}
