//! The CRI definitions bear the standard's names and numbers.

use std::{collections::BTreeMap, path::Path};

use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use serde_json::{Map, Value, json};

const FACTS: &str = "shared/data/cri-v1-fields.json";

#[test]
fn every_field_bears_the_standards_name_number_and_type() {
    let above = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    let Some(path) = above.map(|folder| folder.join(FACTS)).find(|path| path.exists()) else {
        eprintln!("SKIPPED: no {FACTS} beside the repository to compare with");
        return;
    };
    let text = std::fs::read_to_string(path).unwrap();
    let facts: Value = serde_json::from_str(&text).unwrap();
    let ours = definitions();

    let mut differences = Vec::new();
    for section in ["messages", "enums", "services"] {
        for (name, expected) in facts[section].as_object().unwrap() {
            let found = &ours[section][name];
            if found != &normalised(expected.clone()) {
                differences.push(format!("{section} {name}: {found} instead of {expected}"));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// The definitions in the shape of the facts.
fn definitions() -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files: FileDescriptorSet = protox::compile(["cri/api.proto"], [root]).unwrap();
    let (mut messages, mut enums, mut services) = (Map::new(), Map::new(), Map::new());
    for file in &files.file {
        for message in &file.message_type {
            messages.insert(message.name().to_owned(), fields(message));
            for inner in &message.enum_type {
                enums.insert(format!("{}.{}", message.name(), inner.name()), values(inner));
            }
        }
        for values_of in &file.enum_type {
            enums.insert(values_of.name().to_owned(), values(values_of));
        }
        for service in &file.service {
            let methods = service.method.iter().map(|method| {
                let mut entry = json!({
                    "request": last(method.input_type()),
                    "response": last(method.output_type()),
                });
                if method.server_streaming() {
                    entry["streams"] = json!(true);
                }
                (method.name().to_owned(), entry)
            });
            services.insert(service.name().to_owned(), Value::Object(methods.collect()));
        }
    }
    json!({ "messages": messages, "enums": enums, "services": services })
}

fn fields(message: &DescriptorProto) -> Value {
    let maps: BTreeMap<String, String> = message
        .nested_type
        .iter()
        .map(|entry| {
            let types: Vec<String> = entry.field.iter().map(type_name).collect();
            (entry.name().to_owned(), format!("map<{}>", types.join(",")))
        })
        .collect();
    let described = message.field.iter().map(|field| {
        let name = type_name(field);
        let mut entry = json!({ "number": field.number() });
        match maps.get(&name) {
            Some(map) => entry["type"] = json!(map),
            None => {
                entry["type"] = json!(name);
                if field.label() == prost_types::field_descriptor_proto::Label::Repeated {
                    entry["repeated"] = json!(true);
                }
            }
        }
        (field.name().to_owned(), entry)
    });
    Value::Object(described.collect())
}

fn values(of: &EnumDescriptorProto) -> Value {
    of.value.iter().map(|value| (value.name().to_owned(), json!(value.number()))).collect()
}

fn type_name(field: &FieldDescriptorProto) -> String {
    match field.type_name() {
        "" => format!("{:?}", field.r#type()).to_lowercase(),
        name => last(name).to_owned(),
    }
}

fn last(path: &str) -> &str {
    path.rsplit('.').next().unwrap()
}

/// The facts write maps with and without a space.
fn normalised(mut value: Value) -> Value {
    for entry in value.as_object_mut().into_iter().flat_map(Map::values_mut) {
        if let Some(name) = entry["type"].as_str() {
            let name = name.replace(' ', "");
            entry["type"] = json!(name);
        } else if let Some(entry) = entry.as_object_mut() {
            entry.remove("type");
        }
    }
    value
}
