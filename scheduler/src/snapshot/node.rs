//! A node with what its pods have taken.

use std::sync::Arc;

use client::{Entry, Key};
use proto::meta::Labels;
use proto::view::node::Node;

use super::PodInfo;
use crate::resources::Resources;

#[derive(Clone, Debug)]
pub struct NodeInfo {
    pub name: Arc<str>,
    /// Where it is among the nodes of its snapshot.
    pub index: usize,
    pub object: Arc<Entry<Node>>,
    pub allocatable: Arc<Resources>,
    pub requested: Resources,
    pub scored: (i64, i64),
    pub pods: Vec<Arc<PodInfo>>,
}

impl NodeInfo {
    pub fn new(object: Arc<Entry<Node>>) -> NodeInfo {
        NodeInfo {
            name: object.metadata.name.as_str().into(),
            index: 0,
            allocatable: Arc::new(Resources::of(&object.status.allocatable)),
            requested: Resources::default(),
            scored: (0, 0),
            pods: Vec::new(),
            object,
        }
    }

    pub fn labels(&self) -> &Labels {
        &self.object.metadata.labels
    }

    pub fn take(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests);
        self.scored.0 += pod.scored.0;
        self.scored.1 += pod.scored.1;
        self.pods.push(pod);
    }

    pub fn release(&mut self, key: &Key) -> Option<Arc<PodInfo>> {
        let at = self.pods.iter().position(|pod| pod.key == *key)?;
        let pod = self.pods.swap_remove(at);
        self.requested.subtract(&pod.requests);
        self.scored.0 -= pod.scored.0;
        self.scored.1 -= pod.scored.1;
        Some(pod)
    }
}
