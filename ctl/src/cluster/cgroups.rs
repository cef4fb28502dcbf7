//! The cgroups of a cluster's pods: finding who is in them, killing all, removing them. They lie
//! below one directory with the cluster's name at the top of every hierarchy.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use client::Clock;
use rustix::process::Signal;

use super::Error;
use super::process::Process;

/// How long killed processes may take to go.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Kills every process in the cgroup `path` (`coracle-NAME` or `coracle-NAME/NODE`) and below.
pub async fn kill(path: &str, clock: &Clock) -> Result<(), Error> {
    let deadline = clock.instant() + PATIENCE;
    loop {
        let members = members(path);
        if members.is_empty() {
            return Ok(());
        }
        if clock.instant() > deadline {
            let what = format!("the end of {} processes in cgroup {path}", members.len());
            let seconds = PATIENCE.as_secs();
            return Err(Error::Late { what, seconds, tails: String::new() });
        }
        // Whoever is born meanwhile is found in the next round.
        for handle in members.iter().filter_map(Process::open) {
            handle.signal(Signal::KILL)?;
        }
        clock.sleep(LOOK_AGAIN).await;
    }
}

/// Removes the cgroup, which has no members any more, from every hierarchy.
pub fn remove(path: &str) -> Vec<Error> {
    hierarchies().iter().filter_map(|root| remove_tree(&root.join(path)).err()).collect()
}

/// Who is in the cgroup or below it, in any hierarchy.
fn members(path: &str) -> Vec<Process> {
    let pids = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let inside = |pid: &u32| {
        std::fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .is_ok_and(|cgroups| is_inside(&cgroups, path))
    };
    pids.filter(inside).filter_map(Process::find).collect()
}

/// By proc(5): lines of `number:controllers:/path`.
fn is_inside(cgroups: &str, path: &str) -> bool {
    cgroups.lines().any(|line| {
        let own = line.splitn(3, ':').nth(2).unwrap_or_default().trim_start_matches('/');
        own.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// The mounted hierarchies: the v2 one, or those of v1 and perhaps a v2 one beside them.
fn hierarchies() -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let hierarchy = |line: &str| {
        let (place, kind) = line.split_once(" - ")?;
        let is_cgroup = kind.starts_with("cgroup ") || kind.starts_with("cgroup2 ");
        is_cgroup.then(|| place.split(' ').nth(4).map(PathBuf::from))?
    };
    mounts.lines().filter_map(hierarchy).collect()
}

fn remove_tree(dir: &Path) -> Result<(), Error> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(Error::file("read", dir))?,
    };
    // Its files go with the directory; only directories can be removed.
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
    {
        remove_tree(&entry.path())?;
    }
    match std::fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::file("remove", dir)(error))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_not_a_prefix() {
        let cgroups = "5:memory:/coracle-a/node1/kubepods/pod1\n0::/coracle-a/node1\n";
        assert!(is_inside(cgroups, "coracle-a"));
        assert!(is_inside(cgroups, "coracle-a/node1"));
        assert!(!is_inside(cgroups, "coracle"));
        assert!(!is_inside(cgroups, "coracle-a/node"));
        assert!(!is_inside("0::/\n", "coracle-a"));
    }
}
