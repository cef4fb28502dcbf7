//! Power loss under the embedded store: of the writes since the last sync any may be on the disk,
//! whole, in part or not at all.

use std::fmt;
use std::io;
use std::sync::Arc;

use apiserver::store::embedded::EmbeddedStore;
use apiserver::store::embedded::file::Device;
use apiserver::store::{KeyValue, Op, Outcome, Range, Revision, Store, Txn};
use bytes::Bytes;
use client::Rng;
use parking_lot::Mutex;
use redb::StorageBackend;

#[derive(Clone)]
struct Disk(Arc<Mutex<Platter>>);

#[derive(Default)]
struct Platter {
    /// What programs read.
    view: Vec<u8>,
    /// What is certain to survive.
    durable: Vec<u8>,
    unsynced: Vec<Change>,
    /// Operations until the power fails.
    left: u64,
}

enum Change {
    Length(usize),
    Write(usize, Vec<u8>),
}

const SECTOR: usize = 512;

impl Platter {
    fn step(&mut self) -> io::Result<()> {
        self.left = self.left.checked_sub(1).ok_or_else(|| io::Error::other("no power"))?;
        Ok(())
    }

    /// The disk as it is found after the power failed.
    fn lose_power(&mut self, rng: &Rng) {
        for change in self.unsynced.drain(..) {
            match change {
                Change::Length(len) if rng.below(2) == 0 => self.durable.resize(len, 0),
                Change::Length(_) => {}
                Change::Write(offset, data) => {
                    let fate = rng.below(3);
                    for (i, sector) in data.chunks(SECTOR).enumerate() {
                        if fate == 0 || (fate == 1 && rng.below(2) == 0) {
                            let start = offset + i * SECTOR;
                            let end = start + sector.len();
                            self.durable.resize(self.durable.len().max(end), 0);
                            self.durable[start..end].copy_from_slice(sector);
                        }
                    }
                }
            }
        }
        self.view = self.durable.clone();
    }
}

impl Device for Disk {
    fn backend(&self) -> Box<dyn StorageBackend> {
        Box::new(self.clone())
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().view.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let disk = self.0.lock();
        let from = disk.view.get(offset as usize..offset as usize + out.len());
        out.copy_from_slice(from.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut disk = self.0.lock();
        disk.step()?;
        disk.view.resize(len as usize, 0);
        disk.unsynced.push(Change::Length(len as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.0.lock();
        disk.step()?;
        for change in std::mem::take(&mut disk.unsynced) {
            match change {
                Change::Length(len) => disk.durable.resize(len, 0),
                Change::Write(offset, data) => {
                    disk.durable[offset..offset + data.len()].copy_from_slice(&data);
                }
            }
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut disk = self.0.lock();
        disk.step()?;
        let offset = offset as usize;
        disk.view[offset..offset + data.len()].copy_from_slice(data);
        disk.unsynced.push(Change::Write(offset, data.to_vec()));
        Ok(())
    }
}

#[tokio::test]
async fn power_may_fail_at_any_operation() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| Rng::from_os().u64());
    eprintln!("SEED={seed}");
    let rng = Rng::seeded(seed);
    let disk = Disk(Arc::new(Mutex::new(Platter { left: u64::MAX, ..Platter::default() })));
    let open = || {
        disk.0.lock().left = u64::MAX;
        let device = disk.clone();
        EmbeddedStore::open_on("disk".into(), move || Ok(device))
    };
    // The first open makes the file: the power may fail from then on.
    drop(open().await.unwrap());
    let mut acknowledged: Vec<(String, Revision, Bytes)> = Vec::new();
    let mut highest = 1;
    for round in 0..60 {
        let store = open().await.unwrap_or_else(|error| panic!("round {round}: {error:?}"));
        // What was on its way when the power failed has happened or not: it is known now.
        (acknowledged, highest) = verify(&store, &acknowledged, highest, round).await;
        disk.0.lock().left = rng.below(120);
        for i in 0.. {
            let key = format!("/{}", rng.below(30));
            let value: Bytes =
                format!("{round}-{i}-{}", "x".repeat(rng.below(9000) as usize)).into();
            let put = Op::Put { key: key.as_str().into(), value: value.clone() };
            match store.transact(Txn { guards: vec![], ops: vec![put] }).await {
                Ok(Outcome::Committed(revision)) => {
                    assert!(revision > highest);
                    highest = revision;
                    acknowledged.retain(|(other, ..)| *other != key);
                    acknowledged.push((key, revision, value));
                }
                Ok(conflict) => panic!("{conflict:?}"),
                Err(_) => break,
            }
            if i % 10 == 9 {
                let _ = store.compact(highest - 5).await;
            }
        }
        drop(store);
        disk.0.lock().lose_power(&rng);
    }
}

async fn verify(
    store: &EmbeddedStore,
    acknowledged: &[(String, Revision, Bytes)],
    highest: Revision,
    round: u64,
) -> (Vec<(String, Revision, Bytes)>, Revision) {
    let page = store.list(Range { prefix: "/", ..Range::default() }).await.unwrap();
    assert!(page.revision >= highest, "round {round}");
    for (key, revision, value) in acknowledged {
        let item = page.items.iter().find(|item| &*item.key == key);
        let item = item.unwrap_or_else(|| panic!("round {round}: {key} is lost"));
        // The write that was on its way may have replaced it.
        let kept = item.mod_revision == *revision && item.value == *value;
        assert!(kept || item.mod_revision > highest, "round {round}: {key} is old");
    }
    let found = |item: KeyValue| (item.key.to_string(), item.mod_revision, item.value);
    (page.items.into_iter().map(found).collect(), page.revision)
}
