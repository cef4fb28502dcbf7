//! What an evicted pod is told. Pure.

use proto::quantity::Quantity;

use super::usage::{Observations, PodUsage};
use super::{Threshold, quantity};
use crate::pod::Pod;

/// The sentence for a pod that has to go for the first of these thresholds.
pub fn message(
    pod: &Pod,
    usage: Option<&PodUsage>,
    threshold: &Threshold,
    seen: &Observations,
) -> String {
    let resource = threshold.signal.resource();
    let mut message = format!("The node was low on resource: {resource}. ");
    let amount = |bytes: i64| match resource {
        "memory" | "ephemeral-storage" => Quantity::bytes(bytes),
        _ => Quantity::new(bytes),
    };
    if let Some(observation) = seen.get(&threshold.signal) {
        let needed = amount(quantity(threshold, observation));
        let available = amount(observation.available);
        message += &format!("Threshold quantity: {needed}, available: {available}. ");
    }
    for container in usage.into_iter().flat_map(|usage| &usage.containers) {
        let regular = pod.spec.containers.iter().find(|one| one.name == container.name);
        let Some(regular) = regular else { continue };
        let used = match resource {
            "memory" => container.memory,
            "ephemeral-storage" => container.written,
            _ => None,
        };
        let Some(used) = used else { continue };
        let used = Quantity::bytes(i64::try_from(used).unwrap_or(i64::MAX));
        let request = regular.resources.requests.get(resource).copied().unwrap_or_default();
        if used > request {
            let name = &container.name;
            message += &format!(
                "Container {name} was using {used}, request is {request}, has larger consumption \
                 of {resource}. "
            );
        }
    }
    message
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::super::usage::{ContainerUsage, Observation};
    use super::super::{Limit, Signal};
    use super::*;

    #[test]
    fn the_kubelets_words() {
        let requests = json!({"requests": {"memory": "1Mi"}});
        let spec = json!({"containers": [
            {"name": "a"}, {"name": "b", "resources": requests}, {"name": "c"}]});
        let pod: Pod = serde_json::from_value(json!({ "spec": spec })).unwrap();
        let container =
            |name: &str, memory| ContainerUsage { name: name.into(), memory, written: None };
        let containers =
            vec![container("a", Some(5 << 10)), container("b", Some(9)), container("c", None)];
        let usage = PodUsage { containers, ..PodUsage::default() };
        let threshold =
            |signal, limit| Threshold { signal, limit, grace: Duration::ZERO, reclaim: None };
        let memory = threshold(Signal::MemoryAvailable, Limit::Percent(10.0));
        let seen = Observation { available: 50 << 10, capacity: 1000 << 10 };
        let seen: Observations =
            [(Signal::MemoryAvailable, seen), (Signal::PidAvailable, seen)].into();
        assert_eq!(
            message(&pod, Some(&usage), &memory, &seen),
            "The node was low on resource: memory. Threshold quantity: 100Ki, available: 50Ki. \
             Container a was using 5Ki, request is 0, has larger consumption of memory. "
        );
        let pids = threshold(Signal::PidAvailable, Limit::Amount(7));
        assert_eq!(
            message(&pod, None, &pids, &seen),
            "The node was low on resource: pids. Threshold quantity: 7, available: 51200. "
        );
    }
}
