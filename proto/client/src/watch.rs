//! Watch streams: lines of JSON, cut out of the body without copying where the server lives in
//! this process.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use http::Method;
use http_body_util::BodyExt;
use proto::kind::Row;
use proto::status::Status;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{Body, Client, Entry, Error, ListOptions, Object, WatchEvent};

/// Opens a watch and yields its events; the stream ends when the server ends it, or after the
/// first error other than an object that cannot be read.
pub(crate) fn watch<T: Object>(
    client: Client,
    row: &Row,
    options: &ListOptions,
) -> BoxStream<'static, Result<WatchEvent<T>, Error>> {
    let path = crate::request::collection(row, options, true);
    let accept = client.accepts::<T>(row, "");
    enum State {
        Closed(Client, String, String),
        Open(Lines),
        Ended,
    }
    stream::unfold(State::Closed(client, path, accept), |mut state| async move {
        if let State::Closed(client, path, accept) = state {
            state = match open(&client, &path, &accept).await {
                Ok(lines) => State::Open(lines),
                Err(error) => return Some((Err(error), State::Ended)),
            };
        }
        let State::Open(mut lines) = state else { return None };
        match lines.next().await {
            Ok(Some(line)) => match line.event() {
                Ok(event) => Some((Ok(event), State::Open(lines))),
                Err(error @ Error::Decode { .. }) => Some((Err(error), State::Open(lines))),
                Err(error) => Some((Err(error), State::Ended)),
            },
            Ok(None) => None,
            Err(error) => Some((Err(error), State::Ended)),
        }
    })
    .boxed()
}

async fn open(client: &Client, path: &str, accept: &str) -> Result<Lines, Error> {
    let response = client.open_as(Method::GET, path, accept, "", Bytes::new()).await?;
    Ok(Lines::new(response.into_body(), path.into(), client.shares_bytes()))
}

/// A body cut into lines.
struct Lines {
    body: Body,
    path: String,
    /// Whether slices may be kept: they are the server's own bytes.
    shares_bytes: bool,
    /// Chunks without a newline, then one that may have some.
    chunks: VecDeque<Bytes>,
}

/// One line, in as many pieces as it arrived.
struct Line {
    pieces: Vec<Bytes>,
    path: String,
    shares_bytes: bool,
}

impl Lines {
    fn new(body: Body, path: String, shares_bytes: bool) -> Lines {
        Lines { body, path, shares_bytes, chunks: VecDeque::new() }
    }

    async fn next(&mut self) -> Result<Option<Line>, Error> {
        loop {
            if let Some(pieces) = self.cut() {
                let (path, shares_bytes) = (self.path.clone(), self.shares_bytes);
                return Ok(Some(Line { pieces, path, shares_bytes }));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => {
                    self.chunks.extend(frame.into_data().ok().filter(|data| !data.is_empty()));
                }
                Some(Err(source)) => return Err(Error::Body { path: self.path.clone(), source }),
            }
        }
    }

    /// The pieces of the first line, if its end has arrived. Only the last chunk can hold it.
    fn cut(&mut self) -> Option<Vec<Bytes>> {
        let last = self.chunks.back_mut()?;
        let end = last.iter().position(|byte| *byte == b'\n')?;
        let piece = last.split_to(end);
        let rest = last.split_off(1);
        self.chunks.pop_back();
        let mut pieces: Vec<Bytes> = self.chunks.drain(..).collect();
        pieces.push(piece);
        if !rest.is_empty() {
            self.chunks.push_back(rest);
        }
        Some(pieces)
    }
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    object: &'a RawValue,
}

const OPENINGS: [(&str, &[u8]); 3] = [
    ("ADDED", br#"{"type":"ADDED","object":"#),
    ("MODIFIED", br#"{"type":"MODIFIED","object":"#),
    ("DELETED", br#"{"type":"DELETED","object":"#),
];

impl Line {
    fn event<T: Object>(self) -> Result<WatchEvent<T>, Error> {
        let path = self.path.clone();
        self.decode().map_err(|source| Error::Decode { path, source })?
    }

    fn decode<T: Object>(mut self) -> Result<Result<WatchEvent<T>, Error>, serde_json::Error> {
        // The common case, in the form every server writes: opening, object, brace.
        if let [opening, object, closing] = self.pieces.as_slice()
            && closing.as_ref() == b"}"
            && let Some((kind, _)) = OPENINGS.iter().find(|(_, text)| text == opening)
        {
            return self.change(kind, object.clone()).map(Ok);
        }
        let whole = match self.pieces.len() {
            1 => self.pieces.swap_remove(0),
            _ => {
                let pieces = self.pieces.drain(..);
                let whole = pieces.fold(BytesMut::new(), |mut whole, piece| {
                    whole.extend_from_slice(&piece);
                    whole
                });
                // A fresh allocation holds nothing else, so slices of it may be kept.
                self.shares_bytes = true;
                whole.freeze()
            }
        };
        for (kind, opening) in OPENINGS {
            if whole.starts_with(opening) && whole.ends_with(b"}") {
                return self.change(kind, whole.slice(opening.len()..whole.len() - 1)).map(Ok);
            }
        }
        let frame: Frame<'_> = serde_json::from_slice(&whole)?;
        match frame.kind {
            "BOOKMARK" => bookmark(frame.object.get()).map(Ok),
            "ERROR" => {
                let status: Status = serde_json::from_str(frame.object.get())?;
                Ok(Err(status.into()))
            }
            kind => self.change(kind, whole.slice_ref(frame.object.get().as_bytes())).map(Ok),
        }
    }

    fn change<T: Object>(
        &self,
        kind: &str,
        object: Bytes,
    ) -> Result<WatchEvent<T>, serde_json::Error> {
        let bytes = if self.shares_bytes { object } else { Bytes::copy_from_slice(&object) };
        let entry = Entry::decode(bytes)?;
        Ok(match kind {
            "ADDED" => WatchEvent::Added(entry),
            "DELETED" => WatchEvent::Deleted(entry),
            _ => WatchEvent::Modified(entry),
        })
    }
}

fn bookmark<T>(object: &str) -> Result<WatchEvent<T>, serde_json::Error> {
    let mark: proto::view::Meta = serde_json::from_str(object)?;
    let annotations = &mark.metadata.annotations;
    let end = annotations.get("k8s.io/initial-events-end").is_some_and(|value| value == "true");
    Ok(WatchEvent::Bookmark { revision: mark.metadata.revision(), initial_events_end: end })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body::Frame as BodyFrame;
    use http_body_util::StreamBody;
    use proto::view::namespace::Namespace;

    fn lines(chunks: &[&'static str], shares_bytes: bool) -> Lines {
        let frames: Vec<Result<BodyFrame<Bytes>, crate::BoxError>> = chunks
            .iter()
            .map(|chunk| Ok(BodyFrame::data(Bytes::from_static(chunk.as_bytes()))))
            .collect();
        Lines::new(Body::new(StreamBody::new(stream::iter(frames))), "/".into(), shares_bytes)
    }

    async fn names(chunks: &[&'static str]) -> Vec<String> {
        let mut lines = lines(chunks, true);
        let mut names = Vec::new();
        while let Some(line) = lines.next().await.unwrap() {
            names.push(match line.event::<Namespace>() {
                Ok(WatchEvent::Added(entry)) => format!("+{}", entry.metadata.name),
                Ok(WatchEvent::Modified(entry)) => format!("~{}", entry.metadata.name),
                Ok(WatchEvent::Deleted(entry)) => format!("-{}", entry.metadata.name),
                Ok(WatchEvent::Bookmark { revision, initial_events_end }) => {
                    format!("@{revision}{}", if initial_events_end { "!" } else { "" })
                }
                Err(error) => error.to_string(),
            });
        }
        names
    }

    #[tokio::test]
    async fn lines_in_any_pieces() {
        const A: &str = r#"{"type":"ADDED","object":{"metadata":{"name":"a"}}}"#;
        let expected = ["+a", "-b", "@7!", "gone"];
        let all: &'static str = Box::leak(
            format!(
                "{A}\n{}\n{}\n{}\n",
                r#"{ "object":{"metadata":{"name":"b"}}, "type":"DELETED" }"#,
                r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7","annotations":{"k8s.io/initial-events-end":"true"}}}}"#,
                r#"{"type":"ERROR","object":{"message":"gone","code":410}}"#,
            )
            .into_boxed_str(),
        );
        assert_eq!(names(&[all]).await, expected);
        for at in 1..all.len() {
            let (head, tail) = all.split_at(at);
            assert_eq!(names(&[head, tail]).await, expected, "split at {at}");
        }
    }

    #[tokio::test]
    async fn a_framed_object_is_not_copied() {
        const OBJECT: &str = r#"{"metadata":{"name":"a"}}"#;
        let mut lines = lines(&[r#"{"type":"ADDED","object":"#, OBJECT, "}\n"], true);
        let line = lines.next().await.unwrap().unwrap();
        let Ok(WatchEvent::Added(entry)) = line.event::<Namespace>() else { panic!("not added") };
        assert_eq!(entry.bytes.as_ptr(), OBJECT.as_ptr());
    }
}
