//! Every command of the README, run as it stands there.

use std::path::Path;
use std::process::{Command, Stdio};

use tests::needs;
use tests::program::{built, run};
use tests::wait::until;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The shell blocks of the README, in order.
fn blocks() -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(ROOT).join("README.md")).expect("README.md");
    let parts = text.split("```sh\n").skip(1);
    parts.map(|part| part.split("```").next().unwrap_or_default().to_string()).collect()
}

/// A shell in the checkout with the programs of this build first on its PATH, its cluster state and
/// kubeconfig in a folder of its own.
fn shell(folder: &Path, script: &str) -> Command {
    let programs = built("ctl").parent().expect("a folder").to_path_buf();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut shell = Command::new("bash");
    shell
        .args(["-euo", "pipefail", "-c", script])
        .current_dir(ROOT)
        .env("PATH", format!("{}:{path}", programs.display()))
        .env("KUBECONFIG", folder.join("kubeconfig"))
        .env("CORACLE_STATE_DIR", folder.join("state"));
    shell
}

#[test]
fn every_command_works() {
    needs!(root);
    let blocks = blocks();
    assert_eq!(blocks.len(), 4, "a block was added or taken away: run it here");
    let folder = tempfile::tempdir().expect("a temporary directory");
    the_two_commands(&blocks[0], folder.path());
    the_tour(&blocks[1], folder.path());
    the_control_plane(&blocks[2]);
    assert_eq!(blocks[3].trim(), "cargo xtask bench", "prints the figures; too long for here");
}

/// `up` ends with a URL that answers; `test` is what runs this.
fn the_two_commands(block: &str, folder: &Path) {
    let commands: Vec<&str> =
        block.lines().map(|line| line.split('#').next().unwrap().trim()).collect();
    assert_eq!(commands, ["cargo xtask up", "cargo xtask test"]);
    let _end = Ended(folder);
    let up = run(&mut shell(folder, "cargo xtask up"));
    let said = format!("{}{}", up.err, up.clone().ok());
    let url = said
        .split_whitespace()
        .find(|word| word.starts_with("http://"))
        .unwrap_or_else(|| panic!("no URL in\n{said}"));
    let answer =
        run(Command::new("curl").args(["--silent", "--fail", "--max-time", "5", url])).ok();
    assert!(answer.starts_with("Hello from hello-"), "{answer}");
    assert_eq!(said.matches("Running").count(), 3, "{said}");
    run(&mut shell(folder, "cargo xtask down")).ok();
}

/// Deletes the default cluster however the test ends.
struct Ended<'a>(&'a Path);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        run(&mut shell(self.0, "ctl cluster delete"));
    }
}

fn the_tour(block: &str, folder: &Path) {
    let _end = Ended(folder);
    let said = run(&mut shell(folder, block)).ok();
    for wanted in [
        "deployment.apps/my-app-deployment created",
        "successfully rolled out",
        "my-app-service",
        "deployment.apps/my-app-deployment scaled",
        "listening on port 80",
        "NODE",
        "deployment.apps \"my-app-deployment\" deleted",
    ] {
        assert!(said.contains(wanted), "{wanted} is not in\n{said}");
    }
}

fn the_control_plane(block: &str) {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let mut child = shell(folder.path(), &format!("exec {}", block.trim()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("bash runs");
    let kubeconfig = "/tmp/coracle/admin.kubeconfig";
    until("the control plane to be ready", 30, || {
        let mut ready = Command::new(built("ctl"));
        ready.args(["--kubeconfig", kubeconfig, "get", "--raw", "/readyz"]);
        (run(&mut ready).out == "ok").then_some(())
    });
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
    assert!(child.wait().expect("our own child").success(), "SIGTERM ends it cleanly");
    std::fs::remove_dir_all("/tmp/coracle").expect("its directory");
}
