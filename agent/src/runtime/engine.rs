//! The runtime proper: sandboxes and containers by id, and what they share. The service calls it;
//! what one call does is in `sandbox`, `container`, `exec` and `recover`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use client::{Clock, Rng};
use parking_lot::{Mutex, RwLock};
use proto::cri;
use tokio::sync::{broadcast, watch};

use super::cgroup::{CgroupError, Cgroups};
use super::handlers::Handlers;
use super::images::{ImageError, ImageStore, PullError, Puller};
use super::program::Names;
use super::state::{ContainerRecord, Root, SandboxRecord, StateError};
use super::streaming::Streams;
use super::supervisor::{Process, Supervisor, SupervisorError};
use super::sys::LaunchError;
use crate::net::bandwidth::BandwidthError;
use crate::net::pod::{NetError, NetworkConfig, PodNetwork};
use crate::stats::disk::Walks;

/// The runtime. Cheap to clone.
#[derive(Clone)]
pub struct Engine(Arc<Inner>);

pub struct Inner {
    pub root: Root,
    pub images: ImageStore,
    pub puller: Puller,
    /// Names of images that garbage collection must leave alone.
    pub pinned_images: Vec<String>,
    pub cgroups: Cgroups,
    /// The executable that supervisors run.
    pub supervisor: std::os::fd::OwnedFd,
    pub handlers: Handlers,
    /// The group below which pods are that bring no parent of their own; begins with `/`.
    pub cgroup_parent: String,
    pub bridge: String,
    pub mtu: u32,
    pub clock: Clock,
    pub rng: Rng,
    pub network: RwLock<Option<(String, PodNetwork)>>,
    pub sandboxes: RwLock<BTreeMap<String, Arc<Sandbox>>>,
    pub containers: RwLock<BTreeMap<String, Arc<Container>>>,
    pub events: broadcast::Sender<cri::ContainerEventResponse>,
    pub streams: Streams,
    /// What writable layers take.
    pub walks: Walks,
    /// Held as long as the runtime lives.
    pub _lock: File,
}

/// A pod sandbox.
pub struct Sandbox {
    pub id: String,
    pub record: Mutex<SandboxRecord>,
    pub supervisor: Mutex<Option<Supervisor>>,
    /// The supervisor's, to wait for its end with.
    pub process: Mutex<Option<std::os::fd::OwnedFd>>,
    /// Held by whoever changes the sandbox.
    pub busy: tokio::sync::Mutex<()>,
}

/// A container of a sandbox.
pub struct Container {
    pub id: String,
    pub record: Mutex<ContainerRecord>,
    pub process: Mutex<Option<Process>>,
    /// Of the program, until it runs.
    pub names: Mutex<Names>,
    /// True once the runtime has killed it: then the kernel did not, whatever it did before.
    pub killed: AtomicBool,
    /// True once it has exited and everything about that is written down.
    pub settled: watch::Sender<bool>,
    pub busy: tokio::sync::Mutex<()>,
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what} \"{id}\" not found")]
    NotFound { what: &'static str, id: String },
    #[error("{0}")]
    Invalid(String),
    #[error("{0}")]
    AlreadyExists(String),
    #[error("{0}")]
    NotRunning(String),
    #[error("command {command:?} timed out")]
    Timeout { command: Vec<String> },
    #[error("{0}")]
    Start(String),
    #[error("the pod network is not configured: no pod CIDR was given yet")]
    NoNetwork,
    #[error("{step}")]
    Step {
        step: String,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error("set up the pod's network")]
    Network(#[from] NetError),
    #[error(transparent)]
    Bandwidth(#[from] BandwidthError),
    #[error("start the pod's supervisor")]
    Launch(#[from] LaunchError),
    #[error(transparent)]
    Supervisor(#[from] SupervisorError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Pull(#[from] PullError),
}

impl std::ops::Deref for Engine {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}

impl Engine {
    pub fn new(inner: Inner) -> Engine {
        Engine(Arc::new(inner))
    }

    /// Nanoseconds since 1970.
    pub fn now(&self) -> i64 {
        self.clock.now().0.as_nanosecond() as i64
    }

    /// 64 hexadecimal digits.
    pub fn new_id(&self) -> String {
        let mut bytes = [0; 32];
        self.rng.fill(&mut bytes);
        hex::encode(bytes)
    }

    /// By id, or by the beginning of one that no other shares.
    pub fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>, Error> {
        find(&self.sandboxes.read(), id)
            .ok_or_else(|| Error::NotFound { what: "pod sandbox", id: id.to_owned() })
    }

    /// By id, or by the beginning of one that no other shares.
    pub fn container(&self, id: &str) -> Result<Arc<Container>, Error> {
        find(&self.containers.read(), id)
            .ok_or_else(|| Error::NotFound { what: "container", id: id.to_owned() })
    }

    pub fn containers_of(&self, sandbox: &str) -> Vec<Arc<Container>> {
        let containers = self.containers.read();
        containers
            .values()
            .filter(|container| container.record.lock().sandbox == sandbox)
            .cloned()
            .collect()
    }

    /// Gives the node's pods their range. Said again it changes nothing; a new range is for new pods.
    pub async fn set_pod_cidr(&self, cidr: &str) -> Result<(), Error> {
        if self.network.read().as_ref().is_some_and(|(known, _)| known == cidr) {
            return Ok(());
        }
        let pod_cidr =
            cidr.parse().map_err(|error| Error::Invalid(format!("pod CIDR: {error}")))?;
        let config = NetworkConfig {
            bridge: self.bridge.clone(),
            pod_cidr,
            state_dir: self.root.file("network"),
            mtu: self.mtu,
        };
        let network = PodNetwork::open(config).await?;
        super::state::replace(&self.root.file("pod-cidr"), cidr.as_bytes())?;
        *self.network.write() = Some((cidr.to_owned(), network));
        Ok(())
    }

    pub fn pod_network(&self) -> Result<PodNetwork, Error> {
        self.network.read().as_ref().map(|(_, network)| network.clone()).ok_or(Error::NoNetwork)
    }
}

/// Runs what blocks on the kernel or the disk where that is allowed.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("blocking work does not panic")
}

fn find<T>(map: &BTreeMap<String, Arc<T>>, id: &str) -> Option<Arc<T>> {
    if id.is_empty() {
        return None;
    }
    let mut matching = map.range(id.to_owned()..).take_while(|(key, _)| key.starts_with(id));
    let first = matching.next()?;
    (first.0 == id || matching.next().is_none()).then(|| first.1.clone())
}
