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
use client::{Client, DeleteOptions, Error, Key, Patch, Propagation, WorkQueue};
use http::Method;
use parking_lot::Mutex;
use proto::kind::Row;
use proto::meta::{ObjectMeta, OwnerReference};
use proto::view::Meta;
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
    rows: Vec<Row>,
    graph: Mutex<Graph>,
    queue: WorkQueue<Uid>,
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
        graph: Mutex::new(Graph::default()),
        queue: WorkQueue::new(setup.clock.clone()),
        gone: Mutex::default(),
        rows,
    });
    let informers: Vec<_> =
        collector.rows.iter().map(|row| setup.informers.of_row::<Meta>(row)).collect();
    for informer in &informers {
        informer.synced().await;
    }
    let mut tasks = JoinSet::new();
    for (index, informer) in informers.into_iter().enumerate() {
        let collector = collector.clone();
        let mut changes = informer.changes();
        // What is there at the start goes into the graph before anything is judged by it.
        while let Some(change) = changes.try_next() {
            collector.note(index, &change.key, change.old.as_deref(), change.new.as_deref());
        }
        tasks.spawn(async move {
            loop {
                let change = changes.next().await;
                collector.note(index, &change.key, change.old.as_deref(), change.new.as_deref());
            }
        });
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

type Seen<'a> = Option<&'a client::Entry<Meta>>;

impl Collector {
    /// A change of an object: updates the graph and queues whom it bears on.
    fn note(&self, row: usize, key: &Key, old: Seen<'_>, new: Seen<'_>) {
        let mut affected = Vec::new();
        {
            let mut graph = self.graph.lock();
            let replaced =
                old.filter(|old| new.is_none_or(|new| new.metadata.uid != old.metadata.uid));
            if let Some(old) = replaced {
                affected.extend(graph.remove(&old.metadata.uid));
                self.gone.lock().add(&old.metadata.uid);
            }
            if let Some(new) = new {
                affected.extend(graph.put(row, key, &new.metadata));
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
                *owner = self.ask(&node.key, reference).await?;
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
    async fn ask(&self, dependent: &Key, reference: &OwnerReference) -> Result<Owner, Error> {
        if self.gone.lock().known.contains(reference.uid.as_str()) {
            return Ok(Owner::Absent);
        }
        let group = group_of(&reference.api_version);
        let same = |row: &&Row| row.group == group && row.kind == reference.kind;
        // A kind that is not served now may be later: nothing is deleted on a guess.
        let Some(row) = self.rows.iter().find(same) else { return Ok(Owner::Solid) };
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
        self.gone.lock().add(&reference.uid);
        Ok(Owner::Absent)
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
