//! The cluster as one scheduling cycle sees it: nodes with what their pods have taken, kept
//! incrementally from the informers and from the decisions that have not come back yet.

mod budgets;
mod groups;
mod journal;
mod node;
mod nominations;
mod pod;
mod topology;

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use client::{Entry, Key};
use parking_lot::Mutex;
use proto::meta::Labels;
use proto::view::node::Node;

pub use budgets::{Budgets, Spent};
pub use groups::{Groups, Kind};
pub use journal::{Change, Journal};
pub use node::NodeInfo;
pub use nominations::Nominations;
pub use pod::{HostPort, PodInfo, Term, Terms};
pub use topology::Topology;

use crate::devices::Devices;
use crate::storage::Storage;

/// Nodes by name, and where each placed pod is.
#[derive(Debug, Default)]
pub struct Snapshot {
    nodes: Vec<NodeInfo>,
    /// By node: a number that is new after every change to it or its pods.
    generations: Vec<u64>,
    generation: u64,
    index: HashMap<Arc<str>, usize>,
    placed: HashMap<Key, (Arc<str>, Arc<PodInfo>)>,
    /// Pods whose node is not known (yet): they count as soon as it comes.
    waiting: HashMap<Arc<str>, Vec<Arc<PodInfo>>>,
    /// How many placed pods say something of other pods.
    choosy: usize,
    /// How many are placed by our own decision alone.
    assumed: usize,
    /// Labels by namespace, for namespace selectors.
    namespaces: HashMap<String, Labels>,
    /// How many nodes have an image, by each of its names.
    images: HashMap<String, usize>,
    journal: Journal,
    /// Made when they are asked for, and until nodes change.
    order: OnceLock<Vec<u32>>,
    topologies: Mutex<HashMap<String, Arc<Topology>>>,
    pub nominations: Nominations,
    pub budgets: Budgets,
    pub groups: Groups,
    pub storage: Storage,
    pub devices: Devices,
}

impl Snapshot {
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.index.get(name).map(|at| &self.nodes[*at])
    }

    /// By index of the node; no generation is 0.
    pub fn generations(&self) -> &[u64] {
        &self.generations
    }

    /// The indices of all nodes, in the order in which they should be asked.
    pub fn order(&self) -> &[u32] {
        self.order.get_or_init(|| topology::order(&self.nodes))
    }

    /// The domains into which a label divides the nodes.
    pub fn topology(&self, key: &str) -> Arc<Topology> {
        let mut known = self.topologies.lock();
        if let Some(known) = known.get(key) {
            return Arc::clone(known);
        }
        let made = Arc::new(Topology::new(&self.nodes, key));
        known.insert(key.to_string(), Arc::clone(&made));
        made
    }

    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Whether a placed pod says something of other pods.
    pub fn is_choosy(&self) -> bool {
        self.choosy > 0
    }

    /// How many nodes have the image of that name.
    pub fn image(&self, name: &str) -> usize {
        self.images.get(name).copied().unwrap_or(0)
    }

    pub fn put_namespace(&mut self, name: &str, labels: Labels) {
        let old = self.namespaces.insert(name.to_string(), labels);
        if old.as_ref() != self.namespaces.get(name) {
            self.journal.void();
        }
    }

    pub fn remove_namespace(&mut self, name: &str) {
        if self.namespaces.remove(name).is_some() {
            self.journal.void();
        }
    }

    /// The labels of a namespace, where it is known.
    pub fn namespace(&self, name: &str) -> Option<&Labels> {
        self.namespaces.get(name)
    }

    pub fn put_service(&mut self, key: &Key, selector: Option<&Labels>) {
        if self.groups.put_service(key, selector) {
            self.journal.void();
        }
    }

    /// As its JSON says.
    pub fn put_controller(&mut self, kind: Kind, key: &Key, object: Option<&[u8]>) {
        if self.groups.put_controller(kind, key, object) {
            self.journal.void();
        }
    }

    /// A node came or changed; its pods stay.
    pub fn put_node(&mut self, object: Arc<Entry<Node>>) {
        let mut fresh = NodeInfo::new(object);
        match self.index.get(&fresh.name).copied() {
            Some(at) => self.replace(at, fresh),
            None => {
                fresh.index = self.nodes.len();
                for pod in self.waiting.remove(&fresh.name).unwrap_or_default() {
                    self.choosy += usize::from(pod.terms.is_some());
                    fresh.take(pod);
                }
                self.count_images(&fresh.object, true);
                self.index.insert(fresh.name.clone(), self.nodes.len());
                self.nodes.push(fresh);
                self.generations.push(0);
                self.touch(self.nodes.len() - 1);
                self.nodes_are_others();
            }
        }
    }

    fn replace(&mut self, at: usize, mut fresh: NodeInfo) {
        let old = &mut self.nodes[at];
        fresh.index = at;
        fresh.requested = std::mem::take(&mut old.requested);
        fresh.scored = old.scored;
        fresh.pods = std::mem::take(&mut old.pods);
        let old = std::mem::replace(old, fresh).object;
        let new = Arc::clone(&self.nodes[at].object);
        let labels = old.metadata.labels != new.metadata.labels;
        let spec = old.spec != new.spec;
        let images = old.status.images != new.status.images;
        if !labels && !spec && !images && old.status.allocatable == new.status.allocatable {
            return;
        }
        self.touch(at);
        if labels {
            self.order = OnceLock::new();
            self.topologies.get_mut().clear();
        }
        if labels || spec {
            self.journal.push(Change::Labels);
        }
        if images {
            self.count_images(&old, false);
            self.count_images(&new, true);
            self.journal.push(Change::Images);
        }
    }

    /// A node went; pods that still name it wait for it to come back or for their own end.
    pub fn remove_node(&mut self, name: &str) {
        let Some(at) = self.index.remove(name) else { return };
        let gone = self.nodes.swap_remove(at);
        self.generations.swap_remove(at);
        if let Some(moved) = self.nodes.get_mut(at) {
            moved.index = at;
            self.index.insert(moved.name.clone(), at);
        }
        self.count_images(&gone.object, false);
        self.choosy -= gone.pods.iter().filter(|pod| pod.terms.is_some()).count();
        if !gone.pods.is_empty() {
            self.waiting.insert(gone.name, gone.pods);
        }
        self.nodes_are_others();
    }

    /// A pod is on a node, by the API server's word or by our own decision.
    pub fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.nominations.remove(&pod.key);
        if let Some((there, known)) = self.placed.get_mut(&pod.key)
            && **there == *node
            && known.counts_as(&pod)
        {
            *known = Arc::clone(&pod);
            let pods = match self.index.get(node) {
                Some(at) => Some(&mut self.nodes[*at].pods),
                None => self.waiting.get_mut(node),
            };
            if let Some(known) =
                pods.and_then(|pods| pods.iter_mut().find(|own| own.key == pod.key))
            {
                *known = pod;
            }
            return;
        }
        self.remove_pod(&pod.key);
        self.assumed += usize::from(is_assumed(&pod));
        let Some((name, at)) = self.index.get_key_value(node) else {
            let name: Arc<str> = node.into();
            self.placed.insert(pod.key.clone(), (name.clone(), Arc::clone(&pod)));
            self.waiting.entry(name).or_default().push(pod);
            return;
        };
        let (name, at) = (name.clone(), *at);
        self.placed.insert(pod.key.clone(), (name, Arc::clone(&pod)));
        self.nodes[at].take(Arc::clone(&pod));
        self.touch(at);
        self.choosy += usize::from(pod.terms.is_some());
        // Before, nobody kept account of what pods say of others.
        match self.choosy == 1 && pod.terms.is_some() {
            true => self.journal.void(),
            false => self.journal.push(Change::Placed { node: at, pod }),
        }
    }

    /// A pod no longer takes anything.
    pub fn remove_pod(&mut self, key: &Key) {
        let Some((node, pod)) = self.placed.remove(key) else { return };
        self.assumed -= usize::from(is_assumed(&pod));
        match self.index.get(&node).copied() {
            Some(at) => {
                self.nodes[at].release(key);
                self.touch(at);
                self.choosy -= usize::from(pod.terms.is_some());
                self.journal.push(Change::Removed { node: at, pod });
            }
            None => {
                if let Some(waiting) = self.waiting.get_mut(&node) {
                    waiting.retain(|pod| pod.key != *key);
                }
            }
        }
    }

    /// How many pods are placed, and how many of them by our own decision alone.
    pub fn placed(&self) -> (usize, usize) {
        (self.placed.len(), self.assumed)
    }

    /// Where a pod is placed.
    pub fn placement(&self, key: &Key) -> Option<(&str, &Arc<PodInfo>)> {
        self.placed.get(key).map(|(node, pod)| (&**node, pod))
    }

    fn touch(&mut self, node: usize) {
        self.generation += 1;
        self.generations[node] = self.generation;
    }

    fn nodes_are_others(&mut self) {
        self.order = OnceLock::new();
        self.topologies.get_mut().clear();
        self.journal.void();
    }

    fn count_images(&mut self, node: &Node, there: bool) {
        for name in node.status.images.iter().flat_map(|image| &image.names) {
            let count = self.images.entry(name.clone()).or_default();
            match there {
                true => *count += 1,
                false => *count -= 1,
            }
            if *count == 0 {
                self.images.remove(name);
            }
        }
    }
}

/// The API server has not said yet where it is.
fn is_assumed(pod: &PodInfo) -> bool {
    pod.object.spec.node_name.is_empty()
}
