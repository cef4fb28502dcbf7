//! Agent and runtime are killed at random moments while pods come, end, restart and go: afterwards
//! every pod is as its spec asks, no container was started twice, no exit code and no line of a log
//! is lost, and nothing of a deleted pod is left.
//!
//! Every container keeps a book of its own, outside of the cluster's knowledge: a line when it starts
//! and one when it ends. `CORACLE_KILLS=200` for the long form, `CORACLE_SEED` to repeat one.

use std::collections::BTreeMap;
use std::path::Path;

use client::Rng;
use serde_json::{Value, json};
use tests::cluster::Cluster;
use tests::wait::{patiently, pause, until};
use tests::{image, machine, needs};

/// What becomes of a pod's main container.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// It ends with this code and is not started again.
    Once(u8),
    /// It fails, is started again and ends well.
    Again,
    /// It runs until it is told to end.
    Runs,
    /// As `Once(0)`, after an init container.
    AfterInit,
}

struct Pod {
    uid: String,
    fate: Fate,
}

const LINES: usize = 40;

/// Writes the book, some lines of log, and ends as its fate says.
const SCRIPT: &str = r#"
book=/book/$POD.$NAME
trap 'echo exit 0 >>$book; exit 0' TERM
echo start >>$book
i=0
while [ $i -lt 40 ]; do i=$((i+1)); echo line $i; done
[ "$FATE" = runs ] && { while :; do sleep 1 & wait $!; done; }
sleep 0.$PAUSE & wait $!
code=$FATE
[ "$FATE" = again ] && { code=0; [ -e $book.failed ] || { code=1; echo >$book.failed; }; }
echo exit $code >>$book
exit $code
"#;

#[test]
fn nothing_is_lost_or_done_twice() {
    needs!(root);
    needs!("busybox");
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let kills = number("CORACLE_KILLS").unwrap_or(8);
    let seed = number("CORACLE_SEED").unwrap_or_else(|| Rng::from_os().below(1 << 32));
    eprintln!("CORACLE_SEED={seed} CORACLE_KILLS={kills}");
    let rng = Rng::seeded(seed);

    let cluster = Cluster::create("e2e-churn", &["--nodes", "1"]);
    let folder = tempfile::tempdir().unwrap();
    let archive = image::shell(folder.path(), &machine::find("busybox").unwrap(), &[]);
    cluster.ctl(&["image", "load", &archive.to_string_lossy()]).ok();
    let book = folder.path().join("book");
    std::fs::create_dir(&book).unwrap();

    let mut pods: BTreeMap<String, Pod> = BTreeMap::new();
    let mut killed = BTreeMap::new();
    for kill in 0..kills {
        for number in 0..rng.below(4) {
            let name = format!("pod-{kill}-{number}");
            let fates = [Fate::Once(0), Fate::Once(7), Fate::Again, Fate::Runs, Fate::AfterInit];
            let fate = fates[rng.below(5) as usize];
            let manifest = manifest(&name, fate, &book, rng.below(10)).to_string();
            let made = cluster.ctl_with(&["create", "-o", "json", "-f", "-"], &manifest).ok();
            let made: Value = serde_json::from_str(&made).unwrap();
            let uid = made["metadata"]["uid"].as_str().unwrap().to_owned();
            pods.insert(name, Pod { uid, fate });
        }
        if rng.below(2) == 0 {
            delete_one(&cluster, &mut pods, &book, &rng);
        }
        let daemon = ["node1/agent", "node1/runtime"][rng.below(2) as usize];
        // Both may be dead at one time, none is killed twice.
        let pid = until("the daemon to run", 30, || {
            cluster.pid(daemon).filter(|pid| killed.get(daemon) != Some(pid))
        });
        pause(rng.below(1500));
        let process = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
        killed.insert(daemon, pid);
    }
    for (name, pod) in &pods {
        let mut object = Value::Null;
        let settled = patiently(120, || {
            object = cluster.get(&["pod", name]);
            is_settled(&object, pod.fate)
        });
        assert!(settled, "seed {seed}: {name} is not {:?}: {object:#}", pod.fate);
    }
    for (name, pod) in &pods {
        examine(&cluster, name, pod, &book);
    }
    cluster.ctl(&["delete", "pods", "--all", "--timeout=120s"]).ok();
    for pod in pods.values().filter(|pod| pod.fate == Fate::Runs) {
        assert_eq!(read(&book, &pod.uid, "main"), ["start", "exit 0"], "{}", pod.uid);
    }
    until("nothing to be left of the pods", 60, || left(&cluster).is_empty().then_some(()));
}

fn manifest(name: &str, fate: Fate, book: &Path, pause: u64) -> Value {
    let (policy, word) = match fate {
        Fate::Once(code) => ("Never", code.to_string()),
        Fate::Again => ("OnFailure", "again".into()),
        Fate::Runs => ("Always", "runs".into()),
        Fate::AfterInit => ("Never", "0".into()),
    };
    let container = |name: &str, fate: &str| {
        json!({
            "name": name, "image": "test/shell:1", "command": ["sh", "-c", SCRIPT],
            "env": [
                {"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
                {"name": "NAME", "value": name}, {"name": "FATE", "value": fate},
                {"name": "PAUSE", "value": pause.to_string()},
            ],
            "volumeMounts": [{"name": "book", "mountPath": "/book"}],
        })
    };
    let init = if fate == Fate::AfterInit { vec![container("init", "0")] } else { Vec::new() };
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {
            "restartPolicy": policy, "terminationGracePeriodSeconds": 30,
            "initContainers": init, "containers": [container("main", &word)],
            "volumes": [{"name": "book", "hostPath": {"path": book}}],
        },
    })
}

/// One that has started: what never ran has nothing to lose.
fn delete_one(cluster: &Cluster, pods: &mut BTreeMap<String, Pod>, book: &Path, rng: &Rng) {
    let names: Vec<String> = pods
        .iter()
        .filter(|(_, pod)| pod.fate == Fate::Runs && !read(book, &pod.uid, "main").is_empty())
        .map(|(name, _)| name.clone())
        .collect();
    let Some(name) = names.get(rng.below(names.len() as u64) as usize) else { return };
    cluster.ctl(&["delete", "pod", name, "--wait=false"]).ok();
    let pod = pods.remove(name).unwrap();
    until(&format!("{name} to go"), 120, || {
        let pod = cluster.ctl(&["get", "pod", name, "--ignore-not-found", "-o", "name"]).ok();
        pod.is_empty().then_some(())
    });
    assert_eq!(read(book, &pod.uid, "main"), ["start", "exit 0"], "{name} ({})", pod.uid);
}

fn is_settled(pod: &Value, fate: Fate) -> bool {
    let phase = match fate {
        Fate::Once(0) | Fate::Again | Fate::AfterInit => "Succeeded",
        Fate::Once(_) => "Failed",
        Fate::Runs => "Running",
    };
    let ready = &pod["status"]["containerStatuses"][0]["ready"];
    pod["status"]["phase"] == phase && (*ready == true) == (fate == Fate::Runs)
}

/// What the API says of a pod against what its containers wrote themselves.
fn examine(cluster: &Cluster, name: &str, pod: &Pod, book: &Path) {
    let object = cluster.get(&["pod", name]);
    let status = &object["status"]["containerStatuses"][0];
    let written = read(book, &pod.uid, "main");
    let (wanted, restarts, code): (&[&str], _, _) = match pod.fate {
        Fate::Once(0) | Fate::AfterInit => (&["start", "exit 0"], 0, json!(0)),
        Fate::Once(_) => (&["start", "exit 7"], 0, json!(7)),
        Fate::Again => (&["start", "exit 1", "start", "exit 0"], 1, json!(0)),
        Fate::Runs => (&["start"], 0, Value::Null),
    };
    assert_eq!(written, wanted, "{name}: {object:#}");
    assert_eq!(status["restartCount"], restarts, "{name}: {object:#}");
    let ended = &status["state"]["terminated"];
    assert_eq!(ended["exitCode"], code, "{name}: {object:#}");
    if pod.fate == Fate::Again {
        let last = &status["lastState"]["terminated"];
        assert_eq!(last["exitCode"], 1, "{name}: {object:#}");
        assert!(last["finishedAt"].as_str() <= ended["startedAt"].as_str(), "{name}: {object:#}");
    }
    if pod.fate == Fate::AfterInit {
        assert_eq!(read(book, &pod.uid, "init"), ["start", "exit 0"], "{name}");
        let init = &object["status"]["initContainerStatuses"][0]["state"]["terminated"];
        assert_eq!(init["exitCode"], 0, "{name}: {object:#}");
    }
    // The runtime may be about to come back for the last time.
    let log = until("the log", 30, || {
        let said = cluster.ctl(&["logs", name]);
        (said.code == 0).then_some(said.out)
    });
    let whole: String = (1..=LINES).map(|number| format!("line {number}\n")).collect();
    assert_eq!(log, whole, "{name}");
}

/// The lines that a container wrote.
fn read(book: &Path, uid: &str, container: &str) -> Vec<String> {
    let text = std::fs::read_to_string(book.join(format!("{uid}.{container}")));
    text.unwrap_or_default().lines().map(str::to_owned).collect()
}

/// Cgroups, mounts and folders of pods on the node.
fn left(cluster: &Cluster) -> Vec<String> {
    let mut found = Vec::new();
    let hierarchies = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
    let parent = format!("coracle-{}/node1", cluster.name);
    for folder in hierarchies.map(|entry| entry.path().join(&parent)) {
        cgroups_of_pods(&folder, &mut found);
    }
    let node = cluster.dir().join("nodes/node1");
    for folder in ["runtime/sandboxes", "runtime/containers", "kubelet/pods"] {
        let path = node.join(folder);
        let entries = std::fs::read_dir(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        found.extend(entries.flatten().map(|entry| entry.path().display().to_string()));
    }
    if let Some(runtime) = cluster.pid("node1/runtime") {
        let mounts = std::fs::read_to_string(format!("/proc/{runtime}/mountinfo"));
        let own = node.display().to_string();
        let mounts = mounts.unwrap_or_default();
        let ours = mounts.lines().filter(|line| line.contains(&own) && line.contains("/pods/"));
        found.extend(ours.map(str::to_owned));
    }
    found
}

fn cgroups_of_pods(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            if entry.file_name().to_string_lossy().starts_with("pod") {
                found.push(path.display().to_string());
            }
            cgroups_of_pods(&path, found);
        }
    }
}
