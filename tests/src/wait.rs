//! Waiting for a state of the real world, with a deadline that only bounds a failure.

use std::time::{Duration, Instant};

/// Looks again and again until there is something; panics with `what` after `seconds`.
#[track_caller]
pub fn until<T>(what: &str, seconds: u64, mut look: impl FnMut() -> Option<T>) -> T {
    let mut found = None;
    let met = patiently(seconds, || {
        found = look();
        found.is_some()
    });
    assert!(met, "waited {seconds} s for: {what}");
    found.expect("it was met")
}

/// Looks again and again until it is so, or `seconds` have passed.
#[expect(clippy::disallowed_methods, reason = "real processes live in real time")]
pub fn patiently(seconds: u64, mut met: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if met() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Lets real time pass: for causing a failure at some moment, never for waiting until something is so.
#[expect(clippy::disallowed_methods, reason = "real processes live in real time")]
pub fn pause(milliseconds: u64) {
    std::thread::sleep(Duration::from_millis(milliseconds));
}
