//! What a node's pods lead to: the objects that the node authorizer lets the node read. Answered
//! from the caches; what a pod mentions is read once per version of the pod.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use proto::kind::{self, Row};
use serde_json::Value;

use super::node::View;
use crate::{
    cache::{Entry, KindCache},
    kinds::lens::Lens,
    store::Revision,
};

pub(super) struct Graph {
    pods: Arc<KindCache>,
    volumes: Arc<KindCache>,
    attachments: Arc<KindCache>,
    slices: Arc<KindCache>,
    read: Mutex<HashMap<Arc<str>, (Revision, Arc<Mentions>)>>,
}

/// How many pods are remembered before all are forgotten.
const REMEMBERED: usize = 8192;

/// The names that a pod mentions, by resource.
#[derive(Debug, Default, PartialEq, Eq)]
struct Mentions(BTreeSet<(&'static str, String)>);

const SECRETS: &str = "secrets";
const CONFIG_MAPS: &str = "configmaps";
const CLAIMS: &str = "persistentvolumeclaims";
const ACCOUNTS: &str = "serviceaccounts";
const RESOURCE_CLAIMS: &str = "resourceclaims";

/// The fields that name an object, wherever in a pod's spec they are.
const FIELDS: &[(&str, &str, &str)] = &[
    ("secret", "secretName", SECRETS),
    ("secret", "name", SECRETS),
    ("secretRef", "name", SECRETS),
    ("secretKeyRef", "name", SECRETS),
    ("nodePublishSecretRef", "name", SECRETS),
    ("azureFile", "secretName", SECRETS),
    ("configMap", "name", CONFIG_MAPS),
    ("configMapRef", "name", CONFIG_MAPS),
    ("configMapKeyRef", "name", CONFIG_MAPS),
    ("persistentVolumeClaim", "claimName", CLAIMS),
];

/// The secrets of a CSI volume that its node needs; the others are for whoever attaches it.
const OF_CSI: [&str; 3] = ["nodePublishSecretRef", "nodeStageSecretRef", "nodeExpandSecretRef"];

/// Pods that a node runs from a file and shows as its own.
const MIRROR: &str = "kubernetes.io/config.mirror";

impl Graph {
    pub fn new(cache: impl Fn(&Row) -> Arc<KindCache>) -> Graph {
        Graph {
            pods: cache(&kind::POD),
            volumes: cache(&kind::PERSISTENT_VOLUME),
            attachments: cache(&kind::VOLUME_ATTACHMENT),
            slices: cache(&kind::RESOURCE_SLICE),
            read: Mutex::default(),
        }
    }

    /// Whether a pod on the node, in this namespace, mentions the object.
    fn mentioned(&self, node: &str, resource: &'static str, namespace: &str, name: &str) -> bool {
        let wanted = (resource, name.to_string());
        let pods = self.pods.snapshot();
        let mut here =
            pods.list(namespace, None).filter(|pod| pod.field("spec.nodeName") == Some(node));
        here.any(|pod| self.mentions(pod).0.contains(&wanted))
    }

    fn mentions(&self, pod: &Entry) -> Arc<Mentions> {
        let mut read = self.read.lock();
        if let Some((revision, mentions)) = read.get(&pod.key)
            && *revision == pod.revision
        {
            return mentions.clone();
        }
        let mentions = Arc::new(Mentions::of(&value(pod)));
        if read.len() >= REMEMBERED {
            read.clear();
        }
        read.insert(pod.key.clone(), (pod.revision, mentions.clone()));
        mentions
    }

    /// Whether the volume is bound to a claim of a pod on the node.
    fn uses(&self, node: &str, volume: &Value) -> bool {
        let claim = volume.at("spec").at("claimRef");
        self.mentioned(node, CLAIMS, claim.text("namespace"), claim.text("name"))
    }

    /// Whether a volume that the node uses names the secret.
    fn of_volume(&self, node: &str, namespace: &str, name: &str) -> bool {
        let volumes = self.volumes.snapshot();
        volumes.list("", None).any(|entry| {
            let volume = value(entry);
            secrets(&volume).contains(&(namespace, name)) && self.uses(node, &volume)
        })
    }
}

/// Namespace and name of the secrets with which a volume is mounted; a source that does not say
/// where means the claim's namespace.
fn secrets(volume: &Value) -> Vec<(&str, &str)> {
    let spec = volume.at("spec");
    let own = spec.at("claimRef").text("namespace");
    let csi = OF_CSI.iter().map(|field| spec.at("csi").at(field));
    let sources = spec.as_object().into_iter().flatten().map(|(_, source)| source.at("secretRef"));
    let references = csi.chain(sources).map(|it| (it.text("namespace"), it.text("name")));
    let azure = spec.at("azureFile");
    let azure = (azure.text("secretNamespace"), azure.text("secretName"));
    let all = references.chain([azure]).filter(|(_, name)| !name.is_empty());
    all.map(|(namespace, name)| (if namespace.is_empty() { own } else { namespace }, name))
        .collect()
}

impl View for Graph {
    fn on_node(&self, namespace: &str, pod: &str, node: &str) -> bool {
        let entry = self.pods.get(namespace, pod);
        entry.is_some_and(|entry| entry.field("spec.nodeName") == Some(node))
    }

    fn needs(&self, node: &str, resource: &str, namespace: &str, name: &str) -> bool {
        match resource {
            SECRETS => {
                self.mentioned(node, SECRETS, namespace, name)
                    || self.of_volume(node, namespace, name)
            }
            CONFIG_MAPS => self.mentioned(node, CONFIG_MAPS, namespace, name),
            CLAIMS => self.mentioned(node, CLAIMS, namespace, name),
            ACCOUNTS => self.mentioned(node, ACCOUNTS, namespace, name),
            RESOURCE_CLAIMS => self.mentioned(node, RESOURCE_CLAIMS, namespace, name),
            "persistentvolumes" => {
                let volume = self.volumes.get("", name);
                volume.is_some_and(|volume| self.uses(node, &value(&volume)))
            }
            "volumeattachments" => {
                let attachment = self.attachments.get("", name);
                attachment.is_some_and(|it| value(&it).at("spec").text("nodeName") == node)
            }
            "resourceslices" => {
                let slice = self.slices.get("", name);
                slice.is_some_and(|slice| slice.field("spec.nodeName") == Some(node))
            }
            _ => false,
        }
    }
}

fn value(entry: &Entry) -> Value {
    serde_json::from_slice(&entry.bytes()).unwrap_or_default()
}

impl Mentions {
    fn of(pod: &Value) -> Mentions {
        let mut mentions = Mentions::default();
        if pod.at("metadata").at("annotations").has(MIRROR) {
            // Else a node could give itself whatever it likes.
            return mentions;
        }
        let spec = pod.at("spec");
        mentions.add(ACCOUNTS, spec.text("serviceAccountName"));
        for secret in spec.items("imagePullSecrets") {
            mentions.add(SECRETS, secret.text("name"));
        }
        for volume in spec.items("volumes").iter().filter(|volume| volume.has("ephemeral")) {
            let claim = format!("{}-{}", pod.at("metadata").text("name"), volume.text("name"));
            mentions.add(CLAIMS, &claim);
        }
        let extended = pod.at("status").at("extendedResourceClaimStatus");
        mentions.add(RESOURCE_CLAIMS, extended.text("resourceClaimName"));
        let statuses = pod.at("status").items("resourceClaimStatuses");
        for claim in spec.items("resourceClaims").iter().chain(statuses) {
            mentions.add(RESOURCE_CLAIMS, claim.text("resourceClaimName"));
        }
        mentions.walk(spec);
        mentions
    }

    fn add(&mut self, resource: &'static str, name: &str) {
        if !name.is_empty() {
            self.0.insert((resource, name.to_string()));
        }
    }

    fn walk(&mut self, value: &Value) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| self.walk(item)),
            Value::Object(map) => {
                for (holder, field, resource) in FIELDS {
                    self.add(resource, value.at(holder).text(field));
                }
                map.values().for_each(|item| self.walk(item));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_pod_mentions() {
        let pod = json!({
            "metadata": {"name": "p"},
            "spec": {
                "serviceAccountName": "builder",
                "imagePullSecrets": [{"name": "pull"}],
                "resourceClaims": [{"name": "a", "resourceClaimName": "gpu"}, {"name": "b"}],
                "volumes": [
                    {"name": "v", "secret": {"secretName": "s1"}},
                    {"name": "w", "persistentVolumeClaim": {"claimName": "data"}},
                    {"name": "x", "ephemeral": {"volumeClaimTemplate": {}}},
                    {"name": "y", "projected": {"sources": [
                        {"secret": {"name": "s2"}}, {"configMap": {"name": "c1"}}]}},
                    {"name": "z", "csi": {"driver": "d", "nodePublishSecretRef": {"name": "s3"}}},
                ],
                "containers": [{
                    "env": [{"valueFrom": {"secretKeyRef": {"name": "s4", "key": "k"}}}],
                    "envFrom": [{"configMapRef": {"name": "c2"}}],
                }],
            },
            "status": {"resourceClaimStatuses": [{"name": "b", "resourceClaimName": "p-b-x"}]},
        });
        let found: Vec<String> = Mentions::of(&pod)
            .0
            .into_iter()
            .map(|(resource, name)| format!("{resource}/{name}"))
            .collect();
        assert_eq!(
            found.join(" "),
            "configmaps/c1 configmaps/c2 persistentvolumeclaims/data persistentvolumeclaims/p-x \
             resourceclaims/gpu resourceclaims/p-b-x secrets/pull secrets/s1 secrets/s2 \
             secrets/s3 secrets/s4 serviceaccounts/builder"
        );
    }

    #[test]
    fn a_mirror_mentions_nothing() {
        let pod = json!({
            "metadata": {"name": "p", "annotations": {MIRROR: "x"}},
            "spec": {"volumes": [{"name": "v", "secret": {"secretName": "s"}}]},
        });
        assert_eq!(Mentions::of(&pod), Mentions::default());
    }

    #[test]
    fn the_secrets_of_a_volume() {
        let reference = |name: &str| json!({"name": name, "namespace": "n"});
        for (source, expected) in [
            (
                json!({"csi": {"nodeStageSecretRef": reference("a"),
                    "nodePublishSecretRef": reference("b"), "nodeExpandSecretRef": reference("c"),
                    "controllerPublishSecretRef": reference("d"),
                    "controllerExpandSecretRef": reference("e")}}),
                vec![("n", "b"), ("n", "a"), ("n", "c")],
            ),
            (json!({"iscsi": {"secretRef": {"name": "s"}}}), vec![("own", "s")]),
            (json!({"cephfs": {"secretRef": reference("s")}}), vec![("n", "s")]),
            (json!({"azureFile": {"secretName": "s"}}), vec![("own", "s")]),
            (json!({"azureFile": {"secretName": "s", "secretNamespace": "n"}}), vec![("n", "s")]),
            (json!({"hostPath": {"path": "/x"}}), vec![]),
        ] {
            let mut volume = json!({"spec": source});
            volume["spec"]["claimRef"] = json!({"namespace": "own", "name": "claim"});
            assert_eq!(secrets(&volume), expected, "{volume}");
        }
    }
}
