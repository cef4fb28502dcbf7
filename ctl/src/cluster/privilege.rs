//! Becoming root: namespaces, links and mounts need it. A plain user goes on through sudo; what is
//! the user's (the kubeconfig) stays the user's.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Error;

/// Whom the machine's sudo acts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Invoker {
    pub uid: u32,
    pub gid: u32,
}

/// Returns if this is root. Otherwise runs the same command again through sudo, with `further`
/// flags for what sudo would hide, and does not return unless that fails.
pub fn become_root(further: &[OsString]) -> Result<(), Error> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let program = std::env::current_exe().map_err(Error::NoRoot)?;
    anstream::eprintln!("this needs root: going on through sudo");
    let failed = Command::new("sudo")
        .arg("--")
        .arg(program)
        .args(std::env::args_os().skip(1))
        .args(further)
        .exec();
    Err(Error::NoRoot(failed))
}

/// The user who called sudo, if that is how this became root.
pub fn invoker() -> Option<Invoker> {
    let number = |name| std::env::var(name).ok()?.parse().ok();
    Some(Invoker { uid: number("SUDO_UID")?, gid: number("SUDO_GID")? })
}

/// The home of whoever this is for.
pub fn home() -> Option<PathBuf> {
    match invoker().and_then(|invoker| {
        let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
        home_of(invoker.uid, &passwd)
    }) {
        Some(home) => Some(home),
        None => std::env::home_dir(),
    }
}

/// Gives a file, and folders that were made for it, to the invoker.
pub fn give(path: &Path, made: &[PathBuf]) -> Result<(), Error> {
    let Some(Invoker { uid, gid }) = invoker() else { return Ok(()) };
    for path in made.iter().map(PathBuf::as_path).chain([path]) {
        std::os::unix::fs::lchown(path, Some(uid), Some(gid))
            .map_err(Error::file("give to the invoking user", path))?;
    }
    Ok(())
}

/// The folders above `path` that are not there yet, outermost first.
pub fn missing_folders(path: &Path) -> Vec<PathBuf> {
    let missing = |folder: &&Path| {
        std::fs::metadata(folder).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
    };
    let mut folders: Vec<PathBuf> = path
        .ancestors()
        .skip(1)
        .take_while(|folder| !folder.as_os_str().is_empty())
        .take_while(missing)
        .map(Path::to_owned)
        .collect();
    folders.reverse();
    folders
}

fn home_of(uid: u32, passwd: &str) -> Option<PathBuf> {
    let mut lines = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let line = lines.find(|fields| fields.get(2) == Some(&uid.to_string().as_str()))?;
    Some(line.get(5)?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whose_home() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\nu:x:1000:1000:,,,:/home/u:/bin/sh\n";
        assert_eq!(home_of(1000, passwd), Some("/home/u".into()));
        assert_eq!(home_of(1, passwd), None);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/config");
        assert_eq!(missing_folders(&path), [folder.path().join("a"), folder.path().join("a/b")]);
    }
}
