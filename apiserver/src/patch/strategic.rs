//! Strategic merge patch: a merge patch that knows which lists are keyed, with the directives
//! `$patch`, `$retainKeys`, `$setElementOrder/x` and `$deleteFromPrimitiveList/x`
//! (Kubernetes' "Strategic merge patch" document).

use proto::kind::Row;
use proto::status::Status;
use serde_json::{Map, Value};

use crate::schema::{self, Field, Shape, Strategy, TypeRef};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const ELEMENT_ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

type Object = Map<String, Value>;

/// Applies a strategic merge patch. 400 for a patch that contradicts itself, 415 for kinds without
/// a schema.
pub fn strategic(row: &Row, old: &Value, body: &Value) -> Result<Value, Status> {
    let Some(ty) = schema::of(row) else {
        return Err(Status::unsupported_media_type(
            "application/json-patch+json, application/merge-patch+json, \
             application/apply-patch+yaml",
        ));
    };
    let (Value::Object(old), Value::Object(patch)) = (old, body) else {
        return Err(Status::bad_request("Invalid patch: the patch must be an object"));
    };
    merge_object(Some(&ty), old.clone(), patch).map(Value::Object).map_err(Status::bad_request)
}

/// Merges a patch into an object of a struct type, or into a plain map.
fn merge_object(ty: Option<&TypeRef>, mut old: Object, patch: &Object) -> Result<Object, String> {
    match patch.get(PATCH) {
        None => {}
        Some(Value::String(word)) if word == "merge" => {}
        Some(Value::String(word)) if word == "delete" => return Ok(Object::new()),
        Some(Value::String(word)) if word == "replace" => {
            let mut new = patch.clone();
            new.remove(PATCH);
            return Ok(new);
        }
        Some(other) => return Err(format!("Unknown patch type found: {other}")),
    }
    if let Some(keys) = patch.get(RETAIN_KEYS) {
        retain_keys(&mut old, patch, keys)?;
    }
    for (key, order) in patch {
        if let Some(name) = key.strip_prefix(ELEMENT_ORDER) {
            set_order(ty, &mut old, patch, name, order)?;
        } else if let Some(name) = key.strip_prefix(DELETE_PRIMITIVES) {
            let gone = order.as_array().ok_or("$deleteFromPrimitiveList must be a list")?;
            if let Some(Value::Array(items)) = old.get_mut(name) {
                items.retain(|item| !gone.contains(item));
            }
        }
    }
    for (name, value) in patch {
        let ordered = patch.contains_key(&format!("{ELEMENT_ORDER}{name}"));
        if name.starts_with('$') || ordered && value.is_array() {
            continue;
        }
        if value.is_null() {
            old.remove(name);
            continue;
        }
        let field = ty.and_then(|ty| ty.field(name));
        let merged = merge_value(field, old.remove(name), value)?;
        old.insert(name.clone(), merged);
    }
    Ok(old)
}

/// Merges the patch of one field. Where the object has nothing (or something of another type) the
/// patch is merged into nothing, so that no directive and no null survives.
fn merge_value(field: Option<&Field>, old: Option<Value>, patch: &Value) -> Result<Value, String> {
    let strategy = field.map(|field| &field.strategy);
    match patch {
        Value::Object(patch) => {
            let old = match old {
                Some(Value::Object(old)) if !strategy.is_some_and(|s| s.replace) => old,
                _ => Object::new(),
            };
            let ty = match field.map(|field| &field.shape) {
                Some(Shape::Struct(ty)) => Some(ty),
                _ => None,
            };
            merge_object(ty, old, patch).map(Value::Object)
        }
        Value::Array(patch) => match strategy {
            Some(strategy) if strategy.merge => {
                let old = match old {
                    Some(Value::Array(old)) => old,
                    _ => Vec::new(),
                };
                let ty = field.and_then(Field::element);
                merge_list(ty, strategy, old, patch).map(Value::Array)
            }
            _ => Ok(Value::Array(patch.clone())),
        },
        scalar => Ok(scalar.clone()),
    }
}

/// Merges a list whose items have keys (or are their own), the patch's items in the patch's order.
fn merge_list(
    ty: Option<&TypeRef>,
    strategy: &Strategy,
    old: Vec<Value>,
    patch: &[Value],
) -> Result<Vec<Value>, String> {
    let server = old.clone();
    let (merged, order) = merge_items(ty, strategy, old, patch)?;
    Ok(in_order(merged, &order, &server, &strategy.key))
}

/// The merged items, not yet ordered, and the patch's items without directives.
fn merge_items(
    ty: Option<&TypeRef>,
    strategy: &Strategy,
    mut old: Vec<Value>,
    patch: &[Value],
) -> Result<(Vec<Value>, Vec<Value>), String> {
    let key = &*strategy.key;
    let mut items = Vec::with_capacity(patch.len());
    let mut replace = false;
    for item in patch {
        let directive = item.get(PATCH).map(|word| word.as_str().unwrap_or(""));
        match directive {
            None | Some("merge") => items.push(item.clone()),
            Some("replace") => replace = true,
            Some("delete") => {
                let name = name(item, key)?;
                old.retain(|other| other.get(key) != Some(name));
            }
            Some(other) => return Err(format!("Unknown patch type found: {other}")),
        }
    }
    if replace {
        return Ok((items.clone(), items));
    }
    for item in &items {
        if key.is_empty() {
            if !old.contains(item) {
                old.push(item.clone());
            }
            continue;
        }
        let Value::Object(patch) = item else {
            return Err(format!("expected a map in a list merged by {key:?}, got {item}"));
        };
        let name = name(item, key)?;
        let found = old.iter_mut().find(|other| other.get(key) == Some(name));
        match found {
            Some(other) => {
                let own = match std::mem::take(other) {
                    Value::Object(own) => own,
                    _ => Object::new(),
                };
                *other = Value::Object(merge_object(ty, own, patch)?);
            }
            None => old.push(Value::Object(merge_object(ty, Object::new(), patch)?)),
        }
    }
    Ok((old, items))
}

fn name<'a>(item: &'a Value, key: &str) -> Result<&'a Value, String> {
    let missing = || format!("map: {item} does not contain declared merge key: {key}");
    item.get(key).filter(|name| !name.is_null()).ok_or_else(missing)
}

/// `$setElementOrder/name`: merges the list, then puts it into the given order.
fn set_order(
    ty: Option<&TypeRef>,
    old: &mut Object,
    patch: &Object,
    name: &str,
    order: &Value,
) -> Result<(), String> {
    let order = order.as_array().ok_or("$setElementOrder must be a list")?;
    let field = ty.and_then(|ty| ty.field(name));
    let strategy = field.map(|field| field.strategy.clone()).unwrap_or_default();
    let server = match old.get(name) {
        Some(Value::Array(items)) => items.clone(),
        _ => Vec::new(),
    };
    let merged = match patch.get(name) {
        Some(Value::Array(items)) => {
            let listed = |item: &Value| same_in(order, item, &strategy.key).is_some();
            let kept = |item: &&Value| item.get(PATCH).is_none_or(|word| word == "merge");
            if let Some(item) = items.iter().filter(kept).find(|item| !listed(item)) {
                return Err(format!(
                    "The order in patch list:\n{items:?}\n doesn't match $setElementOrder list: \
                     {item} is missing"
                ));
            }
            let ty = field.and_then(Field::element);
            merge_items(ty, &strategy, server.clone(), items)?.0
        }
        _ if server.is_empty() => return Ok(()),
        _ => server.clone(),
    };
    old.insert(name.into(), Value::Array(in_order(merged, order, &server, &strategy.key)));
    Ok(())
}

/// Puts the items of a list into the patch's order; the ones only the server has go where they
/// were relative to their neighbours, as far as that can be said.
fn in_order(merged: Vec<Value>, order: &[Value], server: &[Value], key: &str) -> Vec<Value> {
    let (mut listed, mut others): (Vec<Value>, Vec<Value>) =
        merged.into_iter().partition(|item| same_in(order, item, key).is_some());
    listed.sort_by_key(|item| same_in(order, item, key));
    others.sort_by_key(|item| same_in(server, item, key));
    let mut out = Vec::with_capacity(listed.len() + others.len());
    let mut others = others.into_iter().peekable();
    for item in listed {
        let place = same_in(server, &item, key);
        while let Some(other) = others.peek()
            && let (Some(own), Some(place)) = (same_in(server, other, key), place)
            && own < place
        {
            out.extend(others.next());
        }
        out.push(item);
    }
    out.extend(others);
    out
}

/// The index of the item with the same key (or the same value).
fn same_in(list: &[Value], item: &Value, key: &str) -> Option<usize> {
    list.iter().position(|other| match key {
        "" => other == item,
        key => other.get(key).is_some() && other.get(key) == item.get(key),
    })
}

fn retain_keys(old: &mut Object, patch: &Object, keys: &Value) -> Result<(), String> {
    let keys = keys.as_array().ok_or("$retainKeys must be a list")?;
    let listed = |name: &str| keys.iter().any(|key| key == name);
    if let Some(name) = patch
        .iter()
        .find(|(name, value)| !name.starts_with('$') && !value.is_null() && !listed(name))
    {
        return Err(format!("$retainKeys directive does not contain the patched key {:?}", name.0));
    }
    old.retain(|name, _| listed(name));
    Ok(())
}
