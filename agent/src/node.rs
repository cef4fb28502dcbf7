//! The node's own objects: its Node, registered and kept true, and its Lease, renewed by a task
//! that nothing else can delay (Kubernetes: Nodes, Leases).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Client, Clock, Patch, Rng};
use proto::meta::Labels;
use proto::quantity::Quantity;
use proto::time::Time;
use proto::view;
use serde_json::{Value, json};

use crate::cri::{Handler, Info, Runtime};
use crate::events::{Events, NORMAL, WARNING};
use crate::shutdown::Shutdown;

pub mod facts;
pub mod lease;

pub use facts::Facts;

/// The version of the kubelet's API that this agent has.
pub const VERSION: &str = "v1.36.0";

/// What is registered.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    pub name: String,
    /// The primary first.
    pub ips: Vec<String>,
    pub labels: Labels,
    /// Empty: none.
    pub pod_cidr: String,
    pub port: u16,
    pub max_pods: i64,
    pub thresholds: facts::Thresholds,
}

/// Keeps the Node object of one node.
pub struct Node {
    pub client: Client,
    pub clock: Clock,
    pub rng: Rng,
    pub events: Events,
    pub runtime: Arc<dyn Runtime>,
    pub identity: Identity,
    pub facts: Arc<dyn Facts>,
    pub shutdown: Shutdown,
}

/// What pods may only ask of nodes that say they can do it (Kubernetes: Node Declared Features); in
/// the order of the alphabet, as the API wants it.
const FEATURES: &[&str] =
    &["InPlacePodLevelResourcesVerticalScaling", "RestartAllContainersOnContainerExits"];
/// How often the state is looked at, and reported although it is the same.
const LOOK: Duration = Duration::from_secs(10);
const REPORT: Duration = Duration::from_secs(300);
/// How soon again while the node is not ready; it doubles.
const EAGER: Duration = Duration::from_millis(50);
/// How long to wait after the API server did not take a report.
const RETRY: Duration = Duration::from_secs(1);
/// A runtime that is being restarted makes no node unready (kubelet: 30 s).
const PATIENCE: Duration = Duration::from_secs(30);

impl Node {
    /// Registers the node and returns its uid. Tries until it succeeds.
    pub async fn register(&self) -> String {
        let mut delay = Duration::from_millis(100);
        loop {
            match self.try_register().await {
                Ok(uid) => return uid,
                Err(error) => {
                    tracing::warn!(node = %self.identity.name, %error, "cannot register the node");
                    self.clock.sleep(delay).await;
                    delay = (delay * 2).min(Duration::from_secs(7));
                }
            }
        }
    }

    async fn try_register(&self) -> Result<String, client::Error> {
        let name = &self.identity.name;
        let info = self.runtime.info().await.ok();
        let status = self.status(info.as_ref(), &BTreeMap::new(), self.clock.now());
        let node = self.object(status);
        match self.client.create::<view::node::Node>("", &node).await {
            Ok(entry) => Ok(entry.view.metadata.uid),
            Err(error) if error.is_already_exists() => {
                let mut changes = json!({"metadata": {"labels": node["metadata"]["labels"]}});
                let known = self.client.get::<view::node::Node>("", name).await?;
                if known.view.spec.pod_cidr.is_empty() && !self.identity.pod_cidr.is_empty() {
                    changes["spec"] = node["spec"].clone();
                }
                let changes = Patch::Strategic(changes);
                let entry = self.client.patch::<view::node::Node>("", name, "", &changes).await?;
                Ok(entry.view.metadata.uid)
            }
            Err(error) => Err(error),
        }
    }

    /// Reports the node's state for ever: when it changes, and every five minutes.
    pub async fn report(&self) {
        let name = &self.identity.name;
        let mut since: BTreeMap<&'static str, (bool, Time)> = BTreeMap::new();
        let mut reported: Option<(Vec<(&'static str, bool)>, Time)> = None;
        let mut known: Option<(Info, Time)> = None;
        let mut eager = EAGER;
        self.events.node(name, NORMAL, "Starting", "Starting kubelet.");
        loop {
            let now = self.clock.now();
            match self.runtime.info().await {
                Ok(info) => known = Some((info, now)),
                Err(_) => known = known.filter(|(_, at)| now.since(*at) < PATIENCE),
            }
            let info = known.as_ref().map(|(info, _)| info);
            let mut pause = LOOK;
            let states = self.states(info);
            if states.contains(&("Ready", true)) {
                eager = EAGER;
            } else {
                pause = eager;
                eager = (eager * 2).min(LOOK);
            }
            let due = reported
                .as_ref()
                .is_none_or(|(before, at)| *before != states || now.since(*at) >= REPORT);
            if due {
                let status = self.status(info, &since, now);
                let changes = Patch::Strategic(json!({ "status": status }));
                match self.client.patch::<view::node::Node>("", name, "status", &changes).await {
                    Ok(_) => {
                        self.tell(&states, reported.as_ref().map(|(before, _)| before.as_slice()));
                        for (kind, yes) in &states {
                            match since.get(kind) {
                                Some((before, _)) if before == yes => {}
                                _ => drop(since.insert(kind, (*yes, now))),
                            }
                        }
                        reported = Some((states, now));
                    }
                    Err(error) if error.is_not_found() => {
                        self.register().await;
                        reported = None;
                    }
                    Err(error) => {
                        tracing::warn!(node = %name, %error, "cannot report the node's status");
                        pause = RETRY;
                    }
                }
            }
            tokio::select! {
                () = self.clock.sleep(pause) => {}
                () = self.shutdown.changed() => {}
            }
        }
    }

    fn tell(&self, states: &[(&'static str, bool)], before: Option<&[(&'static str, bool)]>) {
        let name = &self.identity.name;
        for (kind, yes) in states {
            let known = before.and_then(|all| all.iter().find(|(known, _)| known == kind));
            if known.is_some_and(|(_, before)| before == yes) {
                continue;
            }
            let (reason, _) = words(kind, *yes);
            let event = match (*kind, yes) {
                ("Ready", true) => "NodeReady",
                ("Ready", false) => "NodeNotReady",
                _ => &reason.replace("Kubelet", "Node"),
            };
            let bad = *yes != (*kind == "Ready");
            let severity = if bad && *kind != "Ready" { WARNING } else { NORMAL };
            let message = format!("Node {name} status is now: {event}");
            self.events.node(name, severity, event, &message);
        }
    }

    /// Each condition and whether it holds.
    fn states(&self, info: Option<&Info>) -> Vec<(&'static str, bool)> {
        let pressure = self.facts.pressure(&self.identity.thresholds);
        vec![
            ("MemoryPressure", pressure.memory),
            ("DiskPressure", pressure.disk),
            ("PIDPressure", pressure.pids),
            (
                "Ready",
                !self.shutdown.is_near() && info.is_some_and(|info| info.not_ready.is_none()),
            ),
        ]
    }

    /// The labels with which it is registered.
    pub fn labels(&self) -> Labels {
        let Identity { name, labels, .. } = &self.identity;
        let arch = facts::architecture();
        let mut all: Labels = [
            ("beta.kubernetes.io/arch", arch),
            ("beta.kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", arch),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/hostname", name.as_str()),
        ]
        .map(|(key, value)| (key.to_string(), value.to_string()))
        .into();
        all.extend(labels.clone());
        all
    }

    fn object(&self, status: Value) -> Value {
        let Identity { name, pod_cidr, .. } = &self.identity;
        let all = self.labels();
        let spec = match pod_cidr.as_str() {
            "" => json!({}),
            cidr => json!({"podCIDR": cidr, "podCIDRs": [cidr]}),
        };
        let annotations = json!({"volumes.kubernetes.io/controller-managed-attach-detach": "true"});
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": all, "annotations": annotations},
            "spec": spec,
            "status": status,
        })
    }

    fn status(
        &self,
        info: Option<&Info>,
        since: &BTreeMap<&'static str, (bool, Time)>,
        now: Time,
    ) -> Value {
        let Identity { name, ips, port, .. } = &self.identity;
        let mut addresses: Vec<Value> =
            ips.iter().map(|ip| json!({"type": "InternalIP", "address": ip})).collect();
        addresses.push(json!({"type": "Hostname", "address": name}));
        let conditions: Vec<Value> = self
            .states(info)
            .into_iter()
            .map(|(kind, yes)| {
                let (reason, mut message) = words(kind, yes);
                let why = info.and_then(|info| info.not_ready.clone());
                if kind == "Ready" && self.shutdown.is_near() {
                    message = "node is shutting down".into();
                } else if kind == "Ready" && !yes {
                    let gone = "container runtime is down".to_string();
                    message = why.map_or(gone, |why| format!("container runtime: {why}"));
                }
                let transition = match since.get(kind) {
                    Some((before, at)) if *before == yes => *at,
                    _ => now,
                };
                json!({
                    "type": kind,
                    "status": if yes { "True" } else { "False" },
                    "reason": reason,
                    "message": message,
                    "lastHeartbeatTime": now,
                    "lastTransitionTime": transition,
                })
            })
            .collect();
        let mut node_info = self.facts.info();
        if let Some(info) = info {
            let runtime = format!("{}://{}", info.name, info.version);
            node_info["containerRuntimeVersion"] = runtime.into();
        }
        node_info["kubeletVersion"] = VERSION.into();
        let mut status = json!({
            "addresses": addresses,
            "allocatable": self.allocatable(),
            "capacity": self.capacity(),
            "conditions": conditions,
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
            "declaredFeatures": FEATURES,
            "nodeInfo": node_info,
        });
        if let Some(info) = info.filter(|info| !info.handlers.is_empty()) {
            status["runtimeHandlers"] = info.handlers.iter().map(handler).collect();
            let policy = info.supplemental_groups_policy;
            status["features"] = json!({"supplementalGroupsPolicy": policy});
        }
        status
    }

    fn capacity(&self) -> BTreeMap<String, Quantity> {
        let mut capacity = self.facts.capacity();
        capacity.insert("pods".into(), Quantity::new(self.identity.max_pods));
        capacity
    }

    /// What pods may use: the capacity without what must stay free.
    pub fn allocatable(&self) -> BTreeMap<String, Quantity> {
        let mut allocatable = self.capacity();
        let kept = &self.identity.thresholds;
        let kept = [("memory", kept.memory), ("ephemeral-storage", kept.disk)];
        for (name, threshold) in kept {
            if let Some(amount) = allocatable.get_mut(name) {
                let whole = amount.value();
                *amount = Quantity::bytes((whole - threshold.of(whole)).max(0));
            }
        }
        allocatable
    }
}

fn handler(handler: &Handler) -> Value {
    json!({
        "name": handler.name,
        "features": {
            "recursiveReadOnlyMounts": handler.recursive_read_only_mounts,
            "userNamespaces": handler.user_namespaces,
        },
    })
}

/// Reason and message of a condition, in the kubelet's words.
fn words(kind: &str, yes: bool) -> (&'static str, String) {
    let (reason, message) = match (kind, yes) {
        ("MemoryPressure", false) => {
            ("KubeletHasSufficientMemory", "kubelet has sufficient memory available")
        }
        ("MemoryPressure", true) => {
            ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available")
        }
        ("DiskPressure", false) => ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
        ("DiskPressure", true) => ("KubeletHasDiskPressure", "kubelet has disk pressure"),
        ("PIDPressure", false) => {
            ("KubeletHasSufficientPID", "kubelet has sufficient PID available")
        }
        ("PIDPressure", true) => {
            ("KubeletHasInsufficientPID", "kubelet has insufficient PID available")
        }
        (_, true) => ("KubeletReady", "kubelet is posting ready status"),
        (_, false) => ("KubeletNotReady", ""),
    };
    (reason, message.to_string())
}
