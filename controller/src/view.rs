//! What a planner may see: the informers' caches, overlaid with what this controller wrote and
//! its informers have not seen yet. The overlay is why no controller counts expectations: it
//! always sees its own writes, and forgets them once the informer has caught up.

use std::any::{Any, TypeId};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use client::{Entry, Informer, Key, Object, in_namespace};
use parking_lot::Mutex;
use proto::kind::Row;
use proto::meta::ObjectMeta;
use proto::selector::Selector;
use proto::time::Time;
use proto::view::pod::Pod;
use serde_json::{Value, json};

use crate::failed_pods::BackOff;
use crate::plan::{Patch, Step, Target, controller_reference};

/// The caches of one controller.
#[derive(Default)]
pub struct View {
    caches: HashMap<TypeId, Arc<dyn Any + Send + Sync>>,
    /// The same caches, by the URL of their kind.
    writable: HashMap<String, Arc<dyn Overlay>>,
    /// When the controller began to watch.
    started: Option<Time>,
    /// Why the last attempt at an object failed.
    failures: Mutex<HashMap<Key, Failure>>,
    /// When sets may replace the pods that failed.
    pub(crate) back_off: Arc<BackOff>,
    /// Kinds of which only the number matters, by their qualified names.
    counted: HashMap<String, Box<dyn Counter>>,
    /// Which revision of an object a plan met last, and when first.
    met: Mutex<HashMap<Key, (u64, Time)>>,
}

/// Counts the objects of a kind.
trait Counter: Send + Sync {
    fn count(&self, namespace: &str) -> usize;
    fn revision(&self) -> u64;
}

impl<T: Object> Counter for Informer<T> {
    fn count(&self, namespace: &str) -> usize {
        in_namespace(&self.snapshot(), namespace).count()
    }

    fn revision(&self) -> u64 {
        Informer::revision(self)
    }
}

/// One kind's cache under one controller's writes.
pub(crate) struct Cache<T> {
    informer: Informer<T>,
    written: Mutex<BTreeMap<Key, Written<T>>>,
    /// When each object last changed, for controllers that ask.
    changed: Mutex<HashMap<Key, Time>>,
}

/// A write that the informer may not have seen yet.
enum Written<T> {
    /// The object as the API server answered.
    Put(Arc<Entry<T>>),
    /// The object with this uid is gone; it was last known at this revision.
    Gone { uid: String, revision: u64 },
}

impl<T> Written<T> {
    /// Whether the write is news to one who knows this state of the object.
    fn hides(&self, meta: &ObjectMeta) -> bool {
        match self {
            Written::Put(_) => true,
            // What is older than the end, under whichever uid, ended before it.
            Written::Gone { uid, revision } => meta.uid == *uid || meta.revision() < *revision,
        }
    }
}

/// What the executor tells a cache.
pub(crate) trait Overlay: Send + Sync {
    /// The API server's answer to a write.
    fn wrote(&self, bytes: Bytes) -> Result<ObjectMeta, serde_json::Error>;
    /// The object is gone.
    fn removed(&self, meta: &ObjectMeta);
}

/// What went wrong when something was created or deleted for an object.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// As `FailedCreate`.
    pub reason: &'static str,
    pub message: String,
}

/// The objects an owner controls, and the steps that make that so.
pub struct Claim<T> {
    pub mine: Vec<Arc<Entry<T>>>,
    pub steps: Vec<Step>,
}

impl View {
    pub(crate) fn add<T: Object>(&mut self, informer: Informer<T>) -> Arc<Cache<T>> {
        if let Some(known) = self.cache::<T>() {
            return known;
        }
        let cache = Arc::new(Cache::new(informer));
        self.caches.insert(TypeId::of::<T>(), cache.clone());
        self.writable.insert(T::row().path("", ""), cache.clone());
        cache
    }

    pub(crate) fn add_counted<T: Object>(&mut self, row: &Row, informer: Informer<T>) {
        self.counted.insert(row.qualified(), Box::new(informer));
    }

    pub(crate) fn start(&mut self, now: Time) {
        self.started = Some(now);
    }

    pub(crate) fn overlay(&self, row: &Row) -> Option<&Arc<dyn Overlay>> {
        self.writable.get(&row.path("", ""))
    }

    /// Remembers how the last attempt went; says whether that is news.
    pub(crate) fn set_failure(&self, key: &Key, failure: Option<Failure>) -> bool {
        let mut failures = self.failures.lock();
        let before = match failure.clone() {
            Some(failure) => failures.insert(key.clone(), failure),
            None => failures.remove(key),
        };
        before != failure
    }

    /// Nothing is remembered of an object that is no more.
    pub(crate) fn gone(&self, key: &Key) {
        self.failures.lock().remove(key);
        self.back_off.forget(key);
    }

    fn cache<T: Object>(&self) -> Option<Arc<Cache<T>>> {
        let cache = self.caches.get(&TypeId::of::<T>())?;
        cache.clone().downcast().ok()
    }

    /// The cache of a kind that the controller declared in `watches`.
    fn declared<T: Object>(&self) -> Arc<Cache<T>> {
        self.cache::<T>().expect("a controller looks only at kinds it declared")
    }

    pub fn get<T: Object>(&self, namespace: &str, name: &str) -> Option<Arc<Entry<T>>> {
        self.declared::<T>().get(namespace, name)
    }

    /// Every object of a kind, in no order.
    pub fn all<T: Object>(&self) -> Vec<Arc<Entry<T>>> {
        self.declared::<T>()
            .merged(|_: &T| true, |informer| informer.snapshot().values().cloned().collect())
    }

    /// The objects of a namespace.
    pub fn namespace<T: Object>(&self, namespace: &str) -> Vec<Arc<Entry<T>>> {
        self.declared::<T>().merged(
            |object| object.meta().namespace == namespace,
            |informer| {
                let snapshot = informer.snapshot();
                in_namespace(&snapshot, namespace).map(|(_, entry)| entry.clone()).collect()
            },
        )
    }

    /// The objects that name this uid among their owners.
    pub fn owned_by<T: Object>(&self, uid: &str) -> Vec<Arc<Entry<T>>> {
        self.declared::<T>().merged(
            |object| object.meta().owner_references.iter().any(|owner| owner.uid == uid),
            |informer| informer.owned_by(uid).values().cloned().collect(),
        )
    }

    /// The objects of a namespace that no controller owns.
    pub fn orphans<T: Object>(&self, namespace: &str) -> Vec<Arc<Entry<T>>> {
        self.declared::<T>().merged(
            |object| {
                let meta = object.meta();
                meta.namespace == namespace && meta.controller().is_none()
            },
            |informer| {
                let orphans = informer.owned_by("");
                in_namespace(&orphans, namespace).map(|(_, entry)| entry.clone()).collect()
            },
        )
    }

    /// The pods of a namespace that the selector matches.
    pub fn selected(&self, namespace: &str, selector: &Selector) -> Vec<Arc<Entry<Pod>>> {
        self.declared::<Pod>().merged(
            |pod| pod.metadata.namespace == namespace && selector.matches(&pod.metadata.labels),
            |informer| informer.selected(namespace, selector),
        )
    }

    /// The pods on a node.
    pub fn pods_on(&self, node: &str) -> Vec<Arc<Entry<Pod>>> {
        self.declared::<Pod>()
            .merged(|pod| pod.spec.node_name == node, |informer| informer.on_node(node))
    }

    /// The pods that use a PersistentVolumeClaim.
    pub fn pods_using(&self, namespace: &str, claim: &str) -> Vec<Arc<Entry<Pod>>> {
        self.declared::<Pod>().merged(
            |pod| {
                pod.metadata.namespace == namespace && pod.claims().any(|used| used.name == claim)
            },
            |informer| informer.using_claim(namespace, claim),
        )
    }

    /// How many objects of a kind there are, about.
    pub fn count<T: Object>(&self) -> usize {
        self.declared::<T>().informer.snapshot().len()
    }

    /// How many objects of a kind that the controller declared to count a namespace has; none of
    /// other kinds.
    pub fn count_of(&self, row: &Row, namespace: &str) -> usize {
        self.counted.get(&row.qualified()).map_or(0, |counter| counter.count(namespace))
    }

    /// The revision up to which every change of a counted kind has been seen.
    pub fn seen_of(&self, row: &Row) -> u64 {
        self.counted.get(&row.qualified()).map_or(0, |counter| counter.revision())
    }

    /// The revision up to which every change of a kind has been seen.
    pub fn seen<T: Object>(&self) -> u64 {
        self.declared::<T>().informer.revision()
    }

    /// When a plan first met the object at this revision: `now`, unless it has before.
    pub fn met(&self, meta: &ObjectMeta, now: Time) -> Time {
        let mut met = self.met.lock();
        let known = met.entry(Key::of(meta)).or_insert((meta.revision(), now));
        if known.0 != meta.revision() {
            *known = (meta.revision(), now);
        }
        known.1
    }

    /// Forgets what was noted of an object that is gone.
    pub fn forget(&self, key: &Key) {
        self.met.lock().remove(key);
    }

    /// When the object last changed (or went), as this process saw it; for those that did not
    /// since it began to watch, that moment. Only for kinds declared as `timed`.
    pub fn changed<T: Object>(&self, namespace: &str, name: &str) -> Option<Time> {
        let cache = self.declared::<T>();
        let changed = cache.changed.lock();
        changed.get(&Key::new(namespace, name)).copied().or(self.started)
    }

    /// Why the last plan for this object could not be carried out, if it could not.
    pub fn failure(&self, meta: &ObjectMeta) -> Option<Failure> {
        self.failures.lock().get(&Key::of(meta)).cloned()
    }

    /// When this pod of a set, which failed, may be replaced: the more have failed in its place (a
    /// node, an ordinal) the later, `longest` after the last one at most.
    pub fn replaceable(
        &self,
        set: &ObjectMeta,
        place: &str,
        failed: &ObjectMeta,
        longest: Duration,
        now: Time,
    ) -> Time {
        self.back_off.due(&Key::of(set), place, &failed.uid, longest, now)
    }

    /// What `owner` controls: what names it as controller and matches, and the matching orphans,
    /// which it adopts. What no longer matches is released. An owner that is being deleted takes
    /// and releases nothing. Entries come by their names.
    pub fn claim<T: Object>(
        &self,
        row: &'static Row,
        owner: &ObjectMeta,
        selector: &Selector,
    ) -> Claim<T> {
        self.claim_where(row, owner, selector, |_| true)
    }

    /// As [`View::claim`], of objects that `belongs` accepts, too.
    pub fn claim_where<T: Object>(
        &self,
        row: &'static Row,
        owner: &ObjectMeta,
        selector: &Selector,
        belongs: impl Fn(&ObjectMeta) -> bool,
    ) -> Claim<T> {
        let matches = |meta: &ObjectMeta| selector.matches(&meta.labels) && belongs(meta);
        let mut claim = Claim { mine: Vec::new(), steps: Vec::new() };
        let living = owner.deletion_timestamp.is_none();
        for entry in self.owned_by::<T>(&owner.uid) {
            let meta = entry.meta();
            if meta.controller().is_none_or(|reference| reference.uid != owner.uid) {
                continue;
            }
            if matches(meta) {
                claim.mine.push(entry);
            } else if living && meta.deletion_timestamp.is_none() {
                claim.steps.push(Step::Patch(release::<T>(meta, &owner.uid)));
            }
        }
        if living && !selector.is_empty() {
            for entry in self.orphans::<T>(&owner.namespace) {
                let meta = entry.meta();
                if meta.deletion_timestamp.is_none() && matches(meta) {
                    let patch = adopt::<T>(row, owner, meta);
                    claim.steps.push(Step::Adopt { owner: Target::of(row, owner), patch });
                    claim.mine.push(entry);
                }
            }
        }
        claim
    }
}

fn adopt<T: Object>(row: &Row, owner: &ObjectMeta, meta: &ObjectMeta) -> Patch {
    let mut owners: Vec<Value> = meta.owner_references.iter().map(|owner| json!(owner)).collect();
    owners.retain(|reference| reference["uid"] != owner.uid.as_str());
    owners.push(json!(controller_reference(row, owner)));
    with_owners::<T>(meta, owners)
}

fn release<T: Object>(meta: &ObjectMeta, uid: &str) -> Patch {
    let others = meta.owner_references.iter().filter(|owner| owner.uid != uid);
    with_owners::<T>(meta, others.map(|owner| json!(owner)).collect())
}

fn with_owners<T: Object>(meta: &ObjectMeta, owners: Vec<Value>) -> Patch {
    let owners = if owners.is_empty() { Value::Null } else { owners.into() };
    let body = json!({ "metadata": {
        "uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": owners,
    } });
    Patch { target: Target::of(T::row(), meta), subresource: "", strategic: false, body }
}

impl<T: Object> Cache<T> {
    fn new(informer: Informer<T>) -> Cache<T> {
        Cache { informer, written: Mutex::default(), changed: Mutex::default() }
    }

    pub fn note_change(&self, key: &Key, at: Time) {
        self.changed.lock().insert(key.clone(), at);
    }

    fn get(&self, namespace: &str, name: &str) -> Option<Arc<Entry<T>>> {
        let mut written = self.written.lock();
        self.forget_seen(&mut written);
        let seen = self.informer.get(namespace, name);
        if written.is_empty() {
            return seen;
        }
        match written.get(&Key::new(namespace, name)) {
            Some(Written::Put(entry)) => Some(entry.clone()),
            Some(gone @ Written::Gone { .. }) => seen.filter(|entry| !gone.hides(entry.meta())),
            None => seen,
        }
    }

    /// What `read` yields from the informer, corrected by the writes; `selects` says which
    /// written objects belong to it.
    fn merged(
        &self,
        selects: impl Fn(&T) -> bool,
        read: impl FnOnce(&Informer<T>) -> Vec<Arc<Entry<T>>>,
    ) -> Vec<Arc<Entry<T>>> {
        // The revision is compared before the objects are read: they may only be newer.
        let mut written = self.written.lock();
        self.forget_seen(&mut written);
        let mut objects = read(&self.informer);
        if written.is_empty() {
            return objects;
        }
        // Of the many objects few were written just now: looking them up must not cost a key each.
        let names = written.iter().map(|(key, write)| ((&*key.namespace, &*key.name), write));
        let names: HashMap<(&str, &str), &Written<T>> = names.collect();
        objects.retain(|entry| {
            let meta = entry.meta();
            let write = names.get(&(&*meta.namespace, &*meta.name));
            write.is_none_or(|write| !write.hides(meta))
        });
        for write in written.values() {
            if let Written::Put(entry) = write
                && selects(entry)
            {
                objects.push(entry.clone());
            }
        }
        objects
    }

    /// Drops the writes that the informer has seen.
    fn forget_seen(&self, written: &mut BTreeMap<Key, Written<T>>) {
        if written.is_empty() {
            return;
        }
        let revision = self.informer.revision();
        written.retain(|key, write| match write {
            Written::Put(entry) => entry.meta().revision() > revision,
            Written::Gone { uid, revision: last } => {
                let seen = || self.informer.get(&key.namespace, &key.name);
                *last > revision || seen().is_some_and(|entry| entry.meta().uid == *uid)
            }
        });
    }
}

impl<T: Object> Overlay for Cache<T> {
    fn wrote(&self, bytes: Bytes) -> Result<ObjectMeta, serde_json::Error> {
        let entry = Arc::new(Entry::<T>::decode(bytes)?);
        let meta = entry.meta().clone();
        let mut written = self.written.lock();
        self.forget_seen(&mut written);
        let key = Key::of(&meta);
        // Answers to concurrent writes may arrive out of order.
        let newer = match written.get(&key) {
            Some(Written::Put(known)) => known.meta().revision() < meta.revision(),
            Some(Written::Gone { revision, .. }) => *revision < meta.revision(),
            None => true,
        };
        if newer && meta.revision() > self.informer.revision() {
            written.insert(key, Written::Put(entry));
        }
        Ok(meta)
    }

    fn removed(&self, meta: &ObjectMeta) {
        let mut written = self.written.lock();
        let known = match written.get(&Key::of(meta)) {
            Some(Written::Put(entry)) => entry.meta().revision(),
            _ => 0,
        };
        let gone = Written::Gone { uid: meta.uid.clone(), revision: meta.revision().max(known) };
        written.insert(Key::of(meta), gone);
        self.forget_seen(&mut written);
    }
}

#[cfg(test)]
mod tests;

#[cfg(test)]
impl View {
    /// A view of just these objects, in addition to what it has.
    pub fn with<T: Object>(mut self, objects: &[Value]) -> View {
        let (informer, feed) = Informer::<T>::detached();
        let entry = |object: &Value| {
            let bytes = Bytes::from(object.to_string());
            Entry::decode(bytes).expect("the test's object is one")
        };
        feed.replace(objects.iter().map(entry).collect(), 1);
        self.add(informer);
        self
    }
}
