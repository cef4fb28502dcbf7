//! One layer: a tar, maybe compressed, into a directory that overlayfs takes as a lower one.
//!
//! The bytes are a stranger's. Nothing may be created or removed outside the directory, whatever
//! names and links the archive has: every parent is resolved by the kernel within the directory.
//! Nothing may be kept in memory for every file: a layer can have millions.

mod attributes;
mod sparse;

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tar::{Entry, EntryType};

use self::attributes::{attributes, opaque, set_time};
use self::sparse::Sparse;
use super::skeleton::{Recorder, Recording};
use super::stream::{Hashing, decompress};

/// Of files that say what lower layers lose.
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Of aufs, which nobody uses any more.
const WHITEOUT_META: &[u8] = b".wh..wh.";

#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("read the layer")]
    Read(#[source] io::Error),
    #[error("write the layer's skeleton")]
    Skeleton(#[source] io::Error),
    #[error("the layer's entry \"{0}\" leads out of the image")]
    Escape(String),
    #[error("unpack \"{path}\"")]
    Entry {
        path: String,
        #[source]
        source: io::Error,
    },
}

/// What a layer came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Unpacked {
    /// Of the uncompressed tar.
    pub digest: String,
    /// Bytes of that tar.
    pub tar: u64,
    /// In files, as the tar has them.
    pub bytes: u64,
    /// On the disk.
    pub disk: u64,
    pub inodes: u64,
    /// Directories that are there only because something is in them: their attributes are those of
    /// the layers below.
    pub implied: Vec<PathBuf>,
}

/// Unpacks into `folder`, which must exist, and writes the tar's skeleton beside it.
pub fn unpack(layer: impl Read, folder: &Path, skeleton: &Path) -> Result<Unpacked, UnpackError> {
    let tar = Hashing::new(decompress(layer).map_err(UnpackError::Read)?);
    let (recorder, recording) = Recorder::new(tar, skeleton).map_err(UnpackError::Skeleton)?;
    let mut archive = tar::Archive::new(recorder);
    let root =
        rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| UnpackError::Entry {
                path: folder.display().to_string(),
                source: error.into(),
            })?;
    let mut layer =
        Layer { root, parent: None, folders: Vec::new(), recording, done: Unpacked::default() };
    for entry in archive.entries().map_err(UnpackError::Read)? {
        let mut entry = entry.map_err(UnpackError::Read)?;
        layer.entry(&mut entry)?;
    }
    // Filling a directory changes its time, so directories get theirs last.
    for (path, time) in layer.folders.iter().rev() {
        if let Ok(fd) = beneath(&layer.root, path) {
            let _ = set_time(&fd, *time);
        }
    }
    let mut recorder = archive.into_inner();
    layer.recording.bytes(u64::MAX);
    io::copy(&mut recorder, &mut io::sink()).map_err(UnpackError::Read)?;
    layer.recording.finish().map_err(UnpackError::Skeleton)?;
    let tar = recorder.into_inner();
    (layer.done.digest, layer.done.tar) = (tar.digest(), tar.bytes);
    layer.done.disk += std::fs::metadata(skeleton).map_err(UnpackError::Skeleton)?.len();
    Ok(layer.done)
}

struct Layer {
    root: OwnedFd,
    /// The directory of the entry before: the next one is mostly in it too.
    parent: Option<(PathBuf, OwnedFd)>,
    /// With their times; seconds and nanoseconds.
    folders: Vec<(PathBuf, (i64, i64))>,
    recording: std::rc::Rc<Recording>,
    done: Unpacked,
}

impl Layer {
    fn entry(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<(), UnpackError> {
        let sparse = Sparse::of(entry).map_err(UnpackError::Read)?;
        let path = match &sparse {
            Some(Sparse { name: Some(name), .. }) => name.clone(),
            _ => entry.path().map_err(UnpackError::Read)?.into_owned(),
        };
        let shown = path.display().to_string();
        let path = inside(&path).ok_or_else(|| UnpackError::Escape(shown.clone()))?;
        let kind = entry.header().entry_type();
        let whole = matches!(kind, EntryType::Regular | EntryType::Continuous) && sparse.is_none();
        let noted = match whole && !is_whiteout(&path) {
            true => self.recording.file(&path, entry.size()),
            false => {
                self.recording.bytes(entry.size());
                Ok(())
            }
        };
        noted.map_err(UnpackError::Skeleton)?;
        if matches!(kind, EntryType::XGlobalHeader | EntryType::XHeader) {
            return Ok(());
        }
        self.place(entry, &path, sparse).map_err(|source| match source.raw_os_error() {
            Some(libc::EXDEV) => UnpackError::Escape(shown.clone()),
            _ => UnpackError::Entry { path: shown.clone(), source },
        })
    }

    fn place(
        &mut self,
        entry: &mut Entry<'_, impl Read>,
        path: &Path,
        sparse: Option<Sparse>,
    ) -> io::Result<()> {
        let Some(name) = path.file_name() else {
            // The root itself: only its attributes.
            return attributes(entry, &self.root, None).map(drop);
        };
        self.enter(path.parent().unwrap_or(Path::new("")))?;
        let (_, parent) = self.parent.as_ref().expect("just entered");
        if is_whiteout(path) {
            return self.hide(name);
        }
        let kind = entry.header().entry_type();
        self.done.inodes += 1;
        let made = create(entry, &self.root, parent, name, sparse)?;
        let Some(disk) = made else { return Ok(()) }; // A link: its attributes are the target's.
        self.done.disk += disk;
        let time = attributes(entry, parent, Some(name))?;
        if kind == EntryType::Directory {
            self.folders.push((path.to_owned(), time));
            self.done.implied.retain(|implied| implied != path);
            if self.parent.as_ref().is_some_and(|(held, _)| held == path) {
                self.parent = None;
            }
        } else if kind.is_file() || kind == EntryType::GNUSparse {
            self.done.bytes += entry.size();
        }
        Ok(())
    }

    /// Marks for overlayfs what lower layers have and this one has not.
    fn hide(&mut self, name: &OsStr) -> io::Result<()> {
        let (_, parent) = self.parent.as_ref().expect("entered");
        let bytes = name.as_bytes();
        if bytes == OPAQUE {
            return opaque(parent);
        }
        if bytes.starts_with(WHITEOUT_META) {
            return Ok(());
        }
        let hidden = OsStr::from_bytes(&bytes[WHITEOUT.len()..]);
        if hidden.is_empty() || hidden == "." || hidden == ".." {
            return Err(Errno::XDEV.into());
        }
        self.done.inodes += 1;
        match rustix::fs::mknodat(
            parent,
            hidden,
            FileType::CharacterDevice,
            Mode::empty(),
            rustix::fs::makedev(0, 0),
        ) {
            // What the layer has itself stays: only lower layers lose something.
            Err(Errno::EXIST) if is_folder(parent, hidden) => {
                opaque(&beneath(parent, Path::new(hidden))?)
            }
            Err(Errno::EXIST) => Ok(()),
            result => Ok(result?),
        }
    }

    /// Opens the directory that the next entry goes into, making what is missing of it.
    fn enter(&mut self, folder: &Path) -> io::Result<()> {
        if self.parent.as_ref().is_some_and(|(held, _)| held == folder) {
            return Ok(());
        }
        let fd = match beneath(&self.root, folder) {
            Err(Errno::NOENT | Errno::NOTDIR) => {
                let mut made = PathBuf::new();
                for part in folder.components() {
                    let above = beneath(&self.root, &made)?;
                    made.push(part);
                    if make_folder(&above, part.as_os_str(), false)? {
                        self.done.inodes += 1;
                        self.done.disk += 4096;
                        self.done.implied.push(made.clone());
                    }
                }
                beneath(&self.root, folder)?
            }
            result => result?,
        };
        self.parent = Some((folder.to_owned(), fd));
        Ok(())
    }
}

/// Makes what the entry is, but for its attributes. Answers with the bytes it takes on the disk, or
/// with nothing for a link to another file.
fn create(
    entry: &mut Entry<'_, impl Read>,
    root: &OwnedFd,
    parent: &OwnedFd,
    name: &OsStr,
    sparse: Option<Sparse>,
) -> io::Result<Option<u64>> {
    let header = entry.header().clone();
    let kind = header.entry_type();
    if kind == EntryType::Directory {
        make_folder(parent, name, true)?;
        return Ok(Some(4096));
    }
    clear(parent, name)?;
    match kind {
        EntryType::Symlink => {
            let target = entry.link_name_bytes().unwrap_or_default();
            rustix::fs::symlinkat(OsStr::from_bytes(&target), parent, name)?;
            Ok(Some(0))
        }
        EntryType::Link => {
            let target = entry.link_name()?.unwrap_or_default().into_owned();
            let target = inside(&target).ok_or(Errno::XDEV)?;
            let folder = beneath(root, target.parent().unwrap_or(Path::new("")))?;
            let file = target.file_name().ok_or(Errno::XDEV)?;
            rustix::fs::linkat(&folder, file, parent, name, AtFlags::empty())?;
            Ok(None)
        }
        EntryType::Char | EntryType::Block | EntryType::Fifo => {
            let kind = match kind {
                EntryType::Char => FileType::CharacterDevice,
                EntryType::Block => FileType::BlockDevice,
                _ => FileType::Fifo,
            };
            // What is no device leaves the numbers out.
            let number = |field: io::Result<Option<u32>>| field.ok().flatten().unwrap_or(0);
            let (major, minor) = (number(header.device_major()), number(header.device_minor()));
            let device = rustix::fs::makedev(major, minor);
            if kind == FileType::CharacterDevice && device == 0 {
                // To overlayfs it would be a whiteout.
                let what = "a character device 0:0, which means a removed file";
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            }
            rustix::fs::mknodat(parent, name, kind, Mode::from(0o600), device)?;
            Ok(Some(0))
        }
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let fd = rustix::fs::openat(parent, name, flags, Mode::from(0o600))?;
            let mut file = File::from(fd);
            match sparse {
                Some(sparse) => sparse.write(entry, &mut file)?,
                None if kind == EntryType::GNUSparse => sparse::without_zeros(entry, &file)?,
                None => drop(io::copy(entry, &mut file)?),
            }
            Ok(Some(file.metadata()?.blocks() * 512))
        }
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, format!("entry type {kind:?}"))),
    }
}

/// Makes a directory, or finds it; true when it is new. Where the layer has removed the name before,
/// nothing of the lower layers' directory may show through. `replace`: whatever else has the name
/// makes room.
fn make_folder(parent: &OwnedFd, name: &OsStr, replace: bool) -> io::Result<bool> {
    match rustix::fs::mkdirat(parent, name, Mode::from(0o755)) {
        Ok(()) => return Ok(true),
        Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let removed =
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0;
    if is_folder(parent, name) || !(removed || replace) {
        return Ok(false);
    }
    clear(parent, name)?;
    rustix::fs::mkdirat(parent, name, Mode::from(0o755))?;
    if removed {
        opaque(&beneath(parent, Path::new(name))?)?;
    }
    Ok(true)
}

fn is_whiteout(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_bytes().starts_with(WHITEOUT))
}

/// The path without what leads nowhere; `None` when it leads out.
pub fn inside(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(part) => out.push(part),
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(out)
}

/// A directory of the layer; links on the way stay within it.
pub fn beneath(root: &OwnedFd, folder: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    open_beneath(root, folder, flags)
}

pub fn open_beneath(root: &OwnedFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    rustix::fs::openat2(root, path, flags, Mode::empty(), resolve)
}

fn is_folder(parent: &OwnedFd, name: &OsStr) -> bool {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
    stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// A later entry of a name replaces the earlier.
fn clear(parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => Ok(std::fs::remove_dir_all(proc_path(parent).join(name))?),
        Err(error) => Err(error.into()),
    }
}

fn proc_path(fd: &OwnedFd) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

/// For names that are bytes.
fn os(bytes: &[u8]) -> OsString {
    OsStr::from_bytes(bytes).to_owned()
}

#[cfg(test)]
mod tests;
