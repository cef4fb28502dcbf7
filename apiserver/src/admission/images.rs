//! AlwaysPullImages: whoever names an image proves to its registry that they may have it.

use proto::{kind, status::Status};
use serde_json::Value;

use super::{Denied, Operation, Request};
use crate::kinds::lens::Lens;

const LISTS: [&str; 3] = ["containers", "initContainers", "ephemeralContainers"];

pub(super) fn pull_always(request: &Request, pod: &mut Value) -> Result<bool, Denied> {
    if !applies(request) {
        return Ok(false);
    }
    for list in LISTS {
        for container in pod.section("spec").items_mut(list) {
            container.set("imagePullPolicy", "Always");
        }
    }
    Ok(true)
}

pub(super) fn validate(request: &Request, pod: Option<&Value>) -> Result<(), Denied> {
    let Some(pod) = pod.filter(|_| applies(request)) else { return Ok(()) };
    for list in LISTS {
        for container in pod.at("spec").items(list) {
            let policy = container.text("imagePullPolicy");
            if policy != "Always" {
                let field = format!("{} {policy}", container.text("name"));
                let why = format!("imagePullPolicy of container {field} must be Always");
                return Err(Denied(Status::forbidden("", "pods", request.name, &why)));
            }
        }
    }
    Ok(())
}

fn applies(request: &Request) -> bool {
    let written = matches!(request.operation, Operation::Create | Operation::Update);
    let pods = request.concerns(&kind::POD);
    written && pods && matches!(request.subresource, "" | "ephemeralcontainers")
}
