//! The pod conditions that a node owns (Kubernetes: Pod conditions).

use proto::time::Time;

use crate::observed::Observed;
use crate::plan::{Memory, triggers};
use crate::pod::status::{Condition, ContainerStatus, Phase, PodStatus};
use crate::pod::{Container, Pod};

/// The node's conditions, in Kubernetes' order, with the times of their transitions.
pub(super) fn conditions(
    pod: &Pod,
    observed: &Observed,
    status: &PodStatus,
    previous: &PodStatus,
    now: Time,
) -> Vec<Condition> {
    let ended = status.phase.is_terminal();
    let sandbox = observed
        .current()
        .is_some_and(|sandbox| !ended && (pod.spec.host_network || !sandbox.ips.is_empty()));
    let containers = containers_ready(pod, status);
    let all = [
        ("PodReadyToStartContainers", Verdict::of(sandbox)),
        ("Initialized", initialized(pod, status)),
        ("Ready", ready(pod, previous, &containers)),
        ("ContainersReady", containers),
        ("PodScheduled", Verdict::of(true)),
    ];
    let all = all.into_iter().chain(restarting(pod, observed, status));
    let condition = |(kind, verdict): (&str, Verdict)| {
        let before = previous.condition(kind);
        let status = if verdict.yes { "True" } else { "False" };
        let same = before.filter(|before| before.status == status);
        Condition {
            kind: kind.into(),
            status: status.into(),
            observed_generation: Some(pod.metadata.generation).filter(|number| *number > 0),
            last_probe_time: None,
            last_transition_time: same.and_then(|before| before.last_transition_time).or(Some(now)),
            reason: verdict.reason.into(),
            message: verdict.message,
        }
    };
    all.map(condition).collect()
}

/// Whether all containers are about to begin anew; only of pods to which that can happen.
fn restarting(
    pod: &Pod,
    observed: &Observed,
    status: &PodStatus,
) -> Option<(&'static str, Verdict)> {
    let verdict = match status.phase {
        _ if !pod.may_restart_all() => return None,
        Phase::Succeeded => Verdict::no("PodCompleted", String::new()),
        Phase::Failed => Verdict::no("PodFailed", String::new()),
        _ if triggers(pod, observed).is_empty() => Verdict::of(false),
        _ => Verdict {
            yes: true,
            reason: "RestartAllContainersStarted",
            message: "container exited with restart policy rule".into(),
        },
    };
    Some(("AllContainersRestarting", verdict))
}

/// Why the node ends the pod before its time, where it does.
pub(super) fn disruption(
    pod: &Pod,
    memory: &Memory,
    previous: &PodStatus,
    now: Time,
) -> Option<Condition> {
    let message = memory.end.as_ref()?.disruption.clone()?;
    let kind = "DisruptionTarget";
    let before = previous.condition(kind).filter(|before| before.status == "True");
    Some(Condition {
        kind: kind.into(),
        status: "True".into(),
        observed_generation: Some(pod.metadata.generation).filter(|number| *number > 0),
        last_probe_time: None,
        last_transition_time: before.and_then(|it| it.last_transition_time).or(Some(now)),
        reason: "TerminationByKubelet".into(),
        message,
    })
}

/// Conditions that are there only while they are true.
pub(super) const PASSING: &[&str] = &["PodResizePending", "PodResizeInProgress"];

/// What becomes of a resize that was asked for.
pub(super) fn resize(
    pod: &Pod,
    observed: &Observed,
    memory: &Memory,
    previous: &PodStatus,
    now: Time,
) -> Vec<Condition> {
    let due = |container: &Container| {
        let run = observed.latest(&container.name);
        run.is_some_and(|run| memory.resize_due(pod, container, run).is_some())
    };
    let in_progress = pod.containers().any(due) || memory.pod_resize_due(pod);
    let failure = memory.resize_failure.as_ref();
    let progress = in_progress.then(|| match failure {
        Some(failure) => ("Error", failure.message.clone()),
        None => ("", String::new()),
    });
    let pending = memory.pending.as_ref().map(|it| (it.reason, it.message.clone()));
    let all = PASSING.iter().zip([pending, progress]);
    all.filter_map(|(kind, why)| {
        let (reason, message) = why?;
        let before = previous.condition(kind);
        Some(Condition {
            kind: kind.to_string(),
            status: "True".into(),
            observed_generation: Some(pod.metadata.generation).filter(|number| *number > 0),
            last_probe_time: None,
            last_transition_time: before.and_then(|it| it.last_transition_time).or(Some(now)),
            reason: reason.into(),
            message,
        })
    })
    .collect()
}

#[derive(Clone, Debug, Default)]
struct Verdict {
    yes: bool,
    reason: &'static str,
    message: String,
}

impl Verdict {
    fn of(yes: bool) -> Verdict {
        Verdict { yes, ..Verdict::default() }
    }

    fn no(reason: &'static str, message: String) -> Verdict {
        Verdict { yes: false, reason, message }
    }
}

fn initialized(pod: &Pod, status: &PodStatus) -> Verdict {
    let begun = status
        .container_statuses
        .iter()
        .any(|status| status.state.running.is_some() || status.last_state.terminated.is_some());
    let incomplete: Vec<&str> = pod
        .spec
        .init_containers
        .iter()
        .zip(&status.init_container_statuses)
        .filter(|(container, status)| match container.is_sidecar() {
            true => status.started != Some(true),
            false => status.state.terminated.as_ref().is_none_or(|end| end.exit_code != 0),
        })
        .map(|(container, _)| container.name.as_str())
        .collect();
    if incomplete.is_empty() || begun {
        return Verdict::of(true);
    }
    match status.phase {
        Phase::Succeeded => Verdict { yes: true, reason: "PodCompleted", message: String::new() },
        _ => {
            let names = incomplete.join(" ");
            let message = format!("containers with incomplete status: [{names}]");
            Verdict::no("ContainersNotInitialized", message)
        }
    }
}

fn containers_ready(pod: &Pod, status: &PodStatus) -> Verdict {
    match status.phase {
        Phase::Succeeded => return Verdict::no("PodCompleted", String::new()),
        Phase::Failed => return Verdict::no("PodFailed", String::new()),
        _ => {}
    }
    let sidecar = |status: &&ContainerStatus| {
        pod.container(&status.name).is_some_and(|container| container.is_sidecar())
    };
    let sidecars = status.init_container_statuses.iter().filter(sidecar);
    let unready: Vec<&str> = sidecars
        .chain(&status.container_statuses)
        .filter(|status| !status.ready)
        .map(|status| status.name.as_str())
        .collect();
    if unready.is_empty() {
        return Verdict::of(true);
    }
    let message = format!("containers with unready status: [{}]", unready.join(" "));
    Verdict::no("ContainersNotReady", message)
}

fn ready(pod: &Pod, previous: &PodStatus, containers: &Verdict) -> Verdict {
    if !containers.yes {
        return containers.clone();
    }
    let problem = |kind: &str| match previous.condition(kind) {
        None => Some(format!(
            "corresponding condition of pod readiness gate \"{kind}\" does not exist."
        )),
        Some(condition) if condition.status != "True" => Some(format!(
            "the status of pod readiness gate \"{kind}\" is not \"True\", but {}",
            condition.status
        )),
        Some(_) => None,
    };
    let gates = pod.spec.readiness_gates.iter().filter_map(|gate| problem(&gate.condition_type));
    let problems: Vec<String> = gates.collect();
    match problems.is_empty() {
        true => Verdict::of(true),
        false => Verdict::no("ReadinessGatesNotReady", problems.join(", ")),
    }
}
