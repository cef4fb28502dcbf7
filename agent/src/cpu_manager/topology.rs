//! How a machine's CPUs hang together, as the kernel tells in `/sys/devices/system/cpu`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::CpuSet;

pub const SYS: &str = "/sys/devices/system/cpu";

/// The CPUs that are online.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Topology {
    pub places: BTreeMap<u32, Place>,
}

/// Where a CPU is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub socket: u32,
    /// The least CPU of its core: cores have numbers only within their die.
    pub core: u32,
}

impl Topology {
    pub fn read(folder: &Path) -> io::Result<Topology> {
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
            let core = siblings.0.first().copied().unwrap_or(cpu);
            Ok((cpu, Place { socket, core }))
        };
        Ok(Topology { places: online.0.into_iter().map(place).collect::<io::Result<_>>()? })
    }

    pub fn all(&self) -> CpuSet {
        self.places.keys().copied().collect()
    }
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
        write("online", "0-1,4\n");
        for (cpu, package, file, siblings) in [
            (0, "0", "core_cpus_list", "0,4"),
            (4, "0", "core_cpus_list", "0,4"),
            (1, "-1", "thread_siblings_list", "1"),
        ] {
            write(&format!("cpu{cpu}/topology/physical_package_id"), package);
            write(&format!("cpu{cpu}/topology/{file}"), siblings);
        }
        let place = |socket, core| Place { socket, core };
        let places = [(0, place(0, 0)), (1, place(0, 1)), (4, place(0, 0))].into();
        assert_eq!(Topology::read(sys.path()).unwrap(), Topology { places });
        assert!(Topology::read(&sys.path().join("none")).is_err());
    }

    #[test]
    fn this_machine_has_some() {
        let topology = Topology::read(Path::new(SYS)).unwrap();
        assert!(!topology.all().is_empty());
    }
}
