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
    if request.is(Operation::Delete, &kind::NAMESPACE) && IMMORTAL.contains(&request.name) {
        return Err(request.forbidden("this namespace may not be deleted"));
    }
    Ok(())
}

fn in_living_namespace(request: &Request) -> Result<(), Denied> {
    let namespace = request.namespace;
    if !request.row.namespaced || namespace.is_empty() {
        return Ok(());
    }
    let Some(entry) = request.cluster.get(&kind::NAMESPACE, "", namespace) else {
        return Err(Denied(Status::not_found("", "namespaces", namespace)));
    };
    if entry.field("status.phase") != Some("Terminating") {
        return Ok(());
    }
    let why = format!(
        "unable to create new content in namespace {namespace} because it is being terminated"
    );
    let Denied(status) = request.forbidden(why);
    Err(Denied(status.because(
        "NamespaceTerminating",
        &format!("namespace {namespace} is being terminated"),
        "metadata.namespace",
    )))
}
