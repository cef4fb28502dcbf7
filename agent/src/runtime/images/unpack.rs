//! One layer: a tar, maybe compressed, into a directory that overlayfs takes as a lower one.
//!
//! The bytes are a stranger's. Nothing may be created outside the directory, whatever names and
//! links the archive has: every parent is resolved by the kernel within the directory.

use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;
use sha2::{Digest, Sha256};
use tar::{Entry, EntryType};

#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("read the layer")]
    Read(#[source] io::Error),
    #[error("the layer's entry \"{0}\" leads out of the image")]
    Escape(String),
    #[error("unpack \"{path}\"")]
    Entry {
        path: String,
        #[source]
        source: io::Error,
    },
}

/// Unpacks into `folder`, which must exist. Answers with the digest of the uncompressed tar and the
/// number of bytes in files.
pub fn unpack(layer: impl Read, folder: &Path) -> Result<(String, u64), UnpackError> {
    let tar = Hashing::new(decompress(layer).map_err(UnpackError::Read)?);
    let mut archive = tar::Archive::new(tar);
    let root =
        rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|error| UnpackError::Entry {
                path: folder.display().to_string(),
                source: error.into(),
            })?;
    let mut layer = Layer { root, parent: None, folders: Vec::new(), bytes: 0 };
    for entry in archive.entries().map_err(UnpackError::Read)? {
        let mut entry = entry.map_err(UnpackError::Read)?;
        let path = entry.path().map_err(UnpackError::Read)?.into_owned();
        layer.entry(&mut entry, &path)?;
    }
    // Filling a directory changes its time, so directories get theirs last.
    for (path, time) in layer.folders.iter().rev() {
        if let Ok(fd) = beneath(&layer.root, path) {
            let _ = rustix::fs::utimensat(CWD, proc_path(&fd), &times(*time), AtFlags::empty());
        }
    }
    let mut tar = archive.into_inner();
    io::copy(&mut tar, &mut io::sink()).map_err(UnpackError::Read)?;
    Ok((tar.digest(), layer.bytes))
}

/// Reads gzip, zstd or plain, by the first bytes.
pub fn decompress<'a>(input: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut input = BufReader::with_capacity(64 * 1024, input);
    let start = io::BufRead::fill_buf(&mut input)?;
    let reader: Box<dyn Read + 'a> = match start {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Box::new(zstd::Decoder::with_buffer(input)?),
        _ => Box::new(input),
    };
    Ok(reader)
}

/// Passes bytes on and knows their digest.
pub struct Hashing<T> {
    inner: T,
    hash: Sha256,
}

impl<T> Hashing<T> {
    pub fn new(inner: T) -> Self {
        Hashing { inner, hash: Sha256::new() }
    }

    /// `sha256:…` of what went through.
    pub fn digest(&self) -> String {
        format!("sha256:{}", hex::encode(self.hash.clone().finalize()))
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

struct Layer {
    root: OwnedFd,
    /// The directory of the entry before: the next one is mostly in it too.
    parent: Option<(PathBuf, OwnedFd)>,
    folders: Vec<(PathBuf, i64)>,
    bytes: u64,
}

impl Layer {
    fn entry(&mut self, entry: &mut Entry<impl Read>, path: &Path) -> Result<(), UnpackError> {
        let shown = path.display().to_string();
        let path = inside(path).ok_or_else(|| UnpackError::Escape(shown.clone()))?;
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader | EntryType::XHeader) {
            return Ok(());
        }
        let failed = |source: io::Error| match source.raw_os_error() {
            Some(libc::EXDEV) => UnpackError::Escape(shown.clone()),
            _ => UnpackError::Entry { path: shown.clone(), source },
        };
        let Some(name) = path.file_name() else {
            // The root itself: only its attributes.
            return self.attributes(entry, &self.root, None).map_err(failed);
        };
        let folder = path.parent().unwrap_or(Path::new(""));
        self.enter(folder).map_err(failed)?;
        let parent = &self.parent.as_ref().expect("just entered").1;
        let name = name.to_string_lossy().into_owned();
        if name == ".wh..wh..opq" {
            return set_xattr(parent, None, "trusted.overlay.opaque", b"y").map_err(failed);
        }
        if let Some(hidden) = name.strip_prefix(".wh.") {
            clear(parent, hidden).map_err(failed)?;
            let device = rustix::fs::makedev(0, 0);
            return rustix::fs::mknodat(
                parent,
                hidden,
                FileType::CharacterDevice,
                Mode::empty(),
                device,
            )
            .map_err(|error| failed(error.into()));
        }
        self.create(entry, parent, &name).map_err(failed)?;
        if kind == EntryType::Directory {
            self.folders.push((path.clone(), entry.header().mtime().unwrap_or(0) as i64));
            if self.parent.as_ref().is_some_and(|(held, _)| held == &path) {
                self.parent = None;
            }
        }
        self.bytes += if kind.is_file() { entry.header().size().unwrap_or(0) } else { 0 };
        Ok(())
    }

    /// Opens the directory that the next entry goes into, making what is missing of it.
    fn enter(&mut self, folder: &Path) -> io::Result<()> {
        if self.parent.as_ref().is_some_and(|(held, _)| held == folder) {
            return Ok(());
        }
        let fd = match beneath(&self.root, folder) {
            Err(Errno::NOENT) => {
                let mut made = PathBuf::new();
                for part in folder.components() {
                    let above = beneath(&self.root, &made)?;
                    match rustix::fs::mkdirat(&above, part.as_os_str(), Mode::from(0o755)) {
                        Err(error) if error != Errno::EXIST => return Err(error.into()),
                        _ => made.push(part),
                    }
                }
                beneath(&self.root, folder)?
            }
            result => result?,
        };
        self.parent = Some((folder.to_owned(), fd));
        Ok(())
    }

    fn create(&self, entry: &mut Entry<impl Read>, parent: &OwnedFd, name: &str) -> io::Result<()> {
        let header = entry.header().clone();
        let kind = header.entry_type();
        let device = || -> io::Result<u64> {
            let (major, minor) = (header.device_major()?, header.device_minor()?);
            Ok(rustix::fs::makedev(major.unwrap_or(0), minor.unwrap_or(0)))
        };
        if kind == EntryType::Directory {
            match rustix::fs::mkdirat(parent, name, Mode::from(0o755)) {
                Err(Errno::EXIST) if is_folder(parent, name) => {}
                Err(Errno::EXIST) => {
                    clear(parent, name)?;
                    rustix::fs::mkdirat(parent, name, Mode::from(0o755))?;
                }
                result => result?,
            }
            return self.attributes(entry, parent, Some(name));
        }
        clear(parent, name)?;
        match kind {
            EntryType::Symlink => {
                let target = entry.link_name()?.unwrap_or_default().into_owned();
                rustix::fs::symlinkat(&target, parent, name)?;
            }
            EntryType::Link => {
                let target = entry.link_name()?.unwrap_or_default().into_owned();
                let target = inside(&target).ok_or(io::Error::from_raw_os_error(libc::EXDEV))?;
                let folder = beneath(&self.root, target.parent().unwrap_or(Path::new("")))?;
                let file = target.file_name().ok_or(io::Error::from_raw_os_error(libc::EXDEV))?;
                rustix::fs::linkat(&folder, file, parent, name, AtFlags::empty())?;
                return Ok(()); // Its attributes are the target's.
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let kind = match kind {
                    EntryType::Char => FileType::CharacterDevice,
                    EntryType::Block => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                rustix::fs::mknodat(parent, name, kind, Mode::from(0o600), device()?)?;
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let flags = OFlags::WRONLY
                    | OFlags::CREATE
                    | OFlags::EXCL
                    | OFlags::NOFOLLOW
                    | OFlags::CLOEXEC;
                let fd = rustix::fs::openat(parent, name, flags, Mode::from(0o600))?;
                let mut file = File::from(fd);
                io::copy(entry, &mut file)?;
                file.flush()?;
            }
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::Unsupported,
                    format!("entry type {kind:?}"),
                ));
            }
        }
        self.attributes(entry, parent, Some(name))
    }

    /// Owner, extended attributes, mode and time; `None` is the directory itself.
    fn attributes(
        &self,
        entry: &mut Entry<impl Read>,
        parent: &OwnedFd,
        name: Option<&str>,
    ) -> io::Result<()> {
        let header = entry.header().clone();
        // An empty field is what some writers leave for root.
        let (uid, gid) = (header.uid().unwrap_or(0) as u32, header.gid().unwrap_or(0) as u32);
        let owner = (Uid::from_raw(uid), Gid::from_raw(gid));
        let (path, flags) = match name {
            Some(name) => (name, AtFlags::SYMLINK_NOFOLLOW),
            None => ("", AtFlags::EMPTY_PATH),
        };
        rustix::fs::chownat(parent, path, Some(owner.0), Some(owner.1), flags)?;
        let is_link = header.entry_type() == EntryType::Symlink;
        if let Some(extensions) = entry.pax_extensions()? {
            for extension in extensions.flatten() {
                let key = extension.key().unwrap_or_default();
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
            let time = times(header.mtime().unwrap_or(0) as i64);
            rustix::fs::utimensat(parent, name, &time, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }
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
fn beneath(root: &OwnedFd, folder: &Path) -> Result<OwnedFd, Errno> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::openat2(
        root,
        folder,
        flags,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
}

fn is_folder(parent: &OwnedFd, name: &str) -> bool {
    let stat = rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW);
    stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory)
}

/// A later entry of a name replaces the earlier.
fn clear(parent: &OwnedFd, name: &str) -> io::Result<()> {
    match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => Ok(std::fs::remove_dir_all(proc_path(parent).join(name))?),
        Err(error) => Err(error.into()),
    }
}

fn set_xattr(parent: &OwnedFd, name: Option<&str>, key: &str, value: &[u8]) -> io::Result<()> {
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

fn proc_path(fd: &OwnedFd) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

fn times(seconds: i64) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            // Written raw: the builder refuses the names that are tested.
            header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            let data: &[u8] = if kind.is_file() { content.as_bytes() } else { b"" };
            if !kind.is_file() && !content.is_empty() {
                header.as_gnu_mut().unwrap().linkname[..content.len()]
                    .copy_from_slice(content.as_bytes());
            }
            header.set_size(data.len() as u64);
            header.set_cksum();
            builder.append(&header, data).unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn nothing_leaves_the_folder() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: unpacking sets owners, which needs root");
            return;
        }
        let outside = tempfile::tempdir().unwrap();
        let target = outside.path().join("target");
        std::fs::create_dir(&target).unwrap();
        let link = outside.path().to_str().unwrap();
        let dotted = layer(&[("../evil", EntryType::Regular, "x")]);
        let hard = layer(&[("hard", EntryType::Link, "../../etc/passwd")]);
        for bad in [dotted, hard] {
            let error = unpack(&bad[..], &target).unwrap_err();
            assert!(matches!(error, UnpackError::Escape(_)), "{error:?}");
        }
        // Through a link the file lands inside, as it would look from within.
        let linked =
            layer(&[("out", EntryType::Symlink, link), ("out/evil", EntryType::Regular, "x")]);
        let _ = unpack(&linked[..], &target);
        assert!(!outside.path().join("evil").exists());
    }

    #[test]
    fn compressed_or_not_the_digest_is_the_tars() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: unpacking sets owners, which needs root");
            return;
        }
        let plain = layer(&[("a/b", EntryType::Regular, "hello"), ("a/c", EntryType::Link, "a/b")]);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&plain).unwrap();
        let zstd = zstd::encode_all(&plain[..], 1).unwrap();
        let mut digests = Vec::new();
        for bytes in [plain, gzip.finish().unwrap(), zstd] {
            let folder = tempfile::tempdir().unwrap();
            let (digest, size) = unpack(&bytes[..], folder.path()).unwrap();
            assert_eq!(std::fs::read_to_string(folder.path().join("a/c")).unwrap(), "hello");
            digests.push((digest, size));
        }
        assert!(digests.windows(2).all(|pair| pair[0] == pair[1]), "{digests:?}");
    }

    #[test]
    fn what_a_layer_removes_is_marked_for_overlayfs() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: unpacking sets owners, which needs root");
            return;
        }
        let bytes = layer(&[
            ("d/", EntryType::Directory, ""),
            ("d/.wh..wh..opq", EntryType::Regular, ""),
            (".wh.gone", EntryType::Regular, ""),
        ]);
        let folder = tempfile::tempdir().unwrap();
        unpack(&bytes[..], folder.path()).unwrap();
        use std::os::unix::fs::{FileTypeExt, MetadataExt};
        let gone = std::fs::symlink_metadata(folder.path().join("gone")).unwrap();
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
        let mut value = [0u8; 4];
        let length =
            rustix::fs::getxattr(folder.path().join("d"), "trusted.overlay.opaque", &mut value[..]);
        assert_eq!((length.ok(), value[0]), (Some(1), b'y'));
    }
}
