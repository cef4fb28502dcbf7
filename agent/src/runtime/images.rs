//! The content store: images by id and name, layers unpacked once. It is a directory that all
//! runtimes of a machine share; they keep nothing of it in memory, so that what one writes the
//! others see.
//!
//! ```text
//! images/<id>      what an image is: its configuration and its layers
//! names/<hash>     a name (tag or digest) and the id it stands for
//! layers/<id>      an unpacked layer, complete as soon as it is there
//! pins/<container> the image that a container of some runtime uses
//! new/             what is being written
//! in-use           the layers of images when this was last looked at
//! lock             held while names, pins or images change
//! ```
//!
//! Everything appears by a rename, so that a crash leaves nothing half done to be seen.

mod archive;
mod pull;
mod unpack;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

use crate::reference::{self, InvalidName, Reference};
pub use archive::import;
pub use pull::{Mirror, PullError, pull};
use unpack::{Hashing, UnpackError};

/// The content store in one directory. Every method may block on the disk.
#[derive(Clone, Debug)]
pub struct ImageStore {
    root: PathBuf,
}

/// An image of the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Image {
    /// `sha256:…` of its configuration.
    pub id: String,
    /// Digests of the uncompressed layers, the lowest first.
    pub layers: Vec<String>,
    /// Bytes in its layers.
    pub size: u64,
    pub config: Config,
    /// Full names with tags; not part of the stored image.
    #[serde(skip)]
    pub tags: Vec<String>,
    /// Full names with digests; not part of the stored image.
    #[serde(skip)]
    pub digests: Vec<String>,
}

/// What containers take from an image's configuration (OCI image-spec, `config`).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Config {
    pub user: String,
    #[serde(deserialize_with = "proto::meta::or_default")]
    pub env: Vec<String>,
    #[serde(deserialize_with = "proto::meta::or_default")]
    pub entrypoint: Vec<String>,
    #[serde(deserialize_with = "proto::meta::or_default")]
    pub cmd: Vec<String>,
    pub working_dir: String,
    pub stop_signal: String,
    #[serde(deserialize_with = "proto::meta::or_default")]
    pub labels: BTreeMap<String, String>,
}

/// The file that an image's id is the digest of.
#[derive(Deserialize)]
struct ConfigFile {
    #[serde(default, deserialize_with = "proto::meta::or_default")]
    config: Config,
    rootfs: RootFs,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Name {
    name: String,
    id: String,
}

#[derive(Serialize, Deserialize)]
struct Pin {
    id: String,
    /// The pin holds as long as this folder is there.
    holder: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error(transparent)]
    Name(#[from] InvalidName),
    #[error("{action} {path}")]
    Io {
        action: &'static str,
        path: String,
        #[source]
        source: io::Error,
    },
    #[error("read {path}")]
    Json {
        path: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("unpack layer {digest}")]
    Layer {
        digest: String,
        #[source]
        source: UnpackError,
    },
    #[error("{what} has digest {found} instead of {expected}")]
    Digest { what: String, expected: String, found: String },
    #[error("the archive has neither index.json nor manifest.json")]
    NoArchive,
    #[error("the archive has no image for this machine")]
    NoPlatform,
    #[error("the archive refers to {0}, which leads out of it")]
    Escape(String),
    #[error("layer {0} was removed meanwhile")]
    Removed(String),
    #[error("the image's configuration has {config} layers, its manifest {manifest}")]
    LayerCount { config: usize, manifest: usize },
}

impl ImageStore {
    pub fn open(root: &Path) -> Result<ImageStore, ImageError> {
        for folder in ["images", "names", "layers", "pins", "new"] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).map_err(failed("create", &folder))?;
        }
        Ok(ImageStore { root: root.to_owned() })
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The image of a name, digest or id.
    pub fn find(&self, text: &str) -> Result<Option<Image>, ImageError> {
        let id = match reference::as_id(text) {
            Some(digits) => self.id_of_prefix(digits)?,
            None => {
                let reference: Reference = text.parse()?;
                let found: Option<Name> = self.read(&self.name_path(&reference.to_string()))?;
                found.map(|name| name.id)
            }
        };
        let Some(id) = id else { return Ok(None) };
        let names = self.names()?;
        self.image(&id, &names)
    }

    /// All images that have a name.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let names = self.names()?;
        let ids: BTreeSet<&String> = names.iter().map(|name| &name.id).collect();
        let mut images = Vec::new();
        for id in ids {
            images.extend(self.image(id, &names)?);
        }
        Ok(images)
    }

    /// Takes a name away, or by id an image's names all together; what nothing needs is deleted.
    /// Removing what is not there is no error.
    pub fn remove(&self, text: &str) -> Result<(), ImageError> {
        let _lock = self.lock()?;
        let Some(image) = self.find(text)? else { return Ok(()) };
        for name in image.tags.iter().chain(&image.digests) {
            remove_file(&self.name_path(name))?;
        }
        self.collect()
    }

    /// Keeps the image's files while `holder` exists, or until `unpin`.
    pub fn pin(&self, container: &str, id: &str, holder: &Path) -> Result<(), ImageError> {
        let pin = Pin { id: id.to_owned(), holder: holder.to_owned() };
        self.write(&self.root.join("pins").join(container), &pin)
    }

    pub fn unpin(&self, container: &str) -> Result<(), ImageError> {
        remove_file(&self.root.join("pins").join(container))
    }

    /// The directory below which an image's layers are, and their names, the lowest first.
    pub fn lower(&self, image: &Image) -> (PathBuf, Vec<String>) {
        (self.root.join("layers"), image.layers.iter().map(|digest| layer_name(digest)).collect())
    }

    pub fn has_layer(&self, digest: &str) -> bool {
        self.layer_path(digest).exists()
    }

    /// Unpacks a layer unless it is there. `digest` is that of the uncompressed tar, which is checked.
    pub fn add_layer(&self, digest: &str, content: impl Read) -> Result<(), ImageError> {
        if self.has_layer(digest) {
            return Ok(());
        }
        let folder = self.scratch()?;
        let result = unpack::unpack(content, &folder)
            .map_err(|source| ImageError::Layer { digest: digest.to_owned(), source })
            .and_then(|(found, bytes)| match found == digest {
                true => Ok(bytes),
                false => Err(ImageError::Digest {
                    what: "a layer".to_owned(),
                    expected: digest.to_owned(),
                    found,
                }),
            })
            .and_then(|bytes| {
                // The layer must be on the disk before its name says that it is complete.
                let handle = File::open(&folder).map_err(failed("open", &folder))?;
                rustix::fs::syncfs(&handle)
                    .map_err(|error| failed("sync", &folder)(error.into()))?;
                self.write(&self.size_path(digest), &bytes)?;
                match fs::rename(&folder, self.layer_path(digest)) {
                    Err(_) if self.has_layer(digest) => Ok(()), // Somebody else was faster.
                    result => result.map_err(failed("publish", &folder)),
                }
            });
        let _ = fs::remove_dir_all(&folder);
        result
    }

    /// Records an image whose layers are all there, under names of either kind.
    pub fn add_image(&self, config: &[u8], names: &[String]) -> Result<Image, ImageError> {
        let id = digest_of(config);
        let file = parse_config(config, &id)?;
        let sizes =
            file.rootfs.diff_ids.iter().map(|digest| self.read::<u64>(&self.size_path(digest)));
        let size = sizes.sum::<Result<Option<u64>, _>>()?.unwrap_or(0);
        let image = Image {
            id: id.clone(),
            layers: file.rootfs.diff_ids,
            size,
            config: file.config,
            tags: Vec::new(),
            digests: Vec::new(),
        };
        let _lock = self.lock()?;
        if let Some(digest) = image.layers.iter().find(|digest| !self.has_layer(digest)) {
            return Err(ImageError::Removed(digest.clone()));
        }
        self.write(&self.image_path(&id), &image)?;
        for name in names {
            self.write(&self.name_path(name), &Name { name: name.clone(), id: id.clone() })?;
        }
        self.collect()?;
        Ok(self.find(&id)?.unwrap_or(image))
    }

    /// An empty directory to work in, on the store's file system.
    pub fn scratch(&self) -> Result<PathBuf, ImageError> {
        let folder = self.root.join("new");
        let pid = std::process::id();
        for number in 0.. {
            let path = folder.join(format!("{pid}-{number}"));
            match fs::create_dir(&path) {
                Ok(()) => return Ok(path),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed("create", &path)(error)),
            }
        }
        unreachable!("some number is free")
    }

    /// The images that containers use. Deletes the pins of those that a crash took.
    pub fn pinned(&self) -> Result<BTreeSet<String>, ImageError> {
        let mut pinned = BTreeSet::new();
        for path in self.files("pins")? {
            match self.read::<Pin>(&path)? {
                Some(pin) if pin.holder.exists() => drop(pinned.insert(pin.id)),
                _ => remove_file(&path)?,
            }
        }
        Ok(pinned)
    }

    /// Deletes images without names and pins, and layers without images.
    fn collect(&self) -> Result<(), ImageError> {
        let mut used = self.pinned()?;
        used.extend(self.names()?.into_iter().map(|name| name.id));
        let mut layers = BTreeSet::new();
        for path in self.files("images")? {
            let Some(image) = self.read::<Image>(&path)? else { continue };
            if used.contains(&image.id) {
                layers.extend(image.layers.iter().map(|digest| layer_name(digest)));
            } else {
                remove_file(&path)?;
            }
        }
        // A layer that an import has just made has no image yet: only images' own layers go.
        let record = self.root.join("in-use");
        let before = self.read::<BTreeSet<String>>(&record)?.unwrap_or_default();
        for name in before.difference(&layers) {
            let (path, away) = (self.root.join("layers").join(name), self.scratch()?);
            if fs::rename(&path, &away).is_ok() || path.exists() {
                fs::remove_dir_all(&away).map_err(failed("remove", &away))?;
            } else {
                let _ = fs::remove_dir(&away);
            }
            remove_file(&self.root.join("layers").join(format!("{name}.size")))?;
        }
        self.write(&record, &layers)
    }

    fn image(&self, id: &str, names: &[Name]) -> Result<Option<Image>, ImageError> {
        let Some(mut image) = self.read::<Image>(&self.image_path(id))? else { return Ok(None) };
        for name in names.iter().filter(|name| name.id == id) {
            let list = if name.name.contains('@') { &mut image.digests } else { &mut image.tags };
            list.push(name.name.clone());
        }
        image.tags.sort();
        image.digests.sort();
        Ok(Some(image))
    }

    fn names(&self) -> Result<Vec<Name>, ImageError> {
        let mut names = Vec::new();
        for path in self.files("names")? {
            names.extend(self.read::<Name>(&path)?);
        }
        Ok(names)
    }

    fn id_of_prefix(&self, digits: &str) -> Result<Option<String>, ImageError> {
        let names = self.files("images")?;
        let mut found = names
            .iter()
            .filter_map(|path| path.file_name()?.to_str())
            .filter(|name| name.starts_with(digits));
        match (found.next(), found.next()) {
            (Some(name), None) => Ok(Some(format!("sha256:{name}"))),
            _ => Ok(None),
        }
    }

    fn files(&self, folder: &str) -> Result<Vec<PathBuf>, ImageError> {
        let folder = self.root.join(folder);
        let entries = fs::read_dir(&folder).map_err(failed("list", &folder))?;
        Ok(entries
            .flatten()
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_none())
            .collect())
    }

    fn lock(&self) -> Result<File, ImageError> {
        let path = self.root.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(failed("open", &path))?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)
            .map_err(|error| failed("lock", &path)(error.into()))?;
        Ok(file)
    }

    fn read<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, ImageError> {
        match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|source| ImageError::Json { path: path.display().to_string(), source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", path)(error)),
        }
    }

    fn write(&self, path: &Path, value: &impl Serialize) -> Result<(), ImageError> {
        let bytes = serde_json::to_vec(value).expect("plain structs are JSON");
        let folder = self.scratch()?;
        let file = folder.join("file");
        let result = fs::write(&file, bytes)
            .and_then(|()| fs::rename(&file, path))
            .map_err(failed("write", path));
        let _ = fs::remove_dir_all(&folder);
        result
    }

    fn image_path(&self, id: &str) -> PathBuf {
        self.root.join("images").join(id.trim_start_matches("sha256:"))
    }

    fn name_path(&self, name: &str) -> PathBuf {
        self.root.join("names").join(hex::encode(Sha256::digest(name.as_bytes())))
    }

    fn layer_path(&self, digest: &str) -> PathBuf {
        self.root.join("layers").join(layer_name(digest))
    }

    fn size_path(&self, digest: &str) -> PathBuf {
        self.root.join("layers").join(format!("{}.size", layer_name(digest)))
    }
}

/// Checks that `config` is what `expected` names, if anything does.
fn parse_config(config: &[u8], path: &str) -> Result<ConfigFile, ImageError> {
    let file: ConfigFile = serde_json::from_slice(config)
        .map_err(|source| ImageError::Json { path: path.to_owned(), source })?;
    for digest in &file.rootfs.diff_ids {
        check_digest(digest)?;
    }
    Ok(file)
}

/// Digests become file names: nothing but sha256 and its 64 digits.
fn check_digest(digest: &str) -> Result<(), ImageError> {
    let digits = digest.strip_prefix("sha256:").and_then(reference::as_id);
    match digits {
        Some(digits) if digits.len() == 64 => Ok(()),
        _ => Err(ImageError::Escape(digest.to_owned())),
    }
}

/// Short, because overlayfs takes all layers' names in one page.
fn layer_name(digest: &str) -> String {
    digest.trim_start_matches("sha256:").chars().take(32).collect()
}

fn digest_of(bytes: &[u8]) -> String {
    let mut hashing = Hashing::new(bytes);
    io::copy(&mut hashing, &mut io::sink()).expect("memory can be read");
    hashing.digest()
}

fn remove_file(path: &Path) -> Result<(), ImageError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", path)(error)),
        _ => Ok(()),
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    move |source| ImageError::Io { action, path: path.display().to_string(), source }
}
