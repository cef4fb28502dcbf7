//! The HTTPS endpoint of the agent, as the API server uses it: logs, exec, attach, port forwarding. Only callers
//! with a client certificate of the cluster's authority are served, and of these only the API
//! server's kubelet client and cluster administrators.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use client::Informer;
use http::StatusCode;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use proto::user::User;
use proto::view::pod::Pod;
use tokio::net::TcpListener;

use crate::logs::Watcher;
use crate::pods::Pods;

mod log;
mod proxy;
mod tls;

pub use tls::TlsError;

/// What the endpoint is made from.
pub struct Endpoint {
    pub address: SocketAddr,
    /// Certificate and key; made anew where absent.
    pub identity: Option<(PathBuf, PathBuf)>,
    pub client_ca: Option<PathBuf>,
    /// Names and addresses for a certificate made anew.
    pub names: Vec<String>,
}

/// What the handlers need.
#[derive(Clone)]
struct Shared {
    pods: Pods,
    informer: Informer<Pod>,
    watcher: Watcher,
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
    let tls = tls::Acceptor::new(&endpoint)?;
    let router = router(Shared { pods: pods.clone(), informer, watcher });
    let address = endpoint.address;
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|source| Error::Listen { address, source })?;
    let clock = pods.context().clock.clone();
    let tls = Arc::new(tls);
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                clock.sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        let (tls, router) = (tls.clone(), router.clone());
        tokio::spawn(async move {
            let (stream, user) = match tls.accept(stream).await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "a TLS handshake failed");
                    return;
                }
            };
            let router = match user {
                Some(user) => router.layer(axum::Extension(user)),
                None => router,
            };
            let service = TowerToHyperService::new(router);
            let server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke");
            }
        });
    }
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/pods", get(pods))
        .route("/pods/", get(pods))
        .route("/containerLogs/{namespace}/{pod}/{container}", get(log::get))
        .route("/exec/{namespace}/{pod}/{container}", any(proxy::exec))
        .route("/attach/{namespace}/{pod}/{container}", any(proxy::attach))
        .route("/portForward/{namespace}/{pod}", any(proxy::port_forward))
        .layer(from_fn(authorize))
        .route("/healthz", get(async || "ok"))
        .with_state(shared)
}

async fn authorize(request: Request, next: Next) -> Response {
    let Some(user) = request.extensions().get::<User>() else {
        return (StatusCode::UNAUTHORIZED, "Unauthorized").into_response();
    };
    let allowed = user.name == "kube-apiserver-kubelet-client"
        || user.groups.iter().any(|group| group == "system:masters");
    if !allowed {
        let (verb, path) = (request.method().as_str().to_lowercase(), request.uri().path());
        let why =
            format!("Forbidden (user={}, verb={verb}, resource=nodes, path={path})", user.name);
        return (StatusCode::FORBIDDEN, why).into_response();
    }
    next.run(request).await
}

/// The pods of this node, as the API server wrote them.
async fn pods(State(shared): State<Shared>) -> Response {
    let mut list = br#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":["#.to_vec();
    for (index, entry) in shared.informer.snapshot().values().enumerate() {
        if index > 0 {
            list.push(b',');
        }
        list.extend_from_slice(&entry.bytes);
    }
    list.extend_from_slice(b"]}");
    ([(http::header::CONTENT_TYPE, "application/json")], list).into_response()
}

/// A refusal in plain text, as the kubelet's.
fn refuse(status: StatusCode, message: impl Into<String>) -> Response {
    (status, message.into()).into_response()
}
