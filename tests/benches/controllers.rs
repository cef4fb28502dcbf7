//! What the controllers cost: the CPU time of their thread while a Deployment of a thousand pods
//! comes up on a hundred simulated nodes, and while it idles. The API server, the scheduler and
//! the nodes run on other threads, so that only the controllers are counted.
//!
//! `cargo bench -p tests --bench controllers`

use std::convert::Infallible;
use std::time::Duration;

use agent::simulated::Simulated;
use bytes::Bytes;
use client::{Body, BoxError, CancellationToken, Client, Clock, Informers, Rng, Service};
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use proto::user::User;
use proto::view::deployment::Deployment;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tower::ServiceExt;

const PODS: usize = 1000;
const NODES: usize = 100;

type Call = (Request<Full<Bytes>>, oneshot::Sender<Response<Body>>);

#[derive(clap::Parser)]
struct Arguments {
    #[command(flatten)]
    options: apiserver::Options,
}

fn main() {
    let (sender, receiver) = mpsc::unbounded_channel();
    let (ready, is_ready) = std::sync::mpsc::channel();
    std::thread::spawn(move || cluster(receiver, ready));
    is_ready.recv().expect("the cluster comes up");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(measure(sender));
}

/// Everything but the controllers.
fn cluster(mut calls: mpsc::UnboundedReceiver<Call>, ready: std::sync::mpsc::Sender<()>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let (clock, rng) = (Clock::system(), Rng::from_os());
        let folder = tempfile::tempdir().expect("a temporary directory");
        let data_dir = format!("--data-dir={}", folder.path().display());
        let flags = ["apiserver", &data_dir, "--ephemeral", "--secure-port=0"];
        let options = <Arguments as clap::Parser>::parse_from(flags).options;
        let server = apiserver::Server::start(options, clock.clone(), rng.clone()).await;
        let server = server.expect("the API server starts");
        let client = server.client(User::new("admin", &["system:masters"]));
        let informers = Informers::new(client.clone(), clock.clone(), rng.clone());
        let options = scheduler::Options { leader_elect: false, ..Default::default() };
        let (c, i, k, r) = (client.clone(), informers.clone(), clock.clone(), rng.clone());
        tokio::spawn(scheduler::run(options, c, i, k, r, CancellationToken::new()));
        let _nodes = Simulated::start(NODES, &client, &informers, &clock, &rng);
        ready.send(()).expect("someone waits");
        let router = server.router();
        while let Some((request, answer)) = calls.recv().await {
            let router = router.clone();
            tokio::spawn(async move {
                let response = router.oneshot(request.map(axum::body::Body::new)).await;
                let response = response.unwrap_or_else(|never| match never {});
                let (parts, mut body) = response.into_parts();
                let (frames, received) =
                    mpsc::unbounded_channel::<Result<Frame<Bytes>, BoxError>>();
                let stream = body_of(received);
                let _ = answer.send(Response::from_parts(parts, stream));
                while let Some(frame) = body.frame().await {
                    if frames.send(frame.map_err(Into::into)).is_err() {
                        break;
                    }
                }
            });
        }
    });
}

fn body_of(mut frames: mpsc::UnboundedReceiver<Result<Frame<Bytes>, BoxError>>) -> Body {
    let stream = futures::stream::poll_fn(move |context| frames.poll_recv(context));
    StreamBody::new(stream).boxed_unsync()
}

async fn measure(sender: mpsc::UnboundedSender<Call>) {
    let service = tower::service_fn(move |request: Request<Full<Bytes>>| {
        let sender = sender.clone();
        async move {
            let (answer, answered) = oneshot::channel();
            sender.send((request, answer)).expect("the cluster lives");
            Ok::<_, Infallible>(answered.await.expect("the cluster answers"))
        }
    });
    let service = Service::new(service);
    let user = User::new("system:kube-controller-manager", &["system:authenticated"]);
    let client = Client::in_process(service.clone(), user);
    let (clock, rng) = (Clock::system(), Rng::from_os());
    let informers = Informers::new(client.clone(), clock.clone(), rng.clone());
    let options = controller::Options { leader_elect: false, ..controller::Options::default() };
    let (c, i, k) = (client.clone(), informers.clone(), clock.clone());
    tokio::spawn(controller::run(options, c, i, k, rng, CancellationToken::new()));
    clock.sleep(Duration::from_secs(3)).await;

    let idle = cpu();
    clock.sleep(Duration::from_secs(10)).await;
    let idle = cpu() - idle;
    println!("idle, {NODES} nodes: {:.3} % of a core", idle.as_secs_f64() * 10.0);

    let admin = Client::in_process(service, User::new("admin", &["system:masters"]));
    let (before, start) = (cpu(), clock.instant());
    admin.create::<Deployment>("default", &deployment()).await.expect("the Deployment is made");
    let deployments = informers.of::<Deployment>();
    let mut changes = deployments.changes();
    let available = || {
        let deployment = deployments.get("default", "web");
        deployment.map_or(0, |deployment| deployment.status.available_replicas)
    };
    while available() < PODS as i32 {
        changes.next().await;
    }
    let (spent, took) = (cpu() - before, clock.instant() - start);
    let each = spent.as_secs_f64() * 1e6 / PODS as f64;
    println!("{PODS} pods available after {:.2} s", took.as_secs_f64());
    println!(
        "controllers: {each:.0} µs of CPU per pod ({:.2} of the 100 they may take)",
        each / 100.0
    );
}

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": PODS,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "web:1"}]},
            },
        },
    })
}

/// The CPU time of this thread, by proc(5).
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux says");
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("nanoseconds on the processor"))
}
