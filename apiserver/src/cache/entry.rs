//! One version of one object: its bytes as they are served, and the facts that lists, selectors
//! and watches need without parsing it.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use proto::meta::Labels;

use super::change::EventType;
use super::facts::{Facts, Paths, extract};
use super::kind::KindSpec;
use crate::store::{KeyValue, Revision};

/// Immutable and shared. The bytes lie inside the frame of the watch event that brought them, so
/// that the frame costs nothing.
#[derive(Debug)]
pub struct Entry {
    pub key: Arc<str>,
    /// Of the object's last write: its resourceVersion.
    pub revision: Revision,
    pub create_revision: Revision,
    pub uid: Box<str>,
    pub labels: Labels,
    spec: Arc<KindSpec>,
    fields: Box<[Option<Box<str>>]>,
    /// `{"type":"ADDED","object":` + the object + `}\n`; MODIFIED where it was written before.
    frame: Bytes,
    object: std::ops::Range<u32>,
    /// The digits of the resourceVersion, from the beginning of the object.
    version: std::ops::Range<u32>,
    /// Where the name begins in the key.
    name: u32,
}

/// Where a selectable field's value is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    Name,
    Namespace,
    Field(usize),
}

impl Slot {
    /// `None` where the kind does not have the field.
    pub(super) fn of(spec: &KindSpec, name: &str) -> Option<Self> {
        match name {
            "metadata.name" => Some(Slot::Name),
            "metadata.namespace" => Some(Slot::Namespace),
            _ => spec.fields.iter().position(|field| field.name == name).map(Slot::Field),
        }
    }
}

impl Entry {
    /// Splices the revision into the stored bytes. Fails where they are no object.
    pub(super) fn new(
        spec: &Arc<KindSpec>,
        paths: &Paths,
        item: KeyValue,
    ) -> Result<Self, serde_json::Error> {
        let mut value = item.value.trim_ascii_end();
        let mut facts = extract(value, paths)?;
        let rewritten;
        if let Some(metadata) = facts.foreign_version.take() {
            rewritten = without_version(value, metadata)?;
            value = &rewritten;
            facts = extract(value, paths)?;
        }
        let event = match item.create_revision == item.mod_revision {
            true => EventType::Added,
            false => EventType::Modified,
        };
        let (frame, object, version) = splice(value, &facts, event, item.mod_revision);
        let name = item.key.rfind('/').map_or(0, |slash| slash + 1) as u32;
        Ok(Self {
            key: item.key,
            revision: item.mod_revision,
            create_revision: item.create_revision,
            uid: facts.uid,
            labels: facts.labels,
            spec: spec.clone(),
            fields: facts.fields,
            frame,
            object,
            version,
            name,
        })
    }

    /// The object as it is served, resourceVersion included. Shares the entry's memory.
    pub fn bytes(&self) -> Bytes {
        self.frame.slice(self.object.start as usize..self.object.end as usize)
    }

    pub fn name(&self) -> &str {
        &self.key[self.name as usize..]
    }

    /// Empty for cluster-scoped kinds.
    pub fn namespace(&self) -> &str {
        match self.spec.namespaced {
            true => &self.key[self.spec.prefix().len()..self.name as usize - 1],
            false => "",
        }
    }

    /// The value of a selectable field; `None` where the kind does not have it. A missing value
    /// reads as "" or false.
    pub fn field(&self, name: &str) -> Option<&str> {
        Some(self.slot(Slot::of(&self.spec, name)?))
    }

    /// The slot is one of this kind.
    pub(super) fn slot(&self, slot: Slot) -> &str {
        match slot {
            Slot::Name => self.name(),
            Slot::Namespace => self.namespace(),
            Slot::Field(i) => self.fields[i].as_deref().unwrap_or(self.spec.fields[i].missing),
        }
    }

    /// The frame that presents this version in a watch. ADDED and MODIFIED only: a deletion's is
    /// [`super::Change::frame`]. Shared where the type is the one under which it came, else made.
    pub fn frame(&self, event: EventType) -> Bytes {
        if self.object.start as usize == event.head().len() {
            return self.frame.clone();
        }
        let mut frame = BytesMut::with_capacity(self.frame.len() + 8);
        frame.extend_from_slice(event.head());
        frame.extend_from_slice(&self.frame[self.object.start as usize..]);
        frame.freeze()
    }

    /// The frame of this version's deletion at a revision.
    pub(super) fn deleted(&self, revision: Revision) -> Bytes {
        let object = &self.frame[self.object.start as usize..];
        let mut frame = BytesMut::with_capacity(self.frame.len() + 16);
        frame.extend_from_slice(EventType::Deleted.head());
        frame.extend_from_slice(&object[..self.version.start as usize]);
        frame.extend_from_slice(revision.to_string().as_bytes());
        frame.extend_from_slice(&object[self.version.end as usize..]);
        frame.freeze()
    }

    /// The object with another resourceVersion, for what a deletion answers.
    pub fn bytes_at(&self, revision: Revision) -> Bytes {
        let deleted = self.deleted(revision);
        deleted.slice(EventType::Deleted.head().len()..deleted.len() - TAIL.len())
    }

    pub(super) fn weight(&self) -> usize {
        self.frame.len()
    }
}

const TAIL: &[u8] = b"}\n";

type Spliced = (Bytes, std::ops::Range<u32>, std::ops::Range<u32>);

fn splice(value: &[u8], facts: &Facts, event: EventType, revision: Revision) -> Spliced {
    const NAME: &[u8] = b"\"resourceVersion\":\"";
    let digits = revision.to_string();
    let comma: &[u8] = if facts.metadata_is_empty { b"\"" } else { b"\"," };
    let (before, after) = value.split_at(facts.metadata_start);
    let parts = [event.head(), before, NAME, digits.as_bytes(), comma, after, TAIL];
    let mut frame = Vec::with_capacity(parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| frame.extend_from_slice(part));
    let start = event.head().len();
    let version = before.len() + NAME.len();
    let object = start as u32..(frame.len() - TAIL.len()) as u32;
    (frame.into(), object, version as u32..(version + digits.len()) as u32)
}

/// Drops a resourceVersion that another writer stored inside the object.
fn without_version(
    value: &[u8],
    metadata: std::ops::Range<usize>,
) -> Result<Vec<u8>, serde_json::Error> {
    let mut map: serde_json::Map<String, serde_json::Value> =
        serde_json::from_slice(&value[metadata.clone()])?;
    map.remove("resourceVersion");
    let mut out = value[..metadata.start].to_vec();
    serde_json::to_writer(&mut out, &map)?;
    out.extend_from_slice(&value[metadata.end..]);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn entry(value: &str, create_revision: Revision) -> Entry {
        let spec = Arc::new(KindSpec::new("pods", true, ["spec.nodeName".into()]));
        let item = KeyValue {
            key: "/registry/pods/ns/a".into(),
            value: value.to_owned().into(),
            create_revision,
            mod_revision: 12,
        };
        Entry::new(&spec, &Paths::new(&spec.fields), item).unwrap()
    }

    #[test]
    fn the_revision_is_spliced_into_metadata() {
        let table = [
            (r#"{"metadata":{}}"#, r#"{"metadata":{"resourceVersion":"12"}}"#),
            (
                // An Event carries the version of another object first.
                r#"{"involvedObject":{"resourceVersion":"3"},"metadata":{"name":"a"},"z":1}"#,
                r#"{"involvedObject":{"resourceVersion":"3"},"metadata":{"resourceVersion":"12","name":"a"},"z":1}"#,
            ),
            (
                r#"{"metadata":{"name":"a","resourceVersion":"9"}}"#,
                r#"{"metadata":{"resourceVersion":"12","name":"a"}}"#,
            ),
            ("{\"metadata\": { } }\n", r#"{"metadata": {"resourceVersion":"12" } }"#),
        ];
        for (stored, served) in table {
            assert_eq!(entry(stored, 12).bytes(), served);
        }
    }

    #[test]
    fn frames() {
        let new = entry(r#"{"metadata":{"name":"a"}}"#, 12);
        let object = r#"{"metadata":{"resourceVersion":"12","name":"a"}}"#;
        assert_eq!(
            new.frame(EventType::Added),
            format!("{{\"type\":\"ADDED\",\"object\":{object}}}\n")
        );
        assert_eq!(
            new.frame(EventType::Modified),
            format!("{{\"type\":\"MODIFIED\",\"object\":{object}}}\n")
        );
        assert_eq!(
            new.deleted(345),
            format!("{{\"type\":\"DELETED\",\"object\":{}}}\n", object.replace("12", "345"))
        );
        assert_eq!(new.bytes_at(345), object.replace("12", "345"));
        let old = entry(r#"{"metadata":{"name":"a"}}"#, 5);
        assert_eq!(old.frame(EventType::Modified).as_ptr(), old.frame.as_ptr());
        assert_eq!(
            (new.namespace(), new.name(), new.field("spec.nodeName")),
            ("ns", "a", Some(""))
        );
        assert_eq!(new.field("spec.other"), None);
    }

    const NAME: &str = "[a-c\"\\\\é{}]{0,3}|metadata|resourceVersion|spec|nodeName";

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            NAME.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                map(inner)
            ]
        })
    }

    fn map(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
        let map = proptest::collection::btree_map(NAME, inner, 0..4);
        map.prop_map(|map| Value::Object(map.into_iter().collect()))
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// The served object is the stored one with the revision, whatever it looks like.
        #[test]
        fn any_object_keeps_its_content(
            mut object in map(json()),
            mut metadata in map(json()),
            pretty: bool,
        ) {
            for known in ["uid", "labels"] {
                metadata.as_object_mut().unwrap().remove(known);
            }
            object["metadata"] = metadata;
            let stored = match pretty {
                true => serde_json::to_string_pretty(&object).unwrap(),
                false => object.to_string(),
            };
            let entry = entry(&stored, 12);
            let node = object.pointer("/spec/nodeName").map(|node| match node {
                Value::String(text) => text.clone(),
                Value::Null | Value::Array(_) | Value::Object(_) => String::new(),
                scalar => scalar.to_string(),
            });
            prop_assert_eq!(entry.field("spec.nodeName").unwrap(), node.unwrap_or_default());
            object["metadata"]["resourceVersion"] = "12".into();
            prop_assert_eq!(serde_json::from_slice::<Value>(&entry.bytes()).unwrap(), object.clone());
            object["metadata"]["resourceVersion"] = "1000".into();
            prop_assert_eq!(serde_json::from_slice::<Value>(&entry.bytes_at(1000)).unwrap(), object);
        }
    }
}
