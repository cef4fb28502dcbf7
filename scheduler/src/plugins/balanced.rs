//! NodeResourcesBalancedAllocation: better where CPU and memory are used in like proportion.

use super::{BEST, Event, Judge, Plugin};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

pub struct BalancedAllocation;

struct Asked<'a>(&'a PodInfo);

impl Plugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn cures(&self) -> &'static [Event] {
        &[]
    }

    fn judge<'a>(&self, pod: &'a PodInfo, _: &'a Snapshot) -> Option<Box<dyn Judge + 'a>> {
        Some(Box::new(Asked(pod)))
    }
}

impl Judge for Asked<'_> {
    /// 100 × (1 − standard deviation of the two fractions).
    fn score(&self, node: &NodeInfo) -> Option<i64> {
        let fraction = |used: i64, have: i64| {
            if have == 0 { 1.0 } else { (used as f64 / have as f64).min(1.0) }
        };
        let requested = &node.requested;
        let cpu = fraction(requested.cpu + self.0.requests.cpu, node.allocatable.cpu);
        let memory = fraction(requested.memory + self.0.requests.memory, node.allocatable.memory);
        Some(((1.0 - (cpu - memory).abs() / 2.0) * BEST as f64) as i64)
    }
}
