//! What the runtime keeps on disk, so that it can die at any moment and go on from there.
//!
//! ```text
//! <root>/lock                    one runtime at a time
//! <root>/pod-cidr                what the agent said last
//! <root>/sandboxes/<id>/record   a sandbox; with it its socket and the files its containers mount
//! <root>/containers/<id>/record  a container; with it its writable layer and
//! <root>/containers/<id>/exit    its end, written by the supervisor
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use prost::Message;
use proto::cri;

/// A sandbox as it is written down.
#[derive(Clone, PartialEq, Message)]
pub struct SandboxRecord {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(message, optional, tag = "2")]
    pub config: Option<cri::PodSandboxConfig>,
    #[prost(string, tag = "3")]
    pub handler: String,
    /// Nanoseconds since 1970.
    #[prost(int64, tag = "4")]
    pub created_at: i64,
    #[prost(bool, tag = "5")]
    pub ready: bool,
    #[prost(string, tag = "6")]
    pub cgroup: String,
    /// Empty on the host's network.
    #[prost(string, tag = "7")]
    pub ip: String,
    #[prost(int32, tag = "8")]
    pub supervisor: i32,
}

/// A container as it is written down.
#[derive(Clone, PartialEq, Message)]
pub struct ContainerRecord {
    #[prost(string, tag = "1")]
    pub id: String,
    #[prost(string, tag = "2")]
    pub sandbox: String,
    #[prost(message, optional, tag = "3")]
    pub config: Option<cri::ContainerConfig>,
    #[prost(string, tag = "4")]
    pub image_id: String,
    #[prost(string, tag = "5")]
    pub image_ref: String,
    #[prost(uint64, tag = "6")]
    pub key: u64,
    #[prost(int64, tag = "7")]
    pub created_at: i64,
    #[prost(int64, tag = "8")]
    pub started_at: i64,
    /// Not 0: it has exited.
    #[prost(int64, tag = "9")]
    pub finished_at: i64,
    #[prost(int32, tag = "10")]
    pub exit_code: i32,
    #[prost(string, tag = "11")]
    pub reason: String,
    #[prost(string, tag = "12")]
    pub message: String,
    #[prost(string, tag = "13")]
    pub log_path: String,
    #[prost(string, tag = "14")]
    pub cgroup: String,
    #[prost(int32, tag = "15")]
    pub stop_signal: i32,
    #[prost(message, optional, tag = "16")]
    pub user: Option<cri::LinuxContainerUser>,
    /// The process as commands executed in the container start from it.
    #[prost(message, optional, tag = "17")]
    pub environment: Option<Environment>,
    /// The system call filter that was read from the node, if the request names one.
    #[prost(message, optional, tag = "18")]
    pub seccomp: Option<Seccomp>,
    /// The AppArmor profile; empty for none.
    #[prost(string, tag = "19")]
    pub apparmor: String,
}

/// A profile of the node as it was when the container was made.
#[derive(Clone, PartialEq, Message)]
pub struct Seccomp {
    /// As the kernel reads it.
    #[prost(bytes = "vec", tag = "1")]
    pub code: Vec<u8>,
    /// Of seccomp(2).
    #[prost(uint64, tag = "2")]
    pub flags: u64,
}

/// Where and as what commands run in a container.
#[derive(Clone, PartialEq, Message)]
pub struct Environment {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub variables: Vec<Vec<u8>>,
    #[prost(string, tag = "2")]
    pub folder: String,
    #[prost(string, tag = "3")]
    pub home: String,
}

#[derive(Debug, thiserror::Error)]
#[error("{action} {path}")]
pub struct StateError {
    action: &'static str,
    path: String,
    #[source]
    source: io::Error,
}

/// The runtime's directory.
#[derive(Clone, Debug)]
pub struct Root(PathBuf);

impl Root {
    /// Makes the directory and takes it for this process: the file returned holds the lock.
    pub fn open(path: &Path) -> Result<(Root, fs::File), StateError> {
        for folder in [path.to_owned(), path.join("sandboxes"), path.join("containers")] {
            fs::create_dir_all(&folder).map_err(failed("create", &folder))?;
        }
        let path = path.canonicalize().map_err(failed("resolve", path))?;
        let lock = path.join("lock");
        let file = fs::File::options().create(true).truncate(false).write(true).open(&lock);
        let file = file.map_err(failed("open", &lock))?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| failed("lock (is another runtime running?)", &lock)(error.into()))?;
        Ok((Root(path), file))
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn sandbox(&self, id: &str) -> PathBuf {
        self.0.join("sandboxes").join(id)
    }

    pub fn container(&self, id: &str) -> PathBuf {
        self.0.join("containers").join(id)
    }

    pub fn save_sandbox(&self, record: &SandboxRecord) -> Result<(), StateError> {
        replace(&self.sandbox(&record.id).join("record"), &record.encode_to_vec())
    }

    pub fn save_container(&self, record: &ContainerRecord) -> Result<(), StateError> {
        replace(&self.container(&record.id).join("record"), &record.encode_to_vec())
    }

    /// All records; directories without a readable one are removed, for nobody was told of them.
    pub fn load(&self) -> Result<(Vec<SandboxRecord>, Vec<ContainerRecord>), StateError> {
        Ok((load(&self.0.join("sandboxes"))?, load(&self.0.join("containers"))?))
    }
}

fn load<R: Message + Default>(folder: &Path) -> Result<Vec<R>, StateError> {
    let mut records = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed("list", folder))?.flatten() {
        let path = entry.path();
        let record =
            fs::read(path.join("record")).ok().and_then(|bytes| R::decode(&bytes[..]).ok());
        match record {
            Some(record) => records.push(record),
            None => {
                let _ =
                    rustix::mount::unmount(path.join("shm"), rustix::mount::UnmountFlags::DETACH);
                remove_folder(&path)?;
            }
        }
    }
    Ok(records)
}

/// Writes a file as a whole or not at all.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let new = path.with_extension("new");
    fs::write(&new, bytes).map_err(failed("write", &new))?;
    fs::rename(&new, path).map_err(failed("replace", path))
}

/// Removes a directory with what is in it; one that is not there is no error.
pub fn remove_folder(path: &Path) -> Result<(), StateError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

pub fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    move |source| StateError { action, path: path.display().to_string(), source }
}
