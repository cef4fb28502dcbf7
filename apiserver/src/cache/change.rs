//! One change in a kind's history, and how it looks to a watcher.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use parking_lot::Mutex;

use super::entry::Entry;
use crate::store::Revision;

/// The type of a watch event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    Added,
    Modified,
    Deleted,
}

impl EventType {
    /// What stands before the object in a frame.
    pub(super) fn head(self) -> &'static [u8] {
        match self {
            EventType::Added => br#"{"type":"ADDED","object":"#,
            EventType::Modified => br#"{"type":"MODIFIED","object":"#,
            EventType::Deleted => br#"{"type":"DELETED","object":"#,
        }
    }
}

/// How a change looks to a watcher: an object that begins to match a selector is ADDED to it, one
/// that no longer does is DELETED.
pub type Turn = EventType;

/// An object was written, or deleted: at least one of `new` and `old` is present.
#[derive(Debug)]
pub struct Change {
    pub revision: Revision,
    pub new: Option<Arc<Entry>>,
    pub old: Option<Arc<Entry>>,
    /// Frames that were made so far, by representation and type.
    frames: Mutex<Vec<(u32, Turn, Bytes)>>,
}

/// The whole object, as JSON.
const OBJECT: u32 = 0;

impl Change {
    pub(super) fn new(
        revision: Revision,
        new: Option<Arc<Entry>>,
        old: Option<Arc<Entry>>,
    ) -> Self {
        Self { revision, new, old, frames: Mutex::new(Vec::new()) }
    }

    /// The event that a watcher sees whose filter this is, if any.
    pub fn turn(&self, matches: impl Fn(&Entry) -> bool) -> Option<Turn> {
        let old = self.old.as_deref().is_some_and(&matches);
        let new = self.new.as_deref().is_some_and(&matches);
        match (old, new) {
            (false, false) => None,
            (false, true) => Some(Turn::Added),
            (true, true) => Some(Turn::Modified),
            (true, false) => Some(Turn::Deleted),
        }
    }

    /// The object of the event: the last state that matched, for DELETED, which is served with the
    /// resourceVersion of this change ([`Entry::bytes_at`]).
    pub fn entry(&self, turn: Turn) -> &Arc<Entry> {
        let (first, second) = match turn {
            Turn::Deleted => (&self.old, &self.new),
            Turn::Added | Turn::Modified => (&self.new, &self.old),
        };
        first.as_ref().or(second.as_ref()).expect("a change has a new or an old state")
    }

    /// The line of the event: `{"type":…,"object":…}\n`. Made at most once, and shared.
    pub fn frame(&self, turn: Turn) -> Bytes {
        let entry = self.entry(turn);
        match turn {
            Turn::Deleted => self.object(turn, || entry.deleted(self.revision)),
            // The usual one lies in the entry already.
            Turn::Modified if entry.revision != entry.create_revision => entry.frame(turn),
            Turn::Added if entry.revision == entry.create_revision => entry.frame(turn),
            Turn::Added | Turn::Modified => self.object(turn, || entry.frame(turn)),
        }
    }

    fn object(&self, turn: Turn, make: impl FnOnce() -> Bytes) -> Bytes {
        let Ok(frame) = self.shared(OBJECT, turn, || Ok::<_, Infallible>(make()));
        frame
    }

    /// Another representation of the event (a table row, partial metadata), made by the first
    /// watcher that needs it. The caller's `representation` is any number but 0 that means the
    /// same bytes to all callers.
    pub fn shared<E>(
        &self,
        representation: u32,
        turn: Turn,
        make: impl FnOnce() -> Result<Bytes, E>,
    ) -> Result<Bytes, E> {
        let mut frames = self.frames.lock();
        if let Some((.., frame)) =
            frames.iter().find(|(r, t, _)| (*r, *t) == (representation, turn))
        {
            return Ok(frame.clone());
        }
        let frame = make()?;
        frames.push((representation, turn, frame.clone()));
        Ok(frame)
    }

    /// Bytes of its object, about.
    pub(super) fn size(&self) -> usize {
        self.new.as_ref().or(self.old.as_ref()).map_or(0, |entry| entry.weight())
    }

    /// Bytes that only the history keeps alive.
    pub(super) fn weight(&self) -> usize {
        self.old.as_ref().map_or(0, |old| old.weight())
    }
}
