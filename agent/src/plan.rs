//! What to do next with a pod: a pure function from the pod, what the runtime holds of it and what
//! the worker remembers, to steps. Nothing here may do I/O or read a clock. A plan is small: after
//! its steps the worker observes and plans again, until there is nothing to do.

use std::collections::BTreeMap;
use std::time::Duration;

use proto::time::Time;

use crate::backoff::{Backoff, CRASH};
use crate::observed::{Container as Run, Observed, State};
use crate::pod::status::Waiting;
use crate::pod::{Container, OnExit, Pod};
use crate::resize::Due;

mod memory;
mod restart_all;
mod terminate;

pub use memory::{Failure, Health, Memory, Retention};
pub use restart_all::triggers;
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
    /// Stop a container: preStop hook, TERM once the containers named in `after` have stopped,
    /// KILL, all within `grace`. Without any grace it is killed at once.
    Kill {
        id: String,
        container: String,
        grace: Duration,
        after: Vec<String>,
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
    /// Change the limits of the pod alone; a container that is to have more is restarted.
    ResizePod {
        sandbox: String,
        container: Option<String>,
    },
    /// Let a running container run on these CPUs.
    Pin {
        id: String,
        cpus: String,
    },
    RemoveContainer {
        id: String,
    },
    RemoveSandbox {
        id: String,
    },
    /// Remove an ended container so that it begins anew; `crash`: as after a crash.
    Reset {
        id: String,
        container: String,
        crash: bool,
    },
    /// Tell that a container waits for its back-off to pass.
    ReportBackOff {
        container: String,
        message: String,
    },
    /// Let file systems follow their volumes where those have grown.
    Grow,
    /// Unmount the volumes.
    Unmount,
    /// Report the final status, then delete the object: its graceful deletion is complete.
    Finish,
}

/// What is to be done now, why containers wait, and when to look again if nothing happens before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    pub steps: Vec<Step>,
    pub waiting: BTreeMap<String, Waiting>,
    pub again: Option<Time>,
}

/// The plan of a pod whose object exists.
pub fn plan(pod: &Pod, observed: &Observed, memory: &Memory, now: Time) -> Plan {
    if pod.deleting() || finished(pod, observed, memory, now).is_some() {
        return terminate::terminate(pod, observed, memory, now);
    }
    let mut plan = live(pod, observed, memory, now);
    if let Some(deadline) = terminate::deadline(pod, memory) {
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
    prune(&mut plan, observed, memory, now);
    let work = Work { pod, observed, memory, now, sandbox: &sandbox.id };
    // Whoever looks for an error may not have to wait for what it keeps from starting.
    for container in &pod.spec.ephemeral_containers {
        work.container(&mut plan, container);
    }
    if work.restart_all(&mut plan) {
        return plan;
    }
    if work.init_containers(&mut plan) {
        for container in &pod.spec.containers {
            work.container(&mut plan, container);
        }
    }
    work.resize_pod(&mut plan);
    match memory.growth {
        Some(due) if due <= now => plan.steps.push(Step::Grow),
        Some(due) => plan.again_at(due),
        None => {}
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

/// Of each container the last run stays and as many before it as the node keeps, for `logs
/// --previous` and lastState.
fn prune(plan: &mut Plan, observed: &Observed, memory: &Memory, now: Time) {
    let retention = memory.retention;
    let mut runs: BTreeMap<&str, usize> = BTreeMap::new();
    for run in &observed.containers {
        let kept = runs.entry(&run.name).or_default();
        *kept += 1;
        let stays = *kept <= retention.runs + 1 && !memory.excess.contains(&run.id);
        if stays || run.is_running() {
            continue;
        }
        let ended = run.exit().and_then(|exit| exit.finished);
        match ended.map(|ended| ended.plus(retention.least)) {
            Some(until) if until > now => plan.again_at(until),
            _ => plan.steps.push(Step::RemoveContainer { id: run.id.clone() }),
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
            let run = self.observed.latest_in(self.sandbox, &container.name);
            if container.is_sidecar() {
                self.container(plan, container);
                if !run.is_some_and(|run| self.memory.started(container, run)) && !begun {
                    return false;
                }
                continue;
            }
            if begun || run.and_then(Run::exit).is_some_and(|exit| exit.code == 0) {
                continue;
            }
            match run {
                // A new sandbox is initialised anew.
                None => self.start(plan, container),
                Some(run) => self.run(plan, container, run),
            }
            return false;
        }
        true
    }

    /// Plans one container that should run in the current sandbox.
    fn container(&self, plan: &mut Plan, container: &Container) {
        if let Some(run) = self.observed.latest_in(self.sandbox, &container.name) {
            return self.run(plan, container, run);
        }
        // A run that ended with an earlier sandbox is not repeated when its policy forbids.
        let done = self.observed.latest(&container.name).and_then(Run::exit);
        if done.is_none_or(|exit| self.pod.on_exit(container, exit.code) != OnExit::Stay) {
            self.start(plan, container);
        }
    }

    fn run(&self, plan: &mut Plan, container: &Container, run: &Run) {
        match &run.state {
            State::Created => {
                if self.waits(plan, container) {
                    return;
                }
                plan.steps.push(Step::RemoveContainer { id: run.id.clone() });
                self.start_as(plan, container, run.attempt);
            }
            State::Running { .. } | State::Unknown => self.running(plan, container, run),
            State::Exited(exit) if self.pod.on_exit(container, exit.code) == OnExit::Stay => {}
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
            if let Some(cpus) = self.memory.pin_due(run) {
                plan.steps.push(Step::Pin { id: run.id.clone(), cpus });
            }
            self.resize(plan, container, run);
        }
    }

    fn resize(&self, plan: &mut Plan, container: &Container, run: &Run) {
        let Some(due) = self.memory.resize_due(self.pod, container, run) else { return };
        if self.resize_waits(plan) {
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
                plan.steps.push(Step::ResizePod { sandbox, container: Some(name) });
            }
        }
    }

    fn resize_pod(&self, plan: &mut Plan) {
        if self.memory.pod_resize_due(self.pod) && !self.resize_waits(plan) {
            let sandbox = self.sandbox.to_string();
            plan.steps.push(Step::ResizePod { sandbox, container: None });
        }
    }

    /// A resize that failed is tried again after its back-off.
    fn resize_waits(&self, plan: &mut Plan) -> bool {
        let failed = self.memory.resize_failure.as_ref();
        let waits = failed.filter(|failure| failure.retry_at > self.now);
        if let Some(failure) = waits {
            plan.again_at(failure.retry_at);
        }
        waits.is_some()
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
        let removed = self.memory.attempts.get(name).map(|attempt| attempt + 1);
        observed.max(reported).max(removed).unwrap_or(0)
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

fn kill(pod: &Pod, run: &Run, why: &str, grace: Option<i64>) -> Step {
    let seconds = grace.or(pod.spec.termination_grace_period_seconds).unwrap_or(30).max(1);
    Step::Kill {
        id: run.id.clone(),
        container: run.name.clone(),
        grace: Duration::from_secs(seconds.unsigned_abs()),
        after: Vec::new(),
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
