//! The edge against a bare axum handler that returns the same bytes: same listener, same client,
//! same run. Prints rates and ratios.
//!
//! `cargo run --release -p apiserver --example bench_edge`

use std::{sync::Arc, time::Duration};

use apiserver::{Options, Server, server::tls};
use axum::{Router, body::Body};
use bytes::Bytes;
use clap::Parser;
use client::{Client, Clock, Kubeconfig, Rng};
use http::Request;
use http_body_util::BodyExt;
use proto::user::User;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    options: Options,
}

const PODS: &str = "/api/v1/namespaces/default/pods";
const SPAN: Duration = Duration::from_secs(3);

fn pod(name: &str) -> Value {
    let env: Vec<Value> =
        (0..20).map(|n| json!({"name": format!("VARIABLE_{n}"), "value": "a value"})).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "bench"}},
        "spec": {"containers": [{"name": "c", "image": "image:tag", "env": env}]},
    })
}

#[tokio::main]
async fn main() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().display().to_string();
    // No controller makes the account that pods would act as.
    let plugins = "--disable-admission-plugins=ServiceAccount";
    let flags =
        Flags::parse_from(["", "--ephemeral", "--secure-port=0", plugins, "--data-dir", &path]);
    let clock = Clock::system();
    let start = clock.instant();
    let server = Server::start(flags.options, clock.clone(), Rng::from_os()).await.unwrap();
    println!("start: {:?}", start.elapsed());
    let router = server.router();
    creates(&router, &clock).await;

    let url = format!("https://{}", server.address());
    let pki = server.pki().clone();
    let stop = CancellationToken::new();
    let one = get(&router, &format!("{PODS}/p0")).await;
    let list = get(&router, &format!("{PODS}?limit=2000")).await;
    println!("object: {} bytes, list: {} bytes", one.len(), list.len());
    let bare_listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let bare_url = format!("https://{}", bare_listener.local_addr().unwrap());
    let bare_tls = tls::Tls::new(&pki).unwrap();
    let bare = Router::new().route("/one", handler(one)).route("/list", handler(list));
    tokio::spawn(tls::serve(bare_listener, bare_tls, bare, clock.clone(), stop.clone(), 1000));
    tokio::spawn(server.serve(stop.clone()));
    let client = |url: &str| {
        let text = apiserver::pki::kubeconfig(url, pki.ca(), "admin", &pki.admin);
        Client::connect(&Kubeconfig::parse(&text).unwrap().config(None).unwrap()).unwrap()
    };
    let (ours, theirs) = (client(&url), client(&bare_url));
    let path = format!("{PODS}/p0");
    compare("GET", &clock, (&ours, &path), (&theirs, "/one"), 32).await;
    let path = format!("{PODS}?limit=2000");
    compare("LIST of 2000", &clock, (&ours, &path), (&theirs, "/list"), 4).await;
    stop.cancel();
}

fn handler(bytes: Bytes) -> axum::routing::MethodRouter {
    axum::routing::get(move || {
        let bytes = bytes.clone();
        async move { ([("content-type", "application/json")], bytes) }
    })
}

/// CPU per create, through the whole pipeline, without a network and a disk.
async fn creates(router: &Router, clock: &Clock) {
    let (start, cpu) = (clock.instant(), cpu());
    let count = 5000;
    for n in 0..count {
        let request = Request::post(PODS)
            .header("content-type", "application/json")
            .extension(User::new("admin", &["system:masters"]))
            .body(Body::from(pod(&format!("p{n}")).to_string()))
            .unwrap();
        let response = router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 201);
    }
    let used = self::cpu() - cpu;
    println!("create: {:?} each, {:?} of processor time", start.elapsed() / count, used / count);
}

/// What this process has used so far, from /proc (ticks of 10 ms).
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields = stat.rsplit(") ").next().unwrap().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|field| field.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 10)
}

async fn get(router: &Router, path: &str) -> Bytes {
    let user = User::new("admin", &["system:masters"]);
    let request = Request::get(path).extension(user).body(Body::empty()).unwrap();
    let response = router.clone().oneshot(request).await.unwrap();
    response.into_body().collect().await.unwrap().to_bytes()
}

async fn compare(
    what: &str,
    clock: &Clock,
    ours: (&Client, &str),
    theirs: (&Client, &str),
    clients: usize,
) {
    let mut best = (0.0f64, 0.0f64);
    for _ in 0..2 {
        best.0 = best.0.max(rate(clock, ours.0, ours.1, clients).await);
        best.1 = best.1.max(rate(clock, theirs.0, theirs.1, clients).await);
    }
    println!("{what}: {:.0}/s, bare axum {:.0}/s, ratio {:.2}", best.0, best.1, best.0 / best.1);
}

async fn rate(clock: &Clock, client: &Client, path: &str, clients: usize) -> f64 {
    let start = clock.instant();
    let path: Arc<str> = path.into();
    let tasks = (0..clients).map(|_| {
        let (client, clock, path) = (client.clone(), clock.clone(), path.clone());
        tokio::spawn(async move {
            let mut count = 0u64;
            while clock.instant() - start < SPAN {
                let request = Request::get(&*path).body(Bytes::new()).unwrap();
                let response = client.request(request).await.unwrap();
                assert_eq!(response.status(), 200);
                response.into_body().collect().await.unwrap();
                count += 1;
            }
            count
        })
    });
    let counts = futures::future::join_all(tasks).await;
    let total: u64 = counts.into_iter().map(|count| count.unwrap()).sum();
    total as f64 / start.elapsed().as_secs_f64()
}
