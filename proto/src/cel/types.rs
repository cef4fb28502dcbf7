//! The types of CEL and those that Kubernetes adds.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::schema::Schema;

/// The type of a value.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// Anything: found out when it is evaluated.
    Dyn,
    /// The same, of a device's attributes.
    Any,
    /// Of what has been found to be wrong; nothing more is said of it.
    Error,
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    Timestamp,
    Duration,
    /// Of a type itself.
    Type(Box<Type>),
    List(Box<Type>),
    Map(Box<Type>, Box<Type>),
    /// `optional_type(int)`, and types of which only functions know more, as `kubernetes.URL`.
    Opaque(Arc<str>, Vec<Type>),
    /// With fields of its own, known by its name.
    Object(Arc<str>, Fields),
    /// A variable: of a function's declaration, or of what is not known yet.
    Param(u32),
}

/// The fields of an object.
#[derive(Clone, Debug)]
pub enum Fields {
    Declared(Arc<BTreeMap<String, Type>>),
    /// Read when they are asked for: schemas may contain themselves.
    Schema(Schema),
}

/// An object's name stands for its fields.
impl PartialEq for Fields {
    fn eq(&self, _: &Fields) -> bool {
        true
    }
}

/// What other names mean in the text of a declaration.
const PLAIN: &[(&str, Type)] = &[
    ("dyn", Type::Dyn),
    ("any", Type::Any),
    ("null_type", Type::Null),
    ("bool", Type::Bool),
    ("int", Type::Int),
    ("uint", Type::Uint),
    ("double", Type::Double),
    ("string", Type::String),
    ("bytes", Type::Bytes),
    ("timestamp", Type::Timestamp),
    ("duration", Type::Duration),
    ("google.protobuf.Timestamp", Type::Timestamp),
    ("google.protobuf.Duration", Type::Duration),
];

const OPTIONAL: &str = "optional_type";

impl Type {
    pub fn list(element: Type) -> Type {
        Type::List(Box::new(element))
    }

    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Box::new(key), Box::new(value))
    }

    pub fn optional(value: Type) -> Type {
        Type::Opaque(OPTIONAL.into(), vec![value])
    }

    /// A type of which only functions know more.
    pub fn opaque(name: &str) -> Type {
        Type::Opaque(name.into(), Vec::new())
    }

    pub fn object(name: &str, fields: impl IntoIterator<Item = (String, Type)>) -> Type {
        Type::Object(name.into(), Fields::Declared(Arc::new(fields.into_iter().collect())))
    }

    /// Of the text of a declaration: `map(string, list(A))`. A capital alone is a variable.
    pub(super) fn read(text: &str) -> Type {
        let (name, inner) = match text.strip_suffix(')').and_then(|text| text.split_once('(')) {
            Some((name, inner)) => (name, split(inner).into_iter().map(Type::read).collect()),
            None => (text, Vec::new()),
        };
        let mut inner = inner.into_iter();
        let mut next = || inner.next().unwrap_or(Type::Dyn);
        match (name, name.as_bytes()) {
            (_, &[letter @ b'A'..=b'Z']) => Type::Param(u32::from(letter - b'A')),
            ("list", _) => Type::list(next()),
            ("map", _) => Type::map(next(), next()),
            ("type", _) => Type::Type(Box::new(next())),
            _ => match PLAIN.iter().find(|(plain, _)| *plain == name) {
                Some((_, ty)) => ty.clone(),
                None => Type::Opaque(name.into(), inner.collect()),
            },
        }
    }

    /// The type that an identifier of CEL's own stands for.
    pub(super) fn named(name: &str) -> Option<Type> {
        let plain = PLAIN.iter().any(|(plain, _)| *plain == name);
        let known = plain && !["any", "timestamp", "duration"].contains(&name)
            || ["list", "map", "type", "net.IP", "net.CIDR"].contains(&name);
        match name {
            OPTIONAL => Some(Type::optional(Type::Dyn)),
            _ => known.then(|| Type::read(name)),
        }
    }

    /// What it may hold.
    pub(super) fn optional_value(&self) -> Option<&Type> {
        match self {
            Type::Opaque(name, inner) if &**name == OPTIONAL => inner.first(),
            _ => None,
        }
    }

    /// Whether nothing can be said against it.
    pub fn is_open(&self) -> bool {
        matches!(self, Type::Dyn | Type::Any | Type::Error)
    }

    pub(super) fn takes_null(&self) -> bool {
        use Type::{Duration, Null, Object, Opaque, Timestamp};
        matches!(self, Null | Timestamp | Duration | Opaque(..) | Object(..))
    }

    pub(super) fn inner(&self) -> Vec<&Type> {
        match self {
            Type::List(inner) => vec![inner],
            Type::Map(key, value) => vec![key, value],
            Type::Opaque(_, inner) => inner.iter().collect(),
            _ => Vec::new(),
        }
    }

    /// The same with every inner type changed.
    pub(super) fn with_inner(&self, mut change: impl FnMut(&Type) -> Type) -> Type {
        match self {
            Type::List(inner) => Type::list(change(inner)),
            Type::Map(key, value) => Type::map(change(key), change(value)),
            Type::Type(inner) => Type::Type(Box::new(change(inner))),
            Type::Opaque(name, inner) => {
                Type::Opaque(name.clone(), inner.iter().map(change).collect())
            }
            other => other.clone(),
        }
    }

    /// The field of an object of this type.
    pub(super) fn field(&self, name: &str) -> Option<Type> {
        match self {
            Type::Object(_, Fields::Declared(fields)) => fields.get(name).cloned(),
            Type::Object(own, Fields::Schema(schema)) => schema.field(own, name),
            _ => None,
        }
    }
}

/// At the commas that are in no brackets.
pub(super) fn split(text: &str) -> Vec<&str> {
    let (mut depth, mut parts, mut start) = (0usize, Vec::new(), 0);
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts.retain(|part| !part.is_empty());
    parts
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, inner) = match self {
            Type::Error => ("!error!", Vec::new()),
            Type::Null => ("null", Vec::new()),
            Type::Param(_) => ("dyn", Vec::new()),
            Type::List(_) => ("list", self.inner()),
            Type::Map(..) => ("map", self.inner()),
            Type::Type(inner) => ("type", vec![&**inner]),
            Type::Opaque(name, _) => (&**name, self.inner()),
            Type::Object(name, _) => (&**name, Vec::new()),
            plain => {
                let found = PLAIN.iter().find(|(_, ty)| ty == plain);
                (found.map_or("", |(name, _)| name), Vec::new())
            }
        };
        match inner.as_slice() {
            [] => f.write_str(name),
            inner => {
                let inner: Vec<String> = inner.iter().map(ToString::to_string).collect();
                write!(f, "{name}({})", inner.join(", "))
            }
        }
    }
}
