//! Which storage drivers the node has. What is known of each goes into the node's CSINode, and into the
//! labels and annotations of its Node.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use client::{Client, Patch};
use parking_lot::Mutex;
use proto::kind::{CSI_NODE, NODE};
use proto::registration::PluginInfo;
use proto::view::csi_node::CsiNode;
use proto::view::node::Node;
use serde_json::{Value, json};

use super::Driver;
use crate::plugins::{Error, Handler};

const NODE_ID: &str = "csi.volume.kubernetes.io/nodeid";

/// The drivers, by name. Clones share them.
#[derive(Clone, Default)]
pub struct Plugins(Arc<Mutex<BTreeMap<String, Driver>>>);

/// Looks after the drivers of one node.
pub struct Registration {
    pub plugins: Plugins,
    pub client: Client,
    pub node: String,
}

impl Plugins {
    pub fn get(&self, name: &str) -> Option<Driver> {
        self.0.lock().get(name).cloned()
    }
}

#[async_trait]
impl Handler for Registration {
    fn kind(&self) -> &'static str {
        "CSIPlugin"
    }

    fn refusal(&self, info: &PluginInfo) -> Option<String> {
        refusal(&info.supported_versions)
    }

    async fn take(&self, info: &PluginInfo, endpoint: &Path) -> Result<(), Error> {
        let driver = Driver::meet(&info.name, endpoint).await;
        let driver = driver.map_err(|error| Error::Ask(endpoint.into(), error))?;
        self.tell(&info.name, Some(&driver)).await?;
        self.plugins.0.lock().insert(info.name.clone(), driver);
        Ok(())
    }

    async fn gone(&self, name: &str) -> Result<(), Error> {
        self.plugins.0.lock().remove(name);
        self.tell(name, None).await
    }
}

impl Registration {
    /// Says in the API what the driver is to this node, or that it is gone.
    async fn tell(&self, name: &str, driver: Option<&Driver>) -> Result<(), Error> {
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

fn refusal(versions: &[String]) -> Option<String> {
    let one = |version: &String| version.trim_start_matches('v').split('.').next() == Some("1");
    let none = !versions.iter().any(one);
    none.then(|| format!("none of the versions {versions:?} is supported: 1 is"))
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
    fn which_versions_are_taken() {
        let refusal = |versions: &[&str]| {
            refusal(&versions.iter().map(|it| it.to_string()).collect::<Vec<_>>())
        };
        assert_eq!(refusal(&["1.0.0"]), None);
        assert_eq!(refusal(&["0.3.0", "v1.2"]), None);
        assert!(refusal(&["0.3.0"]).unwrap().contains("0.3.0"));
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
