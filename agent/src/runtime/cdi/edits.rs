//! What a description says about containers, made part of a container's request.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use proto::cri::{self, MountPropagation};
use serde::Deserialize;

/// `containerEdits`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Edits {
    pub env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Mount>,
    hooks: Vec<Hook>,
    additional_gids: Vec<i64>,
    intel_rdt: Option<serde_yaml::Value>,
    net_devices: Vec<serde_yaml::Value>,
    /// What a later version of the format has.
    #[serde(flatten)]
    others: BTreeMap<String, serde_yaml::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Node {
    path: String,
    host_path: String,
    #[serde(rename = "type")]
    kind: String,
    major: Option<i64>,
    minor: Option<i64>,
    file_mode: Option<u32>,
    permissions: String,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Mount {
    host_path: String,
    container_path: String,
    options: Vec<String>,
    #[serde(rename = "type")]
    kind: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Hook {
    hook_name: String,
    path: String,
}

impl Edits {
    /// Makes them; or says what cannot be done.
    pub fn apply(&self, config: &mut cri::ContainerConfig) -> Result<(), String> {
        if let Some(hook) = self.hooks.first() {
            let (name, path) = (&hook.hook_name, &hook.path);
            return Err(format!("the hook {name} {path} is not supported"));
        }
        if self.intel_rdt.is_some() {
            return Err("intelRdt is not supported".into());
        }
        if !self.net_devices.is_empty() {
            return Err("netDevices are not supported".into());
        }
        if let Some(field) = self.others.keys().next() {
            return Err(format!("{field} is not supported"));
        }
        for variable in &self.env {
            let (key, value) = variable
                .split_once('=')
                .filter(|(key, _)| !key.is_empty())
                .ok_or_else(|| format!("invalid environment variable {variable:?}"))?;
            config.envs.retain(|known| known.key != key);
            let value = value.as_bytes().to_vec().into();
            config.envs.push(cri::KeyValue { key: key.into(), value });
        }
        for node in &self.device_nodes {
            let device = node.device()?;
            config.devices.retain(|known| known.container_path != device.container_path);
            config.devices.push(device);
        }
        for mount in &self.mounts {
            let mount = mount.mount()?;
            config.mounts.retain(|known| known.container_path != mount.container_path);
            config.mounts.push(mount);
        }
        if !self.additional_gids.is_empty() {
            let linux = config.linux.get_or_insert_default();
            let groups = &mut linux.security_context.get_or_insert_default().supplemental_groups;
            // The specification leaves 0 out.
            let new = self.additional_gids.iter().filter(|gid| **gid > 0);
            for gid in new {
                if !groups.contains(gid) {
                    groups.push(*gid);
                }
            }
        }
        Ok(())
    }
}

impl Node {
    /// The node's own device is bound into the container, as it is.
    fn device(&self) -> Result<cri::Device, String> {
        let path = &self.path;
        if !path.starts_with('/') {
            return Err(format!("invalid device path {path:?}"));
        }
        let host = if self.host_path.is_empty() { path } else { &self.host_path };
        let known = fs::metadata(host).map_err(|error| format!("device {host}: {error}"))?;
        let kind = match known.file_type() {
            kind if kind.is_char_device() => "c",
            kind if kind.is_block_device() => "b",
            _ => return Err(format!("device {host} is not a device node")),
        };
        // "u" is an old name of a character device.
        let same = ["", kind].contains(&&*self.kind) || (self.kind == "u" && kind == "c");
        if !same {
            return Err(format!("device {host} is of type {kind:?}, not {:?}", self.kind));
        }
        let (major, minor) = (rustix::fs::major(known.rdev()), rustix::fs::minor(known.rdev()));
        // A type alone may go with numbers that nobody has set.
        let numbered = self.major.unwrap_or(0) != 0 || self.minor.unwrap_or(0) != 0;
        let same = self.major.unwrap_or(0) == i64::from(major)
            && self.minor.unwrap_or(0) == i64::from(minor);
        if numbered && !same {
            return Err(format!(
                "device {host} is {major}:{minor}, which is not what is asked for"
            ));
        }
        let differs = |wanted: Option<u32>, has: u32| wanted.is_some_and(|wanted| wanted != has);
        if differs(self.file_mode.map(|mode| mode & 0o7777), known.mode() & 0o7777) {
            return Err(format!("device {host}: a file mode of its own is not supported"));
        }
        if differs(self.uid, known.uid()) || differs(self.gid, known.gid()) {
            return Err(format!("device {host}: an owner of its own is not supported"));
        }
        let permissions = match self.permissions.as_str() {
            "" => "rwm",
            permissions => permissions,
        };
        Ok(cri::Device {
            container_path: path.clone(),
            host_path: host.clone(),
            permissions: permissions.into(),
        })
    }
}

impl Mount {
    fn mount(&self) -> Result<cri::Mount, String> {
        let path = &self.container_path;
        if !["", "bind", "none"].contains(&self.kind.as_str()) {
            return Err(format!("mount {path}: type {:?} is not supported", self.kind));
        }
        if self.host_path.is_empty() || !path.starts_with('/') {
            return Err(format!("invalid mount from {:?} to {path:?}", self.host_path));
        }
        let mut mount = cri::Mount {
            host_path: self.host_path.clone(),
            container_path: path.clone(),
            ..cri::Mount::default()
        };
        for option in &self.options {
            match option.as_str() {
                "ro" => mount.readonly = true,
                "rw" => mount.readonly = false,
                "bind" | "rbind" | "private" | "rprivate" => {}
                "slave" | "rslave" => {
                    mount.set_propagation(MountPropagation::PropagationHostToContainer);
                }
                "shared" | "rshared" => {
                    mount.set_propagation(MountPropagation::PropagationBidirectional);
                }
                "nosuid" | "nodev" | "noexec" => mount.mount_options.push(option.clone()),
                other => return Err(format!("mount {path}: option {other:?} is not supported")),
            }
        }
        Ok(mount)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(edits: &str) -> Result<cri::ContainerConfig, String> {
        let edits: Edits = serde_yaml::from_str(edits).unwrap();
        let old = |key: &str| cri::KeyValue { key: key.into(), value: b"old".to_vec().into() };
        let envs = vec![old("A"), old("B")];
        let mut config = cri::ContainerConfig { envs, ..Default::default() };
        edits.apply(&mut config)?;
        Ok(config)
    }

    #[test]
    fn what_a_device_needs() {
        let config = applied(
            "env: [B=new=er, C=]\n\
             deviceNodes: [{path: /dev/mine, hostPath: /dev/full, type: c, permissions: r},\
             {path: /dev/zero}]\n\
             mounts: [{hostPath: /usr, containerPath: /opt, options: [ro, nosuid, rbind, rslave]}]\n\
             additionalGids: [0, 44]",
        )
        .unwrap();
        let envs = config.envs.iter();
        let envs: Vec<String> =
            envs.map(|it| format!("{}={}", it.key, String::from_utf8_lossy(&it.value))).collect();
        assert_eq!(envs, ["A=old", "B=new=er", "C="]);
        let devices = config.devices.iter();
        let devices: Vec<_> = devices
            .map(|it| (it.host_path.as_str(), it.container_path.as_str(), it.permissions.as_str()))
            .collect();
        assert_eq!(devices, [("/dev/full", "/dev/mine", "r"), ("/dev/zero", "/dev/zero", "rwm")]);
        let mount = &config.mounts[0];
        assert!(mount.readonly);
        assert_eq!(mount.mount_options, ["nosuid"]);
        assert_eq!(mount.propagation(), MountPropagation::PropagationHostToContainer);
        let security = config.linux.unwrap().security_context.unwrap();
        assert_eq!(security.supplemental_groups, [44]);
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        for (edits, why) in [
            (
                "hooks: [{hookName: createContainer, path: /usr/bin/tool}]",
                "the hook createContainer /usr/bin/tool is not supported",
            ),
            ("intelRdt: {closID: x}", "intelRdt is not supported"),
            ("netDevices: [{hostInterfaceName: eth1}]", "netDevices are not supported"),
            ("somethingNew: true", "somethingNew is not supported"),
            ("env: [novalue]", "invalid environment variable \"novalue\""),
            (
                "deviceNodes: [{path: /dev/full, type: b}]",
                "device /dev/full is of type \"c\", not \"b\"",
            ),
            (
                "deviceNodes: [{path: /dev/full, major: 1, minor: 3}]",
                "device /dev/full is 1:7, which is not what is asked for",
            ),
            (
                "mounts: [{hostPath: tmpfs, containerPath: /t, type: tmpfs}]",
                "mount /t: type \"tmpfs\" is not supported",
            ),
        ] {
            assert_eq!(applied(edits).err().as_deref(), Some(why), "{edits}");
        }
    }
}
