//! Who is woken by a change: the watchers of everything by every change, those of one value of
//! one field (a node's pods, a namespace, one object) only by changes of such objects. So a
//! hundred agents that watch their own pods do not all wake up for each.

use std::collections::HashMap;

use parking_lot::Mutex;
use tokio::sync::watch;

use super::change::Change;
use super::entry::{Entry, Slot};

/// What a watcher is limited to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Only {
    pub slot: Slot,
    pub value: Box<str>,
}

impl Only {
    /// Whether the change is of an object that has the value, or had it.
    pub fn concerns(&self, change: &Change) -> bool {
        let has = |entry: &Entry| entry.slot(self.slot) == &*self.value;
        change.new.as_deref().is_some_and(has) || change.old.as_deref().is_some_and(has)
    }
}

/// Channels that count; their receivers are the watchers.
pub struct Wake {
    all: watch::Sender<u64>,
    some: Mutex<HashMap<Slot, HashMap<Box<str>, watch::Sender<u64>>>>,
}

impl Wake {
    pub fn new() -> Self {
        Self { all: watch::Sender::new(0), some: Mutex::default() }
    }

    pub fn subscribe(&self, only: Option<&Only>) -> watch::Receiver<u64> {
        let Some(only) = only else { return self.all.subscribe() };
        let mut some = self.some.lock();
        let values = some.entry(only.slot).or_default();
        values.entry(only.value.clone()).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }

    /// Wakes those whom a change concerns.
    pub fn changed(&self, changes: &[std::sync::Arc<Change>]) {
        self.all.send_modify(|count| *count += 1);
        let mut some = self.some.lock();
        for (slot, values) in some.iter_mut() {
            for entry in changes.iter().flat_map(|change| [&change.new, &change.old]).flatten() {
                let value = entry.slot(*slot);
                let Some(sender) = values.get(value) else { continue };
                if sender.receiver_count() == 0 {
                    values.remove(value);
                } else {
                    sender.send_modify(|count| *count += 1);
                }
            }
        }
    }

    /// Wakes everyone, and forgets the values that nobody watches any more.
    pub fn everyone(&self) {
        self.all.send_modify(|count| *count += 1);
        for values in self.some.lock().values_mut() {
            values.retain(|_, sender| sender.receiver_count() > 0);
            values.values().for_each(|sender| sender.send_modify(|count| *count += 1));
        }
    }
}
