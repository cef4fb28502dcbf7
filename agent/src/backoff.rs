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
/// Everything else that failed and may succeed by itself: volumes, sandboxes, configuration.
pub const RETRY: Limits =
    Limits { first: Duration::from_millis(500), max: Duration::from_secs(15) };

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

    #[test]
    fn doubles_to_the_limit_and_is_forgotten() {
        let mut now = Time::from_unix(0);
        let mut backoff = None;
        let mut delays = Vec::new();
        for _ in 0..7 {
            let next = Backoff::next(backoff, CRASH, now);
            delays.push(next.delay.as_secs());
            now = now.plus(next.delay);
            backoff = Some(next);
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        let late = now.plus(Duration::from_secs(601));
        assert_eq!(backoff.unwrap().due(CRASH, late), None);
        assert_eq!(Backoff::next(backoff, CRASH, late).delay.as_secs(), 10);
    }
}
