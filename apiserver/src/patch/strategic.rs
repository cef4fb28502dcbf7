//! Strategic merge patch: a merge patch that knows which lists are keyed, with the directives
//! `$patch`, `$retainKeys`, `$setElementOrder/x` and `$deleteFromPrimitiveList/x`
//! (Kubernetes' "Strategic merge patch" document).

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

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
            let gone = places(gone, "");
            if let Some(Value::Array(items)) = old.get_mut(name) {
                items.retain(|item| !gone.contains_key(&identity(item, "")));
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
    let mut deleted = HashSet::new();
    let mut replace = false;
    for item in patch {
        let directive = item.get(PATCH).map(|word| word.as_str().unwrap_or(""));
        match directive {
            None | Some("merge") => items.push(item.clone()),
            Some("replace") => replace = true,
            Some("delete") => drop(deleted.insert(name(item, key)?.to_string())),
            Some(other) => return Err(format!("Unknown patch type found: {other}")),
        }
    }
    if replace {
        return Ok((items.clone(), items));
    }
    if !deleted.is_empty() {
        old.retain(|item| !deleted.contains(&identity(item, key)));
    }
    let mut places = places(&old, key);
    for item in &items {
        let identity = identity(item, key);
        if key.is_empty() {
            if let Entry::Vacant(place) = places.entry(identity) {
                place.insert(old.len());
                old.push(item.clone());
            }
            continue;
        }
        let Value::Object(patch) = item else {
            return Err(format!("expected a map in a list merged by {key:?}, got {item}"));
        };
        name(item, key)?;
        match places.get(&identity) {
            Some(place) => {
                let own = match std::mem::take(&mut old[*place]) {
                    Value::Object(own) => own,
                    _ => Object::new(),
                };
                old[*place] = Value::Object(merge_object(ty, own, patch)?);
            }
            None => {
                places.insert(identity, old.len());
                old.push(Value::Object(merge_object(ty, Object::new(), patch)?));
            }
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
            let listed = places(order, &strategy.key);
            let kept = |item: &&Value| item.get(PATCH).is_none_or(|word| word == "merge");
            let missing = |item: &&Value| !listed.contains_key(&identity(item, &strategy.key));
            if let Some(item) = items.iter().filter(kept).find(missing) {
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
    let (order, server) = (places(order, key), places(server, key));
    let mut listed = Vec::new();
    let mut others = Vec::new();
    for item in merged {
        let identity = identity(&item, key);
        let on_server = server.get(&identity).copied();
        match order.get(&identity) {
            Some(place) => listed.push((*place, on_server, item)),
            None => others.push((on_server, item)),
        }
    }
    listed.sort_by_key(|(place, ..)| *place);
    others.sort_by_key(|(place, _)| *place);
    let mut out = Vec::with_capacity(listed.len() + others.len());
    let mut others = others.into_iter().peekable();
    for (_, place, item) in listed {
        while let (Some((Some(own), _)), Some(place)) = (others.peek(), place)
            && *own < place
        {
            out.extend(others.next().map(|(_, other)| other));
        }
        out.push(item);
    }
    out.extend(others.map(|(_, other)| other));
    out
}

/// What makes an item the same as another: its key's value, or itself.
fn identity(item: &Value, key: &str) -> String {
    match key {
        "" => item.to_string(),
        key => item.get(key).map(Value::to_string).unwrap_or_default(),
    }
}

/// Where each item is first; items without a key are nowhere.
fn places(list: &[Value], key: &str) -> HashMap<String, usize> {
    let mut places = HashMap::with_capacity(list.len());
    for (place, item) in list.iter().enumerate() {
        let identity = identity(item, key);
        if !identity.is_empty() {
            places.entry(identity).or_insert(place);
        }
    }
    places
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
