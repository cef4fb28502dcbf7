//! Layers on their way into the store: unpacked in a place of their own, brought to the disk, and
//! only then given their name.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use parking_lot::{Condvar, Mutex};
use rustix::fs::FlockOperation;

use super::unpack::{self, Unpacked};
use super::{ImageError, ImageStore, failed, same};

/// An empty directory to work in, on the store's file system; gone with this.
pub struct Scratch {
    path: PathBuf,
    /// Held as long as somebody works here: without it the directory is a dead process's.
    _lock: File,
}

/// A layer that is unpacked and has no name yet.
pub struct Pending {
    scratch: Scratch,
    unpacked: Unpacked,
}

impl Pending {
    /// What is in `scratch` below `root`, made by other means than unpacking.
    pub fn made(scratch: Scratch, unpacked: Unpacked) -> Pending {
        Pending { scratch, unpacked }
    }
}

/// Several layers reach the disk in one go: bringing a file system to the disk costs as much for
/// one as for all.
#[derive(Debug, Default)]
pub struct Syncing {
    state: Mutex<SyncState>,
    done: Condvar,
}

#[derive(Debug, Default)]
struct SyncState {
    running: bool,
    started: u64,
    finished: u64,
}

/// Where in a scratch directory the files of a layer are.
pub const ROOT: &str = "root";
/// What belongs to a layer beside its files, by the ending of the name.
pub const SKELETON: &str = "skeleton";
pub const FACTS: &str = "json";

impl ImageStore {
    pub fn scratch(&self) -> Result<Scratch, ImageError> {
        let folder = self.root.join("new");
        let pid = std::process::id();
        for number in 0.. {
            let path = folder.join(format!("{pid}-{number}"));
            match fs::create_dir(&path) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(failed("create", &path)(error)),
            }
            // Whoever sweeps may have seen it before it was locked.
            let Ok(lock) = File::open(&path) else { continue };
            let locked = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive);
            if locked.is_ok() && same(&lock, &path) {
                return Ok(Scratch { path, _lock: lock });
            }
        }
        unreachable!("some number is free")
    }

    /// Removes what dead processes were writing.
    pub(super) fn sweep_scratch(&self) -> Result<(), ImageError> {
        let folder = self.root.join("new");
        for entry in fs::read_dir(&folder).map_err(failed("list", &folder))?.flatten() {
            let Ok(handle) = File::open(entry.path()) else { continue };
            if rustix::fs::flock(&handle, FlockOperation::NonBlockingLockExclusive).is_ok() {
                fs::remove_dir_all(entry.path()).map_err(failed("remove", &entry.path()))?;
            }
        }
        Ok(())
    }

    /// Unpacks and names a layer unless it is there. `digest` is that of the uncompressed tar, which
    /// is checked.
    pub fn add_layer(&self, digest: &str, content: impl Read) -> Result<(), ImageError> {
        if self.has_layer(digest) {
            return Ok(());
        }
        let pending = self.unpack_layer(digest, content)?;
        self.publish(pending)
    }

    pub fn unpack_layer(&self, digest: &str, content: impl Read) -> Result<Pending, ImageError> {
        let scratch = self.scratch()?;
        let folder = scratch.path.join(ROOT);
        fs::create_dir(&folder).map_err(failed("create", &folder))?;
        let unpacked = unpack::unpack(content, &folder, &scratch.path.join(SKELETON))
            .map_err(|source| ImageError::Layer { digest: digest.to_owned(), source })?;
        if unpacked.digest != digest {
            let (what, expected) = ("a layer".to_owned(), digest.to_owned());
            return Err(ImageError::Digest { what, expected, found: unpacked.digest });
        }
        Ok(Pending { scratch, unpacked })
    }

    /// Gives the layer its name, as soon as it is on the disk: the name says that it is complete.
    pub fn publish(&self, pending: Pending) -> Result<(), ImageError> {
        let Pending { scratch, unpacked } = pending;
        let target = self.layer_path(&unpacked.digest);
        let facts = scratch.path.join(FACTS);
        let json = serde_json::to_vec(&unpacked).expect("plain structs are JSON");
        fs::write(&facts, json).map_err(failed("write", &facts))?;
        self.syncing.sync(&scratch.path).map_err(failed("sync", &scratch.path))?;
        for part in [SKELETON, FACTS] {
            let from = scratch.path.join(part);
            if from.exists() {
                let to = target.with_extension(part);
                fs::rename(from, &to).map_err(failed("publish", &to))?;
            }
        }
        match fs::rename(scratch.path.join(ROOT), &target) {
            Err(_) if target.exists() => Ok(()), // Somebody else was faster.
            result => result.map_err(failed("publish", &target)),
        }
    }
}

impl Syncing {
    /// Returns when everything that was written to the file system before is on the disk.
    fn sync(&self, path: &Path) -> io::Result<()> {
        let mut state = self.state.lock();
        // One that has begun may have missed what was written meanwhile.
        let wanted = state.started + 1;
        while state.finished < wanted {
            if state.running {
                self.done.wait(&mut state);
                continue;
            }
            state.running = true;
            state.started += 1;
            drop(state);
            let result = File::open(path).and_then(|file| Ok(rustix::fs::syncfs(&file)?));
            state = self.state.lock();
            state.running = false;
            if result.is_ok() {
                state.finished = state.started;
            }
            self.done.notify_all();
            result?;
        }
        Ok(())
    }
}

impl Scratch {
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}
