//! Many watchers of many kinds while many write, over TLS to a server of its own: slow readers, some
//! that do not read at all until the server ends their watch, dropped connections, some that come
//! back when what they missed is forgotten, compaction, and a member of etcd that is killed. What
//! each watcher saw is compared with what the store did: it may have missed, repeated or reordered
//! nothing.
//!
//! The long form: `CORACLE_WATCHERS=2000 CORACLE_WRITES=60000 CORACLE_RATE=1000 cargo test --release
//! -p apiserver --test watch_stress -- --nocapture`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use apiserver::store::etcd::{EtcdOptions, EtcdStore};
use apiserver::store::{Change, Event, Store};
use bytes::{Bytes, BytesMut};
use client::{Clock, Rng};
use connection::{Connection, Door, Version};
use http::Request;
use http_body_util::BodyExt;
use process::Process;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;

#[path = "http/connection.rs"]
mod connection;
#[allow(dead_code, reason = "every test program uses a part of it")]
#[path = "store/etcd_process.rs"]
mod etcd_process;
#[path = "http/process.rs"]
mod process;
#[allow(dead_code, reason = "only its observer of the store is used here")]
#[path = "store/suite.rs"]
mod suite;

/// Where a kind's objects are in the store, where in the API, and what one has beyond its metadata.
struct Kind {
    key: &'static str,
    path: &'static str,
    rest: &'static str,
}

const fn kind(key: &'static str, path: &'static str, rest: &'static str) -> Kind {
    Kind { key, path, rest }
}

const KINDS: [Kind; 11] = [
    kind("configmaps/default/", "/api/v1/namespaces/default/configmaps", "{}"),
    kind("secrets/default/", "/api/v1/namespaces/default/secrets", "{}"),
    kind("serviceaccounts/default/", "/api/v1/namespaces/default/serviceaccounts", "{}"),
    kind("services/endpoints/default/", "/api/v1/namespaces/default/endpoints", "{}"),
    kind("resourcequotas/default/", "/api/v1/namespaces/default/resourcequotas", "{}"),
    kind(
        "limitranges/default/",
        "/api/v1/namespaces/default/limitranges",
        r#"{"spec":{"limits":[]}}"#,
    ),
    kind("leases/default/", "/apis/coordination.k8s.io/v1/namespaces/default/leases", "{}"),
    kind(
        "controllerrevisions/default/",
        "/apis/apps/v1/namespaces/default/controllerrevisions",
        r#"{"revision":1,"data":{}}"#,
    ),
    kind(
        "endpointslices/default/",
        "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices",
        r#"{"addressType":"IPv4","endpoints":[]}"#,
    ),
    kind(
        "roles/default/",
        "/apis/rbac.authorization.k8s.io/v1/namespaces/default/roles",
        r#"{"rules":[]}"#,
    ),
    // In the burst, more than the cache remembers is written here.
    kind("configmaps/heavy/", "/api/v1/namespaces/heavy/configmaps", "{}"),
];
const HEAVY: usize = KINDS.len() - 1;
/// The cache keeps the last 256 changes of a kind in any case, and 16 MiB of them.
const BURST: u64 = 320;
const BURST_BYTES: usize = 80 << 10;
/// Of each kind and writer.
const NAMES: usize = 3;
const STREAMS: u64 = 100;

fn number(name: &str, short: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(short)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Writing,
    Burst,
    /// The burst is over and compacted away.
    After,
}

/// How a watcher behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Steady,
    /// Waits a little after each event.
    Slow,
    /// Loses its connection, or its stream, again and again.
    Drops,
    /// Reads nothing until the burst is over.
    Stuck,
    /// Is not there while the burst happens.
    Away,
}

struct Watcher {
    number: u64,
    kind: usize,
    manner: Manner,
    /// A connection of its own, and which; else one of those that are shared.
    own: Option<Version>,
}

impl Watcher {
    fn new(number: u64) -> Watcher {
        let (round, place) = (number / 20, number % 20);
        let (manner, kind) = match place {
            3 | 13 => (Manner::Slow, None),
            7 | 17 => (Manner::Drops, None),
            9 => (Manner::Stuck, Some(HEAVY)),
            11 => (Manner::Away, Some(HEAVY)),
            1 => (Manner::Steady, Some(HEAVY)),
            _ => (Manner::Steady, None),
        };
        let either = [Version::One, Version::Two][round as usize % 2];
        let own = match (manner, place) {
            (Manner::Slow | Manner::Away, _) | (_, 5 | 7) => Some(either),
            // What TCP holds on its way is not bounded as a stream's window is.
            (Manner::Stuck, _) => Some(Version::Two),
            _ => None,
        };
        let kind = kind.unwrap_or((number + round) as usize % HEAVY);
        Watcher { number, kind, manner, own }
    }
}

struct World {
    door: Door,
    shared: Vec<Arc<Connection>>,
    clock: Clock,
    rng: Rng,
    phase: watch::Sender<Phase>,
    /// Watchers that have been answered once.
    watching: AtomicU64,
    /// Writes begun.
    writes: AtomicU64,
    /// The store's revision after the last write, once it is known.
    end: AtomicU64,
}

/// What a watcher saw without a gap: everything after one revision up to another.
struct Stretch {
    after: u64,
    /// The list that it began with: revisions by name.
    list: Option<BTreeMap<String, u64>>,
    seen: Vec<(u64, &'static str)>,
    until: u64,
}

#[tokio::test(flavor = "multi_thread")]
async fn no_watcher_misses_repeats_or_reorders() {
    let seed = number("SEED", Rng::from_os().u64());
    let (watchers, writes) = (number("CORACLE_WATCHERS", 100), number("CORACLE_WRITES", 1500));
    let (rate, clock) = (number("CORACLE_RATE", 1000), Clock::system());
    eprintln!("SEED={seed}");
    let Some(mut etcd) = etcd_process::Etcd::start(3) else { return };
    let server = Process::start(&["--etcd-servers", &etcd.urls().join(",")]).await;
    let members = EtcdOptions { servers: etcd.urls(), ..EtcdOptions::default() };
    let store = Arc::new(EtcdStore::connect(&members, clock.clone()).await.unwrap());
    let world = Arc::new(world(server.door(), seed, watchers).await);
    let start = store.revision().await.unwrap();
    let history = suite::Seen::watch(&*store, "/registry/", start).await.unwrap();
    let before = server.memory("VmHWM");
    let watching: Vec<_> = (0..watchers)
        .map(|number| tokio::spawn(watch_on(world.clone(), Watcher::new(number), start)))
        .collect();
    let all = clock.timeout(Duration::from_secs(120), async {
        while world.watching.load(Ordering::Relaxed) < watchers {
            clock.sleep(Duration::from_millis(20)).await;
        }
    });
    all.await.expect("every watch begins");

    let began = clock.instant();
    let writers = (rate / 5).clamp(8, 200) as usize;
    let writing: Vec<_> = (0..writers)
        .map(|writer| tokio::spawn(write(world.clone(), writer, writes, rate)))
        .collect();
    // A member goes and comes back in the middle of it, and more happens than is remembered.
    while world.writes.load(Ordering::Relaxed) < writes / 3 {
        clock.sleep(Duration::from_millis(20)).await;
    }
    let undisturbed = (writes / 3) as f64 / began.elapsed().as_secs_f64();
    etcd.kill_member(0);
    clock.sleep(Duration::from_millis(1500)).await;
    etcd.start_member(0);
    world.phase.send_replace(Phase::Burst);
    burst(&world).await;
    store.compact(store.revision().await.unwrap()).await.unwrap();
    world.phase.send_replace(Phase::After);
    for writer in writing {
        writer.await.unwrap();
    }
    let took = began.elapsed();

    let end = store.revision().await.unwrap();
    world.end.store(end, Ordering::SeqCst);
    // Something after it, so that nobody waits for an event that does not come.
    for kind in 0..KINDS.len() {
        touch(&world, kind).await;
    }
    let mut stretches = Vec::new();
    for watcher in watching {
        let done = clock.timeout(Duration::from_secs(60), watcher).await;
        stretches.push(done.expect("every watcher comes to the end").unwrap());
    }
    let grown = server.memory("VmHWM").saturating_sub(before) >> 20;
    let history = history.until(end).await;
    let made = history.len() as f64 / took.as_secs_f64();
    let (events, anew) = compare(&stretches, &by_kind(&history), end, seed);
    eprintln!(
        "{watchers} watchers saw {events} events of {} writes, {made:.0} writes and {:.0} events a \
         second, {undisturbed:.0} writes before a member was killed; {anew} times one had to read anew; \
         {grown} MiB more memory",
        history.len(),
        events as f64 / took.as_secs_f64(),
    );
    let most = 200 + watchers as usize / 5;
    assert!(grown < most, "{grown} MiB more memory, SEED={seed}");
}

async fn world(door: Door, seed: u64, watchers: u64) -> World {
    let mut shared = Vec::new();
    for _ in 0..watchers.div_ceil(STREAMS).max(4) {
        shared.push(door.open(Version::Two).await.unwrap());
    }
    let namespace = json!({"metadata": {"name": "heavy"}}).to_string();
    let (code, _) = send(&shared[0], "POST", "/api/v1/namespaces", namespace).await;
    assert_eq!(code, 201);
    World {
        door,
        shared,
        clock: Clock::system(),
        rng: Rng::seeded(seed),
        phase: watch::Sender::new(Phase::Writing),
        watching: AtomicU64::new(0),
        writes: AtomicU64::new(0),
        end: AtomicU64::new(0),
    }
}

/// A change in the store.
struct Happened {
    revision: u64,
    change: &'static str,
    name: String,
}

/// What there is after these changes.
fn state<'a>(history: impl Iterator<Item = &'a Happened>) -> BTreeMap<String, u64> {
    let mut state = BTreeMap::new();
    for happened in history {
        match happened.change {
            "DELETED" => state.remove(&happened.name),
            _ => state.insert(happened.name.clone(), happened.revision),
        };
    }
    state
}

/// How many events were seen, and how often somebody had to begin anew.
fn compare(
    stretches: &[Vec<Stretch>],
    history: &HashMap<usize, Vec<Happened>>,
    end: u64,
    seed: u64,
) -> (usize, usize) {
    let (mut events, mut anew) = (0, 0);
    for (number, stretches) in stretches.iter().enumerate() {
        let watcher = Watcher::new(number as u64);
        let history = &history[&watcher.kind];
        for Stretch { after, list, seen, until } in stretches {
            let what =
                format!("watcher {number}, {:?}, after {after}, SEED={seed}", watcher.manner);
            let (past, rest) = history.split_at(history.partition_point(|h| h.revision <= *after));
            if let Some(list) = list {
                assert_eq!(list, &state(past.iter()), "{what}");
            }
            let within = rest.iter().take_while(|happened| happened.revision <= *until);
            let expected: Vec<(u64, &str)> = within.map(|h| (h.revision, h.change)).collect();
            assert_eq!(seen, &expected, "{what}");
            events += seen.len();
        }
        assert!(stretches.last().unwrap().until >= end, "watcher {number} came to the end");
        // Of others it depends on the machine.
        let forgotten = matches!(watcher.manner, Manner::Stuck | Manner::Away);
        assert!(
            !forgotten || stretches.len() > 1,
            "watcher {number}, {:?}, was to be told that its past is gone, SEED={seed}",
            watcher.manner
        );
        anew += stretches.len() - 1;
    }
    (events, anew)
}

fn by_kind(history: &[Event]) -> HashMap<usize, Vec<Happened>> {
    let mut kinds: HashMap<usize, Vec<Happened>> = HashMap::new();
    for event in history {
        let Some(key) = event.key.strip_prefix("/registry/") else { continue };
        let Some(kind) = KINDS.iter().position(|kind| key.starts_with(kind.key)) else { continue };
        let change = match &event.change {
            Change::Delete => "DELETED",
            Change::Put(item) if item.create_revision == item.mod_revision => "ADDED",
            Change::Put(_) => "MODIFIED",
        };
        let name = key[KINDS[kind].key.len()..].to_string();
        let happened = Happened { revision: event.revision, change, name };
        kinds.entry(kind).or_default().push(happened);
    }
    kinds
}

/// An answer, whole; code 0 where none came.
async fn send(connection: &Connection, method: &str, path: &str, body: String) -> (u16, Bytes) {
    let kind = match method {
        "PATCH" => "application/merge-patch+json",
        _ => "application/json",
    };
    let request = Request::builder().method(method).uri(path).header("content-type", kind);
    let request = request.body(Bytes::from(body)).unwrap();
    let Ok(response) = connection.send(request).await else { return (0, Bytes::new()) };
    let code = response.status().as_u16();
    match response.into_body().collect().await {
        Ok(body) => (code, body.to_bytes()),
        Err(_) => (0, Bytes::new()),
    }
}

fn object(kind: usize, name: &str) -> Value {
    let mut object: Value = serde_json::from_str(KINDS[kind].rest).unwrap();
    object["metadata"] = json!({"name": name});
    object
}

/// Writes objects of its own, at most so many of all writers' writes in a second.
async fn write(world: Arc<World>, writer: usize, writes: u64, rate: u64) {
    let connection = world.shared[writer % world.shared.len()].clone();
    let began = world.clock.instant();
    let mut exists = [[false; NAMES]; KINDS.len()];
    loop {
        let turn = world.writes.fetch_add(1, Ordering::Relaxed);
        if turn >= writes {
            return;
        }
        world
            .clock
            .sleep_until_instant(began + Duration::from_secs(1) * turn as u32 / rate as u32)
            .await;
        let (kind, index) =
            (world.rng.below(KINDS.len() as u64) as usize, world.rng.below(NAMES as u64) as usize);
        let (path, name) = (KINDS[kind].path, format!("n{writer}-{index}"));
        let one = format!("{path}/{name}");
        let here = &mut exists[kind][index];
        let (method, path, body) = match (*here, world.rng.below(4)) {
            (false, _) => ("POST", path, object(kind, &name).to_string()),
            (true, 0) => ("DELETE", &*one, String::new()),
            (true, _) => {
                let mark = world.rng.u64().to_string();
                let patch = json!({"metadata": {"annotations": {"mark": mark}}});
                ("PATCH", &*one, patch.to_string())
            }
        };
        let (code, answer) = send(&connection, method, path, body).await;
        match (method, code) {
            ("DELETE", 200) | (_, 404) => *here = false,
            (_, 200 | 201 | 409) => *here = true,
            // A member of the store may be away; what was to be written is written, or not.
            (_, 429 | 500..=504) => {}
            _ => panic!("{method} {one}: {code} {answer:?}"),
        }
    }
}

/// More than the cache remembers of a kind.
async fn burst(world: &Arc<World>) {
    const HANDS: u64 = 4;
    let one = |hand: u64| {
        let world = world.clone();
        async move {
            let connection = world.door.open(Version::Two).await.unwrap();
            let (path, name) = (KINDS[HEAVY].path, format!("blob-{hand}"));
            let mut blob = object(HEAVY, &name);
            let mut made = 0;
            while made < BURST / HANDS {
                let mark = format!("{made} {}", "x".repeat(BURST_BYTES));
                blob["data"] = json!({"blob": mark});
                let (method, path) = match made {
                    0 => ("POST", path.to_string()),
                    _ => ("PUT", format!("{path}/{name}")),
                };
                let (code, answer) = send(&connection, method, &path, blob.to_string()).await;
                match code {
                    200 | 201 => made += 1,
                    // It was written though that was not said.
                    409 if made == 0 => made += 1,
                    409 | 429 | 500..=504 => {}
                    _ => panic!("{path}: {code} {answer:?}"),
                }
            }
        }
    };
    futures::future::join_all((0..HANDS).map(|hand| tokio::spawn(one(hand))))
        .await
        .into_iter()
        .for_each(Result::unwrap);
}

/// A change of a kind that certainly happens.
async fn touch(world: &World, kind: usize) {
    for attempt in 0..50 {
        let last = object(kind, &format!("last-{attempt}")).to_string();
        let (code, _) = send(&world.shared[0], "POST", KINDS[kind].path, last).await;
        if code == 201 {
            return;
        }
        world.clock.sleep(Duration::from_millis(100)).await;
    }
    panic!("nothing can be written");
}

/// Watches until it has seen the end; what it saw, in stretches without a gap.
async fn watch_on(world: Arc<World>, watcher: Watcher, start: u64) -> Vec<Stretch> {
    let mut stretches = vec![Stretch { after: start, list: None, seen: Vec::new(), until: start }];
    let mut own: Option<Arc<Connection>> = None;
    let mut answered = false;
    loop {
        let connection = match (watcher.own, &own) {
            (None, _) => world.shared[watcher.number as usize % world.shared.len()].clone(),
            (Some(_), Some(connection)) => connection.clone(),
            (Some(version), None) => {
                let Ok(connection) = world.door.open(version).await else {
                    world.clock.sleep(Duration::from_millis(50)).await;
                    continue;
                };
                own.insert(connection).clone()
            }
        };
        let stretch = stretches.last_mut().expect("there is always one");
        match follow(&world, &connection, &watcher, stretch, &mut answered).await {
            Ended::Done => return stretches,
            Ended::Dropped => {
                own = None;
                drop(connection);
                if watcher.manner == Manner::Away {
                    reached(&world, Phase::After).await;
                }
            }
            Ended::Gone => {
                let (after, list) = list(&world, &connection, &watcher, stretch.until).await;
                let list = Some(list);
                stretches.push(Stretch { after, list, seen: Vec::new(), until: after });
            }
        }
    }
}

async fn reached(world: &World, phase: Phase) {
    let mut phases = world.phase.subscribe();
    phases.wait_for(|now| *now >= phase).await.expect("the world lives as long as this");
}

enum Ended {
    Done,
    /// The stream or the connection was, or the server has ended the watch.
    Dropped,
    /// 410: read anew.
    Gone,
}

/// As much as is read of an event.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: Object<'a>,
}

#[derive(Deserialize)]
struct Object<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
    #[serde(default)]
    code: u16,
}

#[derive(Deserialize)]
struct Metadata<'a> {
    #[serde(rename = "resourceVersion", default)]
    revision: &'a str,
}

async fn follow(
    world: &World,
    connection: &Connection,
    watcher: &Watcher,
    stretch: &mut Stretch,
    answered: &mut bool,
) -> Ended {
    let collection = KINDS[watcher.kind].path;
    let from = stretch.until;
    let path = format!("{collection}?watch=1&allowWatchBookmarks=1&resourceVersion={from}");
    let response = connection.get(&path).await.ok();
    let Some(response) = response.filter(|response| response.status() == 200) else {
        world.clock.sleep(Duration::from_millis(50)).await;
        return Ended::Dropped;
    };
    if !std::mem::replace(answered, true) {
        world.watching.fetch_add(1, Ordering::Relaxed);
    }
    let patience = match (watcher.manner, watcher.own) {
        (Manner::Drops, None) => world.rng.below(40),
        // A handshake costs more.
        (Manner::Drops, Some(_)) => world.rng.below(400),
        _ => u64::MAX,
    };
    if watcher.manner == Manner::Stuck {
        reached(world, Phase::After).await;
    }
    let leaves = watcher.manner == Manner::Away && *world.phase.borrow() < Phase::After;
    let (mut body, mut buffer, mut events) = (response.into_body(), BytesMut::new(), 0);
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = reached(world, Phase::Burst), if leaves => return Ended::Dropped,
        };
        let Some(Ok(frame)) = frame else { return Ended::Dropped };
        let before = buffer.len();
        buffer.extend_from_slice(&frame.into_data().unwrap_or_default());
        let mut from = before;
        while let Some(end) = buffer[from..].iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(from + end + 1);
            from = 0;
            if let Some(ended) = take(world, stretch, &line) {
                return ended;
            }
            events += 1;
            if events >= patience {
                return Ended::Dropped;
            }
            if watcher.manner == Manner::Slow && world.end.load(Ordering::Relaxed) == 0 {
                world.clock.sleep(Duration::from_millis(30)).await;
            }
        }
    }
}

/// Notes an event; the end, where it is one.
fn take(world: &World, stretch: &mut Stretch, line: &[u8]) -> Option<Ended> {
    let Line { kind, object } = serde_json::from_slice(line).unwrap();
    let kind = match kind {
        "ERROR" => {
            assert_eq!(object.code, 410, "{}", String::from_utf8_lossy(line));
            return Some(Ended::Gone);
        }
        "ADDED" => Some("ADDED"),
        "MODIFIED" => Some("MODIFIED"),
        "DELETED" => Some("DELETED"),
        bookmark => {
            assert_eq!(bookmark, "BOOKMARK");
            None
        }
    };
    let revision = object.metadata.revision.parse().unwrap();
    match kind {
        Some(kind) => {
            stretch.seen.push((revision, kind));
            stretch.until = revision;
        }
        None => stretch.until = stretch.until.max(revision),
    }
    let end = world.end.load(Ordering::SeqCst);
    (end > 0 && stretch.until >= end).then_some(Ended::Done)
}

/// A list and its revision; what was there when the watch ended is forgotten.
async fn list(
    world: &World,
    connection: &Connection,
    watcher: &Watcher,
    old: u64,
) -> (u64, BTreeMap<String, u64>) {
    let collection = KINDS[watcher.kind].path;
    let exact = format!("{collection}?resourceVersion={old}&resourceVersionMatch=Exact&limit=1");
    let revision = |of: &Value| of["metadata"]["resourceVersion"].as_str()?.parse::<u64>().ok();
    loop {
        if watcher.manner == Manner::Away {
            let (code, answer) = send(connection, "GET", &exact, String::new()).await;
            assert!(matches!(code, 410 | 429 | 500..=504), "{exact}: {code} {answer:?}");
        }
        let (code, answer) = send(connection, "GET", collection, String::new()).await;
        let list: Value = serde_json::from_slice(&answer).unwrap_or_default();
        if code != 200 {
            world.clock.sleep(Duration::from_millis(50)).await;
            continue;
        }
        let items = list["items"].as_array().unwrap().iter();
        let items = items.map(|item| {
            (item["metadata"]["name"].as_str().unwrap().to_string(), revision(item).unwrap())
        });
        // The cluster's own were there before.
        let items = items.filter(|(name, _)| name != "kubernetes").collect();
        return (revision(&list).unwrap(), items);
    }
}
