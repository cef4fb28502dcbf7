//! Days on which everything goes wrong that may. Nodes lose their power, are cut off, drained and
//! come back; requests are refused, answered late or not at all though they were done; watches break
//! off or fall silent; schedulers and controllers end anywhere; and users change their minds. In the
//! end all is as was asked for, and on the way nothing was that must never be.
//!
//! `CORACLE_NODES`, `CORACLE_PODS` and `CORACLE_MINUTES` say how large and how long, `SEED` repeats
//! one, write for write, and `CORACLE_EVENTS` names a file for everything that was written.

#[path = "chaos/entropy.rs"]
mod entropy;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use agent::cri::simulated::EXIT_AFTER;
use client::{Clock, DeleteOptions, Entry, Object, Patch, Propagation, Rng};
use proto::view::controller_revision::ControllerRevision;
use proto::view::cron_job::CronJob;
use proto::view::daemon_set::DaemonSet;
use proto::view::deployment::Deployment;
use proto::view::endpoint_slice::EndpointSlice;
use proto::view::job::Job;
use proto::view::node::Node;
use proto::view::pod::Pod;
use proto::view::pod_disruption_budget::PodDisruptionBudget;
use proto::view::replica_set::ReplicaSet;
use proto::view::service::Service;
use proto::view::stateful_set::StatefulSet;
use serde_json::{Value, json};
use tests::chaos::{Chaos, node};

/// How much of everything.
#[derive(Clone, Copy, Debug)]
struct Sizes {
    nodes: usize,
    pods: usize,
    minutes: u64,
}

impl Sizes {
    fn of(nodes: usize, pods: usize, minutes: u64) -> Sizes {
        let said =
            |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<usize>().ok());
        Sizes {
            nodes: said("CORACLE_NODES").unwrap_or(nodes),
            pods: said("CORACLE_PODS").unwrap_or(pods),
            minutes: said("CORACLE_MINUTES").map_or(minutes, |minutes| minutes as u64),
        }
    }
}

/// What is asked for of a workload.
#[derive(Clone, Debug)]
struct Wanted {
    kind: Kind,
    replicas: usize,
    image: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Deployment,
    Set,
    Daemon,
}

struct Play {
    chaos: Chaos,
    sizes: Sizes,
    /// For what users and accidents do.
    rng: Rng,
    wanted: BTreeMap<String, Wanted>,
    jobs: u64,
    cordoned: BTreeSet<usize>,
    label: String,
}

#[tokio::test(start_paused = true)]
async fn a_day_on_which_all_goes_wrong() {
    let sizes = Sizes::of(6, 50, 8);
    let seed = seed();
    let label = format!("SEED={seed} {sizes:?}");
    eprintln!("{label}");
    play(seed, sizes, &label).await;
}

/// In two processes: what a program makes once and keeps is part of its history.
#[test]
fn the_same_seed_gives_the_same_history() {
    let seed = seed().to_string();
    let folder = tempfile::tempdir().unwrap();
    let [first, second] = ["first", "second"].map(|name| {
        let events = folder.path().join(name);
        let day = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "a_day_on_which_all_goes_wrong"])
            .envs([("CORACLE_NODES", "4"), ("CORACLE_PODS", "30"), ("CORACLE_MINUTES", "5")])
            .env("SEED", &seed)
            .env("CORACLE_EVENTS", &events)
            .output()
            .unwrap();
        assert!(day.status.success(), "{}", String::from_utf8_lossy(&day.stdout));
        std::fs::read_to_string(events).unwrap()
    });
    assert!(first.lines().count() > 1000);
    let same = first.lines().zip(second.lines()).take_while(|(one, other)| one == other).count();
    let line = |history: &str| history.lines().nth(same).map(str::to_owned);
    assert_eq!(line(&first), line(&second), "SEED={seed}: after {same} events");
}

/// From `SEED`, or of the moment: there is no other randomness in this program.
fn seed() -> u64 {
    match std::env::var("SEED") {
        Ok(text) => text.parse().unwrap(),
        Err(_) => Clock::system().now().0.as_microsecond().unsigned_abs() % 1_000_000,
    }
}

async fn play(seed: u64, sizes: Sizes, label: &str) {
    let events = std::env::var_os("CORACLE_EVENTS").map(PathBuf::from);
    let mut play = Play {
        chaos: Chaos::start(seed, sizes.nodes, events.as_deref()).await,
        sizes,
        rng: Rng::seeded(seed ^ 0xacc1),
        wanted: BTreeMap::new(),
        jobs: 0,
        cordoned: BTreeSet::new(),
        label: label.into(),
    };
    play.begin().await;
    let start = play.chaos.clock.now();
    let end = start.plus(Duration::from_secs(sizes.minutes * 60));
    play.chaos.faults.set(true);
    let mut told = start;
    while play.chaos.clock.now() < end {
        let now = play.chaos.clock.now();
        if now.since(told) >= Duration::from_secs(3600) {
            told = now;
            let (hours, writes) = (now.since(start).as_secs() / 3600, play.chaos.history.events());
            eprintln!("{label}: {hours} hours, {writes} writes");
        }
        play.act().await;
        play.chaos.heal(false).await;
        play.check_identities();
        play.chaos.clock.sleep(Duration::from_millis(play.rng.below(45_000))).await;
    }
    play.end().await;
    play.check_jobs();
    let history = &play.chaos.history;
    let (wrong, events, pods) = (history.wrong(), history.events(), history.pods());
    eprintln!("{label}: {events} writes, {pods} pods, {} Jobs", history.jobs().len());
    assert!(wrong.is_empty(), "{label}: {wrong:#?}");
}

fn pod(name: &str, image: u64, restart: &str, annotations: Value) -> Value {
    json!({
        "metadata": {"labels": {"app": name}, "annotations": annotations},
        "spec": {
            "restartPolicy": restart,
            "terminationGracePeriodSeconds": 5,
            "containers": [{"name": "c", "image": format!("i:{image}"),
                "ports": [{"containerPort": 80}]}],
        },
    })
}

fn object(name: &str, wanted: &Wanted) -> Value {
    let mut spec = json!({
        "selector": {"matchLabels": {"app": name}},
        "template": pod(name, wanted.image, "Always", json!({})),
    });
    let kind = match wanted.kind {
        Kind::Deployment => "Deployment",
        Kind::Set => {
            spec["podManagementPolicy"] =
                if name.ends_with('0') { "OrderedReady" } else { "Parallel" }.into();
            "StatefulSet"
        }
        Kind::Daemon => "DaemonSet",
    };
    if wanted.kind != Kind::Daemon {
        spec["replicas"] = wanted.replicas.into();
    }
    json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
}

fn job(number: u64, completions: u64, seconds: u64) -> (String, Value) {
    let name = format!("job-{number}");
    let mode = if number.is_multiple_of(2) { "Indexed" } else { "NonIndexed" };
    let spec = json!({
        "completions": completions, "parallelism": completions.div_ceil(2),
        "completionMode": mode, "backoffLimit": 100_000, "podReplacementPolicy": "Failed",
        "ttlSecondsAfterFinished": 60,
        "template": pod("job", 0, "Never", json!({EXIT_AFTER: seconds.to_string()})),
    });
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": spec});
    (name, job)
}

impl Play {
    /// Seven tenths of the pods are of Deployments, a tenth of StatefulSets; two are of DaemonSets
    /// and Jobs.
    async fn begin(&mut self) {
        let informers = &self.chaos.informers;
        informers.of::<Deployment>().synced().await;
        informers.of::<ReplicaSet>().synced().await;
        informers.of::<StatefulSet>().synced().await;
        informers.of::<DaemonSet>().synced().await;
        informers.of::<ControllerRevision>().synced().await;
        informers.of::<Service>().synced().await;
        informers.of::<EndpointSlice>().synced().await;
        informers.of::<CronJob>().synced().await;
        informers.of::<Job>().synced().await;
        informers.of::<Node>().synced().await;
        informers.of::<Pod>().synced().await;
        let Sizes { nodes, pods, .. } = self.sizes;
        let each = (pods / 40).clamp(4, 150);
        for number in 0..(pods * 7 / 10).div_ceil(each) {
            self.make(format!("web-{number}"), Kind::Deployment, each).await;
        }
        for number in 0..(pods / 10).div_ceil(each).max(2) {
            self.make(format!("db-{number}"), Kind::Set, each).await;
        }
        for number in 0..(pods / 10 / nodes).max(1) {
            self.make(format!("log-{number}"), Kind::Daemon, nodes).await;
        }
        for number in 0..2 {
            let cron = json!({"apiVersion": "batch/v1", "kind": "CronJob",
                "metadata": {"name": format!("cron-{number}")},
                "spec": {"schedule": format!("*/{} * * * *", 3 + number), "jobTemplate":
                    {"spec": job(number, 3, 40).1["spec"]}}});
            self.chaos.client.create::<CronJob>("default", &cron).await.unwrap();
        }
        self.until("the beginning", |play| play.unfinished()).await;
    }

    async fn make(&mut self, name: String, kind: Kind, replicas: usize) {
        let wanted = Wanted { kind, replicas, image: 0 };
        let (client, object) = (&self.chaos.client, object(&name, &wanted));
        match kind {
            Kind::Deployment => {
                drop(client.create::<Deployment>("default", &object).await.unwrap());
                let service = json!({"apiVersion": "v1", "kind": "Service",
                    "metadata": {"name": name},
                    "spec": {"selector": {"app": name}, "ports": [{"port": 80}]}});
                let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
                    "metadata": {"name": name}, "spec": {"maxUnavailable": "30%",
                        "selector": {"matchLabels": {"app": name}}}});
                // They stay when the Deployment goes and comes back.
                drop(client.create::<Service>("default", &service).await);
                drop(client.create::<PodDisruptionBudget>("default", &budget).await);
            }
            Kind::Set => drop(client.create::<StatefulSet>("default", &object).await.unwrap()),
            Kind::Daemon => drop(client.create::<DaemonSet>("default", &object).await.unwrap()),
        }
        self.wanted.insert(name, wanted);
    }

    fn all<T: Object>(&self) -> Vec<Arc<Entry<T>>> {
        self.chaos.informers.of::<T>().snapshot().values().cloned().collect()
    }

    /// One thing that users or fate do.
    async fn act(&mut self) {
        match self.rng.below(12) {
            0 | 1 => self.change_workload().await,
            2 => self.start_job().await,
            3 => self.delete_pods().await,
            4 | 5 => self.crash_containers(),
            6 | 7 => self.lose_node().await,
            8 | 9 => {
                let index = self.rng.below(self.chaos.processes() as u64) as usize;
                let in_order = self.rng.below(2) == 0;
                self.chaos.replace(index, in_order).await;
            }
            10 => self.drain_or_open().await,
            _ => self.make_anew().await,
        }
    }

    fn any_workload(&self) -> String {
        let index = self.rng.below(self.wanted.len() as u64) as usize;
        self.wanted.keys().nth(index).unwrap().clone()
    }

    /// Another number of replicas or another image.
    async fn change_workload(&mut self) {
        let name = self.any_workload();
        let most = (self.sizes.pods as u64 / 40).clamp(4, 150) * 5 / 4;
        let wanted = self.wanted.get_mut(&name).unwrap();
        if wanted.kind == Kind::Daemon || self.rng.below(2) == 0 {
            wanted.image += 1;
        } else {
            wanted.replicas = 1 + self.rng.below(most) as usize;
        }
        let patch = Patch::Merge(json!({"spec": object(&name, wanted)["spec"]}));
        let client = &self.chaos.client;
        match wanted.kind {
            Kind::Deployment => {
                drop(client.patch::<Deployment>("default", &name, "", &patch).await.unwrap());
            }
            Kind::Set => {
                drop(client.patch::<StatefulSet>("default", &name, "", &patch).await.unwrap());
            }
            Kind::Daemon => {
                drop(client.patch::<DaemonSet>("default", &name, "", &patch).await.unwrap());
            }
        }
    }

    /// The Deployment is deleted, and one of its name comes at once.
    async fn make_anew(&mut self) {
        let name = self.any_workload();
        let Wanted { kind, replicas, .. } = self.wanted[&name];
        if kind == Kind::Deployment {
            let background =
                DeleteOptions { propagation: Some(Propagation::Background), ..Default::default() };
            self.chaos.client.delete::<Deployment>("default", &name, &background).await.unwrap();
            self.make(name, kind, replicas).await;
        }
    }

    async fn start_job(&mut self) {
        self.jobs += 1;
        let completions = 1 + self.rng.below((self.sizes.pods as u64 / 20).clamp(4, 100));
        let (_, job) = job(self.jobs, completions, 10 + self.rng.below(200));
        self.chaos.client.create::<Job>("default", &job).await.unwrap();
    }

    async fn delete_pods(&mut self) {
        let pods = self.all::<Pod>();
        for _ in 0..1 + self.rng.below(1 + pods.len() as u64 / 30) {
            let Some(pod) = pods.get(self.rng.below(pods.len() as u64) as usize) else { return };
            // Another may have come in its place, or nothing.
            let only = DeleteOptions::uid(&pod.metadata.uid);
            drop(self.chaos.client.delete::<Pod>("default", &pod.metadata.name, &only).await);
        }
    }

    fn crash_containers(&mut self) {
        for _ in 0..1 + self.rng.below(1 + self.sizes.nodes as u64 / 10) {
            let number = 1 + self.rng.below(self.sizes.nodes as u64) as usize;
            let Some(runtime) = self.chaos.runtime(number) else { continue };
            let pods = runtime.at_work();
            if let Some((_, containers)) = pods.get(self.rng.below(pods.len() as u64) as usize) {
                runtime.exit(&containers[0], 1);
            }
        }
    }

    /// Its power is lost or it is cut off; who has no power may be taken out of the cluster.
    async fn lose_node(&mut self) {
        let number = 1 + self.rng.below(self.sizes.nodes as u64) as usize;
        if self.chaos.is_silent(number) {
            return;
        }
        let power = self.rng.below(2) == 0;
        let seconds = [20, 200, 2000][self.rng.below(3) as usize];
        self.chaos.silence(number, power, Duration::from_secs(1 + self.rng.below(seconds)));
        if !power && self.rng.below(2) == 0 {
            let any = DeleteOptions::default();
            drop(self.chaos.client.delete::<Node>("", &node(number), &any).await);
        }
    }

    /// Nothing new comes to a node and what it has is evicted, as far as budgets allow; or the end
    /// of that.
    async fn drain_or_open(&mut self) {
        if let Some(number) = self.cordoned.pop_first() {
            let open = Patch::Merge(json!({"spec": {"unschedulable": null}}));
            drop(self.chaos.client.patch::<Node>("", &node(number), "", &open).await);
            return;
        }
        let number = 1 + self.rng.below(self.sizes.nodes as u64) as usize;
        let close = Patch::Merge(json!({"spec": {"unschedulable": true}}));
        if self.chaos.client.patch::<Node>("", &node(number), "", &close).await.is_err() {
            return;
        }
        self.cordoned.insert(number);
        for pod in self.all::<Pod>() {
            if pod.spec.node_name == node(number) {
                let (namespace, name) = ("default", &pod.metadata.name);
                let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction");
                let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction",
                    "metadata": {"name": name, "namespace": namespace}});
                // What a budget keeps stays.
                drop(self.chaos.client.post(&path, &eviction).await);
            }
        }
    }

    /// Of a StatefulSet's pod no two run at one time, wherever.
    fn check_identities(&self) {
        let mut running: BTreeMap<String, String> = BTreeMap::new();
        for number in 1..=self.sizes.nodes {
            let pods = self.chaos.runtime(number).map(|runtime| runtime.at_work());
            for (pod, _) in pods.unwrap_or_default() {
                if pod.name.starts_with("db-") {
                    let other = running.insert(pod.name.clone(), pod.uid.clone());
                    assert_eq!(other, None, "{}: {} runs as {}", self.label, pod.name, pod.uid);
                }
            }
        }
    }

    /// All that was bad ends; in the end everything is as it was asked for, and then nothing more is
    /// written but that nodes are well.
    async fn end(&mut self) {
        self.chaos.faults.set(false);
        self.chaos.heal(true).await;
        while !self.cordoned.is_empty() {
            self.drain_or_open().await;
        }
        for cron in self.all::<CronJob>() {
            let rests = Patch::Merge(json!({"spec": {"suspend": true}}));
            let name = &cron.metadata.name;
            self.chaos.client.patch::<CronJob>("default", name, "", &rests).await.unwrap();
        }
        self.until("all that was asked for", |play| play.unfinished()).await;
        self.until("the end of the Jobs", |play| {
            let pods = play.all::<Pod>();
            let mut left: Vec<String> = play.all::<Job>().iter().map(|job| whole(job)).collect();
            left.extend(pods.iter().filter(|pod| pod.is_terminating()).map(|pod| whole(pod)));
            left
        })
        .await;
        self.check_orphans();
    }

    /// Waits for two hours at most until nothing is left to wait for.
    async fn until(&self, what: &str, left: impl Fn(&Play) -> Vec<String>) {
        for _ in 0..720 {
            if left(self).is_empty() {
                return;
            }
            self.check_identities();
            self.chaos.clock.sleep(Duration::from_secs(10)).await;
        }
        let left = left(self);
        let some = &left[..left.len().min(10)];
        panic!("{}: {what} did not come to be: {} left: {some:#?}", self.label, left.len());
    }

    /// What is not yet as it was asked for.
    fn unfinished(&self) -> Vec<String> {
        let mut left = Vec::new();
        let mut pods: BTreeMap<String, Vec<Arc<Entry<Pod>>>> = BTreeMap::new();
        for pod in self.all::<Pod>() {
            let app = pod.metadata.labels.get("app").cloned().unwrap_or_default();
            pods.entry(app).or_default().push(pod);
        }
        for (app, wanted) in &self.wanted {
            let image = format!("i:{}", wanted.image);
            let well = |pod: &Pod| pod.is_ready() && pod.spec.containers[0].image == image;
            let pods = pods.remove(app).unwrap_or_default();
            let right = pods.iter().filter(|pod| well(pod)).count();
            let replicas =
                if wanted.kind == Kind::Daemon { self.sizes.nodes } else { wanted.replicas };
            if (right, pods.len()) != (replicas, replicas) {
                left.push(format!(
                    "{app}: {right} of {} pods are right, wanted {wanted:?}",
                    pods.len()
                ));
                for pod in pods.iter().filter(|pod| !well(pod)).take(2) {
                    left.push(String::from_utf8_lossy(&pod.bytes).into());
                }
            } else if let Some(told) = self.told_wrong(app, wanted) {
                left.push(told);
            }
        }
        for node in self.all::<Node>() {
            if !node.is_ready() || !node.spec.taints.is_empty() {
                left.push(format!("{}: {:?}", node.metadata.name, node.spec.taints));
            }
        }
        if self.all::<Node>().len() != self.sizes.nodes {
            left.push("nodes".into());
        }
        left
    }

    /// What the status of a workload says that is not so.
    fn told_wrong(&self, name: &str, wanted: &Wanted) -> Option<String> {
        let informers = &self.chaos.informers;
        let (seen, counts) = match wanted.kind {
            Kind::Deployment => {
                let it = informers.of::<Deployment>().get("default", name)?;
                let status = &it.status;
                let seen = it.metadata.generation == status.observed_generation;
                let slices = self.all::<EndpointSlice>().into_iter();
                let slices = slices.filter(|slice| slice.service() == name);
                let endpoints: usize = slices.map(|slice| slice.endpoints.len()).sum();
                if endpoints != wanted.replicas {
                    return Some(format!("{name}: {endpoints} endpoints"));
                }
                (seen, [status.replicas, status.updated_replicas, status.available_replicas])
            }
            Kind::Set => {
                let it = informers.of::<StatefulSet>().get("default", name)?;
                let status = &it.status;
                let seen = it.metadata.generation == status.observed_generation
                    && status.current_revision == status.update_revision;
                (seen, [status.replicas, status.current_replicas, status.available_replicas])
            }
            Kind::Daemon => {
                let it = informers.of::<DaemonSet>().get("default", name)?;
                let status = &it.status;
                let seen = it.metadata.generation == status.observed_generation;
                let counts = [status.desired_number_scheduled, status.updated_number_scheduled];
                (seen, [counts[0], counts[1], status.number_available])
            }
        };
        let right = seen && counts == [wanted.replicas as i32; 3];
        (!right).then(|| format!("{name}: {wanted:?}, and its status says {counts:?} ({seen})"))
    }

    /// Whoever has an owner has one that is there.
    fn check_orphans(&self) {
        let mut there: BTreeSet<String> = BTreeSet::new();
        let mut owners: Vec<(String, String)> = Vec::new();
        fn note<T: Object>(
            play: &Play,
            there: &mut BTreeSet<String>,
            owners: &mut Vec<(String, String)>,
        ) {
            for entry in play.all::<T>() {
                let meta = entry.meta();
                there.insert(meta.uid.clone());
                let all = meta.owner_references.iter();
                owners.extend(all.map(|owner| (name(&entry), owner.uid.clone())));
            }
        }
        note::<Deployment>(self, &mut there, &mut owners);
        note::<ReplicaSet>(self, &mut there, &mut owners);
        note::<StatefulSet>(self, &mut there, &mut owners);
        note::<DaemonSet>(self, &mut there, &mut owners);
        note::<ControllerRevision>(self, &mut there, &mut owners);
        note::<Service>(self, &mut there, &mut owners);
        note::<EndpointSlice>(self, &mut there, &mut owners);
        note::<Pod>(self, &mut there, &mut owners);
        owners.retain(|(_, owner)| !there.contains(owner));
        assert!(owners.is_empty(), "{}: orphans {owners:#?}", self.label);
    }

    /// Every Job is complete; each of its completions was one pod's.
    fn check_jobs(&self) {
        let all = self.chaos.history.jobs();
        assert!(all.len() as u64 > self.jobs, "{}: CronJobs started some", self.label);
        for counted in all {
            let job = counted.job.as_ref().expect("its pods had a Job");
            let completions = job.spec.completions.unwrap_or(1) as usize;
            let label = format!("{}: {}: {:?} {counted:?}", self.label, counted.name, job.status);
            assert!(job.is_complete(), "{label}");
            assert_eq!(job.status.succeeded as usize, completions, "{label}");
            let pods: usize = counted.succeeded.values().map(BTreeSet::len).sum();
            assert_eq!(pods, completions, "{label}");
            assert_eq!(job.status.failed as usize, counted.failed.len(), "{label}");
            if job.is_indexed() {
                let last = completions - 1;
                let indexes = if last == 0 { "0".into() } else { format!("0-{last}") };
                // Two follow one another without a line between them.
                let indexes = if last == 1 { "0,1".into() } else { indexes };
                assert_eq!(job.status.completed_indexes, indexes, "{label}");
                assert_eq!(counted.succeeded.len(), completions, "{label}");
            }
        }
    }
}

fn name<T: Object>(entry: &Entry<T>) -> String {
    format!("{} {}", T::row().kind, entry.meta().name)
}

/// All that the API says of it.
fn whole<T: Object>(entry: &Entry<T>) -> String {
    String::from_utf8_lossy(&entry.bytes).into_owned()
}
