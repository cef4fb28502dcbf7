//! The adapter to the machine's own disk.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::payload::payload;
use super::{
    Disk, Error, Given, Run, SetUpError, atomic, container, empty_dir, host_path, mounts, nfs,
    persistent,
};
use crate::cgroups;
use crate::config::NodeConfig;
use crate::cri::PodId;
use crate::csi;
use crate::downward::Facts;
use crate::environment::Sources;
use crate::observed::{self, Observed};
use crate::pod::{Container, Pod, Volume, VolumeSource};

/// Folders below `--root-dir` and the folder of logs.
pub struct Machine {
    config: Arc<NodeConfig>,
    plugins: csi::Plugins,
    /// Where the volumes are that are not found by their name alone: by pod and volume. Known anew
    /// after a restart, when everything is mounted again.
    placed: Mutex<HashMap<String, BTreeMap<String, Placed>>>,
}

/// Where a volume is, once it is mounted.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Placed {
    pub path: PathBuf,
    pub read_only: bool,
    /// The path is a device, and what is in it is the container's affair.
    pub block: bool,
}

impl Placed {
    pub fn folder(path: PathBuf, read_only: bool) -> Placed {
        Placed { path, read_only, block: false }
    }
}

impl Machine {
    pub fn new(config: NodeConfig) -> Machine {
        Machine::with_plugins(config, csi::Plugins::default())
    }

    /// The same with storage drivers.
    pub fn with_plugins(config: NodeConfig, plugins: csi::Plugins) -> Machine {
        Machine { config: Arc::new(config), plugins, placed: Mutex::default() }
    }

    /// The folder of a container's logs.
    fn make_logs(&self, pod: &Pod, container: &Container) -> Result<(), Error> {
        let meta = &pod.metadata;
        let logs = self.config.log_dir(&meta.namespace, &meta.name, &meta.uid);
        let path = logs.join(&container.name);
        fs::create_dir_all(&path).map_err(|source| Error::Io {
            operation: "make",
            path: path.clone(),
            source,
        })
    }

    fn place(&self, pod: &Pod, volume: &Volume, placed: Placed) {
        let mut all = self.placed.lock();
        all.entry(pod.metadata.uid.clone()).or_default().insert(volume.name.clone(), placed);
    }

    fn is_placed(&self, pod: &Pod, volume: &Volume) -> bool {
        let known = |all: &BTreeMap<String, Placed>| all.contains_key(&volume.name);
        self.placed.lock().get(&pod.metadata.uid).is_some_and(known)
    }

    /// Mounts what is behind a claim, unless that has been done.
    async fn claim(&self, pod: &Pod, volume: &Volume, sources: &Sources) -> Result<(), Error> {
        if self.is_placed(pod, volume) {
            return Ok(());
        }
        let missing = || Err("it was not looked for".to_string());
        let bound = sources.claims.get(&volume.name).cloned().unwrap_or_else(missing);
        let bound = bound.map_err(|why| Error::Claim { volume: volume.name.clone(), why })?;
        persistent::check(pod, volume, &bound)?;
        let placed = match &bound.csi {
            Some(wanted) => {
                persistent::claim_alone(&self.config, pod, &bound)?;
                self.driven(pod, wanted).await?
            }
            None => blocking(|| persistent::mount(&self.config, pod, &bound))?,
        };
        self.place(pod, volume, placed);
        Ok(())
    }

    /// Mounts what the pod itself asks of a driver, unless that has been done.
    async fn inline(&self, pod: &Pod, volume: &Volume, sources: &Sources) -> Result<(), Error> {
        if self.is_placed(pod, volume) {
            return Ok(());
        }
        let missing = || Err("it was not looked for".to_string());
        let wanted = sources.inline.get(&volume.name).cloned().unwrap_or_else(missing);
        let wanted = wanted.map_err(|why| Error::Claim { volume: volume.name.clone(), why })?;
        let placed = self.driven(pod, &wanted).await?;
        self.place(pod, volume, placed);
        Ok(())
    }

    /// Lets a driver bring the volume.
    async fn driven(&self, pod: &Pod, wanted: &csi::Wanted) -> Result<Placed, Error> {
        let mounted = csi::mount(&self.plugins, &self.config.root, pod, wanted).await;
        let stage = "MountVolume.SetUp";
        let failed = |why| Error::Driver { stage, volume: wanted.name.clone(), why };
        let csi::Mounted { path, to_be_owned } = mounted.map_err(failed)?;
        if to_be_owned {
            let owned = blocking(|| persistent::own(pod, &path, wanted.read_only));
            owned.map_err(|why| Error::SetUp { volume: wanted.name.clone(), why })?;
        }
        Ok(Placed { path, read_only: wanted.read_only, block: wanted.block })
    }

    fn set_up(
        &self,
        pod: &Pod,
        volume: &Volume,
        facts: &Facts,
        sources: &Sources,
    ) -> Result<(), SetUpError> {
        let source = volume.source()?;
        let dir = volume_dir(&self.config, pod, volume, &source);
        let group = pod.spec.security_context.fs_group.and_then(|group| u32::try_from(group).ok());
        match &source {
            VolumeSource::EmptyDir(empty) => empty_dir::mount(&dir, empty, pod, facts),
            VolumeSource::HostPath(host) => host_path::check(host),
            VolumeSource::Nfs(share) => {
                nfs::mount(&dir, share, &[], share.read_only)?;
                self.place(pod, volume, Placed::folder(dir, share.read_only));
                Ok(())
            }
            VolumeSource::Unsupported(kind) => Err(SetUpError::Unsupported(kind.clone())),
            // Each container brings its own; the others are not mounted from here.
            VolumeSource::Image(_) | VolumeSource::Claim(_) | VolumeSource::Csi(_) => Ok(()),
            _ => {
                let files = payload(&source, pod, facts, sources)?.unwrap_or_default();
                make(&dir, 0o755)?;
                if holds_secrets(&source) {
                    mounts::tmpfs(&dir, 0).map_err(io_error("mount a tmpfs at", &dir))?;
                    make(&dir, 0o755)?;
                }
                atomic::write(&dir, &files, group).map_err(io_error("write", &dir))
            }
        }
    }
}

#[async_trait]
impl Disk for Machine {
    async fn mount(&self, pod: &Pod, facts: &Facts, sources: &Sources) -> Result<(), Error> {
        blocking(|| {
            let dir = self.config.pod_dir(&pod.metadata.uid);
            let io = |source| Error::Io { operation: "make", path: dir.clone(), source };
            fs::create_dir_all(&dir).map_err(io)?;
            pod.containers().try_for_each(|container| self.make_logs(pod, container))
        })?;
        for volume in &pod.spec.volumes {
            let set_up = |why| Error::SetUp { volume: volume.name.clone(), why };
            match volume.source().map_err(|why| set_up(why.into()))? {
                VolumeSource::Claim(_) => self.claim(pod, volume, sources).await?,
                VolumeSource::Csi(_) => self.inline(pod, volume, sources).await?,
                _ => blocking(|| self.set_up(pod, volume, facts, sources)).map_err(set_up)?,
            }
        }
        Ok(())
    }

    async fn grow(&self, pod: &Pod, wanted: &csi::Wanted) -> Result<(), Error> {
        let grown = csi::grow(&self.plugins, &self.config.root, &pod.metadata.uid, wanted).await;
        let stage = "NodeExpandVolume.NodeExpandVolume";
        grown.map_err(|why| Error::Driver { stage, volume: wanted.name.clone(), why })
    }

    async fn container(
        &self,
        pod: &Pod,
        container: &Container,
        run: Run<'_>,
    ) -> Result<Given, Error> {
        blocking(|| {
            // An ephemeral container was not there when the pod's folders were made.
            self.make_logs(pod, container)?;
            let placed = self.placed.lock().get(&pod.metadata.uid).cloned().unwrap_or_default();
            container::given(&self.config, pod, container, run, &placed)
        })
    }

    async fn messages(&self, pod: &Pod, observed: &mut Observed) {
        if observed.containers.iter().any(|run| run.exit().is_some()) {
            blocking(|| container::messages(&self.config, pod, observed));
        }
    }

    async fn unmount(&self, pod: &PodId) -> Result<(), Error> {
        let dir = self.config.pod_dir(&pod.uid);
        self.placed.lock().remove(&pod.uid);
        // What containers had of the volumes goes first, then what drivers brought.
        blocking(|| remove(&dir.join("volume-subpaths")))?;
        csi::unmount(&self.plugins, &self.config.root, &pod.uid).await.map_err(Error::Unmount)?;
        blocking(|| {
            for part in ["volumes", "volumeDevices"] {
                remove(&dir.join(part))?;
            }
            Ok(())
        })
    }

    async fn in_use(&self) -> BTreeSet<String> {
        blocking(|| csi::in_use(&self.config.root))
    }

    async fn forget(&self, pod: &PodId, run: &observed::Container) {
        let folder = self.config.log_dir(&pod.namespace, &pod.name, &pod.uid).join(&run.name);
        let prefix = format!("{}.log", run.attempt);
        blocking(|| {
            for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
                if entry.file_name().to_string_lossy().starts_with(&prefix) {
                    discard(&entry.path());
                }
            }
            discard(&self.config.message_file(&pod.uid, &run.name, run.attempt));
        });
    }

    async fn pods(&self) -> Vec<PodId> {
        let names = |folder: &Path| -> Vec<String> {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
        };
        // Only what is below the root directory is certainly this node's.
        let uids = names(&self.config.root.join("pods"));
        let mut pods: Vec<PodId> =
            uids.into_iter().map(|uid| PodId { uid, ..PodId::default() }).collect();
        for folder in names(&self.config.logs) {
            let mut parts = folder.split('_');
            let (Some(namespace), Some(name), Some(uid)) =
                (parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            if let Some(pod) = pods.iter_mut().find(|pod| pod.uid == uid) {
                pod.namespace = namespace.into();
                pod.name = name.into();
            }
        }
        pods
    }

    async fn remove(&self, pod: &PodId) -> Result<(), Error> {
        blocking(|| {
            remove(&self.config.pod_dir(&pod.uid))?;
            remove(&self.config.log_dir(&pod.namespace, &pod.name, &pod.uid))?;
            cgroups::remove(&self.config.cgroup_root, &pod.uid).map_err(|source| Error::Io {
                operation: "remove the cgroup of pod",
                path: pod.uid.clone().into(),
                source,
            })
        })
    }
}

/// Where a volume is; a hostPath is where it says.
pub(super) fn volume_dir(
    config: &NodeConfig,
    pod: &Pod,
    volume: &Volume,
    source: &VolumeSource,
) -> PathBuf {
    let kind = match source {
        VolumeSource::HostPath(host) => return PathBuf::from(&host.path),
        VolumeSource::EmptyDir(_) => "empty-dir",
        VolumeSource::ConfigMap(_) => "configmap",
        VolumeSource::Secret(_) => "secret",
        VolumeSource::DownwardApi(_) => "downward-api",
        VolumeSource::Projected(_) | VolumeSource::Token(_) => "projected",
        VolumeSource::Nfs(_) => "nfs",
        VolumeSource::Csi(_) => "csi",
        VolumeSource::Image(_) | VolumeSource::Claim(_) | VolumeSource::Unsupported(_) => "none",
    };
    let volumes = config.pod_dir(&pod.metadata.uid).join("volumes");
    volumes.join(format!("kubernetes.io~{kind}")).join(&volume.name)
}

fn holds_secrets(source: &VolumeSource) -> bool {
    match source {
        VolumeSource::Secret(_) => true,
        VolumeSource::Projected(projected) => projected.sources.iter().any(|part| {
            matches!(part.source(), Ok(VolumeSource::Secret(_) | VolumeSource::Token(_)))
        }),
        _ => false,
    }
}

/// The mode whatever the umask is.
pub(super) fn make(dir: &Path, mode: u32) -> Result<(), SetUpError> {
    fs::create_dir_all(dir).map_err(io_error("make", dir))?;
    fs::set_permissions(dir, fs::Permissions::from_mode(mode)).map_err(io_error("chmod", dir))
}

pub(super) fn io_error(
    operation: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> SetUpError {
    let path = path.to_path_buf();
    move |why| SetUpError::Io { operation, path, why }
}

fn remove(dir: &Path) -> Result<(), Error> {
    mounts::remove(dir).map_err(|source| Error::Io {
        operation: "remove",
        path: dir.to_path_buf(),
        source,
    })
}

fn discard(path: &Path) {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "cannot remove a file");
        }
        _ => {}
    }
}

/// Lets other tasks of the process go on meanwhile, where it has a thread for them.
pub(super) fn blocking<T>(work: impl FnOnce() -> T) -> T {
    match tokio::runtime::Handle::current().runtime_flavor() {
        tokio::runtime::RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}
