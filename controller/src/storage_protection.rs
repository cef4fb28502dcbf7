//! Claims stay while pods use them, and volumes while claims are bound to them: the finalizers
//! that admission gives them go when nothing does any more.
//! <https://kubernetes.io/docs/concepts/storage/persistent-volumes/#storage-object-in-use-protection>

use client::{Entry, Key};
use proto::kind::{PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM, Row};
use proto::meta::ObjectMeta;
use proto::time::Time;
use proto::view::persistent_volume::PersistentVolume;
use proto::view::persistent_volume_claim::PersistentVolumeClaim;
use proto::view::pod::Pod;
use serde_json::{Value, json};

use crate::plan::Plan;
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

/// Keeps claims from under pods.
pub struct ClaimProtection;

/// Keeps volumes from under claims.
pub struct VolumeProtection;

impl Controller for ClaimProtection {
    type Object = PersistentVolumeClaim;
    const NAME: &'static str = "persistentvolumeclaim-protection-controller";

    fn watches(watches: &mut Watches<PersistentVolumeClaim>) {
        watches.maps::<Pod>(|change, _| {
            let pods = change.old.iter().chain(&change.new);
            let mut keys: Vec<Key> = pods
                .flat_map(|pod| {
                    pod.claims().map(|used| Key::new(&pod.metadata.namespace, &used.name))
                })
                .collect();
            keys.dedup();
            keys
        });
    }

    fn plan(
        &self,
        claim: &Entry<PersistentVolumeClaim>,
        view: &View,
        _: Time,
    ) -> Result<Plan, PlanError> {
        let meta = &claim.metadata;
        let used = || {
            let pods = view.pods_using(&meta.namespace, &meta.name);
            pods.iter().any(|pod| !pod.spec.node_name.is_empty())
        };
        Ok(protect(&PERSISTENT_VOLUME_CLAIM, meta, "kubernetes.io/pvc-protection", used))
    }
}

impl Controller for VolumeProtection {
    type Object = PersistentVolume;
    const NAME: &'static str = "persistentvolume-protection-controller";

    fn watches(_: &mut Watches<PersistentVolume>) {}

    fn plan(&self, volume: &Entry<PersistentVolume>, _: &View, _: Time) -> Result<Plan, PlanError> {
        let used = || volume.status.phase == "Bound";
        let finalizer = "kubernetes.io/pv-protection";
        Ok(protect(&PERSISTENT_VOLUME, &volume.metadata, finalizer, used))
    }
}

/// Puts the finalizer on what lives and takes it off what is going and no longer used.
fn protect(
    row: &'static Row,
    meta: &ObjectMeta,
    finalizer: &str,
    used: impl FnOnce() -> bool,
) -> Plan {
    let mut plan = Plan::default();
    let protected = meta.finalizers.iter().any(|known| known == finalizer);
    let going = meta.deletion_timestamp.is_some();
    let mut finalizers: Vec<Value> = meta.finalizers.iter().map(|known| json!(known)).collect();
    match (protected, going) {
        (false, false) => finalizers.push(json!(finalizer)),
        (true, true) if !used() => finalizers.retain(|known| known != finalizer),
        _ => return plan,
    }
    plan.patch(row, meta, json!({ "metadata": { "finalizers": finalizers } }));
    plan
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Step;

    fn patched(plan: Plan) -> Option<Value> {
        match plan.steps.as_slice() {
            [] => None,
            [Step::Patch(patch)] => Some(patch.body["metadata"]["finalizers"].clone()),
            steps => panic!("{steps:?}"),
        }
    }

    #[test]
    fn claims_stay_while_pods_use_them() {
        const OWN: &str = "kubernetes.io/pvc-protection";
        let claim = |going: bool, finalizers: &[&str]| {
            let mut claim = json!({"metadata":
                {"name": "c", "namespace": "a", "finalizers": finalizers}});
            if going {
                claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            claim
        };
        let pod = |node: &str, volume: Value| {
            json!({"metadata": {"name": "p", "namespace": "a"},
                "spec": {"nodeName": node, "volumes": [volume]}})
        };
        let named = json!({"name": "v", "persistentVolumeClaim": {"claimName": "c"}});
        let other = json!({"name": "c", "persistentVolumeClaim": {"claimName": "x"}});
        for (claim, pods, expected) in [
            (claim(false, &[]), vec![], Some(json!([OWN]))),
            (claim(false, &[OWN]), vec![], None),
            (claim(true, &[OWN, "x"]), vec![], Some(json!(["x"]))),
            (claim(true, &[OWN]), vec![pod("n", named.clone())], None),
            (claim(true, &[OWN]), vec![pod("", named)], Some(json!([]))),
            (claim(true, &[OWN]), vec![pod("n", other)], Some(json!([]))),
            (claim(true, &[]), vec![], None),
        ] {
            let view = View::default().with::<Pod>(&pods);
            let entry = Entry::decode(claim.to_string().into()).unwrap();
            let plan = ClaimProtection.plan(&entry, &view, Time::from_unix(0)).unwrap();
            assert_eq!(patched(plan), expected, "{claim} {pods:?}");
        }
        let generic = pod("n", json!({"name": "v", "ephemeral": {}}));
        let generic = Entry::<Pod>::decode(generic.to_string().into()).unwrap();
        assert_eq!(generic.claims().map(|used| used.name).collect::<Vec<_>>(), ["p-v"]);
    }

    #[test]
    fn volumes_stay_while_bound() {
        for (phase, expected) in [("Bound", None), ("Released", Some(json!([])))] {
            let volume = json!({"metadata": {"name": "v",
                "deletionTimestamp": "2026-01-01T00:00:00Z",
                "finalizers": ["kubernetes.io/pv-protection"]}, "status": {"phase": phase}});
            let entry = Entry::decode(volume.to_string().into()).unwrap();
            let view = View::default();
            let plan = VolumeProtection.plan(&entry, &view, Time::from_unix(0)).unwrap();
            assert_eq!(patched(plan), expected, "{phase}");
        }
    }
}
