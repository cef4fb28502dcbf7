//! `kill -9` of a process that writes to the embedded store: what it was told is written, is
//! written. The writing process is this test binary, started again.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use apiserver::store::embedded::EmbeddedStore;
use apiserver::store::{Op, Outcome, Range, Revision, Store, Txn};
use client::Rng;

const FILE: &str = "CORACLE_TEST_STORE";
const WRITERS: u64 = 16;

/// The writing process; nothing where it is not one.
#[test]
fn writing_process() {
    let Ok(path) = std::env::var(FILE) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        let store = Arc::new(EmbeddedStore::open(Path::new(&path)).await.unwrap());
        let start = store.revision().await.unwrap();
        let writers: Vec<_> =
            (0..WRITERS).map(|i| tokio::spawn(write(store.clone(), start, i))).collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

/// Creates objects, updates some, deletes some, and compacts now and then; says each on stdout
/// when it has been acknowledged.
async fn write(store: Arc<EmbeddedStore>, start: Revision, writer: u64) {
    for i in 0.. {
        let key = format!("/registry/x/{start}-{writer}-{i}");
        let say = |key: &str, outcome: Outcome| match outcome {
            // One call of write, or the lines of several writers would mix.
            Outcome::Committed(revision) => {
                std::io::stdout().write_all(format!("\n{key} {revision}\n").as_bytes()).unwrap();
                revision
            }
            conflict => panic!("{conflict:?}"),
        };
        let value = format!("{key}{}", "x".repeat(500 + (i as usize * 97) % 3000));
        let created = say(&key, store.transact(Txn::create(&*key, value.into())).await.unwrap());
        if i % 3 == 1 {
            say(&key, store.transact(Txn::update(&*key, created, "new".into())).await.unwrap());
        }
        if i % 3 == 2 {
            let delete = Txn { guards: vec![], ops: vec![Op::Delete { key: key.as_str().into() }] };
            say(&format!("-{key}"), store.transact(delete).await.unwrap());
        }
        if writer == 0 && i % 50 == 49 {
            store.compact(created.saturating_sub(200).max(1)).await.unwrap();
        }
    }
}

#[test]
fn nothing_acknowledged_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let rng = Rng::from_os();
    let mut acknowledged: BTreeMap<String, Revision> = BTreeMap::new();
    let mut highest = 0;
    for round in 0..8 {
        let said = run_and_kill(&path, 100 + rng.below(1500) as usize);
        let lowest = said.iter().map(|(_, revision)| *revision).min().unwrap();
        assert!(lowest > highest, "round {round}: {lowest} was given after {highest}");
        highest = said.iter().map(|(_, revision)| *revision).max().unwrap();
        for (key, revision) in said {
            match key.strip_prefix('-') {
                Some(key) => drop(acknowledged.remove(key)),
                None => drop(acknowledged.insert(key, revision)),
            }
        }
        let stored = check(&path, &acknowledged, highest, round);
        // What was on its way has happened or not: it is known now.
        acknowledged.retain(|key, _| stored.contains_key(key));
    }
}

/// Lets the process write until it has said enough, kills it in the middle, and returns all that
/// it has said, in order per key.
fn run_and_kill(path: &Path, enough: usize) -> Vec<(String, Revision)> {
    let mut process = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "writing_process", "--nocapture", "--test-threads=1"])
        .env(FILE, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = Vec::new();
    for line in BufReader::new(process.stdout.take().unwrap()).split(b'\n') {
        let line = String::from_utf8(line.unwrap()).unwrap();
        let Some((key, revision)) = line.rsplit_once(' ') else { continue };
        let Ok(revision) = revision.parse() else { continue };
        if !key.contains("/registry/x/") {
            continue;
        }
        said.push((key.to_owned(), revision));
        if said.len() == enough {
            process.kill().unwrap();
        }
    }
    process.wait().unwrap();
    said
}

/// Opens the store as the process left it, and returns its keys.
fn check(
    path: &Path,
    acknowledged: &BTreeMap<String, Revision>,
    highest: Revision,
    round: u64,
) -> BTreeMap<String, Revision> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let store = EmbeddedStore::open(path).await.unwrap();
        let page = store.list(Range { prefix: "/registry/x/", ..Range::default() }).await.unwrap();
        assert!(page.revision >= highest);
        let stored: BTreeMap<String, Revision> =
            page.items.iter().map(|item| (item.key.to_string(), item.mod_revision)).collect();
        for (key, revision) in acknowledged {
            let stored = stored.get(key);
            // What came after the last word may be written or not.
            assert!(stored.is_none_or(|stored| stored >= revision), "round {round}: {key} is old");
            let lost = stored.is_none() && !may_be_deleted(key, *revision, highest);
            assert!(!lost, "round {round}: {key} at {revision} is lost");
        }
        for item in page.items {
            let whole = item.value == "new" || item.value.starts_with(item.key.as_bytes());
            assert!(whole, "round {round}: {} is torn", item.key);
        }
        stored
    })
}

/// A deletion that was on its way when the process was killed.
fn may_be_deleted(key: &str, revision: Revision, highest: Revision) -> bool {
    let i: u64 = key.rsplit_once('-').unwrap().1.parse().unwrap();
    i % 3 == 2 && highest - revision <= 4 * WRITERS
}
