//! The cache over the memory store.

use std::sync::Arc;

use apiserver::cache::{Cache, Change, EventType, KindCache, KindSpec};
use apiserver::store::memory::MemoryStore;
use apiserver::store::{Outcome, Revision, Store, StoreError, Txn};
use client::Clock;
use proto::time::Time;

async fn open(store: &Arc<dyn Store>) -> (Cache, Arc<KindCache>) {
    let specs = [
        KindSpec::of(&proto::kind::POD, &["spec.nodeName"]),
        KindSpec::of(&proto::kind::NODE, &[]),
        KindSpec::of(&proto::kind::SERVICE, &[]),
    ];
    let cache = Cache::open(store.clone(), specs, Clock::system()).await.unwrap();
    let pods = cache.kind("pods").unwrap();
    (cache, pods)
}

fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new())
}

fn pod(name: &str, node: &str) -> bytes::Bytes {
    format!(r#"{{"metadata":{{"name":"{name}","labels":{{"app":"a"}}}},"spec":{{"nodeName":"{node}"}}}}"#)
        .into()
}

async fn commit(cache: &Cache, txn: Txn) -> Revision {
    match cache.transact(txn).await.unwrap() {
        Outcome::Committed(revision) => revision,
        conflict => panic!("{conflict:?}"),
    }
}

fn frames(changes: &[Arc<Change>], node: &str) -> Vec<String> {
    let turns = changes.iter().filter_map(|change| {
        let turn = change.turn(|entry| entry.field("spec.nodeName") == Some(node))?;
        Some(String::from_utf8(change.frame(turn).to_vec()).unwrap())
    });
    turns.collect()
}

#[tokio::test]
async fn a_write_is_read_at_once_and_seen_by_watchers() {
    let (cache, pods) = open(&memory()).await;
    let mut watcher = pods.watcher(pods.snapshot().revision).unwrap();
    let key = pods.key("ns", "a");
    let created = commit(&cache, Txn::create(key.as_str(), pod("a", ""))).await;
    let entry = pods.get("ns", "a").unwrap();
    assert_eq!((entry.revision, entry.namespace(), entry.name()), (created, "ns", "a"));
    assert_eq!(entry.labels["app"], "a");
    let updated = commit(&cache, Txn::update(key.as_str(), created, pod("a", "n1"))).await;
    let deleted = commit(&cache, Txn::delete(key.as_str(), updated)).await;
    assert!(pods.get("ns", "a").is_none());
    assert_eq!(pods.get_at(&key, updated).unwrap().revision, updated);

    let changes = watcher.next().await.unwrap();
    let turns: Vec<_> = changes.iter().filter_map(|change| change.turn(|_| true)).collect();
    assert_eq!(turns, [EventType::Added, EventType::Modified, EventType::Deleted]);
    // A selector sees the pod come and go.
    let object = |revision| {
        format!(
            r#"{{"metadata":{{"resourceVersion":"{revision}","name":"a","labels":{{"app":"a"}}}},"spec":{{"nodeName":"n1"}}}}"#
        )
    };
    let expected = [
        format!("{{\"type\":\"ADDED\",\"object\":{}}}\n", object(updated)),
        format!("{{\"type\":\"DELETED\",\"object\":{}}}\n", object(deleted)),
    ];
    assert_eq!(frames(&changes, "n1"), expected);
    assert_eq!(watcher.progress(), deleted);
    // Frames are made once.
    let again = pods.watcher(created).unwrap().next().await.unwrap();
    assert_eq!(
        again[0].frame(EventType::Added).as_ptr(),
        changes[1].frame(EventType::Added).as_ptr()
    );
}

#[tokio::test]
async fn snapshots_show_the_past_while_writes_go_on() {
    let store = memory();
    let (cache, pods) = open(&store).await;
    for i in 0..50 {
        commit(&cache, Txn::create(pods.key("ns", &format!("p{i:02}")), pod("p", ""))).await;
    }
    let first = pods.snapshot();
    let page: Vec<_> = first.list("ns", None).take(10).map(|entry| entry.key.clone()).collect();
    for i in (0..50).step_by(2) {
        let entry = pods.get("ns", &format!("p{i:02}")).unwrap();
        commit(&cache, Txn::delete(entry.key.clone(), entry.revision)).await;
    }
    commit(&cache, Txn::create(pods.key("n", "other"), pod("p", ""))).await;
    let later = cache.snapshot_at(&pods, first.revision).await.unwrap();
    let rest: Vec<_> = later.list("ns", page.last().map(|key| &**key)).map(|e| e.name()).collect();
    assert_eq!(rest.len(), 40);
    assert_eq!((rest[0], rest[39]), ("p10", "p49"));
    assert_eq!(pods.snapshot().list("ns", None).count(), 25);
    assert_eq!(pods.snapshot().list("", None).count(), 26);
    assert_eq!(pods.snapshot().list("n", None).count(), 1, "a namespace is no prefix of another");

    let future = cache.snapshot_at(&pods, first.revision + 1000).await;
    assert!(matches!(future, Err(StoreError::Future { .. })));
    // A cache that has no history reads the store's.
    store.compact(first.revision).await.unwrap();
    let (other, other_pods) = open(&store).await;
    let later = other.snapshot_at(&other_pods, first.revision).await.unwrap();
    assert_eq!(later.len(), 50);
    let before = other.snapshot_at(&other_pods, first.revision - 1).await;
    assert!(matches!(before, Err(StoreError::Compacted { .. })));
}

#[tokio::test]
async fn a_cache_that_opens_later_resumes_older_watches() {
    let store = memory();
    let (cache, pods) = open(&store).await;
    let start = pods.snapshot().revision;
    for i in 0..10 {
        commit(&cache, Txn::create(pods.key("ns", &format!("p{i}")), pod("p", ""))).await;
    }
    let (_other, reopened) = open(&store).await;
    let mut old = pods.watcher(start).unwrap();
    let mut new = reopened.watcher(start).unwrap();
    let revisions = |changes: Vec<Arc<Change>>| -> Vec<_> {
        changes.iter().map(|change| (change.revision, change.frame(EventType::Added))).collect()
    };
    assert_eq!(revisions(old.next().await.unwrap()), revisions(new.next().await.unwrap()));
    assert!(new.pull().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_slow_watcher_is_gone_rather_than_short_of_events() {
    let store = memory();
    let specs = [KindSpec::of(&proto::kind::POD, &[])];
    let cache = Cache::open(store, specs, Clock::simulated(Time::from_unix(0))).await.unwrap();
    let pods = cache.kind("pods").unwrap();
    let (mut slow, mut quick) = (pods.watcher(1).unwrap(), pods.watcher(1).unwrap());
    let key = pods.key("ns", "a");
    let mut last = commit(&cache, Txn::create(key.as_str(), pod("a", ""))).await;
    let mut count = 0;
    for i in 0..20_000 {
        last = commit(&cache, Txn::update(key.as_str(), last, pod("a", &i.to_string()))).await;
        if i % 1000 == 0 {
            loop {
                let changes = quick.pull().unwrap();
                count += changes.len();
                if changes.is_empty() {
                    break;
                }
            }
        }
    }
    while let changes @ 1.. = quick.pull().unwrap().len() {
        count += changes;
    }
    assert_eq!(count, 20_001);
    let gone = slow.next().await.unwrap_err();
    assert_eq!(gone.requested, 1);
    assert!(pods.watcher(gone.oldest).is_ok());
    assert!(pods.watcher(gone.oldest - 1).is_err());
    assert_eq!(quick.progress(), last);
}
