//! The four patches and the record of who owns which field. All are pure functions from the old
//! object and a patch to a new object, which then goes the way of every write (check, defaults,
//! admission, validation): nothing here validates a result, reads a clock or talks to the store.

use proto::status::Status;
use serde_json::Value;

mod apply;
mod fields;
mod json;
pub mod managed_fields;
mod strategic;
mod walk;

pub use apply::{apply, check_applied};
pub use json::json;
pub use strategic::strategic;

/// The kind of a patch, by its content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    Json,
    Merge,
    Strategic,
    /// Server-side apply; the body is YAML.
    Apply,
}

impl PatchKind {
    pub const ACCEPTED: &str = "application/json-patch+json, application/merge-patch+json, \
        application/apply-patch+yaml, application/strategic-merge-patch+json";

    /// By media type, parameters ignored.
    pub fn of(content_type: &str) -> Option<PatchKind> {
        let media = content_type.split(';').next().unwrap_or("").trim();
        Some(match media.to_ascii_lowercase().as_str() {
            "application/json-patch+json" => PatchKind::Json,
            "application/merge-patch+json" => PatchKind::Merge,
            "application/strategic-merge-patch+json" => PatchKind::Strategic,
            "application/apply-patch+yaml" => PatchKind::Apply,
            _ => return None,
        })
    }
}

/// JSON merge patch (RFC 7386).
pub fn merge(old: &Value, body: &Value) -> Value {
    let mut new = old.clone();
    json_patch::merge(&mut new, body);
    new
}

/// 422 in the words with which upstream refuses every patch that cannot be applied.
fn rejected() -> Status {
    let message = "the server rejected our request due to an error in our request";
    Status { details: Some(Box::default()), ..Status::failure(422, "Invalid", message) }
}
