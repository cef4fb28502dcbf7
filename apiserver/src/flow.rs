//! Priority and fairness (Kubernetes: API Priority and Fairness): under overload, health checks,
//! leases and the system's own requests go on, and no client of a level starves the others.
//!
//! A request belongs to the first FlowSchema that fits it, which names a priority level and tells
//! the level's flows apart. A level has seats; a request without one waits in one of the level's
//! queues, chosen by shuffle sharding, or is refused with 429. Seats that a level does not need are
//! lent as its configuration says. Nothing here knows what a request does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::Clock;
use parking_lot::Mutex;
use proto::status::Status;
use proto::user::User;
use tokio::sync::oneshot;

use crate::authz::What;

mod config;
mod follow;
mod queues;

pub use config::{Config, Level, Limited};
pub use follow::follow;

use queues::Queues;

/// How long a request waits for a seat: a quarter of the default request timeout, as upstream.
const PATIENCE: Duration = Duration::from_secs(15);

/// What is known of a request when it asks for a seat.
#[derive(Clone, Copy, Debug)]
pub struct Asks<'a> {
    pub user: &'a User,
    pub verb: &'a str,
    pub what: What<'a>,
}

/// The levels and their seats.
pub struct Flow {
    core: Mutex<Core>,
    clock: Clock,
}

struct Core {
    config: Arc<Config>,
    /// By the level's name; a level that is gone stays until its last seat is free.
    levels: BTreeMap<Arc<str>, State>,
}

#[derive(Default)]
struct State {
    executing: u32,
    queues: Queues,
}

/// The way in. The seat is free again when this is dropped.
pub struct Admitted {
    pub schema: Arc<str>,
    pub schema_uid: Arc<str>,
    pub level: Arc<str>,
    pub level_uid: Arc<str>,
    _seat: Option<Seat>,
}

struct Seat {
    flow: Arc<Flow>,
    level: Arc<str>,
}

/// Why there is no seat: 429, try again in a second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub schema: Arc<str>,
    pub level: Arc<str>,
    /// As upstream's label: `concurrency-limit`, `queue-full`, `time-out`.
    pub reason: &'static str,
}

impl Refused {
    pub fn status(&self) -> Status {
        let message = "Too many requests, please try again later.";
        let mut status = Status::failure(429, "TooManyRequests", message);
        status.details.get_or_insert_default().retry_after_seconds = Some(1);
        status
    }
}

/// Numbers of a level, for metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Load {
    pub level: Arc<str>,
    pub seats: u32,
    pub executing: u32,
    pub waiting: usize,
}

impl Flow {
    /// With the mandatory configuration, until [`Flow::configure`].
    pub fn new(total: u32, clock: Clock) -> Arc<Flow> {
        let config = Arc::new(Config::new(total, &[], &[]));
        Arc::new(Flow { core: Mutex::new(Core { config, levels: BTreeMap::new() }), clock })
    }

    /// Requests that wait keep their places where their level still exists.
    pub fn configure(self: &Arc<Flow>, config: Config) {
        let granted = {
            let mut core = self.core.lock();
            core.config = Arc::new(config);
            core.grant()
        };
        self.hand_over(granted);
    }

    /// Waits for a seat; 429 where the level refuses.
    pub async fn enter(self: &Arc<Flow>, asks: &Asks<'_>) -> Result<Admitted, Refused> {
        let (admitted, waiting) = self.ask(asks)?;
        let Some(waiting) = waiting else { return Ok(admitted) };
        match self.clock.timeout(PATIENCE, waiting).await {
            Ok(Ok(seat)) => Ok(Admitted { _seat: Some(seat), ..admitted }),
            // The level was taken away, or it took too long.
            Ok(Err(_)) | Err(_) => {
                Err(Refused { schema: admitted.schema, level: admitted.level, reason: "time-out" })
            }
        }
    }

    pub fn loads(&self) -> Vec<Load> {
        let core = self.core.lock();
        let level = |level: &Arc<Level>| {
            let state = core.levels.get(&level.name);
            Load {
                level: level.name.clone(),
                seats: level.limited.as_ref().map_or(0, |limited| limited.seats),
                executing: state.map_or(0, |state| state.executing),
                waiting: state.map_or(0, |state| state.queues.waiting()),
            }
        };
        core.config.levels().map(level).collect()
    }

    fn ask(
        self: &Arc<Flow>,
        asks: &Asks<'_>,
    ) -> Result<(Admitted, Option<oneshot::Receiver<Seat>>), Refused> {
        let mut core = self.core.lock();
        let config = core.config.clone();
        let found = config.classify(asks);
        let admitted = |seat| Admitted {
            schema: found.schema.name.clone(),
            schema_uid: found.schema.uid.clone(),
            level: found.level.name.clone(),
            level_uid: found.level.uid.clone(),
            _seat: seat,
        };
        let refused = |reason| Refused {
            schema: found.schema.name.clone(),
            level: found.level.name.clone(),
            reason,
        };
        let Some(limited) = &found.level.limited else { return Ok((admitted(None), None)) };
        let free = core.may_take(&found.level.name, limited);
        let state = core.levels.entry(found.level.name.clone()).or_default();
        if free && state.queues.waiting() == 0 {
            state.executing += 1;
            let seat = Seat { flow: self.clone(), level: found.level.name.clone() };
            return Ok((admitted(Some(seat)), None));
        }
        let Some(queuing) = &limited.queuing else { return Err(refused("concurrency-limit")) };
        let (sender, receiver) = oneshot::channel();
        let flow = found.flow(asks);
        if !state.queues.wait(queuing, &flow, sender) {
            return Err(refused("queue-full"));
        }
        // Another level's seats may be free for this one.
        let granted = core.grant();
        drop(core);
        self.hand_over(granted);
        Ok((admitted(None), Some(receiver)))
    }

    fn hand_over(self: &Arc<Flow>, granted: Vec<(Arc<str>, oneshot::Sender<Seat>)>) {
        for (level, waiter) in granted {
            // Whoever gave up gives the seat back at once.
            let _ = waiter.send(Seat { flow: self.clone(), level });
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let granted = {
            let mut core = self.flow.core.lock();
            if let Some(state) = core.levels.get_mut(&self.level) {
                state.executing -= 1;
            }
            core.grant()
        };
        self.flow.hand_over(granted);
    }
}

impl Core {
    /// Whether one more request of the level may run: on a seat of its own, or a borrowed one.
    fn may_take(&self, name: &str, limited: &Limited) -> bool {
        let executing = self.levels.get(name).map_or(0, |state| state.executing);
        if executing < limited.seats {
            return true;
        }
        executing < limited.seats + limited.may_borrow && self.lendable() > 0
    }

    /// Seats that levels would lend, less those that are lent.
    fn lendable(&self) -> i64 {
        let mut free = 0;
        for level in self.config.levels() {
            let Some(limited) = &level.limited else { continue };
            let executing = self.levels.get(&level.name).map_or(0, |state| state.executing);
            let idle = i64::from(limited.seats) - i64::from(executing);
            free += idle.min(i64::from(limited.lendable));
        }
        free
    }

    /// Gives free seats to requests that wait, level by level.
    fn grant(&mut self) -> Vec<(Arc<str>, oneshot::Sender<Seat>)> {
        let mut granted = Vec::new();
        let config = self.config.clone();
        self.levels.retain(|name, state| state.executing > 0 || config.level(name).is_some());
        let waiting = |state: &State| state.queues.waiting() > 0;
        let names: Vec<Arc<str>> =
            self.levels.iter().filter(|(_, s)| waiting(s)).map(|(name, _)| name.clone()).collect();
        for name in names {
            let limited = config.level(&name).and_then(|level| level.limited.as_ref());
            loop {
                let free = limited.is_none_or(|limited| self.may_take(&name, limited));
                let Some(state) = self.levels.get_mut(&name).filter(|_| free) else { break };
                let Some(waiter) = state.queues.next() else { break };
                state.executing += 1;
                granted.push((name.clone(), waiter));
            }
        }
        granted
    }
}

#[cfg(test)]
mod tests;
