//! Component schemas: a walk over the schema table from the kinds of a group and version.

use proto::kind::Row;
use serde_json::{Map, Value, json};

use super::{DELETE_OPTIONS, LIST_META, PATCH, STATUS, WATCH_EVENT, reference};
use crate::discovery::Subresource;
use crate::schema::{self, Descriptions, Field, Merging, Shape, Strategy, Type, TypeRef};

/// The types that are one value on the wire: name, description, schema.
const SCALARS: [(&str, &str, &str); 7] = [
    (
        "io.k8s.apimachinery.pkg.apis.meta.v1.Time",
        "A moment in RFC 3339 with whole seconds.",
        r#"{"type":"string","format":"date-time"}"#,
    ),
    (
        "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime",
        "A moment in RFC 3339 with microseconds.",
        r#"{"type":"string","format":"date-time"}"#,
    ),
    (
        "io.k8s.apimachinery.pkg.api.resource.Quantity",
        "An exact number with a decimal or binary suffix, as 500m or 64Mi.",
        r#"{"oneOf":[{"type":"string"},{"type":"number"}]}"#,
    ),
    (
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString",
        "A 32-bit integer or a string.",
        r#"{"format":"int-or-string","oneOf":[{"type":"integer"},{"type":"string"}]}"#,
    ),
    ("io.k8s.apimachinery.pkg.runtime.RawExtension", "Any object.", r#"{"type":"object"}"#),
    (
        "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1",
        "A set of fields as a tree of path elements.",
        r#"{"type":"object"}"#,
    ),
    (
        "io.k8s.apimachinery.pkg.apis.meta.v1.Duration",
        "A time span as Go writes it: 1m0s.",
        r#"{"type":"string"}"#,
    ),
];

/// Everything that the paths of these rows refer to.
pub fn schemas(rows: &[&Row]) -> Map<String, Value> {
    let mut walk = Walk { out: Map::new(), texts: schema::descriptions() };
    for row in rows {
        if let Some(ty) = schema::of(row) {
            walk.add(&ty);
            if row.verbs.iter().any(|verb| verb == "list") {
                walk.out.insert(format!("{}List", ty.name), list(row, &ty));
            }
        }
        for name in row.subresources.iter() {
            let Subresource { group, version, kind, .. } = Subresource::of(row, name);
            schema::kind(group, version, kind).iter().for_each(|ty| walk.add(ty));
        }
    }
    for name in [STATUS, DELETE_OPTIONS, LIST_META] {
        schema::named(name).iter().for_each(|ty| walk.add(ty));
    }
    let patch = "A patch of any kind, by its content type.";
    walk.out.insert(PATCH.into(), json!({ "description": patch, "type": "object" }));
    walk.shape(&Shape::Raw);
    walk.out.insert(WATCH_EVENT.into(), watch_event());
    walk.out
}

struct Walk {
    out: Map<String, Value>,
    texts: Descriptions,
}

impl Walk {
    fn add(&mut self, ty: &TypeRef) {
        if self.out.contains_key(&*ty.name) {
            return;
        }
        // Before its fields: types may be recursive.
        self.out.insert(ty.name.to_string(), Value::Null);
        let mut properties = Map::new();
        for field in &ty.fields {
            properties.insert(field.name.to_string(), self.field(ty, field));
        }
        let mut schema = json!({ "type": "object" });
        if !properties.is_empty() {
            schema["properties"] = properties.into();
        }
        let description = self.texts.of(&ty.name, "");
        if !description.is_empty() {
            schema["description"] = description.into();
        }
        let required = ty.fields.iter().filter(|field| field.required);
        let required: Vec<&str> = required.map(|field| &*field.name).collect();
        if !required.is_empty() {
            schema["required"] = required.into();
        }
        if let Some([group, version, kind]) = &ty.kind {
            let gvk = json!({ "group": group, "version": version, "kind": kind });
            schema["x-kubernetes-group-version-kind"] = json!([gvk]);
        }
        if ty.atomic {
            schema["x-kubernetes-map-type"] = "atomic".into();
        }
        self.out.insert(ty.name.to_string(), schema);
    }

    fn field(&mut self, ty: &Type, field: &Field) -> Value {
        let mut schema = self.shape(&field.shape);
        if let Shape::Struct(_) = field.shape {
            schema = json!({ "allOf": [schema] });
        }
        let description = self.texts.of(&ty.name, &field.name);
        if !description.is_empty() {
            if schema.get("$ref").is_some() {
                schema = json!({ "allOf": [schema] });
            }
            schema["description"] = description.into();
        }
        if let Some(default) = field.default(ty).cloned().or_else(|| zero(field)) {
            if schema.get("$ref").is_some() {
                schema = json!({ "allOf": [schema] });
            }
            schema["default"] = default;
        }
        if !field.values.is_empty() {
            let values = field.values.iter().map(|value| Value::from(&**value)).collect();
            match field.shape {
                Shape::List(_) => schema["items"]["enum"] = values,
                _ => schema["enum"] = values,
            }
        }
        annotate(&mut schema, field);
        schema
    }

    fn shape(&mut self, shape: &Shape) -> Value {
        let scalar = |index: usize| reference(SCALARS[index].0);
        let index = match shape {
            Shape::String => return json!({ "type": "string" }),
            Shape::Bool => return json!({ "type": "boolean" }),
            Shape::Int32 => return json!({ "type": "integer", "format": "int32" }),
            Shape::Int64 => return json!({ "type": "integer", "format": "int64" }),
            Shape::Double => return json!({ "type": "number", "format": "double" }),
            Shape::Bytes => return json!({ "type": "string", "format": "byte" }),
            Shape::Struct(ty) => {
                self.add(ty);
                return reference(&ty.name);
            }
            Shape::List(of) => return json!({ "type": "array", "items": self.element(of) }),
            Shape::Map(of) => {
                return json!({ "type": "object", "additionalProperties": self.element(of) });
            }
            Shape::Time => 0,
            Shape::MicroTime => 1,
            Shape::Quantity => 2,
            Shape::IntOrString => 3,
            Shape::Raw => 4,
            Shape::Fields => 5,
            Shape::Duration => 6,
        };
        let (name, description, schema) = SCALARS[index];
        if !self.out.contains_key(name) {
            let mut schema: Value = serde_json::from_str(schema).expect("a literal");
            schema["description"] = description.into();
            self.out.insert(name.into(), schema);
        }
        scalar(index)
    }

    fn element(&mut self, of: &Shape) -> Value {
        let schema = self.shape(of);
        match of {
            Shape::Struct(_) => json!({ "allOf": [schema], "default": {} }),
            Shape::String => json!({ "type": "string", "default": "" }),
            _ => schema,
        }
    }
}

/// The default that says that Go always writes the field.
fn zero(field: &Field) -> Option<Value> {
    if !field.always {
        return None;
    }
    match field.shape {
        Shape::Struct(_) => Some(json!({})),
        Shape::String => Some("".into()),
        Shape::Bool => Some(false.into()),
        Shape::Int32 | Shape::Int64 => Some(0.into()),
        _ => None,
    }
}

/// The `x-kubernetes-` extensions of lists, maps and patches.
fn annotate(schema: &mut Value, field: &Field) {
    let list = matches!(field.shape, Shape::List(_));
    match &field.merging {
        Merging::Default if list => schema["x-kubernetes-list-type"] = "atomic".into(),
        Merging::Default => {}
        Merging::Atomic if list => schema["x-kubernetes-list-type"] = "atomic".into(),
        Merging::Atomic => schema["x-kubernetes-map-type"] = "atomic".into(),
        Merging::Granular => schema["x-kubernetes-map-type"] = "granular".into(),
        Merging::Set => schema["x-kubernetes-list-type"] = "set".into(),
        Merging::Map(keys) => {
            schema["x-kubernetes-list-type"] = "map".into();
            schema["x-kubernetes-list-map-keys"] =
                keys.iter().map(|key| Value::from(&**key)).collect();
        }
    }
    let Strategy { merge, key, retain_keys, replace } = &field.strategy;
    let words = [(*merge, "merge"), (*retain_keys, "retainKeys"), (*replace, "replace")];
    let words: Vec<&str> = words.iter().filter(|(set, _)| *set).map(|(_, word)| *word).collect();
    if !words.is_empty() {
        schema["x-kubernetes-patch-strategy"] = words.join(",").into();
    }
    if !key.is_empty() {
        schema["x-kubernetes-patch-merge-key"] = (**key).into();
    }
}

/// What a line of a watch is.
fn watch_event() -> Value {
    let (object, ..) = SCALARS[4];
    json!({
        "description": "Event represents a single event to a watched resource.",
        "type": "object",
        "required": ["type", "object"],
        "properties": {
            "type": { "type": "string", "default": "" },
            "object": {
                "allOf": [reference(object)],
                "description": "The object as it is now; for DELETED as it was before; for ERROR \
                                a Status; for BOOKMARK only its resourceVersion says something.",
            },
        },
        "x-kubernetes-group-version-kind":
            [{ "group": "", "version": "v1", "kind": "WatchEvent" }],
    })
}

fn list(row: &Row, ty: &Type) -> Value {
    let text = |text: &str| json!({ "type": "string", "description": text });
    json!({
        "description": format!("{} is a list of {}.", row.list_kind(), row.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": text("The versioned schema of this representation of an object."),
            "kind": text("The REST resource that this object represents."),
            "metadata": { "allOf": [reference(LIST_META)], "default": {} },
            "items": {
                "type": "array",
                "items": { "allOf": [reference(&ty.name)], "default": {} },
            },
        },
        "x-kubernetes-group-version-kind":
            [{ "group": row.group, "version": row.version, "kind": row.list_kind() }],
    })
}
