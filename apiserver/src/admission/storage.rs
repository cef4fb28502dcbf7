//! What keeps volumes from being pulled from under pods, and claims from growing where their class
//! does not allow it.

use proto::{kind, quantity::Quantity};
use serde_json::Value;

use super::{Denied, Operation, Request, request::read};
use crate::kinds::{lens::Lens, pod::resources};

/// New claims and volumes get the finalizers that the protection controllers take off.
/// <https://kubernetes.io/docs/concepts/storage/persistent-volumes/#storage-object-in-use-protection>
pub(super) fn protect(request: &Request, object: &mut Value) -> Result<bool, Denied> {
    let finalizer = if request.is(Operation::Create, &kind::PERSISTENT_VOLUME_CLAIM) {
        "kubernetes.io/pvc-protection"
    } else if request.is(Operation::Create, &kind::PERSISTENT_VOLUME) {
        "kubernetes.io/pv-protection"
    } else {
        return Ok(false);
    };
    let metadata = object.section("metadata");
    if metadata.items("finalizers").iter().any(|known| known == finalizer) {
        return Ok(false);
    }
    let mut finalizers = metadata.items("finalizers").to_vec();
    finalizers.push(finalizer.into());
    metadata.set("finalizers", finalizers);
    Ok(true)
}

/// Only bound claims grow, and only where their class says so.
/// <https://kubernetes.io/docs/concepts/storage/persistent-volumes/#expanding-persistent-volumes-claims>
pub(super) fn resize(request: &Request, new: Option<&Value>) -> Result<(), Denied> {
    let (Some(new), Some(old)) = (new, request.old) else { return Ok(()) };
    if !request.is(Operation::Update, &kind::PERSISTENT_VOLUME_CLAIM) || size(new) <= size(old) {
        return Ok(());
    }
    if old.at("status").text("phase") != "Bound" {
        return Err(request.forbidden("Only bound persistent volume claims can be expanded"));
    }
    let name = class(new);
    let class = request.cluster.get(&kind::STORAGE_CLASS, "", name).map(|entry| read(&entry));
    let allows = |class: &Value| class.flag("allowVolumeExpansion") == Some(true);
    if !name.is_empty() && name == self::class(old) && class.as_ref().is_some_and(allows) {
        return Ok(());
    }
    Err(request.forbidden(
        "only dynamically provisioned pvc can be resized and the storageclass that provisions the \
         pvc must support resize",
    ))
}

fn size(claim: &Value) -> Quantity {
    let requests = claim.at("spec").at("resources").at("requests");
    resources::read(requests.at("storage")).unwrap_or_default()
}

fn class(claim: &Value) -> &str {
    let annotations = claim.at("metadata").at("annotations");
    match annotations.text("volume.beta.kubernetes.io/storage-class") {
        "" => claim.at("spec").text("storageClassName"),
        class => class,
    }
}
