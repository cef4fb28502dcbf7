//! NodeResourcesFit: what the pod asks for must be free; how full the node becomes makes it better
//! or worse.

use std::sync::Arc;

use super::strategy::{Amounts, Strategy};
use super::{Event, Judge, Plugin, Reason, Reasons, Rejection};
use crate::devices::Backed;
use crate::profile::Args;
use crate::resources::Resources;
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

pub struct NodeResourcesFit;

struct Asked {
    requests: Resources,
    /// Extended resources that may be had as devices, where the node has none by itself.
    backed: Backed,
    amounts: Amounts,
    strategy: Strategy,
}

/// What is wanting, and whether the node has less than that in all.
type Wanting = (Reason, bool);

impl Plugin for NodeResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn weight(&self) -> i64 {
        1
    }

    fn cures(&self) -> &'static [Event] {
        &[Event::NodeAdded, Event::NodeAllocatable, Event::PodDeleted, Event::DeviceClass]
    }

    fn judge(&self, pod: &Arc<PodInfo>, cluster: &Snapshot, args: &Args) -> Option<Box<dyn Judge>> {
        let mut requests = pod.requests.clone();
        requests.extended.retain(|name, amount| *amount > 0 && !args.ignores(name));
        let amounts = Amounts::scored(pod, &args.resources).with_devices(pod, &cluster.devices);
        let (backed, strategy) = (cluster.devices.backed(pod), args.strategy.clone());
        Some(Box::new(Asked { requests, backed, amounts, strategy }))
    }
}

impl Judge for Asked {
    fn filter(&self, node: &NodeInfo, _: &Snapshot) -> Option<Rejection> {
        let (want, have, used) = (&self.requests, &*node.allocatable, &node.requested);
        let fits = |want: i64, have: i64, used: i64| want == 0 || want <= have - used;
        let plain = (node.pods.len() as i64) < have.pods
            && fits(want.cpu, have.cpu, used.cpu)
            && fits(want.memory, have.memory, used.memory)
            && fits(want.ephemeral_storage, have.ephemeral_storage, used.ephemeral_storage);
        if plain && want.extended.is_empty() {
            return None;
        }
        let wanting = self.wanting(node);
        let curable = wanting.iter().all(|(_, never)| !never);
        let reasons = wanting.into_iter().map(|(reason, _)| reason).collect::<Vec<_>>();
        (!reasons.is_empty()).then_some(Rejection { reasons: Reasons::Many(reasons), curable })
    }

    fn score(&self, node: &NodeInfo, _: &Snapshot) -> Option<i64> {
        Some(self.strategy.score(self.amounts.after(node)))
    }
}

impl Asked {
    fn wanting(&self, node: &NodeInfo) -> Vec<Wanting> {
        let (want, have, used) = (&self.requests, &*node.allocatable, &node.requested);
        let mut wanting: Vec<Wanting> = Vec::new();
        if node.pods.len() as i64 >= have.pods {
            wanting.push(("Too many pods".into(), false));
        }
        let mut check = |name: &str, want: i64, have: i64, used: i64| {
            if want > 0 && want > have - used {
                let reason = match name {
                    "cpu" => "Insufficient cpu".into(),
                    "memory" => "Insufficient memory".into(),
                    other => format!("Insufficient {other}").into(),
                };
                wanting.push((reason, want > have));
            }
        };
        check("cpu", want.cpu, have.cpu, used.cpu);
        check("memory", want.memory, have.memory, used.memory);
        let storage = (want.ephemeral_storage, have.ephemeral_storage, used.ephemeral_storage);
        check("ephemeral-storage", storage.0, storage.1, storage.2);
        for (name, amount) in &want.extended {
            let of = |all: &Resources| all.extended.get(name).copied().unwrap_or(0);
            if of(have) == 0 && self.backed.contains_key(name) {
                continue;
            }
            check(name, *amount, of(have), of(used));
        }
        wanting
    }
}
