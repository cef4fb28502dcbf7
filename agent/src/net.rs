//! The node's network: pods' links and addresses, routes to the other nodes, Services and DNS.
//!
//! [`pod`] is called by the runtime; [`run`] by the agent. [`proxy`] and [`routes`] run also
//! outside a node, so that Services and pods answer from the machine itself. Each module owns one
//! facility of the kernel (links, routes of our protocol number, one nftables table) and touches
//! nothing else of it. What they set stays when the process ends: pods do not notice.

pub mod bandwidth;
pub mod cidr;
pub mod dns;
pub mod namespace;
pub mod netlink;
pub mod pod;
pub mod proxy;
pub mod routes;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

pub use cidr::Cidr;
use client::{Clock, Informers, Rng};

/// What a node's network needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    pub node: String,
    pub pod_cidr: Cidr,
    /// The nftables table of the proxy, of which there is one per cluster and network namespace.
    pub table: String,
    /// Where DNS answers: by default the pods' gateway, see [`gateway`].
    pub dns: Ipv4Addr,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// Whose name servers are asked about names that are not the cluster's.
    pub resolv_conf: PathBuf,
}

/// The address of the node's bridge: what pods have as gateway and, by default, as name server.
pub fn gateway(pod_cidr: Cidr) -> Ipv4Addr {
    pod_cidr.nth(1).unwrap_or(pod_cidr.address())
}

/// Keeps routes, Services and DNS of this node current. Never returns; drop it to end it.
pub async fn run(informers: Informers, config: Config, clock: Clock, rng: Rng) {
    let Config { node, pod_cidr, table, dns, cluster_domain, resolv_conf } = config;
    let routes = routes::Config { node: Some(node.clone()), within: None };
    let proxy = proxy::Config {
        table,
        node: Some(node),
        pod_cidr: Some(pod_cidr),
        masquerade: Some(pod_cidr),
        cluster: Default::default(),
    };
    let upstream = std::fs::read_to_string(&resolv_conf).unwrap_or_else(|error| {
        tracing::warn!(file = %resolv_conf.display(), %error, "no name servers to pass names to");
        String::new()
    });
    let dns = dns::Config {
        listen: SocketAddr::from((dns, 53)),
        domain: cluster_domain,
        upstream: dns::servers(&upstream, dns),
    };
    tokio::join!(
        routes::run(informers.clone(), routes),
        proxy::run(informers.clone(), proxy, clock.clone()),
        dns::run(informers, dns, clock, rng),
    );
}
