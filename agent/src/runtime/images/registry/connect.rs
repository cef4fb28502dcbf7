//! A connection to a registry: direct, or through a proxy. What is to be encrypted goes through a
//! tunnel that the proxy makes (RFC 9110, 9.3.6), all else is asked of the proxy itself.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use client::BoxError;
use http::{HeaderValue, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection as Connects, HttpConnector};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tower::{Service, ServiceExt};

use super::proxy::{Proxies, Proxy};

/// As much as a proxy may say before it lets anybody through.
const ANSWER: usize = 16 << 10;

#[derive(Debug, thiserror::Error)]
enum ProxyError {
    #[error("connect to the proxy {0}")]
    Reach(String, #[source] BoxError),
    #[error("ask the proxy {0} for a way")]
    Ask(String, #[source] io::Error),
    #[error("the proxy {0} refuses: {1}")]
    Refused(String, String),
}

/// Makes connections.
#[derive(Clone)]
pub struct Connector {
    pub tcp: HttpConnector,
    pub proxies: Arc<Proxies>,
    /// There is one where a proxy is spoken to by TLS.
    pub tls: Option<Arc<ClientConfig>>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection to the registry, or to a proxy that takes requests for it.
pub struct Connection {
    stream: TokioIo<Box<dyn Stream>>,
    /// Requests name the host that they are for.
    is_proxied: bool,
}

impl Connector {
    async fn connect(self, uri: Uri) -> Result<Connection, BoxError> {
        let Some(proxy) = self.proxies.of(&uri)? else {
            let stream = self.tcp.oneshot(uri).await?.into_inner();
            return Ok(Connection::new(Box::new(stream), false));
        };
        let shown = format!("{}:{}", proxy.host, proxy.port);
        let reached = reach(self.tcp.clone(), self.tls.clone(), proxy).await;
        let mut stream = reached.map_err(|error| ProxyError::Reach(shown.clone(), error))?;
        let is_tunnel = uri.scheme_str() == Some("https");
        if is_tunnel {
            let target =
                format!("{}:{}", uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(443));
            let asked = tunnel(&mut stream, &target, proxy.credentials.as_ref()).await;
            let status = asked.map_err(|error| ProxyError::Ask(shown.clone(), error))?;
            if let Some(status) = status {
                return Err(ProxyError::Refused(shown, status).into());
            }
        }
        Ok(Connection::new(stream, !is_tunnel))
    }
}

async fn reach(
    tcp: HttpConnector,
    tls: Option<Arc<ClientConfig>>,
    proxy: &Proxy,
) -> Result<Box<dyn Stream>, BoxError> {
    let host = match proxy.host.contains(':') {
        true => format!("[{}]", proxy.host),
        false => proxy.host.clone(),
    };
    let uri: Uri = format!("http://{host}:{}", proxy.port).parse()?;
    let stream = tcp.oneshot(uri).await?.into_inner();
    let Some(tls) = tls.filter(|_| proxy.tls) else { return Ok(Box::new(stream)) };
    let name = ServerName::try_from(proxy.host.clone())?;
    Ok(Box::new(TlsConnector::from(tls).connect(name, stream).await?))
}

/// Asks for a way to `target`; what is answered where there is none.
async fn tunnel(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin + ?Sized),
    target: &str,
    credentials: Option<&HeaderValue>,
) -> io::Result<Option<String>> {
    let mut head = format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n").into_bytes();
    if let Some(value) = credentials {
        head.extend_from_slice(b"Proxy-Authorization: ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    stream.write_all(&head).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    // Behind the answer the registry may speak: nothing of that may be taken here.
    while !answer.ends_with(b"\r\n\r\n") {
        if answer.len() == ANSWER {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "its answer is too long"));
        }
        answer.push(stream.read_u8().await?);
    }
    let line = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.splitn(2, ' ');
    let (version, status) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    if !version.starts_with("HTTP/1.") {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "its answer is not HTTP"));
    }
    Ok((!status.starts_with('2')).then(|| status.to_owned()))
}

impl Service<Uri> for Connector {
    type Response = Connection;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Connection, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}

impl Connection {
    fn new(stream: Box<dyn Stream>, is_proxied: bool) -> Connection {
        Connection { stream: TokioIo::new(stream), is_proxied }
    }
}

impl Connects for Connection {
    fn connected(&self) -> Connected {
        Connected::new().proxy(self.is_proxied)
    }
}

impl Read for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl Write for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a proxy is told, and what becomes of its answer.
    async fn asked(answer: &'static [u8]) -> (String, Result<Option<String>, String>) {
        let (mut near, mut far) = tokio::io::duplex(1 << 10);
        let served = tokio::spawn(async move {
            let mut told = Vec::new();
            while !told.ends_with(b"\r\n\r\n") {
                told.push(far.read_u8().await.unwrap());
            }
            far.write_all(answer).await.unwrap();
            String::from_utf8(told).unwrap()
        });
        let credentials = HeaderValue::from_static("Basic dTpw");
        let found = tunnel(&mut near, "r.test:443", Some(&credentials)).await;
        (served.await.unwrap(), found.map_err(|error| error.to_string()))
    }

    #[tokio::test]
    async fn a_tunnel_is_asked_for() {
        let (told, found) = asked(b"HTTP/1.1 200 Connection established\r\nA: b\r\n\r\n").await;
        let expected = "CONNECT r.test:443 HTTP/1.1\r\nHost: r.test:443\r\n\
                        Proxy-Authorization: Basic dTpw\r\n\r\n";
        assert_eq!((told.as_str(), found), (expected, Ok(None)));
        let (_, found) = asked(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
        assert_eq!(found, Ok(Some("407 Proxy Authentication Required".into())));
        let (_, found) = asked(b"SSH-2.0-x\r\n\r\n").await;
        assert_eq!(found, Err("its answer is not HTTP".into()));
        let (_, found) = asked(b"HTTP/1.1 200").await;
        assert!(found.is_err());
    }
}
