//! Pods that write more than they may on the node's disk (Kubernetes: Local ephemeral storage,
//! "Resource emphemeral-storage management"; emptyDir `sizeLimit`). Pure.

use proto::quantity::Quantity;

use super::usage::PodUsage;
use crate::pod::{Pod, VolumeSource};

const STORAGE: &str = "ephemeral-storage";

/// Is there anything that the pod may not exceed? If not it need not be measured.
pub fn is_limited(pod: &Pod) -> bool {
    limit(pod).is_some() || sized(pod).next().is_some()
}

/// Why the pod has to go, if it has.
pub fn excess(pod: &Pod, usage: &PodUsage) -> Option<String> {
    for (name, limit) in sized(pod) {
        if usage.volumes.get(name).is_some_and(|used| exceeds(*used, limit)) {
            return Some(format!(
                "Usage of EmptyDir volume {name:?} exceeds the limit {:?}. ",
                limit.to_string()
            ));
        }
    }
    let written = usage.written.map(|written| written.bytes);
    if let (Some(limit), Some(used)) = (limit(pod), written)
        && exceeds(used, limit)
    {
        return Some(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "
        ));
    }
    usage.containers.iter().find_map(|container| {
        let own = pod.container(&container.name)?.resources.limits.get(STORAGE)?;
        exceeds(container.written?, *own).then(|| {
            format!(
                "Container {} exceeded its local ephemeral storage limit {:?}. ",
                container.name,
                own.to_string()
            )
        })
    })
}

fn exceeds(used: u64, limit: Quantity) -> bool {
    i64::try_from(used).unwrap_or(i64::MAX) > limit.value()
}

/// What its containers may write together; None where none is limited.
fn limit(pod: &Pod) -> Option<Quantity> {
    pod.container_total(|resources| &resources.limits).get(STORAGE).copied()
}

/// Its emptyDirs that may only be so large.
fn sized(pod: &Pod) -> impl Iterator<Item = (&str, Quantity)> {
    pod.spec.volumes.iter().filter_map(|volume| match volume.source() {
        Ok(VolumeSource::EmptyDir(empty)) => Some((volume.name.as_str(), empty.size_limit?)),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::usage::{ContainerUsage, Written};
    use super::*;

    #[test]
    fn what_a_pod_may_write() {
        let container = |name: &str, limit: &str| {
            json!({"name": name,
            "resources": {"limits": {"ephemeral-storage": limit}}})
        };
        let spec = json!({
            "volumes": [
                {"name": "cache", "emptyDir": {"sizeLimit": "1Mi"}},
                {"name": "free", "emptyDir": {}},
            ],
            "containers": [container("a", "1Mi"), container("b", "2Mi")],
        });
        let pod: Pod = serde_json::from_value(json!({ "spec": spec })).unwrap();
        assert!(is_limited(&pod));
        let usage = |cache: u64, a: u64, all: u64| PodUsage {
            written: Some(Written { bytes: all << 10, inodes: 1 }),
            containers: vec![ContainerUsage {
                name: "a".into(),
                memory: None,
                written: Some(a << 10),
            }],
            volumes: [("cache".to_string(), cache << 10), ("free".to_string(), 9 << 30)].into(),
            ..PodUsage::default()
        };
        let table = [
            (usage(1024, 1024, 3072), None),
            (
                usage(1025, 9999, 9999),
                Some("Usage of EmptyDir volume \"cache\" exceeds the limit \"1Mi\". "),
            ),
            (
                usage(0, 9999, 3073),
                Some(
                    "Pod ephemeral local storage usage exceeds the total limit of containers 3Mi. ",
                ),
            ),
            (
                usage(0, 1025, 3000),
                Some("Container a exceeded its local ephemeral storage limit \"1Mi\". "),
            ),
        ];
        for (usage, expected) in table {
            assert_eq!(excess(&pod, &usage).as_deref(), expected, "{usage:?}");
        }
        let free = json!({"spec": {"containers": [{"name": "a"}],
            "volumes": [{"name": "v", "emptyDir": {}}]}});
        let free: Pod = serde_json::from_value(free).unwrap();
        assert!(!is_limited(&free));
        assert_eq!(excess(&free, &usage(9999, 9999, 9999)), None);
    }
}
