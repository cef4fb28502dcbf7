//! How a command prints objects: `-o json|yaml|name|jsonpath=…|wide`, or a table.

pub mod age;
pub mod jsonpath;
pub mod sheet;
pub mod table;

use serde_json::{Value, json};

use crate::failure::{Failure, Result};
use crate::output::jsonpath::Template;
use crate::resources::text;

/// What `-o` asks for.
#[derive(Debug)]
pub enum Format {
    Table { wide: bool },
    Json,
    Yaml,
    Name,
    JsonPath(Template),
}

const ALLOWED: &str = "json,jsonpath,jsonpath-as-json,jsonpath-file,name,wide,yaml";

impl Format {
    pub fn parse(word: Option<&str>) -> Result<Format> {
        let path = |template: &str| Template::parse(template).map(Format::JsonPath);
        match word.map(|word| word.split_once('=').unwrap_or((word, ""))) {
            None | Some(("", _)) => Ok(Format::Table { wide: false }),
            Some(("wide", _)) => Ok(Format::Table { wide: true }),
            Some(("json", _)) => Ok(Format::Json),
            Some(("yaml", _)) => Ok(Format::Yaml),
            Some(("name", _)) => Ok(Format::Name),
            Some(("jsonpath", "")) => {
                Err(Failure::said("template format specified but no template given"))
            }
            Some(("jsonpath", template)) => path(template).map_err(Failure::Said),
            Some(("jsonpath-file", file)) => {
                let template = std::fs::read_to_string(file).map_err(|why| {
                    Failure::said(format!("error reading template {file}: {why}"))
                })?;
                path(template.trim_end_matches('\n')).map_err(Failure::Said)
            }
            Some((other, _)) => Err(Failure::said(format!(
                "unable to match a printer suitable for the output format {other:?}, allowed \
                 formats are: {ALLOWED}"
            ))),
        }
    }

    /// The text for one object, or for a `List`, ending in a newline where a line is usual.
    pub fn object(&self, object: &Value) -> Result<String> {
        match self {
            Format::Json => Ok(json(object)),
            Format::Yaml => yaml(object),
            Format::JsonPath(template) => template.print(object, true).map_err(Failure::Said),
            Format::Name | Format::Table { .. } => Ok(names(object)),
        }
    }
}

/// Indented by four, keys sorted.
pub fn json(object: &Value) -> String {
    use serde::Serialize;
    let mut out = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut out, formatter);
    object.serialize(&mut serializer).expect("a JSON value can be written to memory");
    out.push(b'\n');
    String::from_utf8(out).expect("JSON is UTF-8")
}

/// YAML that reads back as the same value, `0644` and `yes` included.
pub fn yaml(object: &Value) -> Result<String> {
    serde_saphyr::to_string(object)
        .map_err(|error| Failure::said(format!("cannot write YAML: {error}")))
}

/// `deployment.apps/web`, a line for each.
fn names(object: &Value) -> String {
    if let Some(items) = object["items"].as_array() {
        return items.iter().map(names).collect();
    }
    let group = text(&object["apiVersion"]).rsplit_once('/').map_or("", |(group, _)| group);
    let kind = text(&object["kind"]).to_lowercase();
    format!("{}/{}\n", proto::status::qualified(group, &kind), text(&object["metadata"]["name"]))
}

/// Many objects as one, as kubectl puts them together.
pub fn list(items: Vec<Value>) -> Value {
    json!({"apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": ""}, "items": items})
}

/// Without managedFields, which only machines read.
pub fn without_managed_fields(mut object: Value) -> Value {
    let strip = |object: &mut Value| {
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.remove("managedFields");
        }
    };
    strip(&mut object);
    if let Some(items) = object.get_mut("items").and_then(Value::as_array_mut) {
        items.iter_mut().for_each(strip);
    }
    object
}
