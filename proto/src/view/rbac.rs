//! Roles and bindings (rbac.authorization.k8s.io/v1).

use super::{object, views};
use crate::meta::ObjectMeta;
use crate::selector::LabelSelector;

views! {
    /// A Role, or a ClusterRole.
    pub struct Role {
        pub metadata: ObjectMeta,
        /// ClusterRoles only.
        pub aggregation_rule: Option<AggregationRule>,
        pub rules: Vec<PolicyRule>,
    }

    pub struct AggregationRule {
        pub cluster_role_selectors: Vec<LabelSelector>,
    }

    /// A set of things that are allowed; `*` is anything.
    pub struct PolicyRule {
        pub api_groups: Vec<String>,
        /// With the subresource: `pods/log`, `*/scale`.
        pub resources: Vec<String>,
        #[serde(rename = "nonResourceURLs")]
        pub non_resource_urls: Vec<String>,
        /// Empty: every name.
        pub resource_names: Vec<String>,
        pub verbs: Vec<String>,
    }

    /// A RoleBinding, or a ClusterRoleBinding.
    pub struct Binding {
        pub metadata: ObjectMeta,
        pub role_ref: RoleRef,
        pub subjects: Vec<Subject>,
    }

    pub struct RoleRef {
        pub api_group: String,
        /// `Role` or `ClusterRole`.
        pub kind: String,
        pub name: String,
    }

    pub struct Subject {
        pub api_group: String,
        /// `User`, `Group` or `ServiceAccount`.
        pub kind: String,
        pub name: String,
        pub namespace: String,
    }
}

object!(Role, CLUSTER_ROLE);
object!(Binding, CLUSTER_ROLE_BINDING);
