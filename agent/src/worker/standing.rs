//! The node as its own agent sees it when a pod asks to be taken.

use std::collections::BTreeMap;

use client::{Client, Informer};
use proto::meta::Labels;
use proto::quantity::Quantity;
use proto::view::node::Node;

use crate::admission::Standing;
use crate::devices::{Devices, is_extended_resource};
use crate::eviction::Pressure;
use crate::shutdown::Shutdown;

/// The node's own object. Before the API server has shown it, the node is what it registers as.
pub struct Own {
    pub client: Client,
    pub nodes: Informer<Node>,
    pub name: String,
    pub labels: Labels,
    pub allocatable: BTreeMap<String, Quantity>,
    pub devices: Devices,
    pub unsafe_sysctls: Vec<String>,
    pub shutdown: Shutdown,
    pub pressure: Pressure,
}

impl Own {
    pub fn standing(&self) -> Standing {
        match self.nodes.get("", &self.name) {
            Some(entry) => self.of(&entry.view),
            None => self.of(&Node::default()),
        }
    }

    /// What the API server says now: the pod may have been bound because of what this node has
    /// not heard yet.
    pub async fn fresh(&self) -> Option<Standing> {
        let entry = self.client.get::<Node>("", &self.name).await.ok()?;
        Some(self.of(&entry.view))
    }

    /// Whether the API has the node for ready.
    pub fn is_ready(&self) -> bool {
        self.nodes.get("", &self.name).is_some_and(|node| node.is_ready())
    }

    fn of(&self, node: &Node) -> Standing {
        let known = !node.metadata.name.is_empty();
        Standing {
            name: self.name.clone(),
            labels: if known { &node.metadata.labels } else { &self.labels }.clone(),
            taints: node.spec.taints.clone(),
            allocatable: with_others(&self.allocatable, node, &self.devices),
            shutting_down: self.shutdown.is_near(),
            pressure: self.pressure.now(),
            unsafe_sysctls: self.unsafe_sysctls.clone(),
        }
    }
}

/// With what somebody else says that the node has; devices are counted by whoever hands them out.
fn with_others(
    own: &BTreeMap<String, Quantity>,
    node: &Node,
    devices: &Devices,
) -> BTreeMap<String, Quantity> {
    let others = node.status.allocatable.iter();
    let others = others.filter(|(name, _)| is_extended_resource(name) && !devices.knows(name));
    let mut all = own.clone();
    all.extend(others.map(|(name, amount)| (name.clone(), *amount)));
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_somebody_wrote_into_the_node_is_the_nodes() {
        let allocatable = json!({"cpu": "64", "example.com/word": "2", "kubernetes.io/x": "1"});
        let node: Node =
            serde_json::from_value(json!({"status": {"allocatable": allocatable}})).unwrap();
        let own = [("cpu".to_string(), Quantity::new(2))].into();
        let all = with_others(&own, &node, &Devices::default());
        let all: Vec<(&str, i64)> =
            all.iter().map(|(name, amount)| (name.as_str(), amount.value())).collect();
        assert_eq!(all, [("cpu", 2), ("example.com/word", 2)]);
    }
}
