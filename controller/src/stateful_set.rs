//! StatefulSet: pods with names and claims of their own, that come, go and change one by one.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/>

mod claims;
mod identity;
mod status;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use client::{DeleteOptions, Entry};
use proto::kind::{POD, STATEFUL_SET};
use proto::time::Time;
use proto::view::controller_revision::ControllerRevision;
use proto::view::persistent_volume_claim::PersistentVolumeClaim;
use proto::view::pod::Pod;
use proto::view::stateful_set::StatefulSet;

use crate::plan::{Create, Delete, Plan, Step, Target, Told, reference};
use crate::replica_set::pod_matters;
use crate::revisions::{self, History, POD_HASH, REVISION_HASH, Revision};
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;
use identity::Whole;

/// Looks after StatefulSets.
pub struct StatefulSets;

/// So many pods are created in one plan, at most.
const BURST: usize = 500;
/// A pod that fails again and again is replaced after this, at most.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);

type Pods = BTreeMap<i32, Arc<Entry<Pod>>>;

impl Controller for StatefulSets {
    type Object = StatefulSet;
    const NAME: &'static str = "statefulset-controller";

    fn watches(watches: &mut Watches<StatefulSet>) {
        watches
            .owns::<Pod>(|set| Some(&set.spec.selector), pod_matters)
            .owns::<ControllerRevision>(|set| Some(&set.spec.selector), |_, _| true)
            .maps::<PersistentVolumeClaim>(claims::waiting);
    }

    fn plan(&self, set: &Entry<StatefulSet>, view: &View, now: Time) -> Result<Plan, PlanError> {
        let meta = &set.metadata;
        let selector = set.spec.selector.selector();
        let selector = selector.map_err(|source| PlanError::Selector { source })?;
        let is_member = |pod: &proto::meta::ObjectMeta| identity::ordinal(meta, pod).is_some();
        let claim = view.claim_where::<Pod>(&STATEFUL_SET, meta, &selector, is_member);
        let mut plan = Plan { steps: claim.steps, again: None };
        let ordinal = |pod: Arc<Entry<Pod>>| Some((identity::ordinal(meta, &pod.metadata)?, pod));
        let pods: Pods = claim.mine.into_iter().filter_map(ordinal).collect();
        if meta.deletion_timestamp.is_some() {
            status::write(set, &pods, None, &mut plan, now);
            return Ok(plan);
        }
        let whole = Whole::of(set)?;
        let history = revisions::history(
            set,
            &whole.template,
            &selector,
            set.status.collision_count,
            REVISION_HASH,
            view,
            &mut plan,
        )?;
        status::write(set, &pods, Some(&history), &mut plan, now);
        let mut rollout =
            Rollout { set, whole, history, pods, view, now, plan, todo: Todo::default() };
        rollout.run();
        Ok(rollout.finish())
    }
}

/// Whether what comes after this pod may be done now.
#[derive(PartialEq)]
enum Next {
    Goes,
    Waits,
}

/// What is to be done: claims before the pods that use them, deletions last.
#[derive(Default)]
struct Todo {
    claims: Vec<Step>,
    pods: Vec<Step>,
    patches: Vec<Step>,
    deletions: Vec<Step>,
}

/// One look at a StatefulSet.
struct Rollout<'a> {
    set: &'a Entry<StatefulSet>,
    whole: Whole,
    history: History,
    /// By ordinal, also those that are too many.
    pods: Pods,
    view: &'a View,
    now: Time,
    plan: Plan,
    todo: Todo,
}

impl Rollout<'_> {
    fn run(&mut self) {
        let condemned = self.condemned();
        for pod in &condemned {
            self.match_retention(identity::ordinal_of(&pod.metadata.name), Some(pod));
        }
        for ordinal in ordinals(self.set) {
            if self.look_after(ordinal) == Next::Waits && self.is_ordered() {
                return;
            }
            if self.todo.pods.len() >= BURST {
                return;
            }
        }
        let lowest_unhealthy = condemned.iter().rev().find(|pod| !is_healthy(pod));
        let lowest_unhealthy = lowest_unhealthy.map(|pod| pod.metadata.uid.clone());
        for pod in &condemned {
            let first = lowest_unhealthy.as_ref() == Some(&pod.metadata.uid);
            if self.end(pod, first) == Next::Waits && self.is_ordered() {
                return;
            }
        }
        self.update();
    }

    fn is_ordered(&self) -> bool {
        self.set.spec.pod_management_policy != "Parallel"
    }

    /// The pods that are too many, the last first.
    fn condemned(&self) -> Vec<Arc<Entry<Pod>>> {
        let range = ordinals(self.set);
        let outside = self.pods.iter().rev().filter(|(ordinal, _)| !range.contains(ordinal));
        outside.map(|(_, pod)| pod.clone()).collect()
    }

    /// Makes the pod with this ordinal be, and be itself.
    fn look_after(&mut self, ordinal: i32) -> Next {
        let Some(pod) = self.pods.get(&ordinal).cloned() else {
            self.create(ordinal);
            return Next::Waits;
        };
        if pod.is_terminal() {
            // The next one of this name comes when this one is gone.
            if !pod.is_terminating() {
                self.end_ended(&pod);
            }
            return Next::Waits;
        }
        if pod.is_terminating() {
            return Next::Waits;
        }
        if pod.status.phase == "Pending" {
            self.create_claims(ordinal);
        }
        if !is_healthy(&pod) && self.is_ordered() {
            return Next::Waits;
        }
        if !self.is_available(&pod) && self.is_ordered() {
            return Next::Waits;
        }
        self.match_retention(Some(ordinal), Some(&pod));
        self.todo.patches.extend(identity::repair(&pod, ordinal));
        Next::Goes
    }

    /// A pod that ends again and again is replaced ever more slowly.
    fn end_ended(&mut self, pod: &Entry<Pod>) {
        let (set, meta) = (&self.set.metadata, &pod.metadata);
        let due = self.view.replaceable(set, &meta.name, meta, LONGEST_BACKOFF, self.now);
        if due > self.now {
            self.plan.look_again(due);
        } else {
            self.delete(pod);
        }
    }

    /// Ends a pod that is too many. Pods that are not healthy block the end of others, but for
    /// the first of them.
    fn end(&mut self, pod: &Arc<Entry<Pod>>, is_first_unhealthy: bool) -> Next {
        if pod.is_terminating() {
            return Next::Waits;
        }
        let well = is_healthy(pod) && self.is_available(pod);
        if self.is_ordered() && !well && !is_first_unhealthy {
            return Next::Waits;
        }
        self.delete(pod);
        Next::Waits
    }

    /// Ends the last pod that is not of the update's revision, if all after it are well.
    fn update(&mut self) {
        let strategy = &self.set.spec.update_strategy;
        if strategy.kind == "OnDelete" {
            return;
        }
        let partition = strategy.rolling_update.as_ref().map_or(0, |rolling| rolling.partition);
        let Range { start, end } = ordinals(self.set);
        for ordinal in (start.saturating_add(partition.max(0))..end).rev() {
            let Some(pod) = self.pods.get(&ordinal).cloned() else { return };
            if revision(&pod) != self.history.update().name && !pod.is_terminating() {
                if !pod.is_terminal() {
                    self.delete(&pod);
                }
                return;
            }
            if !is_healthy(&pod) || !self.is_available(&pod) {
                return;
            }
        }
    }

    /// Available for as long as the set wants; looks again when it will be.
    fn is_available(&mut self, pod: &Pod) -> bool {
        let seconds = i64::from(self.set.spec.min_ready_seconds);
        let available = is_running_and_ready(pod) && pod.is_available(seconds, self.now);
        if let Some(since) = pod.ready_since().filter(|_| !available) {
            self.plan.look_again(since.plus(Duration::from_secs(seconds.max(0) as u64)));
        }
        available
    }

    fn create(&mut self, ordinal: i32) {
        if claims::are_stale(self.set, &self.whole, ordinal, self.view)
            || !self.create_claims(ordinal)
        {
            return;
        }
        let revision = self.revision_for(ordinal);
        let object = identity::pod(self.set, &self.whole, revision, ordinal);
        self.match_retention(Some(ordinal), None);
        self.todo.pods.push(Step::Create(Create {
            row: &POD,
            namespace: self.set.metadata.namespace.clone(),
            object: Arc::new(object),
            count: 1,
            told: Some(self.told()),
        }));
    }

    /// The current revision below the partition, above it the update's.
    fn revision_for(&self, ordinal: i32) -> &Revision {
        let strategy = &self.set.spec.update_strategy;
        let old = match &strategy.rolling_update {
            Some(rolling) => rolling.partition,
            None => self.set.status.current_replicas,
        };
        let is_old = ordinal < self.set.spec.ordinals.start.saturating_add(old);
        match status::current(self.set, &self.history) {
            current if strategy.kind != "OnDelete" && is_old => current,
            _ => self.history.update(),
        }
    }

    fn delete(&mut self, pod: &Entry<Pod>) {
        let known = |step: &Step| matches!(step, Step::Delete(delete) if delete.target.uid == pod.metadata.uid);
        if self.todo.deletions.iter().any(known) {
            return;
        }
        self.todo.deletions.push(Step::Delete(Delete {
            target: Target::of(&POD, &pod.metadata),
            options: DeleteOptions::uid(&pod.metadata.uid),
            told: Some(self.told()),
        }));
    }

    fn told(&self) -> Told {
        Told {
            created: Some(("SuccessfulCreate", "create Pod {} in StatefulSet {owner} successful")),
            not_created: Some((
                "FailedCreate",
                "create Pod {name} in StatefulSet {owner} failed error: {}",
            )),
            deleted: Some(("SuccessfulDelete", "delete Pod {} in StatefulSet {owner} successful")),
            not_deleted: Some((
                "FailedDelete",
                "delete Pod {name} in StatefulSet {owner} failed error: {}",
            )),
            ..Told::new(reference(&STATEFUL_SET, &self.set.metadata))
        }
    }

    fn finish(mut self) -> Plan {
        let Todo { claims, pods, patches, deletions } = self.todo;
        for steps in [claims, pods, patches, deletions] {
            self.plan.steps.extend(steps);
        }
        let is_current = |name: &str| name == status::current(self.set, &self.history).name;
        let is_live = |revision: &Revision| {
            is_current(&revision.name)
                || self.pods.values().any(|pod| self::revision(pod) == revision.name)
        };
        let limit = self.set.spec.revision_history_limit;
        self.history.truncate(limit, is_live, |revision| !is_live(revision), &mut self.plan);
        self.plan
    }
}

/// The ordinals of the pods that are wanted.
fn ordinals(set: &StatefulSet) -> Range<i32> {
    let start = set.spec.ordinals.start.max(0);
    start..start.saturating_add(set.replicas().max(0))
}

fn revision(pod: &Pod) -> &str {
    pod.metadata.labels.get(POD_HASH).map_or("", String::as_str)
}

fn is_running_and_ready(pod: &Pod) -> bool {
    pod.status.phase == "Running" && pod.is_ready()
}

fn is_healthy(pod: &Pod) -> bool {
    is_running_and_ready(pod) && !pod.is_terminating()
}
