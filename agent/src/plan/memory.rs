//! What a worker remembers of a pod beyond what API and runtime know.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::time::Time;

use super::End;
use crate::backoff::Backoff;
use crate::config;
use crate::cpu_manager::Cpus;
use crate::devices::DeviceHealth;
use crate::observed::{Applied, Container as Run};
use crate::pod::{Container, Pod};
use crate::resize::{self, Due, Pending};

/// What a worker remembers of a pod beyond what API and runtime know. It may be lost: then
/// back-offs begin anew and probes are run again.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub crashes: BTreeMap<String, Backoff>,
    /// When this agent first saw the pod; the API may know better.
    pub start_time: Option<Time>,
    /// How the pod has ended, or why the node ends it. It stays so.
    pub end: Option<End>,
    /// The node has not taken the pod: nothing of it may be made.
    pub rejected: bool,
    /// By container: the highest attempt of those that were removed.
    pub attempts: BTreeMap<String, u32>,
    /// Containers that were removed in order to begin anew.
    pub reset: BTreeSet<String>,
    /// By container: why its last start failed.
    pub failures: BTreeMap<String, Failure>,
    /// Of the volumes or the sandbox.
    pub setup: Option<Failure>,
    pub mounted: bool,
    pub unmounted: bool,
    /// When to ask whether volumes have grown; never where none can.
    pub growth: Option<Time>,
    /// Why the volumes could not be taken down.
    pub teardown: Option<Failure>,
    /// By container id: what the probes say.
    pub health: BTreeMap<String, Health>,
    /// Containers whose current back-off has been reported.
    pub reported: BTreeSet<String>,
    /// The grace period that was asked for last, and since when it runs.
    pub terminating: Option<(i64, Time)>,
    /// The pod asks for other resources than it was last told to have.
    pub resizing: bool,
    /// Why it does not get them.
    pub pending: Option<Pending>,
    /// Why the runtime does not set them.
    pub resize_failure: Option<Failure>,
    /// By container: what the runtime was told to set, lest it is told for ever.
    pub resized: BTreeMap<String, Applied>,
    /// The same of the pod as a whole.
    pub pod_resized: Option<Applied>,
    /// By container: on what it is to run, where that is not the kernel's to say.
    pub cpus: BTreeMap<String, Cpus>,
    /// By container id: the CPUs that the runtime was told last, lest it is told for ever.
    pub pinned: BTreeMap<String, String>,
    /// By container and resource: its devices, and how they are.
    pub devices: BTreeMap<String, BTreeMap<String, Vec<DeviceHealth>>>,
    /// The final report has been handed over.
    pub finished: bool,
    /// Runs that have to go because the node has too many.
    pub excess: BTreeSet<String>,
    /// How many ended containers stay, and how long: the node's setting.
    pub retention: Retention,
}

/// What stays of containers that have ended and been replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// `--maximum-dead-containers-per-container`.
    pub runs: usize,
    /// `--minimum-container-ttl-duration`.
    pub least: Duration,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention { runs: 1, least: Duration::ZERO }
    }
}

/// A step that failed, and when to try it again.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    pub reason: String,
    pub message: String,
    /// From when on the container is said to wait with `backoff_reason`.
    pub shown_until: Option<Time>,
    pub backoff: Backoff,
    pub retry_at: Time,
}

/// What the probes of a running container have found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Health {
    pub started: bool,
    pub ready: bool,
    /// The liveness or startup probe has failed for good: `liveness` or `startup`.
    pub failed: Option<&'static str>,
}

impl Memory {
    /// Has the container passed its startup probe?
    pub fn started(&self, container: &Container, run: &Run) -> bool {
        run.is_running()
            && (container.startup_probe.is_none()
                || self.health.get(&run.id).is_some_and(|health| health.started))
    }

    /// What is to be done to give a running container what it asks for.
    pub fn resize_due(&self, pod: &Pod, container: &Container, run: &Run) -> Option<Due> {
        let wanted = config::applied(pod, container);
        let told = self.resized.get(&container.name) == Some(&wanted);
        let asked = self.resizing && run.is_running() && !told;
        if !asked || !self.has_own_cpus(&container.name) {
            return asked.then(|| resize::due(pod, container, run)).flatten();
        }
        // It has no quota, whatever it asks for.
        let applied = run.applied.map(|applied| Applied { quota: wanted.quota, ..applied });
        resize::due(pod, container, &Run { applied, ..run.clone() })
    }

    /// Does the container have CPUs for itself?
    pub fn has_own_cpus(&self, container: &str) -> bool {
        self.cpus.get(container).is_some_and(|cpus| cpus.exclusive)
    }

    /// Does any of the pod's?
    pub fn pod_has_own_cpus(&self) -> bool {
        self.cpus.values().any(|cpus| cpus.exclusive)
    }

    /// The CPUs to which a running container is to be moved.
    pub fn pin_due(&self, run: &Run) -> Option<String> {
        let cpus = self.cpus.get(&run.name)?.set.to_string();
        let told = self.pinned.get(&run.id).unwrap_or(&run.cpus);
        (run.is_running() && *told != cpus).then_some(cpus)
    }

    /// Is the pod as a whole to be given something else?
    pub fn pod_resize_due(&self, pod: &Pod) -> bool {
        self.resizing
            && pod.level_resources().is_some()
            && self.pod_resized != Some(config::applied_to_pod(pod))
    }

    pub fn ready(&self, container: &Container, run: &Run) -> bool {
        self.started(container, run)
            && (container.readiness_probe.is_none()
                || self.health.get(&run.id).is_some_and(|health| health.ready))
    }
}
