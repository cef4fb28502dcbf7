//! The embedded store and its file: what survives, what is refused, and a disk without room.

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use apiserver::store::embedded::EmbeddedStore;
use apiserver::store::embedded::file::{Device, File};
use apiserver::store::{Op, Outcome, Range, Revision, Store, StoreError, Txn};
use bytes::Bytes;
use redb::StorageBackend;

fn put(key: &str, value: impl Into<Bytes>) -> Txn {
    Txn { guards: vec![], ops: vec![Op::Put { key: key.into(), value: value.into() }] }
}

async fn commit(store: &dyn Store, txn: Txn) -> Revision {
    match store.transact(txn).await.unwrap() {
        Outcome::Committed(revision) => revision,
        conflict => panic!("{conflict:?}"),
    }
}

async fn values(store: &dyn Store, at: Option<Revision>) -> Vec<(String, Bytes, Revision)> {
    let page = store.list(Range { prefix: "/", at, ..Range::default() }).await.unwrap();
    page.items
        .into_iter()
        .map(|item| (item.key.to_string(), item.value, item.mod_revision))
        .collect()
}

#[tokio::test]
async fn everything_survives_closing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let open = || EmbeddedStore::open(&path);
    let store = open().await.unwrap();
    assert_eq!(store.revision().await.unwrap(), 1);
    let first = commit(&store, put("/a", "1")).await;
    let second = commit(&store, put("/a", "2")).await;
    commit(&store, put("/b", "1")).await;
    let deleted =
        commit(&store, Txn { guards: vec![], ops: vec![Op::Delete { key: "/b".into() }] }).await;
    let expected = [("/a".to_owned(), Bytes::from("2"), second)];
    drop(store);

    let store = open().await.unwrap();
    assert_eq!(store.revision().await.unwrap(), deleted);
    assert_eq!(values(&store, None).await, expected);
    assert_eq!(values(&store, Some(first)).await[0].1, "1", "history survives, too");
    // The counter goes on though the revision that it shows is forgotten.
    store.compact(deleted).await.unwrap();
    // A job behind the sweep that follows: closing waits for it.
    store.get("/a", None).await.unwrap();
    drop(store);
    let store = open().await.unwrap();
    assert_eq!(store.revision().await.unwrap(), deleted);
    assert_eq!(values(&store, None).await, expected);
    assert_eq!(commit(&store, put("/c", "1")).await, deleted + 1);
}

#[tokio::test]
async fn a_second_process_is_refused_and_so_are_other_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let store = EmbeddedStore::open(&path).await.unwrap();
    let second = EmbeddedStore::open(&path).await.err().unwrap();
    assert!(matches!(second, StoreError::Locked { .. }), "{second:?}");
    assert!(second.to_string().contains("store.redb"), "{second}");
    drop(store);
    EmbeddedStore::open(&path).await.unwrap();

    let other = folder.path().join("other");
    std::fs::write(&other, "no database").unwrap();
    let error = EmbeddedStore::open(&other).await.err().unwrap();
    assert!(matches!(error, StoreError::Foreign { .. }), "{error:?}");
    let error = EmbeddedStore::open(Path::new("/nowhere/store.redb")).await.err().unwrap();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
}

/// A disk of `room` bytes: writing beyond them fails as a full one does.
struct SmallDisk {
    file: File,
    room: Arc<AtomicU64>,
}

struct Backend(File, Arc<AtomicU64>);

impl Device for SmallDisk {
    fn backend(&self) -> Box<dyn StorageBackend> {
        Box::new(Backend(self.file.clone(), self.room.clone()))
    }
}

impl fmt::Debug for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Backend")
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        if offset + data.len() as u64 > self.1.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.write(offset, data)
    }
}

#[tokio::test]
async fn a_full_disk_fails_writes_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let room = Arc::new(AtomicU64::new(4 << 20));
    let disk = {
        let (path, room) = (path.clone(), room.clone());
        move || Ok(SmallDisk { file: File::lock(&path)?, room })
    };
    let store = EmbeddedStore::open_on("disk".into(), disk).await.unwrap();
    fill(&store, || room.store(u64::MAX, Ordering::Relaxed)).await;
    let before = values(&store, None).await;
    drop(store);
    let store = EmbeddedStore::open(&path).await.unwrap();
    assert_eq!(values(&store, None).await, before);
}

#[tokio::test]
async fn even_the_first_write_may_meet_a_full_disk() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let room = Arc::new(AtomicU64::new(u64::MAX));
    let disk = {
        let room = room.clone();
        move || Ok(SmallDisk { file: File::lock(&path)?, room })
    };
    let store = EmbeddedStore::open_on("disk".into(), disk).await.unwrap();
    room.store(4096, Ordering::Relaxed);
    for _ in 0..2 {
        let error = store.transact(put("/a", "1")).await.unwrap_err();
        assert!(matches!(error, StoreError::NoSpace), "{error:?}");
    }
    assert_eq!(values(&store, None).await, []);
    room.store(u64::MAX, Ordering::Relaxed);
    assert_eq!(commit(&store, put("/a", "1")).await, 2);
    assert_eq!(values(&store, None).await.len(), 1);
}

#[tokio::test]
async fn a_full_file_system_fails_writes_until_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let mount = |arguments: &[&str]| {
        let status = std::process::Command::new(arguments[0])
            .args(&arguments[1..])
            .arg(folder.path())
            .status();
        status.is_ok_and(|status| status.success())
    };
    if !mount(&["mount", "-t", "tmpfs", "-o", "size=6m", "coracle-store-test"]) {
        eprintln!("SKIPPED: no right to mount a tmpfs");
        return;
    }
    let store = EmbeddedStore::open(&folder.path().join("store.redb")).await.unwrap();
    fill(&store, || assert!(mount(&["mount", "-o", "remount,size=64m"]))).await;
    drop(store);
    assert!(mount(&["umount"]));
}

/// Writes until there is no room, reads, makes room, and writes again.
async fn fill(store: &EmbeddedStore, make_room: impl FnOnce()) {
    let value: Bytes = vec![7; 64 << 10].into();
    let (mut last, mut count) = (0, 0);
    let error = loop {
        match store.transact(put(&format!("/{count:04}"), value.clone())).await {
            Ok(Outcome::Committed(revision)) => {
                assert!(revision > last);
                last = revision;
                count += 1;
            }
            Ok(conflict) => panic!("{conflict:?}"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, StoreError::NoSpace), "{error:?}");
    assert!(count > 3, "only {count} fit");
    for _ in 0..3 {
        let error = store.transact(put("/more", value.clone())).await.unwrap_err();
        assert!(matches!(error, StoreError::NoSpace), "{error:?}");
    }
    assert_eq!(store.revision().await.unwrap(), last);
    assert_eq!(values(store, None).await.len(), count, "reads go on");
    make_room();
    assert_eq!(commit(store, put("/more", value.clone())).await, last + 1);
    let all = values(store, None).await;
    assert_eq!(all.len(), count + 1);
    assert!(all.iter().all(|(_, stored, _)| *stored == value));
}
