//! Pods that want a node: ready to try, waiting out a back-off, or unschedulable until an event
//! that could cure one of the plugins that rejected them. Pure: time comes in, nothing sleeps.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use client::Key;
use proto::time::Time;

use crate::plugins::{self, Event, Plugin};
use crate::profile::profile_of;
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
    /// The plugins that refused it last, from then until it is tried again.
    refused_by: Vec<&'static str>,
}

/// How long a pod has been wanting a node, for who takes it out and may have to put it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waited {
    pub since: Time,
    pub attempts: u32,
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
    /// Pods that may not be tried yet, and which plugin would say so.
    gated: HashMap<Key, (&'static str, String)>,
    figures: Figures,
}

/// What the queue counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Pods that came into a part of the queue, by that part and why.
    pub incoming: BTreeMap<(&'static str, &'static str), u64>,
    /// Pods that plugins have refused a node, by profile and plugin.
    pub unschedulable: BTreeMap<String, BTreeMap<&'static str, usize>>,
}

/// Why a pod came into a part of the queue, where no event in the cluster has brought it there: as
/// upstream's `event`.
const ADDED: &str = "UnschedulablePodAdd";
const UPDATED: &str = "UnschedulablePodUpdate";
const FAILED: &str = "ScheduleAttemptFailure";
const BACKOFF_OVER: &str = "BackoffComplete";
const FLUSHED: &str = "UnschedulableTimeout";
const ACTIVATED: &str = "ForceActivate";

/// How many pods wait, and for what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub active: usize,
    pub backoff: usize,
    pub unschedulable: usize,
    pub gated: usize,
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
            gated: HashMap::new(),
            figures: Figures::default(),
        }
    }

    pub fn counts(&self) -> Counts {
        Counts {
            active: self.active.len(),
            backoff: self.backoff.len(),
            unschedulable: self.unschedulable.len(),
            gated: self.gated.len(),
        }
    }

    pub fn figures(&self) -> &Figures {
        &self.figures
    }

    /// A pod came or its spec changed: it is worth a try at once.
    pub fn put(&mut self, pod: Arc<PodInfo>, now: Time) {
        let key = pod.key.clone();
        self.ungate(&key);
        let (queued, why) = match self.take_out(&key) {
            Some(old) => (Queued { pod, ..old }, UPDATED),
            None => (Queued::new(pod, Waited { since: now, attempts: 0 }, now), ADDED),
        };
        self.pods.insert(key.clone(), queued);
        self.set_place(&key, Place::Active, why);
    }

    /// A decision about the pod could not be carried out: it is worth another try, after its
    /// back-off.
    pub fn put_back(&mut self, pod: Arc<PodInfo>, waited: Waited, now: Time) {
        let key = pod.key.clone();
        self.pods.insert(key.clone(), Queued::new(pod, waited, now));
        self.back_off(&key, now, FAILED);
    }

    /// The pod may not be tried yet: it comes back through `put` when it may.
    pub fn gate(&mut self, pod: &PodInfo, plugin: &'static str) {
        if let Some(mut queued) = self.take_out(&pod.key) {
            self.forgive(&mut queued);
        }
        let profile = profile_of(&pod.object);
        let known = self.gated.insert(pod.key.clone(), (plugin, profile.to_string()));
        match known {
            None => self.figures.comes("unschedulable", ADDED),
            Some((plugin, profile)) => self.figures.refused(&profile, &[plugin], -1),
        }
        self.figures.refused(profile, &[plugin], 1);
    }

    fn ungate(&mut self, key: &Key) {
        if let Some((plugin, profile)) = self.gated.remove(key) {
            self.figures.refused(&profile, &[plugin], -1);
        }
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

    /// How long it has waited, if it was here.
    pub fn remove(&mut self, key: &Key) -> Option<Waited> {
        self.ungate(key);
        let mut queued = self.take_out(key)?;
        self.forgive(&mut queued);
        Some(Waited { since: queued.since, attempts: queued.attempts })
    }

    /// What plugins said of it counts no longer.
    fn forgive(&mut self, queued: &mut Queued) {
        let plugins = std::mem::take(&mut queued.refused_by);
        if !plugins.is_empty() {
            self.figures.refused(profile_of(&queued.pod.object), &plugins, -1);
        }
    }

    /// The next pod to try.
    pub fn pop(&mut self, now: Time) -> Option<Arc<PodInfo>> {
        self.release_due(now);
        let (_, _, key) = self.active.pop_first()?;
        let queued = self.pods.get_mut(&key)?;
        queued.attempts += 1;
        queued.last_attempt = now;
        queued.place = Place::Trying { cured: false };
        let plugins = std::mem::take(&mut queued.refused_by);
        let pod = Arc::clone(&queued.pod);
        if !plugins.is_empty() {
            self.figures.refused(profile_of(&pod.object), &plugins, -1);
        }
        self.trying.insert(key);
        Some(pod)
    }

    /// No node took it; these plugins said so.
    pub fn refused(&mut self, key: &Key, plugins: Vec<&'static str>, now: Time) {
        let Some(queued) = self.pods.get_mut(key) else { return };
        let Place::Trying { cured } = queued.place else {
            // It has changed since.
            return;
        };
        queued.refused_by.clone_from(&plugins);
        self.figures.refused(profile_of(&queued.pod.object), &plugins, 1);
        match cured {
            true => self.back_off(key, now, FAILED),
            false => self.set_place(key, Place::Unschedulable { plugins }, FAILED),
        }
    }

    /// What it waited for will not come: it is worth another try, after its back-off.
    pub fn retry(&mut self, key: &Key, now: Time) {
        let waits = |queued: &Queued| {
            matches!(queued.place, Place::Unschedulable { .. } | Place::Trying { .. })
        };
        if self.pods.get(key).is_some_and(waits) {
            self.back_off(key, now, ACTIVATED);
        }
    }

    /// It is worth another try, after its back-off.
    fn back_off(&mut self, key: &Key, now: Time, why: &'static str) {
        let Some(queued) = self.pods.get(key) else { return };
        let doublings = queued.attempts.saturating_sub(1).min(20);
        let doubled = self.first_backoff.saturating_mul(1 << doublings);
        let until = queued.last_attempt.plus(doubled.min(self.longest_backoff));
        match until <= now {
            true => self.set_place(key, Place::Active, why),
            false => self.set_place(key, Place::Backoff(until), why),
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
            self.back_off(&key, now, event.label());
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
            self.set_place(&key, Place::Active, BACKOFF_OVER);
        }
        while let Some((since, key)) = self.unschedulable.first().cloned() {
            if since.plus(FLUSH_AFTER) > now {
                break;
            }
            self.set_place(&key, Place::Active, FLUSHED);
        }
    }

    fn set_place(&mut self, key: &Key, place: Place, why: &'static str) {
        let Some(mut queued) = self.take_out(key) else { return };
        match &place {
            Place::Active => {
                self.figures.comes("active", why);
                self.active.insert(rank(&queued));
            }
            Place::Backoff(until) => {
                self.figures.comes("backoff", why);
                self.backoff.insert((*until, key.clone()));
            }
            Place::Unschedulable { plugins } => {
                self.figures.comes("unschedulable", why);
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

impl Queued {
    fn new(pod: Arc<PodInfo>, waited: Waited, now: Time) -> Queued {
        let Waited { since, attempts } = waited;
        let place = Place::Trying { cured: false };
        Queued { pod, since, attempts, last_attempt: now, place, refused_by: Vec::new() }
    }
}

impl Figures {
    fn comes(&mut self, part: &'static str, why: &'static str) {
        *self.incoming.entry((part, why)).or_default() += 1;
    }

    /// One more pod, or one less, that these plugins refuse.
    fn refused(&mut self, profile: &str, plugins: &[&'static str], change: isize) {
        if !self.unschedulable.contains_key(profile) {
            self.unschedulable.insert(profile.to_string(), BTreeMap::new());
        }
        let Some(counts) = self.unschedulable.get_mut(profile) else { return };
        for plugin in plugins {
            let count = counts.entry(plugin).or_default();
            *count = count.saturating_add_signed(change);
        }
    }
}

fn rank(queued: &Queued) -> Rank {
    let priority = queued.pod.object.spec.priority.unwrap_or(0);
    (std::cmp::Reverse(priority), queued.since, queued.pod.key.clone())
}
