//! `ctl server` as a process of its own on loopback: API server, scheduler and controllers.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::program::{Said, built, run, run_with_input};
use crate::wait::until;

pub struct Server {
    child: Option<Child>,
    arguments: Vec<String>,
    pub port: u16,
    data: PathBuf,
    _folder: Option<tempfile::TempDir>,
}

impl Server {
    /// Started with these further flags on a fresh data directory, and ready.
    pub fn start(arguments: &[&str]) -> Server {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let data = folder.path().join("data");
        let mut server = Server::at(&data, arguments);
        server._folder = Some(folder);
        server
    }

    /// The same on a data directory of the caller's.
    pub fn at(data: &Path, arguments: &[&str]) -> Server {
        let arguments = arguments.iter().map(|argument| argument.to_string()).collect();
        let data = data.to_path_buf();
        let mut server = Server { child: None, arguments, port: free_port(), data, _folder: None };
        server.restart();
        server
    }

    /// Starts it again after its end, on the same port and data.
    pub fn restart(&mut self) {
        let port = self.port.to_string();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.data.with_extension("log"))
            .expect("a log file");
        let child = Command::new(built("ctl"))
            .args(["server", "--secure-port", &port, "--data-dir"])
            .arg(&self.data)
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("ctl starts");
        self.child = Some(child);
        until("the server to be ready", 30, || {
            let child = self.child.as_mut().expect("it was started");
            if let Ok(Some(status)) = child.try_wait() {
                panic!("ctl server ended with {status}:\n{}", self.log());
            }
            (self.kubeconfig().exists() && self.ctl(&["get", "--raw", "/readyz"]).code == 0)
                .then_some(())
        });
    }

    /// `kill -9`, and its end awaited.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our own child can be killed");
            child.wait().expect("our own child can be awaited");
        }
    }

    /// SIGTERM, and its end awaited; the exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        let mut child = self.child.take()?;
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("a signal");
        child.wait().expect("our own child can be awaited").code()
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data.join("admin.kubeconfig")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.data.with_extension("log")).unwrap_or_default()
    }

    pub fn ctl(&self, arguments: &[&str]) -> Said {
        run(&mut self.ctl_command(arguments))
    }

    /// With a manifest on stdin.
    pub fn ctl_with(&self, arguments: &[&str], input: &str) -> Said {
        run_with_input(&mut self.ctl_command(arguments), input)
    }

    fn ctl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(built("ctl"));
        command.env("KUBECONFIG", self.kubeconfig()).args(arguments);
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of ctl server\n{}", self.log());
        }
        self.kill();
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    listener.local_addr().expect("it is bound").port()
}
