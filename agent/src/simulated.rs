//! Many nodes in one process, without containers: for tests under virtual time and for clusters
//! larger than the machine. Workers, plans, statuses and leases are those of a real node; only
//! the runtime, the disk and the machine are not there. All nodes share one informer. Of events
//! only warnings are recorded.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use client::{CancellationToken, Change, Client, Clock, Informers, Recorder, Rng};
use parking_lot::Mutex;
use proto::quantity::Quantity;
use proto::view;
use proto::view::pod::Pod;
use proto::view::service::Service;
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use crate::allocation::Allocations;
use crate::config::NodeConfig;
use crate::cpu_manager::CpuManager;
use crate::cri::simulated::SimulatedRuntime;
use crate::devices::Devices;
use crate::dra::Dra;
use crate::ended::Ended;
use crate::events::Events;
use crate::eviction::Pressure;
use crate::manifest::Manifest;
use crate::manifest::sources::Wanted;
use crate::node::facts::{Facts, architecture};
use crate::node::pod_range::PodRange;
use crate::node::{Identity, Node, lease};
use crate::pods::Pods;
use crate::report::Host;
use crate::resolv::Dns;
use crate::shutdown::{self, Period, Shutdown};
use crate::volume::NoDisk;
use crate::worker::{Context, Objects, Own, Pulls};

/// Simulated nodes, called `simulated-1` and so on. Dropping this stops them all.
pub struct Simulated {
    shared: Shared,
    nodes: Arc<Mutex<HashMap<String, Running>>>,
    _dispatch: AbortOnDropHandle<()>,
}

struct Running {
    runtime: SimulatedRuntime,
    pods: Pods,
    _tasks: [AbortOnDropHandle<()>; 3],
}

/// What a simulated node claims to have.
struct Claims;

impl Simulated {
    /// Starts `count` nodes.
    pub fn start(
        count: usize,
        client: &Client,
        informers: &Informers,
        clock: &Clock,
        rng: &Rng,
    ) -> Simulated {
        let shared = Shared::new(client, informers, clock, rng);
        let nodes: HashMap<String, Running> = (1..=count)
            .map(|number| {
                let runtime = SimulatedRuntime::new(clock.clone());
                (format!("simulated-{number}"), shared.node(number, runtime))
            })
            .collect();
        let nodes = Arc::new(Mutex::new(nodes));
        let dispatch = tokio::spawn(dispatch(informers.clone(), nodes.clone()));
        Simulated { shared, nodes, _dispatch: AbortOnDropHandle::new(dispatch) }
    }

    /// Starts the agent of a stopped node again; `runtime` ran on meanwhile.
    pub async fn resume(&self, number: usize, runtime: SimulatedRuntime) {
        let node = self.shared.node(number, runtime.clone());
        let pods = node.pods.clone();
        let name = format!("simulated-{number}");
        let informer = self.shared.informers.of::<Pod>();
        informer.synced().await;
        {
            // What changes from here on is dispatched, so nothing falls in between.
            let mut nodes = self.nodes.lock();
            for (key, entry) in &informer.snapshot() {
                if entry.view.spec.node_name == name {
                    let new = Some(entry.clone());
                    pods.change(&Change { key: key.clone(), old: None, new });
                }
            }
            nodes.insert(name, node);
        }
        pods.orphans(runtime.known());
    }

    /// From now on the node is silent, as if its machine had lost its power.
    pub fn stop(&self, name: &str) {
        self.nodes.lock().remove(name);
    }

    /// These static pods should run on the node, as if its files said so.
    pub fn manifests(&self, name: &str, all: Vec<Manifest>) {
        if let Some(node) = self.nodes.lock().get(name) {
            node.pods.manifests(Wanted { pods: all, complete: true });
        }
    }

    /// The node's machine shuts down, in good order.
    pub async fn shut_down(&self, name: &str, periods: &[Period], clock: &Clock) {
        let pods = self.nodes.lock().get(name).map(|node| node.pods.clone());
        if let Some(pods) = pods {
            shutdown::end_all(&pods, periods, clock).await;
        }
    }

    /// The node's runtime, to make its containers misbehave.
    pub fn runtime(&self, name: &str) -> Option<SimulatedRuntime> {
        self.nodes.lock().get(name).map(|node| node.runtime.clone())
    }
}

/// Runs `count` nodes until `shutdown`.
pub async fn run(
    count: usize,
    client: Client,
    informers: Informers,
    clock: Clock,
    rng: Rng,
    shutdown: CancellationToken,
) {
    let _nodes = Simulated::start(count, &client, &informers, &clock, &rng);
    shutdown.cancelled().await;
}

/// Passes each pod's changes to its node.
async fn dispatch(informers: Informers, nodes: Arc<Mutex<HashMap<String, Running>>>) {
    let informer = informers.of::<Pod>();
    informer.synced().await;
    let mut changes = informer.changes();
    loop {
        let change: Change<Pod> = changes.next().await;
        let of = |entry: &Option<Arc<client::Entry<Pod>>>| {
            entry.as_ref().map(|entry| entry.view.spec.node_name.clone())
        };
        // A pod keeps its node; before it had one it was nobody's.
        let Some(name) = of(&change.new).or_else(|| of(&change.old)) else { continue };
        let pods = nodes.lock().get(&name).map(|node| node.pods.clone());
        if let Some(pods) = pods {
            pods.change(&change);
        }
    }
}

struct Shared {
    client: Client,
    informers: Informers,
    clock: Clock,
    rng: Rng,
    events: Events,
    objects: Objects,
}

impl Shared {
    fn new(client: &Client, informers: &Informers, clock: &Clock, rng: &Rng) -> Shared {
        let client = client.named("kubelet");
        let recorder =
            Recorder::new(client.clone(), clock.clone(), rng.clone(), "kubelet", "simulated");
        Shared {
            objects: Objects::new(client.clone(), clock.clone()).without_volumes(),
            events: Events::warnings_only(recorder),
            client,
            informers: informers.clone(),
            clock: clock.clone(),
            rng: rng.clone(),
        }
    }

    fn node(&self, number: usize, runtime: SimulatedRuntime) -> Running {
        let (high, low) = (number / 256, number % 256);
        let identity = Identity {
            name: format!("simulated-{number}"),
            // Nobody serves there, and whoever asks all the same gets no further than this machine.
            ips: vec![format!("127.31.{high}.{low}")],
            pod_cidr: format!("10.{}.{low}.0/24", 128 + high % 128),
            port: 10250,
            max_pods: 110,
            ..Identity::default()
        };
        let name = identity.name.clone();
        let ips = identity.ips.clone();
        let cidr = identity.pod_cidr.clone();
        let node = Node {
            client: self.client.clone(),
            clock: self.clock.clone(),
            rng: self.rng.clone(),
            events: self.events.clone(),
            runtime: Arc::new(runtime.clone()),
            identity,
            facts: Arc::new(Claims),
            devices: Devices::default(),
            shutdown: Shutdown::default(),
            pressure: Pressure::default(),
            told: Arc::default(),
        };
        let context = Context {
            client: self.client.clone(),
            clock: self.clock.clone(),
            events: self.events.clone(),
            runtime: Arc::new(runtime.clone()),
            disk: Arc::new(NoDisk),
            prober: Arc::new(runtime.clone()),
            pulls: Pulls::default(),
            objects: self.objects.clone(),
            services: self.informers.of::<Service>(),
            allocations: Allocations::default(),
            ended: Ended::default(),
            devices: Devices::default(),
            dra: Dra::default(),
            cpus: CpuManager::default(),
            own: Own {
                client: self.client.clone(),
                nodes: self.informers.of::<view::node::Node>(),
                name: name.clone(),
                labels: node.labels(),
                allocatable: node.allocatable(),
                devices: Devices::default(),
                unsafe_sysctls: Vec::new(),
                shutdown: node.shutdown.clone(),
                pressure: node.pressure.clone(),
            },
            config: NodeConfig::default(),
            dns: Dns::default(),
            pod_range: PodRange::new(Some(&cidr)),
            host: Host { ips, runtime_name: "simulated".into() },
            allocatable: node.allocatable(),
            metrics: Arc::default(),
        };
        let (client, clock, rng) = (self.client.clone(), self.clock.clone(), self.rng.clone());
        runtime.set_range(&cidr);
        let (registered, uid) = tokio::sync::oneshot::channel();
        let report = tokio::spawn(async move {
            // The heartbeat has gone if nobody listens.
            let _ = registered.send(node.register().await);
            node.report().await;
        });
        let heartbeat = tokio::spawn(async move {
            if let Ok(uid) = uid.await {
                lease::renew(client, clock, rng, name, uid).await;
            }
        });
        let pods = Pods::new(Arc::new(context));
        pods.manifests(Wanted { pods: Vec::new(), complete: true });
        let events = pods.clone();
        let follow = tokio::spawn(async move { events.follow_runtime().await });
        Running { runtime, pods, _tasks: [report, heartbeat, follow].map(AbortOnDropHandle::new) }
    }
}

impl Facts for Claims {
    fn capacity(&self) -> BTreeMap<String, Quantity> {
        [
            ("cpu", Quantity::new(8)),
            ("memory", Quantity::bytes(32 << 30)),
            ("ephemeral-storage", Quantity::bytes(100 << 30)),
        ]
        .map(|(name, quantity)| (name.to_string(), quantity))
        .into()
    }

    fn info(&self) -> Value {
        json!({
            "machineID": "", "systemUUID": "", "bootID": "", "kernelVersion": "",
            "osImage": "simulated", "operatingSystem": "linux", "architecture": architecture(),
            "containerRuntimeVersion": "", "kubeProxyVersion": "",
        })
    }
}
