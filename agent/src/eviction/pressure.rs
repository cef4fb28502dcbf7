//! The node's pressures as they are now: written by the eviction manager, read by who reports the
//! node and by who takes pods.

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio::sync::watch;

use super::Condition;

/// Clones share it.
#[derive(Clone, Debug)]
pub struct Pressure(Arc<watch::Sender<BTreeSet<Condition>>>);

impl Default for Pressure {
    fn default() -> Pressure {
        Pressure(Arc::new(watch::Sender::new(BTreeSet::new())))
    }
}

impl Pressure {
    pub fn now(&self) -> BTreeSet<Condition> {
        self.0.borrow().clone()
    }

    pub fn set(&self, conditions: BTreeSet<Condition>) {
        self.0.send_if_modified(|known| {
            let changed = *known != conditions;
            *known = conditions;
            changed
        });
    }

    /// From now on its changes can be awaited.
    pub fn changes(&self) -> watch::Receiver<BTreeSet<Condition>> {
        self.0.subscribe()
    }
}
