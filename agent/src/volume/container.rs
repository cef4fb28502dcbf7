//! What one run of a container has on the disk: its mounts and its termination message.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use proto::cri;

use super::machine::{Placed, volume_dir};
use super::{Error, Given, Run, SetUpError, subpath};
use crate::config::{NodeConfig, mount};
use crate::environment::expand;
use crate::observed::{Observed, State};
use crate::pod::{Container, Pod, VolumeDevice, VolumeMount, VolumeSource};
use crate::resolv;

/// Of a termination message from its file, and from the log.
const MAX_MESSAGE: u64 = 4096;
const MAX_LOG_MESSAGE: u64 = 2048;

/// The pod's volumes, /etc/hosts and the file of the termination message; and its devices.
pub fn given(
    config: &NodeConfig,
    pod: &Pod,
    container: &Container,
    run: Run,
    placed: &BTreeMap<String, Placed>,
) -> Result<Given, Error> {
    let making = Making { config, pod, container, run, placed };
    let mut mounts = Vec::new();
    for (index, wanted) in container.volume_mounts.iter().enumerate() {
        mounts.push(making.volume(index, wanted)?);
    }
    let taken = |path: &str| container.volume_mounts.iter().any(|mount| mount.mount_path == path);
    if !taken("/etc/hosts") {
        let file = config.pod_dir(&pod.metadata.uid).join("etc-hosts");
        let host = match pod.spec.host_network {
            true => fs::read_to_string("/etc/hosts").unwrap_or_default(),
            false => String::new(),
        };
        let text = resolv::hosts(pod, &run.facts.pod_ips, &config.domain, &host);
        write(&file, &text, 0o644)?;
        mounts.push(mount(&file, "/etc/hosts", false, None));
    }
    let path = container.termination_message_path();
    if !taken(path) {
        let file = config.message_file(&pod.metadata.uid, &container.name, run.attempt);
        if !file.exists() {
            write(&file, "", 0o666)?;
        }
        mounts.push(mount(&file, path, false, None));
    }
    let devices = container.volume_devices.iter().map(|wanted| making.device(wanted));
    Ok(Given { mounts, devices: devices.collect::<Result<_, _>>()? })
}

/// A container that is about to be made.
struct Making<'a> {
    config: &'a NodeConfig,
    pod: &'a Pod,
    container: &'a Container,
    run: Run<'a>,
    placed: &'a BTreeMap<String, Placed>,
}

impl Making<'_> {
    fn volume(&self, index: usize, wanted: &VolumeMount) -> Result<cri::Mount, Error> {
        let volume = self.pod.spec.volumes.iter().find(|volume| volume.name == wanted.name);
        let volume = volume.ok_or_else(|| Error::NoVolume(wanted.name.clone()))?;
        let set_up = |why| Error::SetUp { volume: volume.name.clone(), why };
        let source = volume.source().map_err(|error| set_up(error.into()))?;
        let sub = self.sub_path(wanted)?;
        if let VolumeSource::Image(_) = source {
            return self.image(wanted, sub);
        }
        let placed = self.placed.get(&volume.name);
        if placed.is_some_and(|placed| placed.block) {
            let (volume, mode, field) = (volume.name.clone(), "Block", "volumeMounts");
            return Err(Error::Mode { volume, mode, field });
        }
        let mut path = match placed {
            Some(placed) => placed.path.clone(),
            None => volume_dir(self.config, self.pod, volume, &source),
        };
        let read_only = wanted.read_only
            || placed.is_some_and(|placed| placed.read_only)
            || matches!(
                source,
                VolumeSource::ConfigMap(_)
                    | VolumeSource::Secret(_)
                    | VolumeSource::DownwardApi(_)
                    | VolumeSource::Projected(_)
            );
        if !sub.is_empty() {
            path = self.bind(index, wanted, &path, &sub)?;
        }
        let propagation = wanted.mount_propagation.as_deref();
        let mount = mount(&path, &wanted.mount_path, read_only, propagation);
        if wanted.recursive_read_only.as_deref().is_some_and(|asked| asked != "Disabled") {
            return Ok(cri::Mount { recursive_read_only: true, ..mount });
        }
        Ok(mount)
    }

    /// The part of the volume that is wanted; empty for all of it.
    fn sub_path(&self, wanted: &VolumeMount) -> Result<String, Error> {
        let sub = match wanted.sub_path_expr.as_str() {
            "" => wanted.sub_path.clone(),
            text => expand(text, |name| self.run.environment.get(name).cloned()),
        };
        let unresolved = !wanted.sub_path_expr.is_empty() && sub.contains("$(");
        match unresolved || sub.starts_with('/') || sub.split('/').any(|part| part == "..") {
            true => Err(self.bad_sub_path(wanted, SetUpError::Path(sub))),
            false => Ok(sub),
        }
    }

    fn bad_sub_path(&self, wanted: &VolumeMount, source: SetUpError) -> Error {
        let (volume, container) = (wanted.name.clone(), self.container.name.clone());
        Error::SubPath { volume, container, source }
    }

    /// Pins the part of a volume; returns where it is now.
    fn bind(
        &self,
        index: usize,
        wanted: &VolumeMount,
        path: &Path,
        sub: &str,
    ) -> Result<PathBuf, Error> {
        let parts = self.config.pod_dir(&self.pod.metadata.uid).join("volume-subpaths");
        let target = parts.join(&wanted.name).join(&self.container.name).join(index.to_string());
        let bound = super::mounts::remove_file_or_dir(&target)
            .and_then(|()| subpath::bind(path, sub, &target));
        bound.map_err(|why| {
            let why = SetUpError::Io { operation: "bind", path: path.join(sub), why };
            self.bad_sub_path(wanted, why)
        })?;
        Ok(target)
    }

    /// The runtime finds the files itself.
    fn image(&self, wanted: &VolumeMount, sub: String) -> Result<cri::Mount, Error> {
        let image = self.run.images.get(&wanted.name).cloned();
        let image = image.ok_or_else(|| Error::NoVolume(wanted.name.clone()))?;
        let propagation = wanted.mount_propagation.as_deref();
        let mount = mount(Path::new(""), &wanted.mount_path, true, propagation);
        Ok(cri::Mount { image: Some(image), image_sub_path: sub, ..mount })
    }

    fn device(&self, wanted: &VolumeDevice) -> Result<cri::Device, Error> {
        let placed = self.placed.get(&wanted.name);
        let placed = placed.ok_or_else(|| Error::NoVolume(wanted.name.clone()))?;
        if !placed.block {
            let (volume, mode, field) = (wanted.name.clone(), "Filesystem", "volumeDevices");
            return Err(Error::Mode { volume, mode, field });
        }
        Ok(cri::Device {
            container_path: wanted.device_path.clone(),
            host_path: placed.path.to_string_lossy().into_owned(),
            permissions: if placed.read_only { "r" } else { "rwm" }.into(),
        })
    }
}

/// Fills in what ended containers left as their last words.
pub fn messages(config: &NodeConfig, pod: &Pod, observed: &mut Observed) {
    for run in &mut observed.containers {
        let (State::Exited(exit), Some(container)) = (&mut run.state, pod.container(&run.name))
        else {
            continue;
        };
        if !exit.message.is_empty() {
            continue;
        }
        let file = config.message_file(&pod.metadata.uid, &run.name, run.attempt);
        exit.message = head(&file);
        let from_log =
            container.termination_message_policy.as_deref() == Some("FallbackToLogsOnError");
        if exit.message.is_empty() && exit.code != 0 && from_log {
            exit.message = crate::logs::tail(Path::new(&run.log_path), 80, MAX_LOG_MESSAGE);
        }
    }
}

fn head(file: &Path) -> String {
    let mut bytes = Vec::new();
    // Whatever a container made of it: opening neither waits for a writer nor follows a link.
    let flags = libc::O_NONBLOCK | libc::O_NOFOLLOW;
    let opened = fs::File::options().read(true).custom_flags(flags).open(file);
    let Ok(mut file) = opened else { return String::new() };
    if !file.metadata().is_ok_and(|metadata| metadata.is_file()) {
        return String::new();
    }
    // More than the limit: the last part of it counts, as for the kubelet.
    let long = file.metadata().is_ok_and(|metadata| metadata.len() > MAX_MESSAGE);
    let back = i64::try_from(MAX_MESSAGE).unwrap_or(i64::MAX);
    if long && file.seek(SeekFrom::End(-back)).is_err() {
        return String::new();
    }
    match file.take(MAX_MESSAGE).read_to_end(&mut bytes) {
        Ok(_) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(_) => String::new(),
    }
}

fn write(file: &Path, text: &str, mode: u32) -> Result<(), Error> {
    let io = |source| Error::Io { operation: "write", path: file.to_path_buf(), source };
    if let Some(parent) = file.parent() {
        fs::create_dir_all(parent).map_err(io)?;
    }
    // A file that is mounted must stay the same file.
    if fs::read_to_string(file).is_ok_and(|old| old == text && !text.is_empty()) {
        return Ok(());
    }
    fs::write(file, text).map_err(io)?;
    fs::set_permissions(file, fs::Permissions::from_mode(mode)).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_a_files_or_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        fs::write(path("file"), "bye").unwrap();
        std::os::unix::fs::symlink(path("file"), path("link")).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mkfifoat(rustix::fs::CWD, path("fifo"), mode).unwrap();
        for (name, expected) in [("file", "bye"), ("link", ""), ("fifo", ""), ("absent", "")] {
            assert_eq!(head(&path(name)), expected, "{name}");
        }
    }
}
