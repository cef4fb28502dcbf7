//! Scenarios of the node agent against the real API server, in one process under virtual time:
//! workers, plans, statuses and leases are the real ones, containers are simulated.

use std::time::Duration;

use agent::cri::simulated::{EXIT_AFTER, EXIT_CODE};
use agent::simulated::Simulated;
use clap::Parser;
use client::{Client, Clock, DeleteOptions, Informers, Rng};
use proto::time::Time;
use proto::user::User;
use proto::view::event::Event;
use proto::view::lease::Lease;
use proto::view::node::Node;
use proto::view::pod::Pod;
use serde_json::{Value, json};

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    options: apiserver::Options,
}

struct Cluster {
    _server: apiserver::Server,
    _dir: tempfile::TempDir,
    client: Client,
    clock: Clock,
    nodes: Simulated,
}

impl Cluster {
    async fn new(nodes: usize) -> Cluster {
        let (clock, rng) = (Clock::simulated(Time::from_unix(1_700_000_000)), Rng::seeded(1));
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().display().to_string();
        let line = ["", "--ephemeral", "--secure-port=0", "--data-dir", &folder];
        let without = ["--disable-admission-plugins=ServiceAccount"];
        let Flags { options } = Flags::parse_from(line.iter().chain(&without));
        let server = apiserver::Server::start(options, clock.clone(), rng.clone()).await.unwrap();
        let client = server.client(User::new("admin", &["system:masters"]));
        let informers = Informers::new(client.clone(), clock.clone(), rng.clone());
        let nodes = Simulated::start(nodes, &client, &informers, &clock, &rng);
        Cluster { _server: server, _dir: dir, client, clock, nodes }
    }

    async fn create(&self, name: &str, annotations: Value, spec: Value) {
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "namespace": "default", "annotations": annotations},
            "spec": {"nodeName": "simulated-1", "containers": [{"name": "c", "image": "i"}]},
        });
        for (key, value) in spec.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        self.client.create::<Pod>("default", &pod).await.unwrap();
    }

    async fn pod(&self, name: &str) -> Option<Value> {
        match self.client.get::<Pod>("default", name).await {
            Ok(entry) => Some(entry.value()),
            Err(error) if error.is_not_found() => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits (in virtual time) until the pod satisfies `done`.
    async fn until(&self, name: &str, done: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        for _ in 0..20_000 {
            last = self.pod(name).await.unwrap_or_default();
            if done(&last) {
                return last;
            }
            self.clock.sleep(Duration::from_millis(100)).await;
        }
        panic!("never came: {last:#}");
    }

    async fn events(&self, reason: &str) -> Vec<String> {
        self.clock.sleep(Duration::from_secs(1)).await;
        let list = self.client.list::<Event>(&Default::default()).await.unwrap();
        let events = list.items.iter().filter(|event| event.view.reason == reason);
        events.map(|event| event.view.message.clone()).collect()
    }

    /// Ends the pod's only running container, as a crash would.
    async fn crash(&self, name: &str, code: i32) {
        let pod = self.until(name, running).await;
        let id = status(&pod)["containerID"].as_str().unwrap().rsplit('/').next().unwrap();
        self.nodes.runtime("simulated-1").unwrap().exit(id, code);
    }
}

fn status(pod: &Value) -> &Value {
    &pod["status"]["containerStatuses"][0]
}

fn running(pod: &Value) -> bool {
    status(pod)["state"]["running"].is_object()
}

fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions
        .is_some_and(|all| all.iter().any(|one| one["type"] == "Ready" && one["status"] == "True"))
}

#[tokio::test(start_paused = true)]
async fn a_node_registers_and_beats() {
    let cluster = Cluster::new(1).await;
    cluster.clock.sleep(Duration::from_secs(1)).await;
    let node = cluster.client.get::<Node>("", "simulated-1").await.unwrap();
    assert!(node.view.is_ready());
    let value = node.value();
    assert_eq!(value["metadata"]["labels"]["kubernetes.io/hostname"], "simulated-1");
    assert_eq!(value["status"]["allocatable"]["pods"], "110");
    assert_eq!(value["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"], 10250);
    let renewed = async || {
        let lease = cluster.client.get::<Lease>("kube-node-lease", "simulated-1").await.unwrap();
        lease.view.spec.renew_time.unwrap()
    };
    let first = renewed().await;
    cluster.clock.sleep(Duration::from_secs(30)).await;
    let later = renewed().await;
    assert!(later.0.since(first.0) >= Duration::from_secs(20));
    cluster.nodes.stop("simulated-1");
    cluster.clock.sleep(Duration::from_secs(30)).await;
    assert_eq!(renewed().await, renewed().await);
    assert!(renewed().await.0.since(later.0) < Duration::from_secs(11));
}

#[tokio::test(start_paused = true)]
async fn a_pod_runs_and_is_deleted_gracefully() {
    let cluster = Cluster::new(1).await;
    cluster.create("p", json!({}), json!({})).await;
    let pod = cluster.until("p", ready).await;
    assert_eq!(pod["status"]["phase"], "Running");
    assert!(pod["status"]["podIP"].as_str().unwrap().starts_with("10.128.1."));
    assert_eq!(status(&pod)["restartCount"], 0);
    cluster.client.delete::<Pod>("default", "p", &DeleteOptions::default()).await.unwrap();
    cluster.until("p", Value::is_null).await;
    cluster.clock.sleep(Duration::from_secs(1)).await;
    let runtime = cluster.nodes.runtime("simulated-1").unwrap();
    assert!(agent::cri::Runtime::pods(&runtime).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn crashes_back_off() {
    let cluster = Cluster::new(1).await;
    cluster.create("p", json!({}), json!({})).await;
    cluster.crash("p", 1).await;
    // The first restart is immediate, the second after ten seconds, the third after twenty.
    cluster.until("p", |pod| running(pod) && status(pod)["restartCount"] == 1).await;
    for (restart, delay) in [(2, 10), (3, 20)] {
        let crashed = cluster.clock.now();
        cluster.crash("p", 7).await;
        let waits = |pod: &Value| status(pod)["state"]["waiting"]["reason"] == "CrashLoopBackOff";
        let pod = cluster.until("p", waits).await;
        let message = status(&pod)["state"]["waiting"]["message"].as_str().unwrap();
        let expected = format!("back-off {delay}s restarting failed container=c pod=p_default(");
        assert!(message.starts_with(&expected), "{message}");
        assert_eq!(status(&pod)["lastState"]["terminated"]["exitCode"], 7);
        assert!(!ready(&pod));
        cluster.until("p", |pod| running(pod) && status(pod)["restartCount"] == restart).await;
        let took = cluster.clock.now().since(crashed).as_secs();
        assert!((delay..delay + 2).contains(&took), "{took}");
    }
}

#[tokio::test(start_paused = true)]
async fn pods_that_end() {
    let cluster = Cluster::new(1).await;
    let ends = |code: &str| json!({EXIT_AFTER: "5", EXIT_CODE: code});
    cluster.create("done", ends("0"), json!({"restartPolicy": "Never"})).await;
    cluster.create("failed", ends("3"), json!({"restartPolicy": "Never"})).await;
    let done = cluster.until("done", |pod| pod["status"]["phase"] == "Succeeded").await;
    assert_eq!(status(&done)["state"]["terminated"]["reason"], "Completed");
    let failed = cluster.until("failed", |pod| pod["status"]["phase"] == "Failed").await;
    assert_eq!(status(&failed)["state"]["terminated"]["exitCode"], 3);
    assert_eq!(status(&failed)["state"]["terminated"]["reason"], "Error");
    // They stay until somebody deletes them.
    cluster.clock.sleep(Duration::from_secs(600)).await;
    assert!(cluster.pod("done").await.is_some());
    cluster.client.delete::<Pod>("default", "done", &DeleteOptions::default()).await.unwrap();
    cluster.until("done", Value::is_null).await;
}

#[tokio::test(start_paused = true)]
async fn an_image_that_does_not_exist() {
    let cluster = Cluster::new(1).await;
    let runtime = cluster.nodes.runtime("simulated-1").unwrap();
    runtime.refuse_pull("i:1", "not found");
    let containers = json!([{"name": "c", "image": "i:1"}]);
    cluster.create("p", json!({}), json!({"containers": containers})).await;
    let reason = |reason: &'static str| {
        move |pod: &Value| status(pod)["state"]["waiting"]["reason"] == reason
    };
    let pod = cluster.until("p", reason("ErrImagePull")).await;
    assert_eq!(status(&pod)["state"]["waiting"]["message"], "not found");
    let pod = cluster.until("p", reason("ImagePullBackOff")).await;
    assert_eq!(
        status(&pod)["state"]["waiting"]["message"],
        "Back-off pulling image \"i:1\": ErrImagePull: not found"
    );
    assert_eq!(pod["status"]["phase"], "Pending");
    assert_eq!(cluster.events("BackOff").await, ["Back-off pulling image \"i:1\""]);
    let failed = cluster.events("Failed").await;
    assert!(failed.contains(&"Failed to pull image \"i:1\": not found".to_string()), "{failed:?}");
    assert!(failed.contains(&"Error: ErrImagePull".to_string()), "{failed:?}");
    runtime.refuse_pull("i:1", "");
    cluster.until("p", ready).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_container_refers_to_must_exist() {
    let cluster = Cluster::new(1).await;
    let env = json!([{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}}]);
    let containers = json!([{"name": "c", "image": "i", "env": env}]);
    cluster.create("p", json!({}), json!({"containers": containers})).await;
    let config_error =
        |pod: &Value| status(pod)["state"]["waiting"]["reason"] == "CreateContainerConfigError";
    let pod = cluster.until("p", config_error).await;
    assert_eq!(status(&pod)["state"]["waiting"]["message"], "configmap \"m\" not found");
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"},
        "data": {"k": "v"}});
    cluster.client.create::<proto::view::config_map::ConfigMap>("default", &map).await.unwrap();
    cluster.until("p", ready).await;
}

#[tokio::test(start_paused = true)]
async fn probes_decide() {
    let cluster = Cluster::new(1).await;
    let runtime = cluster.nodes.runtime("simulated-1").unwrap();
    runtime.answer_exec("ready", 1);
    let probe = |command: &str| json!({"exec": {"command": [command]}, "periodSeconds": 2});
    let containers = json!([{"name": "c", "image": "i",
        "readinessProbe": probe("ready"), "livenessProbe": probe("live")}]);
    cluster.create("p", json!({}), json!({"containers": containers})).await;
    let pod = cluster.until("p", running).await;
    assert!(!ready(&pod));
    cluster.clock.sleep(Duration::from_secs(30)).await;
    assert!(!ready(&cluster.pod("p").await.unwrap()));
    runtime.answer_exec("ready", 0);
    cluster.until("p", ready).await;
    // Three failures in a row, and the container is restarted.
    runtime.answer_exec("live", 1);
    let pod = cluster.until("p", |pod| status(pod)["restartCount"] == 1).await;
    assert_eq!(status(&pod)["restartCount"], 1);
    let unhealthy = cluster.events("Unhealthy").await;
    assert!(unhealthy.iter().any(|message| message == "Liveness probe failed: "), "{unhealthy:?}");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_comes_back_takes_over_what_runs() {
    let cluster = Cluster::new(1).await;
    cluster.create("p", json!({}), json!({})).await;
    cluster.crash("p", 1).await;
    let before = cluster.until("p", |pod| ready(pod) && status(pod)["restartCount"] == 1).await;
    let runtime = cluster.nodes.runtime("simulated-1").unwrap();
    cluster.nodes.stop("simulated-1");
    cluster.create("meanwhile", json!({}), json!({})).await;
    cluster.nodes.resume(1, runtime).await;
    cluster.until("meanwhile", ready).await;
    cluster.clock.sleep(Duration::from_secs(60)).await;
    let after = cluster.pod("p").await.unwrap();
    assert_eq!(before["status"], after["status"]);
    // A pod that was deleted meanwhile is cleaned up.
    let runtime = cluster.nodes.runtime("simulated-1").unwrap();
    cluster.nodes.stop("simulated-1");
    let now = DeleteOptions { grace_period_seconds: Some(0), ..DeleteOptions::default() };
    cluster.client.delete::<Pod>("default", "p", &now).await.unwrap();
    cluster.clock.sleep(Duration::from_secs(5)).await;
    cluster.nodes.resume(1, runtime.clone()).await;
    cluster.clock.sleep(Duration::from_secs(5)).await;
    let left = agent::cri::Runtime::pods(&runtime).await.unwrap();
    assert_eq!(left.iter().map(|pod| pod.name.as_str()).collect::<Vec<_>>(), ["meanwhile"]);
}

#[tokio::test(start_paused = true)]
async fn many_nodes_and_pods() {
    let cluster = Cluster::new(100).await;
    for number in 0..1000 {
        let node = format!("simulated-{}", number % 100 + 1);
        cluster.create(&format!("p{number}"), json!({}), json!({"nodeName": node})).await;
    }
    let count = async || {
        let list = cluster.client.list::<Pod>(&Default::default()).await.unwrap();
        list.items.iter().filter(|pod| pod.view.status.phase == "Running").count()
    };
    let mut tries = 0;
    while count().await < 1000 {
        tries += 1;
        assert!(tries < 100, "{} of 1000 run", count().await);
        cluster.clock.sleep(Duration::from_millis(100)).await;
    }
    cluster.clock.sleep(Duration::from_secs(300)).await;
    assert_eq!(count().await, 1000);
}
