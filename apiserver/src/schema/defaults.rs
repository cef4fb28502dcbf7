//! Static defaults: a walk over the object that sets what the table says.

use serde_json::{Map, Value};

use super::{Condition, Default, Field, Shape, Type};

/// Sets the defaults of `object` and of everything in it. Values of the wrong type are left alone:
/// the check has refused them before.
pub fn default_type(ty: &Type, object: &mut Value) {
    if let Value::Object(map) = object {
        default_struct(ty, map);
    }
}

fn default_struct(ty: &Type, map: &mut Map<String, Value>) {
    for default in ty.defaults.iter().filter(|default| default.condition.is_none()) {
        apply(ty, default, map);
    }
    for field in ty.fields.iter().filter(|field| field.always) {
        if !map.contains_key(&*field.name)
            && let Some(zero) = zero(field)
        {
            map.insert(field.name.to_string(), zero);
        }
    }
    for default in ty.defaults.iter() {
        let Some(Condition { field, values }) = &default.condition else { continue };
        let holds = match map.get(&**field) {
            Some(Value::String(value)) => {
                values.is_empty() && !value.is_empty() || values.iter().any(|one| **one == **value)
            }
            Some(Value::Null) | None => false,
            Some(_) => values.is_empty(),
        };
        if holds {
            apply(ty, default, map);
        }
    }
    for (name, value) in map.iter_mut() {
        if value.is_object() || value.is_array() {
            let Some(field) = ty.field(name) else { continue };
            default_shape(&field.shape, value);
        }
    }
}

fn default_shape(shape: &Shape, value: &mut Value) {
    match (shape, value) {
        (Shape::Struct(ty), Value::Object(map)) => default_struct(ty, map),
        (Shape::List(of), Value::Array(items)) if matches!(**of, Shape::Struct(_)) => {
            items.iter_mut().for_each(|item| default_shape(of, item));
        }
        (Shape::Map(of), Value::Object(map)) if matches!(**of, Shape::Struct(_)) => {
            map.values_mut().for_each(|item| default_shape(of, item));
        }
        _ => {}
    }
}

/// Sets one default, unless the field has a value or the way to it does not exist.
fn apply(mut ty: &Type, default: &Default, mut map: &mut Map<String, Value>) {
    let Some((last, way)) = default.path.split_last() else { return };
    for step in way {
        let Some(Shape::Struct(next)) = ty.field(step).map(|field| &field.shape) else { return };
        let Some(Value::Object(inner)) = map.get_mut(&**step) else { return };
        (ty, map) = (next, inner);
    }
    let pointer = ty.field(last).is_some_and(|field| field.pointer);
    let absent = match map.get(&**last) {
        None | Some(Value::Null) => true,
        Some(Value::String(text)) => !pointer && text.is_empty(),
        Some(Value::Number(number)) => !pointer && number.as_i64() == Some(0),
        Some(_) => false,
    };
    if absent {
        map.insert(last.to_string(), default.value.clone());
    }
}

/// What Go writes for a field that nobody set; `None` where that would be `null`.
fn zero(field: &Field) -> Option<Value> {
    match field.shape {
        Shape::Struct(_) => Some(Value::Object(Map::new())),
        Shape::String => Some("".into()),
        Shape::Bool => Some(false.into()),
        Shape::Int32 | Shape::Int64 => Some(0.into()),
        _ => None,
    }
}
