//! Joins small pieces of a response body on their way to the wire. Inside the process a list is
//! handed over object by object (nobody copies); a TLS record and an HTTP/2 frame per object would
//! cost more than the copy.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll},
};

use axum::{body::Body, response::Response};
use bytes::{Bytes, BytesMut};
use http_body::{Frame, SizeHint};

use crate::doze::Doze;

/// What is gathered before it is sent on, and the room for it: pieces are smaller than the rest.
const ENOUGH: usize = 48 << 10;
const ROOM: usize = 64 << 10;

/// Wraps the body of a response unless it is one piece anyway.
pub fn response(response: Response) -> Response {
    if response.extensions().get::<Pieces>().is_none() {
        return response;
    }
    response.map(|body| {
        let doze = Doze::default();
        Body::new(Coalesced { body, doze, ready: None, ended: false })
    })
}

/// Marks a response whose body comes in many pieces.
#[derive(Clone, Copy)]
pub struct Pieces;

/// A body of pieces that are all there, joined as the client reads.
pub fn joined(mut pieces: Vec<Bytes>) -> Body {
    pieces.retain(|piece| !piece.is_empty());
    let left = pieces.iter().map(Bytes::len).sum();
    Body::new(Joined { pieces: pieces.into_iter(), left, rooms: VecDeque::new() })
}

struct Joined {
    pieces: std::vec::IntoIter<Bytes>,
    left: usize,
    /// Memory that was filled and handed on, in that order; used again when it has been sent.
    rooms: VecDeque<BytesMut>,
}

impl Joined {
    fn room(&mut self) -> BytesMut {
        let sent = self.rooms.front_mut().is_some_and(|first| first.try_reclaim(ROOM));
        let reclaimed = if sent { self.rooms.pop_front() } else { None };
        reclaimed.unwrap_or_else(|| BytesMut::with_capacity(ROOM.min(self.left)))
    }
}

impl http_body::Body for Joined {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(first) = self.pieces.next() else { return Poll::Ready(None) };
        if first.len() >= ENOUGH {
            self.left -= first.len();
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        let mut room = self.room();
        room.extend_from_slice(&first);
        while let Some(next) = self.pieces.as_slice().first()
            && room.len() + next.len() <= ROOM
        {
            room.extend_from_slice(next);
            self.pieces.next();
        }
        let data = room.split().freeze();
        self.left -= data.len();
        self.rooms.push_back(room);
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.len() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left as u64)
    }
}

struct Coalesced {
    body: Body,
    doze: Doze,
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
            let Coalesced { body, doze, .. } = &mut *self;
            match doze.poll(cx, |cx| Pin::new(body).poll_frame(cx)) {
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

    #[tokio::test]
    async fn a_list_is_joined_and_its_memory_used_again() {
        let sizes = [1, 0, ENOUGH, ENOUGH - 1, 2, ROOM, ROOM + 1, 17, 30_000, 30_000, 30_000];
        let pieces: Vec<Bytes> =
            (0..200).map(|n| Bytes::from(vec![n as u8; sizes[n % sizes.len()]])).collect();
        let expected = pieces.concat();
        for keeps in [0, 1, 5, usize::MAX] {
            let mut body = joined(pieces.clone());
            // What a connection has not sent yet.
            let (mut kept, mut got) = (VecDeque::new(), Vec::new());
            while !http_body::Body::is_end_stream(&body) {
                let left = http_body::Body::size_hint(&body).exact().unwrap() as usize;
                assert_eq!(
                    left + kept.iter().map(Bytes::len).sum::<usize>() + got.len(),
                    expected.len()
                );
                kept.push_back(body.frame().await.unwrap().unwrap().into_data().unwrap());
                while kept.len() > keeps {
                    got.extend_from_slice(&kept.pop_front().unwrap());
                }
            }
            assert!(body.frame().await.is_none());
            kept.iter().for_each(|data| got.extend_from_slice(data));
            assert!(got == expected, "{keeps}");
        }
    }
}
