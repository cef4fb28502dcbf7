//! The kind table: what each built-in kind is called, where it is served and stored. Routes,
//! discovery, OpenAPI, CLI names and client paths derive from a row. Custom resources make the
//! same row at run time, hence the `Cow`s.

use std::borrow::Cow;

type Str = Cow<'static, str>;
type Strs = Cow<'static, [Str]>;

/// One kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Empty for the core group.
    pub group: Str,
    pub version: Str,
    pub kind: Str,
    /// Plural, lower case: `deployments`.
    pub resource: Str,
    pub singular: Str,
    pub namespaced: bool,
    pub short_names: Strs,
    pub categories: Strs,
    /// Without the parent: `status`, `scale`.
    pub subresources: Strs,
    /// Of the resource itself; `STANDARD` unless the kind is special.
    pub verbs: Strs,
    /// The folder of the store's key, as upstream's: `/registry/<storage>/<namespace>/<name>`.
    pub storage: Str,
}

impl Row {
    /// `apps/v1`, or `v1`.
    pub fn api_version(&self) -> String {
        match &*self.group {
            "" => self.version.to_string(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// `deployments.apps`, or `pods`.
    pub fn qualified(&self) -> String {
        crate::status::qualified(&self.group, &self.resource)
    }

    /// `DeploymentList`.
    pub fn list_kind(&self) -> String {
        format!("{}List", self.kind)
    }

    /// The URL of one object, or of the collection when `name` is empty. `namespace` is empty for
    /// all namespaces and for cluster-scoped kinds.
    pub fn path(&self, namespace: &str, name: &str) -> String {
        let mut path = match &*self.group {
            "" => format!("/api/{}", self.version),
            group => format!("/apis/{group}/{}", self.version),
        };
        if self.namespaced && !namespace.is_empty() {
            path += "/namespaces/";
            path += namespace;
        }
        path += "/";
        path += &self.resource;
        if !name.is_empty() {
            path += "/";
            path += name;
        }
        path
    }

    /// The store's key of one object; with an empty name the prefix of the namespace, with both
    /// empty the prefix of the kind. Prefixes end in a slash.
    pub fn key(&self, namespace: &str, name: &str) -> String {
        let mut key = format!("/registry/{}/", self.storage);
        if self.namespaced && !namespace.is_empty() {
            key += namespace;
            key += "/";
        }
        key += name;
        key
    }

    pub fn has_subresource(&self, name: &str) -> bool {
        self.subresources.iter().any(|subresource| subresource == name)
    }
}

const fn s(text: &'static str) -> Str {
    Cow::Borrowed(text)
}

/// The verbs of an ordinary resource.
pub const STANDARD: &[Str] = &[
    s("create"),
    s("delete"),
    s("deletecollection"),
    s("get"),
    s("list"),
    s("patch"),
    s("update"),
    s("watch"),
];

const NO_DELETECOLLECTION: &[Str] =
    &[s("create"), s("delete"), s("get"), s("list"), s("patch"), s("update"), s("watch")];

/// A row with what nearly every row has; tables name only what differs.
const fn row(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    resource: &'static str,
    singular: &'static str,
) -> Row {
    Row {
        group: s(group),
        version: s(version),
        kind: s(kind),
        resource: s(resource),
        singular: s(singular),
        namespaced: true,
        short_names: Cow::Borrowed(&[]),
        categories: Cow::Borrowed(&[]),
        subresources: Cow::Borrowed(&[]),
        verbs: Cow::Borrowed(STANDARD),
        storage: s(resource),
    }
}

macro_rules! strs {
    ($($text:literal),*) => { Cow::Borrowed(&[$(s($text)),*]) };
}

pub static NAMESPACE: Row = Row {
    namespaced: false,
    short_names: strs!["ns"],
    subresources: strs!["finalize", "status"],
    verbs: Cow::Borrowed(NO_DELETECOLLECTION),
    ..row("", "v1", "Namespace", "namespaces", "namespace")
};
pub static NODE: Row = Row {
    namespaced: false,
    short_names: strs!["no"],
    subresources: strs!["status"],
    storage: s("minions"),
    ..row("", "v1", "Node", "nodes", "node")
};
pub static POD: Row = Row {
    short_names: strs!["po"],
    categories: strs!["all"],
    subresources: strs!["binding", "eviction", "exec", "log", "status"],
    ..row("", "v1", "Pod", "pods", "pod")
};
pub static SERVICE: Row = Row {
    short_names: strs!["svc"],
    categories: strs!["all"],
    subresources: strs!["status"],
    storage: s("services/specs"),
    ..row("", "v1", "Service", "services", "service")
};
pub static CONFIG_MAP: Row =
    Row { short_names: strs!["cm"], ..row("", "v1", "ConfigMap", "configmaps", "configmap") };
pub static SECRET: Row = row("", "v1", "Secret", "secrets", "secret");
pub static SERVICE_ACCOUNT: Row = Row {
    short_names: strs!["sa"],
    ..row("", "v1", "ServiceAccount", "serviceaccounts", "serviceaccount")
};
pub static EVENT: Row =
    Row { short_names: strs!["ev"], ..row("", "v1", "Event", "events", "event") };
/// The same storage as [`EVENT`], with other field names.
pub static EVENTS_EVENT: Row =
    Row { short_names: strs!["ev"], ..row("events.k8s.io", "v1", "Event", "events", "event") };
pub static ENDPOINTS: Row = Row {
    short_names: strs!["ep"],
    storage: s("services/endpoints"),
    ..row("", "v1", "Endpoints", "endpoints", "endpoints")
};
pub static POD_TEMPLATE: Row = row("", "v1", "PodTemplate", "podtemplates", "podtemplate");
pub static LEASE: Row = row("coordination.k8s.io", "v1", "Lease", "leases", "lease");
pub static ENDPOINT_SLICE: Row =
    row("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", "endpointslice");
pub static REPLICA_SET: Row = Row {
    short_names: strs!["rs"],
    categories: strs!["all"],
    subresources: strs!["scale", "status"],
    ..row("apps", "v1", "ReplicaSet", "replicasets", "replicaset")
};
pub static DEPLOYMENT: Row = Row {
    short_names: strs!["deploy"],
    categories: strs!["all"],
    subresources: strs!["scale", "status"],
    ..row("apps", "v1", "Deployment", "deployments", "deployment")
};
pub static CONTROLLER_REVISION: Row =
    row("apps", "v1", "ControllerRevision", "controllerrevisions", "controllerrevision");

/// Every built-in kind that is stored, in the order of discovery.
pub static ROWS: &[&Row] = &[
    &CONFIG_MAP,
    &ENDPOINTS,
    &EVENT,
    &NAMESPACE,
    &NODE,
    &POD,
    &POD_TEMPLATE,
    &SECRET,
    &SERVICE,
    &SERVICE_ACCOUNT,
    &CONTROLLER_REVISION,
    &DEPLOYMENT,
    &REPLICA_SET,
    &LEASE,
    &ENDPOINT_SLICE,
    &EVENTS_EVENT,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_keys() {
        assert_eq!(DEPLOYMENT.path("a", "b"), "/apis/apps/v1/namespaces/a/deployments/b");
        assert_eq!(POD.path("", ""), "/api/v1/pods");
        assert_eq!(NODE.path("ignored", "n"), "/api/v1/nodes/n");
        assert_eq!(NODE.key("", "n"), "/registry/minions/n");
        assert_eq!(POD.key("a", ""), "/registry/pods/a/");
    }
}
