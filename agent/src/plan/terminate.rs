//! The end of a pod: all its containers have finished for good, its deadline has passed, its
//! object is being deleted or is gone.

use std::time::Duration;

use proto::time::Time;

use super::{Memory, Plan, Step, is_done};
use crate::observed::{Container as Run, Observed, State};
use crate::pod::status::Phase;
use crate::pod::{Pod, RestartPolicy};

/// How a pod ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    pub phase: Phase,
    pub reason: &'static str,
    pub message: &'static str,
}

/// Has the pod ended for good, whatever becomes of its object? A reported end is final.
pub fn finished(pod: &Pod, observed: &Observed, now: Time) -> Option<End> {
    let end = |phase| Some(End { phase, reason: "", message: "" });
    if pod.status.phase.is_terminal() {
        return end(pod.status.phase);
    }
    if deadline(pod).is_some_and(|deadline| deadline <= now) {
        return Some(End {
            phase: Phase::Failed,
            reason: "DeadlineExceeded",
            message: "Pod was active on the node longer than the specified deadline",
        });
    }
    let policy = pod.spec.restart_policy;
    if policy == RestartPolicy::Always {
        return None;
    }
    let code = |name: &str| observed.latest(name).and_then(Run::exit).map(|exit| exit.code);
    let failed_init = pod.spec.init_containers.iter().any(|container| {
        !container.is_sidecar()
            && policy == RestartPolicy::Never
            && code(&container.name).is_some_and(|code| code != 0)
    });
    if failed_init {
        return end(Phase::Failed);
    }
    let mut phase = Phase::Succeeded;
    for container in &pod.spec.containers {
        let code = code(&container.name).filter(|code| is_done(policy, *code))?;
        if code != 0 {
            phase = Phase::Failed;
        }
    }
    end(phase)
}

/// When `activeDeadlineSeconds` is over.
pub(super) fn deadline(pod: &Pod) -> Option<Time> {
    let seconds = u64::try_from(pod.spec.active_deadline_seconds?).ok()?;
    Some(pod.status.start_time?.plus(Duration::from_secs(seconds)))
}

/// Kills what runs: regular containers at once, then the sidecars from last to first; then the
/// sandboxes; then the volumes; then the final report.
pub(super) fn terminate(pod: &Pod, observed: &Observed, memory: &Memory, now: Time) -> Plan {
    let mut plan = Plan::default();
    let whole = Duration::from_secs(pod.grace().max(1).unsigned_abs());
    let spent = memory.terminating.map_or(Duration::ZERO, |(_, since)| now.since(since));
    let grace = whole.saturating_sub(spent).max(Duration::from_secs(1));
    let sidecar = |run: &Run| {
        pod.spec.init_containers.iter().position(|c| c.name == run.name && c.is_sidecar())
    };
    let kill = |run: &Run| Step::Kill {
        id: run.id.clone(),
        container: run.name.clone(),
        grace,
        why: format!("Stopping container {}", run.name),
    };
    plan.steps.extend(observed.running().filter(|run| sidecar(run).is_none()).map(kill));
    if plan.steps.is_empty() {
        let last = observed.running().max_by_key(|run| sidecar(run));
        plan.steps.extend(last.map(kill));
    }
    if !plan.steps.is_empty() {
        return plan;
    }
    let ready = observed.sandboxes.iter().filter(|sandbox| sandbox.ready);
    plan.steps.extend(ready.map(|sandbox| Step::StopSandbox { id: sandbox.id.clone() }));
    if !memory.unmounted {
        plan.steps.push(Step::Unmount);
    }
    if plan.steps.is_empty() && pod.deleting() && !memory.finished {
        plan.steps.push(Step::Finish);
    }
    plan
}

/// The plan of a pod whose object is gone: everything goes, soon.
pub fn cleanup(observed: &Observed, memory: &Memory, grace: Duration) -> Plan {
    let mut plan = Plan::default();
    plan.steps.extend(observed.running().map(|run| Step::Kill {
        id: run.id.clone(),
        container: run.name.clone(),
        grace,
        why: format!("Stopping container {}", run.name),
    }));
    if !plan.steps.is_empty() {
        return plan;
    }
    let ready = observed.sandboxes.iter().filter(|sandbox| sandbox.ready);
    plan.steps.extend(ready.map(|sandbox| Step::StopSandbox { id: sandbox.id.clone() }));
    if !memory.unmounted {
        plan.steps.push(Step::Unmount);
    }
    let gone = observed.containers.iter().filter(|run| !matches!(run.state, State::Running { .. }));
    plan.steps.extend(gone.map(|run| Step::RemoveContainer { id: run.id.clone() }));
    let gone = observed.sandboxes.iter();
    plan.steps.extend(gone.map(|sandbox| Step::RemoveSandbox { id: sandbox.id.clone() }));
    plan
}
