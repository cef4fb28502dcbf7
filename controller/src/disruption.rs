//! PodDisruptionBudgets: how many of the pods they select may be disrupted now. Evictions take from
//! that number; this controller says anew what it is.
//! <https://kubernetes.io/docs/concepts/workloads/pods/disruptions/>

mod scale;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Change, Entry, Key};
use proto::kind::POD_DISRUPTION_BUDGET;
use proto::meta::Labels;
use proto::selector::{Selector, SelectorError};
use proto::time::Time;
use proto::view::deployment::Deployment;
use proto::view::pod::Pod;
use proto::view::pod_disruption_budget::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use proto::view::replica_set::ReplicaSet;
use proto::view::replication_controller::ReplicationController;
use proto::view::stateful_set::StatefulSet;
use proto::view::{Condition, IntOrString};
use serde_json::{Value, json};

use crate::plan::{Plan, reference};
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

/// Looks after the status of PodDisruptionBudgets.
pub struct Disruption;

/// An evicted pod that is still there after this long is not going to leave.
const DELETION: Duration = Duration::from_secs(2 * 60);

/// What a budget demands.
#[derive(Debug, Default, PartialEq, Eq)]
struct Demand {
    expected: i64,
    desired: i64,
    /// Pods without a controller, where its scale would be needed.
    unmanaged: Vec<String>,
}

impl Controller for Disruption {
    type Object = PodDisruptionBudget;
    const NAME: &'static str = "disruption-controller";

    fn watches(watches: &mut Watches<PodDisruptionBudget>) {
        watches
            .maps::<Pod>(budgets_of)
            .maps::<ReplicaSet>(|change, view| scaled(change, view, |set| set.spec.replicas))
            .maps::<Deployment>(|change, view| scaled(change, view, |it| it.spec.replicas))
            .maps::<StatefulSet>(|change, view| scaled(change, view, |set| set.spec.replicas))
            .maps::<ReplicationController>(|change, view| {
                scaled(change, view, |it| it.spec.replicas)
            });
    }

    fn plan(
        &self,
        budget: &Entry<PodDisruptionBudget>,
        view: &View,
        now: Time,
    ) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        if budget.metadata.deletion_timestamp.is_some() {
            return Ok(plan);
        }
        let selector = budget.spec.selector.as_ref().map(|selector| selector.selector());
        let selector = selector.transpose().map_err(|source| PlanError::Selector { source })?;
        let selected = |selector: &Selector| view.selected(&budget.metadata.namespace, selector);
        let mut pods = selector.as_ref().map_or_else(Vec::new, selected);
        pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        let old = &budget.status;
        let regarding = reference(&POD_DISRUPTION_BUDGET, &budget.metadata);
        let demand = match demand(budget, &pods, view) {
            Ok(demand) => demand,
            Err(why) => {
                let status = PodDisruptionBudgetStatus {
                    disruptions_allowed: 0,
                    conditions: conditions(
                        old,
                        "False",
                        "SyncFailed",
                        &why,
                        old.observed_generation,
                        now,
                    ),
                    ..old.clone()
                };
                if status != *old {
                    let told = format!("Failed to calculate the number of expected pods: {why}");
                    plan.event(&regarding, "Warning", "CalculateExpectedPodCountFailed", told);
                    plan.status(&POD_DISRUPTION_BUDGET, &budget.metadata, written(old, &status));
                }
                return Ok(plan);
            }
        };
        let disrupted = disrupted(old, &pods, now, &mut plan);
        let healthy = |pod: &&Arc<Entry<Pod>>| {
            !pod.is_terminating() && !disrupted.contains_key(&pod.metadata.name) && pod.is_ready()
        };
        let current = pods.iter().filter(healthy).count() as i64;
        // Without pods nothing is allowed: the first ones would be unprotected until the next look.
        let allowed = if demand.expected <= 0 { 0 } else { (current - demand.desired).max(0) };
        let (truth, reason) = match allowed {
            0 => ("False", "InsufficientPods"),
            _ => ("True", "SufficientPods"),
        };
        let generation = budget.metadata.generation;
        let status = PodDisruptionBudgetStatus {
            observed_generation: generation,
            disruptions_allowed: allowed,
            current_healthy: current,
            desired_healthy: demand.desired,
            expected_pods: demand.expected,
            disrupted_pods: disrupted,
            conditions: conditions(old, truth, reason, "", generation, now),
        };
        if status == *old && !old.conditions.is_empty() {
            return Ok(plan);
        }
        if pods.is_empty() {
            plan.event(&regarding, "Normal", "NoPods", "No matching pods found".into());
        }
        if !demand.unmanaged.is_empty() {
            let selector = selector.unwrap_or_default();
            plan.event(&regarding, "Warning", "UnmanagedPods", unmanaged(&selector, &demand));
        }
        plan.status(&POD_DISRUPTION_BUDGET, &budget.metadata, written(old, &status));
        Ok(plan)
    }
}

/// Whether the budget speaks of something with these labels; without a selector it speaks of
/// nothing.
fn selects(budget: &PodDisruptionBudget, labels: &Labels) -> Result<bool, SelectorError> {
    match &budget.spec.selector {
        Some(selector) => Ok(selector.selector()?.matches(labels)),
        None => Ok(false),
    }
}

fn demand(
    budget: &PodDisruptionBudget,
    pods: &[Arc<Entry<Pod>>],
    view: &View,
) -> Result<Demand, String> {
    let spec = &budget.spec;
    let wrong = |value: &IntOrString| match value {
        IntOrString::Text(text) => format!("invalid value for IntOrString: {text}"),
        IntOrString::Int(number) => format!("invalid value for IntOrString: {number}"),
    };
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => {
            let (expected, unmanaged) = scale::expected(pods, view)?;
            let most = most.scaled(expected, true).ok_or_else(|| wrong(most))?;
            Ok(Demand { expected, desired: (expected - most).max(0), unmanaged })
        }
        (None, Some(IntOrString::Int(least))) => {
            Ok(Demand { expected: pods.len() as i64, desired: *least, unmanaged: Vec::new() })
        }
        (None, Some(least)) => {
            let (expected, unmanaged) = scale::expected(pods, view)?;
            let desired = least.scaled(expected, true).ok_or_else(|| wrong(least))?;
            Ok(Demand { expected, desired, unmanaged })
        }
        (None, None) => Ok(Demand::default()),
    }
}

/// The evicted pods that have yet to go. Those that should have gone long ago count again.
fn disrupted(
    old: &PodDisruptionBudgetStatus,
    pods: &[Arc<Entry<Pod>>],
    now: Time,
    plan: &mut Plan,
) -> BTreeMap<String, Time> {
    let mut kept = BTreeMap::new();
    for pod in pods.iter().filter(|pod| !pod.is_terminating()) {
        let name = &pod.metadata.name;
        let Some(evicted) = old.disrupted_pods.get(name) else { continue };
        let end = evicted.plus(DELETION);
        if end < now {
            let why = "Pod was expected by PDB to be deleted but it wasn't";
            let regarding = reference(&proto::kind::POD, &pod.metadata);
            plan.event(&regarding, "Warning", "NotDeleted", why.into());
        } else {
            plan.look_again(end.plus(Duration::from_secs(1)));
            kept.insert(name.clone(), *evicted);
        }
    }
    kept
}

fn unmanaged(selector: &Selector, demand: &Demand) -> String {
    format!(
        "Pods selected by this PodDisruptionBudget (selector: {selector}) were found to be \
         unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may \
         result in undefined behavior. To account for these pods please set \
         \".spec.minAvailable\" field of the PDB to an integer value. Unmanaged pods: {:?}",
        demand.unmanaged
    )
}

/// The conditions with DisruptionAllowed as it is now.
fn conditions(
    old: &PodDisruptionBudgetStatus,
    status: &str,
    reason: &str,
    message: &str,
    generation: i64,
    now: Time,
) -> Vec<Condition> {
    let mut condition = Condition {
        kind: "DisruptionAllowed".into(),
        status: status.into(),
        reason: reason.into(),
        message: message.into(),
        observed_generation: generation,
        last_transition_time: Some(now),
        ..Condition::default()
    };
    let mut conditions = old.conditions.clone();
    match conditions.iter_mut().find(|known| known.kind == condition.kind) {
        Some(known) => {
            if known.status == condition.status && known.last_transition_time.is_some() {
                condition.last_transition_time = known.last_transition_time;
            }
            *known = condition;
        }
        None => conditions.push(condition),
    }
    conditions
}

/// The merge patch of the status: zeros are said, and pods that are off the list taken off it.
fn written(old: &PodDisruptionBudgetStatus, new: &PodDisruptionBudgetStatus) -> Value {
    let mut disrupted = json!(new.disrupted_pods);
    for gone in old.disrupted_pods.keys().filter(|name| !new.disrupted_pods.contains_key(*name)) {
        disrupted[gone] = Value::Null;
    }
    let conditions: Vec<Value> = new
        .conditions
        .iter()
        .map(|condition| {
            let mut condition = json!(condition);
            // Required, also where there is nothing to say.
            if condition.get("message").is_none() {
                condition["message"] = "".into();
            }
            condition
        })
        .collect();
    json!({
        "observedGeneration": new.observed_generation,
        "disruptionsAllowed": new.disruptions_allowed,
        "currentHealthy": new.current_healthy,
        "desiredHealthy": new.desired_healthy,
        "expectedPods": new.expected_pods,
        "disruptedPods": disrupted,
        "conditions": conditions,
    })
}

/// The budgets that speak of a pod, before or after its change.
fn budgets_of(change: &Change<Pod>, view: &View) -> Vec<Key> {
    let pods: Vec<_> = change.old.iter().chain(&change.new).collect();
    let mut budgets = view.namespace::<PodDisruptionBudget>(&change.key.namespace);
    budgets.retain(|budget| {
        pods.iter().any(|pod| selects(budget, &pod.metadata.labels).unwrap_or(false))
    });
    budgets.iter().map(|budget| Key::of(&budget.metadata)).collect()
}

/// All budgets of the namespace, when a scale has changed: few are there, and rarely.
fn scaled<T>(change: &Change<T>, view: &View, scale: fn(&T) -> Option<i32>) -> Vec<Key> {
    let before = change.old.as_ref().map(|entry| scale(entry));
    let after = change.new.as_ref().map(|entry| scale(entry));
    match before == after {
        true => Vec::new(),
        false => {
            let budgets = view.namespace::<PodDisruptionBudget>(&change.key.namespace);
            budgets.iter().map(|budget| Key::of(&budget.metadata)).collect()
        }
    }
}

#[cfg(test)]
mod tests;
