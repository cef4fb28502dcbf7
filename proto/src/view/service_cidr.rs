//! ServiceCIDRs and IPAddresses (networking.k8s.io/v1).

use super::{Condition, object, views};
use crate::meta::ObjectMeta;

/// The label that says who keeps an IPAddress.
pub const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
/// The one that gives Services their addresses.
pub const ALLOCATOR: &str = "ipallocator.k8s.io";

views! {
    pub struct ServiceCidr {
        pub metadata: ObjectMeta,
        pub spec: ServiceCidrSpec,
        pub status: ServiceCidrStatus,
    }

    pub struct ServiceCidrSpec {
        /// One of each family at most.
        pub cidrs: Vec<String>,
    }

    pub struct ServiceCidrStatus {
        pub conditions: Vec<Condition>,
    }

    /// An address that is taken; its name is the address.
    pub struct IpAddress {
        pub metadata: ObjectMeta,
    }
}

object!(ServiceCidr, SERVICE_CIDR);
object!(IpAddress, IP_ADDRESS);
