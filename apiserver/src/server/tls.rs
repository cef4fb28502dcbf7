//! The listening side: TLS, HTTP/2 and HTTP/1.1 on one port, one task per connection.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use axum::Router;
use client::Clock;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
    service::TowerToHyperService,
};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;

use super::gather::Gather;
use crate::{
    authn,
    http::{Source, coalesce},
    pki::Pki,
};

/// A handshake that takes longer is someone holding the line.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A client that does not finish its headers in this time is disconnected, and one that asks
/// nothing after its handshake.
const HEADERS: Duration = Duration::from_secs(30);
/// Connections beyond the bound that are served, each for a short time: enough for a probe, and for
/// somebody who looks what is wrong.
pub const SPARE: usize = 64;
const SPARE_LIFE: Duration = Duration::from_secs(5);
/// HTTP/2 pings keep idle watches alive through middleboxes and find dead peers.
const PING: Duration = Duration::from_secs(30);
/// What a stream may have in flight: large, so that big lists are not slowed by round trips.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const STREAMS: u32 = 2000;
const HEADER_BYTES: u32 = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("reading the serving certificate")]
    Pem(#[source] rustls_pki_types::pem::Error),
    #[error("trusting the cluster's authority")]
    Authority(#[source] rustls::Error),
    #[error("building the verifier of client certificates")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    #[error("using the serving certificate")]
    Serving(#[source] rustls::Error),
}

/// What connections are accepted with; exchanged when certificates are renewed.
#[derive(Clone)]
pub struct Tls(Arc<ArcSwap<ServerConfig>>);

impl Tls {
    pub fn new(pki: &Pki) -> Result<Tls, TlsError> {
        Ok(Tls(Arc::new(ArcSwap::from_pointee(config(pki)?))))
    }

    /// New connections meet the certificates in `pki`; those that exist go on.
    pub fn renew(&self, pki: &Pki) -> Result<(), TlsError> {
        self.0.store(Arc::new(config(pki)?));
        Ok(())
    }
}

/// PEM to rustls, for a certificate and its key.
pub(crate) fn identity(
    pair: &crate::pki::Pair,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(TlsError::Pem)?;
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).map_err(TlsError::Pem)?;
    Ok((chain, key))
}

pub(crate) fn roots(ca: &str) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let certificate = CertificateDer::from_pem_slice(ca.as_bytes()).map_err(TlsError::Pem)?;
    roots.add(certificate).map_err(TlsError::Authority)?;
    Ok(roots)
}

pub(crate) fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn config(pki: &Pki) -> Result<ServerConfig, TlsError> {
    let provider = provider();
    let roots = Arc::new(roots(pki.ca())?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(TlsError::Verifier)?;
    let (chain, key) = identity(&pki.serving)?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Serving)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(TlsError::Serving)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// Accepts until `stop`, `most` connections at once and a few more for a moment; then lets requests
/// finish. Returns when the last connection is gone.
pub async fn serve(
    listener: TcpListener,
    tls: Tls,
    router: Router,
    clock: Clock,
    stop: CancellationToken,
    most: usize,
) {
    let tasks = TaskTracker::new();
    let mut full = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        let over = tasks.len() >= most;
        if over && !full {
            tracing::warn!(most, "too many connections; raise --max-connections");
        }
        full = over;
        match accepted {
            // Closed at once: who waits in the backlog learns nothing.
            Ok(_) if tasks.len() >= most + SPARE => {}
            Ok((stream, peer)) => {
                let acceptor = TlsAcceptor::from(tls.0.load_full());
                let life = over.then_some(SPARE_LIFE);
                let (router, clock, stop) = (router.clone(), clock.clone(), stop.clone());
                tasks.spawn(connection(stream, peer, acceptor, router, clock, stop, life));
            }
            Err(error) => {
                // Out of file descriptors, most likely: give connections time to end.
                tracing::warn!(%error, "accepting a connection");
                clock.sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    tasks.close();
    tasks.wait().await;
}

async fn connection(
    stream: TcpStream,
    peer: SocketAddr,
    acceptor: TlsAcceptor,
    router: Router,
    clock: Clock,
    stop: CancellationToken,
    life: Option<Duration>,
) {
    let _ = stream.set_nodelay(true);
    let handshake = life.unwrap_or(HANDSHAKE);
    let stream = match clock.timeout(handshake, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%peer, %error, "TLS handshake"),
        Err(_) => return tracing::debug!(%peer, "TLS handshake timed out"),
    };
    let user = stream.get_ref().1.peer_certificates().and_then(|chain| {
        authn::user_of_certificate(chain.first()?).map(|user| authn::Peer(Arc::new(user)))
    });
    let asked = Arc::new(AtomicBool::new(false));
    let heard = asked.clone();
    let service = router.map_request(move |mut request: http::Request<hyper::body::Incoming>| {
        heard.store(true, Relaxed);
        request.extensions_mut().insert(Source(peer));
        if let Some(user) = &user {
            request.extensions_mut().insert(user.clone());
        }
        request.map(axum::body::Body::new)
    });
    let service = service.map_response(coalesce::response);
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let stream = TokioIo::new(Gather::new(stream, is_http2));
    let builder = builder();
    let connection =
        builder.serve_connection_with_upgrades(stream, TowerToHyperService::new(service));
    tokio::pin!(connection);
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        () = over(&clock, life, &asked) => {
            connection.as_mut().graceful_shutdown();
            match clock.timeout(SPARE_LIFE, connection).await {
                Ok(result) => result,
                Err(_) => return tracing::debug!(%peer, "disconnected"),
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%peer, error, "connection ended");
    }
}

/// Returns when a connection's time is over: its life, or the time in which something should have
/// been asked. What guards requests begins with the first of them.
async fn over(clock: &Clock, life: Option<Duration>, asked: &AtomicBool) {
    clock.sleep(life.unwrap_or(HEADERS)).await;
    if life.is_none() && asked.load(Relaxed) {
        std::future::pending().await
    }
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .half_close(true)
        .max_buf_size(HEADER_BYTES as usize * 4);
    builder
        .http2()
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEADER_BYTES)
        .max_send_buf_size(1 << 20)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING);
    builder
}
