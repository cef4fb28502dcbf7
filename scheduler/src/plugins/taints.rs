//! TaintToleration: NoSchedule and NoExecute taints keep pods away, PreferNoSchedule taints count
//! against a node (Kubernetes: Taints and Tolerations).

use std::sync::Arc;

use proto::view::node::Taint;
use proto::view::pod::Toleration;

use super::{Event, Judge, Plugin, Rejection, proportional};
use crate::profile::Args;
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

pub struct TaintToleration;

struct Tolerant(Arc<PodInfo>);

impl Tolerant {
    fn tolerations(&self) -> &[Toleration] {
        &self.0.object.spec.tolerations
    }
}

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn weight(&self) -> i64 {
        3
    }

    fn cures(&self) -> &'static [Event] {
        &[Event::NodeAdded, Event::NodeTaints]
    }

    fn judge(&self, pod: &Arc<PodInfo>, _: &Snapshot, _: &Args) -> Option<Box<dyn Judge>> {
        Some(Box::new(Tolerant(pod.clone())))
    }
}

impl Judge for Tolerant {
    fn filter(&self, node: &NodeInfo, _: &Snapshot) -> Option<Rejection> {
        match node.object.spec.taints.iter().any(|taint| repels(taint, self.tolerations())) {
            true => Rejection::lasting("node(s) had untolerated taint(s)"),
            false => None,
        }
    }

    fn score(&self, node: &NodeInfo, _: &Snapshot) -> Option<i64> {
        let prefers_not = |taint: &&Taint| {
            taint.effect == "PreferNoSchedule" && !tolerates(self.tolerations(), taint)
        };
        Some(node.object.spec.taints.iter().filter(prefers_not).count() as i64)
    }

    fn is_relative(&self) -> bool {
        true
    }

    fn normalize(&self, scores: &mut [i64]) {
        proportional(scores, true);
    }
}

/// Whether the taint keeps a pod away that tolerates this much.
pub fn repels(taint: &Taint, tolerations: &[Toleration]) -> bool {
    matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute") && !tolerates(tolerations, taint)
}

/// Whether any toleration meets the taint.
pub fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| toleration.tolerates(taint))
}
