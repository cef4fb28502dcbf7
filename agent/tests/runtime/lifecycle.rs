//! Pods and containers from their beginning to their end.

use proto::cri::{self, ContainerState};

use super::lab::{Lab, script};

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
