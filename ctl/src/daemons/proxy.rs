//! `ctl service-proxy`: Services and pods reachable from a machine that is not a node, as the one on which
//! `ctl cluster` makes a cluster: cluster and load balancer addresses, and routes to the pods.

use std::path::PathBuf;

use agent::net::{Cidr, proxy, routes};
use client::{CancellationToken, Clock, Informers};

#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Path to the kubeconfig with the API server's address and our credentials
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The nftables table for the rules of Services; it is replaced
    #[arg(long, value_name = "NAME", default_value = "coracle")]
    nftables_table: String,
    /// The addresses of the cluster: routes are kept only in here, and what leaves it does so with
    /// this machine's address
    #[arg(long, value_name = "CIDR")]
    cluster_cidr: Cidr,
}

/// Keeps rules and routes current until `shutdown`; they stay.
pub async fn run(
    options: Options,
    informers: Informers,
    clock: Clock,
    shutdown: CancellationToken,
) {
    let cluster = options.cluster_cidr;
    let proxy = proxy::Config {
        table: options.nftables_table,
        masquerade: Some(cluster),
        cluster: [cluster].into(),
        ..proxy::Config::default()
    };
    let routes = routes::Config { node: None, within: Some(cluster) };
    tokio::select! {
        () = proxy::run(informers.clone(), proxy, clock) => {}
        () = routes::run(informers, routes) => {}
        () = shutdown.cancelled() => {}
    }
}
