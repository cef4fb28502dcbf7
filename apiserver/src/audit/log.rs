//! Where audit events go: a file, which begins anew when it has become large, or stdout.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde_json::Value;

#[derive(Debug, thiserror::Error)]
#[error("opening the audit log {path}")]
pub struct LogError {
    path: PathBuf,
    source: io::Error,
}

#[derive(Clone, Debug, clap::Args)]
pub struct LogOptions {
    /// Write audit events to this file; "-" is stdout.
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    pub audit_log_path: Option<PathBuf>,

    /// Megabytes at which the audit log begins a new file.
    #[arg(long, value_name = "MB", default_value_t = 100)]
    pub audit_log_maxsize: u64,

    /// Old audit files to keep; 0 keeps all.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub audit_log_maxbackup: usize,
}

/// See the module.
pub struct Log(Mutex<Target>);

enum Target {
    Stdout,
    File { path: PathBuf, file: File, size: u64, limit: u64, backups: usize },
}

impl Log {
    pub fn open(path: &Path, options: &LogOptions) -> Result<Log, LogError> {
        if path == Path::new("-") {
            return Ok(Log(Mutex::new(Target::Stdout)));
        }
        let open = || -> io::Result<Target> {
            let file = append(path)?;
            let size = file.metadata()?.len();
            let (limit, backups) = (options.audit_log_maxsize << 20, options.audit_log_maxbackup);
            Ok(Target::File { path: path.into(), file, size, limit, backups })
        };
        let target = open().map_err(|source| LogError { path: path.into(), source })?;
        Ok(Log(Mutex::new(target)))
    }

    /// A failure is complained of and does not keep the request from going on.
    pub fn write(&self, event: &Value) {
        let line = format!("{event}\n");
        if let Err(error) = self.0.lock().write(line.as_bytes()) {
            tracing::error!(%error, "writing an audit event");
        }
    }
}

impl Target {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Target::Stdout => io::stdout().lock().write_all(line),
            Target::File { path, file, size, limit, backups } => {
                if *limit > 0 && *size + line.len() as u64 > *limit && *size > 0 {
                    rotate(path, *backups)?;
                    (*file, *size) = (append(path)?, 0);
                }
                file.write_all(line)?;
                *size += line.len() as u64;
                Ok(())
            }
        }
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// `audit.log` becomes `audit.log.1`, that `audit.log.2`, and so on.
fn rotate(path: &Path, backups: usize) -> io::Result<()> {
    let numbered = |number: usize| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    let mut last = 0;
    while numbered(last + 1).exists() {
        last += 1;
    }
    for number in (1..=last).rev() {
        match backups > 0 && number >= backups {
            true => std::fs::remove_file(numbered(number))?,
            false => std::fs::rename(numbered(number), numbered(number + 1))?,
        }
    }
    std::fs::rename(path, numbered(1))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_large_log_begins_anew_and_old_ones_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let options = LogOptions {
            audit_log_path: Some(path.clone()),
            audit_log_maxsize: 1,
            audit_log_maxbackup: 2,
        };
        let log = Log::open(&path, &options).unwrap();
        let filling = "x".repeat(400_000);
        for n in 0..12 {
            log.write(&json!({"n": n, "filling": filling}));
        }
        let mut names: Vec<_> = std::fs::read_dir(folder.path())
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["audit.log", "audit.log.1", "audit.log.2"]);
        let newest = std::fs::read_to_string(&path).unwrap();
        let last: Value = serde_json::from_str(newest.lines().last().unwrap()).unwrap();
        assert_eq!(last["n"], 11);
        assert!(newest.len() <= 1 << 20);
    }
}
