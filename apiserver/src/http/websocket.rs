//! Streams over WebSocket: the frames of a watch as one message each, logs as they come.

use axum::{
    body::Body,
    extract::{
        FromRequestParts,
        ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade},
    },
    response::Response,
};
use bytes::Bytes;
use futures::StreamExt;
use http::{Method, Request, header, request::Parts};
use hyper::upgrade::OnUpgrade;
use proto::status::Status;

use super::header_text;
use crate::registry::Call;

/// How a piece of the stream is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frames {
    Text,
    Binary,
}

/// What a client may offer for logs; watches name none.
const PROTOCOLS: [&str; 1] = ["binary.k8s.io"];

/// Whether this watch or log is asked for over WebSocket.
pub(super) fn asked(call: &Call, parts: &Parts) -> bool {
    let streams = call.verb == "watch" || (call.subresource, call.verb) == ("log", "get");
    let upgrade = header_text(parts, header::UPGRADE);
    streams
        && parts.method == Method::GET
        && upgrade.is_some_and(|name| name.eq_ignore_ascii_case("websocket"))
}

/// Answers the handshake and sends what is in the body of `response`, then closes.
pub(super) async fn carry(
    parts: &Parts,
    upgrade: Option<OnUpgrade>,
    response: Response,
    frames: Frames,
) -> Result<Response, Status> {
    let (mut own, ()) = Request::new(()).into_parts();
    own.version = parts.version;
    own.headers = parts.headers.clone();
    if let Some(upgrade) = upgrade {
        own.extensions.insert(upgrade);
    }
    let handshake =
        WebSocketUpgrade::from_request_parts(&mut own, &()).await.map_err(|refused| {
            Status::bad_request(format!("unable to upgrade websocket connection: {refused}"))
        })?;
    let body = response.into_body();
    Ok(handshake.protocols(PROTOCOLS).on_upgrade(move |socket| send(socket, body, frames)))
}

async fn send(mut socket: WebSocket, body: Body, frames: Frames) {
    let mut pieces = body.into_data_stream();
    loop {
        tokio::select! {
            piece = pieces.next() => {
                let Some(Ok(piece)) = piece else { break };
                if socket.send(message(piece, frames)).await.is_err() {
                    return;
                }
            }
            // Nothing is expected of the client but its leaving.
            received = socket.recv() => match received {
                None | Some(Err(_) | Ok(Message::Close(_))) => return,
                Some(Ok(_)) => {}
            }
        }
    }
    let _ = socket.send(Message::Close(None)).await;
}

fn message(piece: Bytes, frames: Frames) -> Message {
    match frames {
        Frames::Binary => Message::Binary(piece),
        Frames::Text => match Utf8Bytes::try_from(piece.clone()) {
            Ok(text) => Message::Text(text),
            Err(_) => Message::Binary(piece),
        },
    }
}
