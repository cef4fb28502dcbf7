//! Pods that want a node: ready to try, waiting out a back-off, or unschedulable until an event
//! that could cure one of the plugins that rejected them. Pure: time comes in, nothing sleeps.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::Key;
use proto::time::Time;

use crate::plugins::{self, Event};
use crate::snapshot::PodInfo;

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(10);

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

#[derive(Debug, Default)]
pub struct Queue {
    pods: HashMap<Key, Queued>,
    active: BTreeSet<Rank>,
    backoff: BTreeSet<(Time, Key)>,
    /// By last attempt, so that the oldest is flushed first.
    unschedulable: BTreeSet<(Time, Key)>,
    trying: HashSet<Key>,
}

impl Queue {
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
            _ => self.set_place(key, Place::Unschedulable { plugins }),
        }
    }

    /// Something else went wrong (a failed bind): try again after its back-off.
    pub fn back_off(&mut self, key: &Key, now: Time) {
        let Some(queued) = self.pods.get(key) else { return };
        let until = queued.last_attempt.plus(backoff(queued.attempts));
        match until <= now {
            true => self.set_place(key, Place::Active),
            false => self.set_place(key, Place::Backoff(until)),
        }
    }

    /// Moves back those whose rejecting plugins this event could cure.
    pub fn happened(&mut self, event: Event, now: Time) {
        for key in &self.trying {
            if let Some(queued) = self.pods.get_mut(key) {
                queued.place = Place::Trying { cured: true };
            }
        }
        let curable = |(_, key): &&(Time, Key)| match self.pods.get(key).map(|pod| &pod.place) {
            Some(Place::Unschedulable { plugins }) => {
                let cures = |name: &&'static str| plugins::cures(name).contains(&event);
                plugins.is_empty() || plugins.iter().any(cures)
            }
            _ => false,
        };
        let curable: Vec<Key> =
            self.unschedulable.iter().filter(curable).map(|(_, key)| key.clone()).collect();
        for key in curable {
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
            Place::Unschedulable { .. } => {
                self.unschedulable.insert((queued.last_attempt, key.clone()));
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
        self.unschedulable.remove(&(queued.last_attempt, key.clone()));
        if let Place::Backoff(until) = queued.place {
            self.backoff.remove(&(until, key.clone()));
        }
        Some(queued)
    }
}

fn rank(queued: &Queued) -> Rank {
    let priority = queued.pod.object.spec.priority.unwrap_or(0);
    (std::cmp::Reverse(priority), queued.since, queued.pod.key.clone())
}

/// 1 s, 2 s, 4 s … 10 s.
fn backoff(attempts: u32) -> Duration {
    let doubled = FIRST_BACKOFF.saturating_mul(1 << attempts.saturating_sub(1).min(10));
    doubled.min(LONGEST_BACKOFF)
}
