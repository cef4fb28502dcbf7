//! The agent of a real machine, put together.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use client::error::chain;
use client::{CancellationToken, Client, Clock, Informer, Informers, Recorder, Rng};
use proto::view;
use proto::view::pod::Pod;
use proto::view::service::Service;

use crate::allocation::Allocations;
use crate::config::NodeConfig;
use crate::cpu_manager::{self, CpuManager};
use crate::cri::Runtime;
use crate::cri::grpc::{BadEndpoint, Grpc};
use crate::cri::simulated::SimulatedRuntime;
use crate::csi::{Plugins, Registration};
use crate::devices::Registrar;
use crate::dra;
use crate::ended::Ended;
use crate::events::Events;
use crate::eviction::{self, Pressure};
use crate::images::garbage::{Collector, Policy};
use crate::images::providers::ConfigError;
use crate::logs::{self, Limits};
use crate::manifest::sources::{self, Sources, Wanted};
use crate::metrics::Metrics;
use crate::net;
use crate::node::pod_range::PodRange;
use crate::node::{Node, facts, lease};
use crate::options::{self, Options};
use crate::plugins::Registry;
use crate::pod_resources;
use crate::pods::Pods;
use crate::probe::{Network, Prober};
use crate::report::Host;
use crate::resolv::{self, Dns};
use crate::server;
use crate::shutdown::{self, Shutdown, periods};
use crate::stats::Stats;
use crate::volume::{Disk, Machine, NoDisk, folders};
use crate::worker::{Context, Objects, Own, Pulls};

mod certificates;
mod parts;

pub use certificates::connect;

use certificates::{Certificates, Serving};

/// As often as the kubelet (containerLogMonitorInterval).
const LOOK_AT_LOGS: Duration = Duration::from_secs(10);

/// The agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Runtime(#[from] BadEndpoint),
    #[error("--pod-cidr {0:?} is not an IPv4 range")]
    PodCidr(String),
    #[error("this machine has no address that reaches others: name one with --node-ip")]
    NodeIp(#[source] std::io::Error),
    #[error(transparent)]
    Providers(#[from] ConfigError),
    #[error("--max-parallel-image-pulls above 1 needs --serialize-image-pulls=false")]
    ParallelPulls,
    #[error("--image-gc-low-threshold {low} must be below --image-gc-high-threshold {high}")]
    Thresholds { low: u8, high: u8 },
    #[error(transparent)]
    Manifests(#[from] sources::Error),
    #[error("{0}")]
    Eviction(String),
    #[error(transparent)]
    Cpus(#[from] cpu_manager::StartError),
    #[error("make {path}")]
    Folder { path: String, source: std::io::Error },
}

/// Runs until `shutdown`; the pods run on.
pub async fn run(
    options: Options,
    client: Client,
    informers: Informers,
    clock: Clock,
    rng: Rng,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let metrics = Arc::new(Metrics::default());
    let ground = Ground::new(&options, &clock, &metrics)?;
    let runtime = ground.runtime.clone();
    let client = client.named("kubelet");
    let identity = parts::identity(&options)?;
    let name = identity.name.clone();
    let range = parts::pod_range(&options)?;
    parts::check_images(&options)?;
    let eviction = options.eviction.config().map_err(Error::Eviction)?;
    let recorder = Recorder::new(client.clone(), clock.clone(), rng.clone(), "kubelet", &name);
    let events = Events::new(recorder);
    for folder in [&options.root_dir, &options.pod_logs_dir] {
        std::fs::create_dir_all(folder)
            .map_err(|source| Error::Folder { path: folder.display().to_string(), source })?;
    }
    let pulls = parts::pulls(&options, &clock)?;
    let cpus = parts::cpus(&options, &identity)?;
    let node = Node {
        client: client.clone(),
        clock: clock.clone(),
        rng: rng.clone(),
        events: events.clone(),
        runtime: runtime.clone(),
        identity,
        facts: Arc::new(facts::Machine::new(options.root_dir.clone())),
        devices: parts::devices(&options),
        shutdown: Shutdown::default(),
        pressure: Pressure::default(),
        told: Arc::default(),
    };
    let manifests = Sources::open(&options, &name, &clock)?;
    let certificates = Certificates::new(&options, &node);
    let serving = certificates.serving();
    let managed = Managed { eviction, metrics, manifests, serving, cpus };
    let work = async {
        let network = network(&options, &name, &range, &informers, &clock, &rng);
        // Static pods run whether there is an API server or not: nothing waits for it here.
        let keep = async {
            let uid = node.register().await;
            let lease = lease::renew(client.clone(), clock.clone(), rng.clone(), name.clone(), uid);
            // The lease has a task of its own, so that nothing here can delay it.
            let lease = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(lease));
            tokio::join!(lease, node.report(), certificates.keep()).0.unwrap_or_default();
        };
        let pods = async {
            let tell = async {
                range.tell(&*runtime, &clock).await;
                node.told.notify_one();
            };
            let work = pods(&options, &node, ground, &range, &informers, pulls, managed);
            match &options.pod_cidr {
                // Else the first pods come before the runtime can connect them.
                Some(_) => {
                    tell.await;
                    work.await;
                }
                // Static pods on the node's network wait for nobody.
                None => drop(tokio::join!(tell, work)),
            }
        };
        let find = range.follow(own(&informers, &name));
        tokio::join!(keep, network, pods, find);
    };
    tokio::select! {
        () = work => {}
        () = shutdown.cancelled() => {}
    }
    Ok(())
}

/// What the pods of this node stand on.
struct Ground {
    /// Made once: what has which ids is kept in it.
    config: NodeConfig,
    runtime: Arc<dyn Runtime>,
    disk: Arc<dyn Disk>,
    prober: Arc<dyn Prober>,
    /// The node's drivers of storage; a simulated node has none.
    plugins: Option<Plugins>,
}

impl Ground {
    fn new(
        options: &Options,
        clock: &Clock,
        metrics: &Arc<Metrics>,
    ) -> Result<Ground, BadEndpoint> {
        let config = parts::node_config(options);
        Ok(match options.runtime {
            options::Runtime::Cri => {
                let plugins = Plugins::default();
                let disk = Machine::with_plugins(config.clone(), plugins.clone());
                Ground {
                    config,
                    runtime: Arc::new(Grpc::new(
                        &options.runtime_endpoint,
                        metrics.clone(),
                        clock.clone(),
                    )?),
                    disk: Arc::new(disk),
                    prober: Arc::new(Network::new()),
                    plugins: Some(plugins),
                }
            }
            options::Runtime::Simulated => {
                let runtime = Arc::new(SimulatedRuntime::new(clock.clone()));
                let disk = Arc::new(NoDisk);
                Ground { config, runtime: runtime.clone(), disk, prober: runtime, plugins: None }
            }
        })
    }
}

/// Works on the node's pods for ever.
async fn pods(
    options: &Options,
    node: &Node,
    ground: Ground,
    range: &PodRange,
    informers: &Informers,
    pulls: Pulls,
    managed: Managed,
) {
    let clock = &node.clock;
    let info = loop {
        match node.runtime.info().await {
            Ok(info) => break info,
            Err(error) => {
                tracing::warn!(%error, "the runtime does not answer");
                clock.sleep(Duration::from_millis(100)).await;
            }
        }
    };
    let host = std::fs::read_to_string(&options.resolv_conf).unwrap_or_default();
    let servers = options.cluster_dns.iter().map(IpAddr::to_string).collect();
    let name = &node.identity.name;
    let context = Arc::new(Context {
        client: node.client.clone(),
        clock: clock.clone(),
        events: node.events.clone(),
        runtime: ground.runtime,
        disk: ground.disk,
        prober: ground.prober,
        pulls,
        objects: Objects::new(node.client.clone(), clock.clone()),
        services: informers.of::<Service>(),
        allocations: Allocations::default(),
        ended: Ended::new(options.maximum_dead_containers),
        devices: node.devices.clone(),
        dra: parts::dra(options),
        cpus: managed.cpus,
        own: Own {
            client: node.client.clone(),
            nodes: own(informers, name),
            name: name.clone(),
            labels: node.labels(),
            allocatable: node.allocatable(),
            devices: node.devices.clone(),
            unsafe_sysctls: options.allowed_unsafe_sysctls.clone(),
            shutdown: node.shutdown.clone(),
            pressure: node.pressure.clone(),
        },
        config: ground.config,
        dns: Dns { servers, domain: options.cluster_domain.clone(), host: resolv::parse(&host) },
        pod_range: range.clone(),
        host: Host { ips: node.identity.ips.clone(), runtime_name: info.name },
        allocatable: node.allocatable(),
        metrics: managed.metrics.clone(),
    });
    let informer = informers.filtered::<Pod>(&format!("spec.nodeName={name}"));
    let pods = Pods::new(context);
    let statics = follow_manifests(&pods, managed.manifests);
    let evict = evict(&pods, options, node, &informer, managed.eviction);
    let rest = follow_api(&pods, options, node, &informer, managed.serving);
    let periods =
        periods(options.shutdown_grace_period, options.shutdown_grace_period_critical_pods);
    let shutdown = async {
        if !periods.is_empty() {
            shutdown::follow(&pods, &node.shutdown, &periods, &node.events).await;
        }
    };
    let plugins = async {
        if let Some(drivers) = ground.plugins {
            plugins(&pods, drivers).await;
        }
    };
    let follow = async { tokio::join!(pods.follow_runtime(), pods.follow_resources()) };
    tokio::join!(statics, rest, follow, shutdown, plugins, evict);
}

/// What becomes of the pods' place on this node.
async fn evict(
    pods: &Pods,
    options: &Options,
    node: &Node,
    informer: &Informer<Pod>,
    config: eviction::Config,
) {
    if options.runtime == options::Runtime::Simulated {
        // What is simulated uses nothing.
        return;
    }
    let name = node.identity.name.clone();
    let stats = Stats::new(pods.context().clone(), name.clone(), informer.clone());
    let (pods, pressure) = (pods.clone(), node.pressure.clone());
    eviction::run(eviction::Manager { config, pods, stats, pressure, node: name }).await;
}

/// What the node does about itself.
struct Managed {
    eviction: eviction::Config,
    metrics: Arc<Metrics>,
    manifests: Sources,
    serving: Option<Serving>,
    cpus: CpuManager,
}

/// Runs what the manifests say, for ever.
async fn follow_manifests(pods: &Pods, mut manifests: Sources) {
    let mut wanted: Wanted = manifests.first();
    loop {
        pods.manifests(wanted);
        wanted = manifests.changed().await;
    }
}

/// Runs what the API says, for ever.
async fn follow_api(
    pods: &Pods,
    options: &Options,
    node: &Node,
    informer: &Informer<Pod>,
    serving: Option<Serving>,
) {
    // Until all pods are known none may be taken for forgotten.
    informer.synced().await;
    pods.context().services.synced().await;
    pods.context().own.nodes.synced().await;
    let mut changes = informer.changes();
    let mut known: Vec<_> = std::iter::from_fn(|| changes.try_next()).collect();
    // What runs has its place already; of the others the oldest is first.
    known.sort_by_key(|change| {
        let pod = change.new.as_ref().map(|entry| &entry.view);
        pod.map(|pod| (pod.status.start_time.is_none(), pod.metadata.creation_timestamp))
    });
    known.iter().for_each(|change| pods.change(change));
    match node.runtime.pods().await {
        Ok(known) => {
            pods.orphans(known);
            pods.orphans(pods.context().disk.pods().await);
            pods.forget_missing();
        }
        Err(error) => tracing::warn!(%error, "cannot list the runtime's pods"),
    }
    let follow = async {
        loop {
            pods.change(&changes.next().await);
        }
    };
    let mut endpoint = parts::endpoint(options, &node.identity);
    let serve = async {
        if let Some((path, mut present)) = serving {
            // Without a certificate nobody could tell who answers.
            let _ = present.wait_for(|present| *present).await;
            endpoint.identity = Some((path.clone(), path));
        }
        if let Err(error) = server::serve(endpoint, pods.clone(), informer.clone()).await {
            tracing::error!(error = chain(&error), "logs and exec cannot be served");
        }
    };
    let limits =
        Limits { bytes: options.container_log_max_size, files: options.container_log_max_files };
    let collect = collect(pods.context(), &node.identity.name, parts::policy(options));
    tokio::join!(follow, serve, rotate(pods, limits), collect);
}

/// Looks after the images for ever.
async fn collect(context: &Context, node: &str, policy: Policy) {
    let (runtime, clock) = (&*context.runtime, &context.clock);
    let collector = Collector { runtime, clock, policy, records: context.pulls.records() };
    collector.run(&context.events, node).await;
}

/// Looks for ever after what the node has of others: storage drivers and devices, and folders of its own
/// disk; and tells who asks what its pods have of them.
async fn plugins(pods: &Pods, drivers: Plugins) {
    let context = pods.context();
    let (client, clock, own) = (&context.client, &context.clock, &context.own);
    let (root, devices) = (&context.config.root, context.devices.clone());
    let drivers = Registration { plugins: drivers, client: client.clone(), node: own.name.clone() };
    let registrar = Registrar { devices, clock: clock.clone() };
    let resources = dra::Registrar {
        dra: context.dra.clone(),
        client: client.clone(),
        clock: clock.clone(),
        node: own.name.clone(),
    };
    let registry = Registry {
        clock: clock.clone(),
        folder: root.join("plugins_registry"),
        handlers: vec![Arc::new(drivers), Arc::new(registrar.clone()), Arc::new(resources)],
    };
    let folders = folders::keep(client.clone(), clock.clone(), &context.config, own.nodes.clone());
    let told = root.join("pod-resources");
    let tell = pod_resources::serve(&told, pods.clone());
    tokio::join!(registry.keep(), registrar.serve(), folders, tell);
}

/// Looks at the sizes of logs for ever. Watching them would cost more: a wake-up per line.
async fn rotate(pods: &Pods, limits: Limits) {
    let context = pods.context();
    loop {
        context.clock.sleep(LOOK_AT_LOGS).await;
        let folder = context.config.logs.clone();
        let uids = match tokio::task::spawn_blocking(move || logs::grown(&folder, limits)).await {
            Ok(Ok(uids)) => uids,
            Ok(Err(error)) => {
                let folder = context.config.logs.display();
                tracing::warn!(%folder, %error, "cannot look at the sizes of logs");
                continue;
            }
            Err(_) => continue,
        };
        for uid in uids {
            let Ok(observed) = context.runtime.observe(&uid).await else { continue };
            for run in observed.running().filter(|run| !run.log_path.is_empty()) {
                let (log, now) = (Path::new(&run.log_path), context.clock.now());
                if let Err(error) = logs::rotate(&*context.runtime, &run.id, log, limits, now).await
                {
                    let error = chain(&error);
                    tracing::warn!(container = %run.name, error, "cannot rotate a log");
                }
            }
        }
    }
}

async fn network(
    options: &Options,
    name: &str,
    range: &PodRange,
    informers: &Informers,
    clock: &Clock,
    rng: &Rng,
) {
    if options.runtime == options::Runtime::Simulated {
        // Nobody is there to be reached.
        return;
    }
    let Some(pod_cidr) = range.own().await else {
        tracing::warn!("this node's pods have no IPv4 addresses: there are no Services and no DNS");
        return;
    };
    let config = net::Config {
        node: name.into(),
        pod_cidr,
        table: options.nftables_table.clone(),
        dns: net::gateway(pod_cidr),
        cluster_domain: options.cluster_domain.clone(),
        resolv_conf: options.resolv_conf.clone(),
    };
    net::run(informers.clone(), config, clock.clone(), rng.clone()).await;
}

/// This node's own object.
fn own(informers: &Informers, name: &str) -> Informer<view::node::Node> {
    informers.filtered(&format!("metadata.name={name}"))
}
