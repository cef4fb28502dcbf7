//! The proxy's loop: a change, the whole rule set anew, the difference to nftables.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::time::Duration;

use client::{Clock, Informer, Informers};
use proto::view::endpoint_slice::EndpointSlice;
use proto::view::node::Node;
use proto::view::pod::Pod;
use proto::view::service::Service;

use super::executor::{apply, forget, stale};
use super::rule_set::{RuleSet, transaction};
use super::rules::{Facts, rules};
use super::service_port::{HostPort, ServicePort, host_ports, service_ports};
use crate::net::{Cidr, routes};

/// Where a proxy runs and what is its own.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The nftables table, of family ip. It is replaced when the proxy starts.
    pub table: String,
    /// As in [`Facts`].
    pub node: Option<String>,
    pub pod_cidr: Option<Cidr>,
    pub masquerade: Option<Cidr>,
    /// Networks of the cluster besides the nodes' addresses and their pods'.
    pub cluster: BTreeSet<Cidr>,
}

struct Inputs {
    services: Informer<Service>,
    slices: Informer<EndpointSlice>,
    nodes: Informer<Node>,
    pods: Option<Informer<Pod>>,
}

struct State {
    ports: BTreeMap<String, ServicePort>,
    rules: RuleSet,
}

/// Changes often come in groups: how long to wait for the rest of one.
const GATHER: Duration = Duration::from_millis(5);
const RETRY: Duration = Duration::from_secs(1);

/// Keeps the table current. Never returns; the table stays when it is dropped.
pub async fn run(informers: Informers, config: Config, clock: Clock) {
    let pods =
        config.node.as_ref().map(|node| informers.filtered(&format!("spec.nodeName={node}")));
    let inputs =
        Inputs { services: informers.of(), slices: informers.of(), nodes: informers.of(), pods };
    let mut services = inputs.services.changes();
    let mut slices = inputs.slices.changes();
    let mut nodes = inputs.nodes.changes();
    let mut pods = inputs.pods.as_ref().map(|pods| pods.changes());
    inputs.synced().await;
    let mut state = None;
    loop {
        while services.try_next().is_some() || slices.try_next().is_some() {}
        while nodes.try_next().is_some() || pods.as_mut().is_some_and(|p| p.try_next().is_some()) {}
        let failed = !inputs.update(&mut state, &config).await;
        let retry = async {
            match failed {
                true => clock.sleep(RETRY).await,
                false => std::future::pending().await,
            }
        };
        let pods_changed = async {
            match &mut pods {
                Some(pods) => drop(pods.next().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = services.next() => {}
            _ = slices.next() => {}
            _ = nodes.next() => {}
            () = pods_changed => {}
            () = retry => {}
        }
        clock.sleep(GATHER).await;
    }
}

/// Removes what a proxy left behind.
pub async fn remove(table: &str) -> Result<(), super::NftError> {
    // Adding it first makes the removal succeed in any case.
    apply(&format!("add table ip {table}\ndelete table ip {table}\n")).await
}

impl Inputs {
    async fn synced(&self) {
        self.services.synced().await;
        self.slices.synced().await;
        self.nodes.synced().await;
        if let Some(pods) = &self.pods {
            pods.synced().await;
        }
    }

    /// Brings nftables to what the informers say; false if it refused.
    async fn update(&self, state: &mut Option<State>, config: &Config) -> bool {
        let new = self.desired(config);
        let old = state.as_ref().map(|state| &state.rules);
        let transaction = transaction(&config.table, old, &new.rules);
        if !transaction.is_empty()
            && let Err(error) = apply(&transaction).await
        {
            tracing::error!(%error, "update the rules of Services");
            *state = None;
            return false;
        }
        let nothing = BTreeMap::new();
        let old = state.as_ref().map_or(&nothing, |state| &state.ports);
        if let Err(error) = forget(&stale(old, &new.ports)).await {
            tracing::warn!(%error, "run conntrack (package conntrack)");
        }
        *state = Some(new);
        true
    }

    fn desired(&self, config: &Config) -> State {
        let (services, slices) = (self.services.snapshot(), self.slices.snapshot());
        let (nodes, pods) = (self.nodes.snapshot(), self.pods.as_ref().map(Informer::snapshot));
        let mut cluster = config.cluster.clone();
        for node in nodes.values() {
            cluster.extend(node.spec.pod_cidr.parse::<Cidr>().ok());
            let host = |ip: Ipv4Addr| Cidr::around(ip, 32);
            cluster.extend(routes::internal_ip(&node.view).map(host));
        }
        let ports = service_ports(
            services.values().map(|entry| &entry.view),
            slices.values().map(|entry| &entry.view),
            config.node.as_deref(),
        );
        let host_ports: BTreeSet<HostPort> =
            pods.map(|pods| host_ports(pods.values().map(|entry| &entry.view))).unwrap_or_default();
        let facts = Facts {
            node: config.node.clone(),
            pod_cidr: config.pod_cidr,
            masquerade: config.masquerade,
            cluster,
        };
        State { rules: rules(ports.values(), &host_ports, &facts), ports }
    }
}
