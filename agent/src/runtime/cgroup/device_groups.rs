//! Holding groups to device rules. Nearly all containers have the same rules: on v1 they share one
//! group of the `devices` hierarchy, on v2 one program, so that starting a container does not pay for
//! them.

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use super::super::sys;
use super::devices::{DEFAULT, Rule, filter};
use super::{CgroupError, Cgroups, failed, gone, write};

/// What containers with the default rules share.
#[derive(Debug, Default)]
pub struct Shared {
    /// On v1: the rules are in the group.
    written: bool,
    /// On v2.
    program: Option<OwnedFd>,
}

impl Cgroups {
    /// Holds the group at `path` to the rules. On v1 the answer is the file to write "0" to; groups
    /// with the default rules are one, below `parent`.
    pub fn allow_devices(
        &self,
        path: &str,
        parent: &str,
        rules: &[Rule],
    ) -> Result<Option<PathBuf>, CgroupError> {
        let default = rules == DEFAULT;
        if let Some(folder) = self.v1_folder("devices", path) {
            if !default {
                write_rules(&folder, rules)?;
                return Ok(Some(folder.join("cgroup.procs")));
            }
            let mut shared = self.devices.lock();
            let folder = self.shared_folder(parent);
            if !shared.written {
                write_rules(&folder, rules)?;
                shared.written = true;
            }
            return Ok(Some(folder.join("cgroup.procs")));
        }
        let Some(folder) = self.unified_folder(path) else { return Ok(None) };
        let handle = fs::File::open(&folder).map_err(failed("open cgroup", &folder))?;
        let load = || {
            sys::load_device_filter(&filter(rules))
                .map_err(failed("load the device filter of", &folder))
        };
        let attach = |program: &OwnedFd| {
            sys::attach_device_filter(program.as_fd(), handle.as_fd())
                .map_err(failed("attach the device filter of", &folder))
        };
        if !default {
            attach(&load()?)?;
            return Ok(None);
        }
        let mut shared = self.devices.lock();
        if shared.program.is_none() {
            shared.program = Some(load()?);
        }
        shared.program.as_ref().map_or(Ok(()), attach)?;
        Ok(None)
    }

    /// The file by which a further process of the group enters its device rules: v1 has one, unless
    /// the group may use everything.
    pub fn device_entry(&self, path: &str, parent: &str, everything: bool) -> Option<PathBuf> {
        let own = self.v1_folder("devices", path)?;
        if own.exists() {
            return Some(own.join("cgroup.procs"));
        }
        let shared = self.shared_folder(parent).join("cgroup.procs");
        // Containers of a runtime that had no rules yet have no group either.
        (!everything && shared.exists()).then_some(shared)
    }

    /// Gives up the shared group below `parent` if nobody is in it.
    pub fn release_devices(&self, parent: &str) {
        let Some(above) = self.v1_folder("devices", parent) else { return };
        let mut shared = self.devices.lock();
        match fs::remove_dir(self.shared_folder(parent)) {
            Err(error) if !gone(&error) => {} // Somebody is.
            _ => {
                shared.written = false;
                let _ = fs::remove_dir(above);
            }
        }
    }

    fn shared_folder(&self, parent: &str) -> PathBuf {
        self.v1_folder("devices", parent).unwrap_or_default().join("default-devices")
    }
}

fn write_rules(folder: &Path, rules: &[Rule]) -> Result<(), CgroupError> {
    fs::create_dir_all(folder).map_err(failed("create cgroup", folder))?;
    write(&folder.join("devices.deny"), "a")?;
    let allow = folder.join("devices.allow");
    rules.iter().try_for_each(|rule| write(&allow, &rule.to_string()))
}
