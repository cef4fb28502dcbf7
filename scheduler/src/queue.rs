//! Pods that want a node: ready to try, waiting out a back-off, or unschedulable until an event
//! that could cure one of the plugins that rejected them. Pure: time comes in, nothing sleeps.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::Key;
use proto::time::Time;

use crate::plugins::{self, Event, Plugin};
use crate::snapshot::PodInfo;

/// A pod left behind by a missed event is tried again after this, as upstream does.
const FLUSH_AFTER: Duration = Duration::from_secs(300);

#[derive(Debug)]
struct Queued {
    pod: Arc<PodInfo>,
    /// When it came, which orders pods of equal priority.
    since: Time,
    attempts: u32,
    last_attempt: Time,
    place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Active,
    Backoff(Time),
    Unschedulable {
        plugins: Vec<&'static str>,
    },
    /// In a cycle now; an event that arrives meanwhile is remembered.
    Trying {
        cured: bool,
    },
}

/// Highest priority first, then the longest wait.
type Rank = (std::cmp::Reverse<i32>, Time, Key);

#[derive(Debug)]
pub struct Queue {
    /// How long a pod waits after its first failure; twice as long after each further one.
    first_backoff: Duration,
    longest_backoff: Duration,
    pods: HashMap<Key, Queued>,
    active: BTreeSet<Rank>,
    backoff: BTreeSet<(Time, Key)>,
    /// By last attempt, so that the oldest is flushed first.
    unschedulable: BTreeSet<(Time, Key)>,
    /// The same pods by the plugins that rejected them: an event looks at each such set once.
    rejected: HashMap<Vec<&'static str>, BTreeSet<Key>>,
    trying: HashSet<Key>,
}

/// How many pods wait, and for what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub active: usize,
    pub backoff: usize,
    pub unschedulable: usize,
}

impl Default for Queue {
    fn default() -> Queue {
        Queue::new(Duration::from_secs(1), Duration::from_secs(10))
    }
}

impl Queue {
    pub fn new(first_backoff: Duration, longest_backoff: Duration) -> Queue {
        Queue {
            first_backoff,
            longest_backoff,
            pods: HashMap::new(),
            active: BTreeSet::new(),
            backoff: BTreeSet::new(),
            unschedulable: BTreeSet::new(),
            rejected: HashMap::new(),
            trying: HashSet::new(),
        }
    }

    pub fn counts(&self) -> Counts {
        Counts {
            active: self.active.len(),
            backoff: self.backoff.len(),
            unschedulable: self.unschedulable.len(),
        }
    }

    /// A pod came or its spec changed: it is worth a try at once.
    pub fn put(&mut self, pod: Arc<PodInfo>, now: Time) {
        let key = pod.key.clone();
        let (since, attempts, last_attempt) = match self.take_out(&key) {
            Some(old) => (old.since, old.attempts, old.last_attempt),
            None => (now, 0, now),
        };
        let queued = Queued { pod, since, attempts, last_attempt, place: Place::Active };
        self.active.insert(rank(&queued));
        self.pods.insert(key, queued);
    }

    /// Whether the pod is waiting here, with the object it had.
    pub fn get(&self, key: &Key) -> Option<&Arc<PodInfo>> {
        self.pods.get(key).map(|queued| &queued.pod)
    }

    /// The status changed, nothing that matters for placement: keeps its place.
    pub fn refresh(&mut self, pod: Arc<PodInfo>) {
        if let Some(queued) = self.pods.get_mut(&pod.key) {
            queued.pod = pod;
        }
    }

    pub fn remove(&mut self, key: &Key) {
        self.take_out(key);
    }

    /// The next pod to try.
    pub fn pop(&mut self, now: Time) -> Option<Arc<PodInfo>> {
        self.release_due(now);
        let (_, _, key) = self.active.pop_first()?;
        let queued = self.pods.get_mut(&key)?;
        queued.attempts += 1;
        queued.last_attempt = now;
        queued.place = Place::Trying { cured: false };
        self.trying.insert(key);
        Some(Arc::clone(&queued.pod))
    }

    /// No node took it; these plugins said so.
    pub fn refused(&mut self, key: &Key, plugins: Vec<&'static str>, now: Time) {
        let Some(queued) = self.pods.get(key) else { return };
        match queued.place {
            Place::Trying { cured: true } => self.back_off(key, now),
            Place::Trying { cured: false } => {
                self.set_place(key, Place::Unschedulable { plugins });
            }
            // It has changed since.
            _ => {}
        }
    }

    /// What it waited for will not come: it is worth another try, after its back-off.
    pub fn retry(&mut self, key: &Key, now: Time) {
        let waits = |queued: &Queued| {
            matches!(queued.place, Place::Unschedulable { .. } | Place::Trying { .. })
        };
        if self.pods.get(key).is_some_and(waits) {
            self.back_off(key, now);
        }
    }

    /// Something else went wrong (a failed bind): try again after its back-off.
    pub fn back_off(&mut self, key: &Key, now: Time) {
        let Some(queued) = self.pods.get(key) else { return };
        let doublings = queued.attempts.saturating_sub(1).min(20);
        let doubled = self.first_backoff.saturating_mul(1 << doublings);
        let until = queued.last_attempt.plus(doubled.min(self.longest_backoff));
        match until <= now {
            true => self.set_place(key, Place::Active),
            false => self.set_place(key, Place::Backoff(until)),
        }
    }

    /// Moves back those whose rejecting plugins this event could cure.
    pub fn happened(&mut self, event: Event, now: Time) {
        self.happened_where(event, now, |_, _| true);
    }

    /// Of them only those for whom one of these plugins says that it matters.
    pub fn happened_where(
        &mut self,
        event: Event,
        now: Time,
        matters: impl Fn(&dyn Plugin, &PodInfo) -> bool,
    ) {
        for key in &self.trying {
            if let Some(queued) = self.pods.get_mut(key) {
                queued.place = Place::Trying { cured: true };
            }
        }
        let mut cured: Vec<Key> = Vec::new();
        for (rejected_by, keys) in &self.rejected {
            let plugins = rejected_by.iter().filter_map(|name| plugins::find(name));
            let plugins: Vec<&dyn Plugin> =
                plugins.filter(|plugin| plugin.cures().contains(&event)).collect();
            let is_cured = |key: &&Key| {
                let pod = self.pods.get(*key).map(|queued| &queued.pod);
                let matters = |pod: &Arc<PodInfo>| plugins.iter().any(|own| matters(*own, pod));
                rejected_by.is_empty() || pod.is_some_and(matters)
            };
            if rejected_by.is_empty() || !plugins.is_empty() {
                cured.extend(keys.iter().filter(is_cured).cloned());
            }
        }
        for key in cured {
            self.back_off(&key, now);
        }
    }

    /// When `pop` may have something that it does not have now.
    pub fn wake_at(&self) -> Option<Time> {
        let backoff = self.backoff.first().map(|(until, _)| *until);
        let flush = self.unschedulable.first().map(|(since, _)| since.plus(FLUSH_AFTER));
        backoff.into_iter().chain(flush).min()
    }

    fn release_due(&mut self, now: Time) {
        while let Some((until, key)) = self.backoff.first().cloned() {
            if until > now {
                break;
            }
            self.set_place(&key, Place::Active);
        }
        while let Some((since, key)) = self.unschedulable.first().cloned() {
            if since.plus(FLUSH_AFTER) > now {
                break;
            }
            self.set_place(&key, Place::Active);
        }
    }

    fn set_place(&mut self, key: &Key, place: Place) {
        let Some(mut queued) = self.take_out(key) else { return };
        match &place {
            Place::Active => {
                self.active.insert(rank(&queued));
            }
            Place::Backoff(until) => {
                self.backoff.insert((*until, key.clone()));
            }
            Place::Unschedulable { plugins } => {
                self.unschedulable.insert((queued.last_attempt, key.clone()));
                self.rejected.entry(plugins.clone()).or_default().insert(key.clone());
            }
            Place::Trying { .. } => {
                self.trying.insert(key.clone());
            }
        }
        queued.place = place;
        self.pods.insert(key.clone(), queued);
    }

    fn take_out(&mut self, key: &Key) -> Option<Queued> {
        let queued = self.pods.remove(key)?;
        self.trying.remove(key);
        self.active.remove(&rank(&queued));
        match &queued.place {
            Place::Backoff(until) => {
                self.backoff.remove(&(*until, key.clone()));
            }
            Place::Unschedulable { plugins } => {
                self.unschedulable.remove(&(queued.last_attempt, key.clone()));
                if let Some(keys) = self.rejected.get_mut(plugins) {
                    keys.remove(key);
                    if keys.is_empty() {
                        self.rejected.remove(plugins);
                    }
                }
            }
            _ => {}
        }
        Some(queued)
    }
}

fn rank(queued: &Queued) -> Rank {
    let priority = queued.pod.object.spec.priority.unwrap_or(0);
    (std::cmp::Reverse(priority), queued.since, queued.pod.key.clone())
}
