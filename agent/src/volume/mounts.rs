//! Mounts below a folder: tmpfs for volumes in memory, and their end.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

/// A tmpfs, unless one is there. 0: as large as the kernel likes.
pub fn tmpfs(dir: &Path, bytes: i64) -> io::Result<()> {
    if below(dir)?.iter().any(|mounted| mounted == dir) {
        return Ok(());
    }
    let options = match bytes {
        ..=0 => "mode=0777".to_string(),
        bytes => format!("mode=0777,size={bytes}"),
    };
    let options = std::ffi::CString::new(options)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("tmpfs", dir, "tmpfs", flags, options.as_c_str())?;
    Ok(())
}

/// Huge pages of this size, unless some are there.
pub fn hugetlbfs(dir: &Path, page: i64) -> io::Result<()> {
    if is_mounted(dir)? {
        return Ok(());
    }
    let options = std::ffi::CString::new(format!("pagesize={page}"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    rustix::mount::mount("hugetlbfs", dir, "hugetlbfs", flags, options.as_c_str())?;
    Ok(())
}

/// Shows the folder `from` at `to` as well, unless it is; with these flags.
pub fn bind(from: &Path, to: &Path, flags: MountFlags) -> io::Result<()> {
    if !is_mounted(to)? {
        rustix::mount::mount_bind_recursive(from, to)?;
    }
    if !flags.is_empty() {
        rustix::mount::mount_remount(to, MountFlags::BIND | flags, "")?;
    }
    Ok(())
}

/// Whether something is mounted right there.
pub fn is_mounted(dir: &Path) -> io::Result<bool> {
    let whole = dir.canonicalize()?;
    Ok(below(dir)?.contains(&whole))
}

/// What these options of a bind mount come to; `Err` names one that has no meaning there.
pub fn flags(options: &[String]) -> Result<MountFlags, String> {
    let all = options.iter().flat_map(|line| line.split(',')).filter(|option| !option.is_empty());
    let flag = |option: &str| flag(option).ok_or_else(|| option.to_string());
    all.map(flag).try_fold(MountFlags::empty(), |all, one| Ok(all | one?))
}

/// The flag that an option is, of any file system.
pub fn flag(option: &str) -> Option<MountFlags> {
    Some(match option {
        "rw" | "defaults" | "bind" | "rbind" => MountFlags::empty(),
        "ro" => MountFlags::RDONLY,
        "nosuid" => MountFlags::NOSUID,
        "nodev" => MountFlags::NODEV,
        "noexec" => MountFlags::NOEXEC,
        "noatime" => MountFlags::NOATIME,
        "nodiratime" => MountFlags::NODIRATIME,
        "relatime" => MountFlags::RELATIME,
        "strictatime" => MountFlags::STRICTATIME,
        "sync" => MountFlags::SYNCHRONOUS,
        "dirsync" => MountFlags::DIRSYNC,
        _ => return None,
    })
}

/// Removes `dir` with everything in it. What is mounted in there is unmounted before, and while
/// anything still is nothing is deleted: it would be deleted through the mount.
pub fn remove(dir: &Path) -> io::Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    let dir = dir.canonicalize()?;
    for mounted in below(&dir)?.iter().rev() {
        rustix::mount::unmount(mounted, UnmountFlags::DETACH)?;
    }
    if let Some(left) = below(&dir)?.first() {
        let why = format!("{} is still mounted", left.display());
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, why));
    }
    fs::remove_dir_all(&dir)
}

/// Removes what an earlier run was bound to, if anything.
pub fn remove_file_or_dir(target: &Path) -> io::Result<()> {
    if fs::symlink_metadata(target).is_err() {
        return Ok(());
    }
    for mounted in below(target)?.iter().rev() {
        rustix::mount::unmount(mounted, UnmountFlags::DETACH)?;
    }
    match fs::metadata(target)?.is_dir() {
        true => fs::remove_dir(target),
        false => fs::remove_file(target),
    }
}

/// The mount points at or below `dir`, outer ones first.
fn below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let dir = dir.canonicalize()?;
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape);
    Ok(points.filter(|point| point.starts_with(&dir)).collect())
}

/// mountinfo writes space, tab, newline and backslash in octal.
fn unescape(text: &str) -> PathBuf {
    let mut plain = text.to_string();
    for (code, letter) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        plain = plain.replace(code, letter);
    }
    PathBuf::from(plain)
}
