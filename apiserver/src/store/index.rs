//! The history of every key, in memory: which versions there are and where their values lie. Pure;
//! the memory store keeps the values themselves in it, the embedded store only their places.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::{Op, Revision, StoreError, Txn};

/// `V` is what is kept of a value.
pub struct Index<V> {
    keys: BTreeMap<Arc<str>, Vec<Version<V>>>,
    /// The changes after `compacted`, in order.
    log: VecDeque<Logged>,
    revision: Revision,
    compacted: Revision,
}

/// A key's state from one revision to its next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version<V> {
    pub mod_revision: Revision,
    /// 0 where the key was deleted.
    pub create_revision: Revision,
    /// Its place among the changes of the revision.
    pub sub: u32,
    pub value: V,
}

impl<V> Version<V> {
    pub fn is_deletion(&self) -> bool {
        self.create_revision == 0
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    pub revision: Revision,
    pub sub: u32,
    pub key: Arc<str>,
}

/// One change that a transaction makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub key: Arc<str>,
    /// Absent in a deletion.
    pub value: Option<Bytes>,
    /// 0 in a deletion.
    pub create_revision: Revision,
}

/// The revisions of a key's current value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Current {
    pub mod_revision: Revision,
    pub create_revision: Revision,
}

/// What a transaction writes at `revision`, or the mod revisions that its guards found. `current`
/// tells the state that it meets.
pub fn evaluate(
    txn: &Txn,
    revision: Revision,
    current: impl Fn(&str) -> Option<Current>,
) -> Result<Vec<Write>, Vec<Revision>> {
    let found: Vec<Revision> = txn
        .guards
        .iter()
        .map(|guard| current(&guard.key).map_or(0, |current| current.mod_revision))
        .collect();
    if txn.guards.iter().zip(&found).any(|(guard, found)| guard.expected != *found) {
        return Err(found);
    }
    let writes = txn.ops.iter().filter_map(|op| {
        let current = current(op.key());
        match op {
            Op::Put { key, value } => Some(Write {
                key: key.clone(),
                value: Some(value.clone()),
                create_revision: current.map_or(revision, |current| current.create_revision),
            }),
            Op::Delete { key } => {
                current.map(|_| Write { key: key.clone(), value: None, create_revision: 0 })
            }
        }
    });
    Ok(writes.collect())
}

impl<V> Index<V> {
    pub fn new() -> Self {
        Self { keys: BTreeMap::new(), log: VecDeque::new(), revision: 1, compacted: 0 }
    }

    pub fn revision(&self) -> Revision {
        self.revision
    }

    pub fn compacted(&self) -> Revision {
        self.compacted
    }

    /// Raises the counter to a revision whose changes have all been forgotten.
    pub fn advance(&mut self, revision: Revision) {
        self.revision = self.revision.max(revision);
    }

    /// Says up to where an index that was just rebuilt had been compacted. Compacting it to there
    /// finds what was not removed then.
    pub fn resume(&mut self, compacted: Revision) {
        self.compacted = compacted;
    }

    pub fn current(&self, key: &str) -> Option<Current> {
        let last = self.keys.get(key)?.last()?;
        (!last.is_deletion()).then_some(Current {
            mod_revision: last.mod_revision,
            create_revision: last.create_revision,
        })
    }

    /// The index's own copy of a key, so that all holders share one.
    pub fn intern(&self, key: &Arc<str>) -> Arc<str> {
        self.keys.get_key_value(key).map_or_else(|| key.clone(), |(own, _)| own.clone())
    }

    /// Records one change. Changes come in the order of (revision, sub).
    pub fn push(&mut self, key: Arc<str>, version: Version<V>) {
        self.revision = self.revision.max(version.mod_revision);
        self.log.push_back(Logged {
            revision: version.mod_revision,
            sub: version.sub,
            key: key.clone(),
        });
        // Most keys have one version: no room for four.
        self.keys.entry(key).or_insert_with(|| Vec::with_capacity(1)).push(version);
    }

    /// The revision to read for a request, if it can be read.
    pub fn readable(&self, at: Option<Revision>) -> Result<Revision, StoreError> {
        match at {
            None => Ok(self.revision),
            Some(at) if at < self.compacted => {
                Err(StoreError::Compacted { requested: at, oldest: Some(self.compacted) })
            }
            Some(at) if at > self.revision => {
                Err(StoreError::Future { requested: at, current: self.revision })
            }
            Some(at) => Ok(at),
        }
    }

    /// The value that the key had at a revision.
    pub fn get(&self, key: &str, at: Revision) -> Option<(&Arc<str>, &Version<V>)> {
        let (key, versions) = self.keys.get_key_value(key)?;
        Some((key, visible(versions, at)?))
    }

    /// The values under a prefix at a revision, after a key.
    pub fn range<'a>(
        &'a self,
        prefix: &'a str,
        at: Revision,
        after: Option<&str>,
    ) -> impl Iterator<Item = (&'a Arc<str>, &'a Version<V>)> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        self.keys
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
            .filter_map(move |(key, versions)| Some((key, visible(versions, at)?)))
    }

    /// The versions made after a revision, which is not older than `compacted`.
    pub fn since(&self, from: Revision) -> impl Iterator<Item = (&Arc<str>, &Version<V>)> {
        let start = self.log.partition_point(|logged| logged.revision <= from);
        self.log.range(start..).filter_map(|logged| {
            let versions = self.keys.get(&logged.key)?;
            let i = versions.partition_point(|version| version.mod_revision < logged.revision);
            Some((&logged.key, versions.get(i)?))
        })
    }

    /// Forgets the versions that no revision from this one on shows, and returns their places.
    pub fn compact(&mut self, revision: Revision) -> Result<Vec<(Revision, u32)>, StoreError> {
        if revision > self.revision {
            return Err(StoreError::Future { requested: revision, current: self.revision });
        }
        let mut garbage = Vec::new();
        while self.log.front().is_some_and(|logged| logged.revision <= revision) {
            let logged = self.log.pop_front().expect("the front was just seen");
            let Some(versions) = self.keys.get_mut(&logged.key) else { continue };
            let after = versions.partition_point(|version| version.mod_revision <= revision);
            let Some(last) = after.checked_sub(1) else { continue };
            let dead = if versions[last].is_deletion() { after } else { last };
            garbage.extend(versions.drain(..dead).map(|v| (v.mod_revision, v.sub)));
            if versions.is_empty() {
                self.keys.remove(&logged.key);
            } else if dead > 0 {
                versions.shrink_to_fit();
            }
        }
        self.compacted = self.compacted.max(revision);
        Ok(garbage)
    }
}

fn visible<V>(versions: &[Version<V>], at: Revision) -> Option<&Version<V>> {
    let after = versions.partition_point(|version| version.mod_revision <= at);
    versions[..after].last().filter(|version| !version.is_deletion())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(changes: &[(&str, Revision, Revision)]) -> Index<u64> {
        let mut index = Index::new();
        for (key, mod_revision, create_revision) in changes {
            let version = Version {
                mod_revision: *mod_revision,
                create_revision: *create_revision,
                sub: 0,
                value: *mod_revision,
            };
            index.push((*key).into(), version);
        }
        index
    }

    #[test]
    fn compaction_keeps_what_later_revisions_show() {
        // a: written 2, 4, 7; b: written 3, deleted 5; c: written 6.
        let changes =
            [("a", 2, 2), ("b", 3, 3), ("a", 4, 2), ("b", 5, 0), ("c", 6, 6), ("a", 7, 2)];
        for compact in 1..=7 {
            let (whole, mut index) = (index(&changes), index(&changes));
            index.compact(compact).unwrap();
            for at in compact..=7 {
                let shown = |index: &Index<u64>| {
                    index.range("", at, None).map(|(k, v)| (k.clone(), v.value)).collect::<Vec<_>>()
                };
                assert_eq!(shown(&whole), shown(&index), "compacted at {compact}, read at {at}");
                assert_eq!(
                    whole.since(at).collect::<Vec<_>>(),
                    index.since(at).collect::<Vec<_>>(),
                    "compacted at {compact}, watched from {at}"
                );
            }
        }
    }

    #[test]
    fn compaction_returns_each_dead_version_once() {
        let changes =
            [("a", 2, 2), ("b", 3, 3), ("a", 4, 2), ("b", 5, 0), ("c", 6, 6), ("a", 7, 2)];
        let mut index = index(&changes);
        assert_eq!(index.compact(4).unwrap(), [(2, 0)]);
        assert_eq!(index.compact(4).unwrap(), []);
        assert_eq!(index.compact(7).unwrap(), [(3, 0), (5, 0), (4, 0)]);
        assert!(matches!(index.compact(8), Err(StoreError::Future { .. })));
        assert!(matches!(index.readable(Some(6)), Err(StoreError::Compacted { .. })));
    }
}
