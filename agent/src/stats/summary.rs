//! `/stats/summary`: the figures in the kubelet's words (k8s.io/kubelet `stats/v1alpha1`). Pure.

use std::collections::HashMap;

use client::endpoint::Process;
use proto::cri::{self, UInt64Value};
use proto::time::Time;

use super::disk::{FileSystem, Measured, Usage};
use super::machine::{Interface, Reading};
use super::{Scope, moment};
use crate::cri::{Usage as RuntimeUsage, labels};
use crate::runtime::cgroup;

mod types;

pub use types::{
    ContainerStats, Cpu, Fs, InterfaceStats, Memory, Network, NodeStats, PodReference, PodStats,
    ProcessStats, PvcReference, Rlimit, Runtime, Summary, Swap, VolumeStats,
};

/// What was read, of one moment.
#[derive(Clone, Debug)]
pub struct Figures {
    pub node: String,
    pub now: Time,
    pub machine: Reading,
    /// Of all pods together.
    pub kubepods: Option<cgroup::Usage>,
    pub usage: RuntimeUsage,
    pub node_fs: Option<FileSystem>,
    pub image_fs: Option<(cri::FilesystemUsage, FileSystem)>,
    pub container_fs: Option<(cri::FilesystemUsage, FileSystem)>,
    /// By pod uid.
    pub disks: HashMap<String, Measured>,
    /// Billionths of a core, by the id of a container or sandbox; the node's is "".
    pub rates: HashMap<String, u64>,
}

impl Default for Figures {
    fn default() -> Figures {
        Figures {
            node: String::new(),
            now: Time::from_unix(0),
            machine: Reading::default(),
            kubepods: None,
            usage: RuntimeUsage::default(),
            node_fs: None,
            image_fs: None,
            container_fs: None,
            disks: HashMap::new(),
            rates: HashMap::new(),
        }
    }
}

/// The summary of what was read.
pub fn build(figures: &Figures, scope: Scope) -> Summary {
    let pods = figures.usage.pods.iter();
    Summary {
        node: node(figures, scope),
        pods: pods.filter_map(|stats| pod(figures, stats, scope)).collect(),
    }
}

fn node(figures: &Figures, scope: Scope) -> NodeStats {
    let Figures { machine, now: time, .. } = figures;
    let time = *time;
    let everything = scope == Scope::Everything;
    let memory = &machine.memory;
    let runtime = |fs: &Option<(cri::FilesystemUsage, FileSystem)>| {
        let (usage, whole) = fs.as_ref()?;
        Some(taken(usage, whole))
    };
    NodeStats {
        node_name: figures.node.clone(),
        system_containers: system_containers(figures),
        start_time: machine.booted,
        cpu: Cpu {
            time,
            usage_nano_cores: figures.rates.get("").copied(),
            usage_core_nano_seconds: Some(machine.cpu_nanoseconds),
        },
        memory: Memory {
            time,
            available_bytes: Some(memory.total.saturating_sub(memory.working_set)),
            usage_bytes: Some(memory.usage),
            working_set_bytes: Some(memory.working_set),
            rss_bytes: Some(memory.rss),
            page_faults: Some(memory.page_faults),
            major_page_faults: Some(memory.major_page_faults),
        },
        network: everything.then(|| {
            let all: Vec<InterfaceStats> = machine.interfaces.iter().map(interface).collect();
            let default = machine.default_interface.as_ref();
            let default = all.iter().find(|one| Some(&one.name) == default);
            Network { time, default: default.cloned().unwrap_or_default(), interfaces: all }
        }),
        fs: figures.node_fs.filter(|_| everything).map(|fs| Fs {
            used_bytes: Some(fs.used),
            inodes_used: Some(fs.inodes.saturating_sub(fs.inodes_free)),
            ..whole(&fs, time)
        }),
        runtime: everything.then(|| Runtime {
            image_fs: runtime(&figures.image_fs),
            container_fs: runtime(&figures.container_fs),
        }),
        rlimit: everything.then_some(Rlimit {
            time,
            maxpid: machine.most_tasks,
            curproc: machine.tasks,
        }),
        swap: Swap {
            time,
            swap_available_bytes: Some(machine.swap.free),
            swap_usage_bytes: Some(machine.swap.total.saturating_sub(machine.swap.free)),
        },
    }
}

/// The agent, and all pods together.
fn system_containers(figures: &Figures) -> Vec<ContainerStats> {
    let time = figures.now;
    let Process { cpu_nanoseconds, resident, started, page_faults, major_page_faults, .. } =
        figures.machine.agent;
    let agent = ContainerStats {
        name: "kubelet".into(),
        start_time: started,
        cpu: Some(Cpu {
            time,
            usage_nano_cores: None,
            usage_core_nano_seconds: Some(cpu_nanoseconds),
        }),
        memory: Some(Memory {
            time,
            available_bytes: None,
            usage_bytes: Some(resident),
            working_set_bytes: Some(resident),
            rss_bytes: Some(resident),
            page_faults: Some(page_faults),
            major_page_faults: Some(major_page_faults),
        }),
        ..ContainerStats::default()
    };
    let mut all = vec![agent];
    if let Some(usage) = figures.kubepods.filter(|usage| usage.memory.is_some()) {
        let total = figures.machine.memory.total;
        let limit = usage.memory_limit.filter(|limit| *limit < total).unwrap_or(total);
        all.push(ContainerStats {
            name: "pods".into(),
            start_time: figures.machine.booted,
            cpu: Some(Cpu {
                time,
                usage_nano_cores: None,
                usage_core_nano_seconds: usage.cpu_nanoseconds,
            }),
            memory: Some(Memory {
                time,
                available_bytes: usage.working_set.map(|used| limit.saturating_sub(used)),
                usage_bytes: usage.memory,
                working_set_bytes: usage.working_set,
                rss_bytes: usage.rss,
                page_faults: usage.page_faults,
                major_page_faults: usage.major_page_faults,
            }),
            ..ContainerStats::default()
        });
    }
    all
}

fn pod(figures: &Figures, stats: &cri::PodSandboxStats, scope: Scope) -> Option<PodStats> {
    let attributes = stats.attributes.as_ref()?;
    let meta = attributes.metadata.as_ref()?;
    let linux = stats.linux.as_ref()?;
    let everything = scope == Scope::Everything;
    let disk = figures.disks.get(&meta.uid).filter(|_| everything);
    let containers = linux.containers.iter();
    let containers: Vec<ContainerStats> =
        containers.filter_map(|one| container(figures, one, disk)).collect();
    let mut volumes = Vec::new();
    for volume in disk.map(|disk| disk.volumes.as_slice()).unwrap_or_default() {
        volumes.push(VolumeStats {
            fs: part(&volume.file_system, volume.usage, figures.now),
            name: volume.name.clone(),
            pvc_ref: volume
                .claim
                .clone()
                .map(|name| PvcReference { name, namespace: meta.namespace.clone() }),
        });
    }
    let sandbox = figures.usage.running.sandboxes.get(&attributes.id);
    let process = linux.process.as_ref().and_then(|process| process.process_count.as_ref());
    let swap = containers.iter().filter_map(|one| one.swap);
    let swap = swap.fold(None, |sum: Option<Swap>, one| {
        let usage = sum.and_then(|sum| sum.swap_usage_bytes).unwrap_or(0);
        let more = one.swap_usage_bytes.unwrap_or(0);
        Some(Swap { swap_usage_bytes: Some(usage + more), ..one })
    });
    Some(PodStats {
        pod_ref: PodReference {
            name: meta.name.clone(),
            namespace: meta.namespace.clone(),
            uid: meta.uid.clone(),
        },
        start_time: sandbox.map(|sandbox| moment(sandbox.created_at)),
        cpu: linux.cpu.as_ref().map(|usage| cpu(usage, figures.rates.get(&attributes.id))),
        memory: linux.memory.as_ref().map(memory),
        network: linux.network.as_ref().filter(|_| everything).map(network),
        ephemeral_storage: disk.and_then(|disk| {
            Some(part(&figures.node_fs?, own_disk(&containers, disk), figures.now))
        }),
        process_stats: process.map(|count| ProcessStats { process_count: count.value }),
        containers,
        volumes,
        swap,
    })
}

/// What a pod has written on the node's own disk.
fn own_disk(containers: &[ContainerStats], disk: &Measured) -> Usage {
    let mut sum = Usage::default();
    for fs in containers.iter().flat_map(|one| [&one.rootfs, &one.logs]).flatten() {
        sum.bytes += fs.used_bytes.unwrap_or(0);
        sum.inodes += fs.inodes_used.unwrap_or(0);
    }
    for volume in disk.volumes.iter().filter(|volume| volume.ephemeral) {
        sum.bytes += volume.usage.bytes;
        sum.inodes += volume.usage.inodes;
    }
    sum
}

/// One that has ended is not told of.
fn container(
    figures: &Figures,
    stats: &cri::ContainerStats,
    disk: Option<&Measured>,
) -> Option<ContainerStats> {
    let attributes = stats.attributes.as_ref()?;
    let running = figures.usage.running.containers.get(&attributes.id)?;
    let name = attributes.labels.get(labels::CONTAINER_NAME);
    let name = name.or(attributes.metadata.as_ref().map(|meta| &meta.name))?;
    let logs = disk.and_then(|disk| disk.logs.get(name)).copied();
    let container_fs = figures.container_fs.as_ref().map(|(_, fs)| fs);
    Some(ContainerStats {
        name: name.clone(),
        id: attributes.id.clone(),
        start_time: Some(moment(running.created_at)),
        cpu: stats.cpu.as_ref().map(|usage| cpu(usage, figures.rates.get(&attributes.id))),
        memory: stats.memory.as_ref().map(memory),
        rootfs: disk.and_then(|_| Some(taken(stats.writable_layer.as_ref()?, container_fs?))),
        logs: logs.and_then(|usage| Some(part(&figures.node_fs?, usage, figures.now))),
        swap: stats.swap.as_ref().map(|swap| Swap {
            time: moment(swap.timestamp),
            swap_available_bytes: value(&swap.swap_available_bytes),
            swap_usage_bytes: value(&swap.swap_usage_bytes),
        }),
    })
}

fn value(value: &Option<UInt64Value>) -> Option<u64> {
    value.as_ref().map(|value| value.value)
}

fn cpu(usage: &cri::CpuUsage, rate: Option<&u64>) -> Cpu {
    Cpu {
        time: moment(usage.timestamp),
        usage_nano_cores: value(&usage.usage_nano_cores).or(rate.copied()),
        usage_core_nano_seconds: value(&usage.usage_core_nano_seconds),
    }
}

fn memory(usage: &cri::MemoryUsage) -> Memory {
    Memory {
        time: moment(usage.timestamp),
        available_bytes: value(&usage.available_bytes),
        usage_bytes: value(&usage.usage_bytes),
        working_set_bytes: value(&usage.working_set_bytes),
        rss_bytes: value(&usage.rss_bytes),
        page_faults: value(&usage.page_faults),
        major_page_faults: value(&usage.major_page_faults),
    }
}

fn network(usage: &cri::NetworkUsage) -> Network {
    let one = |interface: &cri::NetworkInterfaceUsage| InterfaceStats {
        name: interface.name.clone(),
        rx_bytes: value(&interface.rx_bytes),
        rx_errors: value(&interface.rx_errors),
        tx_bytes: value(&interface.tx_bytes),
        tx_errors: value(&interface.tx_errors),
    };
    let default = usage.default_interface.as_ref().map(one);
    let others = usage.interfaces.iter().map(one);
    let others = others.filter(|other| Some(&other.name) != default.as_ref().map(|it| &it.name));
    Network {
        time: moment(usage.timestamp),
        interfaces: default.iter().cloned().chain(others).collect(),
        default: default.unwrap_or_default(),
    }
}

fn interface(interface: &Interface) -> InterfaceStats {
    InterfaceStats {
        name: interface.name.clone(),
        rx_bytes: Some(interface.rx_bytes),
        rx_errors: Some(interface.rx_errors),
        tx_bytes: Some(interface.tx_bytes),
        tx_errors: Some(interface.tx_errors),
    }
}

fn whole(fs: &FileSystem, time: Time) -> Fs {
    Fs {
        time,
        available_bytes: fs.available,
        capacity_bytes: fs.capacity,
        used_bytes: None,
        inodes_free: fs.inodes_free,
        inodes: fs.inodes,
        inodes_used: None,
    }
}

fn part(fs: &FileSystem, usage: Usage, time: Time) -> Fs {
    Fs { used_bytes: Some(usage.bytes), inodes_used: Some(usage.inodes), ..whole(fs, time) }
}

/// What the runtime says that is taken of a file system.
fn taken(usage: &cri::FilesystemUsage, fs: &FileSystem) -> Fs {
    Fs {
        used_bytes: value(&usage.used_bytes),
        inodes_used: value(&usage.inodes_used),
        ..whole(fs, moment(usage.timestamp))
    }
}

#[cfg(test)]
pub(crate) mod tests;
