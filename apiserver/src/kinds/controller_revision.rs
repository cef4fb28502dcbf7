//! ControllerRevisions.

use proto::status::FieldError;
use proto::time::Time;
use serde_json::Value;

use super::lens::Lens;
use super::metadata::immutable;
use super::path::Path;
use super::table::{self, column};
use super::{Column, Strategy};

pub struct ControllerRevision;

impl Strategy for ControllerRevision {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if !object.has("data") {
            errors.push(FieldError::required("data", "data is mandatory"));
        }
        if let Some(revision) = object.int("revision").filter(|revision| *revision < 0) {
            let detail = "must be greater than or equal to 0";
            errors.push(FieldError::invalid("revision", revision, detail));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(new);
        immutable(&Path::root("data"), new.at("data"), old.at("data"), &mut errors);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const CONTROLLER: Column = column("Controller", "string", 0, "Controller of the object");
        const REVISION: Column = column(
            "Revision",
            "string",
            0,
            "Revision indicates the revision of the state represented by Data.",
        );
        &[table::NAME, CONTROLLER, REVISION, table::AGE]
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        vec![
            table::name(object),
            controller(object).into(),
            object.int("revision").unwrap_or(0).into(),
            table::age(object, now),
        ]
    }
}

/// `statefulset.apps/web`.
fn controller(object: &Value) -> String {
    let mut owners = object.at("metadata").items("ownerReferences").iter();
    let Some(owner) = owners.find(|owner| owner.flag("controller") == Some(true)) else {
        return "<none>".into();
    };
    let kind = owner.text("kind").to_lowercase();
    match owner.text("apiVersion").split_once('/') {
        Some((group, _)) => format!("{kind}.{group}/{}", owner.text("name")),
        None => format!("{kind}/{}", owner.text("name")),
    }
}
