//! The one place where a failed decision becomes a sentence: for the PodScheduled condition, the
//! FailedScheduling event and `ctl why` alike.

use crate::cycle::Unschedulable;

/// As kube-scheduler words it: `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were
/// unschedulable.`
pub fn sentence(refused: &Unschedulable) -> String {
    if refused.nodes == 0 {
        return "no nodes available to schedule pods".into();
    }
    if let Some(reason) = &refused.everywhere {
        return format!("0/{} nodes are available: {reason}.", refused.nodes);
    }
    // Sorted as texts, counts first, which is upstream's order.
    let mut parts: Vec<String> =
        refused.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    format!("0/{} nodes are available: {}.", refused.nodes, parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worded_as_upstream() {
        let mut refused = Unschedulable { nodes: 3, ..Unschedulable::default() };
        refused.reasons.insert("node(s) were unschedulable".into(), 2);
        refused.reasons.insert("Insufficient cpu".into(), 1);
        let wanted = "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were unschedulable.";
        assert_eq!(sentence(&refused), wanted);
        assert_eq!(sentence(&Unschedulable::default()), "no nodes available to schedule pods");
    }
}
