//! The node's devices: what plugins offer, which container has what, and what it needs to have it
//! (Kubernetes: Device Plugins). What is given is on the disk before its container is made: whoever
//! restarts the agent finds it there, and nothing is given twice.
//! <https://kubernetes.io/docs/concepts/extend-kubernetes/compute-storage-net/device-plugins/>

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::error::chain;
use parking_lot::Mutex;
use proto::device_plugin::{ContainerAllocateResponse, Device, DevicePluginOptions};
use proto::time::Time;
use serde::Serialize;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

mod allocate;
mod checkpoint;
mod choose;
mod given;
mod name;
mod register;

pub use allocate::Error;
pub use given::Given;
pub use name::is_extended_resource;
pub use register::Registrar;

use checkpoint::Kept;

/// How long a resource whose plugin has ended is still counted as the node's (kubelet: 5 min); none of
/// it can be had meanwhile.
const GRACE: Duration = Duration::from_secs(300);

/// The devices of one node. Clones share them. The default has none, and no place to remember any.
#[derive(Clone, Default)]
pub struct Devices(Arc<Shared>);

#[derive(Default)]
struct Shared {
    /// `<root>/device-plugins`.
    folder: Option<PathBuf>,
    /// There was no checkpoint: this node has never had any devices, or has forgotten them.
    is_new: bool,
    state: Mutex<State>,
    /// One pod at a time, as for the kubelet: what is free for it stays free until it has it.
    turn: tokio::sync::Mutex<()>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    resources: BTreeMap<String, Resource>,
    held: BTreeMap<Owner, Allotment>,
    /// Counts the plugins, so that one that has been replaced is not taken for its successor.
    plugins: u64,
}

/// What plugins have ever offered under one name.
#[derive(Default)]
struct Resource {
    plugin: Option<Plugin>,
    options: DevicePluginOptions,
    devices: BTreeMap<String, Known>,
    /// When its plugin ended.
    ended: Option<Time>,
}

struct Plugin {
    number: u64,
    socket: PathBuf,
    /// Listens to it.
    _task: AbortOnDropHandle<()>,
}

/// A device, as its plugin said last.
#[derive(Clone, Debug, PartialEq)]
struct Known {
    healthy: bool,
    /// The NUMA nodes to which it is near.
    nodes: Vec<i64>,
}

/// Who has devices.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Owner {
    /// Its uid.
    pub pod: String,
    pub container: String,
    pub resource: String,
}

/// Which devices, by NUMA node (-1: of none), and what the plugin said when it gave them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Allotment {
    pub devices: BTreeMap<i64, Vec<String>>,
    pub answer: ContainerAllocateResponse,
}

/// One device of a resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Item {
    pub resource: String,
    pub id: String,
    pub nodes: Vec<i64>,
}

/// How a device is, as a pod's status says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeviceHealth {
    #[serde(rename = "resourceID")]
    pub id: String,
    /// `Healthy`, `Unhealthy` or `Unknown`.
    pub health: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl Allotment {
    fn ids(&self) -> BTreeSet<String> {
        self.devices.values().flatten().cloned().collect()
    }
}

impl Devices {
    /// With what is in `folder`, `<root>/device-plugins`, of an earlier life. A file that cannot be read
    /// counts for none, as for the kubelet.
    pub fn open(folder: &Path) -> Devices {
        let read = checkpoint::read(&folder.join(checkpoint::FILE));
        let is_new = matches!(read, Ok(None));
        let kept = read.unwrap_or_else(|error| {
            let error = chain(&error);
            tracing::error!(error, "cannot read which containers have which devices");
            None
        });
        let Kept { held, healthy } = kept.unwrap_or_default();
        // None of them is there until its plugin says so.
        let resources = healthy.into_keys().map(|name| (name, Resource::default())).collect();
        let state = Mutex::new(State { resources, held, plugins: 0 });
        let folder = Some(folder.to_path_buf());
        Devices(Arc::new(Shared { folder, is_new, state, ..Shared::default() }))
    }

    /// There is no record of an earlier life of this node.
    pub fn is_new(&self) -> bool {
        self.0.is_new
    }

    /// Does, or did, any plugin offer this resource?
    pub fn knows(&self, resource: &str) -> bool {
        self.0.state.lock().resources.contains_key(resource)
    }

    /// Marked whenever there are other devices, or others are well.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// By resource: how many there are, and how many of them can be had.
    pub fn amounts(&self, now: Time) -> BTreeMap<String, (i64, i64)> {
        let state = self.0.state.lock();
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let amounts = state.resources.iter().map(|(name, resource)| {
            let gone = resource.ended.is_some_and(|ended| now.since(ended) >= GRACE);
            let all = if gone { 0 } else { resource.devices.len() };
            (name.clone(), (count(all), count(resource.healthy().count())))
        });
        amounts.collect()
    }

    /// The uids of the pods that have devices.
    pub fn holders(&self) -> BTreeSet<String> {
        self.0.state.lock().held.keys().map(|owner| owner.pod.clone()).collect()
    }

    /// By container of the pod and resource: how its devices are.
    pub fn health(&self, pod: &str) -> BTreeMap<String, BTreeMap<String, Vec<DeviceHealth>>> {
        let state = self.0.state.lock();
        let mut health: BTreeMap<String, BTreeMap<_, _>> = BTreeMap::new();
        for (owner, allotment) in state.of_pod(pod) {
            let resource = state.resources.get(&owner.resource);
            let one = |id: String| {
                let health = resource.map_or("Unknown", |resource| resource.health(&id));
                DeviceHealth { id, health, message: None }
            };
            let devices = allotment.ids().into_iter().map(one).collect();
            health
                .entry(owner.container.clone())
                .or_default()
                .insert(owner.resource.clone(), devices);
        }
        health
    }

    /// What a container has.
    pub fn held(&self, pod: &str, container: &str) -> Vec<Item> {
        let state = self.0.state.lock();
        let of = |(owner, allotment): (&Owner, &Allotment)| {
            let resource = owner.resource.clone();
            let known = state.resources.get(&resource);
            let nodes = |id: &String| {
                let known = known.and_then(|resource| resource.devices.get(id));
                known.map(|device| device.nodes.clone()).unwrap_or_else(|| allotment.near(id))
            };
            let items = allotment.ids().into_iter();
            items
                .map(|id| Item { resource: resource.clone(), nodes: nodes(&id), id })
                .collect::<Vec<_>>()
        };
        state.of_pod(pod).filter(|(owner, _)| owner.container == container).flat_map(of).collect()
    }

    /// What can be had, by whoever.
    pub fn allocatable(&self) -> Vec<Item> {
        let state = self.0.state.lock();
        let of = |(name, resource): (&String, &Resource)| {
            let items = resource.devices.iter().filter(|(_, device)| device.healthy);
            let item = |(id, device): (&String, &Known)| Item {
                resource: name.clone(),
                id: id.clone(),
                nodes: device.nodes.clone(),
            };
            items.map(item).collect::<Vec<_>>()
        };
        state.resources.iter().flat_map(of).collect()
    }

    /// The pod needs its devices no longer.
    pub fn release(&self, pod: &str) {
        self.retain(|uid| uid != pod);
    }

    /// Only these pods are there.
    pub fn retain(&self, is_there: impl Fn(&str) -> bool) {
        let mut state = self.0.state.lock();
        let before = state.held.len();
        state.held.retain(|owner, _| is_there(&owner.pod));
        if state.held.len() != before
            && let Err(error) = self.save(&state)
        {
            // They are free all the same; after a restart the node forgets them anew.
            tracing::warn!(error = chain(&error), "cannot write that devices are free");
        }
    }

    fn save(&self, state: &State) -> Result<(), checkpoint::Error> {
        let Some(folder) = &self.0.folder else { return Ok(()) };
        let healthy = state.resources.iter();
        let healthy =
            healthy.map(|(name, resource)| (name.clone(), resource.healthy().cloned().collect()));
        let kept = Kept { held: state.held.clone(), healthy: healthy.collect() };
        checkpoint::write(&folder.join(checkpoint::FILE), &kept)
    }

    /// A plugin's list.
    fn update(&self, resource: &str, plugin: u64, list: Vec<Device>) {
        let mut state = self.0.state.lock();
        let Some(known) = state.current(resource, plugin) else { return };
        let devices: BTreeMap<String, Known> = list.into_iter().map(Known::of).collect();
        if known.devices == devices && known.ended.is_none() {
            return;
        }
        (known.devices, known.ended) = (devices, None);
        if let Err(error) = self.save(&state) {
            tracing::warn!(error = chain(&error), resource, "cannot write which devices there are");
        }
        self.0.changed.send_replace(());
    }

    /// A plugin has ended: none of its devices can be had.
    fn end(&self, resource: &str, plugin: u64, now: Time) {
        let mut state = self.0.state.lock();
        let Some(known) = state.current(resource, plugin) else { return };
        known.ended = Some(now);
        known.devices.values_mut().for_each(|device| device.healthy = false);
        // With it goes the task that may be the one to say so: this is the last that it does.
        let ended = known.plugin.take();
        self.0.changed.send_replace(());
        drop(state);
        drop(ended);
    }
}

impl State {
    fn of_pod<'a>(&'a self, pod: &'a str) -> impl Iterator<Item = (&'a Owner, &'a Allotment)> {
        let first = Owner { pod: pod.to_string(), ..Owner::default() };
        self.held.range(first..).take_while(move |(owner, _)| owner.pod == pod)
    }

    /// The resource, if it is this plugin's still.
    fn current(&mut self, resource: &str, plugin: u64) -> Option<&mut Resource> {
        let known = self.resources.get_mut(resource)?;
        let current = known.plugin.as_ref().is_some_and(|it| it.number == plugin);
        current.then_some(known)
    }
}

impl Resource {
    fn healthy(&self) -> impl Iterator<Item = &String> {
        self.devices.iter().filter(|(_, device)| device.healthy).map(|(id, _)| id)
    }

    fn health(&self, id: &str) -> &'static str {
        match (&self.plugin, self.devices.get(id)) {
            (None, _) | (_, None) => "Unknown",
            (_, Some(device)) if device.healthy => "Healthy",
            _ => "Unhealthy",
        }
    }
}

impl Known {
    fn of(device: Device) -> (String, Known) {
        let nodes = device.topology.into_iter().flat_map(|topology| topology.nodes);
        let known =
            Known { healthy: device.health == "Healthy", nodes: nodes.map(|it| it.id).collect() };
        (device.id, known)
    }
}

impl Allotment {
    /// The nodes of one of its devices.
    fn near(&self, id: &String) -> Vec<i64> {
        let all = self.devices.iter().filter(|(node, ids)| **node >= 0 && ids.contains(id));
        all.map(|(node, _)| *node).collect()
    }
}
