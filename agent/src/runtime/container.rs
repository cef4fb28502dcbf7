//! Containers: created, started, stopped, removed, and what happens when one exits.

mod prepare;

use std::fs;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::error::chain;
use parking_lot::Mutex;
use proto::cri;
use tokio::sync::watch;

use self::prepare::{Prepared, open_log, pin_of};
use super::blueprint::{self, limits};
use super::engine::{Container, Engine, Error, Sandbox, blocking};
use super::plan;
use super::program::Names;
use super::sandbox::{PAUSE, step};
use super::state::{self, ContainerRecord};
use super::supervisor::{Spawn, Supervisor, SupervisorError};
use super::sys::wire::{Event, phase};

/// The exit code of a container whose end nobody saw.
const UNKNOWN: i32 = 255;
/// The exit code of a container whose command could not be executed.
const START_ERROR: i32 = 128;

impl Engine {
    /// Prepares a container up to the point where only its command is left to execute.
    pub async fn create_container(
        &self,
        sandbox_id: &str,
        config: cri::ContainerConfig,
    ) -> Result<String, Error> {
        let sandbox = self.sandbox(sandbox_id)?;
        let _busy = sandbox.busy.lock().await;
        let sandbox_record = sandbox.record.lock().clone();
        let supervisor = sandbox.supervisor.lock().clone();
        let Some(supervisor) = supervisor.filter(|_| sandbox_record.ready) else {
            return Err(Error::NotRunning(format!("pod sandbox {} is not running", sandbox.id)));
        };
        let metadata = config
            .metadata
            .clone()
            .ok_or_else(|| Error::Invalid("container config has no metadata".into()))?;
        let same = |record: &ContainerRecord| {
            record.config.as_ref().and_then(|c| c.metadata.as_ref()) == Some(&metadata)
        };
        if let Some(other) =
            self.containers_of(&sandbox.id).iter().find(|other| same(&other.record.lock()))
        {
            let name = format!("{}_{}", metadata.name, metadata.attempt);
            return Err(Error::AlreadyExists(format!(
                "container \"{name}\" exists already as {}",
                other.id
            )));
        }
        let wanted = config.image.as_ref().map(|image| image.image.clone()).unwrap_or_default();
        let id = self.new_id();
        let engine = self.clone();
        let (name, sandbox_for_plan, for_plan) = (id.clone(), sandbox.clone(), config.clone());
        let result = blocking(move || {
            let found = engine.images.find(&wanted)?;
            let image = found.ok_or(Error::NotFound { what: "image", id: wanted })?;
            engine.prepare(&name, &sandbox_for_plan, for_plan, &image)
        })
        .await;
        let result = match result {
            Ok(prepared) => self.spawn(&supervisor, &sandbox, prepared).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(container) => {
                self.containers.write().insert(id.clone(), container.clone());
                self.watch_container(&container);
                self.emit(&container, cri::ContainerEventType::ContainerCreatedEvent);
                Ok(id)
            }
            Err(error) => {
                let (engine, cgroup) = (self.clone(), format!("{}/{id}", sandbox_record.cgroup));
                if let Err(cleanup) = blocking(move || engine.discard(&id, &cgroup)).await {
                    tracing::warn!(error = %chain(&cleanup), "cannot clean up after a failure");
                }
                Err(error)
            }
        }
    }

    async fn spawn(
        &self,
        supervisor: &Supervisor,
        sandbox: &Sandbox,
        prepared: Prepared,
    ) -> Result<Arc<Container>, Error> {
        let Prepared { record, exit, log, cgroup, namespaces, program, size, names } = prepared;
        let config = record.config.clone().unwrap_or_default();
        let (clone_flags, pidns) = self.pid_namespace(&config, sandbox, supervisor)?;
        let spawn = Spawn {
            key: record.key,
            clone_flags: clone_flags | libc::CLONE_NEWNS as u64,
            record: Some(exit.as_fd()),
            log: Some(log.as_fd()),
            pidns: pidns.as_ref().map(AsFd::as_fd),
            cgroup: cgroup.as_ref().map(AsFd::as_fd),
            stdin_pipe: config.stdin && !config.tty,
            tty: config.tty,
            extras: namespaces.iter().map(AsFd::as_fd).collect(),
            ..Spawn::default()
        };
        let process = supervisor
            .spawn(program.as_fd(), size, &spawn)
            .await
            .map_err(|error| explain(error, &names))?;
        Ok(Arc::new(Container {
            id: record.id.clone(),
            record: Mutex::new(record),
            process: Mutex::new(Some(process)),
            names: Mutex::new(names),
            killed: AtomicBool::new(false),
            settled: watch::Sender::new(false),
            busy: tokio::sync::Mutex::new(()),
        }))
    }

    /// How the first process gets into its pid namespace: clone flags, or a namespace to be born into.
    fn pid_namespace(
        &self,
        config: &cri::ContainerConfig,
        sandbox: &Sandbox,
        supervisor: &Supervisor,
    ) -> Result<(u64, Option<fs::File>), Error> {
        let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let options =
            context.and_then(|context| context.namespace_options.clone()).unwrap_or_default();
        let of = |pid: i32| {
            let path = format!("/proc/{pid}/ns/pid");
            fs::File::open(&path).map_err(step(format!("open {path}")))
        };
        match options.pid() {
            cri::NamespaceMode::Container => Ok((libc::CLONE_NEWPID as u64, None)),
            cri::NamespaceMode::Node => Ok((0, None)),
            cri::NamespaceMode::Pod => match supervisor.process(PAUSE) {
                Some(pause) => Ok((0, Some(of(pause.state().pid)?))),
                None => Err(Error::Invalid(format!(
                    "pod sandbox {} has no pid namespace to share",
                    sandbox.id
                ))),
            },
            cri::NamespaceMode::Target => {
                let target = self.container(&options.target_id)?;
                Ok((0, Some(of(self.running(&target)?.pid)?)))
            }
        }
    }

    pub async fn start_container(&self, id: &str) -> Result<(), Error> {
        let container = self.container(id)?;
        let _busy = container.busy.lock().await;
        let process = container.process.lock().clone();
        let state = process.as_ref().map_or(0, |process| process.state().phase);
        let Some(mut process) = process.filter(|_| state == phase::READY) else {
            let what = if state == phase::RUNNING { "is running already" } else { "has exited" };
            return Err(Error::NotRunning(format!("container {id} {what}")));
        };
        match process.start().await {
            Ok(_) => {
                *container.names.lock() = Names::default();
                self.emit(&container, cri::ContainerEventType::ContainerStartedEvent);
                Ok(())
            }
            Err(SupervisorError::Step { .. }) => {
                let _ = container.settled.subscribe().wait_for(|settled| *settled).await;
                let message = container.record.lock().message.clone();
                Err(Error::Start(format!("failed to start container \"{id}\": {message}")))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for the container's end, to write down how it was.
    pub fn watch_container(&self, container: &Arc<Container>) {
        let Some(mut process) = container.process.lock().clone() else { return };
        let (engine, container) = (self.clone(), container.clone());
        tokio::spawn(async move {
            let event = process.exited().await.ok();
            engine.settle(&container, event).await;
        });
    }

    /// The container has exited (or its supervisor has gone, and it with that): what is left of it is
    /// killed, how it ended is recorded.
    pub async fn settle(&self, container: &Arc<Container>, event: Option<Event>) {
        let record = container.record.lock().clone();
        if record.finished_at != 0 {
            container.settled.send_replace(true);
            return;
        }
        let engine = self.clone();
        let kept = container.clone();
        let result = blocking(move || {
            let container = kept;
            engine.cgroups.kill(&record.cgroup)?;
            // The supervisor may have died after it had written the record.
            let exit = engine.root.container(&record.id).join("exit");
            let event = event.or_else(|| Event::from_bytes(&fs::read(exit).ok()?));
            let killed = container.killed.load(Ordering::SeqCst);
            let oom = !killed && engine.cgroups.oom_kills(&record.cgroup) > 0;
            let mut record = record;
            finish(&mut record, event, oom, &container.names.lock(), engine.now());
            // In memory even if the disk is full: the file's turn comes again at the next start.
            *container.record.lock() = record.clone();
            engine.root.save_container(&record)?;
            Ok::<_, Error>(())
        })
        .await;
        if let Err(error) = result {
            tracing::warn!(container = container.id, error = %chain(&error), "cannot write down a container's exit");
        }
        container.settled.send_replace(true);
        self.emit(container, cri::ContainerEventType::ContainerStoppedEvent);
    }

    /// Sends the stop signal, waits, kills. A timeout of 0 kills at once.
    pub async fn stop_container(&self, id: &str, timeout: i64) -> Result<(), Error> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        let process = container.process.lock().clone();
        let mut settled = container.settled.subscribe();
        let state = process.as_ref().map_or(phase::EXITED, |process| process.state().phase);
        if let Some(process) = process.filter(|_| state == phase::RUNNING && timeout > 0) {
            let signal = container.record.lock().stop_signal;
            process.kill(signal).await?;
            let wait = settled.wait_for(|settled| *settled);
            if self.clock.timeout(Duration::from_secs(timeout as u64), wait).await.is_ok() {
                return Ok(());
            }
        }
        self.kill_container(&container).await
    }

    /// Kills everything in the container and waits until its exit is recorded.
    pub async fn kill_container(&self, container: &Arc<Container>) -> Result<(), Error> {
        if *container.settled.borrow() {
            return Ok(());
        }
        let cgroup = container.record.lock().cgroup.clone();
        let engine = self.clone();
        let process = container.process.lock().clone();
        if process.as_ref().is_some_and(|process| process.state().phase != phase::EXITED) {
            container.killed.store(true, Ordering::SeqCst);
        }
        blocking(move || engine.cgroups.kill(&cgroup)).await?;
        if let Some(process) = process.filter(|process| process.state().phase != phase::EXITED) {
            // Born, but not yet in its group.
            let _ = process.kill(libc::SIGKILL).await;
        }
        let _ = container.settled.subscribe().wait_for(|settled| *settled).await;
        Ok(())
    }

    pub async fn remove_container(&self, id: &str) -> Result<(), Error> {
        let Ok(container) = self.container(id) else { return Ok(()) };
        let _busy = container.busy.lock().await;
        self.kill_container(&container).await?;
        let process = container.process.lock().take();
        if let Some(process) = process {
            process.forget().await;
        }
        let record = container.record.lock().clone();
        let engine = self.clone();
        blocking(move || engine.discard(&record.id, &record.cgroup)).await?;
        self.containers.write().remove(&container.id);
        self.emit(&container, cri::ContainerEventType::ContainerDeletedEvent);
        Ok(())
    }

    /// Deletes what there may be of a container that has no process.
    pub fn discard(&self, id: &str, cgroup: &str) -> Result<(), Error> {
        self.cgroups.kill(cgroup)?;
        self.cgroups.remove(cgroup, None)?;
        self.images.unpin(id)?;
        let volumes = fs::read_dir(self.root.container(id).join("images"));
        for number in 0..volumes.into_iter().flatten().count() {
            self.images.unpin(&pin_of(id, number))?;
        }
        Ok(state::remove_folder(&self.root.container(id))?)
    }

    /// The state of a container that runs.
    pub fn running(&self, container: &Container) -> Result<Event, Error> {
        let process = container.process.lock().clone();
        let state =
            process.map(|process| process.state()).filter(|state| state.phase == phase::RUNNING);
        state.ok_or_else(|| Error::NotRunning(format!("container {} is not running", container.id)))
    }

    pub async fn update_resources(
        &self,
        id: &str,
        change: &cri::LinuxContainerResources,
    ) -> Result<(), Error> {
        let container = self.container(id)?;
        let _busy = container.busy.lock().await;
        let (engine, change) = (self.clone(), change.clone());
        let held = container.clone();
        blocking(move || {
            let mut record = held.record.lock().clone();
            engine.cgroups.limit(&record.cgroup, &limits(&change)?)?;
            let linux = record.config.get_or_insert_default().linux.get_or_insert_default();
            blueprint::merge_resources(linux.resources.get_or_insert_default(), &change);
            engine.root.save_container(&record)?;
            held.record.lock().config = record.config;
            Ok(())
        })
        .await
    }

    /// Goes on logging in a new file: the old one was moved away.
    pub async fn reopen_log(&self, id: &str) -> Result<(), Error> {
        let container = self.container(id)?;
        self.running(&container)?;
        let path = container.record.lock().log_path.clone();
        let log = blocking(move || open_log(&path)).await?;
        let process = container.process.lock().clone();
        match process {
            Some(process) => Ok(process.set_log(log.as_fd()).await?),
            None => Ok(()),
        }
    }
}

/// Names the step that failed.
fn explain(error: SupervisorError, names: &Names) -> Error {
    match error {
        SupervisorError::Step { step, source } => {
            Error::Step { step: format!("cannot {}", names.of(step)), source }
        }
        error => error.into(),
    }
}

/// Writes into the record how the container ended.
fn finish(record: &mut ContainerRecord, event: Option<Event>, oom: bool, names: &Names, now: i64) {
    let Some(event) = event.filter(|event| event.phase == phase::EXITED) else {
        record.finished_at = now;
        record.exit_code = UNKNOWN;
        record.reason = "Unknown".to_owned();
        record.message = "the container's supervisor ended before the container did".to_owned();
        return;
    };
    record.started_at = event.started;
    record.finished_at = event.time.max(1);
    if event.errno != 0 {
        let error = std::io::Error::from_raw_os_error(event.errno);
        let what = names.of(event.step);
        let name = what.strip_prefix("exec: \"").and_then(|rest| rest.strip_suffix('"'));
        let told = name.and_then(|name| plan::exec_failure(name, &error));
        let told = told.unwrap_or_else(|| format!("{what}: {error}"));
        record.message = format!("unable to start container process: {told}");
        (record.exit_code, record.reason) = (START_ERROR, "StartError".to_owned());
        return;
    }
    record.exit_code = if event.signal != 0 { 128 + event.signal } else { event.code };
    // The kernel kills with KILL. Where it only killed a child of the container's process, that
    // process went on, and how it ended afterwards is its own doing.
    record.reason = match record.exit_code {
        0 => "Completed",
        _ if oom && event.signal == libc::SIGKILL => "OOMKilled",
        _ => "Error",
    }
    .to_owned();
}
