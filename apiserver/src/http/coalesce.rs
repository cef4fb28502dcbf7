//! Joins small pieces of a response body on their way to the wire. Inside the process a list is
//! handed over object by object (nobody copies); a TLS record and an HTTP/2 frame per object would
//! cost more than the copy.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use axum::{body::Body, response::Response};
use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};

/// What is gathered before it is sent on, and the room for it: pieces are smaller than the rest.
const ENOUGH: usize = 48 << 10;
const ROOM: usize = 64 << 10;

/// Wraps the body of a response unless it is one piece anyway.
pub fn response(response: Response) -> Response {
    if response.extensions().get::<Pieces>().is_none() {
        return response;
    }
    response.map(|body| Body::new(Coalesced { body, ready: None, ended: false }))
}

/// Marks a response whose body comes in many pieces.
#[derive(Clone, Copy)]
pub struct Pieces;

struct Coalesced {
    body: Body,
    /// A frame or an error that was met while gathering, to be passed on next.
    ready: Option<Result<Frame<Bytes>, axum::Error>>,
    ended: bool,
}

impl http_body::Body for Coalesced {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if let Some(frame) = self.ready.take() {
            return Poll::Ready(Some(frame));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let mut first: Option<Bytes> = None;
        let mut gathered = BytesMut::new();
        loop {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => match first.take() {
                        None if gathered.is_empty() && data.len() < ENOUGH => first = Some(data),
                        None if gathered.is_empty() => {
                            return Poll::Ready(Some(Ok(Frame::data(data))));
                        }
                        held => {
                            if let Some(held) = held {
                                gathered.reserve(ROOM.max(held.len() + data.len()));
                                gathered.extend_from_slice(&held);
                            }
                            gathered.extend_from_slice(&data);
                        }
                    },
                    Err(frame) => {
                        self.ready = Some(Ok(frame));
                        break;
                    }
                },
                Poll::Ready(Some(Err(error))) => {
                    self.ready = Some(Err(error));
                    break;
                }
                Poll::Ready(None) => {
                    self.ended = true;
                    break;
                }
                Poll::Pending if first.is_none() && gathered.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
            if gathered.len() >= ENOUGH {
                break;
            }
        }
        let data = first.unwrap_or_else(|| gathered.freeze());
        if !data.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        match self.ready.take() {
            Some(frame) => Poll::Ready(Some(frame)),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ready.is_none() && (self.ended || self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[tokio::test]
    async fn small_pieces_are_joined_and_none_is_lost() {
        let pieces: Vec<Bytes> =
            (0..10_000).map(|n| Bytes::from(format!("{{\"n\":{n}}}\n"))).collect();
        let expected: Vec<u8> = pieces.concat();
        let stream = futures::stream::iter(pieces.into_iter().map(Ok::<_, std::io::Error>));
        let mut plain = Response::new(Body::from_stream(stream));
        plain.extensions_mut().insert(Pieces);
        let mut body = response(plain).into_body();
        let (mut frames, mut got) = (0, Vec::new());
        while let Some(frame) = body.frame().await {
            frames += 1;
            got.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        assert_eq!(got, expected);
        assert!(frames < 10, "{frames} frames");
    }
}
