//! Static pods: pods that this node runs because a file of its own or a page says so, with or without
//! an API server (Kubernetes: Create static Pods). A manifest is read here and becomes the pod as the
//! worker wants it and, for the API, its mirror. Pure but for [`folder`], which watches the files,
//! [`page`], which asks, and [`sources`], which does both.
//! Nothing that only the API has may be mentioned by such a pod.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use proto::time::Time;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::pod::{CONFIG_HASH, CONFIG_MIRROR, CONFIG_SEEN, CONFIG_SOURCE, Pod};

pub mod folder;
pub mod page;
pub mod sources;

/// A static pod, whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    pub namespace: String,
    /// With the node's name at its end.
    pub name: String,
    /// Made of what the file says: another text is another pod.
    pub uid: String,
    /// The object, as JSON.
    pub bytes: Bytes,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("it is neither YAML nor JSON")]
    Syntax(#[from] serde_yaml::Error),
    #[error("it must be one Pod of v1; it is {kind:?} of {api_version:?}")]
    Kind { api_version: String, kind: String },
    #[error("{0} is missing")]
    Missing(&'static str),
    #[error("it is no valid Pod")]
    Pod(#[from] serde_json::Error),
    #[error("static pods may not reference {0}: the node cannot ask anybody for it")]
    Reference(&'static str),
}

/// Where a manifest was read.
#[derive(Clone, Copy, Debug)]
pub enum Origin<'a> {
    File(&'a Path),
    Url(&'a str),
}

/// Reads one manifest: what the kubelet adds is added, for a node of this name.
pub fn read(text: &[u8], origin: Origin, node: &str, now: Time) -> Result<Manifest, Error> {
    complete(serde_yaml::from_slice(text)?, origin, node, now)
}

/// Reads one manifest, or the list of them that a page may give.
pub fn read_all(
    text: &[u8],
    origin: Origin,
    node: &str,
    now: Time,
) -> Result<Vec<Manifest>, Error> {
    let mut object: Value = serde_yaml::from_slice(text)?;
    if (&object["apiVersion"], &object["kind"]) != (&json!("v1"), &json!("PodList")) {
        return Ok(vec![complete(object, origin, node, now)?]);
    }
    let Value::Array(items) = object["items"].take() else { return Ok(Vec::new()) };
    let items = items.into_iter().map(|mut item| {
        if let Some(item) = item.as_object_mut() {
            // The list says already of what it is one.
            item.entry("apiVersion").or_insert("v1".into());
            item.entry("kind").or_insert("Pod".into());
        }
        complete(item, origin, node, now)
    });
    items.collect()
}

fn complete(mut object: Value, origin: Origin, node: &str, now: Time) -> Result<Manifest, Error> {
    let word = |name: &str| object[name].as_str().unwrap_or_default().to_string();
    if (word("apiVersion").as_str(), word("kind").as_str()) != ("v1", "Pod") {
        return Err(Error::Kind { api_version: word("apiVersion"), kind: word("kind") });
    }
    let given = object["metadata"]["name"].as_str().filter(|name| !name.is_empty());
    let name = format!("{}-{}", given.ok_or(Error::Missing("metadata.name"))?, node.to_lowercase());
    if object["spec"]["containers"].as_array().is_none_or(Vec::is_empty) {
        return Err(Error::Missing("spec.containers"));
    }
    if let Some(reference) = reference(&object["spec"]) {
        return Err(Error::Reference(reference));
    }
    let namespace = object["metadata"]["namespace"].as_str().filter(|name| !name.is_empty());
    let namespace = namespace.unwrap_or("default").to_string();
    let mut hash = Sha256::new();
    let (source, place) = match origin {
        Origin::File(path) => ("file", path.as_os_str().as_encoded_bytes()),
        Origin::Url(url) => ("http", url.as_bytes()),
    };
    for part in [node.as_bytes(), place, &to_vec(&object)] {
        hash.update(part);
        hash.update([0]);
    }
    let uid = hex::encode(&hash.finalize()[..16]);
    let meta = &mut object["metadata"];
    (meta["name"], meta["namespace"]) = (name.clone().into(), namespace.clone().into());
    meta["uid"] = uid.clone().into();
    let annotations = [
        (CONFIG_HASH, uid.clone()),
        (CONFIG_SOURCE, source.into()),
        (CONFIG_SEEN, now.to_string()),
    ];
    if !meta["annotations"].is_object() {
        meta["annotations"] = json!({});
    }
    for (key, value) in annotations {
        meta["annotations"][key] = value.into();
    }
    let spec = &mut object["spec"];
    spec["nodeName"] = node.into();
    let everything = json!({"operator": "Exists", "effect": "NoExecute"});
    match spec["tolerations"].as_array_mut() {
        Some(tolerations) => tolerations.push(everything),
        None => spec["tolerations"] = json!([everything]),
    }
    object["status"] = json!({"phase": "Pending"});
    // What the node cannot read it cannot run.
    serde_json::from_value::<Pod>(object.clone())?;
    Ok(Manifest { namespace, name, uid, bytes: to_vec(&object).into() })
}

impl Manifest {
    /// What stands for the pod in the API: the same, owned by the node.
    pub fn mirror(&self, node: &str, node_uid: &str) -> Value {
        let mut object: Value = serde_json::from_slice(&self.bytes).unwrap_or_default();
        let meta = &mut object["metadata"];
        if let Some(meta) = meta.as_object_mut() {
            meta.remove("uid");
        }
        meta["annotations"][CONFIG_MIRROR] = self.uid.clone().into();
        meta["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "Node", "name": node,
            "uid": node_uid, "controller": true}]);
        object
    }
}

fn to_vec(object: &Value) -> Vec<u8> {
    // A JSON value always has a text.
    serde_json::to_vec(object).unwrap_or_default()
}

/// What of the API the spec mentions, if anything.
fn reference(spec: &Value) -> Option<&'static str> {
    const NAMES: &[(&str, &str)] = &[
        ("serviceAccountName", "service accounts"),
        ("serviceAccount", "service accounts"),
        ("imagePullSecrets", "secrets"),
        ("secret", "secrets"),
        ("secretRef", "secrets"),
        ("secretKeyRef", "secrets"),
        ("configMap", "configmaps"),
        ("configMapRef", "configmaps"),
        ("configMapKeyRef", "configmaps"),
        ("persistentVolumeClaim", "persistentvolumeclaims"),
        ("ephemeral", "persistentvolumeclaims"),
        ("resourceClaims", "resourceclaims"),
        ("serviceAccountToken", "service account tokens"),
        ("clusterTrustBundle", "clustertrustbundles"),
        ("podCertificate", "pod certificates"),
    ];
    let mut rest = vec![spec];
    while let Some(value) = rest.pop() {
        match value {
            Value::Object(fields) => {
                let empty = |value: &Value| {
                    matches!(value, Value::Null)
                        || value.as_str() == Some("")
                        || value.as_array().is_some_and(Vec::is_empty)
                };
                let named = NAMES
                    .iter()
                    .find(|(field, _)| fields.get(*field).is_some_and(|value| !empty(value)));
                if let Some((_, what)) = named {
                    return Some(what);
                }
                rest.extend(fields.values());
            }
            Value::Array(items) => rest.extend(items),
            _ => {}
        }
    }
    None
}

/// By namespace and name; of two with the same the first one counts.
pub fn by_name(manifests: Vec<Manifest>) -> BTreeMap<(String, String), Manifest> {
    let mut all = BTreeMap::new();
    for manifest in manifests {
        let key = (manifest.namespace.clone(), manifest.name.clone());
        if all.contains_key(&key) {
            tracing::warn!(namespace = %key.0, name = %key.1, "two manifests name the same pod");
            continue;
        }
        all.insert(key, manifest);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Origin<'static> {
        Origin::File(Path::new("/m/web.yaml"))
    }

    fn manifest(text: &str) -> Result<Manifest, Error> {
        read(text.as_bytes(), file(), "Node1", Time::from_unix(0))
    }

    const WEB: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {a: b}}
spec:
  containers: [{name: c, image: i}]
";

    #[test]
    fn what_the_node_adds() {
        let read = manifest(WEB).unwrap();
        assert_eq!((read.namespace.as_str(), read.name.as_str()), ("default", "web-node1"));
        assert_eq!(read.uid.len(), 32);
        let object: Value = serde_json::from_slice(&read.bytes).unwrap();
        assert_eq!(object["metadata"]["uid"], read.uid.as_str());
        let expected = json!({CONFIG_HASH: read.uid, CONFIG_SOURCE: "file",
            CONFIG_SEEN: "1970-01-01T00:00:00Z"});
        assert_eq!(object["metadata"]["annotations"], expected);
        assert_eq!(object["spec"]["nodeName"], "Node1");
        let tolerations = json!([{"operator": "Exists", "effect": "NoExecute"}]);
        assert_eq!(object["spec"]["tolerations"], tolerations);
        // The same text is the same pod, whenever it is read; another one is another.
        let later = super::read(WEB.as_bytes(), file(), "Node1", Time::from_unix(9));
        assert_eq!(later.unwrap().uid, read.uid);
        assert_ne!(manifest(&WEB.replace("image: i", "image: j")).unwrap().uid, read.uid);
    }

    #[test]
    fn mirrors_belong_to_the_node() {
        let read = manifest(WEB).unwrap();
        let mirror = read.mirror("Node1", "n-u");
        assert_eq!(mirror["metadata"]["annotations"][CONFIG_MIRROR], read.uid.as_str());
        assert!(mirror["metadata"].get("uid").is_none());
        assert_eq!(mirror["metadata"]["ownerReferences"][0]["uid"], "n-u");
    }

    #[test]
    fn what_is_refused() {
        let table = [
            ("a: [", "it is neither YAML nor JSON"),
            (
                "apiVersion: v1\nkind: Service",
                "it must be one Pod of v1; it is \"Service\" of \"v1\"",
            ),
            ("apiVersion: v1\nkind: Pod\nmetadata: {}", "metadata.name is missing"),
            ("apiVersion: v1\nkind: Pod\nmetadata: {name: a}", "spec.containers is missing"),
            (&WEB.replace("image: i", "image: [1]"), "it is no valid Pod"),
            (
                &WEB.replace("image: i", "image: i, envFrom: [{secretRef: {name: s}}]"),
                "static pods may not reference secrets: the node cannot ask anybody for it",
            ),
        ];
        for (text, expected) in table {
            assert_eq!(manifest(text).unwrap_err().to_string(), expected, "{text}");
        }
    }
}
