//! WATCH: a cursor into a kind's history, rendered frame by frame. Nothing is queued for a
//! watcher; one that falls behind the history ends with 410.

use std::{collections::VecDeque, convert::Infallible, future::poll_fn, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, future::BoxFuture, stream};
use proto::status::Status;
use tokio::time::Instant;

use super::{
    Call, Registry, Renderer, Selection,
    list::{self, At},
    options,
};
use crate::{
    cache::{Entry, Gone, Watcher},
    doze::Doze,
    http::query::Query,
    store::Revision,
};

/// How often a watch that wants bookmarks gets one, when it has something new to say.
const BOOKMARK: Duration = Duration::from_secs(60);
/// Watches end after this time, and a random part of it more.
const LIFETIME: Duration = Duration::from_secs(30 * 60);

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// With everything that matches, then what happens; `mark` the end of the first part.
    State {
        at: At,
        mark: bool,
    },
    /// With what happens after the present.
    Now,
    After(Revision),
}

impl Registry {
    /// The frames of a watch, one `Bytes` each.
    pub async fn watch(
        &self,
        call: &Call<'_>,
    ) -> Result<impl Stream<Item = Result<Bytes, Infallible>> + Send + 'static, Status> {
        let selection = Selection::parse(call)?;
        let renderer = Renderer::for_watch(call)?;
        let start = start(call.query)?;
        let lifetime = match call.query.number("timeoutSeconds")? {
            Some(seconds) if seconds > 0 => Duration::from_secs(seconds as u64),
            _ => self.0.rng.jitter(LIFETIME, 1.0),
        };
        // In a box: the stream moves it for every frame.
        let mut watch = Box::new(Watch {
            registry: self.clone(),
            selection,
            renderer,
            watcher: None,
            after: 0,
            initial: Vec::new().into_iter(),
            mark: None,
            ready: VecDeque::new(),
            bookmarks: call.query.flag("allowWatchBookmarks"),
            told: 0,
            deadline: self.0.clock.instant() + lifetime,
            alarm: Box::pin(std::future::pending()),
            doze: Doze::default(),
            ended: false,
        });
        watch.set_alarm();
        watch.begin(call, start).await?;
        Ok(stream::unfold(watch, |mut watch| async move {
            let frame = watch.next().await?;
            Some((Ok(frame), watch))
        }))
    }
}

/// Why the alarm rang.
enum Rang {
    Time,
    Stop,
}

/// One running watch. Its life: initial objects, the mark, then pulls until something ends it.
struct Watch {
    registry: Registry,
    selection: Selection,
    renderer: Renderer,
    watcher: Option<Watcher>,
    /// Changes up to here have been asked away.
    after: Revision,
    initial: std::vec::IntoIter<Arc<Entry>>,
    mark: Option<Revision>,
    ready: VecDeque<Bytes>,
    bookmarks: bool,
    /// The last revision the client knows.
    told: Revision,
    deadline: Instant,
    /// Rings at the next bookmark, at the deadline, and when the server stops. It is kept over
    /// changes: to set it takes locks that all watches share.
    alarm: BoxFuture<'static, Rang>,
    /// The alarm's: it is not asked for every change.
    doze: Doze,
    ended: bool,
}

impl Watch {
    async fn begin(&mut self, call: &Call<'_>, start: Start) -> Result<(), Status> {
        let from = match start {
            Start::State { at, mark } => {
                let snapshot = self.registry.snapshot(call, at).await?;
                let matching = snapshot
                    .list(&self.selection.namespace, None)
                    .filter(|entry| self.selection.matches_within(entry));
                self.initial = matching.cloned().collect::<Vec<_>>().into_iter();
                self.mark = mark.then_some(snapshot.revision);
                snapshot.revision
            }
            Start::Now => self.registry.fresh().await?,
            Start::After(revision) => revision,
        };
        self.after = from;
        self.told = from;
        let watcher = match self.selection.value() {
            Some((field, value)) => call.kind.cache.watcher_of(from, field, value),
            None => call.kind.cache.watcher(from),
        };
        match watcher {
            Ok(watcher) => self.watcher = Some(watcher),
            Err(gone) => self.expire(gone),
        }
        Ok(())
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = self.ready.pop_front() {
                return Some(frame);
            }
            if self.ended {
                return None;
            }
            // One at a time: who does not read on keeps no frames alive.
            if let Some(entry) = self.initial.next() {
                let frame = self.renderer.initial(&entry);
                self.push(frame);
            } else if let Some(revision) = self.mark.take() {
                let frame = self.renderer.bookmark(revision, true);
                self.push(frame);
            } else {
                self.pull().await;
            }
        }
    }

    /// Waits for changes, the next bookmark, or the end.
    async fn pull(&mut self) {
        let Some(watcher) = &mut self.watcher else {
            self.ended = true;
            return;
        };
        let (alarm, doze) = (&mut self.alarm, &self.doze);
        let changes = tokio::select! {
            biased;
            changes = watcher.next() => changes,
            rang = poll_fn(|cx| doze.poll(cx, |cx| alarm.as_mut().poll(cx))) => {
                return self.rung(rang);
            }
        };
        match changes {
            Err(gone) => self.expire(gone),
            Ok(changes) => {
                let after = self.after;
                for change in changes.iter().filter(|change| change.revision > after) {
                    if let Some(turn) = change.turn(|entry| self.selection.matches(entry)) {
                        self.told = change.revision;
                        let frame = self.renderer.frame(change, turn);
                        self.push(frame);
                    }
                }
                if self.registry.0.clock.instant() >= self.deadline {
                    self.end();
                }
            }
        }
    }

    fn set_alarm(&mut self) {
        let (clock, stop) = (self.registry.0.clock.clone(), self.registry.0.stop.clone());
        let at = match self.bookmarks {
            true => self.deadline.min(clock.instant() + BOOKMARK),
            false => self.deadline,
        };
        self.doze = Doze::default();
        self.alarm = Box::pin(async move {
            tokio::select! {
                () = stop.cancelled() => Rang::Stop,
                () = clock.sleep_until_instant(at) => Rang::Time,
            }
        });
    }

    fn rung(&mut self, rang: Rang) {
        match rang {
            Rang::Time if self.registry.0.clock.instant() < self.deadline => {
                self.set_alarm();
                self.tell();
            }
            Rang::Time | Rang::Stop => self.end(),
        }
    }

    /// A bookmark, where the client does not know the revision yet.
    fn tell(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let revision = watcher.progress();
        if self.bookmarks && revision > self.told {
            self.told = revision;
            let frame = self.renderer.bookmark(revision, false);
            self.push(frame);
        }
    }

    /// Ends cleanly; a last bookmark lets the client resume where it is.
    fn end(&mut self) {
        self.tell();
        self.ended = true;
    }

    fn expire(&mut self, gone: Gone) {
        self.fail(Status::expired(gone.to_string()));
    }

    fn push(&mut self, frame: Result<Bytes, Status>) {
        match frame {
            Ok(frame) => self.ready.push_back(frame),
            Err(status) => self.fail(status),
        }
    }

    fn fail(&mut self, status: Status) {
        self.ready.push_back(self.renderer.error(&status));
        self.initial = Vec::new().into_iter();
        self.mark = None;
        self.watcher = None;
    }
}

/// Reads resourceVersion, resourceVersionMatch and sendInitialEvents (kubernetes.io/docs, API
/// concepts, "Semantics for watch" and "Streaming lists").
fn start(query: &Query) -> Result<Start, Status> {
    let version = query.text("resourceVersion");
    options::check_watch(query)?;
    let Some(initial) = query.optional_flag("sendInitialEvents") else {
        return match version {
            "" => Ok(Start::State { at: At::Now, mark: false }),
            "0" => Ok(Start::State { at: At::Any, mark: false }),
            text => list::revision(text).map(Start::After),
        };
    };
    match (initial, version) {
        (true, "") => Ok(Start::State { at: At::Now, mark: true }),
        (true, "0") => Ok(Start::State { at: At::Any, mark: true }),
        (true, text) => {
            let at = At::NotOlderThan(list::revision(text)?);
            Ok(Start::State { at, mark: true })
        }
        (false, "" | "0") => Ok(Start::Now),
        (false, text) => list::revision(text).map(Start::After),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_watch_begins() {
        let state = |at, mark| Ok(Start::State { at, mark });
        let not_older = "resourceVersionMatch=NotOlderThan";
        let cases = [
            ("".to_string(), state(At::Now, false)),
            ("resourceVersion=0".into(), state(At::Any, false)),
            ("resourceVersion=7".into(), Ok(Start::After(7))),
            (format!("sendInitialEvents=true&{not_older}"), state(At::Now, true)),
            (
                format!("sendInitialEvents=true&{not_older}&resourceVersion=7"),
                state(At::NotOlderThan(7), true),
            ),
            (format!("sendInitialEvents=false&{not_older}"), Ok(Start::Now)),
            ("sendInitialEvents=true".into(), Err(422)),
            (not_older.to_string(), Err(422)),
            ("resourceVersion=x".into(), Err(400)),
        ];
        for (query, expected) in cases {
            let got = start(&Query::parse(Some(&query))).map_err(|status| status.code);
            assert_eq!(got, expected, "{query}");
        }
    }
}
