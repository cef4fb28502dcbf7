//! The files of pods on the node's disk: volumes, /etc/hosts, termination messages, logs. Whatever
//! a pod writes into its volumes, nothing outside of them may be reached through here.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use async_trait::async_trait;
use proto::cri;

use crate::cri::PodId;
use crate::csi;
use crate::downward::Facts;
use crate::environment::Sources;
use crate::observed::{self, Observed};
use crate::pod::{Container, Pod};

mod atomic;
mod container;
mod empty_dir;
pub mod folders;
mod host_path;
mod machine;
mod mounts;
mod nfs;
mod ownership;
mod payload;
mod persistent;
mod subpath;

pub use machine::Machine;
pub use persistent::Bound;

/// What went wrong with which volume; the sentence is that of the event `FailedMount`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("MountVolume.SetUp failed for volume {volume:?} : {why}")]
    SetUp { volume: String, why: SetUpError },
    #[error("failed to prepare subPath for volumeMount {volume:?} of container {container:?}")]
    SubPath { volume: String, container: String, source: SetUpError },
    #[error(
        "Unable to attach or mount volumes: unmounted volumes=[{volume}], unattached volumes=[], \
         failed to process volumes=[{volume}]: {why}"
    )]
    Claim { volume: String, why: String },
    #[error(
        "MountVolume.NodeAffinity check failed for volume {0:?} : no matching NodeSelectorTerms"
    )]
    NodeAffinity(String),
    #[error("volume {volume} has volumeMode {mode}, but is specified in {field}")]
    Mode { volume: String, mode: &'static str, field: &'static str },
    #[error("volume mount {0:?} names no volume of the pod")]
    NoVolume(String),
    #[error("{stage} failed for volume {volume:?} : {why}")]
    Driver { stage: &'static str, volume: String, why: csi::Error },
    #[error("take the volumes of storage drivers away")]
    Unmount(#[source] csi::Error),
    #[error("{operation} {}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: std::io::Error },
}

#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    #[error("failed to fetch token: {0}")]
    Token(String),
    #[error("{kind} {name:?} not found")]
    Missing { kind: &'static str, name: String },
    #[error("references non-existent {kind} key: {key}")]
    Key { kind: &'static str, key: String },
    #[error("{0:?} is not a path within the volume")]
    Path(String),
    #[error("hostPath type check failed: {path} is not {wanted}")]
    HostPath { path: String, wanted: &'static str },
    #[error("path {0:?} does not exist")]
    NoPath(String),
    #[error("volume uses the ReadWriteOncePod access mode and is already in use by another pod")]
    InUse,
    #[error("Mount options are not supported by the provided plugin")]
    MountOptions,
    #[error("mount option {0:?} is not supported here: leave it out")]
    MountOption(String),
    #[error("{path} is not {wanted}")]
    Device { path: String, wanted: &'static str },
    #[error("this node's kernel cannot mount {0}: it has no such file system")]
    Kernel(String),
    #[error("this node has no huge pages of {0}: set some aside at its start")]
    HugePages(String),
    #[error("the pod asks for huge pages of {0} sizes: name one in the medium, as HugePages-2Mi")]
    PageSizes(usize),
    #[error("look up the address of {0:?}")]
    Address(String),
    #[error("volumes of type {0:?} are not supported by this node")]
    Unsupported(String),
    #[error("{0}")]
    Downward(#[from] crate::downward::Error),
    #[error("the volume cannot be read: {0}")]
    Read(#[from] serde_json::Error),
    #[error("{operation} {}: {why}", path.display())]
    Io { operation: &'static str, path: PathBuf, why: std::io::Error },
}

/// One run of a container, as far as it bears on its mounts.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    pub attempt: u32,
    pub facts: &'a Facts,
    pub environment: &'a BTreeMap<String, String>,
    /// By volume: the images that are there.
    pub images: &'a BTreeMap<String, cri::ImageSpec>,
}

/// What a run of a container is given.
#[derive(Debug, Default)]
pub struct Given {
    pub mounts: Vec<cri::Mount>,
    pub devices: Vec<cri::Device>,
}

/// The port to the disk.
#[async_trait]
pub trait Disk: Send + Sync + 'static {
    /// Makes the pod's folders and volumes; what is there already stays.
    async fn mount(&self, pod: &Pod, facts: &Facts, sources: &Sources) -> Result<(), Error>;
    /// Lets the file system of a driver's volume that the pod has follow the volume.
    async fn grow(&self, _: &Pod, _: &csi::Wanted) -> Result<(), Error> {
        Ok(())
    }
    /// The mounts and devices of one run of a container.
    async fn container(
        &self,
        pod: &Pod,
        container: &Container,
        run: Run<'_>,
    ) -> Result<Given, Error>;
    /// Fills in the termination messages of containers that have ended.
    async fn messages(&self, pod: &Pod, observed: &mut Observed);
    /// The attached volumes that pods of this node have, as a Node's status calls them.
    async fn in_use(&self) -> BTreeSet<String> {
        BTreeSet::new()
    }
    /// Takes the volumes down.
    async fn unmount(&self, pod: &PodId) -> Result<(), Error>;
    /// A run has been removed: its log and message, too.
    async fn forget(&self, pod: &PodId, run: &observed::Container);
    /// The pods of which there are files, with empty names where only the uid is known.
    async fn pods(&self) -> Vec<PodId>;
    /// Nothing of the pod stays.
    async fn remove(&self, pod: &PodId) -> Result<(), Error>;
}

/// For pods without containers: nothing is written anywhere.
pub struct NoDisk;

#[async_trait]
impl Disk for NoDisk {
    async fn mount(&self, _: &Pod, _: &Facts, _: &Sources) -> Result<(), Error> {
        Ok(())
    }

    async fn container(&self, _: &Pod, _: &Container, _: Run<'_>) -> Result<Given, Error> {
        Ok(Given::default())
    }

    async fn messages(&self, _: &Pod, _: &mut Observed) {}

    async fn unmount(&self, _: &PodId) -> Result<(), Error> {
        Ok(())
    }

    async fn forget(&self, _: &PodId, _: &observed::Container) {}

    async fn pods(&self) -> Vec<PodId> {
        Vec::new()
    }

    async fn remove(&self, _: &PodId) -> Result<(), Error> {
        Ok(())
    }
}
