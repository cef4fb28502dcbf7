//! ServiceAccount: every pod acts as an account of its namespace.
//! <https://kubernetes.io/docs/concepts/security/service-accounts/>

use std::time::Duration;

use client::Rng;
use futures::future::BoxFuture;
use proto::{kind, view::service_account::ServiceAccount as Account};
use serde_json::{Value, json};

use super::{Denied, Effect, Operation, Plugin, Request, mountable, node};
use crate::kinds::lens::Lens;

/// The mark of pods that an agent runs from a file; they act as nobody.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Where programs look for the token of the pod they run in.
const TOKEN_FOLDER: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// How the names of the volumes with a token begin.
const TOKEN_VOLUME: &str = "kube-api-access-";
/// An hour, and the seven seconds by which the server knows such a token: it makes it last for
/// programs that never read it anew.
const TOKEN_SECONDS: i64 = 3607;

/// A namespace is there a moment before its default account is.
const ATTEMPTS: usize = 8;
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct ServiceAccount;

impl Plugin for ServiceAccount {
    fn mutate<'a>(
        &'a self,
        request: &'a Request<'a>,
        pod: &'a mut Value,
    ) -> BoxFuture<'a, Result<Effect, Denied>> {
        Box::pin(async move { give(request, pod).await.map(Effect::from) })
    }

    fn validate<'a>(
        &'a self,
        request: &'a Request<'a>,
        pod: Option<&'a Value>,
    ) -> BoxFuture<'a, Result<(), Denied>> {
        Box::pin(async move {
            let Some(pod) = pod.filter(|_| request.concerns(&kind::POD)) else {
                return Ok(());
            };
            let check = match (request.operation, request.subresource) {
                (Operation::Create, "") if is_mirror(pod) => return check_mirror(request, pod),
                (Operation::Create, "") => mountable::check,
                (Operation::Update, "ephemeralcontainers") => mountable::check_ephemeral,
                _ => return Ok(()),
            };
            let account = find(request, pod.at("spec").text("serviceAccountName")).await?;
            check(&account, pod).map_err(|why| request.forbidden(why))
        })
    }
}

async fn give(request: &Request<'_>, pod: &mut Value) -> Result<bool, Denied> {
    if !request.is(Operation::Create, &kind::POD) {
        return Ok(false);
    }
    if is_mirror(pod) {
        // Refused before it is validated, as upstream.
        return check_mirror(request, pod).map(|()| false);
    }
    let spec = pod.section("spec");
    if spec.text("serviceAccountName").is_empty() {
        spec.set("serviceAccountName", "default");
    }
    let name = spec.text("serviceAccountName").to_string();
    spec.set("serviceAccount", name.as_str());
    let account = find(request, &name).await?;
    // The pod has the last word.
    let asked = spec.flag("automountServiceAccountToken");
    if asked.or(account.automount_service_account_token).unwrap_or(true) {
        mount_token(spec, request.cluster.rng());
    }
    if spec.vacant("imagePullSecrets") && !account.image_pull_secrets.is_empty() {
        spec.set("imagePullSecrets", json!(account.image_pull_secrets));
    }
    Ok(true)
}

/// A volume with the account's token, mounted in every container that has nothing in its place.
fn mount_token(spec: &mut Value, rng: &Rng) {
    let mut names = spec.items("volumes").iter().map(|volume| volume.text("name"));
    let known = names.find(|name| name.starts_with(TOKEN_VOLUME)).map(String::from);
    let name = known.clone().unwrap_or_else(|| format!("{TOKEN_VOLUME}{}", rng.suffix()));
    let mut wanted = false;
    for field in ["initContainers", "containers"] {
        for container in spec.items_mut(field) {
            let mut mounts = container.items("volumeMounts").iter();
            if mounts.all(|mount| mount.text("mountPath") != TOKEN_FOLDER) {
                let mount = json!({"name": name, "readOnly": true, "mountPath": TOKEN_FOLDER});
                push(container, "volumeMounts", mount);
                wanted = true;
            }
        }
    }
    if wanted && known.is_none() {
        push(spec, "volumes", token_volume(&name));
    }
}

/// The token, the authority that vouches for the server, and the namespace.
fn token_volume(name: &str) -> Value {
    let namespace = json!({"apiVersion": "v1", "fieldPath": "metadata.namespace"});
    json!({"name": name, "projected": {
        "defaultMode": 420,
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
            {"configMap": {
                "name": "kube-root-ca.crt",
                "items": [{"key": "ca.crt", "path": "ca.crt"}],
            }},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": namespace}]}},
        ],
    }})
}

fn push(value: &mut Value, field: &str, item: Value) {
    match value.get_mut(field).and_then(Value::as_array_mut) {
        Some(items) => items.push(item),
        None => value.set(field, vec![item]),
    }
}

async fn find(request: &Request<'_>, name: &str) -> Result<Account, Denied> {
    let namespace = request.namespace;
    for attempt in 1..=ATTEMPTS {
        if let Some(entry) = request.cluster.get(&kind::SERVICE_ACCOUNT, namespace, name) {
            return serde_json::from_slice(&entry.bytes()).map_err(|error| {
                let why = format!("error looking up service account {namespace}/{name}: {error}");
                request.forbidden(why)
            });
        }
        let attempts = if name == "default" { ATTEMPTS } else { 2 };
        if attempt >= attempts {
            break;
        }
        request.cluster.fresh().await.map_err(Denied)?;
        if name == "default" {
            request.cluster.clock().sleep(PAUSE).await;
        }
    }
    Err(request.forbidden(format!(
        "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
    )))
}

fn is_mirror(pod: &Value) -> bool {
    pod.at("metadata").at("annotations").has(MIRROR)
}

/// A mirror pod stands for one that runs already, without anything of the API.
fn check_mirror(request: &Request, pod: &Value) -> Result<(), Denied> {
    let spec = pod.at("spec");
    let token = |volume: &Value| {
        let sources = volume.at("projected").items("sources");
        sources.iter().any(|source| source.has("serviceAccountToken"))
    };
    if !spec.text("serviceAccountName").is_empty() {
        return Err(request.forbidden("a mirror pod may not reference service accounts"));
    }
    if node::mentions(spec, node::SECRETS) {
        return Err(request.forbidden("a mirror pod may not reference secrets"));
    }
    if spec.items("volumes").iter().any(token) {
        return Err(
            request.forbidden("a mirror pod may not use ServiceAccountToken volume projections")
        );
    }
    Ok(())
}
