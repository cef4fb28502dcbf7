//! Probes of containers: startup, readiness, liveness (Kubernetes: Configure Liveness, Readiness
//! and Startup Probes). A probe is a task that sleeps between its turns; it writes what it finds
//! into the pod's health and wakes the worker when that changes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use proto::time::Time;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::events::WARNING;
use crate::metrics::Probed;
use crate::observed::{Container as Run, Observed, State};
use crate::plan::Health;
use crate::pod::{Container, Pod, Probe};
use crate::worker::Context;

mod check;
mod grpc;
mod target;

pub use check::Network;
pub use target::Target;

/// What one probe found.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    Success,
    /// Why, as the event says it.
    Failure(String),
}

/// Checks what is reached over the network.
#[async_trait]
pub trait Prober: Send + Sync + 'static {
    async fn check(&self, target: &Target) -> Verdict;
}

/// Everything is always well: for containers that do not exist.
pub struct Untroubled;

#[async_trait]
impl Prober for Untroubled {
    async fn check(&self, _target: &Target) -> Verdict {
        Verdict::Success
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Kind {
    Startup,
    Readiness,
    Liveness,
}

/// The probes of one pod.
pub struct Probes {
    context: Arc<Context>,
    wake: Arc<Notify>,
    health: Arc<Mutex<BTreeMap<String, Health>>>,
    tasks: HashMap<(String, Kind), AbortHandle>,
}

impl Probes {
    pub fn new(context: Arc<Context>, wake: Arc<Notify>) -> Probes {
        Probes { context, wake, health: Arc::default(), tasks: HashMap::new() }
    }

    /// Probes what runs and nothing else; returns what is known so far, by container id.
    pub fn follow(&mut self, pod: &Arc<Pod>, observed: &Observed) -> BTreeMap<String, Health> {
        let running = |id: &str| observed.running().any(|run| run.id == id);
        self.tasks.retain(|(id, _), task| {
            let keep = running(id);
            if !keep {
                task.abort();
            }
            keep
        });
        self.health.lock().retain(|id, _| running(id));
        for run in observed.running() {
            let Some(container) = pod.container(&run.name) else { continue };
            let ip = match pod.spec.host_network {
                true => self.context.host.ips.first().cloned(),
                false => {
                    let sandbox = observed.sandboxes.iter().find(|one| one.id == run.sandbox);
                    sandbox.and_then(|sandbox| sandbox.ips.first().cloned())
                }
            };
            self.begin(pod, container, run, ip);
        }
        self.health.lock().clone()
    }

    pub fn stop(&mut self) {
        self.tasks.drain().for_each(|(_, task)| task.abort());
    }

    fn begin(&mut self, pod: &Arc<Pod>, container: &Container, run: &Run, ip: Option<String>) {
        let has_probe = container.startup_probe.is_some()
            || container.readiness_probe.is_some()
            || container.liveness_probe.is_some();
        if !has_probe {
            return;
        }
        let mut all = self.health.lock();
        let health = all.entry(run.id.clone()).or_insert_with(|| adopted(pod, container, run));
        let started = health.started || container.startup_probe.is_none();
        drop(all);
        let wanted = [
            (Kind::Startup, container.startup_probe.as_ref().filter(|_| !started)),
            (Kind::Readiness, container.readiness_probe.as_ref().filter(|_| started)),
            // A pod that is being ended is not restarted for its health.
            (
                Kind::Liveness,
                container.liveness_probe.as_ref().filter(|_| started && !pod.deleting()),
            ),
        ];
        for (kind, probe) in wanted {
            let key = (run.id.clone(), kind);
            match probe {
                Some(probe) if !self.tasks.contains_key(&key) => {
                    let task = Task {
                        context: self.context.clone(),
                        wake: self.wake.clone(),
                        health: self.health.clone(),
                        pod: pod.clone(),
                        container: container.clone(),
                        id: run.id.clone(),
                        ip: ip.clone(),
                        kind,
                        probe: probe.clone(),
                        begun: match run.state {
                            State::Running { started } => started,
                            _ => self.context.clock.now(),
                        },
                    };
                    self.tasks.insert(key, tokio::spawn(task.run()).abort_handle());
                }
                Some(_) => {}
                None => {
                    if let Some(task) = self.tasks.remove(&key) {
                        task.abort();
                    }
                }
            }
        }
    }
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A container that ran before this agent did keeps what was reported of it until its probes say
/// otherwise.
fn adopted(pod: &Pod, container: &Container, run: &Run) -> Health {
    let known = pod.status.container(&container.name);
    let known = known.filter(|status| status.container_id.ends_with(&format!("//{}", run.id)));
    Health {
        started: known.is_some_and(|status| status.started == Some(true)),
        ready: known.is_some_and(|status| status.ready),
        failed: None,
    }
}

struct Task {
    context: Arc<Context>,
    wake: Arc<Notify>,
    health: Arc<Mutex<BTreeMap<String, Health>>>,
    pod: Arc<Pod>,
    container: Container,
    id: String,
    ip: Option<String>,
    kind: Kind,
    probe: Probe,
    begun: Time,
}

/// Until a container is ready for the first time it is asked more often, from this delay on.
const EAGER: Duration = Duration::from_millis(50);

impl Task {
    async fn run(self) {
        let seconds = |value: i64, default: u64| match value {
            ..=0 => Duration::from_secs(default),
            value => Duration::from_secs(value.unsigned_abs()),
        };
        let delay = Duration::from_secs(self.probe.initial_delay_seconds.max(0).unsigned_abs());
        self.context.clock.sleep_until(self.begun.plus(delay)).await;
        let period = seconds(self.probe.period_seconds, 10);
        let timeout = seconds(self.probe.timeout_seconds, 1);
        let (mut successes, mut failures) = (0, 0);
        let mut eager = match self.kind {
            Kind::Readiness => EAGER,
            _ => period,
        };
        let mut since_turn = Duration::ZERO;
        loop {
            let begun = self.context.clock.instant();
            let verdict = self.check(timeout).await;
            self.count(&verdict, self.context.clock.instant() - begun);
            let turn = since_turn.is_zero();
            match verdict {
                Verdict::Success => {
                    (successes, failures, eager) = (successes + 1, 0, period);
                    if successes >= self.probe.success_threshold.max(1) && self.passed() {
                        return;
                    }
                }
                Verdict::Failure(why) => {
                    successes = 0;
                    if turn {
                        failures += 1;
                        let message = format!("{:?} probe failed: {why}", self.kind);
                        let name = Some(self.container.name.as_str());
                        self.context.events.pod(&self.pod, name, WARNING, "Unhealthy", &message);
                    }
                    let threshold = match self.probe.failure_threshold {
                        ..=0 => 3,
                        threshold => threshold,
                    };
                    if failures >= threshold && self.failed() {
                        return;
                    }
                }
            }
            let pause = eager.min(period - since_turn);
            since_turn = match since_turn + pause {
                whole if whole >= period => Duration::ZERO,
                part => part,
            };
            eager = (eager * 2).min(period);
            self.context.clock.sleep(pause).await;
        }
    }

    fn count(&self, verdict: &Verdict, took: Duration) {
        let (kind, meta) = (format!("{:?}", self.kind), &self.pod.metadata);
        let probed = Probed {
            kind: &kind,
            container: &self.container.name,
            pod: &meta.name,
            namespace: &meta.namespace,
            uid: &meta.uid,
        };
        let result = match verdict {
            Verdict::Success => "successful",
            Verdict::Failure(_) => "failed",
        };
        self.context.metrics.probe(&probed, result, took);
    }

    async fn check(&self, timeout: Duration) -> Verdict {
        if let Some(exec) = &self.probe.exec {
            let output = self.context.runtime.exec(&self.id, &exec.command, timeout);
            return match self.context.clock.timeout(timeout, output).await {
                Err(_) => timed_out(&exec.command, timeout),
                Ok(Err(error)) if error.is_timeout() => timed_out(&exec.command, timeout),
                Ok(Err(error)) => Verdict::Failure(error.message().into()),
                Ok(Ok(output)) if output.code == 0 => Verdict::Success,
                Ok(Ok(output)) => {
                    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
                    text += &String::from_utf8_lossy(&output.stderr);
                    Verdict::Failure(text.trim_end().into())
                }
            };
        }
        let ip = self.ip.as_deref().ok_or("the pod has no address".to_string());
        let target = match ip.and_then(|ip| Target::of(&self.probe, &self.container, ip)) {
            Ok(target) => target,
            Err(why) => return Verdict::Failure(why),
        };
        let check = self.context.prober.check(&target);
        match self.context.clock.timeout(timeout, check).await {
            Ok(verdict) => verdict,
            Err(_) => Verdict::Failure(target.timed_out()),
        }
    }

    /// True when there is nothing left to probe.
    fn passed(&self) -> bool {
        self.change(|health| match self.kind {
            Kind::Startup => health.started = true,
            Kind::Readiness => health.ready = true,
            Kind::Liveness => {}
        });
        self.kind == Kind::Startup
    }

    fn failed(&self) -> bool {
        self.change(|health| match self.kind {
            Kind::Startup => health.failed = Some("startup"),
            Kind::Readiness => health.ready = false,
            Kind::Liveness => health.failed = Some("liveness"),
        });
        self.kind != Kind::Readiness
    }

    fn change(&self, change: impl FnOnce(&mut Health)) {
        let mut all = self.health.lock();
        let Some(health) = all.get_mut(&self.id) else { return };
        let before = health.clone();
        change(health);
        if *health != before {
            self.wake.notify_one();
        }
    }
}

fn timed_out(command: &[String], timeout: Duration) -> Verdict {
    let command = command.join(" ");
    Verdict::Failure(format!("command {command:?} timed out after {}s", timeout.as_secs()))
}
