//! Node: what it offers, what it repels, how it is.

use crate::meta::ObjectMeta;
use crate::time::Time;
use crate::view::{Condition, Resources, object, views};

views! {
    pub struct Node {
        pub metadata: ObjectMeta,
        pub spec: NodeSpec,
        pub status: NodeStatus,
    }

    pub struct NodeSpec {
        #[serde(rename = "podCIDR")]
        pub pod_cidr: String,
        #[serde(rename = "podCIDRs")]
        pub pod_cidrs: Vec<String>,
        #[serde(rename = "providerID")]
        pub provider_id: String,
        pub unschedulable: bool,
        pub taints: Vec<Taint>,
    }

    pub struct Taint {
        pub key: String,
        pub value: String,
        /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
        pub effect: String,
        pub time_added: Option<Time>,
    }

    pub struct NodeStatus {
        pub capacity: Resources,
        pub allocatable: Resources,
        pub conditions: Vec<Condition>,
        pub addresses: Vec<NodeAddress>,
        pub images: Vec<ContainerImage>,
        pub daemon_endpoints: DaemonEndpoints,
        pub node_info: NodeInfo,
        /// The node's word: these must not be detached yet.
        pub volumes_in_use: Vec<String>,
        pub volumes_attached: Vec<AttachedVolume>,
    }

    pub struct NodeAddress {
        /// `InternalIP`, `ExternalIP`, `Hostname`, ….
        #[serde(rename = "type")]
        pub kind: String,
        pub address: String,
    }

    pub struct ContainerImage {
        pub names: Vec<String>,
        pub size_bytes: i64,
    }

    pub struct DaemonEndpoints {
        pub kubelet_endpoint: DaemonEndpoint,
    }

    pub struct DaemonEndpoint {
        #[serde(rename = "Port")]
        pub port: i32,
    }

    pub struct AttachedVolume {
        pub name: String,
        pub device_path: String,
    }

    pub struct NodeInfo {
        pub kubelet_version: String,
        pub operating_system: String,
        pub architecture: String,
    }
}

object!(Node, NODE);

impl Node {
    pub fn is_ready(&self) -> bool {
        Condition::is_true(&self.status.conditions, "Ready")
    }

    /// The first address of this type.
    pub fn address(&self, kind: &str) -> Option<&str> {
        let found = self.status.addresses.iter().find(|address| address.kind == kind);
        found.map(|address| address.address.as_str())
    }
}
