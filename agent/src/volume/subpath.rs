//! subPath: a part of a volume, found without ever leaving the volume, whatever links the pod has
//! put into it, and pinned by a bind mount so that it cannot be exchanged afterwards.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, chmodat, mkdirat, openat, openat2};
use rustix::io::Errno;

/// Binds `sub`, relative to the folder `volume`, to `target`. A folder is made where nothing is.
pub fn bind(volume: &Path, sub: &str, target: &Path) -> io::Result<()> {
    let found = open(volume, sub)?;
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent)?;
    }
    match fs::metadata(&path)?.is_dir() {
        true => fs::create_dir_all(target)?,
        false => drop(fs::File::create(target)?),
    }
    rustix::mount::mount_bind_recursive(&path, target)?;
    Ok(())
}

fn open(volume: &Path, sub: &str) -> io::Result<OwnedFd> {
    let root =
        openat(CWD, volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    match within(&root, sub) {
        Err(Errno::NOENT) => {}
        found => return Ok(found?),
    }
    let mode = rustix::fs::fstat(&root)?.st_mode & 0o7777;
    let mut at = root;
    for part in Path::new(sub).components() {
        let Component::Normal(name) = part else { continue };
        let name = Path::new(name);
        at = match within(&at, &name.to_string_lossy()) {
            Err(Errno::NOENT) => {
                mkdirat(&at, name, Mode::from_raw_mode(mode))?;
                // As its volume is, whatever the umask says.
                chmodat(&at, name, Mode::from_raw_mode(mode), AtFlags::empty())?;
                within(&at, &name.to_string_lossy())?
            }
            found => found?,
        };
    }
    Ok(at)
}

fn within(root: &OwnedFd, path: &str) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, flags, Mode::empty(), resolve)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn stays_within_the_volume() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("volume");
        fs::create_dir_all(volume.join("in")).unwrap();
        fs::write(dir.path().join("secret"), "no").unwrap();
        symlink("../secret", volume.join("up")).unwrap();
        symlink("/etc", volume.join("abs")).unwrap();
        symlink("in", volume.join("link")).unwrap();
        assert!(open(&volume, "in").is_ok());
        assert!(open(&volume, "link").is_ok());
        assert!(open(&volume, "new/deep").is_ok());
        assert!(volume.join("new/deep").is_dir());
        for outside in ["up", "abs", "abs/passwd", "../secret", "abs/new"] {
            assert!(open(&volume, outside).is_err(), "{outside}");
        }
    }
}
