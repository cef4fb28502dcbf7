//! A watch of etcd that outlives its connections: it goes on from the last revision seen, never
//! from now, on whichever member answers.

use std::sync::Arc;
use std::time::Duration;

use client::Clock;
use etcd_client::{EventType, WatchClient, WatchOptions, WatchResponse};
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use super::{end_of, key_value, revision_of};
use crate::store::{Change, Event, Revision, Sink, StoreError, Watch};

/// Before a lost watch is begun again: the first pause and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

struct Running(AbortHandle);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub fn start(
    client: WatchClient,
    clock: Clock,
    prefix: String,
    from: Revision,
    sink: Arc<dyn Sink>,
) -> Watch {
    let (end, ended) = oneshot::channel();
    let task = tokio::spawn(async move {
        let mut seen = from;
        let mut pause = PAUSE.0;
        loop {
            let before = seen;
            match session(client.clone(), &prefix, &mut seen, &*sink).await {
                End::Compacted(oldest) => {
                    let _ =
                        end.send(StoreError::Compacted { requested: seen, oldest: Some(oldest) });
                    return;
                }
                End::Lost(reason) => tracing::debug!(reason, seen, "lost the watch of etcd"),
            }
            pause = if seen > before { PAUSE.0 } else { (pause * 2).min(PAUSE.1) };
            clock.sleep(pause).await;
        }
    });
    Watch::new(ended, Running(task.abort_handle()))
}

enum End {
    Compacted(Revision),
    Lost(String),
}

/// One connection's worth.
async fn session(
    mut client: WatchClient,
    prefix: &str,
    seen: &mut Revision,
    sink: &dyn Sink,
) -> End {
    let options = WatchOptions::new()
        .with_range(end_of(prefix))
        .with_start_revision(*seen as i64 + 1)
        .with_progress_notify();
    let mut stream = match client.watch(prefix, Some(options)).await {
        Ok(stream) => stream,
        Err(error) => return End::Lost(error.to_string()),
    };
    loop {
        let response = match stream.message().await {
            Ok(Some(response)) => response,
            Ok(None) => return End::Lost("the stream ended".into()),
            Err(error) => return End::Lost(error.to_string()),
        };
        if response.compact_revision() > 0 {
            return End::Compacted(response.compact_revision() as Revision);
        }
        if response.canceled() {
            return End::Lost(response.cancel_reason().to_owned());
        }
        if !response.created() {
            receive(&response, seen, sink);
        }
    }
}

fn receive(response: &WatchResponse, seen: &mut Revision, sink: &dyn Sink) {
    let events: Vec<Event> = response.events().iter().filter_map(event).collect();
    if let Some((events, last)) = new(events, revision_of(response.header()), *seen) {
        *seen = last;
        sink.apply(&events, last);
    }
}

/// What a response says that is new, and up to which revision. It holds whole revisions; one without
/// events tells of progress, behind all events that came before it. A member that is behind when a
/// watch begins may tell of what was before that (etcd before 3.4.36 and 3.5.18): done again, it would
/// undo what has come since.
fn new(events: Vec<Event>, now: Revision, seen: Revision) -> Option<(Vec<Event>, Revision)> {
    if events.is_empty() {
        return (now > seen).then_some((events, now));
    }
    let new: Vec<Event> = events.into_iter().filter(|event| event.revision > seen).collect();
    let last = new.last()?.revision;
    Some((new, last))
}

fn event(event: &etcd_client::Event) -> Option<Event> {
    let new = key_value(event.kv()?.clone());
    let (key, revision) = (new.key.clone(), new.mod_revision);
    let change = match event.event_type() {
        EventType::Put => Change::Put(new),
        EventType::Delete => Change::Delete,
    };
    Some(Event { key, revision, change })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::KeyValue;

    #[test]
    fn what_was_seen_is_not_done_again() {
        let event = |revision| {
            let key: Arc<str> = "/registry/x".into();
            let item = KeyValue {
                key: key.clone(),
                value: Default::default(),
                create_revision: 1,
                mod_revision: revision,
            };
            Event { key, revision, change: Change::Put(item) }
        };
        let told = |revisions: &[Revision], now, seen| {
            let events = revisions.iter().map(|revision| event(*revision)).collect();
            new(events, now, seen).map(|(events, last)| {
                (events.iter().map(|event| event.revision).collect::<Vec<_>>(), last)
            })
        };
        assert_eq!(told(&[6, 7], 9, 5), Some((vec![6, 7], 7)));
        // Of before the watch began, from a member that is behind.
        assert_eq!(told(&[3, 5, 6], 9, 5), Some((vec![6], 6)));
        assert_eq!(told(&[3, 5], 9, 5), None);
        // Progress.
        assert_eq!(told(&[], 9, 5), Some((vec![], 9)));
        assert_eq!(told(&[], 5, 5), None);
    }
}
