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
use proto::health;

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
    /// What every cluster has is there.
    bootstrapped: Check,
    /// Requests are still taken.
    serving: Check,
    /// What else must have come about before the server is ready, and must still hold.
    others: Vec<Check>,
}

/// A store that takes longer to say its revision is as good as absent.
const PATIENCE: Duration = Duration::from_secs(2);

/// Upstream's names for what is done before the server answers at all: there is a log, caches are
/// filled and follow the store, admission is put together, requests have their levels.
const BEGUN: [&str; 4] = [
    "poststarthook/start-apiserver-admission-initializer",
    "poststarthook/generic-apiserver-start-informers",
    "poststarthook/priority-and-fairness-config-consumer",
    "poststarthook/priority-and-fairness-filter",
];

/// Upstream's names for the parts of what every cluster has.
const BOOTSTRAPPED: [&str; 7] = [
    "poststarthook/start-system-namespaces-controller",
    "poststarthook/bootstrap-controller",
    "poststarthook/start-cluster-authentication-info-controller",
    "poststarthook/start-kubernetes-service-cidr-controller",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "poststarthook/priority-and-fairness-config-producer",
];

impl Health {
    pub fn new(
        (cache, clock): (&Cache, &Clock),
        (bootstrapped, serving): (&Check, &Check),
        others: Vec<Check>,
    ) -> Health {
        Health {
            cache: cache.clone(),
            clock: clock.clone(),
            bootstrapped: bootstrapped.clone(),
            serving: serving.clone(),
            others,
        }
    }

    pub(super) async fn store_answers(&self) -> bool {
        matches!(self.clock.timeout(PATIENCE, self.cache.fresh()).await, Ok(Ok(_)))
    }

    /// Whether there is another check of this name, and it holds.
    pub(super) fn holds(&self, name: &str) -> bool {
        self.others.iter().any(|check| check.name == name && check.holds())
    }

    async fn checks(&self, endpoint: &str) -> Vec<(&'static str, bool)> {
        let mut checks = vec![("ping", true), ("log", true), ("etcd", self.store_answers().await)];
        if endpoint == "readyz" {
            checks.push(("informer-sync", true));
        }
        checks.extend(BEGUN.map(|name| (name, true)));
        let there = self.bootstrapped.holds();
        checks.extend(BOOTSTRAPPED.map(|name| (name, there)));
        if endpoint == "readyz" {
            checks.extend(self.others.iter().map(|check| (check.name, check.holds())));
            checks.push(("shutdown", self.serving.holds()));
        }
        checks
    }

    pub(super) async fn answer(
        &self,
        endpoint: &str,
        single: Option<&str>,
        query: &Query<'_>,
    ) -> Response {
        let checks = self.checks(endpoint).await;
        let (excluded, verbose) = (query.all("exclude").collect(), query.find("verbose").is_some());
        let (code, text) = health::answer(endpoint, &checks, single, excluded, verbose);
        answer::text(code, text)
    }
}
