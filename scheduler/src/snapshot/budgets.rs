//! PodDisruptionBudgets, as far as preemption respects them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use client::{Entry, Key};
use proto::selector::Selector;
use proto::view::pod_disruption_budget::PodDisruptionBudget;

use super::PodInfo;

#[derive(Debug, Default)]
pub struct Budgets {
    all: HashMap<String, HashMap<Key, Budget>>,
    /// Moves on with every change.
    pub version: u64,
}

#[derive(Debug)]
struct Budget {
    selector: Selector,
    allowed: i64,
    /// Evicted already, and paid for.
    disrupted: HashSet<String>,
}

/// What is left of the budgets while victims are counted.
#[derive(Debug, Default)]
pub struct Spent<'a>(HashMap<&'a Key, i64>);

impl Budgets {
    pub fn put(&mut self, key: &Key, object: Option<&Arc<Entry<PodDisruptionBudget>>>) {
        self.version += 1;
        let all = self.all.entry(key.namespace.to_string()).or_default();
        all.remove(key);
        let Some(object) = object else { return };
        let selector = object.spec.selector.as_ref().and_then(|own| own.selector().ok());
        // kube-scheduler reads an empty selector as one that selects nobody.
        if let Some(selector) = selector.filter(|selector| !selector.is_empty()) {
            let allowed = object.status.disruptions_allowed;
            let disrupted = object.status.disrupted_pods.keys().cloned().collect();
            all.insert(key.clone(), Budget { selector, allowed, disrupted });
        }
    }

    /// Whether the pod's end, after those counted before, is more than its budgets allow.
    pub fn violates<'a>(&'a self, pod: &PodInfo, spent: &mut Spent<'a>) -> bool {
        let mut violates = false;
        if pod.labels().is_empty() {
            return false;
        }
        for (key, budget) in self.all.get(pod.namespace()).into_iter().flatten() {
            if !budget.selector.matches(pod.labels()) || budget.disrupted.contains(&*pod.key.name) {
                continue;
            }
            let spent = spent.0.entry(key).or_default();
            *spent += 1;
            violates |= *spent > budget.allowed;
        }
        violates
    }
}
