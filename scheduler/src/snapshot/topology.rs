//! How a label divides the nodes into domains, and the order in which nodes are asked.

use std::collections::HashMap;

use super::NodeInfo;

const ZONE: &str = "topology.kubernetes.io/zone";
const REGION: &str = "topology.kubernetes.io/region";

/// The domains of one label, numbered.
#[derive(Debug)]
pub struct Topology {
    /// By node; `NOWHERE` without the label.
    domains: Vec<u32>,
    /// How many domains there are.
    pub size: usize,
}

const NOWHERE: u32 = u32::MAX;

impl Topology {
    pub fn new(nodes: &[NodeInfo], key: &str) -> Topology {
        let mut numbers: HashMap<&str, u32> = HashMap::new();
        let mut domains = Vec::with_capacity(nodes.len());
        for node in nodes {
            domains.push(node.labels().get(key).map_or(NOWHERE, |value| {
                let next = numbers.len() as u32;
                *numbers.entry(value).or_insert(next)
            }));
        }
        Topology { size: numbers.len(), domains }
    }

    /// The domain that the node is in.
    pub fn of(&self, node: usize) -> Option<usize> {
        let domain = self.domains[node];
        (domain != NOWHERE).then_some(domain as usize)
    }
}

/// Zone by zone in turn, so that those asked first are from everywhere.
pub fn order(nodes: &[NodeInfo]) -> Vec<u32> {
    let mut numbers: HashMap<(&str, &str), usize> = HashMap::new();
    let mut zones: Vec<Vec<u32>> = Vec::new();
    for node in nodes {
        let label = |key| node.labels().get(key).map_or("", String::as_str);
        let next = numbers.len();
        let zone = *numbers.entry((label(REGION), label(ZONE))).or_insert(next);
        if zone == zones.len() {
            zones.push(Vec::new());
        }
        zones[zone].push(node.index as u32);
    }
    let longest = zones.iter().map(Vec::len).max().unwrap_or(0);
    let turn = |at: usize| {
        let zones = &zones;
        (0..zones.len()).filter_map(move |zone| zones[zone].get(at).copied())
    };
    (0..longest).flat_map(turn).collect()
}
