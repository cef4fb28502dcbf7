//! The schema table: for every field of every kind its type, list kind and keys, merge strategy,
//! default, enum, feature gate, description and protobuf number. Field validation, pruning, defaulting, patches,
//! apply, OpenAPI and protobuf walk it; custom resources will make the same table at run time.
//! Nothing in here knows a kind by name, and nothing here does I/O.

use std::sync::{Arc, OnceLock};

use proto::kind::Row;
use serde_json::Value;

mod check;
mod defaults;
mod describe;
mod gates;
mod table;

pub use check::check_type;
pub use defaults::default_type;
pub use describe::{Descriptions, descriptions};
pub use gates::drop_disabled;

/// The schema of a kind; `None` for a kind that the table does not hold.
pub fn of(row: &Row) -> Option<TypeRef> {
    kind(&row.group, &row.version, &row.kind)
}

/// The schema of any kind that a request may carry: those of the rows, and DeleteOptions, Scale,
/// Binding, Eviction, Status.
pub fn kind(group: &str, version: &str, kind: &str) -> Option<TypeRef> {
    table::built_in().kind(group, version, kind)
}

/// A type by its full name, as `io.k8s.api.core.v1.PodSpec`.
pub fn named(name: &str) -> Option<TypeRef> {
    table::built_in().named(name)
}

/// The bytes from which the table is made: whatever derives from it may be cached by their hash.
pub fn sources() -> [&'static [u8]; 2] {
    [table::SOURCE, describe::SOURCE]
}

/// Checks an object against its kind's schema as Go's decoder would read it, and brings it into
/// the form that Go would write: unknown fields, nulls and empty optional lists and maps go,
/// quantities and times become canonical. The strict problems (`unknown field "spec.foo"`) come
/// back; a value of the wrong type is an error in Go's words.
pub fn check(row: &Row, object: &mut Value) -> Result<Vec<String>, String> {
    match of(row) {
        Some(ty) => check_type(&ty, object),
        None => Ok(Vec::new()),
    }
}

/// Sets the static defaults of a kind, and the empty structs and zero scalars that Go writes.
pub fn default(row: &Row, object: &mut Value) {
    if let Some(ty) = of(row) {
        default_type(&ty, object);
    }
}

/// A struct type. Built-in ones live for ever; a custom resource's go with its definition.
#[derive(Debug)]
pub struct Type {
    /// Full, as OpenAPI has it: `io.k8s.api.core.v1.PodSpec`.
    pub name: Box<str>,
    /// Group, version and kind of a top-level type.
    pub kind: Option<[Box<str>; 3]>,
    /// Sorted by name.
    pub fields: Box<[Field]>,
    /// Server-side apply takes the whole struct as one value.
    pub atomic: bool,
    pub defaults: Box<[Default]>,
    /// What each protobuf field number holds, in ascending order.
    pub numbers: Box<[(u32, Slot)]>,
}

#[derive(Debug)]
pub struct Field {
    pub name: Box<str>,
    pub shape: Shape,
    pub required: bool,
    /// Go holds a pointer: absent and zero differ.
    pub pointer: bool,
    /// Go writes the field even when it is empty.
    pub always: bool,
    /// The Go type of a scalar that has one of its own, as `v1.Protocol`; else empty.
    pub go: Box<str>,
    /// How server-side apply merges a list or map.
    pub merging: Merging,
    /// How a strategic merge patch merges it.
    pub strategy: Strategy,
    /// The values allowed; empty for any.
    pub values: Box<[Box<str>]>,
    /// The feature gate without which the field is not kept, where that is off; else empty.
    pub gate: Box<str>,
}

/// What a field holds on the wire.
#[derive(Clone, Debug)]
pub enum Shape {
    String,
    Bool,
    Int32,
    Int64,
    Double,
    /// Base64 in JSON.
    Bytes,
    /// RFC 3339 with whole seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// As Go writes it: `1m0s`.
    Duration,
    Quantity,
    IntOrString,
    /// Any JSON (runtime.RawExtension).
    Raw,
    /// The field sets of managedFields (metav1.FieldsV1).
    Fields,
    Struct(TypeRef),
    List(Box<Shape>),
    Map(Box<Shape>),
}

/// `x-kubernetes-list-type` and `x-kubernetes-map-type`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Merging {
    /// Lists are replaced and owned as a whole unless said otherwise; maps and structs are not.
    Default,
    Atomic,
    Granular,
    /// A list of scalars that are their own keys.
    Set,
    /// A list of structs with these keys.
    Map(Box<[Box<str>]>),
}

/// `x-kubernetes-patch-strategy` and `x-kubernetes-patch-merge-key`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Strategy {
    pub merge: bool,
    /// Empty for lists of scalars.
    pub key: Box<str>,
    pub retain_keys: bool,
    pub replace: bool,
}

/// A static default.
#[derive(Debug)]
pub struct Default {
    /// From the type down; mostly one field.
    pub path: Box<[Box<str>]>,
    pub value: Value,
    pub condition: Option<Condition>,
}

/// When a default applies.
#[derive(Debug)]
pub struct Condition {
    /// A sibling of the field.
    pub field: Box<str>,
    /// The sibling has one of these values; empty for any value.
    pub values: Box<[Box<str>]>,
}

/// What a protobuf field number holds.
#[derive(Debug)]
pub enum Slot {
    /// An index into the type's fields.
    Field(usize),
    /// A message whose fields JSON holds in the parent.
    Inlined(Box<[(u32, Slot)]>),
}

/// A shared, possibly recursive type.
#[derive(Clone)]
pub struct TypeRef(Arc<OnceLock<Type>>);

impl Type {
    pub fn field(&self, name: &str) -> Option<&Field> {
        let index = self.fields.binary_search_by(|field| (*field.name).cmp(name)).ok()?;
        Some(&self.fields[index])
    }

    /// The last part of the name: `PodSpec`.
    pub fn short(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(&self.name)
    }

    /// Go's name: `v1.PodSpec`.
    pub fn go(&self) -> &str {
        let start = self.name.rmatch_indices('.').nth(1).map_or(0, |(at, _)| at + 1);
        &self.name[start..]
    }
}

impl Field {
    /// The struct type of the field, or of the elements of its list.
    pub fn element(&self) -> Option<&TypeRef> {
        match &self.shape {
            Shape::Struct(ty) => Some(ty),
            Shape::List(of) | Shape::Map(of) => match &**of {
                Shape::Struct(ty) => Some(ty),
                _ => None,
            },
            _ => None,
        }
    }

    /// The default of this field in its type, where it has one without a condition.
    pub fn default<'a>(&self, ty: &'a Type) -> Option<&'a Value> {
        let own = |default: &&Default| {
            default.condition.is_none() && default.path.len() == 1 && default.path[0] == self.name
        };
        ty.defaults.iter().find(own).map(|default| &default.value)
    }
}

impl Shape {
    /// Go's name of the type, given the Go name of its scalar (or "").
    pub fn go(&self, scalar: &str) -> String {
        match self {
            Shape::List(of) => format!("[]{}", of.go(scalar)),
            Shape::Map(of) if matches!(**of, Shape::Quantity) => "v1.ResourceList".into(),
            Shape::Map(of) => format!("map[string]{}", of.go(scalar)),
            Shape::Struct(ty) => ty.go().into(),
            _ if !scalar.is_empty() => scalar.into(),
            Shape::String => "string".into(),
            Shape::Bool => "bool".into(),
            Shape::Int32 => "int32".into(),
            Shape::Int64 => "int64".into(),
            Shape::Double => "float64".into(),
            Shape::Bytes => "[]uint8".into(),
            Shape::Time => "v1.Time".into(),
            Shape::MicroTime => "v1.MicroTime".into(),
            Shape::Duration => "v1.Duration".into(),
            Shape::Quantity => "resource.Quantity".into(),
            Shape::IntOrString => "intstr.IntOrString".into(),
            Shape::Raw => "runtime.RawExtension".into(),
            Shape::Fields => "v1.FieldsV1".into(),
        }
    }
}

impl TypeRef {
    fn empty() -> TypeRef {
        TypeRef(Arc::default())
    }

    fn set(&self, ty: Type) {
        self.0.set(ty).expect("each type is made once");
    }
}

impl std::ops::Deref for TypeRef {
    type Target = Type;

    fn deref(&self) -> &Type {
        self.0.get().expect("a table is handed out only when all its types are made")
    }
}

impl std::fmt::Debug for TypeRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.get().map_or("?", |ty| &ty.name))
    }
}
