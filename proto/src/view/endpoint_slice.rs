//! EndpointSlice (discovery.k8s.io/v1): whole, because its controller writes it from this.

use crate::meta::{Labels, ObjectMeta};
use crate::view::{ObjectReference, object, views};

/// The label that says to which Service a slice belongs.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// The label that says who keeps a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";

views! {
    pub struct EndpointSlice {
        pub metadata: ObjectMeta,
        /// `IPv4`, `IPv6` or `FQDN`.
        pub address_type: String,
        pub endpoints: Vec<Endpoint>,
        pub ports: Vec<EndpointPort>,
    }

    pub struct Endpoint {
        pub addresses: Vec<String>,
        pub conditions: EndpointConditions,
        pub hostname: Option<String>,
        pub target_ref: Option<ObjectReference>,
        pub deprecated_topology: Labels,
        pub node_name: Option<String>,
        pub zone: Option<String>,
        pub hints: Option<EndpointHints>,
    }

    /// Absent `ready` and `serving` mean true, absent `terminating` false.
    pub struct EndpointConditions {
        pub ready: Option<bool>,
        pub serving: Option<bool>,
        pub terminating: Option<bool>,
    }

    pub struct EndpointHints {
        pub for_zones: Vec<HintName>,
        pub for_nodes: Vec<HintName>,
    }

    pub struct HintName {
        pub name: String,
    }

    pub struct EndpointPort {
        pub name: Option<String>,
        pub protocol: Option<String>,
        pub port: Option<i32>,
        pub app_protocol: Option<String>,
    }
}

object!(EndpointSlice, ENDPOINT_SLICE);

impl EndpointSlice {
    /// The Service it belongs to; empty if to none.
    pub fn service(&self) -> &str {
        self.metadata.labels.get(SERVICE_NAME).map_or("", String::as_str)
    }
}

impl EndpointConditions {
    pub fn is_ready(&self) -> bool {
        self.ready != Some(false)
    }

    pub fn is_serving(&self) -> bool {
        self.serving.unwrap_or(self.is_ready())
    }

    pub fn is_terminating(&self) -> bool {
        self.terminating == Some(true)
    }
}
