//! The way to the API server: HTTPS with HTTP/2, or a service in the same process.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{AUTHORIZATION, HeaderValue};
use http::{Request, Response, Uri, uri};
use http_body_util::{BodyExt, Full};
use hyper_rustls::{FixedServerNameResolver, HttpsConnector};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use parking_lot::Mutex;
use proto::user::User;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use tower::ServiceExt;

use crate::kubeconfig::{Config, Identity, Token};
use crate::{Body, BoxError, Service};

const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";
/// Large, so that a list never waits for window updates.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const KEEP_ALIVE: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why no client can be made from a configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("server {server:?} is not a URL")]
    Server { server: String, source: BoxError },
    #[error("cannot read {what}")]
    Pem { what: &'static str, source: BoxError },
    #[error("cannot read the system's certificate authorities at {SYSTEM_ROOTS}")]
    SystemRoots { source: BoxError },
    #[error("the client certificate and its key cannot be used")]
    Identity { source: rustls::Error },
    #[error("TLS cannot be set up")]
    Tls { source: rustls::Error },
}

/// Sends requests; shared by the clones of a client.
pub(crate) enum Transport {
    InProcess { service: Service, user: User },
    Https(Box<Https>),
}

pub(crate) struct Https {
    config: Config,
    live: Mutex<Arc<Live>>,
    pub base: uri::Parts,
    pub server: String,
    token: Option<Token>,
    pub server_name: Option<String>,
}

/// Connections, and as whom.
struct Live {
    client: hyper_util::client::legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    tls: Arc<ClientConfig>,
    /// When the file of the client certificate was written.
    written: Option<SystemTime>,
}

impl Transport {
    pub fn in_process(service: Service, user: User) -> Transport {
        Transport::InProcess { service, user }
    }

    pub fn https(config: &Config) -> Result<Transport, ConnectError> {
        let not_a_url = |source: uri::InvalidUri| ConnectError::Server {
            server: config.server.clone(),
            source: source.into(),
        };
        let base: Uri = config.server.trim_end_matches('/').parse().map_err(not_a_url)?;
        let written = written(config);
        Ok(Transport::Https(Box::new(Https {
            live: Mutex::new(Arc::new(Live::new(config, written)?)),
            config: config.clone(),
            base: base.into_parts(),
            server: config.server.clone(),
            token: config.token.clone(),
            server_name: config.server_name.clone(),
        })))
    }

    /// Where requests go, for errors.
    pub fn server(&self) -> &str {
        match self {
            Transport::InProcess { .. } => "this process",
            Transport::Https(https) => &https.server,
        }
    }

    /// Whether bodies are slices of the server's own bytes.
    pub fn shares_bytes(&self) -> bool {
        matches!(self, Transport::InProcess { .. })
    }

    pub async fn send(&self, mut request: Request<Bytes>) -> Result<Response<Body>, BoxError> {
        match self {
            Transport::InProcess { service, user } => {
                request.extensions_mut().insert(user.clone());
                let answered = service.clone().oneshot(request.map(Full::new)).await;
                Ok(answered.unwrap_or_else(|never| match never {}))
            }
            Transport::Https(https) => {
                https.authorize(request.headers_mut())?;
                *request.uri_mut() = https.absolute(request.uri(), None)?;
                let client = https.live().client.clone();
                let response = client.request(request.map(Full::new)).await?;
                Ok(response.map(|body| Body::new(body.map_err(Into::into))))
            }
        }
    }
}

impl Live {
    fn new(config: &Config, written: Option<SystemTime>) -> Result<Live, ConnectError> {
        let tls = tls_config(config)?;
        let builder =
            hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls.clone()).https_or_http();
        let builder = match &config.server_name {
            Some(name) => {
                let name = ServerName::try_from(name.clone()).map_err(|source| {
                    ConnectError::Server { server: name.clone(), source: source.into() }
                })?;
                builder.with_server_name_resolver(FixedServerNameResolver::new(name))
            }
            None => builder,
        };
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = builder.enable_all_versions().wrap_connector(http);
        let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .http2_initial_stream_window_size(STREAM_WINDOW)
            .http2_initial_connection_window_size(CONNECTION_WINDOW)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .http2_keep_alive_while_idle(true)
            .build(connector);
        Ok(Live { client, tls: Arc::new(tls), written })
    }
}

/// When the file of the client certificate was last written.
fn written(config: &Config) -> Option<SystemTime> {
    let (certificate, _) = config.identity.as_ref()?.files.as_ref()?;
    std::fs::metadata(certificate).ok()?.modified().ok()
}

impl Https {
    /// What is used now. A client certificate that has been renewed on disk is read again, and
    /// whoever asks from then on does so as it says; what is under way stays on the old
    /// connection.
    fn live(&self) -> Arc<Live> {
        let mut live = self.live.lock();
        let now = written(&self.config);
        if now.is_none() || now == live.written {
            return live.clone();
        }
        let mut config = self.config.clone();
        match config.identity.as_mut().map_or(Ok(()), Identity::reread) {
            Ok(()) => match Live::new(&config, now) {
                Ok(renewed) => *live = Arc::new(renewed),
                // It may be half of a change: the next request looks again.
                Err(error) => tracing::warn!(%error, "the renewed client certificate is of no use"),
            },
            Err(error) => tracing::warn!(%error, "cannot read the renewed client certificate"),
        }
        live.clone()
    }

    /// TLS as for any request, for connections of other sorts.
    pub fn tls(&self) -> Arc<ClientConfig> {
        self.live().tls.clone()
    }

    /// Adds the bearer token, if there is one.
    pub fn authorize(&self, headers: &mut http::HeaderMap) -> Result<(), BoxError> {
        let token = match &self.token {
            None => return Ok(()),
            Some(Token::Text(token)) => token.clone(),
            // Read each time: whoever put it there renews it.
            Some(Token::File(path)) => std::fs::read_to_string(path)?,
        };
        let mut value = HeaderValue::try_from(format!("Bearer {}", token.trim()))?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
        Ok(())
    }

    /// The URL of a path under the server's, perhaps with another scheme.
    pub fn absolute(&self, path: &Uri, scheme: Option<uri::Scheme>) -> Result<Uri, BoxError> {
        let prefix = self.base.path_and_query.as_ref().map_or("", |prefix| prefix.path());
        let tail = path.path_and_query().map_or("/", |path| path.as_str());
        let mut parts = uri::Parts::default();
        parts.scheme = scheme.or(self.base.scheme.clone());
        parts.authority = self.base.authority.clone();
        let joined = format!("{}{tail}", prefix.trim_end_matches('/'));
        parts.path_and_query = Some(joined.parse()?);
        Ok(Uri::from_parts(parts)?)
    }
}

/// TLS with whoever answers, to whom nothing is shown: for servers whose authority nobody knows,
/// as those behind the API server's proxies.
pub fn unverified() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions()?;
    let verifier = AnyCertificate::new(provider);
    Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

fn tls_config(config: &Config) -> Result<ClientConfig, ConnectError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|source| ConnectError::Tls { source })?;
    let builder = if config.insecure {
        builder.dangerous().with_custom_certificate_verifier(AnyCertificate::new(provider))
    } else {
        builder.with_root_certificates(roots(config)?)
    };
    match &config.identity {
        None => Ok(builder.with_no_client_auth()),
        Some(identity) => {
            let chain = certificates("the client certificate", &identity.certificate)?;
            let key = PrivateKeyDer::from_pem_slice(&identity.key)
                .map_err(|source| pem_error("the client key", source))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|source| ConnectError::Identity { source })
        }
    }
}

fn roots(config: &Config) -> Result<RootCertStore, ConnectError> {
    let mut store = RootCertStore::empty();
    match &config.ca {
        Some(pem) => {
            for certificate in certificates("the certificate authority", pem)? {
                store.add(certificate).map_err(|source| ConnectError::Tls { source })?;
            }
        }
        None => {
            let pem = std::fs::read(SYSTEM_ROOTS)
                .map_err(|source| ConnectError::SystemRoots { source: source.into() })?;
            store.add_parsable_certificates(certificates("the system's authorities", &pem)?);
        }
    }
    Ok(store)
}

fn certificates(
    what: &'static str,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, ConnectError> {
    CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|source| pem_error(what, source))
}

fn pem_error(what: &'static str, source: rustls::pki_types::pem::Error) -> ConnectError {
    ConnectError::Pem { what, source: source.to_string().into() }
}

/// Believes any certificate: for `insecure-skip-tls-verify`, for probes, which only ask whether
/// somebody answers, and for servers behind proxies, whose authority nobody knows.
#[derive(Debug)]
pub struct AnyCertificate(Arc<CryptoProvider>);

impl AnyCertificate {
    pub fn new(provider: Arc<CryptoProvider>) -> Arc<AnyCertificate> {
        Arc::new(AnyCertificate(provider))
    }
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
