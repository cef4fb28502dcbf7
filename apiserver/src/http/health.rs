//! `/livez`, `/readyz` and `/healthz`, in Kubernetes' words.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::response::Response;
use client::Clock;

use super::{answer, query::Query};
use crate::cache::Cache;

/// A named flag that something has come about.
#[derive(Clone, Debug)]
pub struct Check {
    name: &'static str,
    done: Arc<AtomicBool>,
}

impl Check {
    pub fn new(name: &'static str) -> Check {
        Check { name, done: Arc::default() }
    }

    pub fn pass(&self) {
        self.done.store(true, Ordering::Release);
    }

    pub fn fail(&self) {
        self.done.store(false, Ordering::Release);
    }

    fn holds(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }
}

/// What is asked when someone asks how we are.
pub struct Health {
    cache: Cache,
    clock: Clock,
    /// What must have come about before the server is ready, and must still hold.
    ready: Vec<Check>,
}

/// A store that takes longer to say its revision is as good as absent.
const PATIENCE: Duration = Duration::from_secs(2);

impl Health {
    pub fn new(cache: Cache, clock: Clock, ready: Vec<Check>) -> Health {
        Health { cache, clock, ready }
    }

    async fn store_answers(&self) -> bool {
        matches!(self.clock.timeout(PATIENCE, self.cache.fresh()).await, Ok(Ok(_)))
    }

    /// 200 `ok`, or 500 with the list of checks; `?verbose` always lists, `?exclude=` leaves out.
    pub(super) async fn answer(
        &self,
        endpoint: &str,
        single: Option<&str>,
        query: &Query<'_>,
    ) -> Response {
        let mut checks = vec![("ping", true), ("etcd", self.store_answers().await)];
        if endpoint != "livez" {
            checks.extend(self.ready.iter().map(|check| (check.name, check.holds())));
        }
        if let Some(name) = single {
            return match checks.iter().find(|(check, _)| *check == name) {
                Some((_, true)) => answer::text(200, "ok"),
                Some((_, false)) => answer::text(500, format!("{name} check failed\n")),
                None => answer::text(404, "404 page not found\n"),
            };
        }
        checks.retain(|(name, _)| !query.all("exclude").any(|excluded| excluded == *name));
        let passed = checks.iter().all(|(_, holds)| *holds);
        if passed && query.find("verbose").is_none() {
            return answer::text(200, "ok");
        }
        let mut text = String::new();
        for (name, holds) in &checks {
            text += &match holds {
                true => format!("[+]{name} ok\n"),
                false => format!("[-]{name} failed: reason withheld\n"),
            };
        }
        let verdict = if passed { "passed" } else { "failed" };
        text += &format!("{endpoint} check {verdict}\n");
        answer::text(if passed { 200 } else { 500 }, text)
    }
}
