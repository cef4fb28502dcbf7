//! How a machine's CPUs hang together, as the kernel tells in `/sys/devices/system`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::CpuSet;

pub const SYS: &str = "/sys/devices/system";

/// The CPUs that are online.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Topology {
    pub places: BTreeMap<u32, Place>,
}

/// Where a CPU is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub socket: u32,
    /// The memory that is near.
    pub numa: u32,
    /// The least CPU of its last-level cache.
    pub cache: u32,
    /// The least CPU of its core: cores have numbers only within their die.
    pub core: u32,
}

impl Topology {
    pub fn read(folder: &Path) -> io::Result<Topology> {
        let nodes = numa(&folder.join("node"))?;
        let folder = folder.join("cpu");
        let online = cpus(&folder.join("online"))?;
        let place = |cpu: u32| {
            let own = folder.join(format!("cpu{cpu}/topology"));
            let number = |name: &str| {
                fs::read_to_string(own.join(name))?.trim().parse::<i64>().map_err(invalid)
            };
            let siblings = match cpus(&own.join("core_cpus_list")) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    cpus(&own.join("thread_siblings_list"))?
                }
                siblings => siblings?,
            };
            // Where nobody knows of sockets the kernel says -1: then there is one.
            let socket = u32::try_from(number("physical_package_id")?).unwrap_or(0);
            let least = |cpus: &CpuSet| cpus.0.first().copied().unwrap_or(cpu);
            let numa = nodes.iter().find(|(_, cpus)| cpus.contains(cpu));
            // Of a virtual machine nobody may know the caches: then those of a socket are one.
            let cache = cpus(&folder.join(format!("cpu{cpu}/cache/index3/shared_cpu_list")));
            let cache = match cache {
                Err(error) if error.kind() == io::ErrorKind::NotFound => u32::MAX - socket,
                cache => least(&cache?),
            };
            let numa = numa.map_or(0, |(node, _)| *node);
            Ok((cpu, Place { socket, numa, cache, core: least(&siblings) }))
        };
        Ok(Topology { places: online.0.into_iter().map(place).collect::<io::Result<_>>()? })
    }

    pub fn all(&self) -> CpuSet {
        self.places.keys().copied().collect()
    }

    /// How many threads a core has.
    pub fn threads(&self) -> usize {
        let mut cores: BTreeMap<u32, usize> = BTreeMap::new();
        self.places.values().for_each(|place| *cores.entry(place.core).or_default() += 1);
        cores.into_values().max().unwrap_or(1)
    }

    /// Those whose whole core is among them.
    pub fn whole_cores(&self, cpus: &CpuSet) -> CpuSet {
        let core = |cpu: &u32| self.places.get(cpu).map(|place| place.core);
        let broken = |cpu: &u32| {
            self.places
                .iter()
                .any(|(other, place)| Some(place.core) == core(cpu) && !cpus.contains(*other))
        };
        cpus.0.iter().copied().filter(|cpu| !broken(cpu)).collect()
    }
}

/// A kernel without NUMA has no such folder.
fn numa(folder: &Path) -> io::Result<Vec<(u32, CpuSet)>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut nodes = Vec::new();
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix("node")?.parse().ok());
        if let Some(number) = number {
            nodes.push((number, cpus(&entry.path().join("cpulist"))?));
        }
    }
    Ok(nodes)
}

fn cpus(file: &Path) -> io::Result<CpuSet> {
    fs::read_to_string(file)?.parse().map_err(invalid)
}

fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_kernel_tells() {
        let sys = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = sys.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("cpu/online", "0-1,4\n");
        for (cpu, package, file, siblings) in [
            (0, "0", "core_cpus_list", "0,4"),
            (4, "0", "core_cpus_list", "0,4"),
            (1, "-1", "thread_siblings_list", "1"),
        ] {
            write(&format!("cpu/cpu{cpu}/topology/physical_package_id"), package);
            write(&format!("cpu/cpu{cpu}/topology/{file}"), siblings);
        }
        let place = |numa, cache, core| Place { socket: 0, numa, cache, core };
        let none = u32::MAX;
        let places = [(0, place(0, none, 0)), (1, place(0, none, 1)), (4, place(0, none, 0))];
        assert_eq!(Topology::read(sys.path()).unwrap(), Topology { places: places.into() });
        write("node/node0/cpulist", "0,4\n");
        write("node/node1/cpulist", "1\n");
        write("node/possible", "0-1\n");
        for (cpu, shared) in [(0, "0,4"), (4, "0,4"), (1, "1")] {
            write(&format!("cpu/cpu{cpu}/cache/index3/shared_cpu_list"), shared);
        }
        let places = [(0, place(0, 0, 0)), (1, place(1, 1, 1)), (4, place(0, 0, 0))];
        let topology = Topology { places: places.into() };
        assert_eq!(Topology::read(sys.path()).unwrap(), topology);
        assert_eq!(topology.threads(), 2);
        assert_eq!(topology.whole_cores(&"0-1".parse().unwrap()).to_string(), "1");
        assert_eq!(topology.whole_cores(&"0,4".parse().unwrap()).to_string(), "0,4");
        assert!(Topology::read(&sys.path().join("none")).is_err());
    }

    #[test]
    fn this_machine_has_some() {
        let topology = Topology::read(Path::new(SYS)).unwrap();
        assert!(!topology.all().is_empty());
    }
}
