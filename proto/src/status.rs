//! Errors as the API answers them: metav1.Status, in Kubernetes' words.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A metav1.Status. As an `Err` it is the answer to the request.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize, thiserror::Error)]
#[serde(rename_all = "camelCase", default)]
#[error("{message}")]
pub struct Status {
    pub kind: String,
    pub api_version: String,
    pub metadata: ListMeta,
    pub status: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub details: Option<Box<Details>>,
    pub code: u16,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ListMeta {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    #[serde(rename = "continue", skip_serializing_if = "String::is_empty")]
    pub continue_token: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining_item_count: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Details {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<Cause>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retry_after_seconds: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Cause {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// One thing wrong with one field; `Display` is the sentence of `details.causes`.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// Path, as `spec.containers[0].name`.
    pub field: String,
    pub problem: Problem,
    /// What is expected; may be empty for Required, Duplicate, NotFound and Forbidden.
    pub detail: String,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Problem {
    Required,
    Duplicate(Value),
    Invalid(Value),
    /// Invalid as a whole: the value would tell nothing, and is not shown.
    InvalidWhole,
    NotSupported(Value),
    NotFound(Value),
    Forbidden,
    TooLong,
    TooMany(usize),
    Internal,
}

impl FieldError {
    pub fn new(
        field: impl Into<String>,
        problem: Problem,
        detail: impl Into<String>,
    ) -> FieldError {
        FieldError { field: field.into(), problem, detail: detail.into() }
    }

    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> FieldError {
        FieldError::new(field, Problem::Required, detail)
    }

    pub fn invalid(
        field: impl Into<String>,
        value: impl Into<Value>,
        detail: impl Into<String>,
    ) -> FieldError {
        FieldError::new(field, Problem::Invalid(value.into()), detail)
    }

    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> FieldError {
        FieldError::new(field, Problem::Forbidden, detail)
    }

    pub fn duplicate(field: impl Into<String>, value: impl Into<Value>) -> FieldError {
        FieldError::new(field, Problem::Duplicate(value.into()), "")
    }

    /// `supported values: "A", "B"`.
    pub fn not_supported(
        field: impl Into<String>,
        value: impl Into<Value>,
        supported: &[&str],
    ) -> FieldError {
        let list: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
        let detail = format!("supported values: {}", list.join(", "));
        FieldError::new(field, Problem::NotSupported(value.into()), detail)
    }

    /// The machine-readable reason (metav1.CauseType).
    pub fn reason(&self) -> &'static str {
        match self.problem {
            Problem::Required => "FieldValueRequired",
            Problem::Duplicate(_) => "FieldValueDuplicate",
            Problem::Invalid(_) | Problem::InvalidWhole => "FieldValueInvalid",
            Problem::NotSupported(_) => "FieldValueNotSupported",
            Problem::NotFound(_) => "FieldValueNotFound",
            Problem::Forbidden => "FieldValueForbidden",
            Problem::TooLong => "FieldValueTooLong",
            Problem::TooMany(_) => "FieldValueTooMany",
            Problem::Internal => "InternalError",
        }
    }

    /// The sentence without the path, as `causes[].message` has it.
    pub fn body(&self) -> String {
        let head = match &self.problem {
            Problem::Required => "Required value".to_string(),
            Problem::Duplicate(value) => format!("Duplicate value: {value}"),
            Problem::Invalid(value) => format!("Invalid value: {value}"),
            Problem::InvalidWhole => "Invalid value".to_string(),
            Problem::NotSupported(value) => format!("Unsupported value: {value}"),
            Problem::NotFound(value) => format!("Not found: {value}"),
            Problem::Forbidden => "Forbidden".to_string(),
            Problem::TooLong => "Too long".to_string(),
            Problem::TooMany(count) => format!("Too many: {count}"),
            Problem::Internal => "Internal error".to_string(),
        };
        if self.detail.is_empty() { head } else { format!("{head}: {}", self.detail) }
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}

/// `deployments.apps`, or `pods` in the core group.
pub fn qualified(group: &str, name: &str) -> String {
    if group.is_empty() { name.to_string() } else { format!("{name}.{group}") }
}

impl Status {
    /// A failure with the given code, reason and message, without details.
    pub fn failure(code: u16, reason: &str, message: impl Into<String>) -> Status {
        Status {
            kind: "Status".into(),
            api_version: "v1".into(),
            status: "Failure".into(),
            message: message.into(),
            reason: reason.into(),
            code,
            ..Status::default()
        }
    }

    pub fn success() -> Status {
        Status { status: "Success".into(), code: 200, ..Status::failure(200, "", "") }
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Status {
        self.details = Some(Box::new(Details {
            name: name.into(),
            group: group.into(),
            kind: kind.into(),
            ..Details::default()
        }));
        self
    }

    pub fn bad_request(message: impl Into<String>) -> Status {
        Status::failure(400, "BadRequest", message)
    }

    pub fn unauthorized() -> Status {
        Status::failure(401, "Unauthorized", "Unauthorized")
    }

    pub fn forbidden(group: &str, resource: &str, name: &str, why: &str) -> Status {
        let what = qualified(group, resource);
        let message = match name {
            "" => format!("{what} is forbidden: {why}"),
            name => format!("{what} {name:?} is forbidden: {why}"),
        };
        Status::failure(403, "Forbidden", message).about(group, resource, name)
    }

    pub fn not_found(group: &str, resource: &str, name: &str) -> Status {
        let message = format!("{} {name:?} not found", qualified(group, resource));
        Status::failure(404, "NotFound", message).about(group, resource, name)
    }

    /// The path names nothing that is served.
    pub fn no_such_path() -> Status {
        Status::failure(404, "NotFound", "the server could not find the requested resource")
            .about("", "", "")
    }

    pub fn method_not_allowed() -> Status {
        let message = "the server does not allow this method on the requested resource";
        Status::failure(405, "MethodNotAllowed", message)
    }

    pub fn not_acceptable(accepted: &str) -> Status {
        let message = format!("only the following media types are accepted: {accepted}");
        Status::failure(406, "NotAcceptable", message)
    }

    pub fn already_exists(group: &str, resource: &str, name: &str) -> Status {
        let message = format!("{} {name:?} already exists", qualified(group, resource));
        Status::failure(409, "AlreadyExists", message).about(group, resource, name)
    }

    pub fn conflict(group: &str, resource: &str, name: &str, why: &str) -> Status {
        let what = qualified(group, resource);
        let message = format!("Operation cannot be fulfilled on {what} {name:?}: {why}");
        Status::failure(409, "Conflict", message).about(group, resource, name)
    }

    /// Someone else wrote the object in between.
    pub fn modified(group: &str, resource: &str, name: &str) -> Status {
        let why = "the object has been modified; please apply your changes to the latest \
                   version and try again";
        Status::conflict(group, resource, name, why)
    }

    pub fn expired(message: impl Into<String>) -> Status {
        Status::failure(410, "Expired", message)
    }

    pub fn too_large(message: impl Into<String>) -> Status {
        Status::failure(413, "RequestEntityTooLarge", message)
    }

    pub fn unsupported_media_type(accepted: &str) -> Status {
        let message = format!(
            "the body of the request was in an unknown format - accepted media types include: \
             {accepted}"
        );
        Status::failure(415, "UnsupportedMediaType", message)
    }

    /// 422 with a cause per error.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Status {
        let mut sentences: Vec<String> = errors.iter().map(FieldError::to_string).collect();
        sentences.dedup();
        let list = match sentences.as_slice() {
            [one] => one.clone(),
            many => format!("[{}]", many.join(", ")),
        };
        let message = format!("{} {name:?} is invalid: {list}", qualified(group, kind));
        let mut status = Status::failure(422, "Invalid", message).about(group, kind, name);
        if let Some(details) = &mut status.details {
            details.causes = errors
                .iter()
                .map(|error| Cause {
                    reason: error.reason().into(),
                    message: error.body(),
                    field: error.field.clone(),
                })
                .collect();
        }
        status
    }

    /// 0 seconds: nobody knows when.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Status {
        let mut status = Status::failure(429, "TooManyRequests", message).about("", "", "");
        if let Some(details) = &mut status.details {
            details.retry_after_seconds = Some(retry_after_seconds).filter(|seconds| *seconds > 0);
        }
        status
    }

    pub fn internal(what: impl std::fmt::Display) -> Status {
        Status::failure(500, "InternalError", format!("Internal error occurred: {what}"))
    }

    pub fn unavailable(message: impl Into<String>) -> Status {
        Status::failure(503, "ServiceUnavailable", message)
    }

    pub fn timeout(message: impl Into<String>) -> Status {
        Status::failure(504, "Timeout", message)
    }

    /// The store has no room; reads go on.
    pub fn insufficient_storage(message: impl Into<String>) -> Status {
        Status::failure(507, "InsufficientStorage", message)
    }

    /// Adds a cause, as `DisruptionBudget` or `NamespaceTerminating`.
    pub fn because(mut self, reason: &str, message: &str, field: &str) -> Status {
        let cause = Cause { reason: reason.into(), message: message.into(), field: field.into() };
        self.details.get_or_insert_default().causes.push(cause);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_kubernetes() {
        let status = Status::not_found("apps", "deployments", "n");
        assert_eq!(status.message, "deployments.apps \"n\" not found");
        let negative =
            FieldError::invalid("spec.replicas", -1, "must be greater than or equal to 0");
        let status = Status::invalid("apps", "Deployment", "web", &[negative]);
        assert_eq!(
            status.message,
            "Deployment.apps \"web\" is invalid: spec.replicas: Invalid value: -1: must be \
             greater than or equal to 0"
        );
        assert_eq!(status.details.unwrap().causes[0].reason, "FieldValueInvalid");
    }
}
