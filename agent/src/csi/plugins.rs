//! Which drivers the node has. Each makes a socket in the folder `plugins_registry`; it is asked
//! there who it is, and told whether it was taken. What is known of it goes into the node's
//! CSINode, and into the labels and annotations of its Node.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use client::{Client, Clock, Patch};
use parking_lot::Mutex;
use proto::kind::{CSI_NODE, NODE};
use proto::registration::registration_client::RegistrationClient;
use proto::registration::{InfoRequest, PluginInfo, RegistrationStatus};
use proto::view::csi_node::CsiNode;
use proto::view::node::Node;
use serde_json::{Value, json};

use super::driver::channel;
use super::{CallError, Driver};
use crate::logs::Watcher;

/// After a driver or an API server that did not answer.
const RETRY: Duration = Duration::from_secs(2);
const NODE_ID: &str = "csi.volume.kubernetes.io/nodeid";

/// The drivers, by name. Clones share them.
#[derive(Clone, Default)]
pub struct Plugins(Arc<Mutex<BTreeMap<String, Driver>>>);

/// Looks after the drivers of one node.
pub struct Registration {
    pub plugins: Plugins,
    pub client: Client,
    pub clock: Clock,
    pub node: String,
    /// `<root>/plugins_registry`.
    pub folder: PathBuf,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("ask {0} who it is")]
    Ask(PathBuf, #[source] CallError),
    #[error("tell the API of the driver {0}")]
    Tell(String, #[source] client::Error),
}

impl Plugins {
    pub fn get(&self, name: &str) -> Option<Driver> {
        self.0.lock().get(name).cloned()
    }
}

impl Registration {
    /// Follows the folder for ever.
    pub async fn keep(self) {
        let watch = || -> io::Result<_> {
            std::fs::create_dir_all(&self.folder)?;
            let watcher = Watcher::new()?;
            let changed = watcher.watch(&self.folder)?;
            Ok((watcher, changed))
        };
        let (_watcher, changed) = match watch() {
            Ok(watch) => watch,
            Err(error) => {
                let folder = self.folder.display().to_string();
                tracing::error!(folder, %error, "without this folder there are no storage drivers");
                return std::future::pending().await;
            }
        };
        let mut known: BTreeMap<PathBuf, String> = BTreeMap::new();
        loop {
            let failed = self.look(&mut known).await;
            match failed {
                true => drop(self.clock.timeout(RETRY, changed.notified()).await),
                false => changed.notified().await,
            }
        }
    }

    /// Takes new drivers and forgets those whose socket is gone; true where one is to be tried
    /// again.
    async fn look(&self, known: &mut BTreeMap<PathBuf, String>) -> bool {
        let sockets = sockets(&self.folder);
        let mut failed = false;
        let gone: Vec<PathBuf> =
            known.keys().filter(|socket| !sockets.contains(socket)).cloned().collect();
        for socket in gone {
            let Some(name) = known.remove(&socket) else { continue };
            self.plugins.0.lock().remove(&name);
            if let Err(error) = self.tell(&name, None).await {
                let error = client::error::chain(&error);
                tracing::warn!(driver = name, error, "cannot say that a storage driver is gone");
                failed = true;
            }
        }
        for socket in sockets {
            if known.contains_key(&socket) {
                continue;
            }
            match self.take(&socket).await {
                Ok(Some(name)) => drop(known.insert(socket, name)),
                // It has been told why not: trying again would be no better.
                Ok(None) => drop(known.insert(socket, String::new())),
                Err(error) => {
                    let error = client::error::chain(&error);
                    tracing::warn!(error, "cannot take a plugin");
                    failed = true;
                }
            }
        }
        failed
    }

    /// The driver's name, if it was taken.
    async fn take(&self, socket: &Path) -> Result<Option<String>, Error> {
        let ask = |status| Error::Ask(socket.into(), CallError(status));
        let mut client = RegistrationClient::new(channel(socket));
        let info = client.get_info(InfoRequest {}).await.map_err(ask)?.into_inner();
        let outcome = match refusal(&info) {
            Some(why) => Err(why),
            None => match self.meet(&info, socket).await {
                Ok(()) => Ok(()),
                Err(error @ Error::Tell(..)) => return Err(error),
                Err(error) => Err(client::error::chain(&error)),
            },
        };
        let answer = RegistrationStatus {
            plugin_registered: outcome.is_ok(),
            error: outcome.clone().err().unwrap_or_default(),
        };
        client.notify_registration_status(answer).await.map_err(ask)?;
        match outcome {
            Ok(()) => {
                tracing::info!(driver = info.name, "storage driver taken");
                Ok(Some(info.name))
            }
            Err(error) => {
                tracing::warn!(plugin = info.name, error, "plugin not taken");
                Ok(None)
            }
        }
    }

    async fn meet(&self, info: &PluginInfo, socket: &Path) -> Result<(), Error> {
        let endpoint = match info.endpoint.as_str() {
            "" => socket.to_path_buf(),
            endpoint => PathBuf::from(endpoint.strip_prefix("unix://").unwrap_or(endpoint)),
        };
        let driver = Driver::meet(&info.name, &endpoint).await;
        let driver = driver.map_err(|error| Error::Ask(endpoint, error))?;
        self.tell(&info.name, Some(&driver)).await?;
        self.plugins.0.lock().insert(info.name.clone(), driver);
        Ok(())
    }

    /// Says in the API what the driver is to this node, or that it is gone.
    async fn tell(&self, name: &str, driver: Option<&Driver>) -> Result<(), Error> {
        if name.is_empty() {
            return Ok(());
        }
        let tell = |error| Error::Tell(name.into(), error);
        let node = self.client.get::<Node>("", &self.node).await.map_err(tell)?;
        let patch = Patch::Merge(node_changes(&node, name, driver));
        self.client.patch::<Node>("", &self.node, "", &patch).await.map_err(tell)?;
        match self.client.get::<CsiNode>("", &self.node).await {
            Ok(known) => {
                let drivers = drivers(&known, name, driver);
                let patch = Patch::Merge(json!({
                    "metadata": {"resourceVersion": known.metadata.resource_version},
                    "spec": {"drivers": drivers},
                }));
                self.client.patch::<CsiNode>("", &self.node, "", &patch).await.map_err(tell)?;
            }
            Err(error) if error.is_not_found() => {
                let object = json!({
                    "apiVersion": CSI_NODE.api_version(),
                    "kind": CSI_NODE.kind,
                    "metadata": {"name": self.node, "ownerReferences": [{
                        "apiVersion": NODE.api_version(), "kind": NODE.kind, "name": self.node,
                        "uid": node.metadata.uid,
                    }]},
                    "spec": {"drivers": drivers(&CsiNode::default(), name, driver)},
                });
                self.client.create::<CsiNode>("", &object).await.map_err(tell)?;
            }
            Err(error) => return Err(tell(error)),
        }
        Ok(())
    }
}

fn sockets(folder: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sockets = all.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_socket()));
    sockets.map(|entry| entry.path()).collect()
}

/// Why the plugin cannot be taken, if so.
fn refusal(info: &PluginInfo) -> Option<String> {
    if info.r#type != "CSIPlugin" {
        return Some(format!("plugins of type {:?} are not supported by this node", info.r#type));
    }
    let one = |version: &String| version.trim_start_matches('v').split('.').next() == Some("1");
    let none = !info.supported_versions.iter().any(one);
    none.then(|| format!("none of the versions {:?} is supported: 1 is", info.supported_versions))
}

/// The node's drivers with this one changed.
fn drivers(known: &CsiNode, name: &str, driver: Option<&Driver>) -> Vec<Value> {
    let others = known.spec.drivers.iter().filter(|other| other.name != name);
    let mut drivers: Vec<Value> = others.map(|other| json!(other)).collect();
    drivers.extend(driver.map(|driver| {
        json!({
            "name": name,
            "nodeID": driver.node_id,
            "topologyKeys": driver.topology.keys().collect::<Vec<_>>(),
            "allocatable": driver.most.map(|count| json!({ "count": count })),
        })
    }));
    drivers
}

fn node_changes(node: &Node, name: &str, driver: Option<&Driver>) -> Value {
    let ids = node.metadata.annotations.get(NODE_ID);
    let mut ids: BTreeMap<String, String> =
        ids.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    match driver {
        Some(driver) => drop(ids.insert(name.into(), driver.node_id.clone())),
        None => drop(ids.remove(name)),
    }
    let ids = if ids.is_empty() { Value::Null } else { json!(ids).to_string().into() };
    let mut changes = json!({ "metadata": { "annotations": { NODE_ID: ids } } });
    if let Some(driver) = driver.filter(|driver| !driver.topology.is_empty()) {
        changes["metadata"]["labels"] = json!(driver.topology);
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn which_plugins_are_taken() {
        let info = |kind: &str, versions: &[&str]| PluginInfo {
            r#type: kind.into(),
            name: "d".into(),
            endpoint: String::new(),
            supported_versions: versions.iter().map(|it| it.to_string()).collect(),
        };
        assert_eq!(refusal(&info("CSIPlugin", &["1.0.0"])), None);
        assert_eq!(refusal(&info("CSIPlugin", &["0.3.0", "v1.2"])), None);
        assert!(refusal(&info("CSIPlugin", &["0.3.0"])).unwrap().contains("0.3.0"));
        assert!(refusal(&info("DRAPlugin", &["1.0.0"])).unwrap().contains("DRAPlugin"));
    }

    #[test]
    fn others_are_left_alone() {
        let known = json!({"spec": {"drivers": [{"name": "a", "nodeID": "1"},
            {"name": "b", "nodeID": "2"}]}});
        let known: CsiNode = serde_json::from_value(known).unwrap();
        assert_eq!(drivers(&known, "a", None), [json!({"name": "b", "nodeID": "2"})]);
        let node = json!({"metadata": {"annotations":
            {"csi.volume.kubernetes.io/nodeid": "{\"a\":\"1\",\"b\":\"2\"}"}}});
        let node: Node = serde_json::from_value(node).unwrap();
        let changes = node_changes(&node, "a", None);
        assert_eq!(changes["metadata"]["annotations"][NODE_ID], "{\"b\":\"2\"}");
    }
}
