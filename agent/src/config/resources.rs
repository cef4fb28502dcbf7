//! Requests and limits as cgroup settings (Kubernetes: Resource Management for Pods and
//! Containers).

use proto::cri::LinuxContainerResources;
use proto::quantity::Quantity;

use crate::observed::Applied;
use crate::pod::{Container, Pod, Qos, Resources};

/// Microseconds.
const PERIOD: i64 = 100_000;

/// What a container's cgroup gets. `memory` is the machine's, in bytes.
pub fn container_resources(
    pod: &Pod,
    container: &Container,
    memory: i64,
) -> LinuxContainerResources {
    let limit = |name| container_limit(pod, container, name);
    LinuxContainerResources {
        oom_score_adj: oom_score(pod, container, memory),
        ..cgroup(milli_cpu(&container.resources), limit("cpu"), limit("memory"))
    }
}

/// What the pod's cgroup gets: what is set for the pod as a whole, else the sum of its
/// containers, where all of them are limited.
pub fn pod_resources(pod: &Pod) -> LinuxContainerResources {
    let spec = &pod.spec;
    let containers = || spec.containers.iter().chain(&spec.init_containers);
    let limits = pod.container_total(|resources| &resources.limits);
    let overhead = |name: &str| spec.overhead.get(name).copied().unwrap_or_default();
    let total = |name: &str| -> Option<Quantity> {
        let whole = pod.level_resources().and_then(|whole| limit(whole, name));
        let all = containers().all(|container| limit(&container.resources, name).is_some());
        let sum = || limits.get(name).copied().filter(|_| all);
        Some(whole.or_else(sum)? + overhead(name))
    };
    // A container that names a limit only asks for as much.
    let asked = |name: &str| {
        let whole = pod.level_resources().and_then(|whole| whole.requests.get(name).copied());
        let sum = || {
            let mut pod = pod.clone();
            let spec = &mut pod.spec;
            for container in spec.containers.iter_mut().chain(&mut spec.init_containers) {
                let Resources { requests, limits, .. } = &mut container.resources;
                if let Some(limit) = limits.get(name) {
                    requests.entry(name.into()).or_insert(*limit);
                }
            }
            pod.container_total(|resources| &resources.requests).get(name).copied()
        };
        whole.or_else(sum).unwrap_or_default() + overhead(name)
    };
    cgroup(asked("cpu").milli(), total("cpu"), total("memory"))
}

/// What the runtime itself needs for the pod, by its RuntimeClass.
pub fn overhead(pod: &Pod) -> LinuxContainerResources {
    let amount = |name: &str| pod.spec.overhead.get(name).copied();
    cgroup(amount("cpu").map_or(0, Quantity::milli), amount("cpu"), amount("memory"))
}

/// Of that, what a resize changes.
pub fn applied(pod: &Pod, container: &Container) -> Applied {
    let limit = |name| container_limit(pod, container, name);
    observed(&cgroup(milli_cpu(&container.resources), limit("cpu"), limit("memory")))
}

/// The same of the pod's own cgroup.
pub fn applied_to_pod(pod: &Pod) -> Applied {
    observed(&pod_resources(pod))
}

/// The same as a runtime tells it.
pub fn observed(resources: &LinuxContainerResources) -> Applied {
    Applied {
        shares: resources.cpu_shares,
        quota: resources.cpu_quota.max(0),
        memory: resources.memory_limit_in_bytes.max(0),
    }
}

fn cgroup(
    milli_cpu: i64,
    cpu: Option<Quantity>,
    memory: Option<Quantity>,
) -> LinuxContainerResources {
    let quota = cpu.filter(|limit| limit.milli() > 0);
    LinuxContainerResources {
        cpu_period: PERIOD,
        cpu_quota: quota.map_or(0, |limit| (limit.milli() * PERIOD / 1000).max(1000)),
        cpu_shares: (milli_cpu * 1024 / 1000).clamp(2, 262_144),
        memory_limit_in_bytes: memory.map_or(0, Quantity::value),
        ..Default::default()
    }
}

/// The request; a limit without one is the request.
fn milli_cpu(resources: &Resources) -> i64 {
    let request = resources.requests.get("cpu").or_else(|| resources.limits.get("cpu"));
    request.map_or(0, |request| request.milli())
}

fn limit(resources: &Resources, name: &str) -> Option<Quantity> {
    resources.limits.get(name).copied().filter(|limit| !limit.is_zero())
}

/// A container without a limit has the pod's.
fn container_limit(pod: &Pod, container: &Container, name: &str) -> Option<Quantity> {
    let whole = || pod.level_resources().and_then(|whole| limit(whole, name));
    limit(&container.resources, name).or_else(whole)
}

/// Kubernetes: Node out of memory behavior. Of what is requested for the pod as a whole each
/// container counts an equal part of what the containers have not requested themselves.
fn oom_score(pod: &Pod, container: &Container, memory: i64) -> i64 {
    let request = |resources: &Resources| {
        let request = resources.requests.get("memory").or_else(|| resources.limits.get("memory"));
        request.map_or(0, |request| request.value())
    };
    match pod.qos() {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let containers = pod.spec.containers.iter().chain(&pod.spec.init_containers);
            let containers: Vec<&Container> = containers.collect();
            let own = request(&container.resources);
            let share = pod.level_resources().map_or(0, |whole| {
                let together: i64 = containers.iter().map(|it| request(&it.resources)).sum();
                let count = i64::try_from(containers.len()).unwrap_or(1).max(1);
                (request(whole) - together).max(0) / count
            });
            let score = 1000 - 1000_i64.saturating_mul(own + share) / memory.max(1);
            score.clamp(3, 999)
        }
    }
}
