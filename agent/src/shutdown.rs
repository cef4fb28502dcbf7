//! Graceful node shutdown: when the machine is about to shut down, pods end in the order of their
//! priority, each group within its own time (Kubernetes: Node Shutdowns). logind tells of the
//! shutdown and holds it up meanwhile ([`logind`]). Which pods end when is pure.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use client::Clock;
use tokio::sync::watch;

use crate::events::{Events, NORMAL};
use crate::plan::End;
use crate::pod::CRITICAL;
use crate::pods::Pods;

mod bus;
pub mod logind;

pub use logind::Logind;

/// How long pods of at least this priority may take to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    pub priority: i32,
    pub time: Duration,
}

/// `--shutdown-grace-period` of which `--shutdown-grace-period-critical-pods` is for critical ones.
pub fn periods(total: Duration, critical: Duration) -> Vec<Period> {
    if total.is_zero() {
        return Vec::new();
    }
    let usual = Period { priority: 0, time: total.saturating_sub(critical) };
    vec![usual, Period { priority: CRITICAL, time: critical }]
}

/// A pod as far as it matters when its node shuts down.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    pub uid: String,
    pub priority: i32,
    pub grace: Duration,
}

/// Which pods end together and how long is waited for them: lowest priority first. A pod belongs
/// to the highest period that its priority reaches, or to the lowest there is.
pub fn groups(pods: Vec<Ending>, periods: &[Period]) -> Vec<(Duration, Vec<Ending>)> {
    let mut periods = periods.to_vec();
    periods.sort_by_key(|period| period.priority);
    let mut groups: Vec<(Duration, Vec<Ending>)> =
        periods.iter().map(|period| (period.time, Vec::new())).collect();
    for pod in pods {
        let reached = periods.iter().rposition(|period| period.priority <= pod.priority);
        if let Some((time, group)) = groups.get_mut(reached.unwrap_or(0)) {
            let grace = pod.grace.min(*time);
            group.push(Ending { grace, ..pod });
        }
    }
    groups.retain(|(_, group)| !group.is_empty());
    groups
}

/// Whether the machine is about to shut down. Clones share it.
#[derive(Clone, Debug)]
pub struct Shutdown(Arc<watch::Sender<bool>>);

impl Default for Shutdown {
    fn default() -> Shutdown {
        Shutdown(Arc::new(watch::Sender::new(false)))
    }
}

impl Shutdown {
    pub fn is_near(&self) -> bool {
        *self.0.borrow()
    }

    /// Until that has changed.
    pub async fn changed(&self) {
        // The sender is held here: it does not end.
        let _ = self.0.subscribe().changed().await;
    }

    fn set(&self, near: bool) {
        self.0.send_if_modified(|known| std::mem::replace(known, near) != near);
    }
}

const MESSAGE: &str = "Pod was terminated in response to imminent node shutdown.";

/// Follows logind for ever. Without one, pods end as the machine pleases.
pub async fn follow(pods: &Pods, shutdown: &Shutdown, periods: &[Period], events: &Events) {
    let whole: Duration = periods.iter().map(|period| period.time).sum();
    let context = pods.context();
    loop {
        let bus = || Logind::connect(Path::new(logind::SYSTEM_BUS));
        let mut logind = match tokio::task::spawn_blocking(bus).await {
            Ok(Ok(logind)) => logind,
            Err(_) => return,
            Ok(Err(error)) => {
                let error = client::error::chain(&error);
                tracing::warn!(error, "no logind to hold up a shutdown of this machine for pods");
                return;
            }
        };
        if logind.delay() < whole {
            let (has, needs) = (logind.delay().as_secs(), whole.as_secs());
            tracing::warn!(
                "logind holds up a shutdown for {has} s, pods may take {needs} s: set \
                 InhibitDelayMaxSec in logind.conf"
            );
        }
        while let Some(near) = logind.changed().await {
            shutdown.set(near);
            if !near {
                // Cancelled; what has ended stays ended.
                break;
            }
            let message = "Shutdown manager detected shutdown event";
            events.node(&context.own.name, NORMAL, "NodeShutdown", message);
            end_all(pods, periods, &context.clock).await;
            logind.release();
        }
        shutdown.set(false);
    }
}

/// Ends group after group.
pub async fn end_all(pods: &Pods, periods: &[Period], clock: &Clock) {
    for (time, group) in groups(pods.endings(), periods) {
        for pod in &group {
            let end = End::failed("Terminated", MESSAGE);
            pods.end(
                &pod.uid,
                End { grace: Some(pod.grace), disruption: Some(MESSAGE.into()), ..end },
            );
        }
        let stopped = group.iter().map(|pod| pods.stopped(&pod.uid));
        if clock.timeout(time, futures::future::join_all(stopped)).await.is_err() {
            tracing::warn!("some pods have not ended within {} s", time.as_secs());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lowest_priority_first() {
        let seconds = Duration::from_secs;
        let pod = |uid: &str, priority, grace| Ending {
            uid: uid.into(),
            priority,
            grace: seconds(grace),
        };
        let short = |pods: Vec<Ending>, periods: &[Period]| {
            let group = |(time, group): &(Duration, Vec<Ending>)| {
                let pods: Vec<String> = group
                    .iter()
                    .map(|pod| format!("{} {}", pod.uid, pod.grace.as_secs()))
                    .collect();
                format!("{}: {}", time.as_secs(), pods.join(", "))
            };
            groups(pods, periods).iter().map(group).collect::<Vec<_>>().join("; ")
        };
        let usual = periods(seconds(30), seconds(10));
        let pods = || vec![pod("dns", CRITICAL, 30), pod("web", 0, 30), pod("low", -5, 3)];
        assert_eq!(short(pods(), &usual), "20: web 20, low 3; 10: dns 10");
        let own = [(100, 5), (-10, 60), (CRITICAL + 1, 1)];
        let own = own.map(|(priority, time)| Period { priority, time: seconds(time) });
        assert_eq!(short(pods(), &own), "60: web 30, low 3; 5: dns 5");
        assert_eq!(short(pods(), &periods(seconds(0), seconds(0))), "");
    }
}
