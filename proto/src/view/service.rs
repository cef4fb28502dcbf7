//! Service.

use crate::meta::{Labels, ObjectMeta};
use crate::view::{Condition, IntOrString, object, views};

views! {
    pub struct Service {
        pub metadata: ObjectMeta,
        pub spec: ServiceSpec,
        pub status: ServiceStatus,
    }

    pub struct ServiceSpec {
        pub ports: Vec<ServicePort>,
        pub selector: Labels,
        /// `None` for headless Services.
        #[serde(rename = "clusterIP")]
        pub cluster_ip: String,
        #[serde(rename = "clusterIPs")]
        pub cluster_ips: Vec<String>,
        /// `ClusterIP`, `NodePort`, `LoadBalancer` or `ExternalName`.
        #[serde(rename = "type")]
        pub kind: String,
        #[serde(rename = "externalIPs")]
        pub external_ips: Vec<String>,
        pub external_name: String,
        /// `Cluster` or `Local`.
        pub external_traffic_policy: String,
        pub internal_traffic_policy: Option<String>,
        pub health_check_node_port: i32,
        /// `None` or `ClientIP`.
        pub session_affinity: String,
        pub session_affinity_config: Option<SessionAffinityConfig>,
        #[serde(rename = "loadBalancerIP")]
        pub load_balancer_ip: String,
        pub load_balancer_class: Option<String>,
        pub allocate_load_balancer_node_ports: Option<bool>,
        pub load_balancer_source_ranges: Vec<String>,
        pub publish_not_ready_addresses: bool,
        pub ip_families: Vec<String>,
        pub ip_family_policy: Option<String>,
        pub traffic_distribution: Option<String>,
    }

    pub struct ServicePort {
        pub name: String,
        pub protocol: String,
        pub app_protocol: Option<String>,
        pub port: i32,
        pub target_port: Option<IntOrString>,
        pub node_port: i32,
    }

    pub struct SessionAffinityConfig {
        #[serde(rename = "clientIP")]
        pub client_ip: ClientIpConfig,
    }

    pub struct ClientIpConfig {
        pub timeout_seconds: Option<i32>,
    }

    pub struct ServiceStatus {
        pub load_balancer: LoadBalancerStatus,
        pub conditions: Vec<Condition>,
    }

    pub struct LoadBalancerStatus {
        pub ingress: Vec<LoadBalancerIngress>,
    }

    pub struct LoadBalancerIngress {
        pub ip: String,
        pub hostname: String,
        /// `VIP` or `Proxy`.
        pub ip_mode: Option<String>,
    }
}

object!(Service, SERVICE);

impl Service {
    pub fn is_headless(&self) -> bool {
        self.spec.cluster_ip == "None"
    }
}
