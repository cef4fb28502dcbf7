//! A runtime without containers: sandboxes are ready and containers run at once, for ever unless
//! annotations of the pod say otherwise ([`behaviour`] lists them). For clusters of many nodes in
//! one process, and for `agent --runtime simulated`.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use client::Clock;
use futures::StreamExt;
use futures::stream::BoxStream;
use parking_lot::Mutex;
use proto::cri;
use proto::time::Time;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::{Error, Info, Output, PodId, Result, Running, Runtime, Usage, labels};
use crate::observed::{Container, Exit, Observed, Sandbox, State};
use crate::probe::{Prober, Target, Verdict};

mod behaviour;

use behaviour::Behaviour;
pub use behaviour::{EXIT_AFTER, EXIT_CODE};

/// One node's worth of it.
#[derive(Clone)]
pub struct SimulatedRuntime {
    clock: Clock,
    state: Arc<Mutex<Inside>>,
}

#[derive(Default)]
struct Inside {
    next_id: u64,
    cidr: Option<Ipv4Addr>,
    next_ip: u32,
    pods: HashMap<String, (PodId, Observed)>,
    /// Which pod a sandbox or container is of.
    owners: HashMap<String, String>,
    commands: HashMap<String, i32>,
    /// By container id.
    behaviours: HashMap<String, Behaviour>,
    pulls: HashMap<String, String>,
    listeners: Vec<mpsc::UnboundedSender<String>>,
}

impl SimulatedRuntime {
    pub fn new(clock: Clock) -> SimulatedRuntime {
        SimulatedRuntime { clock, state: Arc::default() }
    }

    /// From this range pods get their addresses.
    pub fn set_range(&self, cidr: &str) {
        let address = cidr.split('/').next().and_then(|address| address.parse().ok());
        self.state.lock().cidr = address;
    }

    /// Every pod of which there is a sandbox.
    pub fn known(&self) -> Vec<PodId> {
        self.state.lock().pods.values().map(|(pod, _)| pod.clone()).collect()
    }

    /// Every pod that has a container running, and its containers.
    pub fn at_work(&self) -> Vec<(PodId, Vec<String>)> {
        let inside = self.state.lock();
        let running = |observed: &Observed| -> Vec<String> {
            let runs = observed.containers.iter();
            let runs = runs.filter(|run| matches!(run.state, State::Running { .. }));
            runs.map(|run| run.id.clone()).collect()
        };
        let pods = inside.pods.values().map(|(pod, observed)| (pod.clone(), running(observed)));
        let mut pods: Vec<_> = pods.filter(|(_, containers)| !containers.is_empty()).collect();
        pods.sort_by(|(one, _), (other, _)| one.uid.cmp(&other.uid));
        pods
    }

    /// Ends a running container, as a crash would.
    pub fn exit(&self, id: &str, code: i32) {
        self.end(id, code, "", "");
    }

    /// From now on this command, run in any container, ends with `code`.
    pub fn answer_exec(&self, command: &str, code: i32) {
        self.state.lock().commands.insert(command.into(), code);
    }

    /// From now on pulls of this image fail; with an empty message they succeed again.
    pub fn refuse_pull(&self, image: &str, message: &str) {
        self.state.lock().pulls.insert(image.into(), message.into());
    }

    fn end(&self, id: &str, code: i32, reason: &str, message: &str) {
        let now = self.clock.now();
        self.change(id, |observed| {
            if let Some(run) = observed.containers.iter_mut().find(|run| run.id == id)
                && let State::Running { started } = run.state
            {
                let (started, finished) = (Some(started), Some(now));
                let (reason, message) = (reason.to_string(), message.to_string());
                run.state = State::Exited(Exit { code, reason, message, started, finished });
            }
        });
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Observed)) {
        let mut inside = self.state.lock();
        let Some(uid) = inside.owners.get(id).cloned() else { return };
        if let Some((_, observed)) = inside.pods.get_mut(&uid) {
            change(observed);
        }
        inside.listeners.retain(|listener| listener.send(uid.clone()).is_ok());
    }
}

impl Inside {
    /// Are the running containers of the pod well, or the one of this id?
    fn healthy(&self, uid: &str, id: Option<&str>, now: Time) -> bool {
        let containers = self.pods.get(uid).map(|(_, observed)| observed.containers.as_slice());
        containers.unwrap_or_default().iter().all(|run| {
            let State::Running { started } = run.state else { return true };
            let other = id.is_some_and(|id| id != run.id);
            let behaviour = self.behaviours.get(&run.id);
            other || behaviour.is_none_or(|behaviour| behaviour.healthy(now.since(started)))
        })
    }

    fn id(&mut self, prefix: &str, uid: &str) -> String {
        self.next_id += 1;
        let id = format!("{prefix}{:08x}", self.next_id);
        self.owners.insert(id.clone(), uid.into());
        id
    }

    fn address(&mut self) -> String {
        let base = self.cidr.unwrap_or(Ipv4Addr::new(10, 255, 0, 0));
        self.next_ip += 1;
        Ipv4Addr::from(u32::from(base) + 1 + self.next_ip).to_string()
    }
}

#[async_trait]
impl Runtime for SimulatedRuntime {
    async fn info(&self) -> Result<Info> {
        Ok(Info { name: "simulated".into(), version: "1".into(), ..Info::default() })
    }

    async fn set_pod_cidr(&self, cidr: &str) -> Result<()> {
        self.set_range(cidr);
        Ok(())
    }

    async fn pods(&self) -> Result<Vec<PodId>> {
        Ok(self.known())
    }

    async fn observe(&self, uid: &str) -> Result<Observed> {
        let inside = self.state.lock();
        Ok(inside.pods.get(uid).map(|(_, observed)| observed.clone()).unwrap_or_default())
    }

    async fn events(&self) -> Result<BoxStream<'static, String>> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.state.lock().listeners.push(sender);
        Ok(UnboundedReceiverStream::new(receiver).boxed())
    }

    async fn run_sandbox(&self, config: cri::PodSandboxConfig, _handler: &str) -> Result<String> {
        let meta = config.metadata.unwrap_or_default();
        let mut inside = self.state.lock();
        let id = inside.id("s", &meta.uid);
        let ips = vec![inside.address()];
        let pod = PodId { uid: meta.uid.clone(), namespace: meta.namespace, name: meta.name };
        let sandbox = Sandbox { id: id.clone(), attempt: meta.attempt, ready: true, ips };
        let (_, observed) = inside.pods.entry(meta.uid).or_insert((pod, Observed::default()));
        observed.sandboxes.insert(0, sandbox);
        Ok(id)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let ids: Vec<String> = {
            let inside = self.state.lock();
            let pod = inside.owners.get(id).and_then(|uid| inside.pods.get(uid));
            let containers = pod.map(|(_, observed)| observed.containers.as_slice());
            containers.unwrap_or_default().iter().map(|run| run.id.clone()).collect()
        };
        for id in ids {
            self.end(&id, 137, "Error", "");
        }
        self.change(id, |observed| {
            for sandbox in observed.sandboxes.iter_mut().filter(|sandbox| sandbox.id == id) {
                sandbox.ready = false;
            }
        });
        Ok(())
    }

    async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let mut inside = self.state.lock();
        let Some(uid) = inside.owners.remove(id) else { return Ok(()) };
        let Some((_, observed)) = inside.pods.get_mut(&uid) else { return Ok(()) };
        observed.sandboxes.retain(|sandbox| sandbox.id != id);
        observed.containers.retain(|run| run.sandbox != id);
        if observed.is_empty() {
            inside.pods.remove(&uid);
        }
        Ok(())
    }

    async fn create(
        &self,
        sandbox: &str,
        config: cri::ContainerConfig,
        sandbox_config: cri::PodSandboxConfig,
    ) -> Result<String> {
        let missing = || Error::new("CreateContainer", tonic::Status::not_found("no such sandbox"));
        let uid = sandbox_config.metadata.ok_or_else(missing)?.uid;
        let mut inside = self.state.lock();
        let id = inside.id("c", &uid);
        let name = config.metadata.as_ref().map_or("", |meta| meta.name.as_str());
        let behaviour = Behaviour::of(&sandbox_config.annotations, name);
        inside.behaviours.insert(id.clone(), behaviour);
        let (_, observed) = inside.pods.get_mut(&uid).ok_or_else(missing)?;
        let meta = config.metadata.unwrap_or_default();
        let image = config.image.unwrap_or_default().image;
        let resources = config.linux.and_then(|linux| linux.resources);
        let container = Container {
            id: id.clone(),
            sandbox: sandbox.into(),
            name: meta.name,
            attempt: meta.attempt,
            hash: config.annotations.get(labels::HASH).cloned().unwrap_or_default(),
            image_ref: image.clone(),
            image,
            state: State::Created,
            log_path: String::new(),
            user: None,
            applied: resources.as_ref().map(crate::config::observed),
            cpus: resources.map(|resources| resources.cpuset_cpus).unwrap_or_default(),
        };
        let place = observed.containers.partition_point(|run| run.attempt > container.attempt);
        observed.containers.insert(place, container);
        Ok(id)
    }

    async fn resize(&self, id: &str, resources: cri::LinuxContainerResources) -> Result<()> {
        self.change(id, |observed| {
            for run in observed.containers.iter_mut().filter(|run| run.id == id) {
                run.applied = Some(crate::config::observed(&resources));
            }
        });
        Ok(())
    }

    async fn resize_sandbox(&self, _id: &str, _: cri::LinuxContainerResources) -> Result<()> {
        Ok(())
    }

    async fn start(&self, id: &str) -> Result<()> {
        let behaviour = self.state.lock().behaviours.get(id).cloned().unwrap_or_default();
        self.clock.sleep(behaviour.start_delay).await;
        let now = self.clock.now();
        self.change(id, |observed| {
            for run in observed.containers.iter_mut().filter(|run| run.id == id) {
                run.state = State::Running { started: now };
            }
        });
        if let Some(after) = behaviour.exit_after {
            let (this, id) = (self.clone(), id.to_string());
            tokio::spawn(async move {
                this.clock.sleep(after).await;
                this.end(&id, behaviour.exit_code, "", &behaviour.message);
            });
        }
        Ok(())
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<()> {
        let behaviour = self.state.lock().behaviours.get(id).cloned().unwrap_or_default();
        self.clock.sleep(behaviour.stop_delay.min(grace)).await;
        match grace.is_zero() || behaviour.stop_delay > grace {
            true => self.end(id, 137, "Error", ""),
            false => self.end(id, behaviour.stop_code, "", &behaviour.message),
        }
        Ok(())
    }

    async fn remove(&self, id: &str) -> Result<()> {
        self.change(id, |observed| observed.containers.retain(|run| run.id != id));
        let mut inside = self.state.lock();
        inside.owners.remove(id);
        inside.behaviours.remove(id);
        Ok(())
    }

    async fn memory_in_use(&self, _id: &str) -> Result<Option<u64>> {
        Ok(None)
    }

    async fn exec(&self, id: &str, command: &[String], _timeout: Duration) -> Result<Output> {
        let now = self.clock.now();
        let inside = self.state.lock();
        let healthy = inside.owners.get(id).is_none_or(|uid| inside.healthy(uid, Some(id), now));
        let said = inside.commands.get(&command.join(" ")).copied();
        Ok(Output { code: said.unwrap_or(i32::from(!healthy)), ..Output::default() })
    }

    async fn exec_url(&self, _request: cri::ExecRequest) -> Result<String> {
        Err(Error::new("Exec", unimplemented()))
    }

    async fn attach_url(&self, _request: cri::AttachRequest) -> Result<String> {
        Err(Error::new("Attach", unimplemented()))
    }

    async fn port_forward_url(&self, _request: cri::PortForwardRequest) -> Result<String> {
        Err(Error::new("PortForward", unimplemented()))
    }

    async fn reopen_log(&self, _id: &str) -> Result<()> {
        Err(Error::new("ReopenContainerLog", unimplemented()))
    }

    /// There are pods, but no processes.
    async fn running(&self) -> Result<Running> {
        Ok(Running::default())
    }

    async fn usage(&self) -> Result<Usage> {
        Ok(Usage::default())
    }

    async fn file_systems(&self) -> Result<cri::ImageFsInfoResponse> {
        Ok(cri::ImageFsInfoResponse::default())
    }

    async fn image(&self, image: &cri::ImageSpec) -> Result<Option<cri::Image>> {
        let refused = self.state.lock().pulls.contains_key(&image.image);
        let image = cri::Image { id: image.image.clone(), size: 1 << 20, ..Default::default() };
        Ok((!refused).then_some(image))
    }

    async fn images(&self) -> Result<Vec<cri::Image>> {
        Ok(Vec::new())
    }

    async fn images_in_use(&self) -> Result<BTreeSet<String>> {
        Ok(BTreeSet::new())
    }

    async fn image_folder(&self) -> Result<Option<String>> {
        Ok(None)
    }

    async fn remove_image(&self, _id: &str) -> Result<()> {
        Ok(())
    }

    async fn pull(&self, image: cri::ImageSpec, _auth: Option<cri::AuthConfig>) -> Result<String> {
        let mut inside = self.state.lock();
        match inside.pulls.get(&image.image) {
            Some(message) if !message.is_empty() => {
                Err(Error::new("PullImage", tonic::Status::unknown(message)))
            }
            _ => {
                inside.pulls.remove(&image.image);
                Ok(image.image)
            }
        }
    }
}

#[async_trait]
impl Prober for SimulatedRuntime {
    async fn check(&self, target: &Target) -> Verdict {
        let now = self.clock.now();
        let inside = self.state.lock();
        let at = |observed: &Observed| {
            observed
                .sandboxes
                .iter()
                .any(|sandbox| sandbox.ips.iter().any(|ip| ip == target.host()))
        };
        let pod = inside.pods.iter().find(|(_, (_, observed))| at(observed));
        match pod.is_none_or(|(uid, _)| inside.healthy(uid, None, now)) {
            true => Verdict::Success,
            false => Verdict::Failure(format!("{} is simulated to be unwell", target.authority())),
        }
    }
}

fn unimplemented() -> tonic::Status {
    tonic::Status::unimplemented("a simulated container has no processes")
}
