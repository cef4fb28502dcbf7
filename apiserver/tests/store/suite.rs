//! What every store must do. Each check has a prefix of its own, so that all can run on one store,
//! one after the other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use apiserver::store::{
    Change, Event, Guard, KeyValue, Op, Outcome, Range, Revision, Sink, Store, StoreError, Txn,
    Watch,
};
use bytes::Bytes;
use client::{Clock, Rng};
use parking_lot::Mutex;
use tokio::sync::watch;

pub async fn run(store: Arc<dyn Store>) {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| Rng::from_os().u64());
    eprintln!("SEED={seed}");
    guards(Check::new(&store, "guards")).await;
    one_revision_per_transaction(Check::new(&store, "transactions")).await;
    nothing_to_do(Check::new(&store, "nothing")).await;
    old_revisions(Check::new(&store, "old")).await;
    pages(Check::new(&store, "pages")).await;
    prefixes(Check::new(&store, "prefix")).await;
    watch_from_now_and_then(Check::new(&store, "watch")).await;
    watch_deletions(Check::new(&store, "deletions")).await;
    many_watchers(Check::new(&store, "watchers")).await;
    large_values(Check::new(&store, "large")).await;
    one_winner(Check::new(&store, "winner")).await;
    for round in 0..3 {
        let check = Check::new(&store, &format!("model-{round}"));
        model(check, Rng::seeded(seed.wrapping_add(round))).await;
    }
    compaction(Check::new(&store, "compaction")).await;
}

/// A store and the prefix that a check may use.
struct Check {
    store: Arc<dyn Store>,
    prefix: String,
}

impl Check {
    fn new(store: &Arc<dyn Store>, name: &str) -> Self {
        eprintln!("check {name}");
        Self { store: store.clone(), prefix: format!("/registry/secrets/{name}/") }
    }

    fn key(&self, name: &str) -> Arc<str> {
        format!("{}{name}", self.prefix).into()
    }

    async fn commit(&self, txn: Txn) -> Revision {
        match self.store.transact(txn).await.unwrap() {
            Outcome::Committed(revision) => revision,
            conflict => panic!("{conflict:?}"),
        }
    }

    async fn conflict(&self, txn: Txn) -> Vec<Revision> {
        match self.store.transact(txn).await.unwrap() {
            Outcome::Conflict { found, .. } => found,
            committed => panic!("{committed:?}"),
        }
    }

    async fn put(&self, name: &str, value: &str) -> Revision {
        self.commit(put(self.key(name), value)).await
    }

    async fn names(&self, at: Option<Revision>) -> Vec<String> {
        let range = Range { prefix: &self.prefix, at, ..Range::default() };
        let page = self.store.list(range).await.unwrap();
        assert!(!page.more);
        page.items.iter().map(|item| item.key[self.prefix.len()..].to_owned()).collect()
    }

    async fn watch(&self, from: Revision) -> Seen {
        Seen::watch(&*self.store, &self.prefix, from).await.unwrap()
    }
}

fn put(key: Arc<str>, value: &str) -> Txn {
    Txn { guards: vec![], ops: vec![Op::Put { key, value: value.to_owned().into() }] }
}

fn guard(key: &Arc<str>, expected: Revision) -> Guard {
    Guard { key: key.clone(), expected }
}

/// What a watch has brought.
pub struct Seen {
    log: Arc<Log>,
    watch: Watch,
}

struct Log {
    events: Mutex<Vec<Event>>,
    revision: watch::Sender<Revision>,
}

impl Sink for Log {
    fn apply(&self, events: &[Event], revision: Revision) {
        assert!(events.is_sorted_by_key(|event| event.revision));
        let mut all = self.events.lock();
        if let (Some(last), Some(first)) = (all.last(), events.first()) {
            assert!(last.revision < first.revision, "a revision came in two parts, or twice");
        }
        all.extend_from_slice(events);
        self.revision.send_modify(|seen| *seen = revision.max(*seen));
    }
}

impl Seen {
    pub async fn watch(
        store: &dyn Store,
        prefix: &str,
        from: Revision,
    ) -> Result<Self, StoreError> {
        let log = Arc::new(Log { events: Mutex::default(), revision: watch::Sender::new(0) });
        let watch = store.watch(prefix, from, log.clone()).await?;
        Ok(Self { log, watch })
    }

    /// All events, once the watch has come to a revision.
    pub async fn until(&self, revision: Revision) -> Vec<Event> {
        let mut seen = self.log.revision.subscribe();
        let wait = seen.wait_for(|seen| *seen >= revision);
        Clock::system()
            .timeout(Duration::from_secs(20), wait)
            .await
            .expect("a change is missing")
            .unwrap();
        self.log.events.lock().clone()
    }

    pub async fn ended(&mut self) -> StoreError {
        Clock::system()
            .timeout(Duration::from_secs(20), self.watch.ended())
            .await
            .expect("it goes on")
    }
}

fn shown(events: &[Event]) -> Vec<(Revision, &str, &'static str)> {
    let name = |event: &Event| event.key.rfind('/').map_or(0, |slash| slash + 1);
    let kind = |event: &Event| match &event.change {
        Change::Put(new) if new.create_revision == new.mod_revision => "added",
        Change::Put(_) => "modified",
        Change::Delete => "deleted",
    };
    events.iter().map(|event| (event.revision, &event.key[name(event)..], kind(event))).collect()
}

async fn guards(check: Check) {
    let key = check.key("a");
    assert_eq!(check.store.get(&key, None).await.unwrap().value, None);
    assert_eq!(check.conflict(Txn::update(key.clone(), 7, "x".into())).await, [0]);
    assert_eq!(check.conflict(Txn::delete(key.clone(), 7)).await, [0]);
    let created = check.commit(Txn::create(key.clone(), "1".into())).await;
    assert_eq!(check.conflict(Txn::create(key.clone(), "2".into())).await, [created]);
    let updated = check.commit(Txn::update(key.clone(), created, "2".into())).await;
    assert!(updated > created);
    assert_eq!(check.conflict(Txn::update(key.clone(), created, "3".into())).await, [updated]);
    let got = check.store.get(&key, None).await.unwrap();
    let expected = KeyValue {
        key: key.clone(),
        value: "2".into(),
        create_revision: created,
        mod_revision: updated,
    };
    assert_eq!(got.value, Some(expected));
    assert!(got.revision >= updated);
    assert_eq!(check.conflict(Txn::delete(key.clone(), created)).await, [updated]);
    let deleted = check.commit(Txn::delete(key.clone(), updated)).await;
    assert!(deleted > updated);
    assert_eq!(check.store.get(&key, None).await.unwrap().value, None);
    // Created again, it is a new object.
    let again = check.commit(Txn::create(key.clone(), "4".into())).await;
    let value = check.store.get(&key, None).await.unwrap().value.unwrap();
    assert_eq!((value.create_revision, value.mod_revision), (again, again));
    assert!(check.store.revision().await.unwrap() >= again);
}

async fn one_revision_per_transaction(check: Check) {
    let [a, b, c] = ["a", "b", "c"].map(|name| check.key(name));
    let both = Txn {
        guards: vec![guard(&a, 0), guard(&b, 0)],
        ops: vec![
            Op::Put { key: b.clone(), value: "b".into() },
            Op::Put { key: a.clone(), value: "a".into() },
        ],
    };
    let first = check.commit(both).await;
    for key in [&a, &b] {
        assert_eq!(check.store.get(key, None).await.unwrap().value.unwrap().mod_revision, first);
    }
    // A guard may be on a key that is not written; one that fails stops everything.
    let mixed = |expected| Txn {
        guards: vec![guard(&a, first), guard(&c, expected)],
        ops: vec![Op::Delete { key: b.clone() }, Op::Put { key: c.clone(), value: "c".into() }],
    };
    assert_eq!(check.conflict(mixed(first)).await, [first, 0]);
    assert_eq!(check.names(None).await, ["a", "b"]);
    let second = check.commit(mixed(0)).await;
    assert!(second > first);
    assert_eq!(check.names(None).await, ["a", "c"]);
    let seen = check.watch(first - 1).await;
    let events = seen.until(second).await;
    let revisions: Vec<_> = events.iter().map(|event| event.revision).collect();
    assert_eq!(revisions, [first, first, second, second]);
    let twice = Txn {
        guards: vec![],
        ops: vec![Op::Delete { key: a.clone() }, Op::Put { key: a.clone(), value: "x".into() }],
    };
    assert!(matches!(check.store.transact(twice).await, Err(StoreError::Duplicate { .. })));
}

async fn nothing_to_do(check: Check) {
    let last = check.put("a", "1").await;
    let absent = Txn { guards: vec![], ops: vec![Op::Delete { key: check.key("absent") }] };
    assert_eq!(
        check.commit(absent).await,
        last,
        "a transaction that changes nothing has no revision"
    );
    let read = Txn { guards: vec![guard(&check.key("a"), last)], ops: vec![] };
    assert_eq!(check.commit(read).await, last);
}

async fn old_revisions(check: Check) {
    let key = check.key("a");
    let first = check.put("a", "1").await;
    let second = check.put("a", "2").await;
    let deleted = check.commit(Txn::delete(key.clone(), second)).await;
    let third = check.put("a", "3").await;
    let table = [
        (first - 1, None),
        (first, Some("1")),
        (second, Some("2")),
        (deleted, None),
        (third, Some("3")),
    ];
    for (at, expected) in table {
        let got = check.store.get(&key, Some(at)).await.unwrap();
        assert_eq!(got.value.map(|value| value.value), expected.map(Bytes::from), "at {at}");
        let names = check.names(Some(at)).await;
        assert_eq!(names.len(), usize::from(expected.is_some()), "at {at}");
    }
    let future = check.store.get(&key, Some(third + 1000)).await;
    assert!(matches!(future, Err(StoreError::Future { .. })), "{future:?}");
}

async fn pages(check: Check) {
    for i in 0..25 {
        check.put(&format!("{i:02}"), "old").await;
    }
    let mut range = Range { prefix: &check.prefix, limit: 10, ..Range::default() };
    let (mut items, mut sizes, mut after): (Vec<KeyValue>, _, Option<Arc<str>>) =
        (vec![], vec![], None);
    loop {
        let page = check.store.list(Range { after: after.as_deref(), ..range }).await.unwrap();
        assert_eq!(range.at.unwrap_or(page.revision), page.revision);
        range.at = Some(page.revision);
        after = page.items.last().map(|item| item.key.clone());
        sizes.push((page.items.len(), page.more));
        items.extend(page.items);
        if !page.more {
            break;
        }
        // Meanwhile others write, before and behind the page.
        check.put("03x", "new").await;
        check.put("24", "new").await;
        let key = check.key("23");
        check.commit(Txn { guards: vec![], ops: vec![Op::Delete { key }] }).await;
    }
    assert_eq!(sizes, [(10, true), (10, true), (5, false)]);
    assert!(items.iter().all(|item| item.value == "old"));
    assert!(items.is_sorted_by(|a, b| a.key < b.key));
    assert_eq!(check.names(None).await.len(), 25);
    // The last page is not announced when there is nothing behind it.
    let all = check.store.list(Range { limit: 25, at: None, ..range }).await.unwrap();
    assert_eq!((all.items.len(), all.more), (25, false));
}

async fn prefixes(check: Check) {
    for name in ["n", "n/a", "n/b/c", "n-1/a", "n0/a", "m/z"] {
        check.put(name, "x").await;
    }
    let prefix = check.key("n/");
    let page = check.store.list(Range { prefix: &prefix, ..Range::default() }).await.unwrap();
    let names: Vec<_> = page.items.iter().map(|item| &item.key[prefix.len()..]).collect();
    assert_eq!(names, ["a", "b/c"]);
    // A key before the prefix is as none.
    let first = check.key("a");
    let page = check.store.list(Range { prefix: &prefix, after: Some(&first), ..Range::default() });
    assert_eq!(page.await.unwrap().items.len(), 2);
    let seen =
        Seen::watch(&*check.store, &prefix, check.store.revision().await.unwrap()).await.unwrap();
    check.put("n0/a", "y").await;
    let last = check.put("n/a", "y").await;
    assert_eq!(shown(&seen.until(last).await), [(last, "a", "modified")]);
}

async fn watch_from_now_and_then(check: Check) {
    let mut revisions = vec![check.put("a", "0").await];
    for i in 1..10 {
        revisions.push(check.put("a", &i.to_string()).await);
    }
    let old = check.watch(revisions[3]).await;
    let now = check.watch(*revisions.last().unwrap()).await;
    for i in 10..20 {
        revisions.push(check.put("a", &i.to_string()).await);
    }
    let last = *revisions.last().unwrap();
    for (seen, missing) in [(old, 4), (now, 10)] {
        let events = seen.until(last).await;
        let seen: Vec<_> = events.iter().map(|event| event.revision).collect();
        assert_eq!(seen, revisions[missing..]);
        for (i, event) in events.iter().enumerate() {
            let Change::Put(new) = &event.change else { panic!("{event:?}") };
            assert_eq!(
                (&*new.value, new.create_revision),
                ((i + missing).to_string().as_bytes(), revisions[0])
            );
        }
    }
}

async fn watch_deletions(check: Check) {
    let key = check.key("a");
    check.put("a", "1").await;
    let updated = check.put("a", "2").await;
    let live = check.watch(updated).await;
    let deleted = check.commit(Txn::delete(key.clone(), updated)).await;
    let past = check.watch(updated).await;
    let expected = [Event { key: key.clone(), revision: deleted, change: Change::Delete }];
    assert_eq!(live.until(deleted).await, expected);
    assert_eq!(past.until(deleted).await, expected);
    let again = check.put("a", "3").await;
    assert_eq!(shown(&live.until(again).await), [(deleted, "a", "deleted"), (again, "a", "added")]);
}

async fn many_watchers(check: Check) {
    let start = check.store.revision().await.unwrap();
    let mut watchers = Vec::new();
    for _ in 0..50 {
        watchers.push(check.watch(start).await);
    }
    // Those that go away do not disturb the others.
    watchers.truncate(40);
    let mut last = start;
    for i in 0..20 {
        last = check.put(&i.to_string(), "x").await;
    }
    for seen in &watchers {
        assert_eq!(seen.until(last).await.len(), 20);
    }
}

async fn large_values(check: Check) {
    let large: Bytes = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
    let start = check.store.revision().await.unwrap();
    let mut last = 0;
    for i in 0..8 {
        let key = check.key(&i.to_string());
        last = check.commit(Txn::create(key, large.clone())).await;
    }
    let range = Range { prefix: &check.prefix, ..Range::default() };
    let page = check.store.list(range).await.unwrap();
    assert!(page.items.len() == 8 && page.items.iter().all(|item| item.value == large));
    let events = check.watch(start).await.until(last).await;
    assert_eq!(events.len(), 8);
}

async fn one_winner(check: Check) {
    let key = check.key("a");
    let tasks: Vec<_> = (0..20)
        .map(|i| {
            let (store, key) = (check.store.clone(), key.clone());
            tokio::spawn(
                async move { store.transact(Txn::create(key, format!("{i}").into())).await },
            )
        })
        .collect();
    let (mut winners, mut losers) = (vec![], vec![]);
    for (i, task) in tasks.into_iter().enumerate() {
        match task.await.unwrap().unwrap() {
            Outcome::Committed(revision) => winners.push((i, revision)),
            Outcome::Conflict { revision, found } => losers.push((revision, found)),
        }
    }
    let [(winner, revision)] = winners[..] else { panic!("{winners:?}") };
    for (seen, found) in losers {
        assert!(seen >= revision && found == [revision]);
    }
    let value = check.store.get(&key, None).await.unwrap().value.unwrap();
    assert_eq!(value.value, winner.to_string());
}

type State = BTreeMap<Arc<str>, KeyValue>;

/// Random transactions by concurrent writers, replayed on a map in the order of their revisions:
/// every outcome, event and old state must be the map's.
async fn model(check: Check, rng: Rng) {
    let start = check.store.revision().await.unwrap();
    let live = check.watch(start).await;
    let mut tasks = Vec::new();
    for writer in 0..6 {
        let rng = Rng::seeded(rng.u64());
        let (store, prefix) = (check.store.clone(), check.prefix.clone());
        tasks.push(tokio::spawn(write_randomly(store, prefix, writer, rng)));
    }
    let mut done = Vec::new();
    for task in tasks {
        done.extend(task.await.unwrap());
    }
    let mut committed: Vec<(Revision, Txn)> = Vec::new();
    let mut conflicts: Vec<(Revision, Txn, Vec<Revision>)> = Vec::new();
    for (txn, outcome) in done {
        match outcome {
            Outcome::Committed(revision) => committed.push((revision, txn)),
            Outcome::Conflict { revision, found } => conflicts.push((revision, txn, found)),
        }
    }
    committed.sort_by_key(|(revision, _)| *revision);
    let (mut state, mut states, mut events) = (State::new(), BTreeMap::new(), Vec::new());
    states.insert(start, state.clone());
    for group in committed.chunk_by(|a, b| a.0 == b.0) {
        // One made the revision; others changed nothing, after it.
        let revision = group[0].0;
        let made = (0..group.len()).find_map(|first| {
            let mut state = state.clone();
            let changes = replay(&mut state, revision, &group[first].1)?;
            let mut others = group.iter().enumerate().filter(|(i, _)| *i != first);
            let idle = |(_, (_, txn)): (_, &(Revision, Txn))| {
                replay(&mut state.clone(), revision, txn).is_some_and(|changes| changes.is_empty())
            };
            others.all(idle).then_some((state, changes))
        });
        let (next, changes) =
            made.unwrap_or_else(|| panic!("no order explains {group:?} in {state:?}"));
        state = next;
        events.extend(changes);
        states.insert(revision, state.clone());
    }
    for (revision, txn, found) in conflicts {
        let (_, state) = states.range(..=revision).next_back().unwrap();
        let actual: Vec<_> = txn.guards.iter().map(|guard| mod_revision(state, guard)).collect();
        assert_eq!(found, actual, "at {revision}");
    }
    let last = *states.keys().next_back().unwrap();
    let sorted = |mut events: Vec<Event>| {
        events.sort_by(|a, b| (a.revision, &a.key).cmp(&(b.revision, &b.key)));
        events
    };
    let events = sorted(events);
    assert_eq!(sorted(live.until(last).await), events);
    assert_eq!(sorted(check.watch(start).await.until(last).await), events);
    for _ in 0..20 {
        let at = start + rng.below(last - start + 1);
        let (_, state) = states.range(..=at).next_back().unwrap();
        let range = Range { prefix: &check.prefix, at: Some(at), ..Range::default() };
        let page = check.store.list(range).await.unwrap();
        assert_eq!(page.items, state.values().cloned().collect::<Vec<_>>(), "at {at}");
    }
}

async fn write_randomly(
    store: Arc<dyn Store>,
    prefix: String,
    writer: u64,
    rng: Rng,
) -> Vec<(Txn, Outcome)> {
    let mut done: Vec<(Txn, Outcome)> = Vec::new();
    for i in 0..60 {
        let mut txn = Txn::default();
        for _ in 0..1 + rng.below(3) {
            let key: Arc<str> = format!("{prefix}{}", rng.below(8)).into();
            if txn.ops.iter().any(|op| *op.key() == key) {
                continue;
            }
            if rng.below(3) > 0 {
                let current = store.get(&key, None).await.unwrap().value;
                let expected = current.map_or(0, |current| current.mod_revision);
                txn.guards.push(guard(&key, if rng.below(8) == 0 { 1 } else { expected }));
            }
            txn.ops.push(match rng.below(3) {
                0 => Op::Delete { key },
                _ => Op::Put { key, value: format!("{writer}-{i}").into() },
            });
        }
        let outcome = store.transact(txn.clone()).await.unwrap();
        done.push((txn, outcome));
    }
    done
}

fn mod_revision(state: &State, guard: &Guard) -> Revision {
    state.get(&guard.key).map_or(0, |value| value.mod_revision)
}

/// What a transaction changes in a state; `None` where a guard does not hold.
fn replay(state: &mut State, revision: Revision, txn: &Txn) -> Option<Vec<Event>> {
    if txn.guards.iter().any(|guard| guard.expected != mod_revision(state, guard)) {
        return None;
    }
    let mut events = Vec::new();
    for op in &txn.ops {
        let change = match op {
            Op::Put { key, value } => {
                let create_revision = state.get(key).map_or(revision, |old| old.create_revision);
                let (key, value) = (key.clone(), value.clone());
                let new =
                    KeyValue { key: key.clone(), value, create_revision, mod_revision: revision };
                state.insert(key, new.clone());
                Some(Change::Put(new))
            }
            Op::Delete { key } => state.remove(key).map(|_| Change::Delete),
        };
        events.extend(change.map(|change| Event { key: op.key().clone(), revision, change }));
    }
    Some(events)
}

async fn compaction(check: Check) {
    let key = check.key("a");
    let first = check.put("a", "1").await;
    check.put("gone", "1").await;
    let second = check.put("a", "2").await;
    let running = check.watch(second).await;
    let gone = check.store.get(&check.key("gone"), None).await.unwrap().value.unwrap();
    check.commit(Txn::delete(gone.key, gone.mod_revision)).await;
    let third = check.put("a", "3").await;
    let too_far = check.store.compact(third + 1000).await;
    assert!(matches!(too_far, Err(StoreError::Future { .. })), "{too_far:?}");

    check.store.compact(second).await.unwrap();
    // What the revision itself shows is still there.
    assert_eq!(check.names(Some(second)).await, ["a", "gone"]);
    assert_eq!(check.store.get(&key, Some(second)).await.unwrap().value.unwrap().value, "2");
    assert_eq!(running.until(third).await.len(), 2);
    let from_there = check.watch(second).await;
    assert_eq!(from_there.until(third).await.len(), 2);
    let old = check.store.get(&key, Some(first)).await;
    assert!(matches!(old, Err(StoreError::Compacted { .. })), "{old:?}");
    let old = check
        .store
        .list(Range { prefix: &check.prefix, at: Some(first), ..Range::default() })
        .await;
    assert!(matches!(old, Err(StoreError::Compacted { .. })), "{old:?}");
    // A watch may learn it at once or when it comes to reading.
    match Seen::watch(&*check.store, &check.prefix, first).await {
        Err(StoreError::Compacted { .. }) => {}
        Err(error) => panic!("{error:?}"),
        Ok(mut seen) => {
            let error = seen.ended().await;
            assert!(matches!(error, StoreError::Compacted { .. }), "{error:?}");
        }
    }
    check.store.compact(second).await.unwrap();
    check.store.compact(third).await.unwrap();
    assert_eq!(check.names(None).await, ["a"]);
    let fourth = check.put("a", "4").await;
    assert_eq!(shown(&running.until(fourth).await).len(), 3);
}
