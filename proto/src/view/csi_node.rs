//! CSINode: the drivers that a node has.

use crate::meta::ObjectMeta;
use crate::view::{object, views};

views! {
    pub struct CsiNode {
        pub metadata: ObjectMeta,
        pub spec: CsiNodeSpec,
    }

    pub struct CsiNodeSpec {
        pub drivers: Vec<CsiNodeDriver>,
    }

    pub struct CsiNodeDriver {
        pub name: String,
        #[serde(rename = "nodeID")]
        pub node_id: String,
        pub topology_keys: Vec<String>,
        pub allocatable: Option<VolumeNodeResources>,
    }

    pub struct VolumeNodeResources {
        /// How many volumes of the driver the node can have; absent: any number.
        pub count: Option<i32>,
    }
}

object!(CsiNode, CSI_NODE);
