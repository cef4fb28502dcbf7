//! What Kubernetes asks of every node (its node-conformance suite), with real containers: many pods
//! at once in one cluster, each a behaviour by name.

use std::path::Path;

use serde_json::Value;
use tests::cluster::Cluster;
use tests::wait::until;
use tests::{image, machine, needs};

/// All pods but those that tests make themselves. `OUT` is a folder of the machine.
const PODS: &str = include_str!("node_conformance/pods.yaml");

#[test]
fn a_node_does_as_kubernetes_says() {
    needs!(root);
    needs!("busybox");
    let cluster = Cluster::create("e2e-node", &["--nodes", "1"]);
    let folder = tempfile::tempdir().unwrap();
    let busybox = machine::find("busybox").unwrap();
    let archive = image::shell(folder.path(), &busybox, &[]);
    cluster.ctl(&["image", "load", &archive.to_string_lossy()]).ok();
    let out = folder.path().join("out");
    std::fs::create_dir(&out).unwrap();
    let pods = PODS.replace("OUT", &out.to_string_lossy());
    cluster.ctl_with(&["apply", "-f", "-"], &pods).ok();
    let node = Node { cluster: &cluster };
    node.static_pods_run_and_have_mirrors();
    node.init_containers_run_in_order();
    node.the_environment_is_as_written();
    node.hosts_and_names_are_written();
    node.processes_are_shared_when_asked();
    node.the_hosts_namespaces_are_seen();
    node.last_words_are_kept();
    node.logs_stand_in_for_last_words();
    node.sidecars_end_after_the_pod_has_done();
    node.hooks_run_before_and_after(&out);
    node.a_failed_post_start_hook_restarts();
    node.probes_restart_and_hold_back();
    node.deadlines_end_pods();
    node.what_does_not_fit_is_not_taken();
    node.a_stubborn_pod_is_killed_in_time();
    node.a_killed_container_begins_anew();
    node.exit_codes_decide_on_restarts();
    node.pods_are_limited_as_a_whole();
}

struct Node<'a> {
    cluster: &'a Cluster,
}

impl Node<'_> {
    fn pod(&self, name: &str) -> Value {
        self.cluster.get(&["pod", name])
    }

    #[track_caller]
    fn until(&self, name: &str, what: &str, met: impl Fn(&Value) -> bool) -> Value {
        let what = format!("pod {name}: {what}");
        until(&what, 60, || Some(self.pod(name)).filter(|pod| met(pod)))
    }

    #[track_caller]
    fn ends(&self, name: &str, phase: &str) -> Value {
        self.until(name, phase, |pod| pod["status"]["phase"] == phase)
    }

    fn logs(&self, name: &str, container: &str) -> String {
        self.cluster.ctl(&["logs", name, "-c", container]).ok()
    }

    fn events(&self, name: &str) -> Vec<(String, String)> {
        let list = self.cluster.get(&["events"]);
        let of = |event: &&Value| event["involvedObject"]["name"] == name;
        let text = |event: &Value, field: &str| event[field].as_str().unwrap_or("").to_string();
        let events = list["items"].as_array().unwrap().iter().filter(of);
        events.map(|event| (text(event, "reason"), text(event, "message"))).collect()
    }

    #[track_caller]
    fn event(&self, name: &str, reason: &str, message: &str) {
        until(&format!("event {reason} of {name}: {message}"), 30, || {
            let all = self.events(name);
            all.into_iter().find(|(r, m)| r == reason && m.contains(message)).map(drop)
        });
    }

    fn init_containers_run_in_order(&self) {
        let pod = self.ends("init-order", "Succeeded");
        assert_eq!(self.logs("init-order", "c"), "first\nsecond\n");
        assert_eq!(condition(&pod, "Initialized")["status"], "True");
        assert_eq!(condition(&pod, "Ready")["reason"], "PodCompleted");
        // One that fails fails the pod, and nothing else is begun.
        let pod = self.ends("init-fails", "Failed");
        assert_eq!(condition(&pod, "Initialized")["reason"], "ContainersNotInitialized");
        assert!(status(&pod, "c")["containerID"].is_null());
    }

    fn the_environment_is_as_written(&self) {
        let pod = self.ends("environment", "Succeeded");
        let logs = self.logs("environment", "c");
        let ip = pod["status"]["podIP"].as_str().unwrap();
        let host = pod["status"]["hostIP"].as_str().unwrap();
        let expected = [
            "NAME=environment".to_string(),
            format!("IP={ip}"),
            format!("HOST={host}"),
            "COMPOSED=environment-$(NAME)-$(UNKNOWN)".into(),
            "LIMIT=64".into(),
            "CPU=2".into(),
            "LABEL=value".into(),
            "argument environment".into(),
        ];
        for line in expected {
            assert!(logs.lines().any(|found| found == line), "{line} in:\n{logs}");
        }
        assert_eq!(pod["status"]["qosClass"], "Burstable");
    }

    fn hosts_and_names_are_written(&self) {
        let pod = self.ends("names", "Succeeded");
        let ip = pod["status"]["podIP"].as_str().unwrap();
        let logs = self.logs("names", "c");
        let full = "given.sub.default.svc.cluster.local";
        assert!(logs.starts_with(&format!("{full}\n")), "{logs}");
        assert!(logs.contains(&format!("{ip}\t{full}\tgiven\n")), "{logs}");
        assert!(logs.contains("1.2.3.4\talias-a\talias-b\n"), "{logs}");
        assert!(
            logs.contains("nameserver 9.9.9.9\nsearch example.com\noptions ndots:2\n"),
            "{logs}"
        );
    }

    fn processes_are_shared_when_asked(&self) {
        let pod = self.ends("shared-processes", "Failed");
        assert_eq!(self.logs("shared-processes", "looks"), "sleep\x004321\x00");
        assert_eq!(status(&pod, "sleeps")["state"]["terminated"]["exitCode"], 137);
    }

    fn the_hosts_namespaces_are_seen(&self) {
        let pod = self.ends("of-the-host", "Succeeded");
        assert_eq!(pod["status"]["podIP"], pod["status"]["hostIP"]);
        let logs = self.logs("of-the-host", "c");
        // The supervisor of cluster and node is nobody that a pod would see.
        assert!(logs.contains("agent"), "{logs}");
    }

    fn last_words_are_kept(&self) {
        let pod = self.ends("last-words", "Failed");
        let end = |name: &str| status(&pod, name)["state"]["terminated"].clone();
        assert_eq!(
            (&end("said")["message"], &end("said")["reason"]),
            (&Value::from("DONE"), &Value::from("Completed"),)
        );
        assert_eq!(end("code")["exitCode"], 7);
        assert_eq!(end("code")["reason"], "Error");
        assert_eq!(end("elsewhere")["message"], "HERE");
        let long = end("long")["message"].as_str().unwrap().len();
        assert_eq!(long, 3072, "four containers share 12 KiB");
    }

    fn logs_stand_in_for_last_words(&self) {
        let pod = self.ends("from-logs", "Failed");
        let message = |name: &str| {
            status(&pod, name)["state"]["terminated"]["message"].as_str().unwrap_or("").to_string()
        };
        assert_eq!(message("fails").lines().count(), 80);
        assert!(message("fails").ends_with("line 99\n"), "{}", message("fails"));
        assert_eq!(message("succeeds"), "");
    }

    fn sidecars_end_after_the_pod_has_done(&self) {
        let pod = self.ends("sidecar", "Succeeded");
        let at = |name: &str, field: &str| {
            let end = &status(&pod, name)["state"]["terminated"];
            end[field].as_str().unwrap().parse::<proto::time::Time>().unwrap()
        };
        assert!(at("proxy", "startedAt") <= at("c", "startedAt"));
        assert!(at("proxy", "finishedAt") >= at("c", "finishedAt"));
        assert_eq!(status(&pod, "proxy")["state"]["terminated"]["exitCode"], 0);
    }

    fn hooks_run_before_and_after(&self, out: &Path) {
        self.until("hooks", "Ready", |pod| condition(pod, "Ready")["status"] == "True");
        self.cluster.ctl(&["delete", "pod", "hooks"]).ok();
        let said = std::fs::read_to_string(out.join("hooks")).unwrap();
        assert_eq!(said, "postStart\npreStop\nTERM\n");
    }

    fn a_failed_post_start_hook_restarts(&self) {
        self.event("bad-hook", "FailedPostStartHook", "PostStartHook failed");
        self.event("bad-hook", "Killing", "FailedPostStartHook");
        self.until("bad-hook", "a restart", |pod| {
            status(pod, "c")["restartCount"].as_i64() >= Some(1)
        });
    }

    fn probes_restart_and_hold_back(&self) {
        self.event("unhealthy", "Unhealthy", "Liveness probe failed: not well");
        let why = "Container c failed liveness probe, will be restarted";
        self.event("unhealthy", "Killing", why);
        self.until("unhealthy", "a restart", |pod| status(pod, "c")["restartCount"] == 1);
        let pod = self.pod("unready");
        assert_eq!(status(&pod, "c")["ready"], false);
        assert_eq!(condition(&pod, "ContainersReady")["reason"], "ContainersNotReady");
        let message = "containers with unready status: [c]";
        assert_eq!(condition(&pod, "Ready")["message"], message);
    }

    fn deadlines_end_pods(&self) {
        let pod = self.ends("deadline", "Failed");
        assert_eq!(pod["status"]["reason"], "DeadlineExceeded");
        assert_eq!(status(&pod, "c")["state"]["terminated"]["exitCode"], 143);
    }

    fn what_does_not_fit_is_not_taken(&self) {
        let pod = self.ends("too-large", "Failed");
        assert_eq!(pod["status"]["reason"], "OutOfcpu");
        let message = pod["status"]["message"].as_str().unwrap();
        let begins = "Pod was rejected: Node didn't have enough resource: cpu, requested: 1000000,";
        assert!(message.starts_with(begins), "{message}");
        let pod = self.ends("elsewhere", "Failed");
        assert_eq!(pod["status"]["reason"], "NodeAffinity");
        let pod = self.ends("unsafe", "Failed");
        assert_eq!(pod["status"]["reason"], "SysctlForbidden");
        self.event(
            "unsafe",
            "SysctlForbidden",
            "forbidden sysctl: \"kernel.msgmax\" not allowlisted",
        );
    }

    fn a_stubborn_pod_is_killed_in_time(&self) {
        self.until("stubborn", "Running", |pod| pod["status"]["phase"] == "Running");
        // Its own grace is an hour; who deletes it decides.
        self.cluster.ctl(&["delete", "pod", "stubborn", "--grace-period=1"]).ok();
        assert_eq!(machine::processes("sleep\x0098765\x00"), Vec::<u32>::new());
    }

    fn exit_codes_decide_on_restarts(&self) {
        let pod = self.ends("again-on-42", "Succeeded");
        assert_eq!(status(&pod, "c")["restartCount"], 1);
        let all = ["setup", "watcher", "c"];
        let pod = self.until("restart-all", "all containers restarted", |pod| {
            let once = |name: &&str| status(pod, name)["restartCount"] == 1;
            all.iter().all(once) && status(pod, "c")["state"]["running"].is_object()
        });
        assert_eq!(condition(&pod, "AllContainersRestarting")["status"], "False");
        // Its volumes stay: each has run twice.
        let look = ["exec", "restart-all", "-c", "c", "--", "cat", "/shared/log"];
        until("the second run of all", 30, || {
            (self.cluster.ctl(&look).out == "setup\nc\nsetup\nc\n").then_some(())
        });
    }

    fn pods_are_limited_as_a_whole(&self) {
        let running = |pod: &Value| status(pod, "c")["state"]["running"].is_object();
        let pod = self.until("as-a-whole", "Running", running);
        let resources = &pod["status"]["resources"];
        assert_eq!(
            (&resources["limits"]["cpu"], &resources["requests"]["memory"]),
            (&Value::from("500m"), &Value::from("32Mi"),)
        );
        assert_eq!(pod["status"]["allocatedResources"]["cpu"], "100m");
        assert_eq!(pod["status"]["qosClass"], "Burstable");
        let pid = machine::processes("sleep\x0065432\x00")[0];
        let limit = machine::cgroup_value(pid, &["memory.max", "memory.limit_in_bytes"]);
        assert_eq!(limit, "67108864");
    }

    fn a_killed_container_begins_anew(&self) {
        let before =
            self.until("begins-anew", "Ready", |pod| condition(pod, "Ready")["status"] == "True");
        let id = status(&before, "c")["containerID"].as_str().unwrap().to_string();
        let pid = machine::processes("sleep\x0087654\x00")[0];
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let after = self.until("begins-anew", "a restart", |pod| {
            let status = status(pod, "c");
            status["restartCount"] == 1 && status["state"]["running"].is_object()
        });
        assert_ne!(status(&after, "c")["containerID"], id.as_str());
        let last = &status(&after, "c")["lastState"]["terminated"];
        assert_eq!(
            (&last["exitCode"], &last["containerID"]),
            (&Value::from(137), &Value::from(id.as_str()),)
        );
        let logs = self.cluster.ctl(&["logs", "begins-anew", "--previous"]).ok();
        assert_eq!(logs, "run\n");
    }

    fn static_pods_run_and_have_mirrors(&self) {
        let clusters = self.cluster.state().join("clusters").join(&self.cluster.name);
        let file = clusters.join("nodes/node1/manifests/web.yaml");
        let manifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: from-file}\nspec:\n  \
                        terminationGracePeriodSeconds: 1\n  containers:\n  - {name: c, image: \
                        \"test/shell:1\", command: [sleep, \"76543\"]}\n";
        std::fs::write(&file, manifest).unwrap();
        let running = |pod: &Value| status(pod, "c")["state"]["running"].is_object();
        let name = "from-file-node1";
        let known = |pod: &str| self.cluster.ctl(&["get", "pod", pod]).code == 0;
        until("a mirror", 60, || known(name).then_some(()));
        let before = self.until(name, "Running", running);
        assert_eq!(before["metadata"]["annotations"]["kubernetes.io/config.source"], "file");
        let process = machine::processes("sleep\x0076543\x00");
        assert_eq!(process.len(), 1);
        // Logs and exec find it by its mirror.
        let said = self.cluster.ctl(&["exec", name, "--", "echo", "hello"]).ok();
        assert_eq!(said, "hello\n");
        self.cluster.ctl(&["delete", "pod", name, "--wait=false"]).ok();
        until("another mirror", 60, || {
            let again = known(name).then(|| self.pod(name))?;
            let other = again["metadata"]["uid"] != before["metadata"]["uid"];
            (other && running(&again)).then_some(())
        });
        assert_eq!(machine::processes("sleep\x0076543\x00"), process);
        std::fs::remove_file(&file).unwrap();
        until("the mirror's end", 60, || (!known(name)).then_some(()));
        assert_eq!(machine::processes("sleep\x0076543\x00"), Vec::<u32>::new());
    }
}

/// The status of a container of any sort.
fn status<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let lists = ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"];
    let all = lists.iter().filter_map(|list| pod["status"][list].as_array()).flatten();
    all.into_iter().find(|status| status["name"] == name).unwrap_or(&Value::Null)
}

fn condition<'a>(pod: &'a Value, kind: &str) -> &'a Value {
    let all = pod["status"]["conditions"].as_array().into_iter().flatten();
    all.into_iter().find(|one| one["type"] == kind).unwrap_or(&Value::Null)
}
