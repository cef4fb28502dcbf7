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

/// `static NAME: group/version Kind resource/singular, scope, [short names], [categories],
/// [subresources], verbs, storage;`
macro_rules! rows {
    ($($(#[$doc:meta])* $name:ident: $group:literal / $version:literal $kind:literal
       $resource:literal / $singular:literal, $namespaced:expr, [$($short:literal),*],
       [$($category:literal),*], [$($subresource:literal),*], $verbs:expr, $storage:literal;)*) => {
        $($(#[$doc])*
        pub static $name: Row = Row {
            group: s($group),
            version: s($version),
            kind: s($kind),
            resource: s($resource),
            singular: s($singular),
            namespaced: $namespaced,
            short_names: Cow::Borrowed(&[$(s($short)),*]),
            categories: Cow::Borrowed(&[$(s($category)),*]),
            subresources: Cow::Borrowed(&[$(s($subresource)),*]),
            verbs: Cow::Borrowed($verbs),
            storage: s($storage),
        };)*
    };
}

const NAMESPACED: bool = true;
const CLUSTER: bool = false;

rows! {
    CONFIG_MAP: ""/"v1" "ConfigMap" "configmaps"/"configmap", NAMESPACED,
        ["cm"], [], [], STANDARD, "configmaps";
    ENDPOINTS: ""/"v1" "Endpoints" "endpoints"/"endpoints", NAMESPACED,
        ["ep"], [], [], STANDARD, "services/endpoints";
    EVENT: ""/"v1" "Event" "events"/"event", NAMESPACED,
        ["ev"], [], [], STANDARD, "events";
    NAMESPACE: ""/"v1" "Namespace" "namespaces"/"namespace", CLUSTER,
        ["ns"], [], ["finalize", "status"], NO_DELETECOLLECTION, "namespaces";
    NODE: ""/"v1" "Node" "nodes"/"node", CLUSTER,
        ["no"], [], ["status"], STANDARD, "minions";
    POD: ""/"v1" "Pod" "pods"/"pod", NAMESPACED,
        ["po"], ["all"], ["attach", "binding", "eviction", "exec", "log", "status"], STANDARD, "pods";
    POD_TEMPLATE: ""/"v1" "PodTemplate" "podtemplates"/"podtemplate", NAMESPACED,
        [], [], [], STANDARD, "podtemplates";
    SECRET: ""/"v1" "Secret" "secrets"/"secret", NAMESPACED,
        [], [], [], STANDARD, "secrets";
    SERVICE: ""/"v1" "Service" "services"/"service", NAMESPACED,
        ["svc"], ["all"], ["status"], STANDARD, "services/specs";
    SERVICE_ACCOUNT: ""/"v1" "ServiceAccount" "serviceaccounts"/"serviceaccount", NAMESPACED,
        ["sa"], [], [], STANDARD, "serviceaccounts";
    CONTROLLER_REVISION:
        "apps"/"v1" "ControllerRevision" "controllerrevisions"/"controllerrevision", NAMESPACED,
        [], [], [], STANDARD, "controllerrevisions";
    DEPLOYMENT: "apps"/"v1" "Deployment" "deployments"/"deployment", NAMESPACED,
        ["deploy"], ["all"], ["scale", "status"], STANDARD, "deployments";
    REPLICA_SET: "apps"/"v1" "ReplicaSet" "replicasets"/"replicaset", NAMESPACED,
        ["rs"], ["all"], ["scale", "status"], STANDARD, "replicasets";
    LEASE: "coordination.k8s.io"/"v1" "Lease" "leases"/"lease", NAMESPACED,
        [], [], [], STANDARD, "leases";
    ENDPOINT_SLICE: "discovery.k8s.io"/"v1" "EndpointSlice" "endpointslices"/"endpointslice",
        NAMESPACED, [], [], [], STANDARD, "endpointslices";
    /// The same storage as [`EVENT`], with other field names.
    EVENTS_EVENT: "events.k8s.io"/"v1" "Event" "events"/"event", NAMESPACED,
        ["ev"], [], [], STANDARD, "events";
}

/// Not stored: the metadata of any object, as `Accept: …;as=PartialObjectMetadata` asks for it.
pub static PARTIAL_METADATA: Row = Row {
    group: s("meta.k8s.io"),
    version: s("v1"),
    kind: s("PartialObjectMetadata"),
    resource: s(""),
    singular: s(""),
    namespaced: true,
    short_names: Cow::Borrowed(&[]),
    categories: Cow::Borrowed(&[]),
    subresources: Cow::Borrowed(&[]),
    verbs: Cow::Borrowed(&[]),
    storage: s(""),
};

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
