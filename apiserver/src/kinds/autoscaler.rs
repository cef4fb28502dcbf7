//! HorizontalPodAutoscalers: stored in version 2, spoken in versions 1 and 2.

pub mod conversion;
pub mod metric;
pub mod targets;

use proto::kind::HORIZONTAL_POD_AUTOSCALER;
use proto::status::FieldError;
use proto::time::Time;
use serde_json::{Value, json};

use super::check::{self, Errors};
use super::lens::Lens;
use super::path::Path;
use super::table::{self, column};
use super::{Column, Context, Conversion, Strategy};

const SPEC: Path = Path::root("spec");
const STATUS: Path = Path::root("status");
const LONGEST_WINDOW: i64 = 3600;
const LONGEST_PERIOD: i64 = 1800;

/// autoscaling/v2.
pub struct Autoscaler;

/// autoscaling/v1, in all but the shape the same.
pub struct AutoscalerV1;

impl Strategy for AutoscalerV1 {
    fn conversion(&self) -> Option<Conversion> {
        Some(Conversion {
            stored: &HORIZONTAL_POD_AUTOSCALER,
            to_storage: conversion::from_v1,
            from_storage: conversion::to_v1,
        })
    }

    fn default(&self, object: &mut Value) {
        Autoscaler.default(object);
    }

    fn prepare_create(&self, new: &mut Value, ctx: &Context) {
        Autoscaler.prepare_create(new, ctx);
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        Autoscaler.validate(object)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        Autoscaler.validate_update(new, old)
    }

    fn validate_status(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        Autoscaler.validate_status(new, old)
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        Autoscaler.cells(object, now)
    }
}

impl Strategy for Autoscaler {
    fn default(&self, object: &mut Value) {
        let spec = object.section("spec");
        spec.fill("minReplicas", 1);
        if spec.vacant("metrics") {
            spec.set("metrics", json!([metric::cpu(80)]));
        }
        if spec.has("behavior") {
            rules(spec.section("behavior").section("scaleUp"), up());
            rules(spec.section("behavior").section("scaleDown"), down());
        }
    }

    fn prepare_create(&self, new: &mut Value, _ctx: &Context) {
        new.set("status", json!({ "desiredReplicas": 0 }));
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        validate(object.at("spec"), 1)
    }

    /// An autoscaler that may scale to zero keeps that right.
    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let lowest = i64::from(old.at("spec").int("minReplicas") != Some(0));
        validate(new.at("spec"), lowest)
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let counts = ["currentReplicas", "desiredReplicas"];
        check::nonnegative(&STATUS, new.at("status"), &counts, &mut errors);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let (spec, status) = (object.at("spec"), object.at("status"));
        let target = spec.at("scaleTargetRef");
        let lowest = spec.int("minReplicas");
        vec![
            table::name(object),
            format!("{}/{}", target.text("kind"), target.text("name")).into(),
            targets::shown(spec.items("metrics"), status.items("currentMetrics")).into(),
            lowest.map_or("<unset>".to_string(), |count| count.to_string()).into(),
            spec.int("maxReplicas").unwrap_or(0).into(),
            status.int("currentReplicas").unwrap_or(0).into(),
            table::age(object, now),
        ]
    }
}

fn validate(spec: &Value, lowest: i64) -> Errors {
    let mut errors = Vec::new();
    let (least, most) = (spec.int("minReplicas"), spec.int("maxReplicas").unwrap_or(0));
    if let Some(least) = least.filter(|least| *least < lowest) {
        let detail = format!("must be greater than or equal to {lowest}");
        errors.push(FieldError::invalid(SPEC.field("minReplicas"), least, detail));
    }
    let path = SPEC.field("maxReplicas");
    if most < 1 {
        errors.push(FieldError::invalid(path, most, "must be greater than 0"));
    }
    if least.is_some_and(|least| most < least) {
        let detail = "must be greater than or equal to `minReplicas`";
        errors.push(FieldError::invalid(path, most, detail));
    }
    metric::reference(&SPEC.field("scaleTargetRef"), spec.at("scaleTargetRef"), &mut errors);
    let path = SPEC.field("metrics");
    for (index, metric) in spec.items("metrics").iter().enumerate() {
        metric::validate(&path.index(index), metric, &mut errors);
    }
    let outside = |metric: &Value| matches!(metric.text("type"), "Object" | "External");
    if least == Some(0) && !spec.items("metrics").iter().any(outside) {
        let detail = "must specify at least one Object or External metric to support scaling to \
                      zero replicas";
        errors.push(FieldError::forbidden(path, detail));
    }
    let path = SPEC.field("behavior");
    for direction in ["scaleUp", "scaleDown"] {
        let rules = spec.at("behavior").at(direction);
        if !rules.is_null() {
            scaling(&path.field(direction), rules, &mut errors);
        }
    }
    errors
}

fn scaling(path: &Path, rules: &Value, errors: &mut Errors) {
    let window = path.field("stabilizationWindowSeconds");
    match rules.int("stabilizationWindowSeconds") {
        Some(seconds) if seconds < 0 => {
            let detail = "must be greater than or equal to zero";
            errors.push(FieldError::invalid(window, seconds, detail));
        }
        Some(seconds) if seconds > LONGEST_WINDOW => {
            let detail = format!("must be less than or equal to {LONGEST_WINDOW}");
            errors.push(FieldError::invalid(window, seconds, detail));
        }
        _ => {}
    }
    let select = rules.text("selectPolicy");
    let supported = ["Disabled", "Max", "Min"];
    check::optional_one_of(&path.field("selectPolicy"), select, &supported, errors);
    let policies = path.field("policies");
    if rules.vacant("policies") {
        errors.push(FieldError::required(policies, "must specify at least one Policy"));
    }
    for (index, policy) in rules.items("policies").iter().enumerate() {
        let path = policies.index(index);
        let kind = policy.text("type");
        if !matches!(kind, "Pods" | "Percent") {
            let supported = ["Percent", "Pods"];
            errors.push(FieldError::not_supported(path.field("type"), kind, &supported));
        }
        for field in ["value", "periodSeconds"] {
            let number = policy.int(field).unwrap_or(0);
            if number <= 0 {
                let detail = "must be greater than zero";
                errors.push(FieldError::invalid(path.field(field), number, detail));
            } else if field == "periodSeconds" && number > LONGEST_PERIOD {
                let detail = format!("must be less than or equal to {LONGEST_PERIOD}");
                errors.push(FieldError::invalid(path.field(field), number, detail));
            }
        }
    }
    let tolerance = rules.at("tolerance");
    if super::pod::resources::read(tolerance).is_some_and(|tolerance| tolerance.is_negative()) {
        let detail = "must be greater than or equal to 0";
        errors.push(FieldError::invalid(path.field("tolerance"), tolerance.clone(), detail));
    }
}

/// Fills what rules leave open with what is usual for their direction.
fn rules(rules: &mut Value, usual: Value) {
    for (field, value) in usual.as_object().into_iter().flatten() {
        rules.fill(field, value.clone());
    }
}

fn up() -> Value {
    json!({
        "stabilizationWindowSeconds": 0,
        "selectPolicy": "Max",
        "policies": [
            {"type": "Pods", "value": 4, "periodSeconds": 15},
            {"type": "Percent", "value": 100, "periodSeconds": 15},
        ],
    })
}

fn down() -> Value {
    json!({
        "selectPolicy": "Max",
        "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}],
    })
}

const COLUMNS: &[Column] = &[
    table::NAME,
    column(
        "Reference",
        "string",
        0,
        "scaleTargetRef points to the target resource to scale, and is used to the pods for which \
         metrics should be collected, as well as to actually change the replica count.",
    ),
    column(
        "Targets",
        "string",
        0,
        "metrics contains the specifications for which to use to calculate the desired replica \
         count (the maximum replica count across all metrics will be used).  The desired replica \
         count is calculated multiplying the ratio between the target value and the current value \
         by the current number of pods.  Ergo, metrics used must decrease as the pod count is \
         increased, and vice-versa.  See the individual metric source types for more information \
         about how each type of metric must respond. If not set, the default metric will be set to \
         80% average CPU utilization.",
    ),
    column(
        "MinPods",
        "string",
        0,
        "minReplicas is the lower limit for the number of replicas to which the autoscaler can \
         scale down.  It defaults to 1 pod.  minReplicas is allowed to be 0 if the alpha feature \
         gate HPAScaleToZero is enabled and at least one Object or External metric is configured.  \
         Scaling is active as long as at least one metric value is available.",
    ),
    column(
        "MaxPods",
        "string",
        0,
        "maxReplicas is the upper limit for the number of replicas to which the autoscaler can \
         scale up. It cannot be less that minReplicas.",
    ),
    column(
        "Replicas",
        "string",
        0,
        "currentReplicas is current number of replicas of pods managed by this autoscaler, as last \
         seen by the autoscaler.",
    ),
    table::AGE,
];
