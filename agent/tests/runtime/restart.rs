//! Containers do not notice that the runtime dies.

use proto::cri::{self, ContainerState};

use super::lab::{Lab, script};

#[tokio::test]
async fn containers_outlive_the_runtime() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let counting = "i=0; while :; do i=$((i+1)); echo line $i; [ -e /tmp/stop ] && exit 9; done";
    let running = lab.run(&pod, script("running", "sleep 1000")).await;
    let writing = lab.run(&pod, script("writing", counting)).await;
    let ending = lab
        .run(
            &pod,
            script(
                "ending",
                "echo up; while [ ! -e /tmp/stop ]; do sleep 0.02; done; echo down; exit 42",
            ),
        )
        .await;
    let created = lab.create(&pod, script("created", "echo late; exit 6")).await;
    lab.log_until("writing.log", |log| log.contains("line 100\n")).await;
    lab.log_until("ending.log", |log| log.contains("up")).await;
    let pids = [lab.pid(&running).await, lab.pid(&writing).await, lab.pid(&ending).await];
    let ending_pid = pids[2];

    lab.kill();
    // While nobody watches, one exits and one goes on writing.
    std::fs::write(format!("/proc/{ending_pid}/root/tmp/stop"), "").unwrap();
    lab.log_until("ending.log", |log| log.contains("down")).await;
    let before = lab.log("writing.log").lines().count();
    lab.log_until("writing.log", |log| log.lines().count() > before + 1000).await;
    for pid in &pids[..2] {
        assert!(
            std::path::Path::new(&format!("/proc/{pid}")).exists(),
            "a container died with the runtime"
        );
    }

    lab.revive().await;
    let status = lab.exited(&ending).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (42, "Error"));
    assert!(status.started_at > 0 && status.finished_at > status.started_at);
    for id in [&running, &writing] {
        let status = lab.status(id).await;
        assert_eq!(status.state(), ContainerState::ContainerRunning);
        assert!(status.started_at > 0);
    }
    // A container that was only created can still be started.
    lab.start_container(&created).await.unwrap();
    assert_eq!(lab.exited(&created).await.exit_code, 6);
    assert!(lab.log("created.log").contains("late"));
    assert_eq!(lab.output(&running, "echo still here").await, "still here");
    // Not one line is missing.
    lab.output(&writing, "touch /tmp/stop").await;
    assert_eq!(lab.exited(&writing).await.exit_code, 9);
    let log = lab.log("writing.log");
    for (at, line) in log.lines().enumerate() {
        assert!(line.ends_with(&format!("stdout F line {}", at + 1)), "{line} at {at}");
    }
    lab.finish().await;
}

#[tokio::test]
async fn an_oom_kill_nobody_saw_is_still_one() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let mut config = script(
        "main",
        "while [ ! -e /tmp/go ]; do sleep 0.02; done; exec dd if=/dev/zero of=/dev/null bs=200M count=1",
    );
    config.linux.as_mut().unwrap().resources = Some(cri::LinuxContainerResources {
        memory_limit_in_bytes: 16 << 20,
        ..Default::default()
    });
    let id = lab.run(&pod, config).await;
    let pid = lab.pid(&id).await;
    lab.kill();
    std::fs::write(format!("/proc/{pid}/root/tmp/go"), "").unwrap();
    while std::path::Path::new(&format!("/proc/{pid}/root/bin")).exists() {
        lab.clock.sleep(std::time::Duration::from_millis(10)).await;
    }
    lab.revive().await;
    let status = lab.exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (137, "OOMKilled"));
    lab.finish().await;
}

#[tokio::test]
async fn a_pod_without_its_supervisor_is_over() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let id = lab.run(&pod, script("main", "sleep 1000")).await;
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: pod.clone(), verbose: true };
    let info = lab.runtime.pod_sandbox_status(request.clone()).await.unwrap().into_inner().info;
    let supervisor = rustix::process::Pid::from_raw(info["supervisor"].parse().unwrap()).unwrap();
    rustix::process::kill_process(supervisor, rustix::process::Signal::KILL).unwrap();
    let status = lab.exited(&id).await;
    assert_ne!(status.exit_code, 0);
    for _ in 0..1000 {
        let status = lab
            .runtime
            .pod_sandbox_status(request.clone())
            .await
            .unwrap()
            .into_inner()
            .status
            .unwrap();
        if status.state() == cri::PodSandboxState::SandboxNotready {
            break;
        }
        lab.clock.sleep(std::time::Duration::from_millis(10)).await;
    }
    lab.finish().await;
}
