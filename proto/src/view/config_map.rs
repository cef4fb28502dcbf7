//! ConfigMap.

use std::collections::BTreeMap;

use crate::meta::ObjectMeta;
use crate::view::{object, views};

views! {
    pub struct ConfigMap {
        pub metadata: ObjectMeta,
        pub data: BTreeMap<String, String>,
        /// Base64.
        pub binary_data: BTreeMap<String, String>,
        pub immutable: bool,
    }
}

object!(ConfigMap, CONFIG_MAP);
