//! Pull secrets: which of their credentials are for an image (Kubernetes: Pull an Image from a
//! Private Registry, and Images, "Interpretation of config.json"). Pure.

use std::collections::{BTreeMap, HashMap};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proto::cri;
use serde::Deserialize;

use crate::reference::Reference;

/// The Docker Hub's, as `docker login` writes it.
const HUB: &str = "index.docker.io";

/// Credentials that may be tried.
#[derive(Clone, Debug, PartialEq)]
pub struct Credential {
    /// The Secret they come from; none for those of the node.
    pub secret: Option<String>,
    pub auth: cri::AuthConfig,
}

#[derive(Deserialize)]
struct DockerConfig {
    auths: HashMap<String, DockerAuth>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct DockerAuth {
    username: String,
    password: String,
    auth: String,
    identitytoken: String,
}

/// What the Secrets of these names have for the image, the most specific first.
pub fn matching(
    image: &Reference,
    names: &[&str],
    secrets: &BTreeMap<String, BTreeMap<String, Vec<u8>>>,
) -> Vec<Credential> {
    let mut found: Vec<(usize, String, Credential)> = Vec::new();
    for name in names {
        let Some(data) = secrets.get(*name) else { continue };
        for (key, entry) in entries(data) {
            let (pattern, path) = split(&key);
            if !matches_host(&pattern, &image.registry) || !matches_path(&path, image) {
                continue;
            }
            let Some(auth) = auth(entry) else { continue };
            let credential = Credential { secret: Some((*name).to_owned()), auth };
            if found.iter().any(|(_, _, known)| *known == credential) {
                continue;
            }
            found.push((path.len(), pattern, credential));
        }
    }
    // A longer path knows better, and a name better than a pattern.
    found.sort_by(|a, b| b.0.cmp(&a.0).then(b.1.cmp(&a.1)));
    found.into_iter().map(|(_, _, credential)| credential).collect()
}

/// What a file of the node has for the image, which is one of `docker login`.
pub fn of_node(image: &Reference, config: Vec<u8>) -> Vec<Credential> {
    let secret = BTreeMap::from([(".dockerconfigjson".to_owned(), config)]);
    let mut found = matching(image, &[""], &BTreeMap::from([(String::new(), secret)]));
    found.iter_mut().for_each(|credential| credential.secret = None);
    found
}

/// Whether a pattern as in these files and in `matchImages` is of the image.
pub fn matches(pattern: &str, image: &Reference) -> bool {
    let (host, path) = split(pattern);
    matches_host(&host, &image.registry) && matches_path(&path, image)
}

fn entries(data: &BTreeMap<String, Vec<u8>>) -> Vec<(String, DockerAuth)> {
    let modern = data.get(".dockerconfigjson").and_then(|bytes| {
        serde_json::from_slice::<DockerConfig>(bytes).ok().map(|config| config.auths)
    });
    let legacy =
        || serde_json::from_slice::<HashMap<String, DockerAuth>>(data.get(".dockercfg")?).ok();
    modern.or_else(legacy).into_iter().flatten().collect()
}

fn auth(entry: DockerAuth) -> Option<cri::AuthConfig> {
    let pair = STANDARD.decode(entry.auth.trim()).ok().and_then(|it| String::from_utf8(it).ok());
    let (username, password) = match pair.as_deref().and_then(|pair| pair.split_once(':')) {
        Some((username, password)) => (username.to_owned(), password.to_owned()),
        None => (entry.username, entry.password),
    };
    let identity_token = entry.identitytoken;
    let any = !username.is_empty() || !identity_token.is_empty();
    any.then(|| cri::AuthConfig { username, password, identity_token, ..Default::default() })
}

/// Host and path of a key: `https://index.docker.io/v1/` is `index.docker.io` without a path.
fn split(key: &str) -> (String, String) {
    let key = key.trim_start_matches("https://").trim_start_matches("http://");
    let (host, path) = key.split_once('/').unwrap_or((key, ""));
    let path = match path.trim_matches('/') {
        "v1" | "v2" => "",
        path => path.trim_start_matches("v1/").trim_start_matches("v2/"),
    };
    (host.to_owned(), path.to_owned())
}

/// `*.example.com` stands for one label each; ports must be the same.
fn matches_host(pattern: &str, registry: &str) -> bool {
    let hub = ["docker.io", HUB, "registry-1.docker.io"];
    if registry == "docker.io" && hub.contains(&pattern) {
        return true;
    }
    let port = |text: &str| text.rsplit_once(':').map(|(_, port)| port.to_owned());
    let host = |text: &str| text.rsplit_once(':').map_or(text, |(host, _)| host).to_owned();
    if port(pattern) != port(registry) {
        return false;
    }
    let (pattern, registry) = (host(pattern), host(registry));
    let (pattern, labels): (Vec<_>, Vec<_>) =
        (pattern.split('.').collect(), registry.split('.').collect());
    pattern.len() == labels.len()
        && pattern.iter().zip(&labels).all(|(pattern, label)| matches_label(pattern, label))
}

fn matches_label(pattern: &str, label: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == label,
        Some((before, after)) => label.strip_prefix(before).is_some_and(|rest| {
            (0..=rest.len())
                .any(|at| rest.is_char_boundary(at) && matches_label(after, &rest[at..]))
        }),
    }
}

fn matches_path(path: &str, image: &Reference) -> bool {
    image.repository.starts_with(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(entries: &[(&str, &str)]) -> BTreeMap<String, Vec<u8>> {
        let auths: HashMap<&str, serde_json::Value> = entries
            .iter()
            .map(|(host, user)| {
                (*host, serde_json::json!({ "auth": STANDARD.encode(format!("{user}:p")) }))
            })
            .collect();
        let config = serde_json::json!({ "auths": auths }).to_string();
        BTreeMap::from([(".dockerconfigjson".to_string(), config.into_bytes())])
    }

    #[test]
    fn the_most_specific_credentials_come_first() {
        let secrets = BTreeMap::from([
            (
                "a".to_string(),
                secret(&[
                    ("https://index.docker.io/v1/", "hub"),
                    ("*.example.com", "any"),
                    ("reg.example.com", "host"),
                    ("https://reg.example.com/team/app", "app"),
                    ("reg.example.com/team", "team"),
                    ("reg.example.com:5000", "port"),
                ]),
            ),
            ("b".to_string(), secret(&[("reg.example.com/team", "other")])),
            ("odd".to_string(), BTreeMap::from([(".dockerconfigjson".into(), b"{".to_vec())])),
        ]);
        let table: &[(&str, &[&str])] = &[
            ("busybox", &["hub"]),
            ("docker.io/me/x:1", &["hub"]),
            ("reg.example.com/team/app:1", &["app", "team", "other", "host", "any"]),
            ("reg.example.com/else:1", &["host", "any"]),
            ("reg.example.com:5000/team/app", &["port"]),
            ("a.b.example.com/x", &[]),
            ("quay.io/x", &[]),
        ];
        for (image, expected) in table {
            let image: Reference = image.parse().unwrap();
            let found = matching(&image, &["a", "b", "absent", "odd"], &secrets);
            let users: Vec<_> = found.iter().map(|one| one.auth.username.as_str()).collect();
            assert_eq!(users, *expected, "{image}");
        }
    }

    #[test]
    fn old_secrets_and_plain_passwords_are_read() {
        let config = r#"{"reg.test":{"username":"u","password":"p"},"none.test":{}}"#;
        let data = BTreeMap::from([(".dockercfg".to_string(), config.as_bytes().to_vec())]);
        let secrets = BTreeMap::from([("s".to_string(), data)]);
        let find = |image: &str| matching(&image.parse().unwrap(), &["s"], &secrets);
        assert_eq!(find("reg.test/x")[0].auth.password, "p");
        assert!(find("none.test/x").is_empty());
    }
}
