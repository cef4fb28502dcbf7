//! Where the duplicate fields of a document are, in the words of Go's YAML reader. Most documents
//! have none, so lines are only looked for in a second reading.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Options, Spanned};

/// How the sentence begins.
pub const PREFIX: &str = "yaml: unmarshal errors:\n";

/// One sentence about all of them.
pub(super) fn find(text: &str, options: Options) -> String {
    let found = serde_saphyr::from_str_with_options::<Duplicates>(text, options);
    // It was read once; what the second reading cannot tell is left out.
    let lines = found.map(|found| found.0).unwrap_or_default();
    format!("{PREFIX}{}", lines.join("\n"))
}

/// A line of the sentence for every duplicate within a value.
#[derive(Default)]
struct Duplicates(Vec<String>);

impl<'de> Deserialize<'de> for Duplicates {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Duplicates, D::Error> {
        deserializer.deserialize_any(Search)
    }
}

struct Search;

impl<'de> Visitor<'de> for Search {
    type Value = Duplicates;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, _: bool) -> Result<Duplicates, E> {
        Ok(Duplicates::default())
    }

    fn visit_i64<E>(self, _: i64) -> Result<Duplicates, E> {
        Ok(Duplicates::default())
    }

    fn visit_u64<E>(self, _: u64) -> Result<Duplicates, E> {
        Ok(Duplicates::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Duplicates, E> {
        Ok(Duplicates::default())
    }

    fn visit_str<E>(self, _: &str) -> Result<Duplicates, E> {
        Ok(Duplicates::default())
    }

    fn visit_unit<E>(self) -> Result<Duplicates, E> {
        Ok(Duplicates::default())
    }

    fn visit_none<E>(self) -> Result<Duplicates, E> {
        Ok(Duplicates::default())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Duplicates, D::Error> {
        Duplicates::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Duplicates, A::Error> {
        let mut found = Duplicates::default();
        while let Some(mut item) = access.next_element::<Duplicates>()? {
            found.0.append(&mut item.0);
        }
        Ok(found)
    }

    /// The line is that of the second value, as Go has it.
    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Duplicates, A::Error> {
        let mut found = Duplicates::default();
        let mut keys: Vec<String> = Vec::new();
        while let Some(super::json::Key(key)) = access.next_key()? {
            let mut value: Spanned<Duplicates> = access.next_value()?;
            found.0.append(&mut value.value.0);
            if keys.contains(&key) {
                let line = value.referenced.line();
                found.0.push(format!("  line {line}: key {key:?} already set in map"));
            } else {
                keys.push(key);
            }
        }
        Ok(found)
    }
}
