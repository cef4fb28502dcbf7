//! NodeAffinity: node selector and node affinity, required and preferred.

use super::{Event, Judge, Plugin, Reason, proportional};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

pub struct NodeAffinity;

struct Wish<'a>(&'a PodInfo);

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn weight(&self) -> i64 {
        2
    }

    fn cures(&self) -> &'static [Event] {
        &[Event::NodeAdded, Event::NodeLabels]
    }

    fn judge<'a>(&self, pod: &'a PodInfo, _: &'a Snapshot) -> Option<Box<dyn Judge + 'a>> {
        let spec = &pod.object.spec;
        let wishes = !spec.node_selector.is_empty() || spec.affinity.is_some();
        wishes.then(|| Box::new(Wish(pod)) as Box<dyn Judge>)
    }
}

impl Judge for Wish<'_> {
    fn filter(&self, node: &NodeInfo) -> Vec<Reason> {
        match admits(self.0, node) {
            true => Vec::new(),
            false => vec!["node(s) didn't match Pod's node affinity/selector".into()],
        }
    }

    fn score(&self, node: &NodeInfo) -> Option<i64> {
        let preferred = &self.0.object.spec.affinity.as_ref()?.node_affinity.preferred;
        let matching =
            preferred.iter().filter(|term| term.preference.admits(&node.name, node.labels()));
        Some(matching.map(|term| i64::from(term.weight)).sum())
    }

    fn normalize(&self, scores: &mut [i64]) {
        proportional(scores, false);
    }
}

/// Whether selector and required affinity of the pod admit the node.
pub fn admits(pod: &PodInfo, node: &NodeInfo) -> bool {
    let spec = &pod.object.spec;
    let selected =
        spec.node_selector.iter().all(|(key, value)| node.labels().get(key) == Some(value));
    let required = spec.affinity.as_ref().and_then(|all| all.node_affinity.required.as_ref());
    selected && required.is_none_or(|required| required.admits(&node.name, node.labels()))
}
