//! Probes over the network: HTTP (200 to 399 is success, certificates are not verified), TCP, gRPC.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use client::AnyCertificate;
use http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use http::{HeaderName, HeaderValue, Request};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_util::task::AbortOnDropHandle;

use super::{Prober, Target, Verdict, grpc};

/// Connects from the node to its pods.
pub struct Network {
    tls: TlsConnector,
}

impl Network {
    pub fn new() -> Network {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("the provider supports the default versions")
            .dangerous()
            .with_custom_certificate_verifier(AnyCertificate::new(provider))
            .with_no_client_auth();
        Network { tls: TlsConnector::from(Arc::new(config)) }
    }

    async fn http(&self, target: &Target, headers: &[(String, String)]) -> Result<u16, String> {
        let Target::Http { tls, host, path, .. } = target else { return Err(String::new()) };
        let said = |why: String| format!("Get {:?}: {why}", target.url());
        let stream = connect(target).await.map_err(said)?;
        let mut request = Request::get(path.as_str())
            .header(HOST, target.authority())
            .header(USER_AGENT, "kube-probe/1.36")
            .header(ACCEPT, "*/*")
            .header(CONNECTION, "close")
            .body(Empty::<Bytes>::new())
            .map_err(|error| said(error.to_string()))?;
        let mut own: Vec<HeaderName> = Vec::new();
        for (name, value) in headers {
            let name = HeaderName::try_from(name).map_err(|error| said(error.to_string()))?;
            let value = HeaderValue::try_from(value).map_err(|error| said(error.to_string()))?;
            // The first of a name replaces the default, further ones add to it.
            match own.contains(&name) {
                true => drop(request.headers_mut().append(name, value)),
                false => {
                    own.push(name.clone());
                    request.headers_mut().insert(name, value);
                }
            }
        }
        let status = match tls {
            false => exchange(stream, request).await,
            true => {
                let name = ServerName::try_from(host.clone());
                let name = name.map_err(|error| said(error.to_string()))?;
                let stream = self.tls.connect(name, stream).await;
                exchange(stream.map_err(|error| said(error.to_string()))?, request).await
            }
        };
        status.map_err(said)
    }
}

impl Default for Network {
    fn default() -> Network {
        Network::new()
    }
}

#[async_trait]
impl Prober for Network {
    async fn check(&self, target: &Target) -> Verdict {
        let outcome = match target {
            Target::Http { headers, .. } => match self.http(target, headers).await {
                Ok(200..400) => Ok(()),
                Ok(status) => Err(format!("HTTP probe failed with statuscode: {status}")),
                Err(why) => Err(why),
            },
            Target::Tcp { .. } => connect(target).await.map(drop),
            Target::Grpc { service, .. } => match connect(target).await {
                Ok(stream) => grpc::check(stream, &target.authority(), service).await,
                Err(why) => Err(format!("error: {why}")),
            },
        };
        match outcome {
            Ok(()) => Verdict::Success,
            Err(why) => Verdict::Failure(why),
        }
    }
}

async fn connect(target: &Target) -> Result<TcpStream, String> {
    let authority = target.authority();
    TcpStream::connect(&authority).await.map_err(|error| {
        let why = match error.kind() {
            std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_string(),
            std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_string(),
            _ => error.to_string(),
        };
        format!("dial tcp {authority}: {why}")
    })
}

async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<u16, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| error.to_string())?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    Ok(response.status().as_u16())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn server(answer: &'static str) -> (u16, tokio::task::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let served = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8_lossy(&request[..read]).into_owned()
        });
        (port, served)
    }

    fn http(port: u16, headers: &[(&str, &str)]) -> Target {
        let headers = headers.iter().map(|(name, value)| (name.to_string(), value.to_string()));
        Target::Http {
            tls: false,
            host: "127.0.0.1".into(),
            port,
            path: "/x".into(),
            headers: headers.collect(),
        }
    }

    #[tokio::test]
    async fn http_codes_and_headers() {
        let network = Network::new();
        for (code, well) in [(200, true), (302, true), (399, true), (400, false), (500, false)] {
            let answer = format!("HTTP/1.1 {code} x\r\ncontent-length: 0\r\n\r\n");
            let (port, served) = server(answer.leak()).await;
            let verdict = network.check(&http(port, &[("Host", "other")])).await;
            assert_eq!(verdict == Verdict::Success, well, "{code}: {verdict:?}");
            let request = served.await.unwrap().to_lowercase();
            assert!(request.contains("host: other\r\n"), "{request}");
            assert!(request.contains("user-agent: kube-probe/"), "{request}");
        }
    }

    #[tokio::test]
    async fn nobody_listens() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let Verdict::Failure(why) = Network::new().check(&http(port, &[])).await else {
            panic!("a closed port cannot be well");
        };
        let url = format!("http://127.0.0.1:{port}/x");
        let dial = format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
        assert_eq!(why, format!("Get {url:?}: {dial}"));
        let target = Target::Tcp { host: "127.0.0.1".into(), port };
        assert_eq!(Network::new().check(&target).await, Verdict::Failure(dial));
    }
}
