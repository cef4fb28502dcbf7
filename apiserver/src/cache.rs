//! The cache: every kind's objects as the bytes that are served, and their recent history, from
//! which watches resume. All reads of the API server come from here; all its writes go through
//! [`Cache::transact`], which returns when the cache holds them.
//!
//! The store hands over its changes in revision order ([`store::Sink`]); each becomes an [`Entry`]
//! once. Nothing here may parse an object again, wait while it holds a lock, or keep anything per
//! watcher: a [`Watcher`] is a cursor.
//!
//! In short, for the registry:
//! - GET: `cache.fresh().await?`, then `kind.get(namespace, name)` → `entry.bytes()`.
//! - LIST: `cache.fresh().await?` (not for `resourceVersion=0`), then `kind.snapshot()` →
//!   `.revision`, `.list(namespace, after)`; a later page: `cache.snapshot_at(&kind, revision)`.
//! - `resourceVersion=N` (not older than): `cache.wait(n)` before either.
//! - WATCH: `kind.watcher(from)`, or `kind.watcher_of(from, field, value)` where the selector or the
//!   path asks for one value (a node, a name, a namespace) → `.next().await` → changes; each `.turn(|entry| selected)` →
//!   `.frame(turn)`. Initial state: `kind.snapshot()`, `entry.frame(EventType::Added)`, then
//!   `kind.watcher(snapshot.revision)`. Bookmarks: `watcher.progress()`.
//! - writes: `cache.transact(Txn::create(key, bytes))` and then `kind.get` for the answer's bytes,
//!   or `kind.get_at(key, revision)`, which cannot be overtaken by another write.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use client::Clock;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::store::encrypted::is_sealed;
use crate::store::history::{self, History};
use crate::store::{
    self, Change as Stored, Outcome, Range, Revision, Sink, Store, StoreError, Txn, Watch,
};

mod change;
mod entry;
mod facts;
mod kind;
mod wake;
mod watcher;

pub use change::{Change, EventType, Turn};
pub use entry::Entry;
pub use facts::Field;
pub use kind::{KindCache, KindSpec, Snapshot};
pub use watcher::{Gone, Watcher};

/// What all keys begin with.
pub const ROOT: &str = "/registry/";

/// How many revisions of the past are read back when the cache opens, so that watches resume
/// over a restart of the API server.
const REPLAY: Revision = 4096;

/// Objects per request while the cache is filled from the store.
const PAGE: usize = 1000;

/// Between attempts to read a store that is out of reach.
const RETRY: Duration = Duration::from_secs(1);

/// How long the cache may lag behind a revision before the store is asked to help.
const NUDGE: Duration = Duration::from_millis(30);

/// The caches of all kinds.
#[derive(Clone)]
pub struct Cache {
    shared: Arc<Shared>,
    _tasks: Arc<Tasks>,
}

/// Ended with the last handle.
struct Tasks([AbortHandle; 2]);

impl Drop for Tasks {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

struct Shared {
    store: Arc<dyn Store>,
    clock: Clock,
    kinds: HashMap<String, Arc<KindCache>>,
    /// The highest revision of which every kind holds all changes.
    progress: Arc<watch::Sender<Revision>>,
    /// Until the cache is full: the keys of values that nobody can read.
    sealed: Mutex<Option<BTreeSet<Arc<str>>>>,
    /// What precedes this revision was compacted away.
    forgotten: Arc<AtomicU64>,
}

impl Cache {
    /// Reads the store, follows it from then on and keeps its history short. Kinds with the same storage share a cache,
    /// which extracts the fields of both. Needs a tokio runtime.
    pub async fn open(
        store: Arc<dyn Store>,
        specs: impl IntoIterator<Item = KindSpec>,
        clock: Clock,
    ) -> Result<Self, StoreError> {
        let progress = Arc::new(watch::Sender::new(0));
        let kinds = KindSpec::merge(specs)
            .map(|spec| (spec.storage.clone(), Arc::new(KindCache::new(spec, progress.clone()))))
            .collect();
        let sealed = Mutex::new(Some(BTreeSet::new()));
        let forgotten = Arc::default();
        let shared = Arc::new(Shared { store, clock, kinds, progress, sealed, forgotten });
        let (watch, now) = shared.fill().await?;
        let feed = tokio::spawn(follow(shared.clone(), watch));
        let written = shared.progress.subscribe();
        let (store, clock) = (shared.store.clone(), shared.clock.clone());
        let forgotten = shared.forgotten.clone();
        let keep = history::keep(store, written, History::default(), clock, forgotten);
        let keep = tokio::spawn(keep);
        let tasks = Tasks([feed.abort_handle(), keep.abort_handle()]);
        let cache = Self { shared, _tasks: Arc::new(tasks) };
        cache.reach(now).await?;
        cache.shared.refuse_sealed().await?;
        Ok(cache)
    }

    /// The cache of the kind stored under this folder ([`proto::kind::Row::storage`]).
    pub fn kind(&self, storage: &str) -> Option<Arc<KindCache>> {
        self.shared.kinds.get(storage).cloned()
    }

    /// Commits to the store and returns when the cache holds the outcome: the writer reads its
    /// own write, and whoever lost a conflict reads what it lost to.
    pub async fn transact(&self, txn: Txn) -> Result<Outcome, StoreError> {
        let outcome = self.shared.store.transact(txn).await?;
        match &outcome {
            // Written is written, also when the store fails now.
            Outcome::Committed(revision) => {
                if self.reach(*revision).await.is_err() {
                    self.wait(*revision).await;
                }
            }
            Outcome::Conflict { revision, .. } => self.reach(*revision).await?,
        }
        Ok(outcome)
    }

    /// The linearizable barrier: when it returns the cache holds every write acknowledged before
    /// the call, by whichever API server. With the embedded stores it does not wait.
    pub async fn fresh(&self) -> Result<Revision, StoreError> {
        let revision = self.shared.store.revision().await?;
        self.reach(revision).await?;
        Ok(revision)
    }

    /// Waits for a revision that the store has. Usually it is here or on its way.
    async fn reach(&self, revision: Revision) -> Result<(), StoreError> {
        if self.progress() < revision
            && self.shared.clock.timeout(NUDGE, self.wait(revision)).await.is_err()
        {
            self.shared.store.nudge(revision).await?;
            self.wait(revision).await;
        }
        Ok(())
    }

    /// Returns when the cache has seen this revision; the caller sets a deadline.
    pub async fn wait(&self, revision: Revision) {
        if *self.shared.progress.borrow() < revision {
            let mut progress = self.shared.progress.subscribe();
            // The sender lives as long as this cache.
            let _ = progress.wait_for(|seen| *seen >= revision).await;
        }
    }

    /// The highest revision of which every kind holds all changes.
    pub fn progress(&self) -> Revision {
        *self.shared.progress.borrow()
    }

    /// Woken by each change of [`Cache::progress`].
    pub fn progressed(&self) -> watch::Receiver<Revision> {
        self.shared.progress.subscribe()
    }

    /// A kind as it was at a revision, for the later pages of a list: from the cache's history, or
    /// else from the store's. What the store has forgotten is gone from here, too: pages of a list
    /// end for everyone, whatever each server still remembers.
    pub async fn snapshot_at(
        &self,
        kind: &KindCache,
        revision: Revision,
    ) -> Result<Snapshot, StoreError> {
        self.wait_known(revision).await?;
        let oldest = self.shared.forgotten.load(Ordering::Acquire);
        if revision < oldest {
            return Err(StoreError::Compacted { requested: revision, oldest: Some(oldest) });
        }
        if let Some(snapshot) = kind.snapshot_at(revision) {
            return Ok(snapshot);
        }
        let mut entries = Vec::new();
        let range = Range { prefix: kind.prefix(), at: Some(revision), after: None, limit: PAGE };
        list(&*self.shared.store, range, |item| entries.extend(kind.entry(item))).await?;
        Ok(kind.snapshot_of(revision, entries))
    }

    /// The store, for keys that are no objects (allocators' ranges).
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.shared.store
    }

    /// A page token may come from another API server that is ahead, or from nowhere.
    async fn wait_known(&self, revision: Revision) -> Result<(), StoreError> {
        if self.progress() < revision {
            let current = self.fresh().await?;
            if current < revision {
                return Err(StoreError::Future { requested: revision, current });
            }
        }
        Ok(())
    }
}

impl Shared {
    /// Loads every kind as it was some revisions ago and starts the watch that replays the rest, up
    /// to the revision that is returned and beyond.
    async fn fill(self: &Arc<Self>) -> Result<(Watch, Revision), StoreError> {
        let now = self.store.revision().await?;
        // Never back behind what has been served.
        let mut start = now.saturating_sub(REPLAY).max(*self.progress.borrow());
        loop {
            match self.load(start).await {
                Ok(()) => break,
                Err(StoreError::Compacted { oldest, .. }) if start < now => {
                    start = oldest.unwrap_or(now).min(now);
                }
                // What is current now may be compacted away before it is read.
                Err(StoreError::Compacted { .. }) => return Box::pin(self.fill()).await,
                Err(error) => return Err(error),
            }
        }
        Ok((self.store.watch(ROOT, start, self.clone()).await?, now))
    }

    async fn load(&self, revision: Revision) -> Result<(), StoreError> {
        let mut loaded: HashMap<&str, Vec<Arc<Entry>>> = HashMap::new();
        let range = Range { prefix: ROOT, at: Some(revision), after: None, limit: PAGE };
        list(&*self.store, range, |item| {
            if let Some(kind) = self.kind_of(&item.key) {
                let entry = self.entry(kind, item);
                loaded.entry(kind.storage()).or_default().extend(entry);
            }
        })
        .await?;
        for kind in self.kinds.values() {
            kind.load(revision, loaded.remove(kind.storage()).unwrap_or_default());
        }
        self.progress
            .send_if_modified(|seen| std::mem::replace(seen, revision.max(*seen)) < revision);
        Ok(())
    }

    /// As [`KindCache::entry`]; remembers what is sealed.
    fn entry(&self, kind: &KindCache, item: store::KeyValue) -> Option<Arc<Entry>> {
        if is_sealed(&item.value)
            && let Some(keys) = &mut *self.sealed.lock()
        {
            keys.insert(item.key.clone());
            return None;
        }
        kind.entry(item)
    }

    /// Fails where a value of now is sealed, not only one of the past: who cannot read what is
    /// stored must not answer that it is not there.
    async fn refuse_sealed(&self) -> Result<(), StoreError> {
        let keys = self.sealed.lock().take().unwrap_or_default();
        for key in keys {
            let value = self.store.get(&key, None).await?.value;
            if value.is_some_and(|item| is_sealed(&item.value)) {
                return Err(StoreError::Sealed { key: key.to_string() });
            }
        }
        Ok(())
    }

    /// The storage folder is the key's first segment, or its first two (`services/specs`).
    fn kind_of(&self, key: &str) -> Option<&Arc<KindCache>> {
        let rest = key.strip_prefix(ROOT)?;
        let mut slashes = rest.match_indices('/').map(|(i, _)| i);
        let first = slashes.next()?;
        self.kinds.get(&rest[..first]).or_else(|| self.kinds.get(&rest[..slashes.next()?]))
    }
}

impl Sink for Shared {
    fn apply(&self, events: &[store::Event], revision: Revision) {
        let mut start = 0;
        while start < events.len() {
            // One lock per run of changes of one kind and revision: a snapshot never shows half
            // of a transaction.
            let at = events[start].revision;
            let same = events[start..].iter().take_while(|event| event.revision == at).count();
            self.apply_revision(&events[start..start + same]);
            start += same;
        }
        self.progress
            .send_if_modified(|seen| std::mem::replace(seen, revision.max(*seen)) < revision);
    }
}

impl Shared {
    fn apply_revision(&self, events: &[store::Event]) {
        let mut rest: Vec<(&Arc<KindCache>, &store::Event)> =
            events.iter().filter_map(|event| Some((self.kind_of(&event.key)?, event))).collect();
        while let Some((kind, _)) = rest.first().copied() {
            let changes = rest.extract_if(.., |(other, _)| Arc::ptr_eq(kind, other));
            kind.apply(changes.filter_map(|(_, event)| {
                let new = match &event.change {
                    Stored::Put(item) => Some(self.entry(kind, item.clone())?),
                    Stored::Delete => None,
                };
                Some((event.key.clone(), event.revision, new))
            }));
        }
    }
}

/// Follows the store for as long as the cache lives: where its watch ends (compacted away while
/// the store was out of reach), everything is read anew and running watches end with 410.
async fn follow(shared: Arc<Shared>, mut watch: Watch) {
    loop {
        let error = watch.ended().await;
        tracing::warn!(%error, "the watch of the store ended; reading everything anew");
        watch = loop {
            match shared.fill().await {
                Ok((watch, _)) => break watch,
                Err(StoreError::Closed) => return,
                Err(error) => tracing::error!(%error, "cannot read the store"),
            }
            shared.clock.sleep(RETRY).await;
        };
    }
}

/// Reads a range page by page, at one revision.
async fn list(
    store: &dyn Store,
    mut range: Range<'_>,
    mut each: impl FnMut(store::KeyValue),
) -> Result<(), StoreError> {
    let mut after: Option<Arc<str>> = None;
    loop {
        let page = store.list(Range { after: after.as_deref(), ..range }).await?;
        range.at = Some(page.revision);
        after = page.items.last().map(|item| item.key.clone());
        page.items.into_iter().for_each(&mut each);
        if !page.more {
            return Ok(());
        }
    }
}
