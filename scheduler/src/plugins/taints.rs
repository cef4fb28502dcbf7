//! TaintToleration: NoSchedule and NoExecute taints keep pods away, PreferNoSchedule taints count
//! against a node (Kubernetes: Taints and Tolerations).

use proto::view::node::Taint;
use proto::view::pod::Toleration;

use super::{Event, Judge, Plugin, Reason, proportional};
use crate::snapshot::{NodeInfo, PodInfo, Snapshot};

pub struct TaintToleration;

struct Tolerant<'a>(&'a [Toleration]);

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

    fn judge<'a>(&self, pod: &'a PodInfo, _: &'a Snapshot) -> Option<Box<dyn Judge + 'a>> {
        Some(Box::new(Tolerant(&pod.object.spec.tolerations)))
    }
}

impl Judge for Tolerant<'_> {
    fn filter(&self, node: &NodeInfo) -> Vec<Reason> {
        let repels = |taint: &Taint| {
            matches!(taint.effect.as_str(), "NoSchedule" | "NoExecute") && !tolerates(self.0, taint)
        };
        match node.object.spec.taints.iter().any(repels) {
            true => vec!["node(s) had untolerated taint(s)".into()],
            false => Vec::new(),
        }
    }

    fn score(&self, node: &NodeInfo) -> Option<i64> {
        let prefers_not =
            |taint: &&Taint| taint.effect == "PreferNoSchedule" && !tolerates(self.0, taint);
        Some(node.object.spec.taints.iter().filter(prefers_not).count() as i64)
    }

    fn normalize(&self, scores: &mut [i64]) {
        proportional(scores, true);
    }
}

/// Whether any toleration meets the taint.
pub fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|toleration| toleration.tolerates(taint))
}
