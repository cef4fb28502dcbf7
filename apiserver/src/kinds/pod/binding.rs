//! What the binding and eviction subresources do to a pod.

use proto::status::{FieldError, Status};
use proto::time::Time;
use serde_json::{Value, json};

use crate::kinds::check;
use crate::kinds::lens::Lens;
use crate::kinds::path::Path;

/// Assigns the pod to the node that `binding` (v1 Binding) names: once, and only while the pod is
/// wanted. Annotations of the binding go to the pod, and the labels that it does not have.
pub fn bind(pod: &mut Value, binding: &Value, now: Time) -> Result<(), Status> {
    let name = pod.at("metadata").text("name").to_string();
    let errors = validate(binding);
    if !errors.is_empty() {
        return Err(Status::invalid("", "Binding", &name, &errors));
    }
    let wanted = binding.at("metadata");
    let uid = pod.at("metadata").text("uid");
    if !wanted.text("uid").is_empty() && wanted.text("uid") != uid {
        let why = format!(
            "Precondition failed: UID in precondition: {}, UID in object meta: {uid}",
            wanted.text("uid")
        );
        return Err(Status::conflict("", "pods/binding", &name, &why));
    }
    if let Some(why) = refusal(pod, &name) {
        return Err(Status::conflict("", "pods/binding", &name, &why));
    }
    pod.section("spec").set("nodeName", binding.at("target").text("name"));
    let metadata = pod.section("metadata");
    for (key, value) in wanted.pairs("annotations") {
        metadata.section("annotations").set(key, value.clone());
    }
    for (key, value) in wanted.pairs("labels") {
        metadata.section("labels").fill(key, value.clone());
    }
    pod.section("status").drop("nominatedNodeName");
    let condition = json!({ "type": "PodScheduled", "status": "True", "lastProbeTime": null });
    set_condition(pod.section("status"), condition, now);
    Ok(())
}

/// Says in the pod's conditions that it is about to be deleted by an eviction.
pub fn evict(pod: &mut Value, now: Time) {
    let condition = json!({
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
        "lastProbeTime": null,
    });
    set_condition(pod.section("status"), condition, now);
}

fn refusal(pod: &Value, name: &str) -> Option<String> {
    let node = pod.at("spec").text("nodeName");
    if pod.at("metadata").has("deletionTimestamp") {
        return Some(format!("pod {name} is being deleted, cannot be assigned to a host"));
    }
    if !node.is_empty() {
        return Some(format!("pod {name} is already assigned to node {node:?}"));
    }
    let gated = !pod.at("spec").vacant("schedulingGates");
    gated.then(|| format!("pod {name} has non-empty .spec.schedulingGates"))
}

fn validate(binding: &Value) -> Vec<FieldError> {
    const TARGET: Path = Path::root("target");
    let mut errors = Vec::new();
    let target = binding.at("target");
    let kind = target.text("kind");
    if !matches!(kind, "" | "Node") {
        let supported = ["Node", "<empty>"];
        errors.push(FieldError::not_supported(TARGET.field("kind"), kind, &supported));
    }
    check::required(&TARGET, target, "name", &mut errors);
    if errors.is_empty() {
        check::subdomain(&TARGET.field("name"), target.text("name"), &mut errors);
    }
    errors
}

/// Adds the condition to a status or replaces the one of its type; the transition time moves only
/// when the condition's status does.
pub fn set_condition(status: &mut Value, mut condition: Value, now: Time) {
    let known = status
        .items("conditions")
        .iter()
        .position(|known| known.text("type") == condition.text("type"));
    condition.set("lastTransitionTime", now.to_string());
    match known {
        Some(index) => {
            let known = &mut status.items_mut("conditions")[index];
            if known.text("status") == condition.text("status") && known.has("lastTransitionTime") {
                condition.take_over("lastTransitionTime", known);
            }
            *known = condition;
        }
        None => {
            let mut conditions = status.items("conditions").to_vec();
            conditions.push(condition);
            status.set("conditions", conditions);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding(node: &str) -> Value {
        json!({
            "metadata": {"name": "p", "annotations": {"a": "1"}},
            "target": {"kind": "Node", "name": node},
        })
    }

    #[test]
    fn a_pod_is_bound_once() {
        let now = Time::from_unix(0);
        let mut pod = json!({
            "metadata": {"name": "p", "uid": "u", "annotations": {"b": "2"}},
            "spec": {},
            "status": {"conditions": [{"type": "PodScheduled", "status": "False"}]},
        });
        bind(&mut pod, &binding("n1"), now).unwrap();
        assert_eq!(pod["spec"]["nodeName"], "n1");
        assert_eq!(pod["metadata"]["annotations"], json!({"a": "1", "b": "2"}));
        let scheduled = json!([{
            "type": "PodScheduled", "status": "True", "lastProbeTime": null,
            "lastTransitionTime": "1970-01-01T00:00:00Z",
        }]);
        assert_eq!(pod["status"]["conditions"], scheduled);
        let status = bind(&mut pod, &binding("n2"), now).unwrap_err();
        assert_eq!(status.code, 409);
        assert_eq!(
            status.message,
            "Operation cannot be fulfilled on pods/binding \"p\": pod p is already assigned to \
             node \"n1\""
        );
    }

    #[test]
    fn refused_bindings() {
        let now = Time::from_unix(0);
        let mut pod = json!({"metadata": {"name": "p", "deletionTimestamp": "x"}});
        let status = bind(&mut pod, &binding("n"), now).unwrap_err();
        assert!(status.message.ends_with("pod p is being deleted, cannot be assigned to a host"));
        let mut pod = json!({"metadata": {"name": "p"}});
        let status = bind(&mut pod, &json!({"target": {"kind": "Pod"}}), now).unwrap_err();
        assert_eq!(
            status.message,
            "Binding \"p\" is invalid: [target.kind: Unsupported value: \"Pod\": supported \
             values: \"Node\", \"<empty>\", target.name: Required value]"
        );
        evict(&mut pod, now);
        assert_eq!(pod["status"]["conditions"][0]["reason"], "EvictionByEvictionAPI");
    }
}
