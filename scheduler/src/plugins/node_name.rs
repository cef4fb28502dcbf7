//! NodeName: a pod that names its node goes nowhere else. Pods that name one are placed already
//! and do not come here, except for `ctl why`.

use std::sync::Arc;

use super::{Event, Judge, Plugin, Rejection};
use crate::profile::Args;
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

pub struct NodeName;

struct Named(String);

impl Plugin for NodeName {
    fn name(&self) -> &'static str {
        "NodeName"
    }

    fn cures(&self) -> &'static [Event] {
        &[Event::NodeAdded]
    }

    fn judge(&self, pod: &Arc<PodInfo>, _: &Snapshot, _: &Args) -> Option<Box<dyn Judge>> {
        let name = pod.object.spec.node_name.as_str();
        (!name.is_empty()).then(|| Box::new(Named(name.into())) as Box<dyn Judge>)
    }
}

impl Judge for Named {
    fn filter(&self, node: &NodeInfo, _: &Snapshot) -> Option<Rejection> {
        match *node.name == *self.0 {
            true => None,
            false => Rejection::lasting("node(s) didn't match the requested node name"),
        }
    }
}
