//! The volumes behind a pod's claims, asked for when they are to be mounted: a node may read only
//! those, one at a time.

use std::collections::BTreeMap;

use proto::meta::Labels;
use proto::view::node::Node;
use proto::view::persistent_volume::PersistentVolume;
use proto::view::persistent_volume_claim::PersistentVolumeClaim;
use proto::volume::reaches;

use super::Context;
use crate::pod::volume::ClaimVolume;
use crate::pod::{Pod, Volume, VolumeSource};
use crate::volume::Bound;

/// By volume: what is behind it, or why nothing is, in the kubelet's words.
pub async fn bound(context: &Context, pod: &Pod) -> BTreeMap<String, Result<Bound, String>> {
    let mut found = BTreeMap::new();
    for volume in &pod.spec.volumes {
        let Ok(VolumeSource::Claim(claim)) = volume.source() else { continue };
        let bound = one(context, pod, volume, &claim).await;
        let name = claim.name(&pod.metadata.name, &volume.name);
        let namespace = &pod.metadata.namespace;
        let bound = bound.map_err(|why| format!("error processing PVC {namespace}/{name}: {why}"));
        found.insert(volume.name.clone(), bound);
    }
    found
}

async fn one(
    context: &Context,
    pod: &Pod,
    volume: &Volume,
    wanted: &ClaimVolume,
) -> Result<Bound, String> {
    let (client, meta) = (&context.client, &pod.metadata);
    let name = wanted.name(&meta.name, &volume.name);
    let claim = client.get::<PersistentVolumeClaim>(&meta.namespace, &name).await;
    let claim = claim.map_err(|error| format!("failed to fetch PVC from API server: {error}"))?;
    let volume = usable(&claim, pod, wanted)?;
    let found = client.get::<PersistentVolume>("", volume).await;
    let found =
        found.map_err(|error| format!("failed to fetch PV {volume} from API server: {error}"))?;
    belongs(&found, &claim)?;
    let source = PersistentVolume::source(&found.value()).unwrap_or_default().to_string();
    let reachable = match found.spec.node_affinity {
        None => true,
        Some(_) => {
            let labels = labels(context, &pod.spec.node_name).await?;
            reaches(&found, &pod.spec.node_name, &labels)
        }
    };
    Ok(Bound { volume: found.view, source, read_only: wanted.read_only, reachable })
}

async fn labels(context: &Context, node: &str) -> Result<Labels, String> {
    let node = context.client.get::<Node>("", node).await;
    node.map(|node| node.view.metadata.labels)
        .map_err(|error| format!("failed to fetch the node from API server: {error}"))
}

/// The volume's name, if the pod may have the claim as it is.
fn usable<'a>(
    claim: &'a PersistentVolumeClaim,
    pod: &Pod,
    wanted: &ClaimVolume,
) -> Result<&'a str, String> {
    let (meta, owner) = (&claim.metadata, &pod.metadata);
    let own = || meta.controller().is_some_and(|controller| controller.uid == owner.uid);
    if wanted.is_ephemeral() && !own() {
        return Err(format!(
            "PVC {}/{} was not created for pod {}/{} (pod is not owner)",
            meta.namespace, meta.name, owner.namespace, owner.name
        ));
    }
    if claim.is_going() {
        return Err("can't start pod because PVC is being deleted".into());
    }
    if claim.status.phase != "Bound" || claim.spec.volume_name.is_empty() {
        return Err("PVC is not bound".into());
    }
    Ok(&claim.spec.volume_name)
}

fn belongs(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), String> {
    let (name, uid) = (&volume.metadata.name, &claim.metadata.uid);
    match &volume.spec.claim_ref {
        None => Err(format!(
            "found PV object {name} but it has a nil pv.Spec.ClaimRef indicating it is not yet \
             bound to the claim"
        )),
        Some(owner) if owner.uid != *uid => Err(format!(
            "found PV object {name} but its pv.Spec.ClaimRef.UID {} does not point to claim.UID {uid}",
            owner.uid
        )),
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn claims_that_a_pod_cannot_have() {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}});
        let pod: Pod = serde_json::from_value(pod).unwrap();
        let named = ClaimVolume { claim_name: "k".into(), read_only: false };
        let own = ClaimVolume::default();
        let bound = json!({"metadata": {"name": "k", "namespace": "n", "uid": "c"},
            "spec": {"volumeName": "v"}, "status": {"phase": "Bound"}});
        let with = |field: &str, value: Value| {
            let mut claim = bound.clone();
            claim["metadata"][field] = value;
            claim
        };
        let owner =
            |uid: &str| json!([{"kind": "Pod", "name": "p", "uid": uid, "controller": true}]);
        let pending = json!({"spec": {"volumeName": "v"}, "status": {"phase": "Pending"}});
        for (claim, wanted, expected) in [
            (bound.clone(), &named, Ok("v")),
            (pending, &named, Err("PVC is not bound")),
            (
                with("deletionTimestamp", json!("2026-01-01T00:00:00Z")),
                &named,
                Err("can't start pod because PVC is being deleted"),
            ),
            (bound.clone(), &own, Err("PVC n/k was not created for pod n/p (pod is not owner)")),
            (
                with("ownerReferences", owner("other")),
                &own,
                Err("PVC n/k was not created for pod n/p (pod is not owner)"),
            ),
            (with("ownerReferences", owner("u")), &own, Ok("v")),
        ] {
            let claim: PersistentVolumeClaim = serde_json::from_value(claim).unwrap();
            assert_eq!(usable(&claim, &pod, wanted), expected.map_err(String::from));
        }
        let claim: PersistentVolumeClaim = serde_json::from_value(bound).unwrap();
        for (reference, good) in
            [(json!(null), false), (json!({"uid": "x"}), false), (json!({"uid": "c"}), true)]
        {
            let volume = json!({"metadata": {"name": "v"}, "spec": {"claimRef": reference}});
            let volume: PersistentVolume = serde_json::from_value(volume).unwrap();
            assert_eq!(belongs(&volume, &claim).is_ok(), good);
        }
    }
}
