//! The store and the cache, compared with what they stand on, in the same run:
//! `cargo run --release -p apiserver --example bench_store [FOLDER]`.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use apiserver::cache::{Cache, EventType, Gone, KindCache, KindSpec};
use apiserver::store::embedded::EmbeddedStore;
use apiserver::store::memory::MemoryStore;
use apiserver::store::{Outcome, Store, Txn};
use bytes::Bytes;
use client::Clock;
use redb::{Database, Durability, TableDefinition};

const CLIENTS: usize = 16;
const CREATES: usize = 8_000;
const MANY: usize = 100_000;
const MILLION: usize = 1_000_000;
/// Bytes of an object, about; of a million, they are small.
const LARGE: usize = 3_000;
const SMALL: usize = 350;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> Result<()> {
    let folder = match std::env::args_os().nth(1) {
        Some(folder) => PathBuf::from(folder),
        None => std::env::temp_dir(),
    };
    let folder = folder.join(format!("coracle-bench-store-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let ran = run(&folder).await;
    std::fs::remove_dir_all(&folder)?;
    ran
}

async fn run(folder: &Path) -> Result<()> {
    durable_creates(folder).await?;
    lone_writer(folder).await?;
    growth(folder, "growth", MANY, LARGE).await?;
    reopen(folder).await?;
    growth(folder, "million", MILLION, SMALL).await?;
    fan_out().await
}

async fn open(store: Arc<dyn Store>) -> Result<(Cache, Arc<KindCache>)> {
    let spec = KindSpec::of(&proto::kind::POD, &["spec.nodeName", "status.phase"]);
    let cache = Cache::open(store, [spec], Clock::system()).await?;
    let pods = cache.kind("pods").ok_or("no pods")?;
    Ok((cache, pods))
}

/// A pod of so many bytes, at least 300.
fn pod(name: &str, size: usize) -> Bytes {
    let head = format!(
        r#"{{"apiVersion":"v1","kind":"Pod","metadata":{{"labels":{{"app":"bench","pod-template-hash":"5d9c7b8f6"}},"name":"{name}","namespace":"default","uid":"0b4f8a52-3a4e-4f0e-9d7a-2f2b1c9d8e7f"}},"spec":{{"nodeName":"node-1","containers":["#
    );
    let mut text = head;
    while text.len() + 100 < size {
        text += r#"{"image":"my-app:latest","name":"c","ports":[{"containerPort":80,"protocol":"TCP"}]},"#;
    }
    text += r#"{"name":"z"}]},"status":{"phase":"Running"}}"#;
    text.into()
}

async fn create(cache: &Cache, name: &str, size: usize) {
    let txn = Txn::create(format!("/registry/pods/default/{name}"), pod(name, size));
    let outcome = cache.transact(txn).await;
    assert!(matches!(outcome, Ok(Outcome::Committed(_))), "{outcome:?}");
}

/// Creates by concurrent clients, each waiting for its answer; the time it took.
async fn creates(
    cache: &Cache,
    clients: usize,
    first: usize,
    count: usize,
    size: usize,
) -> Result<Duration> {
    let start = Clock::system().instant();
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let cache = cache.clone();
            tokio::spawn(async move {
                for i in (first + client..first + count).step_by(clients) {
                    create(&cache, &format!("pod-{i:07}"), size).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await?;
    }
    Ok(start.elapsed())
}

fn rate(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// One thread that commits as many values at a time as there are clients: what redb can do.
fn raw(path: &Path, count: usize) -> Result<Duration> {
    const TABLE: TableDefinition<u128, &[u8]> = TableDefinition::new("raw");
    let db = Database::builder().set_cache_size(8 << 20).create(path)?;
    let start = Clock::system().instant();
    for batch in 0..count / CLIENTS {
        let mut txn = db.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        txn.set_two_phase_commit(true);
        {
            let mut table = txn.open_table(TABLE)?;
            for i in 0..CLIENTS {
                let i = batch * CLIENTS + i;
                table.insert(i as u128, &pod(&format!("pod-{i:07}"), LARGE)[..])?;
            }
        }
        txn.commit()?;
    }
    Ok(start.elapsed())
}

async fn durable_creates(folder: &Path) -> Result<()> {
    println!(
        "durable creates of 3 kB, {CLIENTS} clients, store and cache, against redb's own group commit"
    );
    for round in 0..3 {
        let raw = rate(CREATES, raw(&folder.join(format!("raw-{round}")), CREATES)?);
        let store = EmbeddedStore::open(&folder.join(format!("creates-{round}"))).await?;
        let (cache, _) = open(Arc::new(store)).await?;
        let ours = rate(CREATES, creates(&cache, CLIENTS, 0, CREATES, LARGE).await?);
        println!("  {ours:.0}/s, redb {raw:.0}/s: ratio {:.2}", ours / raw);
    }
    Ok(())
}

async fn lone_writer(folder: &Path) -> Result<()> {
    const COUNT: usize = 300;
    let file = std::fs::File::create(folder.join("sync"))?;
    let value = pod("x", LARGE);
    let start = Clock::system().instant();
    for i in 0..COUNT {
        use std::os::unix::fs::FileExt;
        // A two-phase commit syncs twice.
        for half in 0..2 {
            file.write_all_at(&value, ((2 * i + half) * 4096) as u64)?;
            file.sync_data()?;
        }
    }
    let sync = start.elapsed() / COUNT as u32;
    let path = folder.join("lone-raw");
    let db = Database::builder().set_cache_size(8 << 20).create(&path)?;
    let start = Clock::system().instant();
    for i in 0..COUNT {
        let mut txn = db.begin_write()?;
        txn.set_two_phase_commit(true);
        txn.open_table(TableDefinition::<u128, &[u8]>::new("raw"))?
            .insert(i as u128, &value[..])?;
        txn.commit()?;
    }
    let raw = start.elapsed() / COUNT as u32;
    let store = EmbeddedStore::open(&folder.join("lone")).await?;
    let (cache, _) = open(Arc::new(store)).await?;
    let ours = creates(&cache, 1, 0, COUNT, LARGE).await? / COUNT as u32;
    println!("a lone durable create: {ours:?}; redb alone {raw:?}; two syncs {sync:?}");
    Ok(())
}

const PROBE: usize = 1_000;

/// The time of one create, at its best: the machine has other things to do.
async fn probe(cache: &Cache, clients: usize, first: usize, size: usize) -> Result<Duration> {
    let mut best = Duration::MAX;
    for part in 0..10 {
        let count = PROBE / 10;
        let took = creates(cache, clients, first + part * count, count, size).await?;
        best = best.min(took / count as u32);
    }
    Ok(best)
}

async fn growth(folder: &Path, file: &str, many: usize, size: usize) -> Result<()> {
    println!("cost of a create of {size} bytes with 1k and {}k objects present", many / 1000);
    let embedded = EmbeddedStore::open(&folder.join(file)).await?;
    let stores: [(&str, Arc<dyn Store>); 2] =
        [("memory", Arc::new(MemoryStore::new())), ("embedded", Arc::new(embedded))];
    for (name, store) in stores {
        let (cache, pods) = open(store).await?;
        let clients = if name == "memory" { 1 } else { CLIENTS };
        creates(&cache, 512, 0, 1_000, size).await?;
        let small = probe(&cache, clients, 1_000, size).await?;
        creates(&cache, 512, 2_000, many - 2_000, size).await?;
        let large = probe(&cache, clients, many, size).await?;
        let ratio = large.as_secs_f64() / small.as_secs_f64();
        println!("  {name}: {small:?} and {large:?}: ratio {ratio:.2}");
        assert_eq!(pods.snapshot().len(), many + PROBE);
        if name == "embedded" && many == MANY {
            // As a crash would leave it.
            std::fs::copy(folder.join(file), folder.join("crashed"))?;
        }
    }
    Ok(())
}

/// Opens what `growth` left.
async fn reopen(folder: &Path) -> Result<()> {
    let start = Clock::system().instant();
    let store = EmbeddedStore::open(&folder.join("empty")).await?;
    let made = start.elapsed();
    drop(store);
    let start = Clock::system().instant();
    open(Arc::new(EmbeddedStore::open(&folder.join("empty")).await?)).await?;
    println!("opening: new {made:?}, empty {:?}", start.elapsed());
    let start = Clock::system().instant();
    drop(EmbeddedStore::open(&folder.join("crashed")).await?);
    println!("  {MANY} objects after a crash (index only): {:?}", start.elapsed());
    let before = resident()?;
    let start = Clock::system().instant();
    let store = EmbeddedStore::open(&folder.join("growth")).await?;
    let index = start.elapsed();
    let (_cache, pods) = open(Arc::new(store)).await?;
    let opened = start.elapsed();
    let bytes: usize = pods.snapshot().list("", None).map(|entry| entry.bytes().len()).sum();
    let held = resident()?.saturating_sub(before);
    println!(
        "  {} objects: {opened:?} (index {index:?}); memory {:.0} MB for {:.0} MB of objects: ratio {:.2}",
        pods.snapshot().len(),
        held as f64 / 1e6,
        bytes as f64 / 1e6,
        held as f64 / bytes as f64
    );
    Ok(())
}

/// Bytes of memory that this process holds by itself.
fn resident() -> Result<usize> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|line| line.starts_with("RssAnon:")).ok_or("no RssAnon")?;
    let kilobytes: usize = line.split_whitespace().nth(1).ok_or("no number")?.parse()?;
    Ok(kilobytes * 1024)
}

/// What one more watcher costs per event: woken, it pulls and takes the frames. Watchers of another
/// node's pods should cost nothing.
async fn fan_out() -> Result<()> {
    println!("watch fan-out: one writer, every event to every watcher");
    let base = fan_out_to(0, 0).await?;
    println!("  no watcher: {base:?} per event");
    for watchers in [1, 10, 100, 1_000] {
        let time = fan_out_to(watchers, 0).await?;
        let each = time.saturating_sub(base) / watchers;
        println!("  {watchers} watchers: {time:?} per event, {each:?} per watcher");
    }
    let time = fan_out_to(0, 1_000).await?;
    let each = time.saturating_sub(base) / 1_000;
    println!("  1000 watchers of other nodes' pods: {time:?} per event, {each:?} per watcher");
    Ok(())
}

/// The time per event with so many watchers of everything, and so many of what does not happen.
async fn fan_out_to(watchers: u32, elsewhere: u32) -> Result<Duration> {
    const EVENTS: usize = 2_000;
    let (cache, pods) = open(Arc::new(MemoryStore::new())).await?;
    let mut tasks = Vec::new();
    for _ in 0..watchers {
        let mut watcher = pods.watcher(1)?;
        tasks.push(tokio::spawn(async move {
            let (mut count, mut bytes) = (0, 0);
            while count < EVENTS {
                let changes = watcher.next().await?;
                count += changes.len();
                bytes += changes.iter().map(|c| c.frame(EventType::Added).len()).sum::<usize>();
            }
            Ok::<usize, Gone>(bytes)
        }));
    }
    for i in 0..elsewhere {
        let mut watcher = pods.watcher_of(1, "spec.nodeName", &format!("other-{i}"))?;
        tokio::spawn(async move { watcher.next().await.map(drop) });
    }
    let start = Clock::system().instant();
    for i in 0..EVENTS {
        create(&cache, &format!("pod-{i:07}"), LARGE).await;
        // On a real server it is another client's turn here.
        tokio::task::yield_now().await;
    }
    for task in tasks {
        task.await??;
    }
    Ok(start.elapsed() / EVENTS as u32)
}
