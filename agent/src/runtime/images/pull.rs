//! Images from registries: what a name stands for, then its configuration and layers, several at a
//! time, none twice, and from where an earlier pull broke off.
//!
//! Every byte is checked against the digest that led to it. Nothing of an image can be seen before
//! all of it is there.

mod error;
mod layer;

use std::collections::HashMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Weak};

use client::Clock;
use futures::future::try_join_all;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use self::error::Failure;
use self::layer::Fetch;
use super::manifest::{self, Descriptor, Document, MAX_DEPTH, Machine, Manifest, ManifestError};
use super::registry::auth::Credentials;
use super::registry::hosts::{self, Host, Tls};
use super::registry::proxy::Proxies;
use super::registry::{self, RegistryError, Remote};
use super::stream::digest_of;
use super::{Image, ImageError, ImageStore, check_digest, parse_config};
use crate::reference::Reference;
use crate::runtime::engine::blocking;

pub use self::error::PullError;

/// `--registry-mirror HOST=URL`: images of HOST come from URL.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    pub host: String,
    /// Host and port.
    pub registry: String,
    pub plain_http: bool,
}

impl FromStr for Mirror {
    type Err = String;

    fn from_str(text: &str) -> Result<Mirror, String> {
        let problem = || format!("\"{text}\" is not HOST=http://… or HOST=https://…");
        let (host, url) = text.split_once('=').ok_or_else(problem)?;
        let (scheme, rest) = url.split_once("://").ok_or_else(problem)?;
        let registry = rest.trim_end_matches('/');
        let plain_http = match scheme {
            "http" => true,
            "https" => false,
            _ => return Err(problem()),
        };
        if host.is_empty() || registry.is_empty() || registry.contains('/') {
            return Err(problem());
        }
        Ok(Mirror { host: host.to_owned(), registry: registry.to_owned(), plain_http })
    }
}

/// How far a pull is, for those who watch.
pub enum Step<'a> {
    /// A layer that belongs to the image, and its size as it is fetched.
    Layer { digest: &'a str, size: u64 },
    /// More bytes of it are there; the first number are those of an earlier pull.
    Received { digest: &'a str, bytes: u64 },
    /// It was there.
    Present { digest: &'a str },
    /// It is there now.
    Unpacked { digest: &'a str },
}

pub trait Progress: Send + Sync {
    fn tell(&self, step: Step<'_>);
}

/// Nobody watches.
impl Progress for () {
    fn tell(&self, _: Step<'_>) {}
}

/// Pulls into a store. Cheap to clone.
#[derive(Clone)]
pub struct Puller {
    store: ImageStore,
    /// Folders of hosts.toml by registry.
    folder: PathBuf,
    mirrors: Arc<Vec<Mirror>>,
    proxies: Arc<Proxies>,
    /// Layers of one image that are fetched at the same time.
    layers: usize,
    clock: Clock,
    gates: Arc<Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>>,
}

impl Puller {
    pub fn new(
        store: ImageStore,
        folder: PathBuf,
        mirrors: Vec<Mirror>,
        proxies: Proxies,
        layers: usize,
        clock: Clock,
    ) -> Puller {
        let (mirrors, proxies) = (Arc::new(mirrors), Arc::new(proxies));
        let layers = layers.max(1);
        Puller { store, folder, mirrors, proxies, layers, clock, gates: Arc::default() }
    }

    /// Fetches what is not there of the image, and names it.
    pub async fn pull(
        &self,
        reference: &Reference,
        credentials: &Credentials,
        progress: &dyn Progress,
    ) -> Result<Image, PullError> {
        let image = reference.to_string();
        let gate = self.gate(&image);
        // Who comes second finds all of it there, and only asks whether it may have it.
        let _one_at_a_time = gate.lock().await;
        let remotes = self.remotes(reference, credentials);
        let remotes = remotes.map_err(|error| Failure::from(error).of(&image, true))?;
        let found = match self.resolve(&remotes, reference).await {
            Ok(found) => found,
            Err(failure) => return Err(failure.of(&image, true)),
        };
        let fetched = self.fetch(&remotes, reference, &found, progress).await;
        let fetched = match fetched {
            // Between being looked for and being used a layer of another image may be removed.
            Err(Failure::Store(ImageError::Removed(_))) => {
                self.fetch(&remotes, reference, &found, progress).await
            }
            other => other,
        };
        fetched.map_err(|failure| failure.of(&image, false))
    }

    fn gate(&self, image: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut gates = self.gates.lock();
        gates.retain(|_, gate| gate.strong_count() > 0);
        let known = gates.get(image).and_then(Weak::upgrade);
        known.unwrap_or_else(|| {
            let gate = Arc::default();
            gates.insert(image.to_owned(), Arc::downgrade(&gate));
            gate
        })
    }

    fn remotes(
        &self,
        reference: &Reference,
        credentials: &Credentials,
    ) -> Result<Vec<Remote>, RegistryError> {
        let mut hosts = hosts::hosts(&self.folder, &reference.registry)?;
        let mirror = self.mirrors.iter().find(|mirror| mirror.host == reference.registry);
        if let (Some(mirror), Some(server)) = (mirror, hosts.last_mut()) {
            // The command line says where the registry is; mirrors of its file come before it.
            *server = Host {
                scheme: if mirror.plain_http { "http" } else { "https" },
                path: "/v2".to_owned(),
                mirror_of: Some(mirror.host.clone()),
                tls: if mirror.plain_http { Tls::default() } else { server.tls.clone() },
                ..hosts::upstream(&mirror.registry)
            };
        }
        let remote = |host| {
            let (repository, proxies) = (&reference.repository, self.proxies.clone());
            Remote::new(host, repository, credentials.clone(), proxies, self.clock.clone())
        };
        hosts.into_iter().map(remote).collect()
    }

    /// The digest of what the name stands for, and its bytes unless the store has it all.
    async fn resolve(
        &self,
        remotes: &[Remote],
        reference: &Reference,
    ) -> Result<(String, Option<registry::Document>), Failure> {
        let wanted = reference.digest.as_deref().or(reference.tag.as_deref()).unwrap_or("latest");
        let mut last = None;
        for remote in remotes {
            let able = remote.host.resolve || (reference.digest.is_some() && remote.host.pull);
            if !able {
                continue;
            }
            match self.ask(remote, reference, wanted).await {
                Ok(found) => return Ok(found),
                Err(failure) => {
                    tracing::debug!(
                        host = remote.host.authority,
                        ?failure,
                        "a host has no manifest"
                    );
                    last = Some(failure);
                }
            }
        }
        Err(last.unwrap_or_else(|| RegistryError::NotFound { url: reference.to_string() }.into()))
    }

    async fn ask(
        &self,
        remote: &Remote,
        reference: &Reference,
        wanted: &str,
    ) -> Result<(String, Option<registry::Document>), Failure> {
        // Registries count manifests that are fetched, and not the question whether one is new.
        if let Some(digest) = remote.digest(wanted).await?
            && reference.digest.as_ref().is_none_or(|asked| *asked == digest)
            && check_digest(&digest).is_ok()
        {
            let (store, name) = (self.store.clone(), reference.with_digest(&digest).to_string());
            if blocking(move || store.find(&name)).await?.is_some() {
                return Ok((digest, None));
            }
        }
        let document = remote.manifest(wanted).await?;
        let found = digest_of(&document.bytes);
        match &reference.digest {
            Some(expected) if *expected != found => Err(ImageError::Digest {
                what: "the manifest".to_owned(),
                expected: expected.clone(),
                found,
            }
            .into()),
            _ => Ok((found, Some(document))),
        }
    }

    async fn fetch(
        &self,
        remotes: &[Remote],
        reference: &Reference,
        (digest, document): &(String, Option<registry::Document>),
        progress: &dyn Progress,
    ) -> Result<Image, Failure> {
        // By the digest of what the name stands for: of the index, where there is one.
        let mut names = vec![reference.with_digest(digest).to_string()];
        if reference.digest.is_none() {
            names.push(reference.to_string());
        }
        let Some(document) = document else {
            let (store, known) = (self.store.clone(), names[0].clone());
            return Ok(blocking(move || {
                let image = store.find(&known)?.ok_or(ImageError::Removed(known))?;
                store.add_names(&image.id, &names)
            })
            .await?);
        };
        let manifest = self.manifest(remotes, document).await?;
        let config = self.config(remotes, &manifest.config).await?;
        let layers = parse_config(&config, &manifest.config.digest)?.rootfs.diff_ids;
        if layers.len() != manifest.layers.len() {
            let (config, manifest) = (layers.len(), manifest.layers.len());
            return Err(ImageError::LayerCount { config, manifest }.into());
        }
        let permits = Semaphore::new(self.layers);
        let (store, clock) = (&self.store, &self.clock);
        let fetch = Fetch { store, remotes, permits: &permits, clock, progress };
        let all = manifest.layers.iter().zip(&layers);
        try_join_all(all.map(|(layer, diff)| fetch.layer(layer, diff))).await?;
        let store = self.store.clone();
        Ok(blocking(move || store.add_image(&config, &names)).await?)
    }

    /// Follows indexes to the manifest for this machine.
    async fn manifest(
        &self,
        remotes: &[Remote],
        document: &registry::Document,
    ) -> Result<Manifest, Failure> {
        let machine = Machine::this();
        let mut parsed = manifest::parse(&document.bytes, &document.media_type)?;
        for _ in 0..=MAX_DEPTH {
            let index = match parsed {
                Document::Manifest(manifest) => return Ok(manifest),
                Document::Index(index) => index,
            };
            let nothing = || ManifestError::NoPlatform(machine.architecture.to_owned());
            let chosen = machine.choose(&index).ok_or_else(nothing)?;
            let bytes = document_of(remotes, chosen, true).await?;
            parsed = manifest::parse(&bytes, &chosen.media_type)?;
        }
        Err(ManifestError::Depth.into())
    }

    async fn config(
        &self,
        remotes: &[Remote],
        descriptor: &Descriptor,
    ) -> Result<Vec<u8>, Failure> {
        check_digest(&descriptor.digest)?;
        let (store, id) = (self.store.clone(), descriptor.digest.clone());
        if let Some(config) = blocking(move || store.config_of(&id)).await? {
            return Ok(config);
        }
        Ok(document_of(remotes, descriptor, false).await?.to_vec())
    }
}

/// A manifest or another document by its digest, from the first host that has the right one.
async fn document_of(
    remotes: &[Remote],
    descriptor: &Descriptor,
    manifest: bool,
) -> Result<bytes::Bytes, Failure> {
    let digest = &descriptor.digest;
    check_digest(digest)?;
    let mut last = None;
    for remote in remotes.iter().filter(|remote| remote.host.pull) {
        let fetched = match manifest {
            true => remote.manifest(digest).await.map(|document| document.bytes),
            false => remote.document(digest).await,
        };
        match fetched {
            Ok(bytes) => {
                let found = digest_of(&bytes);
                if found == *digest {
                    return Ok(bytes);
                }
                let what = if manifest { "the manifest" } else { "the configuration" };
                let (what, expected) = (what.to_owned(), digest.clone());
                last = Some(ImageError::Digest { what, expected, found }.into());
            }
            Err(error) => last = Some(error.into()),
        }
    }
    Err(last.unwrap_or_else(|| RegistryError::NotFound { url: digest.clone() }.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_read() {
        let mirror: Mirror = "docker.io=http://127.0.0.1:5000/".parse().unwrap();
        let expected = Mirror {
            host: "docker.io".to_owned(),
            registry: "127.0.0.1:5000".to_owned(),
            plain_http: true,
        };
        assert_eq!(mirror, expected);
        for bad in [
            "docker.io",
            "=http://x",
            "docker.io=x",
            "docker.io=ftp://x",
            "docker.io=http://x/path",
        ] {
            assert!(bad.parse::<Mirror>().is_err(), "{bad}");
        }
    }
}
