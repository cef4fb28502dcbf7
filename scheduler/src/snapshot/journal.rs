//! What has changed of late, so that whoever remembers an earlier state need only look at the
//! difference.

use std::collections::VecDeque;
use std::sync::Arc;

use super::PodInfo;

/// Who has missed more than this starts anew.
const LONGEST: usize = 8192;

/// Nodes are named by their index.
#[derive(Clone, Debug)]
pub enum Change {
    Placed {
        node: usize,
        pod: Arc<PodInfo>,
    },
    Removed {
        node: usize,
        pod: Arc<PodInfo>,
    },
    /// Labels or taints of a node.
    Labels,
    /// Which nodes have which images.
    Images,
}

#[derive(Debug, Default)]
pub struct Journal {
    /// The number of the first change that is still here.
    first: u64,
    changes: VecDeque<Change>,
}

impl Change {
    pub fn undone(self) -> Change {
        match self {
            Change::Placed { node, pod } => Change::Removed { node, pod },
            Change::Removed { node, pod } => Change::Placed { node, pod },
            other => other,
        }
    }
}

impl Journal {
    pub fn push(&mut self, change: Change) {
        self.changes.push_back(change);
        if self.changes.len() > LONGEST {
            self.changes.pop_front();
            self.first += 1;
        }
    }

    /// Nothing that is remembered holds any more.
    pub fn void(&mut self) {
        self.first = self.end() + 1;
        self.changes.clear();
    }

    /// The number that the next change will have.
    pub fn end(&self) -> u64 {
        self.first + self.changes.len() as u64
    }

    /// The changes from that number on; none where too much has happened since.
    pub fn since(&self, number: u64) -> Option<impl Iterator<Item = &Change>> {
        let skipped = usize::try_from(number.checked_sub(self.first)?).ok()?;
        Some(self.changes.iter().skip(skipped))
    }
}
