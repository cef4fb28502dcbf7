//! Images out of files: OCI layouts and `docker save` archives, packed (tar, maybe compressed) or as
//! directories.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::manifest::{self, Descriptor, Document, MAX_DEPTH, Machine, Manifest, ManifestError};
use super::stream::{Hashing, decompress, digest_of};
use super::unpack::inside;
use super::{Image, ImageError, ImageStore, check_digest, failed, parse_config};
use crate::reference::Reference;

/// Of index.json, which has no more to say than what is in the archive.
#[derive(Deserialize)]
struct Index {
    manifests: Vec<Descriptor>,
}

/// One image of docker's manifest.json.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default, deserialize_with = "proto::meta::or_default")]
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

/// Adds every image of the archive (file or directory) to the store at `root`. Runtimes that share the
/// store know them at once.
pub fn import(root: &Path, file: &Path) -> Result<Vec<Image>, ImageError> {
    let store = ImageStore::open(root)?;
    if file.is_dir() {
        return import_folder(&store, file);
    }
    let scratch = store.scratch()?;
    extract(file, scratch.path())?;
    import_folder(&store, scratch.path())
}

/// Writes the archive's plain files and links; nothing else belongs into one.
fn extract(file: &Path, folder: &Path) -> Result<(), ImageError> {
    let reader = decompress(File::open(file).map_err(failed("open", file))?)
        .map_err(failed("read", file))?;
    let mut archive = tar::Archive::new(reader);
    let mut links = Vec::new();
    for entry in archive.entries().map_err(failed("read", file))? {
        let mut entry = entry.map_err(failed("read", file))?;
        let path = entry.path().map_err(failed("read", file))?.into_owned();
        let escape = || ImageError::Escape(path.display().to_string());
        let target = folder.join(inside(&path).ok_or_else(escape)?);
        let kind = entry.header().entry_type();
        if kind.is_dir() {
            fs::create_dir_all(&target).map_err(failed("create", &target))?;
        } else if kind.is_file() {
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent).map_err(failed("create", parent))?;
            }
            let mut out = File::create(&target).map_err(failed("create", &target))?;
            std::io::copy(&mut entry, &mut out).map_err(failed("write", &target))?;
        } else if kind.is_symlink() || kind.is_hard_link() {
            // Old docker writes a layer that occurs twice as a link.
            let link =
                entry.link_name().map_err(failed("read", file))?.unwrap_or_default().into_owned();
            links.push((path.clone(), kind.is_symlink(), link));
        }
    }
    for (path, relative, link) in links {
        let escape = || ImageError::Escape(link.display().to_string());
        let base = if relative { path.parent().unwrap_or(Path::new("")) } else { Path::new("") };
        let from = folder.join(plain(&base.join(&link)).ok_or_else(escape)?);
        let to = folder.join(inside(&path).ok_or_else(escape)?);
        if from.is_file() {
            fs::hard_link(&from, &to).map_err(failed("link", &to))?;
        }
    }
    Ok(())
}

/// The path with its `..` resolved; `None` when it leads out.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(part) => out.push(part),
            std::path::Component::ParentDir => {
                if !out.pop() {
                    return None;
                }
            }
            std::path::Component::CurDir => {}
            _ => return None,
        }
    }
    Some(out)
}

fn import_folder(store: &ImageStore, folder: &Path) -> Result<Vec<Image>, ImageError> {
    let saved: Option<Vec<Saved>> = json(&folder.join("manifest.json"))?;
    if let Some(index) = json::<Index>(&folder.join("index.json"))? {
        let images = import_index(store, folder, &index, saved.as_deref().unwrap_or_default())?;
        return if images.is_empty() { Err(ImageError::NoPlatform) } else { Ok(images) };
    }
    saved
        .ok_or(ImageError::NoArchive)?
        .iter()
        .map(|saved| import_saved(store, folder, saved))
        .collect()
}

fn import_index(
    store: &ImageStore,
    folder: &Path,
    index: &Index,
    saved: &[Saved],
) -> Result<Vec<Image>, ImageError> {
    let mut images = Vec::new();
    for descriptor in &index.manifests {
        let mut names = Vec::new();
        let annotated = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
        // The second may be just a tag, which names nothing.
        let given = annotated.iter().filter_map(|key| descriptor.annotations.get(*key));
        let given = given
            .enumerate()
            .filter(|(at, name)| *at == 0 || name.contains(['/', ':']))
            .map(|(_, name)| name);
        if let Some(name) = given.into_iter().next() {
            names.push(name.parse::<Reference>()?);
        }
        let Some((descriptor, manifest)) = resolve(folder, descriptor, 0)? else { continue };
        let config_path = blob(folder, &manifest.config.digest)?;
        let relative = config_path.strip_prefix(folder).unwrap_or(&config_path).to_owned();
        for saved in saved.iter().filter(|saved| Path::new(&saved.config) == relative) {
            for tag in &saved.repo_tags {
                names.push(tag.parse()?);
            }
        }
        let config = verified(&config_path, &manifest.config.digest)?;
        let layers: Vec<(PathBuf, Option<&str>)> = manifest
            .layers
            .iter()
            .map(|layer| Ok((blob(folder, &layer.digest)?, Some(layer.digest.as_str()))))
            .collect::<Result<_, ImageError>>()?;
        let mut all: Vec<String> = names.iter().map(Reference::to_string).collect();
        all.extend(names.iter().map(|name| name.with_digest(&descriptor.digest).to_string()));
        images.push(add(store, &config, &layers, all)?);
    }
    Ok(images)
}

/// Follows an index of platforms to the manifest for this machine.
fn resolve(
    folder: &Path,
    descriptor: &Descriptor,
    depth: usize,
) -> Result<Option<(Descriptor, Manifest)>, ImageError> {
    let bytes = verified(&blob(folder, &descriptor.digest)?, &descriptor.digest)?;
    let broken = |source| ImageError::Manifest { path: descriptor.digest.clone(), source };
    match manifest::parse(&bytes, &descriptor.media_type).map_err(broken)? {
        Document::Manifest(manifest) => Ok(Some((descriptor.clone(), manifest))),
        Document::Index(_) if depth == MAX_DEPTH => Err(broken(ManifestError::Depth)),
        Document::Index(index) => match Machine::this().choose(&index) {
            Some(found) => resolve(folder, found, depth + 1),
            None => Ok(None),
        },
    }
}

fn import_saved(store: &ImageStore, folder: &Path, saved: &Saved) -> Result<Image, ImageError> {
    let path = |name: &str| {
        let path = inside(Path::new(name)).ok_or_else(|| ImageError::Escape(name.to_owned()))?;
        Ok::<_, ImageError>(folder.join(path))
    };
    let config = fs::read(path(&saved.config)?).map_err(failed("read", &path(&saved.config)?))?;
    let layers = saved
        .layers
        .iter()
        .map(|layer| Ok((path(layer)?, None)))
        .collect::<Result<Vec<_>, ImageError>>()?;
    let mut names = Vec::new();
    for tag in &saved.repo_tags {
        names.push(tag.parse::<Reference>()?.to_string());
    }
    add(store, &config, &layers, names)
}

/// Adds layers (file, digest as stored if known), then the image.
fn add(
    store: &ImageStore,
    config: &[u8],
    layers: &[(PathBuf, Option<&str>)],
    mut names: Vec<String>,
) -> Result<Image, ImageError> {
    let file = parse_config(config, &digest_of(config))?;
    if file.rootfs.diff_ids.len() != layers.len() {
        return Err(ImageError::LayerCount {
            config: file.rootfs.diff_ids.len(),
            manifest: layers.len(),
        });
    }
    for ((path, stored), digest) in layers.iter().zip(&file.rootfs.diff_ids) {
        if store.has_layer(digest) {
            continue;
        }
        let mut content = Hashing::new(File::open(path).map_err(failed("open", path))?);
        store.add_layer(digest, &mut content)?;
        std::io::copy(&mut content, &mut std::io::sink()).map_err(failed("read", path))?;
        if let Some(expected) = stored
            && content.digest() != *expected
        {
            let (what, expected) = (path.display().to_string(), (*expected).to_owned());
            return Err(ImageError::Digest { what, expected, found: content.digest() });
        }
    }
    if names.is_empty() {
        // Without any name it would be collected at once: it is known by its digest alone.
        names.push(format!("localhost/untagged@{}", digest_of(config)));
    }
    names.sort();
    names.dedup();
    store.add_image(config, &names)
}

fn blob(folder: &Path, digest: &str) -> Result<PathBuf, ImageError> {
    check_digest(digest)?;
    Ok(folder.join("blobs/sha256").join(digest.trim_start_matches("sha256:")))
}

fn verified(path: &Path, expected: &str) -> Result<Vec<u8>, ImageError> {
    let mut bytes = Vec::new();
    let mut file = File::open(path).map_err(failed("open", path))?;
    file.read_to_end(&mut bytes).map_err(failed("read", path))?;
    let found = digest_of(&bytes);
    if found != expected {
        return Err(ImageError::Digest {
            what: path.display().to_string(),
            expected: expected.to_owned(),
            found,
        });
    }
    Ok(bytes)
}

fn json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>, ImageError> {
    match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes)
            .map(Some)
            .map_err(|source| ImageError::Json { path: path.display().to_string(), source }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}
