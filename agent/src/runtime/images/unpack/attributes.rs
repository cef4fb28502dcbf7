//! What a file is beside its contents: owner, extended attributes, mode and time.

use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, CWD, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;
use tar::{Entry, EntryType};

use super::proc_path;

/// Sets them; `None` is the directory itself. Answers with the time, which directories get at the
/// end.
pub fn attributes(
    entry: &mut Entry<'_, impl Read>,
    parent: &OwnedFd,
    name: Option<&OsStr>,
) -> io::Result<(i64, i64)> {
    let header = entry.header().clone();
    // An empty field is what some writers leave for root.
    let (uid, gid) = (header.uid().unwrap_or(0) as u32, header.gid().unwrap_or(0) as u32);
    let owner = (Uid::from_raw(uid), Gid::from_raw(gid));
    let (path, flags) = match name {
        Some(name) => (name, AtFlags::SYMLINK_NOFOLLOW),
        None => (OsStr::new(""), AtFlags::EMPTY_PATH),
    };
    rustix::fs::chownat(parent, path, Some(owner.0), Some(owner.1), flags)?;
    let is_link = header.entry_type() == EntryType::Symlink;
    let mut time = (header.mtime().unwrap_or(0) as i64, 0);
    if let Some(extensions) = entry.pax_extensions()? {
        for extension in extensions.flatten() {
            let key = extension.key().unwrap_or_default();
            if key == "mtime" {
                time = extension.value().ok().and_then(seconds).unwrap_or(time);
            }
            // What is trusted speaks to overlayfs, and images must not.
            if let Some(key) = key.strip_prefix("SCHILY.xattr.")
                && !key.starts_with("trusted.")
                && !is_link
            {
                set_xattr(parent, name, key, extension.value_bytes())?;
            }
        }
    }
    if !is_link {
        // After the owner: chown clears set-user-id.
        let mode = Mode::from(header.mode()? & 0o7777);
        match name {
            Some(name) => rustix::fs::chmodat(parent, name, mode, AtFlags::empty())?,
            None => rustix::fs::chmodat(CWD, proc_path(parent), mode, AtFlags::empty())?,
        }
    }
    if let Some(name) = name {
        rustix::fs::utimensat(parent, name, &times(time), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(time)
}

/// Nothing of the lower layers' directory shows through.
pub fn opaque(folder: &OwnedFd) -> io::Result<()> {
    set_xattr(folder, None, "trusted.overlay.opaque", b"y")
}

pub fn set_time(fd: &OwnedFd, time: (i64, i64)) -> io::Result<()> {
    Ok(rustix::fs::utimensat(CWD, proc_path(fd), &times(time), AtFlags::empty())?)
}

fn set_xattr(parent: &OwnedFd, name: Option<&OsStr>, key: &str, value: &[u8]) -> io::Result<()> {
    let path = match name {
        Some(name) => proc_path(parent).join(name),
        None => proc_path(parent).join("."),
    };
    match rustix::fs::lsetxattr(&path, key, value, XattrFlags::empty()) {
        // A file system without them: containerd goes on as well.
        Ok(()) | Err(Errno::NOTSUP) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn times((tv_sec, tv_nsec): (i64, i64)) -> Timestamps {
    let time = Timespec { tv_sec, tv_nsec };
    Timestamps { last_access: time, last_modification: time }
}

/// PAX's time: `1700000000.25`, before 1970 with a minus.
fn seconds(text: &str) -> Option<(i64, i64)> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = part.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: i64 = digits.parse().ok()?;
    match whole.starts_with('-') && nanoseconds > 0 {
        true => Some((seconds - 1, 1_000_000_000 - nanoseconds)),
        false => Some((seconds, nanoseconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::seconds;

    #[test]
    fn times_are_read_to_the_nanosecond() {
        assert_eq!(seconds("12"), Some((12, 0)));
        assert_eq!(seconds("12.5"), Some((12, 500_000_000)));
        assert_eq!(seconds("-1.25"), Some((-2, 750_000_000)));
        assert_eq!((seconds("x"), seconds("1.x")), (None, None));
    }
}
