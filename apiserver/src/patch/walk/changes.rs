//! What differs between two versions of an object.

use std::collections::{BTreeSet, HashMap, VecDeque};

use serde_json::{Map, Value};

use super::{Parts, is_empty, key, key_value, parts};
use crate::patch::fields::{Set, leaf, mark};
use crate::schema::{Field, Merging, Shape, Type};

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
        // Mostly one of metadata, spec and status is as it was: no schema is needed to see that.
        if a == b || NEVER_OWNED.contains(&name) {
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
            let elements = |list: &[Value]| -> BTreeSet<String> {
                list.iter().map(|item| format!("v:{item}")).collect()
            };
            let (a, b) = (elements(list(old)), elements(list(new)));
            b.difference(&a).for_each(|element| out.touch(element.clone()));
            a.difference(&b).for_each(|element| out.remove(element.clone()));
        }
        Parts::Items(keys, of, ty) => {
            let (a, b) = (list(old), list(new));
            let Pairs { of_new, left } = pairs(a, b, keys, *ty);
            for (item, found) in b.iter().zip(of_new) {
                let other = found.map(|index| &a[index]);
                compare_item(of, other, Some(item), || key(item, keys, *ty), out);
            }
            for (index, namesake) in left {
                let element = || key(&a[index], keys, *ty);
                match namesake {
                    true => mark_touched(element(), out),
                    false => compare_item(of, Some(&a[index]), None, element, out),
                }
            }
        }
    }
}

/// Of several items with the same keys one went: those that are left are not what they were.
fn mark_touched(element: String, out: &mut Changes) {
    if let Value::Object(node) = out.touched.entry(element).or_insert_with(leaf) {
        mark(node, true);
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
    if old == new {
        return;
    }
    match parts(shape, &Merging::Default) {
        Parts::One => match (old, new) {
            (_, Some(_)) => out.touch(element()),
            (_, None) => out.remove(element()),
        },
        parts => compare_parts(&parts, old, new, (old.is_some(), new.is_some()), element, out),
    }
}

fn list(value: Option<&Value>) -> &[Value] {
    value.and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// Which item of the old list has become which of the new one.
struct Pairs {
    /// Per item of the new list the index of the old one's.
    of_new: Vec<Option<usize>>,
    /// The old items that nothing has become of, and whether the new list has others with their
    /// keys.
    left: Vec<(usize, bool)>,
}

/// Pairs items by their keys; items with the same keys in order.
fn pairs(a: &[Value], b: &[Value], keys: &[Box<str>], ty: Option<&Type>) -> Pairs {
    /// Up to here looking is faster than hashing.
    const FEW: usize = 16;
    if a.len() <= FEW && b.len() <= FEW {
        let same = |x: &Value, y: &Value| {
            keys.iter().all(|name| key_value(x, name, ty) == key_value(y, name, ty))
        };
        let mut paired = [false; FEW];
        let mut pair = |item| {
            let index = (0..a.len()).find(|index| !paired[*index] && same(&a[*index], item))?;
            paired[index] = true;
            Some(index)
        };
        let of_new = b.iter().map(&mut pair).collect();
        let left = (0..a.len()).filter(|index| !paired[*index]);
        let namesake = |index: usize| (index, b.iter().any(|item| same(&a[index], item)));
        return Pairs { of_new, left: left.map(namesake).collect() };
    }
    let mut index: HashMap<String, (VecDeque<usize>, bool)> = HashMap::with_capacity(a.len());
    for (at, item) in a.iter().enumerate() {
        index.entry(key(item, keys, ty)).or_default().0.push_back(at);
    }
    let mut pair = |item| {
        let (same, named) = index.get_mut(&key(item, keys, ty))?;
        *named = true;
        same.pop_front()
    };
    let of_new = b.iter().map(&mut pair).collect();
    let left = index.into_values();
    let left = left.flat_map(|(same, named)| same.into_iter().map(move |index| (index, named)));
    Pairs { of_new, left: left.collect() }
}
