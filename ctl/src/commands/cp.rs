//! `ctl cp`: files and folders to and from containers, by the `tar` that is in them, as kubectl
//! does it. What comes from a container is not trusted: it stays below its destination.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use proto::kind;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, DuplexStream, Empty};
use tokio_util::io::SyncIoBridge;

use super::exec::{Streams, Talk, check_running, pump, told};
use crate::commands::logs::default_container;
use crate::failure::{Failure, Result};
use crate::session::Session;

mod archive;
mod path;

use path::{Place, Spec};

/// What may be under way between a container and the disk.
const BUFFER: usize = 256 * 1024;

#[derive(clap::Args)]
pub struct Cp {
    /// What to copy: PATH, POD:PATH or NAMESPACE/POD:PATH
    source: String,
    /// Where to: the same; one of the two is local
    destination: String,
    /// Which container
    #[arg(short, long)]
    container: Option<String>,
    /// Give what is copied to whoever unpacks it in the container, with its permissions
    #[arg(long)]
    no_preserve: bool,
    /// How often to go on with a copy from a container that broke off; below 0 without end
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    retries: i64,
}

impl Cp {
    pub async fn run(&self, session: &Session) -> Result<ExitCode> {
        let source = Spec::parse(&self.source)?;
        let destination = Spec::parse(&self.destination)?;
        if source.place.is_some() && destination.place.is_some() {
            return Err(Failure::said("one of src or dest must be a local file specification"));
        }
        if source.path.is_empty() || destination.path.is_empty() {
            return Err(Failure::said("filepath can not be empty"));
        }
        match (&source.place, &destination.place) {
            (Some(place), _) => self.fetch(session, place, &source.path, &destination.path).await,
            (_, Some(place)) => self.send(session, place, &source.path, &destination.path).await,
            _ => Err(Failure::said("one of src or dest must be a remote file specification")),
        }
    }

    /// From here into the container.
    async fn send(
        &self,
        session: &Session,
        place: &Place,
        source: &str,
        target: &str,
    ) -> Result<ExitCode> {
        if !Path::new(source).exists() {
            return Err(Failure::said(format!("{source} doesn't exist in local filesystem")));
        }
        let pod = Partner::find(session, place, self.container.as_deref()).await?;
        let mut target = target.to_string();
        if pod.has_folder(&target).await {
            target = path::join(&target, path::base(&path::clean(source)));
        }
        let mut command = vec!["tar"];
        if self.no_preserve {
            command.extend(["--no-same-permissions", "--no-same-owner"]);
        }
        let folder = path::folder(&target);
        command.extend(["-xmf", "-", "-C", &folder]);
        let (near, far) = tokio::io::duplex(BUFFER);
        let (from, name) = (PathBuf::from(source), path::base(&path::clean(&target)).to_string());
        let packing = tokio::task::spawn_blocking(move || {
            archive::pack(&from, &name, SyncIoBridge::new(near))
        });
        let streams =
            Streams { input: Some(far), output: tokio::io::stdout(), errors: tokio::io::stderr() };
        let code = pod.run(&command, streams).await;
        // Where the other side gave up, it has said why.
        let gave_up = !matches!(code, Ok(0));
        let packed = packing.await.map_err(Failure::said)?;
        match packed {
            Err(error) if !gave_up || error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Failure::said(error))
            }
            _ => Ok(told(code?)),
        }
    }

    /// From the container to here.
    async fn fetch(
        &self,
        session: &Session,
        place: &Place,
        source: &str,
        target: &str,
    ) -> Result<ExitCode> {
        let pod = Partner::find(session, place, self.container.as_deref()).await?;
        let (near, far) = tokio::io::duplex(BUFFER);
        let unpack = archive::Unpack {
            prefix: path::stored(source),
            target: PathBuf::from(target),
            instead: format!(
                "ctl exec -n {:?} {:?} -- tar cf - {source:?} | tar xf -",
                place.namespace, place.pod
            ),
        };
        let unpacking = tokio::task::spawn_blocking(move || unpack.run(SyncIoBridge::new(near)));
        let received = self.receive(&pod, source, far).await;
        let unpacked = unpacking.await.map_err(Failure::said)?;
        match (received, unpacked) {
            // Who unpacks has hung up, and says why.
            (Err(Failure::Silent), Err(why)) | (Ok(0), Err(why)) => Err(Failure::said(why)),
            (code, _) => Ok(told(code?)),
        }
    }

    /// The archive of the source; after a break from where it stopped.
    async fn receive(&self, pod: &Partner<'_>, source: &str, to: DuplexStream) -> Result<u8> {
        let mut output = Counted { to, bytes: 0 };
        let mut tries = 0;
        let mut start = 0;
        loop {
            let resumable = format!("tar cf - {source} | tail -c+{start}");
            let command = match self.retries {
                0 => vec!["tar", "cf", "-", source],
                _ => vec!["sh", "-c", &resumable],
            };
            let socket = pod.open(&command, false).await?;
            // Its complaints are no failure of ours: kubectl, too, prints them so.
            let errors = tokio::io::stdout();
            let streams = Streams { input: None::<Empty>, output: &mut output, errors };
            match pump(socket, streams, false).await {
                Err(Failure::Said(why)) if self.retries < 0 || tries < self.retries => {
                    tries += 1;
                    let (bytes, most) = (output.bytes, self.retries);
                    start = bytes + 1;
                    tracing::debug!(why, "the copy broke off");
                    anstream::println!("Resuming copy at {bytes} bytes, retry {tries}/{most}");
                }
                Err(Failure::Said(why)) if tries > 0 => {
                    anstream::println!("Dropping out copy after {tries} retries");
                    return Err(Failure::Said(why));
                }
                end => {
                    // Whoever unpacks must learn that this was all.
                    let _ = output.to.shutdown().await;
                    return end;
                }
            }
        }
    }
}

/// The container at the other end.
struct Partner<'a> {
    session: &'a Session,
    pod: Value,
    container: String,
}

impl<'a> Partner<'a> {
    async fn find(
        session: &'a Session,
        place: &Place,
        container: Option<&str>,
    ) -> Result<Partner<'a>> {
        let namespace = match place.namespace.as_str() {
            "" => &session.namespace,
            namespace => namespace,
        };
        let pod = session.get(&kind::POD.path(namespace, &place.pod)).await?;
        check_running(&pod, "exec into a container")?;
        let container = container.unwrap_or_else(|| default_container(&pod)).to_string();
        Ok(Partner { session, pod, container })
    }

    async fn open(&self, command: &[&str], stdin: bool) -> Result<client::websocket::WebSocket> {
        let talk = Talk { container: &self.container, stdin, terminal: false };
        let command: Vec<String> = command.iter().map(|word| word.to_string()).collect();
        talk.open(self.session, &self.pod, "exec", &command).await
    }

    async fn run<I, O, E>(&self, command: &[&str], streams: Streams<I, O, E>) -> Result<u8>
    where
        I: AsyncRead + Unpin,
        O: AsyncWrite + Unpin,
        E: AsyncWrite + Unpin,
    {
        let socket = self.open(command, streams.input.is_some()).await?;
        pump(socket, streams, false).await
    }

    /// A copy goes into a folder that is there, and takes the place of anything else.
    async fn has_folder(&self, path: &str) -> bool {
        let (output, errors) = (tokio::io::sink(), tokio::io::sink());
        let streams = Streams { input: None::<Empty>, output, errors };
        matches!(self.run(&["test", "-d", path], streams).await, Ok(0))
    }
}

/// Knows how much went through.
struct Counted {
    to: DuplexStream,
    bytes: u64,
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        let written = std::pin::Pin::new(&mut self.to).poll_write(context, bytes);
        if let std::task::Poll::Ready(Ok(count)) = &written {
            self.bytes += *count as u64;
        }
        written
    }

    fn poll_flush(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.to).poll_flush(context)
    }

    fn poll_shutdown(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::pin::Pin::new(&mut self.to).poll_shutdown(context)
    }
}
