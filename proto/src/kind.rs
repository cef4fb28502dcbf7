//! The kind table: what each built-in kind is called, where it is served and stored. Routes,
//! discovery, OpenAPI, CLI names and client paths derive from a row. Custom resources make the
//! same row at run time, hence the `Cow`s.

use std::borrow::Cow;
use std::sync::LazyLock;

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
    /// The folder of the store's key, as upstream's: `/registry/<storage>/<namespace>/<name>`. Empty
    /// for a kind that is not stored.
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

    /// Whether its objects are kept; the others are questions that are answered at once.
    pub fn is_stored(&self) -> bool {
        !self.storage.is_empty()
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

/// Of the kinds that are asked, not stored.
const CREATE: &[Str] = &[s("create")];

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
    BINDING: ""/"v1" "Binding" "bindings"/"binding", NAMESPACED, [], [], [], CREATE, "";
    COMPONENT_STATUS: ""/"v1" "ComponentStatus" "componentstatuses"/"componentstatus", CLUSTER,
        ["cs"], [], [], &[s("get"), s("list")], "";
    SELF_SUBJECT_REVIEW:
        "authentication.k8s.io"/"v1" "SelfSubjectReview"
        "selfsubjectreviews"/"selfsubjectreview", CLUSTER,
        [], [], [], CREATE, "";
    TOKEN_REVIEW:
        "authentication.k8s.io"/"v1" "TokenReview" "tokenreviews"/"tokenreview", CLUSTER,
        [], [], [], CREATE, "";
    LOCAL_SUBJECT_ACCESS_REVIEW:
        "authorization.k8s.io"/"v1" "LocalSubjectAccessReview"
        "localsubjectaccessreviews"/"localsubjectaccessreview", NAMESPACED,
        [], [], [], CREATE, "";
    SELF_SUBJECT_ACCESS_REVIEW:
        "authorization.k8s.io"/"v1" "SelfSubjectAccessReview"
        "selfsubjectaccessreviews"/"selfsubjectaccessreview", CLUSTER,
        [], [], [], CREATE, "";
    SELF_SUBJECT_RULES_REVIEW:
        "authorization.k8s.io"/"v1" "SelfSubjectRulesReview"
        "selfsubjectrulesreviews"/"selfsubjectrulesreview", CLUSTER,
        [], [], [], CREATE, "";
    SUBJECT_ACCESS_REVIEW:
        "authorization.k8s.io"/"v1" "SubjectAccessReview"
        "subjectaccessreviews"/"subjectaccessreview", CLUSTER,
        [], [], [], CREATE, "";
    CONFIG_MAP: ""/"v1" "ConfigMap" "configmaps"/"configmap", NAMESPACED,
        ["cm"], [], [], STANDARD, "configmaps";
    ENDPOINTS: ""/"v1" "Endpoints" "endpoints"/"endpoints", NAMESPACED,
        ["ep"], [], [], STANDARD, "services/endpoints";
    EVENT: ""/"v1" "Event" "events"/"event", NAMESPACED,
        ["ev"], [], [], STANDARD, "events";
    LIMIT_RANGE: ""/"v1" "LimitRange" "limitranges"/"limitrange", NAMESPACED,
        ["limits"], [], [], STANDARD, "limitranges";
    NAMESPACE: ""/"v1" "Namespace" "namespaces"/"namespace", CLUSTER,
        ["ns"], [], ["finalize", "status"], NO_DELETECOLLECTION, "namespaces";
    NODE: ""/"v1" "Node" "nodes"/"node", CLUSTER,
        ["no"], [], ["proxy", "status"], STANDARD, "minions";
    PERSISTENT_VOLUME_CLAIM:
        ""/"v1" "PersistentVolumeClaim"
        "persistentvolumeclaims"/"persistentvolumeclaim", NAMESPACED,
        ["pvc"], [], ["status"], STANDARD, "persistentvolumeclaims";
    PERSISTENT_VOLUME: ""/"v1" "PersistentVolume" "persistentvolumes"/"persistentvolume", CLUSTER,
        ["pv"], [], ["status"], STANDARD, "persistentvolumes";
    POD: ""/"v1" "Pod" "pods"/"pod", NAMESPACED,
        ["po"], ["all"],
        ["attach", "binding", "ephemeralcontainers", "eviction", "exec", "log", "portforward",
         "proxy", "resize", "status"],
        STANDARD, "pods";
    POD_TEMPLATE: ""/"v1" "PodTemplate" "podtemplates"/"podtemplate", NAMESPACED,
        [], [], [], STANDARD, "podtemplates";
    REPLICATION_CONTROLLER:
        ""/"v1" "ReplicationController"
        "replicationcontrollers"/"replicationcontroller", NAMESPACED,
        ["rc"], ["all"], ["scale", "status"], STANDARD, "controllers";
    RESOURCE_QUOTA: ""/"v1" "ResourceQuota" "resourcequotas"/"resourcequota", NAMESPACED,
        ["quota"], [], ["status"], STANDARD, "resourcequotas";
    SECRET: ""/"v1" "Secret" "secrets"/"secret", NAMESPACED,
        [], [], [], STANDARD, "secrets";
    SERVICE_ACCOUNT: ""/"v1" "ServiceAccount" "serviceaccounts"/"serviceaccount", NAMESPACED,
        ["sa"], [], ["token"], STANDARD, "serviceaccounts";
    SERVICE: ""/"v1" "Service" "services"/"service", NAMESPACED,
        ["svc"], ["all"], ["proxy", "status"], STANDARD, "services/specs";
    MUTATING_ADMISSION_POLICY:
        "admissionregistration.k8s.io"/"v1" "MutatingAdmissionPolicy"
        "mutatingadmissionpolicies"/"mutatingadmissionpolicy", CLUSTER,
        [], ["api-extensions"], [], STANDARD, "mutatingadmissionpolicies";
    MUTATING_ADMISSION_POLICY_BINDING:
        "admissionregistration.k8s.io"/"v1" "MutatingAdmissionPolicyBinding"
        "mutatingadmissionpolicybindings"/"mutatingadmissionpolicybinding", CLUSTER,
        [], ["api-extensions"], [], STANDARD, "mutatingadmissionpolicybindings";
    MUTATING_WEBHOOK_CONFIGURATION:
        "admissionregistration.k8s.io"/"v1" "MutatingWebhookConfiguration"
        "mutatingwebhookconfigurations"/"mutatingwebhookconfiguration", CLUSTER,
        [], ["api-extensions"], [], STANDARD, "mutatingwebhookconfigurations";
    VALIDATING_ADMISSION_POLICY:
        "admissionregistration.k8s.io"/"v1" "ValidatingAdmissionPolicy"
        "validatingadmissionpolicies"/"validatingadmissionpolicy", CLUSTER,
        [], ["api-extensions"], ["status"], STANDARD, "validatingadmissionpolicies";
    VALIDATING_ADMISSION_POLICY_BINDING:
        "admissionregistration.k8s.io"/"v1" "ValidatingAdmissionPolicyBinding"
        "validatingadmissionpolicybindings"/"validatingadmissionpolicybinding", CLUSTER,
        [], ["api-extensions"], [], STANDARD, "validatingadmissionpolicybindings";
    VALIDATING_WEBHOOK_CONFIGURATION:
        "admissionregistration.k8s.io"/"v1" "ValidatingWebhookConfiguration"
        "validatingwebhookconfigurations"/"validatingwebhookconfiguration", CLUSTER,
        [], ["api-extensions"], [], STANDARD, "validatingwebhookconfigurations";
    CONTROLLER_REVISION:
        "apps"/"v1" "ControllerRevision" "controllerrevisions"/"controllerrevision", NAMESPACED,
        [], [], [], STANDARD, "controllerrevisions";
    DAEMON_SET: "apps"/"v1" "DaemonSet" "daemonsets"/"daemonset", NAMESPACED,
        ["ds"], ["all"], ["status"], STANDARD, "daemonsets";
    DEPLOYMENT: "apps"/"v1" "Deployment" "deployments"/"deployment", NAMESPACED,
        ["deploy"], ["all"], ["scale", "status"], STANDARD, "deployments";
    REPLICA_SET: "apps"/"v1" "ReplicaSet" "replicasets"/"replicaset", NAMESPACED,
        ["rs"], ["all"], ["scale", "status"], STANDARD, "replicasets";
    STATEFUL_SET: "apps"/"v1" "StatefulSet" "statefulsets"/"statefulset", NAMESPACED,
        ["sts"], ["all"], ["scale", "status"], STANDARD, "statefulsets";
    /// The same storage as [`HORIZONTAL_POD_AUTOSCALER`], with the fields of version 1.
    HORIZONTAL_POD_AUTOSCALER_V1:
        "autoscaling"/"v1" "HorizontalPodAutoscaler"
        "horizontalpodautoscalers"/"horizontalpodautoscaler", NAMESPACED,
        ["hpa"], ["all"], ["status"], STANDARD, "horizontalpodautoscalers";
    HORIZONTAL_POD_AUTOSCALER:
        "autoscaling"/"v2" "HorizontalPodAutoscaler"
        "horizontalpodautoscalers"/"horizontalpodautoscaler", NAMESPACED,
        ["hpa"], ["all"], ["status"], STANDARD, "horizontalpodautoscalers";
    CRON_JOB: "batch"/"v1" "CronJob" "cronjobs"/"cronjob", NAMESPACED,
        ["cj"], ["all"], ["status"], STANDARD, "cronjobs";
    JOB: "batch"/"v1" "Job" "jobs"/"job", NAMESPACED,
        [], ["all"], ["status"], STANDARD, "jobs";
    CERTIFICATE_SIGNING_REQUEST:
        "certificates.k8s.io"/"v1" "CertificateSigningRequest"
        "certificatesigningrequests"/"certificatesigningrequest", CLUSTER,
        ["csr"], [], ["approval", "status"], STANDARD, "certificatesigningrequests";
    LEASE: "coordination.k8s.io"/"v1" "Lease" "leases"/"lease", NAMESPACED,
        [], [], [], STANDARD, "leases";
    ENDPOINT_SLICE:
        "discovery.k8s.io"/"v1" "EndpointSlice" "endpointslices"/"endpointslice", NAMESPACED,
        [], [], [], STANDARD, "endpointslices";
    /// The same storage as [`EVENT`], with other field names.
    EVENTS_EVENT: "events.k8s.io"/"v1" "Event" "events"/"event", NAMESPACED,
        ["ev"], [], [], STANDARD, "events";
    FLOW_SCHEMA:
        "flowcontrol.apiserver.k8s.io"/"v1" "FlowSchema" "flowschemas"/"flowschema", CLUSTER,
        [], [], ["status"], STANDARD, "flowschemas";
    PRIORITY_LEVEL_CONFIGURATION:
        "flowcontrol.apiserver.k8s.io"/"v1" "PriorityLevelConfiguration"
        "prioritylevelconfigurations"/"prioritylevelconfiguration", CLUSTER,
        [], [], ["status"], STANDARD, "prioritylevelconfigurations";
    INGRESS_CLASS: "networking.k8s.io"/"v1" "IngressClass" "ingressclasses"/"ingressclass", CLUSTER,
        [], [], [], STANDARD, "ingressclasses";
    INGRESS: "networking.k8s.io"/"v1" "Ingress" "ingresses"/"ingress", NAMESPACED,
        ["ing"], [], ["status"], STANDARD, "ingress";
    IP_ADDRESS: "networking.k8s.io"/"v1" "IPAddress" "ipaddresses"/"ipaddress", CLUSTER,
        ["ip"], [], [], STANDARD, "ipaddresses";
    NETWORK_POLICY:
        "networking.k8s.io"/"v1" "NetworkPolicy" "networkpolicies"/"networkpolicy", NAMESPACED,
        ["netpol"], [], [], STANDARD, "networkpolicies";
    SERVICE_CIDR: "networking.k8s.io"/"v1" "ServiceCIDR" "servicecidrs"/"servicecidr", CLUSTER,
        [], [], ["status"], STANDARD, "servicecidrs";
    RUNTIME_CLASS: "node.k8s.io"/"v1" "RuntimeClass" "runtimeclasses"/"runtimeclass", CLUSTER,
        [], [], [], STANDARD, "runtimeclasses";
    POD_DISRUPTION_BUDGET:
        "policy"/"v1" "PodDisruptionBudget"
        "poddisruptionbudgets"/"poddisruptionbudget", NAMESPACED,
        ["pdb"], [], ["status"], STANDARD, "poddisruptionbudgets";
    CLUSTER_ROLE_BINDING:
        "rbac.authorization.k8s.io"/"v1" "ClusterRoleBinding"
        "clusterrolebindings"/"clusterrolebinding", CLUSTER,
        [], [], [], STANDARD, "clusterrolebindings";
    CLUSTER_ROLE:
        "rbac.authorization.k8s.io"/"v1" "ClusterRole" "clusterroles"/"clusterrole", CLUSTER,
        [], [], [], STANDARD, "clusterroles";
    ROLE_BINDING:
        "rbac.authorization.k8s.io"/"v1" "RoleBinding" "rolebindings"/"rolebinding", NAMESPACED,
        [], [], [], STANDARD, "rolebindings";
    ROLE: "rbac.authorization.k8s.io"/"v1" "Role" "roles"/"role", NAMESPACED,
        [], [], [], STANDARD, "roles";
    DEVICE_CLASS: "resource.k8s.io"/"v1" "DeviceClass" "deviceclasses"/"deviceclass", CLUSTER,
        [], [], [], STANDARD, "deviceclasses";
    RESOURCE_CLAIM:
        "resource.k8s.io"/"v1" "ResourceClaim" "resourceclaims"/"resourceclaim", NAMESPACED,
        [], [], ["status"], STANDARD, "resourceclaims";
    RESOURCE_CLAIM_TEMPLATE:
        "resource.k8s.io"/"v1" "ResourceClaimTemplate"
        "resourceclaimtemplates"/"resourceclaimtemplate", NAMESPACED,
        [], [], [], STANDARD, "resourceclaimtemplates";
    RESOURCE_SLICE:
        "resource.k8s.io"/"v1" "ResourceSlice" "resourceslices"/"resourceslice", CLUSTER,
        [], [], [], STANDARD, "resourceslices";
    PRIORITY_CLASS:
        "scheduling.k8s.io"/"v1" "PriorityClass" "priorityclasses"/"priorityclass", CLUSTER,
        ["pc"], [], [], STANDARD, "priorityclasses";
    CSI_DRIVER: "storage.k8s.io"/"v1" "CSIDriver" "csidrivers"/"csidriver", CLUSTER,
        [], [], [], STANDARD, "csidrivers";
    CSI_NODE: "storage.k8s.io"/"v1" "CSINode" "csinodes"/"csinode", CLUSTER,
        [], [], [], STANDARD, "csinodes";
    CSI_STORAGE_CAPACITY:
        "storage.k8s.io"/"v1" "CSIStorageCapacity"
        "csistoragecapacities"/"csistoragecapacity", NAMESPACED,
        [], [], [], STANDARD, "csistoragecapacities";
    STORAGE_CLASS: "storage.k8s.io"/"v1" "StorageClass" "storageclasses"/"storageclass", CLUSTER,
        ["sc"], [], [], STANDARD, "storageclasses";
    VOLUME_ATTACHMENT:
        "storage.k8s.io"/"v1" "VolumeAttachment" "volumeattachments"/"volumeattachment", CLUSTER,
        [], [], ["status"], STANDARD, "volumeattachments";
    VOLUME_ATTRIBUTES_CLASS:
        "storage.k8s.io"/"v1" "VolumeAttributesClass"
        "volumeattributesclasses"/"volumeattributesclass", CLUSTER,
        ["vac"], [], [], STANDARD, "volumeattributesclasses";
}

rows! {
    NODE_METRICS: "metrics.k8s.io"/"v1beta1" "NodeMetrics" "nodes"/"", CLUSTER,
        [], [], [], &[s("get"), s("list")], "";
    POD_METRICS: "metrics.k8s.io"/"v1beta1" "PodMetrics" "pods"/"", NAMESPACED,
        [], [], [], &[s("get"), s("list")], "";
}

/// What nodes and pods use at the moment. Upstream leaves this group to another server behind the
/// API server; here it is served without one, and apart from [`ROWS`], so that it can give way.
pub static METRICS: &[&Row] = &[&NODE_METRICS, &POD_METRICS];

/// Everything that is served, in the order of discovery.
pub static SERVED: LazyLock<Vec<&'static Row>> =
    LazyLock::new(|| ROWS.iter().chain(METRICS).copied().collect());

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

/// Every built-in kind of upstream's API server that is served, in the order of discovery.
pub static ROWS: &[&Row] = &[
    &BINDING,
    &COMPONENT_STATUS,
    &CONFIG_MAP,
    &ENDPOINTS,
    &EVENT,
    &LIMIT_RANGE,
    &NAMESPACE,
    &NODE,
    &PERSISTENT_VOLUME_CLAIM,
    &PERSISTENT_VOLUME,
    &POD,
    &POD_TEMPLATE,
    &REPLICATION_CONTROLLER,
    &RESOURCE_QUOTA,
    &SECRET,
    &SERVICE_ACCOUNT,
    &SERVICE,
    &MUTATING_ADMISSION_POLICY,
    &MUTATING_ADMISSION_POLICY_BINDING,
    &MUTATING_WEBHOOK_CONFIGURATION,
    &VALIDATING_ADMISSION_POLICY,
    &VALIDATING_ADMISSION_POLICY_BINDING,
    &VALIDATING_WEBHOOK_CONFIGURATION,
    &CONTROLLER_REVISION,
    &DAEMON_SET,
    &DEPLOYMENT,
    &REPLICA_SET,
    &STATEFUL_SET,
    &SELF_SUBJECT_REVIEW,
    &TOKEN_REVIEW,
    &LOCAL_SUBJECT_ACCESS_REVIEW,
    &SELF_SUBJECT_ACCESS_REVIEW,
    &SELF_SUBJECT_RULES_REVIEW,
    &SUBJECT_ACCESS_REVIEW,
    // The first version of a group is the one that clients are told to prefer.
    &HORIZONTAL_POD_AUTOSCALER,
    &HORIZONTAL_POD_AUTOSCALER_V1,
    &CRON_JOB,
    &JOB,
    &CERTIFICATE_SIGNING_REQUEST,
    &LEASE,
    &ENDPOINT_SLICE,
    &EVENTS_EVENT,
    &FLOW_SCHEMA,
    &PRIORITY_LEVEL_CONFIGURATION,
    &INGRESS_CLASS,
    &INGRESS,
    &IP_ADDRESS,
    &NETWORK_POLICY,
    &SERVICE_CIDR,
    &RUNTIME_CLASS,
    &POD_DISRUPTION_BUDGET,
    &CLUSTER_ROLE_BINDING,
    &CLUSTER_ROLE,
    &ROLE_BINDING,
    &ROLE,
    &DEVICE_CLASS,
    &RESOURCE_CLAIM,
    &RESOURCE_CLAIM_TEMPLATE,
    &RESOURCE_SLICE,
    &PRIORITY_CLASS,
    &CSI_DRIVER,
    &CSI_NODE,
    &CSI_STORAGE_CAPACITY,
    &STORAGE_CLASS,
    &VOLUME_ATTACHMENT,
    &VOLUME_ATTRIBUTES_CLASS,
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
