//! Streams that a client wants over WebSocket, of a runtime that has them over SPDY: every runtime
//! knows that, while WebSocket is told the end of stdin only by new ones, and port forwarding not at
//! all (KEP-4006). Ours knows both and is spoken to directly.

use axum::body::Body;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::extract::{FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use http::header::{CONNECTION, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use http::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::proxy::ask;
use super::refuse;
use crate::runtime::streaming::spdy::frames::{Frame, Reader, Writer};
use crate::runtime::streaming::websocket::{
    CLOSE, ERROR, RESIZE, SESSIONS, STDERR, STDIN, STDOUT, TUNNEL, carry, frame,
};

/// Frames in flight; a slow side slows the other down.
const DEPTH: usize = 16;
/// Of one frame of SPDY, whose length has three bytes.
const LARGEST: usize = 1 << 20;

/// The streams of an exec or attach.
#[derive(Clone, Copy)]
pub(super) struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// Whether the request is one that can be translated.
pub(super) fn is_understood(request: &Request) -> bool {
    let offers = request.headers().get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let offers = offers.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let known = |offer: &str| offer == TUNNEL || SESSIONS.contains(&offer);
    offers.map(str::trim).any(known)
}

/// Joins the client to the runtime's `url`; without `wanted` for port forwarding.
pub(super) async fn translate(request: Request, url: &str, wanted: Option<Wanted>) -> Response {
    let (mut parts, _) = request.into_parts();
    let upgrade = match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
        Ok(upgrade) => upgrade,
        Err(rejection) => return rejection.into_response(),
    };
    let (upgrade, protocol) = match wanted {
        Some(_) => (upgrade.protocols(SESSIONS), "v4.channel.k8s.io"),
        None => (upgrade.protocols([TUNNEL]), "portforward.k8s.io"),
    };
    if upgrade.selected_protocol().is_none() {
        return refuse(StatusCode::FORBIDDEN, "none of the stream protocols is spoken here");
    }
    let onward = http::Request::builder()
        .method(Method::POST)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "SPDY/3.1")
        .header("X-Stream-Protocol-Version", protocol)
        .body(Body::empty())
        .expect("a request of constants");
    let mut answer = match ask(url, onward).await {
        Ok(answer) => answer,
        Err(refusal) => return refusal,
    };
    if answer.status() != StatusCode::SWITCHING_PROTOCOLS {
        return answer.map(Body::new);
    }
    let runtime = match hyper::upgrade::on(&mut answer).await {
        Ok(runtime) => TokioIo::new(runtime),
        Err(error) => return refuse(StatusCode::BAD_GATEWAY, format!("ask {url}: {error}")),
    };
    upgrade.on_upgrade(move |socket| async move {
        match wanted {
            Some(wanted) => converse(socket, runtime, wanted).await,
            // The messages are SPDY already.
            None => carry(socket, runtime).await,
        }
    })
}

/// The streams by channel and by number: a client of SPDY has the odd ones.
struct Streams(Vec<(u8, u32)>);

impl Streams {
    /// With the frames that open them.
    fn open(wanted: Wanted, writer: &mut Writer) -> (Streams, Vec<u8>) {
        let all = [
            (ERROR, "error", true),
            (STDIN, "stdin", wanted.stdin),
            (STDOUT, "stdout", wanted.stdout),
            (STDERR, "stderr", wanted.stderr),
            (RESIZE, "resize", wanted.tty),
        ];
        let (mut streams, mut frames) = (Vec::new(), Vec::new());
        let wanted = all.into_iter().filter(|(_, _, wanted)| *wanted);
        for ((channel, name, _), number) in wanted.zip((1..).step_by(2)) {
            frames.extend(writer.open(number, &[("streamtype", name)]));
            streams.push((channel, number));
        }
        (Streams(streams), frames)
    }

    fn number(&self, channel: u8) -> Option<u32> {
        self.0.iter().find(|(known, _)| *known == channel).map(|(_, number)| *number)
    }

    fn channel(&self, number: u32) -> Option<u8> {
        self.0.iter().find(|(_, known)| *known == number).map(|(channel, _)| *channel)
    }

    /// What a client's message is to the runtime: a stream, its bytes, and whether it ends.
    fn inward(&self, message: &Bytes) -> Option<(u32, Bytes, bool)> {
        match *message.first()? {
            channel @ (STDIN | RESIZE) => Some((self.number(channel)?, message.slice(1..), false)),
            CLOSE => Some((self.number(*message.get(1)?)?, Bytes::new(), true)),
            _ => None,
        }
    }
}

async fn converse(
    socket: WebSocket,
    runtime: impl AsyncRead + AsyncWrite + Send + 'static,
    wanted: Wanted,
) {
    let (mut sending, receiving) = socket.split();
    let (read, mut write) = tokio::io::split(runtime);
    let mut writer = Writer::new();
    let (streams, opening) = Streams::open(wanted, &mut writer);
    let (frames, mut queue) = mpsc::channel::<Vec<u8>>(DEPTH);
    let writing = tokio::spawn(async move {
        while let Some(bytes) = queue.recv().await {
            if write.write_all(&bytes).await.is_err() || write.flush().await.is_err() {
                break;
            }
        }
        let _ = write.shutdown().await;
    });
    let _ = frames.send(opening).await;
    // The lowest channel we write to says that the connection stands.
    let first = [STDOUT, STDERR].into_iter().find(|channel| streams.number(*channel).is_some());
    let _ = sending.send(frame(first.unwrap_or(ERROR), &[])).await;
    let inward = take_in(receiving, &streams, writer, frames.clone());
    let outward = pass_out(Reader::new(read), &streams, &frames, &mut sending);
    let status = tokio::select! {
        status = outward => status,
        () = inward => Vec::new(),
    };
    if !status.is_empty() {
        let _ = sending.send(frame(ERROR, &status)).await;
    }
    // Any other code, or none, is a broken connection to clients.
    let end = CloseFrame { code: close_code::NORMAL, reason: Default::default() };
    let _ = sending.send(Message::Close(Some(end))).await;
    let _ = sending.close().await;
    drop(frames);
    let _ = writing.await;
}

/// Until the client hangs up.
async fn take_in(
    mut receiving: SplitStream<WebSocket>,
    streams: &Streams,
    mut writer: Writer,
    frames: mpsc::Sender<Vec<u8>>,
) {
    while let Some(Ok(message)) = receiving.next().await {
        let message = match message {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
            Message::Close(_) => return,
            Message::Ping(_) | Message::Pong(_) => continue,
        };
        let Some((stream, bytes, end)) = streams.inward(&message) else { continue };
        for part in bytes.chunks(LARGEST) {
            // A runtime that no longer listens may still have something to say.
            let _ = frames.send(writer.data(stream, part, false)).await;
        }
        if end {
            let _ = frames.send(writer.data(stream, &[], true)).await;
        }
    }
}

/// Until the runtime has said everything; the status that it ended with.
async fn pass_out(
    mut reader: Reader<impl AsyncRead + Unpin>,
    streams: &Streams,
    frames: &mpsc::Sender<Vec<u8>>,
    sending: &mut SplitSink<WebSocket, Message>,
) -> Vec<u8> {
    let mut status = Vec::new();
    let outputs = [ERROR, STDOUT, STDERR].into_iter();
    let mut open: Vec<u32> = outputs.filter_map(|channel| streams.number(channel)).collect();
    while !open.is_empty() {
        let (stream, bytes, end) = match reader.next().await {
            Some(Frame::Data { stream, bytes, end }) => (stream, bytes, end),
            Some(Frame::Reset(stream)) => (stream, Bytes::new(), true),
            Some(Frame::Ping(id)) => {
                let _ = frames.send(Writer::new().ping(id)).await;
                continue;
            }
            Some(Frame::Open { .. } | Frame::Other) => continue,
            Some(Frame::GoAway) | None => break,
        };
        match streams.channel(stream) {
            // The last word, whatever comes after it.
            Some(ERROR) => status.extend_from_slice(&bytes),
            Some(channel) if !bytes.is_empty() => {
                if sending.send(frame(channel, &bytes)).await.is_err() {
                    break;
                }
            }
            _ => {}
        }
        if end {
            open.retain(|known| *known != stream);
        }
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn streams_have_odd_numbers_in_the_order_of_the_protocol() {
        let wanted = Wanted { stdin: true, stdout: true, stderr: false, tty: true };
        let (streams, opening) = Streams::open(wanted, &mut Writer::new());
        let mut reader = Reader::new(opening.as_slice());
        for (number, name) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "resize")] {
            let headers = [("streamtype".to_string(), name.to_string())].into();
            assert_eq!(reader.next().await, Some(Frame::Open { stream: number, headers }));
        }
        assert_eq!(reader.next().await, None);
        assert_eq!((streams.channel(5), streams.channel(2)), (Some(STDOUT), None));
        let inward = |message: &'static [u8]| streams.inward(&Bytes::from_static(message));
        assert_eq!(inward(b"\x00hi"), Some((3, Bytes::from_static(b"hi"), false)));
        assert_eq!(inward(b"\x04{}"), Some((7, Bytes::from_static(b"{}"), false)));
        assert_eq!(inward(b"\xff\x00"), Some((3, Bytes::new(), true)));
        for nothing in [&b""[..], b"\x01x", b"\xff", b"\xff\x02", b"\x09x"] {
            assert_eq!(inward(nothing), None);
        }
    }

    #[test]
    fn what_can_be_translated() {
        for (offers, expected) in [
            (vec!["v5.channel.k8s.io"], true),
            (vec!["v5.channel.k8s.io, v4.channel.k8s.io"], true),
            (vec!["channel.k8s.io", TUNNEL], true),
            (vec!["base64.channel.k8s.io"], false),
            (vec![], false),
        ] {
            let mut request = Request::new(Body::empty());
            for offer in &offers {
                request.headers_mut().append(SEC_WEBSOCKET_PROTOCOL, offer.parse().unwrap());
            }
            assert_eq!(is_understood(&request), expected, "{offers:?}");
        }
    }
}
