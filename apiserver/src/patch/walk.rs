//! Walks over objects guided by the schema, for apply and managedFields: which fields an object
//! has, which differ between two, and an object with some fields taken out or another's put in.
//! Structs, maps, and lists with keys are walked into; everything else is one value.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::fields::{Set, is_member, leaf, mark};
use crate::schema::{Field, Merging, Shape, Type};

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

/// What a write did.
#[derive(Debug, Default)]
pub struct Changes {
    /// Added or modified.
    pub touched: Set,
    pub removed: Set,
}

/// Fields that nobody owns, at the root and in metadata.
const NEVER_OWNED: [&str; 2] = ["apiVersion", "kind"];
pub const NEVER_OWNED_METADATA: [&str; 8] = [
    "creationTimestamp",
    "generation",
    "managedFields",
    "name",
    "namespace",
    "resourceVersion",
    "selfLink",
    "uid",
];

/// The difference between two versions of an object; without an old one, Go's empty object (whose
/// structs exist) takes its place. Fields that are never owned do not count.
pub fn changes(ty: &Type, old: Option<&Value>, new: &Value) -> Changes {
    let empty = Map::new();
    let old = old.and_then(Value::as_object).unwrap_or(&empty);
    let new = new.as_object().unwrap_or(&empty);
    let mut changes = Changes::default();
    each_key(old, new, |name, a, b| {
        if NEVER_OWNED.contains(&name) {
            return;
        }
        let Some(field) = ty.field(name) else { return };
        if let ("metadata", Shape::Struct(meta)) = (name, &field.shape) {
            let (a, b) = (object(a).unwrap_or(&empty), object(b).unwrap_or(&empty));
            let mut inner = Changes::default();
            each_key(a, b, |name, a, b| {
                if !NEVER_OWNED_METADATA.contains(&name)
                    && let Some(field) = meta.field(name)
                {
                    compare_field(field, a, b, true, true, &mut inner);
                }
            });
            changes.adopt("f:metadata", inner);
        } else {
            compare_field(field, a, b, true, true, &mut changes);
        }
    });
    changes
}

impl Changes {
    /// Puts a child's changes below an element; children that did not change leave no trace.
    fn adopt(&mut self, element: &str, child: Changes) {
        if !child.touched.is_empty() {
            self.touched.insert(element.into(), Value::Object(child.touched));
        }
        if !child.removed.is_empty() {
            self.removed.insert(element.into(), Value::Object(child.removed));
        }
    }

    fn touch(&mut self, element: String) {
        self.touched.insert(element, leaf());
    }

    fn remove(&mut self, element: String) {
        self.removed.insert(element, leaf());
    }
}

fn object(value: Option<&Value>) -> Option<&Map<String, Value>> {
    value.and_then(Value::as_object)
}

/// Every key of either map, in order, with the values of both; null counts as absent.
fn each_key<'a>(
    a: &'a Map<String, Value>,
    b: &'a Map<String, Value>,
    mut visit: impl FnMut(&'a str, Option<&'a Value>, Option<&'a Value>),
) {
    let (mut left, mut right) = (a.iter().peekable(), b.iter().peekable());
    loop {
        let order = match (left.peek(), right.peek()) {
            (None, None) => return,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((a, _)), Some((b, _))) => a.cmp(b),
        };
        let a = if order.is_le() { left.next() } else { None };
        let b = if order.is_ge() { right.next() } else { None };
        let Some((name, _)) = a.or(b) else { return };
        let present = |(_, value): (&'a String, &'a Value)| (!value.is_null()).then_some(value);
        visit(name, a.and_then(present), b.and_then(present));
    }
}

/// Compares one field of a struct. `in_old` and `in_new` say whether the struct itself exists: a
/// field that Go always writes then exists, too.
fn compare_field(
    field: &Field,
    old: Option<&Value>,
    new: Option<&Value>,
    in_old: bool,
    in_new: bool,
    out: &mut Changes,
) {
    let exists = (old.is_some() || field.always && in_old, new.is_some() || field.always && in_new);
    let element = |name: &str| format!("f:{name}");
    match parts(&field.shape, &field.merging) {
        Parts::One => match (old, new) {
            (Some(a), Some(b)) if a == b => {}
            (None, None) => {}
            (None, Some(b)) if exists.0 && is_zero(b) => {}
            (Some(a), None) if exists.1 && is_zero(a) => {}
            (_, Some(_)) => out.touch(element(&field.name)),
            (Some(_), None) => out.remove(element(&field.name)),
        },
        parts => compare_parts(&parts, old, new, exists, || element(&field.name), out),
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.is_empty(),
    }
}

fn is_empty(value: Option<&Value>) -> bool {
    match value {
        None | Some(Value::Null) => true,
        Some(Value::Array(items)) => items.is_empty(),
        Some(Value::Object(map)) => map.is_empty(),
        Some(_) => false,
    }
}

fn compare_parts(
    parts: &Parts<'_>,
    old: Option<&Value>,
    new: Option<&Value>,
    exists: (bool, bool),
    element: impl FnOnce() -> String,
    out: &mut Changes,
) {
    if is_empty(old) && is_empty(new) {
        match exists {
            (false, true) => out.touch(element()),
            (true, false) => out.remove(element()),
            _ => {}
        }
        return;
    }
    let mut inner = Changes::default();
    compare_inside(parts, old, new, exists, &mut inner);
    if !exists.0 {
        mark(&mut inner.touched, true);
        out.touched.insert(element(), Value::Object(inner.touched));
    } else if !exists.1 {
        mark(&mut inner.removed, true);
        out.removed.insert(element(), Value::Object(inner.removed));
    } else if !inner.touched.is_empty() || !inner.removed.is_empty() {
        out.adopt(&element(), inner);
    }
}

fn compare_inside(
    parts: &Parts<'_>,
    old: Option<&Value>,
    new: Option<&Value>,
    exists: (bool, bool),
    out: &mut Changes,
) {
    let empty = Map::new();
    let maps = || (object(old).unwrap_or(&empty), object(new).unwrap_or(&empty));
    match parts {
        Parts::One => {}
        Parts::Struct(ty) => {
            let (a, b) = maps();
            each_key(a, b, |name, a, b| {
                if let Some(field) = ty.field(name) {
                    compare_field(field, a, b, exists.0, exists.1, out);
                }
            });
        }
        Parts::Map(of) => {
            let (a, b) = maps();
            each_key(a, b, |key, a, b| compare_item(of, a, b, || format!("f:{key}"), out));
        }
        Parts::Scalars => {
            let (a, b) = (list(old), list(new));
            let value = |item: &Value| format!("v:{item}");
            b.iter().filter(|item| !a.contains(item)).for_each(|item| out.touch(value(item)));
            a.iter().filter(|item| !b.contains(item)).for_each(|item| out.remove(value(item)));
        }
        Parts::Items(keys, of, ty) => {
            let (a, b) = (list(old), list(new));
            let pairs = matches(a, b, keys, *ty);
            let mut matched = vec![false; a.len()];
            for (item, found) in b.iter().zip(pairs) {
                let other = found.map(|index| {
                    matched[index] = true;
                    &a[index]
                });
                compare_item(of, other, Some(item), || key(item, keys, *ty), out);
            }
            for (item, _) in a.iter().zip(matched).filter(|(_, matched)| !matched) {
                compare_item(of, Some(item), None, || key(item, keys, *ty), out);
            }
        }
    }
}

/// Compares an item of a list or map.
fn compare_item(
    shape: &Shape,
    old: Option<&Value>,
    new: Option<&Value>,
    element: impl FnOnce() -> String,
    out: &mut Changes,
) {
    match parts(shape, &Merging::Default) {
        Parts::One => match (old, new) {
            (a, b) if a == b => {}
            (_, Some(_)) => out.touch(element()),
            (_, None) => out.remove(element()),
        },
        parts => compare_parts(&parts, old, new, (old.is_some(), new.is_some()), element, out),
    }
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// For each item of `b` the index of the item of `a` with the same keys.
fn matches(a: &[Value], b: &[Value], keys: &[Box<str>], ty: Option<&Type>) -> Vec<Option<usize>> {
    /// Up to here looking is faster than hashing.
    const FEW: usize = 16;
    let same = |x: &Value, y: &Value| {
        keys.iter().all(|name| key_value(x, name, ty) == key_value(y, name, ty))
    };
    if a.len() <= FEW {
        let find = |item: &Value| a.iter().position(|other| same(other, item));
        return b.iter().map(find).collect();
    }
    let mut index: HashMap<String, usize> = HashMap::with_capacity(a.len());
    for (at, item) in a.iter().enumerate() {
        index.entry(key(item, keys, ty)).or_insert(at);
    }
    b.iter().map(|item| index.get(&key(item, keys, ty)).copied()).collect()
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
                    let length = self.push(&super::fields::printed(&element));
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
        self.problems.push(format!("{}: {what}", self.path));
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

/// Takes the members of a set out of an object, and what becomes empty by it.
pub fn without(ty: &Type, object: &mut Value, set: &Set) {
    prune(&Parts::Struct(ty), object, set);
}

fn prune(of: &Parts<'_>, value: &mut Value, set: &Set) {
    // What to do with a child: keep, drop, or look into.
    let judge = |element: &str, child: &mut Value| {
        let Some(Value::Object(node)) = set.get(element) else { return true };
        if is_member(node) {
            return false;
        }
        if let (Some(parts), _) = child_parts(of, element) {
            prune(&parts, child, node);
        }
        !child.is_null()
    };
    match (of, &mut *value) {
        (Parts::Struct(_) | Parts::Map(_), Value::Object(map)) => {
            map.retain(|name, child| judge(&format!("f:{name}"), child));
        }
        (Parts::Items(keys, _, ty), Value::Array(items)) => {
            items.retain_mut(|item| judge(&key(item, keys, *ty), item));
        }
        (Parts::Scalars, Value::Array(items)) => {
            items.retain_mut(|item| judge(&format!("v:{item}"), item));
        }
        _ => return,
    }
    if is_empty(Some(value)) {
        *value = Value::Null;
    }
}

/// The live object with an applied one merged in.
pub fn merged(ty: &Type, live: &Value, applied: &Value) -> Value {
    let mut out = live.clone();
    merge(&Parts::Struct(ty), &mut out, applied);
    out
}

fn merge(of: &Parts<'_>, live: &mut Value, applied: &Value) {
    match (of, &mut *live, applied) {
        (Parts::Struct(_) | Parts::Map(_), Value::Object(live), Value::Object(applied)) => {
            for (name, value) in applied {
                match live.get_mut(name) {
                    Some(own) => {
                        let parts = child_parts(of, &format!("f:{name}")).0;
                        merge(&parts.unwrap_or(Parts::One), own, value);
                    }
                    None => drop(live.insert(name.clone(), value.clone())),
                }
            }
        }
        (Parts::Scalars, Value::Array(own), Value::Array(applied)) => {
            let same = |item: &Value| Some(item.to_string());
            *own = merged_items(own, applied, same, |_, item| item.clone());
        }
        (Parts::Items(keys, shape, ty), Value::Array(own), Value::Array(applied)) => {
            let parts = parts(shape, &Merging::Default);
            let name = |item: &Value| Some(key(item, keys, *ty));
            *own = merged_items(own, applied, name, |own, item| {
                let mut merged = own.clone();
                merge(&parts, &mut merged, item);
                merged
            });
        }
        (Parts::One, live, applied) => *live = applied.clone(),
        (_, live, applied) if !applied.is_null() => *live = applied.clone(),
        _ => {}
    }
}

/// Both lists' items: the applied ones in their order, the live-only ones where they stood.
fn merged_items(
    live: &[Value],
    applied: &[Value],
    key: impl Fn(&Value) -> Option<String>,
    join: impl Fn(&Value, &Value) -> Value,
) -> Vec<Value> {
    let live_keys: Vec<_> = live.iter().map(&key).collect();
    let applied_keys: Vec<_> = applied.iter().map(&key).collect();
    let mut in_applied: HashMap<&Option<String>, bool> =
        applied_keys.iter().map(|key| (key, false)).collect();
    let in_live: HashMap<&Option<String>, usize> =
        live_keys.iter().enumerate().rev().map(|(at, key)| (key, at)).collect();
    let shared: Vec<_> = live_keys.iter().filter(|key| in_applied.contains_key(key)).collect();
    let (mut l, mut a, mut next) = (0, 0, 0);
    let mut out = Vec::with_capacity(live.len() + applied.len());
    while l < live.len() || a < applied.len() {
        if l < live.len() {
            let key = &live_keys[l];
            match in_applied.get(key) {
                // Only live: keeps its place.
                None => {
                    out.push(live[l].clone());
                    l += 1;
                    continue;
                }
                Some(true) => {
                    l += 1;
                    continue;
                }
                // Shared, but the applied order wants another one before it.
                Some(false) if a < applied.len() && applied_keys[a] != *key => {
                    if shared.get(next).is_some_and(|next| *next != key) {
                        l += 1;
                        continue;
                    }
                }
                Some(false) => {}
            }
        }
        if a < applied.len() {
            let key = &applied_keys[a];
            out.push(match in_live.get(key) {
                Some(at) => join(&live[*at], &applied[a]),
                None => applied[a].clone(),
            });
            in_applied.insert(key, true);
            if shared.get(next).is_some_and(|next| *next == key) {
                next += 1;
            }
            a += 1;
        }
    }
    out
}
