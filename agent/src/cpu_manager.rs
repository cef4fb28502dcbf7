//! Which CPUs containers run on. Under the policy `static` a container of a Guaranteed pod that asks for
//! whole CPUs has them for itself; all others share the rest, which shrinks and grows under them.
//! <https://kubernetes.io/docs/tasks/administer-cluster/cpu-management-policies/>

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use client::error::chain;
use parking_lot::Mutex;
use proto::quantity::Quantity;
use serde::Serialize;
use tokio::sync::watch;

use crate::pod::{Container, Pod, Qos};

mod checkpoint;
mod cpu_set;
pub mod options;
mod take;
mod topology;

pub use cpu_set::CpuSet;
pub use topology::{Place, SYS, Topology};

use options::Options;
use take::take;

/// `--cpu-manager-policy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Everybody runs where the kernel wants.
    #[default]
    None,
    /// Whole CPUs for whom they are guaranteed.
    Static,
}

/// The agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "the static policy requires systemreserved.cpu + kubereserved.cpu to be greater than zero"
    )]
    NothingReserved,
    #[error("the CPUs reserved, {reserved}, are not all among those of this machine, {all}")]
    Unknown { reserved: CpuSet, all: CpuSet },
    #[error("{0} CPUs are to be reserved, more than this machine has")]
    TooManyReserved(usize),
    #[error("None policy: received unsupported options={0}")]
    Options(String),
    #[error("{0}")]
    Contradiction(String),
    #[error("read how the machine's CPUs hang together")]
    Topology(#[source] std::io::Error),
    #[error(
        "could not restore state from checkpoint: {why}, please drain this node and delete the CPU \
         manager checkpoint file {file:?} before restarting Kubelet"
    )]
    Checkpoint { why: checkpoint::Error, file: PathBuf },
    #[error("{why}, please drain this node and delete the CPU manager checkpoint file {file:?}")]
    State { why: StateError, file: PathBuf },
    #[error("write {file:?}")]
    Write { file: PathBuf, source: std::io::Error },
}

/// What is remembered is not of this machine as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("not all reserved cpus: \"{reserved}\" are present in defaultCpuSet: \"{shared}\"")]
    Reserved { reserved: CpuSet, shared: CpuSet },
    #[error(
        "some of strictly reserved cpus: \"{reserved}\" are present in defaultCpuSet: \"{shared}\""
    )]
    Strict { reserved: CpuSet, shared: CpuSet },
    #[error("pod: {pod}, container: {container} cpuset: \"{cpus}\" overlaps with others")]
    Overlap { pod: String, container: String, cpus: CpuSet },
    #[error("current set of available CPUs \"{all}\" doesn't match with CPUs in state \"{found}\"")]
    Others { all: CpuSet, found: CpuSet },
}

/// Why a pod does not get its CPUs; in the kubelet's words.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "not enough cpus available to satisfy request: requested={requested}, available={available}"
    )]
    TooFew { requested: usize, available: usize },
    #[error(
        "SMT Alignment Error: requested {requested} cpus not multiple cpus per core = {threads}"
    )]
    Cores { requested: usize, threads: usize },
    #[error(
        "SMT Alignment Error: not enough free physical CPUs: available physical CPUs = {available}, \
         requested CPUs = {requested}, CPUs per core = {threads}"
    )]
    TooFewCores { requested: usize, available: usize, threads: usize },
    #[error("could not save state to checkpoint: {0}")]
    Write(#[from] std::io::Error),
}

impl Error {
    /// Why the pod is not taken, where that may be expected.
    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Error::Cores { .. } | Error::TooFewCores { .. } => Some("SMTAlignmentError"),
            Error::TooFew { .. } | Error::Write(_) => None,
        }
    }
}

/// Hands out the CPUs of one node. Clones share it; the default is the policy `none`, without a file.
#[derive(Clone, Default)]
pub struct CpuManager(Arc<Shared>);

#[derive(Default)]
struct Shared {
    machine: Option<Machine>,
    file: Option<PathBuf>,
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

/// Of the policy `static`.
struct Machine {
    topology: Topology,
    /// Nobody has them for himself.
    reserved: CpuSet,
    options: Options,
}

#[derive(Clone, Debug, Default, PartialEq)]
struct State {
    shared: CpuSet,
    /// By pod uid and container.
    exclusive: BTreeMap<(String, String), CpuSet>,
}

/// On what a container runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpus {
    pub set: CpuSet,
    /// They are the container's alone, and bound what it uses: it needs no quota.
    pub exclusive: bool,
}

impl CpuManager {
    /// The policy `none`, with its file in `root`, `--root-dir`.
    pub fn none(root: &Path) -> Result<CpuManager, StartError> {
        let file = root.join(checkpoint::FILE);
        restore(&file, Policy::None)?;
        write(&file, Policy::None, &State::default())?;
        Ok(CpuManager(Arc::new(Shared { file: Some(file), ..Shared::default() })))
    }

    /// The policy `static`. `reserved` are CPUs or, where none are named, how many there have to be.
    pub fn fixed(
        root: &Path,
        topology: Topology,
        reserved: Result<CpuSet, Quantity>,
        options: Options,
    ) -> Result<CpuManager, StartError> {
        let all = topology.all();
        let reserved = match reserved {
            Ok(reserved) => reserved,
            Err(amount) => {
                let count = usize::try_from((amount.milli() + 999) / 1000).unwrap_or_default();
                take(&topology, &all, count, &options).ok_or(StartError::TooManyReserved(count))?
            }
        };
        if reserved.is_empty() {
            return Err(StartError::NothingReserved);
        }
        if !reserved.is_subset(&all) {
            return Err(StartError::Unknown { reserved, all });
        }
        let file = root.join(checkpoint::FILE);
        let mut state = restore(&file, Policy::Static)?.unwrap_or_default();
        let machine = Machine { topology, reserved, options };
        if state == State::default() {
            state.shared = machine.shareable();
        }
        state.check(&machine).map_err(|why| StartError::State { why, file: file.clone() })?;
        write(&file, Policy::Static, &state)?;
        let machine = Some(machine);
        let (file, state) = (Some(file), Mutex::new(state));
        Ok(CpuManager(Arc::new(Shared { machine, file, state, ..Shared::default() })))
    }

    /// Does the policy give CPUs to containers for themselves?
    pub fn is_static(&self) -> bool {
        self.0.machine.is_some()
    }

    /// Marked whenever the CPUs that are shared are others.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// Gives a pod that is to be taken the CPUs that its containers are to have for themselves, or
    /// none. What it has already it keeps.
    pub fn allocate(&self, pod: &Pod) -> Result<(), Error> {
        let Some(machine) = &self.0.machine else { return Ok(()) };
        let mut state = self.0.state.lock();
        let mut next = state.clone();
        next.allocate(machine, pod)?;
        self.replace(&mut state, next)
    }

    /// The pod needs its CPUs no longer.
    pub fn release(&self, pod: &str) {
        self.retain(|uid| uid != pod);
    }

    /// Only these pods are there.
    pub fn retain(&self, is_there: impl Fn(&str) -> bool) {
        let mut state = self.0.state.lock();
        let mut next = state.clone();
        next.exclusive.retain(|(pod, _), cpus| {
            let stays = is_there(pod);
            if !stays {
                next.shared = next.shared.union(cpus);
            }
            stays
        });
        if let Err(error) = self.replace(&mut state, next) {
            // They stay whose they were; it is tried again when the next pod goes.
            tracing::warn!(error = chain(&error), "cannot write that CPUs are free");
        }
    }

    /// On what each container of the pod runs; nothing where the kernel decides.
    pub fn of(&self, pod: &Pod) -> BTreeMap<String, Cpus> {
        if !self.is_static() {
            return BTreeMap::new();
        }
        let state = self.0.state.lock();
        let cpus = |container: &Container| {
            let key = (pod.metadata.uid.clone(), container.name.clone());
            let own = state.exclusive.get(&key);
            let set = own.unwrap_or(&state.shared).clone();
            (container.name.clone(), Cpus { set, exclusive: own.is_some() })
        };
        pod.containers().map(cpus).collect()
    }

    /// The CPUs that a container has for itself.
    pub fn exclusive(&self, pod: &str, container: &str) -> CpuSet {
        let key = (pod.to_string(), container.to_string());
        self.0.state.lock().exclusive.get(&key).cloned().unwrap_or_default()
    }

    /// Those that containers may have for themselves.
    pub fn allocatable(&self) -> CpuSet {
        let machine = self.0.machine.as_ref();
        machine.map(|it| it.topology.all().without(&it.reserved)).unwrap_or_default()
    }

    fn replace(&self, state: &mut State, next: State) -> Result<(), Error> {
        if *state == next {
            return Ok(());
        }
        if let Some(file) = &self.0.file {
            checkpoint::write(file, Policy::Static.name(), &next)?;
        }
        *state = next;
        self.0.changed.send_replace(());
        Ok(())
    }
}

impl Machine {
    /// What there is for pods, shared or not.
    fn shareable(&self) -> CpuSet {
        let all = self.topology.all();
        if self.options.strict { all.without(&self.reserved) } else { all }
    }
}

impl Policy {
    fn name(self) -> &'static str {
        match self {
            Policy::None => "none",
            Policy::Static => "static",
        }
    }
}

impl State {
    /// Init containers first: what they have, but for sidecars, is for the others afterwards.
    fn allocate(&mut self, machine: &Machine, pod: &Pod) -> Result<(), Error> {
        let mut reusable = CpuSet::default();
        let spec = &pod.spec;
        let init = spec.init_containers.iter().map(|it| (it, !it.is_sidecar()));
        for (container, passes) in init.chain(spec.containers.iter().map(|it| (it, false))) {
            let count = whole_cpus(pod, container);
            if count == 0 {
                continue;
            }
            let key = (pod.metadata.uid.clone(), container.name.clone());
            let cpus = match self.exclusive.get(&key) {
                Some(cpus) => cpus.clone(),
                None => self.find(machine, count, &reusable)?,
            };
            reusable = if passes { reusable.union(&cpus) } else { reusable.without(&cpus) };
            self.shared = self.shared.without(&cpus);
            self.exclusive.insert(key, cpus);
        }
        Ok(())
    }

    fn find(&self, machine: &Machine, count: usize, reusable: &CpuSet) -> Result<CpuSet, Error> {
        let Machine { topology, reserved, options } = machine;
        let mut free = self.shared.without(reserved);
        if options.whole_cores {
            let threads = topology.threads();
            if !count.is_multiple_of(threads) {
                return Err(Error::Cores { requested: count, threads });
            }
            free = topology.whole_cores(&free);
            let available = free.len() + reusable.len();
            if count > available {
                return Err(Error::TooFewCores { requested: count, available, threads });
            }
        }
        let from_init = count.min(reusable.len());
        let taken = take(topology, reusable, from_init, options).unwrap_or_default();
        let rest = take(topology, &free, count - from_init, options);
        let available = free.len() + reusable.len();
        rest.map(|rest| rest.union(&taken)).ok_or(Error::TooFew { requested: count, available })
    }

    fn check(&self, machine: &Machine) -> Result<(), StateError> {
        let (shared, reserved) = (self.shared.clone(), machine.reserved.clone());
        if machine.options.strict {
            if !reserved.common(&shared).is_empty() {
                return Err(StateError::Strict { reserved, shared });
            }
        } else if !reserved.is_subset(&shared) {
            return Err(StateError::Reserved { reserved, shared });
        }
        // Containers of one pod may have the same: an init container's are used again.
        let mut owners: BTreeMap<u32, &str> = BTreeMap::new();
        for ((pod, container), cpus) in &self.exclusive {
            let others = |cpu: &u32| owners.get(cpu).is_some_and(|owner| owner != pod);
            if cpus.0.iter().any(|cpu| shared.contains(*cpu) || others(cpu)) {
                let (pod, container) = (pod.clone(), container.clone());
                return Err(StateError::Overlap { pod, container, cpus: cpus.clone() });
            }
            owners.extend(cpus.0.iter().map(|cpu| (*cpu, pod.as_str())));
        }
        let owned: BTreeSet<u32> = owners.into_keys().collect();
        let found = shared.union(&CpuSet(owned));
        let all = machine.shareable();
        if found == all { Ok(()) } else { Err(StateError::Others { all, found }) }
    }
}

/// How many CPUs the container is to have for itself.
fn whole_cpus(pod: &Pod, container: &Container) -> usize {
    let resources = &container.resources;
    let asked = resources.requests.get("cpu").or_else(|| resources.limits.get("cpu"));
    let asked = asked.filter(|cpu| cpu.milli() % 1000 == 0);
    // Of a pod that asks for CPUs as a whole no container has any for itself.
    let may = pod.qos() == Qos::Guaranteed && pod.level_resources().is_none();
    let count = asked.filter(|_| may).map_or(0, |cpu| cpu.value());
    usize::try_from(count).unwrap_or_default()
}

fn restore(file: &Path, policy: Policy) -> Result<Option<State>, StartError> {
    checkpoint::read(file, policy.name())
        .map_err(|why| StartError::Checkpoint { why, file: file.into() })
}

fn write(file: &Path, policy: Policy, state: &State) -> Result<(), StartError> {
    checkpoint::write(file, policy.name(), state)
        .map_err(|source| StartError::Write { file: file.into(), source })
}

#[cfg(test)]
mod tests;
