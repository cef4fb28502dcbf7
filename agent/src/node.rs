//! The node's own objects: its Node, registered and kept true, and its Lease, renewed by a task
//! that nothing else can delay (Kubernetes: Nodes, Leases).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Client, Clock, Patch, Rng};
use proto::cri::Image;
use proto::meta::Labels;
use proto::quantity::Quantity;
use proto::time::Time;
use proto::view;
use proto::view::node::Taint;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::cri::{Info, Runtime};
use crate::devices::{Devices, is_extended_resource};
use crate::events::{Events, NORMAL, WARNING};
use crate::eviction::{Limits, Pressure};
use crate::shutdown::Shutdown;

pub mod facts;
pub mod lease;
pub mod pod_range;
pub mod reserved;
mod status;

pub use facts::Facts;

use reserved::Reserved;
use status::{Seen, Since, words};

/// The version of the kubelet's API that this agent has.
pub const VERSION: &str = "v1.36.0";

/// What is registered.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    pub name: String,
    /// The primary first.
    pub ips: Vec<String>,
    pub labels: Labels,
    pub taints: Vec<Taint>,
    /// Empty: none.
    pub pod_cidr: String,
    pub port: u16,
    pub max_pods: i64,
    pub thresholds: Limits,
    pub kube_reserved: Reserved,
    pub system_reserved: Reserved,
    /// How many images the status names; all where absent.
    pub most_images: Option<usize>,
    /// Somebody else makes the Node.
    pub awaits_registration: bool,
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
    pub devices: Devices,
    pub shutdown: Shutdown,
    pub pressure: Pressure,
    /// The runtime was told something: it may be ready now.
    pub told: Arc<Notify>,
}

/// What pods may only ask of nodes that say they can do it (Kubernetes: Node Declared Features); in
/// the order of the alphabet, as the API wants it.
const FEATURES: &[&str] =
    &["InPlacePodLevelResourcesVerticalScaling", "RestartAllContainersOnContainerExits"];
/// How often the state is looked at, and reported although it is the same.
const LOOK: Duration = Duration::from_secs(10);
const REPORT: Duration = Duration::from_secs(300);
/// How often the runtime is asked for its images.
const IMAGES: Duration = Duration::from_secs(60);
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
        if self.identity.awaits_registration {
            let known = self.client.get::<view::node::Node>("", name).await?;
            return Ok(known.view.metadata.uid);
        }
        let runtime = self.runtime.info().await.ok();
        let images = self.images().await.unwrap_or_default();
        let seen = self.seen(runtime, images);
        let status = status::status(&self.identity, &seen, &Since::new(), self.clock.now());
        let node = status::object(&self.identity, status);
        match self.client.create::<view::node::Node>("", &node).await {
            Ok(entry) => Ok(entry.view.metadata.uid),
            Err(error) if error.is_already_exists() => {
                let mut changes = json!({"metadata": {"labels": node["metadata"]["labels"]}});
                let known = self.client.get::<view::node::Node>("", name).await?;
                if known.view.spec.pod_cidr.is_empty() && !self.identity.pod_cidr.is_empty() {
                    changes["spec"] = json!({
                        "podCIDR": node["spec"]["podCIDR"],
                        "podCIDRs": node["spec"]["podCIDRs"],
                    });
                }
                let changes = Patch::Strategic(changes);
                let entry = self.client.patch::<view::node::Node>("", name, "", &changes).await?;
                self.forget_devices(&known.view).await?;
                Ok(entry.view.metadata.uid)
            }
            Err(error) => Err(error),
        }
    }

    /// A node that has lost its memory has no devices until plugins say so, whatever its object says.
    async fn forget_devices(&self, known: &view::node::Node) -> Result<(), client::Error> {
        let status = &known.status;
        let all = status.capacity.keys().chain(status.allocatable.keys());
        let none: serde_json::Map<String, Value> = all
            .filter(|name| is_extended_resource(name) && !self.devices.knows(name))
            .map(|name| (name.clone(), "0".into()))
            .collect();
        if none.is_empty() || !self.devices.is_new() {
            return Ok(());
        }
        let changes = Patch::Merge(json!({"status": {"capacity": none, "allocatable": none}}));
        let name = &self.identity.name;
        self.client.patch::<view::node::Node>("", name, "status", &changes).await.map(drop)
    }

    /// Reports the node's state for ever: when it changes, and every five minutes.
    pub async fn report(&self) {
        let name = &self.identity.name;
        let mut since = Since::new();
        let mut reported: Option<Reported> = None;
        let mut known: Option<(Info, Time)> = None;
        let mut images: Option<(Vec<Image>, Time)> = None;
        let mut eager = EAGER;
        let mut pressures = self.pressure.changes();
        let mut devices = self.devices.changes();
        self.events.node(name, NORMAL, "Starting", "Starting kubelet.");
        loop {
            let now = self.clock.now();
            match self.runtime.info().await {
                Ok(info) => known = Some((info, now)),
                Err(_) => known = known.filter(|(_, at)| now.since(*at) < PATIENCE),
            }
            if images.as_ref().is_none_or(|(_, at)| now.since(*at) >= IMAGES)
                && let Some(found) = self.images().await
            {
                images = Some((found, now));
            }
            let named = images.as_ref().map(|(images, _)| images.clone()).unwrap_or_default();
            let seen = self.seen(known.as_ref().map(|(info, _)| info.clone()), named);
            let states = seen.states();
            let mut pause = LOOK;
            if states.contains(&("Ready", true)) {
                eager = EAGER;
            } else {
                pause = eager;
                eager = (eager * 2).min(LOOK);
            }
            let status = status::status(&self.identity, &seen, &since, now);
            let unbeaten = status::unbeaten(&status);
            let due = reported
                .as_ref()
                .is_none_or(|it| it.unbeaten != unbeaten || now.since(it.at) >= REPORT);
            if due {
                let changes = Patch::Strategic(json!({ "status": status }));
                match self.client.patch::<view::node::Node>("", name, "status", &changes).await {
                    Ok(_) => {
                        self.tell(&states, reported.as_ref().map(|it| it.states.as_slice()));
                        for (kind, yes) in &states {
                            match since.get(kind) {
                                Some((before, _)) if before == yes => {}
                                _ => drop(since.insert(kind, (*yes, now))),
                            }
                        }
                        reported = Some(Reported { states, unbeaten, at: now });
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
                _ = pressures.changed() => {}
                _ = devices.changed() => {}
                () = self.told.notified() => eager = EAGER,
            }
        }
    }

    fn seen(&self, runtime: Option<Info>, images: Vec<Image>) -> Seen {
        Seen {
            capacity: self.facts.capacity(),
            devices: self.devices.amounts(self.clock.now()),
            machine: self.facts.info(),
            pressure: self.pressure.now(),
            runtime,
            images,
            shutting_down: self.shutdown.is_near(),
        }
    }

    async fn images(&self) -> Option<Vec<Image>> {
        if self.identity.most_images == Some(0) {
            return Some(Vec::new());
        }
        self.runtime.images().await.ok()
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

    /// The labels with which it is registered.
    pub fn labels(&self) -> Labels {
        status::labels(&self.identity)
    }

    /// What pods may use.
    pub fn allocatable(&self) -> BTreeMap<String, Quantity> {
        status::allocatable_of(&self.identity, &self.facts.capacity())
    }
}

/// What the API server took last.
struct Reported {
    states: Vec<(&'static str, bool)>,
    unbeaten: Value,
    at: Time,
}
