//! YAML as kubectl reads it: YAML 1.1 booleans (`yes`, `on`, `y`) and octal numbers (`0644` is
//! 420), merge keys, any scalar as a key. Aliases, depth and size are budgeted, so that no document
//! costs much more than it is long.

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer};
use serde_json::Value;
use serde_saphyr::{DuplicateKeyPolicy, Options};

use super::{Decoded, json};

mod duplicates;

pub use duplicates::PREFIX as DUPLICATES;

/// Nodes that a document may have once its aliases are followed.
const MOST_NODES: usize = 250_000;
const DEEPEST: usize = 100;

/// Reads one document; none is `null`. Duplicate fields are noted, in one problem with a line for
/// each, as Go's reader has them; the last one wins.
pub fn parse(body: &[u8]) -> Result<Decoded, String> {
    let text = std::str::from_utf8(body).map_err(|error| format!("yaml: {error}"))?;
    let document: Document = serde_saphyr::from_str_with_options(text, options())
        .map_err(|error| format!("yaml: {}", error.to_string().replace('\n', " ")))?;
    let strict = match document.duplicates.is_empty() {
        true => Vec::new(),
        false => vec![duplicates::find(text, options())],
    };
    Ok(Decoded { value: document.value, strict })
}

fn options() -> Options {
    let budget = serde_saphyr::budget! {
        max_depth: DEEPEST,
        max_nodes: MOST_NODES,
        max_events: 2 * MOST_NODES,
    };
    let aliases = serde_saphyr::alias_limits! { max_total_replayed_events: MOST_NODES };
    serde_saphyr::options! {
        budget: budget,
        alias_limits: aliases,
        duplicate_keys: DuplicateKeyPolicy::LastWins,
        legacy_octal_numbers: true,
        with_snippet: false,
    }
}

/// A value and its duplicate fields.
struct Document {
    value: Value,
    duplicates: Vec<String>,
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Document, D::Error> {
        let mut duplicates = Vec::new();
        let node = json::Node { duplicates: &mut duplicates, path: &json::Path::Root };
        let value = node.deserialize(deserializer)?;
        Ok(Document { value, duplicates })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn value(text: &str) -> Value {
        parse(text.as_bytes()).unwrap().value
    }

    #[test]
    fn scalars_as_kubectl_reads_them() {
        for (text, expected) in [
            ("a: 0644", json!({"a": 420})),
            ("a: 0o644", json!({"a": 420})),
            ("a: 0x1F", json!({"a": 31})),
            ("a: 1_000", json!({"a": 1000})),
            ("a: yes", json!({"a": true})),
            ("a: On", json!({"a": true})),
            ("a: y", json!({"a": true})),
            ("a: NO", json!({"a": false})),
            ("a: \"yes\"", json!({"a": "yes"})),
            ("a: 'y'", json!({"a": "y"})),
            ("a: ~", json!({"a": null})),
            ("a:", json!({"a": null})),
            ("a: 1.5", json!({"a": 1.5})),
            ("a: 1e3", json!({"a": 1000.0})),
            ("a: 1.10.0", json!({"a": "1.10.0"})),
            ("a: 12:30", json!({"a": "12:30"})),
            ("a: 2024-01-01", json!({"a": "2024-01-01"})),
            ("a: 100m", json!({"a": "100m"})),
            ("1: b", json!({"1": "b"})),
            ("true: b", json!({"true": "b"})),
            ("y: b", json!({"true": "b"})),
            ("Off: b", json!({"false": "b"})),
            ("'n': b", json!({"n": "b"})),
            ("0x10: b", json!({"16": "b"})),
            ("1.50: b", json!({"1.5": "b"})),
            ("1.0: b", json!({"1": "b"})),
            ("2024-01-01: b", json!({"2024-01-01": "b"})),
            ("a: !!str yes", json!({"a": "yes"})),
            ("a: |\n  x\n  y\n", json!({"a": "x\ny\n"})),
            ("{a: [1, 2]}", json!({"a": [1, 2]})),
            ("x: &x {a: 1}\nz: {<<: *x, b: 2}", json!({"x": {"a": 1}, "z": {"a": 1, "b": 2}})),
        ] {
            assert_eq!(value(text), expected, "{text}");
        }
    }

    #[test]
    fn duplicates_are_noted_and_the_last_wins() {
        let decoded = parse(b"spec:\n  a: 1\n  a: 2\n").unwrap();
        assert_eq!(decoded.value, json!({"spec": {"a": 2}}));
        let problems = |lines: &str| vec![format!("yaml: unmarshal errors:\n  {lines}")];
        assert_eq!(decoded.strict, problems("line 3: key \"a\" already set in map"));
        let many = parse(b"l:\n- x: {}\n  z: 1\n  z: 2\na: {b: 1, b: 2}\nl: []\n").unwrap();
        assert_eq!(
            many.strict,
            problems(
                "line 4: key \"z\" already set in map\n  line 5: key \"b\" already set in map\n  \
                 line 6: key \"l\" already set in map"
            )
        );
    }

    #[test]
    fn bombs_are_refused() {
        let mut bomb = String::from("a: &a [x,x,x,x,x,x,x,x,x]\n");
        for (this, last) in ('b'..='i').zip('a'..) {
            let items = vec![format!("*{last}"); 9].join(",");
            bomb += &format!("{this}: &{this} [{items}]\n");
        }
        assert!(parse(bomb.as_bytes()).is_err());
        assert!(parse("[".repeat(100_000).as_bytes()).is_err());
        for text in ["a: b: c", "~: b", "[a]: b"] {
            assert!(parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(parse(b"\xff\xfe").is_err());
    }
}
