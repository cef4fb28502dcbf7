//! New nodes, and what nodes may write in their own name: the authorizer has looked at the path of
//! a request, NodeRestriction looks at what the path does not say.
//! <https://kubernetes.io/docs/reference/access-authn-authz/admission-controllers/#noderestriction>

use std::collections::BTreeSet;

use proto::{kind, status::Status};
use serde_json::{Value, json};

use super::certificates::Subject;
use super::{Denied, Operation, Request};
use crate::kinds::lens::Lens;

mod audience;

const MIRROR: &str = "kubernetes.io/config.mirror";

/// The fields by which a pod refers to Secrets.
pub(super) const SECRETS: &[&str] = &[
    "secret",
    "secretRef",
    "secretKeyRef",
    "imagePullSecrets",
    "nodePublishSecretRef",
    "azureFile",
];

/// A new node takes no pods until its conditions have been seen.
pub(super) fn taint_new(request: &Request, node: &mut Value) -> Result<bool, Denied> {
    const KEY: &str = "node.kubernetes.io/not-ready";
    if !request.is(Operation::Create, &kind::NODE) {
        return Ok(false);
    }
    let taints = node.at("spec").items("taints");
    if taints.iter().any(|taint| taint.text("key") == KEY && taint.text("effect") == "NoSchedule") {
        return Ok(false);
    }
    let mut taints = taints.to_vec();
    taints.push(json!({"key": KEY, "effect": "NoSchedule"}));
    node.section("spec").set("taints", taints);
    Ok(true)
}

/// Creations and updates by nodes.
pub(super) fn restrict(request: &Request, object: &mut Value) -> Result<bool, Denied> {
    check(request, object).map(|()| false)
}

/// Deletions by nodes.
pub(super) fn restrict_deletion(request: &Request, _: Option<&Value>) -> Result<(), Denied> {
    match request.operation {
        Operation::Delete => check(request, &Value::Null),
        _ => Ok(()),
    }
}

fn check(request: &Request, new: &Value) -> Result<(), Denied> {
    if !request.user.groups.iter().any(|group| group == "system:nodes") {
        return Ok(());
    }
    let Some(node) = request.user.name.strip_prefix("system:node:") else { return Ok(()) };
    if node.is_empty() {
        let user = &request.user.name;
        return Err(request.forbidden(format!("could not determine node from user {user:?}")));
    }
    let scope = Scope { request, node, new };
    let row = request.row;
    match (&*row.group, &*row.resource) {
        ("", "pods") => scope.pod(),
        ("", "nodes") => scope.node(),
        ("", "persistentvolumeclaims") => scope.claim(),
        ("", "serviceaccounts") => scope.token(),
        ("coordination.k8s.io", "leases") => scope.lease(),
        ("storage.k8s.io", "csinodes") if request.name != node => {
            scope.deny("can only access CSINode with the same name as the requesting node")
        }
        ("resource.k8s.io", "resourceslices") => scope.slice(),
        ("certificates.k8s.io", "certificatesigningrequests") => scope.certificate(),
        _ => Ok(()),
    }
}

/// What a node is about to do.
struct Scope<'a> {
    request: &'a Request<'a>,
    node: &'a str,
    new: &'a Value,
}

impl Scope<'_> {
    fn deny(&self, why: impl AsRef<str>) -> Result<(), Denied> {
        Err(self.request.forbidden(why))
    }

    fn pod(&self) -> Result<(), Denied> {
        let node = self.node;
        match (self.request.subresource, self.request.operation) {
            ("", Operation::Create) => self.new_pod(),
            ("", Operation::Delete) if !self.owns(self.request.name)? => self.deny(format!(
                "node {node:?} can only delete pods with spec.nodeName set to itself"
            )),
            ("", Operation::Delete) => Ok(()),
            ("", operation) => self.deny(format!(
                "unexpected operation {:?}, node {node:?} can only create and delete mirror pods",
                operation.name()
            )),
            ("status", Operation::Update) => self.pod_status(),
            ("eviction", Operation::Create) if !self.owns(self.request.name)? => self
                .deny(format!("node {node} can only evict pods with spec.nodeName set to itself")),
            ("eviction", Operation::Create) => Ok(()),
            ("status" | "eviction", operation) => {
                self.deny(format!("unexpected operation {:?}", operation.name()))
            }
            (other, _) => self.deny(format!(
                "unexpected pod subresource {other:?}, only 'status' and 'eviction' are allowed"
            )),
        }
    }

    /// Whether this pod is on the node.
    fn owns(&self, pod: &str) -> Result<bool, Denied> {
        match self.request.cluster.get(&kind::POD, self.request.namespace, pod) {
            Some(entry) => Ok(entry.field("spec.nodeName") == Some(self.node)),
            None => Err(Denied(Status::not_found("", "pods", pod))),
        }
    }

    fn new_pod(&self) -> Result<(), Denied> {
        let node = self.node;
        let (metadata, spec) = (self.new.at("metadata"), self.new.at("spec"));
        if !metadata.at("annotations").has(MIRROR) {
            return self.deny(format!(
                "pod does not have {MIRROR:?} annotation, node {node:?} can only create mirror pods"
            ));
        }
        if spec.text("nodeName") != node {
            return self.deny(format!(
                "node {node:?} can only create pods with spec.nodeName set to itself"
            ));
        }
        self.owner(metadata.items("ownerReferences"))?;
        for (thing, mentioned) in [
            ("a service account", !spec.vacant("serviceAccountName")),
            ("secrets", mentions(spec, SECRETS)),
            ("configmaps", mentions(spec, &["configMap", "configMapRef", "configMapKeyRef"])),
            ("clustertrustbundles", mentions(spec, &["clusterTrustBundle"])),
            ("persistentvolumeclaims", mentions(spec, &["persistentVolumeClaim"])),
        ] {
            if mentioned {
                return self
                    .deny(format!("node {node:?} can not create pods that reference {thing}"));
            }
        }
        Ok(())
    }

    fn owner(&self, owners: &[Value]) -> Result<(), Denied> {
        let node = self.node;
        let [owner] = owners else {
            let single = if owners.is_empty() { "an" } else { "a single" };
            return self.deny(format!(
                "node {node:?} can only create pods with {single} owner reference set to itself"
            ));
        };
        let itself = owner.text("apiVersion") == "v1"
            && owner.text("kind") == "Node"
            && owner.text("name") == node;
        if !itself {
            return self.deny(format!(
                "node {node:?} can only create pods with an owner reference set to itself"
            ));
        }
        if owner.flag("controller") != Some(true) {
            return self.deny(format!(
                "node {node:?} can only create pods with a controller owner reference set to itself"
            ));
        }
        if owner.flag("blockOwnerDeletion") == Some(true) {
            return self.deny(format!(
                "node {node:?} must not set blockOwnerDeletion on an owner reference"
            ));
        }
        let Some(entry) = self.request.cluster.get(&kind::NODE, "", node) else {
            return Err(Denied(Status::not_found("", "nodes", node)));
        };
        let uid = owner.text("uid");
        if *uid != *entry.uid {
            let known = &entry.uid;
            return self.deny(format!("node {node} UID mismatch: expected {uid} got {known}"));
        }
        Ok(())
    }

    fn pod_status(&self) -> Result<(), Denied> {
        let node = self.node;
        let Some(old) = self.request.old else { return Ok(()) };
        if old.at("spec").text("nodeName") != node {
            return self.deny(format!(
                "node {node:?} can only update pod status for pods with spec.nodeName set to itself"
            ));
        }
        if changed(self.new, old, "labels").next().is_some() {
            return self.deny(format!("node {node:?} cannot update labels through pod status"));
        }
        let claims = |pod: &Value| pod.at("status").items("resourceClaimStatuses").to_vec();
        if claims(self.new) != claims(old) {
            return self.deny(format!("node {node:?} cannot update resource claim statues"));
        }
        let extended = |pod: &Value| pod.at("status").at("extendedResourceClaimStatus").clone();
        if extended(self.new) != extended(old) {
            return self
                .deny(format!("node {node:?} cannot update extended resource claim status"));
        }
        Ok(())
    }

    fn node(&self) -> Result<(), Denied> {
        let (node, name) = (self.node, self.request.name);
        if name != node {
            return self.deny(format!("node {node:?} is not allowed to modify node {name:?}"));
        }
        let old = self.request.old.unwrap_or(&Value::Null);
        let source = self.new.at("spec").at("configSource");
        let forbidden = || {
            let labels = changed(self.new, old, "labels").filter(|label| !may_set(label));
            labels.collect::<BTreeSet<&str>>().into_iter().collect::<Vec<_>>().join(", ")
        };
        match self.request.operation {
            Operation::Create if !source.is_null() => self.deny(format!(
                "node {node:?} is not allowed to create pods with a non-nil configSource"
            )),
            Operation::Create if !forbidden().is_empty() => self.deny(format!(
                "node {node:?} is not allowed to set the following labels: {}",
                forbidden()
            )),
            Operation::Update => {
                if !source.is_null() && source != old.at("spec").at("configSource") {
                    return self.deny(format!(
                        "node {node:?} is not allowed to update configSource to a new non-nil \
                         configSource"
                    ));
                }
                if self.new.at("spec").items("taints") != old.at("spec").items("taints") {
                    return self.deny(format!("node {node:?} is not allowed to modify taints"));
                }
                let owners = |node: &Value| node.at("metadata").items("ownerReferences").to_vec();
                if owners(self.new) != owners(old) {
                    let why = format!("node {node:?} is not allowed to modify ownerReferences");
                    return self.deny(why);
                }
                if !forbidden().is_empty() {
                    return self.deny(format!("is not allowed to modify labels: {}", forbidden()));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn claim(&self) -> Result<(), Denied> {
        let node = self.node;
        if self.request.subresource != "status" {
            return self.deny("may only update PVC status");
        }
        let (Operation::Update, Some(old)) = (self.request.operation, self.request.old) else {
            let operation = self.request.operation.name();
            return self.deny(format!("unexpected operation {operation:?}"));
        };
        let kept = |claim: &Value| {
            let mut claim = claim.clone();
            for field in ["resourceVersion", "managedFields"] {
                claim.section("metadata").drop(field);
            }
            let fields =
                ["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"];
            for field in fields {
                claim.section("status").drop(field);
            }
            claim
        };
        if kept(self.new) != kept(old) {
            return self.deny(format!(
                "node {node:?} is not allowed to update fields other than status.capacity and \
                 status.conditions"
            ));
        }
        Ok(())
    }

    /// Tokens are for pods of the node.
    fn token(&self) -> Result<(), Denied> {
        if self.request.operation != Operation::Create || self.request.subresource != "token" {
            return Ok(());
        }
        let bound = self.new.at("spec").at("boundObjectRef");
        let (name, uid) = (bound.text("name"), bound.text("uid"));
        if bound.text("apiVersion") != "v1" || bound.text("kind") != "Pod" || name.is_empty() {
            return self.deny("node requested token not bound to a pod");
        }
        if uid.is_empty() {
            return self.deny("node requested token with a pod binding without a uid");
        }
        let Some(pod) = self.request.cluster.get(&kind::POD, self.request.namespace, name) else {
            return Err(Denied(Status::not_found("", "pods", name)));
        };
        if *uid != *pod.uid {
            return self.deny(format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. \
                 The object might have been deleted and then recreated"
            ));
        }
        if pod.field("spec.nodeName") != Some(self.node) {
            return self.deny("node requested token bound to a pod scheduled on a different node");
        }
        let audience = match self.new.at("spec").items("audiences") {
            [] => "",
            [one] => one.as_str().unwrap_or_default(),
            _ => return self.deny("node may only request 0 or 1 audiences"),
        };
        let pod = serde_json::from_slice(&pod.bytes()).unwrap_or_default();
        if audience::wanted(self.request, &pod, audience) {
            return Ok(());
        }
        self.deny(format!(
            "audience {audience:?} not found in pod spec volume, {} is not authorized to request \
             tokens for this audience",
            self.request.user.name
        ))
    }

    /// What is updated the authorizer has looked at.
    fn slice(&self) -> Result<(), Denied> {
        let (verb, slice) = match self.request.operation {
            Operation::Create => ("create", self.new),
            Operation::Delete => ("delete", self.request.old.unwrap_or(&Value::Null)),
            _ => return Ok(()),
        };
        if slice.at("spec").text("nodeName") != self.node {
            return self.deny(format!(
                "can only {verb} ResourceSlice with the same NodeName as the requesting node"
            ));
        }
        Ok(())
    }

    /// Certificates of nodes are for the node itself.
    fn certificate(&self) -> Result<(), Denied> {
        const SIGNERS: [&str; 2] =
            ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];
        let signer = self.new.at("spec").text("signerName");
        if self.request.operation != Operation::Create || !SIGNERS.contains(&signer) {
            return Ok(());
        }
        let name = &self.request.user.name;
        match Subject::of(self.new) {
            None => self.deny("unable to parse csr: PEM block type must be CERTIFICATE REQUEST"),
            Some(subject) if subject.name != *name => {
                self.deny(format!("can only create a node CSR with CN={name}"))
            }
            Some(_) => Ok(()),
        }
    }

    fn lease(&self) -> Result<(), Denied> {
        if self.request.namespace != "kube-node-lease" {
            return self.deny("can only access leases in the \"kube-node-lease\" system namespace");
        }
        if self.request.name != self.node {
            return self
                .deny("can only access node lease with the same name as the requesting node");
        }
        Ok(())
    }
}

/// The keys of metadata's map whose values differ.
fn changed<'a>(new: &'a Value, old: &'a Value, map: &'a str) -> impl Iterator<Item = &'a str> {
    let (new, old) = (new.at("metadata"), old.at("metadata"));
    let added = new.pairs(map).filter(move |(key, value)| old.at(map).at(key) != *value);
    let gone = old.pairs(map).filter(move |(key, _)| !new.at(map).has(key));
    added.chain(gone).map(|(key, _)| key)
}

/// Labels of Kubernetes' own namespaces are not a node's to set, but for these.
fn may_set(label: &str) -> bool {
    const OWN: &[&str] = &[
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
        "topology.kubernetes.io/region",
        "failure-domain.beta.kubernetes.io/zone",
        "failure-domain.beta.kubernetes.io/region",
        "beta.kubernetes.io/instance-type",
        "node.kubernetes.io/instance-type",
        "kubernetes.io/os",
        "kubernetes.io/arch",
        "beta.kubernetes.io/os",
        "beta.kubernetes.io/arch",
    ];
    let namespace = label.split_once('/').map_or("", |(namespace, _)| namespace);
    let within = |domain: &str| {
        namespace.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    if within("node-restriction.kubernetes.io") {
        return false;
    }
    let reserved = within("kubernetes.io") || within("k8s.io");
    let allowed = within("kubelet.kubernetes.io") || within("node.kubernetes.io");
    !reserved || allowed || OWN.contains(&label)
}

/// Whether any of these fields is there and says something, however deep.
pub(super) fn mentions(value: &Value, fields: &[&str]) -> bool {
    match value {
        Value::Array(items) => items.iter().any(|item| mentions(item, fields)),
        Value::Object(map) => {
            let here = fields.iter().any(|field| !value.vacant(field));
            here || map.values().any(|inner| mentions(inner, fields))
        }
        _ => false,
    }
}
