//! Running programs, each as one named step.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// The root of the checkout.
pub fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// A program to be run in the root of the checkout.
pub fn command(program: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).current_dir(root());
    command
}

/// `cargo` as it was called, so that a chosen toolchain holds.
pub fn cargo(arguments: &[&str]) -> Command {
    command(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()), arguments)
}

/// Runs it with its output shown; the error says what was being done.
pub fn run(what: &str, mut command: Command) -> Result<(), String> {
    eprintln!("== {what}");
    match command.stdin(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{what}: {command:?} ended with {status}")),
        Err(error) => Err(format!("{what}: cannot run {command:?}: {error}")),
    }
}

/// A program that runs beside other steps; ended if they fail before it.
pub struct Beside {
    what: &'static str,
    child: Child,
}

impl Beside {
    pub fn start(what: &'static str, mut command: Command) -> Result<Beside, String> {
        eprintln!("== {what}, beside what follows");
        let started = command.stdin(Stdio::null()).spawn();
        let child = started.map_err(|error| format!("{what}: cannot run {command:?}: {error}"))?;
        Ok(Beside { what, child })
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Result<(), String> {
        match self.child.wait() {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{} ended with {status}", self.what)),
            Err(error) => Err(format!("{}: {error}", self.what)),
        }
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // Without effect where it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs it and returns what it printed on stdout.
pub fn output(what: &str, mut command: Command) -> Result<String, String> {
    match command.stdin(Stdio::null()).stderr(Stdio::inherit()).output() {
        Ok(output) if output.status.success() => {
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_string())
        }
        Ok(output) => Err(format!("{what}: {command:?} ended with {}", output.status)),
        Err(error) => Err(format!("{what}: cannot run {command:?}: {error}")),
    }
}

/// Where a program is on the PATH, or in the places that only root's PATH has.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    path.split(':').map(|folder| PathBuf::from(folder).join(program)).find(|file| file.is_file())
}

pub fn is_root() -> bool {
    output("ask who runs this", command("id", &["-u"])).is_ok_and(|id| id == "0")
}
