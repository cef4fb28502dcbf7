//! Figures of containers, pods and file systems.

use std::fs;
use std::path::Path;

use proto::cri;
use proto::time::Time;

use super::cgroup::Usage;
use super::engine::{Container, Engine, Sandbox};
use super::images::ImageError;
use crate::stats::disk;

impl Engine {
    pub fn container_stats(&self, container: &Container) -> cri::ContainerStats {
        let record = container.record.lock().clone();
        let config = record.config.unwrap_or_default();
        let usage = self.cgroups.usage(&record.cgroup);
        let now = self.now();
        let upper = self.root.container(&record.id).join("upper");
        let (layer, counted) = self.walks.usage(&upper, self.clock.now());
        cri::ContainerStats {
            attributes: Some(cri::ContainerAttributes {
                id: record.id,
                metadata: config.metadata,
                labels: config.labels,
                annotations: config.annotations,
            }),
            cpu: Some(cpu(&usage, now)),
            memory: Some(memory(&usage, now)),
            writable_layer: Some(cri::FilesystemUsage {
                timestamp: nanoseconds(counted),
                fs_id: Some(cri::FilesystemIdentifier {
                    mountpoint: self.root.file("containers").display().to_string(),
                }),
                used_bytes: value(Some(layer.bytes)),
                inodes_used: value(Some(layer.inodes)),
            }),
            swap: Some(cri::SwapUsage {
                timestamp: now,
                swap_available_bytes: None,
                swap_usage_bytes: value(usage.swap),
            }),
            io: None,
        }
    }

    pub fn sandbox_stats(&self, sandbox: &Sandbox) -> cri::PodSandboxStats {
        let record = sandbox.record.lock().clone();
        let config = record.config.unwrap_or_default();
        let usage = self.cgroups.usage(&record.cgroup);
        let now = self.now();
        let containers = self.containers_of(&record.id);
        let network =
            interfaces(record.supervisor).filter(|_| record.ready && !record.ip.is_empty());
        cri::PodSandboxStats {
            attributes: Some(cri::PodSandboxAttributes {
                id: record.id,
                metadata: config.metadata,
                labels: config.labels,
                annotations: config.annotations,
            }),
            linux: Some(cri::LinuxPodSandboxStats {
                cpu: Some(cpu(&usage, now)),
                memory: Some(memory(&usage, now)),
                network: network.map(|mut interfaces| cri::NetworkUsage {
                    timestamp: now,
                    default_interface: interfaces
                        .iter()
                        .position(|i| i.name == "eth0")
                        .map(|at| interfaces.remove(at)),
                    interfaces,
                }),
                process: Some(cri::ProcessUsage {
                    timestamp: now,
                    process_count: value(usage.pids),
                }),
                containers: containers
                    .iter()
                    .map(|container| self.container_stats(container))
                    .collect(),
                io: None,
            }),
            windows: None,
        }
    }

    /// The content store, and where writable layers are.
    pub fn file_systems(&self) -> Result<(cri::FilesystemUsage, cri::FilesystemUsage), ImageError> {
        let now = self.clock.now();
        let of = |path: &Path, at, bytes, inodes| cri::FilesystemUsage {
            timestamp: nanoseconds(at),
            fs_id: Some(cri::FilesystemIdentifier { mountpoint: path.display().to_string() }),
            used_bytes: value(Some(bytes)),
            inodes_used: value(Some(inodes)),
        };
        let (images, containers) = (self.images.usage()?, self.root.file("containers"));
        let (disk::Usage { bytes, inodes }, counted) = self.walks.usage(&containers, now);
        Ok((
            of(self.images.root(), now, images.bytes, images.inodes),
            of(&containers, counted, bytes, inodes),
        ))
    }
}

/// Since 1970.
fn nanoseconds(time: Time) -> i64 {
    time.0.as_nanosecond() as i64
}

fn cpu(usage: &Usage, timestamp: i64) -> cri::CpuUsage {
    cri::CpuUsage {
        timestamp,
        usage_core_nano_seconds: value(usage.cpu_nanoseconds),
        ..Default::default()
    }
}

fn memory(usage: &Usage, timestamp: i64) -> cri::MemoryUsage {
    let available =
        usage.memory_limit.zip(usage.working_set).map(|(limit, used)| limit.saturating_sub(used));
    cri::MemoryUsage {
        timestamp,
        working_set_bytes: value(usage.working_set),
        available_bytes: value(available),
        usage_bytes: value(usage.memory),
        rss_bytes: value(usage.rss),
        page_faults: value(usage.page_faults),
        major_page_faults: value(usage.major_page_faults),
        psi: None,
    }
}

fn value(value: Option<u64>) -> Option<cri::UInt64Value> {
    value.map(|value| cri::UInt64Value { value })
}

/// Counters of a process's network namespace.
fn interfaces(pid: i32) -> Option<Vec<cri::NetworkInterfaceUsage>> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?;
    let lines = text.lines().skip(2).filter_map(|line| {
        let (name, counters) = line.split_once(':')?;
        let counters: Vec<u64> =
            counters.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        Some(cri::NetworkInterfaceUsage {
            name: name.trim().to_owned(),
            rx_bytes: value(counters.first().copied()),
            rx_errors: value(counters.get(2).copied()),
            tx_bytes: value(counters.get(8).copied()),
            tx_errors: value(counters.get(10).copied()),
        })
    });
    Some(lines.filter(|interface| interface.name != "lo").collect())
}
