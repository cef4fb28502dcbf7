//! OpenAPI v2 as the protobuf message openapi.v2.Document: what client-go's OpenAPISchema() reads.
//! The tables below hold the field numbers of the parts that our documents have.

use serde_json::Value;

use crate::codec::protobuf::encode::{integer, part, text};

/// A message: its fields by their names in JSON, and the number that holds `x-` extensions.
struct Message {
    fields: &'static [(&'static str, u32, As)],
    extensions: u32,
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
};

static INFO: Message =
    Message { fields: &[("title", 1, As::Text), ("version", 2, As::Text)], extensions: 7 };

static API_KEY: Message = Message {
    fields: &[
        ("type", 1, As::Text),
        ("name", 2, As::Text),
        ("in", 3, As::Text),
        ("description", 4, As::Text),
    ],
    extensions: 5,
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
};

static RESPONSE: Message = Message {
    fields: &[
        ("description", 1, As::Text),
        ("schema", 2, As::One { wrapped: &[1], message: &SCHEMA }),
    ],
    extensions: 5,
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
};

static BODY_PARAMETER: Message = Message {
    fields: &[
        ("name", 2, As::Text),
        ("in", 3, As::Text),
        ("required", 4, As::Bool),
        ("schema", 5, As::One { wrapped: &[], message: &SCHEMA }),
    ],
    extensions: 6,
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
};

/// A document that [`super::v2`] made.
pub fn encode(document: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out, &DOCUMENT, document);
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
        [] => write(out, message, value),
        [number, rest @ ..] => part(out, *number, |out| wrapped(out, rest, message, value)),
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
        assert_eq!(lost, BTreeSet::new());
    }

    fn walk(message: &Message, value: &Value, lost: &mut BTreeSet<String>) {
        for (key, value) in value.as_object().into_iter().flatten() {
            match message.fields.iter().find(|(name, ..)| name == key).map(|(.., shape)| shape) {
                None if key.starts_with("x-") => {}
                None => drop(lost.insert(format!("{key}: {value:.60}"))),
                Some(As::One { message, .. }) => walk(message, value, lost),
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
