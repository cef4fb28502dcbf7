//! What admission may know of the cluster, answered from the cache.

use std::sync::Arc;

use client::{Clock, Rng};
use futures::future::BoxFuture;
use proto::{kind::Row, status::Status};

use super::Registry;
use crate::{admission::Cluster, authz::Attributes, cache::Entry};

impl Cluster for Registry {
    fn get(&self, row: &Row, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        self.of(row).cache.get(namespace, name)
    }

    fn list(&self, row: &Row, namespace: &str) -> Vec<Arc<Entry>> {
        self.of(row).cache.snapshot().list(namespace, None).cloned().collect()
    }

    fn fresh(&self) -> BoxFuture<'_, Result<(), Status>> {
        Box::pin(async { Registry::fresh(self).await.map(drop) })
    }

    fn allows(&self, attributes: &Attributes) -> bool {
        self.authorizer().authorize(attributes).is_ok()
    }

    fn clock(&self) -> &Clock {
        &self.0.clock
    }

    fn rng(&self) -> &Rng {
        &self.0.rng
    }
}
