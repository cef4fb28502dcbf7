//! The cluster as one scheduling cycle sees it: nodes with what their pods have taken, kept
//! incrementally from the informers and from the decisions that have not come back yet.

use std::collections::HashMap;
use std::sync::Arc;

use client::{Entry, Key};
use proto::meta::Labels;
use proto::view::node::Node;
use proto::view::pod::Pod;

use crate::resources::{self, Resources};
use crate::storage::Storage;

/// A pod with what the plugins ask of it again and again.
#[derive(Debug)]
pub struct PodInfo {
    pub key: Key,
    pub object: Arc<Entry<Pod>>,
    pub requests: Resources,
    /// CPU (milli) and memory for scores, never zero.
    pub scored: (i64, i64),
    pub host_ports: Vec<HostPort>,
}

/// A port of the node's own that a pod occupies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// `0.0.0.0` for all addresses.
    pub ip: String,
    pub protocol: String,
    pub port: i64,
}

#[derive(Debug)]
pub struct NodeInfo {
    pub name: String,
    pub object: Arc<Entry<Node>>,
    pub allocatable: Resources,
    pub requested: Resources,
    pub scored: (i64, i64),
    pub pods: Vec<Arc<PodInfo>>,
}

/// Nodes by name, and where each placed pod is.
#[derive(Debug, Default)]
pub struct Snapshot {
    nodes: Vec<NodeInfo>,
    index: HashMap<String, usize>,
    placed: HashMap<Key, (String, Arc<PodInfo>)>,
    /// Pods whose node is not known (yet): they count as soon as it comes.
    waiting: HashMap<String, Vec<Arc<PodInfo>>>,
    /// Labels by namespace, for namespace selectors.
    namespaces: HashMap<String, Labels>,
    pub storage: Storage,
}

impl PodInfo {
    pub fn new(key: Key, object: Arc<Entry<Pod>>) -> PodInfo {
        let ports = object.spec.containers.iter().flat_map(|container| &container.ports);
        let host_ports = ports
            .filter(|port| port.host_port != 0)
            .map(|port| HostPort {
                ip: or(&port.host_ip, "0.0.0.0"),
                protocol: or(&port.protocol, "TCP"),
                port: i64::from(port.host_port),
            })
            .collect();
        PodInfo {
            requests: resources::of_pod(&object),
            scored: resources::for_score(&object),
            host_ports,
            key,
            object,
        }
    }

    pub fn labels(&self) -> &Labels {
        &self.object.metadata.labels
    }

    pub fn namespace(&self) -> &str {
        &self.key.namespace
    }

    pub fn uid(&self) -> &str {
        &self.object.metadata.uid
    }
}

impl HostPort {
    /// Conflicts are per address, protocol and port; `0.0.0.0` meets every address.
    pub fn conflicts(&self, other: &HostPort) -> bool {
        let same_ip = self.ip == other.ip || self.ip == "0.0.0.0" || other.ip == "0.0.0.0";
        same_ip && self.port == other.port && self.protocol == other.protocol
    }
}

impl NodeInfo {
    pub fn new(object: Arc<Entry<Node>>) -> NodeInfo {
        NodeInfo {
            name: object.metadata.name.clone(),
            allocatable: Resources::of(&object.status.allocatable),
            requested: Resources::default(),
            scored: (0, 0),
            pods: Vec::new(),
            object,
        }
    }

    pub fn labels(&self) -> &Labels {
        &self.object.metadata.labels
    }

    fn take(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.scored.0 += pod.scored.0;
        self.scored.1 += pod.scored.1;
        self.pods.push(pod);
    }

    fn release(&mut self, key: &Key) {
        if let Some(at) = self.pods.iter().position(|pod| pod.key == *key) {
            let pod = self.pods.swap_remove(at);
            self.requested.subtract(&pod.requests);
            self.scored.0 -= pod.scored.0;
            self.scored.1 -= pod.scored.1;
        }
    }
}

impl Snapshot {
    pub fn nodes(&self) -> &[NodeInfo] {
        &self.nodes
    }

    pub fn node(&self, name: &str) -> Option<&NodeInfo> {
        self.index.get(name).map(|at| &self.nodes[*at])
    }

    pub fn put_namespace(&mut self, name: &str, labels: Labels) {
        self.namespaces.insert(name.to_string(), labels);
    }

    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
    }

    /// The labels of a namespace, where it is known.
    pub fn namespace(&self, name: &str) -> Option<&Labels> {
        self.namespaces.get(name)
    }

    /// A node came or changed; its pods stay.
    pub fn put_node(&mut self, object: Arc<Entry<Node>>) {
        let mut fresh = NodeInfo::new(object);
        match self.index.get(&fresh.name) {
            Some(at) => {
                let old = &mut self.nodes[*at];
                fresh.requested = std::mem::take(&mut old.requested);
                fresh.scored = old.scored;
                fresh.pods = std::mem::take(&mut old.pods);
                *old = fresh;
            }
            None => {
                for pod in self.waiting.remove(&fresh.name).unwrap_or_default() {
                    fresh.take(pod);
                }
                self.index.insert(fresh.name.clone(), self.nodes.len());
                self.nodes.push(fresh);
            }
        }
    }

    /// A node went; pods that still name it wait for it to come back or for their own end.
    pub fn remove_node(&mut self, name: &str) {
        let Some(at) = self.index.remove(name) else { return };
        let gone = self.nodes.swap_remove(at);
        if let Some(moved) = self.nodes.get(at) {
            self.index.insert(moved.name.clone(), at);
        }
        if !gone.pods.is_empty() {
            self.waiting.insert(gone.name, gone.pods);
        }
    }

    /// A pod is on a node, by the API server's word or by our own decision.
    pub fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove_pod(&pod.key);
        self.placed.insert(pod.key.clone(), (node.to_string(), Arc::clone(&pod)));
        match self.index.get(node) {
            Some(at) => self.nodes[*at].take(pod),
            None => self.waiting.entry(node.to_string()).or_default().push(pod),
        }
    }

    /// A pod no longer takes anything.
    pub fn remove_pod(&mut self, key: &Key) {
        let Some((node, _)) = self.placed.remove(key) else { return };
        match self.index.get(&node) {
            Some(at) => self.nodes[*at].release(key),
            None => {
                if let Some(waiting) = self.waiting.get_mut(&node) {
                    waiting.retain(|pod| pod.key != *key);
                }
            }
        }
    }

    /// Where a pod is placed.
    pub fn placement(&self, key: &Key) -> Option<(&str, &Arc<PodInfo>)> {
        self.placed.get(key).map(|(node, pod)| (node.as_str(), pod))
    }
}

fn or(text: &str, default: &str) -> String {
    if text.is_empty() { default.to_string() } else { text.to_string() }
}
