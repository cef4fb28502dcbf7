//! ResourceSlice: the devices that drivers offer, and their taints.

use crate::meta::ObjectMeta;
use crate::quantity::Quantity;
use crate::time::Time;
use crate::view::pod::NodeSelector;
use crate::view::resource_claim::Named;
use crate::view::{object, views};

views! {
    pub struct ResourceSlice {
        pub metadata: ObjectMeta,
        pub spec: ResourceSliceSpec,
    }

    pub struct ResourceSliceSpec {
        pub driver: String,
        pub pool: Pool,
        pub node_name: Option<String>,
        pub node_selector: Option<NodeSelector>,
        pub all_nodes: Option<bool>,
        pub devices: Vec<Device>,
        /// Each device says where it is.
        pub per_device_node_selection: Option<bool>,
        pub shared_counters: Vec<CounterSet>,
    }

    pub struct Pool {
        pub name: String,
        /// Of several only the newest counts.
        pub generation: i64,
        pub resource_slice_count: i64,
    }

    pub struct CounterSet {
        pub name: String,
        pub counters: Named<Counter>,
    }

    pub struct Counter {
        pub value: Quantity,
    }

    pub struct Device {
        pub name: String,
        pub attributes: Named<Attribute>,
        pub capacity: Named<Capacity>,
        pub consumes_counters: Vec<Consumption>,
        pub node_name: Option<String>,
        pub node_selector: Option<NodeSelector>,
        pub all_nodes: Option<bool>,
        pub taints: Vec<DeviceTaint>,
        /// Who has it is bound to the node for which it was given.
        pub binds_to_node: Option<bool>,
        pub binding_conditions: Vec<String>,
        pub binding_failure_conditions: Vec<String>,
        pub allow_multiple_allocations: Option<bool>,
    }

    /// One of them is set.
    pub struct Attribute {
        pub int: Option<i64>,
        pub bool: Option<bool>,
        pub string: Option<String>,
        /// A semantic version.
        pub version: Option<String>,
    }

    pub struct Capacity {
        pub value: Quantity,
        pub request_policy: Option<RequestPolicy>,
    }

    /// In which portions a capacity is given away.
    pub struct RequestPolicy {
        pub default: Option<Quantity>,
        pub valid_values: Vec<Quantity>,
        pub valid_range: Option<Range>,
    }

    pub struct Range {
        pub min: Option<Quantity>,
        pub max: Option<Quantity>,
        pub step: Option<Quantity>,
    }

    pub struct Consumption {
        pub counter_set: String,
        pub counters: Named<Counter>,
    }

    pub struct DeviceTaint {
        pub key: String,
        pub value: String,
        /// `None`, `NoSchedule` or `NoExecute`.
        pub effect: String,
        pub time_added: Option<Time>,
    }

    pub struct Toleration {
        /// Empty with `Exists`: every key.
        pub key: String,
        /// `Equal` (or empty) or `Exists`.
        pub operator: String,
        pub value: String,
        /// Empty: every effect.
        pub effect: String,
        pub toleration_seconds: Option<i64>,
    }
}

object!(ResourceSlice, RESOURCE_SLICE);

impl Toleration {
    pub fn tolerates(&self, taint: &DeviceTaint) -> bool {
        let effect = self.effect.is_empty() || self.effect == taint.effect;
        let key = self.key.is_empty() || self.key == taint.key;
        let value = match self.operator.as_str() {
            "Exists" => true,
            "" | "Equal" => self.value == taint.value,
            _ => false,
        };
        effect && key && value && (!self.key.is_empty() || self.operator == "Exists")
    }
}
