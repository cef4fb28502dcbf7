//! Routes to the pods of the other nodes, through the nodes' own addresses on the segment they
//! share. Only routes with our protocol number are touched.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use client::Informers;
use proto::view::node::Node;

use super::Cidr;
use super::netlink::{Netlink, NetlinkError, Request, Route};

/// Whose routes to keep.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// This node, to whose pods no route is needed.
    pub node: Option<String>,
    /// Only destinations in here are touched; `None` for all. Several clusters can so keep their
    /// routes in one network namespace.
    pub within: Option<Cidr>,
}

/// How our routes are known: rtm_protocol. No routing daemon uses this number.
const PROTOCOL: u8 = 67;

/// Keeps the kernel's routes as the Nodes say. Never returns; the routes stay when it is dropped.
pub async fn run(informers: Informers, config: Config) {
    let nodes = informers.of::<Node>();
    let mut changes = nodes.changes();
    nodes.synced().await;
    let mut failed = BTreeSet::new();
    let mut done = None;
    loop {
        let snapshot = nodes.snapshot();
        let wanted = wanted(snapshot.values().map(|entry| &entry.view), config.node.as_deref());
        if done.as_ref() != Some(&wanted) {
            match apply(&wanted, config.within) {
                Ok(failures) => {
                    for failure in failures.difference(&failed) {
                        tracing::warn!("{failure}");
                    }
                    failed = failures;
                }
                Err(error) => tracing::error!(%error, source = ?error.source, "set routes"),
            }
            done = Some(wanted);
        }
        changes.next().await;
        while changes.try_next().is_some() {}
    }
}

/// Destination and gateway for each node but this one.
pub fn wanted<'a>(
    nodes: impl IntoIterator<Item = &'a Node>,
    this: Option<&str>,
) -> BTreeMap<Cidr, Ipv4Addr> {
    let others = nodes.into_iter().filter(|node| Some(node.metadata.name.as_str()) != this);
    others.filter_map(|node| Some((node.spec.pod_cidr.parse().ok()?, internal_ip(node)?))).collect()
}

/// The node's IPv4 address on the segment that the nodes share.
pub fn internal_ip(node: &Node) -> Option<Ipv4Addr> {
    let mut addresses = node.status.addresses.iter().filter(|a| a.kind == "InternalIP");
    addresses.find_map(|address| address.address.parse().ok())
}

/// Makes our routes those that are wanted. Routes that the kernel refuses (a node that is nowhere)
/// are returned as sentences; the others are set nevertheless.
pub fn apply(
    wanted: &BTreeMap<Cidr, Ipv4Addr>,
    within: Option<Cidr>,
) -> Result<BTreeSet<String>, NetlinkError> {
    let ours = |cidr: &Cidr| within.is_none_or(|range| range.overlaps(cidr));
    let netlink = Netlink::open()?;
    let present: Vec<Route> = netlink
        .routes(Some(PROTOCOL))?
        .into_iter()
        .filter(|route| ours(&route.destination))
        .collect();
    let is_wanted = |route: &&Route| wanted.get(&route.destination).copied() == route.gateway;
    let mut requests = Vec::new();
    for route in present.iter().filter(|route| !wanted.contains_key(&route.destination)) {
        requests.push(Request::delete_route(route, PROTOCOL));
    }
    let right: BTreeSet<_> = present.iter().filter(is_wanted).map(|r| r.destination).collect();
    for (destination, gateway) in wanted.iter().filter(|(cidr, _)| ours(cidr)) {
        if !right.contains(destination) {
            let (destination, gateway) = (*destination, Some(*gateway));
            // Adding replaces a route of ours through another gateway.
            requests.push(Request::route(&Route { destination, gateway, link: None }, PROTOCOL));
        }
    }
    let outcomes = netlink.try_each(requests)?;
    let failed = |(what, outcome): (String, std::io::Result<()>)| {
        outcome.err().map(|error| format!("{what}: {error}"))
    };
    Ok(outcomes.into_iter().filter_map(failed).collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn one_route_per_other_node() {
        let node = |name: &str, cidr: &str, ip: &str| {
            let addresses = json!([{"type": "Hostname", "address": name},
                                   {"type": "InternalIP", "address": "fd00::1"},
                                   {"type": "InternalIP", "address": ip}]);
            serde_json::from_value::<Node>(json!({"metadata": {"name": name},
                "spec": {"podCIDR": cidr}, "status": {"addresses": addresses}}))
            .unwrap()
        };
        let nodes = [
            node("a", "10.1.1.0/24", "10.0.0.1"),
            node("b", "10.1.2.0/24", "10.0.0.2"),
            node("c", "", "10.0.0.3"),
            node("d", "10.1.4.0/24", ""),
        ];
        let expected = |text: &str| (text.parse().unwrap(), "10.0.0.2".parse().unwrap());
        assert_eq!(wanted(&nodes, Some("a")), BTreeMap::from([expected("10.1.2.0/24")]));
        assert_eq!(wanted(&nodes, None).len(), 2);
    }
}
