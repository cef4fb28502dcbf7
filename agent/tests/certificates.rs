//! A client certificate that is renewed on disk: whoever calls from then on is who the new one says.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use agent::certificates::Store;
use bytes::Bytes;
use client::{Client, Config, Kubeconfig, kubeconfig};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use proto::time::Time;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use x509_parser::prelude::{FromDer, X509Certificate};

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Authority { issuer: Issuer::new(params, key), pem, der }
    }

    /// Certificate and key, in PEM.
    fn issue(&self, name: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_string()]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// Answers everybody with their own name.
async fn mirror(authority: &Authority) -> SocketAddr {
    use rustls::pki_types::pem::PemObject;
    let (certificate, key) = authority.issue("mirror");
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.der.clone()).unwrap();
    let roots = Arc::new(roots);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
    let builder = ServerConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_client_cert_verifier(verifier.build().unwrap());
    let tls = TlsAcceptor::from(Arc::new(builder.with_single_cert(chain, key).unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(stream) = tls.accept(stream).await else { continue };
            let shown = stream.get_ref().1.peer_certificates().unwrap()[0].clone();
            let (_, parsed) = X509Certificate::from_der(&shown).unwrap();
            let name = parsed.subject().iter_common_name().next().unwrap().as_str().unwrap();
            let answer = json!({ "name": name }).to_string();
            let service = service_fn(move |_| {
                let body = Full::new(Bytes::from(answer.clone()));
                async { Ok::<_, Infallible>(http::Response::new(body)) }
            });
            let connection = hyper::server::conn::http1::Builder::new();
            tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
        }
    });
    address
}

/// A kubeconfig that names the files of a store, as it is written after a bootstrap.
fn write_kubeconfig(path: &Path, server: SocketAddr, authority: &Authority, store: &Store) {
    let config = Config {
        server: format!("https://{server}"),
        ca: Some(authority.pem.clone().into_bytes()),
        ..Config::default()
    };
    let mut written = Kubeconfig::single("default", &config);
    written.users[0].user.client_certificate = Some(store.path());
    written.users[0].user.client_key = Some(store.path());
    written.write(path).unwrap();
}

#[tokio::test]
async fn a_renewed_client_certificate_is_used() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, store) = (Authority::new(), Store::client(&dir.path().join("pki")));
    let server = mirror(&authority).await;
    let (certificate, key) = authority.issue("first");
    store.replace(&certificate, &key, Time::from_unix(1)).unwrap();
    let path = dir.path().join("kubeconfig");
    write_kubeconfig(&path, server, &authority, &store);
    let client = Client::connect(&kubeconfig::component(&path).unwrap()).unwrap();
    let who = async || client.document("/").await.unwrap()["name"].clone();
    assert_eq!(who().await, Value::from("first"));
    assert_eq!(who().await, Value::from("first"));
    let (certificate, key) = authority.issue("second");
    store.replace(&certificate, &key, Time::from_unix(2)).unwrap();
    assert_eq!(who().await, Value::from("second"));
    // What cannot be read changes nothing.
    store.replace("nonsense", "nonsense", Time::from_unix(3)).unwrap();
    assert_eq!(who().await, Value::from("second"));
    let (certificate, key) = authority.issue("third");
    store.replace(&certificate, &key, Time::from_unix(4)).unwrap();
    assert_eq!(who().await, Value::from("third"));
}
