//! Metrics of autoscalers: the default one, and validation.

use proto::status::FieldError;
use serde_json::{Value, json};

use crate::kinds::check::{self, Errors};
use crate::kinds::lens::Lens;
use crate::kinds::metadata::sentences;
use crate::kinds::name::NameRule;
use crate::kinds::path::Path;
use crate::kinds::pod::resources;

/// The sources: type, field.
pub const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];

/// The metric of a share of the CPU that was asked for, in percent.
pub fn cpu(percent: i64) -> Value {
    json!({
        "type": "Resource",
        "resource": {
            "name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": percent},
        },
    })
}

/// A reference to an object of any version (CrossVersionObjectReference).
pub fn reference(path: &Path, reference: &Value, errors: &mut Errors) {
    for field in ["kind", "name"] {
        segment(&path.field(field), reference.text(field), "", errors);
    }
}

/// Validates one metric: a known type, and its source alone.
pub fn validate(path: &Path, metric: &Value, errors: &mut Errors) {
    let kind = metric.text("type");
    let path_type = path.field("type");
    if kind.is_empty() {
        errors.push(FieldError::required(path_type, "must specify a metric source type"));
    }
    let supported = ["ContainerResource", "External", "Object", "Pods", "Resource"];
    if !supported.contains(&kind) {
        errors.push(FieldError::not_supported(path_type, kind, &supported));
    }
    let given = || SOURCES.iter().filter(|(_, field)| metric.has(field));
    if let Some((_, field)) = given().next() {
        source(&path.field(field), field, metric.at(field), errors);
    }
    let expected = SOURCES.iter().find(|(known, _)| *known == kind).map(|(_, field)| *field);
    if let Some(field) = expected.filter(|field| !metric.has(field)) {
        let detail = "must populate information for the given metric source";
        errors.push(FieldError::required(path.field(field), detail));
    }
    for (_, field) in given().filter(|(_, field)| Some(*field) != expected) {
        if given().count() > 1 {
            let detail = "must populate the given metric source only";
            errors.push(FieldError::forbidden(path.field(field), detail));
        }
    }
}

fn source(path: &Path, field: &str, source: &Value, errors: &mut Errors) {
    let of_resource = matches!(field, "resource" | "containerResource");
    if field == "object" {
        reference(&path.field("describedObject"), source.at("describedObject"), errors);
    }
    if of_resource {
        if source.text("name").is_empty() {
            errors.push(FieldError::required(path.field("name"), "must specify a resource name"));
        } else if field == "containerResource" {
            resources::container_resource(&path.field("name"), source.text("name"), errors);
        }
    } else {
        let path = path.field("metric");
        let name = source.at("metric").text("name");
        segment(&path.field("name"), name, "must specify a metric name", errors);
    }
    if field == "containerResource" {
        match source.text("container") {
            "" => {
                let detail = "must specify a container";
                errors.push(FieldError::required(path.field("container"), detail));
            }
            name => check::label(&path.field("container"), name, errors),
        }
    }
    let (path, target) = (path.field("target"), source.at("target"));
    self::target(&path, target, errors);
    let has = |field| target.has(field);
    let (required, detail) = match field {
        "object" => ("averageValue", "must set either a target value or averageValue"),
        "external" => {
            ("averageValue", "must set either a target value for metric or a per-pod target")
        }
        "pods" => ("averageValue", "must specify a positive target averageValue"),
        _ => ("averageUtilization", "must set either a target raw value or a target utilization"),
    };
    let second = match field {
        "pods" => "averageValue",
        _ if of_resource => "averageValue",
        _ => "value",
    };
    if !has(required) && !has(second) {
        errors.push(FieldError::required(path.field(required), detail));
    }
    if has("averageValue") && field == "external" && has("value") {
        let detail = "may not set both a target value for metric and a per-pod target";
        errors.push(FieldError::forbidden(path.field("value"), detail));
    }
    if has("averageValue") && of_resource && has("averageUtilization") {
        let detail = "may not set both a target raw value and a target utilization";
        errors.push(FieldError::forbidden(path.field("averageValue"), detail));
    }
}

fn target(path: &Path, target: &Value, errors: &mut Errors) {
    let kind = target.text("type");
    let path_type = path.field("type");
    if kind.is_empty() {
        errors.push(FieldError::required(path_type, "must specify a metric target type"));
    }
    if !matches!(kind, "Utilization" | "Value" | "AverageValue") {
        let detail = "must be either Utilization, Value, or AverageValue";
        errors.push(FieldError::invalid(path_type, kind, detail));
    }
    for field in ["value", "averageValue"] {
        let amount = resources::read(target.at(field));
        if amount.is_some_and(|amount| amount.is_negative() || amount.is_zero()) {
            let value = target.at(field).clone();
            errors.push(FieldError::invalid(path.field(field), value, "must be positive"));
        }
    }
    if let Some(percent) = target.int("averageUtilization").filter(|percent| *percent < 1) {
        let path = path.field("averageUtilization");
        errors.push(FieldError::invalid(path, percent, "must be greater than 0"));
    }
}

/// Required, and fit for a segment of a URL.
fn segment(path: &Path, text: &str, missing: &str, errors: &mut Errors) {
    match text {
        "" => errors.push(FieldError::required(path, missing)),
        text => errors.extend(sentences(path, text, NameRule::PathSegment.check(text))),
    }
}
