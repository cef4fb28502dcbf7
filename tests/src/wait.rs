//! Waiting for a state of the real world, with a deadline that only bounds a failure.

use std::time::{Duration, Instant};

/// Looks again and again until there is something; panics with `what` after `seconds`.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "real processes live in real time")]
pub fn until<T>(what: &str, seconds: u64, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited {seconds} s for: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
