//! The agent's HTTPS endpoint: who is let in.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use agent::cri::simulated::SimulatedRuntime;
use agent::events::Events;
use agent::pods::Pods;
use agent::probe::Untroubled;
use agent::server::{Endpoint, serve};
use agent::volume::NoDisk;
use agent::worker::{Context, Objects, Pulls};
use bytes::Bytes;
use client::{Client, Clock, Informers, Recorder, Rng};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use proto::user::User;
use proto::view::pod::Pod;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
    der: CertificateDer<'static>,
}

type Pair = (CertificateDer<'static>, PrivateKeyDer<'static>);

impl Authority {
    fn new() -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let (pem, der) = (certificate.pem(), certificate.der().clone());
        Authority { issuer: Issuer::new(params, key), pem, der }
    }

    fn issue(&self, name: &str, group: &str, hosts: &[&str]) -> (Pair, String, String) {
        let key = KeyPair::generate().unwrap();
        let hosts: Vec<String> = hosts.iter().map(|host| host.to_string()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, group);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let private = PrivateKeyDer::Pkcs8(key.serialize_der().into());
        ((certificate.der().clone(), private), certificate.pem(), key.serialize_pem())
    }
}

/// The status of a GET, or that there was no connection.
async fn get(
    address: SocketAddr,
    authority: &Authority,
    pair: Option<Pair>,
    path: &str,
) -> Result<(u16, String), String> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match pair {
        Some((certificate, key)) => builder.with_client_auth_cert(vec![certificate], key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    let name = ServerName::from(address.ip());
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let stream = TokioIo::new(stream.map_err(|error| error.to_string())?);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(stream).await.map_err(|error| error.to_string())?;
    tokio::spawn(connection);
    let request = http::Request::get(path).header("host", "node").body(Full::<Bytes>::default());
    let response =
        sender.send_request(request.unwrap()).await.map_err(|error| error.to_string())?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// An API server that knows nothing.
fn nowhere() -> Client {
    let service = tower::service_fn(async |_: http::Request<Full<Bytes>>| {
        let body = Full::new(Bytes::from_static(b"nothing here"));
        let body = body.map_err(client::BoxError::from).boxed_unsync();
        let mut response = http::Response::new(body);
        *response.status_mut() = http::StatusCode::NOT_FOUND;
        Ok::<_, Infallible>(response)
    });
    Client::in_process(client::Service::new(service), User::default())
}

async fn start(dir: &Path, authority: &Authority) -> SocketAddr {
    let (_, certificate, key) = authority.issue("system:node:n", "system:nodes", &["127.0.0.1"]);
    let path = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let client = nowhere();
    let (clock, rng) = (Clock::system(), Rng::seeded(1));
    let informers = Informers::new(client.clone(), clock.clone(), rng.clone());
    let recorder = Recorder::new(client.clone(), clock.clone(), rng, "kubelet", "n");
    let context = Context {
        events: Events::new(recorder),
        runtime: Arc::new(SimulatedRuntime::new(clock.clone())),
        disk: Arc::new(NoDisk),
        prober: Arc::new(Untroubled),
        pulls: Pulls::default(),
        objects: Objects::new(client.clone(), clock.clone()),
        pods: informers.of::<Pod>(),
        services: informers.of(),
        config: Default::default(),
        dns: Default::default(),
        host: Default::default(),
        allocatable: Default::default(),
        metrics: Default::default(),
        client,
        clock,
    };
    // Free a moment ago; nobody else on this machine asks for it meanwhile.
    let free = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let endpoint = Endpoint {
        address,
        identity: Some((path("tls.crt", &certificate), path("tls.key", &key))),
        client_ca: Some(path("ca.crt", &authority.pem)),
        names: Vec::new(),
    };
    let informer = informers.filtered::<Pod>("spec.nodeName=n");
    tokio::spawn(serve(endpoint, Pods::new(Arc::new(context)), informer));
    while TcpStream::connect(address).await.is_err() {
        tokio::task::yield_now().await;
    }
    address
}

#[tokio::test]
async fn only_the_api_server_and_administrators() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let address = start(dir.path(), &authority).await;
    let ask = async |pair: Option<Pair>, path: &str| get(address, &authority, pair, path).await;
    let issue = |name: &str, group: &str| Some(authority.issue(name, group, &[]).0);

    assert_eq!(ask(None, "/healthz").await.unwrap(), (200, "ok".into()));
    assert_eq!(ask(None, "/pods").await.unwrap().0, 401);
    assert_eq!(ask(issue("jane", "developers"), "/pods").await.unwrap().0, 403);
    assert_eq!(ask(issue("system:node:n", "system:nodes"), "/pods").await.unwrap().0, 403);
    let (status, list) = ask(issue("admin", "system:masters"), "/pods").await.unwrap();
    assert_eq!(status, 200);
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list["kind"], "PodList");
    let server = || issue("kube-apiserver-kubelet-client", "");
    assert_eq!(ask(server(), "/pods").await.unwrap().0, 200);
    let (status, why) = ask(server(), "/containerLogs/n/p/c").await.unwrap();
    assert_eq!((status, why.as_str()), (404, "pod \"p\" not found"));
    let (status, _) = ask(server(), "/exec/n/p/c?command=ls").await.unwrap();
    assert_eq!(status, 404);
    assert_eq!(ask(server(), "/exec/n/p/c").await.unwrap().0, 400);
    let forged = stranger.issue("admin", "system:masters", &[]).0;
    assert!(ask(Some(forged), "/pods").await.is_err());
}
