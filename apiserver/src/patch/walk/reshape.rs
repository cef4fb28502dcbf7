//! Objects with fields taken out, or with another's put in.

use std::collections::HashMap;

use serde_json::Value;

use super::{Parts, child_parts, is_empty, key, parts};
use crate::patch::fields::{Set, is_member};
use crate::schema::{Merging, Type};

/// Takes the members of a set out of an object. What becomes empty by it becomes null: it counts as
/// there until the object is checked.
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
        true
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
