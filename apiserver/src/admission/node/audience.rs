//! For whom a node may ask the tokens of a pod: whoever its volumes name, and whoever a role lets it.
//! <https://kubernetes.io/docs/reference/access-authn-authz/service-accounts-admin/#node-audience-restriction>

use proto::{kind, kind::Row};
use serde_json::Value;

use super::Request;
use crate::{
    authz::{Attributes, What},
    kinds::lens::Lens,
};

/// Empty is the API server.
pub(super) fn wanted(request: &Request, pod: &Value, audience: &str) -> bool {
    let volumes = pod.at("spec").items("volumes");
    let any = volumes.iter().any(|volume| of_volume(request, pod, volume, audience));
    any || may(request, audience)
}

fn of_volume(request: &Request, pod: &Value, volume: &Value, audience: &str) -> bool {
    let sources = volume.at("projected").items("sources").iter();
    let mut tokens = sources.filter(|source| source.has("serviceAccountToken"));
    if tokens.any(|source| source.at("serviceAccountToken").text("audience") == audience) {
        return true;
    }
    let claim = match volume.has("ephemeral") {
        true => format!("{}-{}", pod.at("metadata").text("name"), volume.text("name")),
        false => volume.at("persistentVolumeClaim").text("claimName").to_string(),
    };
    let driver = match claim.as_str() {
        "" => volume.at("csi").text("driver").to_string(),
        claim => driver_of(request, claim),
    };
    let driver = read(request, &kind::CSI_DRIVER, "", &driver);
    let requests = driver.at("spec").items("tokenRequests");
    requests.iter().any(|request| request.text("audience") == audience)
}

/// The driver of the volume that a claim is bound to.
fn driver_of(request: &Request, claim: &str) -> String {
    let claim = read(request, &kind::PERSISTENT_VOLUME_CLAIM, request.namespace, claim);
    let volume = claim.at("spec").text("volumeName");
    let volume = read(request, &kind::PERSISTENT_VOLUME, "", volume);
    volume.at("spec").at("csi").text("driver").to_string()
}

fn read(request: &Request, row: &Row, namespace: &str, name: &str) -> Value {
    let entry = request.cluster.get(row, namespace, name);
    entry.and_then(|entry| serde_json::from_slice(&entry.bytes()).ok()).unwrap_or_default()
}

/// Roles name audiences as if they were resources.
fn may(request: &Request, audience: &str) -> bool {
    let what = What::Resource {
        group: "",
        resource: audience,
        subresource: "",
        namespace: request.namespace,
        name: request.name,
    };
    let verb = "request-serviceaccounts-token-audience";
    request.cluster.allows(&Attributes { user: request.user, verb, what, fields: None })
}
