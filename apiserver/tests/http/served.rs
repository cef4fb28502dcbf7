//! An API server on its port, for tests of what only the wire shows.

#![allow(dead_code, reason = "every test program uses a part of it")]

use std::sync::Arc;

use apiserver::Server;
use client::{Client, Clock, Kubeconfig, Rng};
use proto::user::User;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

use crate::api::options;

/// A server on its port, until dropped.
pub struct Served {
    pub dir: tempfile::TempDir,
    pub address: std::net::SocketAddr,
    pub pki: Arc<apiserver::pki::Pki>,
    pub stop: CancellationToken,
    pub task: tokio::task::JoinHandle<()>,
}

impl Served {
    pub async fn start(flags: &[&str]) -> Served {
        let dir = tempfile::tempdir().unwrap();
        let options = options(dir.path(), flags);
        let server = Server::start(options, Clock::system(), Rng::seeded(3)).await.unwrap();
        // No controller makes the account that pods act as.
        let admin = server.client(User::new("admin", &["system:masters"]));
        let account = serde_json::json!({"metadata": {"name": "default"}});
        admin.post("/api/v1/namespaces/default/serviceaccounts", &account).await.unwrap();
        let (address, pki) = (server.address(), server.pki().clone());
        let stop = CancellationToken::new();
        let task = tokio::spawn(server.serve(stop.clone()));
        Served { dir, address, pki, stop, task }
    }

    pub fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    pub fn client(&self, kubeconfig: &str) -> Client {
        let config = Kubeconfig::parse(kubeconfig).unwrap();
        Client::connect(&config.config(None).unwrap()).unwrap()
    }

    pub fn admin(&self) -> Client {
        self.client(&std::fs::read_to_string(self.dir.path().join("admin.kubeconfig")).unwrap())
    }
}

impl Served {
    pub async fn raw(&self) -> TlsStream<TcpStream> {
        connect(self.address, self.pki.ca()).await
    }
}

/// A connection of nobody in particular, for bytes of any kind.
pub async fn connect(address: std::net::SocketAddr, ca: &str) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap()
}
