//! What a session does, whatever protocol carries it: a command or a container on one side, the
//! client's channels on the other.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use client::error::chain;
use serde_json::{Value, json};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use super::super::engine::{Engine, Error};
use super::super::exec::{Wanted, descriptor_of, exit_code};
use super::super::sandbox::step;
use super::super::sys;
use super::{Channels, Input, Offer, Output};

const CHUNK: usize = 32 * 1024;
/// How long the streams of a command may stay open that has ended (something it started holds them).
const LINGER: Duration = Duration::from_secs(1);

/// Where a session's input goes.
enum Sink {
    None,
    Pipe(pipe::Sender),
    Terminal(Arc<AsyncFd<OwnedFd>>),
}

/// Runs the session to its end, which is always a status.
pub async fn run(engine: Engine, offer: Offer, channels: Channels) {
    let Channels { input, output } = channels;
    let result = match offer {
        Offer::Exec { container, words, wanted } => {
            exec(&engine, &container, words, wanted, input, &output).await
        }
        Offer::Attach { container, wanted } => {
            attach(&engine, &container, wanted, input, &output).await
        }
        Offer::PortForward { .. } => {
            Err(Error::Invalid("port forwarding has channels of its own".into()))
        }
    };
    let status = result.unwrap_or_else(|error| {
        json!({
            "metadata": {}, "status": "Failure", "reason": "InternalError", "code": 500,
            "message": format!("error executing command in container: {}", chain(&error)),
        })
    });
    let _ = output.send(Output::Status(status)).await;
}

async fn exec(
    engine: &Engine,
    container: &str,
    words: Vec<String>,
    wanted: Wanted,
    input: mpsc::Receiver<Input>,
    output: &mpsc::Sender<Output>,
) -> Result<Value, Error> {
    let container = engine.container(container)?;
    let mut command = engine.command(&container, words, wanted).await?;
    let mut readers = Vec::new();
    let mut sink = Sink::None;
    if let Some(master) = command.master.take() {
        let master = terminal(master)?;
        readers.push(tokio::spawn(read_terminal(master.clone(), output.clone())));
        sink = Sink::Terminal(master);
    }
    for (stream, wrap) in [(command.stdout.take(), true), (command.stderr.take(), false)] {
        if let Some(stream) = stream {
            readers.push(tokio::spawn(read_pipe(stream, wrap, output.clone())));
        }
    }
    if let Some(stdin) = command.stdin.take() {
        sink = Sink::Pipe(stdin);
    }
    command.start().await?;
    let process = command.process.clone();
    let mut ended = process.clone();
    let feeding = tokio::spawn(feed(input, sink));
    let event = tokio::select! {
        event = ended.exited() => event?,
        // The client went away: nobody is left to end the command.
        () = output.closed() => {
            let _ = process.kill(libc::SIGKILL).await;
            ended.exited().await?
        }
    };
    feeding.abort();
    for mut reader in readers {
        if engine.clock.timeout(LINGER, &mut reader).await.is_err() {
            reader.abort();
        }
    }
    process.forget().await;
    Ok(status_of(exit_code(&event)))
}

async fn attach(
    engine: &Engine,
    container: &str,
    wanted: Wanted,
    input: mpsc::Receiver<Input>,
    output: &mpsc::Sender<Output>,
) -> Result<Value, Error> {
    let container = engine.container(container)?;
    let state = engine.running(&container)?;
    let config = container.record.lock().config.clone().unwrap_or_default();
    let sandbox = engine.sandbox(&container.record.lock().sandbox.clone())?;
    let supervisor = sandbox.record.lock().supervisor;
    let process = container.process.lock().clone();
    let Some(process) = process else {
        return Err(Error::NotRunning("the container is gone".into()));
    };
    let mut readers = Vec::new();
    for (stream, asked) in [(1, wanted.stdout), (2, wanted.stderr && !config.tty)] {
        if asked {
            let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
            let (read, write) = rustix::pipe::pipe_with(flags)
                .map_err(|error| step("make a pipe")(error.into()))?;
            // A client that is this far behind is let go rather than let stop the container.
            let _ = rustix::pipe::fcntl_setpipe_size(&write, 1 << 20);
            process.copy_to(stream, write.as_fd()).await?;
            let read =
                pipe::Receiver::from_owned_fd(read).map_err(step("read from the container"))?;
            readers.push(tokio::spawn(read_pipe(read, stream == 1, output.clone())));
        }
    }
    let sink = match () {
        () if !wanted.stdin || !config.stdin && !config.tty => Sink::None,
        () if config.tty => {
            let master =
                descriptor_of(supervisor, state.master_fd).map_err(step("take the terminal"))?;
            Sink::Terminal(terminal(master)?)
        }
        () if state.stdin_fd == 0 => Sink::None,
        () => {
            let stdin =
                descriptor_of(supervisor, state.stdin_fd).map_err(step("take standard input"))?;
            Sink::Pipe(pipe::Sender::from_owned_fd(stdin).map_err(step("write to the container"))?)
        }
    };
    let once = config.stdin_once && wanted.stdin && !config.tty;
    let closing = process.clone();
    let feeding = tokio::spawn(async move {
        feed(input, sink).await;
        if once {
            let _ = closing.close_stdin().await;
        }
    });
    let mut settled = container.settled.subscribe();
    tokio::select! {
        _ = settled.wait_for(|settled| *settled) => {}
        () = output.closed() => {}
    }
    for mut reader in readers {
        if engine.clock.timeout(LINGER, &mut reader).await.is_err() {
            reader.abort();
        }
    }
    if output.is_closed() && once {
        let _ = engine.clock.timeout(LINGER, feeding).await;
    } else {
        feeding.abort();
    }
    Ok(status_of(0))
}

/// The last message of a session, as kubectl reads it.
fn status_of(code: i32) -> Value {
    if code == 0 {
        return json!({ "metadata": {}, "status": "Success" });
    }
    json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
    })
}

/// Passes the client's input on until it ends.
async fn feed(mut input: mpsc::Receiver<Input>, mut sink: Sink) {
    while let Some(message) = input.recv().await {
        match (message, &mut sink) {
            (Input::Stdin(bytes), Sink::Pipe(pipe)) => {
                if pipe.write_all(&bytes).await.is_err() {
                    sink = Sink::None;
                }
            }
            (Input::Stdin(bytes), Sink::Terminal(master)) => {
                if write_terminal(master, &bytes).await.is_err() {
                    sink = Sink::None;
                }
            }
            (Input::StdinEnd, Sink::Pipe(_)) => sink = Sink::None,
            (Input::Resize { columns, rows }, Sink::Terminal(master)) => {
                let size = rustix::termios::Winsize {
                    ws_row: rows,
                    ws_col: columns,
                    ws_xpixel: 0,
                    ws_ypixel: 0,
                };
                let _ = rustix::termios::tcsetwinsize(master.get_ref(), size);
            }
            _ => {}
        }
    }
}

async fn read_pipe(mut pipe: pipe::Receiver, stdout: bool, output: mpsc::Sender<Output>) {
    let mut buffer = vec![0; CHUNK];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        let bytes = Bytes::copy_from_slice(&buffer[..count]);
        let message = if stdout { Output::Stdout(bytes) } else { Output::Stderr(bytes) };
        if output.send(message).await.is_err() {
            return;
        }
    }
}

async fn read_terminal(master: Arc<AsyncFd<OwnedFd>>, output: mpsc::Sender<Output>) {
    let mut buffer = vec![0; CHUNK];
    loop {
        let read = |master: &OwnedFd| Ok(rustix::io::read(master, &mut buffer)?);
        // EIO is how a terminal says that its other end is closed.
        match master.async_io(Interest::READABLE, read).await {
            Ok(count @ 1..) => {
                if output
                    .send(Output::Stdout(Bytes::copy_from_slice(&buffer[..count])))
                    .await
                    .is_err()
                {
                    return;
                }
            }
            _ => return,
        }
    }
}

async fn write_terminal(master: &AsyncFd<OwnedFd>, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = master
            .async_io(Interest::WRITABLE, |master| Ok(rustix::io::write(master, bytes)?))
            .await?;
        bytes = &bytes[count..];
    }
    Ok(())
}

fn terminal(master: OwnedFd) -> Result<Arc<AsyncFd<OwnedFd>>, Error> {
    let prepare = || {
        let flags = rustix::fs::fcntl_getfl(&master)?;
        rustix::fs::fcntl_setfl(&master, flags | rustix::fs::OFlags::NONBLOCK)
    };
    prepare().map_err(|error| step("prepare the terminal")(error.into()))?;
    Ok(Arc::new(sys::watched(master).map_err(step("watch the terminal"))?))
}

/// Connects to a port of the pod, in its network.
pub async fn connect(
    engine: &Engine,
    sandbox: &str,
    port: u16,
) -> Result<tokio::net::TcpStream, Error> {
    let sandbox = engine.sandbox(sandbox)?;
    let path = format!("/proc/{}/ns/net", sandbox.record.lock().supervisor);
    let namespace = std::fs::File::open(&path).map_err(step(format!("open {path}")))?;
    let connected = crate::net::namespace::within(namespace.as_fd(), move || {
        let v4 = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port));
        let stream = v4.or_else(|error| {
            let v6 = std::net::TcpStream::connect((Ipv6Addr::LOCALHOST, port));
            v6.map_err(|_| error)
        })?;
        stream.set_nonblocking(true)?;
        Ok::<_, io::Error>(stream)
    });
    let stream = connected.await.map_err(step("enter the pod's network"))?;
    let stream = stream.map_err(step(format!("connect to port {port} of the pod")))?;
    tokio::net::TcpStream::from_std(stream).map_err(step("use the connection"))
}
