//! What a machine is and has.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use proto::quantity::Quantity;
use serde_json::{Value, json};

/// Bytes of memory that pods are not given.
pub const MEMORY_KEPT: i64 = 100 << 20;

/// The port to the machine.
pub trait Facts: Send + Sync + 'static {
    /// cpu, memory, ephemeral-storage.
    fn capacity(&self) -> BTreeMap<String, Quantity>;
    /// NodeSystemInfo without the versions of agent and runtime.
    fn info(&self) -> Value;
    fn pressure(&self) -> Pressure;
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    pub memory: bool,
    pub disk: bool,
    pub pids: bool,
}

/// The machine this process runs on.
pub struct Machine {
    /// On whose filesystem pods write.
    root: PathBuf,
}

impl Machine {
    pub fn new(root: PathBuf) -> Machine {
        Machine { root }
    }

    /// Size and what is available, in bytes.
    fn storage(&self) -> Option<(u64, u64)> {
        let found = rustix::fs::statvfs(&self.root).ok()?;
        Some((found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize))
    }
}

impl Facts for Machine {
    fn capacity(&self) -> BTreeMap<String, Quantity> {
        let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get());
        let bytes = |bytes: u64| Quantity::bytes(i64::try_from(bytes).unwrap_or(i64::MAX));
        let storage = self.storage().map_or(0, |(size, _)| size);
        [
            ("cpu", Quantity::new(i64::try_from(cpus).unwrap_or(1))),
            ("memory", bytes(memory("MemTotal:"))),
            ("ephemeral-storage", bytes(storage)),
        ]
        .map(|(name, quantity)| (name.to_string(), quantity))
        .into()
    }

    fn info(&self) -> Value {
        let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_string();
        let release = line("/etc/os-release");
        let os = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        json!({
            "machineID": line("/etc/machine-id"),
            "systemUUID": line("/sys/class/dmi/id/product_uuid"),
            "bootID": line("/proc/sys/kernel/random/boot_id"),
            "kernelVersion": line("/proc/sys/kernel/osrelease"),
            "osImage": os.unwrap_or("Linux").trim_matches('"'),
            "operatingSystem": "linux",
            "architecture": architecture(),
            "containerRuntimeVersion": "",
            "kubeProxyVersion": "",
        })
    }

    fn pressure(&self) -> Pressure {
        let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let used = fs::read_to_string("/proc/loadavg").ok();
        let used = used.as_deref().and_then(|text| text.split(' ').nth(3)?.split('/').nth(1));
        let used: u64 = used.and_then(|text| text.parse().ok()).unwrap_or(0);
        Pressure {
            memory: memory("MemAvailable:") < MEMORY_KEPT.unsigned_abs(),
            disk: self.storage().is_some_and(|(size, free)| free < size / 10),
            pids: number("/proc/sys/kernel/pid_max").is_some_and(|max| used > max / 10 * 9),
        }
    }
}

/// As Go and Kubernetes name it.
pub fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A line of /proc/meminfo, in bytes.
pub fn memory(line: &str) -> u64 {
    let table = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let found = table.lines().find_map(|text| text.strip_prefix(line));
    let found = found.and_then(|text| text.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    found.unwrap_or(0) * 1024
}

/// What is free must be known for pods to be promised anything.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_something() {
        let capacity = Machine::new("/".into()).capacity();
        assert!(capacity.values().all(|quantity| quantity.value() > 0), "{capacity:?}");
        assert!(!Machine::new("/".into()).info()["kernelVersion"].as_str().unwrap().is_empty());
    }
}
