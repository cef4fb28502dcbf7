//! What a machine is and has.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proto::quantity::Quantity;
use serde_json::{Value, json};

/// Below what is left of something the node is under pressure (Kubernetes: Node-pressure
/// Eviction, hard eviction thresholds). Of memory and disk that much is kept from pods.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Thresholds {
    pub memory: Threshold,
    pub disk: Threshold,
    pub pids: Threshold,
}

/// An amount, or a part of the whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    Amount(i64),
    Percent(f64),
}

impl Default for Threshold {
    fn default() -> Threshold {
        Threshold::Amount(0)
    }
}

impl Threshold {
    pub fn of(self, whole: i64) -> i64 {
        match self {
            Threshold::Amount(amount) => amount,
            Threshold::Percent(percent) => (whole as f64 * percent / 100.0) as i64,
        }
    }

    fn passed(self, left: u64, whole: u64) -> bool {
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        signed(left) < self.of(signed(whole))
    }
}

impl Thresholds {
    /// By signal, as they were given.
    pub fn signals(&self) -> BTreeMap<&'static str, String> {
        let all = [
            ("memory.available", self.memory),
            ("nodefs.available", self.disk),
            ("pid.available", self.pids),
        ];
        let set = all.into_iter().filter(|(_, threshold)| *threshold != Threshold::default());
        set.map(|(signal, threshold)| match threshold {
            Threshold::Amount(amount) => (signal, Quantity::bytes(amount).to_string()),
            Threshold::Percent(percent) => (signal, format!("{percent}%")),
        })
        .collect()
    }
}

impl std::str::FromStr for Thresholds {
    type Err = String;

    /// `memory.available<100Mi,nodefs.available<10%`, as `--eviction-hard`.
    fn from_str(text: &str) -> Result<Thresholds, String> {
        let mut all = Thresholds::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (signal, limit) =
                part.split_once('<').ok_or(format!("{part:?} is not SIGNAL<LIMIT"))?;
            let bad = || format!("{limit:?} is neither a quantity nor a percentage");
            let limit = match limit.strip_suffix('%') {
                Some(percent) => Threshold::Percent(percent.parse().map_err(|_| bad())?),
                None => Threshold::Amount(limit.parse::<Quantity>().map_err(|_| bad())?.value()),
            };
            match signal {
                "memory.available" => all.memory = limit,
                "nodefs.available" => all.disk = limit,
                "pid.available" => all.pids = limit,
                other => return Err(format!("this node does not watch {other:?}")),
            }
        }
        Ok(all)
    }
}

/// The port to the machine.
pub trait Facts: Send + Sync + 'static {
    /// cpu, memory, ephemeral-storage, huge pages by size.
    fn capacity(&self) -> BTreeMap<String, Quantity>;
    /// NodeSystemInfo without the versions of agent and runtime.
    fn info(&self) -> Value;
    fn pressure(&self, thresholds: &Thresholds) -> Pressure;
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

    fn pressure(&self, thresholds: &Thresholds) -> Pressure {
        let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
        let used = fs::read_to_string("/proc/loadavg").ok();
        let used = used.as_deref().and_then(|text| text.split(' ').nth(3)?.split('/').nth(1));
        let used: u64 = used.and_then(|text| text.parse().ok()).unwrap_or(0);
        let memory_left = memory("MemAvailable:");
        Pressure {
            memory: thresholds.memory.passed(memory_left, memory("MemTotal:")),
            disk: self.storage().is_some_and(|(size, left)| thresholds.disk.passed(left, size)),
            pids: number("/proc/sys/kernel/pid_max")
                .is_some_and(|max| thresholds.pids.passed(max.saturating_sub(used), max)),
        }
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

    #[test]
    fn thresholds_are_read_as_the_kubelet_reads_them() {
        let all: Thresholds = "memory.available<100Mi,nodefs.available<10%".parse().unwrap();
        assert_eq!((all.memory.of(1 << 30), all.disk.of(5000)), (100 << 20, 500));
        assert!(all.disk.passed(499, 5000) && !all.disk.passed(500, 5000));
        assert!(!all.pids.passed(0, 5000));
        let signals = all.signals();
        assert_eq!(signals["memory.available"], "100Mi");
        assert_eq!((signals["nodefs.available"].as_str(), signals.len()), ("10%", 2));
        for bad in ["memory.available", "memory.available<x", "imagefs.available<1%"] {
            assert!(bad.parse::<Thresholds>().is_err(), "{bad}");
        }
    }
}
