//! The executor of a pod's plans: it does each step and remembers how it went, and chooses
//! nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use client::Clock;
use client::error::chain;
use proto::cri;
use proto::time::Time;
use proto::view::runtime_class::RuntimeClass;
use tokio::sync::watch;

use super::image::ImageError;
use super::objects::Watched;
use super::publish::Publisher;
use super::{Context, claims, csi, hooks};
use crate::backoff::{Backoff, CRASH, Limits, NETWORK, PULL, RETRY, VOLUME};
use crate::config::{self, NO_QUOTA, Parts};
use crate::cri::{Error as RuntimeError, PodId};
use crate::downward::Facts;
use crate::environment::{Sources, environment, service_variables};
use crate::events::{NORMAL, WARNING};
use crate::observed::{Observed, State};
use crate::plan::{Failure, Memory, Step};
use crate::pod::{Container, Pod, VolumeSource};
use crate::volume::{Error as VolumeError, Given, Run};
use crate::{resolv, userns};

mod resize;

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

/// Of a kernel's name for itself.
const MAX_HOSTNAME: usize = 64;
/// How often the API is asked whether a volume has grown, as the kubelet looks at its pods.
const GROWTH: Duration = Duration::from_secs(60);
/// How long `ErrImagePull` is shown before it becomes `ImagePullBackOff`.
const PULL_ERROR_SHOWN: Duration = Duration::from_secs(2);

impl Executor<'_> {
    /// Consecutive kills are done at the same time. A failed mount or sandbox ends the plan.
    pub async fn run(mut self, steps: Vec<Step>) {
        let kill = |step: &Step| matches!(step, Step::Kill { .. });
        let (kills, rest): (Vec<Step>, Vec<Step>) = steps.into_iter().partition(kill);
        let stopped = watch::Sender::new(BTreeSet::new());
        let kills = kills.iter().map(|step| self.kill(step, &stopped));
        futures::future::join_all(kills).await;
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
                self.resize(&sandbox, &id, &container).await;
                Ok(())
            }
            Step::ResizePod { sandbox, container } => {
                self.resize_pod(&sandbox, container.as_deref()).await;
                Ok(())
            }
            Step::Pin { id, cpus } => self.pin(id, cpus).await,
            Step::StopSandbox { id } => runtime.stop_sandbox(&id).await,
            Step::RemoveSandbox { id } => runtime.remove_sandbox(&id).await,
            Step::RemoveContainer { id } => self.remove(&id).await,
            Step::Reset { id, container, crash } => {
                let removed = self.remove(&id).await;
                if removed.is_ok() {
                    self.memory.reset.insert(container.clone());
                    if crash {
                        self.count_crash(&container);
                    }
                }
                removed
            }
            Step::ReportBackOff { container, message } => {
                self.event(Some(&container), WARNING, "BackOff", &message);
                if message.starts_with("Back-off pulling") {
                    let error = "Error: ImagePullBackOff";
                    self.event(Some(&container), WARNING, "Failed", error);
                }
                self.memory.reported.insert(container);
                Ok(())
            }
            Step::Grow => {
                if let Some(pod) = self.pod {
                    claims::follow(self.context, pod).await;
                }
                self.memory.growth = Some(self.context.clock.now().plus(GROWTH));
                Ok(())
            }
            Step::Unmount => {
                let failed = self.unmount().await.err();
                self.memory.unmounted = failed.is_none();
                self.memory.mounted &= failed.is_some();
                self.memory.teardown = failed.map(|error| {
                    let error = chain(&error);
                    tracing::warn!(pod = %self.id.name, error, "cannot unmount volumes");
                    let previous = self.memory.teardown.take();
                    failure(&self.context.clock, previous, "FailedUnmount", error, VOLUME)
                });
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
                self.setup_failed("FailedMount", error, RETRY);
                return false;
            }
        };
        claims::find(self.context, pod, &mut sources).await;
        match self.context.disk.mount(pod, &self.facts, &sources).await {
            Ok(()) => {
                if let Err(why) = self.context.dra.prepare(&self.context.client, pod).await {
                    let message = format!("Failed to prepare dynamic resources: {why}");
                    self.setup_failed("FailedPrepareDynamicResources", message, RETRY);
                    return false;
                }
                self.memory.mounted = true;
                self.memory.unmounted = false;
                self.memory.setup = None;
                let driven = sources.claims.values().flatten().any(|bound| bound.csi.is_some());
                self.memory.growth = driven.then(|| self.context.clock.now().plus(GROWTH));
                if let Err(error) = claims::grown(self.context, pod, &sources).await {
                    // It will be said when the volume is mounted next.
                    tracing::warn!(pod = %self.id.name, %error, "cannot say that a volume grew");
                }
                true
            }
            Err(error) => {
                // What the API says of a claim may change at any time, and costs little to ask.
                let limits =
                    if matches!(error, VolumeError::Claim { .. }) { RETRY } else { VOLUME };
                self.setup_failed("FailedMount", error.to_string(), limits);
                false
            }
        }
    }

    /// Takes the volumes down and lets those that were attached go.
    async fn unmount(&self) -> Result<(), VolumeError> {
        let before = self.context.disk.in_use().await;
        self.context.disk.unmount(self.id).await?;
        let after = self.context.disk.in_use().await;
        if before != after {
            // The next pod's mount or end will say it: nothing is lost but time.
            if let Err(error) = csi::in_use(self.context, &self.context.own.name, None).await {
                tracing::warn!(pod = %self.id.name, error, "cannot say which volumes are in use");
            }
        }
        Ok(())
    }

    async fn sandbox(&mut self, attempt: u32) -> bool {
        let Some(pod) = self.pod else { return false };
        let made = self.try_sandbox(pod, attempt).await;
        match made {
            Ok(()) => self.memory.setup = None,
            Err(why) => {
                let (reason, message, limits) = match self.no_network(pod).await {
                    Some(why) => {
                        ("NetworkNotReady", format!("network is not ready: {why}"), NETWORK)
                    }
                    None => {
                        let message = format!("Failed to create pod sandbox: {why}");
                        ("FailedCreatePodSandBox", message, RETRY)
                    }
                };
                self.setup_failed(reason, message, limits);
                return false;
            }
        }
        true
    }

    /// Why the runtime cannot connect the pod, where it says so. It is asked after a failure only: that
    /// it can is the rule, and pods are to start fast.
    async fn no_network(&self, pod: &Pod) -> Option<String> {
        if pod.spec.host_network {
            return None;
        }
        self.context.runtime.info().await.ok()?.network_not_ready
    }

    /// What the pod's sandbox is made from, with ids of its own if it wants them.
    fn sandbox_config(
        &self,
        pod: &Pod,
        attempt: u32,
    ) -> Result<cri::PodSandboxConfig, userns::Error> {
        let dns = resolv::dns(pod, &self.context.dns());
        let node = &self.context.config;
        let users = node.users.of(pod, &node.pod_dir(&pod.metadata.uid))?;
        let mut config = config::sandbox(pod, attempt, node, dns);
        if let Some(linux) = &mut config.linux {
            let security = linux.security_context.get_or_insert_default();
            userns::enter(&mut security.namespace_options, &users);
            if self.memory.pod_has_own_cpus() {
                // The CPUs bound what they are used for.
                linux.resources.get_or_insert_default().cpu_quota = NO_QUOTA;
            }
        }
        Ok(config)
    }

    async fn try_sandbox(&self, pod: &Pod, attempt: u32) -> Result<(), String> {
        let domain = &self.context.config.domain;
        if let Some(name) = resolv::fqdn(pod, domain).filter(|name| name.len() > MAX_HOSTNAME)
            && pod.spec.set_hostname_as_fqdn == Some(true)
        {
            return Err(format!(
                "failed to construct FQDN from pod hostname and cluster domain, FQDN {name} is too \
                 long ({MAX_HOSTNAME} characters is the max, {} characters requested)",
                name.len()
            ));
        }
        let handler = self.handler(pod).await?;
        let config = self.sandbox_config(pod, attempt).map_err(|error| chain(&error))?;
        let made = self.context.runtime.run_sandbox(config, &handler).await;
        made.map(drop).map_err(|error| error.message().into())
    }

    /// The runtime's handler of the pod's RuntimeClass (Kubernetes: Runtime Class).
    async fn handler(&self, pod: &Pod) -> Result<String, String> {
        let class = pod.spec.runtime_class_name.as_deref().filter(|class| !class.is_empty());
        let Some(class) = class else { return Ok(String::new()) };
        match self.context.client.get::<RuntimeClass>("", class).await {
            Ok(entry) => Ok(entry.view.handler),
            Err(error) if error.is_not_found() => {
                Err(format!("runtimeclass.node.k8s.io {class:?} not found"))
            }
            Err(error) => Err(format!("failed to lookup RuntimeClass {class}: {error}")),
        }
    }

    fn setup_failed(&mut self, reason: &'static str, message: String, limits: Limits) {
        let previous = self.memory.setup.take();
        if previous.as_ref().is_none_or(|previous| previous.message != message) {
            self.event(None, WARNING, reason, &message);
        }
        let clock = &self.context.clock;
        self.memory.setup = Some(failure(clock, previous, reason, message, limits));
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
                self.memory.reset.remove(name);
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
            self.count_crash(name);
        }
    }

    /// The next restart of the container waits longer.
    fn count_crash(&mut self, name: &str) {
        let crashes = &mut self.memory.crashes;
        let now = self.context.clock.now();
        let next = Backoff::next(crashes.get(name).copied(), CRASH, now);
        crashes.insert(name.into(), next);
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
        let mut environment = environment(pod, container, &self.facts, &services, &sources)
            .map_err(|error| config_error(error.to_string()))?;
        let (uid, clock) = (&pod.metadata.uid, &self.context.clock);
        let devices = self.context.devices.given(uid, name, clock).await;
        let devices = devices.map_err(|error| config_error(error.to_string()))?;
        for (variable, value) in devices.environment {
            // What the pod says itself counts.
            environment.entry(variable).or_insert(value);
        }
        let images = self.images(pod, container, &sources).await?;
        let facts = &self.facts;
        let run = Run { attempt, facts, environment: &environment, images: &images };
        let given = self.context.disk.container(pod, container, run).await;
        let mut given = given.map_err(|error| config_error(error.to_string()))?;
        given.mounts.extend(devices.mounts);
        given.devices.extend(devices.devices);
        let image_user = match (&status.uid, status.username.as_str()) {
            (Some(uid), _) => Some(Ok(uid.value)),
            (None, "") => None,
            (None, user) => Some(user.parse().map_err(|_| user.to_string())),
        };
        let target = self.target(container).map_err(config_error)?;
        let mut cdi_devices = devices.cdi_devices;
        cdi_devices.extend(self.context.dra.cdi(pod, container));
        let Given { mounts, devices: nodes } = given;
        let parts = Parts {
            attempt,
            image,
            environment,
            mounts,
            devices: nodes,
            image_user,
            target,
            cpus: self.memory.cpus.get(name).cloned(),
            annotations: devices.annotations,
            cdi_devices,
        };
        let mut config = config::container(pod, container, &self.context.config, parts)
            .map_err(|error| config_error(error.to_string()))?;
        let node = &self.context.config;
        let users = node.users.of(pod, &node.pod_dir(&pod.metadata.uid));
        let users = users.map_err(|error| config_error(chain(&error).to_string()))?;
        userns::map_mounts(&mut config.mounts, &users);
        if let Some(linux) = &mut config.linux {
            let security = linux.security_context.get_or_insert_default();
            userns::enter(&mut security.namespace_options, &users);
        }
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
        let sandbox_config = self.sandbox_config(pod, sandbox_attempt).map_err(|error| {
            let message = chain(&error).to_string();
            StartError { reason: "CreateContainerConfigError", message, limits: RETRY }
        })?;
        let id = runtime.create(sandbox, config, sandbox_config).await;
        let id = id.map_err(failed("CreateContainerError", RETRY))?;
        self.event(Some(name), NORMAL, "Created", "Container created");
        runtime.start(&id).await.map_err(failed("RunContainerError", CRASH))?;
        self.event(Some(name), NORMAL, "Started", "Container started");
        let Some(hook) = &container.lifecycle.post_start else { return Ok(()) };
        let target = hooks::Target { id: &id, container, ips: &self.facts.pod_ips };
        let Err(error) = hooks::run(self.context, hook, &target).await else { return Ok(()) };
        // What the hook said may be secret; whoever may read the log may know it.
        tracing::info!(pod = %self.id.name, container = %name, %error, "a postStart hook failed");
        self.event(Some(name), WARNING, "FailedPostStartHook", "PostStartHook failed");
        let kill = Step::Kill {
            id,
            container: name.clone(),
            grace: Duration::from_secs(pod.grace().max(1).unsigned_abs()),
            after: Vec::new(),
            why: "FailedPostStartHook".into(),
        };
        self.kill(&kill, &watch::Sender::default()).await;
        let message = format!("PostStartHook failed: {error}");
        Err(StartError { reason: "PostStartHookError", message, limits: CRASH })
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
    /// the TERM. `stopped` names the containers that have stopped meanwhile, for those that wait
    /// for them.
    async fn kill(&self, step: &Step, stopped: &watch::Sender<BTreeSet<String>>) {
        let Step::Kill { id, container: name, grace, after, why } = step else { return };
        self.event(Some(name), NORMAL, "Killing", why);
        let clock = &self.context.clock;
        let started = clock.instant();
        let left = || grace.saturating_sub(clock.instant().duration_since(started));
        let container = self.pod.and_then(|pod| pod.container(name));
        let hook = container.and_then(|container| container.lifecycle.pre_stop.as_ref());
        if let (Some(container), Some(hook), false) = (container, hook, grace.is_zero()) {
            let target = hooks::Target { id, container, ips: &self.facts.pod_ips };
            let hook = hooks::run(self.context, hook, &target);
            if let Ok(Err(error)) = clock.timeout(*grace, hook).await {
                let pod = &self.id.name;
                tracing::info!(%pod, container = %name, %error, "a preStop hook failed");
                self.event(Some(name), WARNING, "FailedPreStopHook", "PreStopHook failed");
            }
        }
        let mut others = stopped.subscribe();
        let turn = others.wait_for(|stopped| after.iter().all(|name| stopped.contains(name)));
        // Whoever has not stopped in time is waited for no longer.
        let _ = clock.timeout(left(), turn).await;
        let least = (*grace).min(Duration::from_secs(2));
        if let Err(error) = self.context.runtime.stop(id, left().max(least)).await {
            tracing::warn!(pod = %self.id.name, container = %name, %error, "cannot stop a container");
            self.pause().await;
        }
        stopped.send_if_modified(|stopped| stopped.insert(name.clone()));
    }

    async fn remove(&mut self, id: &str) -> Result<(), RuntimeError> {
        self.context.runtime.remove(id).await?;
        self.memory.pinned.remove(id);
        let run = self.observed.containers.iter().find(|run| run.id == *id);
        if let Some(run) = run.filter(|run| run.state != State::Created) {
            let highest = self.memory.attempts.entry(run.name.clone()).or_default();
            *highest = run.attempt.max(*highest);
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
