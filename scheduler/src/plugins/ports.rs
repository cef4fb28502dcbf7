//! NodePorts: two pods cannot have the same port of the node.

use super::{Event, Judge, Plugin, Reason};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

pub struct NodePorts;

struct Wanted<'a>(&'a PodInfo);

impl Plugin for NodePorts {
    fn name(&self) -> &'static str {
        "NodePorts"
    }

    fn cures(&self) -> &'static [Event] {
        &[Event::NodeAdded, Event::PodDeleted]
    }

    fn judge<'a>(&self, pod: &'a PodInfo, _: &'a Snapshot) -> Option<Box<dyn Judge + 'a>> {
        (!pod.host_ports.is_empty()).then(|| Box::new(Wanted(pod)) as Box<dyn Judge>)
    }
}

impl Judge for Wanted<'_> {
    fn filter(&self, node: &NodeInfo) -> Vec<Reason> {
        let mut taken =
            node.pods.iter().filter(|pod| pod.key != self.0.key).flat_map(|pod| &pod.host_ports);
        let conflicts =
            taken.any(|taken| self.0.host_ports.iter().any(|wanted| wanted.conflicts(taken)));
        match conflicts {
            true => vec!["node(s) didn't have free ports for the requested pod ports".into()],
            false => Vec::new(),
        }
    }
}
