//! Commands in running containers.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use proto::cri;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::blueprint;
use super::cgroup::Entry;
use super::engine::{Container, Engine, Error, blocking};
use super::plan;
use super::sandbox::step;
use super::state::ContainerRecord;
use super::supervisor::{Process, Spawn, SupervisorError};

/// What a command wrote, and how it ended.
pub struct Output {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub code: i32,
}

/// A command that waits to be started, and our ends of its streams.
pub struct Command {
    pub process: Process,
    pub stdin: Option<pipe::Sender>,
    pub stdout: Option<pipe::Receiver>,
    pub stderr: Option<pipe::Receiver>,
    /// The terminal, instead of the three.
    pub master: Option<OwnedFd>,
    words: Vec<String>,
}

/// Which streams of a command are wanted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

impl Wanted {
    /// Which of the three descriptors are pipes.
    fn pipes(self) -> Vec<u64> {
        let streams = [(0, self.stdin), (1, self.stdout), (2, self.stderr)];
        let piped = streams.into_iter().filter(|(_, wanted)| *wanted && !self.tty);
        piped.map(|(fd, _)| fd).collect()
    }
}

/// As much output as a command may have that is answered in one message.
const OUTPUT_LIMIT: u64 = 16 << 20;

impl Engine {
    /// Runs a command to its end. A timeout of 0 is none.
    pub async fn exec_sync(
        &self,
        id: &str,
        words: Vec<String>,
        timeout: i64,
    ) -> Result<Output, Error> {
        let container = self.container(id)?;
        let wanted = Wanted { stdout: true, stderr: true, ..Wanted::default() };
        let mut command = self.command(&container, words.clone(), wanted).await?;
        command.start().await?;
        let (stdout, stderr) = (command.stdout.take(), command.stderr.take());
        let mut process = command.process.clone();
        let run = async {
            // What the command leaves running may hold the streams: its own end is what counts.
            let mut stdout = tokio::spawn(collect(stdout));
            let mut stderr = tokio::spawn(collect(stderr));
            let event = process.exited().await?;
            let grace = self.clock.timeout(Duration::from_secs(2), async {
                ((&mut stdout).await, (&mut stderr).await)
            });
            let (out, err) = match grace.await {
                Ok((out, err)) => (out.unwrap_or_default(), err.unwrap_or_default()),
                Err(_) => {
                    stdout.abort();
                    stderr.abort();
                    (Vec::new(), Vec::new())
                }
            };
            Ok::<_, SupervisorError>(Output { stdout: out, stderr: err, code: exit_code(&event) })
        };
        let result = match timeout {
            ..=0 => Ok(run.await),
            seconds => self.clock.timeout(Duration::from_secs(seconds as u64), run).await,
        };
        match result {
            Ok(output) => {
                command.process.forget().await;
                Ok(output?)
            }
            Err(_) => {
                let _ = command.process.kill(libc::SIGKILL).await;
                command.process.forget().await;
                Err(Error::Timeout { command: words })
            }
        }
    }

    /// Makes the process of a command, up to where it waits for the start.
    pub async fn command(
        &self,
        container: &Container,
        words: Vec<String>,
        wanted: Wanted,
    ) -> Result<Command, Error> {
        let running = self.running(container)?;
        if words.is_empty() || words.iter().any(|word| word.contains('\0')) {
            return Err(Error::Invalid("no command specified".into()));
        }
        let record = container.record.lock().clone();
        let config = record.config.clone().unwrap_or_default();
        let sandbox = self.sandbox(&record.sandbox)?;
        let supervisor = sandbox.supervisor.lock().clone();
        let supervisor = supervisor.ok_or_else(|| {
            Error::NotRunning(format!("pod sandbox {} is not running", sandbox.id))
        })?;
        let mut process = blueprint::process(&record, &config)?;
        process.command.clone_from(&words);
        process.tty = wanted.tty;
        let adjusted = config.linux.as_ref().and_then(|linux| linux.resources.as_ref());
        process.oom_score_adj = adjusted.map(|resources| resources.oom_score_adj);
        process.pipes = wanted.pipes();
        let entry = self.entry_of(&record, &config)?;
        let users = self.pod_users(&sandbox)?;
        let ids = users.as_ref().map(|users| blueprint::users(&users.mappings, &process.user));
        let ids = ids.transpose()?;
        let pid = running.pid;
        let (pidfd, pidns) = blocking(move || {
            let process = rustix::process::Pid::from_raw(pid).ok_or(rustix::io::Errno::SRCH)?;
            let pidfd = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty())?;
            Ok((pidfd, File::open(format!("/proc/{pid}/ns/pid"))?))
        })
        .await
        .map_err(step("find the container's process"))?;
        // Still the same process: had it ended, its number could be another's by now.
        self.running(container)?;
        let (program, size, names) = plan::exec(&process, &entry.procs, ids.as_ref())
            .finish()
            .map_err(step("write the program"))?;

        let streams = Streams::open(wanted).map_err(step("make pipes"))?;
        let spawn = Spawn {
            key: self.rng.u64() | 1 << 63,
            pidns: Some(pidns.as_fd()),
            cgroup: entry.unified.as_ref().map(AsFd::as_fd),
            stdin: streams.stdin.as_ref().map(|(fd, _)| fd.as_fd()),
            stdout: streams.stdout.as_ref().map(|(fd, _)| fd.as_fd()),
            stderr: streams.stderr.as_ref().map(|(fd, _)| fd.as_fd()),
            tty: wanted.tty,
            transient: true,
            extras: vec![pidfd.as_fd()],
            ..Spawn::default()
        };
        let spawned = supervisor.spawn(program.as_fd(), size, &spawn).await;
        let process = spawned.map_err(|error| match error {
            SupervisorError::Step { step, source } => {
                Error::Step { step: format!("cannot {}", names.of(step)), source }
            }
            error => error.into(),
        })?;
        let master = match wanted.tty {
            true => Some(fetch(process.state().pid).map_err(step("take the terminal"))?),
            false => None,
        };
        Ok(Command {
            process,
            stdin: streams.stdin.map(|(_, ours)| ours),
            stdout: streams.stdout.map(|(_, ours)| ours),
            stderr: streams.stderr.map(|(_, ours)| ours),
            master,
            words,
        })
    }
}

impl Engine {
    /// How a further process gets into a container's groups.
    fn entry_of(
        &self,
        record: &ContainerRecord,
        config: &cri::ContainerConfig,
    ) -> Result<Entry, Error> {
        let mut entry = self.cgroups.entry(&record.cgroup)?;
        let context = config.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let privileged = context.is_some_and(|context| context.privileged);
        let (cgroup, parent) = (&record.cgroup, &self.cgroup_parent);
        entry.procs.extend(self.cgroups.device_entry(cgroup, parent, privileged));
        Ok(entry)
    }
}

impl Command {
    /// Lets it go; an error says in the usual words why it cannot be executed.
    pub async fn start(&mut self) -> Result<(), Error> {
        match self.process.start().await {
            Ok(_) => Ok(()),
            Err(SupervisorError::Step { source, .. }) => {
                self.process.forget().await;
                let name = self.words.first().map(String::as_str).unwrap_or_default();
                let told = plan::exec_failure(name, &source).unwrap_or_else(|| source.to_string());
                Err(Error::Start(format!(
                    "failed to exec in container: unable to start container process: {told}"
                )))
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The exit code as shells count it.
pub fn exit_code(event: &super::sys::wire::Event) -> i32 {
    if event.signal != 0 { 128 + event.signal } else { event.code }
}

/// The command's ends of its streams, and ours.
struct Streams {
    stdin: Option<(OwnedFd, pipe::Sender)>,
    stdout: Option<(OwnedFd, pipe::Receiver)>,
    stderr: Option<(OwnedFd, pipe::Receiver)>,
}

impl Streams {
    fn open(wanted: Wanted) -> std::io::Result<Streams> {
        let receiver = |wanted: bool| -> std::io::Result<Option<(OwnedFd, pipe::Receiver)>> {
            if !wanted {
                return Ok(None);
            }
            let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            Ok(Some((write, pipe::Receiver::from_owned_fd(read)?)))
        };
        let plain = !wanted.tty;
        let stdin = match wanted.stdin && plain {
            true => {
                let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
                Some((read, pipe::Sender::from_owned_fd(write)?))
            }
            false => None,
        };
        Ok(Streams {
            stdin,
            stdout: receiver(wanted.stdout && plain)?,
            stderr: receiver(wanted.stderr && plain)?,
        })
    }
}

async fn collect(stream: Option<pipe::Receiver>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        let _ = stream.take(OUTPUT_LIMIT).read_to_end(&mut bytes).await;
    }
    bytes
}

/// The master side of the terminal that a process has opened.
fn fetch(pid: i32) -> std::io::Result<OwnedFd> {
    descriptor_of(pid, super::sys::wire::MASTER_FD)
}

/// A copy of another process's descriptor.
pub fn descriptor_of(pid: i32, fd: i32) -> std::io::Result<OwnedFd> {
    let process = rustix::process::Pid::from_raw(pid).ok_or(rustix::io::Errno::SRCH)?;
    let pidfd = rustix::process::pidfd_open(process, rustix::process::PidfdFlags::empty())?;
    Ok(rustix::process::pidfd_getfd(&pidfd, fd, rustix::process::PidfdGetfdFlags::empty())?)
}
