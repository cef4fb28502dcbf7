//! All containers of a pod begin anew in their sandbox, because one of them has ended in a way for
//! which its rules ask that (Kubernetes: Pod Lifecycle, "Restart All Containers"). What runs is
//! killed, then every container is removed, those that asked for it last: until they are gone it
//! can be seen what is under way, whatever happens to the agent.

use std::time::Duration;

use super::{Plan, Step, Work};
use crate::backoff::CRASH;
use crate::observed::{Container as Run, Observed};
use crate::pod::{Container, OnExit, Pod};

/// The ended containers of the current sandbox that ask for it.
pub fn triggers<'a>(pod: &'a Pod, observed: &'a Observed) -> Vec<(&'a Container, &'a Run)> {
    let Some(sandbox) = observed.current().filter(|_| pod.may_restart_all()) else {
        return Vec::new();
    };
    let asks = |container: &'a Container| {
        let run = observed.latest_in(&sandbox.id, &container.name)?;
        let asks = pod.on_exit(container, run.exit()?.code) == OnExit::RestartAll;
        asks.then_some((container, run))
    };
    pod.containers().filter_map(asks).collect()
}

impl Work<'_> {
    /// Plans it; false when nobody asks for it.
    pub(super) fn restart_all(&self, plan: &mut Plan) -> bool {
        let triggers = triggers(self.pod, self.observed);
        if triggers.is_empty() {
            return false;
        }
        let ours = |run: &&Run| run.sandbox == self.sandbox && !self.pod.is_ephemeral(&run.name);
        let running = self.observed.running().filter(ours);
        // A restart is swift: neither hooks nor grace.
        plan.steps.extend(running.map(|run| Step::Kill {
            id: run.id.clone(),
            container: run.name.clone(),
            grace: Duration::ZERO,
            after: Vec::new(),
            why: format!("Stopping container {}", run.name),
        }));
        if plan.steps.iter().any(|step| matches!(step, Step::Kill { .. })) {
            return true;
        }
        for (container, run) in &triggers {
            let ended = run.exit().and_then(|exit| exit.finished).unwrap_or(self.now);
            let backoff = self.memory.crashes.get(&container.name);
            let due = backoff.and_then(|backoff| Some((backoff, backoff.due(CRASH, ended)?)));
            if let Some((backoff, due)) = due.filter(|(_, due)| *due > self.now) {
                self.crash_loop(plan, container, backoff, due);
            }
        }
        if !plan.waiting.is_empty() {
            return true;
        }
        let asked = |run: &Run| triggers.iter().any(|(_, trigger)| trigger.id == run.id);
        let mut all: Vec<&Run> = self.observed.containers.iter().filter(ours).collect();
        all.sort_by_key(|run| asked(run));
        plan.steps.extend(all.into_iter().map(|run| Step::Reset {
            id: run.id.clone(),
            container: run.name.clone(),
            crash: asked(run),
        }));
        true
    }
}
