//! The end of a pod: all its containers have finished for good, its deadline has passed, its
//! object is being deleted or is gone.

use std::time::Duration;

use proto::time::Time;

use super::{Memory, Plan, Step, prune, triggers};
use crate::observed::{Container as Run, Observed, State};
use crate::pod::status::Phase;
use crate::pod::{Container, OnExit, Pod};

/// How a pod ended, or is to end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    pub phase: Phase,
    /// Empty where the containers ended by themselves.
    pub reason: String,
    pub message: String,
    /// What its containers get instead of their own grace period.
    pub grace: Option<Duration>,
    /// What the condition DisruptionTarget says, where the node ends it for reasons of its own.
    pub disruption: Option<String>,
}

impl End {
    fn of(phase: Phase) -> End {
        let (reason, message) = (String::new(), String::new());
        End { phase, reason, message, grace: None, disruption: None }
    }

    /// The pod fails for this reason.
    pub fn failed(reason: &str, message: &str) -> End {
        End { reason: reason.into(), message: message.into(), ..End::of(Phase::Failed) }
    }
}

/// Has the pod ended for good, whatever becomes of its object? A reported end is final.
pub fn finished(pod: &Pod, observed: &Observed, memory: &Memory, now: Time) -> Option<End> {
    if memory.end.is_some() {
        return memory.end.clone();
    }
    if pod.status.phase.is_terminal() {
        return Some(End::of(pod.status.phase));
    }
    if deadline(pod, memory).is_some_and(|deadline| deadline <= now) {
        let message = "Pod was active on the node longer than the specified deadline";
        return Some(End::failed("DeadlineExceeded", message));
    }
    // What an exit asks for, where the last run of the container has exited.
    let exit = |container: &Container| {
        let code = observed.latest(&container.name).and_then(Run::exit)?.code;
        Some((code, pod.on_exit(container, code)))
    };
    let mut init = pod.spec.init_containers.iter().filter(|container| !container.is_sidecar());
    let failed = |(code, asks)| code != 0 && asks == OnExit::Stay;
    if init.any(|container| exit(container).is_some_and(failed)) {
        return Some(End::of(Phase::Failed));
    }
    if !triggers(pod, observed).is_empty() {
        return None;
    }
    let mut phase = Phase::Succeeded;
    for container in &pod.spec.containers {
        match exit(container)? {
            (0, OnExit::Stay) => {}
            (_, OnExit::Stay) => phase = Phase::Failed,
            _ => return None,
        }
    }
    Some(End::of(phase))
}

/// When `activeDeadlineSeconds` is over.
pub(super) fn deadline(pod: &Pod, memory: &Memory) -> Option<Time> {
    let seconds = u64::try_from(pod.spec.active_deadline_seconds?).ok()?;
    Some(pod.status.start_time.or(memory.start_time)?.plus(Duration::from_secs(seconds)))
}

/// Kills what runs: all at the same time, but sidecars only get their TERM when regular containers
/// and the sidecars that came after them have stopped; then the sandboxes; then the volumes; then
/// the final report.
pub(super) fn terminate(pod: &Pod, observed: &Observed, memory: &Memory, now: Time) -> Plan {
    let mut plan = Plan::default();
    let own = Duration::from_secs(pod.grace().max(1).unsigned_abs());
    let whole = match memory.end.as_ref().and_then(|end| end.grace) {
        Some(grace) if pod.deleting() => grace.min(own),
        Some(grace) => grace,
        None => own,
    };
    let spent = memory.terminating.map_or(Duration::ZERO, |(_, since)| now.since(since));
    let grace = whole.saturating_sub(spent).max(Duration::from_secs(1));
    // Init containers that are no sidecars run before anything else does: nobody waits for them.
    let turn = |name: &str| {
        let sidecars = pod.spec.init_containers.iter().filter(|container| container.is_sidecar());
        let place = sidecars.rev().position(|container| container.name == name);
        place.map_or(0, |place| place + 1)
    };
    let earlier = |run: &Run| {
        let before = observed.running().filter(|other| turn(&other.name) < turn(&run.name));
        before.map(|other| other.name.clone()).collect()
    };
    plan.steps.extend(observed.running().map(|run| Step::Kill {
        id: run.id.clone(),
        container: run.name.clone(),
        grace,
        after: earlier(run),
        why: format!("Stopping container {}", run.name),
    }));
    if !plan.steps.is_empty() {
        return plan;
    }
    let ready = observed.sandboxes.iter().filter(|sandbox| sandbox.ready);
    plan.steps.extend(ready.map(|sandbox| Step::StopSandbox { id: sandbox.id.clone() }));
    unmount(&mut plan, memory, now);
    if plan.steps.is_empty() && memory.unmounted {
        match pod.deleting() {
            true if memory.finished => {}
            true => plan.steps.push(Step::Finish),
            false => prune(&mut plan, observed, memory, now),
        }
    }
    plan
}

/// The volumes, which may have to wait for their driver.
fn unmount(plan: &mut Plan, memory: &Memory, now: Time) {
    match memory.teardown.as_ref().filter(|failure| failure.retry_at > now) {
        _ if memory.unmounted => {}
        Some(failure) => plan.again_at(failure.retry_at),
        None => plan.steps.push(Step::Unmount),
    }
}

/// The plan of a pod whose object is gone: everything goes, soon. With neither steps nor a time to
/// look again nothing is left.
pub fn cleanup(observed: &Observed, memory: &Memory, grace: Duration, now: Time) -> Plan {
    let mut plan = Plan::default();
    plan.steps.extend(observed.running().map(|run| Step::Kill {
        id: run.id.clone(),
        container: run.name.clone(),
        grace,
        after: Vec::new(),
        why: format!("Stopping container {}", run.name),
    }));
    if !plan.steps.is_empty() {
        return plan;
    }
    let ready = observed.sandboxes.iter().filter(|sandbox| sandbox.ready);
    plan.steps.extend(ready.map(|sandbox| Step::StopSandbox { id: sandbox.id.clone() }));
    unmount(&mut plan, memory, now);
    let gone = observed.containers.iter().filter(|run| !matches!(run.state, State::Running { .. }));
    plan.steps.extend(gone.map(|run| Step::RemoveContainer { id: run.id.clone() }));
    let gone = observed.sandboxes.iter();
    plan.steps.extend(gone.map(|sandbox| Step::RemoveSandbox { id: sandbox.id.clone() }));
    plan
}
