//! WebSockets to the API server: exec, attach, port-forward. A connection of its own, because
//! HTTP/2 does not upgrade.

use std::sync::Arc;

use http::Uri;
use http::header::{HOST, SEC_WEBSOCKET_PROTOCOL, USER_AGENT};
use http::uri::Scheme;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error as SocketError;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::request::refusal;
use crate::transport::{Https, Transport};
use crate::{BoxError, Client, Error};

pub use tokio_tungstenite::tungstenite::Message;

/// A byte stream, encrypted or not.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// An open WebSocket and the subprotocol the server chose.
pub struct WebSocket {
    pub stream: WebSocketStream<Box<dyn Stream>>,
    pub protocol: String,
}

impl Client {
    /// Opens a WebSocket at `path` (with its query), offering `protocols`. A refusal of the API
    /// server is an [`Error::Status`].
    pub async fn websocket(&self, path: &str, protocols: &[&str]) -> Result<WebSocket, Error> {
        let failed = |source: BoxError| match source.downcast::<Error>() {
            Ok(error) => *error,
            Err(source) => Error::Upgrade { path: path.into(), source },
        };
        match self.transport() {
            Transport::InProcess { .. } => Err(failed("not possible within one process".into())),
            Transport::Https(https) => {
                open(https, self.agent(), path, protocols).await.map_err(failed)
            }
        }
    }
}

async fn open(
    https: &Https,
    agent: &http::HeaderValue,
    path: &str,
    protocols: &[&str],
) -> Result<WebSocket, BoxError> {
    let secure = https.base.scheme != Some(Scheme::HTTP);
    let scheme: Scheme = if secure { "wss" } else { "ws" }.parse()?;
    let uri: Uri = https.absolute(&path.parse()?, Some(scheme))?;
    let host = uri.host().ok_or("the server's URL names no host")?.to_string();
    let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
    let bare = host.trim_start_matches('[').trim_end_matches(']').to_string();
    let tcp = TcpStream::connect((bare.as_str(), port)).await?;
    tcp.set_nodelay(true)?;
    let stream: Box<dyn Stream> = if secure {
        let mut tls = (*https.tls()).clone();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let name = ServerName::try_from(https.server_name.clone().unwrap_or(bare))?;
        Box::new(tokio_rustls::TlsConnector::from(Arc::new(tls)).connect(name, tcp).await?)
    } else {
        Box::new(tcp)
    };
    let mut request = uri.into_client_request()?;
    let headers = request.headers_mut();
    https.authorize(headers)?;
    headers.insert(USER_AGENT, agent.clone());
    headers.insert(SEC_WEBSOCKET_PROTOCOL, protocols.join(", ").parse()?);
    headers.entry(HOST).or_insert(host.parse()?);
    match client_async(request, stream).await {
        Ok((stream, response)) => {
            let chosen = response.headers().get(SEC_WEBSOCKET_PROTOCOL);
            let protocol = chosen.and_then(|value| value.to_str().ok()).unwrap_or_default();
            Ok(WebSocket { stream, protocol: protocol.into() })
        }
        Err(SocketError::Http(response)) => {
            let body = response.body().as_deref().unwrap_or_default();
            Err(Box::new(refusal(response.status(), body)))
        }
        Err(error) => Err(error.into()),
    }
}
