//! What to do next with a pod: a pure function from the pod, what the runtime holds of it and what
//! the worker remembers, to steps. Nothing here may do I/O or read a clock. A plan is small: after
//! its steps the worker observes and plans again, until there is nothing to do.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::time::Time;

use crate::backoff::{Backoff, CRASH};
use crate::config;
use crate::observed::{Applied, Container as Run, Observed, State};
use crate::pod::status::Waiting;
use crate::pod::{Container, Pod, RestartPolicy};
use crate::resize::{self, Due, Pending};

mod terminate;

pub use terminate::{End, cleanup, finished};

/// One thing the executor does. Consecutive [`Step::Kill`]s are done at the same time.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Make the pod's directories and mount its volumes.
    Mount,
    /// Run a sandbox.
    Sandbox {
        attempt: u32,
    },
    /// Pull, create and start a container in the given sandbox.
    Start {
        sandbox: String,
        container: String,
        attempt: u32,
    },
    /// Stop a container: preStop hook, TERM, after `grace` KILL.
    Kill {
        id: String,
        container: String,
        grace: Duration,
        why: String,
    },
    StopSandbox {
        id: String,
    },
    /// Change the limits of a running container and of its pod.
    Resize {
        sandbox: String,
        id: String,
        container: String,
    },
    /// Change the limits of the pod alone: the container that is to have more is restarted.
    ResizePod {
        sandbox: String,
        container: String,
    },
    RemoveContainer {
        id: String,
    },
    RemoveSandbox {
        id: String,
    },
    /// Tell that a container waits for its back-off to pass.
    ReportBackOff {
        container: String,
        message: String,
    },
    /// Unmount the volumes.
    Unmount,
    /// Report the final status, then delete the object: its graceful deletion is complete.
    Finish,
}

/// How often it is asked whether others have made room.
const ROOM: Duration = Duration::from_secs(10);

/// What is to be done now, why containers wait, and when to look again if nothing happens before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub waiting: BTreeMap<String, Waiting>,
    pub again: Option<Time>,
}

/// What a worker remembers of a pod beyond what API and runtime know. It may be lost: then
/// back-offs begin anew and probes are run again.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    pub crashes: BTreeMap<String, Backoff>,
    /// By container: why its last start failed.
    pub failures: BTreeMap<String, Failure>,
    /// Of the volumes or the sandbox.
    pub setup: Option<Failure>,
    pub mounted: bool,
    pub unmounted: bool,
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
    /// The final report has been handed over.
    pub finished: bool,
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
    pub fn resize_due(&self, container: &Container, run: &Run) -> Option<Due> {
        let told = self.resized.get(&container.name) == Some(&config::applied(container));
        let asked = self.resizing && run.is_running() && !told;
        asked.then(|| resize::due(container, run)).flatten()
    }

    pub fn ready(&self, container: &Container, run: &Run) -> bool {
        self.started(container, run)
            && (container.readiness_probe.is_none()
                || self.health.get(&run.id).is_some_and(|health| health.ready))
    }
}

/// The plan of a pod whose object exists.
pub fn plan(pod: &Pod, observed: &Observed, memory: &Memory, now: Time) -> Plan {
    if pod.deleting() || finished(pod, observed, now).is_some() {
        return terminate::terminate(pod, observed, memory, now);
    }
    let mut plan = live(pod, observed, memory, now);
    if memory.pending.as_ref().is_some_and(|pending| pending.reason == "Deferred") {
        plan.again_at(now.plus(ROOM));
    }
    if let Some(deadline) = terminate::deadline(pod) {
        plan.again_at(deadline);
    }
    plan
}

impl Plan {
    fn again_at(&mut self, time: Time) {
        self.again = Some(self.again.map_or(time, |again| again.min(time)));
    }

    fn wait(&mut self, container: &str, reason: &str, message: String) {
        self.waiting.insert(container.into(), Waiting { reason: reason.into(), message });
    }
}

fn live(pod: &Pod, observed: &Observed, memory: &Memory, now: Time) -> Plan {
    let mut plan = Plan::default();
    let stale = |run: &&Run| observed.current().is_none_or(|current| run.sandbox != current.id);
    for run in observed.running().filter(stale) {
        let why = format!("Stopping container {}: its sandbox has changed", run.name);
        plan.steps.push(kill(pod, run, &why, None));
    }
    if !plan.steps.is_empty() {
        return plan;
    }
    let Some(sandbox) = observed.current().filter(|_| memory.mounted) else {
        setup(&mut plan, observed, memory, now);
        return plan;
    };
    for old in observed.sandboxes.iter().filter(|old| old.ready && old.id != sandbox.id) {
        plan.steps.push(Step::StopSandbox { id: old.id.clone() });
    }
    prune(&mut plan, observed);
    let work = Work { pod, observed, memory, now, sandbox: &sandbox.id };
    // Whoever looks for an error may not have to wait for what it keeps from starting.
    for container in &pod.spec.ephemeral_containers {
        work.container(&mut plan, container, RestartPolicy::Never);
    }
    if work.init_containers(&mut plan) {
        for container in &pod.spec.containers {
            work.container(&mut plan, container, pod.spec.restart_policy);
        }
    }
    plan
}

/// Volumes and a sandbox, where they are missing.
fn setup(plan: &mut Plan, observed: &Observed, memory: &Memory, now: Time) {
    if let Some(failure) = memory.setup.as_ref().filter(|failure| failure.retry_at > now) {
        plan.again_at(failure.retry_at);
        return;
    }
    if !memory.mounted {
        plan.steps.push(Step::Mount);
    }
    if observed.current().is_none() {
        for old in &observed.sandboxes {
            plan.steps.push(Step::StopSandbox { id: old.id.clone() });
        }
        let attempt = observed.newest().map_or(0, |newest| newest.attempt + 1);
        plan.steps.push(Step::Sandbox { attempt });
    }
}

/// Of each container the last two runs stay, for `logs --previous` and lastState.
fn prune(plan: &mut Plan, observed: &Observed) {
    let mut runs: BTreeMap<&str, usize> = BTreeMap::new();
    for run in &observed.containers {
        let kept = runs.entry(&run.name).or_default();
        *kept += 1;
        if *kept > 2 && !run.is_running() {
            plan.steps.push(Step::RemoveContainer { id: run.id.clone() });
        }
    }
    let newest = observed.newest().map(|sandbox| &sandbox.id);
    for sandbox in &observed.sandboxes {
        let used = observed.containers.iter().any(|run| run.sandbox == sandbox.id);
        if !sandbox.ready && !used && Some(&sandbox.id) != newest {
            plan.steps.push(Step::RemoveSandbox { id: sandbox.id.clone() });
        }
    }
}

struct Work<'a> {
    pod: &'a Pod,
    observed: &'a Observed,
    memory: &'a Memory,
    now: Time,
    sandbox: &'a str,
}

impl Work<'_> {
    /// Plans the init containers; true when the regular ones may run.
    fn init_containers(&self, plan: &mut Plan) -> bool {
        let begun = self.pod.spec.containers.iter().any(|container| {
            self.observed
                .latest_in(self.sandbox, &container.name)
                .is_some_and(|run| run.state != State::Created)
        });
        for container in &self.pod.spec.init_containers {
            if container.is_sidecar() {
                self.container(plan, container, RestartPolicy::Always);
                let up = self
                    .observed
                    .latest_in(self.sandbox, &container.name)
                    .is_some_and(|run| self.memory.started(container, run));
                if !up && !begun {
                    return false;
                }
                continue;
            }
            let run = self.observed.latest_in(self.sandbox, &container.name);
            if begun || run.and_then(Run::exit).is_some_and(|exit| exit.code == 0) {
                continue;
            }
            let policy = match self.pod.spec.restart_policy {
                RestartPolicy::Never => RestartPolicy::Never,
                _ => RestartPolicy::OnFailure,
            };
            self.container(plan, container, policy);
            return false;
        }
        true
    }

    /// Plans one container that should run in the current sandbox.
    fn container(&self, plan: &mut Plan, container: &Container, policy: RestartPolicy) {
        let Some(run) = self.observed.latest_in(self.sandbox, &container.name) else {
            // A run that ended with an earlier sandbox is not repeated when its policy forbids.
            let done = self.observed.latest(&container.name).and_then(Run::exit);
            if done.is_none_or(|exit| !is_done(policy, exit.code)) {
                self.start(plan, container);
            }
            return;
        };
        match &run.state {
            State::Created => {
                if self.waits(plan, container) {
                    return;
                }
                plan.steps.push(Step::RemoveContainer { id: run.id.clone() });
                self.start_as(plan, container, run.attempt);
            }
            State::Running { .. } | State::Unknown => self.running(plan, container, run),
            State::Exited(exit) if is_done(policy, exit.code) => {}
            State::Exited(exit) => {
                let since = exit.finished.unwrap_or(self.now);
                let backoff = self.memory.crashes.get(&container.name);
                match backoff.and_then(|backoff| Some((backoff, backoff.due(CRASH, since)?))) {
                    Some((backoff, due)) if due > self.now => {
                        self.crash_loop(plan, container, backoff, due);
                    }
                    _ => self.start(plan, container),
                }
            }
        }
    }

    fn running(&self, plan: &mut Plan, container: &Container, run: &Run) {
        let failed = self.memory.health.get(&run.id).and_then(|health| health.failed);
        if run.hash != container.hash() {
            let why = format!("Container {} definition changed, will be restarted", container.name);
            plan.steps.push(kill(self.pod, run, &why, None));
        } else if let Some(probe) = failed {
            let why = format!("Container {} failed {probe} probe, will be restarted", run.name);
            let probe = match probe {
                "startup" => container.startup_probe.as_ref(),
                _ => container.liveness_probe.as_ref(),
            };
            let grace = probe.and_then(|probe| probe.termination_grace_period_seconds);
            plan.steps.push(kill(self.pod, run, &why, grace));
        } else {
            self.resize(plan, container, run);
        }
    }

    fn resize(&self, plan: &mut Plan, container: &Container, run: &Run) {
        let Some(due) = self.memory.resize_due(container, run) else { return };
        let failed = self.memory.resize_failure.as_ref();
        if let Some(failure) = failed.filter(|failure| failure.retry_at > self.now) {
            plan.again_at(failure.retry_at);
            return;
        }
        let (sandbox, name) = (self.sandbox.to_string(), container.name.clone());
        match due {
            Due::InPlace => {
                plan.steps.push(Step::Resize { sandbox, id: run.id.clone(), container: name });
            }
            Due::Restart => {
                let why = format!("Container {name} resize requires restart");
                plan.steps.push(kill(self.pod, run, &why, None));
                plan.steps.push(Step::ResizePod { sandbox, container: name });
            }
        }
    }

    fn start(&self, plan: &mut Plan, container: &Container) {
        if !self.waits(plan, container) {
            self.start_as(plan, container, self.next_attempt(&container.name));
        }
    }

    fn start_as(&self, plan: &mut Plan, container: &Container, attempt: u32) {
        let (sandbox, container) = (self.sandbox.to_string(), container.name.clone());
        plan.steps.push(Step::Start { sandbox, container, attempt });
    }

    /// One more than the highest the runtime or the API has seen.
    fn next_attempt(&self, name: &str) -> u32 {
        // A run that was never started has not used its number up.
        let started = |run: &Run| u32::from(run.state != State::Created);
        let observed = self.observed.latest(name).map(|run| run.attempt + started(run));
        let reported = self.pod.status.container(name);
        let reported = reported.map(|it| it.restart_count + u32::from(it.was_started()));
        observed.max(reported).unwrap_or(0)
    }

    /// A start that failed is tried again after its back-off.
    fn waits(&self, plan: &mut Plan, container: &Container) -> bool {
        let Some(failure) = self.memory.failures.get(&container.name) else { return false };
        if failure.retry_at <= self.now {
            return false;
        }
        let name = &container.name;
        match failure.shown_until {
            Some(until) if until <= self.now && failure.reason != "InvalidImageName" => {
                let back_off = format!("Back-off pulling image {:?}", container.image);
                let message = format!("{back_off}: {}: {}", failure.reason, failure.message);
                plan.wait(name, "ImagePullBackOff", message);
                if !self.memory.reported.contains(name) {
                    let container = name.clone();
                    plan.steps.push(Step::ReportBackOff { container, message: back_off });
                }
            }
            until => {
                plan.wait(name, &failure.reason, failure.message.clone());
                if let Some(until) = until.filter(|until| *until > self.now) {
                    plan.again_at(until);
                }
            }
        }
        plan.again_at(failure.retry_at);
        true
    }

    fn crash_loop(&self, plan: &mut Plan, container: &Container, backoff: &Backoff, due: Time) {
        let meta = &self.pod.metadata;
        let name = &container.name;
        let pod = format!("{}_{}({})", meta.name, meta.namespace, meta.uid);
        let delay = go_duration(backoff.delay);
        let message = format!("back-off {delay} restarting failed container={name} pod={pod}");
        plan.wait(name, "CrashLoopBackOff", message);
        if !self.memory.reported.contains(name) {
            let message = format!("Back-off restarting failed container {name} in pod {pod}");
            plan.steps.push(Step::ReportBackOff { container: name.clone(), message });
        }
        plan.again_at(due);
    }
}

/// Does an exit with this code end a container for good?
fn is_done(policy: RestartPolicy, code: i32) -> bool {
    match policy {
        RestartPolicy::Always => false,
        RestartPolicy::OnFailure => code == 0,
        RestartPolicy::Never => true,
    }
}

fn kill(pod: &Pod, run: &Run, why: &str, grace: Option<i64>) -> Step {
    let seconds = grace.or(pod.spec.termination_grace_period_seconds).unwrap_or(30).max(1);
    Step::Kill {
        id: run.id.clone(),
        container: run.name.clone(),
        grace: Duration::from_secs(seconds.unsigned_abs()),
        why: why.into(),
    }
}

/// `1m20s`, as Go prints it; whole seconds.
fn go_duration(duration: Duration) -> String {
    match (duration.as_secs() / 60, duration.as_secs() % 60) {
        (0, seconds) => format!("{seconds}s"),
        (minutes, seconds) => format!("{minutes}m{seconds}s"),
    }
}

#[cfg(test)]
mod tests;
