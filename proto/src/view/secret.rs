//! Secret.

use std::collections::BTreeMap;

use crate::meta::ObjectMeta;
use crate::view::{object, views};

views! {
    pub struct Secret {
        pub metadata: ObjectMeta,
        /// `Opaque`, `kubernetes.io/dockerconfigjson`, ….
        #[serde(rename = "type")]
        pub kind: String,
        /// Base64.
        pub data: BTreeMap<String, String>,
        pub immutable: bool,
    }
}

object!(Secret, SECRET);
