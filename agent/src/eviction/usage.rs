//! What was seen of the node and of what its pods use, as far as eviction asks. Pure.

use std::collections::BTreeMap;

use super::Signal;
use crate::runtime::cgroup;
use crate::stats::disk::FileSystem;
use crate::stats::machine::Reading;
use crate::stats::summary::{Fs, PodStats};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Observation {
    pub available: i64,
    pub capacity: i64,
}

/// What could not be seen is not there.
pub type Observations = BTreeMap<Signal, Observation>;

/// The node at one moment.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub machine: Reading,
    /// Of all pods together.
    pub pods: Option<cgroup::Usage>,
    pub node_fs: Option<FileSystem>,
    pub image_fs: Option<FileSystem>,
}

impl Seen {
    pub fn observations(&self) -> Observations {
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let mut all = Observations::new();
        let mut put = |signal, available, capacity| {
            let (available, capacity) = (signed(available), signed(capacity));
            all.insert(signal, Observation { available, capacity });
        };
        let memory = &self.machine.memory;
        if memory.total > 0 {
            let available = memory.total.saturating_sub(memory.working_set);
            put(Signal::MemoryAvailable, available, memory.total);
        }
        if let Some(used) = self.pods.and_then(|pods| pods.working_set) {
            let limit = self.pods.and_then(|pods| pods.memory_limit);
            let limit = limit.filter(|limit| *limit < memory.total).unwrap_or(memory.total);
            put(Signal::AllocatableMemory, limit.saturating_sub(used), limit);
        }
        if self.machine.most_tasks > 0 {
            let most = self.machine.most_tasks;
            put(Signal::PidAvailable, most.saturating_sub(self.machine.tasks), most);
        }
        let of = [
            (self.node_fs, Signal::NodeFsAvailable, Signal::NodeFsInodesFree),
            (self.image_fs, Signal::ImageFsAvailable, Signal::ImageFsInodesFree),
        ];
        for (fs, bytes, inodes) in of {
            let Some(fs) = fs else { continue };
            put(bytes, fs.available, fs.capacity);
            // Some file systems have as many as they need.
            if fs.inodes > 0 {
                put(inodes, fs.inodes_free, fs.inodes);
            }
        }
        all
    }
}

/// Bytes and inodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    pub bytes: u64,
    pub inodes: u64,
}

/// What one pod uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodUsage {
    /// Its working set.
    pub memory: Option<u64>,
    pub processes: Option<u64>,
    /// On the node's own disk: layers, logs and volumes.
    pub written: Option<Written>,
    /// Of that, in the layers of its containers.
    pub layers: Written,
    pub containers: Vec<ContainerUsage>,
    /// Bytes by volume.
    pub volumes: BTreeMap<String, u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerUsage {
    pub name: String,
    pub memory: Option<u64>,
    /// Layer and logs, in bytes.
    pub written: Option<u64>,
}

impl PodUsage {
    pub fn of(stats: &PodStats) -> PodUsage {
        let written = |fs: &Fs| Written {
            bytes: fs.used_bytes.unwrap_or(0),
            inodes: fs.inodes_used.unwrap_or(0),
        };
        let mut layers = Written::default();
        for layer in stats.containers.iter().filter_map(|one| one.rootfs.as_ref()) {
            let more = written(layer);
            layers.bytes += more.bytes;
            layers.inodes += more.inodes;
        }
        let container = |one: &crate::stats::summary::ContainerStats| {
            let parts = [&one.rootfs, &one.logs];
            let mut parts = parts.into_iter().flatten().filter_map(|fs| fs.used_bytes);
            let first = parts.next();
            ContainerUsage {
                name: one.name.clone(),
                memory: one.memory.as_ref().and_then(|memory| memory.working_set_bytes),
                written: first.map(|first| first + parts.sum::<u64>()),
            }
        };
        let volumes = stats.volumes.iter();
        let volumes =
            volumes.filter_map(|volume| Some((volume.name.clone(), volume.fs.used_bytes?)));
        PodUsage {
            memory: stats.memory.as_ref().and_then(|memory| memory.working_set_bytes),
            processes: stats.process_stats.as_ref().map(|stats| stats.process_count),
            written: stats.ephemeral_storage.as_ref().map(written),
            layers,
            containers: stats.containers.iter().map(container).collect(),
            volumes: volumes.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::machine::Memory;

    #[test]
    fn what_is_left_of_what() {
        let memory = Memory { total: 1000, working_set: 300, ..Memory::default() };
        let machine = Reading { memory, tasks: 40, most_tasks: 100, ..Reading::default() };
        let disk =
            FileSystem { capacity: 500, available: 50, used: 400, inodes: 0, inodes_free: 0 };
        let pods =
            cgroup::Usage { working_set: Some(100), memory_limit: Some(700), ..Default::default() };
        let node_fs = Some(disk);
        let seen = Seen { machine, pods: Some(pods), node_fs, image_fs: None };
        let all: Vec<_> = seen
            .observations()
            .into_iter()
            .map(|(signal, it)| (signal.name(), it.available, it.capacity))
            .collect();
        let expected = [
            ("memory.available", 700, 1000),
            ("allocatableMemory.available", 600, 700),
            ("nodefs.available", 50, 500),
            ("pid.available", 60, 100),
        ];
        assert_eq!(all, expected);
        assert_eq!(Seen::default().observations(), Observations::new());
    }
}
