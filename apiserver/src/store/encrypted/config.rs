//! The file that `--encryption-provider-config` names: apiserver.config.k8s.io/v1
//! EncryptionConfiguration.

use std::path::{Path, PathBuf};

use base64::{Engine, engine::general_purpose::STANDARD};
use proto::kind::{ROWS, Row};
use serde::Deserialize;

use super::cipher::{Cipher, Provider};

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("reading the encryption configuration {path}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the encryption configuration {path} is not valid: {why}")]
    Parse { path: PathBuf, why: String },
    #[error("the encryption configuration {path}: {why}")]
    Invalid { path: PathBuf, why: String },
}

/// Which providers seal and open the values of which keys.
pub struct Encryption(Vec<Rule>);

struct Rule {
    /// `/registry/secrets/`.
    prefixes: Vec<String>,
    providers: Vec<Provider>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Document {
    api_version: String,
    kind: String,
    resources: Vec<Resources>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resources {
    resources: Vec<String>,
    providers: Vec<OneProvider>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OneProvider {
    aesgcm: Option<Keys>,
    aescbc: Option<Keys>,
    identity: Option<Nothing>,
    secretbox: Option<serde_json::Value>,
    kms: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Keys {
    keys: Vec<Key>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    name: String,
    /// Base64.
    secret: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

impl Encryption {
    pub fn read(path: &Path) -> Result<Encryption, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.into(), source })?;
        let document: Document = serde_saphyr::from_str(&text)
            .map_err(|error| ConfigError::Parse { path: path.into(), why: error.to_string() })?;
        Encryption::of(document).map_err(|why| ConfigError::Invalid { path: path.into(), why })
    }

    /// In the order in which they are tried; none for what is stored as it is.
    pub(super) fn providers(&self, key: &str) -> &[Provider] {
        let fits = |rule: &&Rule| rule.prefixes.iter().any(|prefix| key.starts_with(prefix));
        self.0.iter().find(fits).map_or(&[], |rule| &rule.providers)
    }

    pub(super) fn prefixes(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flat_map(|rule| rule.prefixes.iter().map(String::as_str))
    }

    fn of(document: Document) -> Result<Encryption, String> {
        let (version, kind) = ("apiserver.config.k8s.io/v1", "EncryptionConfiguration");
        if document.api_version != version || document.kind != kind {
            let found = format!("{}, kind {}", document.api_version, document.kind);
            return Err(format!("apiVersion must be {version} and kind {kind}, not {found}"));
        }
        let rules = document.resources.into_iter().map(|one| {
            let prefixes = one.resources.iter().map(|name| prefixes(name));
            let prefixes = prefixes.collect::<Result<Vec<_>, _>>()?.concat();
            let providers = one.providers.into_iter().map(providers);
            let providers = providers.collect::<Result<Vec<_>, _>>()?.into_iter().flatten();
            let rule = Rule { prefixes, providers: providers.collect() };
            match rule.providers.is_empty() {
                true => Err(format!("no providers for {}", one.resources.join(", "))),
                false => Ok(rule),
            }
        });
        Ok(Encryption(rules.collect::<Result<_, String>>()?))
    }
}

/// `secrets`, `deployments.apps`, `*.apps`, `*.` (the core group) and `*.*`.
fn prefixes(name: &str) -> Result<Vec<String>, String> {
    let (resource, group) = name.split_once('.').unwrap_or((name, ""));
    let fits = |row: &&&Row| {
        (resource == "*" || row.resource == resource)
            && (row.group == group || (resource == "*" && group == "*"))
    };
    let stored = ROWS.iter().filter(fits).filter(|row| !row.storage.is_empty());
    let found: Vec<String> = stored.map(|row| row.key("", "")).collect();
    match found.is_empty() {
        true => Err(format!("there is no resource {name:?} to encrypt")),
        false => Ok(found),
    }
}

fn providers(one: OneProvider) -> Result<Vec<Provider>, String> {
    let OneProvider { aesgcm, aescbc, identity, secretbox, kms } = one;
    if secretbox.is_some() || kms.is_some() {
        return Err(
            "the providers secretbox and kms are not supported; use aesgcm or aescbc".into()
        );
    }
    let keyed = |cipher: fn(&[u8]) -> Option<Cipher>, keys: Option<Keys>| {
        keys.into_iter().flat_map(|keys| keys.keys).map(move |key| {
            let secret = STANDARD.decode(&key.secret);
            let secret =
                secret.map_err(|_| format!("the secret of key {} is no base64", key.name))?;
            let cipher = cipher(&secret).ok_or_else(|| {
                format!("the secret of key {} must have 16, 24 or 32 bytes", key.name)
            })?;
            Ok(Provider::new(cipher, &key.name))
        })
    };
    let mut providers: Vec<Provider> = keyed(Cipher::gcm, aesgcm)
        .chain(keyed(Cipher::cbc, aescbc))
        .collect::<Result<_, String>>()?;
    providers.extend(identity.map(|_| Provider::identity()));
    match providers.is_empty() {
        true => Err("a provider without a name or without keys".into()),
        false => Ok(providers),
    }
}
