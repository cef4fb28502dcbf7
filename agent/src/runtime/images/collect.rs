//! What goes: names and images that somebody removes, layers that no image has any more, and what
//! died half done.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use proto::time::Time;

use super::layers::{FACTS, SKELETON, Scratch};
use super::{Image, ImageError, ImageStore, Pin, failed, layer_name, remove_file};
use crate::reference::Reference;

/// So long a pull that broke off may be resumed.
const GIVEN_UP: Duration = Duration::from_secs(24 * 3600);
/// So long a pull that goes on may take from its first layer to its last.
const UNDER_WAY: Duration = Duration::from_secs(3600);

/// What the store takes of its file system.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    pub bytes: u64,
    pub inodes: u64,
}

/// What was pruned.
#[derive(Debug, Default)]
pub struct Freed {
    pub images: Vec<Image>,
    pub bytes: u64,
}

impl ImageStore {
    /// Takes all names of an image away; what nothing needs is deleted. Removing what is not there is
    /// no error.
    pub fn remove(&self, text: &str) -> Result<(), ImageError> {
        let lock = self.lock()?;
        let Some(image) = self.find(text)? else { return Ok(()) };
        for name in image.tags.iter().chain(&image.digests) {
            remove_file(&self.name_path(name))?;
        }
        self.collect(lock)
    }

    /// Takes one tag away, or by id or digest all names; with the last tag go the names by digest.
    /// Answers with the tags that are left, or with nothing where there is no such image.
    pub fn untag(&self, text: &str) -> Result<Option<Vec<String>>, ImageError> {
        let lock = self.lock()?;
        let Some(image) = self.find(text)? else { return Ok(None) };
        let name = match crate::reference::as_id(text) {
            Some(_) => None,
            None => Some(text.parse::<Reference>()?.to_string()),
        };
        let left: Vec<String> = match &name {
            Some(name) if !name.contains('@') => {
                image.tags.iter().filter(|tag| *tag != name).cloned().collect()
            }
            _ => Vec::new(),
        };
        for tag in image.tags.iter().filter(|tag| !left.contains(tag)) {
            remove_file(&self.name_path(tag))?;
        }
        if left.is_empty() {
            for digest in &image.digests {
                remove_file(&self.name_path(digest))?;
            }
        }
        self.collect(lock)?;
        Ok(Some(left))
    }

    /// Removes the images that no container has, and what broke off.
    pub fn prune(&self, now: Time) -> Result<Freed, ImageError> {
        let lock = self.lock()?;
        let before = self.usage()?;
        let pinned = self.pinned()?;
        let mut freed = Freed::default();
        for image in self.list()? {
            if pinned.contains(&image.id) {
                continue;
            }
            for name in image.tags.iter().chain(&image.digests) {
                remove_file(&self.name_path(name))?;
            }
            freed.images.push(image);
        }
        self.collect(lock)?;
        let downloads = self.root.join("downloads");
        self.sweep_downloads(|_| true).map_err(failed("sweep", &downloads))?;
        self.sweep_layers(now, UNDER_WAY)?;
        freed.bytes = before.bytes.saturating_sub(self.usage()?.bytes);
        Ok(freed)
    }

    /// Removes what processes left behind that have died, and what nobody has come back for.
    pub fn sweep(&self, now: Time) -> Result<(), ImageError> {
        self.sweep_scratch()?;
        let downloads = self.root.join("downloads");
        self.sweep_downloads(|metadata| age(metadata, now) > GIVEN_UP)
            .map_err(failed("sweep", &downloads))?;
        self.sweep_layers(now, GIVEN_UP)
    }

    /// Is a container, of whichever runtime, made from the image?
    pub fn in_use(&self, id: &str) -> Result<bool, ImageError> {
        Ok(self.pinned()?.contains(id))
    }

    /// As noted when the layers were unpacked: walking through millions of files would take longer
    /// than anybody waits.
    pub fn usage(&self) -> Result<Usage, ImageError> {
        let mut usage = Usage::default();
        for folder in ["images", "names", "layers", "downloads", "pins"] {
            let path = self.root.join(folder);
            for entry in fs::read_dir(&path).map_err(failed("list", &path))?.flatten() {
                usage.inodes += 1;
                let Ok(metadata) = entry.metadata() else { continue };
                usage.bytes += metadata.blocks() * 512;
            }
        }
        let layers = self.root.join("layers");
        for entry in fs::read_dir(&layers).map_err(failed("list", &layers))?.flatten() {
            if entry.path().extension().is_none_or(|extension| extension != FACTS) {
                continue;
            }
            let facts = self.read::<super::Unpacked>(&entry.path())?.unwrap_or_default();
            usage.bytes += facts.disk;
            usage.inodes += facts.inodes;
        }
        Ok(usage)
    }

    /// Deletes images without names and pins, and layers without images. Ends the lock: nobody needs
    /// to wait until millions of files are gone.
    pub(super) fn collect(&self, lock: File) -> Result<(), ImageError> {
        let mut used = self.pinned()?;
        used.extend(self.names()?.into_iter().map(|name| name.id));
        let mut layers = BTreeSet::new();
        for path in self.files("images")? {
            let Some(image) = self.read::<Image>(&path)? else { continue };
            if used.contains(&image.id) {
                layers.extend(image.layers.iter().chain(&image.inherited).map(|d| layer_name(d)));
            } else {
                remove_file(&path)?;
                remove_file(&self.config_path(&image.id))?;
            }
        }
        // A layer that a pull has just made has no image yet: only images' own layers go.
        let record = self.root.join("in-use");
        let before = self.read::<BTreeSet<String>>(&record)?.unwrap_or_default();
        let away: Result<Vec<Scratch>, _> =
            before.difference(&layers).map(|name| self.take_away(name)).collect();
        if before != layers {
            self.write(&record, &layers)?;
        }
        drop(lock);
        away.map(drop)
    }

    /// The images that containers use. Deletes the pins of those that a crash took.
    pub fn pinned(&self) -> Result<BTreeSet<String>, ImageError> {
        let mut used = BTreeSet::new();
        for path in self.files("pins")? {
            match self.read::<Pin>(&path)? {
                Some(pin) if pin.holder.exists() => drop(used.insert(pin.id)),
                _ => remove_file(&path)?,
            }
        }
        Ok(used)
    }

    /// The layers of pulls that never came to their end.
    fn sweep_layers(&self, now: Time, patience: Duration) -> Result<(), ImageError> {
        let lock = self.lock()?;
        let (mut used, mut away) = (BTreeSet::new(), Vec::new());
        for path in self.files("images")? {
            let Some(image) = self.read::<Image>(&path)? else { continue };
            used.extend(image.layers.iter().chain(&image.inherited).map(|d| layer_name(d)));
        }
        let folder = self.root.join("layers");
        for entry in fs::read_dir(&folder).map_err(failed("list", &folder))?.flatten() {
            let path = entry.path();
            let Some(name) = path.file_stem().and_then(|name| name.to_str()) else { continue };
            // The directory has the time that the image gives it; what is beside it has its own.
            let facts = folder.join(name).with_extension(FACTS);
            let Ok(metadata) = fs::metadata(&facts).or_else(|_| entry.metadata()) else { continue };
            if !used.contains(name) && age(&metadata, now) > patience {
                away.push(self.take_away(name)?);
            }
        }
        drop(lock);
        drop(away);
        Ok(())
    }

    /// Moves a layer to where it can be deleted.
    fn take_away(&self, name: &str) -> Result<Scratch, ImageError> {
        let path = self.root.join("layers").join(name);
        let scratch = self.scratch()?;
        match fs::rename(&path, scratch.path().join("layer")) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &path)(error));
            }
            _ => {}
        }
        for part in [SKELETON, FACTS] {
            remove_file(&path.with_extension(part))?;
        }
        Ok(scratch)
    }
}

/// Since the last change of a file.
fn age(metadata: &fs::Metadata, now: Time) -> Duration {
    let seconds = now.0.as_second() - metadata.mtime();
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}
