//! Objects as a client holds them, and what may be asked about them.

use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use proto::meta::ObjectMeta;
use serde_json::Value;

pub use proto::view::Object;

/// An object: its bytes as the API server sent them, and the slim view of them.
#[derive(Clone, Debug)]
pub struct Entry<T> {
    pub bytes: Bytes,
    pub view: T,
}

impl<T: Object> Entry<T> {
    /// Decodes the view of `bytes`.
    pub fn decode(bytes: Bytes) -> Result<Entry<T>, serde_json::Error> {
        let view = serde_json::from_slice(&bytes)?;
        Ok(Entry { bytes, view })
    }
}

impl<T> Entry<T> {
    /// The whole object. Costs a full decode.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }
}

impl<T> Deref for Entry<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.view
    }
}

/// Namespace (empty for cluster-scoped kinds) and name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl Key {
    pub fn new(namespace: &str, name: &str) -> Key {
        Key { namespace: namespace.into(), name: name.into() }
    }

    pub fn of(meta: &ObjectMeta) -> Key {
        Key::new(&meta.namespace, &meta.name)
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &*self.namespace {
            "" => write!(f, "{}", self.name),
            namespace => write!(f, "{namespace}/{}", self.name),
        }
    }
}

/// One page of a collection, or all of it.
#[derive(Clone, Debug)]
pub struct List<T> {
    pub items: Vec<Entry<T>>,
    /// The revision at which the list was read.
    pub revision: u64,
    /// Asks for the next page; empty on the last.
    pub continue_token: String,
}

/// What of a collection is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// Empty: all namespaces.
    pub namespace: String,
    pub label_selector: String,
    pub field_selector: String,
    /// 0: no limit.
    pub limit: u32,
    pub continue_token: String,
    /// Empty: the newest. For a watch: strictly after this one.
    pub resource_version: String,
    /// `Exact` or `NotOlderThan`; empty for the default.
    pub resource_version_match: String,
    /// Watches only: first everything there is, then a bookmark that says so.
    pub send_initial_events: bool,
    /// Watches only; 0: as long as the server likes.
    pub timeout_seconds: u32,
}

/// A change to an object.
#[derive(Clone, Debug)]
pub enum Patch {
    /// RFC 6902.
    Json(Value),
    /// RFC 7386.
    Merge(Value),
    Strategic(Value),
    /// Server-side apply.
    Apply {
        manager: String,
        force: bool,
        object: Value,
    },
}

/// What happens to an object's dependents (metav1.DeletionPropagation).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    Background,
    Foreground,
    Orphan,
}

/// How an object is to be deleted.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Delete only the object with this uid; empty: any.
    pub uid: String,
    /// Delete only this revision of it; empty: any.
    pub resource_version: String,
    pub grace_period_seconds: Option<i64>,
    pub propagation: Option<Propagation>,
    pub dry_run: bool,
}

impl DeleteOptions {
    /// Only the object with this uid.
    pub fn uid(uid: &str) -> DeleteOptions {
        DeleteOptions { uid: uid.into(), ..DeleteOptions::default() }
    }

    /// The request's body.
    pub fn body(&self) -> Value {
        let mut body = serde_json::json!({ "kind": "DeleteOptions", "apiVersion": "v1" });
        let mut preconditions = serde_json::Map::new();
        for (field, value) in [("uid", &self.uid), ("resourceVersion", &self.resource_version)] {
            if !value.is_empty() {
                preconditions.insert(field.into(), value.as_str().into());
            }
        }
        if !preconditions.is_empty() {
            body["preconditions"] = preconditions.into();
        }
        if let Some(seconds) = self.grace_period_seconds {
            body["gracePeriodSeconds"] = seconds.into();
        }
        if let Some(propagation) = self.propagation {
            body["propagationPolicy"] = format!("{propagation:?}").into();
        }
        if self.dry_run {
            body["dryRun"] = serde_json::json!(["All"]);
        }
        body
    }
}

/// What a watch reports.
#[derive(Clone, Debug)]
pub enum WatchEvent<T> {
    Added(Entry<T>),
    Modified(Entry<T>),
    /// The last state of it, at the revision of the deletion.
    Deleted(Entry<T>),
    /// Everything up to `revision` has been seen.
    Bookmark {
        revision: u64,
        /// All that was there at the start has been sent.
        initial_events_end: bool,
    },
}
