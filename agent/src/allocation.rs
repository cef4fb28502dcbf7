//! What the pods of this node have been given of it, counted in one place: whom the node takes and
//! whose resize it grants is decided here, one after the other, so that nothing is given twice
//! (the kubelet's allocation manager). The ledger is pure; only [`Allocations`] locks and wakes.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use proto::quantity::Quantity;
use proto::time::Time;
use tokio::sync::Notify;

use crate::admission::{Held, Rejection, Standing, admit, shown};
use crate::plan::End;
use crate::pod::{COMPUTE, Pod, Qos};
use crate::resize::Pending;
use crate::worker::Ender;

/// Shared by the workers of a node.
#[derive(Clone, Default)]
pub struct Allocations(Arc<Mutex<Shared>>);

#[derive(Default)]
struct Shared {
    ledger: Ledger,
    /// Who waits for room.
    wakers: BTreeMap<String, Arc<Notify>>,
    /// How to end those who are there.
    enders: BTreeMap<String, Ender>,
}

impl Allocations {
    /// Takes a pod that the node does not have yet, or says why not. For a critical one others
    /// have to go. `ender` ends this one.
    pub fn admit(&self, pod: &Pod, node: &Standing, ender: &Ender) -> Result<(), Rejection> {
        let mut shared = self.0.lock();
        let uid = &pod.metadata.uid;
        let mut verdict = shared.ledger.admit(pod, node);
        if verdict.as_ref().is_err_and(Rejection::lacks_room) && pod.is_critical() {
            for victim in shared.ledger.victims(pod, &node.allocatable) {
                shared.ledger.forget(&victim);
                shared.wakers.remove(&victim);
                if let Some(victim) = shared.enders.remove(&victim) {
                    victim.end(preempted());
                }
            }
            verdict = shared.ledger.admit(pod, node);
        }
        if verdict.is_ok() {
            shared.enders.insert(uid.clone(), ender.clone());
        }
        verdict
    }

    /// Counts a pod that the node has: with what it has been given.
    pub fn keep(&self, pod: &Pod, ender: &Ender) {
        let mut shared = self.0.lock();
        let uid = &pod.metadata.uid;
        shared.ledger.set(uid, Held::of(pod));
        shared.enders.insert(uid.clone(), ender.clone());
    }

    /// Gives a running pod what it asks for now, or says why not; `wake` is notified when it
    /// may be worth asking again.
    pub fn grant(
        &self,
        pod: &Pod,
        capacity: &BTreeMap<String, Quantity>,
        now: Time,
        wake: &Arc<Notify>,
    ) -> Option<Pending> {
        let mut shared = self.0.lock();
        let uid = &pod.metadata.uid;
        let before = shared.ledger.held.get(uid).cloned();
        let pending = shared.ledger.grant(pod, capacity, now);
        match &pending {
            Some(pending) if pending.reason == "Deferred" => {
                shared.wakers.insert(uid.clone(), wake.clone());
            }
            _ => drop(shared.wakers.remove(uid)),
        }
        if shared.ledger.held.get(uid) != before.as_ref() {
            shared.wake(uid);
        }
        pending
    }

    /// The pod holds nothing any more.
    pub fn release(&self, uid: &str) {
        let mut shared = self.0.lock();
        shared.enders.remove(uid);
        if shared.ledger.forget(uid) {
            shared.wakers.remove(uid);
            shared.wake(uid);
        }
    }
}

fn preempted() -> End {
    let why = "Pod was preempted by Kubelet to accommodate a critical pod.";
    let end = End::failed("Preempting", "Preempted in order to admit critical pod");
    End { disruption: Some(why.into()), ..end }
}

impl Shared {
    /// There may be room now.
    fn wake(&self, but: &str) {
        self.wakers.iter().filter(|(uid, _)| *uid != but).for_each(|(_, wake)| wake.notify_one());
    }
}

/// Who has what, and who waits for more.
#[derive(Debug, Default)]
struct Ledger {
    held: BTreeMap<String, Held>,
    deferred: BTreeMap<String, Wish>,
}

/// Of two that fit, the first in this order gets it: by priority, class, and how long it waits.
type Order = (Reverse<i32>, Qos, Time);

#[derive(Debug)]
struct Wish {
    order: Order,
    wanted: Held,
}

impl Ledger {
    fn admit(&mut self, pod: &Pod, node: &Standing) -> Result<(), Rejection> {
        let uid = &pod.metadata.uid;
        if !self.held.contains_key(uid) {
            admit(pod, node, &self.others(uid))?;
            self.set(uid, Held::of(pod));
        }
        Ok(())
    }

    fn set(&mut self, uid: &str, held: Held) {
        self.held.insert(uid.into(), held);
    }

    /// True if there was anything.
    fn forget(&mut self, uid: &str) -> bool {
        self.deferred.remove(uid);
        self.held.remove(uid).is_some()
    }

    /// Who has to go so that this pod has room: those that matter least, and no more than must.
    /// Nobody, where that would not help.
    fn victims(&self, pod: &Pod, capacity: &BTreeMap<String, Quantity>) -> Vec<String> {
        let (uid, wanted) = (&pod.metadata.uid, Held::of(pod));
        let fits = |gone: &[&String]| {
            capacity.iter().all(|(name, capacity)| {
                let stay =
                    self.held.iter().filter(|(other, _)| *other != uid && !gone.contains(other));
                let used: Quantity = stay.map(|(_, held)| held.amount(name)).sum();
                wanted.amount(name).is_zero() || used + wanted.amount(name) <= *capacity
            })
        };
        let others = self.held.iter().filter(|(other, held)| *other != uid && !held.worth.0);
        let mut rest: Vec<(&String, &Held)> = others.collect();
        rest.sort_by_key(|(_, held)| (held.worth, COMPUTE.map(|name| held.amount(name))));
        let mut gone = Vec::new();
        while !fits(&gone) && !rest.is_empty() {
            // One that is enough, or else the least.
            let enough = |(other, _): &(&String, &Held)| {
                fits(&gone.iter().copied().chain([*other]).collect::<Vec<_>>())
            };
            let next = rest.iter().position(enough).unwrap_or(0);
            gone.push(rest.remove(next).0);
        }
        if !fits(&gone) {
            return Vec::new();
        }
        // Whoever turns out to be in nobody's way stays, the worthiest first.
        for other in gone.clone().into_iter().rev() {
            let without: Vec<&String> = gone.iter().copied().filter(|it| *it != other).collect();
            if fits(&without) {
                gone = without;
            }
        }
        gone.into_iter().cloned().collect()
    }

    fn others(&self, uid: &str) -> Held {
        let mut sum = Held::default();
        for (_, held) in self.held.iter().filter(|(other, _)| *other != uid) {
            for (name, amount) in &held.amounts {
                *sum.amounts.entry(name.clone()).or_default() += *amount;
            }
            sum.ports.extend(held.ports.iter().cloned());
        }
        sum
    }

    fn grant(
        &mut self,
        pod: &Pod,
        capacity: &BTreeMap<String, Quantity>,
        now: Time,
    ) -> Option<Pending> {
        let (uid, wanted) = (&pod.metadata.uid, Held::of(pod));
        let capacity = |name: &str| capacity.get(name).copied().unwrap_or_default();
        let held = self.held.get(uid).cloned().unwrap_or_default();
        let more: Vec<&str> =
            COMPUTE.into_iter().filter(|name| wanted.amount(name) > held.amount(name)).collect();
        if let Some(name) = more.iter().find(|name| wanted.amount(name) > capacity(name)) {
            self.deferred.remove(uid);
            let message = format!(
                "Node didn't have enough capacity: {name}, requested: {}, capacity: {}",
                shown(name, wanted.amount(name)),
                shown(name, capacity(name))
            );
            return Some(Pending { reason: "Infeasible", message });
        }
        let since = self.deferred.get(uid).map_or(now, |wish| wish.order.2);
        let order = (Reverse(pod.spec.priority.unwrap_or(0)), pod.qos(), since);
        let mut used = self.others(uid);
        // Those who come first get first what they can have.
        for (other, wish) in self.deferred.iter().filter(|(other, _)| *other != uid) {
            let have = self.held.get(other).cloned().unwrap_or_default();
            let fits = COMPUTE.iter().all(|name| {
                let rest = self.others(other).amount(name);
                wish.wanted.amount(name) <= have.amount(name)
                    || rest + wish.wanted.amount(name) <= capacity(name)
            });
            if fits && (wish.order, other) < (order, uid) {
                for name in COMPUTE {
                    let extra = wish.wanted.amount(name).max(have.amount(name)) - have.amount(name);
                    *used.amounts.entry(name.into()).or_default() += extra;
                }
            }
        }
        let crowded =
            more.iter().find(|name| wanted.amount(name) + used.amount(name) > capacity(name));
        if let Some(name) = crowded {
            let message = format!(
                "Node didn't have enough resource: {name}, requested: {}, used: {}, capacity: {}",
                shown(name, wanted.amount(name)),
                shown(name, used.amount(name)),
                shown(name, capacity(name))
            );
            self.deferred.insert(uid.clone(), Wish { order, wanted });
            return Some(Pending { reason: "Deferred", message });
        }
        self.deferred.remove(uid);
        self.set(uid, wanted);
        None
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::pod::CRITICAL;

    fn pod(uid: &str, cpu: &str, priority: i32) -> Pod {
        serde_json::from_value(json!({"metadata": {"uid": uid}, "spec": {"priority": priority,
            "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}}))
        .unwrap()
    }

    fn four() -> BTreeMap<String, Quantity> {
        [("cpu".to_string(), Quantity::new(4)), ("pods".to_string(), Quantity::new(9))].into()
    }

    fn said(pending: Option<Pending>) -> String {
        pending.map(|it| format!("{}: {}", it.reason, it.message)).unwrap_or_default()
    }

    #[test]
    fn a_node_gives_what_it_has() {
        let mut ledger = Ledger::default();
        let now = Time::from_unix(0);
        ledger.set("a", Held::of(&pod("a", "1", 0)));
        ledger.set("b", Held::of(&pod("b", "2", 0)));
        let table = [
            ("2", ""),
            ("1", ""),
            (
                "5",
                "Infeasible: Node didn't have enough capacity: cpu, requested: 5000, \
                 capacity: 4000",
            ),
            (
                "3",
                "Deferred: Node didn't have enough resource: cpu, requested: 3000, used: 2000, \
                 capacity: 4000",
            ),
            // It may always have less.
            ("500m", ""),
        ];
        for (cpu, expected) in table {
            assert_eq!(said(ledger.grant(&pod("a", cpu, 0), &four(), now)), expected);
        }
        assert!(ledger.deferred.is_empty());
    }

    #[test]
    fn who_matters_more_is_first() {
        let mut ledger = Ledger::default();
        let at = Time::from_unix;
        for uid in ["low", "high", "full"] {
            ledger.set(uid, Held::of(&pod(uid, "1", 0)));
        }
        ledger.set("full", Held::of(&pod("full", "2", 0)));
        let (low, high) = (pod("low", "2", 0), pod("high", "2", 7));
        for asking in [&low, &high] {
            assert!(said(ledger.grant(asking, &four(), at(1))).starts_with("Deferred"));
        }
        ledger.set("full", Held::of(&pod("full", "1", 0)));
        // There is room for one of them.
        assert!(said(ledger.grant(&low, &four(), at(2))).starts_with("Deferred"));
        assert_eq!(said(ledger.grant(&high, &four(), at(2))), "");
        assert!(ledger.forget("full"));
        assert_eq!(said(ledger.grant(&low, &four(), at(3))), "");
    }

    #[test]
    fn critical_pods_make_room() {
        let mut ledger = Ledger::default();
        for (uid, cpu, priority) in [
            ("small", "500m", 0),
            ("large", "2", 0),
            ("worthy", "1", 9),
            ("vital", "500m", CRITICAL),
        ] {
            ledger.set(uid, Held::of(&pod(uid, cpu, priority)));
        }
        let table = [
            ("500m", vec!["small"]),
            ("2", vec!["large"]),
            ("2500m", vec!["small", "large"]),
            ("3500m", vec!["small", "large", "worthy"]),
            // It would not help.
            ("4", vec![]),
        ];
        for (cpu, mut expected) in table {
            let mut victims = ledger.victims(&pod("new", cpu, CRITICAL), &four());
            victims.sort();
            expected.sort_unstable();
            assert_eq!(victims, expected, "{cpu}");
        }
    }

    #[test]
    fn who_is_there_is_counted_once() {
        let mut ledger = Ledger::default();
        let node = Standing { allocatable: four(), ..Standing::default() };
        assert_eq!(ledger.admit(&pod("a", "3", 0), &node), Ok(()));
        assert_eq!(ledger.admit(&pod("a", "3", 0), &node), Ok(()));
        assert_eq!(ledger.admit(&pod("b", "2", 0), &node).unwrap_err().reason, "OutOfcpu");
        assert!(ledger.forget("a") && !ledger.forget("a"));
        assert_eq!(ledger.admit(&pod("b", "2", 0), &node), Ok(()));
    }
}
