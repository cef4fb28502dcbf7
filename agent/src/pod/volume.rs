//! The volumes of a pod's spec. A source this node cannot mount is kept by name, to be refused by
//! name.

use std::collections::BTreeMap;

use proto::meta::or_default;
use proto::quantity::Quantity;
use proto::view::persistent_volume::NfsVolume;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::{FieldRef, LocalReference, ResourceFieldRef};

/// A volume: its name and its one source.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Volume {
    pub name: String,
    #[serde(flatten)]
    source: Map<String, Value>,
}

#[derive(Clone, Debug)]
pub enum VolumeSource {
    EmptyDir(EmptyDir),
    HostPath(HostPath),
    ConfigMap(Files),
    Secret(Files),
    DownwardApi(Files),
    Projected(Projected),
    /// A claim, or a generic ephemeral volume, whose claim is named for the pod.
    Claim(ClaimVolume),
    Nfs(NfsVolume),
    Csi(CsiInline),
    Image(ImageVolume),
    /// Within a projected volume only.
    Token(Token),
    /// The field's name, as `iscsi`.
    Unsupported(String),
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EmptyDir {
    pub medium: String,
    pub size_limit: Option<Quantity>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HostPath {
    pub path: String,
    #[serde(rename = "type", deserialize_with = "or_default")]
    pub kind: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ClaimVolume {
    /// Empty for a generic ephemeral volume.
    pub claim_name: String,
    pub read_only: bool,
}

/// A volume that a driver makes for this pod alone.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CsiInline {
    pub driver: String,
    #[serde(deserialize_with = "or_default")]
    pub read_only: bool,
    #[serde(deserialize_with = "or_default")]
    pub fs_type: String,
    #[serde(deserialize_with = "or_default")]
    pub volume_attributes: BTreeMap<String, String>,
    pub node_publish_secret_ref: Option<LocalReference>,
}

/// The files of an image or artifact.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ImageVolume {
    pub reference: String,
    pub pull_policy: Option<String>,
}

/// A configMap, secret or downwardAPI source: in a volume of its own or within a projected one.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Files {
    #[serde(alias = "secretName", deserialize_with = "or_default")]
    pub name: String,
    #[serde(deserialize_with = "or_default")]
    pub items: Vec<Item>,
    pub default_mode: Option<u32>,
    #[serde(deserialize_with = "or_default")]
    pub optional: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Item {
    pub key: String,
    pub path: String,
    pub mode: Option<u32>,
    pub field_ref: Option<FieldRef>,
    pub resource_field_ref: Option<ResourceFieldRef>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Projected {
    #[serde(deserialize_with = "or_default")]
    pub sources: Vec<Projection>,
    pub default_mode: Option<u32>,
}

/// A ServiceAccount token, bound to the pod.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Token {
    /// Empty: the API server.
    #[serde(default, deserialize_with = "or_default")]
    pub audience: String,
    #[serde(default = "hour")]
    pub expiration_seconds: i64,
    pub path: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Projection {
    #[serde(flatten)]
    source: Map<String, Value>,
}

impl Volume {
    pub fn new(name: &str, source: Value) -> Volume {
        let source = source.as_object().cloned().unwrap_or_default();
        Volume { name: name.into(), source }
    }

    /// The source; an empty volume is an emptyDir.
    pub fn source(&self) -> Result<VolumeSource, serde_json::Error> {
        let Some((kind, value)) = self.source.iter().find(|(_, value)| !value.is_null()) else {
            return Ok(VolumeSource::EmptyDir(EmptyDir::default()));
        };
        let value = value.clone();
        Ok(match kind.as_str() {
            "emptyDir" => VolumeSource::EmptyDir(serde_json::from_value(value)?),
            "hostPath" => VolumeSource::HostPath(serde_json::from_value(value)?),
            "projected" => VolumeSource::Projected(serde_json::from_value(value)?),
            "persistentVolumeClaim" => VolumeSource::Claim(serde_json::from_value(value)?),
            "ephemeral" => VolumeSource::Claim(ClaimVolume::default()),
            "csi" => VolumeSource::Csi(serde_json::from_value(value)?),
            "nfs" => VolumeSource::Nfs(serde_json::from_value(value)?),
            "image" => VolumeSource::Image(serde_json::from_value(value)?),
            _ => files(kind, value)?,
        })
    }
}

impl ClaimVolume {
    /// The claim's name.
    pub fn name(&self, pod: &str, volume: &str) -> String {
        match self.claim_name.as_str() {
            "" => format!("{pod}-{volume}"),
            name => name.into(),
        }
    }

    /// Whether the claim must be the pod's own.
    pub fn is_ephemeral(&self) -> bool {
        self.claim_name.is_empty()
    }
}

impl Token {
    /// Tokens with the same key are the same token.
    pub fn key(&self) -> (String, i64) {
        (self.audience.clone(), self.expiration_seconds)
    }
}

fn hour() -> i64 {
    3600
}

impl Projection {
    /// A configMap, secret, downwardAPI or token, or `Unsupported`.
    pub fn source(&self) -> Result<VolumeSource, serde_json::Error> {
        match self.source.iter().find(|(_, value)| !value.is_null()) {
            Some((kind, value)) if kind == "serviceAccountToken" => {
                serde_json::from_value(value.clone()).map(VolumeSource::Token)
            }
            Some((kind, value)) => files(kind, value.clone()),
            None => Ok(VolumeSource::Unsupported(String::new())),
        }
    }
}

fn files(kind: &str, value: Value) -> Result<VolumeSource, serde_json::Error> {
    Ok(match kind {
        "configMap" => VolumeSource::ConfigMap(serde_json::from_value(value)?),
        "secret" => VolumeSource::Secret(serde_json::from_value(value)?),
        "downwardAPI" => VolumeSource::DownwardApi(serde_json::from_value(value)?),
        other => VolumeSource::Unsupported(other.to_string()),
    })
}
