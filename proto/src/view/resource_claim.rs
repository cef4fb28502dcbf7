//! ResourceClaim and DeviceClass.

use crate::meta::ObjectMeta;
use crate::view::{object, views};

views! {
    pub struct ResourceClaim {
        pub metadata: ObjectMeta,
        pub spec: ResourceClaimSpec,
    }

    pub struct ResourceClaimSpec {
        pub devices: DeviceClaim,
    }

    pub struct DeviceClaim {
        pub requests: Vec<DeviceRequest>,
    }

    pub struct DeviceRequest {
        pub exactly: Option<Devices>,
        /// Alternatives, the best first.
        pub first_available: Vec<Devices>,
    }

    /// Devices of one class.
    pub struct Devices {
        pub device_class_name: String,
        /// `ExactCount` or `All`.
        pub allocation_mode: String,
        pub count: i64,
    }

    pub struct DeviceClass {
        pub metadata: ObjectMeta,
        pub spec: DeviceClassSpec,
    }

    pub struct DeviceClassSpec {
        /// By which pods may ask for a device of the class as they ask for memory.
        pub extended_resource_name: String,
    }
}

object!(ResourceClaim, RESOURCE_CLAIM);
object!(DeviceClass, DEVICE_CLASS);

impl ResourceClaim {
    /// The classes of devices that it asks for.
    pub fn classes(&self) -> impl Iterator<Item = &str> {
        let requests = self.spec.devices.requests.iter();
        let devices =
            requests.flat_map(|request| request.exactly.iter().chain(&request.first_available));
        devices.map(|devices| devices.device_class_name.as_str())
    }
}
