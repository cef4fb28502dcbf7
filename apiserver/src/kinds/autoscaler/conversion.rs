//! Between versions 1 and 2. Version 1 knows the share of the CPU alone; everything else it
//! carries in annotations.

use serde_json::{Map, Value, json};

use super::metric::{SOURCES, cpu};
use crate::kinds::lens::Lens;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// From autoscaling/v1 to the stored shape.
pub fn from_v1(mut object: Value) -> Value {
    let read = |name: &str| {
        let text = object.at("metadata").at("annotations").text(name);
        serde_json::from_str::<Value>(text).ok()
    };
    let list = |value: Option<Value>| match value {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    let mut metrics: Vec<Value> =
        list(read(METRICS)).iter().map(|old| renamed(old, "target")).collect();
    let mut current: Vec<Value> =
        list(read(CURRENT)).iter().map(|old| renamed(old, "current")).collect();
    let (conditions, behavior) = (list(read(CONDITIONS)), read(BEHAVIOR));
    drop_annotations(&mut object);
    if object.has("apiVersion") {
        object.set("apiVersion", "autoscaling/v2");
    }
    let spec = object.section("spec");
    if let Some(percent) = spec.int("targetCPUUtilizationPercentage") {
        metrics.push(cpu(percent));
    }
    spec.drop("targetCPUUtilizationPercentage");
    if !metrics.is_empty() {
        spec.set("metrics", metrics);
    }
    if let Some(behavior) = behavior.filter(Value::is_object) {
        spec.set("behavior", keys(&behavior, lower));
    }
    if object.has("status") {
        let status = object.section("status");
        let percent = status.int("currentCPUUtilizationPercentage");
        if let Some(percent) = percent.filter(|_| !current.iter().any(is_cpu_status)) {
            current.push(json!({"type": "Resource", "resource": {
                "name": "cpu", "current": {"averageUtilization": percent},
            }}));
        }
        status.drop("currentCPUUtilizationPercentage");
        for (field, items) in [("currentMetrics", current), ("conditions", conditions)] {
            if !items.is_empty() {
                status.set(field, items);
            }
        }
    }
    object
}

/// From the stored shape to autoscaling/v1.
pub fn to_v1(mut object: Value) -> Value {
    drop_annotations(&mut object);
    if object.has("apiVersion") {
        object.set("apiVersion", "autoscaling/v1");
    }
    let mut annotations = Vec::new();
    let spec = object.section("spec");
    let metrics = spec.items("metrics").to_vec();
    let (cpus, others): (Vec<Value>, Vec<Value>) = metrics.into_iter().partition(is_cpu);
    if let Some(metric) = cpus.first() {
        let percent = metric.at("resource").at("target").at("averageUtilization").clone();
        spec.set("targetCPUUtilizationPercentage", percent);
    }
    if !others.is_empty() {
        let old: Vec<Value> = others.iter().map(|metric| flattened(metric, "target")).collect();
        annotations.push((METRICS, Value::Array(old)));
    }
    if spec.has("behavior") {
        annotations.push((BEHAVIOR, keys(spec.at("behavior"), upper)));
    }
    spec.drop("metrics");
    spec.drop("behavior");
    if object.has("status") {
        let status = object.section("status");
        let current = status.items("currentMetrics").to_vec();
        if let Some(metric) = current.iter().find(|metric| is_cpu_status(metric)) {
            let percent = metric.at("resource").at("current").at("averageUtilization").clone();
            status.set("currentCPUUtilizationPercentage", percent);
        }
        // The share alone has its own field; with the amount that it came from it has not.
        let told = |metric: &Value| {
            is_cpu_status(metric) && !metric.at("resource").at("current").has("averageValue")
        };
        if !current.iter().all(told) {
            let old: Vec<Value> = current.iter().map(|item| flattened(item, "current")).collect();
            annotations.push((CURRENT, Value::Array(old)));
        }
        if !status.vacant("conditions") {
            annotations.push((CONDITIONS, status.at("conditions").clone()));
        }
        status.drop("currentMetrics");
        status.drop("conditions");
        status.fill("currentReplicas", 0);
        status.fill("desiredReplicas", 0);
    }
    for (name, value) in annotations {
        object.section("metadata").section("annotations").set(name, value.to_string());
    }
    object
}

fn drop_annotations(object: &mut Value) {
    if !object.at("metadata").has("annotations") {
        return;
    }
    let metadata = object.section("metadata");
    for name in [METRICS, CURRENT, CONDITIONS, BEHAVIOR] {
        metadata.section("annotations").drop(name);
    }
    if metadata.vacant("annotations") {
        metadata.drop("annotations");
    }
}

fn is_cpu(metric: &Value) -> bool {
    let resource = metric.at("resource");
    resource.text("name") == "cpu" && resource.at("target").has("averageUtilization")
}

fn is_cpu_status(metric: &Value) -> bool {
    let resource = metric.at("resource");
    resource.text("name") == "cpu" && resource.at("current").has("averageUtilization")
}

/// The names of the same values in version 2, with `target` or `current` around them.
const VALUES: [&str; 3] = ["value", "averageValue", "averageUtilization"];

/// A metric as version 1 writes it in its annotation: `targetAverageValue` beside the rest.
fn flattened(metric: &Value, around: &str) -> Value {
    let mut old = json!({ "type": metric.at("type") });
    for (kind, field) in SOURCES.iter().filter(|(_, field)| metric.has(field)) {
        let source = metric.at(field);
        let mut flat = json!({});
        for value in VALUES.iter().filter(|value| source.at(around).has(value)) {
            flat.set(&old_value(kind, around, value), source.at(around).at(value).clone());
        }
        for name in ["name", "container"].iter().filter(|name| source.has(name)) {
            flat.set(name, source.at(name).clone());
        }
        if source.has("describedObject") {
            flat.set("target", source.at("describedObject").clone());
        }
        if source.has("metric") {
            flat.set("metricName", source.at("metric").at("name").clone());
            if source.at("metric").has("selector") {
                flat.set(old_selector(kind), source.at("metric").at("selector").clone());
            }
        }
        old.set(field, flat);
    }
    old
}

/// A metric of version 1's annotation in version 2.
fn renamed(old: &Value, around: &str) -> Value {
    let mut metric = json!({ "type": old.at("type") });
    for (kind, field) in SOURCES.iter().filter(|(_, field)| old.has(field)) {
        let flat = old.at(field);
        let mut values = json!({});
        for value in VALUES {
            let name = old_value(kind, around, value);
            if flat.has(&name) {
                values.set(value, flat.at(&name).clone());
            }
        }
        if around == "target" {
            let kinds = ["Value", "AverageValue", "Utilization"];
            let given = VALUES.iter().zip(kinds).rfind(|(value, _)| values.has(value));
            values.set("type", given.map_or("", |(_, kind)| kind));
        }
        let mut source = json!({});
        for name in ["name", "container"].iter().filter(|name| flat.has(name)) {
            source.set(name, flat.at(name).clone());
        }
        if *kind == "Object" {
            source.set("describedObject", flat.at("target").clone());
        }
        if !matches!(*kind, "Resource" | "ContainerResource") {
            source.section("metric").set("name", flat.at("metricName").clone());
            let selector = old_selector(kind);
            if flat.has(selector) {
                source.section("metric").set("selector", flat.at(selector).clone());
            }
        }
        source.set(around, values);
        metric.set(field, source);
    }
    metric
}

/// `targetAverageValue`, but an object's average value has no prefix.
fn old_value(kind: &str, around: &str, value: &str) -> String {
    match (kind, value) {
        ("Object", "averageValue") => value.into(),
        _ => format!("{around}{}", upper(value)),
    }
}

fn old_selector(kind: &str) -> &'static str {
    if kind == "External" { "metricSelector" } else { "selector" }
}

/// The value with every key changed; the annotation of the behavior has Go's names.
fn keys(value: &Value, change: fn(&str) -> String) -> Value {
    match value {
        Value::Object(fields) => {
            let changed = fields.iter().map(|(key, value)| (change(key), keys(value, change)));
            Value::Object(changed.filter(|(_, value)| !value.is_null()).collect::<Map<_, _>>())
        }
        Value::Array(items) => items.iter().map(|item| keys(item, change)).collect(),
        other => other.clone(),
    }
}

fn upper(text: &str) -> String {
    first(text, char::to_ascii_uppercase)
}

fn lower(text: &str) -> String {
    first(text, char::to_ascii_lowercase)
}

fn first(text: &str, change: fn(&char) -> char) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| change(&first).to_string() + letters.as_str())
}
