//! What an entry remembers of its object, found in one pass over the bytes that builds nothing
//! else: identity, labels, the fields that selectors may ask for, and where the resourceVersion
//! belongs.

use std::borrow::Cow;
use std::fmt;

use proto::meta::Labels;
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::value::RawValue;

/// A field that selectors may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// As selectors name it: `spec.nodeName`.
    pub name: Cow<'static, str>,
    /// Where it lies in the object, separated by dots. `a|b`: at b where there is nothing at a.
    pub path: Cow<'static, str>,
    /// What an object without it has: `""`, or `false` for booleans.
    pub missing: &'static str,
}

impl From<&'static str> for Field {
    /// A field whose name is its path and that is empty where missing.
    fn from(path: &'static str) -> Self {
        Self { name: path.into(), path: path.into(), missing: "" }
    }
}

/// The fields of a kind as a tree, in which one pass finds them all.
#[derive(Debug, Default)]
pub struct Paths {
    root: Branch,
    /// With the places that are looked at second, behind the fields.
    count: usize,
    /// A field, and the place that answers for it where it is empty.
    otherwise: Vec<(usize, usize)>,
}

#[derive(Debug, Default)]
struct Branch {
    children: Vec<(String, Branch)>,
    /// The fields that lie here.
    fields: Vec<usize>,
}

impl Paths {
    pub fn new(fields: &[Field]) -> Self {
        let (mut root, mut count, mut otherwise) = (Branch::default(), fields.len(), Vec::new());
        for (i, field) in fields.iter().enumerate() {
            let (first, second) = field.path.split_once('|').unwrap_or((&field.path, ""));
            root.at(first).fields.push(i);
            if !second.is_empty() {
                root.at(second).fields.push(count);
                otherwise.push((i, count));
                count += 1;
            }
        }
        Self { root, count, otherwise }
    }
}

impl Branch {
    /// The branch at a path, made where it is missing.
    fn at(&mut self, path: &str) -> &mut Branch {
        path.split('.').fold(self, |branch, step| {
            let at = branch.children.iter().position(|(name, _)| name == step);
            let at = at.unwrap_or_else(|| {
                branch.children.push((step.to_owned(), Branch::default()));
                branch.children.len() - 1
            });
            &mut branch.children[at].1
        })
    }
}

#[derive(Debug)]
pub struct Facts {
    pub uid: Box<str>,
    pub labels: Labels,
    /// In the order of the kind's fields; absent where missing.
    pub fields: Box<[Option<Box<str>>]>,
    /// Just behind the opening brace of `metadata`.
    pub metadata_start: usize,
    pub metadata_is_empty: bool,
    /// The whole `metadata`, where it has a resourceVersion that ours must replace.
    pub foreign_version: Option<std::ops::Range<usize>>,
}

/// Finds the facts of an object. Fails where the bytes are no JSON object with `metadata`.
pub fn extract(bytes: &[u8], paths: &Paths) -> Result<Facts, serde_json::Error> {
    let mut found = Found { fields: vec![None; paths.count], metadata: None };
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    Object { branch: &paths.root, found: &mut found }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    for (field, second) in &paths.otherwise {
        if found.fields[*field].as_deref().unwrap_or_default().is_empty() {
            found.fields[*field] = found.fields[*second].take();
        }
    }
    found.fields.truncate(paths.count - paths.otherwise.len());
    let raw = found.metadata.ok_or_else(|| serde::de::Error::missing_field("metadata"))?.get();
    // The derived reader would take an array, too.
    if !raw.starts_with('{') {
        return Err(serde::de::Error::custom("metadata is no object"));
    }
    let metadata: Metadata = serde_json::from_str(raw)?;
    // The raw value is a slice of the bytes; a parsed object begins with its brace.
    let offset = raw.as_ptr().addr() - bytes.as_ptr().addr();
    Ok(Facts {
        uid: metadata.uid.as_deref().unwrap_or_default().into(),
        labels: metadata.labels.unwrap_or_default(),
        fields: found.fields.into(),
        metadata_start: offset + 1,
        metadata_is_empty: raw[1..].trim_start().starts_with('}'),
        foreign_version: metadata.resource_version.then(|| offset..offset + raw.len()),
    })
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow, default)]
    uid: Option<Cow<'a, str>>,
    #[serde(default)]
    labels: Option<Labels>,
    /// Whether there is one, be it null.
    #[serde(default, deserialize_with = "present")]
    resource_version: bool,
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

struct Found<'de> {
    fields: Vec<Option<Box<str>>>,
    metadata: Option<&'de RawValue>,
}

/// The object itself: `metadata` is kept apart for its offset.
struct Object<'a, 'de> {
    branch: &'a Branch,
    found: &'a mut Found<'de>,
}

impl<'de> DeserializeSeed<'de> for Object<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(step) = map.next_key_seed(Step { branch: self.branch, root: true })? {
            match step {
                Some(Next::Metadata) => self.found.metadata = Some(map.next_value()?),
                Some(Next::Child(branch)) => {
                    map.next_value_seed(Walk { branch, fields: &mut self.found.fields })?;
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

enum Next<'a> {
    Metadata,
    Child(&'a Branch),
}

/// Reads a key and says where it leads.
struct Step<'a> {
    branch: &'a Branch,
    root: bool,
}

impl<'a, 'de> DeserializeSeed<'de> for Step<'a> {
    type Value = Option<Next<'a>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a> Visitor<'_> for Step<'a> {
    type Value = Option<Next<'a>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        if self.root && key == "metadata" {
            return Ok(Some(Next::Metadata));
        }
        let child = self.branch.children.iter().find(|(name, _)| name == key);
        Ok(child.map(|(_, branch)| Next::Child(branch)))
    }
}

/// A value on the way to fields, or a field itself.
struct Walk<'a> {
    branch: &'a Branch,
    fields: &'a mut [Option<Box<str>>],
}

impl Walk<'_> {
    fn found<E>(self, value: &str) -> Result<(), E> {
        for field in &self.branch.fields {
            self.fields[*field] = Some(value.into());
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(step) = map.next_key_seed(Step { branch: self.branch, root: false })? {
            if let Some(Next::Child(branch)) = step {
                map.next_value_seed(Walk { branch, fields: self.fields })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        self.found(value)
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.found(if value { "true" } else { "false" })
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.found(&value.to_string())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.found(&value.to_string())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.found(&value.to_string())
    }

    /// Null is a missing field.
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        Deserialize::deserialize(deserializer).map(|IgnoredAny| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_wherever_they_lie() {
        let fields =
            ["spec.nodeName", "spec.hostNetwork", "status.phase", "data", "type"].map(Field::from);
        let paths = Paths::new(&fields);
        let object = br#" {"data":{"metadata":{"resourceVersion":"7"}},"spec":{"nodeName":"n\u0031","a":[1],
            "hostNetwork":true},"metadata": {"uid":"u","labels":{"a":"b"},"x":null} ,"status":null,"type":"T"} "#;
        let facts = extract(object, &paths).unwrap();
        let found: Vec<_> =
            facts.fields.iter().map(|field| field.as_deref().unwrap_or("-")).collect();
        assert_eq!(found, ["n1", "true", "-", "-", "T"]);
        assert_eq!((&*facts.uid, facts.labels["a"].as_str()), ("u", "b"));
        assert!(object[facts.metadata_start..].starts_with(br#""uid":"u""#));
        assert!(!facts.metadata_is_empty && facts.foreign_version.is_none());
    }

    #[test]
    fn another_place_answers_for_an_empty_one() {
        let paths = Paths::new(&["a.b|c", "c"].map(Field::from));
        for (object, found) in [
            ("\"a\":{\"b\":\"1\"},\"c\":\"2\"", ["1", "2"]),
            ("\"c\":\"2\",\"a\":{\"b\":\"\"}", ["2", "2"]),
            ("\"c\":\"2\"", ["2", "2"]),
            ("\"x\":1", ["-", "-"]),
        ] {
            let object = format!("{{\"metadata\":{{}},{object}}}");
            let facts = extract(object.as_bytes(), &paths).unwrap();
            let fields: Vec<_> =
                facts.fields.iter().map(|it| it.as_deref().unwrap_or("-")).collect();
            assert_eq!(fields, found, "{object}");
        }
    }

    #[test]
    fn only_objects_with_metadata_are_objects() {
        let paths = Paths::new(&[]);
        for bytes in
            [&b"k8s\0"[..], b"", b"[]", b"{}", b"{\"metadata\":[]}", b"{\"metadata\":{}} x"]
        {
            assert!(extract(bytes, &paths).is_err(), "{:?}", String::from_utf8_lossy(bytes));
        }
        let facts = extract(b"{\"metadata\":{ }}", &paths).unwrap();
        assert!(facts.metadata_is_empty);
    }
}
