//! New nodes, and what nodes may write in their own name.

use proto::status::Status;
use serde_json::{Value, json};

use super::{Denied, Operation, Request};
use crate::kinds::lens::Lens;

/// A new node takes no pods until its conditions have been seen.
pub(super) fn taint_new(request: &Request, node: &mut Value) -> Result<bool, Denied> {
    const KEY: &str = "node.kubernetes.io/not-ready";
    if !request.is(Operation::Create, "Node") {
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

/// A node writes objects of its own name only; the authorizer has looked at paths, this looks at
/// what a path does not say.
pub(super) fn restrict(request: &Request, object: Option<&Value>) -> Result<(), Denied> {
    let Some(node) = request.user.name.strip_prefix("system:node:") else { return Ok(()) };
    if !request.user.groups.iter().any(|group| group == "system:nodes") {
        return Ok(());
    }
    let deny = |why: String| {
        let row = request.row;
        Err(Denied(Status::forbidden(&row.group, &row.resource, request.name, &why)))
    };
    match (&*request.row.kind, request.operation) {
        ("Node", Operation::Create) if request.name != node => {
            deny(format!("node {node:?} is not allowed to modify node {:?}", request.name))
        }
        ("Lease", Operation::Create) if request.name != node => {
            deny("can only access node lease with the same name as the requesting node".into())
        }
        ("Node", Operation::Update) if request.subresource.is_empty() => {
            let taints =
                |node: Option<&Value>| node.map(|node| node.at("spec").at("taints").clone());
            if taints(object) == taints(request.old) {
                return Ok(());
            }
            deny(format!("node {node:?} is not allowed to modify taints"))
        }
        _ => Ok(()),
    }
}
