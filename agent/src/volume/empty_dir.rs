//! emptyDir: on the disk, in memory or in huge pages.
//! <https://kubernetes.io/docs/concepts/storage/volumes/#emptydir>

use std::collections::BTreeSet;
use std::path::Path;

use proto::quantity::Quantity;

use super::machine::{io_error, make};
use super::{SetUpError, mounts};
use crate::downward::Facts;
use crate::pod::volume::EmptyDir;
use crate::pod::{Container, Pod};

/// Makes the folder `dir` the volume, unless it is.
pub fn mount(dir: &Path, empty: &EmptyDir, pod: &Pod, facts: &Facts) -> Result<(), SetUpError> {
    make(dir, 0o777)?;
    match empty.medium.as_str() {
        "" => {}
        "Memory" => {
            let size = size(empty, pod, facts).map_or(0, Quantity::value);
            mounts::tmpfs(dir, size).map_err(io_error("mount a tmpfs at", dir))?;
        }
        medium if medium == "HugePages" || medium.starts_with("HugePages-") => {
            let size = page_size(medium, pod)?;
            mounts::hugetlbfs(dir, size.value()).map_err(io_error("mount huge pages at", dir))?;
            make(dir, 0o777)?;
        }
        medium => return Err(SetUpError::Unsupported(format!("emptyDir of medium {medium}"))),
    }
    let group = pod.spec.security_context.fs_group.and_then(|group| u32::try_from(group).ok());
    if let Some(group) = group {
        std::os::unix::fs::chown(dir, None, Some(group)).map_err(io_error("chown", dir))?;
        make(dir, 0o2777)?;
    }
    Ok(())
}

/// How large a volume in memory may become: as the node, the pod and the volume allow.
fn size(empty: &EmptyDir, pod: &Pod, facts: &Facts) -> Option<Quantity> {
    let node = facts.allocatable.get("memory").copied();
    let bounds = [node, memory_limit(pod), empty.size_limit];
    bounds.into_iter().flatten().filter(|bound| !bound.is_zero()).min()
}

/// What the pod's containers may have together.
fn memory_limit(pod: &Pod) -> Option<Quantity> {
    let of = |container: &Container| container.resources.limits.get("memory").copied();
    let whole = pod.spec.resources.as_ref().and_then(|all| all.limits.get("memory").copied());
    let sum =
        |limits: &mut dyn Iterator<Item = Quantity>| limits.reduce(|total, limit| total + limit);
    let sidecars = pod.spec.init_containers.iter().filter(|one| one.is_sidecar());
    let running = sum(&mut pod.spec.containers.iter().chain(sidecars).filter_map(of));
    let starting = pod.spec.init_containers.iter().filter_map(of).max();
    whole.or(running.max(starting))
}

/// Of the huge pages that the volume is of, and which the node has.
fn page_size(medium: &str, pod: &Pod) -> Result<Quantity, SetUpError> {
    let asked = match medium.strip_prefix("HugePages-") {
        Some(size) => size.to_string(),
        None => {
            let all = pod.spec.init_containers.iter().chain(&pod.spec.containers);
            let names = all
                .flat_map(|one| one.resources.limits.keys().chain(one.resources.requests.keys()));
            let sizes: BTreeSet<&str> =
                names.filter_map(|name| name.strip_prefix("hugepages-")).collect();
            match Vec::from_iter(sizes).as_slice() {
                [one] => one.to_string(),
                several => return Err(SetUpError::PageSizes(several.len())),
            }
        }
    };
    let bad = || SetUpError::Unsupported(format!("emptyDir of medium {medium}"));
    let size: Quantity = asked.parse().map_err(|_| bad())?;
    let folder = format!("/sys/kernel/mm/hugepages/hugepages-{}kB", size.value() / 1024);
    let there = std::fs::read_to_string(Path::new(&folder).join("nr_hugepages"));
    match there.is_ok_and(|count| count.trim() != "0") {
        true => Ok(size),
        false => Err(SetUpError::HugePages(asked)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(containers: Value, init: Value) -> Pod {
        serde_json::from_value(json!({"spec": {"containers": containers, "initContainers": init}}))
            .unwrap()
    }

    fn limit(amount: &str) -> Value {
        json!({"name": "c", "resources": {"limits": {"memory": amount}}})
    }

    #[test]
    fn the_least_of_all_bounds() {
        let facts = Facts {
            allocatable: [("memory".to_string(), "8Gi".parse().unwrap())].into(),
            ..Facts::default()
        };
        for (containers, init, limit, expected) in [
            (json!([{"name": "c"}]), json!([]), None, "8Gi"),
            (json!([{"name": "c"}]), json!([]), Some("1Gi"), "1Gi"),
            (json!([limit("1Gi"), limit("2Gi")]), json!([]), None, "3Gi"),
            (json!([limit("1Gi"), limit("2Gi")]), json!([]), Some("4Gi"), "3Gi"),
            (json!([limit("1Gi")]), json!([limit("2Gi")]), None, "2Gi"),
            (json!([{"name": "c"}]), json!([]), Some("16Gi"), "8Gi"),
        ] {
            let size_limit = limit.map(|limit| limit.parse().unwrap());
            let empty = EmptyDir { medium: "Memory".into(), size_limit };
            let found = size(&empty, &pod(containers.clone(), init), &facts);
            assert_eq!(found, Some(expected.parse().unwrap()), "{containers} {limit:?}");
        }
    }

    #[test]
    fn huge_pages_that_are_not_there() {
        let none = pod(json!([{"name": "c"}]), json!([]));
        let error = page_size("HugePages-3Mi", &none).unwrap_err().to_string();
        assert_eq!(error, "this node has no huge pages of 3Mi: set some aside at its start");
        assert!(matches!(page_size("HugePages", &none), Err(SetUpError::PageSizes(0))));
    }
}
