//! DaemonSet: one pod on each node that the template admits.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/>

mod manage;
mod nodes;
mod pods;
mod rolling;
mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{DeleteOptions, Entry};
use proto::kind::{DAEMON_SET, POD};
use proto::time::Time;
use proto::view::ObjectReference;
use proto::view::controller_revision::ControllerRevision;
use proto::view::daemon_set::DaemonSet;
use proto::view::node::Node;
use proto::view::pod::Pod;
use serde_json::{Value, json};

use crate::plan::{Create, Delete, Plan, Step, Target, reference};
use crate::replica_set::{pod_matters, told};
use crate::revisions::{self, History, POD_HASH, Revision};
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;
use nodes::Fit;

/// Looks after DaemonSets.
pub struct DaemonSets;

/// So many pods are created, and so many deleted, in one plan, at most.
const BURST: usize = 250;
/// A pod that fails again and again is replaced after this, at most.
const LONGEST_BACKOFF: Duration = Duration::from_secs(15 * 60);
/// Counts the changes of the template, in the annotation where apps/v1 keeps that field of older
/// versions, and in a label of the pods.
const GENERATION_OF_SET: &str = "deprecated.daemonset.template.generation";
const GENERATION: &str = "pod-template-generation";

impl Controller for DaemonSets {
    type Object = DaemonSet;
    const NAME: &'static str = "daemonset-controller";

    fn watches(watches: &mut Watches<DaemonSet>) {
        watches
            .owns::<Pod>(|set| Some(&set.spec.selector), pod_matters)
            .owns::<ControllerRevision>(|set| Some(&set.spec.selector), |_, _| true)
            .maps::<Node>(nodes::concerned);
    }

    fn plan(&self, set: &Entry<DaemonSet>, view: &View, now: Time) -> Result<Plan, PlanError> {
        let meta = &set.metadata;
        let regarding = reference(&DAEMON_SET, meta);
        let mut plan = Plan::default();
        if set.spec.selector.is_empty() {
            let message =
                "This daemon set is selecting all pods. A non-empty selector is required.";
            plan.event(&regarding, "Warning", "SelectingAll", message.into());
            return Ok(plan);
        }
        if meta.deletion_timestamp.is_some() {
            return Ok(plan);
        }
        let selector = set.spec.selector.selector();
        let selector = selector.map_err(|source| PlanError::Selector { source })?;
        let template = pods::template(set)?;
        let claim = view.claim::<Pod>(&DAEMON_SET, meta, &selector);
        plan.steps = claim.steps;
        let history = revisions::history(
            set,
            &template,
            &selector,
            set.status.collision_count,
            POD_HASH,
            view,
            &mut plan,
        )?;
        let mut round = Round {
            set,
            regarding,
            template,
            nodes: nodes::all(set, view),
            pods: by_node(claim.mine),
            view,
            now,
            plan,
            creations: Vec::new(),
            deletions: Vec::new(),
            history,
        };
        round.merge_duplicates();
        round.write_status();
        round.manage();
        if round.creations.is_empty() && round.deletions.is_empty() {
            round.roll();
        }
        Ok(round.finish())
    }
}

type Pods = Vec<Arc<Entry<Pod>>>;

/// One look at a DaemonSet.
struct Round<'a> {
    set: &'a Entry<DaemonSet>,
    regarding: ObjectReference,
    template: Value,
    history: History,
    nodes: BTreeMap<String, Fit>,
    /// The set's pods by the node for which they are, the oldest first.
    pods: BTreeMap<String, Pods>,
    view: &'a View,
    now: Time,
    plan: Plan,
    /// Nodes that get a pod.
    creations: Vec<String>,
    deletions: Pods,
}

/// Leaves out those that have ended and are about to go.
fn by_node(pods: Pods) -> BTreeMap<String, Pods> {
    let mut by_node: BTreeMap<String, Pods> = BTreeMap::new();
    for pod in pods {
        if pod.is_terminal() && pod.is_terminating() {
            continue;
        }
        if let Some(node) = pods::node(&pod) {
            by_node.entry(node.to_string()).or_default().push(pod);
        }
    }
    let age = |pod: &Arc<Entry<Pod>>| {
        let meta = &pod.metadata;
        (pod.spec.node_name.is_empty(), meta.creation_timestamp, meta.name.clone())
    };
    by_node.values_mut().for_each(|pods| pods.sort_by_cached_key(age));
    by_node
}

impl Round<'_> {
    /// Whether the pod is of the present template.
    fn is_updated(&self, pod: &Pod) -> bool {
        let labels = &pod.metadata.labels;
        let generation = self.set.metadata.annotations.get(GENERATION_OF_SET);
        labels.get(POD_HASH).is_some_and(|hash| hash == self.history.update().hash())
            || generation.is_some() && labels.get(GENERATION) == generation
    }

    fn is_available(&self, pod: &Pod) -> bool {
        pod.is_available(i64::from(self.set.spec.min_ready_seconds), self.now)
    }

    /// Pods of another revision of the same template become the update's, and that one goes.
    fn merge_duplicates(&mut self) {
        let hash = self.history.update().hash();
        for duplicate in self.history.duplicates() {
            let meta = &duplicate.metadata;
            let name = meta.labels.get(POD_HASH).unwrap_or(&meta.name);
            for pod in self.pods.values().flatten() {
                if pod.metadata.labels.get(POD_HASH) == Some(name) {
                    let body = json!({ "metadata": { "labels": { POD_HASH: hash } } });
                    self.plan.patch(&POD, &pod.metadata, body);
                }
            }
            self.plan.delete(&proto::kind::CONTROLLER_REVISION, meta);
        }
    }

    fn finish(mut self) -> Plan {
        let told = told(&self.regarding);
        for node in self.creations.iter().take(BURST) {
            let object = pods::pod(self.set, &self.template, self.history.update(), node);
            self.plan.steps.push(Step::Create(Create {
                row: &POD,
                namespace: self.set.metadata.namespace.clone(),
                object: Arc::new(object),
                count: 1,
                told: Some(told.clone()),
            }));
        }
        for pod in self.deletions.iter().take(BURST) {
            self.plan.steps.push(Step::Delete(Delete {
                target: Target::of(&POD, &pod.metadata),
                options: DeleteOptions::uid(&pod.metadata.uid),
                told: Some(told.clone()),
            }));
        }
        let is_live = |revision: &Revision| {
            let of = |pod: &Pod| {
                pod.metadata.labels.get(POD_HASH).is_some_and(|it| it == revision.hash())
            };
            self.pods.values().flatten().any(|pod| of(pod))
        };
        let limit = self.set.spec.revision_history_limit;
        self.history.truncate(limit, is_live, |_| true, &mut self.plan);
        self.plan
    }
}
