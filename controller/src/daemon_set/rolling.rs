//! How a new template reaches the nodes: a few at a time, by ending old pods first or by running
//! new ones beside them.
//! <https://kubernetes.io/docs/tasks/manage-daemon/update-daemon-set/>

use std::sync::Arc;

use client::Entry;
use proto::view::IntOrString;
use proto::view::daemon_set::DaemonSet;
use proto::view::pod::Pod;

use super::nodes::Fit;
use super::{Pods, Round};

/// Whether new pods may run beside old ones.
pub fn surges(set: &DaemonSet) -> bool {
    let strategy = &set.spec.update_strategy;
    let surge = strategy.rolling_update.max_surge.as_ref();
    let some = surge.and_then(|surge| surge.scaled(100, true)).is_some_and(|surge| surge > 0);
    strategy.kind == "RollingUpdate" && some
}

/// How many nodes may have one pod more, and how many may have none that is available.
fn bounds(set: &DaemonSet, wanted: usize) -> (usize, usize) {
    let update = &set.spec.update_strategy.rolling_update;
    let resolve = |bound: &Option<IntOrString>, default: i64| {
        let bound = bound.as_ref().map_or(Some(default), |it| it.scaled(wanted as i64, true));
        bound.unwrap_or(0).max(0) as usize
    };
    match (resolve(&update.max_surge, 0), resolve(&update.max_unavailable, 1)) {
        // Nothing would ever move if neither were allowed.
        (0, 0) => (0, 1),
        bounds => bounds,
    }
}

/// The pods on a node that live: one of the new template and one of an old.
struct Pair {
    new: Option<Arc<Entry<Pod>>>,
    old: Option<Arc<Entry<Pod>>>,
}

impl Round<'_> {
    pub(super) fn roll(&mut self) {
        if self.set.spec.update_strategy.kind != "RollingUpdate" {
            return;
        }
        let wanted = self.nodes.values().filter(|fit| **fit == Fit::Runs).count();
        let (surge, unavailable) = bounds(self.set, wanted);
        let nodes: Vec<(String, Option<Pair>)> =
            self.pods.iter().map(|(node, pods)| (node.clone(), self.pair(pods))).collect();
        match surge {
            0 => self.replace(nodes, unavailable),
            _ => self.run_beside(nodes, surge),
        }
    }

    /// `None` where there are more than two: they are dealt with otherwise.
    fn pair(&self, pods: &Pods) -> Option<Pair> {
        let mut pair = Pair { new: None, old: None };
        for pod in pods.iter().filter(|pod| !pod.is_terminating()) {
            let slot = if self.is_updated(pod) { &mut pair.new } else { &mut pair.old };
            if slot.replace(pod.clone()).is_some() {
                return None;
            }
        }
        Some(pair)
    }

    /// Ends old pods: those that are not available anyway, and of the others as many as may be
    /// missing.
    fn replace(&mut self, nodes: Vec<(String, Option<Pair>)>, most: usize) {
        let (mut missing, mut useless, mut good) = (0, Vec::new(), Vec::new());
        for (_, pair) in nodes {
            match pair {
                Some(Pair { new: None, old: Some(old) }) if self.is_available(&old) => {
                    good.push(old)
                }
                Some(Pair { new: None, old: Some(old) }) => {
                    useless.push(old);
                    missing += 1;
                }
                Some(Pair { new: Some(new), old: None }) if self.is_available(&new) => {}
                _ => missing += 1,
            }
        }
        good.truncate(most.saturating_sub(missing));
        self.deletions.extend(useless.into_iter().chain(good));
    }

    /// Starts new pods beside old ones, and ends the old ones that are replaced.
    fn run_beside(&mut self, nodes: Vec<(String, Option<Pair>)>, most: usize) {
        let (mut beside, mut useless, mut good) = (0, Vec::new(), Vec::new());
        for (node, pair) in nodes {
            match pair {
                None => beside += 1,
                Some(Pair { old: None, .. }) => {}
                Some(Pair { old: Some(old), new: None }) => {
                    let runs = self.nodes.get(&node) == Some(&Fit::Runs);
                    let list = if self.is_available(&old) { &mut good } else { &mut useless };
                    list.extend(runs.then_some(node));
                }
                Some(Pair { old: Some(old), new: Some(new) }) => {
                    if self.is_available(&old) && !self.is_available(&new) {
                        beside += 1;
                    } else {
                        self.deletions.push(old);
                    }
                }
            }
        }
        good.truncate(most.saturating_sub(beside));
        self.creations.extend(useless.into_iter().chain(good));
    }
}
