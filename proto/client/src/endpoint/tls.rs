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

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("read the authorities of client certificates")]
    Pem(#[source] rustls::pki_types::pem::Error),
    #[error("use the authorities of client certificates")]
    Authority(#[source] rustls::Error),
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
    current: Mutex<Current>,
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

struct Current {
    identity: Identity,
    /// When the file of the certificate was written.
    changed: Option<SystemTime>,
    /// Whose client certificates are believed.
    authorities: Vec<CertificateDer<'static>>,
    acceptor: TlsAcceptor,
}

impl Acceptor {
    /// `identity` is the files of a certificate and its key; without them a certificate for `names`
    /// is made. Client certificates are believed if an authority of `client_ca` has signed them.
    pub fn new(
        identity: Option<(PathBuf, PathBuf)>,
        names: &[String],
        client_ca: Option<PathBuf>,
    ) -> Result<Acceptor, TlsError> {
        let changed = identity.as_ref().and_then(|(certificate, _)| modified(certificate));
        let pair = match &identity {
            Some((certificate, key)) => read(certificate, key)?,
            None => make(names)?,
        };
        let authorities = client_ca.as_deref().map(certificates).transpose()?.unwrap_or_default();
        let current = Mutex::new(Current::new(pair, changed, authorities)?);
        Ok(Acceptor { identity, client_ca, current })
    }

    /// Client certificates are believed, from the next connection on, that one of these has signed
    /// (PEM).
    pub fn trust(&self, authorities: &str) -> Result<(), TlsError> {
        let authorities = CertificateDer::pem_slice_iter(authorities.as_bytes())
            .collect::<Result<Vec<_>, _>>()
            .map_err(TlsError::Pem)?;
        let mut current = self.current.lock();
        let (chain, key) = &current.identity;
        let identity = (chain.clone(), key.clone_key());
        *current = Current::new(identity, current.changed, authorities)?;
        Ok(())
    }

    /// The connection, and the user its certificate names.
    pub async fn accept(
        &self,
        stream: TcpStream,
    ) -> std::io::Result<(TlsStream<TcpStream>, Option<User>)> {
        self.refresh();
        let acceptor = self.current.lock().acceptor.clone();
        let stream = acceptor.accept(stream).await?;
        let certificates = stream.get_ref().1.peer_certificates();
        let user = certificates.and_then(|chain| user(chain.first()?));
        Ok((stream, user))
    }

    fn refresh(&self) {
        let Some((certificate, key)) = &self.identity else { return };
        let changed = modified(certificate);
        let mut current = self.current.lock();
        if current.changed == changed {
            return;
        }
        let renewed = || {
            let authorities = match &self.client_ca {
                Some(path) => certificates(path)?,
                None => current.authorities.clone(),
            };
            Current::new(read(certificate, key)?, changed, authorities)
        };
        match renewed() {
            Ok(renewed) => *current = renewed,
            Err(error) => tracing::warn!(%error, "the renewed certificate cannot be used"),
        }
    }
}

impl Current {
    fn new(
        identity: Identity,
        changed: Option<SystemTime>,
        authorities: Vec<CertificateDer<'static>>,
    ) -> Result<Current, TlsError> {
        let (chain, key) = &identity;
        let config = configuration((chain.clone(), key.clone_key()), &authorities)?;
        let acceptor = TlsAcceptor::from(config);
        Ok(Current { identity, changed, authorities, acceptor })
    }
}

fn configuration(
    (chain, key): Identity,
    authorities: &[CertificateDer<'static>],
) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Configure)?;
    let builder = match authorities {
        [] => builder.with_no_client_auth(),
        authorities => {
            let mut roots = RootCertStore::empty();
            for authority in authorities {
                roots.add(authority.clone()).map_err(TlsError::Authority)?;
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

/// A certificate that nobody has signed, as upstream's components make by default.
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
