//! The cache over the memory store.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use apiserver::cache::{Cache, Change, EventType, KindCache, KindSpec};
use apiserver::store::memory::MemoryStore;
use apiserver::store::{
    Got, Guard, Op, Outcome, Page, Range, Revision, Sink, Store, StoreError, Txn, Watch,
};
use async_trait::async_trait;
use client::Clock;
use parking_lot::Mutex;
use proto::time::Time;
use tokio::sync::oneshot;

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

/// A store whose watch can break, as etcd's does, and that counts its compactions.
struct Fragile {
    inner: MemoryStore,
    watch: Mutex<Option<(oneshot::Sender<StoreError>, Watch)>>,
    compactions: AtomicUsize,
}

impl Fragile {
    fn new() -> Arc<Self> {
        let (inner, watch) = (MemoryStore::new(), Mutex::new(None));
        Arc::new(Self { inner, watch, compactions: AtomicUsize::new(0) })
    }

    /// From here on the cache hears nothing; it is told so by the sender.
    fn lose_watch(&self) -> oneshot::Sender<StoreError> {
        self.watch.lock().take().unwrap().0
    }
}

#[async_trait]
impl Store for Fragile {
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<Got, StoreError> {
        self.inner.get(key, at).await
    }

    async fn list(&self, range: Range<'_>) -> Result<Page, StoreError> {
        self.inner.list(range).await
    }

    async fn transact(&self, txn: Txn) -> Result<Outcome, StoreError> {
        self.inner.transact(txn).await
    }

    async fn watch(
        &self,
        prefix: &str,
        from: Revision,
        sink: Arc<dyn Sink>,
    ) -> Result<Watch, StoreError> {
        let (end, ended) = oneshot::channel();
        *self.watch.lock() = Some((end, self.inner.watch(prefix, from, sink).await?));
        Ok(Watch::new(ended, ()))
    }

    async fn compact(&self, revision: Revision) -> Result<(), StoreError> {
        self.compactions.fetch_add(1, Ordering::Relaxed);
        self.inner.compact(revision).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.inner.revision().await
    }
}

#[tokio::test]
async fn a_cache_that_lost_its_watch_reads_everything_anew() {
    let fragile = Fragile::new();
    let store: Arc<dyn Store> = fragile.clone();
    let (cache, pods) = open(&store).await;
    for name in ["a", "b"] {
        commit(&cache, Txn::create(pods.key("ns", name), pod(name, ""))).await;
    }
    let mut running = pods.watcher(pods.snapshot().revision).unwrap();
    let old = pods.snapshot();

    let lost = fragile.lose_watch();
    let (a, b) = (pods.get("ns", "a").unwrap(), pods.get("ns", "b").unwrap());
    store.transact(Txn::delete(a.key.clone(), a.revision)).await.unwrap();
    store.transact(Txn::update(b.key.clone(), b.revision, pod("b", "n1"))).await.unwrap();
    store.transact(Txn::create(pods.key("ns", "c"), pod("c", ""))).await.unwrap();
    let now = store.revision().await.unwrap();
    store.compact(now).await.unwrap();
    assert_eq!(pods.snapshot().revision, old.revision);
    lost.send(StoreError::Compacted { requested: 1, oldest: Some(now) }).unwrap();

    Clock::system().timeout(Duration::from_secs(10), cache.wait(now)).await.unwrap();
    let snapshot = pods.snapshot();
    let shown: Vec<_> =
        snapshot.list("", None).map(|e| (e.name(), e.field("spec.nodeName"))).collect();
    assert_eq!((shown, snapshot.revision), (vec![("b", Some("n1")), ("c", Some(""))], now));
    assert_eq!(running.next().await.unwrap_err().oldest, now);
    let mut next = pods.watcher(now).unwrap();
    commit(&cache, Txn::create(pods.key("ns", "d"), pod("d", ""))).await;
    assert_eq!(next.next().await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn history_is_kept_for_minutes_and_nothing_wakes_up_for_it_when_idle() {
    let fragile = Fragile::new();
    let specs = [KindSpec::of(&proto::kind::POD, &[])];
    let clock = Clock::simulated(Time::from_unix(0));
    let cache = Cache::open(fragile.clone(), specs, clock.clone()).await.unwrap();
    let first = commit(&cache, Txn::create("/registry/pods/ns/a", pod("a", ""))).await;
    clock.sleep(Duration::from_secs(60)).await;
    let second = commit(&cache, Txn::update("/registry/pods/ns/a", first, pod("a", "n"))).await;
    clock.sleep(Duration::from_secs(270 - 60 - 1)).await;
    assert_eq!(fragile.compactions.load(Ordering::Relaxed), 0);
    clock.sleep(Duration::from_secs(60)).await;
    // The second write is not as old.
    assert!(fragile.get("/registry/pods/ns/a", Some(first)).await.is_ok());
    clock.sleep(Duration::from_secs(3600)).await;
    let old = fragile.get("/registry/pods/ns/a", Some(first)).await;
    assert!(matches!(old, Err(StoreError::Compacted { .. })), "{old:?}");
    assert!(fragile.get("/registry/pods/ns/a", Some(second)).await.is_ok());
    assert_eq!(fragile.compactions.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_transaction_on_two_kinds_is_one_revision() {
    let (cache, pods) = open(&memory()).await;
    let nodes = cache.kind("minions").unwrap();
    assert!(cache.kind("services/specs").is_some() && cache.kind("services").is_none());
    let (mut pod_watcher, mut node_watcher) = (pods.watcher(1).unwrap(), nodes.watcher(1).unwrap());
    let put = |key: &str, name: &str| Op::Put { key: key.into(), value: pod(name, "") };
    let txn = Txn {
        guards: vec![Guard { key: "/registry/pods/ns/a".into(), expected: 0 }],
        ops: vec![
            put("/registry/pods/ns/a", "a"),
            put("/registry/minions/n", "n"),
            put("/registry/pods/ns/b", "b"),
            put("/registry/ranges/serviceips", "r"),
        ],
    };
    let revision = commit(&cache, txn).await;
    assert_eq!(pods.snapshot().revision, revision);
    assert_eq!(nodes.get("", "n").unwrap().revision, revision);
    assert_eq!(nodes.get("", "n").unwrap().namespace(), "");
    assert_eq!(pod_watcher.next().await.unwrap().len(), 2);
    assert_eq!(node_watcher.next().await.unwrap().len(), 1);
    // A watcher without events learns of others' revisions.
    let later = commit(&cache, Txn::create("/registry/services/specs/ns/s", pod("s", ""))).await;
    assert_eq!((pod_watcher.progress(), node_watcher.progress()), (later, later));
    assert_eq!(pods.snapshot().revision, later);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_of_one_value_sleeps_through_the_rest() {
    let (cache, pods) = open(&memory()).await;
    let watch = |field: &str, value: &str| pods.watcher_of(1, field, value).unwrap();
    let mut node = watch("spec.nodeName", "n1");
    let mut name = watch("metadata.name", "b");
    let mut other = watch("metadata.namespace", "other");
    let a = commit(&cache, Txn::create(pods.key("ns", "a"), pod("a", ""))).await;
    let b = commit(&cache, Txn::create(pods.key("ns", "b"), pod("b", "n2"))).await;
    assert!(node.pull().unwrap().is_empty());
    assert_eq!(node.progress(), b);
    let bound = commit(&cache, Txn::update(pods.key("ns", "a"), a, pod("a", "n1"))).await;
    // It leaves the node: its watcher sees that, too.
    let moved = commit(&cache, Txn::update(pods.key("ns", "a"), bound, pod("a", "n2"))).await;
    assert_eq!(frames(&node.next().await.unwrap(), "n1").len(), 2);
    assert_eq!(node.progress(), moved);
    let seen: Vec<_> = name.next().await.unwrap().iter().map(|change| change.revision).collect();
    assert_eq!(seen, [b]);

    // However much happens elsewhere, it is woken in time to keep up.
    let sleeper = tokio::spawn(async move {
        let changes = other.next().await.unwrap();
        changes.iter().map(|change| change.revision).collect::<Vec<_>>()
    });
    let mut last = moved;
    for i in 0..50_000 {
        last =
            commit(&cache, Txn::update(pods.key("ns", "a"), last, pod("a", &i.to_string()))).await;
        if i % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    assert!(pods.watcher(moved).is_err());
    let created = commit(&cache, Txn::create(pods.key("other", "a"), pod("a", ""))).await;
    assert_eq!(sleeper.await.unwrap(), [created]);
}
