//! What every cluster has from the start. Made through the API like everything else, and made
//! again where it is gone; what is there and differs only in the server's address is put right.

use std::net::{IpAddr, SocketAddr};

use axum::{Router, body::Body};
use bytes::Bytes;
use futures::future::{try_join, try_join_all};
use http::{Method, Request};
use http_body_util::BodyExt;
use proto::{
    status::Status,
    time::{Day, Time},
    user::User,
};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::{authz::defaults, kinds::service::range::Networks, registry::Registry};

pub(super) mod built_in;

const TRACKING: &str = "kube-apiserver-legacy-service-account-token-tracking";
const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

/// `networks` are where Services get their addresses from; `advertised` is where members of the cluster
/// reach this server, `authority` the certificates that vouch for clients, as PEM.
pub(super) async fn run(
    (router, registry): (&Router, &Registry),
    networks: &Networks,
    advertised: SocketAddr,
    authority: &str,
    now: Time,
) -> Result<(), Status> {
    let namespaces = NAMESPACES.map(|name| {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        async move { create(router, "/api/v1/namespaces", &object).await.map(drop) }
    });
    try_join(try_join_all(namespaces), built_in::ensure(router, networks, now)).await?;
    let core = "/api/v1/namespaces/default";
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
    let parts = [
        ("/api/v1/namespaces/kube-system/configmaps".into(), authentication(authority), false),
        (format!("{core}/services"), service(networks.first.nth(0)), false),
        (format!("{core}/endpoints"), endpoints(advertised), true),
        (slices.to_string(), endpoint_slice(advertised), true),
    ];
    let parts = parts.iter().map(|(path, object, addressed)| async move {
        if !create(router, path, object).await? && *addressed {
            correct(router, path, object).await?;
        }
        Ok::<_, Status>(())
    });
    try_join(try_join_all(parts), tracking(router, now)).await?;
    let roles = defaults::objects().into_iter().map(|it| (it.row, it.object));
    registry.seed(roles, defaults::completed, now).await
}

/// Whether it was absent.
async fn create(router: &Router, path: &str, object: &Value) -> Result<bool, Status> {
    match send(router, Method::POST, path, Some(object)).await {
        Ok(_) => Ok(true),
        Err(status) if status.reason == "AlreadyExists" => Ok(false),
        Err(status) => Err(status),
    }
}

/// Says since when it is noted which tokens of Secrets are used, for who removes the others.
async fn tracking(router: &Router, now: Time) -> Result<(), Status> {
    let path = "/api/v1/namespaces/kube-system/configmaps";
    let today = Day::of(now).to_string();
    let object = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": TRACKING, "namespace": "kube-system"},
        "data": {"since": today},
    });
    if create(router, path, &object).await? {
        return Ok(());
    }
    let path = format!("{path}/{TRACKING}");
    let mut current = send(router, Method::GET, &path, None).await?;
    let since = current["data"]["since"].as_str().unwrap_or_default();
    if since.parse::<Day>().is_ok() {
        return Ok(());
    }
    current["data"]["since"] = today.into();
    send(router, Method::PUT, &path, Some(&current)).await.map(drop)
}

/// Overwrites addresses and ports where they are of another server start.
async fn correct(router: &Router, path: &str, object: &Value) -> Result<(), Status> {
    let path = format!("{path}/kubernetes");
    let mut current = send(router, Method::GET, &path, None).await?;
    let mut changed = false;
    for field in ["subsets", "endpoints", "ports"] {
        if object.get(field).is_some() && current.get(field) != object.get(field) {
            current[field] = object[field].clone();
            changed = true;
        }
    }
    match changed {
        true => send(router, Method::PUT, &path, Some(&current)).await.map(drop),
        false => Ok(()),
    }
}

async fn send(
    router: &Router,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> Result<Value, Status> {
    let bytes = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
    let request = Request::builder()
        .method(method)
        .uri(format!("{path}?fieldManager=kube-apiserver"))
        .header("content-type", "application/json")
        .extension(User::new("system:apiserver", &["system:masters"]))
        .body(Body::from(bytes))
        .map_err(Status::internal)?;
    let response = match router.clone().oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    let ok = response.status().is_success();
    let body = response.into_body().collect().await.map_err(Status::internal)?.to_bytes();
    if !ok {
        return Err(serde_json::from_slice(&body).map_err(Status::internal)?);
    }
    serde_json::from_slice(&body).map_err(Status::internal)
}

fn service(kubernetes: IpAddr) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "type": "ClusterIP",
            "clusterIP": kubernetes.to_string(),
            "sessionAffinity": "None",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}],
        },
    })
}

/// For servers that check their own requests by asking this one.
fn authentication(authority: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "extension-apiserver-authentication", "namespace": "kube-system"},
        "data": {"client-ca-file": authority},
    })
}

/// Nobody but this machine reaches a loopback address, so there is no endpoint then.
fn reachable(address: IpAddr) -> bool {
    !address.is_loopback()
}

fn endpoints(advertised: SocketAddr) -> Value {
    let subsets = match reachable(advertised.ip()) {
        false => json!([]),
        true => json!([{
            "addresses": [{"ip": advertised.ip().to_string()}],
            "ports": [{"name": "https", "port": advertised.port(), "protocol": "TCP"}],
        }]),
    };
    json!({
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": subsets,
    })
}

fn endpoint_slice(advertised: SocketAddr) -> Value {
    let endpoints = match reachable(advertised.ip()) {
        false => json!([]),
        true => json!([{
            "addresses": [advertised.ip().to_string()],
            "conditions": {"ready": true},
        }]),
    };
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": "kubernetes"},
        },
        "addressType": if advertised.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": endpoints,
        "ports": [{"name": "https", "port": advertised.port(), "protocol": "TCP"}],
    })
}
