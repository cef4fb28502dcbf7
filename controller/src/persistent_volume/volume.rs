//! The volumes' side: what phase a volume is in, and what becomes of one that is given back.

use client::{Entry, Key};
use proto::kind::{PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM};
use proto::time::Time;
use proto::view::persistent_volume::PersistentVolume;
use proto::view::persistent_volume_claim::PersistentVolumeClaim;
use proto::volume::{BOUND_BY_CONTROLLER, PROVISIONED_BY};
use serde_json::{Value, json};

use super::{WARNING, status};
use crate::plan::{Plan, Step, Target, reference};
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

/// Follows volumes.
pub struct Volumes;

impl Controller for Volumes {
    type Object = PersistentVolume;
    const NAME: &'static str = super::NAME;

    fn watches(watches: &mut Watches<PersistentVolume>) {
        watches.maps::<PersistentVolumeClaim>(|change, view| {
            let mut keys: Vec<Key> = change
                .old
                .iter()
                .chain(&change.new)
                .filter(|claim| !claim.spec.volume_name.is_empty())
                .map(|claim| Key::new("", &claim.spec.volume_name))
                .collect();
            if change.new.is_none() {
                // Volumes that were kept for it or made for it, though it never knew.
                let of_it = view.all::<PersistentVolume>().into_iter().filter(|volume| {
                    volume.spec.claim_ref.as_ref().is_some_and(|claim| {
                        *claim.name == *change.key.name && *claim.namespace == *change.key.namespace
                    })
                });
                keys.extend(of_it.map(|volume| Key::of(&volume.metadata)));
            }
            keys.dedup();
            keys
        });
    }

    fn plan(
        &self,
        volume: &Entry<PersistentVolume>,
        view: &View,
        _: Time,
    ) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        let owner = volume.spec.claim_ref.as_ref();
        let Some(owner) = owner.filter(|owner| !owner.uid.is_empty()) else {
            phase(&mut plan, volume, "Available");
            return Ok(plan);
        };
        let claim = view.get::<PersistentVolumeClaim>(&owner.namespace, &owner.name);
        let Some(claim) = claim.filter(|claim| claim.metadata.uid == owner.uid) else {
            released(&mut plan, volume);
            return Ok(plan);
        };
        let wanted = &claim.spec.volume_name;
        if wanted.is_empty() {
            if volume.is_block() != claim.is_block() {
                mismatch(&mut plan, volume, &claim);
            }
            // Else the claim's own plan finishes the bond.
        } else if *wanted == volume.metadata.name {
            phase(&mut plan, volume, "Bound");
        } else if is_to_be_deleted(volume)
            && volume.metadata.annotations.contains_key(PROVISIONED_BY)
        {
            // Made for a claim that got another one meanwhile.
            released(&mut plan, volume);
        } else {
            unbind(&mut plan, volume);
        }
        Ok(plan)
    }
}

fn is_to_be_deleted(volume: &PersistentVolume) -> bool {
    volume.spec.persistent_volume_reclaim_policy == "Delete"
}

fn phase(plan: &mut Plan, volume: &PersistentVolume, phase: &str) {
    if volume.status.phase != phase {
        let phase = json!({ "phase": phase, "message": null, "reason": null });
        status(plan, &PERSISTENT_VOLUME, &volume.metadata, phase);
    }
}

/// Its claim is gone. A cache may be behind, so that is asked anew before anything is said.
fn released(plan: &mut Plan, volume: &PersistentVolume) {
    let given_back = matches!(volume.status.phase.as_str(), "Released" | "Failed");
    if !given_back {
        if let Some(owner) = &volume.spec.claim_ref {
            plan.steps.push(Step::Absent(Target {
                row: &PERSISTENT_VOLUME_CLAIM,
                namespace: owner.namespace.clone(),
                name: owner.name.clone(),
                uid: owner.uid.clone(),
            }));
        }
        phase(plan, volume, "Released");
    }
    if volume.is_going() || volume.status.phase == "Failed" {
        return;
    }
    let name = &volume.metadata.name;
    match volume.spec.persistent_volume_reclaim_policy.as_str() {
        "Delete" if !volume.metadata.annotations.contains_key(PROVISIONED_BY) => {
            let why = format!(
                "error getting deleter volume plugin for volume \"{name}\": no deletable volume \
                 plugin matched"
            );
            failed(plan, volume, "VolumeFailedDelete", why);
        }
        "Recycle" => {
            let why = "recycling is deprecated and not done: delete the volume, or let a \
                       StorageClass make volumes";
            failed(plan, volume, "VolumeFailedRecycle", why.into());
        }
        // Kept for the user, or deleted by whoever made it.
        _ => {}
    }
}

fn failed(plan: &mut Plan, volume: &PersistentVolume, reason: &'static str, why: String) {
    let meta = &volume.metadata;
    let failed = json!({ "phase": "Failed", "message": why });
    status(plan, &PERSISTENT_VOLUME, meta, failed);
    plan.event(&reference(&PERSISTENT_VOLUME, meta), WARNING, reason, why);
}

fn mismatch(plan: &mut Plan, volume: &PersistentVolume, claim: &PersistentVolumeClaim) {
    let of_volume = format!(
        "Cannot bind PersistentVolume to requested PersistentVolumeClaim \"{}\" due to \
         incompatible volumeMode.",
        claim.metadata.name
    );
    let of_claim = format!(
        "Cannot bind PersistentVolume \"{}\" to requested PersistentVolumeClaim due to \
         incompatible volumeMode.",
        volume.metadata.name
    );
    let reason = "VolumeMismatch";
    plan.event(&reference(&PERSISTENT_VOLUME, &volume.metadata), WARNING, reason, of_volume);
    plan.event(&reference(&PERSISTENT_VOLUME_CLAIM, &claim.metadata), WARNING, reason, of_claim);
}

/// Its claim has another volume. One that the user has kept for it stays kept.
fn unbind(plan: &mut Plan, volume: &PersistentVolume) {
    let mut body = match volume.metadata.annotations.contains_key(BOUND_BY_CONTROLLER) {
        true => json!({ "spec": { "claimRef": null } }),
        false => json!({ "spec": { "claimRef": { "uid": null, "resourceVersion": null } } }),
    };
    body["metadata"]["annotations"][BOUND_BY_CONTROLLER] = Value::Null;
    plan.patch(&PERSISTENT_VOLUME, &volume.metadata, body);
    phase(plan, volume, "Available");
}

#[cfg(test)]
mod tests {
    use super::super::tests::{claim, summary, volume};
    use super::*;

    #[test]
    fn phases() {
        let bound_to = |uid: &str| json!({"claimRef": {"namespace": "n", "name": "k", "uid": uid}});
        let with = |policy: &str, phase: &str, annotations: Value| {
            let mut spec = bound_to("gone");
            spec["persistentVolumeReclaimPolicy"] = policy.into();
            volume(json!({"spec": spec, "status": {"phase": phase},
                "metadata": {"annotations": annotations}}))
        };
        let mine = json!({PROVISIONED_BY: "example.com/p"});
        let other = claim(json!({"spec": {"volumeName": "w"}}));
        let to = |phase: &str| {
            format!(
                "persistentvolumes v status {{\"message\":null,\"phase\":\"{phase}\",\
                     \"reason\":null}}"
            )
        };
        let absent = || "absent persistentvolumeclaims k gone".to_string();
        let undeletable = "error getting deleter volume plugin for volume \"v\": no deletable \
                           volume plugin matched";
        let failed = |why: &str| {
            format!("persistentvolumes v status {}", json!({"phase": "Failed", "message": why}))
        };
        for (object, claims, expected) in [
            (volume(json!({"status": {"phase": "Pending"}})), vec![], vec![to("Available")]),
            (
                volume(json!({"spec": bound_to(""), "status": {"phase": "Pending"}})),
                vec![],
                vec![to("Available")],
            ),
            (volume(json!({"spec": bound_to("u")})), vec![claim(json!({}))], vec![]),
            (
                volume(json!({"spec": bound_to("u")})),
                vec![claim(json!({"spec": {"volumeName": "v"}}))],
                vec![to("Bound")],
            ),
            (with("Retain", "Bound", json!({})), vec![], vec![absent(), to("Released")]),
            (with("Retain", "Released", json!({})), vec![], vec![]),
            (with("Delete", "Released", mine.clone()), vec![], vec![]),
            (
                with("Delete", "Released", json!({})),
                vec![],
                vec![failed(undeletable), format!("Warning VolumeFailedDelete {undeletable}")],
            ),
            (with("Delete", "Failed", json!({})), vec![], vec![]),
            (
                volume(json!({"spec": bound_to("u"), "status": {"phase": "Bound"}})),
                vec![other],
                vec![
                    "persistentvolumes v {\"metadata\":{\"annotations\":{\"pv.kubernetes.io/\
                      bound-by-controller\":null}},\"spec\":{\"claimRef\":{\"resourceVersion\":\
                      null,\"uid\":null}}}"
                        .to_string(),
                    to("Available"),
                ],
            ),
        ] {
            let view = View::default()
                .with::<PersistentVolumeClaim>(&claims)
                .with::<PersistentVolume>(std::slice::from_ref(&object));
            let entry = Entry::decode(object.to_string().into()).unwrap();
            let plan = Volumes.plan(&entry, &view, Time::from_unix(0)).unwrap();
            assert_eq!(summary(&plan), expected, "{object}");
        }
        let recycled = with("Recycle", "Released", json!({}));
        let view = View::default().with::<PersistentVolumeClaim>(&[]);
        let entry = Entry::decode(recycled.to_string().into()).unwrap();
        let plan = Volumes.plan(&entry, &view, Time::from_unix(0)).unwrap();
        assert!(summary(&plan)[1].starts_with("Warning VolumeFailedRecycle recycling is"));
    }
}
