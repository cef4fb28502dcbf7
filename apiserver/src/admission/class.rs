//! Classes that a pod may name: priorities and runtimes. Of priorities only the two that Kubernetes
//! itself defines exist here, of runtimes none; a pod that names another one is refused.

use proto::status::Status;
use serde_json::Value;

use super::{Denied, Operation, Request};
use crate::kinds::lens::Lens;

const PRIORITIES: &[(&str, i64)] =
    &[("", 0), ("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];

/// Computes the priority of a new pod from the class that it names.
pub(super) fn priority(request: &Request, pod: &mut Value) -> Result<bool, Denied> {
    if !request.is(Operation::Create, "Pod") {
        return Ok(false);
    }
    let spec = pod.section("spec");
    let name = spec.text("priorityClassName");
    let Some((_, priority)) = PRIORITIES.iter().find(|(known, _)| *known == name) else {
        return Err(refused(request, &format!("no PriorityClass with name {name} was found")));
    };
    if let Some(given) = spec.int("priority").filter(|given| given != priority) {
        let why = format!(
            "the integer value of priority ({given}) must not be provided in pod spec; priority \
             admission controller computed {priority} from the given PriorityClass name"
        );
        return Err(refused(request, &why));
    }
    spec.set("priority", *priority);
    spec.fill("preemptionPolicy", "PreemptLowerPriority");
    Ok(true)
}

/// A runtime class must exist.
pub(super) fn runtime(request: &Request, pod: &mut Value) -> Result<bool, Denied> {
    let name = pod.at("spec").text("runtimeClassName");
    if request.is(Operation::Create, "Pod") && !name.is_empty() {
        let why = format!("pod rejected: RuntimeClass {name:?} not found");
        return Err(refused(request, &why));
    }
    Ok(false)
}

fn refused(request: &Request, why: &str) -> Denied {
    Denied(Status::forbidden("", "pods", request.name, why))
}
