//! Requests that others answer: logs, exec, attach and port forwarding by a pod's node; proxied
//! requests by a pod, a Service's pods or a node. The API server checks what it can, finds where
//! the answer comes from and passes the connection through; it understands nothing of what flows.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::{body::Body, response::Response};
use client::Clock;
use http::request::Parts;
use hyper::upgrade::OnUpgrade;
use proto::status::Status;
use rustls::ClientConfig;

use crate::{
    http::{Api, query::Query},
    pki::Pki,
    registry::Call,
    server::tls::{self, TlsError},
};

mod connect;
mod container;
mod exec;
mod log;
mod place;
mod proxy;
mod splice;
mod usage;

pub use usage::{Usage, Used, UsedByNode};

/// How nodes are called: with the API server's own client certificate, trusting the cluster's
/// authority. Exchanged when certificates are renewed. Pods and other servers of nodes, whose
/// authorities nobody knows, are believed whatever they show, and shown nothing.
#[derive(Clone)]
pub struct Nodes {
    tls: Arc<ArcSwap<ClientConfig>>,
    blind: Arc<ClientConfig>,
    clock: Clock,
}

/// The subresources that are answered here.
pub(crate) fn answers(subresource: &str) -> bool {
    matches!(subresource, "log" | "exec" | "attach" | "portforward" | "proxy")
}

impl Nodes {
    pub fn new(pki: &Pki, clock: &Clock) -> Result<Nodes, TlsError> {
        let tls = Arc::new(ArcSwap::from_pointee(config(pki)?));
        let blind = Arc::new(client::transport::unverified().map_err(TlsError::Serving)?);
        Ok(Nodes { tls, blind, clock: clock.clone() })
    }

    pub fn renew(&self, pki: &Pki) -> Result<(), TlsError> {
        self.tls.store(Arc::new(config(pki)?));
        Ok(())
    }
}

fn config(pki: &Pki) -> Result<ClientConfig, TlsError> {
    let (chain, key) = tls::identity(&pki.kubelet_client)?;
    ClientConfig::builder_with_provider(tls::provider())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Serving)?
        .with_root_certificates(tls::roots(pki.ca())?)
        .with_client_auth_cert(chain, key)
        .map_err(TlsError::Serving)
}

/// A request to `pods/NAME/{log,exec,attach,portforward}` or to `…/proxy` of anything.
pub(crate) async fn handle(
    api: &Api,
    call: &Call<'_>,
    parts: &Parts,
    body: Body,
    upgrade: Option<OnUpgrade>,
) -> Result<Response, Status> {
    if call.subresource == "proxy" {
        api.registry.admit_connection(call).await?;
        return proxy::pass(api, call, parts, body, upgrade).await;
    }
    let entry = call
        .kind
        .cache
        .get(call.namespace, call.name)
        .ok_or_else(|| Status::not_found("", "pods", call.name))?;
    let pod: container::Pod = serde_json::from_slice(&entry.bytes())
        .map_err(|error| Status::internal(format!("reading pod {}: {error}", call.name)))?;
    match (call.subresource, call.verb) {
        ("log", "get") => log::stream(api, call, &pod).await,
        ("exec" | "attach", "get" | "create") => {
            api.registry.admit_connection(call).await?;
            exec::connect(api, call, parts, upgrade, &pod).await
        }
        ("portforward", "get" | "create") => {
            api.registry.admit_connection(call).await?;
            exec::forward(api, call, parts, upgrade, &pod).await
        }
        _ => Err(Status::method_not_allowed()),
    }
}

/// Query parameters that are passed on, encoded.
fn passed_on(query: &Query, names: &[&str]) -> String {
    let mut encoded = url::form_urlencoded::Serializer::new(String::new());
    for name in names {
        for value in query.all(name) {
            encoded.append_pair(name, value);
        }
    }
    encoded.finish()
}
