//! The claims of a StatefulSet's pods: made before the pods, kept or left to the garbage
//! collector as the set says.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#persistentvolumeclaim-retention>

use std::sync::Arc;

use client::{Change, Entry, Key};
use proto::kind::{PERSISTENT_VOLUME_CLAIM, POD, STATEFUL_SET};
use proto::meta::{ObjectMeta, OwnerReference};
use proto::view::persistent_volume_claim::PersistentVolumeClaim;
use proto::view::pod::Pod;
use proto::view::stateful_set::StatefulSet;
use serde_json::{Value, json};

use super::identity::Whole;
use super::{Rollout, identity, ordinals};
use crate::plan::{Create, Patch, Step, Target, Told, controller_reference, reference};
use crate::view::View;

pub fn template_name(template: &Value) -> &str {
    template["metadata"]["name"].as_str().unwrap_or_default()
}

pub fn name(template: &Value, set: &ObjectMeta, ordinal: i32) -> String {
    format!("{}-{}-{ordinal}", template_name(template), set.name)
}

/// The sets that may wait for this claim to be gone.
pub fn waiting(change: &Change<PersistentVolumeClaim>, view: &View) -> Vec<Key> {
    if change.new.is_some() {
        return Vec::new();
    }
    let Key { namespace, name } = &change.key;
    let is_of = |set: &Entry<StatefulSet>| {
        let prefix = |template: &proto::view::Template| {
            format!("{}-{}-", template.metadata.name, set.metadata.name)
        };
        let mut templates = set.spec.volume_claim_templates.iter();
        templates.any(|template| name.starts_with(&prefix(template)))
    };
    let sets = view.namespace::<StatefulSet>(namespace).into_iter();
    sets.filter(|set| is_of(set)).map(|set| Key::of(&set.metadata)).collect()
}

/// Whether a claim of this pod still belongs to an earlier pod of its name, with which it goes.
pub fn are_stale(set: &StatefulSet, whole: &Whole, ordinal: i32, view: &View) -> bool {
    if set.spec.persistent_volume_claim_retention_policy.when_scaled != "Delete" {
        return false;
    }
    let pod = identity::name(&set.metadata, ordinal);
    let is_stale = |claim: Arc<Entry<PersistentVolumeClaim>>| {
        let mut owners = claim.metadata.owner_references.iter();
        owners.any(|owner| owner.kind == "Pod" && owner.name == pod)
    };
    let mut names = whole.claims.iter().map(|claim| name(claim, &set.metadata, ordinal));
    names.any(|name| view.get(&set.metadata.namespace, &name).is_some_and(is_stale))
}

impl Rollout<'_> {
    /// Plans the claims of a pod that are not there. False if one of them is about to go: the pod
    /// waits for that.
    pub(super) fn create_claims(&mut self, ordinal: i32) -> bool {
        let meta = &self.set.metadata;
        let regarding = reference(&STATEFUL_SET, meta);
        let pod = identity::name(meta, ordinal);
        for template in &self.whole.claims {
            let name = name(template, meta, ordinal);
            match self.view.get::<PersistentVolumeClaim>(&meta.namespace, &name) {
                None => {
                    let object = claim(self.set, template, &name);
                    self.todo.claims.push(Step::Create(Create {
                        row: &PERSISTENT_VOLUME_CLAIM,
                        namespace: meta.namespace.clone(),
                        object: Arc::new(object),
                        count: 1,
                        told: Some(told(regarding.clone(), &pod)),
                    }));
                }
                Some(claim) if claim.is_going() => {
                    let message = format!(
                        "create Pod {pod} in StatefulSet {} failed error: pvc {name} is being \
                         deleted",
                        meta.name
                    );
                    self.plan.event(&regarding, "Warning", "FailedCreate", message);
                    return false;
                }
                Some(_) => {}
            }
        }
        true
    }

    /// Makes the claims of a pod belong to whom the set's retention policy says: to the set, so
    /// that they go with it, or to a pod that is too many.
    pub(super) fn match_retention(&mut self, ordinal: Option<i32>, pod: Option<&Entry<Pod>>) {
        let (meta, Some(ordinal)) = (&self.set.metadata, ordinal) else { return };
        for template in &self.whole.claims {
            let name = name(template, meta, ordinal);
            let Some(claim) = self.view.get::<PersistentVolumeClaim>(&meta.namespace, &name) else {
                continue;
            };
            let owner = owner(self.set, ordinal, pod.map(|pod| &pod.metadata));
            let ours = |reference: &OwnerReference| {
                reference.uid == meta.uid
                    || pod.is_some_and(|pod| reference.uid == pod.metadata.uid)
            };
            let before = &claim.metadata.owner_references;
            let mut after: Vec<_> = before.iter().filter(|it| !ours(it)).cloned().collect();
            let foreign = after.iter().any(|reference| reference.controller == Some(true));
            if foreign && owner.is_some() {
                let message = format!(
                    "PersistentVolumeClaim {name} has a conflicting OwnerReference that acts as a \
                     manging controller, the retention policy is ignored for this claim"
                );
                let regarding = reference(&STATEFUL_SET, meta);
                self.plan.event(&regarding, "Warning", "ConflictingController", message);
            }
            after.extend(owner.filter(|_| !foreign));
            if after != *before {
                self.todo.patches.push(own(&claim, &after));
            }
        }
    }
}

/// Who owns the claims of a pod.
fn owner(set: &StatefulSet, ordinal: i32, pod: Option<&ObjectMeta>) -> Option<OwnerReference> {
    let policy = &set.spec.persistent_volume_claim_retention_policy;
    let is_condemned = !ordinals(set).contains(&ordinal);
    if policy.when_scaled == "Delete" && is_condemned {
        return pod.map(|pod| controller_reference(&POD, pod));
    }
    let goes = policy.when_deleted == "Delete";
    goes.then(|| controller_reference(&STATEFUL_SET, &set.metadata))
}

fn own(claim: &Entry<PersistentVolumeClaim>, owners: &[OwnerReference]) -> Step {
    let meta = &claim.metadata;
    let owners = if owners.is_empty() { Value::Null } else { json!(owners) };
    let body = json!({ "metadata": {
        "uid": meta.uid, "resourceVersion": meta.resource_version, "ownerReferences": owners,
    } });
    let target = Target::of(&PERSISTENT_VOLUME_CLAIM, meta);
    Step::Patch(Patch { target, subresource: "", strategic: false, body })
}

/// The claim as the template has it, with the labels by which the set finds its pods.
fn claim(set: &StatefulSet, template: &Value, name: &str) -> Value {
    let meta = &set.metadata;
    let mut metadata = template["metadata"].clone();
    metadata["name"] = name.into();
    metadata["namespace"] = meta.namespace.as_str().into();
    for (key, value) in &set.spec.selector.match_labels {
        metadata["labels"][key] = value.as_str().into();
    }
    if set.spec.persistent_volume_claim_retention_policy.when_deleted == "Delete" {
        metadata["ownerReferences"] = json!([controller_reference(&STATEFUL_SET, meta)]);
    }
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata,
        "spec": template["spec"],
    })
}

fn told(regarding: proto::view::ObjectReference, pod: &str) -> Told {
    Told {
        beside: pod.into(),
        created: Some((
            "SuccessfulCreate",
            "create Claim {} Pod {beside} in StatefulSet {owner} success",
        )),
        not_created: Some((
            "FailedCreate",
            "create Claim {name} for Pod {beside} in StatefulSet {owner} failed error: {}",
        )),
        ..Told::new(regarding)
    }
}
