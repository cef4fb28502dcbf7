//! What registries and archives say about images: indexes, manifests and the choice of a platform
//! (OCI image-spec; Docker's schema 2 is the same under other names). Pure.

use serde::Deserialize;

/// What a registry may answer with when a tag is resolved.
pub const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, */*;q=0.1";

/// An index may name an index; a ring of them may not keep us.
pub const MAX_DEPTH: usize = 4;

#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: String,
    /// Bytes; old archives leave it out.
    #[serde(default)]
    pub size: u64,
    #[serde(default, deserialize_with = "proto::meta::or_default")]
    pub annotations: std::collections::BTreeMap<String, String>,
    pub platform: Option<Platform>,
}

#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub struct Platform {
    pub architecture: String,
    pub os: String,
    #[serde(default, deserialize_with = "proto::meta::or_default")]
    pub variant: String,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct Manifest {
    pub config: Descriptor,
    #[serde(deserialize_with = "proto::meta::or_default")]
    pub layers: Vec<Descriptor>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Document {
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

/// The bytes are no image.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    #[error("the manifest is no JSON of an image")]
    Json(#[source] serde_json::Error),
    #[error(
        "the image has a manifest of schema 1, which is no longer supported: build and push it \
         again with a tool that writes schema 2 or OCI manifests"
    )]
    Schema1,
    #[error("the manifest is an index and an image at once")]
    Ambiguous,
    #[error("{0:?} is not an image: its media type is none of an image or an index")]
    MediaType(String),
    #[error("the index has no image for linux/{0}")]
    NoPlatform(String),
    #[error("indexes refer to one another more than {MAX_DEPTH} deep")]
    Depth,
}

/// What all of them may have.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Any {
    #[serde(default)]
    schema_version: u32,
    #[serde(default)]
    media_type: String,
    manifests: Option<Vec<Descriptor>>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
}

/// Reads a manifest or an index. `media_type` is what it was announced as; its own word is the
/// better one, as it is covered by the digest.
pub fn parse(bytes: &[u8], media_type: &str) -> Result<Document, ManifestError> {
    // Schema 1 has fields of the same names and other shapes: it must be known first.
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        #[serde(default)]
        schema_version: u32,
    }
    let version: Version = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
    if version.schema_version == 1 || media_type.contains("docker.distribution.manifest.v1+") {
        return Err(ManifestError::Schema1);
    }
    let any: Any = serde_json::from_slice(bytes).map_err(ManifestError::Json)?;
    let kind = if any.media_type.is_empty() { media_type } else { &any.media_type };
    let kind = kind.split(';').next().unwrap_or_default().trim();
    match (any.manifests, any.config, any.layers) {
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) => Err(ManifestError::Ambiguous),
        (Some(manifests), None, None) if !is_manifest(kind) => Ok(Document::Index(manifests)),
        (None, Some(config), layers) if !is_index(kind) => {
            Ok(Document::Manifest(Manifest { config, layers: layers.unwrap_or_default() }))
        }
        _ if any.schema_version < 2 && kind.is_empty() => Err(ManifestError::Schema1),
        _ => Err(ManifestError::MediaType(kind.to_owned())),
    }
}

fn is_index(kind: &str) -> bool {
    kind == "application/vnd.oci.image.index.v1+json"
        || kind == "application/vnd.docker.distribution.manifest.list.v2+json"
}

fn is_manifest(kind: &str) -> bool {
    kind == "application/vnd.oci.image.manifest.v1+json"
        || kind == "application/vnd.docker.distribution.manifest.v2+json"
}

/// What this machine runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Machine {
    /// In Go's words, which are OCI's.
    pub architecture: &'static str,
    /// The newest variant: 2 is `v2`.
    pub level: u8,
}

impl Machine {
    pub fn this() -> Machine {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        Machine { architecture, level: level() }
    }

    /// The image to take of an index: the newest variant that runs here, the first of equals; one
    /// without a platform only where there is nothing better.
    pub fn choose<'a>(&self, index: &'a [Descriptor]) -> Option<&'a Descriptor> {
        let ranked = index.iter().filter_map(|entry| Some((self.rank(entry)?, entry)));
        // The last of equal maxima would win otherwise.
        ranked.rev().max_by_key(|(rank, _)| *rank).map(|(_, entry)| entry)
    }

    fn rank(&self, entry: &Descriptor) -> Option<u8> {
        let Some(platform) = &entry.platform else { return Some(0) };
        let architecture = match platform.architecture.to_ascii_lowercase().as_str() {
            "x86_64" | "x86-64" => "amd64".to_owned(),
            "aarch64" => "arm64".to_owned(),
            other => other.to_owned(),
        };
        if !platform.os.eq_ignore_ascii_case("linux") || architecture != self.architecture {
            return None;
        }
        let least = if self.architecture == "arm64" { 8 } else { 1 };
        let level = match platform.variant.trim_start_matches('v') {
            "" => least,
            digits => digits.parse().ok()?,
        };
        (level <= self.level).then_some(level)
    }
}

/// The level of x86-64 that the processor has; for arm64 the architecture's version.
fn level() -> u8 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::is_x86_feature_detected as has;
        let v2 = has!("sse4.2") && has!("ssse3") && has!("popcnt") && has!("cmpxchg16b");
        let v3 = v2
            && has!("avx2")
            && has!("bmi1")
            && has!("bmi2")
            && has!("f16c")
            && has!("fma")
            && has!("lzcnt")
            && has!("movbe");
        let v4 = v3
            && has!("avx512f")
            && has!("avx512bw")
            && has!("avx512cd")
            && has!("avx512dq")
            && has!("avx512vl");
        1 + u8::from(v2) + u8::from(v3) + u8::from(v4)
    }
    #[cfg(not(target_arch = "x86_64"))]
    8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(platform: &str, digest: &str) -> Descriptor {
        let mut parts = platform.split('/').map(str::to_owned);
        let mut next = || parts.next().unwrap_or_default();
        let (os, architecture, variant) = (next(), next(), next());
        Descriptor {
            media_type: String::new(),
            digest: digest.to_owned(),
            size: 0,
            annotations: Default::default(),
            platform: (!os.is_empty()).then_some(Platform { architecture, os, variant }),
        }
    }

    #[test]
    fn the_best_that_runs_here_is_chosen() {
        let amd64 = |level| Machine { architecture: "amd64", level };
        let arm64 = Machine { architecture: "arm64", level: 8 };
        let arm = Machine { architecture: "arm", level: 7 };
        let table: &[(Machine, &[&str], Option<usize>)] = &[
            (amd64(1), &["linux/arm64", "linux/amd64"], Some(1)),
            (amd64(3), &["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], Some(1)),
            (amd64(1), &["linux/amd64/v2"], None),
            (amd64(4), &["linux/amd64", "linux/amd64"], Some(0)),
            (amd64(4), &["windows/amd64", "unknown/unknown"], None),
            (amd64(1), &["", "linux/x86_64"], Some(1)),
            (amd64(1), &[""], Some(0)),
            (arm64, &["linux/arm/v7", "linux/arm64/v8"], Some(1)),
            (arm64, &["linux/arm64/v9", "linux/arm64"], Some(1)),
            (arm, &["linux/arm/v6", "linux/arm/v7", "linux/arm/v8"], Some(1)),
        ];
        for (machine, platforms, expected) in table {
            let index: Vec<_> =
                platforms.iter().enumerate().map(|(at, p)| entry(p, &at.to_string())).collect();
            let found = machine.choose(&index).map(|entry| entry.digest.clone());
            assert_eq!(found, expected.map(|at| at.to_string()), "{machine:?} {platforms:?}");
        }
    }

    #[test]
    fn documents_are_told_apart() {
        let descriptor = r#"{"digest":"sha256:1","size":1}"#;
        let index = format!(r#"{{"schemaVersion":2,"manifests":[{descriptor}]}}"#);
        let manifest = format!(r#"{{"schemaVersion":2,"config":{descriptor},"layers":null}}"#);
        let both = format!(r#"{{"schemaVersion":2,"config":{descriptor},"manifests":[]}}"#);
        let disguised = format!(
            r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","config":{descriptor},"layers":[]}}"#
        );
        assert!(
            matches!(parse(index.as_bytes(), ""), Ok(Document::Index(list)) if list.len() == 1)
        );
        assert!(matches!(parse(manifest.as_bytes(), ""), Ok(Document::Manifest(_))));
        assert!(matches!(parse(both.as_bytes(), ""), Err(ManifestError::Ambiguous)));
        assert!(matches!(parse(disguised.as_bytes(), ""), Err(ManifestError::MediaType(_))));
        let old = br#"{"schemaVersion":1,"name":"a","fsLayers":[],"config":"odd"}"#;
        assert!(matches!(parse(old, ""), Err(ManifestError::Schema1)));
        assert!(matches!(parse(b"{}", "text/html"), Err(ManifestError::MediaType(_))));
        assert!(matches!(parse(b"<html>", ""), Err(ManifestError::Json(_))));
    }
}
