//! Sessions over SPDY/3.1, as client-go speaks it: the client opens a stream for each direction and
//! says in its headers what it is. Flow control is not used by these clients.

pub mod frames;

use std::collections::HashMap;

use bytes::Bytes;
use client::error::chain;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use self::frames::{Frame, Reader, Writer};
use super::super::engine::Engine;
use super::super::exec::Wanted;
use super::{Channels, DEPTH, Input, Offer, Output, session};

/// What is to be written on the connection.
enum Sent {
    Reply(u32),
    Data(u32, Bytes, bool),
    Ping(u32),
    GoAway,
}

/// Serves one connection to its end.
pub async fn serve(
    engine: Engine,
    offer: Offer,
    connection: impl AsyncRead + AsyncWrite + Send + 'static,
) {
    let (read, write) = tokio::io::split(connection);
    let (sender, receiver) = mpsc::channel(DEPTH);
    let writing = tokio::spawn(write_frames(write, receiver));
    let reader = Reader::new(read);
    match offer {
        Offer::PortForward { sandbox, ports } => {
            forward(engine, sandbox, ports, reader, sender).await
        }
        Offer::Exec { wanted, .. } | Offer::Attach { wanted, .. } => {
            converse(engine, offer, wanted, reader, sender).await;
        }
    }
    let _ = writing.await;
}

async fn write_frames(mut connection: impl AsyncWrite + Unpin, mut frames: mpsc::Receiver<Sent>) {
    let mut writer = Writer::new();
    while let Some(frame) = frames.recv().await {
        let last = matches!(frame, Sent::GoAway);
        let bytes = match frame {
            Sent::Reply(stream) => writer.reply(stream),
            Sent::Data(stream, bytes, end) => writer.data(stream, &bytes, end),
            Sent::Ping(id) => writer.ping(id),
            Sent::GoAway => writer.go_away(),
        };
        if connection.write_all(&bytes).await.is_err() || connection.flush().await.is_err() || last
        {
            break;
        }
    }
    let _ = connection.shutdown().await;
}

/// Exec and attach: once all streams are there, the session runs on them.
async fn converse(
    engine: Engine,
    offer: Offer,
    wanted: Wanted,
    mut reader: Reader<impl AsyncRead + Unpin + Send + 'static>,
    sender: mpsc::Sender<Sent>,
) {
    let expected = [
        ("error", true),
        ("stdin", wanted.stdin),
        ("stdout", wanted.stdout),
        ("stderr", wanted.stderr && !wanted.tty),
        ("resize", wanted.tty),
    ];
    let mut streams: HashMap<String, u32> = HashMap::new();
    let missing = |streams: &HashMap<String, u32>| {
        expected.iter().any(|(name, needed)| *needed && !streams.contains_key(*name))
    };
    while missing(&streams) {
        match reader.next().await {
            Some(Frame::Open { stream, headers }) => {
                streams.insert(headers.get("streamtype").cloned().unwrap_or_default(), stream);
                if sender.send(Sent::Reply(stream)).await.is_err() {
                    return;
                }
            }
            Some(Frame::Ping(id)) => drop(sender.send(Sent::Ping(id)).await),
            Some(Frame::Other | Frame::Reset(_) | Frame::Data { .. }) => {}
            Some(Frame::GoAway) | None => return,
        }
    }
    let (to_session, input) = mpsc::channel(DEPTH);
    let (output, mut from_session) = mpsc::channel(DEPTH);
    let running = tokio::spawn(session::run(engine, offer, Channels { input, output }));
    let inputs = (streams.get("stdin").copied(), streams.get("resize").copied());
    let pings = sender.clone();
    let mut reading = tokio::spawn(read_inputs(reader, inputs, to_session, pings));
    loop {
        let message = tokio::select! {
            message = from_session.recv() => message,
            _ = &mut reading => None,
        };
        let (name, bytes, last) = match message {
            Some(Output::Stdout(bytes)) => ("stdout", bytes, false),
            Some(Output::Stderr(bytes)) => ("stderr", bytes, false),
            Some(Output::Status(status)) => ("error", Bytes::from(status.to_string()), true),
            None => break,
        };
        let Some(stream) = streams.get(name) else { continue };
        if last {
            for (name, stream) in streams.iter().filter(|(name, _)| *name != "error") {
                let _ = (name, sender.send(Sent::Data(*stream, Bytes::new(), true)).await);
            }
        }
        if sender.send(Sent::Data(*stream, bytes, last)).await.is_err() || last {
            break;
        }
    }
    drop(from_session);
    let _ = sender.send(Sent::GoAway).await;
    reading.abort();
    let _ = running.await;
}

/// Passes on what the client sends, until it goes away.
async fn read_inputs(
    mut reader: Reader<impl AsyncRead + Unpin + Send + 'static>,
    (stdin, resize): (Option<u32>, Option<u32>),
    to_session: mpsc::Sender<Input>,
    pings: mpsc::Sender<Sent>,
) {
    // Sizes come as JSON documents, one after another, however frames cut them.
    let mut sizes = Vec::new();
    while let Some(frame) = reader.next().await {
        match frame {
            Frame::Data { stream, bytes, end } if Some(stream) == stdin => {
                if !bytes.is_empty() {
                    let _ = to_session.send(Input::Stdin(bytes)).await;
                }
                if end {
                    let _ = to_session.send(Input::StdinEnd).await;
                }
            }
            Frame::Data { stream, bytes, .. } if Some(stream) == resize => {
                sizes.extend_from_slice(&bytes);
                for input in take_sizes(&mut sizes) {
                    let _ = to_session.send(input).await;
                }
            }
            Frame::Ping(id) => drop(pings.send(Sent::Ping(id)).await),
            Frame::GoAway => return,
            _ => {}
        }
    }
}

fn take_sizes(buffer: &mut Vec<u8>) -> Vec<Input> {
    let mut documents =
        serde_json::Deserializer::from_slice(buffer).into_iter::<serde_json::Value>();
    let mut found = Vec::new();
    while let Some(Ok(size)) = documents.next() {
        let side = |name: &str| u16::try_from(size.get(name)?.as_u64()?).ok();
        if let (Some(columns), Some(rows)) = (side("Width"), side("Height")) {
            found.push(Input::Resize { columns, rows });
        }
    }
    let read = documents.byte_offset();
    buffer.drain(..read);
    if buffer.len() > 4096 {
        buffer.clear(); // Not sizes.
    }
    found
}

/// A connection to be forwarded: its streams as they arrive, by request id.
#[derive(Default)]
struct Pair {
    data: Option<u32>,
    error: Option<u32>,
    port: u16,
}

/// Port forwarding: a pair of streams, data and error, for each connection.
async fn forward(
    engine: Engine,
    sandbox: String,
    ports: Vec<i32>,
    mut reader: Reader<impl AsyncRead + Unpin + Send + 'static>,
    sender: mpsc::Sender<Sent>,
) {
    let mut pairs: HashMap<String, Pair> = HashMap::new();
    let mut connections: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
    while let Some(frame) = reader.next().await {
        match frame {
            Frame::Open { stream, headers } => {
                let _ = sender.send(Sent::Reply(stream)).await;
                let header = |name: &str| headers.get(name).cloned().unwrap_or_default();
                // Old clients send no request id: the port tells the pairs apart.
                let id = if header("requestid").is_empty() {
                    header("port")
                } else {
                    header("requestid")
                };
                let pair = pairs.entry(id.clone()).or_default();
                pair.port = header("port").parse().unwrap_or(0);
                match header("streamtype").as_str() {
                    "data" => pair.data = Some(stream),
                    _ => pair.error = Some(stream),
                }
                if let (Some(data), Some(error)) = (pair.data, pair.error) {
                    let allowed = ports.is_empty() || ports.contains(&i32::from(pair.port));
                    let port = if allowed { pair.port } else { 0 };
                    let (to_pod, from_client) = mpsc::channel(DEPTH);
                    connections.insert(data, to_pod);
                    let (engine, sandbox, sender) =
                        (engine.clone(), sandbox.clone(), sender.clone());
                    tokio::spawn(pipe_connection(
                        engine,
                        sandbox,
                        port,
                        (data, error),
                        from_client,
                        sender,
                    ));
                    pairs.remove(&id);
                }
            }
            Frame::Data { stream, bytes, end } => {
                if let Some(connection) = connections.get(&stream)
                    && !bytes.is_empty()
                {
                    let _ = connection.send(bytes).await;
                }
                if end {
                    connections.remove(&stream);
                }
            }
            // As clients do once the pod has hung up; they wait for the end of the error stream.
            Frame::Reset(stream) => drop(connections.remove(&stream)),
            Frame::Ping(id) => drop(sender.send(Sent::Ping(id)).await),
            Frame::GoAway => break,
            Frame::Other => {}
        }
    }
    let _ = sender.send(Sent::GoAway).await;
}

async fn pipe_connection(
    engine: Engine,
    sandbox: String,
    port: u16,
    (data, error): (u32, u32),
    mut from_client: mpsc::Receiver<Bytes>,
    sender: mpsc::Sender<Sent>,
) {
    let problem = match session::connect(&engine, &sandbox, port).await {
        Ok(mut stream) => {
            let (mut read, mut write) = stream.split();
            let inward = async {
                while let Some(bytes) = from_client.recv().await {
                    if write.write_all(&bytes).await.is_err() {
                        return;
                    }
                }
                let _ = write.shutdown().await;
            };
            let outward = async {
                let mut buffer = vec![0; 32 * 1024];
                while let Ok(count @ 1..) = read.read(&mut buffer).await {
                    let bytes = Bytes::copy_from_slice(&buffer[..count]);
                    if sender.send(Sent::Data(data, bytes, false)).await.is_err() {
                        return;
                    }
                }
                let _ = sender.send(Sent::Data(data, Bytes::new(), true)).await;
            };
            tokio::join!(inward, outward);
            Bytes::new()
        }
        Err(failure) => {
            let _ = sender.send(Sent::Data(data, Bytes::new(), true)).await;
            let text =
                format!("error forwarding port {port} to pod {sandbox}: {}", chain(&failure));
            Bytes::from(text)
        }
    };
    let _ = sender.send(Sent::Data(error, problem, true)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_arrive_in_pieces() {
        let mut buffer = b"{\"Width\":80,\"Height\":24}\n{\"Wid".to_vec();
        assert_eq!(take_sizes(&mut buffer), [Input::Resize { columns: 80, rows: 24 }]);
        buffer.extend_from_slice(b"th\":1,\"Height\":2}");
        assert_eq!(take_sizes(&mut buffer), [Input::Resize { columns: 1, rows: 2 }]);
    }
}
