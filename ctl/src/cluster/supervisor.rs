//! The one parent of a cluster's processes: starts them, starts again what ended, ends all on
//! SIGTERM (on SIGQUIT without letting them finish), and reads the cluster's description again on
//! SIGHUP. It sleeps in between.
//!
//! Its children survive it: a cluster whose supervisor was killed goes on, only nothing is started
//! again, and `cluster delete` finds all processes in `processes.json`.

use std::collections::HashMap;
use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use client::Clock;
use parking_lot::Mutex;
use rustix::process::Signal;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Error;
use super::layout::{Cluster, StateDir};
use super::namespaces::Namespaces;
use super::process::{Process, Processes, SUPERVISOR};
use super::services::{Service, services};

/// How a process is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    No,
    /// Asked first.
    Gently,
    /// Like a machine that loses power.
    AtOnce,
}

struct Supervisor {
    dir: PathBuf,
    clock: Clock,
    processes: Mutex<Processes>,
}

struct Kept {
    stop: watch::Sender<Stop>,
    task: JoinHandle<()>,
}

/// The first restart is immediate; one that follows soon waits longer.
const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(5);
/// A process that ran for so long had started well.
const WELL: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(5);

/// Runs the cluster in `dir` until SIGTERM.
pub async fn supervise(dir: &Path, state: &StateDir, clock: Clock) -> Result<(), Error> {
    // A session of its own: no terminal takes the cluster along when it closes.
    let _ = rustix::process::setsid();
    let start = |source| Error::Start { process: SUPERVISOR.into(), source };
    let mut terminate = signal(SignalKind::terminate()).map_err(start)?;
    let mut quit = signal(SignalKind::quit()).map_err(start)?;
    let mut reload = signal(SignalKind::hangup()).map_err(start)?;
    let supervisor = Arc::new(Supervisor {
        dir: dir.to_owned(),
        clock,
        processes: Mutex::new(Processes::default()),
    });
    supervisor.record(SUPERVISOR, Process::find(std::process::id()))?;
    let program = std::env::current_exe().map_err(start)?;
    let mut namespaces = HashMap::new();
    let mut kept: HashMap<String, Kept> = HashMap::new();
    let how = loop {
        let cluster = Cluster::read(dir)?
            .ok_or_else(|| Error::file("read", dir)(io::ErrorKind::NotFound.into()))?;
        let wanted = services(&cluster, &program, state);
        let gone = |name: &String| !wanted.iter().any(|service| service.name == *name);
        let gone: Vec<String> = kept.keys().filter(|name| gone(name)).cloned().collect();
        end(gone.iter().filter_map(|name| kept.remove(name)), Stop::AtOnce).await;
        for service in wanted {
            if kept.contains_key(&service.name) {
                continue;
            }
            let namespaces = match &service.node {
                None => None,
                Some(node) => Some(enter(&mut namespaces, &cluster, node).map_err(start)?),
            };
            let (stop, stopped) = watch::channel(Stop::No);
            let name = service.name.clone();
            let keeping = supervisor.clone().keep(service, namespaces, stopped);
            kept.insert(name, Kept { stop, task: tokio::spawn(keeping) });
        }
        tokio::select! {
            _ = reload.recv() => {}
            _ = terminate.recv() => break Stop::Gently,
            _ = quit.recv() => break Stop::AtOnce,
        }
    };
    end(kept.into_values(), how).await;
    Ok(())
}

/// The namespaces of the node, made when first needed and kept while the cluster runs.
fn enter(
    namespaces: &mut HashMap<String, Arc<Namespaces>>,
    cluster: &Cluster,
    node: &str,
) -> io::Result<Arc<Namespaces>> {
    if let Some(known) = namespaces.get(node) {
        return Ok(known.clone());
    }
    let path = cluster.nodes.iter().find(|other| other.name == node);
    let path = path.map(|node| cluster.namespace(node)).ok_or(io::ErrorKind::NotFound)?;
    let made = Arc::new(Namespaces::make(&path, node)?);
    namespaces.insert(node.to_owned(), made.clone());
    Ok(made)
}

/// Ends them all at the same time.
async fn end(kept: impl Iterator<Item = Kept>, how: Stop) {
    let mut tasks = Vec::new();
    for Kept { stop, task } in kept {
        let _ = stop.send(how);
        tasks.push(task);
    }
    for task in tasks {
        let _ = task.await;
    }
}

impl Supervisor {
    /// Keeps one process running until it is to stop.
    async fn keep(
        self: Arc<Self>,
        service: Service,
        namespaces: Option<Arc<Namespaces>>,
        mut stop: watch::Receiver<Stop>,
    ) {
        let mut delay = Duration::ZERO;
        while *stop.borrow() == Stop::No {
            let started = self.clock.instant();
            match self.start(&service, namespaces.as_deref()) {
                Ok((child, process)) => {
                    self.run(&service, child, process, &mut stop).await;
                }
                Err(error) => tracing::error!(process = service.name, %error, "start"),
            }
            let well = self.clock.instant() - started >= WELL;
            delay = if well { Duration::ZERO } else { (delay * 2).clamp(SHORTEST, LONGEST) };
            tokio::select! {
                () = self.clock.sleep(delay) => {}
                _ = stop.wait_for(|stop| *stop != Stop::No) => {}
            }
        }
    }

    /// Waits until the process has ended, or ends it.
    async fn run(
        &self,
        service: &Service,
        mut child: Child,
        process: Process,
        stop: &mut watch::Receiver<Stop>,
    ) {
        // It cannot be reused before we wait for it, so there is a handle unless it is a zombie.
        if let Some(handle) = process.open() {
            let how = tokio::select! {
                _ = handle.ended() => Stop::No,
                how = stop.wait_for(|stop| *stop != Stop::No) => how.map_or(Stop::Gently, |how| *how),
            };
            let ended = match how {
                Stop::No => Ok(()),
                Stop::Gently => handle.end(Signal::TERM, &self.clock, PATIENCE).await,
                Stop::AtOnce => handle.signal(Signal::KILL),
            };
            if let Err(error) = ended {
                tracing::error!(process = service.name, %error, "end");
            }
        }
        // It has ended, or is about to.
        let status = tokio::task::spawn_blocking(move || child.wait()).await;
        let _ = self.record(&service.name, None);
        if *stop.borrow() == Stop::No
            && let Ok(Ok(status)) = status
        {
            tracing::warn!(process = service.name, pid = process.pid, %status, "ended");
        }
    }

    fn start(
        &self,
        service: &Service,
        namespaces: Option<&Namespaces>,
    ) -> Result<(Child, Process), Error> {
        let failed = |source| Error::Start { process: service.name.clone(), source };
        let path = self.dir.join("logs").join(format!("{}.log", service.log));
        let log = OpenOptions::new().append(true).create(true).open(&path);
        let log = log.map_err(Error::file("open", &path))?;
        let mut command = Command::new(&service.program);
        command.args(&service.arguments).stdin(Stdio::null());
        command.stdout(log.try_clone().map_err(failed)?).stderr(log);
        let child = match namespaces {
            Some(namespaces) => namespaces.spawn(command),
            None => command.spawn(),
        };
        let child = child.map_err(failed)?;
        let process = Process::find(child.id()).unwrap_or(Process { pid: child.id(), started: 0 });
        self.record(&service.name, Some(process))?;
        Ok((child, process))
    }

    /// Notes a process, or that it has ended, for `cluster delete` and `cluster status`.
    fn record(&self, name: &str, process: Option<Process>) -> Result<(), Error> {
        let mut processes = self.processes.lock();
        match process {
            Some(process) => processes.0.insert(name.to_owned(), process),
            None => processes.0.remove(name),
        };
        processes.write(&self.dir)
    }
}
