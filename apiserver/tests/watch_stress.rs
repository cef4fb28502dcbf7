//! Many watchers of many kinds while many write: slow readers, dropped connections, compaction and
//! a member of etcd that is killed. What each watcher saw is compared with what the store did: it
//! may have missed, repeated or reordered nothing.
//!
//! `CORACLE_WATCHERS=2000 CORACLE_WRITES=30000` for the long form.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use apiserver::store::etcd::{EtcdOptions, EtcdStore};
use apiserver::store::{Change, Event, Store};
use apiserver::{Options, Server};
use axum::{Router, body::Body};
use clap::Parser;
use client::{Clock, Rng};
use http::Request;
use http_body_util::BodyExt;
use proto::user::User;
use serde_json::{Value, json};
use tower::ServiceExt;

#[allow(dead_code, reason = "every test program uses a part of it")]
#[path = "store/etcd_process.rs"]
mod etcd_process;
#[allow(dead_code, reason = "only its observer of the store is used here")]
#[path = "store/suite.rs"]
mod suite;

/// Folder of the key, group and version, resource, and what an object has beyond its metadata.
const KINDS: [(&str, &str, &str, &str); 10] = [
    ("configmaps", "api/v1", "configmaps", "{}"),
    ("secrets", "api/v1", "secrets", "{}"),
    ("serviceaccounts", "api/v1", "serviceaccounts", "{}"),
    ("services/endpoints", "api/v1", "endpoints", "{}"),
    ("resourcequotas", "api/v1", "resourcequotas", "{}"),
    ("limitranges", "api/v1", "limitranges", r#"{"spec":{"limits":[]}}"#),
    ("leases", "apis/coordination.k8s.io/v1", "leases", "{}"),
    ("controllerrevisions", "apis/apps/v1", "controllerrevisions", r#"{"revision":1,"data":{}}"#),
    (
        "endpointslices",
        "apis/discovery.k8s.io/v1",
        "endpointslices",
        r#"{"addressType":"IPv4","endpoints":[]}"#,
    ),
    ("roles", "apis/rbac.authorization.k8s.io/v1", "roles", r#"{"rules":[]}"#),
];
const NAMES: u64 = 20;
const WRITERS: usize = 8;

fn number(name: &str, short: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(short)
}

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    options: Options,
}

struct World {
    router: Router,
    clock: Clock,
    rng: Rng,
    /// Writes begun.
    writes: AtomicU64,
    /// The store's revision after the last write, once it is known.
    end: AtomicU64,
    stop: AtomicBool,
}

/// What a watcher saw without a gap: everything after one revision up to another.
struct Stretch {
    after: u64,
    seen: Vec<(u64, &'static str)>,
    until: u64,
}

#[tokio::test(flavor = "multi_thread")]
async fn no_watcher_misses_repeats_or_reorders() {
    let seed = number("SEED", Rng::from_os().u64());
    let (watchers, writes) = (number("CORACLE_WATCHERS", 200), number("CORACLE_WRITES", 3000));
    eprintln!("SEED={seed}");
    let Some(mut etcd) = etcd_process::Etcd::start(3) else { return };
    let folder = tempfile::tempdir().unwrap();
    let (path, urls) = (folder.path().display().to_string(), etcd.urls().join(","));
    let line = ["", "--secure-port=0", "--data-dir", &path, "--etcd-servers", &urls];
    let options = Flags::parse_from(line).options;
    let clock = Clock::system();
    let server = Server::start(options, clock.clone(), Rng::seeded(seed)).await.unwrap();
    let members = EtcdOptions { servers: etcd.urls(), ..EtcdOptions::default() };
    let store = Arc::new(EtcdStore::connect(&members, clock.clone()).await.unwrap());
    let start = store.revision().await.unwrap();
    let history = suite::Seen::watch(&*store, "/registry/", start).await.unwrap();
    let world = Arc::new(World {
        router: server.router(),
        clock: clock.clone(),
        rng: Rng::seeded(seed),
        writes: AtomicU64::new(0),
        end: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let before = resident();
    let mut watching = Vec::new();
    for watcher in 0..watchers {
        watching.push(tokio::spawn(watch(world.clone(), watcher, start)));
    }
    let writing: Vec<_> =
        (0..WRITERS).map(|_| tokio::spawn(write(world.clone(), writes))).collect();
    // A member goes and comes back, and the past is forgotten, in the middle of it.
    while world.writes.load(Ordering::Relaxed) < writes / 3 {
        clock.sleep(Duration::from_millis(20)).await;
    }
    etcd.kill_member(0);
    clock.sleep(Duration::from_millis(1500)).await;
    etcd.start_member(0);
    let now = store.revision().await.unwrap();
    store.compact(now - 50).await.unwrap();
    for writer in writing {
        writer.await.unwrap();
    }
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
    world.stop.store(true, Ordering::Relaxed);
    let grown = resident().saturating_sub(before) >> 20;
    let history = by_kind(&history.until(end).await);
    let (mut events, mut fresh) = (0, 0);
    for (watcher, stretches) in stretches.iter().enumerate() {
        let kind = watcher % KINDS.len();
        fresh += stretches.len() - 1;
        for Stretch { after, seen, until } in stretches {
            let within = |(revision, _): &&(u64, &str)| revision > after && revision <= until;
            let expected: Vec<(u64, &str)> =
                history[&kind].iter().filter(within).copied().collect();
            assert_eq!(seen, &expected, "watcher {watcher} after {after}, SEED={seed}");
            events += seen.len();
        }
        assert!(stretches.last().unwrap().until >= end, "watcher {watcher} came to the end");
    }
    eprintln!(
        "{watchers} watchers saw {events} events of {writes} writes; {fresh} had to read anew; \
         {grown} MiB more memory"
    );
    assert!(grown < 400, "{grown} MiB");
}

/// Of each kind: revision and type of every change.
fn by_kind(history: &[Event]) -> HashMap<usize, Vec<(u64, &'static str)>> {
    let mut kinds: HashMap<usize, Vec<(u64, &'static str)>> = HashMap::new();
    for event in history {
        let of = |(folder, ..): &(&str, &str, &str, &str)| {
            event.key.starts_with(&format!("/registry/{folder}/"))
        };
        let Some(kind) = KINDS.iter().position(of) else { continue };
        let change = match &event.change {
            Change::Delete(_) => "DELETED",
            Change::Put(item) if item.create_revision == item.mod_revision => "ADDED",
            Change::Put(_) => "MODIFIED",
        };
        kinds.entry(kind).or_default().push((event.revision, change));
    }
    kinds
}

fn collection(kind: usize) -> String {
    let (_, version, resource, _) = KINDS[kind];
    format!("/{version}/namespaces/default/{resource}")
}

async fn send(world: &World, method: &str, path: &str, body: &str) -> (u16, Body) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header(
            "content-type",
            if method == "PATCH" { "application/merge-patch+json" } else { "application/json" },
        )
        .extension(User::new("admin", &["system:masters"]));
    let request = request.body(Body::from(body.to_string())).unwrap();
    let response = world.router.clone().oneshot(request).await.unwrap();
    (response.status().as_u16(), response.into_body())
}

async fn write(world: Arc<World>, writes: u64) {
    while world.writes.fetch_add(1, Ordering::Relaxed) < writes {
        let kind = world.rng.below(KINDS.len() as u64) as usize;
        let name = format!("n{}", world.rng.below(NAMES));
        let one = format!("{}/{name}", collection(kind));
        let (code, _) = match world.rng.below(4) {
            0 => send(&world, "DELETE", &one, "").await,
            1 => {
                let mut object: Value = serde_json::from_str(KINDS[kind].3).unwrap();
                object["metadata"] = json!({"name": name});
                send(&world, "POST", &collection(kind), &object.to_string()).await
            }
            _ => {
                let mark = world.rng.u64().to_string();
                let patch = json!({"metadata": {"annotations": {"mark": mark}}});
                send(&world, "PATCH", &one, &patch.to_string()).await
            }
        };
        // A member of the store may be away.
        assert!(matches!(code, 200 | 201 | 404 | 409 | 429 | 500..=504), "{one}: {code}");
    }
}

/// A change of a kind that certainly happens.
async fn touch(world: &World, kind: usize) {
    for attempt in 0..50 {
        let mut object: Value = serde_json::from_str(KINDS[kind].3).unwrap();
        object["metadata"] = json!({"name": format!("last-{attempt}")});
        let (code, _) = send(world, "POST", &collection(kind), &object.to_string()).await;
        if code == 201 {
            return;
        }
        world.clock.sleep(Duration::from_millis(100)).await;
    }
    panic!("nothing can be written");
}

/// Watches until it has seen the end; what it saw, in stretches without a gap.
async fn watch(world: Arc<World>, watcher: u64, start: u64) -> Vec<Stretch> {
    let kind = watcher as usize % KINDS.len();
    // A tenth reads slowly, a tenth loses its connection again and again.
    let (slow, drops) = (watcher % 10 == 3, watcher % 10 == 7);
    let mut stretches = vec![Stretch { after: start, seen: Vec::new(), until: start }];
    loop {
        let stretch = stretches.last_mut().expect("there is always one");
        let patience = if drops { world.rng.below(40) } else { u64::MAX };
        match follow(&world, kind, stretch, slow, patience).await {
            Ended::Done => return stretches,
            Ended::Dropped => {}
            Ended::Gone => {
                let after = list(&world, kind).await;
                stretches.push(Stretch { after, seen: Vec::new(), until: after });
            }
        }
    }
}

enum Ended {
    Done,
    /// The connection, or the server has ended it.
    Dropped,
    /// 410: read anew.
    Gone,
}

async fn follow(
    world: &World,
    kind: usize,
    stretch: &mut Stretch,
    slow: bool,
    patience: u64,
) -> Ended {
    let path = format!(
        "{}?watch=1&allowWatchBookmarks=1&resourceVersion={}",
        collection(kind),
        stretch.until
    );
    let (code, mut body) = send(world, "GET", &path, "").await;
    if code != 200 {
        world.clock.sleep(Duration::from_millis(50)).await;
        return if code == 410 { Ended::Gone } else { Ended::Dropped };
    }
    let (mut buffer, mut events) = (Vec::new(), 0);
    while let Some(Ok(frame)) = body.frame().await {
        buffer.extend_from_slice(&frame.into_data().unwrap_or_default());
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line).unwrap();
            let revision = &event["object"]["metadata"]["resourceVersion"];
            let revision = || revision.as_str().unwrap().parse::<u64>().unwrap();
            let kind = match event["type"].as_str().unwrap() {
                "ERROR" => return Ended::Gone,
                "BOOKMARK" => {
                    stretch.until = stretch.until.max(revision());
                    continue;
                }
                "ADDED" => "ADDED",
                "MODIFIED" => "MODIFIED",
                _ => "DELETED",
            };
            stretch.seen.push((revision(), kind));
            stretch.until = revision();
            events += 1;
            let end = world.end.load(Ordering::SeqCst);
            if end > 0 && stretch.until >= end {
                return Ended::Done;
            }
            if events >= patience {
                return Ended::Dropped;
            }
            if slow {
                world.clock.sleep(Duration::from_millis(30)).await;
            }
        }
    }
    Ended::Dropped
}

/// The revision of a list.
async fn list(world: &World, kind: usize) -> u64 {
    loop {
        let (code, body) = send(world, "GET", &collection(kind), "").await;
        let bytes = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let list: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if let (200, Some(revision)) = (code, list["metadata"]["resourceVersion"].as_str()) {
            return revision.parse().unwrap();
        }
        world.clock.sleep(Duration::from_millis(50)).await;
    }
}

fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<usize>().ok());
    kilobytes.unwrap_or(0) * 1024
}
