//! Informers: a local copy of each kind a process reads, kept current by one list and watch per
//! kind and shared by all its readers. Readers see bytes and the slim view, decoded once.
//! Nothing is ever written through an informer.

mod pods;
mod reflector;

use std::any::{Any, TypeId};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use imbl::OrdMap;
use parking_lot::{Mutex, RwLock};
use proto::kind::Row;
use proto::meta::ObjectMeta;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use crate::{Client, Clock, Entry, Key, Object, Rng};

/// The informers of a process; clones share them.
#[derive(Clone)]
pub struct Informers(Arc<Shared>);

struct Shared {
    client: Client,
    clock: Clock,
    rng: Rng,
    /// Each value is an `Informer` of the view that its key names.
    informers: Mutex<HashMap<Selection, Box<dyn Any + Send + Sync>>>,
}

/// View, URL of the collection and field selector.
type Selection = (TypeId, String, String);

/// The local copy of one kind. It is kept current for as long as an informer for it lives.
pub struct Informer<T>(Arc<Store<T>>);

/// Everything an informer holds, ordered by namespace and name.
pub type Snapshot<T> = OrdMap<Key, Arc<Entry<T>>>;

/// A difference between two states of one object. It was created where `old` is absent and
/// deleted where `new` is.
pub struct Change<T> {
    pub key: Key,
    pub old: Option<Arc<Entry<T>>>,
    pub new: Option<Arc<Entry<T>>>,
}

/// The changes of a kind from one reader's first look on; first everything there was.
pub struct Changes<T> {
    news: mpsc::UnboundedReceiver<News<T>>,
    /// What of everything is still to be told.
    first: <Snapshot<T> as IntoIterator>::IntoIter,
}

/// What readers hear of. A snapshot costs nothing, however slow they are and however many.
enum News<T> {
    All(Snapshot<T>),
    One(Change<T>),
}

struct Store<T> {
    state: RwLock<State<T>>,
    synced: watch::Sender<bool>,
    task: Mutex<Option<AbortHandle>>,
}

struct State<T> {
    objects: Snapshot<T>,
    /// The objects that name an owner, by the owner's uid; under the empty uid those without a
    /// controller, which may be adopted.
    owned: HashMap<String, Snapshot<T>>,
    /// Which objects are found by which of their terms.
    found: HashMap<String, BTreeSet<Key>>,
    revision: u64,
    readers: Vec<mpsc::UnboundedSender<News<T>>>,
}

impl Informers {
    pub fn new(client: Client, clock: Clock, rng: Rng) -> Informers {
        let informers = Mutex::new(HashMap::new());
        Informers(Arc::new(Shared { client, clock, rng, informers }))
    }

    /// The informer of a kind; starts at its first use.
    pub fn of<T: Object>(&self) -> Informer<T> {
        self.select(T::row(), "")
    }

    /// The informer of the objects that match, as `spec.nodeName=n1`.
    pub fn filtered<T: Object>(&self, field_selector: &str) -> Informer<T> {
        self.select(T::row(), field_selector)
    }

    /// The informer of a kind only known at run time.
    pub fn of_row<T: Object>(&self, row: &Row) -> Informer<T> {
        self.select(row, "")
    }

    fn select<T: Object>(&self, row: &Row, field_selector: &str) -> Informer<T> {
        let key = (TypeId::of::<T>(), row.path("", ""), field_selector.to_string());
        let mut informers = self.0.informers.lock();
        if let Some(known) = informers.get(&key).and_then(|any| any.downcast_ref::<Informer<T>>()) {
            return known.clone();
        }
        let informer = self.start(row, field_selector);
        informers.insert(key, Box::new(informer.clone()));
        informer
    }

    /// Lets go of the informer of a kind that is no longer served.
    pub fn forget<T: Object>(&self, row: &Row) {
        let key = (TypeId::of::<T>(), row.path("", ""), String::new());
        self.0.informers.lock().remove(&key);
    }

    fn start<T: Object>(&self, row: &Row, field_selector: &str) -> Informer<T> {
        let store = Arc::new(Store::new());
        let reflector = reflector::Reflector {
            client: self.0.client.clone(),
            clock: self.0.clock.clone(),
            rng: self.0.rng.clone(),
            row: row.clone(),
            field_selector: field_selector.into(),
            store: Arc::downgrade(&store),
        };
        // The task holds the store only weakly: it ends with the last reader.
        let task = tokio::spawn(reflector.run());
        *store.task.lock() = Some(task.abort_handle());
        Informer(store)
    }
}

/// The other end of an informer that no watch feeds.
pub struct Feed<T>(Arc<Store<T>>);

impl<T: Object> Informer<T> {
    /// An informer fed by hand, for tests and for parts that are simulated.
    pub fn detached() -> (Informer<T>, Feed<T>) {
        let store = Arc::new(Store::new());
        (Informer(store.clone()), Feed(store))
    }
}

impl<T: Object> Feed<T> {
    /// As a complete list at `revision`.
    pub fn replace(&self, entries: Vec<Entry<T>>, revision: u64) {
        self.0.replace(entries.into_iter().map(Arc::new).collect(), revision);
    }

    /// As the event of a write.
    pub fn put(&self, entry: Entry<T>) {
        self.0.put(Arc::new(entry));
    }

    /// As the event of a deletion; `entry` bears its revision.
    pub fn delete(&self, entry: &Entry<T>) {
        self.0.delete(entry);
    }

    /// As a bookmark.
    pub fn advance(&self, revision: u64) {
        self.0.advance(revision);
    }
}

impl<T> Clone for Informer<T> {
    fn clone(&self) -> Informer<T> {
        Informer(self.0.clone())
    }
}

impl<T> Drop for Store<T> {
    fn drop(&mut self) {
        if let Some(task) = self.task.lock().take() {
            task.abort();
        }
    }
}

impl<T: Object> Informer<T> {
    /// Returns once everything that was there at the start is here.
    pub async fn synced(&self) {
        let mut synced = self.0.synced.subscribe();
        // The sender lives as long as the store, which `self` holds.
        let _ = synced.wait_for(|synced| *synced).await;
    }

    pub fn is_synced(&self) -> bool {
        *self.0.synced.borrow()
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<Entry<T>>> {
        self.0.state.read().objects.get(&(namespace, name) as &dyn Pair).cloned()
    }

    /// Everything, at one moment. Costs nothing.
    pub fn snapshot(&self) -> Snapshot<T> {
        self.0.state.read().objects.clone()
    }

    /// The objects that name this uid among their owners; for an empty uid those that no
    /// controller owns. Costs nothing.
    pub fn owned_by(&self, uid: &str) -> Snapshot<T> {
        self.0.state.read().owned.get(uid).cloned().unwrap_or_default()
    }

    /// From here on every change, after one `Change` for each object that is already here.
    pub fn changes(&self) -> Changes<T> {
        let (sender, news) = mpsc::unbounded_channel();
        let mut state = self.0.state.write();
        state.readers.push(sender);
        Changes { news, first: state.objects.clone().into_iter() }
    }

    /// Every write up to this revision is in the snapshot.
    pub fn revision(&self) -> u64 {
        self.0.state.read().revision
    }
}

/// The part of a snapshot in one namespace.
pub fn in_namespace<'a, T>(
    snapshot: &'a Snapshot<T>,
    namespace: &'a str,
) -> impl Iterator<Item = (&'a Key, &'a Arc<Entry<T>>)> {
    let start = Key::new(namespace, "");
    snapshot.range(start..).take_while(move |(key, _)| *key.namespace == *namespace)
}

impl<T> Changes<T> {
    /// The next change; waits for it. Pends for ever once the informer has ended.
    pub async fn next(&mut self) -> Change<T> {
        // What is at hand comes without waiting: others on this thread have their turn all the same.
        tokio::task::coop::consume_budget().await;
        loop {
            if let Some(change) = self.try_next() {
                return change;
            }
            match self.news.recv().await {
                Some(News::One(change)) => return change,
                Some(News::All(all)) => self.first = all.into_iter(),
                None => std::future::pending().await,
            }
        }
    }

    /// The next change that has already happened.
    pub fn try_next(&mut self) -> Option<Change<T>> {
        loop {
            if let Some((key, new)) = self.first.next() {
                return Some(Change { key, old: None, new: Some(new) });
            }
            match self.news.try_recv().ok()? {
                News::One(change) => return Some(change),
                News::All(all) => self.first = all.into_iter(),
            }
        }
    }
}

impl<T: Object> Store<T> {
    fn new() -> Store<T> {
        let state = State {
            objects: OrdMap::new(),
            owned: HashMap::new(),
            found: HashMap::new(),
            revision: 0,
            readers: Vec::new(),
        };
        Store {
            state: RwLock::new(state),
            synced: watch::Sender::new(false),
            task: Mutex::new(None),
        }
    }

    /// Takes over a complete list. What it does not name is gone.
    fn replace(&self, entries: Vec<Arc<Entry<T>>>, revision: u64) {
        let mut state = self.state.write();
        let mut gone = state.objects.clone();
        // Where nothing was, readers hear of all at once.
        let first = gone.is_empty();
        for entry in entries {
            let key = Key::of(entry.meta());
            gone.remove(&key);
            let same = |old: &Arc<Entry<T>>| {
                let (old, new) = (old.meta(), entry.meta());
                old.resource_version == new.resource_version && old.uid == new.uid
            };
            if !state.objects.get(&key).is_some_and(same) {
                let change = state.set(key, Some(entry));
                if !first {
                    state.tell(change);
                }
            }
        }
        for (key, _) in gone {
            let change = state.set(key, None);
            state.tell(change);
        }
        if first {
            let all = state.objects.clone();
            state.readers.retain(|reader| reader.send(News::All(all.clone())).is_ok());
        }
        state.revision = revision;
        drop(state);
        self.synced.send_replace(true);
    }

    fn put(&self, entry: Arc<Entry<T>>) {
        let mut state = self.state.write();
        state.revision = state.revision.max(entry.meta().revision());
        let change = state.set(Key::of(entry.meta()), Some(entry));
        state.tell(change);
    }

    fn delete(&self, entry: &Entry<T>) {
        let mut state = self.state.write();
        state.revision = state.revision.max(entry.meta().revision());
        let change = state.set(Key::of(entry.meta()), None);
        state.tell(change);
    }

    fn advance(&self, revision: u64) {
        let mut state = self.state.write();
        state.revision = state.revision.max(revision);
    }
}

impl<T: Object> State<T> {
    /// Takes over the state of an object; whoever calls tells the readers.
    fn set(&mut self, key: Key, new: Option<Arc<Entry<T>>>) -> Change<T> {
        let old = match &new {
            Some(new) => self.objects.insert(key.clone(), new.clone()),
            None => self.objects.remove(&key),
        };
        for owner in old.iter().flat_map(|old| owners(old.meta())) {
            if let Some(owned) = self.owned.get_mut(owner) {
                owned.remove(&key);
                if owned.is_empty() {
                    self.owned.remove(owner);
                }
            }
        }
        for owner in new.iter().flat_map(|new| owners(new.meta()).map(move |uid| (uid, new))) {
            let (uid, new) = owner;
            match self.owned.get_mut(uid) {
                Some(owned) => drop(owned.insert(key.clone(), new.clone())),
                None => {
                    let only = OrdMap::unit(key.clone(), new.clone());
                    self.owned.insert(uid.to_string(), only);
                }
            }
        }
        self.index(&key, old.as_deref(), new.as_deref());
        Change { key, old, new }
    }

    fn tell(&mut self, Change { key, old, new }: Change<T>) {
        if old.is_none() && new.is_none() {
            return;
        }
        self.readers.retain(|reader| {
            let (key, old, new) = (key.clone(), old.clone(), new.clone());
            reader.send(News::One(Change { key, old, new })).is_ok()
        });
    }

    /// Mostly its terms stay the same.
    fn index(&mut self, key: &Key, old: Option<&Entry<T>>, new: Option<&Entry<T>>) {
        let [before, after] = [old, new].map(|it| it.map_or_else(Vec::new, |it| it.terms()));
        if before == after {
            return;
        }
        for term in before.iter().filter(|term| !after.contains(term)) {
            if let Some(keys) = self.found.get_mut(term) {
                keys.remove(key);
                if keys.is_empty() {
                    self.found.remove(term);
                }
            }
        }
        for term in after.into_iter().filter(|term| !before.contains(term)) {
            self.found.entry(term).or_default().insert(key.clone());
        }
    }
}

/// The uids under which an object is found.
fn owners(meta: &ObjectMeta) -> impl Iterator<Item = &str> {
    let orphan = meta.controller().is_none().then_some("");
    meta.owner_references.iter().map(|owner| owner.uid.as_str()).chain(orphan)
}

/// A key to look up by, borrowed or not.
trait Pair {
    fn pair(&self) -> (&str, &str);
}

impl Pair for Key {
    fn pair(&self) -> (&str, &str) {
        (&self.namespace, &self.name)
    }
}

impl Pair for (&str, &str) {
    fn pair(&self) -> (&str, &str) {
        *self
    }
}

impl<'a> std::borrow::Borrow<dyn Pair + 'a> for Key {
    fn borrow(&self) -> &(dyn Pair + 'a) {
        self
    }
}

impl PartialEq for dyn Pair + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.pair() == other.pair()
    }
}

impl Eq for dyn Pair + '_ {}

impl PartialOrd for dyn Pair + '_ {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for dyn Pair + '_ {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.pair().cmp(&other.pair())
    }
}
