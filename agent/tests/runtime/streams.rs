//! Exec and attach through the streaming server, over WebSocket and SPDY.

use std::collections::BTreeMap;

use flate2::{Compress, Compression, FlushCompress};
use futures::{SinkExt, StreamExt};
use proto::cri;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest};

use super::lab::{Lab, script, words};

type Socket = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<TcpStream>>;

async fn websocket(url: &str) -> Socket {
    let mut request = url.replace("http://", "ws://").into_client_request().unwrap();
    request
        .headers_mut()
        .insert("Sec-WebSocket-Protocol", "v5.channel.k8s.io, v4.channel.k8s.io".parse().unwrap());
    let (socket, response) = tokio_tungstenite::connect_async(request).await.unwrap();
    assert_eq!(response.headers()["Sec-WebSocket-Protocol"], "v5.channel.k8s.io");
    socket
}

/// Everything received until the status, by channel.
async fn received(socket: &mut Socket) -> BTreeMap<u8, Vec<u8>> {
    let mut channels: BTreeMap<u8, Vec<u8>> = BTreeMap::new();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(bytes) = message {
            channels.entry(bytes[0]).or_default().extend(&bytes[1..]);
            if bytes[0] == 3 && bytes.len() > 1 {
                break;
            }
        }
    }
    channels
}

fn send(channel: u8, bytes: &[u8]) -> Message {
    Message::Binary([&[channel], bytes].concat().into())
}

async fn offer(lab: &mut Lab, id: &str, command: &[&str], tty: bool) -> String {
    let request = cri::ExecRequest {
        container_id: id.to_owned(),
        cmd: words(command),
        tty,
        stdin: true,
        stdout: true,
        stderr: !tty,
    };
    lab.runtime.exec(request).await.unwrap().into_inner().url
}

#[tokio::test]
async fn exec_over_websocket() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let id = lab.run(&pod, script("main", "sleep 1000")).await;
    let url = offer(&mut lab, &id, &["sh", "-c", "cat; echo err >&2; exit 3"], false).await;
    let mut socket = websocket(&url).await;
    socket.send(send(0, b"typed")).await.unwrap();
    socket.send(Message::Binary(vec![255, 0].into())).await.unwrap();
    let channels = received(&mut socket).await;
    assert_eq!((&channels[&1][..], &channels[&2][..]), (&b"typed"[..], &b"err\n"[..]));
    let status: serde_json::Value = serde_json::from_slice(&channels[&3]).unwrap();
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"][0]["message"], "3");
    // Good once.
    let mut again =
        TcpStream::connect(url.trim_start_matches("http://").split('/').next().unwrap())
            .await
            .unwrap();
    let path = &url[url.find("/exec").unwrap()..];
    again
        .write_all(
            format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes(),
        )
        .await
        .unwrap();
    let mut answer = String::new();
    again.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");

    let url = offer(&mut lab, &id, &["nosuch"], false).await;
    let channels = received(&mut websocket(&url).await).await;
    let status: serde_json::Value = serde_json::from_slice(&channels[&3]).unwrap();
    assert!(status["message"].as_str().unwrap().contains("executable file not found"), "{status}");
    lab.finish().await;
}

#[tokio::test]
async fn exec_with_a_terminal() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let id = lab.run(&pod, script("main", "sleep 1000")).await;
    let url = offer(&mut lab, &id, &["sh"], true).await;
    let mut socket = websocket(&url).await;
    socket.send(send(4, b"{\"Width\":123,\"Height\":45}")).await.unwrap();
    socket.send(send(0, b"tty; busybox stty size; exit 0\n")).await.unwrap();
    let channels = received(&mut socket).await;
    let seen = String::from_utf8_lossy(&channels[&1]).into_owned();
    let ended = String::from_utf8_lossy(&channels[&3]).into_owned();
    assert!(seen.contains("/dev/pts/0\r\n") && seen.contains("45 123\r\n"), "{seen} {ended}");
    assert_eq!(
        serde_json::from_slice::<serde_json::Value>(&channels[&3]).unwrap()["status"],
        "Success"
    );
    lab.finish().await;
}

#[tokio::test]
async fn attach_to_streams_and_terminals() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let mut config =
        script("plain", "while read line; do echo got $line; [ $line = end ] && exit 0; done");
    config.stdin = true;
    let plain = lab.run(&pod, config).await;
    let mut config =
        script("tty", "tty; while read line; do echo got $line; [ $line = end ] && exit 0; done");
    (config.stdin, config.tty) = (true, true);
    let tty = lab.run(&pod, config).await;
    lab.log_until("tty.log", |log| log.contains("/dev/pts/0")).await;
    for (id, tty) in [(&plain, false), (&tty, true)] {
        let request = cri::AttachRequest {
            container_id: id.clone(),
            stdin: true,
            stdout: true,
            stderr: false,
            tty,
        };
        let url = lab.runtime.attach(request).await.unwrap().into_inner().url;
        let mut socket = websocket(&url).await;
        socket.send(send(0, b"one\nend\n")).await.unwrap();
        let channels = received(&mut socket).await;
        let seen = String::from_utf8_lossy(&channels[&1]).replace('\r', "");
        assert!(seen.contains("got one\n"), "{seen}");
        assert_eq!(lab.exited(id).await.exit_code, 0);
    }
    assert!(lab.log("plain.log").contains("stdout F got end"));
    assert!(lab.log("tty.log").contains("stdout F got end"), "{}", lab.log("tty.log"));
    lab.finish().await;
}

/// A frame of SPDY that opens a stream.
fn open(packer: &mut Compress, stream: u32, headers: &[(&str, &str)]) -> Vec<u8> {
    let mut block = (headers.len() as u32).to_be_bytes().to_vec();
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        block.extend((text.len() as u32).to_be_bytes());
        block.extend(text.as_bytes());
    }
    let mut packed = Vec::with_capacity(1024);
    packer.compress_vec(&block, &mut packed, FlushCompress::Sync).unwrap();
    let payload = [&stream.to_be_bytes()[..], &[0; 6], &packed].concat();
    [&0x8003_0001u32.to_be_bytes()[..], &(payload.len() as u32).to_be_bytes(), &payload].concat()
}

fn data(stream: u32, bytes: &[u8], end: bool) -> Vec<u8> {
    let length = bytes.len() as u32 | if end { 1 << 24 } else { 0 };
    [&stream.to_be_bytes()[..], &length.to_be_bytes(), bytes].concat()
}

async fn spdy(url: &str, protocol: &str) -> TcpStream {
    let (address, path) = url.trim_start_matches("http://").split_once('/').unwrap();
    let mut socket = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "POST /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: {protocol}\r\nContent-Length: 0\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(socket.read_u8().await.unwrap());
    }
    let answer = String::from_utf8(answer).unwrap().to_ascii_lowercase();
    assert!(answer.starts_with("http/1.1 101"), "{answer}");
    assert!(
        answer.contains(&format!("x-stream-protocol-version: {protocol}").to_ascii_lowercase()),
        "{answer}"
    );
    socket
}

/// Data by stream, until the connection says good-bye.
async fn streams_of(
    socket: &mut TcpStream,
    until: impl Fn(&BTreeMap<u32, Vec<u8>>) -> bool,
) -> BTreeMap<u32, Vec<u8>> {
    let mut streams: BTreeMap<u32, Vec<u8>> = BTreeMap::new();
    while !until(&streams) {
        let Ok(first) = socket.read_u32().await else { break };
        let length = socket.read_u32().await.unwrap() & 0xff_ffff;
        let mut payload = vec![0; length as usize];
        socket.read_exact(&mut payload).await.unwrap();
        if first & 0x8000_0000 == 0 {
            streams.entry(first).or_default().extend(payload);
        } else if first & 0xffff == 7 {
            break;
        }
    }
    streams
}

#[tokio::test]
async fn exec_over_spdy() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    let id = lab.run(&pod, script("main", "sleep 1000")).await;
    let url = offer(&mut lab, &id, &["sh", "-c", "cat; echo err >&2; exit 3"], false).await;
    let mut socket = spdy(&url, "v4.channel.k8s.io").await;
    let mut packer = Compress::new(Compression::fast(), true);
    for (stream, kind) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr")] {
        socket.write_all(&open(&mut packer, stream, &[("streamtype", kind)])).await.unwrap();
    }
    socket.write_all(&data(3, b"typed", true)).await.unwrap();
    let streams = streams_of(&mut socket, |_| false).await;
    assert_eq!((&streams[&5][..], &streams[&7][..]), (&b"typed"[..], &b"err\n"[..]));
    let status: serde_json::Value = serde_json::from_slice(&streams[&1]).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "3");
    lab.finish().await;
}

#[tokio::test]
async fn ports_are_forwarded() {
    let Some(mut lab) = Lab::start().await else { return };
    let pod = lab.sandbox("pod").await;
    // The pod is on this network namespace, so any local listener is one of its ports.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let serving = tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.unwrap();
        let mut question = [0; 4];
        connection.read_exact(&mut question).await.unwrap();
        connection.write_all(b"answer").await.unwrap();
        question
    });
    let request = cri::PortForwardRequest { pod_sandbox_id: pod, port: vec![i32::from(port)] };
    let url = lab.runtime.port_forward(request).await.unwrap().into_inner().url;
    let mut socket = spdy(&url, "portforward.k8s.io").await;
    let mut packer = Compress::new(Compression::fast(), true);
    let port = port.to_string();
    for (stream, kind) in [(1, "error"), (3, "data")] {
        let headers = [("streamtype", kind), ("port", &*port), ("requestid", "0")];
        socket.write_all(&open(&mut packer, stream, &headers)).await.unwrap();
    }
    socket.write_all(&data(3, b"what", false)).await.unwrap();
    let streams =
        streams_of(&mut socket, |streams| streams.get(&3).is_some_and(|bytes| bytes.len() == 6))
            .await;
    assert_eq!(streams[&3], b"answer");
    assert_eq!(&serving.await.unwrap(), b"what");
    lab.finish().await;
}
