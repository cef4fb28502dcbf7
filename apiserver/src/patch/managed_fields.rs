//! metadata.managedFields: who owns which field, recorded on every write. An owner is a manager,
//! an operation, a subresource and (for updates) an API version.

use proto::kind::Row;
use proto::time::Time;
use serde_json::{Map, Value, json};

use super::fields::{self, Set};
use super::walk;
use crate::schema;

/// Update entries that are kept; the oldest ones beyond are merged into one.
const MOST_UPDATES: usize = 10;
/// The manager of that one.
const ANCIENT: &str = "ancient-changes";

/// Records a write that was not an apply: the manager gets what it added or changed, everybody
/// loses what changed or went. `old` is the stored object, `new` the one about to be stored, whose
/// `metadata.managedFields` are what the request said (`[{}]` clears them, none means the old ones).
/// Changes of the root's fields in `reset` do not count: the kind will undo them.
pub fn record(
    row: &Row,
    old: Option<&Value>,
    new: &mut Value,
    manager: &str,
    subresource: &str,
    reset: &[&str],
    now: Time,
) {
    let Some(ty) = schema::of(row) else { return };
    let mut entries = taken(old, new, !subresource.is_empty());
    let mut changes = walk::changes(&ty, old, new);
    for field in reset {
        let element = format!("f:{field}");
        changes.touched.remove(&element);
        changes.removed.remove(&element);
    }
    if !changes.touched.is_empty() || !changes.removed.is_empty() {
        let api_version = row.api_version();
        // Another version may name its fields differently.
        for entry in entries.iter_mut().filter(|entry| entry.text("apiVersion") == api_version) {
            if let Some(set) = entry.set_mut() {
                fields::subtract(set, &changes.touched);
                fields::subtract(set, &changes.removed);
            }
        }
        if !changes.touched.is_empty() {
            let operation = "Update";
            let owner = Owner { manager, operation, api_version: &api_version, subresource };
            match entries.iter_mut().find(|entry| entry.is(&owner)) {
                Some(entry) => {
                    if let Some(set) = entry.set_mut() {
                        fields::union(set, changes.touched);
                    }
                    entry.0.insert("time".into(), now.to_string().into());
                }
                None => entries.push(Entry::new(&owner, changes.touched, now)),
            }
        }
    }
    put(new, entries);
}

/// Takes the old entries back where nothing but their times has changed: such a write is none.
pub fn keep_times(new: &mut Value, old: &Value) {
    const ENTRIES: &str = "/metadata/managedFields";
    let (Some(own), Some(kept)) = (new.pointer_mut(ENTRIES), old.pointer(ENTRIES)) else { return };
    if own == kept || !same_but_times(own, kept) {
        return;
    }
    let own = std::mem::replace(own, kept.clone());
    if new != old
        && let Some(entries) = new.pointer_mut(ENTRIES)
    {
        *entries = own;
    }
}

fn same_but_times(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_array(), b.as_array()) else { return false };
    let same = |a: &Map<String, Value>, b: &Map<String, Value>| {
        a.len() == b.len()
            && a.iter().all(|(name, value)| match b.get(name) {
                Some(other) => name == "time" || value == other,
                None => false,
            })
    };
    a.len() == b.len()
        && a.iter().zip(b).all(|(a, b)| match (a.as_object(), b.as_object()) {
            (Some(a), Some(b)) => same(a, b),
            _ => false,
        })
}

/// An owner of fields.
#[derive(Clone, Copy)]
pub(super) struct Owner<'a> {
    pub manager: &'a str,
    pub operation: &'a str,
    pub api_version: &'a str,
    pub subresource: &'a str,
}

/// A metav1.ManagedFieldsEntry.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry(pub Map<String, Value>);

impl Entry {
    pub fn new(owner: &Owner<'_>, set: Set, now: Time) -> Entry {
        let mut map = Map::new();
        for (name, text) in [
            ("manager", owner.manager),
            ("operation", owner.operation),
            ("apiVersion", owner.api_version),
            ("subresource", owner.subresource),
            ("fieldsType", "FieldsV1"),
        ] {
            if !text.is_empty() {
                map.insert(name.into(), text.into());
            }
        }
        map.insert("time".into(), now.to_string().into());
        map.insert("fieldsV1".into(), Value::Object(set));
        Entry(map)
    }

    pub fn text(&self, name: &str) -> &str {
        self.0.get(name).and_then(Value::as_str).unwrap_or("")
    }

    /// Whether this is the owner's entry. Appliers have one whatever the version.
    pub fn is(&self, owner: &Owner<'_>) -> bool {
        self.text("manager") == owner.manager
            && self.text("operation") == owner.operation
            && self.text("subresource") == owner.subresource
            && (owner.operation == "Apply" || self.text("apiVersion") == owner.api_version)
    }

    pub fn set(&self) -> Option<&Set> {
        self.0.get("fieldsV1").and_then(Value::as_object)
    }

    pub fn set_mut(&mut self) -> Option<&mut Set> {
        self.0.get_mut("fieldsV1").and_then(Value::as_object_mut)
    }

    /// The owner as conflicts name it: `"kubectl" with subresource "status" using apps/v1`.
    pub fn printed(&self) -> String {
        let mut text = format!("{:?}", self.text("manager"));
        if !self.text("subresource").is_empty() {
            text += &format!(" with subresource {:?}", self.text("subresource"));
        }
        if self.text("operation") == "Update" {
            text += &format!(" using {}", self.text("apiVersion"));
        }
        text
    }

    fn rank(&self) -> [&str; 5] {
        ["operation", "time", "manager", "apiVersion", "subresource"].map(|name| self.text(name))
    }

    fn valid(&self) -> bool {
        let operation = matches!(self.text("operation"), "Apply" | "Update");
        operation && self.0.get("fieldsV1").is_some_and(fields::valid)
    }
}

/// The entries that count for a write, taken out of the new object: its own, unless they are
/// missing or malformed or come through a subresource; then the old object's.
pub(super) fn taken(old: Option<&Value>, new: &mut Value, subresource: bool) -> Vec<Entry> {
    let given = new.get_mut("metadata").and_then(Value::as_object_mut);
    let given = given.and_then(|meta| meta.remove("managedFields"));
    let kept = old.and_then(|old| old.get("metadata")?.get("managedFields"));
    if let Some(Value::Array(items)) = given {
        // The usual case: what was read comes back.
        let same = kept.and_then(Value::as_array) == Some(&items);
        if !same
            && matches!(items.as_slice(), [Value::Object(only)] if only.is_empty())
            && !subresource
        {
            return Vec::new();
        }
        if (same || !subresource)
            && let Some(entries) = read(items)
            && !entries.is_empty()
        {
            return entries;
        }
    }
    kept.and_then(Value::as_array).and_then(|items| read(items.clone())).unwrap_or_default()
}

fn read(items: Vec<Value>) -> Option<Vec<Entry>> {
    let entry = |item| match item {
        Value::Object(map) => Some(Entry(map)).filter(Entry::valid),
        _ => None,
    };
    items.into_iter().map(entry).collect()
}

/// Writes the entries into an object, capped and sorted; empty ones go.
pub(super) fn put(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|entry| entry.set().is_some_and(|set| !set.is_empty()));
    cap(&mut entries);
    entries.sort_by(|a, b| a.rank().cmp(&b.rank()));
    let Some(object) = object.as_object_mut() else { return };
    let meta = object.entry("metadata").or_insert_with(|| json!({}));
    let Some(meta) = meta.as_object_mut() else { return };
    match entries.is_empty() {
        true => drop(meta.remove("managedFields")),
        false => {
            let items = entries.into_iter().map(|entry| Value::Object(entry.0)).collect();
            meta.insert("managedFields".into(), Value::Array(items));
        }
    }
}

/// Merges the oldest update entries of each version into one.
fn cap(entries: &mut Vec<Entry>) {
    let is_update = |entry: &Entry| entry.text("operation") == "Update";
    let updates = entries.iter().filter(|entry| is_update(entry)).count();
    if updates <= MOST_UPDATES {
        return;
    }
    let (mut updates, mut kept): (Vec<Entry>, Vec<Entry>) =
        std::mem::take(entries).into_iter().partition(is_update);
    updates.sort_by(|a, b| {
        (a.text("time"), a.text("manager")).cmp(&(b.text("time"), b.text("manager")))
    });
    let mut buckets: Vec<Entry> = Vec::new();
    while updates.len() + buckets.len() > MOST_UPDATES && !updates.is_empty() {
        let mut entry = updates.remove(0);
        let version = entry.text("apiVersion").to_string();
        match buckets.iter_mut().find(|bucket| bucket.text("apiVersion") == version) {
            Some(bucket) => {
                let set = entry.set_mut().map(std::mem::take).unwrap_or_default();
                if let Some(own) = bucket.set_mut() {
                    fields::union(own, set);
                }
                let time = entry.0.remove("time").unwrap_or_default();
                bucket.0.insert("time".into(), time);
            }
            None => {
                entry.0.insert("manager".into(), ANCIENT.into());
                entry.0.remove("subresource");
                buckets.push(entry);
            }
        }
    }
    kept.append(&mut buckets);
    kept.append(&mut updates);
    *entries = kept;
}
