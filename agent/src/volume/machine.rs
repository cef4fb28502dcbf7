//! The adapter to the machine's own disk.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use proto::cri;

use super::payload::payload;
use super::{Disk, Error, SetUpError, atomic, container, mounts};
use crate::config::NodeConfig;
use crate::cri::PodId;
use crate::downward::Facts;
use crate::environment::Sources;
use crate::observed::{Container as Run, Observed};
use crate::pod::volume::{EmptyDir, HostPath};
use crate::pod::{Container, Pod, Volume, VolumeSource};

/// Folders below `--root-dir` and the folder of logs.
pub struct Machine {
    config: Arc<NodeConfig>,
}

impl Machine {
    pub fn new(config: NodeConfig) -> Machine {
        Machine { config: Arc::new(config) }
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
            VolumeSource::EmptyDir(empty) => empty_dir(&dir, empty, group),
            VolumeSource::HostPath(host) => host_path(host),
            VolumeSource::Unsupported(kind) => Err(SetUpError::Unsupported(kind.clone())),
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
            let io = |operation, path: &Path| {
                let path = path.to_path_buf();
                move |source| Error::Io { operation, path, source }
            };
            fs::create_dir_all(&dir).map_err(io("make", &dir))?;
            for container in pod.containers() {
                self.make_logs(pod, container)?;
            }
            for volume in &pod.spec.volumes {
                let done = self.set_up(pod, volume, facts, sources);
                done.map_err(|why| Error::SetUp { volume: volume.name.clone(), why })?;
            }
            Ok(())
        })
    }

    async fn container(
        &self,
        pod: &Pod,
        container: &Container,
        attempt: u32,
        facts: &Facts,
        environment: &BTreeMap<String, String>,
    ) -> Result<Vec<cri::Mount>, Error> {
        blocking(|| {
            // An ephemeral container was not there when the pod's folders were made.
            self.make_logs(pod, container)?;
            container::mounts(&self.config, pod, container, attempt, facts, environment)
        })
    }

    async fn messages(&self, pod: &Pod, observed: &mut Observed) {
        if observed.containers.iter().any(|run| run.exit().is_some()) {
            blocking(|| container::messages(&self.config, pod, observed));
        }
    }

    async fn unmount(&self, pod: &PodId) -> Result<(), Error> {
        let dir = self.config.pod_dir(&pod.uid);
        blocking(|| {
            for part in ["volume-subpaths", "volumes"] {
                remove(&dir.join(part))?;
            }
            Ok(())
        })
    }

    async fn forget(&self, pod: &PodId, run: &Run) {
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
            remove(&self.config.log_dir(&pod.namespace, &pod.name, &pod.uid))
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
        VolumeSource::Unsupported(_) => "unsupported",
    };
    let volumes = config.pod_dir(&pod.metadata.uid).join("volumes");
    volumes.join(format!("kubernetes.io~{kind}")).join(&volume.name)
}

fn empty_dir(dir: &Path, empty: &EmptyDir, group: Option<u32>) -> Result<(), SetUpError> {
    make(dir, 0o777)?;
    match empty.medium.as_str() {
        "" => {}
        "Memory" => {
            let size = empty.size_limit.map_or(0, |limit| limit.value());
            mounts::tmpfs(dir, size).map_err(io_error("mount a tmpfs at", dir))?;
        }
        medium => return Err(SetUpError::Unsupported(format!("emptyDir of medium {medium}"))),
    }
    if let Some(group) = group {
        std::os::unix::fs::chown(dir, None, Some(group)).map_err(io_error("chown", dir))?;
        make(dir, 0o2777)?;
    }
    Ok(())
}

/// Kubernetes: hostPath volume types.
fn host_path(host: &HostPath) -> Result<(), SetUpError> {
    let path = Path::new(&host.path);
    let kind = fs::metadata(path).map(|metadata| metadata.file_type());
    let is = |wanted: &'static str, matches: bool| match matches {
        true => Ok(()),
        false => Err(SetUpError::HostPath { path: host.path.clone(), wanted }),
    };
    match (host.kind.as_str(), &kind) {
        ("", _) => Ok(()),
        ("DirectoryOrCreate", Err(_)) => make(path, 0o755),
        ("FileOrCreate", Err(_)) => {
            fs::File::create(path).map_err(io_error("make", path))?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o644))
                .map_err(io_error("chmod", path))
        }
        ("Directory" | "DirectoryOrCreate", kind) => {
            is("a directory", kind.as_ref().is_ok_and(|kind| kind.is_dir()))
        }
        ("File" | "FileOrCreate", kind) => {
            is("a file", kind.as_ref().is_ok_and(|kind| kind.is_file()))
        }
        ("Socket", kind) => is("a socket file", kind.as_ref().is_ok_and(|kind| kind.is_socket())),
        ("CharDevice", kind) => {
            is("a character device", kind.as_ref().is_ok_and(|kind| kind.is_char_device()))
        }
        ("BlockDevice", kind) => {
            is("a block device", kind.as_ref().is_ok_and(|kind| kind.is_block_device()))
        }
        (kind, _) => Err(SetUpError::Unsupported(format!("hostPath of type {kind}"))),
    }
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

fn io_error(operation: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SetUpError {
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
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    match tokio::runtime::Handle::current().runtime_flavor() {
        tokio::runtime::RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}
