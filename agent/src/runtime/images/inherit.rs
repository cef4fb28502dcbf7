//! Directories that a layer has only because something is in them. Layers are unpacked by
//! themselves, so such a directory gets ordinary attributes, and would hide those that a lower layer
//! gave it: `/tmp` would lose its sticky bit to a layer of the one file `tmp/x`. What an image shows
//! wrongly that way is put right by one more layer on top, of directories alone.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::layers::{Pending, ROOT};
use super::stream::digest_of;
use super::unpack::Unpacked;
use super::{ImageError, ImageStore, failed};

#[derive(Clone, Copy, Debug, PartialEq)]
struct Attributes {
    mode: u32,
    uid: u32,
    gid: u32,
}

/// What a layer says about a directory.
#[derive(Debug, PartialEq)]
enum Word {
    /// Nothing: what lower layers say holds.
    Nothing,
    /// It is gone, or something else.
    Hidden,
    Folder {
        attributes: Attributes,
        implied: bool,
        opaque: bool,
    },
}

impl ImageStore {
    /// The layer that belongs on top of these, if one does. It is made if it is not there.
    pub(super) fn inherit(&self, layers: &[String]) -> Result<Option<String>, ImageError> {
        let mut wanted = BTreeSet::new();
        let mut all = Vec::new();
        for digest in layers {
            let unpacked = self.unpacked(digest)?.unwrap_or_default();
            for path in &unpacked.implied {
                wanted.extend(path.ancestors().map(Path::to_owned));
            }
            all.push((self.layer_path(digest), unpacked.implied));
        }
        wanted.remove(Path::new(""));
        if wanted.is_empty() {
            return Ok(None);
        }
        let mut words: BTreeMap<&Path, Vec<Word>> = BTreeMap::new();
        for (root, implied) in &all {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let opened = rustix::fs::open(root, flags, Mode::empty());
            let opened = opened.map_err(|error| failed("open", root)(error.into()))?;
            let implied: BTreeSet<&Path> = implied.iter().map(PathBuf::as_path).collect();
            for path in &wanted {
                let word = word(&opened, path, &implied).map_err(failed("look at", root))?;
                words.entry(path).or_default().push(word);
            }
        }
        let shown: BTreeMap<&Path, (Attributes, bool)> =
            words.iter().filter_map(|(path, words)| Some((*path, effective(words)?))).collect();
        let mut kept: BTreeSet<&Path> = BTreeSet::new();
        for (path, _) in shown.iter().filter(|(_, (_, wrong))| *wrong) {
            kept.extend(path.ancestors().filter(|path| !path.as_os_str().is_empty()));
        }
        if kept.is_empty() {
            return Ok(None);
        }
        let folders = kept.iter().filter_map(|path| Some((*path, shown.get(path)?.0)));
        self.folders(&folders.collect::<Vec<_>>()).map(Some)
    }

    /// A layer of directories, each after its parent.
    fn folders(&self, folders: &[(&Path, Attributes)]) -> Result<String, ImageError> {
        let mut listing = b"inherited\n".to_vec();
        for (path, Attributes { mode, uid, gid }) in folders {
            listing.extend_from_slice(path.as_os_str().as_bytes());
            writeln!(listing, "\0{mode:o} {uid} {gid}").expect("memory can be written");
        }
        let digest = digest_of(&listing);
        if self.has_layer(&digest) {
            return Ok(digest);
        }
        let scratch = self.scratch()?;
        let root = scratch.path().join(ROOT);
        let make = |path: &Path, attributes: Option<Attributes>| -> io::Result<()> {
            std::fs::DirBuilder::new().mode(0o755).create(path)?;
            let Some(Attributes { mode, uid, gid }) = attributes else { return Ok(()) };
            chown(path, Some(uid), Some(gid))?;
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        };
        make(&root, None).map_err(failed("create", &root))?;
        for (path, attributes) in folders {
            let path = root.join(path);
            make(&path, Some(*attributes)).map_err(failed("create", &path))?;
        }
        let inodes = folders.len() as u64;
        let disk = inodes * 4096;
        let unpacked = Unpacked { digest: digest.clone(), inodes, disk, ..Unpacked::default() };
        self.publish(Pending::made(scratch, unpacked))?;
        Ok(digest)
    }
}

/// What a directory is with all layers one over the other, and whether overlayfs, which takes the
/// topmost layer's word, would show something else. `None` where it is no directory in the end.
fn effective(words: &[Word]) -> Option<(Attributes, bool)> {
    let mut state: Option<(Attributes, Attributes)> = None;
    for word in words {
        state = match word {
            Word::Nothing => state,
            Word::Hidden => None,
            Word::Folder { attributes, implied, opaque } => {
                let below = state.map(|(true_ones, _)| true_ones);
                let inherited = below.filter(|_| *implied && !*opaque);
                Some((inherited.unwrap_or(*attributes), *attributes))
            }
        };
    }
    state.map(|(true_ones, shown)| (true_ones, true_ones != shown))
}

fn word(root: &OwnedFd, path: &Path, implied: &BTreeSet<&Path>) -> io::Result<Word> {
    let mut opaque = false;
    let ancestors: Vec<&Path> = path.ancestors().collect();
    for part in ancestors.into_iter().rev().skip(1) {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let opened = match rustix::fs::openat2(root, part, flags, Mode::empty(), resolve) {
            Ok(opened) => opened,
            Err(Errno::NOENT) if opaque => return Ok(Word::Hidden),
            Err(Errno::NOENT) => return Ok(Word::Nothing),
            Err(Errno::LOOP | Errno::NOTDIR) => return Ok(Word::Hidden),
            Err(error) => return Err(error.into()),
        };
        let stat = rustix::fs::statat(&opened, "", AtFlags::EMPTY_PATH)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Ok(Word::Hidden);
        }
        opaque |= is_opaque(&opened);
        if part == path {
            let mode = stat.st_mode & 0o7777;
            let attributes = Attributes { mode, uid: stat.st_uid, gid: stat.st_gid };
            return Ok(Word::Folder { attributes, implied: implied.contains(path), opaque });
        }
    }
    Ok(Word::Nothing)
}

fn is_opaque(folder: &OwnedFd) -> bool {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", folder.as_fd().as_raw_fd());
    let mut value = [0u8; 4];
    rustix::fs::getxattr(path, "trusted.overlay.opaque", &mut value[..]) == Ok(1)
        && value[0] == b'y'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(mode: u32, implied: bool, opaque: bool) -> Word {
        Word::Folder { attributes: Attributes { mode, uid: 0, gid: 0 }, implied, opaque }
    }

    #[test]
    fn attributes_come_from_the_topmost_layer_that_means_them() {
        let table = [
            (vec![folder(0o1777, false, false), folder(0o755, true, false)], Some((0o1777, true))),
            (vec![folder(0o1777, false, false), folder(0o700, false, false)], Some((0o700, false))),
            (vec![folder(0o1777, false, false), Word::Nothing], Some((0o1777, false))),
            (vec![folder(0o1777, false, false), Word::Hidden], None),
            (
                vec![folder(0o1777, false, false), Word::Hidden, folder(0o755, true, false)],
                Some((0o755, false)),
            ),
            (vec![folder(0o1777, false, false), folder(0o755, true, true)], Some((0o755, false))),
            (
                vec![
                    folder(0o1777, false, false),
                    folder(0o755, true, false),
                    folder(0o755, true, false),
                ],
                Some((0o1777, true)),
            ),
            (vec![folder(0o755, true, false)], Some((0o755, false))),
            (vec![Word::Nothing], None),
        ];
        for (words, expected) in table {
            let found = effective(&words).map(|(attributes, wrong)| (attributes.mode, wrong));
            assert_eq!(found, expected, "{words:?}");
        }
    }
}
