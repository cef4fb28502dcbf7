//! The built API server as a process of its own on loopback, until dropped.

#![allow(dead_code, reason = "every test program uses a part of it")]

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use client::Clock;

use crate::connection::{Door, Version};

pub struct Process {
    child: Child,
    folder: tempfile::TempDir,
    pub port: u16,
}

impl Process {
    /// Ready when it is returned.
    pub async fn start(flags: &[&str]) -> Process {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let log = std::fs::File::create(folder.path().join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_apiserver"))
            .args(["--secure-port", &port.to_string(), "--data-dir"])
            .arg(folder.path().join("data"))
            .args(flags)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut process = Process { child, folder, port };
        let clock = Clock::system();
        let ready = clock.timeout(Duration::from_secs(30), async {
            while !process.is_ready().await {
                clock.sleep(Duration::from_millis(30)).await;
            }
        });
        if ready.await.is_err() {
            panic!("it is not ready:\n{}", process.log());
        }
        process
    }

    /// The way in as the administrator.
    pub fn door(&self) -> Door {
        Door::of(&self.folder.path().join("data/admin.kubeconfig"))
    }

    /// A line of /proc/PID/status in bytes.
    pub fn memory(&self, field: &str) -> usize {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect(field);
        let kilobytes = line.trim_start_matches(':').split_whitespace().next().unwrap();
        kilobytes.parse::<usize>().unwrap() * 1024
    }

    /// Files and sockets that it has open.
    pub fn files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    async fn is_ready(&mut self) -> bool {
        if let Ok(Some(status)) = self.child.try_wait() {
            panic!("it ended with {status}:\n{}", self.log());
        }
        if !self.folder.path().join("data/admin.kubeconfig").exists() {
            return false;
        }
        let Ok(connection) = self.door().open(Version::Two).await else { return false };
        connection.get("/readyz").await.is_ok_and(|response| response.status() == 200)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of the API server\n{}", self.log());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
