//! The runtime's end of the talk with one pod's supervisor. Requests go out one packet each; a task
//! reads the events and keeps the state of every process for whoever waits for it.
//!
//! Nothing here decides anything; nothing a container needs to go on lives here.

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::sys;
use super::sys::wire::{self, Event, Request, flag, kind, op, phase};

/// A connection to a supervisor. Cheap to clone.
#[derive(Clone)]
pub struct Supervisor(Arc<Inner>);

struct Inner {
    socket: AsyncFd<OwnedFd>,
    processes: Mutex<HashMap<u64, watch::Sender<Event>>>,
    /// True once the supervisor is gone.
    lost: watch::Sender<bool>,
    /// Becomes true when the answer to `LIST` is complete.
    listed: watch::Sender<bool>,
}

/// One process of the supervisor, by its key.
#[derive(Clone)]
pub struct Process {
    pub key: u64,
    supervisor: Supervisor,
    state: watch::Receiver<Event>,
}

/// What `spawn` takes, beside the program.
#[derive(Default)]
pub struct Spawn<'a> {
    pub key: u64,
    pub clone_flags: u64,
    pub record: Option<BorrowedFd<'a>>,
    pub log: Option<BorrowedFd<'a>>,
    pub pidns: Option<BorrowedFd<'a>>,
    pub cgroup: Option<BorrowedFd<'a>>,
    pub stdin: Option<BorrowedFd<'a>>,
    pub stdout: Option<BorrowedFd<'a>>,
    pub stderr: Option<BorrowedFd<'a>>,
    pub stdin_pipe: bool,
    pub tty: bool,
    pub transient: bool,
    pub extras: Vec<BorrowedFd<'a>>,
}

#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    #[error("connect to the pod's supervisor")]
    Connect(#[source] io::Error),
    #[error("send to the pod's supervisor")]
    Send(#[source] io::Error),
    #[error("the pod's supervisor is gone")]
    Lost,
    #[error("make the process")]
    Rejected(#[source] io::Error),
    #[error("the process ended while it was set up (exit code {code}, signal {signal})")]
    Ended { code: i32, signal: i32 },
    #[error("step {step} of the program failed")]
    Step {
        step: u32,
        #[source]
        source: io::Error,
    },
}

/// Makes the socket that a supervisor listens at. The path may be longer than socket addresses are.
pub fn listen(folder: &Path, name: &str) -> io::Result<OwnedFd> {
    let _ = std::fs::remove_file(folder.join(name));
    let socket = socket()?;
    with_short_path(folder, name, |address| rustix::net::bind(&socket, address))?;
    rustix::net::listen(&socket, 4)?;
    Ok(socket)
}

impl Supervisor {
    /// Connects, and learns of every process that there is. Needs a tokio runtime.
    pub async fn connect(folder: &Path, name: &str) -> Result<Supervisor, SupervisorError> {
        let connected = || {
            let socket = socket()?;
            with_short_path(folder, name, |address| rustix::net::connect(&socket, address))?;
            sys::watched(socket)
        };
        let socket = connected().map_err(SupervisorError::Connect)?;
        let supervisor = Supervisor(Arc::new(Inner {
            socket,
            processes: Mutex::default(),
            lost: watch::Sender::new(false),
            listed: watch::Sender::new(false),
        }));
        tokio::spawn(supervisor.clone().read());
        supervisor.send(&Request { op: op::LIST, ..Request::default() }, &[]).await?;
        let mut listed = supervisor.0.listed.subscribe();
        let mut lost = supervisor.0.lost.subscribe();
        tokio::select! {
            _ = listed.wait_for(|done| *done) => Ok(supervisor.clone()),
            _ = lost.wait_for(|gone| *gone) => Err(SupervisorError::Lost),
        }
    }

    /// Makes a process; it is set up until it is ready when this returns.
    pub async fn spawn(
        &self,
        program: BorrowedFd<'_>,
        size: u64,
        spawn: &Spawn<'_>,
    ) -> Result<Process, SupervisorError> {
        let mut fds = vec![program];
        let mut flags = 0;
        let announced = [
            (flag::RECORD, spawn.record),
            (flag::LOG, spawn.log),
            (flag::PIDNS, spawn.pidns),
            (flag::CGROUP, spawn.cgroup),
            (flag::STDIN, spawn.stdin),
            (flag::STDOUT, spawn.stdout),
            (flag::STDERR, spawn.stderr),
        ];
        for (bit, fd) in announced {
            if let Some(fd) = fd {
                flags |= bit;
                fds.push(fd);
            }
        }
        for (bit, set) in [
            (flag::STDIN_PIPE, spawn.stdin_pipe),
            (flag::TTY, spawn.tty),
            (flag::TRANSIENT, spawn.transient),
        ] {
            flags |= if set { bit } else { 0 };
        }
        fds.extend(&spawn.extras);
        let request = Request {
            op: op::SPAWN,
            flags,
            key: spawn.key,
            clone_flags: spawn.clone_flags,
            size,
            number: 0,
            extras: spawn.extras.len() as u32,
        };
        let (sender, state) = watch::channel(Event { key: spawn.key, ..Event::default() });
        self.0.processes.lock().insert(spawn.key, sender);
        let mut process = Process { key: spawn.key, supervisor: self.clone(), state };
        let result = match self.send(&request, &fds).await {
            Ok(()) => process.reached(phase::READY).await.map(|_| ()),
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => Ok(process),
            Err(error) => {
                if process.state().phase < phase::EXITED {
                    let _ = process.kill(libc::SIGKILL).await;
                }
                process.forget().await;
                Err(error)
            }
        }
    }

    /// The process of that key, if the supervisor has it.
    pub fn process(&self, key: u64) -> Option<Process> {
        let state = self.0.processes.lock().get(&key)?.subscribe();
        Some(Process { key, supervisor: self.clone(), state })
    }

    /// Ends the supervisor. Its processes must be gone.
    pub async fn quit(&self) {
        let mut lost = self.0.lost.subscribe();
        if self.send(&Request { op: op::QUIT, ..Request::default() }, &[]).await.is_ok() {
            let _ = lost.wait_for(|gone| *gone).await;
        }
    }

    /// Returns when the supervisor is gone.
    pub async fn lost(&self) {
        let _ = self.0.lost.subscribe().wait_for(|gone| *gone).await;
    }

    async fn send(&self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<(), SupervisorError> {
        let bytes = request.to_bytes();
        let mut space = vec![std::mem::MaybeUninit::uninit(); 32 + 4 * fds.len() + 64];
        self.0
            .socket
            .async_io(tokio::io::Interest::WRITABLE, |socket| {
                let mut control = SendAncillaryBuffer::new(&mut space);
                if !fds.is_empty() {
                    control.push(SendAncillaryMessage::ScmRights(fds));
                }
                let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
                rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, flags)?;
                Ok(())
            })
            .await
            .map_err(SupervisorError::Send)
    }

    /// Reads events until the supervisor is gone.
    async fn read(self) {
        let mut buffer = [0; wire::EVENT_SIZE];
        loop {
            let received = self.0.socket.async_io(tokio::io::Interest::READABLE, |socket| {
                let mut control = RecvAncillaryBuffer::default();
                let mut parts = [IoSliceMut::new(&mut buffer)];
                Ok(rustix::net::recvmsg(socket, &mut parts, &mut control, RecvFlags::DONTWAIT)?
                    .bytes)
            });
            match received.await {
                Ok(wire::EVENT_SIZE) => {}
                _ => break,
            }
            let Some(event) = Event::from_bytes(&buffer) else { break };
            if event.kind == kind::END {
                self.0.listed.send_replace(true);
                continue;
            }
            let mut processes = self.0.processes.lock();
            match processes.get(&event.key) {
                Some(sender) => {
                    sender.send_replace(event);
                }
                None => {
                    processes.insert(event.key, watch::Sender::new(event));
                }
            }
        }
        self.0.lost.send_replace(true);
        // Those who wait see their sender go.
        self.0.processes.lock().clear();
    }
}

impl Process {
    /// What was last heard of it.
    pub fn state(&self) -> Event {
        *self.state.borrow()
    }

    /// Lets a ready process go; returns when it executes its command.
    pub async fn start(&mut self) -> Result<Event, SupervisorError> {
        self.request(op::START, 0, &[]).await?;
        self.reached(phase::RUNNING).await
    }

    pub async fn kill(&self, signal: i32) -> Result<(), SupervisorError> {
        self.request(op::KILL, signal, &[]).await
    }

    pub async fn set_log(&self, file: BorrowedFd<'_>) -> Result<(), SupervisorError> {
        self.request(op::LOG, 0, &[file]).await
    }

    /// Sends a copy of `stream` (1 or 2) to `sink`, which must not block, from now on.
    pub async fn copy_to(&self, stream: i32, sink: BorrowedFd<'_>) -> Result<(), SupervisorError> {
        let mut state = self.state.clone();
        state.mark_unchanged();
        self.request(op::SINK, stream, &[sink]).await?;
        state.changed().await.map_err(|_| SupervisorError::Lost)
    }

    pub async fn close_stdin(&self) -> Result<(), SupervisorError> {
        self.request(op::CLOSE_STDIN, 0, &[]).await
    }

    /// Returns when it has exited.
    pub async fn exited(&mut self) -> Result<Event, SupervisorError> {
        self.state
            .wait_for(|event| event.phase == phase::EXITED || event.kind == kind::REJECTED)
            .await
            .map(|event| *event)
            .map_err(|_| SupervisorError::Lost)
    }

    /// Drops what is remembered of it here and there.
    pub async fn forget(&self) {
        let _ = self.request(op::FORGET, 0, &[]).await;
        self.supervisor.0.processes.lock().remove(&self.key);
    }

    async fn request(
        &self,
        op: u32,
        number: i32,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), SupervisorError> {
        let request = Request { op, key: self.key, number, ..Request::default() };
        self.supervisor.send(&request, fds).await
    }

    /// Returns when the process has come as far as `wanted`; an error if it ended on the way.
    async fn reached(&mut self, wanted: u32) -> Result<Event, SupervisorError> {
        let done = |event: &Event| {
            event.kind == kind::REJECTED || event.phase >= wanted || event.errno != 0
        };
        let event = *self.state.wait_for(done).await.map_err(|_| SupervisorError::Lost)?;
        if event.kind == kind::REJECTED {
            return Err(SupervisorError::Rejected(io::Error::from_raw_os_error(event.errno)));
        }
        if event.errno != 0 {
            let source = io::Error::from_raw_os_error(event.errno);
            return Err(SupervisorError::Step { step: event.step, source });
        }
        if event.phase == phase::EXITED && wanted < phase::RUNNING {
            return Err(SupervisorError::Ended { code: event.code, signal: event.signal });
        }
        Ok(event)
    }
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Socket addresses hold 108 bytes; through a descriptor of the folder any path fits.
fn with_short_path<T>(
    folder: &Path,
    name: &str,
    call: impl FnOnce(&SocketAddrUnix) -> Result<T, Errno>,
) -> io::Result<T> {
    use std::os::fd::AsRawFd;
    let folder = rustix::fs::open(
        folder,
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    )?;
    let path = format!("/proc/self/fd/{}/{name}", folder.as_fd().as_raw_fd());
    Ok(call(&SocketAddrUnix::new(path)?)?)
}
