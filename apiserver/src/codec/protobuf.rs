//! Kubernetes' protobuf bodies into JSON: the envelope `k8s\0` + runtime.Unknown, and messages by
//! the schema table's field numbers. The mapping is not proto3's JSON: quantities, times,
//! int-or-string, raw extensions and field sets are messages that are one value in JSON, and Go's
//! zero values are dropped where Go's JSON would drop them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use proto::time::Time;
use serde_json::{Map, Value};

use super::duration;
use crate::schema::{self, Field, Shape, Slot, Type, TypeRef};

pub mod encode;

/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";
/// Messages in messages.
const DEEPEST: usize = 100;

/// Why a body is not a Kubernetes protobuf object.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
    )]
    Magic,
    #[error("unexpected EOF")]
    Truncated,
    #[error("proto: integer overflow")]
    Overflow,
    #[error("proto: wrong wireType = {wire} for field {field}")]
    WireType { wire: u8, field: String },
    #[error("proto: illegal tag {0}")]
    Tag(u64),
    #[error("proto: field {field} contains invalid UTF-8")]
    Utf8 { field: String },
    #[error("proto: time out of range in field {field}")]
    Time { field: String },
    #[error("proto: nested too deeply")]
    Depth,
    #[error("unsupported content encoding {0:?}")]
    Encoding(String),
    #[error("no kind {kind:?} is registered for version {version:?}")]
    Kind { kind: String, version: String },
    #[error("json parse error: {0}")]
    Json(String),
}

/// Reads an enveloped object. `find` gets group, version and kind as the envelope has them (all
/// empty where it has none) and finds the schema.
pub fn decode(
    body: &[u8],
    find: impl Fn(&str, &str, &str) -> Option<TypeRef>,
) -> Result<Value, Error> {
    enveloped(body, &find, 0)
}

fn enveloped(
    body: &[u8],
    find: &dyn Fn(&str, &str, &str) -> Option<TypeRef>,
    depth: usize,
) -> Result<Value, Error> {
    let envelope = Envelope::read(body.strip_prefix(MAGIC).ok_or(Error::Magic)?)?;
    if !envelope.encoding.is_empty() {
        return Err(Error::Encoding(envelope.encoding));
    }
    if envelope.content_type == "application/json" {
        return json(envelope.raw);
    }
    let (api_version, kind) = (envelope.api_version, envelope.kind);
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let Some(ty) = find(group, version, &kind) else {
        return Err(Error::Kind { kind, version: api_version });
    };
    let mut map = Map::new();
    message(&ty, &ty.numbers, envelope.raw, &mut map, depth + 1)?;
    for (name, text) in [("apiVersion", api_version), ("kind", kind)] {
        if !text.is_empty() {
            map.insert(name.into(), text.into());
        }
    }
    Ok(Value::Object(map))
}

/// runtime.Unknown.
#[derive(Default)]
struct Envelope<'a> {
    api_version: String,
    kind: String,
    raw: &'a [u8],
    encoding: String,
    content_type: String,
}

impl<'a> Envelope<'a> {
    fn read(bytes: &'a [u8]) -> Result<Envelope<'a>, Error> {
        let mut envelope = Envelope::default();
        for part in Parts(bytes) {
            match part? {
                (1, Part::Bytes(meta)) => {
                    for part in Parts(meta) {
                        match part? {
                            (1, Part::Bytes(text)) => {
                                envelope.api_version = utf8(text, "apiVersion")?
                            }
                            (2, Part::Bytes(text)) => envelope.kind = utf8(text, "kind")?,
                            _ => {}
                        }
                    }
                }
                (2, Part::Bytes(raw)) => envelope.raw = raw,
                (3, Part::Bytes(text)) => envelope.encoding = utf8(text, "contentEncoding")?,
                (4, Part::Bytes(text)) => envelope.content_type = utf8(text, "contentType")?,
                _ => {}
            }
        }
        Ok(envelope)
    }
}

/// Reads one message into the map of a struct; called again for messages that are inlined.
fn message(
    ty: &Type,
    slots: &[(u32, Slot)],
    bytes: &[u8],
    map: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), Error> {
    if depth > DEEPEST {
        return Err(Error::Depth);
    }
    for part in Parts(bytes) {
        let (number, part) = part?;
        match slots.iter().find(|(own, _)| *own == number).map(|(_, slot)| slot) {
            None => {}
            Some(Slot::Inlined(slots)) => {
                let Part::Bytes(bytes) = part else { return Err(part.wrong(&ty.name)) };
                message(ty, slots, bytes, map, depth + 1)?;
            }
            Some(Slot::Field(index)) => field(&ty.fields[*index], part, map, depth)?,
        }
    }
    Ok(())
}

fn field(
    field: &Field,
    part: Part<'_>,
    map: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), Error> {
    match &field.shape {
        Shape::List(of) => {
            let list = map.entry(&*field.name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(items) = list else { return Ok(()) };
            match (&**of, part) {
                (Shape::Int32 | Shape::Int64 | Shape::Bool, Part::Bytes(mut packed)) => {
                    while !packed.is_empty() {
                        items.push(scalar(of, Part::Varint(varint(&mut packed)?), field, depth)?);
                    }
                }
                (_, part) => items.push(scalar(of, part, field, depth)?),
            }
        }
        Shape::Map(of) => {
            let Part::Bytes(entry) = part else { return Err(part.wrong(&field.name)) };
            let (mut key, mut value) = (String::new(), None);
            for part in Parts(entry) {
                match part? {
                    (1, Part::Bytes(text)) => key = utf8(text, &field.name)?,
                    (2, part) => value = Some(scalar(of, part, field, depth)?),
                    _ => {}
                }
            }
            let value = match value {
                Some(value) => value,
                None => scalar(of, Part::Bytes(&[]), field, depth)?,
            };
            let entries = map.entry(&*field.name).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(entries) = entries {
                entries.insert(key, value);
            }
        }
        Shape::Struct(ty) => {
            let Part::Bytes(bytes) = part else { return Err(part.wrong(&field.name)) };
            let inner = map.entry(&*field.name).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(inner) = inner {
                message(ty, &ty.numbers, bytes, inner, depth + 1)?;
            }
        }
        shape => {
            let value = scalar(shape, part, field, depth)?;
            let zero = match &value {
                Value::Null => true,
                Value::String(text) => text.is_empty(),
                Value::Number(number) => number.as_f64() == Some(0.0),
                Value::Bool(value) => !value,
                _ => false,
            };
            if !value.is_null() && (!zero || field.pointer || field.always) {
                map.insert(field.name.to_string(), value);
            }
        }
    }
    Ok(())
}

/// Reads one value that is not a list or map.
fn scalar(shape: &Shape, part: Part<'_>, field: &Field, depth: usize) -> Result<Value, Error> {
    let name = &*field.name;
    Ok(match (shape, part) {
        (Shape::String, Part::Bytes(bytes)) => utf8(bytes, name)?.into(),
        (Shape::Bytes, Part::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        (Shape::Bool, Part::Varint(number)) => (number != 0).into(),
        // Negative numbers are sign-extended to 64 bits; Go cuts them to the field's size.
        (Shape::Int32, Part::Varint(number)) => (number as i32).into(),
        (Shape::Int64, Part::Varint(number)) => (number as i64).into(),
        (Shape::Double, Part::Fixed64(bits)) => f64::from_bits(bits).into(),
        (Shape::Time, Part::Bytes(bytes)) => {
            time(bytes, name)?.map_or(Value::Null, |time| time.to_string().into())
        }
        (Shape::MicroTime, Part::Bytes(bytes)) => {
            time(bytes, name)?.map_or(Value::Null, |time| time.micro().into())
        }
        (Shape::Duration, Part::Bytes(bytes)) => {
            let found = Parts(bytes).find_map(|part| match part {
                Ok((1, Part::Varint(nanoseconds))) => Some(nanoseconds),
                _ => None,
            });
            duration::write(found.unwrap_or(0)).into()
        }
        (Shape::Quantity, Part::Bytes(bytes)) => {
            let text = only(bytes, 1)?.map_or(Ok(String::new()), |text| utf8(text, name))?;
            if text.is_empty() { "0".into() } else { text.into() }
        }
        (Shape::IntOrString, Part::Bytes(bytes)) => int_or_string(bytes, name)?,
        (Shape::Raw | Shape::Fields, Part::Bytes(bytes)) => match only(bytes, 1)? {
            None | Some([]) => Value::Null,
            Some(raw) if raw.starts_with(MAGIC) && depth < DEEPEST => {
                enveloped(raw, &schema::kind, depth + 1)?
            }
            Some(raw) => json(raw)?,
        },
        // A list inside a map has a message of its own, with the elements under number 1.
        (Shape::List(of), Part::Bytes(bytes)) => {
            let elements = Parts(bytes).filter_map(|part| match part {
                Ok((1, part)) => Some(scalar(of, part, field, depth + 1)),
                Ok(_) => None,
                Err(error) => Some(Err(error)),
            });
            Value::Array(elements.collect::<Result<_, _>>()?)
        }
        (Shape::Struct(ty), Part::Bytes(bytes)) => {
            let mut map = Map::new();
            message(ty, &ty.numbers, bytes, &mut map, depth + 1)?;
            Value::Object(map)
        }
        (_, part) => return Err(part.wrong(name)),
    })
}

/// The last occurrence of a bytes field.
fn only(bytes: &[u8], number: u32) -> Result<Option<&[u8]>, Error> {
    let mut found = None;
    for part in Parts(bytes) {
        if let (own, Part::Bytes(bytes)) = part?
            && own == number
        {
            found = Some(bytes);
        }
    }
    Ok(found)
}

/// Seconds and nanoseconds; an empty message is Go's zero time.
fn time(bytes: &[u8], field: &str) -> Result<Option<Time>, Error> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let (mut seconds, mut nanos) = (0i64, 0i32);
    for part in Parts(bytes) {
        match part? {
            (1, Part::Varint(number)) => seconds = number as i64,
            (2, Part::Varint(number)) => nanos = number as i32,
            _ => {}
        }
    }
    let time = Timestamp::new(seconds, nanos).map_err(|_| Error::Time { field: field.into() })?;
    Ok(Some(Time(time)))
}

fn int_or_string(bytes: &[u8], field: &str) -> Result<Value, Error> {
    let (mut string, mut number, mut text) = (false, 0i32, String::new());
    for part in Parts(bytes) {
        match part? {
            (1, Part::Varint(kind)) => string = kind == 1,
            (2, Part::Varint(value)) => number = value as i32,
            (3, Part::Bytes(value)) => text = utf8(value, field)?,
            _ => {}
        }
    }
    Ok(if string { text.into() } else { number.into() })
}

fn json(bytes: &[u8]) -> Result<Value, Error> {
    super::json::parse(bytes).map(|decoded| decoded.value).map_err(Error::Json)
}

fn utf8(bytes: &[u8], field: &str) -> Result<String, Error> {
    let text = std::str::from_utf8(bytes).map_err(|_| Error::Utf8 { field: field.into() })?;
    Ok(text.to_string())
}

/// The fields of a message, as the wire has them: number and content.
struct Parts<'a>(&'a [u8]);

enum Part<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Bytes(&'a [u8]),
}

impl Part<'_> {
    fn wrong(&self, field: &str) -> Error {
        let wire = match self {
            Part::Varint(_) => 0,
            Part::Fixed64(_) => 1,
            Part::Bytes(_) => 2,
            Part::Fixed32 => 5,
        };
        Error::WireType { wire, field: field.into() }
    }
}

impl<'a> Iterator for Parts<'a> {
    type Item = Result<(u32, Part<'a>), Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let part = self.part();
        if part.is_err() {
            self.0 = &[];
        }
        Some(part)
    }
}

impl<'a> Parts<'a> {
    fn part(&mut self) -> Result<(u32, Part<'a>), Error> {
        let tag = varint(&mut self.0)?;
        let number = u32::try_from(tag >> 3).map_err(|_| Error::Tag(tag))?;
        if number == 0 {
            return Err(Error::Tag(tag));
        }
        let part = match tag & 7 {
            0 => Part::Varint(varint(&mut self.0)?),
            1 => {
                let bytes = self.take(8)?;
                Part::Fixed64(u64::from_le_bytes(bytes.try_into().map_err(|_| Error::Truncated)?))
            }
            2 => {
                let length = varint(&mut self.0)?;
                Part::Bytes(self.take(usize::try_from(length).map_err(|_| Error::Truncated)?)?)
            }
            5 => self.take(4).map(|_| Part::Fixed32)?,
            _ => return Err(Error::Tag(tag)),
        };
        Ok((number, part))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Error> {
        let (head, rest) = self.0.split_at_checked(length).ok_or(Error::Truncated)?;
        self.0 = rest;
        Ok(head)
    }
}

fn varint(bytes: &mut &[u8]) -> Result<u64, Error> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first().ok_or(Error::Truncated)?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Error::Overflow)
}
