//! How many pods the controllers of some pods want.

use std::collections::BTreeMap;
use std::sync::Arc;

use client::Entry;
use proto::meta::OwnerReference;
use proto::view::deployment::Deployment;
use proto::view::pod::Pod;
use proto::view::replica_set::ReplicaSet;
use proto::view::replication_controller::ReplicationController;
use proto::view::stateful_set::StatefulSet;

use crate::plan::group_of;
use crate::view::View;

/// The sum over the pods' controllers, each counted once, and the pods that have none. An error
/// says which pod's controller cannot be found.
pub(super) fn expected(
    pods: &[Arc<Entry<Pod>>],
    view: &View,
) -> Result<(i64, Vec<String>), String> {
    let mut scales: BTreeMap<String, i64> = BTreeMap::new();
    let mut unmanaged = Vec::new();
    for pod in pods {
        let Some(owner) = pod.metadata.controller() else {
            unmanaged.push(pod.metadata.name.clone());
            continue;
        };
        if scales.contains_key(&owner.uid) {
            continue;
        }
        let found = scale(owner, &pod.metadata.namespace, view);
        let (uid, count) =
            found.ok_or_else(|| format!("found no controllers for pod {:?}", pod.metadata.name))?;
        scales.insert(uid, count);
    }
    Ok((scales.values().sum(), unmanaged))
}

/// The uid and scale of a controller; of a Deployment for its ReplicaSets.
fn scale(owner: &OwnerReference, namespace: &str, view: &View) -> Option<(String, i64)> {
    let wanted = |replicas: Option<i32>| i64::from(replicas.unwrap_or(1));
    match (group_of(&owner.api_version), owner.kind.as_str()) {
        ("apps", "ReplicaSet") => {
            let set = view.get::<ReplicaSet>(namespace, &owner.name)?;
            if set.metadata.uid != owner.uid {
                return None;
            }
            match set.metadata.controller() {
                Some(above) if above.kind == "Deployment" => {
                    let deployment = view.get::<Deployment>(namespace, &above.name)?;
                    let same = deployment.metadata.uid == above.uid;
                    same.then(|| (above.uid.clone(), wanted(deployment.spec.replicas)))
                }
                _ => Some((owner.uid.clone(), wanted(set.spec.replicas))),
            }
        }
        ("apps", "StatefulSet") => {
            let set = view.get::<StatefulSet>(namespace, &owner.name)?;
            let same = set.metadata.uid == owner.uid;
            same.then(|| (owner.uid.clone(), wanted(set.spec.replicas)))
        }
        ("", "ReplicationController") => {
            let found = view.get::<ReplicationController>(namespace, &owner.name)?;
            let same = found.metadata.uid == owner.uid;
            same.then(|| (owner.uid.clone(), wanted(found.spec.replicas)))
        }
        _ => None,
    }
}
