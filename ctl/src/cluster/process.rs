//! Processes that outlive the program that started them: known by id and start time, so that a
//! signal never reaches a stranger that got the same id later.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use client::Clock;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde::{Deserialize, Serialize};
use tokio::io::unix::AsyncFd;

use super::Error;
use super::layout::write_whole;

/// One process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Process {
    pub pid: u32,
    /// In clock ticks since boot (proc(5), field 22 of stat).
    pub started: u64,
}

/// A process that was alive when this was made; signals reach it or nobody.
pub struct Handle {
    pid: u32,
    fd: OwnedFd,
}

/// The processes of a cluster by name; `processes.json` in its directory, kept by the supervisor.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Processes(pub BTreeMap<String, Process>);

/// The name of the process that starts the others.
pub const SUPERVISOR: &str = "supervisor";
const FILE: &str = "processes.json";

impl Process {
    /// The process of this id, if there is one.
    pub fn find(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name, in parentheses, may contain anything.
        let after_name = stat.rsplit_once(") ")?.1;
        let started = after_name.split(' ').nth(19)?.parse().ok()?;
        let zombie = after_name.starts_with('Z');
        (!zombie).then_some(Self { pid, started })
    }

    pub fn is_alive(&self) -> bool {
        Self::find(self.pid) == Some(*self)
    }

    /// A handle on it; `None` once it has ended.
    pub fn open(&self) -> Option<Handle> {
        let fd =
            pidfd_open(Pid::from_raw(self.pid.try_into().ok()?)?, PidfdFlags::NONBLOCK).ok()?;
        // Whoever has the id now has it as long as the descriptor is open.
        self.is_alive().then_some(Handle { pid: self.pid, fd })
    }
}

impl Handle {
    /// Sends a signal; an ended process is no error.
    pub fn signal(&self, signal: Signal) -> Result<(), Error> {
        match pidfd_send_signal(self.fd.as_fd(), signal) {
            Err(rustix::io::Errno::SRCH) | Ok(()) => Ok(()),
            Err(errno) => Err(Error::Signal { pid: self.pid, source: errno.into() }),
        }
    }

    /// Waits until it has ended.
    pub async fn ended(&self) -> io::Result<()> {
        // Deprecated because a type may lie about its descriptor; a borrowed one does not.
        #[allow(deprecated)]
        let watched = AsyncFd::new(self.fd.as_fd())?;
        watched.readable().await?.retain_ready();
        Ok(())
    }

    /// Asks it to end by `signal`, and kills it if it does not within `patience`.
    pub async fn end(
        &self,
        signal: Signal,
        clock: &Clock,
        patience: Duration,
    ) -> Result<(), Error> {
        self.signal(signal)?;
        if clock.timeout(patience, self.ended()).await.is_err() {
            self.signal(Signal::KILL)?;
            // A killed process ends; only the kernel can be slow about it.
            let _ = clock.timeout(patience, self.ended()).await;
        }
        Ok(())
    }
}

impl Processes {
    /// Those recorded for the cluster in `dir`; some may have ended.
    pub fn read(dir: &Path) -> Self {
        let text = std::fs::read(dir.join(FILE)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    pub fn write(&self, dir: &Path) -> Result<(), Error> {
        let path = dir.join(FILE);
        let text = serde_json::to_vec_pretty(self).unwrap_or_default();
        write_whole(&path, &text).map_err(Error::file("write", &path))
    }

    pub fn supervisor(&self) -> Option<Process> {
        self.0.get(SUPERVISOR).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_is_known_by_its_start() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::find(child.id()).unwrap();
        let stranger = Process { started: process.started + 1, ..process };
        assert!(stranger.open().is_none(), "a stranger with the same id");
        let handle = process.open().unwrap();
        handle.end(Signal::TERM, &Clock::system(), Duration::from_secs(5)).await.unwrap();
        assert!(process.open().is_none(), "a zombie is no process");
        child.wait().unwrap();
        assert!(!process.is_alive());
        handle.signal(Signal::TERM).unwrap();
    }
}
