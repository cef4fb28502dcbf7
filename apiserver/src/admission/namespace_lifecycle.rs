//! Nothing is created in a namespace that is not there or is on its way out, and the namespaces a
//! cluster cannot be without are not deleted.

use proto::{kind, status::Status};
use serde_json::Value;

use super::{Denied, Operation, Request};

/// These may not be deleted.
const IMMORTAL: &[&str] = &["default", "kube-system", "kube-public"];

pub(super) fn refuse_early(request: &Request, _object: &mut Value) -> Result<bool, Denied> {
    if request.operation == Operation::Create {
        in_living_namespace(request)?;
    }
    Ok(false)
}

pub(super) fn validate(request: &Request, _object: Option<&Value>) -> Result<(), Denied> {
    let doomed = request.operation == Operation::Delete
        && request.row.kind == "Namespace"
        && request.row.group.is_empty()
        && IMMORTAL.contains(&request.name);
    if doomed {
        let why = "this namespace may not be deleted";
        return Err(Denied(Status::forbidden("", "namespaces", request.name, why)));
    }
    Ok(())
}

fn in_living_namespace(request: &Request) -> Result<(), Denied> {
    let namespace = request.namespace;
    if !request.row.namespaced || namespace.is_empty() {
        return Ok(());
    }
    let Some(entry) = request.registry.of(&kind::NAMESPACE).cache.get("", namespace) else {
        return Err(Denied(Status::not_found("", "namespaces", namespace)));
    };
    if entry.field("status.phase") != Some("Terminating") {
        return Ok(());
    }
    let why = format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    );
    let status = Status::forbidden(&request.row.group, &request.row.resource, request.name, &why)
        .because(
            "NamespaceTerminating",
            &format!("namespace {namespace} is being terminated"),
            "metadata.namespace",
        );
    Err(Denied(status))
}
