//! Pods and containers from their beginning to their end.

use proto::cri::{self, ContainerEventType, ContainerState};

use super::lab::{Lab, script, words};

#[tokio::test]
async fn a_container_lives_and_dies() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let id = lab.create(&pod, script("main", "echo hello; echo oops >&2; exit 3")).await;
    assert_eq!(lab.status(&id).await.state(), ContainerState::ContainerCreated);
    lab.start_container(&id).await.unwrap();
    let status = lab.exited(&id).await;
    assert_eq!((status.exit_code, status.reason.as_str()), (3, "Error"));
    assert!(status.created_at <= status.started_at && status.started_at <= status.finished_at);
    let log = lab.log("main.log");
    let lines: Vec<&str> = log.lines().map(|line| line.split_once(' ').unwrap().1).collect();
    assert!(lines.contains(&"stdout F hello") && lines.contains(&"stderr F oops"), "{log}");
    let request = cri::RemoveContainerRequest { container_id: id.clone() };
    lab.runtime.remove_container(request.clone()).await.unwrap();
    lab.runtime.remove_container(request).await.unwrap();
    lab.finish().await;
}

#[tokio::test]
async fn stopping_asks_first_and_kills_then() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let polite = lab
        .run(
            &pod,
            script("polite", "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.1; done"),
        )
        .await;
    let stubborn =
        lab.run(&pod, script("stubborn", "trap '' TERM; echo up; while :; do sleep 1; done")).await;
    lab.log_until("polite.log", |log| log.contains("up")).await;
    lab.log_until("stubborn.log", |log| log.contains("up")).await;
    for (id, timeout) in [(&polite, 20), (&stubborn, 1)] {
        let request = cri::StopContainerRequest { container_id: id.clone(), timeout };
        lab.runtime.stop_container(request.clone()).await.unwrap();
        lab.runtime.stop_container(request).await.unwrap();
    }
    assert_eq!(lab.status(&polite).await.exit_code, 7);
    assert!(lab.log("polite.log").contains("stdout F bye"));
    assert_eq!(lab.status(&stubborn).await.exit_code, 137);
    let gone = cri::StopContainerRequest { container_id: "nobody".into(), timeout: 1 };
    lab.runtime.stop_container(gone).await.unwrap();
    lab.finish().await;
}

#[tokio::test]
async fn a_command_that_cannot_run_fails_the_start() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let table = [
        ("nosuch", "exec: \"nosuch\": executable file not found in $PATH"),
        ("/nosuch", "exec: \"/nosuch\": stat /nosuch: no such file or directory"),
        ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
    ];
    for (attempt, (command, message)) in table.into_iter().enumerate() {
        let mut config = script("main", "");
        config.metadata.as_mut().unwrap().attempt = attempt as u32;
        config.command = words(&[command]);
        let id = lab.create(&pod, config).await;
        let error = lab.start_container(&id).await.unwrap_err();
        assert!(error.message().contains(message), "{}", error.message());
        let status = lab.status(&id).await;
        assert_eq!(status.state(), ContainerState::ContainerExited);
        assert_eq!((status.exit_code, status.reason.as_str()), (128, "StartError"));
        assert!(status.message.contains(message), "{}", status.message);
    }
    lab.finish().await;
}

#[tokio::test]
async fn what_is_missing_or_wrong_is_said() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let mut config = script("main", "true");
    config.image.as_mut().unwrap().image = "example.test/absent:1".into();
    let error = lab.try_create(&pod, config).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::NotFound);
    assert!(error.message().contains("example.test/absent:1"), "{}", error.message());

    let mut config = script("main", "true");
    config.mounts.push(cri::Mount {
        container_path: "/data".into(),
        host_path: "/nonexistent".into(),
        ..Default::default()
    });
    let error = lab.try_create(&pod, config).await.unwrap_err();
    assert!(error.message().contains("/nonexistent"), "{}", error.message());

    let status = cri::ContainerStatusRequest { container_id: "nobody".into(), verbose: false };
    assert_eq!(
        lab.runtime.container_status(status).await.unwrap_err().code(),
        tonic::Code::NotFound
    );
    let same =
        cri::RunPodSandboxRequest { config: Some(lab.sandbox_config("pod")), ..Default::default() };
    assert_eq!(
        lab.runtime.run_pod_sandbox(same).await.unwrap_err().code(),
        tonic::Code::AlreadyExists
    );
    lab.finish().await;
}

#[tokio::test]
async fn a_sandbox_that_stops_takes_its_containers_along() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let id = lab.run(&pod, script("main", "sleep 1000 & sleep 1000")).await;
    let request = cri::StopPodSandboxRequest { pod_sandbox_id: pod.clone() };
    lab.runtime.stop_pod_sandbox(request.clone()).await.unwrap();
    lab.runtime.stop_pod_sandbox(request).await.unwrap();
    assert_eq!(lab.status(&id).await.exit_code, 137);
    let status = cri::PodSandboxStatusRequest { pod_sandbox_id: pod.clone(), verbose: false };
    let status = lab.runtime.pod_sandbox_status(status).await.unwrap().into_inner().status.unwrap();
    assert_eq!(status.state(), cri::PodSandboxState::SandboxNotready);
    lab.finish().await;
}

#[tokio::test]
async fn events_tell_every_change() {
    let Some(mut lab) = Lab::start().await else { return };
    let mut events =
        lab.runtime.get_container_events(cri::GetEventsRequest {}).await.unwrap().into_inner();
    let pod = lab.sandbox("pod").await;
    let id = lab.run(&pod, script("main", "exit 5")).await;
    let mut seen = Vec::new();
    while seen.last() != Some(&ContainerEventType::ContainerStoppedEvent) {
        let event = events.message().await.unwrap().unwrap();
        if event.container_id == id {
            seen.push(event.container_event_type());
            if event.container_event_type() == ContainerEventType::ContainerStoppedEvent {
                assert_eq!(event.containers_statuses[0].exit_code, 5);
            }
        }
    }
    // A command that ends at once may be seen to stop before its start was told.
    assert!(seen.contains(&ContainerEventType::ContainerCreatedEvent), "{seen:?}");
    lab.finish().await;
}

#[tokio::test]
async fn commands_run_in_containers() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let mut config = script("main", "export INNER=1; sleep 1000");
    config.envs.push(cri::KeyValue { key: "GREETING".into(), value: "good day".into() });
    config.working_dir = "/srv/here".into();
    let id = lab.run(&pod, config).await;
    let response = lab.exec(&id, &["sh", "-c", "echo out; echo err >&2; exit 4"]).await;
    assert_eq!(
        (&response.stdout[..], &response.stderr[..], response.exit_code),
        (&b"out\n"[..], &b"err\n"[..], 4)
    );
    assert_eq!(
        lab.output(&id, "echo $GREETING; pwd; hostname; echo $$ >/tmp/pid; ls /proc/self/fd")
            .await
            .lines()
            .take(3)
            .collect::<Vec<_>>(),
        ["good day", "/srv/here", &*rustix::system::uname().nodename().to_string_lossy()]
    );
    let own = lab.cgroup_of(&id).await;
    let groups = lab.output(&id, "cat /proc/self/cgroup").await;
    assert!(groups.lines().any(|line| line.ends_with(":/")), "{groups} of {own}");
    let request =
        cri::ExecSyncRequest { container_id: id.clone(), cmd: words(&["nosuch"]), timeout: 5 };
    let error = lab.runtime.exec_sync(request).await.unwrap_err();
    assert!(error.message().contains("executable file not found in $PATH"), "{}", error.message());
    let request = cri::ExecSyncRequest {
        container_id: id.clone(),
        cmd: words(&["sleep", "100"]),
        timeout: 1,
    };
    let error = lab.runtime.exec_sync(request).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::DeadlineExceeded);
    let large = lab.exec(&id, &["sh", "-c", "seq 1 100000"]).await;
    assert_eq!(large.stdout.iter().filter(|byte| **byte == b'\n').count(), 100_000);
    lab.finish().await;
}
