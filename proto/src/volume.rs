//! Which volume a claim may have. Binder and scheduler must come to the same answer, and the node
//! agrees where a volume may be mounted.
//! <https://kubernetes.io/docs/concepts/storage/persistent-volumes/#binding>

use std::collections::BTreeSet;

use crate::meta::Labels;
use crate::quantity::Quantity;
use crate::view::Resources;
use crate::view::persistent_volume::PersistentVolume;
use crate::view::persistent_volume_claim::PersistentVolumeClaim;

/// On claims: both sides know of each other.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On claims and volumes: the controller has chosen the other side, not the user.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On volumes: who made them and so may delete what is behind them.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On claims: the node for which a volume is to be made.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On claims: who is to make a volume; the second name is the older one.
pub const STORAGE_PROVISIONER: [&str; 2] =
    ["volume.kubernetes.io/storage-provisioner", "volume.beta.kubernetes.io/storage-provisioner"];

/// On volumes: kept until what is behind them is gone.
pub const PROVISIONER_FINALIZER: &str = "external-provisioner.volume.kubernetes.io/finalizer";

/// Who makes volumes of folders on the nodes' disks, as StorageClasses name it.
pub const HOST_PATH: &str = "coracle.dev/host-path";
/// On Nodes: where the node keeps such folders.
pub const HOST_PATH_FOLDER: &str = "host-path.coracle.dev/folder";
/// On such volumes: the name of the node that has the folder.
pub const HOST_PATH_NODE: &str = "host-path.coracle.dev/node";
/// On Nodes, before the name of a volume: its folder is to go ([`WANTED`]) or has gone ([`DONE`]).
pub const HOST_PATH_DISCARD: &str = "discard.host-path.coracle.dev/";
pub const WANTED: &str = "wanted";
pub const DONE: &str = "done";

/// The mode in which only one pod may use a claim.
pub const ONE_POD: &str = "ReadWriteOncePod";

/// Why a claim cannot have a volume, in the words of the event `VolumeMismatch`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    #[error("requested PV is too small")]
    Size,
    #[error("storageClassName does not match")]
    Class,
    #[error("volumeAttributesClassName does not match")]
    Attributes,
    #[error("incompatible volumeMode")]
    Mode,
    #[error("incompatible accessMode")]
    Access,
}

/// The amount of `storage`.
pub fn storage(resources: &Resources) -> Quantity {
    resources.get("storage").copied().unwrap_or(Quantity::ZERO)
}

/// Whether the volume is this claim's, or kept for a claim of this name.
pub fn is_claimed_by(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let meta = &claim.metadata;
    volume.spec.claim_ref.as_ref().is_some_and(|reference| {
        reference.name == meta.name
            && reference.namespace == meta.namespace
            && (reference.uid.is_empty() || reference.uid == meta.uid)
    })
}

/// Whether the claim may have the volume, which it or the volume's owner asks for by name.
pub fn satisfies(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), Mismatch> {
    let says = |holds: bool, otherwise| if holds { Ok(()) } else { Err(otherwise) };
    let attributes = |name: &Option<String>| name.clone().unwrap_or_default();
    let asked = attributes(&claim.spec.volume_attributes_class_name);
    says(storage(&volume.spec.capacity) >= claim.size(), Mismatch::Size)?;
    says(volume.class() == claim.class(), Mismatch::Class)?;
    let given = attributes(&volume.spec.volume_attributes_class_name);
    says(given == asked, Mismatch::Attributes)?;
    says(volume.is_block() == claim.is_block(), Mismatch::Mode)?;
    let modes = &volume.spec.access_modes;
    says(claim.spec.access_modes.iter().all(|mode| modes.contains(mode)), Mismatch::Access)
}

/// Whether the volume can be reached from the node.
pub fn reaches(volume: &PersistentVolume, node: &str, labels: &Labels) -> bool {
    let required = volume.spec.node_affinity.as_ref().and_then(|it| it.required.as_ref());
    required.is_none_or(|required| required.admits(node, labels))
}

/// Who is looking for a volume, and where.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// The binder, for a claim that waits for no pod.
    Anywhere,
    /// The binder, for a claim that waits for a pod: only a volume kept for it will do.
    Kept,
    /// The scheduler, for a pod that may run there.
    Node(&'a str, &'a Labels),
}

/// The smallest volume that fits; one that is kept for the claim before all others. `taken` are
/// volumes that have just been promised to someone else.
pub fn best<'a>(
    claim: &PersistentVolumeClaim,
    volumes: impl Iterator<Item = &'a PersistentVolume>,
    place: Place,
    taken: &BTreeSet<String>,
) -> Option<&'a PersistentVolume> {
    let selector = claim.spec.selector.as_ref().and_then(|selector| selector.selector().ok());
    // A selector that cannot be read selects nothing.
    if claim.spec.selector.is_some() && selector.is_none() {
        return None;
    }
    let reached = |volume: &PersistentVolume| match place {
        Place::Node(name, labels) => reaches(volume, name, labels),
        Place::Anywhere | Place::Kept => true,
    };
    let fits = |volume: &&PersistentVolume| {
        if volume.is_going() || taken.contains(&volume.metadata.name) || !reached(volume) {
            return false;
        }
        if is_claimed_by(volume, claim) {
            return volume.is_block() == claim.is_block()
                && storage(&volume.spec.capacity) >= claim.size();
        }
        let selected =
            selector.as_ref().is_none_or(|selector| selector.matches(&volume.metadata.labels));
        !matches!(place, Place::Kept)
            && volume.spec.claim_ref.is_none()
            && volume.status.phase == "Available"
            && selected
            && satisfies(volume, claim).is_ok()
    };
    volumes.filter(fits).min_by_key(|volume| {
        let kept = is_claimed_by(volume, claim);
        (!kept, storage(&volume.spec.capacity), volume.metadata.name.clone())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn volume(name: &str, spec: Value) -> PersistentVolume {
        let mut whole = json!({"metadata": {"name": name, "labels": {"tier": name}},
            "spec": {"capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce"],
                "storageClassName": "c"},
            "status": {"phase": "Available"}});
        for (key, value) in spec.as_object().unwrap() {
            match key.as_str() {
                "phase" => whole["status"]["phase"] = value.clone(),
                _ => whole["spec"][key] = value.clone(),
            }
        }
        serde_json::from_value(whole).unwrap()
    }

    fn claim(spec: Value) -> PersistentVolumeClaim {
        let mut whole = json!({"metadata": {"name": "k", "namespace": "n", "uid": "u"},
            "spec": {"resources": {"requests": {"storage": "4Gi"}}, "storageClassName": "c",
                "accessModes": ["ReadWriteOnce"]}});
        for (key, value) in spec.as_object().unwrap() {
            whole["spec"][key] = value.clone();
        }
        serde_json::from_value(whole).unwrap()
    }

    #[test]
    fn the_smallest_that_fits() {
        let reference = |uid: &str| json!({"namespace": "n", "name": "k", "uid": uid});
        let here = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
            {"key": "zone", "operator": "In", "values": ["a"]}]}]}});
        let volumes = [
            volume("big", json!({"capacity": {"storage": "50Gi"}})),
            volume("fit", json!({})),
            volume("small", json!({"capacity": {"storage": "1Gi"}})),
            volume("pending", json!({"phase": "Pending", "capacity": {"storage": "4Gi"}})),
            volume("other", json!({"storageClassName": "d", "capacity": {"storage": "4Gi"}})),
            volume("block", json!({"volumeMode": "Block"})),
            volume(
                "many",
                json!({"accessModes": ["ReadWriteOnce", "ReadWriteMany"],
                "capacity": {"storage": "9Gi"}}),
            ),
            volume("kept", json!({"storageClassName": "k", "claimRef": reference("")})),
            volume("old", json!({"storageClassName": "o", "claimRef": reference("before")})),
            volume("zone", json!({"storageClassName": "z", "nodeAffinity": here})),
        ];
        let labels = Labels::from([("zone".to_string(), "b".to_string())]);
        let only = |names: &'static [&'static str]| {
            move |volume: &&PersistentVolume| names.contains(&volume.metadata.name.as_str())
        };
        const FREE: &[&str] = &["big", "fit", "small", "pending", "other", "block", "many"];
        const ALL: &[&str] = &["big", "fit", "kept"];
        for (spec, names, place, expected) in [
            (json!({}), FREE, Place::Anywhere, Some("fit")),
            (json!({}), FREE, Place::Kept, None),
            (json!({}), ALL, Place::Kept, Some("kept")),
            (json!({}), ALL, Place::Anywhere, Some("kept")),
            (json!({"accessModes": ["ReadWriteMany"]}), FREE, Place::Anywhere, Some("many")),
            (json!({"volumeMode": "Block"}), FREE, Place::Anywhere, Some("block")),
            (
                json!({"selector": {"matchLabels": {"tier": "big"}}}),
                FREE,
                Place::Anywhere,
                Some("big"),
            ),
            (json!({"storageClassName": "o"}), &["old"], Place::Anywhere, None),
            (json!({"storageClassName": "z"}), &["zone"], Place::Anywhere, Some("zone")),
            (json!({"storageClassName": "z"}), &["zone"], Place::Node("x", &labels), None),
            (json!({"storageClassName": ""}), FREE, Place::Anywhere, None),
        ] {
            let claim = claim(spec.clone());
            let found = best(&claim, volumes.iter().filter(only(names)), place, &BTreeSet::new());
            let found = found.map(|volume| volume.metadata.name.as_str());
            assert_eq!(found, expected, "{spec} {place:?}");
        }
        let taken = BTreeSet::from(["fit".to_string()]);
        let found =
            best(&claim(json!({})), volumes.iter().filter(only(FREE)), Place::Anywhere, &taken);
        assert_eq!(found.unwrap().metadata.name, "many");
    }

    #[test]
    fn what_does_not_match() {
        for (spec, expected) in [
            (json!({}), Ok(())),
            (json!({"capacity": {"storage": "1Gi"}}), Err(Mismatch::Size)),
            (json!({"storageClassName": ""}), Err(Mismatch::Class)),
            (json!({"volumeMode": "Block"}), Err(Mismatch::Mode)),
            (json!({"accessModes": ["ReadOnlyMany"]}), Err(Mismatch::Access)),
            (json!({"volumeAttributesClassName": "gold"}), Err(Mismatch::Attributes)),
        ] {
            assert_eq!(
                satisfies(&volume("v", spec.clone()), &claim(json!({}))),
                expected,
                "{spec}"
            );
        }
    }
}
