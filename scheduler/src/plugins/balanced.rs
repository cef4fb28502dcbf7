//! NodeResourcesBalancedAllocation: better where resources are used in like proportion.

use std::sync::Arc;

use super::strategy::{Amounts, balance};
use super::{Event, Judge, Plugin};
use crate::profile::Args;
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

pub struct BalancedAllocation;

struct Balance(Amounts);

impl Plugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn filters(&self) -> bool {
        false
    }

    fn cures(&self) -> &'static [Event] {
        &[]
    }

    fn judge(&self, pod: &Arc<PodInfo>, cluster: &Snapshot, args: &Args) -> Option<Box<dyn Judge>> {
        let amounts = Amounts::requested(&pod.requests, &args.balanced);
        let amounts = amounts.with_devices(pod, &cluster.devices);
        // A pod that asks for nothing would look balanced wherever it is.
        amounts.any().then(|| Box::new(Balance(amounts)) as Box<dyn Judge>)
    }
}

impl Judge for Balance {
    fn score(&self, node: &NodeInfo, _: &Snapshot) -> Option<i64> {
        Some(balance(self.0.after(node)))
    }
}
