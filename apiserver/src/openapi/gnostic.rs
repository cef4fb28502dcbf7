//! OpenAPI v2 as the protobuf message openapi.v2.Document, what client-go's OpenAPISchema() reads,
//! and v3 as openapi.v3.Document. The tables hold the field numbers of the parts that our documents
//! have.

use serde_json::Value;

use crate::codec::protobuf::encode::{integer, part, text};

mod v3;

/// A message: its fields by their names in JSON, and the number that holds `x-` extensions.
struct Message {
    fields: &'static [(&'static str, u32, As)],
    extensions: u32,
    /// Always in a message of its own, under 1; a reference may stand there instead, under 2.
    union: bool,
}

/// How a value is written. The numbers of `wrapped` are those of messages around each message
/// (a `oneof` in a message of its own), outermost first.
enum As {
    Text,
    Bool,
    Texts,
    /// One text in a message (TypeItem).
    Type,
    /// Any values, as YAML.
    Anys,
    /// One value in a message, under the number of its type (DefaultType).
    Default,
    Many(&'static Message),
    One {
        wrapped: &'static [u32],
        message: &'static Message,
    },
    /// A message that holds named messages under `number`.
    Named {
        number: u32,
        wrapped: &'static [u32],
        message: &'static Message,
    },
    Parameters,
    /// Names of security definitions, without scopes.
    Security,
}

static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, As::Text),
        ("info", 2, As::One { wrapped: &[], message: &INFO }),
        ("paths", 8, As::Named { number: 2, wrapped: &[], message: &PATH_ITEM }),
        ("definitions", 9, As::Named { number: 1, wrapped: &[], message: &SCHEMA }),
        ("security", 12, As::Security),
        ("securityDefinitions", 13, As::Named { number: 1, wrapped: &[2], message: &API_KEY }),
    ],
    extensions: 16,
    union: false,
};

static INFO: Message = Message {
    fields: &[("title", 1, As::Text), ("version", 2, As::Text)],
    extensions: 7,
    union: false,
};

static API_KEY: Message = Message {
    fields: &[
        ("type", 1, As::Text),
        ("name", 2, As::Text),
        ("in", 3, As::Text),
        ("description", 4, As::Text),
    ],
    extensions: 5,
    union: false,
};

static PATH_ITEM: Message = Message {
    fields: &[
        ("get", 2, As::One { wrapped: &[], message: &OPERATION }),
        ("put", 3, As::One { wrapped: &[], message: &OPERATION }),
        ("post", 4, As::One { wrapped: &[], message: &OPERATION }),
        ("delete", 5, As::One { wrapped: &[], message: &OPERATION }),
        ("options", 6, As::One { wrapped: &[], message: &OPERATION }),
        ("head", 7, As::One { wrapped: &[], message: &OPERATION }),
        ("patch", 8, As::One { wrapped: &[], message: &OPERATION }),
        ("parameters", 9, As::Parameters),
    ],
    extensions: 10,
    union: false,
};

static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, As::Texts),
        ("description", 3, As::Text),
        ("operationId", 5, As::Text),
        ("produces", 6, As::Texts),
        ("consumes", 7, As::Texts),
        ("parameters", 8, As::Parameters),
        ("responses", 9, As::Named { number: 1, wrapped: &[1], message: &RESPONSE }),
        ("schemes", 10, As::Texts),
    ],
    extensions: 13,
    union: false,
};

static RESPONSE: Message = Message {
    fields: &[
        ("description", 1, As::Text),
        ("schema", 2, As::One { wrapped: &[1], message: &SCHEMA }),
    ],
    extensions: 5,
    union: false,
};

static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, As::Text),
        ("format", 2, As::Text),
        ("description", 4, As::Text),
        ("required", 19, As::Texts),
        ("enum", 20, As::Anys),
        ("additionalProperties", 21, As::One { wrapped: &[1], message: &SCHEMA }),
        ("type", 22, As::Type),
        ("items", 23, As::One { wrapped: &[1], message: &SCHEMA }),
        ("properties", 25, As::Named { number: 1, wrapped: &[], message: &SCHEMA }),
    ],
    extensions: 31,
    union: false,
};

static BODY_PARAMETER: Message = Message {
    fields: &[
        ("name", 2, As::Text),
        ("in", 3, As::Text),
        ("required", 4, As::Bool),
        ("schema", 5, As::One { wrapped: &[], message: &SCHEMA }),
    ],
    extensions: 6,
    union: false,
};

static QUERY_PARAMETER: Message = Message {
    fields: &[
        ("in", 2, As::Text),
        ("description", 3, As::Text),
        ("name", 4, As::Text),
        ("type", 6, As::Text),
        ("uniqueItems", 20, As::Bool),
    ],
    extensions: 23,
    union: false,
};

static PATH_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, As::Bool),
        ("in", 2, As::Text),
        ("name", 4, As::Text),
        ("type", 5, As::Text),
        ("uniqueItems", 19, As::Bool),
    ],
    extensions: 22,
    union: false,
};

/// A document that [`super::v2`] made.
pub fn encode(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out, &DOCUMENT, document);
    out
}

/// A document of one group and version.
pub fn encode_v3(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out, &v3::DOCUMENT, document);
    out
}

fn write(out: &mut Vec<u8>, message: &Message, value: &Value) {
    for (key, value) in value.as_object().into_iter().flatten() {
        if key.starts_with("x-") {
            part(out, message.extensions, |out| {
                text(out, 1, key);
                part(out, 2, |out| text(out, 2, &value.to_string()));
            });
        } else if let Some((_, number, shape)) = message.fields.iter().find(|(k, ..)| k == key) {
            field(out, *number, shape, value);
        }
    }
}

fn field(out: &mut Vec<u8>, number: u32, shape: &As, value: &Value) {
    let items = || value.as_array().into_iter().flatten();
    match shape {
        As::Text => text(out, number, value.as_str().unwrap_or_default()),
        As::Bool => integer(out, number, u64::from(value.as_bool().unwrap_or_default())),
        As::Texts => items().for_each(|item| text(out, number, item.as_str().unwrap_or_default())),
        As::Type => part(out, number, |out| text(out, 1, value.as_str().unwrap_or_default())),
        As::Anys => items().for_each(|item| {
            part(out, number, |out| text(out, 2, &item.to_string()));
        }),
        As::Default => part(out, number, |out| default(out, value)),
        As::Many(message) => items().for_each(|item| {
            part(out, number, |out| wrapped(out, &[], message, item));
        }),
        As::One { wrapped: around, message } => {
            part(out, number, |out| wrapped(out, around, message, value));
        }
        As::Named { number: inner, wrapped: around, message } => part(out, number, |out| {
            for (name, value) in value.as_object().into_iter().flatten() {
                part(out, *inner, |out| {
                    text(out, 1, name);
                    part(out, 2, |out| wrapped(out, around, message, value));
                });
            }
        }),
        As::Parameters => items().for_each(|parameter| {
            // Parameter, then what kind of one it is.
            let (around, message): (&[u32], _) = match parameter["in"].as_str() {
                Some("body") => (&[1, 1], &BODY_PARAMETER),
                Some("path") => (&[1, 2, 4], &PATH_PARAMETER),
                _ => (&[1, 2, 3], &QUERY_PARAMETER),
            };
            part(out, number, |out| wrapped(out, around, message, parameter));
        }),
        As::Security => items().for_each(|requirement| {
            part(out, number, |out| {
                for name in requirement.as_object().into_iter().flatten().map(|(name, _)| name) {
                    part(out, 1, |out| {
                        text(out, 1, name);
                        part(out, 2, |_| {});
                    });
                }
            });
        }),
    }
}

fn wrapped(out: &mut Vec<u8>, around: &[u32], message: &Message, value: &Value) {
    match around {
        [] if message.union => match value["$ref"].as_str() {
            Some(path) => part(out, 2, |out| text(out, 1, path)),
            None => part(out, 1, |out| write(out, message, value)),
        },
        [] => write(out, message, value),
        [number, rest @ ..] => part(out, *number, |out| wrapped(out, rest, message, value)),
    }
}

/// Numbers, booleans and texts; of other values only that there is one.
fn default(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Number(number) => {
            out.push((1 << 3) | 1);
            out.extend_from_slice(&number.as_f64().unwrap_or_default().to_le_bytes());
        }
        Value::Bool(flag) => integer(out, 2, u64::from(*flag)),
        Value::String(words) => text(out, 3, words),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proto::kind::ROWS;

    use super::*;

    /// Every key of our documents has a place in the messages.
    #[test]
    fn nothing_of_a_document_is_lost() {
        let mut lost = BTreeSet::new();
        walk(&DOCUMENT, &super::super::v2::document(ROWS), &mut lost);
        for row in ROWS {
            let document = super::super::v3_value(&row.group, &row.version, ROWS).unwrap();
            walk(&v3::DOCUMENT, &document, &mut lost);
        }
        assert_eq!(lost, BTreeSet::new());
    }

    fn walk(message: &Message, value: &Value, lost: &mut BTreeSet<String>) {
        if message.union && value.get("$ref").is_some() {
            return;
        }
        for (key, value) in value.as_object().into_iter().flatten() {
            match message.fields.iter().find(|(name, ..)| name == key).map(|(.., shape)| shape) {
                None if key.starts_with("x-") => {}
                None => drop(lost.insert(format!("{key}: {value:.60}"))),
                Some(As::One { message, .. }) => walk(message, value, lost),
                Some(As::Many(message)) => {
                    value.as_array().unwrap().iter().for_each(|item| walk(message, item, lost));
                }
                Some(As::Named { message, .. }) => {
                    let named = value.as_object().unwrap().values();
                    named.for_each(|value| walk(message, value, lost));
                }
                Some(As::Parameters) => {
                    for parameter in value.as_array().unwrap() {
                        let message = match parameter["in"].as_str().unwrap() {
                            "body" => &BODY_PARAMETER,
                            "path" => &PATH_PARAMETER,
                            _ => &QUERY_PARAMETER,
                        };
                        walk(message, parameter, lost);
                    }
                }
                Some(_) => {}
            }
        }
    }
}
