//! NodePorts: two pods cannot have the same port of the node.

use std::sync::Arc;

use super::{Event, Judge, Plugin, Rejection};
use crate::profile::Args;
use crate::snapshot::{HostPort, NodeInfo, PodInfo, Snapshot};

pub struct NodePorts;

struct Wanted(Vec<HostPort>);

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn cures(&self) -> &'static [Event] {
        &[Event::NodeAdded, Event::PodDeleted]
    }

    fn heeds(&self, waiting: &PodInfo, _: Event, pod: &PodInfo, _: &Snapshot) -> bool {
        let conflicts = |own: &HostPort| pod.host_ports.iter().any(|its| its.conflicts(own));
        waiting.host_ports.iter().any(conflicts)
    }

    fn judge(&self, pod: &Arc<PodInfo>, _: &Snapshot, _: &Args) -> Option<Box<dyn Judge>> {
        let ports = &pod.host_ports;
        (!ports.is_empty()).then(|| Box::new(Wanted(ports.clone())) as Box<dyn Judge>)
    }
}

impl Judge for Wanted {
    fn filter(&self, node: &NodeInfo, _: &Snapshot) -> Option<Rejection> {
        let mut taken = node.pods.iter().flat_map(|pod| &pod.host_ports);
        match taken.any(|taken| self.0.iter().any(|wanted| wanted.conflicts(taken))) {
            true => {
                let reason = "node(s) didn't have free ports for the requested pod ports";
                Rejection::curable(reason)
            }
            false => None,
        }
    }
}
