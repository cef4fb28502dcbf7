//! What the machine offers, and skipping loudly what it does not.

use std::path::{Path, PathBuf};

pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Where a program is.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    path.split(':').map(|folder| Path::new(folder).join(program)).find(|file| file.is_file())
}

/// Processes with this command line (its words each end with a zero), by /proc.
pub fn processes(line: &str) -> Vec<u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid: &u32| {
        std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|found| found == line.as_bytes())
    })
    .collect()
}

/// The first of these files in any of the process's cgroups.
pub fn cgroup_value(pid: u32, files: &[&str]) -> String {
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    for line in cgroups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) =
            (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let mounts = match controllers {
            "" => vec!["/sys/fs/cgroup".to_string(), "/sys/fs/cgroup/unified".into()],
            list => list.split(',').map(|one| format!("/sys/fs/cgroup/{one}")).collect(),
        };
        for mount in mounts {
            for file in files {
                if let Ok(value) = std::fs::read_to_string(format!("{mount}{path}/{file}")) {
                    return value.trim().to_string();
                }
            }
        }
    }
    panic!("none of {files:?} in the cgroups of {pid}:\n{cgroups}");
}

/// Ends the test at once, saying why, where the machine lacks what it needs.
#[macro_export]
macro_rules! needs {
    (root) => {
        if !$crate::machine::is_root() {
            eprintln!("SKIPPED {}: needs root", module_path!());
            return;
        }
    };
    ($program:literal) => {
        if $crate::machine::find($program).is_none() {
            eprintln!("SKIPPED {}: needs {} on the PATH", module_path!(), $program);
            return;
        }
    };
}
