//! Connections that a test opens and drops itself: over TLS, with HTTP/2 or HTTP/1.1, many requests
//! on one or one on each.

#![allow(dead_code, reason = "every test program uses a part of it")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use client::{BoxError, Kubeconfig};
use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// What one stream, and all of a connection, may have under way: as little as clients have that do
/// not ask for more, and enough for many.
const STREAM_WINDOW: u32 = 256 << 10;
const CONNECTION_WINDOW: u32 = 16 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    One,
    Two,
}

/// Where a kubeconfig leads to, and as whom.
pub struct Door {
    address: SocketAddr,
    one: TlsConnector,
    two: TlsConnector,
}

/// Closed when it is dropped, whatever is under way.
pub struct Connection {
    address: SocketAddr,
    sender: Sender,
    task: AbortHandle,
}

enum Sender {
    One(Mutex<http1::SendRequest<Full<Bytes>>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Door {
    pub fn of(kubeconfig: &Path) -> Door {
        let config = Kubeconfig::read(kubeconfig).unwrap().config(None).unwrap();
        let url: Uri = config.server.parse().unwrap();
        let connector = |protocol: &[u8]| {
            let mut roots = rustls::RootCertStore::empty();
            let ca = config.ca.as_deref().unwrap();
            roots.add(CertificateDer::from_pem_slice(ca).unwrap()).unwrap();
            let identity = config.identity.as_ref().unwrap();
            let chain = CertificateDer::pem_slice_iter(&identity.certificate);
            let chain: Vec<_> = chain.map(Result::unwrap).collect();
            let key = PrivateKeyDer::from_pem_slice(&identity.key).unwrap();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let mut tls = rustls::ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(roots)
                .with_client_auth_cert(chain, key)
                .unwrap();
            tls.alpn_protocols = vec![protocol.to_vec()];
            TlsConnector::from(Arc::new(tls))
        };
        let authority = url.authority().unwrap().as_str();
        let address = authority.parse().unwrap();
        Door { address, one: connector(b"http/1.1"), two: connector(b"h2") }
    }

    /// TLS, and nothing said yet.
    pub async fn silent(&self, version: Version) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(self.address.ip().into());
        let connector = match version {
            Version::One => &self.one,
            Version::Two => &self.two,
        };
        connector.connect(name, stream).await
    }

    pub async fn open(&self, version: Version) -> Result<Arc<Connection>, BoxError> {
        let stream = TokioIo::new(self.silent(version).await?);
        let (sender, task) = match version {
            Version::One => {
                let (sender, connection) = http1::handshake(stream).await?;
                (Sender::One(Mutex::new(sender)), tokio::spawn(async { drop(connection.await) }))
            }
            Version::Two => {
                let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                    .initial_stream_window_size(STREAM_WINDOW)
                    .initial_connection_window_size(CONNECTION_WINDOW)
                    // Streams that tests drop by the thousand are no fault of the server's, which is
                    // what h2 would end the connection for.
                    .max_concurrent_reset_streams(2000)
                    .max_local_error_reset_streams(None)
                    .handshake(stream)
                    .await?;
                (Sender::Two(sender), tokio::spawn(async { drop(connection.await) }))
            }
        };
        let task = task.abort_handle();
        Ok(Arc::new(Connection { address: self.address, sender, task }))
    }
}

impl Connection {
    /// The answer's head; its URI is a path with a query.
    pub async fn send(&self, mut request: Request<Bytes>) -> hyper::Result<Response<Incoming>> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str()).to_string();
        match &self.sender {
            Sender::One(sender) => {
                let host = HeaderValue::try_from(self.address.to_string()).unwrap();
                request.headers_mut().insert(header::HOST, host);
                let mut sender = sender.lock().await;
                sender.ready().await?;
                sender.send_request(request.map(Full::new)).await
            }
            Sender::Two(sender) => {
                let url = format!("https://{}{path}", self.address);
                *request.uri_mut() = url.parse().unwrap();
                let mut sender = sender.clone();
                sender.ready().await?;
                sender.send_request(request.map(Full::new)).await
            }
        }
    }

    pub async fn get(&self, path: &str) -> hyper::Result<Response<Incoming>> {
        self.send(Request::get(path).body(Bytes::new()).unwrap()).await
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}
