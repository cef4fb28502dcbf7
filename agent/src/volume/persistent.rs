//! PersistentVolumes on this node: what is behind a bound claim, mounted for one pod.
//! <https://kubernetes.io/docs/concepts/storage/persistent-volumes/>

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use proto::view::persistent_volume::{LocalVolume, PersistentVolume};
use proto::volume::{HOST_PATH, ONE_POD, PROVISIONED_BY};

use super::machine::{Placed, io_error, make};
use super::{Error, SetUpError, folders, host_path, mounts, nfs, ownership};
use crate::config::NodeConfig;
use crate::csi;
use crate::pod::volume::HostPath;
use crate::pod::{Pod, Volume};

/// A claim's volume, as the API has it.
#[derive(Clone, Debug, Default)]
pub struct Bound {
    pub volume: PersistentVolume,
    /// The name of its source's field, as `iscsi`.
    pub source: String,
    /// The pod asks for no more than reading.
    pub read_only: bool,
    /// Where a driver brings it.
    pub csi: Option<Box<csi::Wanted>>,
    /// The node is one of those that reach the volume.
    pub reachable: bool,
}

/// Whether the pod may have the volume here, and uses it as what it is.
pub fn check(pod: &Pod, volume: &Volume, bound: &Bound) -> Result<(), Error> {
    let name = &bound.volume.metadata.name;
    if !bound.reachable {
        return Err(Error::NodeAffinity(name.clone()));
    }
    let modes = used(pod, &volume.name);
    let mismatch = |mode, field| Error::Mode { volume: volume.name.clone(), mode, field };
    match bound.volume.is_block() {
        true if modes.mounts => return Err(mismatch("Block", "volumeMounts")),
        false if modes.devices => return Err(mismatch("Filesystem", "volumeDevices")),
        _ => {}
    }
    Ok(())
}

/// Mounts the volume for the pod, unless it is; says where.
pub fn mount(config: &NodeConfig, pod: &Pod, bound: &Bound) -> Result<Placed, Error> {
    let name = &bound.volume.metadata.name;
    set_up(config, pod, bound).map_err(|why| Error::SetUp { volume: name.clone(), why })
}

/// For a driver's volume: it is the only pod that has it, if it must be.
pub fn claim_alone(config: &NodeConfig, pod: &Pod, bound: &Bound) -> Result<(), Error> {
    let name = &bound.volume.metadata.name;
    let alone = bound.volume.spec.access_modes.iter().any(|mode| mode == ONE_POD);
    match alone && in_use(config, pod, name) {
        true => Err(Error::SetUp { volume: name.clone(), why: SetUpError::InUse }),
        false => Ok(()),
    }
}

struct Used {
    mounts: bool,
    devices: bool,
}

/// In which ways the pod's containers use the volume.
fn used(pod: &Pod, volume: &str) -> Used {
    Used {
        mounts: pod.containers().any(|one| one.volume_mounts.iter().any(|it| it.name == volume)),
        devices: pod.containers().any(|one| one.volume_devices.iter().any(|it| it.name == volume)),
    }
}

fn set_up(config: &NodeConfig, pod: &Pod, bound: &Bound) -> Result<Placed, SetUpError> {
    let (meta, spec) = (&bound.volume.metadata, &bound.volume.spec);
    let dir = |kind: &str| {
        let volumes = config.pod_dir(&pod.metadata.uid).join("volumes");
        volumes.join(format!("kubernetes.io~{kind}")).join(&meta.name)
    };
    if spec.access_modes.iter().any(|mode| mode == ONE_POD) && in_use(config, pod, &meta.name) {
        return Err(SetUpError::InUse);
    }
    if let Some(local) = &spec.local {
        return self::local(config, pod, bound, local, dir("local-volume"));
    }
    if bound.volume.is_block() {
        return Err(SetUpError::Unsupported(format!("{} with volumeMode Block", bound.source)));
    }
    if let Some(host) = &spec.host_path {
        if !spec.mount_options.is_empty() {
            return Err(SetUpError::MountOptions);
        }
        host_path::check(&HostPath { path: host.path.clone(), kind: host.kind.clone() })?;
        // Tells other pods that the volume is in use; nothing is ever in it.
        make(&dir("host-path"), 0o750)?;
        return Ok(Placed::folder(PathBuf::from(&host.path), bound.read_only));
    }
    if let Some(share) = &spec.nfs {
        let (dir, read_only) = (dir("nfs"), bound.read_only || share.read_only);
        nfs::mount(&dir, share, &spec.mount_options, read_only)?;
        return Ok(Placed::folder(dir, read_only));
    }
    Err(SetUpError::Unsupported(bound.source.clone()))
}

/// Whether another pod of this node has the volume.
fn in_use(config: &NodeConfig, pod: &Pod, name: &str) -> bool {
    let entries = |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten();
    let others = entries(&config.root.join("pods"))
        .filter(|entry| *entry.file_name() != *pod.metadata.uid.as_str());
    let mut kinds = others.flat_map(|other| {
        ["volumes", "volumeDevices"]
            .into_iter()
            .flat_map(move |all| entries(&other.path().join(all)))
    });
    kinds.any(|kind| kind.path().join(name).symlink_metadata().is_ok())
}

/// A folder or device of the node.
fn local(
    config: &NodeConfig,
    pod: &Pod,
    bound: &Bound,
    local: &LocalVolume,
    dir: PathBuf,
) -> Result<Placed, SetUpError> {
    let (path, spec) = (Path::new(&local.path), &bound.volume.spec);
    let ours =
        bound.volume.metadata.annotations.get(PROVISIONED_BY).is_some_and(|it| it == HOST_PATH);
    if ours && folders::holds(config, path) {
        folders::make(path)?;
    }
    let kind = fs::metadata(path).map(|metadata| metadata.file_type());
    let kind = kind.map_err(|_| SetUpError::NoPath(local.path.clone()))?;
    let wrong = |wanted| SetUpError::Device { path: local.path.clone(), wanted };
    let device = kind.is_block_device();
    if bound.volume.is_block() {
        if !spec.mount_options.is_empty() {
            return Err(SetUpError::MountOptions);
        }
        if !device {
            return Err(wrong("a block device"));
        }
        let devices = config.pod_dir(&pod.metadata.uid).join("volumeDevices");
        let link = devices.join("kubernetes.io~local-volume").join(&bound.volume.metadata.name);
        make(link.parent().unwrap_or(&devices), 0o750)?;
        if link.symlink_metadata().is_err() {
            std::os::unix::fs::symlink(path, &link).map_err(io_error("link", &link))?;
        }
        return Ok(Placed { path: path.into(), read_only: bound.read_only, block: true });
    }
    if !kind.is_dir() {
        return Err(wrong("a folder"));
    }
    let mut flags = mounts::flags(&spec.mount_options).map_err(SetUpError::MountOption)?;
    if bound.read_only {
        flags |= rustix::mount::MountFlags::RDONLY;
    }
    let there = dir.exists() && mounts::is_mounted(&dir).map_err(io_error("look at", &dir))?;
    if !there {
        make(&dir, 0o750)?;
    }
    mounts::bind(path, &dir, flags).map_err(io_error("bind", &dir))?;
    if !there {
        own(pod, &dir, bound.read_only)?;
    }
    Ok(Placed::folder(dir, bound.read_only))
}

/// Gives the files to the pod's group.
pub fn own(pod: &Pod, dir: &Path, read_only: bool) -> Result<(), SetUpError> {
    let context = &pod.spec.security_context;
    let group = context.fs_group.and_then(|group| u32::try_from(group).ok());
    let Some(group) = group.filter(|_| !read_only) else { return Ok(()) };
    let on_mismatch = context.fs_group_change_policy.as_deref() == Some("OnRootMismatch");
    ownership::give(dir, group, on_mismatch).map_err(io_error("give to the fsGroup", dir))
}
