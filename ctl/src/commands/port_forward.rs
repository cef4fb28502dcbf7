//! `ctl port-forward`: local ports that lead to ports of a pod. Each connection is a pair of SPDY
//! streams, data and error, within a WebSocket of its own (`SPDY/3.1+portforward.k8s.io`).

use std::net::IpAddr;

use agent::runtime::streaming::spdy::frames::{Frame, Reader, Writer};
use client::websocket::{Message, WebSocket};
use client::{BoxError, Client};
use futures::{SinkExt, StreamExt};
use proto::kind;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::commands::logs::pod_of;
use crate::failure::{Failure, Result};
use crate::resources::{items, text};
use crate::session::Session;

const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
const ERROR: u32 = 1;
const DATA: u32 = 3;
/// Messages in flight; a slow side slows the other down.
const DEPTH: usize = 16;
const CHUNK: usize = 32 * 1024;

#[derive(clap::Args)]
pub struct PortForward {
    /// POD or TYPE/NAME
    pod: String,
    /// [LOCAL:]REMOTE, numbers or names; without LOCAL the same, with an empty one any free port
    #[arg(required = true)]
    ports: Vec<String>,
    /// Addresses to listen on
    #[arg(long, value_delimiter = ',', default_value = "127.0.0.1")]
    address: Vec<IpAddr>,
}

/// Local and remote.
#[derive(Debug, PartialEq, Eq)]
struct Pair(u16, u16);

impl PortForward {
    /// Serves until it is interrupted.
    pub async fn run(&self, session: &Session) -> Result<()> {
        let service = match self.pod.split_once('/') {
            Some(("svc" | "service" | "services", name)) => {
                Some(session.get(&kind::SERVICE.path(&session.namespace, name)).await?)
            }
            _ => None,
        };
        let pod = pod_of(session, &self.pod).await?;
        let phase = text(&pod["status"]["phase"]);
        if phase != "Running" {
            return Err(Failure::said(format!(
                "unable to forward port because pod is not running. Current status={phase}"
            )));
        }
        let metadata = &pod["metadata"];
        let path = kind::POD.path(text(&metadata["namespace"]), text(&metadata["name"]));
        let path = format!("{path}/portforward");
        let mut serving = tokio::task::JoinSet::new();
        for word in &self.ports {
            let Pair(local, remote) =
                Pair::of(word, &pod, service.as_ref()).map_err(Failure::said)?;
            for address in &self.address {
                let listener = TcpListener::bind((*address, local)).await.map_err(|why| {
                    Failure::said(format!("unable to listen on port {local}: {why}"))
                })?;
                let bound = listener.local_addr().map_err(Failure::said)?;
                anstream::println!("Forwarding from {bound} -> {remote}");
                serving.spawn(serve(session.client.clone(), path.clone(), listener, remote));
            }
        }
        let never = async { while serving.join_next().await.is_some() {} };
        tokio::select! {
            () = never => Ok(()),
            end = tokio::signal::ctrl_c() => end.map_err(Failure::said),
        }
    }
}

impl Pair {
    /// A Service's port stands for what it leads to.
    fn of(word: &str, pod: &Value, service: Option<&Value>) -> std::result::Result<Pair, String> {
        let (local, remote) = word.split_once(':').unwrap_or((word, word));
        let number = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
        let named = |name: &str| {
            let mut ports =
                items(&pod["spec"]["containers"]).flat_map(|container| items(&container["ports"]));
            let port = ports.find(|port| port["name"] == name)?;
            u16::try_from(port["containerPort"].as_u64()?).ok()
        };
        let of_pod = |port: &str| number(port).or_else(|| named(port));
        let port = match service {
            None => of_pod(remote),
            Some(service) => {
                let mut ports = items(&service["spec"]["ports"]);
                let port = ports.find(|port| {
                    port["name"] == remote || number(remote).is_some_and(|n| port["port"] == n)
                });
                let port = port.ok_or_else(|| {
                    let name = text(&service["metadata"]["name"]);
                    format!("Service {name} does not have a service port {remote}")
                })?;
                match (&port["targetPort"], &port["port"]) {
                    (Value::String(name), _) => of_pod(name),
                    (Value::Number(target), _) if target.as_u64() > Some(0) => {
                        number(&target.to_string())
                    }
                    (_, own) => number(&own.to_string()),
                }
            }
        };
        let port = port.ok_or_else(|| {
            format!(
                "Pod '{}' does not have a named port '{remote}'",
                text(&pod["metadata"]["name"])
            )
        })?;
        let local = match local {
            "" => 0,
            // `:REMOTE` and a bare name have no number of their own.
            same if same == remote => number(same).unwrap_or(port),
            local => number(local)
                .ok_or_else(|| format!("error parsing local port {local:?}: invalid syntax"))?,
        };
        Ok(Pair(local, port))
    }
}

async fn serve(client: Client, path: String, listener: TcpListener, port: u16) {
    while let Ok((stream, _)) = listener.accept().await {
        anstream::println!("Handling connection for {port}");
        let (client, path) = (client.clone(), path.clone());
        tokio::spawn(async move {
            let joined = async {
                let socket = client.websocket(&path, &[TUNNEL]).await?;
                join(socket, stream, port).await
            };
            if let Err(why) = joined.await {
                anstream::eprintln!("error: forwarding port {port}: {why}");
            }
        });
    }
}

/// Carries one connection both ways until both sides have ended.
async fn join(
    socket: WebSocket,
    mut local: TcpStream,
    port: u16,
) -> std::result::Result<(), BoxError> {
    let (mut sending, mut receiving) = socket.stream.split();
    let (frames, mut outgoing) = mpsc::channel::<Vec<u8>>(DEPTH);
    let (mut incoming, bytes) = tokio::io::duplex(2 * CHUNK);
    // The messages of the WebSocket as one stream of bytes.
    let unpack = tokio::spawn(async move {
        while let Some(Ok(message)) = receiving.next().await {
            let Message::Binary(bytes) = message else { continue };
            if incoming.write_all(&bytes).await.is_err() {
                break;
            }
        }
    });
    let pack = tokio::spawn(async move {
        while let Some(frame) = outgoing.recv().await {
            if sending.send(Message::binary(frame)).await.is_err() {
                break;
            }
        }
        let _ = sending.close().await;
    });
    let mut writer = Writer::new();
    let number = port.to_string();
    for (stream, kind) in [(ERROR, "error"), (DATA, "data")] {
        let headers = [("streamtype", kind), ("port", &number), ("requestid", "0")];
        frames.send(writer.open(stream, &headers)).await?;
    }
    // Nothing is ever said on the error stream from here.
    frames.send(writer.data(ERROR, &[], true)).await?;
    let (mut read, mut write) = local.split();
    let outward = async {
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = read.read(&mut buffer).await.unwrap_or(0);
            frames.send(writer.data(DATA, &buffer[..count], count == 0)).await?;
            if count == 0 {
                return Ok::<_, BoxError>(());
            }
        }
    };
    let inward = async {
        let mut reader = Reader::new(bytes);
        let mut problem = Vec::new();
        let (mut data, mut error) = (true, true);
        while data || error {
            match reader.next().await {
                Some(Frame::Data { stream: DATA, bytes, end }) => {
                    write.write_all(&bytes).await?;
                    if end {
                        data = false;
                        write.shutdown().await?;
                    }
                }
                Some(Frame::Data { stream: ERROR, bytes, end }) => {
                    problem.extend_from_slice(&bytes);
                    error &= !end;
                }
                Some(Frame::GoAway) | None => break,
                Some(_) => {}
            }
        }
        match problem.is_empty() {
            true => Ok::<_, BoxError>(()),
            false => Err(String::from_utf8_lossy(&problem).into_owned().into()),
        }
    };
    // Once the pod has ended there is nobody left to send to.
    let result = tokio::select! {
        result = inward => result,
        Err(error) = outward => Err(error),
    };
    drop(frames);
    unpack.abort();
    let _ = pack.await;
    result
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn which_ports_are_meant() {
        let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [
            {"ports": [{"name": "web", "containerPort": 8080}]},
        ]}});
        let service = json!({"metadata": {"name": "s"}, "spec": {"ports": [
            {"name": "http", "port": 80, "targetPort": "web"},
            {"name": "raw", "port": 81, "targetPort": 9000},
        ]}});
        let cases = [
            ("80", None, Ok(Pair(80, 80))),
            ("8000:80", None, Ok(Pair(8000, 80))),
            (":80", None, Ok(Pair(0, 80))),
            ("web", None, Ok(Pair(8080, 8080))),
            ("5000:web", None, Ok(Pair(5000, 8080))),
            ("80", Some(&service), Ok(Pair(80, 8080))),
            ("5000:raw", Some(&service), Ok(Pair(5000, 9000))),
            ("x:80", None, Err("error parsing local port \"x\": invalid syntax")),
            ("none", None, Err("Pod 'p' does not have a named port 'none'")),
            ("82", Some(&service), Err("Service s does not have a service port 82")),
        ];
        for (word, service, expected) in cases {
            let expected = expected.map_err(String::from);
            assert_eq!(Pair::of(word, &pod, service), expected, "{word}");
        }
    }
}
