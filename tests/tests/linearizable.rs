//! Two API servers on three etcd members, killed and started again while many clients read and
//! write a few objects through either: for every object some order of the operations explains all
//! answers, and every list of them all is what there was at one moment.
//!
//! `CORACLE_ROUNDS=30` for a long form, each round brings one failure; `CORACLE_SEEDS=5` for five
//! such histories, from `SEED` on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use client::{Client, Clock, Kubeconfig, Rng};
use http::{Method, Request};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tests::linearizability::lists::{self, Item, List, Written};
use tests::linearizability::{Answer, Ask, Operation, check};
use tests::server::Server;

#[allow(dead_code, reason = "every test program uses a part of it")]
#[path = "../../apiserver/tests/store/etcd_process.rs"]
mod etcd_process;

const OBJECTS: u64 = 12;
const CLIENTS: usize = 12;
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

struct World {
    clients: Vec<Client>,
    rng: Rng,
    clock: Clock,
    /// Every call and every return takes the next number.
    time: AtomicU64,
    /// Values written.
    values: AtomicU64,
    histories: Vec<Mutex<Vec<Operation>>>,
    writes: Mutex<Vec<Written>>,
    lists: Mutex<Vec<List>>,
    stop: AtomicBool,
}

#[tokio::test(flavor = "multi_thread")]
async fn any_history_has_an_order() {
    let first = number("SEED").unwrap_or_else(|| Rng::from_os().u64());
    for seed in 0..number("CORACLE_SEEDS").unwrap_or(1) {
        let seed = first.wrapping_add(seed);
        eprintln!("SEED={seed}");
        let Some(etcd) = etcd_process::Etcd::start(3) else { return };
        one_history(etcd, seed).await;
    }
}

async fn one_history(mut etcd: etcd_process::Etcd, seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    let servers = etcd.urls().join(",");
    let flags = ["--etcd-servers", servers.as_str()];
    // Both trust the same authority, as servers of one cluster do.
    let mut first = Server::at(&folder.path().join("first"), &flags);
    copy_pki(&folder.path().join("first"), &folder.path().join("second"));
    let mut second = Server::at(&folder.path().join("second"), &flags);
    let connect = |server: &Server| {
        let config = Kubeconfig::read(&server.kubeconfig()).unwrap().config(None).unwrap();
        Client::connect(&config).unwrap()
    };
    let world = Arc::new(World {
        clients: vec![connect(&first), connect(&second)],
        rng: Rng::seeded(seed),
        clock: Clock::system(),
        time: AtomicU64::new(0),
        values: AtomicU64::new(0),
        histories: (0..OBJECTS).map(|_| Mutex::default()).collect(),
        writes: Mutex::default(),
        lists: Mutex::default(),
        stop: AtomicBool::new(false),
    });
    let work = (0..CLIENTS).map(|number| tokio::spawn(worker(world.clone(), number)));
    let work: Vec<_> = work.collect();
    for round in 0..number("CORACLE_ROUNDS").unwrap_or(4) {
        world.clock.sleep(Duration::from_millis(500)).await;
        match round % 4 {
            0 => {
                first.kill();
                tokio::task::block_in_place(|| first.restart());
            }
            2 => {
                second.kill();
                tokio::task::block_in_place(|| second.restart());
            }
            // One of the three leads.
            other => {
                let member = ((other + round) % 3) as usize;
                etcd.kill_member(member);
                world.clock.sleep(Duration::from_millis(1500)).await;
                etcd.start_member(member);
            }
        }
    }
    world.clock.sleep(Duration::from_millis(500)).await;
    world.stop.store(true, Ordering::Relaxed);
    for worker in work {
        worker.await.unwrap();
    }
    let mut operations = 0;
    for (number, history) in world.histories.iter().enumerate() {
        let history = history.lock();
        operations += history.len();
        if let Err(rest) = check(&history) {
            panic!("object {number}: no order explains {rest:#?}\nSEED={seed}");
        }
    }
    let (writes, lists) = (world.writes.lock(), world.lists.lock());
    if let Err(why) = lists::check(&writes, &lists) {
        panic!("{why}\nSEED={seed}");
    }
    let lists = lists.len();
    eprintln!("{operations} operations on {OBJECTS} objects have an order, {lists} lists fit it");
    assert!(operations > 1000 && lists > 20, "{operations} operations, {lists} lists");
}

fn copy_pki(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to.join("pki")).unwrap();
    for file in std::fs::read_dir(from.join("pki")).unwrap().flatten() {
        std::fs::copy(file.path(), to.join("pki").join(file.file_name())).unwrap();
    }
}

async fn worker(world: Arc<World>, number: usize) {
    let client = world.clients[number % 2].clone();
    // What it read last of each object, with the resourceVersion that a replacement needs.
    let mut known: Vec<Option<(u64, String)>> = vec![None; OBJECTS as usize];
    while !world.stop.load(Ordering::Relaxed) {
        if world.rng.below(16) == 0 {
            list(&world, &client, &mut known).await;
            continue;
        }
        let object = world.rng.below(OBJECTS) as usize;
        let value = world.values.fetch_add(1, Ordering::Relaxed);
        let ask = match (world.rng.below(10), &known[object]) {
            (0..3, _) => Ask::Read,
            (3..5, _) => Ask::Create(value),
            (5..7, _) => Ask::Write(value),
            (7..9, Some((old, _))) => Ask::Replace(*old, value),
            (7..9, None) => Ask::Read,
            _ => Ask::Delete,
        };
        let revision = known[object].as_ref().map_or("", |(_, revision)| revision.as_str());
        let request = request(ask, object, revision);
        let called = world.time.fetch_add(1, Ordering::SeqCst);
        let limit = Duration::from_secs(10);
        let answered = world.clock.timeout(limit, answer(&client, request)).await;
        let (answer, found) = answered.unwrap_or((Answer::Unknown, None));
        let mut returned = world.time.fetch_add(1, Ordering::SeqCst);
        let answer = match (ask, answer, &found) {
            (Ask::Read, Answer::Done, Some((value, _))) => Answer::Value(*value),
            // A read that failed says nothing.
            (Ask::Read, Answer::Unknown, _) => continue,
            (_, answer, _) => answer,
        };
        if answer == Answer::Unknown {
            returned = u64::MAX;
        }
        if let (
            Ask::Create(_) | Ask::Write(_) | Ask::Replace(..),
            Answer::Done,
            Some((value, text)),
        ) = (ask, answer, &found)
        {
            let item = Item { value: *value, revision: text.parse().unwrap() };
            world.writes.lock().push(Written { called, returned, object, item });
        }
        if ask != Ask::Delete {
            known[object] = found;
        }
        let operation = Operation { ask, answer, called, returned };
        world.histories[object].lock().push(operation);
        if answer == Answer::Unknown {
            world.clock.sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Reads all objects, in one page or several, and counts as a read of each.
async fn list(world: &World, client: &Client, known: &mut [Option<(u64, String)>]) {
    let called = world.time.fetch_add(1, Ordering::SeqCst);
    let pages = pages(client, [0, 5][world.rng.below(2) as usize]);
    let answered = world.clock.timeout(Duration::from_secs(10), pages).await;
    let returned = world.time.fetch_add(1, Ordering::SeqCst);
    let Ok(Some((revision, items))) = answered else {
        return world.clock.sleep(Duration::from_millis(50)).await;
    };
    for (object, history) in world.histories.iter().enumerate() {
        let item = items.get(&object);
        let answer = item.map_or(Answer::NotFound, |item| Answer::Value(item.value));
        known[object] = item.map(|item| (item.value, item.revision.to_string()));
        history.lock().push(Operation { ask: Ask::Read, answer, called, returned });
    }
    world.lists.lock().push(List { called, returned, revision, items });
}

/// A list's revision and items; nothing where a server or the store was away.
async fn pages(client: &Client, limit: usize) -> Option<(u64, BTreeMap<usize, Item>)> {
    let (mut items, mut token, mut first) = (BTreeMap::new(), String::new(), None);
    loop {
        let path = format!("{MAPS}?limit={limit}&continue={token}");
        let response = client.request(Request::get(path).body(Bytes::new()).unwrap()).await.ok()?;
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.ok()?.to_bytes();
        assert!(matches!(code, 200 | 410 | 429 | 500..=504), "{code}: {body:?}");
        if code != 200 {
            return None;
        }
        let page: Value = serde_json::from_slice(&body).unwrap();
        for item in page["items"].as_array().unwrap() {
            let name = item["metadata"]["name"].as_str().unwrap();
            // The cluster's own are there, too.
            let Some(object) = name.strip_prefix("object-") else { continue };
            let number = |text: &Value| text.as_str().unwrap().parse::<u64>().unwrap();
            let revision = number(&item["metadata"]["resourceVersion"]);
            let item = Item { value: number(&item["data"]["value"]), revision };
            assert_eq!(items.insert(object.parse().unwrap(), item), None, "{name} came twice");
        }
        let metadata = &page["metadata"];
        let revision: u64 = metadata["resourceVersion"].as_str().unwrap().parse().unwrap();
        assert_eq!(*first.get_or_insert(revision), revision, "pages of one list");
        token = metadata["continue"].as_str().unwrap_or_default().to_string();
        if token.is_empty() {
            return Some((revision, items));
        }
    }
}

fn request(ask: Ask, object: usize, revision: &str) -> Request<Bytes> {
    let name = format!("object-{object}");
    let one = format!("{MAPS}/{name}");
    let map = |value: u64, revision: &str| {
        let mut map = json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name}, "data": {"value": value.to_string()}});
        if !revision.is_empty() {
            map["metadata"]["resourceVersion"] = revision.into();
        }
        map
    };
    let (method, path, kind, body) = match ask {
        Ask::Read => (Method::GET, one, "", Value::Null),
        Ask::Create(value) => (Method::POST, MAPS.into(), "json", map(value, "")),
        Ask::Write(value) => {
            let patch = json!({"data": {"value": value.to_string()}});
            (Method::PATCH, one, "merge-patch+json", patch)
        }
        Ask::Replace(_, value) => (Method::PUT, one, "json", map(value, revision)),
        Ask::Delete => (Method::DELETE, one, "", Value::Null),
    };
    let mut request = Request::builder().method(method).uri(path);
    if !kind.is_empty() {
        request = request.header("content-type", format!("application/{kind}"));
    }
    let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    request.body(body).unwrap()
}

/// The answer, and the value and resourceVersion that came with it.
async fn answer(client: &Client, request: Request<Bytes>) -> (Answer, Option<(u64, String)>) {
    let Ok(response) = client.request(request).await else { return (Answer::Unknown, None) };
    let code = response.status().as_u16();
    let Ok(body) = response.into_body().collect().await else { return (Answer::Unknown, None) };
    let object: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
    let value = object["data"]["value"].as_str().and_then(|text| text.parse().ok());
    let revision = object["metadata"]["resourceVersion"].as_str().map(str::to_string);
    let answer = match (code, object["reason"].as_str()) {
        (200 | 201, _) => Answer::Done,
        (404, Some("NotFound")) => Answer::NotFound,
        (409, Some("AlreadyExists" | "Conflict")) => Answer::Conflict,
        // The store or the server was away: it may have happened.
        (429 | 500..=504, _) => Answer::Unknown,
        (code, reason) => panic!("{code} {reason:?}: {object}"),
    };
    (answer, value.zip(revision))
}
