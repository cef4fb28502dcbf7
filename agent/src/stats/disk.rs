//! What folders and file systems hold. Walks folders: for askers who want that, and never on the
//! runtime's threads.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use parking_lot::Mutex;
use proto::time::Time;

/// What was counted is told again for so long, as by other runtimes.
pub const KEPT: Duration = Duration::from_secs(10);

/// A file system as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileSystem {
    pub capacity: u64,
    /// For others than root.
    pub available: u64,
    pub used: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

/// What a folder takes of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    pub bytes: u64,
    pub inodes: u64,
}

/// What folders take, each walked at most once in [`KEPT`]: whoever asks often makes no work.
#[derive(Default)]
pub struct Walks(Mutex<HashMap<PathBuf, (Usage, Time)>>);

/// Where a pod writes, beside its containers' own layers.
#[derive(Clone, Debug, Default)]
pub struct PodDisk {
    pub logs: PathBuf,
    pub volumes: PathBuf,
    /// Volume and claim.
    pub claims: Vec<(String, String)>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Measured {
    /// By container.
    pub logs: BTreeMap<String, Usage>,
    pub volumes: Vec<Volume>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Volume {
    pub name: String,
    pub claim: Option<String>,
    pub usage: Usage,
    pub file_system: FileSystem,
    /// It is of the node's own disk, and goes with the pod.
    pub ephemeral: bool,
}

impl FileSystem {
    /// Of the file system that `path` is on.
    pub fn of(path: &Path) -> Option<FileSystem> {
        let found = rustix::fs::statvfs(path).ok()?;
        let size = found.f_frsize;
        Some(FileSystem {
            capacity: found.f_blocks * size,
            available: found.f_bavail * size,
            used: found.f_blocks.saturating_sub(found.f_bfree) * size,
            inodes: found.f_files,
            inodes_free: found.f_ffree,
        })
    }
}

impl PodDisk {
    pub fn measure(&self) -> Measured {
        let logs = folders(&self.logs).into_iter().map(|(name, path)| (name, usage(&path)));
        let mut volumes = Vec::new();
        for (plugin, folder) in folders(&self.volumes) {
            for (name, path) in folders(&folder) {
                volumes.extend(self.volume(&plugin, name, &path));
            }
        }
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        Measured { logs: logs.collect(), volumes }
    }

    fn volume(&self, plugin: &str, name: String, path: &Path) -> Option<Volume> {
        let file_system = FileSystem::of(path)?;
        let claim = self.claims.iter().find(|(volume, _)| *volume == name);
        let claim = claim.map(|(_, claim)| claim.clone());
        let own = |path: &Path| fs::metadata(path).ok().map(|found| found.dev());
        let mounted = own(path) != path.parent().and_then(own);
        let usage = match &claim {
            // A file system of its own knows how full it is.
            Some(_) if mounted => Usage {
                bytes: file_system.used,
                inodes: file_system.inodes.saturating_sub(file_system.inodes_free),
            },
            _ => usage(path),
        };
        let ephemeral = claim.is_none() && !mounted && plugin.starts_with("kubernetes.io~");
        Some(Volume { name, claim, usage, file_system, ephemeral })
    }
}

impl Walks {
    /// What a folder takes, and when that was counted.
    pub fn usage(&self, path: &Path, now: Time) -> (Usage, Time) {
        let fresh = |at: &Time| *at <= now && now.since(*at) < KEPT;
        if let Some(known) = self.0.lock().get(path).filter(|(_, at)| fresh(at)) {
            return *known;
        }
        // Others may ask for other folders meanwhile.
        let found = (usage(path), now);
        let mut all = self.0.lock();
        all.retain(|_, (_, at)| fresh(at));
        all.insert(path.to_owned(), found);
        found
    }
}

fn folders(path: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    let named = |entry: fs::DirEntry| Some((entry.file_name().into_string().ok()?, entry.path()));
    folders.filter_map(named).collect()
}

/// What a folder and everything below takes, as `du -x` counts it: a file with many names once,
/// and nothing of what is mounted in it.
pub fn usage(path: &Path) -> Usage {
    let Ok(top) = fs::symlink_metadata(path) else { return Usage::default() };
    let mut usage = Usage { bytes: top.blocks() * 512, inodes: 1 };
    let mut linked = HashSet::new();
    let mut folders = vec![path.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            if found.dev() != top.dev() {
                continue;
            }
            if !found.is_dir() && found.nlink() > 1 && !linked.insert(found.ino()) {
                continue;
            }
            usage.bytes += found.blocks() * 512;
            usage.inodes += 1;
            if found.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_walked_once_in_a_while() {
        let dir = tempfile::tempdir().unwrap();
        let (walks, at) = (Walks::default(), |seconds: i64| Time::from_unix(1000 + seconds));
        let inodes = |seconds| {
            let (found, counted) = walks.usage(dir.path(), at(seconds));
            (found.inodes, counted)
        };
        assert_eq!(inodes(0), (1, at(0)));
        fs::write(dir.path().join("a"), "").unwrap();
        assert_eq!(inodes(9), (1, at(0)));
        assert_eq!(inodes(10), (2, at(10)));
        // What nobody asks for any more is forgotten.
        let other = tempfile::tempdir().unwrap();
        walks.usage(other.path(), at(30));
        assert_eq!(walks.0.lock().len(), 1);
    }

    #[test]
    fn a_folder_is_counted_as_du_counts_it() {
        let dir = tempfile::tempdir().unwrap();
        let pod = dir.path().join("pod");
        let volume = pod.join("volumes/kubernetes.io~empty-dir/cache");
        fs::create_dir_all(&volume).unwrap();
        fs::write(volume.join("a"), vec![1; 100_000]).unwrap();
        fs::hard_link(volume.join("a"), volume.join("b")).unwrap();
        fs::create_dir_all(pod.join("logs/c")).unwrap();
        fs::write(pod.join("logs/c/0.log"), "line\n").unwrap();
        let found = usage(&volume);
        assert_eq!(found.inodes, 2);
        let du = std::process::Command::new("du").args(["-s", "-B1"]).arg(&volume).output();
        let text = String::from_utf8(du.unwrap().stdout).unwrap();
        assert_eq!(found.bytes.to_string(), text.split_whitespace().next().unwrap());
        let disk = PodDisk {
            logs: pod.join("logs"),
            volumes: pod.join("volumes"),
            claims: vec![("other".into(), "claim".into())],
        };
        let measured = disk.measure();
        assert_eq!(measured.logs["c"].inodes, 2);
        let [volume] = measured.volumes.as_slice() else { panic!("{measured:?}") };
        assert_eq!((volume.name.as_str(), &volume.claim, volume.ephemeral), ("cache", &None, true));
        assert_eq!(volume.usage, found);
        assert!(volume.file_system.capacity >= volume.file_system.available);
        assert_eq!(PodDisk::default().measure(), Measured::default());
    }
}
