//! What the components may do, after upstream's bootstrap roles.

use super::{Attributes, What};
use crate::authn;

/// Who a rule speaks of.
enum Subject {
    User(&'static str),
    Group(&'static str),
}

use Subject::{Group, User};

/// Words separated by spaces; `*` is anything. Resources are `group/resource` or
/// `group/resource/subresource`; the core group is empty.
struct Rule {
    subject: Subject,
    verbs: &'static str,
    resources: &'static str,
}

const fn rule(subject: Subject, verbs: &'static str, resources: &'static str) -> Rule {
    Rule { subject, verbs, resources }
}

const SCHEDULER: &str = "system:kube-scheduler";
const CONTROLLER: &str = "system:kube-controller-manager";
/// A service proxy on a machine that is no node.
const PROXY: &str = "system:kube-proxy";
const READ: &str = "get list watch";
const WRITE: &str = "get list watch create update patch delete deletecollection";

static RULES: &[Rule] = &[
    rule(
        User(SCHEDULER),
        READ,
        "/nodes /namespaces /pods /services /replicationcontrollers /persistentvolumes \
         /persistentvolumeclaims apps/replicasets apps/statefulsets policy/poddisruptionbudgets \
         storage.k8s.io/*",
    ),
    rule(User(SCHEDULER), "delete", "/pods"),
    rule(User(SCHEDULER), "create", "/bindings /pods/binding"),
    rule(User(SCHEDULER), "patch update", "/pods/status"),
    rule(User(SCHEDULER), "create patch update", "/events events.k8s.io/events"),
    rule(User(SCHEDULER), "get list watch create update patch", "coordination.k8s.io/leases"),
    rule(
        User(CONTROLLER),
        WRITE,
        "/pods /pods/status /pods/eviction /services /services/status /endpoints \
         /serviceaccounts /configmaps /podtemplates /events /namespaces /nodes /nodes/status \
         apps/* discovery.k8s.io/endpointslices events.k8s.io/events coordination.k8s.io/leases",
    ),
    rule(
        User(CONTROLLER),
        "update patch",
        "/namespaces/finalize /namespaces/status /resourcequotas/status apps/deployments/status \
         apps/deployments/scale apps/replicasets/status apps/replicasets/scale \
         policy/poddisruptionbudgets/status",
    ),
    // The garbage collector and the namespace controller meet every kind.
    rule(User(CONTROLLER), "get list watch patch update delete deletecollection", "*/*"),
    rule(User(PROXY), READ, "/nodes /services discovery.k8s.io/endpointslices"),
    rule(
        Group("system:nodes"),
        READ,
        "/nodes /services /endpoints /pods /namespaces discovery.k8s.io/endpointslices",
    ),
    rule(Group("system:nodes"), "create patch update", "/events events.k8s.io/events"),
];

/// What everyone who is known may read: discovery.
const DISCOVERY: &[&str] = &["/api", "/apis", "/openapi"];
/// What anybody may read.
const PUBLIC: &[&str] = &["/version", "/healthz", "/livez", "/readyz"];
/// What ServiceAccounts may read, to verify each other's tokens.
const ISSUER: &[&str] = &["/.well-known/openid-configuration", "/openid/v1/jwks"];

pub(super) fn allows(attributes: &Attributes) -> bool {
    match attributes.what {
        What::Path(path) => {
            let member = |name: &str| attributes.user.groups.iter().any(|group| group == name);
            let below = |root: &&str| {
                path.strip_prefix(*root)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            matches!(attributes.verb, "get" | "head")
                && (PUBLIC.iter().any(below)
                    || member(authn::AUTHENTICATED) && DISCOVERY.iter().any(below)
                    || member(authn::service_account::GROUP) && ISSUER.contains(&path))
        }
        What::Resource { group, resource, subresource, .. } => RULES.iter().any(|rule| {
            speaks_of(&rule.subject, attributes)
                && rule.verbs.split_whitespace().any(|verb| verb == attributes.verb)
                && rule
                    .resources
                    .split_whitespace()
                    .any(|pattern| matches(pattern, group, resource, subresource))
        }),
    }
}

fn speaks_of(subject: &Subject, attributes: &Attributes) -> bool {
    match subject {
        User(name) => attributes.user.name == *name,
        Group(name) => attributes.user.groups.iter().any(|group| group == name),
    }
}

/// `apps/*` covers resources, not subresources; `*/*` likewise.
fn matches(pattern: &str, group: &str, resource: &str, subresource: &str) -> bool {
    let mut parts = pattern.split('/');
    let mut part = |actual: &str| {
        let part = parts.next().unwrap_or_default();
        part == "*" || part == actual
    };
    part(group) && part(resource) && part(subresource)
}
