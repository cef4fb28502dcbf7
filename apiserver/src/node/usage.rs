//! What nodes and pods use at the moment: the resource metrics API (`metrics.k8s.io/v1beta1`) without
//! an add-on. Upstream leaves it to a server of its own behind the API server, which asks all nodes
//! all the time. Here a node is asked for `/metrics/resource` when somebody wants to know, over the
//! connection that logs take, and no more often than every few seconds; at rest nothing happens.
//!
//! CPU is a rate, so it takes two samples: where the last one is recent it is the first of the two,
//! else the node is asked twice, a second apart. The window that an answer names is the true one.
//!
//! A node that cannot be asked is left out, and so are its pods; without nodes the lists are empty.
//! The group is no kind of upstream's API server ([`proto::kind::METRICS`]): who lets others serve
//! groups must look for them before the rows, and drop these rows where another serves them.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use axum::body::Body;
use client::Clock;
use futures::future::join_all;
use http::Request;
use http_body_util::{BodyExt, Limited};
use parking_lot::Mutex;
use proto::exposition;
use tokio::time::Instant;

use super::{Nodes, connect::Agent};
use crate::registry::Registry;

mod sample;

pub use sample::{Used, UsedByNode};

use sample::Sample;

/// An answer is as good as a new one for so long.
const FRESH: Duration = Duration::from_secs(5);
/// A sample older than this begins no window: the rate would be of the past.
const RECENT: Duration = Duration::from_secs(90);
/// Between two samples where there is no recent one.
const APART: Duration = Duration::from_secs(1);
/// How long a node may take for a sample.
const PATIENCE: Duration = Duration::from_secs(10);
/// A sample has at most so many bytes: some hundred thousand containers.
const MOST: usize = 64 << 20;

/// What is known of all nodes; clones share it.
#[derive(Clone)]
pub struct Usage {
    nodes: Nodes,
    clock: Clock,
    known: Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<Known>>>>>,
}

/// Of one node.
#[derive(Default)]
struct Known {
    last: Option<(Instant, Sample)>,
    answer: Option<(Instant, Arc<UsedByNode>)>,
}

impl Usage {
    pub fn new(nodes: Nodes, clock: Clock) -> Usage {
        Usage { nodes, clock, known: Arc::default() }
    }

    /// What these nodes use, by name; who does not answer is missing.
    pub async fn of(
        &self,
        registry: &Registry,
        nodes: BTreeSet<String>,
    ) -> HashMap<String, Arc<UsedByNode>> {
        let nodes = nodes.into_iter().map(|node| async move {
            let used = self.of_one(registry, &node).await;
            Some((node, used?))
        });
        join_all(nodes).await.into_iter().flatten().collect()
    }

    /// Nodes that are gone are forgotten.
    pub fn keep(&self, exists: impl Fn(&str) -> bool) {
        self.known.lock().retain(|node, _| exists(node));
    }

    async fn of_one(&self, registry: &Registry, node: &str) -> Option<Arc<UsedByNode>> {
        let agent = match Agent::of(registry, node) {
            Ok(agent) => agent,
            Err(why) => {
                tracing::debug!(node, why = why.message, "a node cannot be asked what it uses");
                return None;
            }
        };
        let slot = self.known.lock().entry(node.to_string()).or_default().clone();
        // Whoever comes meanwhile gets the same answer.
        let mut known = slot.lock().await;
        let now = self.clock.instant();
        if let Some((at, answer)) = &known.answer
            && now - *at < FRESH
        {
            return Some(answer.clone());
        }
        match self.measure(&agent, known.last.take()).await {
            Ok((answer, sample)) => {
                let (now, answer) = (self.clock.instant(), Arc::new(answer));
                *known = Known { last: Some((now, sample)), answer: Some((now, answer.clone())) };
                Some(answer)
            }
            Err(why) => {
                tracing::warn!(node, why, "a node does not say what it uses");
                None
            }
        }
    }

    async fn measure(
        &self,
        agent: &Agent,
        last: Option<(Instant, Sample)>,
    ) -> Result<(UsedByNode, Sample), String> {
        let now = self.clock.instant();
        let first = match last.filter(|(at, _)| now - *at <= RECENT) {
            Some((_, sample)) => sample,
            None => {
                let sample = self.sample(agent).await?;
                self.clock.sleep(APART).await;
                sample
            }
        };
        let second = self.sample(agent).await?;
        Ok((sample::used(&first, &second), second))
    }

    async fn sample(&self, agent: &Agent) -> Result<Sample, String> {
        let ask = async {
            let request = Request::get("/metrics/resource").body(Body::empty());
            let request = request.map_err(|error| error.to_string())?;
            let answer = self.nodes.send(agent, request).await.map_err(|why| why.message)?;
            let status = answer.status();
            let body = Limited::new(answer.into_body(), MOST).collect().await;
            let body = body.map_err(|error| error.to_string())?.to_bytes();
            let text = String::from_utf8_lossy(&body);
            match status.is_success() {
                true => exposition::parse(&text).map_err(|error| error.to_string()),
                false => Err(format!("{status}: {}", text.trim())),
            }
        };
        let parsed = self.clock.timeout(PATIENCE, ask).await;
        let parsed = parsed.map_err(|_| "it takes too long".to_string())??;
        Ok(Sample::of(&parsed, self.clock.now()))
    }
}
