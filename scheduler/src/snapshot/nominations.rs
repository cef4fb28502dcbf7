//! Pods that a node is being cleared for: they will take room there that others of lower
//! priority must not.

use std::collections::HashMap;
use std::sync::Arc;

use client::Key;

use super::PodInfo;

#[derive(Debug, Default)]
pub struct Nominations {
    by_node: HashMap<Arc<str>, Vec<Arc<PodInfo>>>,
    by_pod: HashMap<Key, Arc<str>>,
}

impl Nominations {
    pub fn put(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove(&pod.key);
        let node: Arc<str> = node.into();
        self.by_pod.insert(pod.key.clone(), Arc::clone(&node));
        self.by_node.entry(node).or_default().push(pod);
    }

    pub fn remove(&mut self, key: &Key) {
        let Some(node) = self.by_pod.remove(key) else { return };
        if let Some(pods) = self.by_node.get_mut(&node) {
            pods.retain(|pod| pod.key != *key);
            if pods.is_empty() {
                self.by_node.remove(&node);
            }
        }
    }

    /// The node that is being cleared for the pod.
    pub fn of(&self, key: &Key) -> Option<&Arc<str>> {
        self.by_pod.get(key)
    }

    pub fn on(&self, node: &str) -> &[Arc<PodInfo>] {
        if self.by_node.is_empty() {
            return &[];
        }
        self.by_node.get(node).map(Vec::as_slice).unwrap_or_default()
    }
}
