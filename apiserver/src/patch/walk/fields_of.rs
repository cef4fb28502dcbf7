//! The set of fields that an object has.

use serde_json::Value;

use super::{Parts, child_parts, key, parts};
use crate::patch::fields::{Set, is_member, leaf, mark, printed};
use crate::schema::{Merging, Shape, Type};

/// The fields that an applied object sets; the problems are those of upstream's typed objects.
pub fn fields_of(ty: &Type, object: &Value, problems: &mut Vec<String>) -> Set {
    let mut walk = FieldsOf { problems, path: String::new() };
    walk.node(&Parts::Struct(ty), object).unwrap_or_default()
}

struct FieldsOf<'a> {
    problems: &'a mut Vec<String>,
    path: String,
}

impl FieldsOf<'_> {
    /// The node of a value that is taken apart; `None` where it holds no field.
    fn node(&mut self, parts: &Parts<'_>, value: &Value) -> Option<Set> {
        let mut node = Set::new();
        match (parts, value) {
            (_, Value::Null) => return Some(node),
            (Parts::One, _) => return Some(node),
            (Parts::Struct(_) | Parts::Map(_), Value::Object(map)) if map.is_empty() => {
                return Some(node);
            }
            (Parts::Struct(ty), Value::Object(map)) => {
                for (name, value) in map {
                    let length = self.push(&format!(".{name}"));
                    match ty.field(name) {
                        None => self.problem("field not declared in schema"),
                        Some(field) => {
                            let child = self.child(&field.shape, &field.merging, value);
                            child.into_iter().for_each(|child| {
                                node.insert(format!("f:{name}"), Value::Object(child));
                            });
                        }
                    }
                    self.path.truncate(length);
                }
            }
            (Parts::Map(of), Value::Object(map)) => {
                for (name, value) in map {
                    let length = self.push(&format!(".{name}"));
                    self.item(of, value, format!("f:{name}"), &mut node);
                    self.path.truncate(length);
                }
            }
            (Parts::Scalars, Value::Array(items)) => {
                items.iter().for_each(|item| drop(node.insert(format!("v:{item}"), leaf())));
            }
            (Parts::Items(keys, of, ty), Value::Array(items)) => {
                for item in items {
                    let element = key(item, keys, *ty);
                    if node.contains_key(&element) {
                        let keys = printed(&element);
                        self.problem(&format!("duplicate entries for key {keys}"));
                    }
                    let length = self.push(&printed(&element));
                    if element == "k:{}" {
                        self.problem(
                            "associative list with keys has an element that omits all key fields",
                        );
                    }
                    self.item(of, item, element, &mut node);
                    self.path.truncate(length);
                }
            }
            (Parts::Struct(_) | Parts::Map(_), other) => {
                self.problem(&format!("expected map, got {}", valued(other)));
            }
            (_, other) => self.problem(&format!("expected list, got {}", valued(other))),
        }
        if node.is_empty() { None } else { Some(node) }
    }

    fn child(&mut self, shape: &Shape, merging: &Merging, value: &Value) -> Option<Set> {
        if let Some(problem) = mistyped(shape, value) {
            self.problem(&problem);
        }
        self.node(&parts(shape, merging), value)
    }

    /// Items are members whatever they hold.
    fn item(&mut self, shape: &Shape, value: &Value, element: String, into: &mut Set) {
        let mut child = self.child(shape, &Merging::Default, value).unwrap_or_default();
        mark(&mut child, true);
        into.insert(element, Value::Object(child));
    }

    fn push(&mut self, element: &str) -> usize {
        let length = self.path.len();
        self.path += element;
        length
    }

    fn problem(&mut self, what: &str) {
        const MOST: usize = 100;
        if self.problems.len() < MOST {
            self.problems.push(format!("{}: {what}", self.path));
        }
    }
}

/// What is wrong with a scalar, in the words of structured-merge-diff.
fn mistyped(shape: &Shape, value: &Value) -> Option<String> {
    let expected = match (shape, value) {
        (_, Value::Null) => return None,
        (Shape::String | Shape::Bytes | Shape::Time | Shape::MicroTime, Value::String(_))
        | (Shape::Bool, Value::Bool(_))
        | (Shape::Int32 | Shape::Int64 | Shape::Double, Value::Number(_)) => return None,
        (Shape::String | Shape::Bytes | Shape::Time | Shape::MicroTime, _) => "string",
        (Shape::Bool, _) => "boolean",
        (Shape::Int32 | Shape::Int64 | Shape::Double, _) => "numeric (int or float)",
        _ => return None,
    };
    Some(format!("expected {expected}, got {}", valued(value)))
}

fn valued(value: &Value) -> String {
    match value {
        Value::Object(_) => "map".into(),
        Value::Array(_) => "list".into(),
        scalar => format!("&value.valueUnstructured{{Value:{scalar}}}"),
    }
}

/// The set with the structs on the way to a member made members, too.
pub fn with_structs(ty: &Type, set: &Set) -> Set {
    named(&Parts::Struct(ty), set)
}

fn named(parts: &Parts<'_>, set: &Set) -> Set {
    let mut out = Set::new();
    for (element, node) in set {
        let Value::Object(node) = node else { continue };
        let (inner, field) = child_parts(parts, element);
        let mut child = match &inner {
            Some(parts) => named(parts, node),
            None => node.clone(),
        };
        mark(&mut child, is_member(node) || field);
        out.insert(element.clone(), Value::Object(child));
    }
    out
}
