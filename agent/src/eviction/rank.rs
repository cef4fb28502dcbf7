//! Which pod goes first (Kubernetes: Node-pressure Eviction, "Pod selection for kubelet eviction").
//! Pure.

use std::cmp::{Ordering, Reverse};

use super::Signal;
use super::usage::{PodUsage, Written};
use crate::pod::Pod;

/// A pod and what it uses; None: nothing is known of it.
#[derive(Clone, Copy)]
pub struct Candidate<'a> {
    pub pod: &'a Pod,
    pub usage: Option<&'a PodUsage>,
}

/// Sorts the pods by who has to go first for this signal. `dedicated`: images and what containers
/// write are on a disk of their own.
pub fn rank(pods: &mut [Candidate<'_>], signal: Signal, dedicated: bool) {
    let resource = signal.resource();
    pods.sort_by(|a, b| {
        let (used_a, used_b) = (used(a, signal, dedicated), used(b, signal, dedicated));
        if resource == "pids" {
            let by_use = used_b.unwrap_or(0).cmp(&used_a.unwrap_or(0));
            return priority(a.pod).cmp(&priority(b.pod)).then(by_use);
        }
        let (Some(used_a), Some(used_b)) = (used_a, used_b) else {
            // Of whom nothing is known the worst is thought.
            return used_a.is_some().cmp(&used_b.is_some());
        };
        let over_a = used_a - requested(a.pod, resource);
        let over_b = used_b - requested(b.pod, resource);
        Reverse(over_a > 0)
            .cmp(&Reverse(over_b > 0))
            .then_with(|| priority(a.pod).cmp(&priority(b.pod)))
            .then_with(|| Ordering::reverse(over_a.cmp(&over_b)))
    });
}

fn priority(pod: &Pod) -> i32 {
    pod.spec.priority.unwrap_or(0)
}

fn requested(pod: &Pod, resource: &str) -> i64 {
    pod.requests().get(resource).map_or(0, |amount| amount.value())
}

fn used(candidate: &Candidate<'_>, signal: Signal, dedicated: bool) -> Option<i64> {
    let usage = candidate.usage?;
    let disk = |part: fn(Written) -> u64| {
        let (layers, all) = (part(usage.layers), part(usage.written?));
        Some(match signal {
            Signal::ImageFsAvailable | Signal::ImageFsInodesFree if dedicated => layers,
            _ if dedicated => all.saturating_sub(layers),
            _ => all,
        })
    };
    let used = match signal.resource() {
        "memory" => usage.memory,
        "pids" => usage.processes,
        "inodes" => disk(|written| written.inodes),
        _ => disk(|written| written.bytes),
    };
    used.map(|used| i64::try_from(used).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, priority: i32, request: i64) -> Pod {
        let requests = json!({"memory": request.to_string()});
        let spec = json!({"priority": priority, "containers": [
            {"name": "c", "resources": {"requests": requests}}]});
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
    }

    fn order(pods: &[(Pod, Option<PodUsage>)], signal: Signal, dedicated: bool) -> String {
        let mut all: Vec<Candidate<'_>> =
            pods.iter().map(|(pod, usage)| Candidate { pod, usage: usage.as_ref() }).collect();
        rank(&mut all, signal, dedicated);
        let names: Vec<&str> = all.iter().map(|one| one.pod.metadata.name.as_str()).collect();
        names.join(" ")
    }

    #[test]
    fn memory_over_request_then_priority_then_how_much() {
        let used = |bytes| Some(PodUsage { memory: Some(bytes), ..PodUsage::default() });
        let pods = [
            (pod("within", -9, 500), used(400)),
            (pod("over-important", 9, 100), used(900)),
            (pod("over-little", 0, 100), used(150)),
            (pod("over-much", 0, 100), used(300)),
            (pod("within-more", 5, 500), used(450)),
            (pod("unknown", 99, 100), None),
        ];
        let expected = "unknown over-much over-little over-important within within-more";
        assert_eq!(order(&pods, Signal::MemoryAvailable, false), expected);
        assert_eq!(order(&pods, Signal::AllocatableMemory, false), expected);
    }

    #[test]
    fn processes_by_priority_alone() {
        let used = |count| Some(PodUsage { processes: Some(count), ..PodUsage::default() });
        let pods = [
            (pod("important", 9, 0), used(900)),
            (pod("few", 0, 0), used(1)),
            (pod("many", 0, 0), used(50)),
            (pod("unknown", 0, 0), None),
        ];
        assert_eq!(order(&pods, Signal::PidAvailable, false), "many few unknown important");
    }

    #[test]
    fn disk_by_what_is_on_it() {
        let used = |layers: u64, others: u64, inodes: u64| {
            let written = Written { bytes: layers + others, inodes };
            let layers = Written { bytes: layers, inodes: 0 };
            Some(PodUsage { written: Some(written), layers, ..PodUsage::default() })
        };
        let pods = [
            (pod("layers", 0, 0), used(500, 10, 1)),
            (pod("volumes", 0, 0), used(10, 400, 2)),
            (pod("files", 0, 0), used(20, 20, 900)),
        ];
        assert_eq!(order(&pods, Signal::NodeFsAvailable, false), "layers volumes files");
        assert_eq!(order(&pods, Signal::NodeFsAvailable, true), "volumes files layers");
        assert_eq!(order(&pods, Signal::ImageFsAvailable, true), "layers files volumes");
        assert_eq!(order(&pods, Signal::NodeFsInodesFree, false), "files volumes layers");
    }
}
