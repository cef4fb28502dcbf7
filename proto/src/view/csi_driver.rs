//! CSIDriver: how the cluster is to treat a driver's volumes.

use crate::meta::ObjectMeta;
use crate::view::{object, views};

views! {
    pub struct CsiDriver {
        pub metadata: ObjectMeta,
        pub spec: CsiDriverSpec,
    }

    pub struct CsiDriverSpec {
        /// Absent: true.
        pub attach_required: Option<bool>,
        pub pod_info_on_mount: bool,
        /// `ReadWriteOnceWithFSType` (or empty), `File` or `None`.
        pub fs_group_policy: String,
        /// `Persistent` (or empty) and `Ephemeral`.
        pub volume_lifecycle_modes: Vec<String>,
        /// Whether the scheduler is to look at the driver's CSIStorageCapacities.
        pub storage_capacity: bool,
        pub token_requests: Vec<TokenRequest>,
        pub requires_republish: bool,
        pub service_account_token_in_secrets: bool,
    }

    pub struct TokenRequest {
        /// Empty: the API server.
        pub audience: String,
        pub expiration_seconds: Option<i64>,
    }
}

object!(CsiDriver, CSI_DRIVER);

impl CsiDriver {
    pub fn is_attached(&self) -> bool {
        self.spec.attach_required.unwrap_or(true)
    }

    /// Whether the driver has volumes of this lifecycle.
    pub fn knows(&self, lifecycle: &str) -> bool {
        let modes = &self.spec.volume_lifecycle_modes;
        modes.iter().any(|mode| mode == lifecycle) || modes.is_empty() && lifecycle == "Persistent"
    }
}
