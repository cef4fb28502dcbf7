//! The scale subresource (autoscaling/v1 Scale) of workloads.

use proto::kind::Row;
use proto::status::FieldError;
use serde_json::{Value, json};

use super::check;
use super::lens::Lens;
use super::path::Path;
use super::table;

/// The Scale of a Deployment or ReplicaSet.
pub fn of(object: &Value) -> Value {
    let mut metadata = json!({});
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        metadata.take_over(field, object.at("metadata"));
    }
    let replicas = |section| object.at(section).int("replicas").unwrap_or(0);
    let mut status = json!({ "replicas": replicas("status") });
    let selector = object.at("spec").at("selector");
    if !selector.is_null() {
        status.set("selector", selector_text(selector));
    }
    let spec = match replicas("spec") {
        0 => json!({}),
        count => json!({ "replicas": count }),
    };
    json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": metadata,
        "spec": spec,
        "status": status,
    })
}

/// Sets the replicas that `scale` asks for.
pub fn apply(object: &mut Value, scale: &Value) {
    let replicas = scale.at("spec").int("replicas").unwrap_or(0);
    object.section("spec").set("replicas", replicas);
}

/// Validates a Scale that is written to an object of the kind `row`.
pub fn validate(scale: &Value, row: &Row, object: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    check::nonnegative(&Path::root("spec"), scale.at("spec"), &["replicas"], &mut errors);
    let (wanted, name) = (scale.at("metadata"), object.at("metadata").text("name"));
    debug_assert!(row.has_subresource("scale"));
    if !wanted.text("name").is_empty() && wanted.text("name") != name {
        let path = Path::root("metadata");
        let detail = "field is immutable";
        errors.push(FieldError::invalid(path.field("name"), wanted.text("name"), detail));
    }
    errors
}

/// As a query writes it; nothing for a selector that selects nothing in particular.
fn selector_text(selector: &Value) -> String {
    match table::selector(selector) {
        none if none == "<none>" => String::new(),
        text => text,
    }
}
