//! Volumes for claims that ask for one.

use client::{Entry, Key};
use proto::kind::{PERSISTENT_VOLUME, PERSISTENT_VOLUME_CLAIM};
use proto::time::Time;
use proto::view::ObjectReference;
use proto::view::node::Node;
use proto::view::persistent_volume::PersistentVolume;
use proto::view::persistent_volume_claim::PersistentVolumeClaim;
use proto::view::storage_class::StorageClass;
use proto::volume::{
    HOST_PATH, HOST_PATH_NODE, ONE_POD, PROVISIONED_BY, PROVISIONER_FINALIZER, SELECTED_NODE,
    STORAGE_PROVISIONER,
};
use serde_json::{Value, json};

use super::folder;
use crate::plan::{Plan, Step, Target, reference};
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

/// By this label others than us know a node.
const HOSTNAME: &str = "kubernetes.io/hostname";

/// Makes volumes.
pub struct Provision;

impl Controller for Provision {
    type Object = PersistentVolumeClaim;
    const NAME: &'static str = super::NAME;

    fn watches(watches: &mut Watches<PersistentVolumeClaim>) {
        watches.reads::<Node>().reads::<PersistentVolume>().maps::<StorageClass>(|_, view| {
            let claims = view.all::<PersistentVolumeClaim>();
            claims
                .iter()
                .filter(|claim| asks(claim))
                .map(|claim| Key::of(&claim.metadata))
                .collect()
        });
    }

    fn plan(
        &self,
        claim: &Entry<PersistentVolumeClaim>,
        view: &View,
        _: Time,
    ) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        let name = format!("pvc-{}", claim.metadata.uid);
        let Some(class) = view.get::<StorageClass>("", claim.class()) else { return Ok(plan) };
        if !asks(claim) || class.provisioner != HOST_PATH {
            return Ok(plan);
        }
        if view.get::<PersistentVolume>("", &name).is_some() {
            return Ok(plan);
        }
        let regarding = reference(&PERSISTENT_VOLUME_CLAIM, &claim.metadata);
        let chosen = claim.metadata.annotations.get(SELECTED_NODE);
        let object = chosen
            .ok_or_else(|| Refusal::NoNode(class.metadata.name.clone()))
            .and_then(|node| volume(claim, &class, view.get::<Node>("", node), node, &name));
        match object {
            Ok(object) => {
                let what = format!("{}/{}", claim.metadata.namespace, claim.metadata.name);
                let begun =
                    format!("External provisioner is provisioning volume for claim \"{what}\"");
                plan.event(&regarding, "Normal", "Provisioning", begun);
                let (row, name) = (&PERSISTENT_VOLUME, name.clone());
                let (namespace, uid) = (String::new(), String::new());
                plan.steps.push(Step::Absent(Target { row, namespace, name, uid }));
                plan.create(&PERSISTENT_VOLUME, "", object);
                let done = format!("Successfully provisioned volume pvc-{}", claim.metadata.uid);
                plan.event(&regarding, "Normal", "ProvisioningSucceeded", done);
            }
            Err(refusal) => {
                let why = format!(
                    "failed to provision volume with StorageClass \"{}\": {refusal}",
                    class.metadata.name
                );
                plan.event(&regarding, "Warning", "ProvisioningFailed", why);
                if matches!(refusal, Refusal::Node(_) | Refusal::Gone(_)) {
                    // The scheduler may find a better one.
                    let body = json!({ "metadata": { "annotations": { SELECTED_NODE: null } } });
                    plan.patch(&PERSISTENT_VOLUME_CLAIM, &claim.metadata, body);
                }
            }
        }
        Ok(plan)
    }
}

/// Whether the binder has said that we are to make a volume.
fn asks(claim: &PersistentVolumeClaim) -> bool {
    let asked = claim.metadata.annotations.get(STORAGE_PROVISIONER[0]);
    asked.is_some_and(|name| name == HOST_PATH)
        && claim.spec.volume_name.is_empty()
        && !claim.is_going()
}

/// What a folder cannot be, or a node does not have.
#[derive(Debug, PartialEq, thiserror::Error)]
enum Refusal {
    #[error(
        "no node was chosen: StorageClass \"{0}\" needs volumeBindingMode WaitForFirstConsumer"
    )]
    NoNode(String),
    #[error("node \"{0}\" keeps no folders for volumes")]
    Node(String),
    #[error("node \"{0}\" not found")]
    Gone(String),
    #[error("accessModes {0} is not possible on one node's disk: use ReadWriteOnce or {ONE_POD}")]
    Access(String),
    #[error("volumeMode Block is not possible: use Filesystem")]
    Block,
    #[error("claim.spec.selector is not supported: leave it out")]
    Selector,
    #[error("parameters are not known: leave them out of the StorageClass")]
    Parameters,
    #[error("mountOptions are meaningless for folders: leave them out of the StorageClass")]
    MountOptions,
}

fn volume(
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    node: Option<std::sync::Arc<Entry<Node>>>,
    chosen: &str,
    name: &str,
) -> Result<Value, Refusal> {
    let node = node.ok_or_else(|| Refusal::Gone(chosen.into()))?;
    let folder = folder(&node).ok_or_else(|| Refusal::Node(chosen.into()))?;
    let shared = claim
        .spec
        .access_modes
        .iter()
        .find(|mode| !["ReadWriteOnce", ONE_POD].contains(&mode.as_str()));
    if let Some(mode) = shared {
        return Err(Refusal::Access(mode.clone()));
    }
    if claim.is_block() {
        return Err(Refusal::Block);
    }
    if claim.spec.selector.is_some() {
        return Err(Refusal::Selector);
    }
    if !class.parameters.is_empty() {
        return Err(Refusal::Parameters);
    }
    if !class.mount_options.is_empty() {
        return Err(Refusal::MountOptions);
    }
    let hostname =
        node.metadata.labels.get(HOSTNAME).ok_or_else(|| Refusal::Node(chosen.into()))?;
    let here = json!({ "key": HOSTNAME, "operator": "In", "values": [hostname] });
    Ok(json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": name,
            "annotations": { PROVISIONED_BY: HOST_PATH, HOST_PATH_NODE: chosen },
            "finalizers": [PROVISIONER_FINALIZER],
        },
        "spec": {
            "capacity": { "storage": claim.size() },
            "accessModes": claim.spec.access_modes,
            "claimRef": ObjectReference::of(&PERSISTENT_VOLUME_CLAIM, &claim.metadata),
            "persistentVolumeReclaimPolicy": class.reclaim_policy,
            "storageClassName": class.metadata.name,
            "volumeMode": "Filesystem",
            "local": { "path": format!("{}/{name}", folder.trim_end_matches('/')) },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [{ "matchExpressions": [here] }] } },
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::persistent_volume::tests::{claim, class, summary};

    #[test]
    fn volumes_are_made_on_the_chosen_node() {
        let asks = |changes: Value| {
            let mut claim = claim(changes);
            claim["metadata"]["annotations"][STORAGE_PROVISIONER[0]] = HOST_PATH.into();
            claim
        };
        let chosen = |node: &str| json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
        let with = |spec: Value| {
            let mut all = chosen("a");
            all["spec"] = spec;
            all
        };
        let nodes = [
            json!({"metadata": {"name": "a", "labels": {"kubernetes.io/hostname": "h"}, "annotations": {"host-path.coracle.dev/folder": "/d"}}}),
            json!({"metadata": {"name": "b"}}),
        ];
        let class = class("c", json!({"provisioner": HOST_PATH, "reclaimPolicy": "Delete"}));
        let again = "persistentvolumeclaims k {\"metadata\":{\"annotations\":\
                     {\"volume.kubernetes.io/selected-node\":null}}}";
        for (changes, why, moved) in [
            (
                json!({}),
                "no node was chosen: StorageClass \"c\" needs volumeBindingMode \
                WaitForFirstConsumer",
                false,
            ),
            (chosen("b"), "node \"b\" keeps no folders for volumes", true),
            (chosen("x"), "node \"x\" not found", true),
            (
                with(json!({"accessModes": ["ReadWriteMany"]})),
                "accessModes ReadWriteMany is not \
                possible on one node's disk: use ReadWriteOnce or ReadWriteOncePod",
                false,
            ),
            (
                with(json!({"volumeMode": "Block"})),
                "volumeMode Block is not possible: use \
                Filesystem",
                false,
            ),
        ] {
            let steps = planned(asks(changes), &nodes, &class);
            let told = format!(
                "Warning ProvisioningFailed failed to provision volume with \
                                StorageClass \"c\": {why}"
            );
            let expected = if moved { vec![told, again.into()] } else { vec![told] };
            assert_eq!(steps, expected);
        }
        let steps = planned(asks(chosen("a")), &nodes, &class);
        assert_eq!(
            steps[0],
            "Normal Provisioning External provisioner is provisioning volume for \
                              claim \"n/k\""
        );
        assert_eq!(steps[1], "absent persistentvolumes pvc-u ");
        let made = steps[2].strip_prefix("create persistentvolumes ").unwrap();
        let made: Value = serde_json::from_str(made).unwrap();
        assert_eq!(made["spec"]["local"]["path"], "/d/pvc-u");
        assert_eq!(made["spec"]["capacity"]["storage"], "4Gi");
        assert_eq!(made["spec"]["claimRef"]["uid"], "u");
        assert_eq!(made["spec"]["persistentVolumeReclaimPolicy"], "Delete");
        assert_eq!(steps.len(), 4);
    }

    fn planned(claim: Value, nodes: &[Value], class: &Value) -> Vec<String> {
        let view = View::default()
            .with::<PersistentVolume>(&[])
            .with::<Node>(nodes)
            .with::<StorageClass>(std::slice::from_ref(class));
        let entry = Entry::decode(claim.to_string().into()).unwrap();
        summary(&Provision.plan(&entry, &view, Time::from_unix(0)).unwrap())
    }
}
