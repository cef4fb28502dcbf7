//! What a node may do: write its own Node, Lease, CSINode and pods, read what its pods mention,
//! and what the role `system:node` says of everything else (kubernetes.io/docs, "Using Node
//! Authorization"). What a path does not say, the admission plugin NodeRestriction checks.

use proto::user::User;

use super::{Attributes, What, defaults, rule};

/// What the node authorizer must know about the cluster.
pub(super) trait View {
    /// Whether this pod is bound to this node.
    fn on_node(&self, namespace: &str, pod: &str, node: &str) -> bool;
    /// Whether a pod on this node leads to this object.
    fn needs(&self, node: &str, resource: &str, namespace: &str, name: &str) -> bool;
}

/// The node that this user is.
pub(super) fn of(user: &User) -> Option<&str> {
    let node = user.name.strip_prefix("system:node:").filter(|node| !node.is_empty())?;
    user.groups.iter().any(|group| group == "system:nodes").then_some(node)
}

/// `Err` says why there is nothing to allow it by; it may be empty.
pub(super) fn decide(node: &str, attributes: &Attributes, view: &dyn View) -> Result<(), String> {
    let What::Resource { group, resource, subresource, namespace, name } = attributes.what else {
        return by_role(attributes);
    };
    let verb = attributes.verb;
    let related = || {
        let known = view.needs(node, resource, namespace, name);
        says(!name.is_empty(), "No Object name found")?;
        says(known, &unrelated(node))
    };
    match (group, resource) {
        ("", "secrets" | "configmaps") => {
            says(is_read(verb), "can only read resources of this type")?;
            says(subresource.is_empty(), "cannot read subresource")?;
            says(!namespace.is_empty(), "can only read namespaced object of this type")?;
            related()
        }
        ("", "persistentvolumeclaims") if subresource == "status" => {
            // The sentence is upstream's, reading included.
            let fits = matches!(verb, "update" | "patch");
            says(fits, "can only get/update/patch this type")?;
            related()
        }
        ("", "persistentvolumeclaims" | "persistentvolumes")
        | ("storage.k8s.io", "volumeattachments")
        | ("resource.k8s.io", "resourceclaims") => {
            says(verb == "get", "can only get individual resources of this type")?;
            says(subresource.is_empty(), "cannot get subresource")?;
            related()
        }
        ("", "serviceaccounts") if verb == "get" && subresource.is_empty() => related(),
        ("", "serviceaccounts") => {
            let words = "can only create tokens for individual service accounts";
            says(verb == "create" && !name.is_empty(), words)?;
            says(subresource == "token", "can only create token subresource of serviceaccount")?;
            related()
        }
        ("", "nodes") => own_node(node, attributes, subresource, name),
        ("", "pods") => own_pods(node, attributes, view),
        ("coordination.k8s.io", "leases") => {
            let words = "can only get, create, update, patch, or delete a node lease";
            says(is_single(verb), words)?;
            let words = "can only access leases in the \"kube-node-lease\" system namespace";
            says(namespace == "kube-node-lease", words)?;
            let words = "can only access node lease with the same name as the requesting node";
            says(verb == "create" || name == node, words)
        }
        ("storage.k8s.io", "csinodes") => {
            says(is_single(verb), "can only get, create, update, patch, or delete a CSINode")?;
            says(subresource.is_empty(), "cannot authorize CSINode subresources")?;
            let words = "can only access CSINode with the same name as the requesting node";
            says(verb == "create" || name == node, words)
        }
        ("resource.k8s.io", "resourceslices") => {
            says(subresource.is_empty(), "cannot authorize ResourceSlice subresources")?;
            let selected = attributes.fields.and_then(|fields| fields.required("spec.nodeName"));
            match verb {
                "create" => Ok(()),
                "get" | "update" | "patch" | "delete" => related(),
                "list" | "watch" | "deletecollection" if selected == Some(node) => Ok(()),
                "list" | "watch" | "deletecollection" => Err(ONLY_ITS_SLICES.into()),
                _ => Err(SLICE_VERBS.into()),
            }
        }
        _ => by_role(attributes),
    }
}

const ONLY_ITS_SLICES: &str =
    "can only list/watch/deletecollection resourceslices with spec.nodeName field selector";
const SLICE_VERBS: &str = "only the following verbs are allowed for a ResourceSlice: get, watch, \
     list, create, update, patch, delete, deletecollection";

/// Its own Node object; whose it writes, admission checks.
fn own_node(
    node: &str,
    attributes: &Attributes,
    subresource: &str,
    name: &str,
) -> Result<(), String> {
    match (attributes.verb, subresource) {
        ("create" | "update" | "patch", "") | ("update" | "patch", "status") => Ok(()),
        ("get" | "list" | "watch", "") if name == node => Ok(()),
        ("get" | "list" | "watch", "") if name.is_empty() => {
            Err(format!("node '{node}' cannot read all nodes, only its own Node object"))
        }
        ("get" | "list" | "watch", "") => {
            Err(format!("node '{node}' cannot read '{name}', only its own Node object"))
        }
        _ => Err(String::new()),
    }
}

/// Pods that are bound to it; what it writes, admission checks.
fn own_pods(node: &str, attributes: &Attributes, view: &dyn View) -> Result<(), String> {
    let What::Resource { subresource, namespace, name, .. } = attributes.what else {
        return by_role(attributes);
    };
    let selected = attributes.fields.and_then(|fields| fields.required("spec.nodeName"));
    let bound = || says(view.on_node(namespace, name, node), &unrelated(node));
    match (attributes.verb, subresource) {
        ("create" | "delete", "") | ("update" | "patch", "status") | ("create", "eviction") => {
            Ok(())
        }
        ("list" | "watch", "") if selected == Some(node) => Ok(()),
        ("get" | "list" | "watch", "") if !name.is_empty() => bound(),
        ("list" | "watch", "") => {
            Err("can only list/watch pods with spec.nodeName field selector".into())
        }
        _ => Err(String::new()),
    }
}

fn by_role(attributes: &Attributes) -> Result<(), String> {
    let rules = defaults::node_rules();
    let allowed = rules.iter().any(|rule| rule::allows(rule, attributes.verb, attributes.what));
    says(allowed, "")
}

fn says(holds: bool, otherwise: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.to_string()) }
}

fn unrelated(node: &str) -> String {
    format!("no relationship found between node '{node}' and this object")
}

fn is_read(verb: &str) -> bool {
    matches!(verb, "get" | "list" | "watch")
}

fn is_single(verb: &str) -> bool {
    matches!(verb, "get" | "create" | "update" | "patch" | "delete")
}
