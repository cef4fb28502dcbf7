//! fsGroup: everything in a volume becomes the group's, which may read and write it.
//! <https://kubernetes.io/docs/tasks/configure-pod-container/security-context/#configure-volume-permission-and-ownership-change-policy-for-pods>
//!
//! Other pods may have the volume as well, so no link in it is followed.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, RawMode, Stat, chownat, fstat, openat,
};

const FILE: RawMode = 0o660;
const FOLDER: RawMode = 0o2770;

/// Gives `root` and all that is in it to the group; with `on_mismatch` only if `root` is not the
/// group's yet.
pub fn give(root: &Path, group: u32, on_mismatch: bool) -> io::Result<()> {
    let root = openat(CWD, root, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
    let stat = fstat(&root)?;
    if on_mismatch && stat.st_gid == group && stat.st_mode & FOLDER == FOLDER {
        return Ok(());
    }
    // The root is last: while it is not the group's, the work has not been done.
    walk(&root, &stat, Gid::from_raw(group))
}

fn walk(at: &OwnedFd, stat: &Stat, group: Gid) -> io::Result<()> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    if kind == FileType::Directory {
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let folder = openat(at, ".", flags, Mode::empty())?;
        for entry in Dir::read_from(&folder)? {
            let entry = entry?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            let flags = OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            match openat(&folder, entry.file_name(), flags, Mode::empty()) {
                Ok(inner) => walk(&inner, &fstat(&inner)?, group)?,
                // Others may remove files meanwhile.
                Err(rustix::io::Errno::NOENT) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    chownat(at, "", None, Some(group), AtFlags::EMPTY_PATH)?;
    if kind == FileType::Symlink {
        return Ok(());
    }
    let mask = if kind == FileType::Directory { FOLDER } else { FILE };
    let mode = stat.st_mode & 0o7777 | mask;
    // Through the descriptor: it is the very file that was looked at.
    let path = format!("/proc/self/fd/{}", at.as_raw_fd());
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn all_of_it_and_nothing_else() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: giving files away needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (volume, outside) = (dir.path().join("volume"), dir.path().join("outside"));
        fs::create_dir_all(volume.join("a/b")).unwrap();
        fs::write(volume.join("a/b/f"), "x").unwrap();
        fs::write(&outside, "x").unwrap();
        symlink(&outside, volume.join("link")).unwrap();
        for path in [volume.join("a/b/f"), outside.clone()] {
            fs::set_permissions(path, PermissionsExt::from_mode(0o600)).unwrap();
        }
        give(&volume, 4321, false).unwrap();
        let shown = |path: &Path| {
            let metadata = fs::symlink_metadata(path).unwrap();
            (metadata.gid(), metadata.mode() & 0o7777)
        };
        assert_eq!(shown(&volume), (4321, 0o2775));
        assert_eq!(shown(&volume.join("a/b")), (4321, 0o2775));
        assert_eq!(shown(&volume.join("a/b/f")), (4321, 0o660));
        assert_eq!(shown(&volume.join("link")).0, 4321);
        assert_eq!(shown(&outside), (0, 0o600));

        fs::write(volume.join("new"), "x").unwrap();
        fs::set_permissions(volume.join("new"), PermissionsExt::from_mode(0o600)).unwrap();
        give(&volume, 4321, true).unwrap();
        assert_eq!(shown(&volume.join("new")).1, 0o600, "the root is the group's already");
        give(&volume, 4322, true).unwrap();
        assert_eq!(shown(&volume.join("new")), (4322, 0o660));
    }
}
