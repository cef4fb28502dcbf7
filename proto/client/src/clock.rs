//! Time as an input. Everything that waits or reads a clock takes a [`Clock`]; under a runtime
//! with paused time a simulated clock makes five virtual minutes pass in no time. This file and
//! `rng.rs` are the only ones that may ask the machine.

#![allow(clippy::disallowed_methods, reason = "this is the one place that defines the clock")]

use std::future::Future;
use std::time::Duration;

use jiff::Timestamp;
use proto::time::Time;
use tokio::time::Instant;

pub use tokio::time::error::Elapsed;

/// A source of wall-clock time, monotonic time and timers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock(Source);

#[derive(Clone, Debug)]
enum Source {
    System,
    /// Wall-clock time is `start` plus what tokio's (pausable) clock has advanced since `origin`.
    Simulated {
        start: Time,
        origin: Instant,
    },
}

impl Clock {
    /// The machine's clock.
    pub fn system() -> Clock {
        Clock(Source::System)
    }

    /// A wall clock that reads `start` now and follows tokio's time from here on. Make it inside
    /// the runtime that has its time paused.
    pub fn simulated(start: Time) -> Clock {
        Clock(Source::Simulated { start, origin: Instant::now() })
    }

    /// The wall-clock time.
    pub fn now(&self) -> Time {
        match &self.0 {
            Source::System => Time(Timestamp::now()),
            Source::Simulated { start, origin } => start.plus(origin.elapsed()),
        }
    }

    /// A monotonic moment, to measure spans and to set deadlines.
    pub fn instant(&self) -> Instant {
        Instant::now()
    }

    pub async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    /// Sleeps until the wall clock reads `time`; returns at once if it already does.
    pub async fn sleep_until(&self, time: Time) {
        let left = time.since(self.now());
        if !left.is_zero() {
            self.sleep(left).await;
        }
    }

    /// Sleeps until a monotonic moment.
    pub async fn sleep_until_instant(&self, deadline: Instant) {
        tokio::time::sleep_until(deadline).await;
    }

    /// Runs `future` for at most `duration`.
    pub async fn timeout<F: Future>(
        &self,
        duration: Duration,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        tokio::time::timeout(duration, future).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn simulated_time_follows_the_runtime() {
        let clock = Clock::simulated(Time::from_unix(1000));
        clock.sleep(Duration::from_secs(300)).await;
        assert_eq!(clock.now(), Time::from_unix(1300));
        clock.sleep_until(Time::from_unix(1400)).await;
        assert_eq!(clock.now(), Time::from_unix(1400));
        let never = std::future::pending::<()>();
        assert!(clock.timeout(Duration::from_secs(5), never).await.is_err());
        assert_eq!(clock.now(), Time::from_unix(1405));
    }
}
