//! Limits of a request: as the cgroups take them, and how a change is merged into what there was.

use proto::cri;

use super::super::cgroup::Limits;
use super::super::engine::Error;

/// Limits of a request; 0 is how CRI leaves one out.
pub fn limits(resources: &cri::LinuxContainerResources) -> Result<Limits, Error> {
    let set = |value: i64| (value != 0).then_some(value);
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let named = |value: &String| (!value.is_empty()).then(|| value.clone());
    let mut limits = Limits {
        cpu_shares: positive(resources.cpu_shares),
        cpu_quota: set(resources.cpu_quota),
        cpu_period: positive(resources.cpu_period),
        memory: set(resources.memory_limit_in_bytes),
        memory_and_swap: set(resources.memory_swap_limit_in_bytes),
        pids: None,
        cpus: named(&resources.cpuset_cpus),
        mems: named(&resources.cpuset_mems),
        huge_pages: Vec::new(),
        unified: resources.unified.clone().into_iter().collect(),
    };
    let both = resources.memory_swap_limit_in_bytes;
    if both > 0 && both < resources.memory_limit_in_bytes {
        let memory = resources.memory_limit_in_bytes;
        return Err(Error::Invalid(format!(
            "the limit of memory with swap ({both}) is below that of memory ({memory})"
        )));
    }
    // v1 has this one as well.
    if let Some(value) = limits.unified.remove("pids.max") {
        let number = if value == "max" { Some(-1) } else { value.parse().ok() };
        limits.pids = Some(number.filter(|number| *number >= -1).ok_or_else(|| {
            Error::Invalid(format!("unified resource pids.max: \"{value}\" is no number"))
        })?);
    }
    for file in limits.unified.keys() {
        if file.contains('/') || !file.contains('.') || file.starts_with("cgroup.") {
            return Err(Error::Invalid(format!(
                "unified resource \"{file}\" must be a controller's file, such as memory.high"
            )));
        }
    }
    for page in &resources.hugepage_limits {
        let size = &page.page_size;
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(Error::Invalid(format!("page size \"{size}\" is none, such as 2MB")));
        }
        limits.huge_pages.push((size.clone(), page.limit));
    }
    Ok(limits)
}

/// Limits of a pod: its containers' together and what the pod itself needs beside them.
pub fn with_overhead(
    resources: &cri::LinuxContainerResources,
    overhead: &cri::LinuxContainerResources,
) -> cri::LinuxContainerResources {
    let mut sum = resources.clone();
    // What has no limit has none with more either.
    let add = |into: &mut i64, more: i64| {
        if *into > 0 && more > 0 {
            *into += more;
        }
    };
    if resources.cpu_period == overhead.cpu_period {
        add(&mut sum.cpu_quota, overhead.cpu_quota);
    }
    add(&mut sum.cpu_shares, overhead.cpu_shares);
    add(&mut sum.memory_limit_in_bytes, overhead.memory_limit_in_bytes);
    add(&mut sum.memory_swap_limit_in_bytes, overhead.memory_limit_in_bytes);
    sum
}

/// Takes over what a change sets.
pub fn merge_resources(
    into: &mut cri::LinuxContainerResources,
    change: &cri::LinuxContainerResources,
) {
    let number = |into: &mut i64, change: i64| {
        if change != 0 {
            *into = change;
        }
    };
    number(&mut into.cpu_period, change.cpu_period);
    number(&mut into.cpu_quota, change.cpu_quota);
    number(&mut into.cpu_shares, change.cpu_shares);
    number(&mut into.memory_limit_in_bytes, change.memory_limit_in_bytes);
    number(&mut into.memory_swap_limit_in_bytes, change.memory_swap_limit_in_bytes);
    for (into, change) in
        [(&mut into.cpuset_cpus, &change.cpuset_cpus), (&mut into.cpuset_mems, &change.cpuset_mems)]
    {
        if !change.is_empty() {
            change.clone_into(into);
        }
    }
    for page in &change.hugepage_limits {
        into.hugepage_limits.retain(|known| known.page_size != page.page_size);
        into.hugepage_limits.push(page.clone());
    }
    into.unified.extend(change.unified.clone());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unified(file: &str, value: &str) -> cri::LinuxContainerResources {
        let unified = [(file.to_owned(), value.to_owned())].into();
        cri::LinuxContainerResources { unified, ..Default::default() }
    }

    #[test]
    fn requests_become_limits() {
        assert_eq!(limits(&Default::default()).unwrap(), Limits::default());
        assert_eq!(limits(&unified("pids.max", "max")).unwrap().pids, Some(-1));
        let high = limits(&unified("memory.high", "100")).unwrap();
        assert_eq!(high.unified["memory.high"], "100");
        for (file, value) in
            [("pids.max", "many"), ("../x.y", "1"), ("cgroup.procs", "1"), ("memory", "1")]
        {
            assert!(limits(&unified(file, value)).is_err(), "{file}");
        }
        let page = cri::HugepageLimit { page_size: "2MB".into(), limit: 4 << 20 };
        let mut request =
            cri::LinuxContainerResources { hugepage_limits: vec![page], ..Default::default() };
        assert_eq!(limits(&request).unwrap().huge_pages, [("2MB".to_owned(), 4 << 20)]);
        request.hugepage_limits[0].page_size = "../2MB".into();
        assert!(limits(&request).is_err());
        let less = cri::LinuxContainerResources {
            memory_limit_in_bytes: 100,
            memory_swap_limit_in_bytes: 50,
            ..Default::default()
        };
        assert!(limits(&less).unwrap_err().to_string().contains("below"));
    }

    #[test]
    fn overhead_comes_on_top_of_limits() {
        let resources = |memory, shares| cri::LinuxContainerResources {
            memory_limit_in_bytes: memory,
            cpu_shares: shares,
            ..Default::default()
        };
        let sum = with_overhead(&resources(100, 512), &resources(20, 100));
        assert_eq!((sum.memory_limit_in_bytes, sum.cpu_shares), (120, 612));
        let sum = with_overhead(&resources(0, 512), &resources(20, 0));
        assert_eq!((sum.memory_limit_in_bytes, sum.cpu_shares), (0, 512));
    }
}
