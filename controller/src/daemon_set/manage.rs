//! Which nodes lack a pod, and which pods are too many, have ended or are where they should not
//! be.

use std::sync::Arc;

use client::Entry;
use proto::view::pod::Pod;

use super::nodes::Fit;
use super::{LONGEST_BACKOFF, Pods, Round, rolling};

impl Round<'_> {
    pub(super) fn manage(&mut self) {
        let nodes: Vec<(String, Fit)> =
            self.nodes.iter().map(|(node, fit)| (node.clone(), *fit)).collect();
        for (node, fit) in nodes {
            let pods = self.pods.get(&node).cloned();
            match (fit, pods) {
                (Fit::Runs, None) => self.creations.push(node),
                (Fit::Leaves, Some(pods)) => {
                    self.deletions.extend(pods.into_iter().filter(|pod| !pod.is_terminating()));
                }
                (_, Some(pods)) => self.keep_one(&node, fit, pods),
                (_, None) => {}
            }
        }
        // Pods for a node that is no more would never be scheduled, and so no one else ends them.
        let lost = self.pods.iter().filter(|(node, _)| !self.nodes.contains_key(*node));
        let lost = lost.flat_map(|(_, pods)| pods);
        let lost = lost.filter(|pod| pod.spec.node_name.is_empty() && !pod.is_terminating());
        self.deletions.extend(lost.cloned().collect::<Vec<_>>());
    }

    /// Ends what has ended, and all but one of the others; two while one replaces the other.
    fn keep_one(&mut self, node: &str, fit: Fit, mut pods: Pods) {
        pods.retain(|pod| !pod.is_terminating());
        let surges = rolling::surges(self.set);
        if pods.is_empty() && surges && fit == Fit::Runs {
            // The new one need not wait until the old one is gone.
            self.creations.push(node.to_string());
        }
        let mut running: Pods = Vec::new();
        for pod in pods {
            match pod.status.phase.as_str() {
                "Failed" => self.end_failed(node, pod),
                "Succeeded" => self.end_succeeded(node, pod),
                _ => running.push(pod),
            }
        }
        match surges {
            true if running.len() > 1 => self.keep_two(running),
            true => {}
            false => self.deletions.extend(running.into_iter().skip(1)),
        }
    }

    /// Not both of a kind, and the old one only until the new one can do its work, or where the
    /// old one cannot.
    fn keep_two(&mut self, running: Pods) {
        let (new, old): (Pods, Pods) = running.into_iter().partition(|pod| self.is_updated(pod));
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!old.is_ready() || self.is_available(new))
        {
            self.deletions.push(old.clone());
        }
        self.deletions.extend(new.into_iter().skip(1));
        self.deletions.extend(old.into_iter().skip(1));
    }

    /// A pod that fails again and again is replaced ever more slowly.
    fn end_failed(&mut self, node: &str, pod: Arc<Entry<Pod>>) {
        let (set, meta) = (&self.set.metadata, &pod.metadata);
        let due = self.view.replaceable(set, node, meta, LONGEST_BACKOFF, self.now);
        if due > self.now {
            self.plan.look_again(due);
            return;
        }
        let (namespace, name) = (&pod.metadata.namespace, &pod.metadata.name);
        let message = format!(
            "Found failed daemon pod {namespace}/{name} on node {node}, will try to kill it"
        );
        self.plan.event(&self.regarding, "Warning", "FailedDaemonPod", message);
        self.deletions.push(pod);
    }

    fn end_succeeded(&mut self, node: &str, pod: Arc<Entry<Pod>>) {
        let (namespace, name) = (&pod.metadata.namespace, &pod.metadata.name);
        let message = format!(
            "Found succeeded daemon pod {namespace}/{name} on node {node}, will try to delete it"
        );
        self.plan.event(&self.regarding, "Normal", "SucceededDaemonPod", message);
        self.deletions.push(pod);
    }
}
