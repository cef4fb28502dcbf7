//! Amounts of resources, as sums that are cheap to add and compare.

use std::collections::BTreeMap;

use proto::view;
use proto::view::pod::{Container, Pod};

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

    /// The larger of both, resource by resource.
    fn raise_to(&mut self, other: &Resources) {
        self.cpu = self.cpu.max(other.cpu);
        self.memory = self.memory.max(other.memory);
        self.ephemeral_storage = self.ephemeral_storage.max(other.ephemeral_storage);
        for (name, amount) in &other.extended {
            let mine = self.extended.entry(name.clone()).or_default();
            *mine = (*mine).max(*amount);
        }
    }
}

/// What a pod takes from its node: the containers' and sidecars' sum, or the most that the init
/// containers need at one time (with the sidecars started before them), plus the overhead. One pod.
pub fn of_pod(pod: &Pod) -> Resources {
    fold(pod, |container| Resources::of(&container.resources.requests))
}

/// The same for scores: containers that ask for no CPU or memory count with a default.
pub fn for_score(pod: &Pod) -> (i64, i64) {
    let sum = fold(pod, |container| {
        let requests = &container.resources.requests;
        let mut asked = Resources::of(requests);
        if !requests.contains_key("cpu") {
            asked.cpu = UNASKED_CPU;
        }
        if !requests.contains_key("memory") {
            asked.memory = UNASKED_MEMORY;
        }
        asked
    });
    (sum.cpu, sum.memory)
}

fn fold(pod: &Pod, requests: impl Fn(&Container) -> Resources) -> Resources {
    let mut running = Resources::default();
    for container in &pod.spec.containers {
        running.add(&requests(container));
    }
    let mut sidecars = Resources::default();
    let mut starting = Resources::default();
    for container in &pod.spec.init_containers {
        let mut now = requests(container);
        now.add(&sidecars);
        starting.raise_to(&now);
        if container.restart_policy == "Always" {
            sidecars = now;
        }
    }
    running.add(&sidecars);
    running.raise_to(&starting);
    running.add(&Resources::of(&pod.spec.overhead));
    running.pods = 1;
    running
}
