//! How long to wait before trying again: the crash loop's and the image pull's doubling delays
//! (Kubernetes: Pod Lifecycle, "How Pods handle problems with containers").

use std::time::Duration;

use proto::time::Time;

/// The bounds of a doubling delay.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub first: Duration,
    pub max: Duration,
}

/// 10 s doubling to 5 min; forgotten after twice the maximum.
pub const CRASH: Limits = Limits { first: Duration::from_secs(10), max: Duration::from_secs(300) };
/// The same for pulls of images.
pub const PULL: Limits = CRASH;
/// Mounts and unmounts: 500 ms doubling to 2 min 2 s, as the kubelet's.
pub const VOLUME: Limits =
    Limits { first: Duration::from_millis(500), max: Duration::from_secs(122) };
/// Everything else that failed and may succeed by itself: sandboxes, configuration.
pub const RETRY: Limits =
    Limits { first: Duration::from_millis(500), max: Duration::from_secs(15) };

/// The pods' network, which may come at any time.
pub const NETWORK: Limits = Limits { first: Duration::from_secs(1), max: Duration::from_secs(1) };

/// A delay that doubles with each [`Backoff::next`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    pub delay: Duration,
    updated: Time,
}

impl Backoff {
    /// The delay after `previous`: the first one where there is none or it has expired.
    pub fn next(previous: Option<Backoff>, limits: Limits, now: Time) -> Backoff {
        let delay = match previous {
            Some(previous) if !previous.expired(limits, now) => {
                (previous.delay * 2).min(limits.max)
            }
            _ => limits.first,
        };
        Backoff { delay, updated: now }
    }

    /// When the next try after something that happened at `event` is due; `None`: at once.
    pub fn due(&self, limits: Limits, event: Time) -> Option<Time> {
        (!self.expired(limits, event)).then(|| event.plus(self.delay))
    }

    fn expired(&self, limits: Limits, now: Time) -> bool {
        now.since(self.updated) > limits.max * 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One failure after the other: the delays in seconds, the last, and when it is over.
    fn failures(limits: Limits, times: usize) -> (Vec<f64>, Option<Backoff>, Time) {
        let (mut delays, mut last, mut now) = (Vec::new(), None, Time::from_unix(0));
        for _ in 0..times {
            let next = Backoff::next(last, limits, now);
            delays.push(next.delay.as_secs_f64());
            now = now.plus(next.delay);
            last = Some(next);
        }
        (delays, last, now)
    }

    #[test]
    fn doubles_to_the_limit_and_is_forgotten() {
        let (delays, _, _) = failures(VOLUME, 10);
        assert_eq!(delays, [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 122.0, 122.0]);
        let (delays, backoff, now) = failures(CRASH, 7);
        assert_eq!(delays, [10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]);
        let late = now.plus(Duration::from_secs(601));
        assert_eq!(backoff.unwrap().due(CRASH, late), None);
        assert_eq!(Backoff::next(backoff, CRASH, late).delay.as_secs(), 10);
    }
}
