//! Who may do what. A chain of authorizers is asked in order and the first that allows decides;
//! the edge calls it once per request, before the body is read. Roles in the API are a link of
//! this chain that is not there yet: until then a table speaks for the components.

use proto::user::User;

mod node;
mod table;

pub use node::NodeView;

/// One question.
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    pub user: &'a User,
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for other
    /// paths the method in lower case.
    pub verb: &'a str,
    pub what: What<'a>,
}

#[derive(Clone, Copy, Debug)]
pub enum What<'a> {
    /// Empty parts are absent; an empty namespace means all of them, or a cluster-scoped kind.
    Resource {
        group: &'a str,
        resource: &'a str,
        subresource: &'a str,
        namespace: &'a str,
        name: &'a str,
    },
    Path(&'a str),
}

/// The group that may do everything.
const MASTERS: &str = "system:masters";

/// Whether it is allowed; where not, the sentence that follows `is forbidden: `.
pub fn authorize(attributes: &Attributes, nodes: &dyn NodeView) -> Result<(), String> {
    let user = attributes.user;
    let in_group = |name: &str| user.groups.iter().any(|group| group == name);
    let allowed = in_group(MASTERS)
        || table::allows(attributes)
        || (in_group("system:nodes") && node::allows(attributes, nodes));
    if allowed { Ok(()) } else { Err(refusal(attributes)) }
}

/// `User "x" cannot list resource "pods" in API group "" in the namespace "default"`.
fn refusal(attributes: &Attributes) -> String {
    let Attributes { user, verb, what } = attributes;
    let name = &user.name;
    match what {
        What::Path(path) => format!("User {name:?} cannot {verb} path {path:?}"),
        What::Resource { group, resource, subresource, namespace, .. } => {
            let slash = if subresource.is_empty() { "" } else { "/" };
            let scope = match *namespace {
                "" => "at the cluster scope".to_string(),
                namespace => format!("in the namespace {namespace:?}"),
            };
            format!(
                "User {name:?} cannot {verb} resource \"{resource}{slash}{subresource}\" in API \
                 group {group:?} {scope}"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct NoPods;
    impl NodeView for NoPods {
        fn on_node(&self, namespace: &str, pod: &str, node: &str) -> bool {
            (namespace, pod, node) == ("default", "mine", "n1")
        }
        fn needs(&self, node: &str, resource: &str, namespace: &str, name: &str) -> bool {
            (node, resource, namespace, name) == ("n1", "secrets", "default", "used")
        }
    }

    fn ask(user: &User, verb: &str, path: &str) -> Result<(), String> {
        use crate::http::target::Target;
        let target = Target::parse(path);
        let what = match &target {
            Target::Resource(path) => What::Resource {
                group: &path.group,
                resource: &path.resource,
                subresource: &path.subresource,
                namespace: &path.namespace,
                name: &path.name,
            },
            _ => What::Path(path),
        };
        authorize(&Attributes { user, verb, what }, &NoPods)
    }

    #[test]
    fn who_may_do_what() {
        let admin = User::new("a", &["system:masters"]);
        let alice = User::new("alice", &["system:authenticated"]);
        let scheduler = User::new("system:kube-scheduler", &["system:authenticated"]);
        let controller = User::new("system:kube-controller-manager", &["system:authenticated"]);
        let node = User::new("system:node:n1", &["system:nodes", "system:authenticated"]);
        let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
        let cases = [
            (&admin, "delete", "/api/v1/nodes/n1", true),
            (&alice, "get", "/version", true),
            (&alice, "get", "/apis/apps/v1", true),
            (&alice, "list", "/api/v1/pods", false),
            (&scheduler, "watch", "/api/v1/pods", true),
            (&scheduler, "create", "/api/v1/namespaces/a/pods/p/binding", true),
            (&scheduler, "delete", "/api/v1/nodes/n1", false),
            (&scheduler, "get", "/api/v1/namespaces/a/secrets/s", false),
            (&controller, "create", "/api/v1/namespaces/a/pods", true),
            (&controller, "patch", "/apis/apps/v1/namespaces/a/deployments/d/status", true),
            (&node, "update", "/api/v1/nodes/n1/status", true),
            (&node, "update", "/api/v1/nodes/n2/status", false),
            (&node, "watch", "/api/v1/services", true),
            (&node, "patch", "/api/v1/namespaces/default/pods/mine/status", true),
            (&node, "patch", "/api/v1/namespaces/default/pods/other/status", false),
            (&node, "update", &format!("{leases}/n1"), true),
            (&node, "update", &format!("{leases}/n2"), false),
            (&node, "get", "/api/v1/namespaces/default/secrets/used", true),
            (&node, "get", "/api/v1/namespaces/default/secrets/other", false),
            (&node, "list", "/api/v1/secrets", false),
        ];
        for (user, verb, path, expected) in cases {
            assert_eq!(ask(user, verb, path).is_ok(), expected, "{} {verb} {path}", user.name);
        }
    }

    #[test]
    fn the_words_of_kubernetes() {
        let user = User::new("x", &[]);
        assert_eq!(
            ask(&user, "list", "/api/v1/namespaces/default/pods").unwrap_err(),
            "User \"x\" cannot list resource \"pods\" in API group \"\" in the namespace \
             \"default\""
        );
        assert_eq!(
            ask(&user, "get", "/api/v1/nodes/n/status").unwrap_err(),
            "User \"x\" cannot get resource \"nodes/status\" in API group \"\" at the cluster scope"
        );
        assert_eq!(
            ask(&user, "get", "/metrics").unwrap_err(),
            "User \"x\" cannot get path \"/metrics\""
        );
    }
}
