//! The files that a configMap, secret, downwardAPI or projected volume holds. Pure.

use std::collections::BTreeMap;

use super::SetUpError;
use crate::downward::{Facts, field, resource};
use crate::environment::Sources;
use crate::pod::volume::{Files, Item, Token};
use crate::pod::{Pod, VolumeSource};

/// Files by path within the volume.
pub type Payload = BTreeMap<String, File>;

#[derive(Clone, Debug, PartialEq)]
pub struct File {
    pub content: Vec<u8>,
    pub mode: u32,
    /// A user other than root.
    pub owner: Option<u32>,
}

const DEFAULT_MODE: u32 = 0o644;

/// None for a volume that is no set of files.
pub fn payload(
    source: &VolumeSource,
    pod: &Pod,
    facts: &Facts,
    sources: &Sources,
) -> Result<Option<Payload>, SetUpError> {
    let VolumeSource::Projected(projected) = source else {
        return one(source, None, pod, facts, sources);
    };
    let mut all = Payload::new();
    for part in &projected.sources {
        let part = part.source()?;
        if let VolumeSource::Unsupported(kind) = &part {
            return Err(SetUpError::Unsupported(format!("projected {kind}")));
        }
        let mode = projected.default_mode.or(Some(DEFAULT_MODE));
        all.extend(one(&part, mode, pod, facts, sources)?.unwrap_or_default());
    }
    Ok(Some(all))
}

fn one(
    source: &VolumeSource,
    mode: Option<u32>,
    pod: &Pod,
    facts: &Facts,
    sources: &Sources,
) -> Result<Option<Payload>, SetUpError> {
    let (kind, files, data) = match source {
        VolumeSource::ConfigMap(files) => ("config", files, sources.config_maps.get(&files.name)),
        VolumeSource::Secret(files) => ("secret", files, sources.secrets.get(&files.name)),
        VolumeSource::DownwardApi(files) => return downward(files, mode, pod, facts).map(Some),
        VolumeSource::Token(wanted) => return token(wanted, mode, pod, sources).map(Some),
        _ => return Ok(None),
    };
    let mode = mode.or(files.default_mode).unwrap_or(DEFAULT_MODE);
    let Some(data) = data else {
        let kind = if kind == "config" { "configmap" } else { kind };
        return match files.optional {
            true => Ok(Some(Payload::new())),
            false => Err(SetUpError::Missing { kind, name: files.name.clone() }),
        };
    };
    if files.items.is_empty() {
        let all = data.iter().map(|(key, value)| (key.clone(), File::new(value.clone(), mode)));
        return Ok(Some(all.collect()));
    }
    let mut payload = Payload::new();
    for item in &files.items {
        match data.get(&item.key) {
            Some(value) => {
                let file = File::new(value.clone(), item.mode.unwrap_or(mode));
                payload.insert(path(item)?, file);
            }
            None if files.optional => {}
            None => return Err(SetUpError::Key { kind, key: item.key.clone() }),
        }
    }
    Ok(Some(payload))
}

/// With a group or a user of the pod's own the token is nobody else's to read.
fn token(
    wanted: &Token,
    mode: Option<u32>,
    pod: &Pod,
    sources: &Sources,
) -> Result<Payload, SetUpError> {
    let found = sources.tokens.get(&wanted.key());
    let content = found.ok_or_else(|| SetUpError::Missing {
        kind: "token",
        name: pod.spec.service_account_name.clone(),
    })?;
    let content = content.clone().map_err(SetUpError::Token)?;
    let owner = only_user(pod);
    let private = owner.is_some() || pod.spec.security_context.fs_group.is_some();
    let mode = if private { 0o600 } else { mode.unwrap_or(DEFAULT_MODE) };
    Ok(Payload::from([(inside(&wanted.path)?, File { content, mode, owner })]))
}

/// The user as whom all containers run, where they say so.
fn only_user(pod: &Pod) -> Option<u32> {
    let of_pod = pod.spec.security_context.run_as_user;
    let containers = pod.spec.init_containers.iter().chain(&pod.spec.containers);
    let mut users = containers.map(|one| one.security_context.run_as_user.or(of_pod));
    let first = users.next()??;
    let same = users.all(|user| user == Some(first));
    u32::try_from(first).ok().filter(|_| same)
}

fn downward(
    files: &Files,
    mode: Option<u32>,
    pod: &Pod,
    facts: &Facts,
) -> Result<Payload, SetUpError> {
    let mode = mode.or(files.default_mode).unwrap_or(DEFAULT_MODE);
    let mut payload = Payload::new();
    for item in &files.items {
        let value = match (&item.field_ref, &item.resource_field_ref) {
            (Some(reference), _) => field(pod, &reference.field_path, facts)?,
            (None, Some(reference)) => resource(pod, None, reference, facts)?,
            (None, None) => continue,
        };
        let file = File::new(value.into_bytes(), item.mode.unwrap_or(mode));
        payload.insert(path(item)?, file);
    }
    Ok(payload)
}

fn path(item: &Item) -> Result<String, SetUpError> {
    inside(&item.path)
}

/// A relative path that stays within the volume and leaves our own names alone.
fn inside(path: &str) -> Result<String, SetUpError> {
    let bad = path.is_empty()
        || path.starts_with("..")
        || path.starts_with('/')
        || path.split('/').any(|part| part == ".." || part.is_empty());
    if bad { Err(SetUpError::Path(path.into())) } else { Ok(path.into()) }
}

impl File {
    pub fn new(content: Vec<u8>, mode: u32) -> File {
        File { content, mode, owner: None }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::pod::Volume;

    fn made(source: Value) -> Result<String, String> {
        let pod = serde_json::from_value(json!({"metadata": {"name": "p", "labels": {"a": "b"}}}));
        let pod: Pod = pod.unwrap();
        let mut sources = Sources::default();
        let data = [("k".to_string(), b"v".to_vec()), ("l".to_string(), b"w".to_vec())];
        sources.config_maps.insert("cm".into(), data.clone().into());
        sources.secrets.insert("s".into(), data.into());
        sources.tokens.insert((String::new(), 600), Ok(b"jwt".to_vec()));
        let gone = "serviceaccounts \"robot\" not found".to_string();
        sources.tokens.insert(("gone".into(), 600), Err(gone));
        let source = Volume::new("x", source).source().unwrap();
        match payload(&source, &pod, &Facts::default(), &sources) {
            Ok(Some(files)) => {
                let file = |(path, File { content, mode, .. }): (&String, &File)| {
                    format!("{path}={} {mode:o}", String::from_utf8_lossy(content))
                };
                Ok(files.iter().map(file).collect::<Vec<_>>().join(", "))
            }
            Ok(None) => Ok("none".into()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn files_of_volumes() {
        let table = [
            (json!({"configMap": {"name": "cm"}}), Ok("k=v 644, l=w 644")),
            (
                json!({"secret": {"secretName": "s", "defaultMode": 256,
                    "items": [{"key": "k", "path": "a/b", "mode": 493}, {"key": "l", "path": "c"}]}}),
                Ok("a/b=v 755, c=w 400"),
            ),
            (json!({"configMap": {"name": "no"}}), Err("configmap \"no\" not found")),
            (json!({"configMap": {"name": "no", "optional": true}}), Ok("")),
            (
                json!({"configMap": {"name": "cm", "items": [{"key": "z", "path": "z"}]}}),
                Err("references non-existent config key: z"),
            ),
            (
                json!({"configMap": {"name": "cm", "items": [{"key": "k", "path": "../x"}]}}),
                Err("\"../x\" is not a path within the volume"),
            ),
            (
                json!({"projected": {"defaultMode": 288, "sources": [
                    {"configMap": {"name": "cm", "items": [{"key": "k", "path": "one"}]}},
                    {"secret": {"name": "s", "items": [{"key": "l", "path": "two"}]}},
                    {"downwardAPI": {"items": [
                        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}]}}),
                Ok("labels=a=\"b\" 440, one=v 440, two=w 440"),
            ),
            (
                json!({"projected": {"sources": [
                    {"serviceAccountToken": {"path": "t", "expirationSeconds": 600}}]}}),
                Ok("t=jwt 644"),
            ),
            (
                json!({"projected": {"sources": [
                    {"serviceAccountToken": {"path": "t", "audience": "other"}}]}}),
                Err("token \"\" not found"),
            ),
            (
                json!({"projected": {"sources": [{"serviceAccountToken":
                    {"path": "t", "audience": "gone", "expirationSeconds": 600}}]}}),
                Err("failed to fetch token: serviceaccounts \"robot\" not found"),
            ),
            (
                json!({"projected": {"sources": [{"clusterTrustBundle": {"path": "t"}}]}}),
                Err(
                    "volumes of type \"projected clusterTrustBundle\" are not supported by this node",
                ),
            ),
            (json!({"emptyDir": {}}), Ok("none")),
        ];
        for (source, expected) in table {
            let got = made(source.clone());
            let got = got.as_deref().map_err(String::as_str);
            assert_eq!(got, expected, "{source}");
        }
    }

    #[test]
    fn whose_a_token_is() {
        let group = json!({"fsGroup": 10_000});
        let user = json!({"runAsUser": 1000});
        let plain = json!({"name": "c"});
        let other = json!({"name": "d", "securityContext": {"runAsUser": 1001}});
        let source = Volume::new(
            "x",
            json!({"projected": {"sources": [
                {"serviceAccountToken": {"path": "t", "expirationSeconds": 600}}]}}),
        );
        let mut sources = Sources::default();
        sources.tokens.insert((String::new(), 600), Ok(b"jwt".to_vec()));
        for (context, containers, expected) in [
            (json!({}), vec![&plain], (0o644, None)),
            (group, vec![&plain], (0o600, None)),
            (user.clone(), vec![&plain], (0o600, Some(1000))),
            (user, vec![&plain, &other], (0o644, None)),
            (json!({}), vec![&other], (0o600, Some(1001))),
            (json!({}), vec![&plain, &other], (0o644, None)),
        ] {
            let spec = json!({"securityContext": context, "containers": containers});
            let pod: Pod = serde_json::from_value(json!({ "spec": spec })).unwrap();
            let source = source.source().unwrap();
            let files = payload(&source, &pod, &Facts::default(), &sources).unwrap().unwrap();
            assert_eq!((files["t"].mode, files["t"].owner), expected, "{spec}");
        }
    }
}
