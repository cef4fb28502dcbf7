//! The HTTPS endpoint of the agent, with the kubelet's paths: logs, exec and the like for the API
//! server, figures and health for whoever watches the node. A caller is known by a client certificate
//! of the cluster's authority or by a token, and may what the API server says that it may; there is no
//! list of callers in here, and no path without that question.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use client::Informer;
use client::endpoint::{self, Acceptor, Authenticator, TlsError};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http::request::Parts;
use proto::user::User;
use proto::view::pod::Pod;
use serde::Serialize;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::logs::Watcher;
use crate::pods::Pods;
use crate::stats::Stats;

mod authz;
mod configz;
mod files;
mod health;
mod log;
mod metrics;
mod pods;
mod proxy;
mod summary;
mod translate;

pub use configz::document as configuration;

use authz::{Authorizer, Refused};

/// What the endpoint is made from.
pub struct Endpoint {
    pub address: SocketAddr,
    /// The node it is of.
    pub node: String,
    /// Certificate and key; made anew where absent.
    pub identity: Option<(PathBuf, PathBuf)>,
    pub client_ca: Option<PathBuf>,
    /// Names and addresses for a certificate made anew.
    pub names: Vec<String>,
    /// Whether callers who say nothing of themselves are `system:anonymous`.
    pub anonymous: bool,
    /// The folder behind `/logs/`.
    pub logs: PathBuf,
    /// What `/configz` answers.
    pub configuration: Value,
}

/// How long the API server's word about a token holds (kubelet: authentication.webhook.cacheTTL).
const TOKEN_LASTS: Duration = Duration::from_secs(120);

/// What the handlers need.
#[derive(Clone)]
struct Shared {
    node: Arc<str>,
    pods: Pods,
    informer: Informer<Pod>,
    watcher: Watcher,
    stats: Arc<Stats>,
    authenticator: Arc<Authenticator>,
    authorizer: Arc<Authorizer>,
    logs: Arc<std::path::Path>,
    configuration: Arc<Value>,
}

/// The endpoint cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("listen on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("watch the folders of logs")]
    Watch(#[source] std::io::Error),
}

/// Serves for ever.
pub async fn serve(endpoint: Endpoint, pods: Pods, informer: Informer<Pod>) -> Result<(), Error> {
    let watcher = Watcher::new().map_err(Error::Watch)?;
    let (names, client_ca) = (&endpoint.names, endpoint.client_ca.clone());
    let tls = Acceptor::new(endpoint.identity.clone(), names, client_ca)?;
    let router = router(shared(&endpoint, &pods, informer, watcher));
    let address = endpoint.address;
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|source| Error::Listen { address, source })?;
    let clock = pods.context().clock.clone();
    endpoint::serve(listener, Arc::new(tls), clock, router).await;
    Ok(())
}

fn shared(endpoint: &Endpoint, pods: &Pods, informer: Informer<Pod>, watcher: Watcher) -> Shared {
    let context = pods.context();
    let (client, clock, node) = (&context.client, &context.clock, &endpoint.node);
    let authenticator =
        Authenticator::new(client.clone(), clock.clone(), endpoint.anonymous, TOKEN_LASTS);
    Shared {
        node: node.as_str().into(),
        stats: Arc::new(Stats::new(context.clone(), node.clone(), informer.clone())),
        pods: pods.clone(),
        informer,
        watcher,
        authenticator: Arc::new(authenticator),
        authorizer: Arc::new(Authorizer::new(client.clone(), clock.clone(), node.clone())),
        logs: endpoint.logs.as_path().into(),
        configuration: Arc::new(endpoint.configuration.clone()),
    }
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/pods", get(pods::bound))
        .route("/pods/", get(pods::bound))
        .route("/runningpods/", get(pods::running))
        .route("/stats/summary", get(summary::get).post(summary::get))
        .route("/metrics", get(metrics::own))
        .route("/metrics/cadvisor", get(metrics::cadvisor))
        .route("/metrics/resource", get(metrics::resource))
        .route("/metrics/probes", get(metrics::probes))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(log::get))
        .route("/run/{namespace}/{pod}/{container}", post(proxy::run))
        .route("/run/{namespace}/{pod}/{uid}/{container}", post(proxy::run))
        .route("/exec/{namespace}/{pod}/{container}", any(proxy::exec))
        .route("/exec/{namespace}/{pod}/{uid}/{container}", any(proxy::exec))
        .route("/attach/{namespace}/{pod}/{container}", any(proxy::attach))
        .route("/attach/{namespace}/{pod}/{uid}/{container}", any(proxy::attach))
        .route("/portForward/{namespace}/{pod}", any(proxy::port_forward))
        .route("/portForward/{namespace}/{pod}/{uid}", any(proxy::port_forward))
        .route("/logs/", get(files::root))
        .route("/logs/{*path}", get(files::get))
        .route("/configz", get(configz::get))
        .route("/healthz", get(health::all))
        .route("/healthz/{check}", get(health::one))
        .fallback(async || refuse(StatusCode::NOT_FOUND, "404 page not found\n"))
        .layer(from_fn_with_state(shared.clone(), guard))
        .with_state(shared)
}

/// Lets in who may, and counts everybody.
async fn guard(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let context = shared.pods.context();
    let (metrics, begun) = (&context.metrics, context.clock.instant());
    let (parts, body) = request.into_parts();
    let (path, long) = bucket(parts.uri.path());
    let counted = metrics.request(method(&parts.method), path, long);
    let response = match admit(&shared, &parts).await {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(refusal) => refusal,
    };
    counted.took(context.clock.instant() - begun);
    response
}

async fn admit(shared: &Shared, request: &Parts) -> Result<(), Response> {
    let certified = request.extensions.get::<User>().cloned();
    let user = shared.authenticator.identify(certified, &request.headers).await;
    let user = user.ok_or_else(|| refuse(StatusCode::UNAUTHORIZED, "Unauthorized"))?;
    match shared.authorizer.authorize(&user, &request.method, request.uri.path()).await {
        Ok(()) => Ok(()),
        Err(Refused::Forbidden(why)) => Err(refuse(StatusCode::FORBIDDEN, why)),
        Err(Refused::Error(why)) => Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, why)),
    }
}

/// By what a request is counted, and whether it lasts: callers cannot make up names.
fn bucket(path: &str) -> (&'static str, bool) {
    const KNOWN: [(&str, bool); 14] = [
        ("metrics/cadvisor", false),
        ("metrics/probes", false),
        ("metrics/resource", false),
        ("metrics", false),
        ("pods", false),
        ("runningpods", false),
        ("stats", false),
        ("containerLogs", false),
        ("run", false),
        ("exec", true),
        ("attach", true),
        ("portForward", true),
        ("logs", false),
        ("configz", false),
    ];
    let path = path.trim_start_matches('/');
    let below = |root: &str| {
        let rest = path.strip_prefix(root);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    match KNOWN.into_iter().find(|(root, _)| below(root)) {
        Some(known) => known,
        None if below("healthz") => ("healthz", false),
        None => ("other", false),
    }
}

fn method(method: &http::Method) -> &str {
    match method.as_str() {
        known @ ("OPTIONS" | "GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "TRACE" | "CONNECT") => {
            known
        }
        _ => "other",
    }
}

fn json(value: &impl Serialize) -> Response {
    match serde_json::to_string(value) {
        Ok(text) => ([(CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => refuse(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// A refusal in plain text, as the kubelet's.
fn refuse(status: StatusCode, message: impl Into<String>) -> Response {
    (status, message.into()).into_response()
}
