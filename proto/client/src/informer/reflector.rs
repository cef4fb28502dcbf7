//! What keeps an informer current: a streaming list (or, where the server does not know it, a
//! list), then a watch that resumes where it broke off. Only a revision that is gone leads back
//! to the start.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use proto::kind::Row;

use crate::informer::Store;
use crate::{Client, Clock, Entry, Error, ListOptions, Object, Rng, WatchEvent};

const FIRST_BACKOFF: Duration = Duration::from_millis(100);
const LONGEST_BACKOFF: Duration = Duration::from_secs(30);
const PAGE: u32 = 500;

pub(super) struct Reflector<T> {
    pub client: Client,
    pub clock: Clock,
    pub rng: Rng,
    pub row: Row,
    pub field_selector: String,
    pub store: Weak<Store<T>>,
}

/// Where the reflector stands.
enum Phase<T> {
    /// Nothing is known, or what is known is too old to go on from: read everything.
    Empty,
    /// Everything up to the revision is known; no watch is open.
    Known(u64),
    /// A watch is open.
    Watching(u64, BoxStream<'static, Result<WatchEvent<T>, Error>>),
}

impl<T: Object> Reflector<T> {
    /// Runs until the last reader of the store is gone.
    pub async fn run(self) {
        let mut phase = Phase::Empty;
        let mut streaming = true;
        let mut failures = 0;
        while self.store.strong_count() > 0 {
            phase = match phase {
                Phase::Empty => match self.fill(&mut streaming).await {
                    Ok(next) => {
                        failures = 0;
                        next
                    }
                    Err(error) => {
                        tracing::warn!(kind = %self.row.kind, %error, "listing failed");
                        self.pause(&mut failures).await;
                        Phase::Empty
                    }
                },
                Phase::Known(revision) => {
                    let options = ListOptions {
                        field_selector: self.field_selector.clone(),
                        resource_version: revision.to_string(),
                        ..ListOptions::default()
                    };
                    Phase::Watching(revision, self.client.watch_of(&self.row, &options))
                }
                Phase::Watching(revision, stream) => {
                    let (revision, ended) = self.follow(revision, stream, &mut failures).await;
                    match ended {
                        Some(error) if error.is_expired() => Phase::Empty,
                        Some(error) => {
                            tracing::debug!(kind = %self.row.kind, %error, "the watch broke off");
                            self.pause(&mut failures).await;
                            Phase::Known(revision)
                        }
                        None => {
                            // A server that ends every watch at once must not be hammered.
                            self.pause(&mut failures).await;
                            Phase::Known(revision)
                        }
                    }
                }
            }
        }
    }

    /// Reads everything there is.
    async fn fill(&self, streaming: &mut bool) -> Result<Phase<T>, Error> {
        if *streaming {
            match self.fill_by_watch().await {
                Err(error) if refuses_streaming(&error) => *streaming = false,
                other => return other,
            }
        }
        let mut options = ListOptions {
            field_selector: self.field_selector.clone(),
            limit: PAGE,
            ..ListOptions::default()
        };
        let mut entries = Vec::new();
        loop {
            let page = self.client.list_of(&self.row, &options).await?;
            entries.extend(page.items.into_iter().map(Arc::new));
            if page.continue_token.is_empty() {
                self.store.upgrade().inspect(|store| store.replace(entries, page.revision));
                return Ok(Phase::Known(page.revision));
            }
            options.continue_token = page.continue_token;
        }
    }

    async fn fill_by_watch(&self) -> Result<Phase<T>, Error> {
        let options = ListOptions {
            field_selector: self.field_selector.clone(),
            send_initial_events: true,
            ..ListOptions::default()
        };
        let mut stream = self.client.watch_of::<T>(&self.row, &options);
        let mut entries: Vec<Arc<Entry<T>>> = Vec::new();
        while let Some(event) = stream.next().await {
            match self.tolerate(event)? {
                Some(WatchEvent::Added(entry) | WatchEvent::Modified(entry)) => {
                    entries.push(Arc::new(entry));
                }
                Some(WatchEvent::Deleted(gone)) => {
                    entries.retain(|entry| entry.meta().uid != gone.meta().uid);
                }
                Some(WatchEvent::Bookmark { revision, initial_events_end: true }) => {
                    self.store.upgrade().inspect(|store| store.replace(entries, revision));
                    return Ok(Phase::Watching(revision, stream));
                }
                Some(WatchEvent::Bookmark { .. }) | None => {}
            }
        }
        let path = self.row.path("", "");
        let source = "the watch ended before the initial events did".into();
        Err(Error::Body { path, source })
    }

    /// Applies events until the watch ends; says up to where and why.
    async fn follow(
        &self,
        mut revision: u64,
        mut stream: BoxStream<'static, Result<WatchEvent<T>, Error>>,
        failures: &mut u32,
    ) -> (u64, Option<Error>) {
        while let Some(event) = stream.next().await {
            let event = match self.tolerate(event) {
                Ok(Some(event)) => event,
                Ok(None) => continue,
                Err(error) => return (revision, Some(error)),
            };
            *failures = 0;
            let Some(store) = self.store.upgrade() else { break };
            revision = revision.max(match event {
                WatchEvent::Added(entry) | WatchEvent::Modified(entry) => {
                    let seen = entry.meta().revision();
                    store.put(Arc::new(entry));
                    seen
                }
                WatchEvent::Deleted(entry) => {
                    store.delete(&entry);
                    entry.meta().revision()
                }
                WatchEvent::Bookmark { revision, .. } => {
                    store.advance(revision);
                    revision
                }
            });
        }
        (revision, None)
    }

    /// An object that cannot be read must not hide all others: it is reported and passed over.
    fn tolerate(
        &self,
        event: Result<WatchEvent<T>, Error>,
    ) -> Result<Option<WatchEvent<T>>, Error> {
        match event {
            Ok(event) => Ok(Some(event)),
            Err(Error::Decode { path, source }) => {
                tracing::error!(%path, error = %source, "an object cannot be read");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn pause(&self, failures: &mut u32) {
        let backoff = FIRST_BACKOFF * 2u32.saturating_pow((*failures).min(10));
        *failures = failures.saturating_add(1);
        self.clock.sleep(self.rng.jitter(backoff.min(LONGEST_BACKOFF), 1.0)).await;
    }
}

/// Whether the server does not know `sendInitialEvents`.
fn refuses_streaming(error: &Error) -> bool {
    error.status().is_some_and(|status| matches!(status.code, 400 | 405 | 422))
}
