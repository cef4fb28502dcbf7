//! The one place where a failed decision becomes a sentence: for the PodScheduled condition, the
//! FailedScheduling event and `ctl why` alike.

use std::collections::BTreeMap;

use crate::cycle::Unschedulable;
use crate::plugins::Reason;
use crate::preemption::Preemption;

/// As kube-scheduler words it: `0/3 nodes are available: 1 Insufficient cpu, 2 node(s) were
/// unschedulable. preemption: …`
pub fn sentence(refused: &Unschedulable) -> String {
    if refused.nodes == 0 {
        return "no nodes available to schedule pods".into();
    }
    let mut sentence = match &refused.everywhere {
        Some(reason) => format!("0/{} nodes are available: {reason}.", refused.nodes),
        None => unavailable(refused.nodes, &refused.reasons),
    };
    let cure = match &refused.preemption {
        None | Some(Preemption::Found(_)) => return sentence,
        Some(Preemption::Refused(why)) => (*why).to_string(),
        Some(Preemption::Useless { nodes, reasons }) => unavailable(*nodes, reasons),
    };
    if let Some(devices) = refused.devices_back {
        sentence += &format!(" {devices},");
    }
    sentence += &format!(" preemption: {cure}");
    sentence
}

/// Sorted as texts, counts first, which is upstream's order.
fn unavailable(nodes: usize, reasons: &BTreeMap<Reason, usize>) -> String {
    let mut parts: Vec<String> =
        reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    parts.sort();
    format!("0/{nodes} nodes are available: {}.", parts.join(", "))
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
        let never = "not eligible due to preemptionPolicy=Never.";
        refused.preemption = Some(Preemption::Refused(never));
        assert_eq!(sentence(&refused), format!("{wanted} preemption: {never}"));
        refused.devices_back = Some("no new claims to deallocate");
        let tail = "no new claims to deallocate, preemption:";
        assert_eq!(sentence(&refused), format!("{wanted} {tail} {never}"));
        let reasons = BTreeMap::from([
            ("Preemption is not helpful for scheduling".into(), 2),
            ("No preemption victims found for incoming pod".into(), 1),
        ]);
        refused.preemption = Some(Preemption::Useless { nodes: 3, reasons });
        assert_eq!(
            sentence(&refused),
            format!(
                "{wanted} {tail} 0/3 nodes are available: 1 No preemption victims found for \
                 incoming pod, 2 Preemption is not helpful for scheduling."
            )
        );
        assert_eq!(sentence(&Unschedulable::default()), "no nodes available to schedule pods");
    }
}
