//! Metrics of pods and containers under the names that cAdvisor gave them (Kubernetes: Kubernetes
//! Component Metrics, cadvisor), for kubelets that take them from the runtime. A metric that this
//! machine has no figure for is left out, not told as 0.

use std::fs;

use proto::cri::{self, MetricType};

use super::cgroup::Usage;
use super::engine::{Container, Engine, Sandbox};
use crate::stats::disk;

/// A metric's name, type and meaning, and where its value is found.
struct Descriptor<T> {
    name: &'static str,
    kind: MetricType,
    help: &'static str,
    value: fn(&T) -> Option<u64>,
}

/// The figures of a container at one moment.
struct Figures {
    usage: Usage,
    oom_kills: u64,
    started_at: i64,
    now: i64,
    written: disk::Usage,
    resources: cri::LinuxContainerResources,
    threads: Option<u64>,
    descriptors: Option<u64>,
}

const SECOND: i64 = 1_000_000_000;
const CONTAINER_LABELS: [&str; 3] = ["id", "name", "image"];
const NETWORK_LABELS: [&str; 4] = ["id", "name", "image", "interface"];

const CONTAINER: &[Descriptor<Figures>] = &[
    counter("container_cpu_usage_seconds_total", "CPU time used, in seconds", |f| {
        Some(f.usage.cpu_nanoseconds? / SECOND as u64)
    }),
    gauge("container_memory_usage_bytes", "Memory in use, caches included", |f| f.usage.memory),
    gauge("container_memory_working_set_bytes", "Memory that cannot be given back easily", |f| {
        f.usage.working_set
    }),
    gauge("container_memory_rss", "Anonymous memory", |f| f.usage.rss),
    gauge("container_memory_swap", "Swap in use", |f| f.usage.swap),
    counter("container_memory_failures_total", "Page faults that read from a disk", |f| {
        f.usage.major_page_faults
    }),
    counter("container_oom_events_total", "Processes killed for want of memory", |f| {
        Some(f.oom_kills)
    }),
    gauge("container_processes", "Processes and threads as the pids controller counts them", |f| {
        f.usage.pids
    }),
    gauge("container_threads", "Threads of the first process", |f| f.threads),
    gauge("container_file_descriptors", "Open descriptors of the first process", |f| f.descriptors),
    gauge("container_fs_usage_bytes", "Bytes in the writable layer", |f| Some(f.written.bytes)),
    gauge("container_fs_inodes_total", "Files in the writable layer", |f| Some(f.written.inodes)),
    gauge("container_last_seen", "When this was looked at, in seconds since 1970", |f| {
        u64::try_from(f.now / SECOND).ok()
    }),
    gauge("container_start_time_seconds", "When it started, in seconds since 1970", |f| {
        u64::try_from(f.started_at / SECOND).ok().filter(|seconds| *seconds > 0)
    }),
    gauge("container_spec_cpu_period", "Microseconds in a period of the CPU quota", |f| {
        limit(f.resources.cpu_period)
    }),
    gauge("container_spec_cpu_quota", "Microseconds of CPU time per period", |f| {
        limit(f.resources.cpu_quota)
    }),
    gauge("container_spec_cpu_shares", "Shares of CPU time", |f| limit(f.resources.cpu_shares)),
    gauge("container_spec_memory_limit_bytes", "The limit of memory", |f| {
        limit(f.resources.memory_limit_in_bytes)
    }),
    gauge("container_spec_memory_swap_limit_bytes", "The limit of memory with swap", |f| {
        limit(f.resources.memory_swap_limit_in_bytes)
    }),
];

/// Columns of /proc/PID/net/dev.
const NETWORK: [(&str, &str, usize); 8] = [
    ("container_network_receive_bytes_total", "Bytes received", 0),
    ("container_network_receive_packets_total", "Packets received", 1),
    ("container_network_receive_errors_total", "Errors while receiving", 2),
    ("container_network_receive_packets_dropped_total", "Packets dropped while receiving", 3),
    ("container_network_transmit_bytes_total", "Bytes sent", 8),
    ("container_network_transmit_packets_total", "Packets sent", 9),
    ("container_network_transmit_errors_total", "Errors while sending", 10),
    ("container_network_transmit_packets_dropped_total", "Packets dropped while sending", 11),
];

const fn counter<T>(
    name: &'static str,
    help: &'static str,
    value: fn(&T) -> Option<u64>,
) -> Descriptor<T> {
    Descriptor { name, kind: MetricType::Counter, help, value }
}

const fn gauge<T>(
    name: &'static str,
    help: &'static str,
    value: fn(&T) -> Option<u64>,
) -> Descriptor<T> {
    Descriptor { name, kind: MetricType::Gauge, help, value }
}

/// Limits that are set.
fn limit(value: i64) -> Option<u64> {
    u64::try_from(value).ok().filter(|value| *value > 0)
}

/// What every metric means.
pub fn descriptors() -> Vec<cri::MetricDescriptor> {
    let told = |name: &str, help: &str, labels: &[&str]| cri::MetricDescriptor {
        name: name.to_owned(),
        help: help.to_owned(),
        label_keys: labels.iter().map(|label| (*label).to_owned()).collect(),
    };
    let container = CONTAINER.iter().map(|one| told(one.name, one.help, &CONTAINER_LABELS));
    let network = NETWORK.iter().map(|(name, help, _)| told(name, help, &NETWORK_LABELS));
    container.chain(network).collect()
}

impl Engine {
    /// The metrics of a pod and of its containers that run.
    pub fn sandbox_metrics(&self, sandbox: &Sandbox) -> cri::PodSandboxMetrics {
        let record = sandbox.record.lock().clone();
        let containers = self.containers_of(&sandbox.id);
        let running = containers.iter().filter_map(|container| self.container_metrics(container));
        let container_metrics = running.collect();
        let metrics = match record.ready && !record.ip.is_empty() {
            true => network(&record.id, &record.cgroup, record.supervisor, self.now()),
            false => Vec::new(),
        };
        cri::PodSandboxMetrics { pod_sandbox_id: record.id, metrics, container_metrics }
    }

    fn container_metrics(&self, container: &Container) -> Option<cri::ContainerMetrics> {
        let state = self.running(container).ok()?;
        let record = container.record.lock().clone();
        let config = record.config.unwrap_or_default();
        let process = format!("/proc/{}", state.pid);
        let count =
            |folder: &str| Some(fs::read_dir(format!("{process}/{folder}")).ok()?.count() as u64);
        let now = self.now();
        let figures = Figures {
            usage: self.cgroups.usage(&record.cgroup),
            oom_kills: self.cgroups.oom_kills(&record.cgroup),
            started_at: state.started,
            now,
            written: disk::usage(&self.root.container(&record.id).join("upper")),
            resources: config.linux.and_then(|linux| linux.resources).unwrap_or_default(),
            threads: count("task"),
            descriptors: count("fd"),
        };
        let name = config.metadata.map(|metadata| metadata.name).unwrap_or_default();
        let image = config.image.map(|image| image.image).unwrap_or_default();
        let labels = vec![record.cgroup, name, image];
        let metric = |one: &Descriptor<Figures>| {
            let value = (one.value)(&figures)?;
            Some(metric(one.name, one.kind, now, labels.clone(), value))
        };
        Some(cri::ContainerMetrics {
            container_id: record.id,
            metrics: CONTAINER.iter().filter_map(metric).collect(),
        })
    }
}

/// The counters of a pod's links.
fn network(sandbox: &str, cgroup: &str, pid: i32, now: i64) -> Vec<cri::Metric> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap_or_default();
    let mut metrics = Vec::new();
    for (interface, counters) in links(&text) {
        for (name, _, column) in NETWORK {
            let Some(value) = counters.get(column) else { continue };
            let labels = [cgroup, sandbox, "", interface].map(str::to_owned).to_vec();
            metrics.push(metric(name, MetricType::Counter, now, labels, *value));
        }
    }
    metrics
}

/// The links of a table of /proc/PID/net/dev, but for the loopback.
fn links(table: &str) -> impl Iterator<Item = (&str, Vec<u64>)> {
    table.lines().skip(2).filter_map(|line| {
        let (name, counters) = line.split_once(':')?;
        let counters = counters.split_whitespace().filter_map(|word| word.parse().ok());
        Some((name.trim(), counters.collect())).filter(|(name, _)| *name != "lo")
    })
}

fn metric(
    name: &str,
    kind: MetricType,
    timestamp: i64,
    label_values: Vec<String>,
    value: u64,
) -> cri::Metric {
    cri::Metric {
        name: name.to_owned(),
        timestamp,
        metric_type: kind as i32,
        label_values,
        value: Some(cri::UInt64Value { value }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_described_once() {
        let mut names: Vec<String> = descriptors().into_iter().map(|one| one.name).collect();
        assert_eq!(names.len(), CONTAINER.len() + NETWORK.len());
        names.sort();
        names.dedup();
        assert_eq!(names.len(), CONTAINER.len() + NETWORK.len());
    }

    #[test]
    fn links_are_read() {
        let table =
            "Inter-|   Receive\n face |bytes\n    lo: 1 2 3\n  eth0: 10 2 0 1 0 0 0 0 20 3\n";
        let found: Vec<_> = links(table).collect();
        assert_eq!(found, [("eth0", vec![10, 2, 0, 1, 0, 0, 0, 0, 20, 3])]);
    }
}
