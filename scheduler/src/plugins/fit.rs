//! NodeResourcesFit: what the pod asks for must be free; the emptier node is better.

use super::{BEST, Event, Judge, Plugin, Reason};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

pub struct NodeResourcesFit;

struct Asked<'a>(&'a PodInfo);

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn cures(&self) -> &'static [Event] {
        &[Event::NodeAdded, Event::NodeAllocatable, Event::PodDeleted]
    }

    fn judge<'a>(&self, pod: &'a PodInfo, _: &'a Snapshot) -> Option<Box<dyn Judge + 'a>> {
        Some(Box::new(Asked(pod)))
    }
}

impl Judge for Asked<'_> {
    fn filter(&self, node: &NodeInfo) -> Vec<Reason> {
        let (want, have, used) = (&self.0.requests, &node.allocatable, &node.requested);
        let lacks = |want: i64, have: i64, used: i64| want > 0 && want > have - used;
        let mut reasons = Vec::new();
        if node.pods.len() as i64 + 1 > have.pods {
            reasons.push("Too many pods".into());
        }
        if lacks(want.cpu, have.cpu, used.cpu) {
            reasons.push("Insufficient cpu".into());
        }
        if lacks(want.memory, have.memory, used.memory) {
            reasons.push("Insufficient memory".into());
        }
        if lacks(want.ephemeral_storage, have.ephemeral_storage, used.ephemeral_storage) {
            reasons.push("Insufficient ephemeral-storage".into());
        }
        for (name, amount) in &want.extended {
            let of = |list: &std::collections::BTreeMap<String, i64>| {
                list.get(name).copied().unwrap_or(0)
            };
            if lacks(*amount, of(&have.extended), of(&used.extended)) {
                reasons.push(format!("Insufficient {name}").into());
            }
        }
        reasons
    }

    /// LeastAllocated over CPU and memory, equally.
    fn score(&self, node: &NodeInfo) -> Option<i64> {
        let free = |have: i64, used: i64| {
            if have == 0 || used > have { 0 } else { (have - used) * BEST / have }
        };
        let cpu = free(node.allocatable.cpu, node.scored.0 + self.0.scored.0);
        let memory = free(node.allocatable.memory, node.scored.1 + self.0.scored.1);
        Some((cpu + memory) / 2)
    }
}
