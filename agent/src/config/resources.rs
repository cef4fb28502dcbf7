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
    let resources = &container.resources;
    LinuxContainerResources {
        oom_score_adj: oom_score(pod, resources, memory),
        ..cgroup(milli_cpu(resources), limit(resources, "cpu"), limit(resources, "memory"))
    }
}

/// What the pod's cgroup gets: the sum of its containers, where all of them are limited.
pub fn pod_resources(pod: &Pod) -> LinuxContainerResources {
    let spec = &pod.spec;
    let sidecars = spec.init_containers.iter().filter(|container| container.is_sidecar());
    let together: Vec<&Container> = spec.containers.iter().chain(sidecars).collect();
    let init: Vec<&Container> =
        spec.init_containers.iter().filter(|container| !container.is_sidecar()).collect();
    let overhead = |name: &str| spec.overhead.get(name).copied().unwrap_or(Quantity::new(0));
    let total = |name: &str| -> Option<Quantity> {
        let sum = together.iter().map(|c| limit(&c.resources, name)).sum::<Option<Quantity>>()?;
        let largest = init.iter().map(|c| limit(&c.resources, name));
        let largest = largest.collect::<Option<Vec<Quantity>>>()?.into_iter().max();
        Some(largest.map_or(sum, |largest| largest.max(sum)) + overhead(name))
    };
    let requested: i64 = together.iter().map(|c| milli_cpu(&c.resources)).sum();
    let largest = init.iter().map(|c| milli_cpu(&c.resources)).max().unwrap_or(0);
    cgroup(requested.max(largest) + overhead("cpu").milli(), total("cpu"), total("memory"))
}

/// Of that, what a resize changes.
pub fn applied(container: &Container) -> Applied {
    let resources = &container.resources;
    let (cpu, memory) = (limit(resources, "cpu"), limit(resources, "memory"));
    observed(&cgroup(milli_cpu(resources), cpu, memory))
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

/// Kubernetes: Node out of memory behavior.
fn oom_score(pod: &Pod, resources: &Resources, memory: i64) -> i64 {
    match pod.qos() {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let request =
                resources.requests.get("memory").or_else(|| resources.limits.get("memory"));
            let request = request.map_or(0, |request| request.value());
            let score = 1000 - 1000_i64.saturating_mul(request) / memory.max(1);
            score.clamp(3, 999)
        }
    }
}
