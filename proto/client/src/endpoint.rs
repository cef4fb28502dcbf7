//! The HTTPS endpoint that a component has of its own. A caller is known by a client certificate or
//! by a token and may what the API server says that it may: there is no list of callers in here.
//! [`open`] is the endpoint of a component that shows figures and health; the agent, whose paths and
//! rights are others, takes the parts.

mod authn;
mod authz;
mod cache;
mod pages;
mod process;
mod tls;

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use proto::view::config_map::ConfigMap;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tower::ServiceExt;

use crate::{BoxError, Client, Clock, ListOptions, WatchEvent};

pub use authn::Authenticator;
pub use authz::Authorizer;
pub use pages::{Check, Page, Pages};
pub use process::{Process, write_build};
pub use tls::{Acceptor, TlsError};

/// Flags of the endpoint, by upstream's names. The port is each component's own.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Flags {
    /// The address on which metrics and health are served.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub bind_address: IpAddr,
    /// The certificate shown to those who ask for them; made anew where absent.
    #[arg(long, value_name = "FILE", requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "FILE", requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
    /// Whose client certificates are believed; those that the API server believes where absent.
    #[arg(long, value_name = "FILE")]
    pub client_ca_file: Option<PathBuf>,
    /// What everybody may ask for; PATH* is all that begins so.
    #[arg(
        long,
        value_name = "PATHS",
        value_delimiter = ',',
        default_value = "/healthz,/readyz,/livez"
    )]
    pub authorization_always_allow_paths: Vec<String>,
}

impl Default for Flags {
    fn default() -> Flags {
        Flags {
            bind_address: IpAddr::from([127, 0, 0, 1]),
            tls_cert_file: None,
            tls_private_key_file: None,
            client_ca_file: None,
            authorization_always_allow_paths: ["/healthz", "/readyz", "/livez"]
                .map(String::from)
                .to_vec(),
        }
    }
}

/// The endpoint cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("listen on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
}

/// Open for as long as it is kept.
#[must_use]
pub struct Open {
    _tasks: JoinSet<()>,
}

/// Opens a component's endpoint, with these pages; none on port 0. `client` is the component's, and
/// needs the rights to create TokenReviews and SubjectAccessReviews.
pub async fn open(
    port: u16,
    flags: &Flags,
    client: &Client,
    clock: &Clock,
    pages: Pages,
) -> Result<Option<Open>, Error> {
    if port == 0 {
        return Ok(None);
    }
    let identity = flags.tls_cert_file.clone().zip(flags.tls_private_key_file.clone());
    let names = [flags.bind_address.to_string(), "localhost".into()];
    let acceptor = Arc::new(Acceptor::new(identity, &names, flags.client_ca_file.clone())?);
    let address = SocketAddr::new(flags.bind_address, port);
    let listener = TcpListener::bind(address).await;
    let listener = listener.map_err(|source| Error::Listen { address, source })?;
    let mut tasks = JoinSet::new();
    if flags.client_ca_file.is_none() {
        tasks.spawn(follow(acceptor.clone(), client.clone(), clock.clone()));
    }
    let open = flags.authorization_always_allow_paths.clone();
    let guarded = pages::service(pages, open, client, clock);
    tasks.spawn(serve(listener, acceptor, clock.clone(), guarded));
    tracing::info!(%address, "serving metrics and health");
    Ok(Some(Open { _tasks: tasks }))
}

/// Somebody who does not finish a handshake in this time is let go.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Serves for ever. Who has shown a client certificate is a `User` in the request's extensions.
pub async fn serve<S, B>(listener: TcpListener, tls: Arc<Acceptor>, clock: Clock, service: S)
where
    S: tower::Service<Request<Incoming>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let mut connections = JoinSet::new();
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                clock.sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        let (tls, service, clock) = (tls.clone(), service.clone(), clock.clone());
        connections.spawn(async move {
            let (stream, user) = match clock.timeout(HANDSHAKE, tls.accept(stream)).await {
                Ok(Ok(accepted)) => accepted,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "a TLS handshake failed");
                    return;
                }
                Err(_) => return,
            };
            let service = tower::service_fn(move |mut request: Request<Incoming>| {
                if let Some(user) = &user {
                    request.extensions_mut().insert(user.clone());
                }
                service.clone().oneshot(request)
            });
            let mut server = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
            server.http1().half_close(true);
            let service = TowerToHyperService::new(service);
            let connection = server.serve_connection_with_upgrades(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke");
            }
        });
    }
}

/// Where an API server says whose client certificates it believes, for components to do the same.
const NAMESPACE: &str = "kube-system";
const CONFIG_MAP: &str = "extension-apiserver-authentication";
const CLIENT_CA: &str = "client-ca-file";
/// From the end of one watch to the next.
const RETRY: Duration = Duration::from_secs(10);

/// Keeps to what the API server believes. Until it has said so only tokens are believed.
async fn follow(acceptor: Arc<Acceptor>, client: Client, clock: Clock) {
    let options = ListOptions {
        namespace: NAMESPACE.into(),
        field_selector: format!("metadata.name={CONFIG_MAP}"),
        ..ListOptions::default()
    };
    loop {
        let mut events = client.watch::<ConfigMap>(&options);
        while let Some(event) = events.next().await {
            let map = match event {
                Ok(WatchEvent::Added(map) | WatchEvent::Modified(map)) => map,
                Ok(_) => continue,
                Err(error) => {
                    let error = crate::error::chain(&error);
                    tracing::debug!(error, "cannot learn whose client certificates to believe");
                    break;
                }
            };
            let authorities = map.data.get(CLIENT_CA).map_or("", String::as_str);
            if let Err(error) = acceptor.trust(authorities) {
                let error = crate::error::chain(&error);
                tracing::warn!(error, "cannot believe the API server's client certificates");
            }
        }
        // Every watch ends; one that ends at once must not be asked for at once.
        clock.sleep(RETRY).await;
    }
}
