//! A whole cluster on this machine, as `ctl cluster create` makes it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::image;
use crate::kubectl::Kubectl;
use crate::program::{Said, built, run, run_with_input};

pub struct Cluster {
    pub name: String,
    folder: tempfile::TempDir,
}

impl Cluster {
    /// Created with these further flags; the hello image is loaded. Deleted at its end.
    pub fn create(name: &str, arguments: &[&str]) -> Cluster {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let cluster = Cluster { name: name.to_string(), folder };
        let image = image::hello();
        cluster.ctl(&["image", "load", &image.to_string_lossy()]).ok();
        cluster.ctl(&[&["cluster", "create", name], arguments].concat()).ok();
        cluster
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Where the cluster keeps what it has on disk.
    pub fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// The part of it that is this cluster's alone.
    pub fn dir(&self) -> PathBuf {
        self.state().join("clusters").join(&self.name)
    }

    /// The processes that the cluster keeps running, by name.
    pub fn processes(&self) -> BTreeMap<String, i32> {
        let text = std::fs::read(self.dir().join("processes.json")).expect("the cluster's book");
        let book: BTreeMap<String, Value> = serde_json::from_slice(&text).expect("it is JSON");
        let pid = |process: &Value| process["pid"].as_i64().expect("every process has an id");
        book.into_iter().map(|(name, process)| (name, pid(&process) as i32)).collect()
    }

    /// The process of this name, while it runs.
    pub fn pid(&self, name: &str) -> Option<i32> {
        let pid = *self.processes().get(name)?;
        Path::new(&format!("/proc/{pid}")).exists().then_some(pid)
    }

    pub fn ctl(&self, arguments: &[&str]) -> Said {
        run(&mut self.ctl_command(arguments))
    }

    /// With a manifest on stdin.
    pub fn ctl_with(&self, arguments: &[&str], input: &str) -> Said {
        run_with_input(&mut self.ctl_command(arguments), input)
    }

    pub fn ctl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(built("ctl"));
        command
            .env("KUBECONFIG", self.kubeconfig())
            .env("CORACLE_STATE_DIR", self.state())
            .args(arguments);
        command
    }

    pub fn kubectl(&self) -> Option<Kubectl> {
        Kubectl::find(&self.kubeconfig())
    }

    /// Objects of a kind as JSON, with further arguments.
    pub fn get(&self, arguments: &[&str]) -> Value {
        let text = self.ctl(&[&["get"], arguments, &["-o", "json"]].concat()).ok();
        serde_json::from_str(&text).expect("ctl prints JSON")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            print_logs(&self.state());
        }
        let said = self.ctl(&["cluster", "delete", &self.name]);
        if !std::thread::panicking() {
            said.ok();
        }
    }
}

/// The last lines of every log, for whoever reads a failure.
fn print_logs(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            print_logs(&path);
        } else if path.extension().is_some_and(|extension| extension == "log") {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(40)..];
            eprintln!("--- {}\n{}", path.display(), tail.join("\n"));
        }
    }
}
