//! JSON, with the duplicate fields that serde_json passes over in silence, and syntax errors in
//! Go's words. The YAML reader builds its value through the same visitor.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::Decoded;

/// As many are named as upstream names.
const MOST_DUPLICATES: usize = 100;

/// Reads one JSON document. Nesting is limited (to 128 levels) by serde_json.
pub fn parse(body: &[u8]) -> Result<Decoded, String> {
    let mut duplicates = Vec::new();
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = Node { duplicates: &mut duplicates, path: &Path::Root }
        .deserialize(&mut deserializer)
        .and_then(|value| deserializer.end().map(|()| value))
        .map_err(|error| in_go(&error, body))?;
    Ok(Decoded { value, strict: duplicates })
}

/// Builds a value and notes duplicate fields.
pub struct Node<'a> {
    pub duplicates: &'a mut Vec<String>,
    pub path: &'a Path<'a>,
}

/// Where the reader is.
pub enum Path<'a> {
    Root,
    Field(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Field(Path::Root, name) => f.write_str(name),
            Path::Field(parent, name) => write!(f, "{parent}.{name}"),
            Path::Index(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("unsupported value"))?;
        Ok(Value::Number(number))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_string()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        loop {
            let path = Path::Index(self.path, items.len());
            let node = Node { duplicates: self.duplicates, path: &path };
            match access.next_element_seed(node)? {
                Some(item) => items.push(item),
                None => return Ok(Value::Array(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(Key(key)) = access.next_key()? {
            let path = Path::Field(self.path, &key);
            let value =
                access.next_value_seed(Node { duplicates: self.duplicates, path: &path })?;
            if map.contains_key(&key) {
                let problem = format!("duplicate field \"{path}\"");
                if self.duplicates.len() < MOST_DUPLICATES && !self.duplicates.contains(&problem) {
                    self.duplicates.push(problem);
                }
            }
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// A key: a string in JSON, any scalar in YAML.
pub(super) struct Key(pub String);

impl<'de> serde::Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Key, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Key;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }
            fn visit_str<E>(self, value: &str) -> Result<Key, E> {
                Ok(Key(value.to_string()))
            }
            fn visit_string<E>(self, value: String) -> Result<Key, E> {
                Ok(Key(value))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Key, E> {
                Ok(Key(value.to_string()))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Key, E> {
                Ok(Key(value.to_string()))
            }
            fn visit_u64<E>(self, value: u64) -> Result<Key, E> {
                Ok(Key(value.to_string()))
            }
            fn visit_f64<E>(self, value: f64) -> Result<Key, E> {
                Ok(Key(value.to_string()))
            }
            fn visit_unit<E: Error>(self) -> Result<Key, E> {
                Err(E::custom("unsupported map key: null"))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

/// serde_json's sentences and Go's endings of `invalid character 'x' …`.
const ENDINGS: &[(&str, &str)] = &[
    ("expected value", "looking for beginning of value"),
    ("expected ident", "in literal"),
    ("key must be a string", "looking for beginning of object key string"),
    ("trailing comma", "looking for beginning of object key string"),
    ("expected `,` or `}`", "after object key:value pair"),
    ("expected `,` or `]`", "after array element"),
    ("expected `:`", "after object key"),
    ("trailing characters", "after top-level value"),
    ("invalid number", "in numeric literal"),
    ("invalid escape", "in string escape code"),
    ("control character", "in string literal"),
];

/// The error as Go's decoder words it.
fn in_go(error: &serde_json::Error, body: &[u8]) -> String {
    if error.is_eof() {
        return "unexpected end of JSON input".into();
    }
    let text = error.to_string();
    if text.starts_with("recursion limit exceeded") {
        return "exceeded max depth".into();
    }
    let Some((_, ending)) = ENDINGS.iter().find(|(start, _)| text.starts_with(start)) else {
        return text;
    };
    let line = body.split(|byte| *byte == b'\n').nth(error.line().saturating_sub(1));
    let byte = line.and_then(|line| line.get(error.column().saturating_sub(1)));
    let character = byte.map_or(' ', |byte| char::from(*byte));
    format!("invalid character {character:?} {ending}")
}
