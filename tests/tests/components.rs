//! What scheduler and controllers show of themselves: metrics and health over HTTPS, to whom RBAC
//! allows it.

use std::time::Duration;

use client::kubeconfig::{Identity, Token};
use client::{CancellationToken, Client, Clock, Config, Informer, Informers, Kubeconfig, Rng};
use http_body_util::BodyExt;
use proto::exposition::{Parsed, parse};
use proto::user::User;
use proto::view::pod::Pod;
use proto::view::replica_set::ReplicaSet;
use proto::view::service_account::ServiceAccount;
use serde_json::{Value, json};
use tests::program::{built, run};
use tests::server::{Server, free_port};
use tests::world::World;

/// The endpoint as somebody sees it.
struct Seen(Client);

impl Seen {
    fn by(port: u16, change: impl FnOnce(&mut Config)) -> Seen {
        let mut config = Config {
            server: format!("https://127.0.0.1:{port}"),
            ca: None,
            identity: None,
            token: None,
            insecure: true,
            server_name: None,
            namespace: String::new(),
        };
        change(&mut config);
        Seen(Client::connect(&config).expect("a client"))
    }

    fn nobody(port: u16) -> Seen {
        Seen::by(port, |_| {})
    }

    fn bearer(port: u16, token: &str) -> Seen {
        Seen::by(port, |config| config.token = Some(Token::Text(token.into())))
    }

    /// With a client certificate of the cluster's authority.
    fn certified(port: u16, world: &World, user: &str, group: &str) -> Seen {
        let pair = world.server.pki().client(user, &[group]).expect("a certificate");
        let identity = Identity::new(pair.certificate.into(), pair.key.into());
        Seen::by(port, |config| config.identity = Some(identity))
    }

    async fn ask(&self, method: &str, path: &str) -> (u16, String) {
        let request = http::Request::builder().method(method).uri(path);
        let request = request.body(bytes::Bytes::new()).expect("a request");
        let response = self.0.request(request).await.expect("an answer");
        let code = response.status().as_u16();
        let body = response.into_body().collect().await.expect("a body").to_bytes();
        (code, String::from_utf8_lossy(&body).into_owned())
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path).await
    }

    /// Figures, once they are as wanted.
    async fn figures(&self, path: &str, wanted: impl Fn(&Parsed) -> bool) -> Parsed {
        for _ in 0..600 {
            let (code, text) = self.get(path).await;
            if code == 200 {
                let parsed = parse(&text).expect("metrics");
                if wanted(&parsed) {
                    return parsed;
                }
            }
            Clock::system().sleep(Duration::from_millis(50)).await;
        }
        panic!("not what was expected: {:?}", self.get(path).await);
    }

    /// `/readyz`, once all of it is well.
    async fn ready(&self) -> String {
        for _ in 0..600 {
            if let (200, list) = self.get("/readyz?verbose").await {
                return list;
            }
            Clock::system().sleep(Duration::from_millis(50)).await;
        }
        panic!("not ready: {:?}", self.get("/readyz?verbose").await);
    }

    /// Until it is open.
    async fn open(self) -> Seen {
        for _ in 0..600 {
            let request = http::Request::get("/healthz").body(bytes::Bytes::new());
            if self.0.request(request.expect("a request")).await.is_ok() {
                return self;
            }
            Clock::system().sleep(Duration::from_millis(50)).await;
        }
        panic!("nobody serves");
    }
}

/// The sum of the samples of this name that bear these labels; none where there is none.
fn value(parsed: &Parsed, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let bears = |sample: &&proto::exposition::Sample| {
        sample.name == name && labels.iter().all(|(label, value)| sample.label(label) == *value)
    };
    parsed.samples.iter().filter(bears).map(|sample| sample.value).reduce(|a, b| a + b)
}

/// A simulated node has eight CPUs.
fn pod(name: &str, priority: &str, cpu: &str, more: Value) -> Value {
    let mut spec = json!({"priorityClassName": priority, "containers": [
        {"name": "c", "image": "web:1", "resources": {"requests": {"cpu": cpu}}}]});
    if let (Value::Object(spec), Value::Object(more)) = (&mut spec, more) {
        spec.extend(more);
    }
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec})
}

fn runs(pods: &Informer<Pod>, name: &str) -> bool {
    pods.get("default", name).is_some_and(|pod| pod.status.phase == "Running")
}

async fn world(nodes: usize, scheduler_port: u16, controller_port: u16) -> World {
    let controllers =
        controller::Options { secure_port: controller_port, ..controller::Options::default() };
    let scheduler = scheduler::Options { secure_port: scheduler_port, ..Default::default() };
    let (clock, rng) = (Clock::system(), Rng::seeded(7));
    let world = World::with_parts(clock, rng, nodes, controllers, scheduler).await;
    controller::service_account::made(&world.informers).await;
    world
}

/// A ServiceAccount's token, with rights to read figures or without.
async fn token(world: &World, name: &str, may: bool) -> String {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name}});
    world.client.create::<ServiceAccount>("default", &account).await.unwrap();
    if may {
        let role = json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": {"name": name}, "rules": [
                {"nonResourceURLs": ["/metrics", "/metrics/resources"], "verbs": ["get"]}]});
        let path = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
        world.client.post(path, &role).await.unwrap();
        let binding = json!({"apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole",
                "name": name},
            "subjects": [{"kind": "ServiceAccount", "namespace": "default", "name": name}]});
        let path = "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings";
        world.client.post(path, &binding).await.unwrap();
    }
    let path = format!("/api/v1/namespaces/default/serviceaccounts/{name}/token");
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "metadata": {}, "spec": {}});
    let made = world.client.post(&path, &request).await.unwrap();
    made["status"]["token"].as_str().expect("a token").to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_read() {
    let (port, controllers) = (free_port(), free_port());
    let world = world(0, port, controllers).await;
    let (may, may_not) = (token(&world, "may", true).await, token(&world, "may-not", false).await);
    for port in [port, controllers] {
        let nobody = Seen::nobody(port).open().await;
        assert_eq!(nobody.get("/healthz").await, (200, "ok".into()));
        let (code, why) = nobody.get("/metrics").await;
        assert_eq!(code, 403);
        assert!(why.contains("system:anonymous"), "{why}");
        assert_eq!(Seen::bearer(port, "bad").get("/metrics").await.0, 401);
        let (code, why) = Seen::bearer(port, &may_not).get("/metrics").await;
        let status: Value = serde_json::from_str(&why).unwrap();
        let expected = "forbidden: User \"system:serviceaccount:default:may-not\" cannot get path \
                        \"/metrics\"";
        assert_eq!((code, status["message"].as_str()), (403, Some(expected)));
        let monitor = Seen::bearer(port, &may);
        assert_eq!(monitor.get("/metrics").await.0, 200);
        assert_eq!(monitor.get("/nowhere").await.0, 403, "not one of its paths");
        // Whose certificates are good is learned from the API server, which may take a moment.
        let certified = Seen::certified(port, &world, "jane", "system:monitoring");
        certified.figures("/metrics", |_| true).await;
        let admin = Seen::certified(port, &world, "admin", "system:masters");
        assert_eq!(admin.get("/nowhere").await.0, 404);
        assert_eq!(admin.ask("POST", "/metrics").await.0, 405);
        let (code, list) = admin.get("/healthz?verbose").await;
        assert_eq!((code, list.as_str()), (200, "[+]ping ok\nhealthz check passed\n"));
        assert_eq!(admin.get("/healthz/ping").await, (200, "ok".into()));
    }
    let nobody = Seen::nobody(port);
    assert_eq!(nobody.get("/livez").await, (200, "ok".into()));
    let expected = "[+]ping ok\n[+]sched-handler-sync ok\n[+]shutdown ok\nreadyz check passed\n";
    assert_eq!(nobody.ready().await, expected);
    assert_eq!(Seen::bearer(port, &may).get("/metrics/resources").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scheduler_counts_its_decisions() {
    let port = free_port();
    let world = world(1, port, 0).await;
    for (name, value) in [("low", 1), ("high", 100)] {
        let class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
            "metadata": {"name": name}, "value": value});
        let path = "/apis/scheduling.k8s.io/v1/priorityclasses";
        world.client.post(path, &class).await.unwrap();
    }
    let create = async |pod: Value| {
        world.client.create::<Pod>("default", &pod).await.unwrap();
    };
    let seen = Seen::certified(port, &world, "monitor", "system:monitoring");
    let attempts = |parsed: &Parsed, result: &str| {
        let labels = [("profile", "default-scheduler"), ("result", result)];
        value(parsed, "scheduler_schedule_attempts_total", &labels)
    };
    let refused_by = |parsed: &Parsed, plugin: &str| {
        let labels = [("profile", "default-scheduler"), ("plugin", plugin)];
        value(parsed, "scheduler_unschedulable_pods", &labels)
    };
    let pending =
        |parsed: &Parsed, queue: &str| value(parsed, "scheduler_pending_pods", &[("queue", queue)]);

    // Only when the scheduler knows that the node is well does a pod take one attempt.
    create(pod("first", "low", "1", json!({}))).await;
    world.until::<Pod>(|pods| runs(pods, "first")).await;
    let any = client::DeleteOptions::default();
    world.client.delete::<Pod>("default", "first", &any).await.unwrap();
    world.until::<Pod>(|pods| pods.get("default", "first").is_none()).await;
    let before =
        seen.figures("/metrics", |parsed| attempts(parsed, "scheduled") == Some(1.0)).await;

    create(pod("fits", "low", "6", json!({}))).await;
    world.until::<Pod>(|pods| runs(pods, "fits")).await;
    create(pod("big", "low", "100", json!({}))).await;
    create(pod("elsewhere", "low", "1", json!({"nodeSelector": {"disk": "none"}}))).await;
    create(pod("held", "low", "1", json!({"schedulingGates": [{"name": "example.com/x"}]}))).await;
    let parsed = seen
        .figures("/metrics", |parsed| {
            pending(parsed, "unschedulable") == Some(2.0) && pending(parsed, "gated") == Some(1.0)
        })
        .await;
    assert_eq!(attempts(&parsed, "scheduled"), Some(2.0));
    assert!(attempts(&parsed, "unschedulable") >= Some(2.0));
    assert_eq!(attempts(&parsed, "error"), None);
    for plugin in ["NodeResourcesFit", "NodeAffinity", "SchedulingGates"] {
        assert_eq!(refused_by(&parsed, plugin), Some(1.0), "{plugin}");
    }
    let one = |name: &str, labels: &[(&str, &str)]| value(&parsed, name, labels);
    let more = |name: &str, labels: &[(&str, &str)]| {
        Some(one(name, labels)? - value(&before, name, labels).unwrap_or_default())
    };
    assert_eq!(more("scheduler_pod_scheduling_attempts_sum", &[]), Some(1.0));
    let sli = "scheduler_pod_scheduling_sli_duration_seconds_count";
    assert_eq!(more(sli, &[("attempts", "1")]), Some(1.0));
    let took = "scheduler_scheduling_attempt_duration_seconds_count";
    assert_eq!(more(took, &[("result", "scheduled")]), Some(1.0));
    assert!(one("scheduler_scheduling_algorithm_duration_seconds_count", &[]) >= Some(3.0));
    let incoming = "scheduler_queue_incoming_pods_total";
    let added = [("queue", "active"), ("event", "UnschedulablePodAdd")];
    assert_eq!(more(incoming, &added), Some(3.0));
    assert!(one(incoming, &[("event", "ScheduleAttemptFailure")]) >= Some(2.0));
    assert_eq!(one("scheduler_preemption_victims_count", &[]), Some(0.0));
    assert!(one("scheduler_preemption_attempts_total", &[]) >= Some(2.0));
    assert!(one("process_resident_memory_bytes", &[]) > Some(0.0));
    assert_eq!(one("kubernetes_build_info", &[("minor", "36")]), Some(1.0));
    for (kind, count) in [("nodes", 1.0), ("pods", 1.0), ("assumed_pods", 0.0)] {
        assert_eq!(one("scheduler_cache_size", &[("type", kind)]), Some(count), "{kind}");
    }

    let admin = Seen::certified(port, &world, "admin", "system:masters");
    let asked = admin.figures("/metrics/resources", |_| true).await;
    let labels = [
        ("pod", "fits"),
        ("resource", "cpu"),
        ("unit", "cores"),
        ("priority", "1"),
        ("scheduler", "default-scheduler"),
    ];
    assert_eq!(value(&asked, "kube_pod_resource_request", &labels), Some(6.0));
    assert_eq!(value(&asked, "kube_pod_resource_request", &[("pod", "big")]), Some(100.0));

    create(pod("high", "high", "6", json!({}))).await;
    world.until::<Pod>(|pods| runs(pods, "high")).await;
    let parsed =
        seen.figures("/metrics", |parsed| attempts(parsed, "scheduled") == Some(3.0)).await;
    let one = |name: &str| value(&parsed, name, &[]);
    assert_eq!(one("scheduler_preemption_victims_count"), Some(1.0));
    assert_eq!(one("scheduler_preemption_victims_sum"), Some(1.0));
    assert!(one("scheduler_pod_scheduling_attempts_sum") >= Some(3.0), "it took two");
    for kind in ["counter", "gauge", "histogram"] {
        assert!(parsed.kinds.values().any(|known| known == kind), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_controllers_queues_are_measured() {
    let port = free_port();
    let world = world(1, 0, port).await;
    let template = json!({"metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "web:1"}]}});
    let set = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web"},
        "spec": {"replicas": 2, "selector": {"matchLabels": {"app": "web"}},
            "template": template}});
    world.client.create::<ReplicaSet>("default", &set).await.unwrap();
    world.until::<Pod>(|_| world.running().values().sum::<usize>() == 2).await;
    let seen = Seen::certified(port, &world, "monitor", "system:monitoring");
    let of = |parsed: &Parsed, name: &str| value(parsed, name, &[("name", "replicaset")]);
    let parsed = seen
        .figures("/metrics", |parsed| {
            of(parsed, "workqueue_depth") == Some(0.0)
                && of(parsed, "workqueue_unfinished_work_seconds") == Some(0.0)
        })
        .await;
    let adds = of(&parsed, "workqueue_adds_total");
    assert!(adds >= Some(1.0));
    assert_eq!(of(&parsed, "workqueue_work_duration_seconds_count"), adds);
    assert_eq!(of(&parsed, "workqueue_queue_duration_seconds_count"), adds);
    assert!(of(&parsed, "workqueue_retries_total").is_some());
    for name in ["deployment", "garbage_collector_attempt_to_delete", "namespace", "claims"] {
        assert!(value(&parsed, "workqueue_depth", &[("name", name)]).is_some(), "{name}");
    }
    // Nobody is elected in this world.
    assert_eq!(value(&parsed, "leader_election_master_status", &[]), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_leads_and_the_other_is_ready() {
    let world = world(0, 0, 0).await;
    let shutdown = CancellationToken::new();
    let start = |seed: u64| {
        let user = User::new("system:kube-scheduler", &["system:authenticated"]);
        let (client, port) = (world.server.client(user), free_port());
        let (clock, rng) = (world.clock.clone(), Rng::seeded(seed));
        let informers = Informers::new(client.clone(), clock.clone(), rng.clone());
        let options = scheduler::Options { secure_port: port, ..Default::default() };
        let ending = shutdown.clone();
        tokio::spawn(scheduler::run(options, client, informers, clock, rng, ending));
        port
    };
    let leads = |parsed: &Parsed| {
        value(parsed, "leader_election_master_status", &[("name", "kube-scheduler")])
    };
    for (seed, expected) in [(1, 1.0), (2, 0.0)] {
        let port = start(seed);
        Seen::nobody(port).open().await;
        let seen = Seen::certified(port, &world, "monitor", "system:monitoring");
        seen.figures("/metrics", |parsed| leads(parsed) == Some(expected)).await;
        let ready = seen.ready().await;
        assert!(ready.contains("[+]leaderElection ok\n[+]sched-handler-sync ok\n"), "{ready}");
    }
    shutdown.cancel();
}

const PROFILE: &str = "apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
profiles: [{schedulerName: default-scheduler}, {schedulerName: second}]
";

#[tokio::test(flavor = "multi_thread")]
async fn all_in_one_takes_a_configuration_and_serves_where_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (good, bad) = (folder.path().join("good.yaml"), folder.path().join("bad.yaml"));
    std::fs::write(&good, PROFILE).unwrap();
    std::fs::write(&bad, PROFILE.replace("profiles", "profile")).unwrap();
    let (scheduler, controllers) = (free_port(), free_port());
    let server = Server::start(&[
        "--ephemeral",
        "--scheduler-config",
        good.to_str().unwrap(),
        "--scheduler-secure-port",
        &scheduler.to_string(),
        "--controller-secure-port",
        &controllers.to_string(),
    ]);
    let admin = |port: u16| {
        let config = Kubeconfig::read(&server.kubeconfig()).unwrap().config(None).unwrap();
        let server = format!("https://127.0.0.1:{port}");
        // The certificate is the cluster's, and is looked at.
        Seen(Client::connect(&Config { server, ..config }).unwrap())
    };
    let pod = pod("p", "", "1", json!({"schedulerName": "second"}));
    server.ctl_with(&["create", "-f", "-"], &pod.to_string()).ok();
    let refused = |parsed: &Parsed| {
        let labels = [("profile", "second"), ("result", "unschedulable")];
        value(parsed, "scheduler_schedule_attempts_total", &labels)
    };
    admin(scheduler).figures("/metrics", |parsed| refused(parsed) >= Some(1.0)).await;
    let queues = admin(controllers).figures("/metrics", |_| true).await;
    assert!(value(&queues, "workqueue_depth", &[("name", "deployment")]).is_some());

    let (bad, kubeconfig) = (bad.to_str().unwrap(), server.kubeconfig());
    let said = |arguments: &[&str]| {
        let said = run(std::process::Command::new(built("ctl")).args(arguments));
        assert_ne!(said.code, 0, "{arguments:?}");
        said.err.lines().last().unwrap_or_default().to_string()
    };
    let kubeconfig = kubeconfig.to_str().unwrap();
    let alone = said(&["scheduler", "--kubeconfig", kubeconfig, "--config", bad]);
    assert!(alone.contains("unknown field `profile`"), "{alone}");
    let data = folder.path().join("data");
    let data = data.to_str().unwrap();
    let inside = said(&[
        "server",
        "--ephemeral",
        "--secure-port=0",
        "--data-dir",
        data,
        "--scheduler-config",
        bad,
    ]);
    assert_eq!(inside, alone);
    assert!(!std::path::Path::new(data).exists(), "nothing was begun");
}
