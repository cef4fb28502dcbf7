//! The files of pods on the node's disk: volumes, /etc/hosts, termination messages, logs. Whatever
//! a pod writes into its volumes, nothing outside of them may be reached through here.

use std::collections::BTreeMap;
use std::path::PathBuf;

use async_trait::async_trait;
use proto::cri;

use crate::cri::PodId;
use crate::downward::Facts;
use crate::environment::Sources;
use crate::observed::{Container as Run, Observed};
use crate::pod::{Container, Pod};

mod atomic;
mod container;
mod machine;
mod mounts;
mod payload;
mod subpath;

pub use machine::Machine;

/// What went wrong with which volume; the sentence is that of the event `FailedMount`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("MountVolume.SetUp failed for volume {volume:?} : {why}")]
    SetUp { volume: String, why: SetUpError },
    #[error("failed to prepare subPath for volumeMount {volume:?} of container {container:?}")]
    SubPath { volume: String, container: String, source: SetUpError },
    #[error("volume mount {0:?} names no volume of the pod")]
    NoVolume(String),
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
    #[error("volumes of type {0:?} are not supported by this node")]
    Unsupported(String),
    #[error("{0}")]
    Downward(#[from] crate::downward::Error),
    #[error("the volume cannot be read: {0}")]
    Read(#[from] serde_json::Error),
    #[error("{operation} {}: {why}", path.display())]
    Io { operation: &'static str, path: PathBuf, why: std::io::Error },
}

/// The port to the disk.
#[async_trait]
pub trait Disk: Send + Sync + 'static {
    /// Makes the pod's folders and volumes; what is there already stays.
    async fn mount(&self, pod: &Pod, facts: &Facts, sources: &Sources) -> Result<(), Error>;
    /// The mounts of one run of a container.
    async fn container(
        &self,
        pod: &Pod,
        container: &Container,
        attempt: u32,
        facts: &Facts,
        environment: &BTreeMap<String, String>,
    ) -> Result<Vec<cri::Mount>, Error>;
    /// Fills in the termination messages of containers that have ended.
    async fn messages(&self, pod: &Pod, observed: &mut Observed);
    /// Takes the volumes down.
    async fn unmount(&self, pod: &PodId) -> Result<(), Error>;
    /// A run has been removed: its log and message, too.
    async fn forget(&self, pod: &PodId, run: &Run);
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

    async fn container(
        &self,
        _: &Pod,
        _: &Container,
        _: u32,
        _: &Facts,
        _: &BTreeMap<String, String>,
    ) -> Result<Vec<cri::Mount>, Error> {
        Ok(Vec::new())
    }

    async fn messages(&self, _: &Pod, _: &mut Observed) {}

    async fn unmount(&self, _: &PodId) -> Result<(), Error> {
        Ok(())
    }

    async fn forget(&self, _: &PodId, _: &Run) {}

    async fn pods(&self) -> Vec<PodId> {
        Vec::new()
    }

    async fn remove(&self, _: &PodId) -> Result<(), Error> {
        Ok(())
    }
}
