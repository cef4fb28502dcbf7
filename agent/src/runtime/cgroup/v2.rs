//! The files of cgroup v2.

use std::fs;
use std::path::Path;

use super::{CgroupError, Limits, Setting, Usage, failed, keyed, number};

const CONTROLLERS: [&str; 4] = ["cpu", "memory", "pids", "cpuset"];

/// Hands the controllers down to the children of every group above `path`. A group holds either
/// processes or groups with controllers, which is why supervisors have one of their own.
pub fn enable(root: Option<&Path>, path: &str) -> Result<(), CgroupError> {
    let Some(root) = root else { return Ok(()) };
    let mut folder = root.to_owned();
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    for part in &parts {
        let file = folder.join("cgroup.subtree_control");
        let enabled = fs::read_to_string(&file).map_err(failed("read", &file))?;
        for controller in CONTROLLERS {
            if !enabled.split_whitespace().any(|name| name == controller) {
                // What the machine does not offer is noticed when a limit is set.
                let _ = fs::write(&file, format!("+{controller}"));
            }
        }
        folder.push(part);
    }
    Ok(())
}

/// Hands one more controller down to the group at `path`.
pub fn enable_one(root: Option<&Path>, path: &str, controller: &str) -> Result<(), CgroupError> {
    let Some(root) = root else { return Ok(()) };
    let mut folder = root.to_owned();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        let file = folder.join("cgroup.subtree_control");
        let enabled = fs::read_to_string(&file).map_err(failed("read", &file))?;
        if !enabled.split_whitespace().any(|name| name == controller) {
            fs::write(&file, format!("+{controller}"))
                .map_err(failed("enable a controller in", &file))?;
        }
        folder.push(part);
    }
    Ok(())
}

/// Hands down the controllers of files that are to be written and that groups do without else.
pub fn enable_for<'a>(
    root: Option<&Path>,
    path: &str,
    files: impl Iterator<Item = &'a String>,
) -> Result<(), CgroupError> {
    for file in files {
        let controller = file.split('.').next().unwrap_or_default();
        if matches!(controller, "io" | "rdma" | "misc" | "hugetlb") {
            enable_one(root, path, controller)?;
        }
    }
    Ok(())
}

pub fn settings(limits: &Limits) -> Vec<Setting> {
    let mut out = Vec::new();
    let mut set = |file: &str, value: Option<String>| {
        out.extend(value.map(|value| Setting { controller: "", file: file.to_owned(), value }));
    };
    set("cpu.weight", limits.cpu_shares.map(|shares| weight(shares).to_string()));
    let period = limits.cpu_period.filter(|period| *period > 0).unwrap_or(100_000);
    let quota =
        limits.cpu_quota.map(|quota| if quota <= 0 { "max".to_owned() } else { quota.to_string() });
    set("cpu.max", quota.map(|quota| format!("{quota} {period}")));
    set("memory.max", limits.memory.map(max_or));
    // v1 counts swap together with memory, v2 apart.
    let swap = match (limits.memory_and_swap, limits.memory) {
        (Some(both), Some(memory)) if both >= 0 && memory >= 0 => Some((both - memory).max(0)),
        (Some(both), _) if both < 0 => Some(-1),
        _ => None,
    };
    set("memory.swap.max", swap.map(max_or));
    // The container is the unit that an OOM kill hits, unless the request says otherwise.
    set("memory.oom.group", limits.memory.map(|_| "1".to_owned()));
    set("pids.max", limits.pids.map(max_or));
    set("cpuset.cpus", limits.cpus.clone());
    set("cpuset.mems", limits.mems.clone());
    for (file, value) in &limits.unified {
        set(file, Some(value.clone()));
    }
    out
}

pub fn usage(folder: &Path) -> Usage {
    let stat = folder.join("memory.stat");
    let used = number(&folder.join("memory.current"));
    let inactive = keyed(&stat, "inactive_file").unwrap_or(0);
    Usage {
        cpu_nanoseconds: keyed(&folder.join("cpu.stat"), "usage_usec").map(|usec| usec * 1000),
        memory: used,
        working_set: used.map(|used| used.saturating_sub(inactive)),
        memory_limit: number(&folder.join("memory.max")),
        rss: keyed(&stat, "anon"),
        page_faults: keyed(&stat, "pgfault"),
        major_page_faults: keyed(&stat, "pgmajfault"),
        swap: number(&folder.join("memory.swap.current")),
        pids: number(&folder.join("pids.current")),
    }
}

/// Shares of v1 (2…262144) as a weight of v2 (1…10000).
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9_999 / 262_142
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
            cpu_shares: Some(1024),
            cpu_quota: Some(50_000),
            memory: Some(1 << 20),
            memory_and_swap: Some(1 << 20),
            ..Limits::default()
        };
        let written: Vec<String> = settings(&limits)
            .iter()
            .map(|setting| format!("{}={}", setting.file, setting.value))
            .collect();
        assert_eq!(
            written,
            [
                "cpu.weight=39",
                "cpu.max=50000 100000",
                "memory.max=1048576",
                "memory.swap.max=0",
                "memory.oom.group=1"
            ]
        );
        assert_eq!((weight(2), weight(262_144)), (1, 10_000));
    }
}
