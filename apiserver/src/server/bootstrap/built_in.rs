//! Objects without a namespace that every cluster has: priorities, the flows of requests, and the
//! range of Service addresses. Made where they are missing, at the start and whenever one of those
//! that upstream reconciles is deleted.

use axum::Router;
use client::Clock;
use futures::future::{select_all, try_join_all};
use http::Method;
use proto::{
    kind::{self, Row},
    status::Status,
    time::Time,
};
use serde_json::{Value, json};

use super::{create, send};
use crate::{
    kinds::{classes::SYSTEM_PRIORITIES, flow::built_in, service::range::Networks},
    registry::Registry,
};

/// Made again when they are deleted.
const WATCHED: [&Row; 3] =
    [&kind::FLOW_SCHEMA, &kind::PRIORITY_LEVEL_CONFIGURATION, &kind::SERVICE_CIDR];

/// Makes all of them that are missing, and puts right those that are there.
pub(in crate::server) async fn ensure(
    router: &Router,
    networks: &Networks,
    now: Time,
) -> Result<(), Status> {
    let parts = parts(networks);
    try_join_all(parts.iter().map(|part| part.ensure(router, now))).await.map(drop)
}

/// Does so again after every deletion; never ends.
pub(in crate::server) async fn keep(
    router: &Router,
    registry: &Registry,
    networks: Networks,
    clock: &Clock,
) {
    loop {
        let from = registry.cache().progress();
        let deletions = WATCHED.map(|row| Box::pin(deletion(registry, row, from)));
        if let Err(status) = ensure(router, &networks, clock.now()).await {
            tracing::warn!(%status, "making what every cluster has");
        }
        select_all(deletions).await;
    }
}

/// Ends when an object of the kind is deleted, or may have been.
async fn deletion(registry: &Registry, row: &Row, from: u64) {
    let Ok(mut watcher) = registry.of(row).cache.watcher(from) else { return };
    while let Ok(changes) = watcher.next().await {
        if changes.iter().any(|change| change.new.is_none()) {
            return;
        }
    }
}

/// An object that is made where it is missing.
struct Part {
    /// Of the collection.
    path: String,
    object: Value,
    keep: Keep,
}

/// What of an object that is there is put right.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    Nothing,
    Spec,
    /// The spec, unless an administrator has taken it over.
    OurSpec,
    Readiness,
}

impl Part {
    fn new(row: &Row, object: Value, keep: Keep) -> Part {
        Part { path: row.path("", ""), object, keep }
    }

    async fn ensure(&self, router: &Router, now: Time) -> Result<(), Status> {
        let created = create(router, &self.path, &self.object).await?;
        let name = self.object["metadata"]["name"].as_str().unwrap_or_default();
        let path = format!("{}/{name}", self.path);
        match self.keep {
            Keep::Spec | Keep::OurSpec if !created => self.correct(router, &path).await,
            Keep::Readiness => {
                if !created {
                    self.widen(router, &path).await?;
                }
                ready(router, &path, now).await
            }
            _ => Ok(()),
        }
    }

    /// Adds the second family to a cluster that had one.
    async fn widen(&self, router: &Router, path: &str) -> Result<(), Status> {
        let mut current = send(router, Method::GET, path, None).await?;
        let cidrs =
            |object: &Value| object["spec"]["cidrs"].as_array().cloned().unwrap_or_default();
        let (known, wanted) = (cidrs(&current), cidrs(&self.object));
        match (known.as_slice(), wanted.as_slice()) {
            ([first], [same, _]) if first == same => {
                current["spec"]["cidrs"] = wanted.into();
                replace(router, path, &current).await
            }
            _ => Ok(()),
        }
    }

    async fn correct(&self, router: &Router, path: &str) -> Result<(), Status> {
        let mut current = send(router, Method::GET, path, None).await?;
        let ours = current["metadata"]["annotations"][built_in::AUTO_UPDATE] == "true";
        let wanted = &self.object["spec"];
        if current["spec"] == *wanted || self.keep == Keep::OurSpec && !ours {
            return Ok(());
        }
        current["spec"] = wanted.clone();
        replace(router, path, &current).await
    }
}

fn parts(networks: &Networks) -> Vec<Part> {
    let row = &kind::PRIORITY_CLASS;
    let priorities =
        SYSTEM_PRIORITIES.iter().map(|class| Part::new(row, priority(*class), Keep::Nothing));
    let flows = [(true, Keep::Spec), (false, Keep::OurSpec)].into_iter();
    let flows = flows.flat_map(|(mandatory, keep)| {
        let row = &kind::PRIORITY_LEVEL_CONFIGURATION;
        let levels = built_in::priority_levels(mandatory).into_iter();
        let levels = levels.map(move |object| Part::new(row, object, keep));
        let schemas = built_in::flow_schemas(mandatory).into_iter();
        levels.chain(schemas.map(move |object| Part::new(&kind::FLOW_SCHEMA, object, keep)))
    });
    let cidrs: Vec<String> = networks.all().map(|network| network.to_string()).collect();
    let range = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": cidrs},
    });
    let range = Part::new(&kind::SERVICE_CIDR, range, Keep::Readiness);
    priorities.chain(flows).chain([range]).collect()
}

/// Upstream's controller of the default range says that it is ready.
async fn ready(router: &Router, path: &str, now: Time) -> Result<(), Status> {
    let mut current = send(router, Method::GET, path, None).await?;
    let conditions = current["status"]["conditions"].as_array();
    if conditions.into_iter().flatten().any(|condition| condition["type"] == "Ready") {
        return Ok(());
    }
    current["status"]["conditions"] = json!([{
        "type": "Ready",
        "status": "True",
        "reason": "",
        "message": "Kubernetes default Service CIDR is ready",
        "lastTransitionTime": now.to_string(),
    }]);
    replace(router, &format!("{path}/status"), &current).await
}

/// Another server may have been faster; then it has done the same.
async fn replace(router: &Router, path: &str, object: &Value) -> Result<(), Status> {
    match send(router, Method::PUT, path, Some(object)).await {
        Err(status) if status.code != 409 => Err(status),
        _ => Ok(()),
    }
}

fn priority((name, value): (&str, i64)) -> Value {
    let what = match name {
        "system-node-critical" => {
            "Used for system critical pods that must not be moved from their current node."
        }
        _ => {
            "Used for system critical pods that must run in the cluster, but can be moved to \
             another node if necessary."
        }
    };
    json!({
        "apiVersion": "scheduling.k8s.io/v1",
        "kind": "PriorityClass",
        "metadata": {"name": name},
        "value": value,
        "description": what,
    })
}
