//! One driver: its socket, and what it says it can do.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use proto::csi::node_client::NodeClient;
use proto::csi::node_service_capability::{Type, rpc};
use proto::csi::{NodeGetCapabilitiesRequest, NodeGetInfoRequest};
use tonic::transport::Channel;

use crate::plugins::{CallError, channel};

/// A driver that is known to the node.
#[derive(Clone, Debug, PartialEq)]
pub struct Driver {
    pub name: String,
    pub socket: PathBuf,
    pub node_id: String,
    /// How many of its volumes the node can have; `None`: any number.
    pub most: Option<i32>,
    pub topology: BTreeMap<String, String>,
    pub capabilities: BTreeSet<i32>,
}

impl Driver {
    /// Asks the driver at `socket` what it is to this node.
    pub async fn meet(name: &str, socket: &Path) -> Result<Driver, CallError> {
        let mut client = client(socket);
        let info = client.node_get_info(NodeGetInfoRequest {}).await.map_err(CallError)?;
        let info = info.into_inner();
        let can = client.node_get_capabilities(NodeGetCapabilitiesRequest {}).await;
        let can = can.map_err(CallError)?.into_inner().capabilities;
        let can = can.into_iter().filter_map(|one| one.r#type);
        Ok(Driver {
            name: name.into(),
            socket: socket.into(),
            node_id: info.node_id,
            most: i32::try_from(info.max_volumes_per_node).ok().filter(|most| *most > 0),
            topology: info
                .accessible_topology
                .map(|topology| topology.segments.into_iter().collect())
                .unwrap_or_default(),
            capabilities: can.map(|Type::Rpc(one)| one.r#type).collect(),
        })
    }

    pub fn can(&self, what: rpc::Type) -> bool {
        self.capabilities.contains(&(what as i32))
    }

    pub fn node(&self) -> NodeClient<Channel> {
        client(&self.socket)
    }
}

fn client(socket: &Path) -> NodeClient<Channel> {
    NodeClient::new(channel(socket))
}
