//! The files of cgroup v1.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{CgroupError, Limits, Setting, Usage, failed, keyed, number, write};

/// The controllers that are used where they are mounted.
pub const CONTROLLERS: [&str; 7] =
    ["cpu", "cpuacct", "cpuset", "devices", "hugetlb", "memory", "pids"];

/// Of these, the ones in which only groups that ask for it have a directory.
pub const SPARED: [&str; 3] = ["cpuset", "devices", "hugetlb"];

/// What to write where, in an order that the kernel accepts when limits grow.
pub fn settings(limits: &Limits) -> Vec<Setting> {
    let mut out = Vec::new();
    let mut set = |controller, file: &str, value: Option<String>| {
        out.extend(value.map(|value| Setting { controller, file: file.to_owned(), value }));
    };
    set("cpu", "cpu.shares", limits.cpu_shares.map(|shares| shares.clamp(2, 262_144).to_string()));
    set("cpu", "cpu.cfs_period_us", limits.cpu_period.map(|period| period.to_string()));
    set("cpu", "cpu.cfs_quota_us", limits.cpu_quota.map(|quota| quota.to_string()));
    set("memory", "memory.limit_in_bytes", limits.memory.map(|bytes| bytes.to_string()));
    set(
        "memory",
        "memory.memsw.limit_in_bytes",
        limits.memory_and_swap.map(|bytes| bytes.to_string()),
    );
    set("pids", "pids.max", limits.pids.map(max_or));
    set("cpuset", "cpuset.cpus", limits.cpus.clone());
    set("cpuset", "cpuset.mems", limits.mems.clone());
    out
}

/// Writes the settings. Memory with swap must never be below memory alone, so a refused order is
/// tried the other way round.
pub fn apply(
    settings: &[Setting],
    folder: impl Fn(&str) -> Option<PathBuf>,
) -> Result<(), CgroupError> {
    let mut refused: BTreeMap<&str, &Setting> = BTreeMap::new();
    for setting in settings {
        let Some(folder) = folder(setting.controller) else { continue };
        let file = folder.join(&setting.file);
        // A kernel without swap accounting has no such file.
        if setting.file.contains("memsw") && !file.exists() {
            continue;
        }
        match fs::write(&file, &setting.value) {
            Ok(()) => {}
            Err(error)
                if error.raw_os_error() == Some(libc::EINVAL) && setting.controller != "cpuset" =>
            {
                refused.insert(&setting.file, setting);
            }
            Err(error) => return Err(failed("write", &file)(error)),
        }
    }
    for setting in refused.values() {
        let folder = folder(setting.controller).unwrap_or_default();
        write(&folder.join(&setting.file), &setting.value)?;
    }
    Ok(())
}

/// A cpuset is empty at first, which lets no process in: each level takes over its parent's.
pub fn make_cpuset(root: Option<&PathBuf>, path: &str) -> Result<(), CgroupError> {
    let Some(root) = root else { return Ok(()) };
    let mut folder = root.clone();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let parent = folder.clone();
        folder.push(part);
        match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed("create cgroup", &folder)(error));
            }
            _ => {}
        }
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let own = fs::read_to_string(folder.join(file)).unwrap_or_default();
            if own.trim().is_empty() {
                let inherited = fs::read_to_string(parent.join(file)).unwrap_or_default();
                write(&folder.join(file), inherited.trim())?;
            }
        }
    }
    Ok(())
}

/// Brings the processes of a group into its directory `to` of another hierarchy, until no new one
/// appears in `from`.
pub fn bring_in(from: Option<&PathBuf>, to: &Path) -> Result<(), CgroupError> {
    let Some(from) = from else { return Ok(()) };
    let processes = |folder: &Path| -> BTreeSet<String> {
        let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        text.lines().map(String::from).collect()
    };
    for _ in 0..100 {
        let missing = &processes(from) - &processes(to);
        if missing.is_empty() {
            break;
        }
        for process in missing {
            match fs::write(to.join("cgroup.procs"), process) {
                // It has ended meanwhile.
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                result => result.map_err(failed("enter cgroup", to))?,
            }
        }
    }
    Ok(())
}

/// Without `cgroup.kill`: again and again, until no new process appears.
pub fn kill_each(folder: &Path) -> Result<(), CgroupError> {
    for _ in 0..100 {
        let mut folders = vec![folder.to_owned()];
        let mut any = false;
        while let Some(folder) = folders.pop() {
            let text = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            for pid in
                text.lines().filter_map(|line| rustix::process::Pid::from_raw(line.parse().ok()?))
            {
                any |= rustix::process::kill_process(pid, rustix::process::Signal::KILL).is_ok();
            }
            let entries = fs::read_dir(&folder).into_iter().flatten().flatten();
            folders.extend(entries.map(|entry| entry.path()).filter(|path| path.is_dir()));
        }
        if !any {
            break;
        }
        std::thread::yield_now();
    }
    Ok(())
}

pub fn usage(folder: impl Fn(&str) -> Option<PathBuf>, unified_cpu: Option<u64>) -> Usage {
    let memory = folder("memory").unwrap_or_default();
    let stat = memory.join("memory.stat");
    let used = number(&memory.join("memory.usage_in_bytes"));
    let inactive = keyed(&stat, "total_inactive_file").unwrap_or(0);
    let limit = number(&memory.join("memory.limit_in_bytes")).filter(|limit| *limit < 1 << 60);
    let swap = number(&memory.join("memory.memsw.usage_in_bytes")).zip(used);
    Usage {
        cpu_nanoseconds: unified_cpu.or_else(|| number(&folder("cpuacct")?.join("cpuacct.usage"))),
        memory: used,
        working_set: used.map(|used| used.saturating_sub(inactive)),
        memory_limit: limit,
        rss: keyed(&stat, "total_rss"),
        page_faults: keyed(&stat, "total_pgfault"),
        major_page_faults: keyed(&stat, "total_pgmajfault"),
        swap: swap.map(|(both, memory)| both.saturating_sub(memory)),
        pids: folder("pids").and_then(|folder| number(&folder.join("pids.current"))),
    }
}

fn max_or(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_files() {
        let limits = Limits {
            cpu_shares: Some(1),
            cpu_quota: Some(50_000),
            cpu_period: Some(100_000),
            memory: Some(1 << 20),
            pids: Some(-1),
            ..Limits::default()
        };
        let written: Vec<String> = settings(&limits)
            .iter()
            .map(|s| format!("{}/{}={}", s.controller, s.file, s.value))
            .collect();
        assert_eq!(
            written,
            [
                "cpu/cpu.shares=2",
                "cpu/cpu.cfs_period_us=100000",
                "cpu/cpu.cfs_quota_us=50000",
                "memory/memory.limit_in_bytes=1048576",
                "pids/pids.max=max",
            ]
        );
    }
}
