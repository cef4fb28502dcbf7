//! A container's devices: those of the request, or for a privileged container all of the node's.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use proto::cri;

use super::super::cgroup::devices::{Access, DEFAULT, Rule};
use super::super::engine::Error;
use super::mounts::clean;

/// The devices of a container.
#[derive(Default)]
pub struct Devices {
    /// Nodes to bind: where from, where to.
    pub bound: Vec<(String, String)>,
    /// Nodes to make: where, file mode, device number.
    pub made: Vec<(String, u32, u64)>,
    /// What may be used; `None` is everything.
    pub rules: Option<Vec<Rule>>,
}

/// Each takes a register of the container's program.
const BOUND: usize = 40;

pub fn devices(config: &cri::ContainerConfig, privileged: bool) -> Result<Devices, Error> {
    let mut devices = Devices::default();
    let mut rules = DEFAULT.to_vec();
    for device in &config.devices {
        let access = Access::parse(&device.permissions).ok_or_else(|| {
            let letters = &device.permissions;
            Error::Invalid(format!("device permissions \"{letters}\" are not of r, w and m"))
        })?;
        let failed = |error: std::io::Error| {
            Error::Invalid(format!("device \"{}\": {error}", device.host_path))
        };
        let source = fs::canonicalize(&device.host_path).map_err(failed)?;
        let target = match device.container_path.as_str() {
            "" => clean(&device.host_path),
            path => clean(path),
        };
        let mut nodes = Vec::new();
        if source.is_dir() {
            below(&source, &mut nodes);
        } else {
            nodes.extend(node(&source).map_err(failed)?);
        }
        if nodes.is_empty() {
            let path = &device.host_path;
            return Err(Error::Invalid(format!("device \"{path}\" is not a device node")));
        }
        for (path, block, number) in nodes {
            let inside = path.strip_prefix(&source).unwrap_or(Path::new(""));
            let target = Path::new(&target).join(inside).components().collect::<PathBuf>();
            devices.bound.push((path.display().to_string(), target.display().to_string()));
            rules.push(Rule::device(block, number, access));
        }
    }
    if devices.bound.len() > BOUND {
        return Err(Error::Invalid(format!("more than {BOUND} devices")));
    }
    if privileged {
        all(Path::new("/dev"), &mut devices.made);
    } else {
        devices.rules = Some(rules);
    }
    Ok(devices)
}

type Node = (PathBuf, bool, u64);

fn node(path: &Path) -> std::io::Result<Option<Node>> {
    let metadata = fs::metadata(path)?;
    let kind = metadata.file_type();
    let is_node = kind.is_char_device() || kind.is_block_device();
    Ok(is_node.then(|| (path.to_owned(), kind.is_block_device(), metadata.rdev())))
}

/// The nodes in a directory of them, such as /dev/snd.
fn below(folder: &Path, nodes: &mut Vec<Node>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => below(&entry.path(), nodes),
            Ok(kind) if !kind.is_symlink() => {
                nodes.extend(node(&entry.path()).ok().flatten());
            }
            _ => {}
        }
    }
}

fn all(folder: &Path, made: &mut Vec<(String, u32, u64)>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, Ok(metadata)) = (entry.path(), entry.metadata()) else { continue };
        let shown = path.display().to_string();
        if metadata.is_dir() && !["/dev/pts", "/dev/shm", "/dev/mqueue"].contains(&shown.as_str()) {
            all(&path, made);
        }
        let device =
            metadata.file_type().is_char_device() || metadata.file_type().is_block_device();
        if device && !["/dev/console", "/dev/ptmx"].contains(&shown.as_str()) {
            made.push((shown, metadata.mode(), metadata.rdev()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(path: &str, permissions: &str) -> Result<Devices, Error> {
        let device = cri::Device {
            host_path: path.into(),
            container_path: "/dev/mine".into(),
            permissions: permissions.into(),
        };
        devices(&cri::ContainerConfig { devices: vec![device], ..Default::default() }, false)
    }

    #[test]
    fn devices_become_binds_and_rules() {
        let found = one("/dev/full", "r").unwrap();
        assert_eq!(found.bound, [("/dev/full".to_owned(), "/dev/mine".to_owned())]);
        assert_eq!(found.rules.unwrap().last().unwrap().to_string(), "c 1:7 r");
        assert!(one("/dev/full", "x").err().unwrap().to_string().contains("\"x\""));
        assert!(one("/etc/passwd", "r").err().unwrap().to_string().contains("not a device node"));
        assert!(one("/dev/absent", "r").is_err());
        let plain = devices(&cri::ContainerConfig::default(), false).unwrap();
        assert_eq!(plain.rules.unwrap(), DEFAULT);
    }
}
