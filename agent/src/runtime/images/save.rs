//! Images into an archive that Docker, containerd and we read: an OCI layout with Docker's
//! manifest.json beside it. Layers are their uncompressed tars, put together from the unpacked
//! files.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use serde_json::json;

use super::layers::SKELETON;
use super::stream::{Hashing, digest_of};
use super::{Image, ImageError, ImageStore, failed, skeleton, unpack};
use crate::reference::{Reference, as_id};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// Writes the images of these names. What has been written before an error is of no use.
pub fn save(store: &ImageStore, names: &[String], output: impl Write) -> Result<(), ImageError> {
    let mut archive = tar::Builder::new(output);
    let (mut index, mut saved) = (Vec::new(), Vec::new());
    let mut written = BTreeSet::new();
    for (image, tags) in images(store, names)? {
        let config =
            store.config_of(&image.id)?.ok_or_else(|| ImageError::Missing(image.id.clone()))?;
        let mut layers = Vec::new();
        for digest in &image.layers {
            let facts =
                store.unpacked(digest)?.ok_or_else(|| ImageError::Removed(digest.clone()))?;
            if written.insert(digest.clone()) {
                layer(store, digest, facts.tar, &mut archive)?;
            }
            layers.push(json!({ "mediaType": LAYER, "digest": digest, "size": facts.tar }));
        }
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": CONFIG, "digest": image.id, "size": config.len() },
            "layers": layers,
        });
        let manifest = serde_json::to_vec(&manifest).expect("values are JSON");
        let digest = digest_of(&manifest);
        for (digest, bytes) in [(&image.id, &config), (&digest, &manifest)] {
            if written.insert(digest.clone()) {
                file(&mut archive, &blob(digest), bytes)?;
            }
        }
        let entry = json!({ "mediaType": MANIFEST, "digest": digest, "size": manifest.len() });
        for tag in &tags {
            let mut entry = entry.clone();
            entry["annotations"] = json!({
                "io.containerd.image.name": tag,
                "org.opencontainers.image.ref.name": tag.rsplit(':').next(),
            });
            index.push(entry);
        }
        if tags.is_empty() {
            index.push(entry);
        }
        let blobs: Vec<String> = image.layers.iter().map(|digest| blob(digest)).collect();
        saved.push(json!({ "Config": blob(&image.id), "RepoTags": tags, "Layers": blobs }));
    }
    let index = json!({ "schemaVersion": 2, "manifests": index });
    for (name, value) in [
        ("oci-layout", json!({ "imageLayoutVersion": "1.0.0" })),
        ("index.json", index),
        ("manifest.json", json!(saved)),
    ] {
        file(&mut archive, name, value.to_string().as_bytes())?;
    }
    archive
        .into_inner()
        .and_then(|mut output| output.flush())
        .map_err(failed("write", Path::new("the archive")))
}

/// The images in the order of their names, each with the tags it is wanted under.
fn images(store: &ImageStore, names: &[String]) -> Result<Vec<(Image, Vec<String>)>, ImageError> {
    let mut found: Vec<(Image, Vec<String>)> = Vec::new();
    let mut places = BTreeMap::new();
    for name in names {
        let image = store.find(name)?.ok_or_else(|| ImageError::Missing(name.clone()))?;
        let place = *places.entry(image.id.clone()).or_insert(found.len());
        if place == found.len() {
            found.push((image, Vec::new()));
        }
        let full = name.parse::<Reference>().ok().filter(|_| as_id(name).is_none());
        let tag = full.filter(|full| full.digest.is_none()).map(|full| full.to_string());
        found[place].1.extend(tag);
    }
    Ok(found)
}

fn layer(
    store: &ImageStore,
    digest: &str,
    size: u64,
    archive: &mut tar::Builder<impl Write>,
) -> Result<(), ImageError> {
    let path = store.layer_path(digest);
    let broken = || failed("put the tar together of", &path);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(&path, flags, Mode::empty())
        .map_err(|error| failed("open", &path)(error.into()))?;
    let open = |file: &Path| -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(unpack::open_beneath(&root, file, flags)?.into())
    };
    let header = header(&blob(digest), size);
    let output = archive.get_mut();
    output.write_all(header.as_bytes()).map_err(broken())?;
    let mut hashing = Hashing::new(output);
    skeleton::assemble(&path.with_extension(SKELETON), open, &mut hashing).map_err(broken())?;
    let (found, bytes) = (hashing.digest(), hashing.bytes);
    if found != digest || bytes != size {
        let (what, expected) = ("the layer put together".to_owned(), digest.to_owned());
        return Err(ImageError::Digest { what, expected, found });
    }
    let padding = vec![0; (512 - (size % 512) as usize) % 512];
    archive.get_mut().write_all(&padding).map_err(broken())
}

fn file(
    archive: &mut tar::Builder<impl Write>,
    name: &str,
    bytes: &[u8],
) -> Result<(), ImageError> {
    archive
        .append(&header(name, bytes.len() as u64), bytes)
        .map_err(failed("write", Path::new(name)))
}

fn header(name: &str, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).expect("names of blobs are short");
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_cksum();
    header
}

fn blob(digest: &str) -> String {
    format!("blobs/sha256/{}", digest.trim_start_matches("sha256:"))
}
