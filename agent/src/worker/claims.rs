//! The volumes behind a pod's claims, asked for when they are to be mounted: a node may read only
//! those, one at a time.

use std::collections::BTreeMap;

use client::Patch;
use proto::meta::Labels;
use proto::view::node::Node;
use proto::view::persistent_volume::PersistentVolume;
use proto::view::persistent_volume_claim::PersistentVolumeClaim;
use proto::volume::{reaches, storage};
use serde_json::{Value, json};

use super::{Context, csi};
use crate::environment::Sources;
use crate::events::{NORMAL, WARNING};
use crate::pod::volume::ClaimVolume;
use crate::pod::{Pod, Volume, VolumeSource};
use crate::volume::Bound;

/// The condition of a claim whose volume's file system is to grow.
const RESIZE_PENDING: &str = "FileSystemResizePending";

/// Finds what is behind the pod's volumes, where that is for the API to say.
pub async fn find(context: &Context, pod: &Pod, sources: &mut Sources) {
    sources.claims = bound(context, pod).await;
    for volume in &pod.spec.volumes {
        let Ok(VolumeSource::Csi(wanted)) = volume.source() else { continue };
        let found = csi::inline(context, pod, volume, &wanted).await;
        sources.inline.insert(volume.name.clone(), found);
    }
}

/// By volume: what is behind it, or why nothing is, in the kubelet's words.
async fn bound(context: &Context, pod: &Pod) -> BTreeMap<String, Result<Bound, String>> {
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
    let read_only = wanted.read_only;
    let csi = match &found.spec.csi {
        Some(of) if reachable => {
            let mut wanted = csi::persistent(context, pod, &found, of, read_only).await?;
            if is_growing(&claim.value()) && !wanted.read_only {
                wanted.grow_to = Some(storage(&found.spec.capacity).value());
                wanted.expand_secrets =
                    csi::secret(context, of.node_expand_secret_ref.as_ref()).await?;
            }
            Some(Box::new(wanted))
        }
        _ => None,
    };
    Ok(Bound { volume: found.view, source, read_only, csi, reachable })
}

async fn labels(context: &Context, node: &str) -> Result<Labels, String> {
    let node = context.client.get::<Node>("", node).await;
    node.map(|node| node.view.metadata.labels)
        .map_err(|error| format!("failed to fetch the node from API server: {error}"))
}

/// Whether its volume has grown and its file system has not.
fn is_growing(claim: &Value) -> bool {
    let conditions = claim["status"]["conditions"].as_array().into_iter().flatten();
    let mut pending = conditions.filter(|one| one["type"] == RESIZE_PENDING);
    pending.any(|one| one["status"] == "True")
}

/// Lets file systems follow the volumes that have grown under a running pod.
pub async fn follow(context: &Context, pod: &Pod) {
    for volume in &pod.spec.volumes {
        let Ok(VolumeSource::Claim(wanted)) = volume.source() else { continue };
        let (meta, client) = (&pod.metadata, &context.client);
        let name = wanted.name(&meta.name, &volume.name);
        // One question for each claim, and all others only where the answer makes them necessary.
        let claim = client.get::<PersistentVolumeClaim>(&meta.namespace, &name).await;
        if !claim.is_ok_and(|claim| is_growing(&claim.value())) {
            continue;
        }
        if let Err(why) = follow_one(context, pod, volume, &wanted).await {
            context.events.pod(pod, None, WARNING, "VolumeResizeFailed", &why);
        }
    }
}

async fn follow_one(
    context: &Context,
    pod: &Pod,
    volume: &Volume,
    wanted: &ClaimVolume,
) -> Result<(), String> {
    let bound = one(context, pod, volume, wanted).await?;
    let Some(wanted) = bound.csi.as_deref().filter(|wanted| wanted.grow_to.is_some()) else {
        return Ok(());
    };
    context.disk.grow(pod, wanted).await.map_err(|error| error.to_string())?;
    let told = tell(context, pod, &bound).await;
    told.map_err(|error| format!("mark the claim of volume {} as grown: {error}", volume.name))
}

/// Says of the claims whose volumes were to grow that they have.
pub async fn grown(context: &Context, pod: &Pod, sources: &Sources) -> Result<(), client::Error> {
    for bound in sources.claims.values().flatten() {
        if bound.csi.as_ref().is_some_and(|wanted| wanted.grow_to.is_some()) {
            tell(context, pod, bound).await?;
        }
    }
    Ok(())
}

async fn tell(context: &Context, pod: &Pod, bound: &Bound) -> Result<(), client::Error> {
    let Some(owner) = bound.volume.spec.claim_ref.as_ref() else { return Ok(()) };
    let status = json!({
        "capacity": bound.volume.spec.capacity,
        "conditions": [{ "type": RESIZE_PENDING, "$patch": "delete" }],
        "allocatedResourceStatuses": { "storage": null },
    });
    let patch = Patch::Strategic(json!({ "status": status }));
    let (namespace, name) = (&owner.namespace, &owner.name);
    context.client.patch::<PersistentVolumeClaim>(namespace, name, "status", &patch).await?;
    let (volume, node) = (&bound.volume.metadata.name, &pod.spec.node_name);
    let message = format!("MountVolume.NodeExpandVolume succeeded for volume {volume:?} {node}");
    context.events.pod(pod, None, NORMAL, "FileSystemResizeSuccessful", &message);
    Ok(())
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
