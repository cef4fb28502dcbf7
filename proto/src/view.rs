//! Slim views: the fields of each kind that controllers, the scheduler and simulated parts read,
//! and no more. A view never stands for an object that is written back whole: what it does not
//! know would be lost. Missing fields and `null` read as the zero value, as in Go.

pub mod certificate_signing_request;
pub mod config_map;
pub mod controller_revision;
pub mod cron_job;
pub mod csi_driver;
pub mod csi_node;
pub mod csi_storage_capacity;
pub mod daemon_set;
pub mod deployment;
pub mod device;
pub mod endpoint_slice;
pub mod endpoints;
pub mod event;
pub mod horizontal_pod_autoscaler;
pub mod job;
pub mod lease;
pub mod namespace;
pub mod node;
pub mod persistent_volume;
pub mod persistent_volume_claim;
pub mod pod;
pub mod pod_disruption_budget;
pub mod rbac;
pub mod replica_set;
pub mod replication_controller;
pub mod resource_claim;
pub mod resource_quota;
pub mod runtime_class;
pub mod secret;
pub mod service;
pub mod service_account;
pub mod service_cidr;
pub mod stateful_set;
pub mod storage_class;
pub mod validating_admission_policy;
pub mod volume_attachment;

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

use crate::kind::Row;
use crate::meta::ObjectMeta;
use crate::quantity::Quantity;
use crate::time::Time;

/// A view of an object of one kind.
pub trait Object: DeserializeOwned + Send + Sync + 'static {
    /// Where the kind is served.
    fn row() -> &'static Row;
    fn meta(&self) -> &ObjectMeta;
    /// What it is found by beside its name and its owners in a local copy of the kind.
    fn terms(&self) -> Vec<String> {
        Vec::new()
    }
}

/// Declares views: every field optional and null-tolerant, camelCase, zero values not written.
macro_rules! views {
    ($($(#[$doc:meta])* pub struct $name:ident {
        $($(#[$attr:meta])* pub $field:ident: $type:ty,)*
    })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, serde::Deserialize, serde::Serialize)]
        #[serde(rename_all = "camelCase", default)]
        pub struct $name {
            $($(#[$attr])*
            #[serde(
                deserialize_with = "crate::meta::or_default",
                skip_serializing_if = "crate::view::is_zero"
            )]
            pub $field: $type,)*
        }
    )*};
}

/// Says of which kind a view is, and by which terms it is found.
macro_rules! object {
    ($view:ty, $row:ident $(, $terms:path)?) => {
        impl crate::view::Object for $view {
            fn row() -> &'static crate::kind::Row {
                &crate::kind::$row
            }
            fn meta(&self) -> &crate::meta::ObjectMeta {
                &self.metadata
            }
            $(fn terms(&self) -> Vec<String> {
                $terms(self)
            })?
        }
    };
}

pub(crate) use {object, views};

pub(crate) fn is_zero<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Amounts by resource name (`cpu`, `memory`, `example.com/gpu`).
pub type Resources = BTreeMap<String, Quantity>;

views! {
    /// The part every kind has; what the garbage collector sees of an object.
    pub struct Meta {
        pub api_version: String,
        pub kind: String,
        pub metadata: ObjectMeta,
    }

    /// A condition of any kind.
    pub struct Condition {
        #[serde(rename = "type")]
        pub kind: String,
        /// `True`, `False` or `Unknown`.
        pub status: String,
        pub reason: String,
        pub message: String,
        pub observed_generation: i64,
        pub last_transition_time: Option<Time>,
        /// Deployments only.
        pub last_update_time: Option<Time>,
        /// Nodes only.
        pub last_heartbeat_time: Option<Time>,
        /// Pods and Jobs only.
        pub last_probe_time: Option<Time>,
    }

    /// A reference to an object (core/v1 ObjectReference).
    pub struct ObjectReference {
        pub api_version: String,
        pub kind: String,
        pub namespace: String,
        pub name: String,
        pub uid: String,
        pub resource_version: String,
        pub field_path: String,
    }

    /// The metadata of a pod template; the rest is read from the object's bytes where it matters.
    pub struct Template {
        pub metadata: ObjectMeta,
    }
}

object!(Meta, PARTIAL_METADATA);

impl ObjectReference {
    /// To the object of this kind with this metadata.
    pub fn of(row: &crate::kind::Row, meta: &ObjectMeta) -> ObjectReference {
        ObjectReference {
            api_version: row.api_version(),
            kind: row.kind.to_string(),
            namespace: meta.namespace.clone(),
            name: meta.name.clone(),
            uid: meta.uid.clone(),
            resource_version: meta.resource_version.clone(),
            field_path: String::new(),
        }
    }
}

impl Condition {
    /// The condition of this type, if the list has it.
    pub fn find<'a>(list: &'a [Condition], kind: &str) -> Option<&'a Condition> {
        list.iter().find(|condition| condition.kind == kind)
    }

    pub fn is_true(list: &[Condition], kind: &str) -> bool {
        Condition::find(list, kind).is_some_and(|condition| condition.status == "True")
    }
}

/// A number or a text that keeps its type: ports and percentages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IntOrString {
    Int(i64),
    Text(String),
}

impl IntOrString {
    /// A number as it is, a percentage of `total` rounded up or down. `None` for other texts.
    pub fn scaled(&self, total: i64, round_up: bool) -> Option<i64> {
        match self {
            IntOrString::Int(number) => Some(*number),
            IntOrString::Text(text) => {
                let percent: i64 = text.strip_suffix('%')?.parse().ok()?;
                let product = percent * total;
                Some(if round_up { (product + 99).div_euclid(100) } else { product / 100 })
            }
        }
    }
}

impl Default for IntOrString {
    fn default() -> IntOrString {
        IntOrString::Int(0)
    }
}

impl Serialize for IntOrString {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            IntOrString::Int(number) => serializer.serialize_i64(*number),
            IntOrString::Text(text) => serializer.serialize_str(text),
        }
    }
}

impl<'de> Deserialize<'de> for IntOrString {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<IntOrString, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Written {
            Int(i64),
            Text(String),
        }
        Ok(match Written::deserialize(deserializer)? {
            Written::Int(number) => IntOrString::Int(number),
            Written::Text(text) => IntOrString::Text(text),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_asked() {
        let quarter = IntOrString::Text("25%".into());
        assert_eq!((quarter.scaled(10, true), quarter.scaled(10, false)), (Some(3), Some(2)));
        assert_eq!(IntOrString::Int(4).scaled(10, true), Some(4));
        assert_eq!(IntOrString::Text("web".into()).scaled(10, true), None);
    }

    #[test]
    fn null_reads_as_zero() {
        let text = r#"{"metadata":{"name":"p","labels":null,"creationTimestamp":null},
            "spec":{"nodeName":null,"containers":null},"status":null}"#;
        let pod: pod::Pod = serde_json::from_str(text).unwrap();
        assert_eq!(pod.metadata.name, "p");
        assert_eq!(serde_json::to_string(&pod).unwrap(), r#"{"metadata":{"name":"p"}}"#);
    }
}
