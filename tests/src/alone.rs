//! A node of a test's own on the machine's network: server, runtime and agent as a user would start
//! them, with the flags of his choice.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::program::{built, run};
use crate::server::Server;
use crate::wait::patiently;
use crate::{image, machine};

/// The name of the node.
pub const NAME: &str = "alone";

/// Ends with the test; the runtime with its containers.
pub struct Daemon(pub Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the image `test/shell:1`. Without a pod network unless the agent is told of one.
pub struct Alone {
    pub server: Server,
    pub folder: PathBuf,
    /// The group below which its pods are.
    cgroup: String,
    _runtime: Daemon,
}

impl Alone {
    /// With these flags of the server. The agent is the caller's to start.
    pub fn start(folder: &Path, flags: &[&str]) -> Alone {
        let server = Server::start(flags);
        let busybox = machine::find("busybox").expect("it is there");
        let archive = image::shell(folder, &busybox, &[]);
        let mut load = Command::new(built("ctl"));
        load.env("CORACLE_STATE_DIR", folder.join("state"));
        run(load.args(["image", "load"]).arg(&archive)).ok();
        let mut runtime = daemon(folder, "runtime");
        runtime.arg("--root").arg(folder.join("runtime"));
        runtime.arg("--listen").arg(socket(folder));
        runtime.arg("--image-root").arg(folder.join("state/images"));
        let cgroup = format!("/coracle-e2e-alone-{}", server.port);
        runtime.args(["--cgroup-parent", &cgroup]);
        let runtime = Daemon(runtime.spawn().expect("ctl starts"));
        Alone { server, folder: folder.into(), cgroup, _runtime: runtime }
    }

    /// The agent, as this kubeconfig says.
    pub fn agent(&self, kubeconfig: &Path, flags: &[&str]) -> Daemon {
        let folder = &self.folder;
        let mut agent = daemon(folder, "agent");
        agent.args(["--node-name", NAME, "--node-ip", "127.0.0.1"]);
        agent.args(["--bind-address", "127.0.0.1", "--port", "0"]);
        agent.arg("--kubeconfig").arg(kubeconfig);
        agent.arg("--runtime-endpoint").arg(socket(folder));
        agent.arg("--root-dir").arg(folder.join("kubelet"));
        agent.arg("--pod-logs-dir").arg(folder.join("logs"));
        // Whatever else fills the machine's disk.
        agent.args(["--image-gc-high-threshold=100", "--cgroup-root", &self.cgroup]).args(flags);
        Daemon(agent.spawn().expect("ctl starts"))
    }

    /// What ctl gets, if there is any.
    pub fn get(&self, arguments: &[&str]) -> Option<Value> {
        let said = self.server.ctl(&[&["get"], arguments, &["-o", "json"]].concat());
        (said.code == 0).then(|| serde_json::from_str(&said.out).expect("ctl prints JSON"))
    }

    /// What the agent has logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("agent.log")).unwrap_or_default()
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        let groups = groups(&self.cgroup);
        // After a failed assertion: ends what the test has made, and nothing else.
        for group in &groups {
            let _ = std::fs::write(group.join("cgroup.kill"), "1");
        }
        let gone = || groups.iter().filter(|group| !remove(group)).count() == 0;
        if !patiently(10, gone) && !std::thread::panicking() {
            panic!("groups of {} are left", self.cgroup);
        }
    }
}

/// The group's directories in all hierarchies.
fn groups(cgroup: &str) -> Vec<PathBuf> {
    let below = cgroup.trim_start_matches('/');
    let mounts = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|it| it.path());
    let folders = mounts.chain([PathBuf::from("/sys/fs/cgroup")]).map(|it| it.join(below));
    folders.filter(|folder| folder.exists()).collect()
}

/// Removes a group with those below it, unless somebody is in it.
fn remove(group: &Path) -> bool {
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove(&entry.path());
        }
    }
    std::fs::remove_dir(group).is_ok() || !group.exists()
}

fn daemon(folder: &Path, name: &str) -> Command {
    let log = folder.join(format!("{name}.log"));
    let log = std::fs::File::options().create(true).append(true).open(log).expect("a log file");
    let mut command = Command::new(built("ctl"));
    command.arg(name).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command
}

fn socket(folder: &Path) -> String {
    format!("unix://{}", folder.join("runtime.sock").display())
}
