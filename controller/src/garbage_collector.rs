//! The garbage collector: objects go when their owners have gone, or, deleted in the foreground,
//! before them. It keeps a graph of who names whom as owner, over every kind that is served; an
//! owner that the graph does not know is asked for before anything is deleted for its sake.
//! <https://kubernetes.io/docs/concepts/architecture/garbage-collection/>

mod graph;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use client::error::chain;
use client::{
    Change, Client, DeleteOptions, Error, Informer, Informers, Key, Object, Patch, Propagation,
    Recorder, WorkQueue,
};
use futures::future::BoxFuture;
use http::Method;
use parking_lot::Mutex;
use proto::kind::{self, Row};
use proto::meta::{ObjectMeta, OwnerReference};
use proto::view::deployment::Deployment;
use proto::view::endpoint_slice::EndpointSlice;
use proto::view::endpoints::Endpoints;
use proto::view::lease::Lease;
use proto::view::namespace::Namespace;
use proto::view::node::Node;
use proto::view::pod::Pod;
use proto::view::replica_set::ReplicaSet;
use proto::view::service::Service;
use proto::view::{Meta, ObjectReference};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::discovery::{discover, serves};
use crate::plan::group_of;
use crate::run::Setup;
use graph::{Action, Graph, Owner, Uid};

/// The name under which `--controllers` knows it.
pub const NAME: &str = "garbage-collector-controller";
const WORKERS: usize = 20;
/// How long to wait when discovery fails.
const RETRY: Duration = Duration::from_secs(1);
/// So many owners that are gone for good are remembered.
const GONE: usize = 500;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

struct Collector {
    client: Client,
    recorder: Recorder,
    rows: Vec<Row>,
    graph: Mutex<Graph>,
    queue: Arc<WorkQueue<Uid>>,
    gone: Mutex<Gone>,
}

/// Uids of owners that do not exist any more, the latest ones.
#[derive(Default)]
struct Gone {
    known: HashSet<Uid>,
    order: VecDeque<Uid>,
}

/// Runs until dropped.
pub async fn run(setup: Setup) {
    let rows = loop {
        match discover(&setup.client).await {
            Ok(discovery) if discovery.failures.is_empty() => break discovery.rows,
            Ok(discovery) => {
                for (group, error) in discovery.failures {
                    tracing::warn!(controller = NAME, group, error = chain(&error), "not served");
                }
            }
            Err(error) => tracing::warn!(controller = NAME, error = chain(&error), "no discovery"),
        }
        setup.clock.sleep(RETRY).await;
    };
    let rows: Vec<Row> = rows.into_iter().filter(is_collected).collect();
    let collector = Arc::new(Collector {
        client: setup.client.clone(),
        recorder: setup.recorder.clone(),
        graph: Mutex::new(Graph::default()),
        queue: setup.queue(NAME, ""),
        gone: Mutex::default(),
        rows,
    });
    let rows = collector.rows.iter().enumerate();
    let sources: Vec<Source> = rows.map(|(index, row)| source(row, index, &setup)).collect();
    let (synced, follow): (Vec<_>, Vec<_>) =
        sources.into_iter().map(|source| (source.synced, source.follow)).unzip();
    futures::future::join_all(synced).await;
    let mut tasks = JoinSet::new();
    // Everything goes into the graph before anything is judged by it.
    for follow in follow {
        tasks.spawn(follow(collector.clone()));
    }
    for _ in 0..WORKERS {
        let collector = collector.clone();
        tasks.spawn(async move { collector.work().await });
    }
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(controller = NAME, %error, "a task of the controller ended");
        }
    }
}

/// Events are too many and own nothing.
fn is_collected(row: &Row) -> bool {
    row.resource != "events" && serves(row, &["list", "watch", "delete", "patch"])
}

/// Where the changes of one kind come from.
struct Source {
    synced: BoxFuture<'static, ()>,
    /// Takes over what there is at once, and what comes later when awaited.
    follow: Box<dyn FnOnce(Arc<Collector>) -> BoxFuture<'static, ()> + Send>,
}

/// Kinds that other controllers read too are taken from the same informers, so that nothing is
/// decoded twice; of others the metadata will do.
fn source(row: &Row, index: usize, setup: &Setup) -> Source {
    type Shared = (&'static Row, fn(&Informers, usize) -> Source);
    static SHARED: &[Shared] = &[
        (&kind::DEPLOYMENT, |informers, index| from(informers.of::<Deployment>(), index)),
        (&kind::ENDPOINT_SLICE, |informers, index| from(informers.of::<EndpointSlice>(), index)),
        (&kind::ENDPOINTS, |informers, index| from(informers.of::<Endpoints>(), index)),
        (&kind::LEASE, |informers, index| from(informers.of::<Lease>(), index)),
        (&kind::NAMESPACE, |informers, index| from(informers.of::<Namespace>(), index)),
        (&kind::NODE, |informers, index| from(informers.of::<Node>(), index)),
        (&kind::POD, |informers, index| from(informers.of::<Pod>(), index)),
        (&kind::REPLICA_SET, |informers, index| from(informers.of::<ReplicaSet>(), index)),
        (&kind::SERVICE, |informers, index| from(informers.of::<Service>(), index)),
    ];
    let same = |known: &Row| known.path("", "") == row.path("", "");
    match SHARED.iter().find(|(known, _)| same(known)) {
        Some((_, source)) => source(&setup.informers, index),
        None => from(setup.informers.of_row::<Meta>(row), index),
    }
}

fn from<T: Object>(informer: Informer<T>, row: usize) -> Source {
    let synced = informer.clone();
    Source {
        synced: Box::pin(async move { synced.synced().await }),
        follow: Box::new(move |collector| {
            let mut changes = informer.changes();
            while let Some(change) = changes.try_next() {
                collector.note(row, &change);
            }
            Box::pin(async move {
                // Holds on to the informer for as long as it is followed.
                let _informer = informer;
                loop {
                    collector.note(row, &changes.next().await);
                }
            })
        }),
    }
}

impl Collector {
    /// A change of an object: updates the graph and queues whom it bears on.
    fn note<T: Object>(&self, row: usize, change: &Change<T>) {
        let old = change.old.as_ref().map(|old| old.meta());
        let new = change.new.as_ref().map(|new| new.meta());
        let mut affected = Vec::new();
        {
            let mut graph = self.graph.lock();
            if let Some(old) = old.filter(|old| new.is_none_or(|new| new.uid != old.uid)) {
                affected.extend(graph.remove(&old.uid));
                self.gone.lock().add(&old.uid);
            }
            if let Some(new) = new {
                affected.extend(graph.put(row, &change.key, new));
            }
        }
        for uid in affected {
            self.queue.add(uid);
        }
    }

    async fn work(&self) {
        loop {
            let uid = self.queue.next().await;
            match self.handle(&uid).await {
                Ok(()) => self.queue.forget(&uid),
                Err(error) => {
                    let stale = error.is_conflict() || error.is_not_found();
                    if !stale {
                        tracing::warn!(controller = NAME, error = chain(&error), "failed");
                    }
                    self.queue.backoff(uid.clone());
                }
            }
            self.queue.done(&uid);
        }
    }

    async fn handle(&self, uid: &Uid) -> Result<(), Error> {
        let Some((node, mut owners)) = self.graph.lock().look(uid) else { return Ok(()) };
        for (reference, owner) in &mut owners {
            if *owner == Owner::Unknown {
                *owner = self.ask(&node, reference).await?;
            }
        }
        let action = self.graph.lock().decide(uid, &owners);
        let row = &self.rows[node.row];
        match action {
            Action::None => Ok(()),
            // Namespaces are never collected: too much hangs on them.
            Action::Delete(_) if row.kind == "Namespace" => Ok(()),
            Action::Delete(propagation) => self.delete(row, &node, propagation).await,
            Action::DropOwners(uids) => {
                let kept = |owner: &&OwnerReference| !uids.contains(&owner.uid);
                let owners: Vec<Value> =
                    node.owners.iter().filter(kept).map(|owner| json!(owner)).collect();
                self.patch(row, &node, json!({ "ownerReferences": or_null(owners) })).await
            }
            Action::Unblock => {
                let unblocked = |owner: &OwnerReference| {
                    json!(OwnerReference { block_owner_deletion: Some(false), ..owner.clone() })
                };
                let owners: Vec<Value> = node.owners.iter().map(unblocked).collect();
                self.patch(row, &node, json!({ "ownerReferences": owners })).await?;
                self.delete(row, &node, Propagation::Foreground).await
            }
            Action::Finish => self.drop_finalizer(row, &node, FOREGROUND).await,
            Action::Orphan(dependents) => {
                for dependent in dependents {
                    self.orphan(uid, &dependent).await?;
                }
                self.drop_finalizer(row, &node, ORPHAN).await
            }
            Action::Wait(dependents) => {
                for dependent in dependents {
                    self.queue.add(dependent);
                }
                Ok(())
            }
        }
    }

    /// Whether an owner that the graph does not know exists after all.
    async fn ask(&self, node: &graph::Node, reference: &OwnerReference) -> Result<Owner, Error> {
        let dependent = &node.key;
        let group = group_of(&reference.api_version);
        let same = |row: &&Row| row.group == group && row.kind == reference.kind;
        // A kind that is not served now may be later: nothing is deleted on a guess.
        let Some(row) = self.rows.iter().find(same) else { return Ok(Owner::Solid) };
        // Without a namespace there is nowhere to look for an owner that has one: nobody can tell.
        let unreachable = row.namespaced && dependent.namespace.is_empty();
        if unreachable || self.graph.lock().is_elsewhere(&reference.uid, dependent) {
            self.tell_misplaced(node, reference);
        }
        if unreachable {
            return Ok(Owner::Solid);
        }
        if self.gone.lock().known.contains(reference.uid.as_str()) {
            return Ok(Owner::Absent);
        }
        let path = row.path(&dependent.namespace, &reference.name);
        match self.client.send(Method::GET, &path, "", Bytes::new()).await {
            Ok(bytes) => {
                let object: Meta = serde_json::from_slice(&bytes)
                    .map_err(|source| Error::Decode { path, source })?;
                if object.metadata.uid == reference.uid {
                    return Ok(Owner::Solid);
                }
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        // One that lives in another namespace, or by another name, is not gone.
        if !self.graph.lock().knows(&reference.uid) {
            self.gone.lock().add(&reference.uid);
        }
        Ok(Owner::Absent)
    }

    /// The owner that is named is not where the dependent could have it.
    fn tell_misplaced(&self, node: &graph::Node, reference: &OwnerReference) {
        let (row, Key { namespace, name }) = (&self.rows[node.row], &node.key);
        let regarding = ObjectReference {
            api_version: row.api_version(),
            kind: row.kind.to_string(),
            namespace: namespace.to_string(),
            name: name.to_string(),
            uid: node.uid.to_string(),
            resource_version: node.revision.clone(),
            ..ObjectReference::default()
        };
        let OwnerReference { api_version, kind, name, uid, .. } = reference;
        let message = format!(
            "ownerRef [{api_version}/{kind}, namespace: {namespace}, name: {name}, uid: {uid}] \
             does not exist in namespace {namespace:?}"
        );
        self.recorder.event(&regarding, "Warning", "OwnerRefInvalidNamespace", message);
    }

    /// Deletes the object as the graph knows it: if it has changed since, that will be judged.
    async fn delete(
        &self,
        row: &Row,
        node: &graph::Node,
        propagation: Propagation,
    ) -> Result<(), Error> {
        let options = DeleteOptions {
            uid: node.uid.to_string(),
            resource_version: node.revision.clone(),
            propagation: Some(propagation),
            ..DeleteOptions::default()
        };
        let Key { namespace, name } = &node.key;
        match self.client.delete_of(row, namespace, name, &options).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }

    async fn patch(&self, row: &Row, node: &graph::Node, metadata: Value) -> Result<(), Error> {
        let mut body = json!({ "metadata": metadata });
        body["metadata"]["uid"] = (*node.uid).into();
        body["metadata"]["resourceVersion"] = node.revision.as_str().into();
        let Key { namespace, name } = &node.key;
        match self.client.patch_of(row, namespace, name, "", &Patch::Merge(body)).await {
            Err(error) if error.is_not_found() => Ok(()),
            other => other.map(drop),
        }
    }

    async fn drop_finalizer(
        &self,
        row: &Row,
        node: &graph::Node,
        finalizer: &str,
    ) -> Result<(), Error> {
        let others = node.finalizers.iter().filter(|other| *other != finalizer);
        let finalizers = or_null(others.map(|other| json!(other)).collect());
        self.patch(row, node, json!({ "finalizers": finalizers })).await
    }

    async fn orphan(&self, owner: &Uid, dependent: &Uid) -> Result<(), Error> {
        let Some((node, _)) = self.graph.lock().look(dependent) else { return Ok(()) };
        let others = node.owners.iter().filter(|reference| *reference.uid != **owner);
        let owners = or_null(others.map(|reference| json!(reference)).collect());
        self.patch(&self.rows[node.row], &node, json!({ "ownerReferences": owners })).await
    }
}

impl Gone {
    fn add(&mut self, uid: &str) {
        let uid: Uid = uid.into();
        if !self.known.insert(uid.clone()) {
            return;
        }
        self.order.push_back(uid);
        if self.order.len() > GONE
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

/// An empty list goes altogether.
fn or_null(list: Vec<Value>) -> Value {
    if list.is_empty() { Value::Null } else { list.into() }
}

/// Whether the object waits for its dependents to go first.
fn waits_for_dependents(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some() && meta.finalizers.iter().any(|name| name == FOREGROUND)
}

/// Whether the object waits for its dependents to be let go.
fn orphans_dependents(meta: &ObjectMeta) -> bool {
    meta.deletion_timestamp.is_some() && meta.finalizers.iter().any(|name| name == ORPHAN)
}
