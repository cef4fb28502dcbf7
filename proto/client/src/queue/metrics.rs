//! What work queues say of themselves, under the names of client-go's. A queue counts in the fields
//! it guards anyway; what it holds is read when somebody asks.

use std::collections::BTreeMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use proto::exposition::{Histogram, Kind, Text};
use tokio::time::Instant;

use super::WorkQueue;
use crate::Clock;

/// Seconds: from 1 µs in steps of ten.
const BOUNDS: &[f64] = &[1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0];

/// What has passed through a queue.
#[derive(Clone, Debug)]
pub(super) struct Counted {
    pub adds: u64,
    pub retries: u64,
    /// Seconds from the wish to the work.
    pub waited: Histogram,
    pub worked: Histogram,
}

impl Default for Counted {
    fn default() -> Counted {
        let histogram = || Histogram::new(BOUNDS);
        Counted { adds: 0, retries: 0, waited: histogram(), worked: histogram() }
    }
}

/// One moment of a queue.
struct Reading {
    counted: Counted,
    depth: usize,
    /// Since when each key that is being worked on is.
    begun: Vec<Instant>,
}

trait Measured: Send + Sync {
    fn read(&self) -> Reading;
}

impl<K: Clone + Eq + Hash + Send> Measured for WorkQueue<K> {
    fn read(&self) -> Reading {
        let state = self.state.lock();
        Reading {
            counted: state.counted.clone(),
            depth: state.wanted.len(),
            begun: state.working.values().copied().collect(),
        }
    }
}

/// The named queues of a component, for as long as they live.
#[derive(Clone)]
pub struct Queues {
    clock: Clock,
    known: Arc<Mutex<BTreeMap<&'static str, Weak<dyn Measured>>>>,
}

impl Queues {
    pub fn new(clock: Clock) -> Queues {
        Queues { clock, known: Arc::default() }
    }

    /// A queue whose figures bear this name, which is no other's.
    pub fn make<K: Clone + Eq + Hash + Send + 'static>(
        &self,
        name: &'static str,
    ) -> Arc<WorkQueue<K>> {
        let queue = Arc::new(WorkQueue::new(self.clock.clone()));
        let measured: Arc<dyn Measured> = queue.clone();
        self.known.lock().insert(name, Arc::downgrade(&measured));
        queue
    }

    pub fn write(&self, text: &mut Text) {
        let queues: Vec<_> = {
            let known = self.known.lock();
            known.iter().filter_map(|(name, queue)| Some((*name, queue.upgrade()?))).collect()
        };
        let now = self.clock.instant();
        let read: Vec<_> = queues.iter().map(|(name, queue)| (*name, queue.read())).collect();
        let ages = |reading: &Reading| -> Vec<Duration> {
            reading.begun.iter().map(|begun| now.duration_since(*begun)).collect()
        };
        type Value<'a> = &'a dyn Fn(&Reading) -> f64;
        let mut write = |name, kind, help, value: Value<'_>| {
            let mut family = text.family(name, kind, help);
            for (queue, reading) in &read {
                family.sample(&[("name", queue)], value(reading));
            }
        };
        let (gauge, counter) = (Kind::Gauge, Kind::Counter);
        let help = "[BETA] Keys added to the queue";
        write("workqueue_adds_total", counter, help, &|it| it.counted.adds as f64);
        let help = "[BETA] Keys that wait in the queue";
        write("workqueue_depth", gauge, help, &|it| it.depth as f64);
        let help = "[BETA] Seconds since the oldest work in hand was begun";
        let name = "workqueue_longest_running_processor_seconds";
        write(name, gauge, help, &|it| {
            ages(it).into_iter().max().unwrap_or_default().as_secs_f64()
        });
        let help = "[BETA] Keys that came back after a failure";
        write("workqueue_retries_total", counter, help, &|it| it.counted.retries as f64);
        let help = "[BETA] Seconds of all work in hand, which grow while something is stuck";
        write("workqueue_unfinished_work_seconds", gauge, help, &|it| {
            ages(it).into_iter().sum::<Duration>().as_secs_f64()
        });
        type Spread<'a> = &'a dyn Fn(&Counted) -> &Histogram;
        let mut write = |name, help, spread: Spread<'_>| {
            let mut family = text.family(name, Kind::Histogram, help);
            for (queue, reading) in &read {
                family.histogram(&[("name", queue)], spread(&reading.counted));
            }
        };
        let help = "[BETA] Seconds that a key waited in the queue";
        write("workqueue_queue_duration_seconds", help, &|it| &it.waited);
        let help = "[BETA] Seconds of the work on a key";
        write("workqueue_work_duration_seconds", help, &|it| &it.worked);
    }
}

#[cfg(test)]
mod tests {
    use proto::exposition::parse;
    use proto::time::Time;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_queue_is_measured_from_wish_to_end() {
        let clock = Clock::simulated(Time::from_unix(0));
        let queues = Queues::new(clock.clone());
        let queue = queues.make::<&str>("q");
        let value = |name: &str| {
            let mut text = Text::default();
            queues.write(&mut text);
            let parsed = parse(&text.finish()).unwrap();
            let sample = parsed.samples.iter().find(|sample| sample.name == name);
            sample.map(|sample| (sample.label("name").to_string(), sample.value))
        };
        let told = |name: &str| value(name).unwrap().1;
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(value("workqueue_adds_total"), Some(("q".into(), 2.0)));
        assert_eq!(told("workqueue_depth"), 2.0);
        clock.sleep(Duration::from_secs(2)).await;
        let key = queue.next().await;
        // What comes back while it is worked on waits, too.
        queue.add(key);
        assert_eq!(told("workqueue_depth"), 2.0);
        clock.sleep(Duration::from_secs(3)).await;
        assert_eq!(told("workqueue_unfinished_work_seconds"), 3.0);
        assert_eq!(told("workqueue_longest_running_processor_seconds"), 3.0);
        queue.backoff(key);
        queue.done(&key);
        assert_eq!(told("workqueue_unfinished_work_seconds"), 0.0);
        assert_eq!(told("workqueue_queue_duration_seconds_sum"), 2.0);
        assert_eq!(told("workqueue_work_duration_seconds_sum"), 3.0);
        assert_eq!(told("workqueue_work_duration_seconds_count"), 1.0);
        assert_eq!(told("workqueue_retries_total"), 1.0);
        // A wish that has to wait for the key's rest is one wish.
        clock.sleep(Duration::from_secs(1)).await;
        while !queue.is_empty() {
            let key = queue.next().await;
            queue.done(&key);
        }
        let before = told("workqueue_adds_total");
        queue.add("c");
        let key = queue.next().await;
        queue.add(key);
        queue.done_resting(&key, Duration::from_secs(1));
        assert_eq!(queue.next().await, "c");
        queue.done(&"c");
        assert_eq!(told("workqueue_adds_total"), before + 2.0);
        drop(queue);
        assert_eq!(value("workqueue_depth"), None);
    }
}
