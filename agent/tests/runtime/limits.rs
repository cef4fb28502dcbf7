//! Limits, and what happens at them.

use proto::cri;

use super::lab::{Lab, cgroup_file, script};

#[tokio::test]
async fn limits_are_in_the_cgroup() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let mut config = script("main", "sleep 1000");
    config.linux.as_mut().unwrap().resources = Some(cri::LinuxContainerResources {
        cpu_shares: 512,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        memory_limit_in_bytes: 64 << 20,
        oom_score_adj: 900,
        unified: [("pids.max".to_owned(), "33".to_owned())].into(),
        ..Default::default()
    });
    let id = lab.run(&pod, config).await;
    let (pid, cgroup) = (lab.pid(&id).await, lab.cgroup_of(&id).await);
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    for line in cgroups
        .lines()
        .filter(|line| [":cpu:", ":memory:", ":pids:", "0::"].iter().any(|c| line.contains(c)))
    {
        assert!(line.ends_with(&cgroup), "{line} is not in {cgroup}");
    }
    assert_eq!(
        cgroup_file("memory", &cgroup, "memory.limit_in_bytes", "memory.max"),
        (64 << 20).to_string()
    );
    assert_eq!(cgroup_file("pids", &cgroup, "pids.max", "pids.max"), "33");
    let quota = cgroup_file("cpu", &cgroup, "cpu.cfs_quota_us", "cpu.max");
    assert!(["50000", "50000 100000"].contains(&quota.as_str()), "{quota}");
    assert_eq!(
        std::fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap().trim(),
        "900"
    );

    let change = cri::LinuxContainerResources {
        memory_limit_in_bytes: 128 << 20,
        cpu_quota: 75_000,
        cpu_period: 100_000,
        ..Default::default()
    };
    let request = cri::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(change),
        ..Default::default()
    };
    lab.runtime.update_container_resources(request).await.unwrap();
    assert_eq!(
        cgroup_file("memory", &cgroup, "memory.limit_in_bytes", "memory.max"),
        (128 << 20).to_string()
    );
    let resources = lab.status(&id).await.resources.unwrap().linux.unwrap();
    assert_eq!((resources.memory_limit_in_bytes, resources.cpu_shares), (128 << 20, 512));

    let request = cri::ContainerStatsRequest { container_id: id };
    let stats = lab.runtime.container_stats(request).await.unwrap().into_inner().stats.unwrap();
    assert!(stats.memory.unwrap().working_set_bytes.unwrap().value > 0);
    assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);
    let request = cri::PodSandboxStatsRequest { pod_sandbox_id: pod };
    let stats = lab.runtime.pod_sandbox_stats(request).await.unwrap().into_inner().stats.unwrap();
    assert!(stats.linux.unwrap().memory.unwrap().working_set_bytes.unwrap().value > 0);
    lab.finish().await;
}

#[tokio::test]
async fn too_much_memory_is_an_oom_kill() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let mut config = script("main", "head -c 200000000 /dev/zero | tail");
    config.linux.as_mut().unwrap().resources = Some(cri::LinuxContainerResources {
        memory_limit_in_bytes: 16 << 20,
        ..Default::default()
    });
    let id = lab.run(&pod, config).await;
    let status = lab.exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    lab.finish().await;
}

#[tokio::test]
async fn no_more_processes_than_allowed() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let mut config =
        script("main", "for i in 1 2 3 4 5 6 7 8 9; do sleep 1000 & done; echo done; wait");
    config.linux.as_mut().unwrap().resources = Some(cri::LinuxContainerResources {
        unified: [("pids.max".to_owned(), "4".to_owned())].into(),
        ..Default::default()
    });
    lab.run(&pod, config).await;
    lab.log_until("main.log", |log| log.contains("can't fork")).await;
    lab.finish().await;
}
