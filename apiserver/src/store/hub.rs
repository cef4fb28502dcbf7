//! The running watches of a store that lives in this process: hands each batch of changes to
//! their sinks, in the order in which it is called.

use std::sync::{Arc, Weak};

use tokio::sync::oneshot;

use super::{Event, Revision, Sink, StoreError, Watch};

#[derive(Default)]
pub struct Hub {
    watches: Vec<Weak<Lease>>,
}

struct Lease {
    prefix: String,
    /// Events up to this revision are not wanted.
    from: Revision,
    sink: Arc<dyn Sink>,
    /// Dropped with the store, which ends the watch.
    _ended: oneshot::Sender<StoreError>,
}

impl Hub {
    /// Adds a watch after its past has been handed to the sink.
    pub fn add(&mut self, prefix: &str, from: Revision, sink: Arc<dyn Sink>) -> Watch {
        let (_ended, ended) = oneshot::channel();
        let lease = Arc::new(Lease { prefix: prefix.into(), from, sink, _ended });
        self.watches.push(Arc::downgrade(&lease));
        Watch::new(ended, lease)
    }

    pub fn publish(&mut self, events: &[Event], revision: Revision) {
        self.watches.retain(|watch| {
            let Some(lease) = watch.upgrade() else { return false };
            let wanted =
                |event: &Event| event.revision > lease.from && event.key.starts_with(&lease.prefix);
            if events.iter().all(wanted) {
                lease.sink.apply(events, revision);
            } else {
                let some: Vec<Event> = events.iter().filter(|e| wanted(e)).cloned().collect();
                lease.sink.apply(&some, revision);
            }
            true
        });
    }
}
