//! The redb file: a table of all changes that are not yet forgotten, by revision, and the counters
//! that must outlive them. Appending is all that a write does.

use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;
use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::file::{Boxed, Device};
use super::unavailable;
use crate::store::index::{Index, Version};
use crate::store::{Revision, StoreError};

/// Place → create revision (8 bytes, 0 in a deletion), length of the key (2), key, value; numbers
/// are little-endian.
const LOG: TableDefinition<u128, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const FORMAT: u64 = 1;
const HEAD: usize = 10;

/// redb's own cache. Reads come from the API server's; this holds the tree's upper pages.
const CACHE: usize = 8 << 20;

/// One change, to be appended.
pub struct Record {
    pub place: u128,
    pub key: Arc<str>,
    pub create_revision: Revision,
    /// Absent in a deletion.
    pub value: Option<Bytes>,
}

/// What one durable commit does.
#[derive(Default)]
pub struct Batch<'a> {
    pub append: &'a [Record],
    pub forget: &'a [u128],
    /// The counters: compacted, current.
    pub counters: Option<(Revision, Revision)>,
}

pub struct Log {
    device: Box<dyn Device>,
    shown: String,
    /// Absent after a failure, until it can be opened again.
    db: Option<Database>,
}

/// Where a change lies: its revision and its number within that.
pub fn place(revision: Revision, sub: u32) -> u128 {
    (u128::from(revision) << 32) | u128::from(sub)
}

impl Log {
    /// Opens the log and builds the index over it; what a crash kept from being forgotten comes
    /// as garbage when the caller compacts the index to where it already is.
    pub fn open(shown: String, device: Box<dyn Device>) -> Result<(Self, Index<()>), StoreError> {
        let mut log = Self { device, shown, db: None };
        let db = log.open_database().map_err(|error| log.explain("opening the store", error))?;
        let read = read_index(&db).map_err(|error| log.explain("reading the store", error))?;
        log.db = Some(db);
        match read {
            Read::Index(index) => Ok((log, index)),
            Read::Foreign => Err(StoreError::Foreign { path: log.shown }),
        }
    }

    /// Not after a failure, until [`Log::recover`].
    pub fn is_open(&self) -> bool {
        self.db.is_some()
    }

    /// Opens the file again where a failure closed it, and drops what lies behind
    /// `revision`: it was never acknowledged.
    pub fn recover(&mut self, revision: Revision) -> Result<(), StoreError> {
        if self.db.is_some() {
            return Ok(());
        }
        let reopened = self.open_database().and_then(|db| {
            forget_after(&db, revision)?;
            Ok(db)
        });
        match reopened {
            Ok(db) => {
                tracing::info!(store = self.shown, "the store is writable again");
                self.db = Some(db);
                Ok(())
            }
            Err(error) => Err(self.explain("opening the store again", error)),
        }
    }

    /// Durable when it returns. After an error nothing of the batch is there, and the log must
    /// [`Log::recover`].
    pub fn commit(&mut self, batch: &Batch<'_>) -> Result<(), StoreError> {
        let db = self.db.as_ref().ok_or(StoreError::Closed)?;
        commit(db, batch).map_err(|error| {
            self.db = None;
            self.explain("writing to the store", error)
        })
    }

    /// The values at some places, in order; `None` where there is nothing.
    pub fn read(
        &mut self,
        places: impl IntoIterator<Item = u128>,
    ) -> Result<Vec<Option<Bytes>>, StoreError> {
        let db = self.db.as_ref().ok_or(StoreError::Closed)?;
        let read = || -> Result<_, redb::Error> {
            let read = db.begin_read()?;
            let table = read.open_table(LOG)?;
            let value = |place| -> Result<_, redb::Error> {
                Ok(table.get(place)?.map(|record| Bytes::copy_from_slice(parse(record.value()).2)))
            };
            places.into_iter().map(value).collect()
        };
        read().map_err(|error| {
            self.db = None;
            self.explain("reading the store", error)
        })
    }

    fn open_database(&self) -> Result<Database, redb::Error> {
        let backend = Boxed(self.device.backend());
        Ok(Database::builder().set_cache_size(CACHE).create_with_backend(backend)?)
    }

    fn explain(&self, operation: &'static str, error: redb::Error) -> StoreError {
        match error {
            redb::Error::Io(source) if is_full(&source) => StoreError::NoSpace,
            redb::Error::Io(source) if source.kind() == io::ErrorKind::InvalidData => {
                StoreError::Foreign { path: self.shown.clone() }
            }
            redb::Error::UpgradeRequired(_) => StoreError::Foreign { path: self.shown.clone() },
            redb::Error::ValueTooLarge(_) => StoreError::TooLarge,
            redb::Error::Corrupted(what) => {
                StoreError::Corrupt { what: format!("{}: {what}", self.shown) }
            }
            source => unavailable(operation, source),
        }
    }
}

fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

fn commit(db: &Database, batch: &Batch<'_>) -> Result<(), redb::Error> {
    let mut txn = db.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    txn.set_two_phase_commit(true);
    {
        let mut log = txn.open_table(LOG)?;
        for record in batch.append {
            let value = record.value.as_deref().unwrap_or_default();
            let key = record.key.as_bytes();
            let mut slot = log.insert_reserve(record.place, HEAD + key.len() + value.len())?;
            let slot = slot.as_mut();
            slot[..8].copy_from_slice(&record.create_revision.to_le_bytes());
            slot[8..HEAD].copy_from_slice(&(key.len() as u16).to_le_bytes());
            slot[HEAD..HEAD + key.len()].copy_from_slice(key);
            slot[HEAD + key.len()..].copy_from_slice(value);
        }
        for place in batch.forget {
            log.remove(place)?;
        }
    }
    if let Some((compacted, revision)) = batch.counters {
        let mut meta = txn.open_table(META)?;
        meta.insert("format", FORMAT)?;
        meta.insert("compacted", compacted)?;
        meta.insert("revision", revision)?;
    }
    Ok(txn.commit()?)
}

enum Read {
    Index(Index<()>),
    /// Another program's database, or another version's.
    Foreign,
}

fn read_index(db: &Database) -> Result<Read, redb::Error> {
    let read = db.begin_read()?;
    if read.list_tables()?.next().is_none() {
        // A new file. The first commit makes the tables: opening is quick.
        return Ok(Read::Index(Index::new()));
    }
    let tables = read.open_table(LOG).and_then(|log| Ok((log, read.open_table(META)?)));
    let (log, meta) = match tables {
        Ok(tables) => tables,
        Err(redb::TableError::Storage(error)) => return Err(error.into()),
        Err(_) => return Ok(Read::Foreign),
    };
    let counter = |name| -> Result<u64, redb::Error> {
        Ok(meta.get(name)?.map_or(0, |number| number.value()))
    };
    if counter("format")? != FORMAT {
        return Ok(Read::Foreign);
    }
    let mut index = Index::new();
    for item in log.iter()? {
        let (place, record) = item?;
        let (create_revision, key, _) = parse(record.value());
        let (mod_revision, sub) = ((place.value() >> 32) as Revision, place.value() as u32);
        let key = index.intern(&String::from_utf8_lossy(key).into());
        index.push(key, Version { mod_revision, create_revision, sub, value: () });
    }
    index.advance(counter("revision")?);
    index.resume(counter("compacted")?);
    Ok(Read::Index(index))
}

fn forget_after(db: &Database, revision: Revision) -> Result<(), redb::Error> {
    let behind: RangeInclusive<u128> = place(revision + 1, 0)..=u128::MAX;
    let unacknowledged: Vec<u128> = {
        let read = db.begin_read()?;
        let log = match read.open_table(LOG) {
            Ok(log) => log,
            // Not even the first commit has come through.
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let places = log.range(behind)?.map(|item| Ok(item?.0.value()));
        places.collect::<Result<_, redb::Error>>()?
    };
    if unacknowledged.is_empty() {
        return Ok(());
    }
    commit(db, &Batch { forget: &unacknowledged, ..Batch::default() })
}

fn parse(record: &[u8]) -> (Revision, &[u8], &[u8]) {
    let (create, rest) = record.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
    let (len, rest) = rest.split_first_chunk::<2>().unwrap_or((&[0; 2], &[]));
    let len = usize::from(u16::from_le_bytes(*len)).min(rest.len());
    (Revision::from_le_bytes(*create), &rest[..len], &rest[len..])
}
