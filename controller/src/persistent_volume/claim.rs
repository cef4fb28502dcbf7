//! The claims' side: which volume a claim gets, and what becomes of one that had one.

use std::collections::BTreeSet;
use std::sync::Arc;

use client::{Change, Entry, Key};
use proto::kind::{PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM};
use proto::time::Time;
use proto::view::ObjectReference;
use proto::view::persistent_volume::PersistentVolume;
use proto::view::persistent_volume_claim::PersistentVolumeClaim;
use proto::view::pod::Pod;
use proto::view::storage_class::StorageClass;
use proto::volume::{
    BIND_COMPLETED, BOUND_BY_CONTROLLER, Place, SELECTED_NODE, STORAGE_PROVISIONER, best,
    is_claimed_by, satisfies,
};
use serde_json::{Value, json};

use super::{NORMAL, WARNING, status};
use crate::plan::{Plan, reference};
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

/// Binds claims.
pub struct Claims;

impl Controller for Claims {
    type Object = PersistentVolumeClaim;
    const NAME: &'static str = super::NAME;
    /// Two claims at a time might choose the same volume.
    const WORKERS: usize = 1;

    fn watches(watches: &mut Watches<PersistentVolumeClaim>) {
        watches
            .maps::<PersistentVolume>(concerned)
            .maps::<StorageClass>(|_, view| {
                let claims = view.all::<PersistentVolumeClaim>();
                let unbound = claims.iter().filter(|claim| !claim.is_bound());
                unbound.map(|claim| Key::of(&claim.metadata)).collect()
            })
            .maps::<Pod>(|change, _| match (&change.old, &change.new) {
                (None, Some(pod)) if pod.spec.node_name.is_empty() => {
                    let namespace = &pod.metadata.namespace;
                    pod.claims().map(|used| Key::new(namespace, &used.name)).collect()
                }
                _ => Vec::new(),
            });
    }

    fn plan(
        &self,
        claim: &Entry<PersistentVolumeClaim>,
        view: &View,
        _: Time,
    ) -> Result<Plan, PlanError> {
        Ok(match claim.metadata.annotations.contains_key(BIND_COMPLETED) {
            true => bound(claim, view),
            false => unbound(claim, view),
        })
    }
}

/// The claims that a change of a volume may be good or bad news for.
fn concerned(change: &Change<PersistentVolume>, view: &View) -> Vec<Key> {
    let mut keys = BTreeSet::new();
    for volume in change.old.iter().chain(&change.new) {
        if let Some(claim) = &volume.spec.claim_ref {
            keys.insert(Key::new(&claim.namespace, &claim.name));
        }
    }
    let volume = change.new.as_ref();
    let free = volume.filter(|volume| volume.status.phase == "Available");
    for claim in view.all::<PersistentVolumeClaim>() {
        let named = *claim.spec.volume_name == *change.key.name;
        let may_have = free.is_some_and(|volume| volume.class() == claim.class());
        if named || may_have && !claim.is_bound() {
            keys.insert(Key::of(&claim.metadata));
        }
    }
    keys.into_iter().collect()
}

/// A claim that was bound once: it keeps its volume or has lost it.
fn bound(claim: &PersistentVolumeClaim, view: &View) -> Plan {
    let mut plan = Plan::default();
    let name = &claim.spec.volume_name;
    if name.is_empty() {
        let why = "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!";
        lost(&mut plan, claim, "ClaimLost", why);
        return plan;
    }
    let Some(volume) = view.get::<PersistentVolume>("", name) else {
        let why = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
        lost(&mut plan, claim, "ClaimLost", why);
        return plan;
    };
    let owner = volume.spec.claim_ref.as_ref();
    if owner.is_none_or(|owner| owner.uid == claim.metadata.uid) {
        bind(&mut plan, &volume, claim);
    } else {
        let why = "Two claims are bound to the same volume, this one is bound incorrectly";
        lost(&mut plan, claim, "ClaimMisbound", why);
    }
    plan
}

fn lost(plan: &mut Plan, claim: &PersistentVolumeClaim, reason: &'static str, why: &str) {
    if claim.status.phase == "Lost" {
        return;
    }
    let empty = json!({ "phase": "Lost", "accessModes": null, "capacity": null });
    status(plan, &PERSISTENT_VOLUME_CLAIM, &claim.metadata, empty);
    tell(plan, claim, WARNING, reason, why.into());
}

fn unbound(claim: &PersistentVolumeClaim, view: &View) -> Plan {
    let mut plan = Plan::default();
    if !claim.spec.volume_name.is_empty() {
        asked_by_name(&mut plan, claim, view);
        return plan;
    }
    let class = view.get::<StorageClass>("", claim.class());
    let waits = class.as_ref().is_some_and(|class| class.waits());
    let volumes = view.all::<PersistentVolume>();
    let place = if waits { Place::Kept } else { Place::Anywhere };
    let volumes = volumes.iter().map(|entry| &entry.view);
    if let Some(volume) = best(claim, volumes, place, &BTreeSet::new()) {
        bind(&mut plan, volume, claim);
        return plan;
    }
    if claim.is_going() {
        return plan;
    }
    let selected = claim.metadata.annotations.contains_key(SELECTED_NODE);
    if let Some(class) = default_class(claim, view) {
        // A class that became the default after the claim was made.
        let spec = json!({ "spec": { "storageClassName": class.metadata.name } });
        plan.patch(&PERSISTENT_VOLUME_CLAIM, &claim.metadata, spec);
    } else if waits && !selected {
        wait(&mut plan, claim, view);
    } else if !claim.class().is_empty() {
        provision(&mut plan, claim, class.as_deref());
    } else {
        let why = "no persistent volumes available for this claim and no storage class is set";
        tell(&mut plan, claim, NORMAL, "FailedBinding", why.into());
    }
    pending(&mut plan, claim);
    plan
}

fn default_class(claim: &PersistentVolumeClaim, view: &View) -> Option<Arc<Entry<StorageClass>>> {
    let annotations = &claim.metadata.annotations;
    let named = annotations.contains_key("volume.beta.kubernetes.io/storage-class")
        || claim.spec.storage_class_name.is_some();
    if named {
        return None;
    }
    let classes = view.all::<StorageClass>();
    let name = &StorageClass::default_of(classes.iter().map(|it| &it.view))?.metadata.name;
    view.get::<StorageClass>("", name)
}

/// For the volume that the user has named.
fn asked_by_name(plan: &mut Plan, claim: &PersistentVolumeClaim, view: &View) {
    let name = &claim.spec.volume_name;
    let Some(volume) = view.get::<PersistentVolume>("", name) else {
        pending(plan, claim);
        return;
    };
    match &volume.spec.claim_ref {
        None => match satisfies(&volume, claim) {
            Ok(()) => bind(plan, &volume, claim),
            Err(mismatch) => {
                let why = format!("Cannot bind to requested volume \"{name}\": {mismatch}");
                tell(plan, claim, WARNING, "VolumeMismatch", why);
                pending(plan, claim);
            }
        },
        Some(_) if is_claimed_by(&volume, claim) => bind(plan, &volume, claim),
        Some(_) => {
            let why = format!("volume \"{name}\" already bound to a different claim.");
            tell(plan, claim, WARNING, "FailedBinding", why);
            pending(plan, claim);
        }
    }
}

/// The class wants a pod first.
fn wait(plan: &mut Plan, claim: &PersistentVolumeClaim, view: &View) {
    let meta = &claim.metadata;
    let mut pods: Vec<String> = view
        .pods_using(&meta.namespace, &meta.name)
        .iter()
        .filter(|pod| pod.spec.node_name.is_empty() && !pod.is_terminal())
        .map(|pod| pod.metadata.name.clone())
        .collect();
    pods.sort();
    let (reason, why) = match pods.as_slice() {
        [] => {
            let why = "waiting for first consumer to be created before binding";
            ("WaitForFirstConsumer", why.to_string())
        }
        [pod] => ("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled")),
        pods => {
            ("WaitForPodScheduled", format!("waiting for pods {} to be scheduled", pods.join(",")))
        }
    };
    tell(plan, claim, NORMAL, reason, why);
}

/// Asks the class's provisioner for a volume.
fn provision(plan: &mut Plan, claim: &PersistentVolumeClaim, class: Option<&Entry<StorageClass>>) {
    let Some(class) = class else {
        let why = format!("storageclass.storage.k8s.io \"{}\" not found", claim.class());
        tell(plan, claim, WARNING, "ProvisioningFailed", why);
        return;
    };
    let provisioner = &class.provisioner;
    if provisioner.starts_with("kubernetes.io/") {
        let why = format!("no volume plugin matched name: {provisioner}");
        tell(plan, claim, WARNING, "ProvisioningFailed", why);
        return;
    }
    let annotations = &claim.metadata.annotations;
    if STORAGE_PROVISIONER.iter().any(|key| annotations.get(*key) != Some(provisioner)) {
        let annotations = STORAGE_PROVISIONER.map(|key| (key.to_string(), json!(provisioner)));
        let annotations = Value::Object(annotations.into_iter().collect());
        let body = json!({ "metadata": { "annotations": annotations } });
        plan.patch(&PERSISTENT_VOLUME_CLAIM, &claim.metadata, body);
    }
    let why = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or \
         manually by the system administrator. If volume creation is delayed, please verify that \
         the provisioner is running and correctly registered."
    );
    tell(plan, claim, NORMAL, "ExternalProvisioning", why);
}

fn pending(plan: &mut Plan, claim: &PersistentVolumeClaim) {
    if claim.status.phase != "Pending" {
        let pending = json!({ "phase": "Pending" });
        status(plan, &PERSISTENT_VOLUME_CLAIM, &claim.metadata, pending);
    }
}

/// Writes what is missing of the bond.
fn bind(plan: &mut Plan, volume: &PersistentVolume, claim: &PersistentVolumeClaim) {
    let (meta, known) = (&claim.metadata, volume.spec.claim_ref.as_ref());
    if known.is_none_or(|known| known.uid != meta.uid) {
        let reference = ObjectReference::of(&PERSISTENT_VOLUME_CLAIM, meta);
        let mut body = json!({ "spec": { "claimRef": reference } });
        if known.is_none() {
            body["metadata"]["annotations"][BOUND_BY_CONTROLLER] = "yes".into();
        }
        plan.patch(&PERSISTENT_VOLUME, &volume.metadata, body);
    }
    if volume.status.phase != "Bound" {
        status(plan, &PERSISTENT_VOLUME, &volume.metadata, json!({ "phase": "Bound" }));
    }
    let annotations = &meta.annotations;
    let chosen = claim.spec.volume_name.is_empty();
    if chosen || !annotations.contains_key(BIND_COMPLETED) {
        let mut body = json!({ "metadata": { "annotations": { BIND_COMPLETED: "yes" } } });
        if chosen {
            body["spec"]["volumeName"] = volume.metadata.name.as_str().into();
            body["metadata"]["annotations"][BOUND_BY_CONTROLLER] = "yes".into();
        }
        plan.patch(&PERSISTENT_VOLUME_CLAIM, meta, body);
    }
    if claim.status.phase != "Bound" || claim.status.access_modes != volume.spec.access_modes {
        let mut body = json!({ "phase": "Bound", "accessModes": volume.spec.access_modes });
        // Later the capacity is for whoever resizes the volume.
        if claim.status.phase != "Bound" {
            body["capacity"] = json!(volume.spec.capacity);
        }
        if let Some(class) = &volume.spec.volume_attributes_class_name {
            body["currentVolumeAttributesClassName"] = class.as_str().into();
        }
        status(plan, &PERSISTENT_VOLUME_CLAIM, meta, body);
    }
}

fn tell(
    plan: &mut Plan,
    claim: &PersistentVolumeClaim,
    kind: &'static str,
    reason: &'static str,
    message: String,
) {
    let regarding = reference(&PERSISTENT_VOLUME_CLAIM, &claim.metadata);
    plan.event(&regarding, kind, reason, message);
}

#[cfg(test)]
mod tests {
    use super::super::tests::{claim, class, summary, volume};
    use super::*;

    fn planned(claim: Value, volumes: &[Value], classes: &[Value], pods: &[Value]) -> Vec<String> {
        let view = View::default()
            .with::<PersistentVolume>(volumes)
            .with::<PersistentVolumeClaim>(std::slice::from_ref(&claim))
            .with::<StorageClass>(classes)
            .with::<Pod>(pods);
        let entry = Entry::decode(claim.to_string().into()).unwrap();
        summary(&Claims.plan(&entry, &view, Time::from_unix(0)).unwrap())
    }

    #[test]
    fn claims_without_a_volume() {
        let late = || class("late", json!({"volumeBindingMode": "WaitForFirstConsumer"}));
        let pod = |node: &str| {
            json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {"nodeName": node,
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "k"}}]}})
        };
        let selected = json!({"metadata": {"annotations": {SELECTED_NODE: "a"}},
            "spec": {"storageClassName": "late"}});
        let of = |name: &str| json!({"spec": {"storageClassName": name}});
        let none = "Normal FailedBinding no persistent volumes available for this claim and no \
                    storage class is set";
        let external = "Normal ExternalProvisioning Waiting for a volume to be created either by \
                        the external provisioner 'example.com/p' or manually by the system \
                        administrator. If volume creation is delayed, please verify that the \
                        provisioner is running and correctly registered.";
        let asks = "persistentvolumeclaims k {\"metadata\":{\"annotations\":\
                    {\"volume.beta.kubernetes.io/storage-provisioner\":\"example.com/p\",\
                    \"volume.kubernetes.io/storage-provisioner\":\"example.com/p\"}}}";
        for (spec, classes, pods, expected) in [
            (of(""), vec![], vec![], vec![none]),
            (
                of("x"),
                vec![],
                vec![],
                vec!["Warning ProvisioningFailed storageclass.storage.k8s.io \"x\" not found"],
            ),
            (of("now"), vec![class("now", json!({}))], vec![], vec![asks, external]),
            (
                of("late"),
                vec![late()],
                vec![],
                vec![
                    "Normal WaitForFirstConsumer waiting for \
                first consumer to be created before binding",
                ],
            ),
            (
                of("late"),
                vec![late()],
                vec![pod("")],
                vec!["Normal WaitForPodScheduled waiting for pod p to be scheduled"],
            ),
            (selected, vec![late()], vec![], vec![asks, external]),
            (
                of("static"),
                vec![class("static", json!({"provisioner": "kubernetes.io/no-provisioner"}))],
                vec![],
                vec![
                    "Warning ProvisioningFailed no volume plugin matched name: \
                kubernetes.io/no-provisioner",
                ],
            ),
            (
                json!({"spec": {"storageClassName": null}}),
                vec![class(
                    "d",
                    json!({"metadata": {"annotations":
                    {"storageclass.kubernetes.io/is-default-class": "true"}}}),
                )],
                vec![],
                vec!["persistentvolumeclaims k {\"spec\":{\"storageClassName\":\"d\"}}"],
            ),
        ] {
            assert_eq!(planned(claim(spec.clone()), &[], &classes, &pods), expected, "{spec}");
        }
    }

    #[test]
    fn both_sides_are_written() {
        let steps = planned(claim(json!({})), &[volume(json!({}))], &[class("c", json!({}))], &[]);
        assert_eq!(
            steps,
            [
                "persistentvolumes v {\"metadata\":{\"annotations\":{\"pv.kubernetes.io/\
                 bound-by-controller\":\"yes\"}},\"spec\":{\"claimRef\":{\"apiVersion\":\"v1\",\
                 \"kind\":\"PersistentVolumeClaim\",\"name\":\"k\",\"namespace\":\"n\",\
                 \"resourceVersion\":\"1\",\"uid\":\"u\"}}}",
                "persistentvolumes v status {\"phase\":\"Bound\"}",
                "persistentvolumeclaims k {\"metadata\":{\"annotations\":{\"pv.kubernetes.io/\
                 bind-completed\":\"yes\",\"pv.kubernetes.io/bound-by-controller\":\"yes\"}},\
                 \"spec\":{\"volumeName\":\"v\"}}",
                "persistentvolumeclaims k status {\"accessModes\":[\"ReadWriteOnce\"],\"capacity\":\
                 {\"storage\":\"5Gi\"},\"phase\":\"Bound\"}",
            ]
        );
    }

    #[test]
    fn asked_by_name_and_lost() {
        let named = json!({"spec": {"volumeName": "v"}});
        let done = json!({"metadata": {"annotations": {BIND_COMPLETED: "yes"}},
            "spec": {"volumeName": "v"},
            "status": {"phase": "Bound", "accessModes": ["ReadWriteOnce"]}});
        let mut adrift = done.clone();
        adrift["spec"]["volumeName"] = "".into();
        let of = |uid: &str| {
            volume(json!({"spec": {"claimRef": {"namespace": "n", "name": "k", "uid": uid}},
                "status": {"phase": "Bound"}}))
        };
        let lost = "persistentvolumeclaims k status {\"accessModes\":null,\"capacity\":null,\
                    \"phase\":\"Lost\"}";
        for (spec, volumes, expected) in [
            (named.clone(), vec![], vec![]),
            (
                named.clone(),
                vec![volume(json!({"spec": {"capacity": {"storage": "1Gi"}}}))],
                vec![
                    "Warning VolumeMismatch Cannot bind to requested volume \"v\": requested PV \
                      is too small",
                ],
            ),
            (
                named,
                vec![of("other")],
                vec!["Warning FailedBinding volume \"v\" already bound to a different claim."],
            ),
            (done.clone(), vec![of("u")], vec![]),
            (
                done.clone(),
                vec![],
                vec![
                    lost,
                    "Warning ClaimLost Bound claim has lost its \
                PersistentVolume. Data on the volume is lost!",
                ],
            ),
            (
                done,
                vec![of("other")],
                vec![
                    lost,
                    "Warning ClaimMisbound Two claims are bound to \
                the same volume, this one is bound incorrectly",
                ],
            ),
            (
                adrift,
                vec![],
                vec![
                    lost,
                    "Warning ClaimLost Bound claim has lost reference to \
                PersistentVolume. Data on the volume is lost!",
                ],
            ),
        ] {
            assert_eq!(planned(claim(spec.clone()), &volumes, &[], &[]), expected, "{spec}");
        }
    }
}
