//! What every new pod is given.

use serde_json::{Value, json};

use super::{Denied, Operation, Request};
use crate::kinds::lens::Lens;

/// How long a pod stays on a node that is not ready or not reachable.
const SECONDS: i64 = 300;

/// The account of a pod that names none.
pub(super) fn service_account(request: &Request, pod: &mut Value) -> Result<bool, Denied> {
    if !request.is(Operation::Create, "Pod") {
        return Ok(false);
    }
    let spec = pod.section("spec");
    if spec.text("serviceAccountName").is_empty() {
        spec.set("serviceAccountName", "default");
    }
    let name = spec.at("serviceAccountName").clone();
    if *spec.at("serviceAccount") == name {
        return Ok(false);
    }
    spec.set("serviceAccount", name);
    Ok(true)
}

/// Tolerations of the taints of failing nodes, unless the pod brings its own.
pub(super) fn tolerate(request: &Request, pod: &mut Value) -> Result<bool, Denied> {
    if !request.is(Operation::Create, "Pod") {
        return Ok(false);
    }
    let mut changed = false;
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerations = pod.at("spec").items("tolerations");
        let covered = tolerations.iter().any(|toleration| {
            let of = toleration.text("key");
            (of.is_empty() || of == key) && matches!(toleration.text("effect"), "" | "NoExecute")
        });
        if covered {
            continue;
        }
        let mut tolerations = tolerations.to_vec();
        tolerations.push(json!({
            "key": key,
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": SECONDS,
        }));
        pod.section("spec").set("tolerations", tolerations);
        changed = true;
    }
    Ok(changed)
}
