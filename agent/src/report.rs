//! The PodStatus of a pod: a pure function of the pod, what the runtime holds and what the worker
//! remembers (Kubernetes: Pod Lifecycle). And the patch that turns the API's status into it.

use proto::time::Time;
use serde_json::{Map, Value, json};

use crate::devices::DeviceHealth;
use crate::observed::{Container as Run, Exit, Observed, State};
use crate::plan::{End, Memory, Plan, finished};
use crate::pod::status::{
    Condition, ContainerState, ContainerStatus, Ip, Phase, PodStatus, Running, Terminated,
};
use crate::pod::{Container, Pod};
use crate::resize::amounts;

mod conditions;

/// What all pods of a node have in common.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// Of the node; the primary first.
    pub ips: Vec<String>,
    /// The scheme of container ids: `coracle`, `containerd`.
    pub runtime_name: String,
}

/// The status to report. `previous` is what was reported last, for the times of transitions.
pub fn report(
    pod: &Pod,
    observed: &Observed,
    memory: &Memory,
    plan: &Plan,
    host: &Host,
    previous: &PodStatus,
    now: Time,
) -> PodStatus {
    if let Some(end) = memory.end.as_ref().filter(|_| memory.rejected) {
        return rejected(pod, end, previous, now);
    }
    let over = finished(pod, observed, memory, now);
    let last = (over.is_some() || pod.deleting()) && observed.running().next().is_none();
    let work = Work { pod, observed, memory, plan, host, previous, last };
    let init_container_statuses = work.containers(&pod.spec.init_containers);
    let container_statuses = work.containers(&pod.spec.containers);
    let mut ephemeral_container_statuses = work.containers(&pod.spec.ephemeral_containers);
    for status in &mut ephemeral_container_statuses {
        // Nobody waits for them.
        (status.ready, status.started, status.resources) = (false, None, None);
    }
    let mut status = PodStatus {
        observed_generation: Some(pod.metadata.generation).filter(|generation| *generation > 0),
        start_time: previous.start_time.or(memory.start_time).or(Some(now)),
        reason: previous.reason.clone(),
        message: previous.message.clone(),
        init_container_statuses,
        container_statuses,
        ephemeral_container_statuses,
        ..PodStatus::default()
    };
    // While anything runs the pod has not ended: nobody may take its place yet.
    status.phase = match over {
        _ if pod.status.phase.is_terminal() => pod.status.phase,
        Some(end) if last => {
            if !end.reason.is_empty() {
                (status.reason, status.message) = (end.reason, end.message);
            }
            end.phase
        }
        _ => phase(pod, &status, last),
    };
    cut_messages(&mut status);
    status.qos_class = Some(pod.qos().name().into());
    status.host_ip = host.ips.first().cloned().unwrap_or_default();
    status.host_ips = host.ips.iter().map(|ip| Ip { ip: ip.clone() }).collect();
    let ips = match observed.newest() {
        Some(_) if pod.spec.host_network => host.ips.clone(),
        Some(sandbox) if !sandbox.ips.is_empty() => sandbox.ips.clone(),
        _ => previous.pod_ips.iter().map(|ip| ip.ip.clone()).collect(),
    };
    status.pod_ip = ips.first().cloned().unwrap_or_default();
    status.pod_ips = ips.into_iter().map(|ip| Ip { ip }).collect();
    status.conditions = conditions::conditions(pod, observed, &status, previous, now);
    status.conditions.extend(conditions::resize(pod, observed, memory, previous, now));
    status.conditions.extend(conditions::disruption(pod, memory, previous, now));
    if let Some(whole) = pod.level_resources().filter(|_| observed.running().next().is_some()) {
        status.allocated_resources = serde_json::to_value(&whole.requests).ok();
        status.resources = match memory.pod_resize_due(pod) {
            true => previous.resources.clone(),
            false => Some(amounts(whole)),
        };
    }
    status
}

/// The status of a pod that the node has not taken: it has nothing but an end.
fn rejected(pod: &Pod, end: &End, previous: &PodStatus, now: Time) -> PodStatus {
    PodStatus {
        observed_generation: Some(pod.metadata.generation).filter(|generation| *generation > 0),
        phase: end.phase,
        reason: end.reason.clone(),
        message: end.message.clone(),
        start_time: previous.start_time.or(Some(now)),
        qos_class: Some(pod.qos().name().into()),
        ..PodStatus::default()
    }
}

/// All last words of a pod together: 12 KiB at most, as much for each container.
const ALL_MESSAGES: usize = 12 << 10;

fn cut_messages(status: &mut PodStatus) {
    let lists = [
        &mut status.init_container_statuses,
        &mut status.container_statuses,
        &mut status.ephemeral_container_statuses,
    ];
    let count: usize = lists.iter().map(|list| list.len()).sum();
    let each = ALL_MESSAGES / count.max(1);
    let states = lists.into_iter().flatten().flat_map(|one| [&mut one.state, &mut one.last_state]);
    for end in states.filter_map(|state| state.terminated.as_mut()) {
        let fits =
            (0..=each.min(end.message.len())).rev().find(|at| end.message.is_char_boundary(*at));
        end.message.truncate(fits.unwrap_or(0));
    }
}

/// The strategic merge patch from the API's status to `desired`, or None when nothing of ours
/// differs. Conditions of others stay as they are.
pub fn patch(uid: &str, api: &PodStatus, desired: &PodStatus) -> Option<Value> {
    let (from, to) = (as_map(api), as_map(desired));
    let mut changes = Map::new();
    let mine: Vec<&Condition> = desired
        .conditions
        .iter()
        .filter(|condition| api.condition(&condition.kind) != Some(condition))
        .collect();
    let written = |condition: &Condition| {
        let mut value = json!(condition);
        if let Some(before) = api.condition(&condition.kind) {
            // What is left out of a patch stays as it was.
            for (field, text) in [("reason", &before.reason), ("message", &before.message)] {
                if !text.is_empty() && value.get(field).is_none() {
                    value[field] = Value::Null;
                }
            }
        }
        value
    };
    let mut mine: Vec<Value> = mine.into_iter().map(written).collect();
    let gone = conditions::PASSING
        .iter()
        .filter(|kind| api.condition(kind).is_some() && desired.condition(kind).is_none());
    mine.extend(gone.map(|kind| json!({"type": kind, "$patch": "delete"})));
    if !mine.is_empty() {
        changes.insert("conditions".into(), json!(mine));
    }
    let keys = from.keys().chain(to.keys().filter(|key| !from.contains_key(*key)));
    for key in keys.filter(|key| *key != "conditions" && from.get(*key) != to.get(*key)) {
        let mut value = to.get(key).cloned().unwrap_or(Value::Null);
        if let (true, Some(list)) = (key.ends_with("IPs"), value.as_array_mut()) {
            list.push(json!({"$patch": "replace"}));
        }
        changes.insert(key.clone(), value);
    }
    (!changes.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": changes}))
}

fn as_map(status: &PodStatus) -> Map<String, Value> {
    match serde_json::to_value(status) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

struct Work<'a> {
    pod: &'a Pod,
    observed: &'a Observed,
    memory: &'a Memory,
    plan: &'a Plan,
    host: &'a Host,
    previous: &'a PodStatus,
    /// Nothing runs and nothing will.
    last: bool,
}

impl Work<'_> {
    fn containers(&self, containers: &[Container]) -> Vec<ContainerStatus> {
        containers.iter().map(|container| self.container(container)).collect()
    }

    fn container(&self, container: &Container) -> ContainerStatus {
        let previous = self.previous.container(&container.name);
        let Some(run) = self.observed.latest(&container.name) else {
            return self.without_run(container, previous);
        };
        let mut runs = self.observed.containers.iter().filter(|run| run.name == container.name);
        let before = runs.nth(1);
        let mut status = ContainerStatus {
            name: container.name.clone(),
            restart_count: run.attempt,
            image: image(run, container),
            image_id: run.image_ref.clone(),
            container_id: self.id(&run.id),
            started: Some(self.memory.started(container, run)),
            ready: self.memory.ready(container, run),
            ..ContainerStatus::default()
        };
        let earlier = before.and_then(|run| Some(self.terminated(run, run.exit()?)));
        let earlier = earlier.or_else(|| {
            let previous = previous?.last_state.terminated.clone()?;
            (previous.container_id != status.container_id).then_some(previous)
        });
        let earlier = earlier.map(ContainerState::terminated).unwrap_or_default();
        (status.state, status.last_state) = match &run.state {
            State::Created => (self.waiting(container), earlier),
            State::Running { started } => {
                let running = Some(Running { started_at: Some(*started) });
                (ContainerState { running, ..ContainerState::default() }, earlier)
            }
            State::Exited(exit) => {
                let ended = ContainerState::terminated(self.terminated(run, exit));
                match self.plan.waiting.contains_key(&container.name) {
                    true => (self.waiting(container), ended),
                    false => (ended, earlier),
                }
            }
            State::Unknown => (unknown(), earlier),
        };
        if !self.pod.is_init(&container.name) || container.is_sidecar() {
            // A sidecar is ready like any other container; an init container when it has done.
        } else {
            status.ready = run.exit().is_some_and(|exit| exit.code == 0);
            status.started = Some(run.is_running());
        }
        if run.is_running() {
            self.resources(container, &mut status);
        }
        if self.memory.resize_due(self.pod, container, run).is_some() {
            // It has what it had.
            status.resources = previous.and_then(|previous| previous.resources.clone());
        }
        status.user = run.user.as_ref().map(|(uid, gid, groups)| {
            json!({"linux": {"uid": uid, "gid": gid, "supplementalGroups": groups}})
        });
        status.volume_mounts = mounts(container);
        status.allocated_resources_status = self.devices(container, previous);
        status
    }

    /// The container's devices, and how they are; or were, when it last had any.
    fn devices(&self, container: &Container, previous: Option<&ContainerStatus>) -> Vec<Value> {
        let of = |(resource, devices): (&String, &Vec<DeviceHealth>)| json!({ "name": resource, "resources": devices });
        match self.memory.devices.get(&container.name) {
            Some(own) => own.iter().map(of).collect(),
            None => previous.map(|it| it.allocated_resources_status.clone()).unwrap_or_default(),
        }
    }

    /// A container that the runtime does not know: not yet, or not any more.
    fn without_run(
        &self,
        container: &Container,
        previous: Option<&ContainerStatus>,
    ) -> ContainerStatus {
        let known = previous.filter(|previous| !previous.container_id.is_empty());
        let mut status = match known {
            Some(known) => ContainerStatus {
                ready: known.ready && known.state.terminated.is_some(),
                started: Some(false),
                ..known.clone()
            },
            None => ContainerStatus {
                name: container.name.clone(),
                image: container.image.clone(),
                started: Some(false),
                state: self.waiting(container),
                ..ContainerStatus::default()
            },
        };
        if !self.last && self.memory.reset.contains(&container.name) {
            let ended = std::mem::replace(&mut status.state, self.waiting(container));
            if ended.terminated.is_some() {
                status.last_state = ended;
            }
            status.ready = false;
        } else if known.is_some() && status.state.terminated.is_none() {
            status.state = match self.last {
                true => unknown(),
                false => {
                    if status.state.running.is_some() {
                        status.last_state = unknown();
                    }
                    self.waiting(container)
                }
            };
        } else if self.last && status.state.terminated.is_none() {
            status.state = unknown();
        }
        status.volume_mounts = mounts(container);
        status.allocated_resources_status = self.devices(container, previous);
        status
    }

    fn waiting(&self, container: &Container) -> ContainerState {
        let alone = self.pod.spec.init_containers.is_empty();
        let usual = match alone || self.pod.is_ephemeral(&container.name) {
            true => "ContainerCreating",
            false => "PodInitializing",
        };
        match self.plan.waiting.get(&container.name) {
            Some(waiting) => ContainerState::waiting(&waiting.reason, &waiting.message),
            None => ContainerState::waiting(usual, ""),
        }
    }

    fn terminated(&self, run: &Run, exit: &Exit) -> Terminated {
        let usual = if exit.code == 0 { "Completed" } else { "Error" };
        Terminated {
            exit_code: exit.code,
            signal: 0,
            reason: or(&exit.reason, usual),
            message: exit.message.clone(),
            started_at: exit.started,
            finished_at: exit.finished,
            container_id: self.id(&run.id),
        }
    }

    fn id(&self, id: &str) -> String {
        format!("{}://{id}", self.host.runtime_name)
    }

    fn resources(&self, container: &Container, status: &mut ContainerStatus) {
        let requests = &container.resources.requests;
        if !requests.is_empty() {
            let requests = serde_json::to_value(requests).unwrap_or_default();
            status.allocated_resources =
                requests.as_object().map(|map| map.clone().into_iter().collect());
        }
        status.resources = Some(amounts(&container.resources));
    }
}

/// The phase of a pod from its containers (Kubernetes: Pod phase).
fn phase(pod: &Pod, status: &PodStatus, last: bool) -> Phase {
    let initialized = pod.spec.init_containers.iter().zip(&status.init_container_statuses).all(
        |(container, status)| match container.is_sidecar() {
            true => status.started == Some(true) || status.last_state.terminated.is_some(),
            false => status.state.terminated.as_ref().is_some_and(|end| end.exit_code == 0),
        },
    );
    let begun = status.container_statuses.iter().any(|status| !status.container_id.is_empty());
    if !initialized && !begun && !last {
        return Phase::Pending;
    }
    let (mut waiting, mut running, mut failed) = (0, 0, 0);
    for status in &status.container_statuses {
        let ended = match (&status.state.terminated, &status.last_state.terminated) {
            (Some(end), _) => Some(end),
            (None, Some(end)) if status.state.running.is_none() => Some(end),
            _ => None,
        };
        match ended {
            Some(end) if end.exit_code != 0 => failed += 1,
            Some(_) => {}
            None if status.state.running.is_some() => running += 1,
            None => waiting += 1,
        }
    }
    match (waiting, running, failed) {
        (0, 0, 0) if last => Phase::Succeeded,
        (0, 0, _) if last => Phase::Failed,
        (0, _, _) => Phase::Running,
        _ => Phase::Pending,
    }
}

fn unknown() -> ContainerState {
    ContainerState::terminated(Terminated {
        exit_code: 137,
        reason: "ContainerStatusUnknown".into(),
        message: "The container could not be located when the pod was terminated".into(),
        ..Terminated::default()
    })
}

fn mounts(container: &Container) -> Vec<Value> {
    let mount = |mount: &crate::pod::VolumeMount| {
        let mut value = json!({"name": mount.name, "mountPath": mount.mount_path});
        if mount.read_only {
            value["readOnly"] = true.into();
            let asked = mount.recursive_read_only.as_deref().unwrap_or("Disabled");
            let given = if asked == "Disabled" { "Disabled" } else { "Enabled" };
            value["recursiveReadOnly"] = given.into();
        }
        value
    };
    container.volume_mounts.iter().map(mount).collect()
}

/// The name of the image; a runtime may know it by its digest only.
fn image(run: &Run, container: &Container) -> String {
    let name = if run.image.starts_with("sha256:") { "" } else { &run.image };
    or(name, &container.image)
}

fn or(text: &str, fallback: &str) -> String {
    if text.is_empty() { fallback.into() } else { text.into() }
}

#[cfg(test)]
mod tests;
