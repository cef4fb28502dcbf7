//! The folders of this node's disk that are volumes of [`HOST_PATH`]. The node says in an
//! annotation of its Node where they are; another asks it to remove one, and the answer to that is
//! given there, too. A folder is removed only by its name below the one that holds them all.

use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::{Client, Clock, Entry, Informer, Patch};
use proto::view::node::Node;
use proto::volume::{DONE, HOST_PATH_DISCARD, HOST_PATH_FOLDER, WANTED};
use serde_json::{Value, json};

use super::machine::{blocking, make as make_folder};
use super::{SetUpError, mounts};
use crate::config::NodeConfig;

/// After an API server that did not take the answer, or a folder that could not be removed.
const RETRY: Duration = Duration::from_secs(5);

/// What all folders are in.
pub fn root(config: &NodeConfig) -> PathBuf {
    config.root.join("host-path")
}

/// Whether `path` is one of the folders, by its name.
pub fn holds(config: &NodeConfig, path: &Path) -> bool {
    let name = path.strip_prefix(root(config)).ok();
    let mut parts = name.into_iter().flat_map(Path::components);
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None))
}

/// Makes a folder that everybody may write into, if it is not there.
pub fn make(path: &Path) -> Result<(), SetUpError> {
    match path.is_dir() {
        true => Ok(()),
        false => make_folder(path, 0o777),
    }
}

/// Tells of the folders and removes those that are to go, for ever.
pub async fn keep(client: Client, clock: Clock, config: &NodeConfig, own: Informer<Node>) {
    own.synced().await;
    let mut changes = own.changes();
    loop {
        let node = own.snapshot().values().next().cloned();
        let mut answer = node.as_ref().map_or(Value::Null, |node| tell(node, config));
        let mut failed = false;
        if let Some(node) = &node {
            for name in wanted(node) {
                match blocking(|| remove(config, name)) {
                    Ok(()) => answer[format!("{HOST_PATH_DISCARD}{name}")] = DONE.into(),
                    Err(error) => {
                        tracing::warn!(volume = name, %error, "cannot remove a volume's folder");
                        failed = true;
                    }
                }
            }
        }
        if let Some(node) = node.filter(|_| !answer.is_null()) {
            failed |= say(&client, &node, answer).await.is_err();
        }
        let next = changes.next();
        match failed {
            true => drop(clock.timeout(RETRY, next).await),
            false => drop(next.await),
        }
    }
}

async fn say(client: &Client, node: &Arc<Entry<Node>>, answer: Value) -> Result<(), ()> {
    let name = &node.metadata.name;
    let patch = Patch::Merge(json!({ "metadata": { "annotations": answer } }));
    match client.patch::<Node>("", name, "", &patch).await {
        Ok(_) => Ok(()),
        Err(error) => {
            tracing::warn!(node = name, %error, "cannot tell of the folders for volumes");
            Err(())
        }
    }
}

/// The annotation, unless the node has it.
fn tell(node: &Node, config: &NodeConfig) -> Value {
    let folder = root(config).to_string_lossy().into_owned();
    match node.metadata.annotations.get(HOST_PATH_FOLDER) {
        Some(known) if *known == folder => Value::Null,
        _ => json!({ HOST_PATH_FOLDER: folder }),
    }
}

fn wanted(node: &Node) -> impl Iterator<Item = &str> {
    let all = node.metadata.annotations.iter().filter(|(_, said)| *said == WANTED);
    all.filter_map(|(key, _)| key.strip_prefix(HOST_PATH_DISCARD))
}

fn remove(config: &NodeConfig, name: &str) -> std::io::Result<()> {
    let path = root(config).join(name);
    match holds(config, &path) {
        true => mounts::remove(&path),
        // No name of a folder: there is nothing to remove.
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_right_below() {
        let config = NodeConfig { root: "/r".into(), ..NodeConfig::default() };
        for (path, expected) in [
            ("/r/host-path/pvc-1", true),
            ("/r/host-path", false),
            ("/r/host-path/a/b", false),
            ("/r/host-path/..", false),
            ("/r/host-path/../x", false),
            ("/r/other/pvc-1", false),
            ("/etc", false),
        ] {
            assert_eq!(holds(&config, Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn folders_go_when_asked() {
        let dir = tempfile::tempdir().unwrap();
        let config = NodeConfig { root: dir.path().into(), ..NodeConfig::default() };
        let path = root(&config).join("pvc-1");
        make(&path).unwrap();
        std::fs::write(path.join("f"), "x").unwrap();
        let node = json!({"metadata": {"name": "n", "annotations": {
            "discard.host-path.coracle.dev/pvc-1": "wanted",
            "discard.host-path.coracle.dev/pvc-2": "done"}}});
        let node: Node = serde_json::from_value(node).unwrap();
        assert_eq!(wanted(&node).collect::<Vec<_>>(), ["pvc-1"]);
        remove(&config, "pvc-1").unwrap();
        remove(&config, "pvc-1").unwrap();
        assert!(!path.exists() && root(&config).exists());
        assert!(remove(&config, "..").is_ok() && dir.path().exists());
    }
}
