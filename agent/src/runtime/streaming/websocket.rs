//! Sessions over WebSocket: one message is a channel's number and its bytes (v4 and
//! v5.channel.k8s.io; in v5 the message `[255, channel]` closes a channel). Port forwarding comes as
//! SPDY within one.

use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{FromRequestParts, Request};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::super::engine::Engine;
use super::{Channels, DEPTH, Input, Offer, Output, Wanted, session, spdy};

pub const STDIN: u8 = 0;
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;
pub const ERROR: u8 = 3;
pub const RESIZE: u8 = 4;
/// The channel after it ends.
pub const CLOSE: u8 = 255;
/// The protocols of exec and attach, the best first.
pub const SESSIONS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// That of port forwarding.
pub const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

pub async fn accept(engine: Engine, offer: Offer, request: Request) -> Response {
    let (mut parts, _) = request.into_parts();
    let upgrade = match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => upgrade,
        Err(rejection) => return rejection.into_response(),
    };
    if matches!(offer, Offer::PortForward { .. }) {
        let upgrade = upgrade.protocols([TUNNEL]);
        if upgrade.selected_protocol().is_none() {
            let why = format!("only the stream protocol {TUNNEL} is spoken\n");
            return (StatusCode::FORBIDDEN, why).into_response();
        }
        return upgrade.on_upgrade(move |socket| tunnel(engine, offer, socket));
    }
    let upgrade = upgrade.protocols(SESSIONS);
    upgrade.on_upgrade(move |socket| serve(engine, offer, socket))
}

async fn serve(engine: Engine, offer: Offer, socket: WebSocket) {
    let (mut sending, mut receiving) = socket.split();
    let (to_session, input) = mpsc::channel(DEPTH);
    let (output, mut from_session) = mpsc::channel(DEPTH);
    // The lowest channel we write to says that the connection stands.
    let wanted = match &offer {
        Offer::Exec { wanted, .. } | Offer::Attach { wanted, .. } => *wanted,
        Offer::PortForward { .. } => Wanted::default(),
    };
    let first = match (wanted.stdout, wanted.stderr) {
        (true, _) => STDOUT,
        (false, true) => STDERR,
        (false, false) => ERROR,
    };
    let _ = sending.send(frame(first, &[])).await;
    let session = tokio::spawn(session::run(engine, offer, Channels { input, output }));
    let reader = tokio::spawn(async move {
        while let Some(Ok(message)) = receiving.next().await {
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
                Message::Close(_) => break,
                Message::Ping(_) | Message::Pong(_) => continue,
            };
            if let Some(input) = understood(&bytes)
                && to_session.send(input).await.is_err()
            {
                // The session no longer reads, but it may well still write: see to the end.
                continue;
            }
        }
    });
    let mut reader = reader;
    loop {
        tokio::select! {
            message = from_session.recv() => {
                let (message, last) = match message {
                    Some(Output::Stdout(bytes)) => (frame(STDOUT, &bytes), false),
                    Some(Output::Stderr(bytes)) => (frame(STDERR, &bytes), false),
                    Some(Output::Status(status)) => (frame(ERROR, status.to_string().as_bytes()), true),
                    None => break,
                };
                if sending.send(message).await.is_err() || last {
                    break;
                }
            }
            _ = &mut reader => break,
        }
    }
    drop(from_session);
    // Any other code, or none, is a broken connection to clients.
    let end = CloseFrame { code: close_code::NORMAL, reason: Default::default() };
    let _ = sending.send(Message::Close(Some(end))).await;
    let _ = sending.close().await;
    reader.abort();
    let _ = session.await;
}

/// What a message of the client means.
fn understood(bytes: &Bytes) -> Option<Input> {
    match *bytes.first()? {
        STDIN => Some(Input::Stdin(bytes.slice(1..))),
        RESIZE => {
            let size: serde_json::Value = serde_json::from_slice(&bytes[1..]).ok()?;
            let side = |name: &str| u16::try_from(size.get(name)?.as_u64()?).ok();
            Some(Input::Resize { columns: side("Width")?, rows: side("Height")? })
        }
        CLOSE if bytes.get(1) == Some(&STDIN) => Some(Input::StdinEnd),
        _ => None,
    }
}

/// A message of these bytes on a channel.
pub fn frame(channel: u8, bytes: &[u8]) -> Message {
    let mut message = BytesMut::with_capacity(bytes.len() + 1);
    message.put_u8(channel);
    message.put_slice(bytes);
    Message::Binary(message.freeze())
}

async fn tunnel(engine: Engine, offer: Offer, socket: WebSocket) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let speaking = tokio::spawn(spdy::serve(engine, offer, theirs));
    carry(socket, ours).await;
    let _ = speaking.await;
}

/// The messages as one stream of bytes, joined to another.
pub async fn carry(socket: WebSocket, stream: impl AsyncRead + AsyncWrite + Send + 'static) {
    let (mut sending, mut receiving) = socket.split();
    let (mut read, mut write) = tokio::io::split(stream);
    let inward = tokio::spawn(async move {
        while let Some(Ok(message)) = receiving.next().await {
            if let Message::Binary(bytes) = message
                && write.write_all(&bytes).await.is_err()
            {
                break;
            }
        }
        let _ = write.shutdown().await;
    });
    let mut buffer = vec![0; 32 * 1024];
    while let Ok(count @ 1..) = read.read(&mut buffer).await {
        if sending.send(Message::Binary(Bytes::copy_from_slice(&buffer[..count]))).await.is_err() {
            break;
        }
    }
    let _ = sending.close().await;
    inward.abort();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_understood() {
        let of = |bytes: &'static [u8]| understood(&Bytes::from_static(bytes));
        assert_eq!(of(b"\x00hi"), Some(Input::Stdin(Bytes::from_static(b"hi"))));
        assert_eq!(
            of(b"\x04{\"Width\":80,\"Height\":24}"),
            Some(Input::Resize { columns: 80, rows: 24 })
        );
        assert_eq!(of(b"\xff\x00"), Some(Input::StdinEnd));
        for nothing in [&b""[..], b"\x04{", b"\x04{\"Width\":-1}", b"\xff", b"\x09x"] {
            assert_eq!(of(nothing), None);
        }
    }
}
