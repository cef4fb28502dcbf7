//! Who may ask, over the wire: certificates, tokens, nobody; and how the listener behaves.

#[path = "http/api.rs"]
mod api;
#[path = "http/served.rs"]
mod served;

use api::{Api, CONFIG_MAPS, PODS, config_map, options, pod, reopened};
use apiserver::{Server, ServerError};
use bytes::Bytes;
use client::{Client, Clock, Rng};
use http_body_util::BodyExt;
use proto::{time::Time, user::User};
use serde_json::json;
use served::Served;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

async fn code(client: &Client, path: &str) -> u16 {
    let request = http::Request::get(path).body(Bytes::new()).unwrap();
    client.request(request).await.unwrap().status().as_u16()
}

#[tokio::test]
async fn certificates_say_who_asks() {
    let served = Served::start(&[]).await;
    assert_eq!(code(&served.admin(), "/api/v1/nodes").await, 200);
    let node = served.pki.node("n1", &["127.0.0.1".parse().unwrap()]).unwrap();
    let node = apiserver::pki::kubeconfig(&served.url(), &node.ca, "n1", &node.client);
    let node = served.client(&node);
    assert_eq!(code(&node, "/api/v1/services").await, 200);
    assert_eq!(code(&node, "/api/v1/secrets").await, 403);
    let alice = served.pki.client("alice", &["devs"]).unwrap();
    let alice = apiserver::pki::kubeconfig(&served.url(), served.pki.ca(), "alice", &alice);
    let alice = served.client(&alice);
    assert_eq!(code(&alice, "/apis").await, 200);
    assert_eq!(code(&alice, "/api/v1/pods").await, 403);
    served.stop.cancel();
    served.task.await.unwrap();
}

#[tokio::test]
async fn tokens_and_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens.csv");
    std::fs::write(&file, "secret,root,1,\"system:masters\"\nweak,bob,2\n").unwrap();
    let api = Api::start_with(&[&format!("--token-auth-file={}", file.display())]).await;
    let wire = api.as_user(User::default());
    let cases = [
        (Some("Bearer secret"), "/api/v1/pods", 200),
        (Some("Bearer weak"), "/api/v1/pods", 403),
        (Some("Bearer wrong"), "/api/v1/pods", 401),
        (Some("Bearer wrong"), "/version", 401),
        (Some("Basic YTpi"), "/api/v1/pods", 401),
        (None, "/api/v1/pods", 403),
        (None, "/apis", 403),
        (None, "/version", 200),
        (None, "/readyz", 200),
        (None, "/livez", 200),
    ];
    for (token, path, expected) in cases {
        let header = token.map(|token| format!("authorization: {token}"));
        let headers: Vec<&str> = header.iter().map(String::as_str).collect();
        let reply = wire.send(&format!("GET {path}"), &headers, "").await;
        assert_eq!(reply.code, expected, "{token:?} {path}: {}", reply.text());
    }
    let header = ["authorization: Bearer weak"];
    let refused = wire.send(&format!("GET {PODS}"), &header, "").await.expect(403);
    assert_eq!(
        refused["message"],
        "pods is forbidden: User \"bob\" cannot list resource \"pods\" in API group \"\" in the \
         namespace \"default\""
    );
}

#[tokio::test]
async fn nodes_write_their_own_things_only() {
    let api = Api::start().await;
    let node = api.as_user(User::new("system:node:n1", &["system:nodes"]));
    let object = |name: &str| json!({"metadata": {"name": name}});
    node.post("/api/v1/nodes", object("n1")).await.expect(201);
    let other = node.post("/api/v1/nodes", object("n2")).await;
    assert_eq!(other.code, 403);
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";
    node.post(leases, object("n1")).await.expect(201);
    assert_eq!(node.post(leases, object("n2")).await.code, 403);

    api.post(PODS, pod("p")).await.expect(201);
    let status = format!("{PODS}/p/status");
    let patch = json!({"status": {"phase": "Running"}});
    assert_eq!(node.merge(&status, patch.clone()).await.code, 403);
    let binding = json!({"metadata": {"name": "p"}, "target": {"kind": "Node", "name": "n1"}});
    api.post(&format!("{PODS}/p/binding"), binding).await.expect(201);
    node.merge(&status, patch).await.expect(200);
}

#[tokio::test]
async fn a_port_in_use_and_bad_options_are_said_plainly() {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    let start = async |flags: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        let options = options(dir.path(), flags);
        Server::start(options, Clock::system(), Rng::seeded(1)).await.err().unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let mut busy = options(dir.path(), &[]);
    busy.secure_port = port;
    let error = Server::start(busy, Clock::system(), Rng::seeded(1)).await.err().unwrap();
    assert!(matches!(error, ServerError::InUse { .. }));
    assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
    let error = start(&["--disable-admission-plugins=Nothing"]).await;
    assert!(matches!(error, ServerError::Admission(_)), "{error}");
}

#[tokio::test]
async fn renewed_certificates_meet_new_connections() {
    use apiserver::{pki::Pki, server::tls};
    let dir = tempfile::tempdir().unwrap();
    let names = ["localhost".to_string()];
    let now = Clock::system().now();
    let past = Time::from_unix(now.0.as_second() - 300 * 24 * 3600);
    let open = |clock: &Clock| Pki::open(dir.path(), &names, clock, &Rng::seeded(4)).unwrap();
    let old = open(&Clock::simulated(past));
    assert!(old.renew_at() < now);
    let tls = tls::Tls::new(&old).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let router = axum::Router::new();
    let served = tls::serve(listener, tls.clone(), router, Clock::system(), stop.clone(), 100);
    let served = tokio::spawn(served);
    let presented = async || {
        let stream = served::connect(address, old.ca()).await;
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let before = presented().await;
    assert_eq!(before, presented().await);
    tls.renew(&open(&Clock::system())).unwrap();
    assert_ne!(before, presented().await);
    stop.cancel();
    served.await.unwrap();
}

#[tokio::test]
async fn acting_as_somebody_else() {
    let api = Api::start().await;
    let acting = ["impersonate-user: bob", "impersonate-group: devs"];
    let refused = api.send(&format!("GET {PODS}"), &acting, "").await.expect(403);
    assert!(refused["message"].as_str().unwrap().contains("User \"bob\" cannot list"), "{refused}");
    let masters = ["impersonate-user: bob", "impersonate-group: system:masters"];
    api.send(&format!("GET {PODS}"), &masters, "").await.expect(200);
    let bob = api.as_user(User::new("bob", &[]));
    let refused = bob.send(&format!("GET {PODS}"), &masters, "").await.expect(403);
    assert!(refused["message"].as_str().unwrap().contains("cannot impersonate"), "{refused}");
}

#[tokio::test]
async fn watches_end_when_the_server_does() {
    let served = Served::start(&[]).await;
    let client = served.admin();
    let request = http::Request::get(format!("{PODS}?watch=true")).body(Bytes::new()).unwrap();
    let response = client.request(request).await.unwrap();
    assert_eq!(response.status(), 200, "the head arrives before the first event");
    served.stop.cancel();
    let rest = response.into_body().collect().await.unwrap();
    assert!(rest.to_bytes().is_empty());
    served.task.await.unwrap();
}

#[tokio::test]
async fn plugins_that_are_off_do_nothing() {
    let api = Api::start_with(&["--disable-admission-plugins=ServiceAccount"]).await;
    let created = api.post(PODS, pod("p")).await.expect(201);
    assert!(created["spec"].get("serviceAccountName").is_none());
}

/// One raw HTTP/1.1 connection: what no client library would send.
#[tokio::test]
async fn http1_half_closed_and_malformed() {
    let served = Served::start(&[]).await;
    let mut stream = served.raw().await;
    stream
        .write_all(b"GET /version HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200 OK"), "{text}");
    let mut stream = served.raw().await;
    stream.write_all(b"nonsense\r\n\r\n").await.unwrap();
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes).await;
    assert!(bytes.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&bytes));
    assert_eq!(code(&served.admin(), "/api/v1/pods").await, 200);
}

#[tokio::test]
async fn objects_survive_a_restart_and_revisions_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = options(dir.path(), &[]);
    options.ephemeral = false;
    let mut last = 0;
    for round in 0..3 {
        let server = reopened(&options).await;
        let stop = CancellationToken::new();
        let client = server.client(User::new("admin", &["system:masters"]));
        let task = tokio::spawn(server.serve(stop.clone()));
        let name = format!("c{round}");
        let request = http::Request::post(CONFIG_MAPS)
            .header("content-type", "application/json")
            .body(Bytes::from(config_map(&name).to_string()))
            .unwrap();
        assert_eq!(client.request(request).await.unwrap().status(), 201);
        let here = client::ListOptions { namespace: "default".into(), ..Default::default() };
        let list: client::List<proto::view::config_map::ConfigMap> =
            client.list(&here).await.unwrap();
        assert_eq!(list.items.len(), round + 1);
        assert!(list.revision > last);
        last = list.revision;
        stop.cancel();
        task.await.unwrap();
        drop(client);
    }
}
