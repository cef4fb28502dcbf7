//! Amounts of resources, as sums that are cheap to add and compare.

use std::collections::BTreeMap;

use proto::quantity::Quantity;
use proto::quota::{containers_total, pod_total};
use proto::view;
use proto::view::pod::Pod;

/// CPU in thousandths, everything else in units or bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    pub cpu: i64,
    pub memory: i64,
    pub ephemeral_storage: i64,
    pub pods: i64,
    /// Extended resources and huge pages.
    pub extended: BTreeMap<String, i64>,
}

/// What a container that asks for nothing counts as in scores, so that such pods spread too
/// (100m and 200 MB, as kube-scheduler has it).
const UNASKED_CPU: i64 = 100;
const UNASKED_MEMORY: i64 = 200 * 1024 * 1024;

impl Resources {
    /// From a resource list such as `status.allocatable` or `resources.requests`.
    pub fn of(list: &view::Resources) -> Resources {
        let mut sum = Resources::default();
        for (name, quantity) in list {
            match name.as_str() {
                "cpu" => sum.cpu = quantity.milli(),
                "memory" => sum.memory = quantity.value(),
                "ephemeral-storage" => sum.ephemeral_storage = quantity.value(),
                "pods" => sum.pods = quantity.value(),
                _ => {
                    sum.extended.insert(name.clone(), quantity.value());
                }
            }
        }
        sum
    }

    pub fn add(&mut self, other: &Resources) {
        self.change(other, 1);
    }

    pub fn subtract(&mut self, other: &Resources) {
        self.change(other, -1);
    }

    fn change(&mut self, other: &Resources, sign: i64) {
        self.cpu += sign * other.cpu;
        self.memory += sign * other.memory;
        self.ephemeral_storage += sign * other.ephemeral_storage;
        self.pods += sign * other.pods;
        for (name, amount) in &other.extended {
            *self.extended.entry(name.clone()).or_default() += sign * amount;
        }
    }
}

/// What a pod takes from its node: what is asked for it as a whole, or its containers' total, plus
/// the overhead. One pod.
pub fn of_pod(pod: &Pod) -> Resources {
    Resources { pods: 1, ..Resources::of(&pod_total(&pod.spec, |own| &own.requests, true)) }
}

/// The same for scores: containers that ask for no CPU or memory count with a default. Where the
/// pod asks for something as a whole, only if nobody asks for it.
pub fn for_score(pod: &Pod) -> (i64, i64) {
    let asked = pod_total(&pod.spec, |own| &own.requests, true);
    let defaults =
        [("cpu", Quantity::from_milli(UNASKED_CPU)), ("memory", Quantity::bytes(UNASKED_MEMORY))];
    let whole = pod.spec.resources.is_set();
    let of_containers = containers_total(&pod.spec, |container| {
        let mut requests = container.resources.requests.clone();
        for (name, amount) in defaults {
            if !(whole && asked.contains_key(name)) {
                requests.entry(name.to_string()).or_insert(amount);
            }
        }
        requests
    });
    let scored = |name: &str| {
        let of_pod = pod.spec.resources.requests.get(name);
        let amount = of_pod.or_else(|| of_containers.get(name)).copied().unwrap_or_default();
        amount + pod.spec.overhead.get(name).copied().unwrap_or_default()
    };
    (scored("cpu").milli(), scored("memory").value())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_pod_takes_and_counts_as() {
        let (cpu, memory) = (UNASKED_CPU, UNASKED_MEMORY);
        let asks = |cpu: &str| json!({"resources": {"requests": {"cpu": cpu}}});
        let cases = [
            (json!({"containers": [{}, {}]}), 0, (2 * cpu, 2 * memory)),
            (json!({"containers": [asks("1"), {}]}), 1000, (1000 + cpu, 2 * memory)),
            (
                json!({"containers": [asks("1"), {}], "overhead": {"cpu": "100m"}}),
                1100,
                (1100 + cpu, 2 * memory),
            ),
            // As a whole it asks for CPU, and nobody for memory.
            (
                json!({"containers": [asks("1"), {}], "resources": {"requests": {"cpu": "3"}}}),
                3000,
                (3000, 2 * memory),
            ),
            // As a whole for memory, of the containers one for CPU.
            (
                json!({"containers": [asks("1"), {}], "resources": {"requests": {"memory": "1"}}}),
                1000,
                (1000, 1),
            ),
            (
                json!({
                    "containers": [asks("1")],
                    "initContainers": [{"restartPolicy": "Always"}, asks("3")],
                }),
                3000,
                (3000 + cpu, 2 * memory),
            ),
        ];
        for (spec, requested, scored) in cases {
            let pod: Pod = serde_json::from_value(json!({ "spec": spec })).unwrap();
            let taken = of_pod(&pod);
            assert_eq!((taken.cpu, taken.pods), (requested, 1), "{spec}");
            assert_eq!(for_score(&pod), scored, "{spec}");
        }
    }
}
