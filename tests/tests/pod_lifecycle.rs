//! The life of pods as the kubelet leads it, from admission to the end, against the real API server
//! in one process under virtual time. Containers are simulated and behave by annotations.

use std::path::Path;
use std::time::Duration;

use agent::manifest;
use agent::simulated::Simulated;
use clap::Parser;
use client::{Client, Clock, DeleteOptions, Informers, Patch, Rng};
use proto::time::Time;
use proto::user::User;
use proto::view::event::Event;
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

const NODE: &str = "simulated-1";

impl Cluster {
    async fn new() -> Cluster {
        let (clock, rng) = (Clock::simulated(Time::from_unix(1_700_000_000)), Rng::seeded(1));
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().display().to_string();
        let line = ["", "--ephemeral", "--secure-port=0", "--data-dir", &folder];
        let without = ["--disable-admission-plugins=ServiceAccount"];
        let Flags { options } = Flags::parse_from(line.iter().chain(&without));
        let server = apiserver::Server::start(options, clock.clone(), rng.clone()).await.unwrap();
        let client = server.client(User::new("admin", &["system:masters"]));
        let informers = Informers::new(client.clone(), clock.clone(), rng.clone());
        let nodes = Simulated::start(1, &client, &informers, &clock, &rng);
        let cluster = Cluster { _server: server, _dir: dir, client, clock, nodes };
        while cluster.client.get::<Node>("", NODE).await.is_err() {
            cluster.clock.sleep(Duration::from_millis(100)).await;
        }
        cluster
    }

    /// A pod on the node; annotations are `simulated.coracle/…`.
    async fn create(&self, name: &str, annotations: Value, spec: Value) {
        let annotations = annotations.as_object().into_iter().flatten();
        let annotations = annotations.map(|(key, value)| {
            let value = value.as_str().map_or(value.to_string(), str::to_string);
            (format!("simulated.coracle/{key}"), Value::from(value))
        });
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "annotations": Value::from_iter(annotations)},
            "spec": {"nodeName": NODE, "containers": [{"name": "c", "image": "i"}]},
        });
        for (key, value) in spec.as_object().unwrap() {
            pod["spec"][key] = value.clone();
        }
        self.client.create::<Pod>("default", &pod).await.unwrap();
    }

    async fn pod(&self, name: &str) -> Value {
        match self.client.get::<Pod>("default", name).await {
            Ok(entry) => entry.value(),
            Err(error) if error.is_not_found() => Value::Null,
            Err(error) => panic!("{error}"),
        }
    }

    /// Waits (in virtual time) until the pod satisfies `done`.
    async fn until(&self, name: &str, done: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        for _ in 0..10_000 {
            last = self.pod(name).await;
            if done(&last) {
                return last;
            }
            self.clock.sleep(Duration::from_millis(100)).await;
        }
        panic!("never came: {last:#}");
    }

    async fn delete(&self, name: &str, grace: i64) {
        let grace_period_seconds = Some(grace);
        let options = DeleteOptions { grace_period_seconds, ..DeleteOptions::default() };
        self.client.delete::<Pod>("default", name, &options).await.unwrap();
    }

    /// The messages of events with this reason.
    async fn events(&self, reason: &str) -> Vec<String> {
        self.clock.sleep(Duration::from_secs(1)).await;
        let list = self.client.list::<Event>(&Default::default()).await.unwrap();
        let events = list.items.iter().filter(|event| event.view.reason == reason);
        events.map(|event| event.view.message.clone()).collect()
    }

    async fn resize(&self, name: &str, spec: Value) {
        let patch = Patch::Strategic(json!({ "spec": spec }));
        self.client.patch::<Pod>("default", name, "resize", &patch).await.unwrap();
    }
}

fn phase(wanted: &'static str) -> impl Fn(&Value) -> bool {
    move |pod| pod["status"]["phase"] == wanted
}

/// The status of a container of any sort.
fn status<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let lists = ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"];
    let all = lists.iter().filter_map(|list| pod["status"][list].as_array()).flatten();
    all.into_iter().find(|status| status["name"] == name).unwrap_or(&Value::Null)
}

fn running(pod: &Value, name: &str) -> bool {
    status(pod, name)["state"]["running"].is_object()
}

fn condition<'a>(pod: &'a Value, kind: &str) -> &'a Value {
    let all = pod["status"]["conditions"].as_array().into_iter().flatten();
    all.into_iter().find(|one| one["type"] == kind).unwrap_or(&Value::Null)
}

fn is_true(pod: &Value, kind: &str) -> bool {
    condition(pod, kind)["status"] == "True"
}

fn ready(pod: &Value) -> bool {
    is_true(pod, "Ready")
}

fn requests(cpu: &str) -> Value {
    json!({"requests": {"cpu": cpu}})
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_is_not_taken() {
    let cluster = Cluster::new().await;
    let big = json!({"containers": [{"name": "c", "image": "i", "resources": requests("5")}]});
    // Of two that do not fit together one is taken, whichever comes first.
    for name in ["a", "b"] {
        cluster.create(name, json!({}), big.clone()).await;
    }
    let ended = |pod: &Value| ready(pod) || pod["status"]["phase"] == "Failed";
    let pods = [cluster.until("a", ended).await, cluster.until("b", ended).await];
    assert_eq!(pods.iter().filter(|pod| ready(pod)).count(), 1);
    let rejected = pods.iter().find(|pod| !ready(pod)).unwrap();
    assert_eq!(rejected["status"]["reason"], "OutOfcpu");
    let why = "Node didn't have enough resource: cpu, requested: 5000, used: 5000, capacity: 8000";
    assert_eq!(rejected["status"]["message"], format!("Pod was rejected: {why}"));
    assert!(rejected["status"]["containerStatuses"].is_null());
    assert_eq!(cluster.events("OutOfcpu").await, [why]);
    // It stays so when there is room; the next one fits.
    let taken = pods.iter().find(|pod| ready(pod)).unwrap()["metadata"]["name"].clone();
    cluster.delete(taken.as_str().unwrap(), 1).await;
    cluster.until(taken.as_str().unwrap(), Value::is_null).await;
    cluster.create("c", json!({}), big).await;
    cluster.until("c", ready).await;
    let rejected = cluster.pod(rejected["metadata"]["name"].as_str().unwrap()).await;
    assert_eq!(rejected["status"]["phase"], "Failed");

    let port = json!({"containers": [{"name": "c", "image": "i",
        "ports": [{"containerPort": 80, "hostPort": 80}]}]});
    cluster.create("port", json!({}), port.clone()).await;
    cluster.until("port", ready).await;
    let affinity =
        "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
    let ports = "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod \
                 ports";
    let table = [
        ("selector", json!({"nodeSelector": {"disk": "ssd"}}), "NodeAffinity", affinity),
        ("other-port", port, "NodePorts", ports),
        (
            "windows",
            json!({"os": {"name": "windows"}}),
            "PodOSNotSupported",
            "Failed to admit pod as the OS field doesn't match node OS",
        ),
    ];
    for (name, spec, reason, message) in table {
        cluster.create(name, json!({}), spec).await;
        let pod = cluster.until(name, phase("Failed")).await;
        assert_eq!(pod["status"]["reason"], reason);
        assert_eq!(pod["status"]["message"], format!("Pod was rejected: {message}"));
        cluster.delete(name, 1).await;
        cluster.until(name, Value::is_null).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_critical_pod_takes_the_room_of_others() {
    let cluster = Cluster::new().await;
    let of = |cpu: &str| json!({"containers": [{"name": "c", "image": "i", "resources": requests(cpu)}]});
    for (name, cpu) in [("small", "1"), ("large", "6")] {
        cluster.create(name, json!({}), of(cpu)).await;
        cluster.until(name, ready).await;
    }
    let mut critical = of("5");
    critical["priorityClassName"] = json!("system-node-critical");
    cluster.create("critical", json!({}), critical).await;
    cluster.until("critical", ready).await;
    let pod = cluster.until("large", phase("Failed")).await;
    assert_eq!(pod["status"]["reason"], "Preempting");
    assert_eq!(pod["status"]["message"], "Preempted in order to admit critical pod");
    assert_eq!(condition(&pod, "DisruptionTarget")["reason"], "TerminationByKubelet");
    assert_eq!(cluster.events("Preempting").await, ["Preempted in order to admit critical pod"]);
    assert!(ready(&cluster.pod("small").await));
}

#[tokio::test(start_paused = true)]
async fn sidecars_stop_last_and_in_reverse() {
    let cluster = Cluster::new().await;
    let sidecar = |name: &str| json!({"name": name, "image": "i", "restartPolicy": "Always"});
    let spec = json!({"initContainers": [sidecar("first"), sidecar("second")]});
    let delays = json!({"stop-delay-seconds.c": "4", "stop-delay-seconds.second": "3"});
    cluster.create("p", delays, spec).await;
    cluster.until("p", ready).await;
    // A finalizer keeps the object, so that its end can be read.
    let keep = Patch::Merge(json!({"metadata": {"finalizers": ["example.com/keep"]}}));
    cluster.client.patch::<Pod>("default", "p", "", &keep).await.unwrap();
    cluster.delete("p", 30).await;
    let ended = |pod: &Value| status(pod, "first")["state"]["terminated"].is_object();
    let pod = cluster.until("p", ended).await;
    let finished = |name: &str| -> Time {
        let at = status(&pod, name)["state"]["terminated"]["finishedAt"].as_str().unwrap();
        at.parse().unwrap()
    };
    assert_eq!(finished("second").since(finished("c")), Duration::from_secs(3));
    assert!(finished("first") >= finished("second"));
    assert_eq!(pod["status"]["phase"], "Succeeded");
}

#[tokio::test(start_paused = true)]
async fn a_grace_period_is_kept_and_can_be_shortened() {
    let cluster = Cluster::new().await;
    cluster.create("slow", json!({"stop-delay-seconds": "1000"}), json!({})).await;
    cluster.until("slow", ready).await;
    let begun = cluster.clock.now();
    cluster.delete("slow", 300).await;
    cluster.clock.sleep(Duration::from_secs(60)).await;
    assert!(running(&cluster.pod("slow").await, "c"));
    cluster.delete("slow", 5).await;
    cluster.until("slow", Value::is_null).await;
    let took = cluster.clock.now().since(begun).as_secs();
    assert!((65..70).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn deadlines_end_pods() {
    let cluster = Cluster::new().await;
    let spec = json!({"activeDeadlineSeconds": 60, "terminationGracePeriodSeconds": 20});
    cluster.create("p", json!({"stop-delay-seconds": "10"}), spec).await;
    let pod = cluster.until("p", ready).await;
    let started: Time = pod["status"]["startTime"].as_str().unwrap().parse().unwrap();
    let pod = cluster.until("p", phase("Failed")).await;
    let took = cluster.clock.now().since(started).as_secs();
    // While its container takes its time to end the pod has not ended.
    assert!((70..72).contains(&took), "{took}");
    assert_eq!(pod["status"]["reason"], "DeadlineExceeded");
    let message = "Pod was active on the node longer than the specified deadline";
    assert_eq!(pod["status"]["message"], message);
    assert_eq!(condition(&pod, "Ready")["reason"], "PodFailed");
}

#[tokio::test(start_paused = true)]
async fn restarts_by_rules() {
    let cluster = Cluster::new().await;
    let rule = |action: &str, codes: Value| json!([{"action": action, "exitCodes": {"operator": "In", "values": codes}}]);
    let again = json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i",
        "restartPolicy": "Never", "restartPolicyRules": rule("Restart", json!([42]))}]});
    let ends = |code: &str| json!({"exit-after-seconds": "5", "exit-code": code});
    cluster.create("again", ends("42"), again.clone()).await;
    cluster.create("failed", ends("41"), again).await;
    cluster.until("again", |pod| status(pod, "c")["restartCount"] == 2).await;
    let failed = cluster.until("failed", phase("Failed")).await;
    assert_eq!(status(&failed, "c")["restartCount"], 0);
    // An init container that may run but once fails a pod that would always be restarted.
    let once = json!({"initContainers": [{"name": "i", "image": "i", "restartPolicy": "Never"}]});
    let fails = json!({"exit-after-seconds.i": "1", "exit-code.i": "1"});
    cluster.create("once", fails, once).await;
    let pod = cluster.until("once", phase("Failed")).await;
    assert_eq!(status(&pod, "i")["restartCount"], 0);
}

#[tokio::test(start_paused = true)]
async fn one_container_restarts_all() {
    let cluster = Cluster::new().await;
    let rules = json!([{"action": "RestartAllContainers",
        "exitCodes": {"operator": "In", "values": [88]}}]);
    let spec = json!({"restartPolicy": "Never",
        "initContainers": [{"name": "setup", "image": "i"},
            {"name": "watcher", "image": "i", "restartPolicy": "Always",
             "restartPolicyRules": rules}]});
    let ends = json!({"exit-after-seconds.setup": "1", "exit-after-seconds.watcher": "30",
        "exit-code.watcher": "88"});
    cluster.create("p", ends, spec).await;
    let before = cluster.until("p", ready).await;
    let all = ["setup", "watcher", "c"];
    let restarted = |pod: &Value| {
        all.iter().all(|name| status(pod, name)["restartCount"] == 1) && running(pod, "c")
    };
    let after = cluster.until("p", restarted).await;
    assert_eq!(before["status"]["podIP"], after["status"]["podIP"]);
    assert_eq!(before["metadata"]["uid"], after["metadata"]["uid"]);
    assert_eq!(condition(&after, "AllContainersRestarting")["status"], "False");
    let last = &status(&after, "watcher")["lastState"]["terminated"];
    assert_eq!(last["exitCode"], 88);
    assert_eq!(status(&after, "c")["lastState"]["terminated"]["exitCode"], 137);
}

#[tokio::test(start_paused = true)]
async fn probes_of_simulated_containers() {
    let cluster = Cluster::new().await;
    let probe = json!({"httpGet": {"port": 80}, "periodSeconds": 1});
    let slow = json!({"containers": [{"name": "c", "image": "i", "startupProbe":
        {"tcpSocket": {"port": 80}, "periodSeconds": 1, "failureThreshold": 60},
        "readinessProbe": probe}]});
    cluster.create("slow", json!({"healthy-after-seconds": "20"}), slow).await;
    let pod = cluster.until("slow", |pod| running(pod, "c")).await;
    assert_eq!(status(&pod, "c")["started"], false);
    let begun = cluster.clock.now();
    cluster.until("slow", ready).await;
    assert!(cluster.clock.now().since(begun) >= Duration::from_secs(19));
    let dies = json!({"terminationGracePeriodSeconds": 100, "containers": [{"name": "c",
        "image": "i", "livenessProbe": {"exec": {"command": ["x"]}, "periodSeconds": 1,
        "failureThreshold": 1, "terminationGracePeriodSeconds": 3}}]});
    let behaviour = json!({"unhealthy-after-seconds": "10", "stop-delay-seconds": "50"});
    cluster.create("dies", behaviour, dies).await;
    let pod = cluster.until("dies", |pod| status(pod, "c")["restartCount"] == 1).await;
    let last = &status(&pod, "c")["lastState"]["terminated"];
    let at = |field: &str| last[field].as_str().unwrap().parse::<Time>().unwrap();
    let lived = at("finishedAt").since(at("startedAt")).as_secs();
    // The probe's own grace counts, not the pod's.
    assert!((13..16).contains(&lived), "{lived}");
    assert_eq!(last["exitCode"], 137);
}

#[tokio::test(start_paused = true)]
async fn resizes_wait_for_room_and_come_in_order() {
    let cluster = Cluster::new().await;
    let of = |cpu: &str| json!({"containers": [{"name": "c", "image": "i", "resources": requests(cpu)}]});
    for (name, cpu) in [("low", "1"), ("high", "1"), ("full", "5")] {
        let mut spec = of(cpu);
        if name == "high" {
            spec["priorityClassName"] = json!("system-node-critical");
        }
        cluster.create(name, json!({}), spec).await;
        cluster.until(name, ready).await;
    }
    for name in ["low", "high"] {
        cluster.resize(name, of("6")).await;
        let pending = |pod: &Value| is_true(pod, "PodResizePending");
        let pod = cluster.until(name, pending).await;
        assert_eq!(condition(&pod, "PodResizePending")["reason"], "Deferred");
        assert_eq!(status(&pod, "c")["resources"]["requests"]["cpu"], "1");
    }
    cluster.resize("full", of("9")).await;
    let refused = |pod: &Value| condition(pod, "PodResizePending")["reason"] == "Infeasible";
    let pod = cluster.until("full", refused).await;
    let message = "Node didn't have enough capacity: cpu, requested: 9000, capacity: 8000";
    assert_eq!(condition(&pod, "PodResizePending")["message"], message);
    cluster.resize("full", of("1")).await;
    let has = |cpu: &'static str| {
        move |pod: &Value| status(pod, "c")["resources"]["requests"]["cpu"] == cpu
    };
    // There is room for one of the two: the one that matters more.
    let pod = cluster.until("high", has("6")).await;
    assert_eq!(status(&pod, "c")["allocatedResources"]["cpu"], "6");
    assert!(condition(&pod, "PodResizePending").is_null());
    assert_eq!(status(&pod, "c")["restartCount"], 0);
    assert_eq!(condition(&cluster.pod("low").await, "PodResizePending")["reason"], "Deferred");
    cluster.delete("high", 1).await;
    cluster.until("low", has("6")).await;
    // Of the good news simulated nodes say nothing.
    let wanted =
        r#"{"containers":[{"name":"c","resources":{"requests":{"cpu":"6"}}}],"generation":2,"#;
    let deferred = cluster.events("ResizeDeferred").await;
    assert!(deferred.iter().any(|it| it.contains(wanted)), "{deferred:?}");
    let infeasible = cluster.events("ResizeInfeasible").await;
    assert!(infeasible[0].starts_with("Pod resize Infeasible: {"), "{infeasible:?}");
}

#[tokio::test(start_paused = true)]
async fn static_pods_have_mirrors() {
    let cluster = Cluster::new().await;
    let manifest = |image: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: web, labels: {{app: web}}}}\n\
             spec: {{containers: [{{name: c, image: \"{image}\"}}]}}\n"
        );
        let file = manifest::Origin::File(Path::new("/m/web.yaml"));
        manifest::read(text.as_bytes(), file, NODE, cluster.clock.now()).unwrap()
    };
    let name = format!("web-{NODE}");
    let first = manifest("i:1");
    cluster.nodes.manifests(NODE, vec![first.clone()]);
    let mirror = cluster.until(&name, ready).await;
    let annotations = &mirror["metadata"]["annotations"];
    assert_eq!(annotations["kubernetes.io/config.mirror"], first.uid.as_str());
    assert_eq!(annotations["kubernetes.io/config.hash"], first.uid.as_str());
    assert_eq!(annotations["kubernetes.io/config.source"], "file");
    assert_eq!(mirror["metadata"]["ownerReferences"][0]["kind"], "Node");
    assert_eq!(mirror["metadata"]["labels"]["app"], "web");
    // Whoever deletes the mirror deletes no pod: it comes back.
    let container = status(&mirror, "c")["containerID"].clone();
    cluster.delete(&name, 30).await;
    let other = |pod: &Value| ready(pod) && pod["metadata"]["uid"] != mirror["metadata"]["uid"];
    let again = cluster.until(&name, other).await;
    assert_eq!(status(&again, "c")["containerID"], container);
    assert_eq!(status(&again, "c")["restartCount"], 0);
    // Another text is another pod, after the first has ended.
    let second = manifest("i:2");
    cluster.nodes.manifests(NODE, vec![second.clone()]);
    let changed = |pod: &Value| {
        let hash = &pod["metadata"]["annotations"]["kubernetes.io/config.mirror"];
        ready(pod) && *hash == second.uid.as_str()
    };
    let changed = cluster.until(&name, changed).await;
    assert_eq!(changed["spec"]["containers"][0]["image"], "i:2");
    let runtime = cluster.nodes.runtime(NODE).unwrap();
    let known = agent::cri::Runtime::pods(&runtime).await.unwrap();
    assert_eq!(known.len(), 1);
    // Without its file the pod goes, and its mirror.
    cluster.nodes.manifests(NODE, vec![]);
    cluster.until(&name, Value::is_null).await;
    assert!(agent::cri::Runtime::pods(&runtime).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_mirror_of_nothing_is_deleted_and_never_run() {
    let cluster = Cluster::new().await;
    let forged = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "forged", "annotations": {"kubernetes.io/config.mirror": "x",
            "kubernetes.io/config.source": "file"}},
        "spec": {"nodeName": NODE, "containers": [{"name": "c", "image": "i"}]}});
    cluster.client.create::<Pod>("default", &forged).await.unwrap();
    cluster.until("forged", Value::is_null).await;
    let runtime = cluster.nodes.runtime(NODE).unwrap();
    assert!(agent::cri::Runtime::pods(&runtime).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_shuts_down_ends_its_pods_in_order() {
    let cluster = Cluster::new().await;
    let slow = json!({"stop-delay-seconds": "5"});
    cluster.create("web", slow.clone(), json!({})).await;
    let critical = json!({"priorityClassName": "system-node-critical"});
    cluster.create("dns", slow, critical).await;
    for name in ["web", "dns"] {
        cluster.until(name, ready).await;
    }
    let periods = agent::shutdown::periods(Duration::from_secs(12), Duration::from_secs(3));
    let begun = cluster.clock.now();
    cluster.nodes.shut_down(NODE, &periods, &cluster.clock).await;
    let took = cluster.clock.now().since(begun).as_secs();
    // Five seconds for the first; the critical one has but three.
    assert!((8..9).contains(&took), "{took}");
    for (name, code) in [("web", 0), ("dns", 137)] {
        let pod = cluster.until(name, phase("Failed")).await;
        assert_eq!(pod["status"]["reason"], "Terminated");
        let message = "Pod was terminated in response to imminent node shutdown.";
        assert_eq!(pod["status"]["message"], message);
        assert_eq!(status(&pod, "c")["state"]["terminated"]["exitCode"], code);
        let target = condition(&pod, "DisruptionTarget");
        assert_eq!(
            (&target["status"], &target["reason"]),
            (&json!("True"), &json!("TerminationByKubelet"),)
        );
    }
}
