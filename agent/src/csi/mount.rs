//! The calls that bring a volume to a pod and take it away again. Everything may be repeated: a
//! driver answers alike to what it has done already.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use proto::csi::node_service_capability::rpc;
use proto::csi::{NodeUnpublishVolumeRequest, NodeUnstageVolumeRequest};

use super::volume::{Known, Places, unique_name};
use super::{Driver, Plugins, Wanted};
use crate::plugins::CallError;
use crate::pod::Pod;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("driver name {0} not found in the list of registered CSI drivers")]
    NoDriver(String),
    #[error("{0}")]
    Call(#[from] CallError),
    #[error("{operation} {}: {why}", path.display())]
    Io { operation: &'static str, path: PathBuf, why: io::Error },
}

/// Where a volume is for its pod.
#[derive(Debug)]
pub struct Mounted {
    pub path: PathBuf,
    /// The agent is to give the files to the pod's group.
    pub to_be_owned: bool,
}

/// Stages and publishes the volume.
pub async fn mount(
    plugins: &Plugins,
    root: &Path,
    pod: &Pod,
    wanted: &Wanted,
) -> Result<Mounted, Error> {
    let driver =
        plugins.get(&wanted.driver).ok_or_else(|| Error::NoDriver(wanted.driver.clone()))?;
    let known = wanted.known();
    let places = Places::of(root, &pod.metadata.uid, &known, wanted.block);
    let group = pod.spec.security_context.fs_group.and_then(|group| u32::try_from(group).ok());
    // Before anything is done: whatever comes in between, it will be undone.
    record(&places.record, &known)?;
    let mut stage = None;
    if driver.can(rpc::Type::StageUnstageVolume) && !wanted.ephemeral {
        record(&places.stage_record, &known)?;
        make(&places.stage)?;
        let request = wanted.stage(&driver, group, &places.stage);
        driver.node().node_stage_volume(request).await.map_err(CallError)?;
        stage = Some(places.stage.as_path());
    }
    // The target itself is for the driver to make; its parent is there with the record.
    let request = wanted.publish(&driver, pod, group, stage, &places.target);
    driver.node().node_publish_volume(request).await.map_err(CallError)?;
    if let Some(request) = wanted.expand(&driver, stage, &places.target) {
        driver.node().node_expand_volume(request).await.map_err(CallError)?;
    }
    Ok(Mounted { path: places.target, to_be_owned: wanted.is_to_be_owned(&driver) })
}

/// Lets the file system of a volume that is mounted follow it; nothing where that is not for the
/// driver to do.
pub async fn grow(plugins: &Plugins, root: &Path, uid: &str, wanted: &Wanted) -> Result<(), Error> {
    let driver =
        plugins.get(&wanted.driver).ok_or_else(|| Error::NoDriver(wanted.driver.clone()))?;
    let places = Places::of(root, uid, &wanted.known(), wanted.block);
    let stage = driver.can(rpc::Type::StageUnstageVolume).then_some(places.stage.as_path());
    if let Some(request) = wanted.expand(&driver, stage, &places.target) {
        driver.node().node_expand_volume(request).await.map_err(CallError)?;
    }
    Ok(())
}

/// Takes all volumes of drivers away from the pod, and from the node what no other pod has.
pub async fn unmount(plugins: &Plugins, root: &Path, uid: &str) -> Result<(), Error> {
    for (known, block) in of_pod(root, uid) {
        let name = &known.driver_name;
        let driver = plugins.get(name).ok_or_else(|| Error::NoDriver(name.clone()))?;
        let places = Places::of(root, uid, &known, block);
        let request = NodeUnpublishVolumeRequest {
            volume_id: known.volume_handle.clone(),
            target_path: places.target.to_string_lossy().into_owned(),
        };
        driver.node().node_unpublish_volume(request).await.map_err(CallError)?;
        if !shared(root, uid, &known) {
            unstage(&driver, &known, &places).await?;
        }
        let own = places.record.parent().unwrap_or(&places.record);
        // What a driver leaves behind is empty; anything else is somebody's data.
        forget(&places.target, |path| match path.is_dir() {
            true => fs::remove_dir(path),
            false => fs::remove_file(path),
        })?;
        forget(&places.record, |path| fs::remove_file(path))?;
        forget(own, |path| fs::remove_dir(path))?;
    }
    Ok(())
}

async fn unstage(driver: &Driver, known: &Known, places: &Places) -> Result<(), Error> {
    if !places.stage_record.exists() {
        return Ok(());
    }
    if driver.can(rpc::Type::StageUnstageVolume) {
        let request = NodeUnstageVolumeRequest {
            volume_id: known.volume_handle.clone(),
            staging_target_path: places.stage.to_string_lossy().into_owned(),
        };
        driver.node().node_unstage_volume(request).await.map_err(CallError)?;
    }
    forget(&places.stage, |path| fs::remove_dir(path))?;
    forget(&places.stage_record, |path| fs::remove_file(path))?;
    let folder = places.stage_record.parent().unwrap_or(&places.stage_record);
    forget(folder, |path| fs::remove_dir(path))
}

/// As a Node's status calls them: the attached volumes that any pod of the node has.
pub fn in_use(root: &Path) -> BTreeSet<String> {
    let pods = entries(&root.join("pods"));
    let all = pods.iter().filter_map(|pod| pod.file_name()?.to_str());
    let known = all.flat_map(|uid| of_pod(root, uid)).map(|(known, _)| known);
    let attached = known.filter(|known| !known.attachment.is_empty());
    attached.map(|known| unique_name(&known.driver_name, &known.volume_handle)).collect()
}

/// The volumes of drivers that the pod has, and whether each is a device.
fn of_pod(root: &Path, uid: &str) -> Vec<(Known, bool)> {
    let mut found = Vec::new();
    for (kind, block) in [("volumes", false), ("volumeDevices", true)] {
        let folder = root.join("pods").join(uid).join(kind).join("kubernetes.io~csi");
        for own in entries(&folder) {
            let text = fs::read(own.join("vol_data.json")).unwrap_or_default();
            if let Ok(known) = serde_json::from_slice::<Known>(&text) {
                found.push((known, block));
            }
        }
    }
    found
}

/// Whether another pod of the node has the volume.
fn shared(root: &Path, uid: &str, known: &Known) -> bool {
    let same = |other: &Known| {
        other.driver_name == known.driver_name && other.volume_handle == known.volume_handle
    };
    let pods = entries(&root.join("pods"));
    let mut others =
        pods.iter().filter_map(|pod| pod.file_name()?.to_str()).filter(|it| *it != uid);
    others.any(|other| of_pod(root, other).iter().any(|(known, _)| same(known)))
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    let all = fs::read_dir(folder).into_iter().flatten().flatten();
    all.map(|entry| entry.path()).collect()
}

/// All of the record, or none of it.
fn record(path: &Path, known: &Known) -> Result<(), Error> {
    let folder = path.parent().unwrap_or(path);
    make(folder)?;
    let next = folder.join("vol_data.json.tmp");
    let io = |why| Error::Io { operation: "write", path: path.into(), why };
    let text = serde_json::to_vec(known).map_err(|error| io(error.into()))?;
    fs::write(&next, text).and_then(|()| fs::rename(&next, path)).map_err(io)
}

fn make(folder: &Path) -> Result<(), Error> {
    fs::create_dir_all(folder).map_err(|why| Error::Io {
        operation: "make",
        path: folder.into(),
        why,
    })
}

/// Removes what may be gone already.
fn forget(path: &Path, remove: impl Fn(&Path) -> io::Result<()>) -> Result<(), Error> {
    match remove(path) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => {
            Err(Error::Io { operation: "remove", path: path.into(), why })
        }
        _ => Ok(()),
    }
}
