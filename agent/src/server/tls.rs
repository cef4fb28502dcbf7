//! TLS of the endpoint: who we are, and who calls.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;
use proto::user::User;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Endpoint;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("use the certificates in {}", path.display())]
    Authority { path: PathBuf, source: rustls::Error },
    #[error("verify client certificates")]
    Verifier(#[source] rustls::server::VerifierBuilderError),
    #[error("make a certificate")]
    Make(#[source] rcgen::Error),
    #[error("configure TLS")]
    Configure(#[source] rustls::Error),
}

/// Accepts connections. The certificate is read again when its file has changed.
pub struct Acceptor {
    identity: Option<(PathBuf, PathBuf)>,
    client_ca: Option<PathBuf>,
    current: Mutex<(TlsAcceptor, Option<SystemTime>)>,
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

impl Acceptor {
    pub fn new(endpoint: &Endpoint) -> Result<Acceptor, TlsError> {
        let (identity, client_ca) = (endpoint.identity.clone(), endpoint.client_ca.clone());
        let changed = identity.as_ref().and_then(|(certificate, _)| modified(certificate));
        let pair = match &identity {
            Some((certificate, key)) => read(certificate, key)?,
            None => make(&endpoint.names)?,
        };
        let acceptor = TlsAcceptor::from(configuration(pair, client_ca.as_deref())?);
        Ok(Acceptor { identity, client_ca, current: Mutex::new((acceptor, changed)) })
    }

    /// The connection, and the user its certificate names.
    pub async fn accept(
        &self,
        stream: TcpStream,
    ) -> std::io::Result<(TlsStream<TcpStream>, Option<User>)> {
        self.refresh();
        let acceptor = self.current.lock().0.clone();
        let stream = acceptor.accept(stream).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        let user = certificates.and_then(|chain| user(chain.first()?));
        Ok((stream, user))
    }

    fn refresh(&self) {
        let Some((certificate, key)) = &self.identity else { return };
        let changed = modified(certificate);
        let mut current = self.current.lock();
        if current.1 == changed {
            return;
        }
        let renewed =
            read(certificate, key).and_then(|pair| configuration(pair, self.client_ca.as_deref()));
        match renewed {
            Ok(config) => *current = (TlsAcceptor::from(config), changed),
            Err(error) => tracing::warn!(%error, "the renewed certificate cannot be used"),
        }
    }
}

fn configuration(
    (chain, key): Identity,
    client_ca: Option<&Path>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Configure)?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(path)? {
                roots
                    .add(authority)
                    .map_err(|source| TlsError::Authority { path: path.to_path_buf(), source })?;
            }
            // Who has no certificate is told so in HTTP.
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(TlsError::Verifier)?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(TlsError::Configure)?;
    // Upgrades are HTTP/1.1.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn read(certificate: &Path, key: &Path) -> Result<Identity, TlsError> {
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|source| TlsError::Read { path: key.to_path_buf(), source })?;
    Ok((certificates(certificate)?, private))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|source| TlsError::Read { path: path.to_path_buf(), source })
}

/// A certificate that nobody has signed, as the kubelet's default.
fn make(names: &[String]) -> Result<Identity, TlsError> {
    let made = rcgen::generate_simple_self_signed(names).map_err(TlsError::Make)?;
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    Ok((vec![made.cert.der().clone()], key))
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).ok()?.modified().ok()
}

/// CN is the user, each O a group (Kubernetes: X.509 client certificates); and who has proved to be
/// somebody is in a group for that.
fn user(certificate: &CertificateDer<'_>) -> Option<User> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_string();
    let groups = subject.iter_organization().filter_map(|one| one.as_str().ok());
    let groups = groups.chain(["system:authenticated"]).map(String::from).collect();
    Some(User { name, groups, ..User::default() })
}
