//! What the subresources speak.

use proto::kind::Row;

/// The kind and the verbs of a subresource.
pub struct Subresource<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub kind: &'a str,
    pub verbs: &'static [&'static str],
}

impl<'a> Subresource<'a> {
    /// Where the table is silent it is the parent's kind, written and read as a whole.
    pub fn of(row: &'a Row, name: &str) -> Subresource<'a> {
        let own = |verbs| Subresource {
            group: &row.group,
            version: &row.version,
            kind: &row.kind,
            verbs,
        };
        let other = |group, version, kind, verbs| Subresource { group, version, kind, verbs };
        match name {
            "scale" => other("autoscaling", "v1", "Scale", &["get", "patch", "update"]),
            "binding" => other("", "v1", "Binding", &["create"]),
            "eviction" => other("policy", "v1", "Eviction", &["create"]),
            "exec" => other("", "v1", "PodExecOptions", &["create", "get"]),
            "attach" => other("", "v1", "PodAttachOptions", &["create", "get"]),
            "portforward" => other("", "v1", "PodPortForwardOptions", &["create", "get"]),
            "proxy" => {
                let kind = match &*row.kind {
                    "Node" => "NodeProxyOptions",
                    "Service" => "ServiceProxyOptions",
                    _ => "PodProxyOptions",
                };
                other("", "v1", kind, &["create", "delete", "get", "patch", "update"])
            }
            "log" => own(&["get"]),
            "finalize" => own(&["update"]),
            "token" => other("authentication.k8s.io", "v1", "TokenRequest", &["create"]),
            _ => own(&["get", "patch", "update"]),
        }
    }
}
