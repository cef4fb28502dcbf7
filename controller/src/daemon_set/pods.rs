//! The pods of a DaemonSet, each bound to its node by affinity, so that the scheduler places it.

use client::Entry;
use proto::kind::DAEMON_SET;
use proto::view::daemon_set::DaemonSet;
use proto::view::pod::Pod;
use serde::Deserialize;
use serde_json::{Value, json};

use super::nodes::tolerated;
use super::{GENERATION, GENERATION_OF_SET};
use crate::plan::controller_reference;
use crate::revisions::{POD_HASH, Revision};
use crate::run::PlanError;

/// The whole pod template of a set.
pub fn template(set: &Entry<DaemonSet>) -> Result<Value, PlanError> {
    #[derive(Deserialize)]
    struct Whole {
        spec: Spec,
    }
    #[derive(Deserialize)]
    struct Spec {
        template: Value,
    }
    let whole: Whole = serde_json::from_slice(&set.bytes).map_err(|source| PlanError::Decode {
        kind: "DaemonSet",
        name: set.metadata.name.clone(),
        source,
    })?;
    Ok(whole.spec.template)
}

/// The node that a pod runs on or is for.
pub fn node(pod: &Pod) -> Option<&str> {
    if !pod.spec.node_name.is_empty() {
        return Some(&pod.spec.node_name);
    }
    let required = pod.spec.affinity.as_ref()?.node_affinity.required.as_ref()?;
    let mut fields = required.node_selector_terms.iter().flat_map(|term| &term.match_fields);
    let field = fields.find(|field| field.key == "metadata.name" && field.operator == "In")?;
    match &field.values[..] {
        [node] => Some(node),
        _ => None,
    }
}

/// The pod for a node.
pub fn pod(set: &Entry<DaemonSet>, template: &Value, revision: &Revision, node: &str) -> Value {
    let meta = &set.metadata;
    let mut template = template.clone();
    let mut metadata = json!({
        "generateName": format!("{}-", meta.name),
        "namespace": meta.namespace,
        "ownerReferences": [controller_reference(&DAEMON_SET, meta)],
    });
    for field in ["labels", "annotations", "finalizers"] {
        let value = template["metadata"][field].take();
        if !value.is_null() {
            metadata[field] = value;
        }
    }
    metadata["labels"][POD_HASH] = revision.hash().into();
    if let Some(generation) = meta.annotations.get(GENERATION_OF_SET) {
        metadata["labels"][GENERATION] = generation.as_str().into();
    }
    let mut spec = template["spec"].take();
    tolerate(&mut spec, set.spec.template.spec.host_network);
    let term = json!({ "matchFields": [
        { "key": "metadata.name", "operator": "In", "values": [node] },
    ] });
    let required = json!({ "nodeSelectorTerms": [term] });
    spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = required;
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec })
}

/// Adds what every daemon tolerates, in the place of what says the same for a time only.
fn tolerate(spec: &mut Value, host_network: bool) {
    if !spec["tolerations"].is_array() {
        spec["tolerations"] = json!([]);
    }
    let Some(tolerations) = spec["tolerations"].as_array_mut() else { return };
    for (key, effect) in tolerated(host_network) {
        let own = json!({ "key": key, "operator": "Exists", "effect": effect });
        let text =
            |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_string();
        let same = |other: &&mut Value| {
            ["key", "operator", "effect", "value"]
                .iter()
                .all(|it| text(other, it) == text(&own, it))
        };
        match tolerations.iter_mut().find(same) {
            Some(other) => *other = own,
            None => tolerations.push(own),
        }
    }
}
