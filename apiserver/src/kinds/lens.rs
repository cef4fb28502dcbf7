//! Reading and small, named edits of JSON objects whose types the schema has already checked: a
//! missing field reads as Go's zero value.

use serde_json::{Map, Value};

static NULL: Value = Value::Null;

/// Access by field name. Reading never fails: what is missing or of another type is null, "",
/// empty or None.
pub trait Lens {
    fn at(&self, field: &str) -> &Value;
    fn text(&self, field: &str) -> &str;
    fn items(&self, field: &str) -> &[Value];
    fn int(&self, field: &str) -> Option<i64>;
    fn flag(&self, field: &str) -> Option<bool>;
    /// The members of a map, sorted by key.
    fn pairs(&self, field: &str) -> impl Iterator<Item = (&str, &Value)>;
    /// Present and not null.
    fn has(&self, field: &str) -> bool;
    /// Null, "", [] or {}: what Go leaves out.
    fn vacant(&self, field: &str) -> bool;

    /// The object at `field`, made where missing.
    fn section(&mut self, field: &str) -> &mut Value;
    /// The list at `field`; empty where missing.
    fn items_mut(&mut self, field: &str) -> &mut [Value];
    fn set(&mut self, field: &str, value: impl Into<Value>);
    /// Sets the field unless it is present.
    fn fill(&mut self, field: &str, value: impl Into<Value>);
    fn drop(&mut self, field: &str);
    /// Makes the field what it is in `old`, absent included.
    fn take_over(&mut self, field: &str, old: &Value);
}

impl Lens for Value {
    fn at(&self, field: &str) -> &Value {
        match self {
            Value::Object(fields) => fields.get(field).unwrap_or(&NULL),
            _ => &NULL,
        }
    }

    fn text(&self, field: &str) -> &str {
        self.at(field).as_str().unwrap_or("")
    }

    fn items(&self, field: &str) -> &[Value] {
        self.at(field).as_array().map_or(&[], Vec::as_slice)
    }

    fn int(&self, field: &str) -> Option<i64> {
        self.at(field).as_i64()
    }

    fn flag(&self, field: &str) -> Option<bool> {
        self.at(field).as_bool()
    }

    fn pairs(&self, field: &str) -> impl Iterator<Item = (&str, &Value)> {
        let map = self.at(field).as_object();
        map.into_iter().flatten().map(|(key, value)| (key.as_str(), value))
    }

    fn has(&self, field: &str) -> bool {
        !self.at(field).is_null()
    }

    fn vacant(&self, field: &str) -> bool {
        match self.at(field) {
            Value::Null => true,
            Value::String(text) => text.is_empty(),
            Value::Array(items) => items.is_empty(),
            Value::Object(map) => map.is_empty(),
            Value::Bool(_) | Value::Number(_) => false,
        }
    }

    fn section(&mut self, field: &str) -> &mut Value {
        let section = object(self).entry(field).or_insert(Value::Null);
        object(section);
        section
    }

    fn items_mut(&mut self, field: &str) -> &mut [Value] {
        self.get_mut(field).and_then(Value::as_array_mut).map_or(&mut [], Vec::as_mut_slice)
    }

    fn set(&mut self, field: &str, value: impl Into<Value>) {
        object(self).insert(field.to_string(), value.into());
    }

    fn fill(&mut self, field: &str, value: impl Into<Value>) {
        if !self.has(field) {
            self.set(field, value);
        }
    }

    fn drop(&mut self, field: &str) {
        if let Some(map) = self.as_object_mut() {
            map.remove(field);
        }
    }

    fn take_over(&mut self, field: &str, old: &Value) {
        match old.get(field) {
            Some(value) => self.set(field, value.clone()),
            None => self.drop(field),
        }
    }
}

/// The map of an object; anything else becomes an empty one.
fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("made an object above")
}
