//! HTTP to one host: its certificates, redirects, and no patience with what does not answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use client::{AnyCertificate, BoxError, Clock};
use http::header::{AUTHORIZATION, LOCATION, PROXY_AUTHORIZATION};
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::RegistryError;
use super::connect::Connector;
use super::hosts::{Host, Tls};
use super::proxy::Proxies;
use crate::authorities;

const REDIRECTS: usize = 10;
/// Until an answer begins, and between its parts.
pub const IDLE: Duration = Duration::from_secs(60);

/// Sends requests to a host and to where it redirects.
pub struct Http {
    client: Client<HttpsConnector<Connector>, Full<Bytes>>,
    host: Host,
    proxies: Arc<Proxies>,
    clock: Clock,
}

impl Http {
    pub fn new(host: Host, proxies: Arc<Proxies>, clock: Clock) -> Result<Http, RegistryError> {
        let failed = |source| RegistryError::Tls { host: host.authority.clone(), source };
        let tls = |settings: &Tls| tls(settings).map_err(failed);
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(host.dial_timeout));
        // A proxy is trusted as the system says, whatever holds for the registry.
        let own = proxies.need_tls().then(|| tls(&Tls::default())).transpose()?;
        let connector = Connector { tcp, proxies: proxies.clone(), tls: own.map(Arc::new) };
        // Of HTTP/1 every layer has a connection of its own, and none waits for another's window.
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls(&host.tls)?)
            .https_or_http()
            .enable_http1()
            .wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .build(connector);
        Ok(Http { client, host, proxies, clock })
    }

    /// Sends, and follows redirects. Credentials and the host's own headers stay with the host.
    pub async fn send(
        &self,
        method: Method,
        uri: Uri,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, RegistryError> {
        let (mut uri, mut headers) = (uri, headers);
        for _ in 0..=REDIRECTS {
            let response = self.once(&method, &uri, &headers, &body).await?;
            if !response.status().is_redirection() || method == Method::POST {
                return Ok(response);
            }
            let target = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let Some(target) = target.and_then(|target| resolve(&uri, target)) else {
                return Ok(response);
            };
            if uri.scheme_str() == Some("https") && target.scheme_str() != Some("https") {
                return Err(RegistryError::Downgrade { url: target.to_string() });
            }
            if target.authority() != uri.authority() {
                headers.remove(AUTHORIZATION);
            }
            uri = target;
        }
        Err(RegistryError::Redirects { url: uri.to_string() })
    }

    async fn once(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<Response<Incoming>, RegistryError> {
        let host = uri.authority().map(ToString::to_string).unwrap_or_default();
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = headers.clone();
        if host == self.host.authority {
            for (name, value) in &self.host.headers {
                request.headers_mut().append(name, value.clone());
            }
        }
        if uri.scheme_str() == Some("http")
            && let Ok(Some(proxy)) = self.proxies.of(uri)
            && let Some(value) = &proxy.credentials
        {
            request.headers_mut().insert(PROXY_AUTHORIZATION, value.clone());
        }
        let agent = concat!("coracle/", env!("CARGO_PKG_VERSION"));
        request
            .headers_mut()
            .entry(http::header::USER_AGENT)
            .or_insert(http::HeaderValue::from_static(agent));
        match self.clock.timeout(IDLE, self.client.request(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(source)) => Err(RegistryError::Reach { host, source: source.into() }),
            Err(_) => Err(RegistryError::Timeout { host }),
        }
    }

    /// The whole body, which is small.
    pub async fn bytes(
        &self,
        response: Response<Incoming>,
        limit: usize,
    ) -> Result<Bytes, RegistryError> {
        let host = self.host.authority.clone();
        let body = Limited::new(response.into_body(), limit).collect();
        match self.clock.timeout(IDLE, body).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(source)) => Err(RegistryError::Reach { host, source }),
            Err(_) => Err(RegistryError::Timeout { host }),
        }
    }

    /// The next part of a body; `None` at its end.
    pub async fn part(&self, body: &mut Incoming) -> Result<Option<Bytes>, RegistryError> {
        let host = || self.host.authority.clone();
        loop {
            match self.clock.timeout(IDLE, body.frame()).await {
                Ok(None) => return Ok(None),
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) if data.is_empty() => {}
                    Ok(data) => return Ok(Some(data)),
                    Err(_) => {} // Trailers.
                },
                Ok(Some(Err(source))) => {
                    return Err(RegistryError::Reach { host: host(), source: source.into() });
                }
                Err(_) => return Err(RegistryError::Timeout { host: host() }),
            }
        }
    }
}

fn resolve(base: &Uri, target: &str) -> Option<Uri> {
    let base = url::Url::parse(&base.to_string()).ok()?;
    let target = base.join(target).ok()?;
    matches!(target.scheme(), "http" | "https").then(|| target.as_str().parse().ok())?
}

fn tls(settings: &Tls) -> Result<ClientConfig, BoxError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions()?;
    let builder = if settings.skip_verify {
        builder.dangerous().with_custom_certificate_verifier(AnyCertificate::new(provider))
    } else {
        builder.with_root_certificates(roots(settings)?)
    };
    let Some((certificate, key)) = &settings.client else {
        return Ok(builder.with_no_client_auth());
    };
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)?
        .collect::<Result<_, _>>()
        .map_err(|error| format!("the client certificate {}: {error}", certificate.display()))?;
    let key = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| format!("the client key {}: {error}", key.display()))?;
    Ok(builder.with_client_auth_cert(chain, key)?)
}

/// The system's authorities and the host's own.
fn roots(settings: &Tls) -> Result<RootCertStore, BoxError> {
    let mut store = authorities::system();
    for path in &settings.ca {
        let pem = std::fs::read(path)
            .map_err(|error| format!("the authority {}: {error}", path.display()))?;
        for certificate in CertificateDer::pem_slice_iter(&pem) {
            store.add(certificate?)?;
        }
    }
    Ok(store)
}
