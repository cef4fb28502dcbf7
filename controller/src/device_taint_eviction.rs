//! Pods leave when a device of theirs has a NoExecute taint, at once or when their claims' tolerations
//! run out.
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/#device-taints-and-tolerations>

use std::sync::Arc;
use std::time::Duration;

use client::{Entry, Key};
use proto::kind::POD;
use proto::time::Time;
use proto::view::Condition;
use proto::view::device::{DeviceTaint, ResourceSlice};
use proto::view::pod::Pod;
use proto::view::resource_claim::{AllocatedDevice, ResourceClaim};
use serde_json::json;

use crate::plan::{Plan, reference};
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

/// Evicts pods from tainted devices.
pub struct DeviceTaintEviction;

impl Controller for DeviceTaintEviction {
    type Object = Pod;
    const NAME: &'static str = "device-taint-eviction-controller";

    fn watches(watches: &mut Watches<Pod>) {
        watches.maps::<ResourceClaim>(|change, _| {
            let claims = change.old.iter().chain(&change.new);
            let consumers = claims.flat_map(|claim| &claim.status.reserved_for);
            let pods = consumers.filter(|consumer| consumer.is_pod());
            let mut keys: Vec<Key> =
                pods.map(|pod| Key::new(&change.key.namespace, &pod.name)).collect();
            keys.dedup();
            keys
        });
        watches.maps::<ResourceSlice>(|change, view| {
            if !drives_out(&change.old) && !drives_out(&change.new) {
                return Vec::new();
            }
            let mut pods = view.all::<Pod>();
            pods.retain(|pod| has_claims(pod));
            pods.iter().map(|pod| Key::of(&pod.metadata)).collect()
        });
    }

    fn plan(&self, pod: &Entry<Pod>, view: &View, now: Time) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        let placed = !pod.spec.node_name.is_empty();
        if !has_claims(pod) || !placed || !pod.is_active() {
            return Ok(plan);
        }
        let mut due: Option<Time> = None;
        for used in pod.all_claims().unwrap_or_default() {
            let claim = view.get::<ResourceClaim>(&pod.metadata.namespace, &used.name);
            let Some(claim) = claim.filter(|claim| claim.is_reserved_for(pod)) else { continue };
            let results = claim.status.allocation.iter().flat_map(|it| &it.devices.results);
            for result in results {
                let own = taints(view, result);
                let leave = own.iter().filter_map(|taint| leaves(result, taint, now)).min();
                due = due.into_iter().chain(leave).min();
            }
        }
        let Some(due) = due else { return Ok(plan) };
        if now < due {
            plan.look_again(due);
            return Ok(plan);
        }
        let meta = &pod.metadata;
        let message = "Marking for deletion".to_string();
        plan.event(&reference(&POD, meta), "Normal", "DeviceTaintManagerEviction", message);
        let condition = Condition {
            kind: "DisruptionTarget".into(),
            status: "True".into(),
            reason: "DeletionByDeviceTaintManager".into(),
            message: "Device Taint manager: deleting due to NoExecute taint".into(),
            last_transition_time: Some(now),
            ..Condition::default()
        };
        plan.conditions(&POD, meta, &[condition], json!({}));
        plan.delete(&POD, meta);
        Ok(plan)
    }
}

fn has_claims(pod: &Pod) -> bool {
    !pod.spec.resource_claims.is_empty() || pod.extended_claim().is_some()
}

fn drives_out(slice: &Option<Arc<Entry<ResourceSlice>>>) -> bool {
    let devices = slice.iter().flat_map(|slice| &slice.spec.devices);
    devices.flat_map(|device| &device.taints).any(|taint| taint.effect == "NoExecute")
}

/// The NoExecute taints of a device, by the newest generation of its pool.
fn taints(view: &View, result: &AllocatedDevice) -> Vec<DeviceTaint> {
    let mut slices = view.all::<ResourceSlice>();
    slices
        .retain(|slice| slice.spec.driver == result.driver && slice.spec.pool.name == result.pool);
    let newest = slices.iter().map(|slice| slice.spec.pool.generation).max();
    slices.retain(|slice| Some(slice.spec.pool.generation) == newest);
    let devices = slices.iter().flat_map(|slice| &slice.spec.devices);
    let own = devices.filter(|device| device.name == result.device);
    let taints = own.flat_map(|device| &device.taints);
    taints.filter(|taint| taint.effect == "NoExecute").cloned().collect()
}

/// When who has the device must go because of the taint; `None` if that may stay. Of several
/// tolerations the one that ends first counts.
fn leaves(result: &AllocatedDevice, taint: &DeviceTaint, now: Time) -> Option<Time> {
    let since = taint.time_added.unwrap_or(now);
    let tolerations: Vec<_> =
        result.tolerations.iter().filter(|one| one.tolerates(taint)).collect();
    if tolerations.is_empty() {
        return Some(since);
    }
    let seconds = tolerations.iter().filter_map(|one| one.toleration_seconds).min()?;
    Some(since.plus(Duration::from_secs(seconds.max(0) as u64)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Step;
    use serde_json::Value;

    #[test]
    fn plans() {
        let taint = json!([{"key": "sick", "value": "yes", "effect": "NoExecute",
            "timeAdded": "1970-01-01T00:01:40Z"}]);
        let mild = json!([{"key": "sick", "effect": "NoSchedule"}]);
        let tolerates = |seconds: Value| json!([{"key": "sick", "operator": "Exists", "tolerationSeconds": seconds}]);
        let here = json!([{"resource": "pods", "name": "p", "uid": "p"}]);
        let all = &here;
        for (case, taints, tolerations, reserved, at, expected) in [
            ("no taint", json!([]), json!([]), all, 100, (0, None)),
            ("only for newcomers", mild, json!([]), all, 100, (0, None)),
            ("not tolerated", taint.clone(), json!([]), all, 100, (3, None)),
            ("for a while", taint.clone(), tolerates(json!(300)), all, 399, (0, Some(400))),
            ("no longer", taint.clone(), tolerates(json!(300)), all, 400, (3, None)),
            ("for ever", taint.clone(), tolerates(Value::Null), all, 9999, (0, None)),
            ("not its own", taint, json!([]), &json!([]), 100, (0, None)),
        ] {
            let slice = |generation: i64, taints: &Value| {
                json!({"metadata": {"name": format!("s{generation}")}, "spec": {"driver": "d",
                    "pool": {"name": "n", "generation": generation, "resourceSliceCount": 1},
                    "devices": [{"name": "x", "taints": taints}, {"name": "y", "taints": [
                        {"key": "k", "effect": "NoExecute"}]}]}})
            };
            let old = json!([{"key": "old", "effect": "NoExecute"}]);
            let slices = [slice(1, &old), slice(2, &taints)];
            let claim = json!({"metadata": {"name": "c", "namespace": "a", "uid": "c"},
                "status": {"reservedFor": reserved, "allocation": {"devices": {"results": [
                    {"request": "r", "driver": "d", "pool": "n", "device": "x",
                        "tolerations": tolerations}]}}}});
            let pod = json!({"metadata": {"name": "p", "namespace": "a", "uid": "p"},
                "spec": {"nodeName": "n",
                    "resourceClaims": [{"name": "x", "resourceClaimName": "c"}]},
                "status": {"phase": "Running"}});
            let view =
                View::default().with::<ResourceSlice>(&slices).with::<ResourceClaim>(&[claim]);
            let entry = Entry::decode(pod.to_string().into()).unwrap();
            let plan = DeviceTaintEviction.plan(&entry, &view, Time::from_unix(at)).unwrap();
            let again = expected.1.map(Time::from_unix);
            assert_eq!((plan.steps.len(), plan.again), (expected.0, again), "{case}");
            if let Some(Step::Patch(patch)) = plan.steps.get(1) {
                let reason = &patch.body["status"]["conditions"][0]["reason"];
                assert_eq!(reason, "DeletionByDeviceTaintManager");
            }
        }
    }
}
