//! The framework: a controller says what it watches and plans; this queues, plans, carries out
//! and retries. It is the only driver of controllers; none of them loops by itself.

use std::any::TypeId;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use client::error::chain;
use client::{
    Change, Client, Clock, Entry, Informer, Informers, Key, Object, Queues, Recorder, WorkQueue,
};
use futures::future::BoxFuture;
use proto::kind::Row;
use proto::meta::{Labels, ObjectMeta};
use proto::selector::{LabelSelector, SelectorError};
use proto::time::Time;
use tokio::task::JoinSet;

use crate::execute::Executor;
use crate::metrics;
use crate::plan::{Plan, group_of};
use crate::view::{Cache, View};

/// Makes the world of one kind of object true: for each object a plan, a pure function of the
/// object and what else there is.
pub trait Controller: Send + Sync + 'static {
    type Object: Object;

    /// Also the name under which `--controllers` knows it.
    const NAME: &'static str;
    /// A field selector of the objects that it looks after; the others it never meets.
    const SELECTOR: &'static str = "";
    /// How many objects are looked after at once.
    const WORKERS: usize = 5;
    /// So long the plan for a change waits for more changes, unless it is one of what the object
    /// itself asks for: where plans look at many other objects.
    const BATCH: Duration = Duration::ZERO;

    /// What bears on the plans besides the objects themselves.
    fn watches(watches: &mut Watches<Self::Object>);

    /// What is to be done for this object now. At rest the plan is empty.
    fn plan(&self, object: &Entry<Self::Object>, view: &View, now: Time)
    -> Result<Plan, PlanError>;

    /// What is to be done about an object that is no more.
    fn plan_absent(&self, key: &Key, view: &View) -> Plan {
        let _ = (key, view);
        Plan::default()
    }
}

/// An object that cannot be planned for; it has to change first.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("the selector cannot be used")]
    Selector { source: SelectorError },
    #[error("{kind} {name} cannot be read")]
    Decode { kind: &'static str, name: String, source: serde_json::Error },
}

/// What the controllers of a process share.
#[derive(Clone)]
pub struct Setup {
    pub client: Client,
    pub informers: Informers,
    pub clock: Clock,
    pub recorder: Recorder,
    pub queues: Queues,
}

impl Setup {
    /// The work queue of this controller, for this resource where it has several.
    pub fn queue<K: Clone + Eq + Hash + Send + 'static>(
        &self,
        controller: &'static str,
        resource: &str,
    ) -> Arc<WorkQueue<K>> {
        self.queues.make(metrics::queue_name(controller, resource))
    }
}

/// Collects what a controller watches.
pub struct Watches<O> {
    informers: Informers,
    view: View,
    triggers: Vec<Trigger>,
    synced: Vec<BoxFuture<'static, ()>>,
    _object: std::marker::PhantomData<fn() -> O>,
}

type Trigger = Box<dyn FnOnce(Wiring) -> BoxFuture<'static, ()> + Send>;

/// What a trigger turns changes into keys with.
struct Wiring {
    view: Arc<View>,
    queue: Arc<WorkQueue<Key>>,
    clock: Clock,
    batch: Duration,
}

impl<O: Object> Watches<O> {
    fn new(informers: Informers) -> Watches<O> {
        Watches {
            informers,
            view: View::default(),
            triggers: Vec::new(),
            synced: Vec::new(),
            _object: std::marker::PhantomData,
        }
    }

    /// The plans look at this kind; its changes alone cause none.
    pub fn reads<T: Object>(&mut self) -> &mut Self {
        self.read(self.informers.of::<T>());
        self
    }

    fn read<T: Object>(&mut self, informer: Informer<T>) -> Arc<Cache<T>> {
        let cache = self.view.add(informer.clone());
        self.synced.push(Box::pin(async move { informer.synced().await }));
        cache
    }

    /// Plan for these objects when one of this kind changes.
    pub fn maps<T: Object>(
        &mut self,
        keys: impl Fn(&Change<T>, &View) -> Vec<Key> + Send + Sync + 'static,
    ) -> &mut Self {
        self.trigger(self.informers.of(), |_| false, keys)
    }

    /// As [`Watches::maps`], only of the objects that the field selector selects; the view has
    /// no others of this kind.
    pub fn filtered<T: Object>(
        &mut self,
        field_selector: &str,
        keys: impl Fn(&Change<T>, &View) -> Vec<Key> + Send + Sync + 'static,
    ) -> &mut Self {
        self.trigger(self.informers.filtered(field_selector), |_| false, keys)
    }

    /// As [`Watches::maps`], and the view knows when each object last changed in a way that
    /// `counts`.
    pub fn timed<T: Object>(
        &mut self,
        counts: fn(&Change<T>) -> bool,
        keys: impl Fn(&Change<T>, &View) -> Vec<Key> + Send + Sync + 'static,
    ) -> &mut Self {
        self.trigger(self.informers.of(), counts, keys)
    }

    /// The plans ask how many objects of this kind a namespace has, and are made when one comes or
    /// goes. Kinds with a view of their own share its informer.
    pub fn counts<T: Object>(
        &mut self,
        row: &Row,
        keys: impl Fn(&Key, &View) -> Vec<Key> + Send + Sync + 'static,
    ) -> &mut Self {
        let informer = self.informers.of_row::<T>(row);
        self.view.add_counted(row, informer.clone());
        let synced = informer.clone();
        self.synced.push(Box::pin(async move { synced.synced().await }));
        self.triggers.push(Box::new(move |wiring: Wiring| {
            let mut changes = informer.changes();
            Box::pin(async move {
                // Holds on to the informer for as long as it is followed.
                let _informer = informer;
                loop {
                    let change = changes.next().await;
                    if change.old.is_none() || change.new.is_none() {
                        for key in keys(&change.key, &wiring.view) {
                            wiring.queue.add_after(key, wiring.batch);
                        }
                    }
                }
            })
        }));
        self
    }

    fn trigger<T: Object>(
        &mut self,
        informer: Informer<T>,
        counts: fn(&Change<T>) -> bool,
        keys: impl Fn(&Change<T>, &View) -> Vec<Key> + Send + Sync + 'static,
    ) -> &mut Self {
        let cache = self.read(informer.clone());
        let own = TypeId::of::<T>() == TypeId::of::<O>();
        self.triggers.push(Box::new(move |wiring: Wiring| {
            let mut changes = informer.changes();
            Box::pin(async move {
                loop {
                    let change = changes.next().await;
                    if counts(&change) {
                        cache.note_change(&change.key, wiring.clock.now());
                    }
                    let wait = if own && is_wish(&change) { Duration::ZERO } else { wiring.batch };
                    for key in keys(&change, &wiring.view) {
                        wiring.queue.add_after(key, wait);
                    }
                }
            })
        }));
        self
    }

    /// Plan for the owner when one of these changes in a way that `matters`; for all owners whose
    /// `selector` matches when one without an owner does.
    pub fn owns<T: Object>(
        &mut self,
        selector: fn(&O) -> Option<&LabelSelector>,
        matters: fn(&T, &T) -> bool,
    ) -> &mut Self {
        self.maps::<T>(move |change, view| {
            if let (Some(old), Some(new)) = (&change.old, &change.new)
                && !matters(old, new)
                && same_claim(old.meta(), new.meta())
            {
                return Vec::new();
            }
            let mut keys = Vec::new();
            for entry in change.old.iter().chain(&change.new) {
                let meta = entry.meta();
                match meta.controller() {
                    Some(owner) => keys.extend(owner_key(O::row(), meta, owner)),
                    None => keys.extend(selecting(view, selector, meta)),
                }
            }
            keys.dedup();
            keys
        })
    }
}

/// Whether an object came, went or asks for something else: not so a change of its status.
fn is_wish<T: Object>(change: &Change<T>) -> bool {
    match (&change.old, &change.new) {
        (Some(old), Some(new)) => old.meta().generation != new.meta().generation,
        _ => true,
    }
}

/// Whether two states of an object are owned and selected alike.
fn same_claim(old: &ObjectMeta, new: &ObjectMeta) -> bool {
    old.labels == new.labels
        && old.owner_references == new.owner_references
        && old.deletion_timestamp.is_some() == new.deletion_timestamp.is_some()
        && old.uid == new.uid
}

/// The key of an owner of this kind.
pub fn owner_key(row: &Row, meta: &ObjectMeta, owner: &proto::meta::OwnerReference) -> Option<Key> {
    let same = owner.kind == row.kind && group_of(&owner.api_version) == row.group;
    same.then(|| Key::new(&meta.namespace, &owner.name))
}

fn selecting<O: Object>(
    view: &View,
    selector: fn(&O) -> Option<&LabelSelector>,
    meta: &ObjectMeta,
) -> Vec<Key> {
    let matches = |object: &O, labels: &Labels| {
        let selector = selector(object).filter(|selector| !selector.is_empty());
        selector
            .and_then(|selector| selector.selector().ok())
            .is_some_and(|selector| selector.matches(labels))
    };
    let objects = view.namespace::<O>(&meta.namespace).into_iter();
    let matching = objects.filter(|object| matches(&object.view, &meta.labels));
    matching.map(|object| Key::of(object.meta())).collect()
}

/// Runs a controller until the future is dropped.
pub async fn run<C: Controller>(controller: C, setup: Setup) {
    let mut watches = Watches::<C::Object>::new(setup.informers.clone());
    let itself = |change: &Change<C::Object>, _: &View| vec![change.key.clone()];
    match C::SELECTOR {
        "" => watches.maps::<C::Object>(itself),
        selector => watches.filtered::<C::Object>(selector, itself),
    };
    C::watches(&mut watches);
    let Watches { mut view, triggers, synced, .. } = watches;
    view.start(setup.clock.now());
    let view = Arc::new(view);
    let queue = setup.queue(C::NAME, &C::Object::row().resource);
    let mut tasks = JoinSet::new();
    for trigger in triggers {
        let (view, queue, clock) = (view.clone(), queue.clone(), setup.clock.clone());
        tasks.spawn(trigger(Wiring { view, queue, clock, batch: C::BATCH }));
    }
    for informer in synced {
        informer.await;
    }
    tracing::debug!(controller = C::NAME, "started");
    let worker = Arc::new(Worker {
        controller,
        executor: Executor {
            client: setup.client.clone(),
            view: view.clone(),
            recorder: setup.recorder.clone(),
        },
        view,
        queue,
        clock: setup.clock.clone(),
    });
    for _ in 0..C::WORKERS {
        let worker = worker.clone();
        tasks.spawn(async move { worker.work().await });
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(controller = C::NAME, %error, "a task of the controller ended");
        }
    }
}

struct Worker<C> {
    controller: C,
    executor: Executor,
    view: Arc<View>,
    queue: Arc<WorkQueue<Key>>,
    clock: Clock,
}

/// Plans shorter than this are not worth slowing down.
const SHORT: Duration = Duration::from_micros(100);
/// A key whose plans are long gets at most a tenth of the time.
const REST: u32 = 9;

impl<C: Controller> Worker<C> {
    async fn work(&self) {
        loop {
            let key = self.queue.next().await;
            let planning = self.handle(&key).await;
            let rest = if planning < SHORT { Duration::ZERO } else { planning * REST };
            self.queue.done_resting(&key, rest);
        }
    }

    /// Plans and carries out; says how long the planning took.
    async fn handle(&self, key: &Key) -> Duration {
        let start = self.clock.instant();
        let object = self.view.get::<C::Object>(&key.namespace, &key.name);
        let plan = match &object {
            Some(object) => self.controller.plan(object, &self.view, self.clock.now()),
            None => {
                self.view.gone(key);
                Ok(self.controller.plan_absent(key, &self.view))
            }
        };
        let planning = self.clock.instant().duration_since(start);
        let plan = match plan {
            Ok(plan) => plan,
            Err(error) => {
                tracing::warn!(controller = C::NAME, %key, error = chain(&error), "cannot plan");
                self.queue.forget(key);
                return planning;
            }
        };
        match self.executor.carry_out(plan.steps).await {
            Ok(()) => {
                self.queue.forget(key);
                if self.view.set_failure(key, None) {
                    self.queue.add(key.clone());
                }
                if let Some(time) = plan.again {
                    self.queue.add_at(key.clone(), time);
                }
            }
            Err(error) if error.is_stale() => {
                tracing::debug!(controller = C::NAME, %key, error = chain(&error), "again");
                self.queue.backoff(key.clone());
            }
            Err(error) => {
                tracing::warn!(controller = C::NAME, %key, error = chain(&error), "failed");
                self.view.set_failure(key, error.failure);
                self.queue.backoff(key.clone());
            }
        }
        planning
    }
}
