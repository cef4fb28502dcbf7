//! The store: one small trait over the backends that keep a cluster's objects, and its types.
//!
//! Every key has its history: a store is a map at each *revision*, a counter that grows by one
//! with every transaction that changes something. Only the API server may call this, and within it
//! only the cache, the registry and the kinds' allocators. Nothing here knows what an object is:
//! values are bytes, keys are `/registry/<storage>/<namespace>/<name>`.
//!
//! All backends pass one conformance suite; none may have semantics of its own. The semantics are
//! etcd's (its revisions, guards by mod revision, watches strictly after a revision, compaction).

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::oneshot;

pub mod embedded;
pub mod encrypted;
pub mod etcd;
pub mod history;
mod hub;
mod index;
pub mod memory;

/// The store's counter. An empty store is at 1; 0 stands for "absent" in guards.
pub type Revision = u64;

/// What every backend does. All methods may be called concurrently; none polls.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// One key as it was at a revision, or now (linearizably).
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<Got, StoreError>;

    /// Keys under a prefix in byte order, as they were at one revision.
    async fn list(&self, range: Range<'_>) -> Result<Page, StoreError>;

    /// All operations, or none, at one revision; durable when it returns. An error other than
    /// [`StoreError::Uncertain`] means that nothing was written.
    async fn transact(&self, txn: Txn) -> Result<Outcome, StoreError>;

    /// Hands the sink every change under the prefix strictly after `from`: those that lie in the
    /// past before it returns or soon after, later ones as they come. Never a gap, never twice.
    async fn watch(
        &self,
        prefix: &str,
        from: Revision,
        sink: Arc<dyn Sink>,
    ) -> Result<Watch, StoreError>;

    /// Forgets what only revisions before this one show. Reads and watches from older ones end
    /// with [`StoreError::Compacted`]. Compacting to where the store already is does nothing.
    async fn compact(&self, revision: Revision) -> Result<(), StoreError>;

    /// The current revision, linearizably: at least that of every write acknowledged before the
    /// call, by whichever API server.
    async fn revision(&self) -> Result<Revision, StoreError>;

    /// Whether the value of a key is stored otherwise than it would be written now (encrypted with an
    /// older key): then even a write that changes nothing is worth its while.
    async fn is_stale(&self, _key: &str) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// Called when a watch has not been seen to reach `revision`, which [`Store::revision`]
    /// returned: backends whose revisions may come from writes outside the watched prefix make it
    /// arrive. Elsewhere watches always arrive by themselves.
    async fn nudge(&self, _revision: Revision) -> Result<(), StoreError> {
        Ok(())
    }
}

/// Receives the changes of a [`Store::watch`].
pub trait Sink: Send + Sync + 'static {
    /// Changes of whole revisions, in order; `revision` is the newest that the sink has now seen
    /// completely (progress, when there are no events). The embedded stores call it before they
    /// acknowledge the write, so it must be quick and must not call the store.
    fn apply(&self, events: &[Event], revision: Revision);
}

/// A running watch; dropping it ends it.
pub struct Watch {
    ended: oneshot::Receiver<StoreError>,
    _held: Box<dyn Send + Sync>,
}

impl Watch {
    /// For backends: `held` ends the watch when it is dropped.
    pub fn new(ended: oneshot::Receiver<StoreError>, held: impl Send + Sync + 'static) -> Self {
        Self { ended, _held: Box::new(held) }
    }

    /// Returns when the watch cannot go on: its next revision was compacted away, or the store
    /// was closed.
    pub async fn ended(&mut self) -> StoreError {
        (&mut self.ended).await.unwrap_or(StoreError::Closed)
    }
}

/// A stored value. What is stored has no resourceVersion inside; `mod_revision` is it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    pub key: Arc<str>,
    pub value: Bytes,
    /// Revision of the write that created it.
    pub create_revision: Revision,
    /// Revision of its last write.
    pub mod_revision: Revision,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub key: Arc<str>,
    pub revision: Revision,
    pub change: Change,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The new value; it was created here if both its revisions are the event's.
    Put(KeyValue),
    /// The key is gone. What it had is not told: who needs it has seen it (etcd leaves it out where
    /// it was compacted away, and of what happens while a watch begins).
    Delete,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Got {
    pub value: Option<KeyValue>,
    /// The revision that was read: `at`, or the store's current one.
    pub revision: Revision,
}

/// What to list.
#[derive(Clone, Copy, Debug, Default)]
pub struct Range<'a> {
    pub prefix: &'a str,
    pub at: Option<Revision>,
    /// Only keys after this one.
    pub after: Option<&'a str>,
    /// 0 for all.
    pub limit: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub items: Vec<KeyValue>,
    /// The revision that was read; later pages ask for it.
    pub revision: Revision,
    /// Whether keys remain after the last item.
    pub more: bool,
}

/// Operations that happen together if every guard holds.
#[derive(Clone, Debug, Default)]
pub struct Txn {
    pub guards: Vec<Guard>,
    /// At most one per key.
    pub ops: Vec<Op>,
}

impl Txn {
    /// Writes the key only if it is absent.
    pub fn create(key: impl Into<Arc<str>>, value: Bytes) -> Self {
        let key = key.into();
        Self {
            guards: vec![Guard { key: key.clone(), expected: 0 }],
            ops: vec![Op::Put { key, value }],
        }
    }

    /// Writes the key only if its last write was at `expected`.
    pub fn update(key: impl Into<Arc<str>>, expected: Revision, value: Bytes) -> Self {
        let key = key.into();
        Self {
            guards: vec![Guard { key: key.clone(), expected }],
            ops: vec![Op::Put { key, value }],
        }
    }

    /// Deletes the key only if its last write was at `expected`.
    pub fn delete(key: impl Into<Arc<str>>, expected: Revision) -> Self {
        let key = key.into();
        Self { guards: vec![Guard { key: key.clone(), expected }], ops: vec![Op::Delete { key }] }
    }

    /// About what it takes to write it.
    fn bytes(&self) -> usize {
        let size = |op: &Op| match op {
            Op::Put { key, value } => key.len() + value.len(),
            Op::Delete { key } => key.len(),
        };
        self.ops.iter().map(size).sum()
    }

    fn check(&self) -> Result<(), StoreError> {
        for (i, op) in self.ops.iter().enumerate() {
            if self.ops[..i].iter().any(|other| other.key() == op.key()) {
                return Err(StoreError::Duplicate { key: op.key().to_string() });
            }
        }
        Ok(())
    }
}

/// The key's last write must have been at `expected`; 0: the key must be absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    pub key: Arc<str>,
    pub expected: Revision,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Put {
        key: Arc<str>,
        value: Bytes,
    },
    /// Deleting an absent key changes nothing.
    Delete {
        key: Arc<str>,
    },
}

impl Op {
    pub fn key(&self) -> &Arc<str> {
        match self {
            Op::Put { key, .. } | Op::Delete { key } => key,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything was written, at this revision; where nothing was to be changed, the current one.
    Committed(Revision),
    /// A guard did not hold and nothing was written.
    Conflict {
        /// The revision at which the guards were read: whoever tries again reads at least this.
        revision: Revision,
        /// Per guard the mod revision that was found; 0 where the key is absent.
        found: Vec<Revision>,
    },
}

#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    #[error("revision {requested} has been compacted")]
    Compacted {
        requested: Revision,
        /// The oldest revision that can still be read, where the backend tells.
        oldest: Option<Revision>,
    },
    #[error("revision {requested} is newer than the store's ({current})")]
    Future { requested: Revision, current: Revision },
    #[error("no space left to write to the store")]
    NoSpace,
    #[error("the transaction is too large for the store")]
    TooLarge,
    #[error("a transaction names the key {key:?} twice")]
    Duplicate { key: String },
    #[error("{path} exists; a backup is restored only where no store is")]
    Exists { path: String },
    #[error("the store is in use by another process: {path}")]
    Locked { path: String },
    #[error("{path} is not a store of this version")]
    Foreign { path: String },
    #[error(
        "{key} is encrypted in the store, and no encryption configuration says how to read it: \
         --encryption-provider-config must name the one it was written with"
    )]
    Sealed { key: String },
    #[error("the store is damaged: {what}")]
    Corrupt { what: String },
    #[error("{operation}: the store is not available")]
    Unavailable {
        operation: &'static str,
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    /// The connection broke while a transaction was on its way: it may or may not be written.
    #[error("the store was lost during a transaction: it may or may not have been written")]
    Uncertain {
        #[source]
        source: Arc<dyn std::error::Error + Send + Sync>,
    },
    #[error("the store is closed")]
    Closed,
}
