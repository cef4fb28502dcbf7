//! What the controllers cost: the CPU time of their thread while workloads of each kind come up on a
//! hundred simulated nodes, and while nothing happens. The API server, the scheduler and
//! the nodes run on other threads, so that only the controllers are counted.
//!
//! `cargo bench -p tests --bench controllers`

use std::convert::Infallible;
use std::time::Duration;

use agent::simulated::Simulated;
use bytes::Bytes;
use client::{
    Body, BoxError, CancellationToken, Client, Clock, DeleteOptions, Informer, Informers,
    Propagation, Rng, Service,
};
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use proto::user::User;
use proto::view::daemon_set::DaemonSet;
use proto::view::deployment::Deployment;
use proto::view::job::Job;
use proto::view::pod::Pod;
use proto::view::stateful_set::StatefulSet;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tower::ServiceExt;

const PODS: usize = 1000;
const NODES: usize = 100;
/// Of the set that waits for each pod before it makes the next.
const ORDERED: usize = 200;

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

/// The process of the controllers, as the benchmark sees it.
struct Measured {
    admin: Client,
    informers: Informers,
    clock: Clock,
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
    let measured = Measured { admin, informers, clock };
    let available = |deployment: &Deployment| deployment.status.available_replicas;
    let web = set("Deployment", "apps/v1", json!({"replicas": PODS}));
    measured.run::<Deployment>(&web, PODS, available).await;

    let available = |set: &StatefulSet| set.status.available_replicas;
    let spec = json!({"replicas": PODS, "podManagementPolicy": "Parallel"});
    measured.run::<StatefulSet>(&set("StatefulSet", "apps/v1", spec), PODS, available).await;
    let ordered = set("StatefulSet", "apps/v1", json!({"replicas": ORDERED}));
    measured.run::<StatefulSet>(&ordered, ORDERED, available).await;

    let available = |set: &DaemonSet| set.status.number_available;
    let everywhere = set("DaemonSet", "apps/v1", json!({}));
    measured.run::<DaemonSet>(&everywhere, NODES, available).await;

    // Those that have succeeded are told by the last change, that of its condition.
    let completed = |job: &Job| if job.is_complete() { job.status.succeeded } else { 0 };
    measured.run::<Job>(&job(), PODS, completed).await;
}

impl Measured {
    /// Brings a workload up until so many of its pods are counted as they should be, prints what
    /// that cost, and takes it away again.
    async fn run<T: client::Object>(&self, object: &Value, pods: usize, counted: fn(&T) -> i32) {
        let (before, start) = (cpu(), self.clock.instant());
        self.admin.create::<T>("default", object).await.expect("it is made");
        let informer = self.informers.of::<T>();
        let up = || informer.get("default", "web").is_some_and(|it| counted(&it) >= pods as i32);
        follow(&informer, up).await;
        let (spent, took) = (cpu() - before, self.clock.instant() - start);
        let each = spent.as_secs_f64() * 1e6 / pods as f64;
        let what = match object["spec"]["podManagementPolicy"].as_str() {
            Some(policy) => format!("{} ({policy})", T::row().kind),
            None => T::row().kind.to_string(),
        };
        println!(
            "{what}, {pods} pods: {:.2} s; controllers: {each:.0} µs of CPU per pod ({:.2} of the \
             100 they may take)",
            took.as_secs_f64(),
            each / 100.0
        );
        let options =
            DeleteOptions { propagation: Some(Propagation::Background), ..Default::default() };
        self.admin.delete::<T>("default", "web", &options).await.expect("it is deleted");
        let pods = self.informers.of::<Pod>();
        follow(&pods, || pods.snapshot().is_empty()).await;
    }
}

/// Waits until something is met that follows from the objects of a kind.
async fn follow<T: client::Object>(informer: &Informer<T>, met: impl Fn() -> bool) {
    let mut changes = informer.changes();
    while !met() {
        changes.next().await;
        while changes.try_next().is_some() {}
    }
}

fn set(kind: &str, version: &str, mut spec: Value) -> Value {
    spec["selector"] = json!({"matchLabels": {"app": "web"}});
    spec["template"] = json!({
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": "web:1"}]},
    });
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": "web"}, "spec": spec})
}

fn job() -> Value {
    json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "web"},
        "spec": {"completions": PODS, "parallelism": PODS, "template": {
            "metadata": {"annotations": {"simulated.coracle/exit-after-seconds": "0.1"}},
            "spec": {"restartPolicy": "Never", "containers": [{"name": "web", "image": "web:1"}]},
        }},
    })
}

/// The CPU time of this thread, by proc(5).
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux says");
    let nanos = text.split(' ').next().and_then(|nanos| nanos.parse().ok());
    Duration::from_nanos(nanos.expect("nanoseconds on the processor"))
}
