//! The range from which this node's pods get their addresses: named when the agent starts or, as with
//! the kubelet, written into the Node by whoever allocates ranges (`spec.podCIDRs`), who may come late.

use std::net::Ipv4Addr;

use client::{Clock, Informer};
use proto::view::node::{Node, NodeSpec};
use tokio::sync::watch;

use crate::cri::Runtime;
use crate::net::{self, Cidr};

/// Clones share what becomes known.
#[derive(Clone, Debug, Default)]
pub struct PodRange(watch::Sender<Option<Range>>);

/// A range once it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Range {
    /// As the runtime is told: of a dual-stack node both, separated by a comma.
    text: String,
    /// What the node itself makes a network of.
    own: Option<Cidr>,
}

impl PodRange {
    /// Known from the start where it was named.
    pub fn new(named: Option<&str>) -> PodRange {
        PodRange(watch::Sender::new(named.and_then(|text| Range::of([text]))))
    }

    /// Until there is one: the range that the Node has, whoever wrote it there.
    pub async fn follow(&self, nodes: Informer<Node>) {
        let mut changes = nodes.changes();
        while self.0.borrow().is_none() {
            let Some(node) = changes.next().await.new else { continue };
            if let Some(range) = of_node(&node.view.spec) {
                self.0.send_replace(Some(range));
            }
        }
    }

    /// Tells the runtime, as soon as there is something to tell and somebody to be told.
    pub async fn tell(&self, runtime: &dyn Runtime, clock: &Clock) {
        let range = self.known().await;
        while let Err(error) = runtime.set_pod_cidr(&range.text).await {
            tracing::warn!(%error, "cannot tell the runtime its pod range");
            clock.sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    /// What the node makes its network of, once that is known.
    pub async fn own(&self) -> Option<Cidr> {
        self.known().await.own
    }

    /// The address of the node among its pods; where its DNS answers.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        self.0.borrow().as_ref().and_then(|range| range.own).map(net::gateway)
    }

    async fn known(&self) -> Range {
        let mut known = self.0.subscribe();
        let known = known.wait_for(Option::is_some).await;
        match known.as_ref().map(|known| (**known).clone()) {
            Ok(Some(range)) => range,
            // The sender lives as long as this does.
            _ => std::future::pending().await,
        }
    }
}

impl Range {
    fn of<'a>(ranges: impl IntoIterator<Item = &'a str>) -> Option<Range> {
        let ranges: Vec<&str> = ranges.into_iter().filter(|range| !range.is_empty()).collect();
        let own = ranges.iter().find_map(|range| range.parse().ok());
        (!ranges.is_empty()).then(|| Range { text: ranges.join(","), own })
    }
}

/// Old clients write only the singular.
fn of_node(spec: &NodeSpec) -> Option<Range> {
    let all = spec.pod_cidrs.iter().map(String::as_str);
    Range::of(all).or_else(|| Range::of([spec.pod_cidr.as_str()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_is_given() {
        let table: &[(&str, &[&str], Option<(&str, Option<&str>)>)] = &[
            ("", &[], None),
            ("10.1.2.0/24", &[], Some(("10.1.2.0/24", Some("10.1.2.0/24")))),
            (
                "10.1.2.0/24",
                &["10.1.2.0/24", "fd00::/64"],
                Some(("10.1.2.0/24,fd00::/64", Some("10.1.2.0/24"))),
            ),
            (
                "fd00::/64",
                &["fd00::/64", "10.1.2.0/24"],
                Some(("fd00::/64,10.1.2.0/24", Some("10.1.2.0/24"))),
            ),
            ("fd00::/64", &["fd00::/64"], Some(("fd00::/64", None))),
        ];
        for (one, all, expected) in table {
            let pod_cidrs = all.iter().map(|range| range.to_string()).collect();
            let spec = NodeSpec { pod_cidr: one.to_string(), pod_cidrs, ..NodeSpec::default() };
            let expected = expected.map(|(text, own)| Range {
                text: text.into(),
                own: own.map(|own| own.parse().unwrap()),
            });
            assert_eq!(of_node(&spec), expected, "{one} {all:?}");
        }
    }

    #[tokio::test]
    async fn a_range_that_was_named_is_known_at_once() {
        let range = PodRange::new(Some("10.1.2.0/24"));
        assert_eq!(range.gateway(), Some(Ipv4Addr::new(10, 1, 2, 1)));
        assert_eq!(range.own().await, "10.1.2.0/24".parse().ok());
        assert_eq!(PodRange::new(None).gateway(), None);
    }
}
