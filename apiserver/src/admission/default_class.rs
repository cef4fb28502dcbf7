//! The classes that are marked as the cluster's default, for claims and Ingresses that name none.
//! <https://kubernetes.io/docs/concepts/storage/storage-classes/#default-storageclass>
//! <https://kubernetes.io/docs/concepts/services-networking/ingress/#default-ingress-class>

use proto::kind::{self, Row};
use serde_json::Value;

use super::{
    Denied, Operation, Request,
    request::{is_default, read},
};
use crate::kinds::lens::Lens;

const STORAGE: &[&str] = &[
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];
const INGRESS: &[&str] = &["ingressclass.kubernetes.io/is-default-class"];

pub(super) fn storage(request: &Request, claim: &mut Value) -> Result<bool, Denied> {
    let row = &kind::PERSISTENT_VOLUME_CLAIM;
    let named = claim.at("spec").has("storageClassName")
        || annotated(claim, "volume.beta.kubernetes.io/storage-class");
    if named || !request.is(Operation::Create, row) {
        return Ok(false);
    }
    let Some(class) = default(request, &kind::STORAGE_CLASS, STORAGE) else { return Ok(false) };
    claim.section("spec").set("storageClassName", class);
    Ok(true)
}

pub(super) fn ingress(request: &Request, ingress: &mut Value) -> Result<bool, Denied> {
    let named = ingress.at("spec").has("ingressClassName")
        || annotated(ingress, "kubernetes.io/ingress.class");
    if named || !request.is(Operation::Create, &kind::INGRESS) {
        return Ok(false);
    }
    let Some(class) = default(request, &kind::INGRESS_CLASS, INGRESS) else { return Ok(false) };
    ingress.section("spec").set("ingressClassName", class);
    Ok(true)
}

fn annotated(object: &Value, annotation: &str) -> bool {
    object.at("metadata").at("annotations").has(annotation)
}

/// The newest of the classes that are marked; of equals the first by name.
fn default(request: &Request, row: &Row, annotations: &[&str]) -> Option<String> {
    let classes = request.cluster.list(row, "");
    let marked = classes.iter().map(|entry| read(entry));
    let marked = marked.filter(|class| is_default(class, annotations));
    let newest = marked.reduce(|best, class| {
        let age = |class: &Value| class.at("metadata").text("creationTimestamp").to_string();
        if age(&class) > age(&best) { class } else { best }
    })?;
    Some(newest.at("metadata").text("name").to_string())
}
