//! The cache of one kind: a persistent map of its objects, and the ring of its recent changes.

use std::collections::VecDeque;
use std::ops::Bound;
use std::sync::Arc;

use imbl::OrdMap;
use parking_lot::RwLock;
use proto::kind::Row;
use tokio::sync::watch;

use super::ROOT;
use super::change::Change;
use super::entry::{Entry, Slot};
use super::facts::{Field, Paths};
use super::wake::{Only, Wake};
use super::watcher::{Gone, Watcher};
use crate::store::{KeyValue, Revision};

/// Changes that the ring holds at most.
const RING: usize = 16 * 1024;
/// Bytes of replaced and deleted objects that it keeps alive, beyond the newest [`RING_MIN`].
const RING_BYTES: usize = 16 << 20;
const RING_MIN: usize = 256;
/// Bytes of objects after which a read of the ring ends: a watcher that does not take what it has
/// read keeps it alive.
const READ_BYTES: usize = 64 << 10;

/// What a cache is told about a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KindSpec {
    /// As [`Row::storage`].
    pub storage: String,
    pub namespaced: bool,
    /// Beyond metadata.name and metadata.namespace, which every kind has.
    pub fields: Vec<Field>,
    prefix: String,
}

impl KindSpec {
    pub fn new(storage: &str, namespaced: bool, fields: impl IntoIterator<Item = Field>) -> Self {
        Self {
            storage: storage.to_owned(),
            namespaced,
            fields: fields.into_iter().collect(),
            prefix: format!("{ROOT}{storage}/"),
        }
    }

    /// A kind whose selectable fields are named by their paths.
    pub fn of(row: &Row, fields: &[&'static str]) -> Self {
        Self::new(&row.storage, row.namespaced, fields.iter().map(|field| Field::from(*field)))
    }

    /// `/registry/pods/`.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Kinds that are stored together, as one.
    pub(super) fn merge(specs: impl IntoIterator<Item = Self>) -> impl Iterator<Item = Self> {
        let mut merged: Vec<Self> = Vec::new();
        for spec in specs {
            match merged.iter_mut().find(|other| other.storage == spec.storage) {
                None => merged.push(spec),
                Some(other) => {
                    for field in spec.fields {
                        if !other.fields.contains(&field) {
                            other.fields.push(field);
                        }
                    }
                }
            }
        }
        merged.into_iter()
    }
}

/// See the module.
pub struct KindCache {
    spec: Arc<KindSpec>,
    paths: Paths,
    state: RwLock<State>,
    wake: Wake,
    progress: Arc<watch::Sender<Revision>>,
}

struct State {
    map: Map,
    ring: VecDeque<Arc<Change>>,
    /// The number of the ring's first change; numbers only grow.
    first: u64,
    /// The ring holds every change after this revision.
    floor: Revision,
    /// Of the last change, or of the load.
    revision: Revision,
    weight: usize,
    /// The number of the change at which everyone was woken last.
    woken: u64,
}

type Map = OrdMap<Arc<str>, Arc<Entry>>;

/// A kind as it was at one revision. Cheap to make and to keep.
#[derive(Clone)]
pub struct Snapshot {
    /// The store's revision.
    pub revision: Revision,
    map: Map,
    prefix: Arc<KindSpec>,
}

impl KindCache {
    /// Of a kind that is not stored: always empty.
    pub fn unstored() -> Self {
        KindCache::new(KindSpec::new("", true, []), Arc::new(watch::Sender::new(0)))
    }

    pub(super) fn new(spec: KindSpec, progress: Arc<watch::Sender<Revision>>) -> Self {
        let state = State {
            map: Map::new(),
            ring: VecDeque::new(),
            first: 0,
            floor: 0,
            revision: 0,
            weight: 0,
            woken: 0,
        };
        Self {
            paths: Paths::new(&spec.fields),
            spec: Arc::new(spec),
            state: RwLock::new(state),
            wake: Wake::new(),
            progress,
        }
    }

    pub fn storage(&self) -> &str {
        &self.spec.storage
    }

    /// `/registry/pods/`.
    pub fn prefix(&self) -> &str {
        self.spec.prefix()
    }

    /// The store's key of an object.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        match self.spec.namespaced {
            true => format!("{}{namespace}/{name}", self.prefix()),
            false => format!("{}{name}", self.prefix()),
        }
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        let key = self.key(namespace, name);
        self.state.read().map.get(key.as_str()).cloned()
    }

    /// The object as it was written at exactly this revision, also when it was written again since:
    /// the answer to a write. `None` once the history has passed it.
    pub fn get_at(&self, key: &str, revision: Revision) -> Option<Arc<Entry>> {
        let state = self.state.read();
        if let Some(entry) = state.map.get(key).filter(|entry| entry.revision == revision) {
            return Some(entry.clone());
        }
        let start = state.ring.partition_point(|change| change.revision < revision);
        let at = state.ring.range(start..).take_while(|change| change.revision == revision);
        at.filter_map(|change| change.new.clone()).find(|new| &*new.key == key)
    }

    /// Everything, at the newest revision.
    pub fn snapshot(&self) -> Snapshot {
        // Read before the map: whatever progress says is in the map then.
        let progress = *self.progress.borrow();
        let state = self.state.read();
        let revision = progress.max(state.revision);
        Snapshot { revision, map: state.map.clone(), prefix: self.spec.clone() }
    }

    /// Everything as it was at a revision that the cache has reached, by undoing the changes since;
    /// `None` where the history does not reach back.
    pub fn snapshot_at(&self, revision: Revision) -> Option<Snapshot> {
        let state = self.state.read();
        if revision < state.floor {
            return None;
        }
        let mut map = state.map.clone();
        let start = state.ring.partition_point(|change| change.revision <= revision);
        let undo: Vec<Arc<Change>> = state.ring.range(start..).cloned().collect();
        drop(state);
        for change in undo.iter().rev() {
            match (&change.old, &change.new) {
                (Some(old), _) => drop(map.insert(old.key.clone(), old.clone())),
                (None, Some(new)) => drop(map.remove(&new.key)),
                (None, None) => {}
            }
        }
        Some(Snapshot { revision, map, prefix: self.spec.clone() })
    }

    /// A cursor behind every change up to `from`. [`Gone`] where the history does not reach back.
    pub fn watcher(self: &Arc<Self>, from: Revision) -> Result<Watcher, Gone> {
        self.watcher_only(from, None)
    }

    /// The same, for a watch whose selector asks for one value of one field (metadata.name and
    /// metadata.namespace included): it is only woken by, and only yields, changes of objects that
    /// have this value or had it. A field that the kind does not have selects nothing here.
    pub fn watcher_of(
        self: &Arc<Self>,
        from: Revision,
        field: &str,
        value: &str,
    ) -> Result<Watcher, Gone> {
        let slot = Slot::of(&self.spec, field);
        self.watcher_only(from, slot.map(|slot| Only { slot, value: value.into() }))
    }

    fn watcher_only(self: &Arc<Self>, from: Revision, only: Option<Only>) -> Result<Watcher, Gone> {
        let wake = self.wake.subscribe(only.as_ref());
        let state = self.state.read();
        if from < state.floor {
            return Err(Gone { requested: from, oldest: state.floor });
        }
        let start = state.ring.partition_point(|change| change.revision <= from);
        let cursor = state.first + start as u64;
        drop(state);
        Ok(Watcher::new(self.clone(), cursor, from, only, wake))
    }

    /// Reads on from a cursor; `None` where it has fallen out of the ring.
    pub(super) fn read(&self, cursor: u64, limit: usize, only: Option<&Only>) -> Option<Read> {
        let progress = *self.progress.borrow();
        let state = self.state.read();
        let start = cursor.checked_sub(state.first)? as usize;
        let mut read = Read { changes: Vec::new(), cursor, seen: progress.max(state.revision) };
        let mut bytes = 0;
        for change in state.ring.range(start..) {
            if only.is_none_or(|only| only.concerns(change)) {
                if read.changes.len() == limit || bytes >= READ_BYTES {
                    read.seen = change.revision - 1;
                    break;
                }
                bytes += change.size();
                read.changes.push(change.clone());
            }
            read.cursor += 1;
        }
        Some(read)
    }

    /// Of the last change of this kind.
    pub fn revision(&self) -> Revision {
        self.state.read().revision
    }

    pub(super) fn floor(&self) -> Revision {
        self.state.read().floor
    }

    /// The entry of a stored value; nothing, and a complaint, where it is no object.
    pub(super) fn entry(&self, item: KeyValue) -> Option<Arc<Entry>> {
        let key = item.key.clone();
        match Entry::new(&self.spec, &self.paths, item) {
            Ok(entry) => Some(Arc::new(entry)),
            Err(error) => {
                tracing::error!(%key, %error, "a stored value is not a JSON object; it is not served");
                None
            }
        }
    }

    pub(super) fn snapshot_of(&self, revision: Revision, entries: Vec<Arc<Entry>>) -> Snapshot {
        Snapshot { revision, map: map_of(entries), prefix: self.spec.clone() }
    }

    /// Replaces everything; there is no history then, so that running watchers are gone.
    pub(super) fn load(&self, revision: Revision, entries: Vec<Arc<Entry>>) {
        let map = map_of(entries);
        let mut state = self.state.write();
        state.map = map;
        state.first += state.ring.len() as u64 + 1;
        state.ring.clear();
        state.weight = 0;
        state.floor = revision;
        state.revision = revision;
        state.woken = state.first;
        drop(state);
        self.wake.everyone();
    }

    /// Applies the changes of one revision.
    pub(super) fn apply(
        &self,
        changes: impl Iterator<Item = (Arc<str>, Revision, Option<Arc<Entry>>)>,
    ) {
        let changes: Vec<_> = changes.collect();
        let mut applied = Vec::with_capacity(changes.len());
        let mut state = self.state.write();
        for (key, revision, new) in changes {
            if revision <= state.floor {
                continue;
            }
            let old = match &new {
                Some(new) => state.map.insert(key, new.clone()),
                None => state.map.remove(&key),
            };
            state.revision = revision;
            if new.is_some() || old.is_some() {
                let change = Arc::new(Change::new(revision, new, old));
                state.push(change.clone());
                applied.push(change);
            }
        }
        let everyone = state.is_everyone_due();
        drop(state);
        match everyone {
            true => self.wake.everyone(),
            false => self.wake.changed(&applied),
        }
    }
}

/// What a watcher reads.
pub(super) struct Read {
    pub changes: Vec<Arc<Change>>,
    /// Behind them.
    pub cursor: u64,
    /// The revision up to which nothing is missing then.
    pub seen: Revision,
}

impl State {
    fn push(&mut self, change: Arc<Change>) {
        self.weight += change.weight();
        self.ring.push_back(change);
        while self.ring.len() > RING || (self.weight > RING_BYTES && self.ring.len() > RING_MIN) {
            let oldest = self.ring.pop_front().expect("the ring is longer than that");
            self.weight -= oldest.weight();
            self.first += 1;
            self.floor = oldest.revision;
        }
    }

    /// Watchers whom nothing concerns must move on, too, before the ring leaves them behind.
    fn is_everyone_due(&mut self) -> bool {
        let half_full = self.ring.len() > RING / 2 || self.weight > RING_BYTES / 2;
        let due = half_full && self.woken < self.first + self.ring.len() as u64 / 2;
        if due {
            self.woken = self.first + self.ring.len() as u64;
        }
        due
    }
}

impl Snapshot {
    pub fn len(&self) -> usize {
        self.map.len()
    }

    pub fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    pub fn get(&self, key: &str) -> Option<&Arc<Entry>> {
        self.map.get(key)
    }

    /// The objects of a namespace, or all with an empty one, in the order of their keys, which is
    /// that of lists; only those after a key, for the next page.
    pub fn list(&self, namespace: &str, after: Option<&str>) -> impl Iterator<Item = &Arc<Entry>> {
        let mut prefix = self.prefix.prefix().to_owned();
        if !namespace.is_empty() && self.prefix.namespaced {
            prefix += namespace;
            prefix += "/";
        }
        let start = match after {
            Some(after) if after >= prefix.as_str() => Bound::Excluded(after),
            _ => Bound::Included(prefix.as_str()),
        };
        let rest = self.map.range::<_, str>((start, Bound::Unbounded));
        rest.take_while(move |(key, _)| key.starts_with(&prefix)).map(|(_, entry)| entry)
    }
}

fn map_of(entries: Vec<Arc<Entry>>) -> Map {
    entries.into_iter().map(|entry| (entry.key.clone(), entry)).collect()
}
