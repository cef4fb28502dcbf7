//! The environment of a container: where its variables come from.

use proto::quantity::Quantity;
use serde_json::Value;

use crate::output::sheet::Sheet;
use crate::resources::{items, text};

/// `pod` is null where there is only a template: then references have no value yet.
pub fn describe(spec: &Value, pod: &Value, sheet: &mut Sheet) {
    if items(&spec["envFrom"]).next().is_some() {
        sheet.section("Environment Variables from", |sheet| {
            for source in items(&spec["envFrom"]) {
                let (kind, reference) = match source["configMapRef"].is_object() {
                    true => ("ConfigMap", &source["configMapRef"]),
                    false => ("Secret", &source["secretRef"]),
                };
                let kind = match text(&source["prefix"]) {
                    "" => kind.to_string(),
                    prefix => format!("{kind} with prefix '{prefix}'"),
                };
                sheet.row(&[text(&reference["name"]), &kind, &optional(reference)]);
            }
        });
    }
    if items(&spec["env"]).next().is_none() {
        sheet.field("Environment", "<none>");
        return;
    }
    sheet.section("Environment", |sheet| {
        items(&spec["env"]).for_each(|one| variable(one, spec, pod, sheet));
    });
}

fn variable(variable: &Value, spec: &Value, pod: &Value, sheet: &mut Sheet) {
    let (name, from) = (text(&variable["name"]), &variable["valueFrom"]);
    for (field, whose) in [("configMapKeyRef", "of config map"), ("secretKeyRef", "in secret")] {
        let reference = &from[field];
        if reference.is_object() {
            let (key, of) = (text(&reference["key"]), text(&reference["name"]));
            let set = format!("<set to the key '{key}' {whose} '{of}'>");
            sheet.row(&[&format!("{name}:"), &set, &optional(reference)]);
            return;
        }
    }
    let value = if from["fieldRef"].is_object() {
        let reference = &from["fieldRef"];
        let path = text(&reference["fieldPath"]);
        let value = match path.strip_prefix("metadata.") {
            Some(field) => text(&pod["metadata"][field]),
            None => "",
        };
        format!("{value} ({}:{path})", text(&reference["apiVersion"]))
    } else if from["resourceFieldRef"].is_object() {
        let reference = &from["resourceFieldRef"];
        format!("{} ({})", amount(reference, spec), text(&reference["resource"]))
    } else {
        text(&variable["value"]).to_string()
    };
    // Further lines of a value stand under its first.
    for (at, line) in value.split('\n').enumerate() {
        let head = if at == 0 { format!("{name}:") } else { String::new() };
        sheet.row(&[&head, line]);
    }
}

/// A container's request or limit in the reference's unit, rounded up.
fn amount(reference: &Value, spec: &Value) -> String {
    let resource = text(&reference["resource"]);
    let (which, name) = resource.split_once('.').unwrap_or_default();
    let amount: Quantity = text(&spec["resources"][which][name]).parse().unwrap_or_default();
    let unit: Quantity = text(&reference["divisor"]).parse().unwrap_or_default();
    let (amount, unit) = match name {
        "cpu" => (amount.milli(), if unit.is_zero() { 1000 } else { unit.milli() }),
        _ => (amount.value(), if unit.is_zero() { 1 } else { unit.value() }),
    };
    match (amount, resource) {
        (0, "limits.cpu" | "limits.memory") => "node allocatable".into(),
        (amount, _) => (amount.saturating_add(unit - 1) / unit.max(1)).to_string(),
    }
}

fn optional(reference: &Value) -> String {
    format!("Optional: {}", reference["optional"] == true)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn variables_tell_where_they_come_from() {
        let spec = json!({
            "resources": {"limits": {"cpu": "250m", "memory": "48Mi"}},
            "envFrom": [{"prefix": "P_", "secretRef": {"name": "keys"}}],
            "env": [
                {"name": "A", "value": "b"},
                {"name": "KEY", "valueFrom": {
                    "configMapKeyRef": {"name": "map", "key": "k", "optional": true}}},
                {"name": "NAME", "valueFrom": {
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
                {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                {"name": "MIB", "valueFrom": {
                    "resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
                {"name": "ASKED", "valueFrom": {
                    "resourceFieldRef": {"resource": "requests.memory"}}},
            ],
        });
        let mut sheet = Sheet::default();
        describe(&spec, &json!({"metadata": {"name": "web"}}), &mut sheet);
        assert_eq!(
            sheet.text(),
            "Environment Variables from:\n  keys  Secret with prefix 'P_'  Optional: false\n\
             Environment:\n  A:      b\n  KEY:    <set to the key 'k' of config map 'map'>  \
             Optional: true\n  NAME:   web (v1:metadata.name)\n  CPU:    1 (limits.cpu)\n  \
             MIB:    48 (limits.memory)\n  ASKED:  0 (requests.memory)\n"
        );
    }
}
