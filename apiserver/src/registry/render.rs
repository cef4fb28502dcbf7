//! How objects leave: as they are stored, as table rows, or as metadata only; alone, in a list, or
//! as the frame of a watch event. Whole JSON objects are slices of the cache's bytes.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use bytes::{Buf, Bytes};
use proto::{status::Status, time::Time};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};

use super::{Call, Kind, List, object};
use crate::{
    cache::{Change, Entry, EventType, Turn},
    codec::protobuf::encode,
    http::accept::{Encoding, OFFERED_STREAMS, Shape, Wanted},
    kinds::lens::Lens,
    schema,
};

/// What a table row carries of its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Include {
    Metadata,
    Object,
    None,
}

/// Renders one kind in one shape.
pub struct Renderer {
    kind: Arc<Kind>,
    wanted: Wanted,
    include: Include,
    now: Time,
    /// The columns of a Table are told: in every answer, but in a watch only once.
    columns: AtomicBool,
}

/// One object to render: of the cache, or bytes that are in none.
enum Source<'a> {
    Bytes(Bytes),
    Value(&'a Value),
}

impl Renderer {
    /// 406 for a shape that the call cannot have.
    pub fn new(call: &Call, list: bool) -> Result<Renderer, Status> {
        match call.wanted.shape {
            Shape::Partial(_) if list => {
                return Err(Status::not_acceptable(
                    "you requested PartialObjectMetadata, but the requested object is a list",
                ));
            }
            Shape::PartialList(_) if !list => {
                return Err(Status::not_acceptable(
                    "you requested PartialObjectMetadataList, but the requested object is not a \
                     list",
                ));
            }
            _ => {}
        }
        let include = match call.query.text("includeObject") {
            "" | "Metadata" => Include::Metadata,
            "Object" => Include::Object,
            "None" => Include::None,
            other => {
                return Err(Status::bad_request(format!(
                    "unrecognized includeObject value: {other:?}"
                )));
            }
        };
        Ok(Renderer {
            kind: call.kind.clone(),
            wanted: call.wanted,
            include,
            now: call.now,
            columns: AtomicBool::new(true),
        })
    }

    /// Watches have frames of JSON or protobuf.
    pub fn for_watch(call: &Call) -> Result<Renderer, Status> {
        if call.wanted.encoding == Encoding::Yaml {
            return Err(Status::not_acceptable(OFFERED_STREAMS));
        }
        Renderer::new(call, matches!(call.wanted.shape, Shape::PartialList(_)))
    }

    /// As JSON, whatever the encoding is to be.
    pub fn entry(&self, entry: &Entry) -> Result<Bytes, Status> {
        self.one(Source::Bytes(entry.bytes()))
    }

    /// An object as the cache would hold it, resourceVersion included where it has one.
    pub fn value(&self, value: &Value) -> Result<Bytes, Status> {
        self.one(Source::Value(value))
    }

    /// The pieces of a list, in order: of protobuf where that is wanted, else of JSON.
    pub fn list(&self, list: &List) -> Result<Vec<Bytes>, Status> {
        let mut metadata = json!({"resourceVersion": list.revision.to_string()});
        if !list.continue_token.is_empty() {
            metadata["continue"] = list.continue_token.as_str().into();
        }
        if let Some(remaining) = list.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        if self.wanted.encoding == Encoding::Protobuf {
            let shown = |entry: &Arc<Entry>| {
                Source::Bytes(self.object(Source::Bytes(entry.bytes()))?).value()
            };
            return Ok(vec![self.numbered(&metadata, list.entries.iter().map(shown))?]);
        }
        match self.wanted.shape {
            Shape::Object => self.objects(&metadata, &list.entries),
            Shape::Table(version) => {
                let rows: Result<Vec<Value>, Status> = list
                    .entries
                    .iter()
                    .map(|entry| self.row(Source::Bytes(entry.bytes()), version))
                    .collect();
                Ok(vec![bytes(&self.table(version, metadata, rows?))])
            }
            Shape::PartialList(version) | Shape::Partial(version) => {
                let head = format!(
                    "{{\"kind\":\"PartialObjectMetadataList\",\"apiVersion\":\"meta.k8s.io/\
                     {version}\",\"metadata\":{metadata},\"items\":["
                );
                let mut pieces = vec![Bytes::from(head)];
                for (index, entry) in list.entries.iter().enumerate() {
                    if index > 0 {
                        pieces.push(Bytes::from_static(b","));
                    }
                    pieces.push(partial(&entry.bytes(), version)?);
                }
                pieces.push(Bytes::from_static(b"]}"));
                Ok(pieces)
            }
        }
    }

    /// A list of objects that are in no cache: of protobuf where that is wanted, else of JSON.
    pub fn made(&self, objects: &[Value]) -> Result<Bytes, Status> {
        let (row, metadata) = (self.kind.row, json!({}));
        if self.wanted.encoding == Encoding::Protobuf {
            return self.numbered(&metadata, objects.iter().cloned().map(Ok));
        }
        let list = match self.wanted.shape {
            Shape::Table(version) => {
                let rows: Result<Vec<Value>, Status> =
                    objects.iter().map(|object| self.row(Source::Value(object), version)).collect();
                self.table(version, metadata, rows?)
            }
            Shape::PartialList(version) | Shape::Partial(version) => {
                let item = |object: &Value| {
                    json!({
                        "kind": "PartialObjectMetadata",
                        "apiVersion": format!("meta.k8s.io/{version}"),
                        "metadata": object["metadata"],
                    })
                };
                json!({
                    "kind": "PartialObjectMetadataList",
                    "apiVersion": format!("meta.k8s.io/{version}"),
                    "metadata": metadata,
                    "items": objects.iter().map(item).collect::<Vec<Value>>(),
                })
            }
            Shape::Object => {
                let mut items = objects.to_vec();
                for item in &mut items {
                    item.drop("kind");
                    item.drop("apiVersion");
                }
                json!({
                    "kind": row.list_kind(),
                    "apiVersion": row.api_version(),
                    "metadata": metadata,
                    "items": items,
                })
            }
        };
        Ok(bytes(&list))
    }

    /// The line of a change, as this watcher sees it.
    pub fn frame(&self, change: &Change, turn: Turn) -> Result<Bytes, Status> {
        let Some(representation) = self.representation() else { return Ok(change.frame(turn)) };
        let entry = change.entry(turn);
        let object = match turn {
            Turn::Deleted => entry.bytes_at(change.revision),
            Turn::Added | Turn::Modified => entry.bytes(),
        };
        let make = || self.event(type_name(turn), &self.one(Source::Bytes(object))?);
        match matches!(self.wanted.shape, Shape::Table(_)) && self.columns.load(Relaxed) {
            true => make(),
            false => change.shared(representation, turn, make),
        }
    }

    /// An object that was there before the watch began.
    pub fn initial(&self, entry: &Entry) -> Result<Bytes, Status> {
        match self.representation() {
            None => Ok(entry.frame(EventType::Added)),
            Some(_) => self.event("ADDED", &self.entry(entry)?),
        }
    }

    /// `initial_end` marks the end of the initial events (WatchList).
    pub fn bookmark(&self, revision: u64, initial_end: bool) -> Result<Bytes, Status> {
        let mut metadata =
            json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.wanted.shape {
            Shape::Object => json!({
                "kind": self.kind.row.kind,
                "apiVersion": self.kind.row.api_version(),
                "metadata": metadata,
            }),
            Shape::Table(version) => {
                let mut table = self.table(version, metadata.clone(), Vec::new());
                // The row carries what clients read the bookmark from.
                table["rows"] = json!([{"cells": [], "object": {
                    "kind": "PartialObjectMetadata",
                    "apiVersion": format!("meta.k8s.io/{version}"),
                    "metadata": metadata,
                }}]);
                table
            }
            Shape::Partial(version) | Shape::PartialList(version) => json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": metadata,
            }),
        };
        self.event("BOOKMARK", &bytes(&object))
    }

    /// The frame that ends a watch which failed.
    pub fn error(&self, status: &Status) -> Bytes {
        let status = serde_json::to_vec(status).expect("a Status always serializes");
        self.event("ERROR", &status).unwrap_or_else(|_| frame("ERROR", &status))
    }

    /// The frame of an event; `object` is JSON.
    fn event(&self, kind: &str, object: &[u8]) -> Result<Bytes, Status> {
        self.columns.store(false, Relaxed);
        match self.wanted.encoding {
            Encoding::Protobuf => Ok(encode::event(kind, &protobuf(object)?).into()),
            Encoding::Json | Encoding::Indented | Encoding::Yaml => Ok(frame(kind, object)),
        }
    }

    fn one(&self, source: Source) -> Result<Bytes, Status> {
        match self.wanted.shape {
            Shape::Object => self.object(source),
            Shape::Table(version) => {
                let value = source.value()?;
                let metadata = json!({"resourceVersion": object::meta(&value)["resourceVersion"]});
                let row = self.row(Source::Value(&value), version)?;
                Ok(bytes(&self.table(version, metadata, vec![row])))
            }
            Shape::Partial(version) | Shape::PartialList(version) => {
                partial(&source.bytes(), version)
            }
        }
    }

    /// In the shape of the request's group: the stored bytes, unless two groups share a storage.
    fn object(&self, source: Source) -> Result<Bytes, Status> {
        match self.kind.strategy.conversion() {
            None => Ok(source.bytes()),
            Some(conversion) => {
                Ok(bytes(&typed(&self.kind, (conversion.from_storage)(source.value()?))))
            }
        }
    }

    fn objects(&self, metadata: &Value, entries: &[Arc<Entry>]) -> Result<Vec<Bytes>, Status> {
        let row = self.kind.row;
        let start = format!(
            "{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":{metadata},\"items\":[",
            row.list_kind(),
            row.api_version(),
        );
        let mut pieces = Vec::with_capacity(entries.len() * 2 + 2);
        pieces.push(Bytes::from(start));
        let head = object::head(row);
        for (index, entry) in entries.iter().enumerate() {
            pieces.push(Bytes::from_static(if index == 0 { b"{" } else { b",{" }));
            let mut object = self.object(Source::Bytes(entry.bytes()))?;
            pieces.push(match object.starts_with(&head) {
                true => {
                    object.advance(head.len());
                    object
                }
                false => untyped(&object)?,
            });
        }
        pieces.push(Bytes::from_static(b"]}"));
        Ok(pieces)
    }

    /// A list as protobuf.
    fn numbered(
        &self,
        metadata: &Value,
        objects: impl Iterator<Item = Result<Value, Status>>,
    ) -> Result<Bytes, Status> {
        let row = self.kind.row;
        let (item, api_version, kind) = match self.wanted.shape {
            Shape::Partial(version) | Shape::PartialList(version) => {
                let kind = "PartialObjectMetadataList".to_string();
                (None, format!("meta.k8s.io/{version}"), kind)
            }
            Shape::Object | Shape::Table(_) => {
                (schema::of(row), row.api_version(), row.list_kind())
            }
        };
        let mut list = encode::List::new(item, metadata);
        for object in objects {
            list.push(&object?);
        }
        Ok(list.finish(&api_version, &kind).into())
    }

    fn table(&self, version: &str, metadata: Value, rows: Vec<Value>) -> Value {
        let columns = || -> Vec<Value> {
            self.kind
                .strategy
                .columns()
                .iter()
                .map(|column| {
                    json!({
                        "name": column.name,
                        "type": column.kind,
                        "format": column.format,
                        "description": column.description,
                        "priority": column.priority,
                    })
                })
                .collect()
        };
        let columns = match self.columns.load(Relaxed) {
            true => Value::from(columns()),
            false => Value::Null,
        };
        json!({
            "kind": "Table",
            "apiVersion": format!("meta.k8s.io/{version}"),
            "metadata": metadata,
            "columnDefinitions": columns,
            "rows": rows,
        })
    }

    fn row(&self, source: Source, version: &str) -> Result<Value, Status> {
        let value = source.value()?;
        let cells = self.kind.strategy.cells(&value, self.now);
        let object = match self.include {
            Include::None => return Ok(json!({"cells": cells})),
            Include::Metadata => json!({
                "kind": "PartialObjectMetadata",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": value["metadata"],
            }),
            Include::Object => match self.kind.strategy.conversion() {
                None => value,
                Some(conversion) => typed(&self.kind, (conversion.from_storage)(value)),
            },
        };
        Ok(json!({"cells": cells, "object": object}))
    }

    /// A number that means the same bytes to all watchers; `None` for the stored frames.
    fn representation(&self) -> Option<u32> {
        let converted = self.kind.strategy.conversion().is_some();
        let numbered = self.wanted.encoding == Encoding::Protobuf;
        let shape = match self.wanted.shape {
            Shape::Object if !converted && !numbered => return None,
            Shape::Object => 1,
            Shape::Table("v1") => 2,
            Shape::Table(_) => 3,
            Shape::Partial("v1") | Shape::PartialList("v1") => 4,
            Shape::Partial(_) | Shape::PartialList(_) => 5,
        };
        let flags = u32::from(converted) + 2 * u32::from(numbered);
        Some(shape + 10 * self.include as u32 + 100 * flags)
    }
}

impl Source<'_> {
    fn value(self) -> Result<Value, Status> {
        match self {
            Source::Value(value) => Ok(value.clone()),
            Source::Bytes(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| Status::internal(format!("a stored object is damaged: {error}"))),
        }
    }

    fn bytes(self) -> Bytes {
        match self {
            Source::Bytes(bytes) => bytes,
            Source::Value(value) => bytes(value),
        }
    }
}

/// With the kind and apiVersion of the request's group.
pub(super) fn typed(kind: &Kind, mut value: Value) -> Value {
    value["kind"] = kind.row.kind.as_ref().into();
    value["apiVersion"] = kind.row.api_version().into();
    value
}

fn bytes(value: &Value) -> Bytes {
    Bytes::from(serde_json::to_vec(value).expect("JSON values always serialize into memory"))
}

/// The enveloped protobuf of an object in JSON.
pub fn protobuf(object: &[u8]) -> Result<Vec<u8>, Status> {
    let value: Value = serde_json::from_slice(object)
        .map_err(|error| Status::internal(format!("a stored object is damaged: {error}")))?;
    let kind = value["kind"].as_str().unwrap_or_default();
    encode::object(&value)
        .ok_or_else(|| Status::not_acceptable(&format!("{kind} has no protobuf form")))
}

/// The line of a watch event.
fn frame(kind: &str, object: &[u8]) -> Bytes {
    let mut line = Vec::with_capacity(object.len() + 40);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(kind.as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(object);
    line.extend_from_slice(b"}\n");
    line.into()
}

fn type_name(turn: Turn) -> &'static str {
    match turn {
        Turn::Added => "ADDED",
        Turn::Modified => "MODIFIED",
        Turn::Deleted => "DELETED",
    }
}

/// The metadata alone, as it stands in the bytes.
fn partial(object: &[u8], version: &str) -> Result<Bytes, Status> {
    #[derive(Deserialize)]
    struct Partial<'a> {
        #[serde(borrow)]
        metadata: &'a RawValue,
    }
    let Partial { metadata } = serde_json::from_slice(object)
        .map_err(|error| Status::internal(format!("a stored object is damaged: {error}")))?;
    Ok(Bytes::from(format!(
        "{{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/{version}\",\
         \"metadata\":{metadata}}}"
    )))
}

/// An object that another server stored in another order: without kind and apiVersion, and without
/// the opening brace.
fn untyped(object: &[u8]) -> Result<Bytes, Status> {
    let mut map: std::collections::BTreeMap<&str, &RawValue> = serde_json::from_slice(object)
        .map_err(|error| Status::internal(format!("a stored object is damaged: {error}")))?;
    map.remove("kind");
    map.remove("apiVersion");
    let text = serde_json::to_vec(&map).expect("JSON values always serialize into memory");
    Ok(Bytes::from(text).slice(1..))
}
