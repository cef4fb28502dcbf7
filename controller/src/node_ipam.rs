//! Every node has a range for its pods' addresses: the first free block of the cluster's range.
//! <https://kubernetes.io/docs/reference/command-line-tools-reference/kube-controller-manager/>
//! (`--allocate-node-cidrs`).

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use client::{Change, Entry, Key};
use proto::kind::NODE;
use proto::time::Time;
use proto::view::node::Node;
use serde_json::json;

use crate::plan::{Plan, reference};
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

/// Gives blocks out of one range.
pub struct NodeIpam {
    pub blocks: Blocks,
}

/// The blocks of one size that a range has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocks {
    network: u32,
    length: u32,
    block_length: u32,
}

/// Why a range cannot be divided.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BlocksError {
    #[error("invalid CIDR address: {0}")]
    Cidr(String),
    #[error(
        "--node-cidr-mask-size {block} does not fit --cluster-cidr: it must be at least {range}, at \
         most {range} + 16 and at most 32"
    )]
    Size { range: u32, block: u32 },
}

impl Blocks {
    /// Blocks of `block_length` bits within a range written as `10.244.0.0/16`.
    pub fn new(range: &str, block_length: u32) -> Result<Blocks, BlocksError> {
        let (network, length) = parse(range).ok_or_else(|| BlocksError::Cidr(range.into()))?;
        if !(length..=32.min(length + 16)).contains(&block_length) {
            return Err(BlocksError::Size { range: length, block: block_length });
        }
        Ok(Blocks { network, length, block_length })
    }

    fn count(&self) -> u32 {
        1 << (self.block_length - self.length)
    }

    fn name(&self, index: u32) -> String {
        let offset = u64::from(index) << (32 - self.block_length);
        format!("{}/{}", Ipv4Addr::from(self.network + offset as u32), self.block_length)
    }

    /// The blocks that a range takes something of.
    fn taken(&self, range: &str) -> std::ops::Range<u32> {
        let Some((address, length)) = parse(range) else { return 0..0 };
        let last = u64::from(address) + (1_u64 << (32 - length)) - 1;
        let end = u64::from(self.network) + (1_u64 << (32 - self.length)) - 1;
        if last < u64::from(self.network) || u64::from(address) > end {
            return 0..0;
        }
        let block =
            |address: u64| ((address - u64::from(self.network)) >> (32 - self.block_length)) as u32;
        block(u64::from(address.max(self.network)))..block(last.min(end)) + 1
    }
}

/// The network's address and the length of a prefix.
fn parse(range: &str) -> Option<(u32, u32)> {
    let (address, length) = range.split_once('/')?;
    let length: u32 = length.parse().ok().filter(|length| *length <= 32)?;
    let hosts = u32::MAX.checked_shr(length).unwrap_or(0);
    Some((u32::from(address.parse::<Ipv4Addr>().ok()?) & !hosts, length))
}

impl Controller for NodeIpam {
    type Object = Node;
    const NAME: &'static str = "node-ipam-controller";
    /// One at a time, so that no block is given twice.
    const WORKERS: usize = 1;

    fn watches(watches: &mut Watches<Node>) {
        // The block of a node that goes may be what another waits for.
        watches.maps::<Node>(|change: &Change<Node>, view| {
            if change.new.is_some() {
                return Vec::new();
            }
            let waiting = view.all::<Node>().into_iter().filter(|node| waits(node));
            waiting.map(|node| Key::of(&node.metadata)).collect()
        });
    }

    fn plan(&self, node: &Entry<Node>, view: &View, _: Time) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        if !waits(node) {
            return Ok(plan);
        }
        let nodes = view.all::<Node>();
        let ranges = nodes.iter().flat_map(|node| &node.spec.pod_cidrs);
        let taken: BTreeSet<u32> = ranges.flat_map(|range| self.blocks.taken(range)).collect();
        let free = (0..self.blocks.count()).find(|index| !taken.contains(index));
        match free.map(|index| self.blocks.name(index)) {
            Some(block) => {
                let body = json!({"spec": {"podCIDR": block, "podCIDRs": [block]}});
                plan.patch(&NODE, &node.metadata, body);
            }
            None => plan.event(
                &reference(&NODE, &node.metadata),
                "Normal",
                "CIDRNotAvailable",
                format!("Node {} status is now: CIDRNotAvailable", node.metadata.name),
            ),
        }
        Ok(plan)
    }
}

fn waits(node: &Node) -> bool {
    node.spec.pod_cidrs.is_empty() && node.metadata.deletion_timestamp.is_none()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Step;

    #[test]
    fn ranges_divide_into_blocks() {
        let blocks = Blocks::new("10.244.7.0/16", 24).unwrap();
        assert_eq!((blocks.count(), blocks.name(0)), (256, "10.244.0.0/24".into()));
        assert_eq!(blocks.name(255), "10.244.255.0/24");
        assert_eq!(blocks.taken("10.244.3.0/24"), 3..4);
        assert_eq!(blocks.taken("10.244.2.128/23"), 2..4);
        assert_eq!(blocks.taken("10.0.0.0/8"), 0..256);
        assert_eq!(blocks.taken("10.245.0.0/24"), 0..0);
        assert_eq!(blocks.taken("fd00::/64"), 0..0);
        for (range, size) in [("10.0.0.0/16", 8), ("10.0.0.0/16", 33), ("10.0.0.0/4", 24)] {
            assert!(matches!(Blocks::new(range, size), Err(BlocksError::Size { .. })), "{range}");
        }
        assert!(matches!(Blocks::new("10.0.0.0", 24), Err(BlocksError::Cidr(_))));
    }

    #[test]
    fn nodes_get_the_first_free_block() {
        let controller = NodeIpam { blocks: Blocks::new("10.0.0.0/30", 31).unwrap() };
        let node = |name: &str, cidrs: &[&str]| json!({"metadata": {"name": name, "uid": name}, "spec": {"podCIDRs": cidrs}});
        let plan = |others: &[serde_json::Value], own: serde_json::Value| {
            let view = View::default().with::<Node>(&[others, std::slice::from_ref(&own)].concat());
            let own = Entry::decode(own.to_string().into()).unwrap();
            controller.plan(&own, &view, Time::from_unix(0)).unwrap().steps
        };
        let second = plan(&[node("a", &["10.0.0.0/31"])], node("b", &[]));
        let [Step::Patch(patch)] = second.as_slice() else { panic!("{second:?}") };
        assert_eq!(
            patch.body["spec"],
            json!({"podCIDR": "10.0.0.2/31", "podCIDRs": ["10.0.0.2/31"]})
        );
        let full = [node("a", &["10.0.0.0/31"]), node("b", &["10.0.0.2/31"])];
        let [Step::Event(event)] = &plan(&full, node("c", &[]))[..] else { panic!("no event") };
        assert_eq!(event.message, "Node c status is now: CIDRNotAvailable");
        assert!(plan(&[], node("a", &["192.168.0.0/24"])).is_empty());
    }
}
