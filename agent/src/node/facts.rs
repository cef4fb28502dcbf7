//! What a machine is and has.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proto::quantity::Quantity;
use serde_json::{Value, json};

/// The port to the machine.
pub trait Facts: Send + Sync + 'static {
    /// cpu, memory, ephemeral-storage, huge pages by size.
    fn capacity(&self) -> BTreeMap<String, Quantity>;
    /// NodeSystemInfo without the versions of agent and runtime.
    fn info(&self) -> Value;
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

    /// Of the file system, in bytes.
    fn storage(&self) -> Option<u64> {
        let found = rustix::fs::statvfs(&self.root).ok()?;
        Some(found.f_blocks * found.f_frsize)
    }
}

impl Facts for Machine {
    fn capacity(&self) -> BTreeMap<String, Quantity> {
        let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get());
        let bytes = |bytes: u64| Quantity::bytes(i64::try_from(bytes).unwrap_or(i64::MAX));
        let storage = self.storage().unwrap_or(0);
        let mut capacity: BTreeMap<String, Quantity> = [
            ("cpu", Quantity::new(i64::try_from(cpus).unwrap_or(1))),
            ("memory", bytes(memory("MemTotal:"))),
            ("ephemeral-storage", bytes(storage)),
        ]
        .map(|(name, quantity)| (name.to_string(), quantity))
        .into();
        capacity.extend(huge_pages(Path::new("/sys/kernel/mm/hugepages")));
        capacity
    }

    fn info(&self) -> Value {
        let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_string();
        let release = line("/etc/os-release");
        let os = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        let id = [line("/etc/machine-id"), line("/var/lib/dbus/machine-id")];
        let mut info = json!({
            "machineID": id.into_iter().find(|id| !id.is_empty()).unwrap_or_default(),
            "systemUUID": line("/sys/class/dmi/id/product_uuid"),
            "bootID": line("/proc/sys/kernel/random/boot_id"),
            "kernelVersion": line("/proc/sys/kernel/osrelease"),
            "osImage": os.unwrap_or("Linux").trim_matches('"'),
            "operatingSystem": "linux",
            "architecture": architecture(),
            "containerRuntimeVersion": "",
            "kubeProxyVersion": "",
        });
        let swap = memory("SwapTotal:");
        if swap > 0 {
            info["swap"] = json!({ "capacity": swap });
        }
        info
    }
}

/// `hugepages-2Mi` and so on: the bytes in the pool of each size.
fn huge_pages(pools: &Path) -> BTreeMap<String, Quantity> {
    let entries = fs::read_dir(pools).into_iter().flatten().flatten();
    let pool = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok()?;
        let kilobytes: i64 = name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok()?;
        let pages = fs::read_to_string(entry.path().join("nr_hugepages")).ok()?;
        let size = kilobytes * 1024;
        let bytes = Quantity::bytes(size * pages.trim().parse::<i64>().ok()?);
        Some((format!("hugepages-{}", Quantity::bytes(size)), bytes))
    };
    entries.filter_map(pool).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_has_something() {
        let capacity = Machine::new("/".into()).capacity();
        for name in ["cpu", "memory", "ephemeral-storage"] {
            assert!(capacity[name].value() > 0, "{capacity:?}");
        }
        assert!(!Machine::new("/".into()).info()["kernelVersion"].as_str().unwrap().is_empty());
    }

    #[test]
    fn huge_pages_are_counted_by_size() {
        let dir = tempfile::tempdir().unwrap();
        for (pool, pages) in [("hugepages-2048kB", "3\n"), ("hugepages-1048576kB", "0\n")] {
            fs::create_dir(dir.path().join(pool)).unwrap();
            fs::write(dir.path().join(pool).join("nr_hugepages"), pages).unwrap();
        }
        let found = huge_pages(dir.path());
        let found: Vec<_> =
            found.iter().map(|(name, bytes)| (name.as_str(), bytes.value())).collect();
        assert_eq!(found, [("hugepages-1Gi", 0), ("hugepages-2Mi", 6 << 20)]);
        assert_eq!(huge_pages(&dir.path().join("none")), BTreeMap::new());
    }
}
