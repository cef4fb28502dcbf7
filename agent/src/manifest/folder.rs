//! The files of `--pod-manifest-path`: a folder of manifests, or a single one. Whenever anything
//! happens to them they are read again.

use std::collections::BTreeMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use client::Clock;
use client::error::chain;
use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};
use tokio::io::unix::AsyncFd;

use super::{Manifest, Origin, read};

/// Watches one folder or file.
pub struct Source {
    path: PathBuf,
    node: String,
    clock: Clock,
    changes: AsyncFd<OwnedFd>,
    /// What each file said when it could last be read.
    known: BTreeMap<PathBuf, Manifest>,
}

/// The manifests cannot be watched.
#[derive(Debug, thiserror::Error)]
#[error("watch {}", path.display())]
pub struct Error {
    path: PathBuf,
    source: io::Error,
}

impl Source {
    /// A folder that does not exist is made.
    pub fn open(path: &Path, node: &str, clock: Clock) -> Result<Source, Error> {
        let failed = |source| Error { path: path.into(), source };
        if !path.exists() {
            std::fs::create_dir_all(path).map_err(failed)?;
        }
        // Editors put a new file in the old one's place: only its folder tells.
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(path) };
        let changes = watch(folder).map_err(failed)?;
        let (path, node) = (path.to_path_buf(), node.to_string());
        Ok(Source { path, node, clock, changes, known: BTreeMap::new() })
    }

    /// All static pods as of now. A file that has become unreadable counts as it was.
    pub fn read(&mut self) -> Vec<Manifest> {
        let files = match files(&self.path) {
            Ok(files) => files,
            Err(error) => {
                tracing::warn!(path = %self.path.display(), %error, "cannot list manifests");
                return self.known.values().cloned().collect();
            }
        };
        let mut all = BTreeMap::new();
        for file in files {
            let before = self.known.remove(&file);
            let text = match std::fs::read(&file) {
                Ok(text) => text,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    tracing::warn!(file = %file.display(), %error, "cannot read a manifest");
                    all.extend(before.map(|before| (file, before)));
                    continue;
                }
            };
            match read(&text, Origin::File(&file), &self.node, self.clock.now()) {
                // Since when it is seen is no news.
                Ok(now) => match before.filter(|before| before.uid == now.uid) {
                    Some(before) => drop(all.insert(file, before)),
                    None => drop(all.insert(file, now)),
                },
                Err(error) => {
                    let error = chain(&error);
                    tracing::warn!(file = %file.display(), error, "cannot use a manifest");
                    all.extend(before.map(|before| (file, before)));
                }
            }
        }
        self.known = all;
        self.known.values().cloned().collect()
    }

    /// Until something has happened to the files.
    pub async fn changed(&self) {
        let Ok(mut ready) = self.changes.readable().await else { return };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(self.changes.get_ref(), &mut buffer);
        while reader.next().is_ok() {}
        ready.clear_ready();
    }
}

#[allow(deprecated, reason = "an OwnedFd is what AsyncFd wants; its newer constructor is unsafe")]
fn watch(folder: &Path) -> io::Result<AsyncFd<OwnedFd>> {
    let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    let what = WatchFlags::CLOSE_WRITE
        | WatchFlags::CREATE
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::DELETE;
    inotify::add_watch(&fd, folder, what)?;
    AsyncFd::new(fd)
}

/// In the order of their names; hidden ones are somebody's drafts.
fn files(path: &Path) -> io::Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !hidden && entry.path().is_file() {
            files.push(entry.path());
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str) -> String {
        let containers = "[{name: c, image: i}]";
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec: {{containers: {containers}}}\n"
        )
    }

    #[tokio::test]
    async fn files_come_change_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("manifests");
        let clock = Clock::simulated(proto::time::Time::from_unix(0));
        let mut source = Source::open(&path, "n", clock).unwrap();
        assert_eq!(source.read(), []);
        std::fs::write(path.join("a.yaml"), pod("a")).unwrap();
        source.changed().await;
        let first = source.read();
        assert_eq!(first.iter().map(|pod| pod.name.as_str()).collect::<Vec<_>>(), ["a-n"]);
        std::fs::write(path.join(".draft.yaml"), pod("draft")).unwrap();
        std::fs::write(path.join("a.yaml"), "not: [a pod").unwrap();
        source.changed().await;
        assert_eq!(source.read(), first);
        std::fs::write(path.join("new"), pod("b")).unwrap();
        std::fs::rename(path.join("new"), path.join("a.yaml")).unwrap();
        source.changed().await;
        let names: Vec<String> = source.read().into_iter().map(|pod| pod.name).collect();
        assert_eq!(names, ["b-n"]);
        std::fs::remove_file(path.join("a.yaml")).unwrap();
        source.changed().await;
        assert_eq!(source.read(), []);
    }
}
