//! The whole cluster in one process: API server in memory, scheduler, controllers and simulated
//! nodes, each speaking to the API as it always does, on a clock that the test holds. Under a
//! runtime with paused time, minutes pass in no time.

use std::collections::BTreeMap;
use std::time::Duration;

use agent::simulated::Simulated;
use client::{CancellationToken, Client, Clock, Informer, Informers, Rng};
use proto::time::Time;
use proto::user::User;
use proto::view::node::Node;
use proto::view::pod::Pod;

pub struct World {
    pub clock: Clock,
    /// The administrator's.
    pub client: Client,
    pub informers: Informers,
    pub nodes: Simulated,
    pub server: apiserver::Server,
    shutdown: CancellationToken,
    _folder: tempfile::TempDir,
}

/// Any fixed moment.
pub(crate) const START: i64 = 1_780_000_000;

impl World {
    /// A cluster with this many ready nodes.
    pub async fn new(seed: u64, nodes: usize) -> World {
        let (clock, rng) = (Clock::simulated(Time::from_unix(START)), Rng::seeded(seed));
        World::with(clock, rng, nodes).await
    }

    /// The same on any clock, the machine's own too.
    pub async fn with(clock: Clock, rng: Rng, nodes: usize) -> World {
        World::with_controllers(clock, rng, nodes, controller::Options::default()).await
    }

    /// The same with controllers that do more than usual; they never elect a leader.
    pub async fn with_controllers(
        clock: Clock,
        rng: Rng,
        nodes: usize,
        options: controller::Options,
    ) -> World {
        World::with_parts(clock, rng, nodes, options, scheduler::Options::default()).await
    }

    /// The same with a scheduler that does more, too.
    pub async fn with_parts(
        clock: Clock,
        rng: Rng,
        nodes: usize,
        controllers: controller::Options,
        scheduler: scheduler::Options,
    ) -> World {
        let controllers = controller::Options { leader_elect: false, ..controllers };
        let schedules = scheduler::Options { leader_elect: false, ..scheduler };
        let folder = tempfile::tempdir().expect("a temporary directory");
        let options = Arguments::parse(&["--ephemeral", "--secure-port=0"], folder.path());
        let server = apiserver::Server::start(options, clock.clone(), rng.clone())
            .await
            .expect("the API server starts");
        let shutdown = CancellationToken::new();
        let component = |name: &str| server.client(User::new(name, &["system:authenticated"]));
        let manager = component("system:kube-controller-manager");
        let informers = Informers::new(manager.clone(), clock.clone(), rng.clone());
        let (i, c, r, s) = (informers.clone(), clock.clone(), rng.clone(), shutdown.clone());
        tokio::spawn(async move { controller::run(controllers, manager, i, c, r, s).await });
        let scheduler = component("system:kube-scheduler");
        let (i, c, r, s) = (informers.clone(), clock.clone(), rng.clone(), shutdown.clone());
        tokio::spawn(async move { scheduler::run(schedules, scheduler, i, c, r, s).await });

        let client = server.client(User::new("admin", &["system:masters"]));
        let simulated = Simulated::start(nodes, &client, &informers, &clock, &rng);
        let world =
            World { clock, client, informers, nodes: simulated, server, shutdown, _folder: folder };
        world
            .until(|pods: &Informer<Node>| {
                pods.snapshot().values().filter(|node| node.is_ready()).count() == nodes
            })
            .await;
        world
    }

    /// Waits until the objects of a kind are as wanted; panics after ten minutes of its clock.
    pub async fn until<T: client::Object>(&self, met: impl Fn(&Informer<T>) -> bool) {
        let informer = self.informers.of::<T>();
        let mut changes = informer.changes();
        let wait = async {
            while !met(&informer) {
                changes.next().await;
                while changes.try_next().is_some() {}
            }
        };
        let kind = &T::row().kind;
        let waited = self.clock.timeout(Duration::from_secs(600), wait).await;
        assert!(waited.is_ok(), "{kind} objects did not become what they should in ten minutes");
    }

    /// How many running pods each node has, not counting those that are being deleted.
    pub fn running(&self) -> BTreeMap<String, usize> {
        let mut running = BTreeMap::new();
        for pod in self.informers.of::<Pod>().snapshot().values() {
            if pod.status.phase == "Running" && !pod.is_terminating() {
                *running.entry(pod.spec.node_name.clone()).or_default() += 1;
            }
        }
        running
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// The API server's flags as its command line has them.
#[derive(clap::Parser)]
pub(crate) struct Arguments {
    #[command(flatten)]
    options: apiserver::Options,
}

impl Arguments {
    pub(crate) fn parse(flags: &[&str], data_dir: &std::path::Path) -> apiserver::Options {
        let data_dir = format!("--data-dir={}", data_dir.display());
        let all = ["apiserver", &data_dir].into_iter().chain(flags.iter().copied());
        <Arguments as clap::Parser>::parse_from(all).options
    }
}
