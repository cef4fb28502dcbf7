//! The executor of a pod's plans: it does each step and remembers how it went, and chooses
//! nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::Clock;
use proto::cri;
use proto::time::Time;

use super::image::ImageError;
use super::objects::Watched;
use super::publish::Publisher;
use super::{Context, claims, csi, hooks};
use crate::backoff::{Backoff, CRASH, Limits, PULL, RETRY};
use crate::config::{self, Parts};
use crate::cri::{Error as RuntimeError, PodId};
use crate::downward::Facts;
use crate::environment::{Sources, environment, service_variables};
use crate::events::{NORMAL, WARNING};
use crate::observed::{Observed, State};
use crate::plan::{Failure, Memory, Step};
use crate::pod::{Container, Pod, VolumeSource};
use crate::resolv;
use crate::volume::{Given, Run};

pub struct Executor<'a> {
    pub context: &'a Arc<Context>,
    pub id: &'a PodId,
    pub pod: Option<&'a Pod>,
    pub memory: &'a mut Memory,
    pub publisher: &'a Publisher,
    pub watched: &'a Watched,
    pub facts: Facts,
    pub observed: &'a Observed,
}

/// Why a container did not start: the reason and message it waits with.
struct StartError {
    reason: &'static str,
    message: String,
    limits: Limits,
}

/// How long `ErrImagePull` is shown before it becomes `ImagePullBackOff`.
const PULL_ERROR_SHOWN: Duration = Duration::from_secs(2);

impl Executor<'_> {
    /// Consecutive kills are done at the same time. A failed mount or sandbox ends the plan.
    pub async fn run(mut self, steps: Vec<Step>) {
        let kill = |step: &Step| matches!(step, Step::Kill { .. });
        let (kills, rest): (Vec<Step>, Vec<Step>) = steps.into_iter().partition(kill);
        futures::future::join_all(kills.iter().map(|step| self.kill(step))).await;
        for step in rest {
            if !self.step(step).await {
                break;
            }
        }
    }

    /// False when the steps that follow make no sense any more.
    async fn step(&mut self, step: Step) -> bool {
        let runtime = self.context.runtime.clone();
        let outcome = match step {
            Step::Mount => return self.mount().await,
            Step::Sandbox { attempt } => return self.sandbox(attempt).await,
            Step::Start { sandbox, container, attempt } => {
                self.start(&sandbox, &container, attempt).await;
                Ok(())
            }
            Step::Kill { .. } => Ok(()),
            Step::Resize { sandbox, id, container } => {
                self.resize(&sandbox, Some(&id), &container).await;
                Ok(())
            }
            Step::ResizePod { sandbox, container } => {
                self.resize(&sandbox, None, &container).await;
                Ok(())
            }
            Step::StopSandbox { id } => runtime.stop_sandbox(&id).await,
            Step::RemoveSandbox { id } => runtime.remove_sandbox(&id).await,
            Step::RemoveContainer { id } => self.remove(&id).await,
            Step::ReportBackOff { container, message } => {
                self.event(Some(&container), WARNING, "BackOff", &message);
                if message.starts_with("Back-off pulling") {
                    let error = "Error: ImagePullBackOff";
                    self.event(Some(&container), WARNING, "Failed", error);
                }
                self.memory.reported.insert(container);
                Ok(())
            }
            Step::Unmount => {
                if let Err(error) = self.unmount().await {
                    let error = client::error::chain(&error);
                    tracing::warn!(pod = %self.id.name, error, "cannot unmount volumes");
                    self.pause().await;
                } else {
                    self.memory.unmounted = true;
                    self.memory.mounted = false;
                }
                Ok(())
            }
            Step::Finish => {
                if let Some(pod) = self.pod {
                    self.publisher.finish(pod);
                }
                self.memory.finished = true;
                Ok(())
            }
        };
        if let Err(error) = &outcome {
            tracing::warn!(pod = %self.id.name, %error, "a step failed");
            self.pause().await;
        }
        outcome.is_ok()
    }

    /// A step of the runtime failed without a place to remember it: do not spin.
    async fn pause(&self) {
        self.context.clock.sleep(RETRY.first).await;
    }

    async fn mount(&mut self) -> bool {
        let Some(pod) = self.pod else { return false };
        let mut sources = match self.watched.sources(&self.context.clock).await {
            Ok(sources) => sources,
            Err(error) => {
                self.setup_failed("FailedMount", error);
                return false;
            }
        };
        claims::find(self.context, pod, &mut sources).await;
        match self.context.disk.mount(pod, &self.facts, &sources).await {
            Ok(()) => {
                self.memory.mounted = true;
                self.memory.unmounted = false;
                self.memory.setup = None;
                if let Err(error) = claims::grown(self.context, pod, &sources).await {
                    // It will be said when the volume is mounted next.
                    tracing::warn!(pod = %self.id.name, %error, "cannot say that a volume grew");
                }
                true
            }
            Err(error) => {
                self.setup_failed("FailedMount", error.to_string());
                false
            }
        }
    }

    /// Takes the volumes down and lets those that were attached go.
    async fn unmount(&self) -> Result<(), crate::volume::Error> {
        let before = self.context.disk.in_use().await;
        self.context.disk.unmount(self.id).await?;
        let after = self.context.disk.in_use().await;
        if before != after {
            // The next pod's mount or end will say it: nothing is lost but time.
            if let Err(error) = csi::in_use(self.context, &self.context.node, None).await {
                tracing::warn!(pod = %self.id.name, error, "cannot say which volumes are in use");
            }
        }
        Ok(())
    }

    async fn sandbox(&mut self, attempt: u32) -> bool {
        let Some(pod) = self.pod else { return false };
        if let Some(refusal) = unsupported(pod) {
            self.setup_failed("FailedCreatePodSandBox", refusal);
            return false;
        }
        let dns = resolv::dns(pod, &self.context.dns);
        let config = config::sandbox(pod, attempt, &self.context.config, dns);
        match self.context.runtime.run_sandbox(config).await {
            Ok(_) => {
                self.memory.setup = None;
                true
            }
            Err(error) => {
                let message = format!("Failed to create pod sandbox: {}", error.message());
                self.setup_failed("FailedCreatePodSandBox", message);
                false
            }
        }
    }

    /// Sets the limits of the pod and, where one is named, of a running container.
    async fn resize(&mut self, sandbox: &str, id: Option<&str>, name: &str) {
        let Some(pod) = self.pod else { return };
        let Some(container) = pod.container(name) else { return };
        let runtime = &self.context.runtime;
        let of_pod = || config::pod_resources(pod);
        // A part cannot have more than the whole: which of them is first depends on the direction.
        let first = runtime.resize_sandbox(sandbox, of_pod()).await;
        let mut outcome = Ok(());
        if let Some(id) = id {
            let memory = self.context.config.memory;
            let resources = config::container_resources(pod, container, memory);
            outcome = runtime.resize(id, resources).await;
        }
        if outcome.is_ok() && first.is_err() {
            outcome = runtime.resize_sandbox(sandbox, of_pod()).await;
        }
        let previous = self.memory.resize_failure.take();
        match outcome {
            Ok(()) => drop(self.memory.resized.insert(name.into(), config::applied(container))),
            Err(error) => {
                let (clock, message) = (&self.context.clock, error.message().to_string());
                let failure = failure(clock, previous, "Error", message, RETRY);
                self.memory.resize_failure = Some(failure);
            }
        }
    }

    fn setup_failed(&mut self, reason: &'static str, message: String) {
        let previous = self.memory.setup.take();
        if previous.as_ref().is_none_or(|previous| previous.message != message) {
            self.event(None, WARNING, reason, &message);
        }
        let clock = &self.context.clock;
        self.memory.setup = Some(failure(clock, previous, reason, message, RETRY));
    }

    async fn start(&mut self, sandbox: &str, name: &str, attempt: u32) {
        let Some(pod) = self.pod else { return };
        let Some(container) = pod.container(name) else { return };
        let restart = self.observed.latest(name).is_some_and(|run| run.exit().is_some());
        let clock = self.context.clock.clone();
        match self.try_start(pod, container, sandbox, attempt).await {
            Ok(()) => {
                self.memory.failures.remove(name);
                self.memory.reported.remove(name);
            }
            Err(error) => {
                if error.reason == "CreateContainerConfigError" {
                    self.event(Some(name), WARNING, "Failed", &format!("Error: {}", error.message));
                }
                let previous = self.memory.failures.remove(name);
                let failure = failure(&clock, previous, error.reason, error.message, error.limits);
                self.memory.failures.insert(name.into(), failure);
                self.memory.reported.remove(name);
            }
        }
        if restart {
            let crashes = &mut self.memory.crashes;
            let next = Backoff::next(crashes.get(name).copied(), CRASH, clock.now());
            crashes.insert(name.into(), next);
        }
    }

    async fn try_start(
        &self,
        pod: &Pod,
        container: &Container,
        sandbox: &str,
        attempt: u32,
    ) -> Result<(), StartError> {
        let name = &container.name;
        let config_error = |message: String| StartError {
            reason: "CreateContainerConfigError",
            message,
            limits: RETRY,
        };
        let sources = self.watched.sources(&self.context.clock).await.map_err(config_error)?;
        let pulled = self.context.pulls.ensure(self.context, pod, container, &sources).await;
        let (image, status) = pulled.map_err(|error| self.image_failed(name, error))?;
        let services = self.context.services.snapshot();
        let services = service_variables(pod, services.values().map(|entry| &entry.view));
        let environment = environment(pod, container, &self.facts, &services, &sources)
            .map_err(|error| config_error(error.to_string()))?;
        let images = self.images(pod, container, &sources).await?;
        let facts = &self.facts;
        let run = Run { attempt, facts, environment: &environment, images: &images };
        let given = self.context.disk.container(pod, container, run).await;
        let Given { mounts, devices } = given.map_err(|error| config_error(error.to_string()))?;
        let image_user = match (&status.uid, status.username.as_str()) {
            (Some(uid), _) => Some(Ok(uid.value)),
            (None, "") => None,
            (None, user) => Some(user.parse().map_err(|_| user.to_string())),
        };
        let target = self.target(container).map_err(config_error)?;
        let parts = Parts { attempt, image, environment, mounts, devices, image_user, target };
        let config = config::container(pod, container, &self.context.config, parts)
            .map_err(|error| config_error(error.to_string()))?;
        self.create_and_start(pod, container, sandbox, config).await
    }

    /// The images that are the container's volumes, pulled as the volumes ask.
    async fn images(
        &self,
        pod: &Pod,
        container: &Container,
        sources: &Sources,
    ) -> Result<BTreeMap<String, cri::ImageSpec>, StartError> {
        let mut images = BTreeMap::new();
        for volume in &pod.spec.volumes {
            let used = container.volume_mounts.iter().any(|mount| mount.name == volume.name);
            let Some(VolumeSource::Image(wanted)) = volume.source().ok().filter(|_| used) else {
                continue;
            };
            let asks = Container {
                name: container.name.clone(),
                image: wanted.reference,
                image_pull_policy: wanted.pull_policy,
                ..Container::default()
            };
            let pulled = self.context.pulls.ensure(self.context, pod, &asks, sources).await;
            let (image, _) = pulled.map_err(|error| self.image_failed(&container.name, error))?;
            images.insert(volume.name.clone(), image);
        }
        Ok(images)
    }

    async fn create_and_start(
        &self,
        pod: &Pod,
        container: &Container,
        sandbox: &str,
        config: cri::ContainerConfig,
    ) -> Result<(), StartError> {
        let name = &container.name;
        let failed = |reason, limits| {
            move |error: RuntimeError| {
                let message = error.message().to_string();
                self.event(Some(name), WARNING, "Failed", &format!("Error: {message}"));
                StartError { reason, message, limits }
            }
        };
        let runtime = &self.context.runtime;
        let sandbox_attempt = self.observed.newest().map_or(0, |sandbox| sandbox.attempt);
        let dns = resolv::dns(pod, &self.context.dns);
        let sandbox_config = config::sandbox(pod, sandbox_attempt, &self.context.config, dns);
        let id = runtime.create(sandbox, config, sandbox_config).await;
        let id = id.map_err(failed("CreateContainerError", RETRY))?;
        self.event(Some(name), NORMAL, "Created", "Container created");
        runtime.start(&id).await.map_err(failed("RunContainerError", CRASH))?;
        self.event(Some(name), NORMAL, "Started", "Container started");
        if let Some(hook) = &container.lifecycle.post_start {
            let target = hooks::Target { id: &id, container, ips: &self.facts.pod_ips };
            if let Err(error) = hooks::run(self.context, hook, &target).await {
                let message = format!("PostStartHook failed: {error}");
                self.event(Some(name), WARNING, "FailedPostStartHook", &message);
                let grace = Duration::from_secs(pod.grace().max(1).unsigned_abs());
                if let Err(error) = runtime.stop(&id, grace).await {
                    tracing::warn!(container = %name, %error, "cannot stop a container");
                }
                return Err(StartError { reason: "PostStartHookError", message, limits: CRASH });
            }
        }
        Ok(())
    }

    /// The run of the container that an ephemeral one targets.
    fn target(&self, container: &Container) -> Result<Option<String>, String> {
        let name = container.target_container_name.as_str();
        if name.is_empty() {
            return Ok(None);
        }
        let run = self.observed.running().find(|run| run.name == name);
        run.map(|run| Some(run.id.clone()))
            .ok_or_else(|| format!("unable to find target container {name}"))
    }

    fn image_failed(&self, container: &str, error: ImageError) -> StartError {
        let reason = error.reason();
        let (event, message) = error.event();
        self.event(Some(container), WARNING, event, &message);
        self.event(Some(container), WARNING, "Failed", &format!("Error: {reason}"));
        StartError { reason, message: error.to_string(), limits: PULL }
    }

    /// preStop, TERM, KILL: all within the grace period, of which two seconds always remain for
    /// the TERM.
    async fn kill(&self, step: &Step) {
        let Step::Kill { id, container: name, grace, why } = step else { return };
        self.event(Some(name), NORMAL, "Killing", why);
        let started = self.context.clock.instant();
        let container = self.pod.and_then(|pod| pod.container(name));
        let hook = container.and_then(|container| container.lifecycle.pre_stop.as_ref());
        if let (Some(container), Some(hook)) = (container, hook) {
            let target = hooks::Target { id, container, ips: &self.facts.pod_ips };
            let hook = hooks::run(self.context, hook, &target);
            match self.context.clock.timeout(*grace, hook).await {
                Ok(Ok(())) | Err(_) => {}
                Ok(Err(error)) => {
                    let message = format!("PreStopHook failed: {error}");
                    self.event(Some(name), WARNING, "FailedPreStopHook", &message);
                }
            }
        }
        let spent = self.context.clock.instant().duration_since(started);
        let least = (*grace).min(Duration::from_secs(2));
        let left = grace.saturating_sub(spent).max(least);
        if let Err(error) = self.context.runtime.stop(id, left).await {
            tracing::warn!(pod = %self.id.name, container = %name, %error, "cannot stop a container");
            self.pause().await;
        }
    }

    async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        self.context.runtime.remove(id).await?;
        let run = self.observed.containers.iter().find(|run| run.id == *id);
        if let Some(run) = run.filter(|run| run.state != State::Created) {
            self.context.disk.forget(self.id, run).await;
        }
        Ok(())
    }

    fn event(&self, container: Option<&str>, kind: &'static str, reason: &str, message: &str) {
        if let Some(pod) = self.pod {
            self.context.events.pod(pod, container, kind, reason, message);
        }
    }
}

fn failure(
    clock: &Clock,
    previous: Option<Failure>,
    reason: &str,
    message: String,
    limits: Limits,
) -> Failure {
    let now: Time = clock.now();
    let previous = previous.filter(|previous| previous.reason == reason);
    let backoff = Backoff::next(previous.map(|previous| previous.backoff), limits, now);
    let pull = matches!(reason, "ErrImagePull" | "RegistryUnavailable" | "InvalidImageName");
    Failure {
        reason: reason.into(),
        message,
        shown_until: pull.then(|| now.plus(PULL_ERROR_SHOWN)),
        retry_at: now.plus(backoff.delay),
        backoff,
    }
}

/// What this node cannot do for a pod, said before anything is made.
fn unsupported(pod: &Pod) -> Option<String> {
    let spec = &pod.spec;
    let class = spec.runtime_class_name.as_deref().filter(|class| !class.is_empty());
    if let Some(class) = class {
        let why = format!("RuntimeClass {class:?} not found");
        return Some(format!("Failed to create pod sandbox: failed to get sandbox runtime: {why}"));
    }
    if spec.host_users == Some(false) {
        return Some("Failed to create pod sandbox: user namespaces are not supported".into());
    }
    let mut all = pod.containers();
    let refused = all.find_map(|container| {
        let what = match container {
            container if !container.resources.claims.is_empty() => "resource claims",
            _ => return None,
        };
        Some(format!("container {}: {what} are not supported", container.name))
    });
    refused.map(|refused| format!("Failed to create pod sandbox: {refused}"))
}
