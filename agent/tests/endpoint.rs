//! The agent's HTTPS endpoint: who is let in, and what is served.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use agent::config::NodeConfig;
use agent::cri::simulated::SimulatedRuntime;
use agent::events::Events;
use agent::pods::Pods;
use agent::probe::Untroubled;
use agent::server::{Endpoint, serve};
use agent::volume::NoDisk;
use agent::worker::{Context, Objects, Own, Pulls};
use bytes::Bytes;
use client::{Client, Clock, Informers, Recorder, Rng};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use proto::user::User;
use proto::view::pod::Pod;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
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

/// Who asks: with a certificate, with a token, or neither.
#[derive(Default)]
struct Caller {
    pair: Option<Pair>,
    token: Option<&'static str>,
}

/// The status of a request, or that there was no connection.
async fn send(
    address: SocketAddr,
    authority: &Authority,
    caller: Caller,
    method: &str,
    path: &str,
) -> Result<(u16, String), String> {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der.clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match caller.pair {
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
    let mut request = http::Request::builder().method(method).uri(path).header("host", "node");
    if let Some(token) = caller.token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    let request = request.body(Full::<Bytes>::default()).unwrap();
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    Ok((status, String::from_utf8_lossy(&body).into_owned()))
}

/// An API server that knows the tokens `TOKEN-of-NAME` and lets users do what their names say:
/// `admin` everything, others `get` of the subresource that they are called after. It writes down
/// what it is asked.
#[derive(Clone, Default)]
struct Reviewer {
    asked: Arc<Mutex<Vec<Value>>>,
    broken: Arc<AtomicBool>,
}

impl Reviewer {
    fn client(&self) -> Client {
        let this = self.clone();
        let service = tower::service_fn(move |request: http::Request<Full<Bytes>>| {
            let this = this.clone();
            async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let (code, answer) = this.answer(&body);
                let body = Full::new(Bytes::from(answer.to_string()));
                let body = body.map_err(client::BoxError::from).boxed_unsync();
                let mut response = http::Response::new(body);
                *response.status_mut() = code;
                Ok::<_, Infallible>(response)
            }
        });
        Client::in_process(client::Service::new(service), User::default())
    }

    fn answer(&self, body: &[u8]) -> (http::StatusCode, Value) {
        let Ok(review) = serde_json::from_slice::<Value>(body) else {
            return (http::StatusCode::NOT_FOUND, json!("nothing here"));
        };
        if self.broken.load(Relaxed) {
            return (http::StatusCode::INTERNAL_SERVER_ERROR, json!("out of order"));
        }
        self.asked.lock().push(review.clone());
        let spec = &review["spec"];
        let status = match review["kind"].as_str() {
            Some("TokenReview") => {
                match spec["token"].as_str().and_then(|token| token.strip_prefix("TOKEN-of-")) {
                    Some(name) => json!({
                        "authenticated": true,
                        "user": {"username": name, "uid": "1", "groups": ["system:authenticated"]},
                    }),
                    None => json!({"authenticated": false}),
                }
            }
            Some("SubjectAccessReview") => {
                let attributes = &spec["resourceAttributes"];
                let own = spec["user"] == attributes["subresource"] && attributes["verb"] == "get";
                json!({"allowed": spec["user"] == "admin" || own})
            }
            other => panic!("who asks for {other:?}?"),
        };
        (http::StatusCode::CREATED, json!({"kind": review["kind"], "status": status}))
    }

    /// What was asked since the last time, of this kind.
    fn take(&self, kind: &str) -> Vec<Value> {
        let all = std::mem::take(&mut *self.asked.lock());
        all.into_iter().filter(|review| review["kind"] == kind).collect()
    }
}

async fn start(
    dir: &Path,
    authority: &Authority,
    reviewer: &Reviewer,
    anonymous: bool,
) -> SocketAddr {
    let (_, certificate, key) = authority.issue("system:node:n", "system:nodes", &["127.0.0.1"]);
    let path = |name: &str, text: &str| {
        let path = dir.join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let client = reviewer.client();
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
        allocations: Default::default(),
        ended: Default::default(),
        devices: Default::default(),
        cpus: Default::default(),
        dra: Default::default(),
        own: Own {
            client: client.clone(),
            nodes: informers.of(),
            name: "n".into(),
            labels: Default::default(),
            allocatable: Default::default(),
            devices: Default::default(),
            unsafe_sysctls: Vec::new(),
            shutdown: Default::default(),
            pressure: Default::default(),
        },
        services: informers.of(),
        config: NodeConfig { root: dir.to_path_buf(), ..NodeConfig::default() },
        dns: Default::default(),
        pod_range: Default::default(),
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
        node: "n".into(),
        anonymous,
        logs: dir.join("log"),
        configuration: json!({"kubeletconfig": {"port": address.port()}}),
    };
    let informer = informers.filtered::<Pod>("spec.nodeName=n");
    tokio::spawn(serve(endpoint, Pods::new(Arc::new(context)), informer));
    while TcpStream::connect(address).await.is_err() {
        tokio::task::yield_now().await;
    }
    address
}

#[tokio::test]
async fn who_is_let_in() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, stranger) = (Authority::new(), Authority::new());
    let reviewer = Reviewer::default();
    let address = start(dir.path(), &authority, &reviewer, false).await;
    let ask = async |caller: Caller, path: &str| {
        send(address, &authority, caller, "GET", path).await.unwrap()
    };
    let certified = |name: &str| {
        let pair = authority.issue(name, "group", &[]).0;
        Caller { pair: Some(pair), token: None }
    };
    let token = |token| Caller { pair: None, token: Some(token) };

    assert_eq!(ask(Caller::default(), "/healthz").await, (401, "Unauthorized".into()));
    assert_eq!(ask(token("bad"), "/healthz").await, (401, "Unauthorized".into()));
    assert_eq!(reviewer.take("TokenReview").len(), 1);
    // What is known of a token and of its owner's rights is not asked again.
    for _ in 0..2 {
        assert_eq!(ask(token("TOKEN-of-healthz"), "/healthz").await, (200, "ok".into()));
    }
    let asked = reviewer.asked.lock().clone();
    let kinds: Vec<&str> = asked.iter().filter_map(|review| review["kind"].as_str()).collect();
    assert_eq!(kinds, ["TokenReview", "SubjectAccessReview"]);
    let expected = json!({"verb": "get", "version": "v1", "resource": "nodes",
        "subresource": "healthz", "name": "n"});
    assert_eq!(asked[1]["spec"]["resourceAttributes"], expected);
    assert_eq!(asked[1]["spec"]["uid"], "1");
    reviewer.take("");

    // The finer subresource first, the old and broad one after it.
    let (code, why) = ask(certified("metrics"), "/pods").await;
    let expected =
        "Forbidden (user=metrics, verb=get, resource=nodes, subresource(s)=[pods proxy])\n";
    assert_eq!((code, why.as_str()), (403, expected));
    let asked = reviewer.take("SubjectAccessReview");
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0]["spec"]["groups"], json!(["group", "system:authenticated"]));
    for (user, path, code) in [
        ("proxy", "/pods", 200),
        ("pods", "/pods/", 200),
        ("pods", "/runningpods/", 200),
        ("pods", "/stats/summary", 403),
        ("stats", "/stats/summary", 200),
        ("metrics", "/metrics/resource", 200),
        ("metrics", "/configz", 403),
        ("configz", "/configz", 200),
        ("log", "/logs/", 404),
        ("log", "/containerLogs/n/p/c", 403),
        ("proxy", "/containerLogs/n/p/c", 404),
        ("proxy", "/metrics", 403),
        ("proxy", "/nowhere", 404),
        ("nobody", "/nowhere", 403),
    ] {
        assert_eq!(ask(certified(user), path).await.0, code, "{user} {path}");
    }
    let forged = Caller { pair: Some(stranger.issue("admin", "", &[]).0), token: None };
    assert!(send(address, &authority, forged, "GET", "/pods").await.is_err());

    // Without the API server's word nobody new is let in, and who is known still is.
    reviewer.broken.store(true, Relaxed);
    assert_eq!(ask(token("TOKEN-of-pods"), "/pods").await.0, 401);
    let (code, why) = ask(certified("jane"), "/metrics").await;
    let expected = "Authorization error (user=jane, verb=get, resource=nodes, subresource=metrics)";
    assert_eq!((code, why.as_str()), (500, expected));
    assert_eq!(ask(token("TOKEN-of-healthz"), "/healthz").await.0, 200);
}

#[tokio::test]
async fn anonymous_callers_are_asked_about_where_they_are_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, reviewer) = (Authority::new(), Reviewer::default());
    let address = start(dir.path(), &authority, &reviewer, true).await;
    let nobody = Caller::default();
    let (code, why) = send(address, &authority, nobody, "GET", "/pods").await.unwrap();
    assert!(code == 403 && why.contains("user=system:anonymous"), "{why}");
    let bad = Caller { pair: None, token: Some("bad") };
    assert_eq!(send(address, &authority, bad, "GET", "/pods").await.unwrap().0, 401);
}

#[tokio::test]
async fn every_path_of_the_kubelet() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("log")).unwrap();
    std::fs::write(dir.path().join("log/boot.log"), "booted\n").unwrap();
    let (authority, reviewer) = (Authority::new(), Reviewer::default());
    let address = start(dir.path(), &authority, &reviewer, false).await;
    let ask = async |method: &str, path: &str| {
        let caller = Caller { pair: Some(authority.issue("admin", "", &[]).0), token: None };
        send(address, &authority, caller, method, path).await.unwrap()
    };
    let read = |text: &str| -> Value { serde_json::from_str(text).unwrap() };
    let said = async |path: &str| ask("GET", path).await;
    assert_eq!(said("/healthz/ping").await, (200, "ok".into()));
    assert_eq!(said("/healthz/syncloop").await, (200, "ok".into()));
    assert_eq!(said("/healthz/other").await.0, 404);
    assert!(said("/healthz?verbose").await.1.ends_with("[+]syncloop ok\nhealthz check passed\n"));
    for path in ["/pods", "/runningpods/"] {
        assert_eq!(read(&said(path).await.1)["kind"], "PodList", "{path}");
    }
    assert_eq!(read(&said("/configz").await.1)["kubeletconfig"]["port"], address.port());
    assert_eq!(said("/logs/boot.log").await, (200, "booted\n".into()));
    assert!(said("/logs/").await.1.contains("<a href=\"boot.log\">"));
    assert_eq!(said("/logs/../tls.key").await.0, 404);
    let summary = read(&said("/stats/summary").await.1);
    assert_eq!((&summary["node"]["nodeName"], &summary["pods"]), (&json!("n"), &json!([])));
    assert!(summary["node"]["fs"]["capacityBytes"].as_u64().unwrap() > 0);
    let summary = read(&said("/stats/summary?only_cpu_and_memory=true").await.1);
    assert!(summary["node"]["cpu"]["usageCoreNanoSeconds"].as_u64().unwrap() > 0);
    assert_eq!(summary["node"].get("fs"), None);
    assert_eq!(said("/stats/summary?only_cpu_and_memory=x").await.0, 400);
    for (path, name) in [
        ("/metrics", "kubelet_running_pods"),
        ("/metrics/cadvisor", "machine_memory_bytes"),
        ("/metrics/resource", "node_memory_working_set_bytes"),
        ("/metrics/probes", "process_start_time_seconds"),
    ] {
        let (code, text) = said(path).await;
        let parsed = proto::exposition::parse(&text).unwrap();
        assert!(code == 200 && parsed.kinds.contains_key(name), "{path}: {text}");
        for sample in &parsed.samples {
            let family = sample.name.trim_end_matches("_bucket").trim_end_matches("_sum");
            let family = family.trim_end_matches("_count");
            let known =
                parsed.kinds.contains_key(family) || parsed.kinds.contains_key(&sample.name);
            assert!(known, "{path}: {} has no type", sample.name);
        }
    }
    let own = proto::exposition::parse(&said("/metrics").await.1).unwrap();
    let mut requests = own.samples.iter().filter(|one| one.name == "kubelet_http_requests_total");
    assert!(requests.any(|one| one.label("path") == "metrics/resource" && one.value == 1.0));
    assert_eq!(said("/containerLogs/n/p/c").await, (404, "pod \"p\" not found".into()));
    assert_eq!(said("/exec/n/p/c?command=ls").await, (404, "pod does not exist".into()));
    assert_eq!(said("/exec/n/p/c").await.0, 400);
    assert_eq!(ask("POST", "/run/n/p/c?cmd=ls").await, (404, "pod does not exist".into()));
    assert_eq!(ask("POST", "/portForward/n/p").await, (404, "pod does not exist".into()));
    for (method, path) in [("POST", "/pods"), ("PUT", "/configz"), ("GET", "/run/n/p/c")] {
        assert_eq!(ask(method, path).await.0, 405, "{method} {path}");
    }
    assert_eq!(ask("POST", "/checkpoint/n/p/c").await.0, 404);
}
