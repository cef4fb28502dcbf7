//! NodeUnschedulable: cordoned nodes take only pods that tolerate it.

use std::sync::Arc;

use proto::view::node::Taint;

use super::taints::tolerates;
use super::{Event, Judge, Plugin, Rejection};
use crate::profile::Args;
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

pub struct NodeUnschedulable;

struct Cordoned;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn cures(&self) -> &'static [Event] {
        &[Event::NodeAdded, Event::NodeTaints]
    }

    fn judge(&self, pod: &Arc<PodInfo>, _: &Snapshot, _: &Args) -> Option<Box<dyn Judge>> {
        let cordon = Taint {
            key: "node.kubernetes.io/unschedulable".into(),
            effect: "NoSchedule".into(),
            ..Taint::default()
        };
        let tolerated = tolerates(&pod.object.spec.tolerations, &cordon);
        (!tolerated).then(|| Box::new(Cordoned) as Box<dyn Judge>)
    }
}

impl Judge for Cordoned {
    fn filter(&self, node: &NodeInfo, _: &Snapshot) -> Option<Rejection> {
        match node.object.spec.unschedulable {
            true => Rejection::lasting("node(s) were unschedulable"),
            false => None,
        }
    }
}
