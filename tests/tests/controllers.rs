//! Controllers against the real API server, under virtual time: what users see of garbage
//! collection, namespaces and rollouts; and whatever goes wrong on the way (conflicts, lost
//! answers, broken watches, crashes between steps), they converge, then rest, and leave alone
//! what is not theirs. A failure prints its seed.

#[path = "controllers/autoscale.rs"]
mod autoscale;
#[path = "controllers/jobs.rs"]
mod jobs;
#[path = "controllers/policies.rs"]
mod policies;
#[path = "controllers/takeover.rs"]
mod takeover;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use agent::cri::simulated::{EXIT_AFTER, EXIT_CODE};
use agent::simulated::Simulated;
use bytes::Bytes;
use client::{
    Body, CancellationToken, Client, Clock, DeleteOptions, Informers, Object, Patch, Propagation,
    Rng, Service,
};
use futures::StreamExt;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use proto::kind;
use proto::status::Status;
use proto::time::Time;
use proto::user::User;
use proto::view::config_map::ConfigMap;
use proto::view::controller_revision::ControllerRevision;
use proto::view::daemon_set::DaemonSet;
use proto::view::deployment::Deployment;
use proto::view::endpoint_slice::EndpointSlice;
use proto::view::endpoints::Endpoints;
use proto::view::job::Job;
use proto::view::namespace::Namespace;
use proto::view::pod::Pod;
use proto::view::replica_set::ReplicaSet;
use proto::view::replication_controller::ReplicationController;
use proto::view::service::Service as KubeService;
use proto::view::service_account::ServiceAccount;
use proto::view::service_cidr::ServiceCidr;
use proto::view::stateful_set::StatefulSet;
use serde_json::{Value, json};
use tower::ServiceExt;

/// A cluster whose controllers' way to the API server may be made bad.
struct Rig {
    clock: Clock,
    rng: Rng,
    client: Client,
    informers: Informers,
    bad: Arc<AtomicBool>,
    /// What the controllers read at paths that begin so, as of APIs that somebody else serves:
    /// metrics.k8s.io, where it is not what nodes say, and its relatives.
    metrics: Arc<Mutex<BTreeMap<String, Value>>>,
    server: apiserver::Server,
    controllers: CancellationToken,
    _nodes: Simulated,
    _scheduler: CancellationToken,
    _folder: tempfile::TempDir,
}

#[derive(clap::Parser)]
struct Arguments {
    #[command(flatten)]
    options: apiserver::Options,
}

impl Rig {
    async fn new(seed: u64, nodes: usize) -> Rig {
        let (clock, rng) = (Clock::simulated(Time::from_unix(1_780_000_000)), Rng::seeded(seed));
        let folder = tempfile::tempdir().unwrap();
        let data_dir = format!("--data-dir={}", folder.path().display());
        let flags = ["apiserver", &data_dir, "--ephemeral", "--secure-port=0"];
        let options = <Arguments as clap::Parser>::parse_from(flags).options;
        let server = apiserver::Server::start(options, clock.clone(), rng.clone()).await.unwrap();
        let client = server.client(User::new("admin", &["system:masters"]));
        let informers = Informers::new(client.clone(), clock.clone(), rng.clone());
        let scheduler = CancellationToken::new();
        let (c, i, k, r, s) =
            (client.clone(), informers.clone(), clock.clone(), rng.clone(), scheduler.clone());
        let options = scheduler::Options { leader_elect: false, ..Default::default() };
        tokio::spawn(async move { scheduler::run(options, c, i, k, r, s).await });
        let simulated = Simulated::start(nodes, &client, &informers, &clock, &rng);
        let mut rig = Rig {
            clock,
            rng,
            client,
            informers,
            bad: Arc::new(AtomicBool::new(false)),
            metrics: Arc::default(),
            server,
            controllers: CancellationToken::new(),
            _nodes: simulated,
            _scheduler: scheduler,
            _folder: folder,
        };
        rig.informers.of::<Deployment>().synced().await;
        rig.informers.of::<ReplicaSet>().synced().await;
        rig.informers.of::<StatefulSet>().synced().await;
        rig.informers.of::<DaemonSet>().synced().await;
        rig.informers.of::<ReplicationController>().synced().await;
        rig.informers.of::<ControllerRevision>().synced().await;
        rig.informers.of::<EndpointSlice>().synced().await;
        rig.informers.of::<Endpoints>().synced().await;
        rig.informers.of::<ConfigMap>().synced().await;
        rig.informers.of::<Namespace>().synced().await;
        rig.start_controllers();
        let account = || rig.informers.of::<ServiceAccount>().get("default", "default").is_some();
        rig.until("the default account", account).await;
        rig
    }

    /// Ends the controllers wherever they stand and starts them anew, with empty memories.
    fn start_controllers(&mut self) {
        self.controllers.cancel();
        self.controllers = CancellationToken::new();
        let (bad, rng, clock) = (self.bad.clone(), self.rng.clone(), self.clock.clone());
        let (router, metrics) = (self.server.router(), self.metrics.clone());
        let service = tower::service_fn(move |request: Request<Full<Bytes>>| {
            let router = router.clone();
            let (bad, rng, clock) = (bad.clone(), rng.clone(), clock.clone());
            let asked = request.uri().path();
            let metrics = metrics.lock().unwrap();
            let made = metrics.iter().rev().find(|(path, _)| asked.starts_with(path.as_str()));
            let made = made.map(|(_, answer)| answer.to_string());
            drop(metrics);
            async move {
                if let Some(made) = made {
                    let body = Full::new(Bytes::from(made));
                    return Ok(Response::new(body.map_err(|never| match never {}).boxed_unsync()));
                }
                let dice = if bad.load(Ordering::Relaxed) { rng.below(10) } else { 99 };
                Ok::<_, Infallible>(answer(router, request, dice, &rng, &clock).await)
            }
        });
        let user = User::new("system:kube-controller-manager", &["system:authenticated"]);
        let client = Client::in_process(Service::new(service), user);
        let informers = Informers::new(client.clone(), self.clock.clone(), self.rng.clone());
        let options = controller::Options {
            leader_elect: false,
            load_balancer_cidr: Some("192.0.2.0/24".parse().unwrap()),
            ..controller::Options::default()
        };
        let (clock, rng) = (self.clock.clone(), self.rng.clone());
        let shutdown = self.controllers.clone();
        tokio::spawn(controller::run(options, client, informers, clock, rng, shutdown));
    }

    /// Waits until `met` holds, looking whenever anything may have happened.
    async fn until(&self, what: &str, met: impl Fn() -> bool) {
        for _ in 0..6000 {
            if met() {
                return;
            }
            self.clock.sleep(Duration::from_millis(100)).await;
        }
        for pod in self.all::<Pod>() {
            let owner = pod.metadata.controller().map_or("", |owner| &owner.name);
            let (name, status) = (&pod.metadata.name, &pod.status.phase);
            let end = pod.metadata.deletion_timestamp;
            eprintln!("{name} of {owner}: {} {status} {} {end:?}", image(&pod), pod.is_ready());
        }
        for set in self.all::<ReplicaSet>() {
            eprintln!("{} {:?} {:?}", set.metadata.name, set.spec.replicas, set.status);
        }
        fn show<T: Object>(rig: &Rig) {
            for object in rig.all::<T>() {
                eprintln!("{}", String::from_utf8_lossy(&object.bytes));
            }
        }
        show::<Deployment>(self);
        show::<StatefulSet>(self);
        show::<DaemonSet>(self);
        show::<ReplicationController>(self);
        show::<Job>(self);
        panic!("{what} did not come to be in ten minutes");
    }

    /// What the controllers are answered at paths that begin so, from now on.
    fn measure(&self, path: &str, answer: Value) {
        self.metrics.lock().unwrap().insert(path.into(), answer);
    }

    fn all<T: Object>(&self) -> Vec<Arc<client::Entry<T>>> {
        self.informers.of::<T>().snapshot().values().cloned().collect()
    }

    fn gone<T: Object>(&self, name: &str) -> bool {
        self.informers.of::<T>().get("default", name).is_none()
    }

    /// Names and revisions of what controllers look after.
    fn state(&self) -> BTreeMap<String, String> {
        let mut state = BTreeMap::new();
        fn note<T: Object>(rig: &Rig, state: &mut BTreeMap<String, String>) {
            for entry in rig.all::<T>() {
                let (meta, kind) = (entry.meta(), &T::row().kind);
                let key = format!("{kind} {}/{}", meta.namespace, meta.name);
                state.insert(key, meta.resource_version.clone());
            }
        }
        note::<Deployment>(self, &mut state);
        note::<ReplicaSet>(self, &mut state);
        note::<StatefulSet>(self, &mut state);
        note::<DaemonSet>(self, &mut state);
        note::<ReplicationController>(self, &mut state);
        note::<ControllerRevision>(self, &mut state);
        note::<Pod>(self, &mut state);
        note::<EndpointSlice>(self, &mut state);
        note::<Endpoints>(self, &mut state);
        note::<KubeService>(self, &mut state);
        note::<ConfigMap>(self, &mut state);
        state
    }
}

/// Sometimes refuses, sometimes loses the answer of what was done, sometimes is slow; breaks
/// watches off.
async fn answer(
    router: axum::Router,
    request: Request<Full<Bytes>>,
    dice: u64,
    rng: &Rng,
    clock: &Clock,
) -> Response<Body> {
    let watches = request.uri().query().is_some_and(|query| query.contains("watch=true"));
    let writes = request.method() != Method::GET;
    let failure = |status: Status| {
        let body = Full::new(Bytes::from(serde_json::to_vec(&status).unwrap()));
        let body = body.map_err(|never| match never {}).boxed_unsync();
        Response::builder().status(status.code).body(body).unwrap()
    };
    if dice == 0 && writes {
        return failure(Status::modified("", "things", "x"));
    }
    if dice == 1 {
        return failure(Status::unavailable("for a while"));
    }
    if dice == 2 {
        clock.sleep(Duration::from_millis(rng.below(2000))).await;
    }
    let response = match router.oneshot(request.map(axum::body::Body::new)).await {
        Ok(response) => response,
        Err(never) => match never {},
    };
    if dice == 3 && writes {
        return failure(Status::timeout("the answer was lost"));
    }
    if watches && dice <= 6 {
        let frames = BodyStream::new(response.into_body()).map(|frame| frame.map_err(Into::into));
        let broken = StreamBody::new(frames.take(rng.below(40) as usize).boxed());
        return Response::new(broken.boxed_unsync());
    }
    response.map(|body| body.map_err(client::BoxError::from).boxed_unsync())
}

fn deployment(name: &str, replicas: i64, image: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"containers": [{"name": "c", "image": image,
                    "ports": [{"containerPort": 80}]}]},
            },
        },
    })
}

/// A workload like a Deployment, but for its kind.
fn workload(row: &proto::kind::Row, name: &str, replicas: Option<usize>) -> Value {
    let mut object = deployment(name, 0, "i:0");
    object["apiVersion"] = row.api_version().into();
    object["kind"] = row.kind.as_ref().into();
    object["spec"]["replicas"] = json!(replicas);
    if row.group.is_empty() {
        object["spec"]["selector"] = object["spec"]["selector"]["matchLabels"].take();
    }
    object
}

fn image(pod: &Pod) -> &str {
    pod.spec.containers.first().map_or("", |container| &container.image)
}

/// So many ready pods of this image and no others that are active.
fn rolled_out(rig: &Rig, name: &str, replicas: usize, wanted: &str) -> bool {
    let mut pods = rig.all::<Pod>();
    pods.retain(|pod| {
        pod.is_active() && pod.metadata.labels.get("app").is_some_and(|app| app == name)
    });
    let deployment = rig.informers.of::<Deployment>().get("default", name);
    let told = deployment.is_some_and(|deployment| {
        deployment.status.observed_generation == deployment.metadata.generation
            && deployment.status.available_replicas as usize == replicas
            && deployment.status.updated_replicas as usize == replicas
    });
    told && pods.len() == replicas && pods.iter().all(|pod| pod.is_ready() && image(pod) == wanted)
}

async fn scale(rig: &Rig, name: &str, spec: Value) {
    change::<Deployment>(rig, name, spec).await;
}

async fn change<T: Object>(rig: &Rig, name: &str, spec: Value) {
    let patch = Patch::Strategic(json!({ "spec": spec }));
    rig.client.patch::<T>("default", name, "", &patch).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn deletions_reach_dependents_as_asked() {
    let rig = Rig::new(1, 2).await;
    for (name, propagation) in [
        ("background", Propagation::Background),
        ("foreground", Propagation::Foreground),
        ("orphan", Propagation::Orphan),
    ] {
        rig.client.create::<Deployment>("default", &deployment(name, 2, "i:1")).await.unwrap();
        rig.until("the rollout", || rolled_out(&rig, name, 2, "i:1")).await;
        let options = DeleteOptions { propagation: Some(propagation), ..DeleteOptions::default() };
        rig.client.delete::<Deployment>("default", name, &options).await.unwrap();
        rig.until("the end of the Deployment", || rig.gone::<Deployment>(name)).await;
        let labelled =
            |meta: &proto::meta::ObjectMeta| meta.labels.get("app").is_some_and(|app| app == name);
        let sets = || rig.all::<ReplicaSet>().into_iter().filter(|set| labelled(&set.metadata));
        let pods = || rig.all::<Pod>().into_iter().filter(|pod| labelled(&pod.metadata));
        match propagation {
            Propagation::Background => {
                rig.until("the end of all", || sets().count() + pods().count() == 0).await;
            }
            Propagation::Foreground => assert_eq!(sets().count() + pods().count(), 0),
            Propagation::Orphan => {
                rig.clock.sleep(Duration::from_secs(60)).await;
                assert_eq!((sets().count(), pods().count()), (1, 2));
                assert!(sets().all(|set| set.metadata.owner_references.is_empty()));
            }
        }
    }
    // The orphaned ReplicaSet is adopted by a new Deployment of the same name and template.
    rig.client.create::<Deployment>("default", &deployment("orphan", 2, "i:1")).await.unwrap();
    rig.until("the adoption", || rolled_out(&rig, "orphan", 2, "i:1")).await;
    assert_eq!(rig.all::<ReplicaSet>().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_ends_with_all_it_holds() {
    let rig = Rig::new(2, 1).await;
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}});
    rig.client.create::<Namespace>("", &namespace).await.unwrap();
    let account = || rig.informers.of::<ServiceAccount>().get("n", "default").is_some();
    rig.until("the default account", account).await;
    rig.client.create::<Deployment>("n", &deployment("web", 2, "i:1")).await.unwrap();
    let held = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "held", "finalizers": ["example.com/hold"]}});
    rig.client.create::<ConfigMap>("n", &held).await.unwrap();
    let running = || rig.all::<Pod>().iter().filter(|pod| pod.is_ready()).count() == 2;
    rig.until("running pods", running).await;

    rig.client.delete::<Namespace>("", "n", &DeleteOptions::default()).await.unwrap();
    let namespaces = rig.informers.of::<Namespace>();
    let said = || {
        let namespace = namespaces.get("", "n")?;
        let list = &namespace.status.conditions;
        let found = proto::view::Condition::find(list, "NamespaceFinalizersRemaining")?;
        (found.status == "True" && rig.all::<Pod>().is_empty()).then(|| found.message.clone())
    };
    rig.until("only the held object remains", || said().is_some()).await;
    assert_eq!(
        said().unwrap(),
        "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource \
         instances"
    );
    let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    rig.client.patch::<ConfigMap>("n", "held", "", &patch).await.unwrap();
    rig.until("the end", || namespaces.get("", "n").is_none()).await;
    assert!(rig.all::<ReplicaSet>().is_empty() && rig.all::<Deployment>().is_empty());

    let any = DeleteOptions::default();
    rig.client.delete::<ServiceAccount>("default", "default", &any).await.unwrap();
    let back = || rig.informers.of::<ServiceAccount>().get("default", "default").is_some();
    rig.until("the default account again", back).await;
}

#[tokio::test(start_paused = true)]
async fn rollouts_are_undone_paused_and_reported() {
    let rig = Rig::new(3, 2).await;
    rig.client.create::<Deployment>("default", &deployment("web", 3, "i:1")).await.unwrap();
    rig.until("the first version", || rolled_out(&rig, "web", 3, "i:1")).await;
    let containers = |image: &str| json!({"template": {"spec": {"containers": [{"name": "c", "image": image}]}}});
    scale(&rig, "web", containers("i:2")).await;
    rig.until("the second version", || rolled_out(&rig, "web", 3, "i:2")).await;
    scale(&rig, "web", containers("i:1")).await;
    rig.until("the first again", || rolled_out(&rig, "web", 3, "i:1")).await;
    let revision = |name: &str| {
        rig.informers.of::<Deployment>().get("default", name).and_then(|deployment| {
            deployment.metadata.annotations.get("deployment.kubernetes.io/revision").cloned()
        })
    };
    rig.until("revision 3", || revision("web").as_deref() == Some("3")).await;
    assert_eq!(rig.all::<ReplicaSet>().len(), 2, "the old set was used again");

    scale(&rig, "web", json!({"paused": true, "replicas": 5})).await;
    scale(&rig, "web", containers("i:3")).await;
    let five =
        || rig.all::<Pod>().iter().filter(|pod| pod.is_ready() && image(pod) == "i:1").count() == 5;
    rig.until("five of the old version", five).await;
    rig.clock.sleep(Duration::from_secs(120)).await;
    assert!(five(), "a paused Deployment scales but does not roll");
    scale(&rig, "web", json!({"paused": false})).await;
    rig.until("the third version", || rolled_out(&rig, "web", 5, "i:3")).await;
    let list =
        rig.informers.of::<Deployment>().get("default", "web").unwrap().status.conditions.clone();
    let progressing = proto::view::Condition::find(&list, "Progressing").unwrap();
    assert_eq!(progressing.reason, "NewReplicaSetAvailable", "{progressing:?}");

    let events =
        rig.client.list::<proto::view::event::Event>(&client::ListOptions::default()).await;
    let messages: Vec<String> =
        events.unwrap().items.iter().map(|event| event.message.clone()).collect();
    assert!(
        messages
            .iter()
            .any(|text| text.starts_with("Scaled up replica set web-")
                && text.ends_with(" from 0 to 3")),
        "{messages:?}"
    );
    assert!(messages.iter().any(|text| text.starts_with("Created pod: web-")));
}

#[tokio::test(start_paused = true)]
async fn endpoints_by_hand_become_slices() {
    let rig = Rig::new(4, 1).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "by-hand"},
        "spec": {"ports": [{"name": "example", "port": 80}]}});
    rig.client.create::<KubeService>("default", &service).await.unwrap();
    let subsets = |ip: &str| json!([{"addresses": [{"ip": ip}], "ports": [{"port": 80}]}]);
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints",
        "metadata": {"name": "by-hand"}, "subsets": subsets("10.1.2.3")});
    rig.client.create::<Endpoints>("default", &endpoints).await.unwrap();
    let mirrored = || -> Vec<String> {
        let slices = rig.all::<EndpointSlice>().into_iter();
        let slices = slices.filter(|slice| slice.service() == "by-hand");
        let shown = |slice: Arc<client::Entry<EndpointSlice>>| {
            let ips = slice.endpoints.iter().flat_map(|endpoint| endpoint.addresses.clone());
            let ports = slice.ports.iter().filter_map(|port| port.port);
            format!("{:?} {:?}", ips.collect::<Vec<_>>(), ports.collect::<Vec<_>>())
        };
        slices.map(shown).collect()
    };
    rig.until("a slice", || mirrored() == ["[\"10.1.2.3\"] [80]"]).await;
    let patch = Patch::Merge(json!({ "subsets": subsets("10.2.3.4") }));
    rig.client.patch::<Endpoints>("default", "by-hand", "", &patch).await.unwrap();
    rig.until("the change", || mirrored() == ["[\"10.2.3.4\"] [80]"]).await;
    let any = DeleteOptions::default();
    rig.client.delete::<Endpoints>("default", "by-hand", &any).await.unwrap();
    rig.until("no slice", || mirrored().is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn service_networks_in_use_stay() {
    let rig = Rig::new(5, 1).await;
    let cidrs = rig.informers.of::<ServiceCidr>();
    let ready = |name: &str| {
        let cidr = cidrs.get("", name)?;
        let ready = proto::view::Condition::find(&cidr.status.conditions, "Ready")?;
        let held = cidr.metadata.finalizers.len();
        Some(format!("{} {} {held}", ready.status, ready.reason))
    };
    let is = |name: &str, said: &str| ready(name).as_deref() == Some(said);
    rig.until("the first network", || is("kubernetes", "True  1")).await;
    let more = json!({"apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "more"}, "spec": {"cidrs": ["203.0.113.0/24"]}});
    rig.client.create::<ServiceCidr>("", &more).await.unwrap();
    rig.until("another", || is("more", "True  1")).await;
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "there"},
        "spec": {"clusterIP": "203.0.113.10", "ports": [{"port": 80}]}});
    rig.client.create::<KubeService>("default", &service).await.unwrap();
    let any = DeleteOptions::default();
    rig.client.delete::<ServiceCidr>("", "more", &any).await.unwrap();
    rig.until("why it stays", || is("more", "False Terminating 1")).await;
    rig.clock.sleep(Duration::from_secs(60)).await;
    assert!(is("more", "False Terminating 1"));
    rig.client.delete::<KubeService>("default", "there", &any).await.unwrap();
    rig.until("its end", || cidrs.get("", "more").is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn they_converge_whatever_goes_wrong() {
    let seed = match std::env::var("SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => Rng::from_os().below(1_000_000),
    };
    eprintln!("SEED={seed}");
    let mut rig = Rig::new(seed, 3).await;
    // What is not theirs: pods of others, of nobody, and a set of another owner's.
    let stranger = |name: &str, label: &str, owner: Value| {
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": label}, "ownerReferences": owner},
            "spec": {"containers": [{"name": "c", "image": "own:1"}]}})
    };
    let keeper = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "keeper"}});
    let keeper = rig.client.create::<ConfigMap>("default", &keeper).await.unwrap();
    let owner = json!([{"apiVersion": "v1", "kind": "ConfigMap", "name": "keeper",
        "uid": keeper.metadata.uid, "controller": true}]);
    rig.client.create::<Pod>("default", &stranger("lone", "alone", json!([]))).await.unwrap();
    rig.client.create::<Pod>("default", &stranger("kept", "web", owner)).await.unwrap();
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"type": "LoadBalancer", "selector": {"app": "web"}, "ports": [{"port": 80}]}});
    rig.client.create::<KubeService>("default", &service).await.unwrap();
    let strangers = |rig: &Rig| {
        let pods = rig.informers.of::<Pod>();
        let uid = |name| {
            pods.get("default", name).map(|pod| {
                (
                    pod.metadata.uid.clone(),
                    pod.is_terminating(),
                    pod.metadata.owner_references.clone(),
                )
            })
        };
        (uid("lone"), uid("kept"))
    };
    let ready = || rig.all::<Pod>().iter().filter(|pod| pod.is_ready()).count() == 2;
    rig.until("the strangers run", ready).await;
    let strangers_before = strangers(&rig);

    rig.bad.store(true, Ordering::Relaxed);
    rig.client.create::<Deployment>("default", &deployment("web", 4, "i:0")).await.unwrap();
    let mut set = workload(&kind::STATEFUL_SET, "db", Some(3));
    set["spec"]["podManagementPolicy"] = ["OrderedReady", "Parallel"][seed as usize % 2].into();
    rig.client.create::<StatefulSet>("default", &set).await.unwrap();
    let daemons = workload(&kind::DAEMON_SET, "log", None);
    rig.client.create::<DaemonSet>("default", &daemons).await.unwrap();
    let controller = workload(&kind::REPLICATION_CONTROLLER, "old", Some(2));
    rig.client.create::<ReplicationController>("default", &controller).await.unwrap();
    // How many pods of which image there should be, by their label.
    let mut wanted = BTreeMap::new();
    for round in 1..8u64 {
        rig.clock.sleep(Duration::from_millis(rig.rng.below(20_000))).await;
        let mut dice = |app: &'static str| {
            let (replicas, image) = (1 + rig.rng.below(8) as usize, rig.rng.below(3));
            let image = format!("i:{image}");
            wanted.insert(app, (replicas, image.clone()));
            json!({"replicas": replicas,
                "template": {"spec": {"containers": [{"name": "c", "image": image}]}}})
        };
        let [web, db, mut log, mut old] = ["web", "db", "log", "old"].map(&mut dice);
        scale(&rig, "web", web).await;
        change::<StatefulSet>(&rig, "db", db).await;
        log.as_object_mut().unwrap().remove("replicas");
        change::<DaemonSet>(&rig, "log", log).await;
        // Its pods are not replaced when the template changes.
        old.as_object_mut().unwrap().remove("template");
        change::<ReplicationController>(&rig, "old", old).await;
        if round % 2 == 0 {
            rig.start_controllers();
        }
        let mut pods = rig.all::<Pod>();
        pods.retain(|pod| pod.metadata.name != "kept" && pod.metadata.name != "lone");
        for _ in 0..3.min(pods.len()) {
            let victim = &pods[rig.rng.below(pods.len() as u64) as usize].metadata.name;
            let _ = rig.client.delete::<Pod>("default", victim, &DeleteOptions::default()).await;
        }
    }
    rig.bad.store(false, Ordering::Relaxed);
    wanted.get_mut("log").unwrap().0 = 3;
    wanted.get_mut("old").unwrap().1 = "i:0".into();
    let replicas = wanted["web"].0;
    // Broken watches and long back-offs of the bad times may take a while to be over.
    let done = || {
        let mut there: BTreeMap<&str, Vec<bool>> = BTreeMap::new();
        let pods = rig.all::<Pod>();
        let pods = pods.iter().filter(|pod| pod.is_active() && pod.metadata.name != "kept");
        for pod in pods.filter(|pod| pod.metadata.name != "lone") {
            let app = pod.metadata.labels["app"].as_str();
            there.entry(app).or_default().push(pod.is_ready() && image(pod) == wanted[app].1);
        }
        wanted.iter().all(|(app, (count, _))| {
            there.get(app).is_some_and(|right| right.len() == *count && right.iter().all(|it| *it))
        })
    };
    rig.until(&format!("convergence (SEED={seed})"), done).await;
    rig.clock.sleep(Duration::from_secs(120)).await;
    let backends = |rig: &Rig| -> usize {
        let slices = rig.all::<EndpointSlice>().into_iter();
        slices.filter(|slice| slice.service() == "web").map(|slice| slice.endpoints.len()).sum()
    };
    assert_eq!(backends(&rig), replicas + 1, "its pods and the kept one (SEED={seed})");
    let address = rig.informers.of::<KubeService>().get("default", "web").unwrap();
    assert_eq!(address.status.load_balancer.ingress.len(), 1, "SEED={seed}");

    let rest = rig.state();
    rig.clock.sleep(Duration::from_secs(600)).await;
    assert_eq!(rig.state(), rest, "at rest nothing is written (SEED={seed})");
    assert_eq!(strangers(&rig), strangers_before, "others' objects are left alone (SEED={seed})");
}
