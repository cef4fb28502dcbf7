//! Validation of metav1.Condition, the conditions of newer kinds.

use std::collections::HashSet;

use proto::status::{FieldError, Problem};
use serde_json::Value;

use super::check::{self, Errors};
use super::lens::Lens;
use super::path::Path;

const REASON_LIMIT: usize = 1024;
const MESSAGE_LIMIT: usize = 32 * 1024;

/// Validates the list of conditions at `path`.
pub fn validate(path: &Path, conditions: &[Value], errors: &mut Errors) {
    let mut seen = HashSet::new();
    for (index, condition) in conditions.iter().enumerate() {
        let path = path.index(index);
        let kind = condition.text("type");
        if !seen.insert(kind) {
            errors.push(FieldError::duplicate(path.field("type"), kind));
        }
        check::qualified(&path.field("type"), kind, errors);
        let status = condition.text("status");
        let supported = ["False", "True", "Unknown"];
        if !supported.contains(&status) {
            errors.push(FieldError::not_supported(path.field("status"), status, &supported));
        }
        if let Some(number) = condition.int("observedGeneration").filter(|number| *number < 0) {
            let detail = "must be greater than or equal to zero";
            errors.push(FieldError::invalid(path.field("observedGeneration"), number, detail));
        }
        if condition.vacant("lastTransitionTime") {
            errors.push(FieldError::required(path.field("lastTransitionTime"), "must be set"));
        }
        reason(&path.field("reason"), condition.text("reason"), errors);
        if condition.text("message").len() > MESSAGE_LIMIT {
            let detail = format!("may not be more than {MESSAGE_LIMIT} bytes");
            errors.push(FieldError::new(path.field("message"), Problem::TooLong, detail));
        }
    }
}

fn reason(path: &Path, reason: &str, errors: &mut Errors) {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b',' | b':');
    let begins = reason.as_bytes().first().is_some_and(u8::is_ascii_alphabetic);
    let ends =
        reason.bytes().last().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if reason.is_empty() {
        errors.push(FieldError::required(path, "must be set"));
    } else if !(begins && ends && reason.bytes().all(word)) {
        let detail = "a condition reason must start with alphabetic character, optionally \
                      followed by a string of alphanumeric characters or '_,:', and must end with \
                      an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or \
                      'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for \
                      validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')";
        errors.push(FieldError::invalid(path, reason, detail));
    }
    if reason.len() > REASON_LIMIT {
        let detail = format!("may not be more than {REASON_LIMIT} bytes");
        errors.push(FieldError::new(path, Problem::TooLong, detail));
    }
}
