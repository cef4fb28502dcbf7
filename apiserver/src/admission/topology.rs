//! PodTopologyLabels: a pod that gets a node carries the zone and the region of that node.

use proto::kind;
use serde_json::Value;

use super::{Denied, Operation, Request};
use crate::kinds::lens::Lens;

const COPIED: [&str; 2] = ["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// Of a Binding, whose labels go to the pod, and of a new pod that names its node itself. Labels
/// that are there stay.
pub(super) fn label(request: &Request, object: &mut Value) -> Result<bool, Denied> {
    if request.operation != Operation::Create || !request.concerns(&kind::POD) {
        return Ok(false);
    }
    let target = object.at("target");
    let node = match request.subresource {
        "" => object.at("spec").text("nodeName"),
        "binding" if matches!(target.text("kind"), "" | "Node") => target.text("name"),
        _ => "",
    };
    if node.is_empty() {
        return Ok(false);
    }
    let Some(node) = request.cluster.get(&kind::NODE, "", node) else { return Ok(false) };
    let mut changed = false;
    for key in COPIED {
        if let Some(value) = node.labels.get(key)
            && !object.at("metadata").at("labels").has(key)
        {
            object.section("metadata").section("labels").set(key, value.as_str());
            changed = true;
        }
    }
    Ok(changed)
}
