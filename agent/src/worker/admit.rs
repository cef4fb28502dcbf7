//! Whether the node takes a pod, decided once: first by what the node is and how it is, then by whether
//! there are the devices and CPUs that it is to have, then by the ledger.

use super::Worker;
use crate::admission::{Rejection, preliminary};
use crate::events::WARNING;
use crate::observed::Observed;
use crate::plan::End;
use crate::pod::Pod;
use crate::resize;

impl Worker {
    /// Decides, once, whether the node takes the pod.
    pub(super) async fn admit(&mut self, observed: &Observed) {
        let Some(pod) = self.asked.clone().filter(|_| !self.judged) else { return };
        self.judged = true;
        let (context, status) = (&self.context, &pod.status);
        if status.phase.is_terminal() {
            return;
        }
        if !observed.is_empty() || status.start_time.is_some() || pod.deleting() {
            // It was taken before this agent was started, and has what it was given then.
            return context.allocations.keep(&resize::before(&pod, status), &self.ender);
        }
        if let Err(Rejection { reason, message }) = self.take(&pod).await {
            self.context.release(&self.id.uid);
            self.context.events.pod(&pod, None, WARNING, &reason, &message);
            let message = format!("Pod was rejected: {message}");
            self.memory.end = Some(End::failed(&reason, &message));
            self.memory.rejected = true;
        }
    }

    async fn take(&self, pod: &Pod) -> Result<(), Rejection> {
        let context = &self.context;
        let node = context.own.standing();
        preliminary(pod, &node)?;
        context.devices.allocate(pod).await.map_err(unexpected)?;
        context.cpus.allocate(pod).map_err(|error| match error.reason() {
            Some(reason) => Rejection::new(reason, error.to_string()),
            None => unexpected(error),
        })?;
        let verdict = context.allocations.admit(pod, &node, &self.ender);
        if verdict.as_ref().is_err_and(Rejection::depends_on_node)
            && let Some(node) = context.own.fresh().await
        {
            return context.allocations.admit(pod, &node, &self.ender);
        }
        verdict
    }
}

/// Nobody sends a pod to a node that has not what it asks for, unless he knows the node badly.
fn unexpected(error: impl std::fmt::Display) -> Rejection {
    let message = format!("Allocate failed due to {error}, which is unexpected");
    Rejection::new("UnexpectedAdmissionError", message)
}
