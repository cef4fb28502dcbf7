//! Walks over objects guided by the schema, for apply and managedFields: which fields an object
//! has, which differ between two, and an object with some fields taken out or another's put in.
//! Structs, maps, and lists with keys are walked into; everything else is one value.

use serde_json::Value;

use crate::schema::{Merging, Shape, Type};

mod changes;
mod fields_of;
mod reshape;

pub use changes::{Changes, NEVER_OWNED_METADATA, changes};
pub use fields_of::{fields_of, with_structs};
pub use reshape::{merged, without};

/// How a value is taken apart.
enum Parts<'a> {
    /// Not at all.
    One,
    Struct(&'a Type),
    /// Values by key.
    Map(&'a Shape),
    /// Structs by the value of their keys.
    Items(&'a [Box<str>], &'a Shape, Option<&'a Type>),
    /// Scalars that are their own keys.
    Scalars,
}

static NOTHING: Value = Value::Null;

fn parts<'a>(shape: &'a Shape, merging: &'a Merging) -> Parts<'a> {
    match (shape, merging) {
        (Shape::Struct(ty), Merging::Granular) => Parts::Struct(ty),
        (Shape::Struct(ty), Merging::Default) if !ty.atomic => Parts::Struct(ty),
        (Shape::Map(of), Merging::Default | Merging::Granular) => Parts::Map(of),
        (Shape::List(of), Merging::Set) if !matches!(**of, Shape::Struct(_)) => Parts::Scalars,
        (Shape::List(of), Merging::Map(keys)) => match &**of {
            Shape::Struct(ty) => Parts::Items(keys, of, Some(ty)),
            _ => Parts::Items(keys, of, None),
        },
        _ => Parts::One,
    }
}

/// How the child at a path element is taken apart, and whether it is a field of a struct.
fn child_parts<'a>(of: &Parts<'a>, element: &str) -> (Option<Parts<'a>>, bool) {
    match of {
        Parts::Struct(ty) => {
            let field = element.strip_prefix("f:").and_then(|name| ty.field(name));
            (field.map(|field| parts(&field.shape, &field.merging)), field.is_some())
        }
        Parts::Map(shape) => (Some(parts(shape, &Merging::Default)), false),
        Parts::Items(_, shape, _) => (Some(parts(shape, &Merging::Default)), false),
        Parts::One | Parts::Scalars => (None, false),
    }
}

/// The value of an item's key, which may be the schema's default.
fn key_value<'a>(item: &'a Value, name: &str, ty: Option<&'a Type>) -> &'a Value {
    match item.get(name) {
        Some(value) if !value.is_null() => value,
        _ => ty.and_then(|ty| ty.field(name)?.default(ty)).unwrap_or(&NOTHING),
    }
}

/// The path element of an item: `k:{"containerPort":80,"protocol":"TCP"}`.
fn key(item: &Value, keys: &[Box<str>], ty: Option<&Type>) -> String {
    let mut sorted: Vec<&str> = keys.iter().map(|key| &**key).collect();
    sorted.sort_unstable();
    let mut text = String::from("k:{");
    for name in sorted {
        let value = key_value(item, name, ty);
        if !value.is_null() {
            let comma = if text.ends_with('{') { "" } else { "," };
            text += &format!("{comma}\"{name}\":{value}");
        }
    }
    text.push('}');
    text
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
        Some(_) => false,
    }
}
