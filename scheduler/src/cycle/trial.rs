//! One node as it would be with other pods on it. The judges follow, and are led back in the end.

use std::sync::Arc;

use super::memo::Judged;
use crate::plugins::Rejection;
use crate::snapshot::{Change, NodeInfo, PodInfo, Snapshot};

pub struct Trial<'a> {
    judges: &'a mut [Judged],
    cluster: &'a Snapshot,
    node: NodeInfo,
    done: Vec<Change>,
}

impl<'a> Trial<'a> {
    pub fn new(judges: &'a mut [Judged], cluster: &'a Snapshot, node: &NodeInfo) -> Trial<'a> {
        Trial { judges, cluster, node: node.clone(), done: Vec::new() }
    }

    pub fn add(&mut self, pod: &Arc<PodInfo>) {
        self.node.take(Arc::clone(pod));
        self.tell(Change::Placed { node: self.node.index, pod: Arc::clone(pod) });
    }

    pub fn remove(&mut self, pod: &Arc<PodInfo>) {
        if self.node.release(&pod.key).is_some() {
            self.tell(Change::Removed { node: self.node.index, pod: Arc::clone(pod) });
        }
    }

    fn tell(&mut self, change: Change) {
        for judged in self.judges.iter_mut() {
            judged.judge.follow(&change, self.cluster);
        }
        self.done.push(change);
    }

    /// The first rejection, with these pods as well as without them: who relies on one that is
    /// yet to come may wait in vain.
    pub fn rejection(&mut self, nominated: &[Arc<PodInfo>]) -> Option<(&'static str, Rejection)> {
        if !nominated.is_empty() {
            nominated.iter().for_each(|pod| self.add(pod));
            let rejection = self.first_rejection();
            nominated.iter().for_each(|pod| self.remove(pod));
            if rejection.is_some() {
                return rejection;
            }
        }
        self.first_rejection()
    }

    fn first_rejection(&self) -> Option<(&'static str, Rejection)> {
        let filtering = self.judges.iter().filter(|judged| judged.filters);
        filtering.into_iter().find_map(|judged| {
            let rejection = judged.judge.filter(&self.node, self.cluster)?;
            Some((judged.plugin.name(), rejection))
        })
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        while let Some(change) = self.done.pop() {
            let change = change.undone();
            for judged in self.judges.iter_mut() {
                judged.judge.follow(&change, self.cluster);
            }
        }
    }
}

/// The pods for which the node is being cleared and that this one must leave their room.
pub fn rivals(pod: &PodInfo, node: &NodeInfo, cluster: &Snapshot) -> Vec<Arc<PodInfo>> {
    let nominated = cluster.nominations.on(&node.name).iter();
    let before = |other: &&Arc<PodInfo>| other.priority() >= pod.priority() && other.key != pod.key;
    nominated.filter(before).cloned().collect()
}
