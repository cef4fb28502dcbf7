//! JSON into Kubernetes' protobuf, for clients that ask for it: the mirror of the decoder, driven
//! by the same field numbers. Fields come in ascending order and zero values of fields that are no
//! pointers are written, as Go writes them, so that the bytes are upstream's.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proto::time::Time;
use serde_json::Value;

use super::MAGIC;
use crate::codec::duration;
use crate::schema::{self, Field, Shape, Slot, Type, TypeRef};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// An object with kind and apiVersion, in its envelope: of a kind of the schema table, or partial
/// metadata. `None` for what has no protobuf form (Tables, custom resources).
pub fn object(object: &Value) -> Option<Vec<u8>> {
    let (api_version, kind) = (object["apiVersion"].as_str()?, object["kind"].as_str()?);
    let raw = match partial(api_version, kind) {
        true => {
            let meta = meta("ObjectMeta")?;
            let mut raw = Vec::new();
            part(&mut raw, 1, |out| message(&meta, &object["metadata"], out));
            raw
        }
        false => {
            let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
            let ty = schema::kind(group, version, kind)?;
            let mut raw = Vec::new();
            message(&ty, object, &mut raw);
            raw
        }
    };
    Some(envelope(api_version, kind, &raw))
}

/// A list in the making: its metadata, then its items one by one.
pub struct List {
    /// `None` for partial metadata.
    item: Option<TypeRef>,
    raw: Vec<u8>,
}

impl List {
    /// Of objects of a kind of the schema table, or of partial metadata.
    pub fn new(item: Option<TypeRef>, metadata: &Value) -> List {
        let mut raw = Vec::new();
        let meta = meta("ListMeta");
        part(&mut raw, 1, |out| {
            if let Some(meta) = &meta {
                message(meta, metadata, out);
            }
        });
        List { item, raw }
    }

    pub fn push(&mut self, object: &Value) {
        match &self.item {
            Some(ty) => part(&mut self.raw, 2, |out| message(ty, object, out)),
            None => {
                let meta = meta("ObjectMeta");
                part(&mut self.raw, 2, |out| {
                    part(out, 1, |out| {
                        if let Some(meta) = &meta {
                            message(meta, &object["metadata"], out);
                        }
                    });
                });
            }
        }
    }

    pub fn finish(self, api_version: &str, kind: &str) -> Vec<u8> {
        envelope(api_version, kind, &self.raw)
    }
}

/// The frame of a watch event: its length in four bytes, and a metav1.WatchEvent whose object is
/// in an envelope of its own.
pub fn event(kind: &str, object: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; 4];
    text(&mut frame, 1, kind);
    part(&mut frame, 2, |out| bytes(out, 1, object));
    let length = (frame.len() - 4) as u32;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    frame
}

fn partial(api_version: &str, kind: &str) -> bool {
    kind == "PartialObjectMetadata" && api_version.starts_with("meta.k8s.io/")
}

fn meta(name: &str) -> Option<TypeRef> {
    schema::named(&format!("{META}.{name}"))
}

/// runtime.Unknown behind the magic number.
fn envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(raw.len() + 64);
    out.extend_from_slice(MAGIC);
    part(&mut out, 1, |out| {
        text(out, 1, api_version);
        text(out, 2, kind);
    });
    bytes(&mut out, 2, raw);
    text(&mut out, 3, "");
    text(&mut out, 4, "");
    out
}

fn message(ty: &Type, object: &Value, out: &mut Vec<u8>) {
    slots(ty, &ty.numbers, object, out);
}

fn slots(ty: &Type, numbers: &[(u32, Slot)], object: &Value, out: &mut Vec<u8>) {
    for (number, slot) in numbers {
        match slot {
            Slot::Inlined(numbers) => part(out, *number, |out| slots(ty, numbers, object, out)),
            Slot::Field(index) => {
                let field = &ty.fields[*index];
                let value = object.get(&*field.name).filter(|value| !value.is_null());
                write(out, *number, field, value);
            }
        }
    }
}

fn write(out: &mut Vec<u8>, number: u32, field: &Field, value: Option<&Value>) {
    match (&field.shape, value) {
        (Shape::List(of), value) => {
            let items = value.and_then(Value::as_array).into_iter().flatten();
            items.for_each(|item| one(out, number, of, item));
        }
        (Shape::Map(of), value) => {
            for (key, value) in value.and_then(Value::as_object).into_iter().flatten() {
                part(out, number, |out| {
                    text(out, 1, key);
                    one(out, 2, of, value);
                });
            }
        }
        (shape, Some(value)) => one(out, number, shape, value),
        (Shape::Bytes, None) => {}
        (_, None) if field.pointer => {}
        (shape, None) => one(out, number, shape, &Value::Null),
    }
}

/// One value that is not a repeated field; null is Go's zero.
fn one(out: &mut Vec<u8>, number: u32, shape: &Shape, value: &Value) {
    match shape {
        Shape::String => text(out, number, value.as_str().unwrap_or_default()),
        Shape::Bool => integer(out, number, u64::from(value.as_bool().unwrap_or_default())),
        Shape::Int32 | Shape::Int64 => {
            integer(out, number, value.as_i64().unwrap_or_default() as u64);
        }
        Shape::Double => {
            varint(out, u64::from(number) << 3 | 1);
            out.extend_from_slice(&value.as_f64().unwrap_or_default().to_le_bytes());
        }
        Shape::Bytes => {
            let content = STANDARD.decode(value.as_str().unwrap_or_default());
            bytes(out, number, &content.unwrap_or_default());
        }
        Shape::Time | Shape::MicroTime => part(out, number, |out| time(out, value)),
        Shape::Duration => part(out, number, |out| {
            let nanoseconds = duration::parse(value.as_str().unwrap_or("0"));
            integer(out, 1, nanoseconds.unwrap_or_default() as u64);
        }),
        Shape::Quantity => part(out, number, |out| match value {
            Value::Number(number) => text(out, 1, &number.to_string()),
            value => text(out, 1, value.as_str().unwrap_or("0")),
        }),
        Shape::IntOrString => part(out, number, |out| {
            integer(out, 1, u64::from(value.is_string()));
            integer(out, 2, value.as_i64().unwrap_or_default() as u64);
            text(out, 3, value.as_str().unwrap_or_default());
        }),
        Shape::Raw | Shape::Fields => part(out, number, |out| {
            if !value.is_null() {
                bytes(out, 1, value.to_string().as_bytes());
            }
        }),
        Shape::Struct(ty) => part(out, number, |out| message(ty, value, out)),
        // A list inside a map has a message of its own, with the elements under number 1.
        Shape::List(of) => part(out, number, |out| {
            value.as_array().into_iter().flatten().for_each(|item| one(out, 1, of, item));
        }),
        // No field of the table is a map of maps, and no element of a list is a map.
        Shape::Map(_) => {}
    }
}

/// Seconds and nanoseconds; Go's zero time is an empty message.
fn time(out: &mut Vec<u8>, value: &Value) {
    let Some(Ok(Time(time))) = value.as_str().map(str::parse::<Time>) else { return };
    integer(out, 1, time.as_second() as u64);
    integer(out, 2, time.subsec_nanosecond() as u64);
}

/// A field that is a message.
pub fn part(out: &mut Vec<u8>, number: u32, fill: impl FnOnce(&mut Vec<u8>)) {
    varint(out, u64::from(number) << 3 | 2);
    let start = out.len();
    fill(out);
    let mut length = Vec::with_capacity(10);
    varint(&mut length, (out.len() - start) as u64);
    out.splice(start..start, length);
}

/// A field of text.
pub fn text(out: &mut Vec<u8>, number: u32, text: &str) {
    bytes(out, number, text.as_bytes());
}

/// An integer or a bool.
pub fn integer(out: &mut Vec<u8>, number: u32, value: u64) {
    varint(out, u64::from(number) << 3);
    varint(out, value);
}

fn bytes(out: &mut Vec<u8>, number: u32, content: &[u8]) {
    varint(out, u64::from(number) << 3 | 2);
    varint(out, content.len() as u64);
    out.extend_from_slice(content);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value > 0x7f {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
