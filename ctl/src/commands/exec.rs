//! `ctl exec`: a command in a running container, over the remotecommand WebSocket protocol
//! (`v5.channel.k8s.io`): the first byte of each message is its channel.

use std::io::IsTerminal;
use std::process::ExitCode;

use client::websocket::{Message, WebSocket};
use futures::{SinkExt, StreamExt};
use proto::kind;
use proto::status::Status;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};

use crate::commands::logs::{default_container, pod_of};
use crate::failure::{Failure, Result};
use crate::resources::text;
use crate::session::Session;

const PROTOCOLS: &[&str] = &["v5.channel.k8s.io", "v4.channel.k8s.io"];

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

#[derive(clap::Args)]
pub struct Exec {
    /// POD or TYPE/NAME
    pod: String,
    /// Which container
    #[arg(short, long)]
    container: Option<String>,
    /// Pass standard input on
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Standard input is a terminal
    #[arg(short = 't', long)]
    tty: bool,
    /// The command, after --
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

impl Exec {
    /// The exit code of the command in the container.
    pub async fn run(&self, session: &Session) -> Result<ExitCode> {
        let doing = "exec into a container";
        let (pod, container) =
            partner(session, &self.pod, self.container.as_deref(), doing).await?;
        let terminal = self.tty && std::io::stdin().is_terminal();
        if self.tty && !terminal {
            anstream::eprintln!(
                "Unable to use a TTY - input is not a terminal or the right kind of file"
            );
        }
        let talk = Talk { container: &container, stdin: self.stdin, terminal };
        talk.run(session, &pod, "exec", &self.command).await
    }
}

/// The pod, which must not have ended, and the name of the container to talk to.
pub(super) async fn partner(
    session: &Session,
    pod: &str,
    container: Option<&str>,
    doing: &str,
) -> Result<(Value, String)> {
    let pod = pod_of(session, pod).await?;
    check_running(&pod, doing)?;
    let container = container.unwrap_or_else(|| default_container(&pod)).to_string();
    Ok((pod, container))
}

/// Refuses to do it in a pod that has ended.
pub(super) fn check_running(pod: &Value, doing: &str) -> Result<()> {
    let phase = text(&pod["status"]["phase"]);
    if matches!(phase, "Succeeded" | "Failed") {
        return Err(Failure::said(format!(
            "cannot {doing} in a completed pod; current phase is {phase}"
        )));
    }
    Ok(())
}

/// A conversation with a container.
pub(super) struct Talk<'a> {
    pub container: &'a str,
    pub stdin: bool,
    /// Our terminal becomes the container's.
    pub terminal: bool,
}

/// Where the streams of a conversation lead on this side.
pub(super) struct Streams<I, O, E> {
    pub input: Option<I>,
    pub output: O,
    pub errors: E,
}

impl Talk<'_> {
    /// On our own streams; the exit code that the server reports at its end.
    pub async fn run(
        &self,
        session: &Session,
        pod: &Value,
        subresource: &str,
        command: &[String],
    ) -> Result<ExitCode> {
        let socket = self.open(session, pod, subresource, command).await?;
        let _raw = if self.terminal { Some(RawTerminal::enter()?) } else { None };
        let streams = Streams {
            input: self.stdin.then(tokio::io::stdin),
            output: tokio::io::stdout(),
            errors: tokio::io::stderr(),
        };
        Ok(told(pump(socket, streams, self.terminal).await?))
    }

    /// Begins a conversation, for [`pump`].
    pub async fn open(
        &self,
        session: &Session,
        pod: &Value,
        subresource: &str,
        command: &[String],
    ) -> Result<WebSocket> {
        let flag = |flag: bool| if flag { "true" } else { "false" };
        let mut query = url::form_urlencoded::Serializer::new(String::new());
        query.append_pair("container", self.container);
        query.append_pair("stdin", flag(self.stdin));
        query.append_pair("stdout", "true");
        query.append_pair("stderr", flag(!self.terminal));
        query.append_pair("tty", flag(self.terminal));
        query.extend_pairs(command.iter().map(|word| ("command", word)));
        let (namespace, name) =
            (text(&pod["metadata"]["namespace"]), text(&pod["metadata"]["name"]));
        let path = kind::POD.path(namespace, name);
        let path = format!("{path}/{subresource}?{}", query.finish());
        Ok(session.client.websocket(&path, PROTOCOLS).await?)
    }
}

/// Carries everything both ways until the server says how the command ended: its exit code.
pub(super) async fn pump<I, O, E>(
    socket: WebSocket,
    streams: Streams<I, O, E>,
    terminal: bool,
) -> Result<u8>
where
    I: AsyncRead + Unpin,
    O: AsyncWrite + Unpin,
    E: AsyncWrite + Unpin,
{
    let broken =
        |why: &dyn std::fmt::Display| Failure::said(format!("the connection broke off: {why}"));
    let closes = socket.protocol == PROTOCOLS[0];
    let (mut out, mut incoming) = socket.stream.split();
    let Streams { mut input, mut output, mut errors } = streams;
    let mut buffer = vec![0; 32 * 1024];
    let mut resized = signal(SignalKind::window_change()).map_err(Failure::said)?;
    if terminal {
        out.send(Message::binary(size())).await.map_err(|why| broken(&why))?;
    }
    loop {
        tokio::select! {
            message = incoming.next() => {
                let data = match message {
                    Some(Ok(Message::Binary(data))) => data,
                    Some(Ok(Message::Close(_))) | None => {
                        return Err(Failure::said("the connection ended before the command did"));
                    }
                    Some(Ok(_)) => continue,
                    Some(Err(why)) => return Err(broken(&why)),
                };
                let Some((channel, data)) = data.split_first() else { continue };
                // An empty frame only says that the channel is open.
                let written = match *channel {
                    _ if data.is_empty() => Ok(()),
                    STDOUT => write(&mut output, data).await,
                    STDERR => write(&mut errors, data).await,
                    ERROR => return ended(data),
                    _ => Ok(()),
                };
                written.map_err(|_| Failure::Silent)?;
            }
            read = read(&mut input, &mut buffer), if input.is_some() => {
                let count = read.map_err(|why| Failure::said(format!("cannot read input: {why}")))?;
                let message = match count {
                    0 if closes => vec![CLOSE, STDIN],
                    0 => vec![STDIN],
                    count => [&[STDIN], &buffer[..count]].concat(),
                };
                // Where nobody listens any more, the other side is about to say why.
                let sent = out.send(Message::binary(message)).await;
                if count == 0 || sent.is_err() {
                    input = None;
                }
            }
            _ = resized.recv(), if terminal => {
                out.send(Message::binary(size())).await.map_err(|why| broken(&why))?;
            }
        }
    }
}

async fn read<I: AsyncRead + Unpin>(
    input: &mut Option<I>,
    buffer: &mut [u8],
) -> std::io::Result<usize> {
    match input {
        Some(input) => input.read(buffer).await,
        None => Ok(0),
    }
}

async fn write(out: &mut (impl AsyncWrite + Unpin), data: &[u8]) -> std::io::Result<()> {
    out.write_all(data).await?;
    out.flush().await
}

/// What the Status on the error channel says of the exit code.
fn ended(status: &[u8]) -> Result<u8> {
    let status: Status = serde_json::from_slice(status)
        .map_err(|why| Failure::said(format!("the server's last word is no Status: {why}")))?;
    if status.status == "Success" {
        return Ok(0);
    }
    let causes = status.details.as_deref().map(|details| details.causes.as_slice());
    let code = causes.unwrap_or_default().iter().find(|cause| cause.reason == "ExitCode");
    code.and_then(|cause| cause.message.parse().ok()).ok_or(Failure::said(status.message))
}

/// The exit code of a command in a container becomes ours; what is not good is said.
pub(super) fn told(code: u8) -> ExitCode {
    if code != 0 {
        anstream::eprintln!("command terminated with exit code {code}");
    }
    ExitCode::from(code)
}

fn size() -> Vec<u8> {
    let (columns, rows) = match tcgetwinsize(std::io::stdout()) {
        Ok(size) => (size.ws_col, size.ws_row),
        Err(_) => (80, 24),
    };
    let size = json!({"Width": columns, "Height": rows}).to_string();
    [&[RESIZE], size.as_bytes()].concat()
}

/// The terminal passes every key on while this lives.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> Result<RawTerminal> {
        let failed = |why| Failure::said(format!("cannot make the terminal raw: {why}"));
        let before = tcgetattr(std::io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(std::io::stdin(), OptionalActions::Now, &raw).map_err(failed)?;
        Ok(RawTerminal(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        if let Err(why) = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.0) {
            anstream::eprintln!("cannot restore the terminal: {why}; \"reset\" does");
        }
    }
}
