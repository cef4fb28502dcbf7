//! The edge: from an HTTP request to a call of the registry and back. It authenticates, authorizes,
//! negotiates and renders; it decides nothing about objects. Every failure leaves as a Status.

use std::{panic::AssertUnwindSafe, sync::Arc};

use axum::{Router, body::Body, extract::State, response::Response};
use client::{Clock, Rng};
use futures::FutureExt;
use http::{Method, Request, header, request::Parts};
use proto::status::Status;

use crate::{
    audit::Audit,
    authn::{ANONYMOUS, Authenticator},
    authz::{Attributes, What},
    discovery::Discovery,
    flow::Flow,
    metrics::Metrics,
    node::{Nodes, Usage},
    registry::Registry,
};

pub mod accept;
mod answer;
mod backup;
mod body;
pub mod coalesce;
mod component_status;
mod compress;
mod deadline;
mod documents;
mod exchange;
mod health;
mod impersonate;
mod openapi;
pub mod query;
mod resource;
mod resource_metrics;
pub mod target;
mod websocket;

pub use backup::{Backup, PATH as BACKUP};
pub use documents::{GIT_VERSION, platform};
pub use exchange::Source;
pub use health::{Check, Health};
pub use openapi::OpenApi;

use exchange::{Asked, Exchange};
use query::Query;
use target::{ResourcePath, Target};

/// Everything a request may need.
pub struct Api {
    pub registry: Registry,
    pub authenticator: Authenticator,
    pub discovery: Discovery,
    pub openapi: OpenApi,
    pub health: Health,
    pub nodes: Nodes,
    pub usage: Usage,
    pub backup: Backup,
    pub flow: Arc<Flow>,
    pub metrics: Arc<Metrics>,
    pub audit: Option<Arc<Audit>>,
    /// Where others reach this server: `HOST:PORT`.
    pub address: String,
    pub clock: Clock,
    pub rng: Rng,
}

/// The router of the API: one handler, since paths derive from rows.
pub fn router(api: Arc<Api>) -> Router {
    Router::new().fallback(handle).with_state(api)
}

async fn handle(State(api): State<Arc<Api>>, request: Request<Body>) -> Response {
    let (mut parts, body) = request.into_parts();
    let mut exchange = Exchange::begin(&api, &parts);
    let answering = dispatch(&api, &mut parts, body, &mut exchange);
    let outcome = AssertUnwindSafe(answering).catch_unwind().await;
    let result = outcome.unwrap_or_else(|_| {
        tracing::error!(method = %parts.method, uri = %parts.uri, "a request panicked");
        exchange.panicked(&api);
        Err(Status::internal(
            "this request caused an apiserver panic. Look in the logs for details",
        ))
    });
    let response = match result {
        Ok(response) => response,
        Err(status) => answer::failure(&status, header_text(&parts, header::ACCEPT)),
    };
    exchange.end(&api, response).await
}

async fn dispatch(
    api: &Arc<Api>,
    parts: &mut Parts,
    body: Body,
    exchange: &mut Exchange,
) -> Result<Response, Status> {
    let path = parts.uri.path().to_string();
    let target = Target::parse(&path);
    match deadline::of(&target, parts.uri.query())? {
        None => proceed(api, parts, body, exchange, (&path, target)).await,
        Some(limit) => {
            let answering = proceed(api, parts, body, exchange, (&path, target));
            let answered = api.clock.timeout(limit, answering).await;
            answered.unwrap_or_else(|_| Err(deadline::exceeded()))
        }
    }
}

async fn proceed(
    api: &Arc<Api>,
    parts: &mut Parts,
    body: Body,
    exchange: &mut Exchange,
    (path, target): (&str, Target<'_>),
) -> Result<Response, Status> {
    let user = api.authenticator.identify(parts, &api.registry).await?;
    let acting = impersonate::resolve(user.clone(), &parts.headers, api.registry.authorizer())?;
    if let Target::Resource(resource) = &target {
        return resource::handle(api, parts, body, resource, (&user, &acting), exchange).await;
    }
    let (verb, what) = (lower_case(&parts.method), What::Path(path));
    // Probes never wait.
    if user.name != ANONYMOUS || !is_public(&target) {
        let uri = parts.uri.clone();
        let query = &Query::parse(uri.query());
        let asked = Asked { user: &user, acting: &acting, verb, what, version: "", query };
        exchange.admit(api, parts, asked).await?;
    }
    let attributes = Attributes { user: &acting, verb, what, fields: None };
    let verdict = match target {
        // Whoever may do nothing may ask whether the server lives.
        Target::Health { check: None, .. } => Ok(()),
        _ => api.registry.authorizer().authorize(&attributes),
    };
    exchange.decided(&verdict);
    verdict.map_err(|why| Status::failure(403, "Forbidden", format!("forbidden: {why}")))?;
    documents::handle(api, parts, path, &target).await
}

/// The verb of a path that is no resource.
fn lower_case(method: &Method) -> &'static str {
    const METHODS: [(Method, &str); 7] = [
        (Method::GET, "get"),
        (Method::HEAD, "head"),
        (Method::POST, "post"),
        (Method::PUT, "put"),
        (Method::PATCH, "patch"),
        (Method::DELETE, "delete"),
        (Method::OPTIONS, "options"),
    ];
    METHODS.iter().find(|(known, _)| known == method).map_or("connect", |(_, verb)| verb)
}

/// What anybody may ask.
fn is_public(target: &Target) -> bool {
    matches!(target, Target::Health { .. } | Target::Version)
}

/// The value of a header, where it is text.
fn header_text(parts: &Parts, name: header::HeaderName) -> Option<&str> {
    parts.headers.get(name).and_then(|value| value.to_str().ok())
}

/// What authorization is asked about a resource. `name` is that of the path, or the only one that
/// a field selector admits.
fn what<'a>(path: &'a ResourcePath<'a>, name: &'a str) -> What<'a> {
    What::Resource {
        group: &path.group,
        resource: &path.resource,
        subresource: &path.subresource,
        namespace: &path.namespace,
        name,
    }
}
