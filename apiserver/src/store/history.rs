//! How much of the past a store keeps: enough that paginated lists and interrupted watches can go
//! on, and no more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use client::Clock;
use tokio::sync::watch;

use super::{Revision, Store};

/// What must stay readable; between once and twice as much does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct History {
    pub age: Duration,
    /// Less than `age` is kept when more than this is written in it.
    pub revisions: Revision,
}

impl Default for History {
    /// A little less than kube-apiserver's five minutes: who looks for ten sees the past forgotten.
    fn default() -> Self {
        Self { age: Duration::from_secs(270), revisions: 25_000 }
    }
}

/// Compacts a store for as long as it runs, and says in `forgotten` up to where. `written` is its
/// revision as it grows; nothing wakes up while that rests.
pub async fn keep(
    store: Arc<dyn Store>,
    mut written: watch::Receiver<Revision>,
    history: History,
    clock: Clock,
    forgotten: Arc<AtomicU64>,
) {
    // What an earlier process left is old, too.
    let mut compacted = 0;
    loop {
        let Ok(mark) = written.wait_for(|now| *now > compacted).await.map(|now| *now) else {
            return;
        };
        // What precedes the mark is history when the age is over, or when much follows it.
        let much = |now: &Revision| *now - compacted > 2 * history.revisions;
        let target = tokio::select! {
            () = clock.sleep(history.age) => mark,
            now = written.wait_for(much) => match now {
                Ok(now) => *now - history.revisions,
                Err(_) => return,
            },
        };
        match store.compact(target).await {
            Ok(()) => forgotten.store(target, Ordering::Release),
            Err(error) => tracing::warn!(%error, target, "cannot forget old revisions"),
        }
        compacted = target;
    }
}
