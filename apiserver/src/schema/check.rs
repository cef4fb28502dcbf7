//! Field validation: what Go's decoder refuses (in its words), what it drops, and how it writes
//! what it read.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proto::quantity::Quantity;
use proto::time::Time;
use serde_json::{Map, Number, Value};

use super::{Field, Shape, Type};
use crate::codec::duration::parse;

/// As many strict problems are kept as upstream keeps.
const MOST_PROBLEMS: usize = 100;

/// [`super::check`] for any type.
pub fn check_type(ty: &Type, object: &mut Value) -> Result<Vec<String>, String> {
    let mut checker = Checker { problems: Vec::new() };
    match object {
        Value::Object(map) => checker.fields(ty, map, &Path::Root)?,
        Value::Null => *object = Value::Object(Map::new()),
        other => {
            let name = ty.go();
            return Err(format!(
                "json: cannot unmarshal {} into Go value of type {name}",
                sort(other)
            ));
        }
    }
    Ok(checker.problems)
}

struct Checker {
    problems: Vec<String>,
}

/// Where the walk is; rendered only when there is something to say.
enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Key(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

/// The field that a value stands in: Go names it when the value has the wrong type.
#[derive(Clone, Copy)]
struct Site<'a> {
    owner: &'a Type,
    field: &'a Field,
    path: &'a Path<'a>,
}

impl Checker {
    fn fields(
        &mut self,
        ty: &Type,
        map: &mut Map<String, Value>,
        path: &Path,
    ) -> Result<(), String> {
        let mut wrong = None;
        map.retain(|name, value| {
            let path = Path::Field(path, name);
            let Some(field) = ty.field(name) else {
                if self.problems.len() < MOST_PROBLEMS {
                    self.problems.push(format!("unknown field \"{}\"", path.strict()));
                }
                return false;
            };
            if value.is_null() {
                return false;
            }
            let site = Site { owner: ty, field, path: &path };
            if let Err(error) = self.value(&field.shape, value, &site, &path) {
                wrong.get_or_insert(error);
            }
            // Go's omitempty.
            field.always
                || match (&field.shape, value) {
                    (Shape::List(_), Value::Array(items)) => !items.is_empty(),
                    (Shape::Map(_), Value::Object(map)) => !map.is_empty(),
                    _ => true,
                }
        });
        wrong.map_or(Ok(()), Err)
    }

    fn value(
        &mut self,
        shape: &Shape,
        value: &mut Value,
        site: &Site<'_>,
        path: &Path<'_>,
    ) -> Result<(), String> {
        match (shape, &mut *value) {
            (Shape::String, Value::String(_))
            | (Shape::Bool, Value::Bool(_))
            | (Shape::Double, Value::Number(_))
            | (Shape::Raw | Shape::Fields, _) => Ok(()),
            (Shape::Int32, Value::Number(number)) => {
                let fits = number.as_i64().is_some_and(|n| i32::try_from(n).is_ok());
                if fits { Ok(()) } else { Err(site.number(shape, number)) }
            }
            (Shape::Int64, Value::Number(number)) => {
                if number.is_i64() {
                    Ok(())
                } else {
                    Err(site.number(shape, number))
                }
            }
            (Shape::Struct(ty), Value::Object(map)) => self.fields(ty, map, path),
            (Shape::List(of), Value::Array(items)) => {
                for (index, item) in items.iter_mut().enumerate() {
                    self.item(of, item, site, &Path::Index(path, index))?;
                }
                Ok(())
            }
            (Shape::Map(of), Value::Object(map)) => {
                for (key, item) in map.iter_mut() {
                    self.item(of, item, site, &Path::Key(path, key))?;
                }
                Ok(())
            }
            (Shape::Bytes, Value::String(text)) => bytes(text),
            (Shape::Time, Value::String(text)) => {
                *text = time(text)?.to_string();
                Ok(())
            }
            (Shape::MicroTime, Value::String(text)) => {
                *text = time(text)?.micro();
                Ok(())
            }
            (Shape::Duration, Value::String(text)) => parse(text).map(drop),
            (Shape::Quantity, _) => quantity(value),
            (Shape::IntOrString, _) => int_or_string(value),
            (Shape::Time | Shape::MicroTime, other) => {
                Err(format!("json: cannot unmarshal {} into Go value of type string", sort(other)))
            }
            (_, other) => Err(site.mismatch(shape, sort(other))),
        }
    }

    /// An element of a list or map, where null is the zero value.
    fn item(
        &mut self,
        shape: &Shape,
        value: &mut Value,
        site: &Site<'_>,
        path: &Path<'_>,
    ) -> Result<(), String> {
        if value.is_null() {
            match shape {
                Shape::String | Shape::Bytes => *value = "".into(),
                Shape::Bool => *value = false.into(),
                Shape::Int32 | Shape::Int64 | Shape::Double => *value = 0.into(),
                Shape::Quantity => *value = "0".into(),
                Shape::Struct(_) | Shape::Map(_) => *value = Value::Object(Map::new()),
                Shape::List(_) => *value = Value::Array(Vec::new()),
                _ => {}
            }
        }
        if value.is_null() { Ok(()) } else { self.value(shape, value, site, path) }
    }
}

impl Site<'_> {
    fn mismatch(&self, shape: &Shape, found: &str) -> String {
        let (owner, path) = (self.owner.short(), self.path.go());
        let name = shape.go(&self.field.go);
        format!("json: cannot unmarshal {found} into Go struct field {owner}.{path} of type {name}")
    }

    fn number(&self, shape: &Shape, number: &Number) -> String {
        self.mismatch(shape, &format!("number {number}"))
    }
}

impl Path<'_> {
    /// `spec.containers[0].name`.
    fn strict(&self) -> String {
        let mut text = String::new();
        self.render(&mut text, true);
        text
    }

    /// `spec.containers.name`: Go counts neither items nor keys.
    fn go(&self) -> String {
        let mut text = String::new();
        self.render(&mut text, false);
        text
    }

    fn render(&self, out: &mut String, strict: bool) {
        match self {
            Path::Root => {}
            Path::Field(parent, name) => {
                parent.render(out, strict);
                let dot = if out.is_empty() { "" } else { "." };
                let _ = write!(out, "{dot}{name}");
            }
            Path::Key(parent, key) => {
                parent.render(out, strict);
                if strict {
                    let _ = write!(out, ".{key}");
                }
            }
            Path::Index(parent, index) => {
                parent.render(out, strict);
                if strict {
                    let _ = write!(out, "[{index}]");
                }
            }
        }
    }
}

/// Go's word for the sort of a JSON value.
fn sort(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn bytes(text: &mut String) -> Result<(), String> {
    if text.contains(['\r', '\n']) {
        text.retain(|c| c != '\r' && c != '\n');
    }
    // Valid in place: most values are, and nobody needs the bytes.
    let Err(error) = STANDARD.decode(&*text) else { return Ok(()) };
    let at = match error {
        base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => {
            at
        }
        base64::DecodeError::InvalidLength(_) | base64::DecodeError::InvalidPadding => text.len(),
    };
    Err(format!("illegal base64 data at input byte {at}"))
}

fn time(text: &str) -> Result<Time, String> {
    let bad = |_| {
        format!(
            "parsing time {text:?} as \"2006-01-02T15:04:05Z07:00\": cannot parse {text:?} as \
             \"2006\""
        )
    };
    text.parse().map_err(bad)
}

fn quantity(value: &mut Value) -> Result<(), String> {
    let text = match &*value {
        Value::String(text) => std::borrow::Cow::Borrowed(text.as_str()),
        Value::Number(number) => number.to_string().into(),
        other => other.to_string().into(),
    };
    let parsed: Quantity = text.parse().map_err(|error| format!("{error}"))?;
    let canonical = parsed.to_string();
    if value.as_str() != Some(&canonical) {
        *value = canonical.into();
    }
    Ok(())
}

fn int_or_string(value: &Value) -> Result<(), String> {
    let wrong =
        |found: &str| Err(format!("json: cannot unmarshal {found} into Go value of type int32"));
    match value {
        Value::String(_) => Ok(()),
        Value::Number(number) => match number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) {
            true => Ok(()),
            false => wrong(&format!("number {number}")),
        },
        other => wrong(sort(other)),
    }
}
