//! Requests that a pod's node answers: logs, exec and attach. The API server checks what it can,
//! finds the node's agent and passes the connection through; it understands nothing of what flows.

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::response::Response;
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
mod view;

/// How nodes are called: with the API server's own client certificate, trusting the cluster's
/// authority. Exchanged when certificates are renewed.
#[derive(Clone)]
pub struct Nodes {
    tls: Arc<ArcSwap<ClientConfig>>,
    clock: Clock,
}

impl Nodes {
    pub fn new(pki: &Pki, clock: &Clock) -> Result<Nodes, TlsError> {
        let tls = Arc::new(ArcSwap::from_pointee(config(pki)?));
        Ok(Nodes { tls, clock: clock.clone() })
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

/// A request to `pods/NAME/{log,exec,attach}`.
pub(crate) async fn handle(
    api: &Api,
    call: &Call<'_>,
    parts: &Parts,
    upgrade: Option<OnUpgrade>,
) -> Result<Response, Status> {
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
