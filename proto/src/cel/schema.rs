//! Types from OpenAPI v3, as the API server publishes it. A schema is read where it is asked about, so
//! that those which contain themselves are no matter.
//! <https://kubernetes.io/docs/reference/using-api/cel/#type-checking>

use std::sync::Arc;

use serde_json::Value;

use super::types::{Fields, Type};

/// References followed to one schema.
const MOST_REFERENCES: usize = 32;
/// Names that mean something in CEL. As fields they are also known as `__namespace__`.
const RESERVED: &[&str] = &[
    "as",
    "break",
    "const",
    "continue",
    "else",
    "false",
    "for",
    "function",
    "if",
    "import",
    "in",
    "let",
    "loop",
    "namespace",
    "null",
    "package",
    "return",
    "true",
    "var",
    "void",
    "while",
];
/// How characters are written that names in CEL cannot have.
const ESCAPES: &[(&str, &str)] =
    &[("__underscores__", "__"), ("__dot__", "."), ("__dash__", "-"), ("__slash__", "/")];

/// One schema of a document.
#[derive(Clone, Debug)]
pub struct Schema {
    document: Arc<Value>,
    /// RFC 6901.
    pointer: String,
    /// An object with `apiVersion`, `kind` and `metadata`.
    root: bool,
}

impl Schema {
    /// Of a kind, in the document of its group and version; `None` if it is not there.
    pub fn of_kind(document: Arc<Value>, group: &str, version: &str, kind: &str) -> Option<Schema> {
        let is =
            |own: &Value| own["group"] == group && own["version"] == version && own["kind"] == kind;
        let ours = |schema: &Value| {
            let kinds = schema["x-kubernetes-group-version-kind"].as_array();
            kinds.is_some_and(|kinds| kinds.iter().any(is))
        };
        let schemas = document["components"]["schemas"].as_object()?;
        let (name, _) = schemas.iter().find(|(_, schema)| ours(schema))?;
        let pointer = format!("/components/schemas/{}", escaped(name));
        Some(Schema { document, pointer, root: true })
    }

    /// The type, under a name for it; `None` if expressions cannot see what it describes.
    pub fn ty(&self, name: &str) -> Option<Type> {
        let schema = self.resolved();
        let own = schema.value()?;
        let set = |key: &str| own[key] == true;
        if set("x-kubernetes-int-or-string") || own["format"] == "int-or-string" {
            return Some(Type::Dyn);
        }
        let below = |key: &str, own: &str| schema.below(key).ty(&format!("{name}.{own}"));
        Some(match own["type"].as_str() {
            _ if set("x-kubernetes-preserve-unknown-fields") && own["properties"].is_null() => {
                Type::Dyn
            }
            // What has no type is one of several.
            None => Type::Dyn,
            Some("array") => Type::list(below("items", "@idx")?),
            Some("object") if own["additionalProperties"].is_object() => {
                Type::map(Type::String, below("additionalProperties", "@elem")?)
            }
            Some("object") => {
                let root = schema.root || set("x-kubernetes-embedded-resource");
                Type::Object(name.into(), Fields::Schema(Schema { root, ..schema }))
            }
            Some("string") => match own["format"].as_str() {
                Some("byte") => Type::Bytes,
                Some("duration") => Type::Duration,
                Some("date" | "date-time") => Type::Timestamp,
                _ => Type::String,
            },
            Some("boolean") => Type::Bool,
            Some("number") => Type::Double,
            Some("integer") => Type::Int,
            Some(_) => return None,
        })
    }

    /// The type of a field, by the name that expressions call it, of the object called `name`.
    pub(super) fn field(&self, name: &str, field: &str) -> Option<Type> {
        let property = unescaped(field)?;
        let properties = self.below("properties");
        let all = properties.value();
        if let Some(own) = all.and_then(|all| all.get(&property)) {
            let whole = property != "metadata" || !self.root || has_names(own);
            if whole {
                return properties.below(&property).ty(&format!("{name}.{field}"));
            }
        }
        match property.as_str() {
            _ if self
                .value()
                .is_some_and(|own| own["x-kubernetes-preserve-unknown-fields"] == true) =>
            {
                Some(Type::Dyn)
            }
            "apiVersion" | "kind" if self.root => Some(Type::String),
            "metadata" if self.root => {
                let fields = ["name", "generateName"].map(|name| (name.into(), Type::String));
                Some(Type::object(&format!("{name}.metadata"), fields))
            }
            _ => None,
        }
    }

    fn value(&self) -> Option<&Value> {
        self.document.pointer(&self.pointer)
    }

    fn below(&self, key: &str) -> Schema {
        let pointer = format!("{}/{}", self.pointer, escaped(key));
        Schema { document: self.document.clone(), pointer, root: false }
    }

    /// The schema that is meant, where this one only refers to it.
    fn resolved(&self) -> Schema {
        let mut schema = self.clone();
        for _ in 0..MOST_REFERENCES {
            let Some(own) = schema.value() else { break };
            let next = match (own["$ref"].as_str(), &own["allOf"]) {
                (Some(target), _) => target.trim_start_matches('#').to_string(),
                (None, Value::Array(all)) if all.len() == 1 && own["type"].is_null() => {
                    format!("{}/allOf/0", schema.pointer)
                }
                _ => break,
            };
            schema.pointer = next;
        }
        schema
    }
}

/// Whether a root's metadata says what it holds; without that it has names all the same.
fn has_names(metadata: &Value) -> bool {
    let refers = metadata.get("$ref").is_some() || metadata.get("allOf").is_some();
    refers || ["name", "generateName"].iter().all(|name| metadata["properties"].get(name).is_some())
}

/// As part of a JSON pointer.
fn escaped(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// The property that an expression's field is; `None` if there cannot be one.
fn unescaped(field: &str) -> Option<String> {
    let reserved = |name: &str| RESERVED.contains(&name);
    if let Some(name) = field.strip_prefix("__").and_then(|name| name.strip_suffix("__"))
        && reserved(name)
    {
        return Some(name.into());
    }
    let mut property = String::new();
    let mut rest = field;
    while let Some(next) = rest.chars().next() {
        let escape = ESCAPES.iter().find(|(written, _)| rest.starts_with(written));
        match escape {
            Some((written, meant)) => {
                property.push_str(meant);
                rest = &rest[written.len()..];
            }
            None if rest.starts_with("__") => return None,
            None => {
                property.push(next);
                rest = &rest[next.len_utf8()..];
            }
        }
    }
    Some(property)
}
