use serde_json::{Value, json};

use super::*;
use crate::cpu_manager::Cpus;
use crate::observed::{Applied, Exit, Sandbox};

const NOW: i64 = 10_000;

fn at(seconds: i64) -> Time {
    Time::from_unix(NOW + seconds)
}

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "n", "uid": "u", "generation": 1},
        "spec": spec,
    }))
    .unwrap()
}

fn simple(policy: &str) -> Pod {
    pod(json!({"restartPolicy": policy, "containers": [{"name": "c", "image": "i"}]}))
}

fn sandbox(id: &str, attempt: u32, ready: bool) -> Sandbox {
    Sandbox { id: id.into(), attempt, ready, ips: vec!["10.0.0.1".into()] }
}

fn run(name: &str, attempt: u32, state: State) -> Run {
    let container: Container = serde_json::from_value(json!({"name": name, "image": "i"})).unwrap();
    Run {
        id: format!("{name}{attempt}"),
        sandbox: "s0".into(),
        name: name.into(),
        attempt,
        hash: container.hash(),
        image: "i".into(),
        image_ref: String::new(),
        state,
        log_path: String::new(),
        user: None,
        applied: None,
        cpus: String::new(),
    }
}

fn running() -> State {
    State::Running { started: at(-100) }
}

fn exited(code: i32, seconds_ago: i64) -> State {
    State::Exited(Exit { code, finished: Some(at(-seconds_ago)), ..Exit::default() })
}

fn observed(containers: Vec<Run>) -> Observed {
    Observed { sandboxes: vec![sandbox("s0", 0, true)], containers }
}

fn mounted() -> Memory {
    Memory { mounted: true, ..Memory::default() }
}

/// Steps in short: `start c0`, `kill c0`, ….
fn short(plan: &Plan) -> String {
    let step = |step: &Step| match step {
        Step::Resize { container, .. } => format!("resize {container}"),
        Step::ResizePod { container: Some(name), .. } => format!("resize pod of {name}"),
        Step::ResizePod { .. } => "resize pod".into(),
        Step::Reset { id, crash, .. } => {
            format!("reset {id}{}", if *crash { " crashed" } else { "" })
        }
        Step::Mount => "mount".into(),
        Step::Sandbox { attempt } => format!("sandbox {attempt}"),
        Step::Start { container, attempt, .. } => format!("start {container}{attempt}"),
        Step::Kill { id, grace, after, .. } if after.is_empty() => {
            format!("kill {id} {}s", grace.as_secs())
        }
        Step::Kill { id, grace, after, .. } => {
            format!("kill {id} {}s after {}", grace.as_secs(), after.join("+"))
        }
        Step::Pin { id, cpus } => format!("pin {id} {cpus}"),
        Step::StopSandbox { id } => format!("stop {id}"),
        Step::RemoveContainer { id } => format!("remove {id}"),
        Step::RemoveSandbox { id } => format!("remove sandbox {id}"),
        Step::ReportBackOff { container, .. } => format!("report {container}"),
        Step::Grow => "grow".into(),
        Step::Unmount => "unmount".into(),
        Step::Finish => "finish".into(),
    };
    let mut words: Vec<String> = plan.steps.iter().map(step).collect();
    words.extend(plan.waiting.iter().map(|(name, why)| format!("{name}: {}", why.reason)));
    words.extend(plan.again.map(|again| format!("again {}s", again.since(at(0)).as_secs())));
    words.join(", ")
}

fn planned(pod: &Pod, observed: &Observed, memory: &Memory) -> String {
    short(&plan(pod, observed, memory, at(0)))
}

#[test]
fn containers_run_where_they_are_to() {
    let pod = simple("Always");
    let cpus = |set: &str| Cpus { set: set.parse().unwrap(), exclusive: false };
    let wants = |set: &str| Memory { cpus: [("c".into(), cpus(set))].into(), ..mounted() };
    let told = |set: &str| Memory { pinned: [("c0".into(), set.into())].into(), ..wants("0-1") };
    let on =
        |cpus: &str, state: State| observed(vec![Run { cpus: cpus.into(), ..run("c", 0, state) }]);
    let table = [
        (on("0-1", running()), wants("0-1"), ""),
        (on("0-3", running()), wants("0-1"), "pin c0 0-1"),
        (on("", running()), wants("0-1"), "pin c0 0-1"),
        (on("0-3", running()), mounted(), ""),
        // Not every runtime tells where its containers run.
        (on("", running()), told("0-1"), ""),
        (on("0-1", running()), told("0"), "pin c0 0-1"),
        (on("0-3", exited(1, 0)), wants("0-1"), "start c1"),
    ];
    for (observed, memory, expected) in table {
        assert_eq!(planned(&pod, &observed, &memory), expected, "{observed:?}");
    }
}

#[test]
fn from_nothing_to_running() {
    let pod = simple("Always");
    let table = [
        (Observed::default(), Memory::default(), "mount, sandbox 0"),
        (Observed::default(), mounted(), "sandbox 0"),
        (observed(vec![]), mounted(), "start c0"),
        (observed(vec![run("c", 0, State::Created)]), mounted(), "remove c0, start c0"),
        (observed(vec![run("c", 0, running())]), mounted(), ""),
        // After a restart of the agent the volumes are looked at again, nothing else.
        (observed(vec![run("c", 0, running())]), Memory::default(), "mount"),
    ];
    for (observed, memory, expected) in table {
        assert_eq!(planned(&pod, &observed, &memory), expected, "{observed:?}");
    }
}

#[test]
fn a_dead_sandbox_is_replaced() {
    let pod = simple("Always");
    let mut seen = observed(vec![run("c", 0, exited(137, 1))]);
    seen.sandboxes[0].ready = false;
    assert_eq!(planned(&pod, &seen, &mounted()), "stop s0, sandbox 1");
    seen.sandboxes.insert(0, sandbox("s1", 1, true));
    assert_eq!(planned(&pod, &seen, &mounted()), "start c1");
    seen.containers[0].state = running();
    assert_eq!(planned(&pod, &seen, &mounted()), "kill c0 30s");
}

#[test]
fn restarts_by_policy() {
    let table = [
        ("Always", 0, "start c1"),
        ("Always", 1, "start c1"),
        ("OnFailure", 1, "start c1"),
        // The pod is finished: its sandbox stops, its object stays.
        ("OnFailure", 0, "stop s0, unmount"),
        ("Never", 0, "stop s0, unmount"),
        ("Never", 1, "stop s0, unmount"),
    ];
    for (policy, code, expected) in table {
        let seen = observed(vec![run("c", 0, exited(code, 1))]);
        assert_eq!(planned(&simple(policy), &seen, &mounted()), expected, "{policy} {code}");
    }
}

#[test]
fn crash_loops_back_off() {
    let pod = simple("Always");
    let seen = observed(vec![run("c", 1, exited(1, 4)), run("c", 0, exited(1, 9))]);
    let mut memory = mounted();
    memory.crashes.insert("c".into(), Backoff::next(None, CRASH, at(-9)));
    let result = plan(&pod, &seen, &memory, at(0));
    assert_eq!(short(&result), "report c, c: CrashLoopBackOff, again 6s");
    let message = "back-off 10s restarting failed container=c pod=p_n(u)";
    assert_eq!(result.waiting["c"].message, message);
    memory.reported.insert("c".into());
    assert_eq!(planned(&pod, &seen, &memory), "c: CrashLoopBackOff, again 6s");
    assert_eq!(short(&plan(&pod, &seen, &memory, at(6))), "start c2");
}

#[test]
fn old_runs_are_pruned() {
    let seen = observed(vec![
        run("c", 3, running()),
        run("c", 2, exited(1, 5)),
        run("c", 1, exited(1, 9)),
        run("c", 0, exited(1, 12)),
    ]);
    let table = [
        (1, 0, "remove c1, remove c0"),
        (0, 0, "remove c2, remove c1, remove c0"),
        (2, 0, "remove c0"),
        (1, 10, "remove c0, again 1s"),
    ];
    for (runs, least, expected) in table {
        let retention = Retention { runs, least: Duration::from_secs(least) };
        let memory = Memory { retention, ..mounted() };
        assert_eq!(planned(&simple("Always"), &seen, &memory), expected, "{retention:?}");
    }
    // What the node has no room for goes before its time, also of a pod that has ended.
    let mut memory = Memory { unmounted: true, ..mounted() };
    memory.retention.runs = 5;
    memory.excess.insert("c1".into());
    assert_eq!(planned(&simple("Always"), &seen, &memory), "remove c1");
    let mut ended = observed(vec![run("c", 1, exited(0, 5)), run("c", 0, exited(1, 9))]);
    ended.sandboxes[0].ready = false;
    memory.excess = ["c0".to_string()].into();
    assert_eq!(planned(&simple("OnFailure"), &ended, &memory), "remove c0");
}

#[test]
fn init_containers_run_in_order() {
    let pod = pod(json!({
        "initContainers": [{"name": "a", "image": "i"}, {"name": "b", "image": "i"}],
        "containers": [{"name": "c", "image": "i"}],
    }));
    let a_done = || run("a", 0, exited(0, 9));
    let table = [
        (vec![], "start a0"),
        (vec![run("a", 0, running())], ""),
        (vec![run("a", 0, exited(1, 1))], "start a1"),
        (vec![a_done()], "start b0"),
        (vec![a_done(), run("b", 0, exited(0, 1))], "start c0"),
        // What has begun is not initialised again.
        (vec![run("c", 0, running())], ""),
    ];
    for (containers, expected) in table {
        let seen = observed(containers);
        assert_eq!(planned(&pod, &seen, &mounted()), expected, "{:?}", seen.containers);
    }
}

#[test]
fn a_failed_init_container_ends_a_pod_that_never_restarts() {
    let pod = pod(json!({"restartPolicy": "Never",
        "initContainers": [{"name": "a", "image": "i"}],
        "containers": [{"name": "c", "image": "i"}]}));
    let seen = observed(vec![run("a", 0, exited(1, 1))]);
    assert_eq!(planned(&pod, &seen, &mounted()), "stop s0, unmount");
    let end = finished(&pod, &seen, &mounted(), at(0)).unwrap();
    assert_eq!(end.phase, crate::pod::status::Phase::Failed);
}

#[test]
fn sidecars_come_first_and_go_last() {
    let mut pod = pod(json!({
        "restartPolicy": "Never",
        "initContainers": [
            {"name": "s", "image": "i", "restartPolicy": "Always",
             "startupProbe": {"tcpSocket": {"port": 1}}},
            {"name": "t", "image": "i", "restartPolicy": "Always"}],
        "containers": [{"name": "c", "image": "i"}],
    }));
    let mut memory = mounted();
    let s = || run("s", 0, running());
    assert_eq!(planned(&pod, &observed(vec![s()]), &memory), "");
    memory.health.insert("s0".into(), Health { started: true, ..Health::default() });
    assert_eq!(planned(&pod, &observed(vec![s()]), &memory), "start t0");
    let both = vec![s(), run("t", 0, running())];
    assert_eq!(planned(&pod, &observed(both.clone()), &memory), "start c0");
    let mut all = both;
    all.push(run("c", 0, exited(0, 1)));
    let both = "kill s0 30s after t, kill t0 30s";
    assert_eq!(planned(&pod, &observed(all.clone()), &memory), both);
    all[1].state = exited(0, 0);
    assert_eq!(planned(&pod, &observed(all.clone()), &memory), "kill s0 30s");
    // While the pod lives a sidecar is restarted whatever the pod's policy.
    all[2].state = running();
    assert_eq!(planned(&pod, &observed(all.clone()), &memory), "start t1");
    pod.metadata.deletion_timestamp = Some(at(0));
    pod.metadata.deletion_grace_period_seconds = Some(5);
    assert_eq!(planned(&pod, &observed(all.clone()), &memory), "kill s0 5s after c, kill c0 5s");
    all[1].state = running();
    let expected = "kill s0 5s after t+c, kill t0 5s after c, kill c0 5s";
    assert_eq!(planned(&pod, &observed(all), &memory), expected);
}

#[test]
fn deletion() {
    let mut pod = simple("Always");
    pod.metadata.deletion_timestamp = Some(at(0));
    pod.metadata.deletion_grace_period_seconds = Some(7);
    let mut memory = mounted();
    let mut seen = observed(vec![run("c", 0, running())]);
    assert_eq!(planned(&pod, &seen, &memory), "kill c0 7s");
    memory.terminating = Some((7, at(-5)));
    assert_eq!(planned(&pod, &seen, &memory), "kill c0 2s");
    seen.containers[0].state = exited(143, 0);
    assert_eq!(planned(&pod, &seen, &memory), "stop s0, unmount");
    seen.sandboxes[0].ready = false;
    memory.unmounted = true;
    assert_eq!(planned(&pod, &seen, &memory), "finish");
    memory.finished = true;
    assert_eq!(planned(&pod, &seen, &memory), "");
    let gone = short(&cleanup(&seen, &memory, Duration::from_secs(1), at(0)));
    assert_eq!(gone, "remove c0, remove sandbox s0");
    // Deleted before anything was made of it.
    memory.finished = false;
    assert_eq!(planned(&pod, &Observed::default(), &memory), "finish");
}

#[test]
fn probes_and_new_images_restart_containers() {
    let mut pod = pod(json!({"terminationGracePeriodSeconds": 9, "containers": [{"name": "c",
        "image": "i", "livenessProbe": {"tcpSocket": {"port": 1},
        "terminationGracePeriodSeconds": 3}}]}));
    let seen = observed(vec![run("c", 0, running())]);
    let mut memory = mounted();
    let failed = Health { started: true, ready: true, failed: Some("liveness") };
    memory.health.insert("c0".into(), failed);
    let result = plan(&pod, &seen, &memory, at(0));
    assert_eq!(short(&result), "kill c0 3s");
    let Step::Kill { why, .. } = &result.steps[0] else { panic!("{result:?}") };
    assert_eq!(why, "Container c failed liveness probe, will be restarted");
    memory.health.clear();
    pod.spec.containers[0].image = "j".into();
    assert_eq!(planned(&pod, &seen, &memory), "kill c0 9s");
}

#[test]
fn images_that_do_not_come() {
    let pod = simple("Always");
    let mut memory = mounted();
    let failure = Failure {
        reason: "ErrImagePull".into(),
        message: "no such host".into(),
        shown_until: Some(at(2)),
        backoff: Backoff::next(None, crate::backoff::PULL, at(0)),
        retry_at: at(10),
    };
    memory.failures.insert("c".into(), failure);
    let seen = observed(vec![]);
    assert_eq!(planned(&pod, &seen, &memory), "c: ErrImagePull, again 2s");
    let later = plan(&pod, &seen, &memory, at(2));
    assert_eq!(short(&later), "report c, c: ImagePullBackOff, again 10s");
    let message = "Back-off pulling image \"i\": ErrImagePull: no such host";
    assert_eq!(later.waiting["c"].message, message);
    assert_eq!(short(&plan(&pod, &seen, &memory, at(10))), "start c0");
}

#[test]
fn restart_counts_outlive_their_containers() {
    let waiting = json!({"waiting": {"reason": "ContainerCreating"}});
    let ended = json!({"terminated": {"exitCode": 1, "containerID": "x://gone"}});
    let table = [
        (json!({"running": {}}), json!({}), "start c5"),
        (ended.clone(), json!({}), "start c5"),
        // It is the same run that ended and that waits for its back-off.
        (waiting.clone(), ended, "start c5"),
        // It was made and never started.
        (waiting, json!({}), "start c4"),
    ];
    for (state, last, steps) in table {
        let mut pod = simple("Always");
        let status = json!({
            "name": "c", "restartCount": 4, "containerID": "x://gone",
            "state": state, "lastState": last,
        });
        pod.status.container_statuses.push(serde_json::from_value(status).unwrap());
        assert_eq!(planned(&pod, &observed(vec![]), &mounted()), steps, "{:?}", pod.status);
    }
    let before = Run { sandbox: "before".into(), ..run("c", 3, State::Created) };
    let planned = planned(&simple("Never"), &observed(vec![before]), &mounted());
    assert_eq!(planned, "start c3");
}

#[test]
fn a_deadline_ends_a_pod() {
    let mut pod = simple("Always");
    pod.spec.active_deadline_seconds = Some(60);
    pod.status.start_time = Some(at(-50));
    let seen = observed(vec![run("c", 0, running())]);
    assert_eq!(planned(&pod, &seen, &mounted()), "again 10s");
    assert_eq!(short(&plan(&pod, &seen, &mounted(), at(10))), "kill c0 30s");
}

#[test]
fn ephemeral_containers_run_once_and_wait_for_nobody() {
    let pod = pod(json!({
        "restartPolicy": "Always",
        "initContainers": [{"name": "i", "image": "i"}],
        "containers": [{"name": "c", "image": "i"}],
        "ephemeralContainers": [{"name": "e", "image": "i"}],
    }));
    let table = [
        (vec![], "start e0, start i0"),
        (vec![run("i", 0, running())], "start e0"),
        (vec![run("e", 0, exited(1, 5)), run("i", 0, running())], ""),
    ];
    for (containers, expected) in table {
        assert_eq!(planned(&pod, &observed(containers), &mounted()), expected);
    }
}

#[test]
fn resizes_are_done_once() {
    let resized = |policy: &str| {
        pod(json!({"containers": [{
            "name": "c", "image": "i", "resources": {"limits": {"cpu": "1"}},
            "resizePolicy": [{"resourceName": "cpu", "restartPolicy": policy}],
        }]}))
    };
    let held = Applied { shares: 2, quota: 5000, memory: 0 };
    let run = Run { applied: Some(held), ..run("c", 0, running()) };
    let observed = observed(vec![run]);
    let asked = Memory { resizing: true, ..mounted() };
    let (in_place, restart) = (resized("NotRequired"), resized("RestartContainer"));
    let mut told = asked.clone();
    let applied = crate::config::applied(&in_place, &in_place.spec.containers[0]);
    told.resized.insert("c".into(), applied);
    let table = [
        (&in_place, mounted(), ""),
        (&in_place, asked.clone(), "resize c"),
        (&restart, asked, "kill c0 30s, resize pod of c"),
        (&in_place, told, ""),
    ];
    for (pod, memory, expected) in table {
        assert_eq!(planned(pod, &observed, &memory), expected);
    }
}

#[test]
fn who_has_cpus_of_his_own_has_no_quota() {
    let limits = json!({"cpu": "1", "memory": "2Mi"});
    let policy = json!([{"resourceName": "cpu", "restartPolicy": "RestartContainer"}]);
    let pod = pod(json!({"containers": [{"name": "c", "image": "i",
        "resources": {"requests": limits, "limits": limits}, "resizePolicy": policy}]}));
    let wanted = crate::config::applied(&pod, &pod.spec.containers[0]);
    let cpus = Cpus { set: "1".parse().unwrap(), exclusive: true };
    let memory = Memory { resizing: true, cpus: [("c".to_string(), cpus)].into(), ..mounted() };
    for (memory_held, expected) in [(wanted.memory, ""), (1 << 20, "resize c")] {
        let held = Applied { quota: 0, memory: memory_held, ..wanted };
        let run = Run { applied: Some(held), cpus: "1".into(), ..run("c", 0, running()) };
        assert_eq!(planned(&pod, &observed(vec![run]), &memory), expected);
    }
}

#[test]
fn pods_are_resized_as_a_whole() {
    let pod = pod(json!({"containers": [{"name": "c", "image": "i"}],
        "resources": {"limits": {"cpu": "1"}}}));
    let wanted = crate::config::applied(&pod, &pod.spec.containers[0]);
    let run = Run { applied: Some(Applied { quota: 5000, ..wanted }), ..run("c", 0, running()) };
    let seen = observed(vec![run]);
    let mut memory = Memory { resizing: true, ..mounted() };
    assert_eq!(planned(&pod, &seen, &memory), "resize c, resize pod");
    memory.resized.insert("c".into(), wanted);
    memory.pod_resized = Some(crate::config::applied_to_pod(&pod));
    assert_eq!(planned(&pod, &seen, &memory), "");
}

#[test]
fn a_new_sandbox_is_initialised_anew() {
    let pod = pod(json!({
        "initContainers": [{"name": "a", "image": "i"}],
        "containers": [{"name": "c", "image": "i"}],
    }));
    let old = |run: Run| Run { sandbox: "dead".into(), ..run };
    let mut seen = observed(vec![old(run("a", 0, exited(0, 9))), old(run("c", 0, exited(137, 1)))]);
    assert_eq!(planned(&pod, &seen, &mounted()), "start a1");
    seen.containers.insert(0, run("a", 1, exited(0, 0)));
    assert_eq!(planned(&pod, &seen, &mounted()), "start c1");
}

#[test]
fn containers_have_policies_of_their_own() {
    let pod = pod(json!({"restartPolicy": "Always", "containers": [
        {"name": "c", "image": "i", "restartPolicy": "Never", "restartPolicyRules": [
            {"action": "Restart", "exitCodes": {"operator": "In", "values": [42]}}]},
        {"name": "d", "image": "i", "restartPolicy": "OnFailure"}]}));
    let table = [(42, 1, "start c1, start d1"), (1, 1, "start d1"), (1, 0, "stop s0, unmount")];
    for (c, d, expected) in table {
        let seen = observed(vec![run("c", 0, exited(c, 1)), run("d", 0, exited(d, 1))]);
        assert_eq!(planned(&pod, &seen, &mounted()), expected, "{c} {d}");
    }
}

#[test]
fn one_exit_may_restart_all() {
    let pod = pod(json!({"restartPolicy": "Never",
        "initContainers": [
            {"name": "i", "image": "i"},
            {"name": "w", "image": "i", "restartPolicy": "Always", "restartPolicyRules": [
                {"action": "RestartAllContainers",
                 "exitCodes": {"operator": "In", "values": [88]}}]}],
        "containers": [{"name": "c", "image": "i"}, {"name": "d", "image": "i"}]}));
    let mut memory = mounted();
    let mut seen = observed(vec![
        run("i", 0, exited(0, 50)),
        run("w", 0, exited(88, 1)),
        run("c", 0, running()),
        run("d", 0, exited(0, 9)),
    ]);
    assert_eq!(planned(&pod, &seen, &memory), "kill c0 0s");
    seen.containers[2].state = exited(137, 0);
    let reset = "reset i0, reset c0, reset d0, reset w0 crashed";
    assert_eq!(planned(&pod, &seen, &memory), reset);
    // Whoever asks for it again and again waits.
    memory.crashes.insert("w".into(), Backoff::next(None, CRASH, at(-2)));
    let waits = "report w, w: CrashLoopBackOff, again 9s";
    assert_eq!(planned(&pod, &seen, &memory), waits);
    assert!(finished(&pod, &seen, &memory, at(0)).is_none());
    seen.containers.clear();
    for name in ["i", "w", "c", "d"] {
        memory.attempts.insert(name.into(), 0);
    }
    assert_eq!(planned(&pod, &seen, &memory), "start i1");
}

#[test]
fn the_node_may_end_a_pod() {
    let pod = simple("Always");
    let end = End { grace: Some(Duration::from_secs(4)), ..End::failed("Terminated", "why") };
    let mut memory = Memory { end: Some(end), ..mounted() };
    let mut seen = observed(vec![run("c", 0, running())]);
    assert_eq!(planned(&pod, &seen, &memory), "kill c0 4s");
    seen.containers[0].state = exited(0, 0);
    assert_eq!(planned(&pod, &seen, &memory), "stop s0, unmount");
    (seen.sandboxes[0].ready, memory.unmounted) = (false, true);
    assert_eq!(planned(&pod, &seen, &memory), "");
}

#[test]
fn volumes_are_asked_about_again_and_again() {
    let pod = simple("Always");
    let mut memory = Memory { growth: Some(at(60)), ..mounted() };
    let seen = observed(vec![run("c", 0, running())]);
    assert_eq!(planned(&pod, &seen, &memory), "again 60s");
    memory.growth = Some(at(0));
    assert_eq!(planned(&pod, &seen, &memory), "grow");
}

#[test]
fn an_unmount_that_failed_is_tried_again_after_its_back_off() {
    let mut pod = simple("Always");
    pod.metadata.deletion_timestamp = Some(at(-1));
    let mut seen = observed(vec![run("c", 0, exited(0, 0))]);
    seen.sandboxes[0].ready = false;
    let backoff = Backoff::next(None, crate::backoff::VOLUME, at(0));
    let teardown = Failure {
        reason: "FailedUnmount".into(),
        message: "the driver is gone".into(),
        shown_until: None,
        retry_at: at(8),
        backoff,
    };
    let mut memory = Memory { teardown: Some(teardown), ..mounted() };
    // The object stays until the volumes are down, and what else is left of the pod goes.
    assert_eq!(planned(&pod, &seen, &memory), "again 8s");
    let gone = |seen: &Observed, memory: &Memory, now| {
        short(&cleanup(seen, memory, Duration::from_secs(1), now))
    };
    assert_eq!(gone(&seen, &memory, at(0)), "remove c0, remove sandbox s0, again 8s");
    assert_eq!(gone(&Observed::default(), &memory, at(0)), "again 8s");
    assert_eq!(gone(&Observed::default(), &memory, at(8)), "unmount");
    assert_eq!(short(&plan(&pod, &seen, &memory, at(8))), "unmount");
    memory.unmounted = true;
    assert_eq!(planned(&pod, &seen, &memory), "finish");
    assert_eq!(gone(&Observed::default(), &memory, at(0)), "");
}
