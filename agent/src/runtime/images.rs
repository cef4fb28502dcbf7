//! The content store: images by id and name, layers unpacked once. It is a directory that all
//! runtimes of a machine share; they keep nothing of it in memory, so that what one writes the
//! others see.
//!
//! ```text
//! images/<id>        what an image is, and as <id>.config the configuration that the id is of
//! names/<hash>       a name (tag or digest) and the id it stands for
//! layers/<id>        an unpacked layer, complete as soon as it is there
//! layers/<id>.json   what it takes, and <id>.skeleton what its tar had beside the files
//! downloads/<digest> as much of a layer as has arrived; locked while somebody fetches it
//! pins/<holder>      the image that a container of some runtime uses
//! new/               what is being written; locked by whoever does
//! in-use             the layers of images when this was last looked at
//! lock               held while names, pins or images change
//! ```
//!
//! Everything appears by a rename, so that a crash leaves nothing half done to be seen. What it leaves
//! behind is taken up by the next pull or swept away.

mod archive;
mod collect;
mod downloads;
mod inherit;
mod layers;
mod manifest;
mod pull;
mod registry;
mod save;
mod skeleton;
mod stream;
mod unpack;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::reference::{self, InvalidName, Reference};
pub use archive::import;
pub use collect::{Freed, Usage};
pub use manifest::{Machine, ManifestError};
pub use pull::{Mirror, Progress, PullError, Puller, Step};
pub use registry::auth::Credentials;
pub use registry::proxy::Proxies;
pub use save::save;
use stream::digest_of;
use unpack::{UnpackError, Unpacked};

/// The content store in one directory. Every method may block on the disk.
#[derive(Clone, Debug)]
pub struct ImageStore {
    root: PathBuf,
    syncing: Arc<layers::Syncing>,
}

/// An image of the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Image {
    /// `sha256:…` of its configuration.
    pub id: String,
    /// Digests of the uncompressed layers, the lowest first.
    pub layers: Vec<String>,
    /// A layer on top with what directories inherit from layers below, where that is anything.
    #[serde(default)]
    pub inherited: Option<String>,
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
    #[serde(deserialize_with = "proto::meta::or_default")]
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

impl Image {
    /// The digest of all layers one over the other (OCI image-spec: ChainID).
    pub fn chain_id(&self) -> String {
        let mut layers = self.layers.iter();
        let first = layers.next().cloned().unwrap_or_default();
        layers.fold(first, |chain, layer| digest_of(format!("{chain} {layer}").as_bytes()))
    }
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
    #[error("read {path}")]
    Manifest {
        path: String,
        #[source]
        source: ManifestError,
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
    #[error("the image has {0} layers; no more than {MAX_LAYERS} can be mounted")]
    TooManyLayers(usize),
    #[error("no such image: {0}")]
    Missing(String),
}

/// Their names and two paths fill the page that overlayfs takes.
const MAX_LAYERS: usize = 150;

impl ImageStore {
    pub fn open(root: &Path) -> Result<ImageStore, ImageError> {
        for folder in ["images", "names", "layers", "downloads", "pins", "new"] {
            let folder = root.join(folder);
            fs::create_dir_all(&folder).map_err(failed("create", &folder))?;
        }
        Ok(ImageStore { root: root.to_owned(), syncing: Arc::default() })
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

    /// The file that the image's id is the digest of.
    pub fn config_of(&self, id: &str) -> Result<Option<Vec<u8>>, ImageError> {
        let path = self.config_path(id);
        match fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Keeps the image's files while the folder `holder` exists, or until `unpin`. `name` is whose pin it is; one
    /// without dots. Who mounts several images (a container and its image volumes) has several.
    pub fn pin(&self, name: &str, id: &str, holder: &Path) -> Result<(), ImageError> {
        let pin = Pin { id: id.to_owned(), holder: holder.to_owned() };
        self.write(&self.root.join("pins").join(name), &pin)
    }

    pub fn unpin(&self, name: &str) -> Result<(), ImageError> {
        remove_file(&self.root.join("pins").join(name))
    }

    /// The directory below which an image's layers are, and their names, the lowest first: what
    /// overlayfs mounts for a root file system or an image volume. Whoever does must have pinned the
    /// image before.
    pub fn lower(&self, image: &Image) -> (PathBuf, Vec<String>) {
        let digests = image.layers.iter().chain(&image.inherited);
        (self.root.join("layers"), digests.map(|digest| layer_name(digest)).collect())
    }

    pub fn has_layer(&self, digest: &str) -> bool {
        self.layer_path(digest).exists()
    }

    /// Records an image whose layers are all there, under names of either kind.
    pub fn add_image(&self, config: &[u8], names: &[String]) -> Result<Image, ImageError> {
        let id = digest_of(config);
        let file = parse_config(config, &id)?;
        let layers = file.rootfs.diff_ids;
        let inherited = self.inherit(&layers)?;
        let sizes = layers.iter().map(|digest| Ok(self.unpacked(digest)?.map(|it| it.bytes)));
        let size = sizes.sum::<Result<Option<u64>, ImageError>>()?.unwrap_or(0);
        let (tags, digests) = Default::default();
        let config_of = file.config;
        let image =
            Image { id: id.clone(), layers, inherited, size, config: config_of, tags, digests };
        let lock = self.lock()?;
        let all = image.layers.iter().chain(&image.inherited);
        if let Some(digest) = all.into_iter().find(|digest| !self.has_layer(digest)) {
            return Err(ImageError::Removed(digest.clone()));
        }
        self.write_bytes(&self.config_path(&id), config)?;
        self.write(&self.image_path(&id), &image)?;
        self.name(&id, names)?;
        self.collect(lock)?;
        Ok(self.find(&id)?.unwrap_or(image))
    }

    /// Gives an image that is there more names.
    pub fn add_names(&self, id: &str, names: &[String]) -> Result<Image, ImageError> {
        let lock = self.lock()?;
        if self.find(id)?.is_none() {
            return Err(ImageError::Missing(id.to_owned()));
        }
        self.name(id, names)?;
        self.collect(lock)?;
        self.find(id)?.ok_or_else(|| ImageError::Missing(id.to_owned()))
    }

    fn name(&self, id: &str, names: &[String]) -> Result<(), ImageError> {
        for name in names {
            let entry = Name { name: name.clone(), id: id.to_owned() };
            self.write(&self.name_path(name), &entry)?;
        }
        Ok(())
    }

    /// The image, unless something of it is missing: then it is to be fetched again.
    fn image(&self, id: &str, names: &[Name]) -> Result<Option<Image>, ImageError> {
        let Some(mut image) = self.read::<Image>(&self.image_path(id))? else { return Ok(None) };
        if !image.layers.iter().chain(&image.inherited).all(|digest| self.has_layer(digest)) {
            return Ok(None);
        }
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
        let file = open_lock(&path)?;
        rustix::fs::flock(&file, FlockOperation::LockExclusive)
            .map_err(|error| failed("lock", &path)(error.into()))?;
        Ok(file)
    }

    fn read<T: DeserializeOwned>(&self, path: &Path) -> Result<Option<T>, ImageError> {
        match fs::read(path) {
            // After a power loss a name may be there before its contents.
            Ok(bytes) if bytes.is_empty() => Ok(None),
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|source| ImageError::Json { path: path.display().to_string(), source }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", path)(error)),
        }
    }

    fn write(&self, path: &Path, value: &impl Serialize) -> Result<(), ImageError> {
        self.write_bytes(path, &serde_json::to_vec(value).expect("plain structs are JSON"))
    }

    /// Replaces a file in one step.
    fn write_bytes(&self, path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
        let scratch = self.scratch()?;
        let file = scratch.path().join("file");
        fs::write(&file, bytes)
            .and_then(|()| fs::rename(&file, path))
            .map_err(failed("write", path))
    }

    fn image_path(&self, id: &str) -> PathBuf {
        self.root.join("images").join(id.trim_start_matches("sha256:"))
    }

    fn config_path(&self, id: &str) -> PathBuf {
        self.image_path(id).with_extension("config")
    }

    fn name_path(&self, name: &str) -> PathBuf {
        let hash = digest_of(name.as_bytes());
        self.root.join("names").join(hash.trim_start_matches("sha256:"))
    }

    fn layer_path(&self, digest: &str) -> PathBuf {
        self.root.join("layers").join(layer_name(digest))
    }

    fn unpacked(&self, digest: &str) -> Result<Option<Unpacked>, ImageError> {
        self.read(&self.layer_path(digest).with_extension("json"))
    }
}

/// Checks that `config` is what `expected` names, if anything does.
fn parse_config(config: &[u8], path: &str) -> Result<ConfigFile, ImageError> {
    let file: ConfigFile = serde_json::from_slice(config)
        .map_err(|source| ImageError::Json { path: path.to_owned(), source })?;
    if file.rootfs.diff_ids.len() > MAX_LAYERS {
        return Err(ImageError::TooManyLayers(file.rootfs.diff_ids.len()));
    }
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

/// Half of the digest and that in few characters: overlayfs takes the names of all layers, of which
/// there may be 127, in one page.
fn layer_name(digest: &str) -> String {
    use base64::Engine;
    let digits: String = digest.trim_start_matches("sha256:").chars().take(32).collect();
    let bytes = hex::decode(digits).unwrap_or_default();
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

fn open_lock(path: &Path) -> Result<File, ImageError> {
    let mut options = File::options();
    options.create(true).truncate(false).write(true);
    options.open(path).map_err(failed("open", path))
}

/// Whether what was opened is still what has the name.
fn same(file: &File, path: &Path) -> bool {
    let (Ok(held), Ok(named)) = (file.metadata(), fs::symlink_metadata(path)) else { return false };
    (held.dev(), held.ino()) == (named.dev(), named.ino())
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
