//! Logs, exec, port forwarding and proxies, with a node's agent and a pod that this test plays.

#[path = "http/agent.rs"]
mod agent;
#[path = "http/api.rs"]
mod api;
#[path = "http/served.rs"]
mod served;

use std::convert::Infallible;

use api::{PODS, pod};
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use served::Served;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

/// What the played agent answers.
async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
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
        let port = agent::listen(&served, answer).await;
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

    async fn patch(&self, path: &str, patch: Value) {
        let request = Request::patch(path)
            .header("content-type", "application/merge-patch+json")
            .body(Bytes::from(patch.to_string()));
        let response = self.admin.request(request.unwrap()).await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.call("GET", path).await
    }

    /// The code, and where to go, what is wrong or what is said.
    async fn call(&self, method: &str, path: &str) -> (u16, String) {
        let body = if method == "GET" { "" } else { "body" };
        let request = Request::builder().method(method).uri(path).body(Bytes::from(body));
        let response = self.admin.request(request.unwrap()).await.unwrap();
        let code = response.status().as_u16();
        if let Some(location) = response.headers().get("location") {
            return (code, location.to_str().unwrap().to_string());
        }
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
        ("p/portforward", 400, "Upgrade request required"),
        ("p/portforward?ports=x", 400, "invalid port value \"x\""),
        ("unbound/portforward", 400, "pod unbound does not have a host assigned"),
        ("p/exec", 400, "you must specify at least 1 command for the container"),
    ];
    for (path, code, text) in cases {
        let found = cluster.get(&format!("{PODS}/{path}")).await;
        assert_eq!(found, (code, text.to_string()), "{path}");
    }
}

#[tokio::test]
async fn upgrades_are_passed_through() {
    let cluster = Cluster::start().await;
    cluster.bound("p", &["c"]).await;
    let cases = [
        (
            format!("{PODS}/p/exec?command=ls&command=-l&stdout=true&container=c"),
            "/exec/default/p/c?command=ls&command=-l&stdout=true",
        ),
        (format!("{PODS}/p/attach?stdin=true"), "/attach/default/p/c?stdin=true"),
        (format!("{PODS}/p/portforward?ports=80"), "/portForward/default/p?ports=80"),
        ("/api/v1/nodes/n1/proxy/exec/a/b/c?x=1".to_string(), "/exec/a/b/c?x=1"),
    ];
    for (path, asked) in cases {
        passed_through(&cluster, &path, asked).await;
    }
}

async fn passed_through(cluster: &Cluster, path: &str, asked: &str) {
    let mut stream = cluster.served.raw().await;
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\n\
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
    assert_eq!(rest, format!("olleh{asked}"));
}

/// What a server in a pod answers: what it was asked, or where to go instead.
async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    if parts.uri.path() == "/moved" {
        let response = Response::builder().status(302).header("location", "/there?x=1");
        return Ok(response.body(Full::default()).unwrap());
    }
    let secret = parts.headers.contains_key("authorization");
    let uri = parts.headers["x-forwarded-uri"].to_str().unwrap();
    let text = format!(
        "{} {} body={} secret={secret} uri={uri}",
        parts.method,
        parts.uri,
        String::from_utf8_lossy(&body)
    );
    Ok(Response::builder()
        .header("access-control-allow-origin", "*")
        .header("keep-alive", "5")
        .body(Full::from(text))
        .unwrap())
}

/// An address of this machine on which a pod may be: not the loopback's.
async fn own_address() -> Option<std::net::IpAddr> {
    let socket = tokio::net::UdpSocket::bind("0.0.0.0:0").await.ok()?;
    // Only asks the routing table; nothing is sent.
    socket.connect("203.0.113.1:9").await.ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback())
}

#[tokio::test]
async fn requests_reach_pods_and_services() {
    let cluster = Cluster::start().await;
    let Some(ip) = own_address().await else {
        eprintln!("SKIPPED: this machine has no address but the loopback's");
        return;
    };
    let listener = TcpListener::bind((ip, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = hyper::service::service_fn(echo);
            let builder = hyper::server::conn::http1::Builder::new();
            tokio::spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    });
    cluster.bound("p", &["c"]).await;
    let status = json!({"status": {"phase": "Running", "podIP": ip.to_string()}});
    cluster.patch(&format!("{PODS}/p/status"), status).await;
    cluster.bound("local", &["c"]).await;
    let status = json!({"status": {"phase": "Running", "podIP": "127.0.0.1"}});
    cluster.patch(&format!("{PODS}/local/status"), status).await;
    let services = "/api/v1/namespaces/default/services";
    let ports = json!([{"name": "web", "port": 80, "targetPort": port}]);
    let service = |name: &str| json!({"metadata": {"name": name}, "spec": {"ports": ports}});
    cluster.post(services, service("s")).await;
    cluster.post(services, service("empty")).await;
    let slice = json!({
        "metadata": {"name": "s1", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4",
        "ports": [{"name": "web", "port": port}],
        "endpoints": [{"addresses": [ip.to_string()], "conditions": {"ready": true},
            "targetRef": {"kind": "Pod", "name": "p", "namespace": "default"}}],
    });
    cluster.post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", slice).await;
    let told = |method: &str, path: &str, body: &str, uri: &str| {
        format!("{method} {path} body={body} secret=false uri={uri}")
    };
    let pod = format!("{PODS}/p:{port}/proxy");
    let web = format!("{services}/s:web/proxy");
    let cases = [
        (
            "GET",
            format!("{pod}/a/?b=c%2Fd"),
            200,
            told("GET", "/a/?b=c%2Fd", "", &format!("{pod}/a/")),
        ),
        ("POST", pod.clone(), 200, told("POST", "/", "body", &pod)),
        ("PUT", format!("{pod}//x"), 200, told("PUT", "//x", "body", &format!("{pod}//x"))),
        ("GET", pod.clone(), 301, format!("{pod}/")),
        ("GET", format!("{pod}/moved"), 302, format!("{pod}/there?x=1")),
        ("GET", format!("{web}/y"), 200, told("GET", "/y", "", &format!("{web}/y"))),
        (
            "GET",
            format!("{services}/http:s:80/proxy/y"),
            200,
            told("GET", "/y", "", &format!("{services}/http:s:80/proxy/y")),
        ),
        (
            "GET",
            format!("{services}/s:81/proxy/"),
            503,
            "no service port 81 found for service \"s\"".into(),
        ),
        (
            "GET",
            format!("{services}/empty:80/proxy/"),
            503,
            "no endpoints available for service \"empty\"".into(),
        ),
        ("GET", format!("{services}/none/proxy/"), 404, "services \"none\" not found".into()),
        ("GET", format!("{PODS}/a:b:c:d/proxy/"), 400, "invalid pod request \"a:b:c:d\"".into()),
        ("GET", format!("{PODS}/local:{port}/proxy/"), 400, "address not allowed".into()),
        (
            "GET",
            format!("{PODS}/p:1/proxy/"),
            503,
            format!("error trying to reach service: dial tcp {ip}:1: connect: connection refused"),
        ),
        ("GET", "/api/v1/nodes/n1/proxy/pods/?x".into(), 200, "log of /pods/?x".into()),
        ("GET", "/api/v1/nodes/none/proxy/".into(), 404, "nodes \"none\" not found".into()),
    ];
    for (method, path, code, text) in cases {
        let found = cluster.call(method, &path).await;
        assert_eq!(found, (code, text), "{method} {path}");
    }
}
