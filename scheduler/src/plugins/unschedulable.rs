//! NodeUnschedulable: cordoned nodes take only pods that tolerate it.

use proto::view::node::Taint;

use super::taints::tolerates;
use super::{Event, Judge, Plugin, Reason};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

pub struct NodeUnschedulable;

struct Cordoned<'a>(&'a PodInfo);

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn cures(&self) -> &'static [Event] {
        &[Event::NodeAdded, Event::NodeTaints]
    }

    fn judge<'a>(&self, pod: &'a PodInfo, _: &'a Snapshot) -> Option<Box<dyn Judge + 'a>> {
        Some(Box::new(Cordoned(pod)))
    }
}

impl Judge for Cordoned<'_> {
    fn filter(&self, node: &NodeInfo) -> Vec<Reason> {
        if !node.object.spec.unschedulable {
            return Vec::new();
        }
        let cordon = Taint {
            key: "node.kubernetes.io/unschedulable".into(),
            effect: "NoSchedule".into(),
            ..Taint::default()
        };
        match tolerates(&self.0.object.spec.tolerations, &cordon) {
            true => Vec::new(),
            false => vec!["node(s) were unschedulable".into()],
        }
    }
}
