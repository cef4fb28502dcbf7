//! Claims that ask for more than their volume has: who enlarges it is the storage driver, and this
//! says that it is waited for.
//! <https://kubernetes.io/docs/concepts/storage/persistent-volumes/#expanding-persistent-volumes-claims>

use client::Entry;
use proto::kind::PERSISTENT_VOLUME_CLAIM;
use proto::time::Time;
use proto::view::persistent_volume::PersistentVolume;
use proto::view::persistent_volume_claim::PersistentVolumeClaim;
use proto::volume::storage;

use crate::plan::{Plan, reference};
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

pub struct VolumeExpansion;

impl Controller for VolumeExpansion {
    type Object = PersistentVolumeClaim;
    const NAME: &'static str = "persistentvolume-expander-controller";

    fn watches(watches: &mut Watches<PersistentVolumeClaim>) {
        watches.reads::<PersistentVolume>();
    }

    fn plan(
        &self,
        claim: &Entry<PersistentVolumeClaim>,
        view: &View,
        _: Time,
    ) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        let enough = claim.size() <= storage(&claim.status.capacity);
        if claim.status.phase != "Bound" || enough {
            return Ok(plan);
        }
        let Some(volume) = view.get::<PersistentVolume>("", &claim.spec.volume_name) else {
            return Ok(plan);
        };
        let holder = volume.spec.claim_ref.as_ref();
        if holder.is_some_and(|holder| holder.uid == claim.metadata.uid) {
            // Nobody is known to enlarge what is not a driver's.
            let kind = if volume.spec.csi.is_some() { "Normal" } else { "Warning" };
            let about = reference(&PERSISTENT_VOLUME_CLAIM, &claim.metadata);
            let why = "waiting for an external controller to expand this PVC";
            plan.event(&about, kind, "ExternalExpanding", why.into());
        }
        Ok(plan)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plan::Step;

    #[test]
    fn whoever_asks_for_more_waits_for_the_driver() {
        let claim = |phase: &str, wanted: &str, has: &str| {
            json!({"metadata": {"name": "c", "namespace": "n", "uid": "u"},
                "spec": {"volumeName": "v", "resources": {"requests": {"storage": wanted}}},
                "status": {"phase": phase, "capacity": {"storage": has}}})
        };
        let volume = |uid: &str, source: &str| {
            json!({"metadata": {"name": "v"}, "spec": {"claimRef": {"uid": uid},
                source: {"driver": "d", "path": "/p"}}})
        };
        let cases = [
            (claim("Bound", "2Gi", "1Gi"), volume("u", "csi"), Some("Normal")),
            (claim("Bound", "2Gi", "1Gi"), volume("u", "hostPath"), Some("Warning")),
            (claim("Bound", "2Gi", "1Gi"), volume("other", "csi"), None),
            (claim("Bound", "1Gi", "1Gi"), volume("u", "csi"), None),
            (claim("Pending", "2Gi", "1Gi"), volume("u", "csi"), None),
        ];
        for (claim, volume, expected) in cases {
            let entry = Entry::<PersistentVolumeClaim>::decode(claim.to_string().into()).unwrap();
            let view = View::default().with::<PersistentVolume>(&[volume] as &[Value]);
            let plan = VolumeExpansion.plan(&entry, &view, Time::from_unix(0)).unwrap();
            let said: Vec<(&str, &str)> = plan
                .steps
                .iter()
                .map(|step| match step {
                    Step::Event(event) => (event.reason, event.kind),
                    step => panic!("{step:?}"),
                })
                .collect();
            let expected = expected.map(|kind| ("ExternalExpanding", kind));
            assert_eq!(said, Vec::from_iter(expected), "{claim}");
        }
    }
}
