//! A cursor into a kind's history. Nothing is queued for it: it pulls, and what it does not pull
//! in time is gone.

use std::sync::Arc;

use tokio::sync::watch;

use super::change::Change;
use super::kind::KindCache;
use super::wake::Only;
use crate::store::Revision;

/// Changes that one pull returns at most.
const BATCH: usize = 256;

/// See the module. Not `Clone`: every watch makes its own.
pub struct Watcher {
    kind: Arc<KindCache>,
    cursor: u64,
    seen: Revision,
    only: Option<Only>,
    wake: watch::Receiver<u64>,
}

/// The watch asked for, or had come to, a revision that the history no longer holds: 410, reason
/// `Expired`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too old resource version: {requested} ({oldest})")]
pub struct Gone {
    pub requested: Revision,
    /// The oldest revision from which a watch may begin.
    pub oldest: Revision,
}

impl Watcher {
    pub(super) fn new(
        kind: Arc<KindCache>,
        cursor: u64,
        seen: Revision,
        only: Option<Only>,
        wake: watch::Receiver<u64>,
    ) -> Self {
        Self { kind, cursor, seen, only, wake }
    }

    /// The next changes, at least one, in order. Cancel safe.
    pub async fn next(&mut self) -> Result<Vec<Arc<Change>>, Gone> {
        loop {
            self.wake.borrow_and_update();
            let changes = self.pull()?;
            if !changes.is_empty() {
                return Ok(changes);
            }
            // The sender lives in the kind, which this holds.
            let _ = self.wake.changed().await;
        }
    }

    /// The changes that are there, without waiting.
    pub fn pull(&mut self) -> Result<Vec<Arc<Change>>, Gone> {
        self.read(BATCH)
    }

    /// For a bookmark: the watcher has been given every change up to this revision. Never 0.
    pub fn progress(&mut self) -> Revision {
        // Where it is gone, the next pull says so.
        let _ = self.read(0);
        self.seen
    }

    fn read(&mut self, limit: usize) -> Result<Vec<Arc<Change>>, Gone> {
        let Some(read) = self.kind.read(self.cursor, limit, self.only.as_ref()) else {
            return Err(Gone { requested: self.seen, oldest: self.kind.floor() });
        };
        self.cursor = read.cursor;
        self.seen = self.seen.max(read.seen);
        Ok(read.changes)
    }
}
