use serde_json::{Value, json};

use super::*;
use crate::observed::Sandbox;
use crate::plan::Health;

fn now() -> Time {
    Time::from_unix(1000)
}

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 2},
        "spec": spec,
    }))
    .unwrap()
}

fn run(name: &str, attempt: u32, state: State) -> Run {
    Run {
        id: format!("{name}{attempt}"),
        sandbox: "s".into(),
        name: name.into(),
        attempt,
        hash: String::new(),
        image: "docker.io/library/i:1".into(),
        image_ref: "sha256:1".into(),
        state,
        log_path: String::new(),
        user: None,
        applied: None,
        cpus: String::new(),
    }
}

fn running() -> State {
    State::Running { started: Time::from_unix(900) }
}

fn exited(code: i32) -> State {
    State::Exited(Exit { code, finished: Some(Time::from_unix(950)), ..Exit::default() })
}

fn observed(containers: Vec<Run>) -> Observed {
    let ips = vec!["10.0.0.9".into()];
    let sandbox = Sandbox { id: "s".into(), attempt: 0, ready: true, ips };
    Observed { sandboxes: vec![sandbox], containers }
}

fn reported(pod: &Pod, observed: &Observed, memory: &Memory) -> PodStatus {
    let plan = crate::plan::plan(pod, observed, memory, now());
    let host = Host { ips: vec!["192.168.0.1".into()], runtime_name: "coracle".into() };
    report(pod, observed, memory, &plan, &host, &pod.status, now())
}

/// `Phase: condition=…, …`.
fn short(status: &PodStatus) -> String {
    let conditions: Vec<String> = status
        .conditions
        .iter()
        .map(|condition| match condition.status.as_str() {
            "True" => format!("+{}", condition.kind),
            _ if condition.reason.is_empty() => format!("-{}", condition.kind),
            _ => format!("-{}({})", condition.kind, condition.reason),
        })
        .collect();
    format!("{:?}: {}", status.phase, conditions.join(" "))
}

#[test]
fn the_life_of_a_pod() {
    let pod =
        pod(json!({"restartPolicy": "OnFailure", "containers": [{"name": "c", "image": "i"}]}));
    let memory = Memory { mounted: true, ..Memory::default() };
    let unready = "-Ready(ContainersNotReady) -ContainersReady(ContainersNotReady) +PodScheduled";
    let done = "-Ready(PodCompleted) -ContainersReady(PodCompleted) +PodScheduled";
    let table = [
        (
            Observed::default(),
            format!("Pending: -PodReadyToStartContainers +Initialized {unready}"),
        ),
        (observed(vec![]), format!("Pending: +PodReadyToStartContainers +Initialized {unready}")),
        (
            observed(vec![run("c", 0, running())]),
            "Running: +PodReadyToStartContainers +Initialized +Ready +ContainersReady +PodScheduled"
                .into(),
        ),
        (
            observed(vec![run("c", 0, exited(1))]),
            format!("Running: +PodReadyToStartContainers +Initialized {unready}"),
        ),
        (
            observed(vec![run("c", 0, exited(0))]),
            format!("Succeeded: -PodReadyToStartContainers +Initialized {done}"),
        ),
    ];
    for (observed, expected) in table {
        assert_eq!(short(&reported(&pod, &observed, &memory)), expected, "{observed:?}");
    }
}

#[test]
fn a_running_pod_in_full() {
    let pod = pod(json!({"containers": [{"name": "c", "image": "i:1",
        "resources": {"requests": {"cpu": "100m"}},
        "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": true}]}]}));
    let seen = observed(vec![run("c", 1, running()), run("c", 0, exited(3))]);
    let status = reported(&pod, &seen, &Memory { mounted: true, ..Memory::default() });
    let value = serde_json::to_value(&status).unwrap();
    assert_eq!(value["podIPs"], json!([{"ip": "10.0.0.9"}]));
    assert_eq!(value["hostIP"], "192.168.0.1");
    assert_eq!(value["observedGeneration"], 2);
    assert_eq!(value["startTime"], "1970-01-01T00:16:40Z");
    let expected = json!([{
        "name": "c", "image": "docker.io/library/i:1", "imageID": "sha256:1",
        "containerID": "coracle://c1", "ready": true, "started": true, "restartCount": 1,
        "state": {"running": {"startedAt": "1970-01-01T00:15:00Z"}},
        "lastState": {"terminated": {"exitCode": 3, "reason": "Error", "startedAt": null,
            "finishedAt": "1970-01-01T00:15:50Z", "containerID": "coracle://c0"}},
        "resources": {"requests": {"cpu": "100m"}}, "allocatedResources": {"cpu": "100m"},
        "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": true,
            "recursiveReadOnly": "Disabled"}],
    }]);
    assert_eq!(value["containerStatuses"], expected);
}

#[test]
fn waiting_containers_say_why() {
    let pod = pod(json!({"initContainers": [{"name": "a", "image": "i"}],
        "containers": [{"name": "c", "image": "i"}]}));
    let memory = Memory { mounted: true, ..Memory::default() };
    let status = reported(&pod, &observed(vec![run("a", 0, running())]), &memory);
    let waiting = status.container_statuses[0].state.waiting.as_ref().unwrap();
    assert_eq!(waiting.reason, "PodInitializing");
    assert!(short(&status).contains("-Initialized(ContainersNotInitialized)"));
    assert_eq!(status.phase, Phase::Pending);
    let message = &status.condition("Initialized").unwrap().message;
    assert_eq!(message, "containers with incomplete status: [a]");
}

#[test]
fn readiness_and_gates() {
    let mut pod = pod(json!({"readinessGates": [{"conditionType": "x/y"}],
        "containers": [{"name": "c", "image": "i", "readinessProbe": {"tcpSocket": {"port": 1}}}]}));
    let seen = observed(vec![run("c", 0, running())]);
    let mut memory = Memory { mounted: true, ..Memory::default() };
    let status = reported(&pod, &seen, &memory);
    let message = &status.condition("ContainersReady").unwrap().message;
    assert_eq!(message, "containers with unready status: [c]");
    let health = Health { started: true, ready: true, failed: None };
    memory.health.insert("c0".into(), health);
    let status = reported(&pod, &seen, &memory);
    let ready = status.condition("Ready").unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("False", "ReadinessGatesNotReady"));
    pod.status.conditions.push(Condition {
        kind: "x/y".into(),
        status: "True".into(),
        ..Condition::default()
    });
    assert_eq!(reported(&pod, &seen, &memory).condition("Ready").unwrap().status, "True");
}

#[test]
fn a_deleted_pod_ends_in_a_final_phase() {
    let mut pod = pod(json!({"containers": [{"name": "c", "image": "i"}]}));
    pod.metadata.deletion_timestamp = Some(now());
    let memory = Memory { mounted: true, ..Memory::default() };
    let phase = |containers| reported(&pod, &observed(containers), &memory).phase;
    assert_eq!(phase(vec![run("c", 0, running())]), Phase::Running);
    assert_eq!(phase(vec![run("c", 0, exited(0))]), Phase::Succeeded);
    assert_eq!(phase(vec![run("c", 0, exited(143))]), Phase::Failed);
    assert_eq!(phase(vec![]), Phase::Failed);
    let status = reported(&pod, &observed(vec![]), &memory);
    let end = status.container_statuses[0].state.terminated.as_ref().unwrap();
    assert_eq!((end.exit_code, end.reason.as_str()), (137, "ContainerStatusUnknown"));
}

#[test]
fn transitions_keep_their_time() {
    let mut pod = pod(json!({"containers": [{"name": "c", "image": "i"}]}));
    let memory = Memory { mounted: true, ..Memory::default() };
    let before = Some(Time::from_unix(1));
    let seen = observed(vec![run("c", 0, running())]);
    pod.status = reported(&pod, &seen, &memory);
    for condition in &mut pod.status.conditions {
        condition.last_transition_time = before;
    }
    let status = reported(&pod, &seen, &memory);
    assert!(status.conditions.iter().all(|one| one.last_transition_time == before));
    assert_eq!(patch("u", &pod.status, &status), None);
}

#[test]
fn patches_say_only_what_differs() {
    let condition = |kind: &str, status: &str| Condition {
        kind: kind.into(),
        status: status.into(),
        ..Condition::default()
    };
    let api = PodStatus {
        conditions: vec![
            Condition { reason: "Why".into(), ..condition("Ready", "False") },
            condition("Foreign", "True"),
            condition("PodResizePending", "True"),
        ],
        pod_ips: vec![Ip { ip: "1.1.1.1".into() }],
        reason: "old".into(),
        ..PodStatus::default()
    };
    let desired = PodStatus {
        phase: Phase::Running,
        conditions: vec![condition("Ready", "True")],
        pod_ips: vec![Ip { ip: "2.2.2.2".into() }],
        ..PodStatus::default()
    };
    let expected = json!({"metadata": {"uid": "u"}, "status": {
        "phase": "Running",
        "reason": null,
        "podIPs": [{"ip": "2.2.2.2"}, {"$patch": "replace"}],
        "conditions": [
            {"type": "Ready", "status": "True", "reason": null,
             "lastProbeTime": null, "lastTransitionTime": null},
            {"type": "PodResizePending", "$patch": "delete"},
        ],
    }});
    assert_eq!(patch("u", &api, &desired), Some(expected));
}

#[test]
fn a_pod_has_not_ended_while_anything_runs() {
    let pod = pod(json!({"activeDeadlineSeconds": 5, "containers": [{"name": "c", "image": "i"}]}));
    let started = PodStatus { start_time: Some(Time::from_unix(1)), ..PodStatus::default() };
    let pod = Pod { status: started, ..pod };
    let memory = Memory { mounted: true, ..Memory::default() };
    let status = reported(&pod, &observed(vec![run("c", 0, running())]), &memory);
    assert_eq!((status.phase, status.reason.as_str()), (Phase::Running, ""));
    let status = reported(&pod, &observed(vec![run("c", 0, exited(0))]), &memory);
    assert_eq!((status.phase, status.reason.as_str()), (Phase::Failed, "DeadlineExceeded"));
}

#[test]
fn rejected_pods_say_only_why() {
    let pod = pod(json!({"containers": [{"name": "c", "image": "i"}]}));
    let end = Some(End::failed("OutOfcpu", "Pod was rejected: no"));
    let memory = Memory { end, rejected: true, ..Memory::default() };
    let status = reported(&pod, &Observed::default(), &memory);
    let expected = json!({"phase": "Failed", "reason": "OutOfcpu",
        "message": "Pod was rejected: no", "qosClass": "BestEffort", "conditions": [],
        "observedGeneration": 2, "startTime": "1970-01-01T00:16:40Z"});
    assert_eq!(serde_json::to_value(status).unwrap(), expected);
}

#[test]
fn last_words_are_cut_to_their_share() {
    let names: Vec<String> = (0..4).map(|number| format!("c{number}")).collect();
    let containers: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
    let pod = pod(json!({"restartPolicy": "Never", "containers": containers}));
    let run = |name: &String| {
        let message = "ä".repeat(2000);
        let exit = Exit { code: 1, message, ..Exit::default() };
        run(name, 0, State::Exited(exit))
    };
    let seen = observed(names.iter().map(run).collect());
    let status = reported(&pod, &seen, &Memory { mounted: true, ..Memory::default() });
    for status in &status.container_statuses {
        assert_eq!(status.state.terminated.as_ref().unwrap().message.len(), 3072);
    }
}

#[test]
fn all_containers_begin_anew_in_sight() {
    let pod = pod(json!({"restartPolicy": "Never", "containers": [
        {"name": "c", "image": "i", "restartPolicy": "Never", "restartPolicyRules": [
            {"action": "RestartAllContainers", "exitCodes": {"operator": "In", "values": [4]}}]}]}));
    let mut memory = Memory { mounted: true, ..Memory::default() };
    let mut pod =
        Pod { status: reported(&pod, &observed(vec![run("c", 0, exited(4))]), &memory), ..pod };
    let restarting = pod.status.condition("AllContainersRestarting").unwrap();
    assert_eq!(restarting.status, "True");
    assert_eq!(restarting.reason, "RestartAllContainersStarted");
    assert_eq!(pod.status.phase, Phase::Running);
    memory.reset.insert("c".into());
    pod.status = reported(&pod, &observed(vec![]), &memory);
    assert_eq!(pod.status.condition("AllContainersRestarting").unwrap().status, "False");
    let status = &pod.status.container_statuses[0];
    assert_eq!(status.state.waiting.as_ref().unwrap().reason, "ContainerCreating");
    assert_eq!(status.last_state.terminated.as_ref().unwrap().exit_code, 4);
}

#[test]
fn disruptions_are_told() {
    let pod = pod(json!({"containers": [{"name": "c", "image": "i"}]}));
    let end =
        End { disruption: Some("the node shuts down".into()), ..End::failed("Terminated", "why") };
    let memory = Memory { mounted: true, end: Some(end), ..Memory::default() };
    let status = reported(&pod, &observed(vec![run("c", 0, running())]), &memory);
    let told = status.condition("DisruptionTarget").unwrap();
    assert_eq!(
        (told.reason.as_str(), told.message.as_str()),
        ("TerminationByKubelet", "the node shuts down",)
    );
}

#[test]
fn how_devices_are() {
    let pod = pod(json!({"containers": [{"name": "c"}, {"name": "d"}]}));
    let device = |id: &str, health: &'static str, message: Option<&str>| DeviceHealth {
        id: id.into(),
        health,
        message: message.map(String::from),
    };
    let of_c = vec![device("a", "Healthy", None), device("b", "Unhealthy", Some("hot"))];
    let devices = [("c".to_string(), [("e.com/x".to_string(), of_c)].into())].into();
    let memory = Memory { mounted: true, devices, ..Memory::default() };
    let expected = json!([{"name": "e.com/x", "resources": [
        {"resourceID": "a", "health": "Healthy"}, {"resourceID": "b", "health": "Unhealthy", "message": "hot"}]}]);
    for observed in [observed(vec![]), observed(vec![run("c", 0, running())])] {
        let status = json!(reported(&pod, &observed, &memory));
        let of = |index: usize| &status["containerStatuses"][index]["allocatedResourcesStatus"];
        assert_eq!((of(0), of(1)), (&expected, &Value::Null));
        // They are told of after their end, too.
        let mut ended = pod.clone();
        ended.status = serde_json::from_value(status.clone()).unwrap();
        let status =
            json!(reported(&ended, &observed, &Memory { mounted: true, ..Memory::default() }));
        assert_eq!(status["containerStatuses"][0]["allocatedResourcesStatus"], expected);
    }
}
