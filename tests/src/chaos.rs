//! A whole cluster in one process with everything doubled that may be doubled, and bad ways between
//! its parts: two schedulers and two sets of controllers that fight for their Leases, each with eyes
//! of its own, and simulated nodes that fall silent, lose their power or are cut off. Under virtual
//! time.

pub mod faults;
pub mod history;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use agent::cri::simulated::SimulatedRuntime;
use agent::simulated::Simulated;
use apiserver::store::Store;
use apiserver::store::memory::MemoryStore;
use client::{CancellationToken, Client, Clock, Informers, Rng};
use proto::time::Time;
use proto::user::User;
use tokio_util::task::AbortOnDropHandle;

use crate::world::{Arguments, START};
use faults::Faults;
use history::History;

pub struct Chaos {
    pub clock: Clock,
    pub rng: Rng,
    /// The administrator's, whose way is good.
    pub client: Client,
    pub informers: Informers,
    pub nodes: Simulated,
    pub faults: Faults,
    pub history: Arc<History>,
    server: Arc<apiserver::Server>,
    /// By what they are, two of each.
    processes: Vec<Process>,
    /// The nodes that are silent, by their numbers.
    silent: BTreeMap<usize, Silent>,
    _watch: apiserver::store::Watch,
    _folder: tempfile::TempDir,
}

/// What there are two of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Component {
    Scheduler,
    Controllers,
}

/// One process of a component, as long as it lives.
struct Process {
    component: Component,
    ending: CancellationToken,
    task: AbortOnDropHandle<()>,
}

/// Why a node is silent.
struct Silent {
    /// What runs on there though nobody hears of it; nothing where the power is lost.
    runtime: Option<SimulatedRuntime>,
    back: Time,
}

impl Chaos {
    /// A cluster of this many nodes, all well. Each event of its store is a line of the file.
    pub async fn start(seed: u64, nodes: usize, events: Option<&Path>) -> Chaos {
        let (clock, rng) = (Clock::simulated(Time::from_unix(START)), Rng::seeded(seed));
        let folder = tempfile::tempdir().expect("a temporary directory");
        let options = Arguments::parse(&["--ephemeral", "--secure-port=0"], folder.path());
        let store = Arc::new(MemoryStore::new());
        let server =
            apiserver::Server::start_over(store.clone(), options, clock.clone(), rng.clone()).await;
        let server = Arc::new(server.expect("the API server starts"));
        // What comes before holds keys that are never the same.
        let history = Arc::new(History::written_to(events));
        let revision = store.revision().await.expect("the store is in memory");
        let watch = store.watch("/registry/", revision, history.clone()).await;
        let faults = Faults::new(clock.clone(), Rng::seeded(seed ^ 0x5eed));
        let client = server.client(User::new("admin", &["system:masters"]));
        let informers = Informers::new(client.clone(), clock.clone(), rng.clone());
        let kubelets = faults.client(&server, User::new("admin", &["system:masters"]));
        let eyes = Informers::new(kubelets.clone(), clock.clone(), rng.clone());
        let mut chaos = Chaos {
            nodes: Simulated::start(nodes, &kubelets, &eyes, &clock, &rng),
            clock,
            rng,
            client,
            informers,
            faults,
            history,
            server,
            processes: Vec::new(),
            silent: BTreeMap::new(),
            _watch: watch.expect("nothing of it is forgotten yet"),
            _folder: folder,
        };
        for component in [Component::Scheduler, Component::Controllers] {
            for _ in 0..2 {
                let process = chaos.process(component);
                chaos.processes.push(process);
            }
        }
        chaos
    }

    /// A process of the component; as any process it is started again when it ends.
    fn process(&self, component: Component) -> Process {
        let ending = CancellationToken::new();
        let name = match component {
            Component::Scheduler => "system:kube-scheduler",
            Component::Controllers => "system:kube-controller-manager",
        };
        let client = self.faults.client(&self.server, User::new(name, &["system:authenticated"]));
        let (clock, rng, until) = (self.clock.clone(), self.rng.clone(), ending.clone());
        let task = tokio::spawn(async move {
            while !until.is_cancelled() {
                let informers = Informers::new(client.clone(), clock.clone(), rng.clone());
                let (c, k, r, u) = (client.clone(), clock.clone(), rng.clone(), until.clone());
                // Why it ended is in the Lease.
                match component {
                    Component::Scheduler => {
                        let options = scheduler::Options::default();
                        drop(scheduler::run(options, c, informers, k, r, u).await);
                    }
                    Component::Controllers => {
                        let options = controller::Options::default();
                        drop(controller::run(options, c, informers, k, r, u).await);
                    }
                }
                clock.sleep(Duration::from_secs(1)).await;
            }
        });
        Process { component, ending, task: AbortOnDropHandle::new(task) }
    }

    /// Ends one of the processes, in order or where it stands, and starts another.
    pub async fn replace(&mut self, index: usize, in_order: bool) {
        let new = self.process(self.processes[index].component);
        let old = std::mem::replace(&mut self.processes[index], new);
        if in_order {
            old.ending.cancel();
            let _ = old.task.await;
        }
    }

    pub fn processes(&self) -> usize {
        self.processes.len()
    }

    pub fn is_silent(&self, number: usize) -> bool {
        self.silent.contains_key(&number)
    }

    /// The node is not heard of for this long; without `power` nothing runs on there either.
    pub fn silence(&mut self, number: usize, power: bool, time: Duration) {
        let name = node(number);
        let runtime = self.nodes.runtime(&name).filter(|_| power);
        self.nodes.stop(&name);
        self.silent.insert(number, Silent { runtime, back: self.clock.now().plus(time) });
    }

    /// Nodes whose time is over are there again.
    pub async fn heal(&mut self, all: bool) {
        let now = self.clock.now();
        let over = |silent: &Silent| all || silent.back <= now;
        let numbers: Vec<usize> =
            self.silent.iter().filter(|(_, silent)| over(silent)).map(|(it, _)| *it).collect();
        for number in numbers {
            let silent = self.silent.remove(&number);
            let runtime = silent.and_then(|silent| silent.runtime);
            let runtime = runtime.unwrap_or_else(|| SimulatedRuntime::new(self.clock.clone()));
            self.nodes.resume(number, runtime).await;
        }
    }

    /// What runs on a node, also on one that is cut off.
    pub fn runtime(&self, number: usize) -> Option<SimulatedRuntime> {
        match self.silent.get(&number) {
            Some(silent) => silent.runtime.clone(),
            None => self.nodes.runtime(&node(number)),
        }
    }
}

/// The name of a simulated node.
pub fn node(number: usize) -> String {
    format!("simulated-{number}")
}
