//! Sandboxes and containers in CRI's words, and the stream of their changes.

use std::collections::HashMap;
use std::sync::Arc;

use proto::cri::{self, ContainerEventType, ContainerState, PodSandboxState};

use super::engine::{Container, Engine, Sandbox};
use super::sandbox::namespaces;
use super::supervisor::Process;
use super::sys::wire::phase;

impl Engine {
    pub fn sandbox_status(&self, sandbox: &Sandbox) -> cri::PodSandboxStatus {
        let record = sandbox.record.lock().clone();
        let config = record.config.unwrap_or_default();
        let options = namespaces(&config);
        cri::PodSandboxStatus {
            id: record.id,
            metadata: config.metadata,
            state: sandbox_state(record.ready) as i32,
            created_at: record.created_at,
            network: Some(cri::PodSandboxNetworkStatus {
                ip: record.ip,
                additional_ips: Vec::new(),
            }),
            linux: Some(cri::LinuxPodSandboxStatus {
                namespaces: Some(cri::Namespace { options: Some(options) }),
            }),
            labels: config.labels,
            annotations: config.annotations,
            runtime_handler: record.handler,
        }
    }

    pub fn container_status(&self, container: &Container) -> cri::ContainerStatus {
        let record = container.record.lock().clone();
        let config = record.config.unwrap_or_default();
        let (state, started_at) = progress(container.process.lock().as_ref(), record.finished_at);
        let linux = config.linux.unwrap_or_default();
        let signal = config.stop_signal;
        cri::ContainerStatus {
            id: record.id,
            metadata: config.metadata,
            state: state as i32,
            created_at: record.created_at,
            started_at: if record.finished_at != 0 { record.started_at } else { started_at },
            finished_at: record.finished_at,
            exit_code: record.exit_code,
            image: config.image,
            image_ref: record.image_ref,
            reason: record.reason,
            message: record.message,
            labels: config.labels,
            annotations: config.annotations,
            mounts: config.mounts,
            log_path: record.log_path,
            resources: Some(cri::ContainerResources { linux: linux.resources, windows: None }),
            image_id: record.image_id,
            user: Some(cri::ContainerUser { linux: record.user }),
            stop_signal: signal,
        }
    }

    pub fn list_sandboxes(&self, filter: &cri::PodSandboxFilter) -> Vec<cri::PodSandbox> {
        let sandboxes = self.sandboxes.read();
        let mut found = Vec::new();
        for sandbox in sandboxes.values() {
            let record = sandbox.record.lock().clone();
            let config = record.config.unwrap_or_default();
            let state = sandbox_state(record.ready) as i32;
            let matches = record.id.starts_with(&filter.id)
                && filter.state.as_ref().is_none_or(|wanted| wanted.state == state)
                && selected(&filter.label_selector, &config.labels);
            if matches {
                found.push(cri::PodSandbox {
                    id: record.id,
                    metadata: config.metadata,
                    state,
                    created_at: record.created_at,
                    labels: config.labels,
                    annotations: config.annotations,
                    runtime_handler: record.handler,
                });
            }
        }
        found
    }

    pub fn list_containers(&self, filter: &cri::ContainerFilter) -> Vec<cri::Container> {
        let containers = self.containers.read();
        let mut found = Vec::new();
        for container in containers.values() {
            let record = container.record.lock().clone();
            let config = record.config.unwrap_or_default();
            let state = progress(container.process.lock().as_ref(), record.finished_at).0 as i32;
            let matches = record.id.starts_with(&filter.id)
                && record.sandbox.starts_with(&filter.pod_sandbox_id)
                && filter.state.as_ref().is_none_or(|wanted| wanted.state == state)
                && selected(&filter.label_selector, &config.labels);
            if matches {
                found.push(cri::Container {
                    id: record.id,
                    pod_sandbox_id: record.sandbox,
                    metadata: config.metadata,
                    image: config.image,
                    image_ref: record.image_ref,
                    state,
                    created_at: record.created_at,
                    labels: config.labels,
                    annotations: config.annotations,
                    image_id: record.image_id,
                });
            }
        }
        found
    }

    /// Tells the subscribers that a container changed.
    pub fn emit(&self, container: &Container, what: ContainerEventType) {
        if self.events.receiver_count() == 0 {
            return;
        }
        let sandbox = self.sandbox(&container.record.lock().sandbox.clone()).ok();
        let mut statuses: Vec<cri::ContainerStatus> = Vec::new();
        if let Some(sandbox) = &sandbox {
            statuses.extend(
                self.containers_of(&sandbox.id)
                    .iter()
                    .map(|container| self.container_status(container)),
            );
        }
        self.send(&container.id, what, sandbox.as_ref(), statuses);
    }

    /// Tells the subscribers that a sandbox changed; as a container's change, as CRI wants it.
    pub fn emit_sandbox(&self, sandbox: &Arc<Sandbox>, what: ContainerEventType) {
        if self.events.receiver_count() == 0 {
            return;
        }
        let statuses =
            self.containers_of(&sandbox.id).iter().map(|c| self.container_status(c)).collect();
        self.send(&sandbox.id, what, Some(sandbox), statuses);
    }

    fn send(
        &self,
        id: &str,
        what: ContainerEventType,
        sandbox: Option<&Arc<Sandbox>>,
        containers_statuses: Vec<cri::ContainerStatus>,
    ) {
        let _ = self.events.send(cri::ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: what as i32,
            created_at: self.now(),
            pod_sandbox_status: sandbox.map(|sandbox| self.sandbox_status(sandbox)),
            containers_statuses,
        });
    }
}

fn sandbox_state(ready: bool) -> PodSandboxState {
    if ready { PodSandboxState::SandboxReady } else { PodSandboxState::SandboxNotready }
}

/// How far a container is, and since when it runs. It has exited when that is written down.
fn progress(process: Option<&Process>, finished_at: i64) -> (ContainerState, i64) {
    if finished_at != 0 {
        return (ContainerState::ContainerExited, 0);
    }
    let state = process.map(Process::state).unwrap_or_default();
    match state.phase {
        phase::SPAWNED | phase::READY => (ContainerState::ContainerCreated, 0),
        phase::STARTED | phase::RUNNING | phase::EXITED => {
            (ContainerState::ContainerRunning, state.started)
        }
        _ => (ContainerState::ContainerUnknown, 0),
    }
}

/// Whether all selected labels are there.
pub fn selected(selector: &HashMap<String, String>, labels: &HashMap<String, String>) -> bool {
    selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}
