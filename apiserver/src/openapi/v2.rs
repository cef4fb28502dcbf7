//! OpenAPI v2 (Swagger): one document of every group and version, turned from version 3's. Version
//! 2 has no wrapper around a reference, no alternatives and, as upstream publishes it, no defaults.

use std::collections::BTreeSet;

use proto::kind::Row;
use serde_json::{Map, Value, json};

use super::{VERSION, v3_value};

pub fn document(rows: &[&Row]) -> Value {
    let versions: BTreeSet<(&str, &str)> =
        rows.iter().map(|row| (&*row.group, &*row.version)).collect();
    let (mut paths, mut definitions) = (Map::new(), Map::new());
    for (group, version) in versions {
        let Some(mut document) = v3_value(group, version, rows) else { continue };
        for (path, item) in entries(document["paths"].take()) {
            paths.insert(path, path_item(item));
        }
        for (name, definition) in entries(document["components"]["schemas"].take()) {
            definitions.entry(name).or_insert_with(|| schema(definition));
        }
    }
    json!({
        "swagger": "2.0",
        "info": { "title": "Kubernetes", "version": VERSION },
        "paths": paths,
        "definitions": definitions,
        "securityDefinitions": { "BearerToken": {
            "type": "apiKey",
            "description": "Bearer Token authentication",
            "name": "authorization",
            "in": "header",
        }},
        "security": [{ "BearerToken": [] }],
    })
}

fn entries(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn items(value: Value) -> Vec<Value> {
    match value {
        Value::Array(items) => items,
        _ => Vec::new(),
    }
}

fn schema(value: Value) -> Value {
    let mut out = Map::new();
    for (key, value) in entries(value) {
        match key.as_str() {
            "default" => {}
            // Quantities and int-or-strings: text, by version 2's means.
            "oneOf" => drop(out.insert("type".into(), "string".into())),
            "$ref" => {
                let name = value.as_str().and_then(|path| path.rsplit('/').next());
                let path = format!("#/definitions/{}", name.unwrap_or_default());
                out.insert(key, path.into());
            }
            // Version 3 wraps a reference to say more about it.
            "allOf" => items(value).into_iter().for_each(|of| out.extend(entries(schema(of)))),
            "items" | "additionalProperties" => drop(out.insert(key, schema(value))),
            "properties" => {
                let fields = entries(value).into_iter();
                let fields: Map<String, Value> =
                    fields.map(|(name, field)| (name, schema(field))).collect();
                out.insert(key, fields.into());
            }
            _ => drop(out.insert(key, value)),
        }
    }
    Value::Object(out)
}

fn path_item(item: Value) -> Value {
    let part = |(key, value): (String, Value)| match key.as_str() {
        "parameters" => (key, items(value).into_iter().map(parameter).collect()),
        _ => (key, operation(value)),
    };
    Value::Object(entries(item).into_iter().map(part).collect())
}

/// The type of a parameter stands beside its name.
fn parameter(value: Value) -> Value {
    let mut parameter = entries(value);
    let schema = parameter.remove("schema").map(entries).unwrap_or_default();
    parameter.extend(schema);
    Value::Object(parameter)
}

/// The body is a parameter, and media types are named once per operation.
fn operation(value: Value) -> Value {
    let mut operation = entries(value);
    let parameters = operation.remove("parameters").map(items).unwrap_or_default();
    let mut parameters: Vec<Value> = parameters.into_iter().map(parameter).collect();
    let (mut consumes, mut produces) = (vec![Value::from("*/*")], BTreeSet::new());
    if let Some(mut body) = operation.remove("requestBody") {
        let content = entries(body["content"].take());
        consumes = content.keys().map(|media| media.as_str().into()).collect();
        if let Some(mut media) = content.into_iter().map(|(_, media)| media).next() {
            let required = operation.get("x-kubernetes-action").and_then(Value::as_str);
            let mut parameter =
                json!({ "name": "body", "in": "body", "schema": schema(media["schema"].take()) });
            // A deletion may come without options.
            if !matches!(required, Some("delete" | "deletecollection")) {
                parameter["required"] = true.into();
            }
            parameters.insert(0, parameter);
        }
    }
    let mut responses = Map::new();
    for (code, mut answer) in operation.remove("responses").map(entries).unwrap_or_default() {
        let mut response = json!({ "description": answer["description"].take() });
        for (media, mut content) in entries(answer["content"].take()) {
            response["schema"] = schema(content["schema"].take());
            produces.insert(media);
        }
        responses.insert(code, response);
    }
    operation.insert("consumes".into(), consumes.into());
    operation.insert("produces".into(), produces.into_iter().map(Value::from).collect());
    operation.insert("schemes".into(), json!(["https"]));
    operation.insert("parameters".into(), parameters.into());
    operation.insert("responses".into(), responses.into());
    Value::Object(operation)
}
