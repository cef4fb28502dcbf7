//! How long a set waits before it replaces a failed pod: nothing at first, then a second, twice as
//! long each time up to some bound. A node that refuses a pod would be asked again and again
//! otherwise, as fast as the API server answers.

use std::collections::HashMap;
use std::time::Duration;

use client::Key;
use parking_lot::Mutex;
use proto::time::Time;

const FIRST: Duration = Duration::from_secs(1);

/// Remembers the failures of each set in each place (a node, an ordinal). Asking twice about one
/// pod is as asking once. A view has one, so that no controller remembers anything itself.
#[derive(Default)]
pub struct BackOff {
    failures: Mutex<HashMap<Key, HashMap<String, Failure>>>,
}

struct Failure {
    /// The uid of the pod that failed.
    pod: String,
    /// When it may be replaced.
    due: Time,
    /// How much later the next one may.
    delay: Duration,
}

impl BackOff {
    /// When the failed pod may be replaced; after the last one `longest` later at most.
    pub fn due(&self, set: &Key, place: &str, pod: &str, longest: Duration, now: Time) -> Time {
        let mut failures = self.failures.lock();
        let places = failures.entry(set.clone()).or_default();
        // What was calm for so long is forgotten.
        places.retain(|_, failure| now.since(failure.due) <= 2 * longest);
        let last = places.get(place);
        let next = match last {
            Some(last) if last.pod == pod => return last.due,
            Some(last) => Failure {
                pod: pod.into(),
                due: now.max(last.due.plus(last.delay)),
                delay: (last.delay * 2).min(longest),
            },
            None => Failure { pod: pod.into(), due: now, delay: FIRST },
        };
        let due = next.due;
        places.insert(place.into(), next);
        due
    }

    /// The set is no more.
    pub fn forget(&self, set: &Key) {
        self.failures.lock().remove(set);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_and_are_forgotten() {
        let (back_off, longest) = (BackOff::default(), Duration::from_secs(900));
        let set = Key::new("a", "web");
        let due = |pod: &str, now: i64| {
            let due = back_off.due(&set, "n", pod, longest, Time::from_unix(now));
            due.since(Time::from_unix(0)).as_secs()
        };
        for (pod, now, expected) in [
            ("a", 100, 100),
            // The same pod once more.
            ("a", 105, 100),
            ("b", 100, 101),
            ("c", 101, 103),
            ("d", 103, 107),
            // Long after the time is up.
            ("e", 200, 200),
            ("f", 200, 216),
            ("g", 5000, 5000),
            ("h", 5000, 5001),
        ] {
            assert_eq!(due(pod, now), expected, "{pod}");
        }
        assert_eq!(
            back_off.due(&set, "m", "x", longest, Time::from_unix(7)),
            Time::from_unix(7),
            "each place for itself"
        );
        back_off.forget(&set);
        assert_eq!(due("i", 5001), 5001);
    }
}
