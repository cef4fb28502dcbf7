//! The work queue: keys that need looking at, each at most once in the queue and never handled
//! by two workers at a time. A key carries no event, so it does not matter how often it is added.

mod metrics;

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use parking_lot::Mutex;
use proto::time::Time;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::Clock;

use metrics::Counted;
pub use metrics::Queues;

const FIRST_BACKOFF: Duration = Duration::from_millis(5);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1000);
/// Above so many resting keys those that are rested are looked for.
const RESTING: usize = 1024;

/// A queue of keys, shared by reference between those who add and the workers.
pub struct WorkQueue<K> {
    clock: Clock,
    state: Mutex<State<K>>,
    changed: Notify,
}

struct State<K> {
    ready: VecDeque<K>,
    /// Everything in `ready`, and what was added again while a worker has it; since when.
    wanted: HashMap<K, Instant>,
    /// Since when a worker has it.
    working: HashMap<K, Instant>,
    /// What is to be added later. An entry counts only while `due` agrees with it.
    timers: BinaryHeap<Reverse<(Instant, u64)>>,
    due: HashMap<K, (Instant, u64)>,
    keys: HashMap<u64, K>,
    serial: u64,
    failures: HashMap<K, u32>,
    /// Keys that may not be handed out before a moment.
    resting: HashMap<K, Instant>,
    counted: Counted,
}

impl<K: Clone + Eq + Hash> WorkQueue<K> {
    pub fn new(clock: Clock) -> WorkQueue<K> {
        let state = State {
            ready: VecDeque::new(),
            wanted: HashMap::new(),
            working: HashMap::new(),
            timers: BinaryHeap::new(),
            due: HashMap::new(),
            keys: HashMap::new(),
            serial: 0,
            failures: HashMap::new(),
            resting: HashMap::new(),
            counted: Counted::default(),
        };
        WorkQueue { clock, state: Mutex::new(state), changed: Notify::new() }
    }

    /// Asks for the key to be handled; if a worker has it, once more afterwards.
    pub fn add(&self, key: K) {
        let now = self.clock.instant();
        let mut state = self.state.lock();
        let wake = match state.resting.get(&key).copied() {
            Some(until) if until > now => {
                state.add_later(key, until);
                true
            }
            _ => state.add(key, now),
        };
        drop(state);
        if wake {
            self.changed.notify_one();
        }
    }

    /// Adds the key after a while. If it is already waiting, the earlier moment counts.
    pub fn add_after(&self, key: K, delay: Duration) {
        if delay.is_zero() {
            return self.add(key);
        }
        let mut state = self.state.lock();
        state.counted.retries += 1;
        state.add_later(key, self.clock.instant() + delay);
        drop(state);
        // A worker must learn of a timer that is earlier than the one it sleeps for.
        self.changed.notify_one();
    }

    /// Adds the key when the wall clock reads `time`.
    pub fn add_at(&self, key: K, time: Time) {
        self.add_after(key, time.since(self.clock.now()));
    }

    /// Adds the key after a time that doubles with every failure: 5 ms up to 1,000 s.
    pub fn backoff(&self, key: K) {
        let failures = {
            let mut state = self.state.lock();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            *failures += 1;
            *failures
        };
        let delay = FIRST_BACKOFF.saturating_mul(2u32.saturating_pow((failures - 1).min(30)));
        self.add_after(key, delay.min(LONGEST_BACKOFF));
    }

    /// The key was handled well: its next failure is its first.
    pub fn forget(&self, key: &K) {
        self.state.lock().failures.remove(key);
    }

    /// The next key; waits for one. The caller owes a [`WorkQueue::done`].
    pub async fn next(&self) -> K {
        loop {
            let wake = {
                let mut state = self.state.lock();
                let now = self.clock.instant();
                state.fire(now);
                if let Some(key) = state.take(now) {
                    if !state.ready.is_empty() {
                        self.changed.notify_one();
                    }
                    return key;
                }
                state.timers.peek().map(|Reverse((at, _))| *at)
            };
            match wake {
                None => self.changed.notified().await,
                Some(at) => {
                    tokio::select! {
                        () = self.changed.notified() => {}
                        () = self.clock.sleep_until_instant(at) => {}
                    }
                }
            }
        }
    }

    /// The worker has finished with the key.
    pub fn done(&self, key: &K) {
        let mut state = self.state.lock();
        state.finish(key, self.clock.instant());
        if state.wanted.contains_key(key) {
            state.ready.push_back(key.clone());
            drop(state);
            self.changed.notify_one();
        }
    }

    /// As [`WorkQueue::done`], and the key is not handed out again before `rest` is over: a key
    /// that takes long cannot take all the time.
    pub fn done_resting(&self, key: &K, rest: Duration) {
        if rest.is_zero() {
            return self.done(key);
        }
        let now = self.clock.instant();
        let until = now + rest;
        let mut state = self.state.lock();
        state.finish(key, now);
        state.resting.insert(key.clone(), until);
        if state.wanted.remove(key).is_some() {
            // It will be added once more, after its rest.
            state.counted.adds -= 1;
            state.add_later(key.clone(), until);
            drop(state);
            self.changed.notify_one();
        }
    }

    /// How many keys are ready.
    pub fn len(&self) -> usize {
        self.state.lock().ready.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether nothing is ready and no worker is at work. Timers may still be pending.
    pub fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.ready.is_empty() && state.working.is_empty()
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    /// Whether a worker can take it now.
    fn add(&mut self, key: K, now: Instant) -> bool {
        if self.wanted.contains_key(&key) {
            return false;
        }
        self.counted.adds += 1;
        self.wanted.insert(key.clone(), now);
        if self.working.contains_key(&key) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    fn add_later(&mut self, key: K, at: Instant) {
        if let Some((due, serial)) = self.due.get(&key) {
            if *due <= at {
                return;
            }
            self.keys.remove(serial);
        }
        self.serial += 1;
        self.timers.push(Reverse((at, self.serial)));
        self.due.insert(key.clone(), (at, self.serial));
        self.keys.insert(self.serial, key);
    }

    /// Adds what is due and drops timers that were overtaken by earlier ones.
    fn fire(&mut self, now: Instant) {
        if self.resting.len() > RESTING {
            self.resting.retain(|_, until| *until > now);
        }
        while let Some(Reverse((at, serial))) = self.timers.peek().copied() {
            if at > now && self.keys.contains_key(&serial) {
                break;
            }
            self.timers.pop();
            if let Some(key) = self.keys.remove(&serial) {
                self.due.remove(&key);
                self.add(key, now);
            }
        }
    }

    fn take(&mut self, now: Instant) -> Option<K> {
        let key = self.ready.pop_front()?;
        if let Some(since) = self.wanted.remove(&key) {
            self.counted.waited.observe(now.duration_since(since).as_secs_f64());
        }
        self.working.insert(key.clone(), now);
        Some(key)
    }

    fn finish(&mut self, key: &K, now: Instant) {
        if let Some(begun) = self.working.remove(key) {
            self.counted.worked.observe(now.duration_since(begun).as_secs_f64());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue() -> WorkQueue<&'static str> {
        WorkQueue::new(Clock::simulated(Time::from_unix(0)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_queued_once_and_never_handled_twice_at_a_time() {
        let queue = queue();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!((queue.next().await, queue.len()), ("a", 1));
        queue.add("a");
        assert_eq!(queue.next().await, "b");
        let clock = queue.clock.clone();
        assert!(clock.timeout(Duration::from_secs(1), queue.next()).await.is_err());
        queue.done(&"a");
        assert_eq!(queue.next().await, "a");
        queue.done(&"a");
        queue.done(&"b");
        assert!(queue.is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn later_means_later_and_the_earlier_moment_counts() {
        let queue = queue();
        queue.add_after("a", Duration::from_secs(60));
        queue.add_after("a", Duration::from_secs(10));
        queue.add_after("a", Duration::from_secs(30));
        queue.add_at("b", Time::from_unix(20));
        assert_eq!(queue.next().await, "a");
        assert_eq!(queue.clock.now(), Time::from_unix(10));
        queue.done(&"a");
        assert_eq!(queue.next().await, "b");
        assert_eq!(queue.clock.now(), Time::from_unix(20));
        queue.done(&"b");
        let clock = queue.clock.clone();
        assert!(clock.timeout(Duration::from_secs(100), queue.next()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_resting_key_waits() {
        let queue = queue();
        for added_while_working in [true, false] {
            queue.add("a");
            assert_eq!(queue.next().await, "a");
            let before = queue.clock.instant();
            if added_while_working {
                queue.add("a");
            }
            queue.done_resting(&"a", Duration::from_secs(3));
            queue.add("a");
            assert_eq!(queue.next().await, "a");
            assert_eq!(queue.clock.instant().duration_since(before).as_secs(), 3);
            queue.done(&"a");
        }
        assert!(queue.is_idle());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_double_the_wait_until_forgotten() {
        let queue = queue();
        let mut waits = Vec::new();
        for round in 0..5 {
            if round == 3 {
                queue.forget(&"a");
            }
            let before = queue.clock.instant();
            queue.backoff("a");
            assert_eq!(queue.next().await, "a");
            waits.push(queue.clock.instant().duration_since(before).as_millis());
            queue.done(&"a");
        }
        assert_eq!(waits, [5, 10, 20, 5, 10]);
    }
}
