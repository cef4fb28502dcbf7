//! Control groups: limits, membership, killing, figures. Three kinds of machines: v2 alone, v1 alone,
//! and hybrid, where the controllers are v1's and an (otherwise empty) v2 hierarchy kills and counts.
//!
//! Paths are absolute within every hierarchy, whatever group this process is in. The runtime calls
//! this; nothing else may touch the groups it makes.

mod device_groups;
pub mod devices;
mod huge_pages;
mod v1;
mod v2;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use self::device_groups::Shared;

/// The hierarchies of this machine.
#[derive(Clone, Debug)]
pub struct Cgroups {
    /// The v2 hierarchy; on a hybrid machine it has no controllers that matter.
    unified: Option<PathBuf>,
    /// v1 controllers by name; empty on a v2 machine.
    v1: BTreeMap<String, PathBuf>,
    devices: Arc<Mutex<Shared>>,
}

/// Limits of a group. `None` leaves what there is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    /// In shares of v1: 2…262144.
    pub cpu_shares: Option<u64>,
    /// In microseconds of CPU time per period; -1 is none.
    pub cpu_quota: Option<i64>,
    /// In microseconds.
    pub cpu_period: Option<u64>,
    /// In bytes; -1 is none.
    pub memory: Option<i64>,
    /// In bytes, memory and swap together; -1 is none.
    pub memory_and_swap: Option<i64>,
    pub pids: Option<i64>,
    pub cpus: Option<String>,
    pub mems: Option<String>,
    /// Bytes in huge pages of a size, such as `2MB`.
    pub huge_pages: Vec<(String, u64)>,
    /// Files of v2 by name, written as they are.
    pub unified: BTreeMap<String, String>,
}

/// Figures of a group; `None` is unknown.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub cpu_nanoseconds: Option<u64>,
    pub memory: Option<u64>,
    /// Without file pages that are not in use.
    pub working_set: Option<u64>,
    pub memory_limit: Option<u64>,
    pub rss: Option<u64>,
    pub page_faults: Option<u64>,
    pub major_page_faults: Option<u64>,
    pub swap: Option<u64>,
    pub pids: Option<u64>,
}

/// How a new process gets into a group.
pub struct Entry {
    /// To be born into.
    pub unified: Option<OwnedFd>,
    /// `cgroup.procs` files to write "0" to.
    pub procs: Vec<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
#[error("{action} {path}")]
pub struct CgroupError {
    action: &'static str,
    path: String,
    #[source]
    source: io::Error,
}

impl CgroupError {
    fn refused(action: &'static str, what: &str, why: &str) -> CgroupError {
        let source = io::Error::new(io::ErrorKind::Unsupported, why);
        CgroupError { action, path: what.to_owned(), source }
    }
}

/// One file to write: controller (of v1), file, value.
#[derive(Debug, PartialEq)]
struct Setting {
    controller: &'static str,
    file: String,
    value: String,
}

impl Cgroups {
    /// Finds the hierarchies this process sees.
    pub fn detect() -> Result<Cgroups, CgroupError> {
        let path = "/proc/self/mountinfo";
        let text = fs::read_to_string(path).map_err(failed("read", Path::new(path)))?;
        Ok(Self::from_mounts(&text))
    }

    fn from_mounts(mountinfo: &str) -> Cgroups {
        let mut found = Cgroups { unified: None, v1: BTreeMap::new(), devices: Arc::default() };
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let Some(point) = left.split(' ').nth(4).map(PathBuf::from) else { continue };
            let right: Vec<&str> = right.split(' ').collect();
            match right[0] {
                "cgroup2" => found.unified = Some(point),
                "cgroup" => {
                    for option in right.last().into_iter().flat_map(|options| options.split(',')) {
                        if v1::CONTROLLERS.contains(&option) {
                            found.v1.insert(option.to_owned(), point.clone());
                        }
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// In a word, for the status.
    pub fn mode(&self) -> &'static str {
        match (&self.unified, self.v1.is_empty()) {
            (Some(_), true) => "v2",
            (Some(_), false) => "hybrid",
            (None, false) => "v1",
            (None, true) => "none",
        }
    }

    fn is_v2(&self) -> bool {
        self.v1.is_empty()
    }

    /// The directories that a group has. CPU time needs no controller where there is a v2 hierarchy.
    fn folders(&self, path: &str) -> Vec<PathBuf> {
        let inside = path.trim_start_matches('/');
        let mut roots: Vec<&PathBuf> = self.unified.iter().collect();
        for (name, root) in &self.v1 {
            if v1::SPARED.contains(&name.as_str())
                || (name == "cpuacct" && self.unified.is_some())
                || roots.contains(&root)
            {
                continue;
            }
            roots.push(root);
        }
        roots.into_iter().map(|root| root.join(inside)).collect()
    }

    /// With those that only groups have that ask for them.
    fn all_folders(&self, path: &str) -> Vec<PathBuf> {
        let mut folders = self.folders(path);
        folders.extend(v1::SPARED.iter().filter_map(|controller| self.v1_folder(controller, path)));
        folders
    }

    fn v1_folder(&self, controller: &str, path: &str) -> Option<PathBuf> {
        Some(self.v1.get(controller)?.join(path.trim_start_matches('/')))
    }

    fn unified_folder(&self, path: &str) -> Option<PathBuf> {
        Some(self.unified.as_ref()?.join(path.trim_start_matches('/')))
    }

    /// Makes the group with everything above it. One that exists is no error.
    pub fn create(&self, path: &str) -> Result<(), CgroupError> {
        for folder in self.folders(path) {
            // Another pod's end may remove an empty parent while we are on our way down.
            let mut result = fs::create_dir_all(&folder);
            for _ in 0..8 {
                if result.is_ok() {
                    break;
                }
                result = fs::create_dir_all(&folder);
            }
            result.map_err(failed("create cgroup", &folder))?;
        }
        if self.is_v2() {
            v2::enable(self.unified.as_deref(), path)?;
        }
        Ok(())
    }

    /// Sets limits on a group that exists.
    pub fn limit(&self, path: &str, limits: &Limits) -> Result<(), CgroupError> {
        self.limit_huge_pages(path, &limits.huge_pages)?;
        if self.is_v2() {
            let folder = self.unified_folder(path).unwrap_or_default();
            v2::enable_for(self.unified.as_deref(), path, limits.unified.keys())?;
            for setting in v2::settings(limits) {
                write(&folder.join(&setting.file), &setting.value)?;
            }
            return Ok(());
        }
        if let Some(file) = limits.unified.keys().next() {
            return Err(CgroupError::refused(
                "set",
                file,
                "this machine's controllers are of cgroup v1, which has no unified settings",
            ));
        }
        let cpuset = limits.cpus.is_some() || limits.mems.is_some();
        if cpuset {
            v1::make_cpuset(self.v1.get("cpuset"), path)?;
        }
        v1::apply(&v1::settings(limits), |controller| self.v1_folder(controller, path))?;
        if cpuset && let Some(folder) = self.v1_folder("cpuset", path) {
            // Those that run already are where there was no such group when they began.
            v1::bring_in(self.folders(path).first(), &folder)?;
        }
        Ok(())
    }

    /// How a process enters the group.
    pub fn entry(&self, path: &str) -> Result<Entry, CgroupError> {
        let unified = match self.unified_folder(path) {
            Some(folder) => {
                let flags = rustix::fs::OFlags::PATH
                    | rustix::fs::OFlags::DIRECTORY
                    | rustix::fs::OFlags::CLOEXEC;
                let fd = rustix::fs::open(&folder, flags, rustix::fs::Mode::empty());
                Some(fd.map_err(|error| failed("open cgroup", &folder)(error.into()))?)
            }
            None => None,
        };
        let mut procs: Vec<PathBuf> = Vec::new();
        let skip = usize::from(self.unified.is_some());
        procs.extend(
            self.folders(path).into_iter().skip(skip).map(|folder| folder.join("cgroup.procs")),
        );
        for controller in ["cpuset", "hugetlb"] {
            let made = self.v1_folder(controller, path).filter(|folder| folder.exists());
            procs.extend(made.map(|folder| folder.join("cgroup.procs")));
        }
        Ok(Entry { unified, procs })
    }

    /// Makes a group for a supervisor, which has no limits but must not stay in the runtime's: a
    /// directory in one hierarchy is enough. Answers with the file to write "0" to.
    pub fn create_supervisor(&self, path: &str) -> Result<Vec<PathBuf>, CgroupError> {
        let folder = self.unified_folder(path).or_else(|| self.v1_folder("pids", path));
        let Some(folder) = folder else { return Ok(Vec::new()) };
        fs::create_dir_all(&folder).map_err(failed("create cgroup", &folder))?;
        Ok(vec![folder.join("cgroup.procs")])
    }

    /// The v1 controllers that a container sees its own groups of; none on v2.
    pub fn visible(&self) -> Vec<String> {
        let wanted = ["cpu", "memory", "pids"];
        let mut seen: Vec<String> = Vec::new();
        for name in wanted.iter().filter(|name| self.v1.contains_key(**name)) {
            let point = &self.v1[*name];
            // Controllers mounted together can only be mounted together.
            let together: Vec<&str> = self
                .v1
                .iter()
                .filter(|(_, other)| *other == point)
                .map(|(name, _)| name.as_str())
                .collect();
            seen.push(together.join(","));
        }
        seen
    }

    /// Kills every process in the group and below.
    pub fn kill(&self, path: &str) -> Result<(), CgroupError> {
        if let Some(folder) = self.unified_folder(path) {
            let file = folder.join("cgroup.kill");
            match fs::write(&file, "1") {
                Ok(()) => return Ok(()),
                Err(error) if gone(&error) && !folder.exists() => return Ok(()),
                // Before Linux 5.14 there is no such file.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("write", &file)(error)),
            }
        }
        let Some(folder) = self.v1_folder("pids", path).or_else(|| self.unified_folder(path))
        else {
            return Ok(());
        };
        v1::kill_each(&folder)
    }

    /// How many processes of the group the kernel killed for want of memory.
    pub fn oom_kills(&self, path: &str) -> u64 {
        let (file, key) = match self.v1_folder("memory", path) {
            Some(folder) => (folder.join("memory.oom_control"), "oom_kill"),
            None => {
                (self.unified_folder(path).unwrap_or_default().join("memory.events"), "oom_kill")
            }
        };
        keyed(&file, key).unwrap_or(0)
    }

    pub fn usage(&self, path: &str) -> Usage {
        if self.is_v2() {
            return v2::usage(&self.unified_folder(path).unwrap_or_default());
        }
        let unified_cpu = self
            .unified_folder(path)
            .and_then(|folder| keyed(&folder.join("cpu.stat"), "usage_usec"));
        v1::usage(
            |controller| self.v1_folder(controller, path),
            unified_cpu.map(|microseconds| microseconds * 1000),
        )
    }

    /// Removes the group and those below it; they must be without processes. Above it, empty groups
    /// go as well, as far up as `keep` says (`keep` itself is removed when empty).
    pub fn remove(&self, path: &str, keep: Option<&str>) -> Result<(), CgroupError> {
        for folder in self.all_folders(path) {
            remove_tree(&folder)?;
        }
        let Some(keep) = keep else { return Ok(()) };
        let mut above = Path::new(path).parent();
        while let Some(parent) = above.filter(|parent| parent.starts_with(keep)) {
            let parent_path = parent.to_string_lossy();
            for folder in self.all_folders(&parent_path) {
                let _ = fs::remove_dir(&folder); // Busy: others are in it.
            }
            above = parent.parent();
        }
        Ok(())
    }
}

/// Directories of groups are removed one by one: their files are not ours to unlink.
fn remove_tree(folder: &Path) -> Result<(), CgroupError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if gone(&error) => return Ok(()),
        Err(error) => return Err(failed("list cgroup", folder)(error)),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    let mut result = fs::remove_dir(folder);
    for _ in 0..100 {
        match &result {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => wait_for_change(folder),
            _ => break,
        }
        result = fs::remove_dir(folder);
    }
    match result {
        Err(error) if !gone(&error) => Err(failed("remove cgroup", folder)(error)),
        _ => Ok(()),
    }
}

/// Waits until the group's last process has gone, or a moment where the kernel does not tell.
fn wait_for_change(folder: &Path) {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let moment = |milliseconds: i64| Timespec { tv_sec: 0, tv_nsec: milliseconds * 1_000_000 };
    let Ok(mut events) = fs::File::open(folder.join("cgroup.events")) else {
        let _ = poll(&mut [], Some(&moment(1)));
        return;
    };
    let mut text = String::new();
    if io::Read::read_to_string(&mut events, &mut text).is_ok() && text.contains("populated 1") {
        let _ = poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&moment(100)));
    }
}

fn gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}

fn write(file: &Path, value: &str) -> Result<(), CgroupError> {
    fs::write(file, value).map_err(failed("write", file))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CgroupError {
    move |source| CgroupError { action, path: path.display().to_string(), source }
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The number after `key` in a file of `key number` lines.
fn keyed(file: &Path, key: &str) -> Option<u64> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
    line.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_hierarchies() {
        let hybrid = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
            35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let pure = "41 31 0:38 / /sys/fs/cgroup rw shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";
        let found = Cgroups::from_mounts(hybrid);
        assert_eq!(found.mode(), "hybrid");
        let folders: Vec<String> =
            found.folders("/a/b").iter().map(|f| f.display().to_string()).collect();
        assert_eq!(
            folders,
            [
                "/sys/fs/cgroup/unified/a/b",
                "/sys/fs/cgroup/cpu,cpuacct/a/b",
                "/sys/fs/cgroup/memory/a/b"
            ]
        );
        let found = Cgroups::from_mounts(pure);
        assert_eq!((found.mode(), found.folders("/a").len()), ("v2", 1));
        assert_eq!(Cgroups::from_mounts(hybrid.rsplit_once("41 ").unwrap().0).mode(), "v1");
    }
}
