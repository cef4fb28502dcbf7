//! Images from registries, anonymously or with the credentials given, through mirrors if configured.

use std::io::{self, Read};
use std::str::FromStr;

use futures::StreamExt;
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciErrorCode};
use oci_client::manifest::{ImageIndexEntry, OciImageManifest};
use oci_client::secrets::RegistryAuth;

use super::archive::architecture;
use super::unpack::Hashing;
use super::{Image, ImageError, ImageStore, digest_of, parse_config};
use crate::reference::Reference;

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

/// Why an image could not be had. The messages end up in ErrImagePull.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error(
        "failed to pull and unpack image \"{image}\": failed to resolve reference \"{image}\": {image}: not found"
    )]
    NotFound { image: String },
    #[error(
        "failed to pull and unpack image \"{image}\": failed to resolve reference \"{image}\": \
         pull access denied, repository does not exist or may require authorization"
    )]
    Denied { image: String },
    #[error("failed to pull and unpack image \"{image}\": failed to reach {registry}")]
    Network {
        image: String,
        registry: String,
        #[source]
        source: OciDistributionError,
    },
    #[error("failed to pull and unpack image \"{image}\"")]
    Registry {
        image: String,
        #[source]
        source: OciDistributionError,
    },
    #[error("failed to pull and unpack image \"{image}\"")]
    Store {
        image: String,
        #[source]
        source: ImageError,
    },
}

/// Fetches the image unless all of it is there, and names it.
pub async fn pull(
    store: &ImageStore,
    reference: &Reference,
    auth: &RegistryAuth,
    mirrors: &[Mirror],
) -> Result<Image, PullError> {
    let image = reference.to_string();
    let mirror = mirrors.iter().find(|mirror| mirror.host == reference.registry);
    let mut remote = remote_reference(reference);
    if let Some(mirror) = mirror {
        remote.set_mirror_registry(mirror.registry.clone());
    }
    let registry = remote.resolve_registry().to_owned();
    let client = oci_client::Client::new(configuration(mirror, &registry));
    let refused = |source| classify(source, &image, &registry);
    let stored = |source| PullError::Store { image: image.clone(), source };

    let (manifest, digest, list) =
        client.pull_image_manifest_and_list_digest(&remote, auth).await.map_err(refused)?;
    let mut config = Vec::new();
    client.pull_blob(&remote, &manifest.config, &mut config).await.map_err(refused)?;
    check_config(&config, &manifest).map_err(stored)?;
    let layers = parse_config(&config, &manifest.config.digest).map_err(stored)?.rootfs.diff_ids;
    if layers.len() != manifest.layers.len() {
        return Err(stored(ImageError::LayerCount {
            config: layers.len(),
            manifest: manifest.layers.len(),
        }));
    }
    for (layer, digest) in manifest.layers.iter().zip(&layers) {
        if store.has_layer(digest) {
            continue;
        }
        let stream = client.pull_blob_stream(&remote, layer).await.map_err(refused)?;
        let reader = tokio_util::io::StreamReader::new(
            stream.stream.map(|part| part.map_err(io::Error::other)),
        );
        let reader = tokio_util::io::SyncIoBridge::new(reader);
        let (store, diff, expected) = (store.clone(), digest.clone(), layer.digest.clone());
        tokio::task::spawn_blocking(move || unpack(&store, &diff, &expected, reader))
            .await
            .expect("unpacking does not panic")
            .map_err(stored)?;
    }
    // By the digest of what the tag names: of the index, where there is one.
    let mut names = vec![reference.with_digest(list.as_deref().unwrap_or(&digest)).to_string()];
    if reference.digest.is_none() {
        names.push(image.clone());
    }
    store.add_image(&config, &names).map_err(stored)
}

fn unpack(
    store: &ImageStore,
    digest: &str,
    expected: &str,
    reader: impl Read,
) -> Result<(), ImageError> {
    let mut content = Hashing::new(reader);
    store.add_layer(digest, &mut content)?;
    let drained = io::copy(&mut content, &mut io::sink());
    drained.map_err(super::failed("read", std::path::Path::new(expected)))?;
    if content.digest() == expected {
        return Ok(());
    }
    Err(ImageError::Digest {
        what: "a layer".to_owned(),
        expected: expected.to_owned(),
        found: content.digest(),
    })
}

fn check_config(config: &[u8], manifest: &OciImageManifest) -> Result<(), ImageError> {
    let found = digest_of(config);
    if found == manifest.config.digest {
        return Ok(());
    }
    let (what, expected) = ("the configuration".to_owned(), manifest.config.digest.clone());
    Err(ImageError::Digest { what, expected, found })
}

fn remote_reference(reference: &Reference) -> oci_client::Reference {
    let (registry, repository) = (reference.registry.clone(), reference.repository.clone());
    match (&reference.digest, &reference.tag) {
        (Some(digest), _) => {
            oci_client::Reference::with_digest(registry, repository, digest.clone())
        }
        (None, tag) => {
            let tag = tag.clone().unwrap_or_else(|| "latest".to_owned());
            oci_client::Reference::with_tag(registry, repository, tag)
        }
    }
}

/// Plain HTTP for mirrors that say so and, as everywhere, for registries on this machine.
fn configuration(mirror: Option<&Mirror>, registry: &str) -> ClientConfig {
    let host = registry.split(':').next().unwrap_or_default();
    let local = mirror.is_none() && (host == "localhost" || host.starts_with("127."));
    let protocol = match local || mirror.is_some_and(|mirror| mirror.plain_http) {
        true => ClientProtocol::HttpsExcept(vec![registry.to_owned()]),
        false => ClientProtocol::Https,
    };
    ClientConfig {
        protocol,
        platform_resolver: Some(Box::new(this_platform)),
        connect_timeout: Some(std::time::Duration::from_secs(30)),
        read_timeout: Some(std::time::Duration::from_secs(60)),
        user_agent: concat!("coracle/", env!("CARGO_PKG_VERSION")),
        ..ClientConfig::default()
    }
}

fn this_platform(manifests: &[ImageIndexEntry]) -> Option<String> {
    let ours = |entry: &&ImageIndexEntry| {
        entry.platform.as_ref().is_some_and(|platform| {
            platform.os.to_string() == "linux"
                && platform.architecture.to_string() == architecture()
        })
    };
    manifests.iter().find(ours).map(|entry| entry.digest.clone())
}

fn classify(source: OciDistributionError, image: &str, registry: &str) -> PullError {
    let image = image.to_owned();
    let missing = |code: &OciErrorCode| {
        matches!(
            code,
            OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound
        )
    };
    let denied =
        |code: &OciErrorCode| matches!(code, OciErrorCode::Unauthorized | OciErrorCode::Denied);
    match source {
        OciDistributionError::ImageManifestNotFoundError(_) => PullError::NotFound { image },
        OciDistributionError::ServerError { code: 404, .. } => PullError::NotFound { image },
        OciDistributionError::RegistryError { ref envelope, .. }
            if envelope.errors.iter().any(|e| missing(&e.code)) =>
        {
            PullError::NotFound { image }
        }
        OciDistributionError::RegistryError { ref envelope, .. }
            if envelope.errors.iter().any(|e| denied(&e.code)) =>
        {
            PullError::Denied { image }
        }
        OciDistributionError::UnauthorizedError { .. }
        | OciDistributionError::AuthenticationFailure(_) => PullError::Denied { image },
        OciDistributionError::RequestError(_) | OciDistributionError::IoError(_) => {
            PullError::Network { image, registry: registry.to_owned(), source }
        }
        source => PullError::Registry { image, source },
    }
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
