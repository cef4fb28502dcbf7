//! Rotation: a log that has grown too large is moved aside, the runtime opens a new one, and old
//! files go.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use proto::time::Time;

use crate::cri::Runtime;

/// `--container-log-max-size` and `--container-log-max-files`.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub bytes: u64,
    /// With the one that is being written.
    pub files: usize,
}

/// A log could not be rotated.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{operation} {}", path.display())]
    Io { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("reopen the log of container {container}")]
    Reopen { container: String, source: crate::cri::Error },
}

/// The uids of the pods with a log that has grown too large, of those whose folders are below `logs`.
/// A look at the files is cheap; asking the runtime about every pod again and again is not.
pub fn grown(logs: &Path, limits: Limits) -> io::Result<Vec<String>> {
    let mut uids = Vec::new();
    for pod in fs::read_dir(logs)? {
        let pod = pod?.path();
        // Anything may come or go meanwhile, and strangers may have put something here.
        let containers = fs::read_dir(&pod).into_iter().flatten().flatten();
        let mut files = containers.flat_map(|it| fs::read_dir(it.path()).into_iter().flatten());
        let large = files.any(|file| {
            file.is_ok_and(|file| {
                file.path().extension().is_some_and(|it| it == "log")
                    && file.metadata().is_ok_and(|metadata| metadata.len() > limits.bytes)
            })
        });
        let name = pod.file_name().and_then(|name| name.to_str());
        if large && let Some((_, uid)) = name.and_then(|name| name.rsplit_once('_')) {
            uids.push(uid.to_string());
        }
    }
    Ok(uids)
}

/// Rotates the log of a running container if it is too large. No line is lost: until the runtime
/// has opened the new file it writes into the old one under its new name.
pub async fn rotate(
    runtime: &dyn Runtime,
    container: &str,
    log: &Path,
    limits: Limits,
    now: Time,
) -> Result<bool, Error> {
    let large = fs::metadata(log).is_ok_and(|metadata| metadata.len() > limits.bytes);
    if !large {
        return Ok(false);
    }
    let io = |operation, path: &Path| {
        let path = path.to_path_buf();
        move |source| Error::Io { operation, path, source }
    };
    let stamp = now.0.strftime("%Y%m%d-%H%M%S");
    let mut aside = log.as_os_str().to_owned();
    aside.push(format!(".{stamp}"));
    let aside = PathBuf::from(aside);
    fs::rename(log, &aside).map_err(io("move aside", log))?;
    if let Err(source) = runtime.reopen_log(container).await {
        // Nothing is written under the old name yet: put it back.
        fs::rename(&aside, log).map_err(io("move back", &aside))?;
        return Err(Error::Reopen { container: container.into(), source });
    }
    for old in surplus(log, limits.files).map_err(io("list", log))? {
        fs::remove_file(&old).map_err(io("remove", &old))?;
    }
    Ok(true)
}

/// The oldest rotated files beyond what may be kept.
fn surplus(log: &Path, files: usize) -> io::Result<Vec<PathBuf>> {
    let (Some(folder), Some(name)) = (log.parent(), log.file_name().and_then(|n| n.to_str()))
    else {
        return Ok(Vec::new());
    };
    let prefix = format!("{name}.");
    let mut rotated = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(|other| other.starts_with(&prefix)) {
            rotated.push(entry.path());
        }
    }
    // Their names end in the time of their rotation.
    rotated.sort();
    let kept = files.saturating_sub(1);
    rotated.truncate(rotated.len().saturating_sub(kept));
    Ok(rotated)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_have_grown() {
        let dir = tempfile::tempdir().unwrap();
        for (log, size) in [
            ("a_small_1/c/0.log", 10),
            ("a_large_2/c/0.log", 1),
            ("a_large_2/d/3.log", 11),
            ("a_rotated_3/c/0.log", 0),
            ("a_rotated_3/c/0.log.20240101-000000", 20),
            ("stranger/c/0.log", 20),
        ] {
            let log = dir.path().join(log);
            fs::create_dir_all(log.parent().unwrap()).unwrap();
            fs::write(log, "x".repeat(size)).unwrap();
        }
        fs::write(dir.path().join("a_file_4"), "").unwrap();
        assert_eq!(grown(dir.path(), Limits { bytes: 10, files: 2 }).unwrap(), ["2"]);
    }

    #[test]
    fn the_oldest_go() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("0.log");
        for name in ["0.log", "0.log.20240101-000000", "0.log.20240102-000000", "1.log.x"] {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(surplus(&log, 2).unwrap(), [dir.path().join("0.log.20240101-000000")]);
        assert!(surplus(&log, 3).unwrap().is_empty());
    }
}
