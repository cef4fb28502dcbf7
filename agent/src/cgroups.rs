//! The cgroups of pods that are gone. Our own runtime removes them with the sandbox; others make them
//! on the way to their containers' and leave them to the node agent, as the kubelet expects it.
//!
//! Only empty ones can be removed: nothing here ends a process.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

const MOUNT: &str = "/sys/fs/cgroup";

/// Where pods are below `kubepods`, by their class.
const CLASSES: [&str; 3] = ["", "burstable", "besteffort"];

/// Removes what is left of the pod's in every hierarchy; `root` is `--cgroup-root`.
pub fn remove(root: &str, uid: &str) -> io::Result<()> {
    remove_below(Path::new(MOUNT), root, uid)
}

fn remove_below(mount: &Path, root: &str, uid: &str) -> io::Result<()> {
    let below = Path::new(root.trim_matches('/')).join("kubepods");
    let mut hierarchies = vec![mount.to_path_buf()];
    // cgroup v1 has a folder for each hierarchy; those of v2 are groups, and have no such pods.
    for entry in fs::read_dir(mount)? {
        hierarchies.push(entry?.path());
    }
    let pod = format!("pod{uid}");
    let paths = |hierarchy: PathBuf| {
        let kubepods = hierarchy.join(&below);
        CLASSES.map(|class| kubepods.join(class).join(&pod))
    };
    for path in hierarchies.into_iter().flat_map(paths) {
        match fs::remove_dir(&path) {
            Err(error) if !is_absent(&error) => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_pods_own_and_empty_ones() {
        let mount = tempfile::tempdir().unwrap();
        let group = |path: &str| mount.path().join(path);
        for path in [
            "memory/root/kubepods/burstable/poda",
            "memory/root/kubepods/burstable/podb",
            "cpu/root/kubepods/poda",
            "root/kubepods/besteffort/poda",
        ] {
            fs::create_dir_all(group(path)).unwrap();
        }
        fs::write(group("cgroup.procs"), "").unwrap();
        remove_below(mount.path(), "/root", "a").unwrap();
        assert!(!group("memory/root/kubepods/burstable/poda").exists());
        assert!(!group("cpu/root/kubepods/poda").exists());
        assert!(!group("root/kubepods/besteffort/poda").exists());
        assert!(group("memory/root/kubepods/burstable/podb").exists());
        // Again, and with something still in it.
        remove_below(mount.path(), "/root", "a").unwrap();
        fs::create_dir_all(group("cpu/root/kubepods/podb/container")).unwrap();
        remove_below(mount.path(), "/root", "b").unwrap_err();
    }
}
