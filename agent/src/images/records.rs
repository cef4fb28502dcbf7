//! Who may use an image that is on the node (Kubernetes: Images, "Ensure image pull credential
//! verification"; KEP-2535). A private image that one pod's secret fetched is not for every pod. What
//! was fetched with which credentials is kept in files of the kubelet's layout:
//!
//! ```text
//! image_manager/pulling/sha256-<hash of the name>   a pull that has begun
//! image_manager/pulled/sha256-<hash of the id>      what was used for it
//! ```
//!
//! Of a credential only a hash is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::digest::{SHA256, digest};
use client::error::chain;
use parking_lot::Mutex;
use proto::time::Time;
use serde::{Deserialize, Serialize};

use super::credentials::Credential;

const API: &str = "kubelet.config.k8s.io/v1beta1";

/// `--image-pull-credentials-verification-policy`: of which images that are there pods must prove
/// that they could pull them.
#[derive(Clone, Copy, Debug, Default, PartialEq, clap::ValueEnum)]
#[value(rename_all = "PascalCase")]
pub enum Policy {
    /// Of none.
    NeverVerify,
    /// Of all but those that this agent has not pulled.
    #[default]
    NeverVerifyPreloadedImages,
    /// Of all but those of --preloaded-images-verification-allowlist that it has not pulled.
    NeverVerifyAllowlistedImages,
    /// Of all.
    AlwaysVerify,
}

/// What was used to pull an image, by its names without tag and digest.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pulled {
    kind: String,
    api_version: String,
    pub last_updated_time: Option<Time>,
    pub image_ref: String,
    #[serde(default)]
    pub credential_mapping: BTreeMap<String, Accepted>,
}

/// Credentials that a registry has accepted.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    /// None were needed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub node_pods_accessible: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub kubernetes_secrets: Vec<Secret>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Secret {
    #[serde(default)]
    pub uid: String,
    pub namespace: String,
    pub name: String,
    pub credential_hash: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Intent<'a> {
    kind: &'static str,
    api_version: &'static str,
    image: &'a str,
}

/// The records of one node.
#[derive(Debug)]
pub struct Records {
    folder: PathBuf,
    policy: Policy,
    /// Names without tags; one that ends with `/*` stands for all that begin so.
    allowed: Vec<String>,
    lock: Mutex<()>,
}

impl Secret {
    /// None for the node's credentials, with which an image is for all its pods.
    pub fn new(namespace: &str, credential: &Credential) -> Option<Secret> {
        let (name, auth) = (credential.secret.clone()?, &credential.auth);
        let parts = [&auth.username, &auth.password, &auth.identity_token];
        let text = parts.map(|part| format!("{}:{part}", part.len())).join(",");
        Some(Secret {
            uid: String::new(),
            namespace: namespace.to_owned(),
            name,
            credential_hash: hex::encode(digest(&SHA256, text.as_bytes())),
        })
    }
}

impl Records {
    /// Below the agent's root.
    pub fn open(root: &Path, policy: Policy, allowed: Vec<String>) -> io::Result<Records> {
        let folder = root.join("image_manager");
        for part in ["pulling", "pulled"] {
            fs::create_dir_all(folder.join(part))?;
        }
        Ok(Records { folder, policy, allowed, lock: Mutex::default() })
    }

    /// Notes that the agent pulls: should it die before it can note how that went, the image is not
    /// one that somebody else put there.
    pub fn begin(&self, image: &str) -> io::Result<()> {
        let intent = Intent { kind: "ImagePullIntent", api_version: API, image };
        self.write(&self.intent(image), &intent)
    }

    /// Notes that a pull was in vain, unless another of the same image goes on.
    pub fn failed(&self, image: &str) {
        let _ = fs::remove_file(self.intent(image));
    }

    /// Notes with what the image was pulled: no credential where none was needed.
    pub fn pulled(&self, image: &str, id: &str, with: Option<Secret>, now: Time) -> io::Result<()> {
        let _lock = self.lock.lock();
        let mut record = self.record(id)?.unwrap_or_default();
        record.kind = "ImagePulledRecord".into();
        record.api_version = API.into();
        record.image_ref = id.to_owned();
        record.last_updated_time = Some(now);
        let accepted = record.credential_mapping.entry(without_tag(image)).or_default();
        match with {
            None => {
                *accepted = Accepted { node_pods_accessible: true, ..Accepted::default() };
            }
            Some(secret) if accepted.node_pods_accessible => drop(secret),
            Some(secret) => {
                accepted.kubernetes_secrets.retain(|known| *known != secret);
                accepted.kubernetes_secrets.push(secret);
            }
        }
        self.write(&self.of(id), &record)?;
        self.failed(image);
        Ok(())
    }

    /// Must a pod with these credentials ask the registry, although the image is there?
    pub fn must_pull(&self, image: &str, id: &str, has: &[Secret]) -> bool {
        let _lock = self.lock.lock();
        let record = match self.record(id) {
            Ok(record) => record,
            Err(error) => {
                // What cannot be read proves nothing.
                tracing::warn!(error = chain(&error), id, "cannot read who pulled an image");
                return true;
            }
        };
        let ours = record.is_some() || self.intent(image).exists();
        if !self.verified(image, ours) {
            return false;
        }
        let name = without_tag(image);
        let accepted = record.as_ref().and_then(|record| record.credential_mapping.get(&name));
        let Some(accepted) = accepted else { return true };
        let known = |secret: &Secret| {
            accepted.kubernetes_secrets.iter().any(|k| k.credential_hash == secret.credential_hash)
        };
        !accepted.node_pods_accessible && !has.iter().any(known)
    }

    /// Forgets images that are gone.
    pub fn keep(&self, ids: &BTreeSet<&str>, began: Time) {
        let _lock = self.lock.lock();
        for entry in fs::read_dir(self.folder.join("pulled")).into_iter().flatten().flatten() {
            let record = fs::read(entry.path()).ok();
            let record: Option<Pulled> = record.and_then(|it| serde_json::from_slice(&it).ok());
            let old = |record: &Pulled| record.last_updated_time.is_none_or(|at| at < began);
            if record.is_some_and(|it| !ids.contains(it.image_ref.as_str()) && old(&it)) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn verified(&self, image: &str, ours: bool) -> bool {
        let allowed = |pattern: &String| match pattern.strip_suffix("/*") {
            Some(prefix) => without_tag(image).starts_with(&format!("{prefix}/")),
            None => *pattern == without_tag(image),
        };
        match self.policy {
            Policy::NeverVerify => false,
            Policy::AlwaysVerify => true,
            Policy::NeverVerifyPreloadedImages => ours,
            Policy::NeverVerifyAllowlistedImages => ours || !self.allowed.iter().any(allowed),
        }
    }

    fn record(&self, id: &str) -> io::Result<Option<Pulled>> {
        match fs::read(self.of(id)) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn write(&self, path: &Path, value: &impl Serialize) -> io::Result<()> {
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec(value)?)?;
        fs::rename(&new, path)
    }

    fn intent(&self, image: &str) -> PathBuf {
        self.folder.join("pulling").join(file(image))
    }

    fn of(&self, id: &str) -> PathBuf {
        self.folder.join("pulled").join(file(id))
    }
}

fn file(text: &str) -> String {
    format!("sha256-{}", hex::encode(digest(&SHA256, text.as_bytes())))
}

/// As the pod writes it, without tag and digest.
fn without_tag(image: &str) -> String {
    let name = image.split('@').next().unwrap_or_default();
    match name.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name.to_owned(),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(name: &str, hash: &str) -> Secret {
        let (namespace, credential_hash) = ("ns".into(), hash.into());
        Secret { name: name.into(), namespace, credential_hash, uid: String::new() }
    }

    fn open(folder: &Path, policy: Policy) -> Records {
        Records::open(folder, policy, vec!["reg.test/free".into(), "reg.test/open/*".into()])
            .unwrap()
    }

    #[test]
    fn a_private_image_is_for_those_whose_credentials_fetched_it() {
        let folder = tempfile::tempdir().unwrap();
        let records = open(folder.path(), Policy::default());
        let now = Time::from_unix(10);
        let (image, id) = ("reg.test/x:1", "sha256:1");
        assert!(!records.must_pull(image, id, &[]), "somebody else has put it there");
        records.begin(image).unwrap();
        assert!(records.must_pull(image, id, &[]), "a pull that died may have needed a secret");
        records.pulled(image, id, Some(secret("a", "h1")), now).unwrap();
        let again = open(folder.path(), Policy::default());
        for (has, expected) in [
            (vec![], true),
            (vec![secret("a", "h2")], true),
            (vec![secret("b", "h1")], false),
            (vec![secret("z", "z"), secret("a", "h1")], false),
        ] {
            assert_eq!(again.must_pull(image, id, &has), expected, "{has:?}");
        }
        assert!(!again.must_pull("reg.test/x:other-tag", id, &[secret("a", "h1")]));
        assert!(again.must_pull("mirror.test/x:1", id, &[secret("a", "h1")]), "another name");
        again.pulled(image, id, None, now).unwrap();
        assert!(!again.must_pull(image, id, &[]), "it has become public");
        again.keep(&BTreeSet::from([id]), Time::from_unix(20));
        assert!(again.record(id).unwrap().is_some());
        again.keep(&BTreeSet::new(), Time::from_unix(20));
        assert_eq!(again.record(id).unwrap(), None);
    }

    #[test]
    fn policies() {
        let folder = tempfile::tempdir().unwrap();
        let table = [
            (Policy::NeverVerify, [false, false, false]),
            (Policy::NeverVerifyPreloadedImages, [false, false, false]),
            (Policy::NeverVerifyAllowlistedImages, [true, false, false]),
            (Policy::AlwaysVerify, [true, true, true]),
        ];
        for (policy, expected) in table {
            let records = open(folder.path(), policy);
            let images = ["reg.test/x:1", "reg.test/free:1", "reg.test/open/a/b@sha256:1"];
            assert_eq!(images.map(|it| records.must_pull(it, "sha256:2", &[])), expected);
        }
    }
}
