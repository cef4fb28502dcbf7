//! The edge: from an HTTP request to a call of the registry and back. It authenticates, authorizes,
//! negotiates and renders; it decides nothing about objects. Every failure leaves as a Status.

use std::{panic::AssertUnwindSafe, sync::Arc};

use axum::{Router, body::Body, extract::State, response::Response};
use client::Clock;
use futures::FutureExt;
use http::{Request, header, request::Parts};
use proto::status::Status;

use crate::{
    authn::{Authenticator, Identity},
    authz::{self, Attributes, What},
    discovery::Discovery,
    node::Nodes,
    registry::Registry,
};

pub mod accept;
mod answer;
mod body;
pub mod coalesce;
mod compress;
mod documents;
mod health;
mod impersonate;
mod openapi;
pub mod query;
mod resource;
pub mod target;
mod websocket;

pub use health::{Check, Health};
pub use openapi::OpenApi;

use target::{ResourcePath, Target};

/// Everything a request may need.
pub struct Api {
    pub registry: Registry,
    pub authenticator: Authenticator,
    pub discovery: Discovery,
    pub openapi: OpenApi,
    pub health: Health,
    pub nodes: Nodes,
    pub clock: Clock,
}

/// The router of the API: one handler, since paths derive from rows.
pub fn router(api: Arc<Api>) -> Router {
    Router::new().fallback(handle).with_state(api)
}

async fn handle(State(api): State<Arc<Api>>, request: Request<Body>) -> Response {
    let (mut parts, body) = request.into_parts();
    let outcome = AssertUnwindSafe(dispatch(&api, &mut parts, body)).catch_unwind().await;
    let result = outcome.unwrap_or_else(|_| {
        tracing::error!(method = %parts.method, uri = %parts.uri, "a request panicked");
        Err(Status::internal(
            "this request caused an apiserver panic. Look in the logs for details",
        ))
    });
    match result {
        Ok(response) => response,
        Err(status) => answer::failure(&status, header_text(&parts, header::ACCEPT)),
    }
}

async fn dispatch(api: &Arc<Api>, parts: &mut Parts, body: Body) -> Result<Response, Status> {
    let path = parts.uri.path().to_string();
    let target = Target::parse(&path);
    let identity = match api.authenticator.identify(parts)? {
        Identity::Known(user) => {
            Identity::Known(impersonate::resolve(user, &parts.headers, &api.registry)?)
        }
        Identity::Anonymous => Identity::Anonymous,
    };
    if let Target::Resource(resource) = &target {
        let Identity::Known(user) = identity else { return Err(Status::unauthorized()) };
        return resource::handle(api, parts, body, resource, &user).await;
    }
    match identity {
        Identity::Known(user) => {
            let method = parts.method.as_str().to_ascii_lowercase();
            let attributes = Attributes { user: &user, verb: &method, what: What::Path(&path) };
            authz::authorize(&attributes, &api.registry)
                .map_err(|why| Status::failure(403, "Forbidden", format!("forbidden: {why}")))?;
        }
        Identity::Anonymous if is_public(&target) => {}
        Identity::Anonymous => return Err(Status::unauthorized()),
    }
    documents::handle(api, parts, &path, &target).await
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
