//! Endpoints (core/v1): whole, because its controller writes it from this.

use crate::meta::ObjectMeta;
use crate::view::{ObjectReference, object, views};

views! {
    pub struct Endpoints {
        pub metadata: ObjectMeta,
        pub subsets: Vec<EndpointSubset>,
    }

    pub struct EndpointSubset {
        pub addresses: Vec<EndpointAddress>,
        pub not_ready_addresses: Vec<EndpointAddress>,
        pub ports: Vec<EndpointPort>,
    }

    pub struct EndpointAddress {
        pub ip: String,
        pub hostname: String,
        pub node_name: Option<String>,
        pub target_ref: Option<ObjectReference>,
    }

    pub struct EndpointPort {
        pub name: String,
        pub port: i32,
        pub protocol: String,
        pub app_protocol: Option<String>,
    }
}

object!(Endpoints, ENDPOINTS);
