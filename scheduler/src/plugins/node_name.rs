//! NodeName: a pod that names its node goes nowhere else. Pods that name one are placed already
//! and do not come here, except for `ctl why`.

use super::{Event, Judge, Plugin, Reason};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

pub struct NodeName;

struct Named<'a>(&'a str);

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn cures(&self) -> &'static [Event] {
        &[Event::NodeAdded]
    }

    fn judge<'a>(&self, pod: &'a PodInfo, _: &'a Snapshot) -> Option<Box<dyn Judge + 'a>> {
        let name = pod.object.spec.node_name.as_str();
        (!name.is_empty()).then(|| Box::new(Named(name)) as Box<dyn Judge>)
    }
}

impl Judge for Named<'_> {
    fn filter(&self, node: &NodeInfo) -> Vec<Reason> {
        match node.name == self.0 {
            true => Vec::new(),
            false => vec!["node(s) didn't match the requested node name".into()],
        }
    }
}
