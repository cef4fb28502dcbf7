//! Tolerations that every new pod is given.

use std::collections::BTreeSet;

use proto::{kind, quantity::Quantity};
use serde_json::{Value, json};

use super::{Denied, Operation, Request};
use crate::kinds::{lens::Lens, pod::resources};

/// How long a pod stays on a node that is not ready or not reachable.
const SECONDS: i64 = 300;

/// Tolerations of the taints of failing nodes, unless the pod brings its own.
pub(super) fn tolerate(request: &Request, pod: &mut Value) -> Result<bool, Denied> {
    if !request.is(Operation::Create, &kind::POD) {
        return Ok(false);
    }
    let mut changed = false;
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let covered = pod.at("spec").items("tolerations").iter().any(|toleration| {
            let of = toleration.text("key");
            (of.is_empty() || of == key) && matches!(toleration.text("effect"), "" | "NoExecute")
        });
        if covered {
            continue;
        }
        add(
            pod,
            json!({
                "key": key,
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": SECONDS,
            }),
        );
        changed = true;
    }
    Ok(changed)
}

/// A toleration per extended resource that the pod asks for, so that nodes which have it can be
/// kept for such pods by a taint of its name.
pub(super) fn tolerate_extended(request: &Request, pod: &mut Value) -> Result<bool, Denied> {
    if !request.is(Operation::Create, &kind::POD) {
        return Ok(false);
    }
    let spec = pod.at("spec");
    let containers = spec.items("containers").iter().chain(spec.items("initContainers"));
    let asked = containers.flat_map(|container| container.at("resources").pairs("requests"));
    let extended: BTreeSet<String> = asked
        .filter(|(name, amount)| {
            proto::quota::is_extended(name)
                && resources::read(amount).is_some_and(|amount| amount > Quantity::ZERO)
        })
        .map(|(name, _)| name.to_string())
        .collect();
    let mut changed = false;
    for name in extended {
        let wanted = json!({"key": name, "operator": "Exists", "effect": "NoSchedule"});
        let tolerations = pod.at("spec").items("tolerations");
        let covered = tolerations.iter().any(|toleration| {
            toleration.text("key") == name
                && toleration.text("operator") == "Exists"
                && matches!(toleration.text("effect"), "" | "NoSchedule")
        });
        if !covered {
            add(pod, wanted);
            changed = true;
        }
    }
    Ok(changed)
}

fn add(pod: &mut Value, toleration: Value) {
    let mut tolerations = pod.at("spec").items("tolerations").to_vec();
    tolerations.push(toleration);
    pod.section("spec").set("tolerations", tolerations);
}
