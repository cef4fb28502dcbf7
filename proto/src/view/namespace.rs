//! Namespace.

use crate::meta::ObjectMeta;
use crate::view::{Condition, object, views};

views! {
    pub struct Namespace {
        pub metadata: ObjectMeta,
        pub spec: NamespaceSpec,
        pub status: NamespaceStatus,
    }

    pub struct NamespaceSpec {
        pub finalizers: Vec<String>,
    }

    pub struct NamespaceStatus {
        /// `Active` or `Terminating`.
        pub phase: String,
        pub conditions: Vec<Condition>,
    }
}

object!(Namespace, NAMESPACE);
