//! Lives of clusters on this machine, with the program as its user calls it. Needs root; says so
//! and passes without.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use client::Clock;

/// A folder with a cluster's state, and the cluster's name, which no other test uses.
struct Lab {
    folder: tempfile::TempDir,
    name: String,
}

impl Lab {
    /// `None`, having said why, where clusters cannot be made.
    fn new(name: &str) -> Option<Self> {
        let nft = ["/usr/sbin/nft", "/usr/bin/nft", "/sbin/nft"];
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIPPED: needs root to make network namespaces");
            return None;
        }
        if !nft.iter().any(|path| Path::new(path).exists()) {
            eprintln!("SKIPPED: needs nft (package nftables)");
            return None;
        }
        Some(Self { folder: tempfile::tempdir().unwrap(), name: name.into() })
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ctl"));
        command
            .args(words)
            .env("CORACLE_STATE_DIR", self.state())
            .env("KUBECONFIG", self.kubeconfig())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.command(words).output().unwrap()
    }

    /// What a command that must succeed printed.
    fn ctl(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "ctl {words:?}: {said}\n{}", self.logs());
        String::from_utf8(output.stdout).unwrap()
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kube/config")
    }

    fn dir(&self) -> PathBuf {
        self.state().join("clusters").join(&self.name)
    }

    fn logs(&self) -> String {
        let logs = std::fs::read_dir(self.dir().join("logs")).into_iter().flatten().flatten();
        let text = |path: PathBuf| {
            format!("{}:\n{}", path.display(), std::fs::read_to_string(&path).unwrap_or_default())
        };
        logs.map(|entry| text(entry.path())).collect()
    }

    fn pid(&self, process: &str) -> Option<i32> {
        let text = std::fs::read_to_string(self.dir().join("processes.json")).ok()?;
        let processes: serde_json::Value = serde_json::from_str(&text).ok()?;
        Some(processes[process]["pid"].as_i64()? as i32)
    }

    async fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let clock = Clock::system();
        let deadline = clock.instant() + Duration::from_secs(20);
        while !done() {
            assert!(clock.instant() < deadline, "{what} never came\n{}", self.logs());
            tokio::task::yield_now().await;
        }
    }

    /// Everything on this machine that still bears the cluster's or the folder's name.
    fn traces(&self) -> Vec<String> {
        let folder = self.folder.path().to_string_lossy().into_owned();
        let cluster = format!("coracle-{}", self.name);
        let mut traces = Vec::new();
        for process in std::fs::read_dir("/proc").unwrap().flatten() {
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            traces.extend(line.contains(&folder).then(|| format!("process {line}")));
        }
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let bears = |line: &&str| line.contains(&folder) || line.contains(&cluster);
        traces.extend(mounts.lines().filter(bears).map(|line| format!("mount {line}")));
        for command in [&["ip", "-br", "link"][..], &["nft", "list", "tables"], &["ip", "route"]] {
            let output = Command::new(command[0]).args(&command[1..]).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            let ours = |line: &&str| {
                line.contains(&format!("cor-{}", self.name))
                    || line.contains(&cluster)
                    || line.starts_with(&format!("{}-n", self.name))
            };
            traces.extend(text.lines().filter(ours).map(|line| format!("{command:?}: {line}")));
        }
        for folder in
            ["/run/netns", "/sys/fs/cgroup", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"]
        {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            let ours = entries.map(|entry| entry.path()).filter(|path| {
                path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(&cluster))
            });
            traces.extend(ours.map(|path| path.display().to_string()));
        }
        traces
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.run(&["cluster", "delete", &self.name]);
    }
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_cluster_comes_heals_and_goes_without_a_trace() {
    let Some(lab) = Lab::new("life") else { return };
    lab.ctl(&["cluster", "create", "life", "--nodes", "0", "--simulated-nodes", "2"]);
    let nodes = lab.ctl(&["get", "nodes"]);
    assert_eq!(nodes.matches(" Ready ").count(), 2, "{nodes}");
    let list = lab.ctl(&["cluster", "list"]);
    assert!(list.contains("life") && list.contains("Running") && list.contains("0+2"), "{list}");
    let again = lab.run(&["cluster", "create", "life"]);
    assert!(!again.status.success());
    assert!(String::from_utf8_lossy(&again.stderr).contains("exists already"));
    let kubeconfig = std::fs::read_to_string(lab.kubeconfig()).unwrap();
    assert!(kubeconfig.contains("current-context: coracle-life"), "{kubeconfig}");

    // What is killed comes back.
    for process in ["server", "proxy"] {
        let old = lab.pid(process).unwrap();
        kill(old);
        lab.until("the restart", || lab.pid(process).is_some_and(|pid| pid != old)).await;
    }
    lab.until("the API", || lab.run(&["get", "nodes"]).status.success()).await;

    // Without its supervisor the cluster goes on, and can be removed.
    kill(lab.pid("supervisor").unwrap());
    lab.until("the end of the supervisor", || {
        lab.ctl(&["cluster", "list"]).contains("Unsupervised")
    })
    .await;
    assert!(lab.ctl(&["get", "nodes"]).contains(" Ready "));
    assert!(!lab.traces().is_empty(), "it is there");
    lab.ctl(&["cluster", "delete", "life"]);
    assert_eq!(lab.traces(), Vec::<String>::new());
    assert!(!lab.dir().exists());
    let kubeconfig = std::fs::read_to_string(lab.kubeconfig()).unwrap();
    assert!(!kubeconfig.contains("life"), "{kubeconfig}");
    lab.ctl(&["cluster", "delete", "life"]);
}

#[test]
fn what_cannot_work_is_said_before_anything_is_made() {
    let Some(lab) = Lab::new("wrong") else { return };
    let manifest = lab.folder.path().join("broken.yaml");
    std::fs::write(&manifest, "kind: [").unwrap();
    let manifest = manifest.to_string_lossy();
    for (words, says) in [
        (&["cluster", "create", "Wrong"][..], "cannot be a cluster's name"),
        (&["cluster", "create", "wrong", "--nodes", "101"], "at most 100 nodes"),
        (&["cluster", "create", "wrong", "-f", &manifest], "broken.yaml"),
        (&["cluster", "create", "wrong", "-f", "/none.yaml"], "/none.yaml"),
        (&["cluster", "create", "wrong", "--etcd", "--ephemeral"], "cannot be used with"),
        (&["cluster", "status", "wrong"], "there is no cluster \"wrong\""),
        (&["cluster", "node", "stop", "node1", "--cluster", "wrong"], "there is no cluster"),
    ] {
        let output = lab.run(words);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{words:?}: {said}");
        assert!(said.contains(says), "{words:?}: {said}");
        assert_eq!(lab.traces(), Vec::<String>::new(), "{words:?}");
    }
}

#[tokio::test]
async fn a_failure_half_way_leaves_nothing() {
    let Some(lab) = Lab::new("half") else { return };
    // A folder where a file has to be: the kubeconfig cannot be written.
    std::fs::create_dir_all(lab.kubeconfig()).unwrap();
    let output = lab.run(&["cluster", "create", "half", "--nodes", "0", "--simulated-nodes", "1"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("kubeconfig"), "{said}");
    assert_eq!(lab.traces(), Vec::<String>::new(), "{said}");
    assert!(!lab.dir().exists(), "{said}");
}
