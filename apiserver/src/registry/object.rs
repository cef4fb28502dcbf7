//! Objects as JSON values: reading them from entries and writing them for the store.

use std::borrow::Cow;

use bytes::Bytes;
use proto::{json::as_go, kind::Row, status::Status, time::Time};
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;

use crate::{
    cache::Entry,
    kinds::{self, lens::Lens},
};

/// The object of an entry, resourceVersion included.
pub fn decode(entry: &Entry) -> Result<Value, Status> {
    serde_json::from_slice(&entry.bytes())
        .map_err(|error| Status::internal(format!("a stored object is damaged: {error}")))
}

/// The bytes to store, as an upstream server writes and serves them (a ControllerRevision's data is
/// compared byte by byte): kind and apiVersion first, as everyone who reads them expects, and no
/// resourceVersion. A row that shares another's storage stores that one's kind.
pub fn encode(row: &Row, object: &Value) -> Bytes {
    let row = kinds::strategy(row).conversion().map_or(row, |conversion| conversion.stored);
    let mut bytes = Vec::with_capacity(1024);
    let mut serializer = serde_json::Serializer::new(&mut bytes);
    let written = (|| {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("kind", &row.kind)?;
        map.serialize_entry("apiVersion", &row.api_version())?;
        for (key, value) in object.as_object().into_iter().flatten() {
            match key.as_str() {
                "kind" | "apiVersion" => {}
                "metadata" => map.serialize_entry("metadata", &Unversioned(value))?,
                key => map.serialize_entry(key, value)?,
            }
        }
        map.end()
    })();
    written.expect("JSON values always serialize into memory");
    let text = String::from_utf8(bytes).expect("JSON is written in UTF-8");
    match as_go(&text) {
        Cow::Borrowed(_) => text.into(),
        Cow::Owned(escaped) => escaped.into(),
    }
}

/// Metadata without its resourceVersion.
struct Unversioned<'a>(&'a Value);

impl serde::Serialize for Unversioned<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (key, value) in self.0.as_object().into_iter().flatten() {
            if key != "resourceVersion" {
                map.serialize_entry(key, value)?;
            }
        }
        map.end()
    }
}

/// What a list's items leave out: `"kind":"Pod","apiVersion":"v1",` behind the brace. The rest of
/// the object follows a new `{`.
pub fn head(row: &Row) -> Bytes {
    Bytes::from(format!("{{\"kind\":\"{}\",\"apiVersion\":\"{}\",", row.kind, row.api_version()))
}

pub fn meta(object: &Value) -> &Value {
    object.at("metadata")
}

pub fn meta_mut(object: &mut Value) -> &mut Value {
    object.section("metadata")
}

/// The revision an object claims to be at; `None` where it claims none.
pub fn claimed_revision(object: &Value) -> Result<Option<u64>, Status> {
    match meta(object).text("resourceVersion") {
        "" | "0" => Ok(None),
        text => text.parse().map(Some).map_err(|_| {
            Status::bad_request(format!(
                "invalid resource version {text:?}: strconv.ParseUint: parsing {text:?}: invalid \
                 syntax"
            ))
        }),
    }
}

pub fn is_terminating(object: &Value) -> bool {
    meta(object).has("deletionTimestamp")
}

pub fn time(at: Time) -> Value {
    Value::String(at.to_string())
}

#[cfg(test)]
mod tests {
    use proto::kind::{CONFIG_MAP, DEPLOYMENT};
    use serde_json::json;

    use super::*;

    #[test]
    fn stored_without_revision_and_with_its_kind_first() {
        let object = json!({
            "data": {"a": "b"},
            "metadata": {"name": "n", "resourceVersion": "5"},
            "apiVersion": "ignored",
        });
        assert_eq!(
            encode(&CONFIG_MAP, &object),
            r#"{"kind":"ConfigMap","apiVersion":"v1","data":{"a":"b"},"metadata":{"name":"n"}}"#
        );
        assert!(encode(&DEPLOYMENT, &object).starts_with(&head(&DEPLOYMENT)));
    }

    #[test]
    fn claims() {
        let at =
            |version: Value| claimed_revision(&json!({"metadata": {"resourceVersion": version}}));
        assert_eq!(at(json!("7")), Ok(Some(7)));
        assert_eq!(at(json!("")), Ok(None));
        assert_eq!(at(Value::Null), Ok(None));
        assert_eq!(at(json!("x")).unwrap_err().code, 400);
    }
}
