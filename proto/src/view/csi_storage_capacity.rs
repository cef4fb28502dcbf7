//! CSIStorageCapacity: how much a driver can still make somewhere.

use crate::meta::{Labels, ObjectMeta};
use crate::quantity::Quantity;
use crate::selector::LabelSelector;
use crate::view::{object, views};

views! {
    pub struct CsiStorageCapacity {
        pub metadata: ObjectMeta,
        /// The nodes that reach it; absent: none.
        pub node_topology: Option<LabelSelector>,
        pub storage_class_name: String,
        pub capacity: Option<Quantity>,
        /// Of one volume; absent: as large as the capacity.
        pub maximum_volume_size: Option<Quantity>,
    }
}

object!(CsiStorageCapacity, CSI_STORAGE_CAPACITY);

impl CsiStorageCapacity {
    /// Whether a volume of the class and this size may be made for a node with these labels. What
    /// is not known is not there.
    pub fn holds(&self, class: &str, size: Quantity, labels: &Labels) -> bool {
        let here = |nodes: &LabelSelector| nodes.selector().is_ok_and(|it| it.matches(labels));
        let limit = self.maximum_volume_size.or(self.capacity);
        self.storage_class_name == class
            && limit.is_some_and(|limit| limit >= size)
            && self.node_topology.as_ref().is_some_and(here)
    }
}
