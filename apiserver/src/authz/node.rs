//! What a node may do beyond reading what every node must know: write its own Node, Lease and
//! pods, and read the secrets and config maps that its pods mention (upstream's node authorizer
//! and NodeRestriction).

use super::{Attributes, What};

/// What the node authorizer must know about the cluster.
pub trait NodeView {
    /// Whether this pod is bound to this node.
    fn on_node(&self, namespace: &str, pod: &str, node: &str) -> bool;
    /// Whether a pod on this node mentions this object (`resource` is `secrets`, `configmaps` or
    /// `serviceaccounts`).
    fn needs(&self, node: &str, resource: &str, namespace: &str, name: &str) -> bool;
}

pub(super) fn allows(attributes: &Attributes, view: &dyn NodeView) -> bool {
    let Some(node) = attributes.user.name.strip_prefix("system:node:") else { return false };
    let What::Resource { group, resource, subresource, namespace, name } = attributes.what else {
        return false;
    };
    let verb = attributes.verb;
    match (group, resource, subresource) {
        ("", "nodes", "") if verb == "create" => true, // its name is checked at admission
        ("", "nodes", "" | "status") => {
            name == node && matches!(verb, "get" | "update" | "patch" | "delete")
        }
        ("coordination.k8s.io", "leases", "") => {
            let own = name == node || (verb == "create" && name.is_empty());
            namespace == "kube-node-lease"
                && own
                && matches!(verb, "get" | "create" | "update" | "patch" | "delete")
        }
        ("", "pods", "") => verb == "delete" && view.on_node(namespace, name, node),
        ("", "pods", "status") => {
            matches!(verb, "get" | "update" | "patch") && view.on_node(namespace, name, node)
        }
        ("", "serviceaccounts", "token") => {
            verb == "create" && view.needs(node, "serviceaccounts", namespace, name)
        }
        ("", "secrets" | "configmaps" | "serviceaccounts", "") => {
            matches!(verb, "get" | "list" | "watch")
                && !name.is_empty()
                && view.needs(node, resource, namespace, name)
        }
        _ => false,
    }
}
