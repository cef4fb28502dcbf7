//! Logs and exec, with a node's agent that this test plays.

#[path = "http/api.rs"]
mod api;
#[path = "http/served.rs"]
mod served;

use std::{convert::Infallible, sync::Arc};

use api::{PODS, pod};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use served::Served;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// What the played agent answers.
async fn agent(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let uri = request.uri().to_string();
    if uri.starts_with("/containerLogs/default/waiting/") {
        let why = "container \"c\" in pod \"waiting\" is waiting to start: ContainerCreating";
        let response = Response::builder().status(400).body(Full::from(why));
        return Ok(response.unwrap());
    }
    if !request.headers().contains_key(header::UPGRADE) {
        return Ok(Response::new(Full::from(format!("log of {uri}"))));
    }
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgrade.await.unwrap());
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).await.unwrap();
        bytes.reverse();
        stream.write_all(&bytes).await.unwrap();
        stream.write_all(uri.as_bytes()).await.unwrap();
    });
    let response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "test")
        .body(Full::default());
    Ok(response.unwrap())
}

/// Listens as a node's agent does: with a certificate of the cluster, for its members only.
async fn listen(served: &Served) -> u16 {
    let credentials = served.pki.node("n1", &["127.0.0.1".parse().unwrap()]).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(credentials.ca.as_bytes()).unwrap()).unwrap();
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(
        Arc::new(roots),
        provider.clone(),
    )
    .build()
    .unwrap();
    let chain = CertificateDer::from_pem_slice(credentials.serving.certificate.as_bytes());
    let key = PrivateKeyDer::from_pem_slice(credentials.serving.key.as_bytes());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![chain.unwrap()], key.unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let service = hyper::service::service_fn(agent);
            let builder = hyper::server::conn::http1::Builder::new();
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
        }
    });
    port
}

struct Cluster {
    served: Served,
    admin: client::Client,
    _tokens: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Cluster {
        let tokens = tempfile::tempdir().unwrap();
        let file = tokens.path().join("tokens.csv");
        std::fs::write(&file, "secret,root,1,system:masters\n").unwrap();
        let served = Served::start(&[&format!("--token-auth-file={}", file.display())]).await;
        let admin = served.admin();
        let port = listen(&served).await;
        let cluster = Cluster { served, admin, _tokens: tokens };
        cluster.post("/api/v1/nodes", json!({"metadata": {"name": "n1"}})).await;
        let status = json!({"status": {
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
        }});
        let request = Request::patch("/api/v1/nodes/n1/status")
            .header("content-type", "application/merge-patch+json")
            .body(Bytes::from(status.to_string()));
        assert_eq!(cluster.admin.request(request.unwrap()).await.unwrap().status(), 200);
        cluster
    }

    async fn post(&self, path: &str, object: Value) {
        let request = Request::post(path)
            .header("content-type", "application/json")
            .body(Bytes::from(object.to_string()));
        let response = self.admin.request(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), 201, "{path}");
    }

    async fn bound(&self, name: &str, containers: &[&str]) {
        let mut object = pod(name);
        let containers: Vec<Value> =
            containers.iter().map(|name| json!({"name": name, "image": "i"})).collect();
        object["spec"]["containers"] = containers.into();
        self.post(PODS, object).await;
        let binding = json!({"metadata": {"name": name}, "target": {"kind": "Node", "name": "n1"}});
        self.post(&format!("{PODS}/{name}/binding"), binding).await;
    }

    async fn get(&self, path: &str) -> (u16, String) {
        let request = Request::get(path).body(Bytes::new()).unwrap();
        let response = self.admin.request(request).await.unwrap();
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&body).into_owned();
        match serde_json::from_str::<Value>(&text) {
            Ok(status) => (code, status["message"].as_str().unwrap_or_default().to_string()),
            Err(_) => (code, text),
        }
    }
}

#[tokio::test]
async fn logs_come_from_the_node() {
    let cluster = Cluster::start().await;
    cluster.bound("p", &["c"]).await;
    cluster.bound("two", &["a", "b"]).await;
    cluster.bound("waiting", &["c"]).await;
    cluster.post(PODS, pod("unbound")).await;
    let cases = [
        ("p/log", 200, "log of /containerLogs/default/p/c?"),
        (
            "p/log?tailLines=5&follow=true",
            200,
            "log of /containerLogs/default/p/c?follow=true&tailLines=5",
        ),
        ("two/log?container=b", 200, "log of /containerLogs/default/two/b?"),
        ("two/log", 400, "a container name must be specified for pod two, choose one of: [a b]"),
        ("p/log?container=x", 400, "container x is not valid for pod p"),
        (
            "waiting/log",
            400,
            "container \"c\" in pod \"waiting\" is waiting to start: ContainerCreating",
        ),
        ("unbound/log", 200, ""),
        ("none/log", 404, "pods \"none\" not found"),
        (
            "p/log?tailLines=-1",
            422,
            "PodLogOptions \"p\" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0",
        ),
        ("p/exec?command=ls", 400, "Upgrade request required"),
        ("p/exec", 400, "you must specify at least 1 command for the container"),
    ];
    for (path, code, text) in cases {
        let found = cluster.get(&format!("{PODS}/{path}")).await;
        assert_eq!(found, (code, text.to_string()), "{path}");
    }
}

#[tokio::test]
async fn exec_is_passed_through() {
    let cluster = Cluster::start().await;
    cluster.bound("p", &["c"]).await;
    let mut stream = cluster.served.raw().await;
    let request = format!(
        "POST {PODS}/p/exec?command=ls&command=-l&stdout=true&container=c HTTP/1.1\r\nhost: x\r\n\
         authorization: Bearer secret\r\nconnection: Upgrade\r\nupgrade: test\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    assert!(head.starts_with("http/1.1 101") && head.contains("upgrade: test"), "{head}");
    stream.write_all(b"hello").await.unwrap();
    let mut rest = String::new();
    let _ = stream.read_to_string(&mut rest).await;
    assert_eq!(rest, "olleh/exec/default/p/c?command=ls&command=-l&stdout=true");
}
