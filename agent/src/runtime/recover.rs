//! Starting again: what is on disk, joined with what the supervisors tell.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use client::error::chain;
use parking_lot::Mutex;
use rustix::mount::UnmountFlags;
use tokio::sync::watch;

use super::engine::{Container, Engine, Error, Sandbox, blocking};
use super::program::Names;
use super::sandbox::SOCKET;
use super::state::{ContainerRecord, SandboxRecord};
use super::supervisor::Supervisor;

impl Engine {
    /// Takes over the pods that a former runtime left. Nothing of them is changed but what nobody
    /// owns any more.
    pub async fn recover(&self) -> Result<(), Error> {
        let engine = self.clone();
        let (sandboxes, containers) = blocking(move || engine.root.load()).await?;
        if let Ok(cidr) = std::fs::read_to_string(self.root.file("pod-cidr"))
            && let Err(error) = self.set_pod_cidr(cidr.trim()).await
        {
            tracing::warn!(error = %chain(&error), "cannot open the pod network again");
        }
        for record in sandboxes {
            self.recover_sandbox(record).await?;
        }
        for record in containers {
            self.recover_container(record).await?;
        }
        let dead: Vec<Arc<Sandbox>> = self.sandboxes.read().values().cloned().collect();
        for sandbox in dead {
            if sandbox.record.lock().ready && sandbox.supervisor.lock().is_none() {
                tracing::warn!(
                    sandbox = sandbox.id,
                    "the pod's supervisor is gone: stopping the pod"
                );
                self.stop_sandbox(&sandbox.id).await?;
            }
        }
        let engine = self.clone();
        blocking(move || engine.sweep()).await;
        Ok(())
    }

    async fn recover_sandbox(&self, record: SandboxRecord) -> Result<(), Error> {
        let folder = self.root.sandbox(&record.id);
        let supervisor = match record.ready {
            true => Supervisor::connect(&folder, SOCKET).await.ok(),
            false => None,
        };
        // It has just answered, so the number is still its own.
        let process = supervisor.as_ref().and_then(|_| {
            let pid = rustix::process::Pid::from_raw(record.supervisor)?;
            rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).ok()
        });
        let sandbox = Arc::new(Sandbox {
            id: record.id.clone(),
            record: Mutex::new(record.clone()),
            supervisor: Mutex::new(supervisor.clone()),
            process: Mutex::new(process),
            busy: tokio::sync::Mutex::new(()),
        });
        if let Some(supervisor) = &supervisor {
            self.watch_supervisor(&sandbox, supervisor);
        }
        self.sandboxes.write().insert(record.id.clone(), sandbox);
        if !record.ready {
            // Half made or half stopped: both end stopped.
            self.stop_sandbox(&record.id).await?;
        }
        Ok(())
    }

    async fn recover_container(&self, record: ContainerRecord) -> Result<(), Error> {
        let supervisor = match self.sandbox(&record.sandbox) {
            Ok(sandbox) => sandbox.supervisor.lock().clone(),
            Err(_) => return self.forget_half_made(record).await,
        };
        let process = supervisor.as_ref().and_then(|supervisor| supervisor.process(record.key));
        if supervisor.is_some() && process.is_none() {
            return self.forget_half_made(record).await;
        }
        let container = Arc::new(Container {
            id: record.id.clone(),
            record: Mutex::new(record),
            process: Mutex::new(process.clone()),
            names: Mutex::new(Names::default()),
            killed: AtomicBool::new(false),
            settled: watch::Sender::new(false),
            busy: tokio::sync::Mutex::new(()),
        });
        self.containers.write().insert(container.id.clone(), container.clone());
        match process {
            Some(_) => self.watch_container(&container),
            None => self.settle(&container, None).await,
        }
        Ok(())
    }

    /// A container whose creation or removal was cut short: its pod knows nothing of it, and whoever
    /// asked for it was never told its id.
    async fn forget_half_made(&self, record: ContainerRecord) -> Result<(), Error> {
        let engine = self.clone();
        blocking(move || engine.discard(&record.id, &record.cgroup)).await
    }

    /// Removes what no record speaks of any more: folders and mounts of pods, pins of images.
    fn sweep(&self) {
        if let Err(error) = self.images.pinned() {
            tracing::warn!(error = %chain(&error), "cannot see which images are in use");
        }
        let known: BTreeSet<String> = self.sandboxes.read().keys().cloned().collect();
        let folder = self.root.file("sandboxes");
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            if !known.contains(&*entry.file_name().to_string_lossy()) {
                let _ = rustix::mount::unmount(entry.path().join("shm"), UnmountFlags::DETACH);
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}
