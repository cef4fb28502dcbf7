//! ResourceQuotas say what their namespace uses. The API server charges what is created in the
//! same transaction; this counts anew, and so gives back what is gone.
//! <https://kubernetes.io/docs/concepts/policy/resource-quotas/>

use std::collections::HashSet;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use client::{Entry, Key};
use proto::kind::{
    self, PERSISTENT_VOLUME_CLAIM, POD, RESOURCE_CLAIM, RESOURCE_QUOTA, ROWS, Row, SERVICE,
};
use proto::quantity::Quantity;
use proto::quota::{self, Counted, Surroundings};
use proto::time::Time;
use proto::view::cron_job::CronJob;
use proto::view::deployment::Deployment;
use proto::view::endpoint_slice::EndpointSlice;
use proto::view::endpoints::Endpoints;
use proto::view::horizontal_pod_autoscaler::HorizontalPodAutoscaler;
use proto::view::job::Job;
use proto::view::lease::Lease;
use proto::view::persistent_volume_claim::PersistentVolumeClaim;
use proto::view::pod::Pod;
use proto::view::replica_set::ReplicaSet;
use proto::view::resource_claim::{DeviceClass, ResourceClaim};
use proto::view::resource_quota::ResourceQuota;
use proto::view::service::Service;
use proto::view::{Meta, Resources};
use serde_json::{Value, json};

use crate::plan::Plan;
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

/// Counts.
pub struct Quotas;

/// Watches of several kinds are not in step: what was charged a moment ago may belong to an object
/// that has not come by yet. So long it is not given back.
const STEP: Duration = Duration::from_secs(5);

impl Controller for Quotas {
    type Object = ResourceQuota;
    const NAME: &'static str = "resourcequota-controller";

    fn watches(watches: &mut Watches<ResourceQuota>) {
        let of = |key: &Key, view: &View| -> Vec<Key> {
            let quotas = view.namespace::<ResourceQuota>(&key.namespace);
            quotas.iter().map(|quota| Key::of(&quota.metadata)).collect()
        };
        for &row in COUNTABLE.iter() {
            // Kinds that others read too come from the same informers.
            let known = |other: &Row| row.path("", "") == other.path("", "");
            match () {
                () if known(&POD) => watches.counts::<Pod>(row, of),
                () if known(&SERVICE) => watches.counts::<Service>(row, of),
                () if known(&PERSISTENT_VOLUME_CLAIM) => {
                    watches.counts::<PersistentVolumeClaim>(row, of)
                }
                () if known(&RESOURCE_CLAIM) => watches.counts::<ResourceClaim>(row, of),
                () if known(&RESOURCE_QUOTA) => watches.counts::<ResourceQuota>(row, of),
                () if known(&kind::DEPLOYMENT) => watches.counts::<Deployment>(row, of),
                () if known(&kind::REPLICA_SET) => watches.counts::<ReplicaSet>(row, of),
                () if known(&kind::ENDPOINT_SLICE) => watches.counts::<EndpointSlice>(row, of),
                () if known(&kind::ENDPOINTS) => watches.counts::<Endpoints>(row, of),
                () if known(&kind::JOB) => watches.counts::<Job>(row, of),
                () if known(&kind::CRON_JOB) => watches.counts::<CronJob>(row, of),
                () if known(&kind::HORIZONTAL_POD_AUTOSCALER) => {
                    watches.counts::<HorizontalPodAutoscaler>(row, of)
                }
                () if known(&kind::LEASE) => watches.counts::<Lease>(row, of),
                () => watches.counts::<Meta>(row, of),
            };
        }
        watches
            .maps::<Pod>(move |change, view| match (&change.old, &change.new) {
                (Some(old), Some(new)) if same_cost(old, new) => Vec::new(),
                _ => of(&change.key, view),
            })
            .maps::<Service>(move |change, view| match (&change.old, &change.new) {
                (Some(old), Some(new)) if old.spec == new.spec => Vec::new(),
                _ => of(&change.key, view),
            })
            .maps::<PersistentVolumeClaim>(move |change, view| match (&change.old, &change.new) {
                (Some(old), Some(new))
                    if old.spec == new.spec
                        && old.status.allocated_resources == new.status.allocated_resources
                        && old.attributes_classes().eq(new.attributes_classes()) =>
                {
                    Vec::new()
                }
                _ => of(&change.key, view),
            })
            .reads::<ResourceClaim>()
            .maps::<DeviceClass>(|_, view| {
                let quotas = view.all::<ResourceQuota>();
                quotas.iter().map(|quota| Key::of(&quota.metadata)).collect()
            });
    }

    fn plan(
        &self,
        quota: &Entry<ResourceQuota>,
        view: &View,
        now: Time,
    ) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        let (hard, status) = (&quota.spec.hard, &quota.status);
        let used = count(quota, view, now);
        let met = view.met(&quota.metadata, now);
        let lowered = used.iter().filter(|(resource, amount)| {
            status.used.get(*resource).is_some_and(|charged| **amount < *charged)
        });
        let behind = |resource: &str| {
            let charged = rows(resource).map(|row| view.seen_of(row));
            charged.min().is_some_and(|seen| seen < quota.metadata.revision())
        };
        if lowered.map(|(resource, _)| resource).any(|resource| behind(resource)) {
            let due = met.plus(STEP);
            if now < due {
                plan.look_again(due);
                return Ok(plan);
            }
        }
        if pods_are_leaving(quota, view) {
            plan.look_again(now.plus(STEP));
        }
        if status.hard != *hard || status.used != used {
            let status = json!({
                "hard": replacing(&status.hard, hard),
                "used": replacing(&status.used, &used),
            });
            plan.status(&RESOURCE_QUOTA, &quota.metadata, status);
        }
        Ok(plan)
    }

    fn plan_absent(&self, key: &Key, view: &View) -> Plan {
        view.forget(key);
        Plan::default()
    }
}

/// What can be counted; of a kind in several versions the first.
static COUNTABLE: LazyLock<Vec<&Row>> = LazyLock::new(|| {
    let mut names = HashSet::new();
    let countable = ROWS.iter().copied().filter(|row| quota::is_countable(row));
    countable.filter(|row| names.insert(row.qualified())).collect()
});

/// The countable kinds that are charged for a resource.
fn rows(resource: &str) -> impl Iterator<Item = &'static Row> {
    COUNTABLE.iter().copied().filter(move |row| quota::concerns(row, resource))
}

/// What is used of each resource that the quota limits and that is known.
fn count(quota: &ResourceQuota, view: &View, now: Time) -> Resources {
    let namespace = &quota.metadata.namespace;
    let mut used = Resources::new();
    let typed = [&POD, &SERVICE, &PERSISTENT_VOLUME_CLAIM, &RESOURCE_CLAIM];
    let mut typed = typed.map(|row| (row, false));
    for resource in quota.spec.hard.keys() {
        for row in rows(resource) {
            let amount = used.entry(resource.clone()).or_insert(Quantity::ZERO);
            match typed.iter_mut().find(|(known, _)| std::ptr::eq(*known, row)) {
                Some((_, wanted)) => *wanted = true,
                None if quota::in_scopes(quota, &Counted::Other) => {
                    *amount = Quantity::new(view.count_of(row, namespace) as i64);
                }
                None => {}
            }
        }
    }
    let mut charge = |row: &Row, object: &Counted| {
        if quota::in_scopes(quota, object) {
            for (resource, amount) in quota::usage(row, object, now) {
                if let Some(total) = used.get_mut(&resource) {
                    *total += amount;
                }
            }
        }
    };
    for (row, _) in typed.iter().filter(|(_, wanted)| *wanted) {
        if std::ptr::eq(*row, &POD) {
            let pods = view.namespace::<Pod>(namespace);
            pods.iter().for_each(|pod| charge(row, &Counted::Pod(pod)));
        } else if std::ptr::eq(*row, &SERVICE) {
            let services = view.namespace::<Service>(namespace);
            services.iter().for_each(|service| charge(row, &Counted::Service(service)));
        } else if std::ptr::eq(*row, &RESOURCE_CLAIM) {
            let claims = view.namespace::<ResourceClaim>(namespace);
            for claim in &claims {
                let around = surroundings(claim, &claims, view, now);
                charge(row, &Counted::Devices(claim, &around));
            }
        } else {
            let claims = view.namespace::<PersistentVolumeClaim>(namespace);
            claims.iter().for_each(|claim| charge(row, &Counted::Claim(claim)));
        }
    }
    used
}

/// What else the cost of a claim of devices depends on.
fn surroundings(
    claim: &ResourceClaim,
    claims: &[Arc<Entry<ResourceClaim>>],
    view: &View,
    now: Time,
) -> Surroundings {
    let mut around = Surroundings::default();
    for class in claim.classes() {
        let found = view.get::<DeviceClass>("", class);
        let name = found.map(|found| found.spec.extended_resource_name.clone());
        if let Some(name) = name.filter(|name| !name.is_empty()) {
            around.extended.insert(class.into(), name);
        }
    }
    let owner = claim.extended_owner();
    let pod = owner.and_then(|owner| view.get::<Pod>(&claim.metadata.namespace, &owner.name));
    if let Some(pod) = pod {
        let claims = claims.iter().map(|entry| &entry.view);
        around.paid = quota::paid(claim, &pod, claims, now);
    }
    around
}

/// A pod whose grace is over stops to cost without an event.
fn pods_are_leaving(quota: &ResourceQuota, view: &View) -> bool {
    let limits_pods =
        quota.spec.hard.keys().any(|resource| rows(resource).any(|row| std::ptr::eq(row, &POD)));
    let namespace = &quota.metadata.namespace;
    limits_pods
        && view
            .namespace::<Pod>(namespace)
            .iter()
            .any(|pod| pod.is_terminating() && !pod.is_terminal())
}

fn same_cost(old: &Pod, new: &Pod) -> bool {
    old.spec == new.spec
        && old.status.phase == new.status.phase
        && old.status.qos_class == new.status.qos_class
        && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
}

/// The merge patch of a map: what is no longer there becomes null.
fn replacing(old: &Resources, new: &Resources) -> Value {
    let mut patch = json!(new);
    for gone in old.keys().filter(|resource| !new.contains_key(*resource)) {
        patch[gone] = Value::Null;
    }
    patch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Step;

    fn view() -> View {
        let pod = |name: &str, phase: &str| {
            json!({"metadata": {"name": name, "namespace": "a"}, "status": {"phase": phase},
                "spec": {"containers": [{"resources": {"requests": {"cpu": "500m"}}}]}})
        };
        let elsewhere = json!({"metadata": {"name": "p", "namespace": "b"}});
        View::default()
            .with::<Pod>(&[pod("p", "Running"), pod("q", "Failed"), elsewhere])
            .with::<Service>(&[])
            .with::<PersistentVolumeClaim>(&[])
    }

    fn status(quota: Value, at: i64, view: &View) -> Option<Value> {
        let entry = Entry::decode(quota.to_string().into()).unwrap();
        let plan = Quotas.plan(&entry, view, Time::from_unix(at)).unwrap();
        match plan.steps.as_slice() {
            [] => None,
            [Step::Patch(patch)] => Some(patch.body["status"].clone()),
            steps => panic!("{steps:?}"),
        }
    }

    fn quota(hard: Value, status: Value) -> Value {
        json!({"metadata": {"name": "q", "namespace": "a", "resourceVersion": "7"},
            "spec": {"hard": hard}, "status": status})
    }

    #[test]
    fn counts_what_is_there() {
        let hard = json!({"pods": "5", "count/pods": "5", "requests.cpu": "1",
            "count/unknown.example.com": "1", "services": "1"});
        let used = json!({"pods": "1", "count/pods": "2", "requests.cpu": "500m", "services": "0"});
        let expected = json!({"hard": hard, "used": used});
        assert_eq!(status(quota(hard.clone(), json!({})), 0, &view()), Some(expected.clone()));
        assert_eq!(status(quota(hard, expected), 0, &view()), None);
        let stale = json!({"hard": {"cpu": "1"}, "used": {"cpu": "1"}});
        let expected =
            json!({"hard": {"pods": "5", "cpu": null}, "used": {"pods": "1", "cpu": null}});
        assert_eq!(status(quota(json!({"pods": "5"}), stale), 0, &view()), Some(expected));
    }

    #[test]
    fn counts_devices_by_their_class() {
        let claim = json!({"metadata": {"name": "c", "namespace": "a"}, "spec": {"devices":
            {"requests": [{"exactly": {"deviceClassName": "gold", "allocationMode": "ExactCount",
            "count": 2}}]}}});
        let class = json!({"metadata": {"name": "gold"},
            "spec": {"extendedResourceName": "example.com/gold"}});
        let view = view().with::<ResourceClaim>(&[claim]).with::<DeviceClass>(&[class]);
        let names = [
            "gold.deviceclass.resource.k8s.io/devices",
            "requests.deviceclass.resource.kubernetes.io/gold",
            "requests.example.com/gold",
        ];
        let of = |amount: &str| -> Value {
            names.iter().map(|name| (name.to_string(), json!(amount))).collect()
        };
        let expected = json!({"hard": of("5"), "used": of("2")});
        assert_eq!(status(quota(of("5"), json!({})), 0, &view), Some(expected));
    }

    #[test]
    fn what_was_just_charged_is_not_given_back() {
        let view = view();
        let charged = json!({"hard": {"pods": "5"}, "used": {"pods": "2"}});
        let quota = || quota(json!({"pods": "5"}), charged.clone());
        assert_eq!(status(quota(), 0, &view), None);
        assert_eq!(status(quota(), 4, &view), None);
        let given_back = json!({"hard": {"pods": "5"}, "used": {"pods": "1"}});
        assert_eq!(status(quota(), 5, &view), Some(given_back));
    }
}
