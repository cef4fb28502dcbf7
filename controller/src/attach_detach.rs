//! Which volumes of storage drivers are to be attached to which nodes: those of the pods there.
//! Attaching itself is the driver's work; it follows VolumeAttachments.
//! <https://kubernetes.io/docs/reference/kubernetes-api/config-and-storage-resources/volume-attachment-v1/>

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use client::{Entry, Key};
use proto::kind::{NODE, VOLUME_ATTACHMENT};
use proto::time::Time;
use proto::view::csi_driver::CsiDriver;
use proto::view::node::{AttachedVolume, Node};
use proto::view::persistent_volume::PersistentVolume;
use proto::view::persistent_volume_claim::PersistentVolumeClaim;
use proto::view::pod::Pod;
use proto::view::volume_attachment::VolumeAttachment;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::plan::{Patch, Plan, Step, Target};
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

/// Attaches and detaches, a node at a time.
pub struct AttachDetach;

/// How long a node that says nothing more may hold on to the volumes of pods that are gone.
const PATIENCE: Duration = Duration::from_secs(6 * 60);

impl Controller for AttachDetach {
    type Object = Node;
    const NAME: &'static str = "persistentvolume-attach-detach-controller";

    fn watches(watches: &mut Watches<Node>) {
        let of_claim = |namespace: &str, name: &str, view: &View| -> Vec<Key> {
            view.pods_using(namespace, name).iter().filter_map(|pod| node_of(pod)).collect()
        };
        watches
            .maps::<Pod>(|change, _| {
                let pods = change.old.iter().chain(&change.new);
                let mut nodes: Vec<Key> = pods
                    .filter(|pod| pod.claims().next().is_some())
                    .filter_map(|pod| node_of(pod))
                    .collect();
                nodes.dedup();
                nodes
            })
            .maps::<PersistentVolumeClaim>(move |change, view| {
                of_claim(&change.key.namespace, &change.key.name, view)
            })
            .maps::<PersistentVolume>(move |change, view| {
                let claim = change.new.as_ref().and_then(|volume| volume.spec.claim_ref.as_ref());
                claim.map(|claim| of_claim(&claim.namespace, &claim.name, view)).unwrap_or_default()
            })
            .maps::<CsiDriver>(|_, view| {
                view.all::<Node>().iter().map(|node| Key::of(&node.metadata)).collect()
            })
            .timed::<VolumeAttachment>(
                |_| true,
                |change, _| {
                    let all = change.old.iter().chain(&change.new);
                    let mut nodes: Vec<Key> =
                        all.map(|one| Key::new("", &one.spec.node_name)).collect();
                    nodes.dedup();
                    nodes
                },
            );
    }

    fn plan(&self, node: &Entry<Node>, view: &View, now: Time) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        // Nodes tell of themselves often, and most clusters have no such volumes.
        if view.count::<PersistentVolume>() + view.count::<VolumeAttachment>() == 0
            && node.status.volumes_attached.is_empty()
        {
            return Ok(plan);
        }
        let wanted = wanted(&node.metadata.name, view);
        let there = attachments(&node.metadata.name, view);
        for (name, volume) in &wanted {
            if !there.contains_key(name) {
                plan.create(&VOLUME_ATTACHMENT, "", attachment(name, &node.metadata.name, volume));
            }
        }
        for (name, attachment) in &there {
            if wanted.contains_key(name) || attachment.metadata.deletion_timestamp.is_some() {
                continue;
            }
            let unused = unused(node, attachment, view);
            let due = view.changed::<VolumeAttachment>("", name).map(|at| at.plus(PATIENCE));
            match due.filter(|due| !unused && *due > now) {
                Some(due) => plan.look_again(due),
                None => plan.delete(&VOLUME_ATTACHMENT, &attachment.metadata),
            }
        }
        let attached = attached(&there, view);
        if node.status.volumes_attached != attached {
            // A list without keys: it is written whole.
            let body = json!({
                "metadata": { "uid": node.metadata.uid },
                "status": { "volumesAttached": attached },
            });
            let (target, subresource) = (Target::of(&NODE, &node.metadata), "status");
            plan.steps.push(Step::Patch(Patch { target, subresource, strategic: false, body }));
        }
        Ok(plan)
    }

    /// The node is gone, and with it whatever was attached.
    fn plan_absent(&self, key: &Key, view: &View) -> Plan {
        let mut plan = Plan::default();
        let wanted = wanted(&key.name, view);
        for (name, attachment) in attachments(&key.name, view) {
            let going = attachment.metadata.deletion_timestamp.is_some();
            if !wanted.contains_key(&name) && !going {
                plan.delete(&VOLUME_ATTACHMENT, &attachment.metadata);
            }
        }
        plan
    }
}

fn node_of(pod: &Pod) -> Option<Key> {
    let node = pod.spec.node_name.as_str();
    (!node.is_empty()).then(|| Key::new("", node))
}

/// By the names of their attachments: the volumes that pods of the node need attached.
fn wanted(node: &str, view: &View) -> BTreeMap<String, Arc<Entry<PersistentVolume>>> {
    let mut wanted = BTreeMap::new();
    for pod in view.pods_on(node).iter().filter(|pod| !pod.is_terminal()) {
        for used in pod.claims() {
            let namespace = &pod.metadata.namespace;
            let claim = view.get::<PersistentVolumeClaim>(namespace, &used.name);
            let Some(claim) = claim.filter(|claim| claim.is_bound()) else { continue };
            let volume = view.get::<PersistentVolume>("", &claim.spec.volume_name);
            let Some(volume) = volume else { continue };
            let Some(csi) = &volume.spec.csi else { continue };
            let driver = view.get::<CsiDriver>("", &csi.driver);
            if driver.is_none_or(|driver| driver.is_attached()) {
                wanted.insert(name_of(&csi.volume_handle, &csi.driver, node), volume.clone());
            }
        }
    }
    wanted
}

fn attachments(node: &str, view: &View) -> BTreeMap<String, Arc<Entry<VolumeAttachment>>> {
    let mut all = view.all::<VolumeAttachment>();
    // Those of inline volumes are not from here.
    all.retain(|one| {
        one.spec.node_name == node && !one.spec.source.persistent_volume_name.is_empty()
    });
    all.into_iter().map(|one| (one.metadata.name.clone(), one)).collect()
}

fn name_of(handle: &str, driver: &str, node: &str) -> String {
    format!("csi-{}", hex(&Sha256::digest(format!("{handle}{driver}{node}"))))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attachment(name: &str, node: &str, volume: &PersistentVolume) -> serde_json::Value {
    json!({
        "apiVersion": VOLUME_ATTACHMENT.api_version(),
        "kind": VOLUME_ATTACHMENT.kind,
        "metadata": { "name": name },
        "spec": {
            "attacher": volume.spec.csi.as_ref().map(|csi| &csi.driver),
            "nodeName": node,
            "source": { "persistentVolumeName": volume.metadata.name },
        },
    })
}

/// As the status of a Node calls the attached volume; `None` once the volume is gone.
fn unique_name(attachment: &VolumeAttachment, view: &View) -> Option<String> {
    let volume =
        view.get::<PersistentVolume>("", &attachment.spec.source.persistent_volume_name)?;
    let csi = volume.spec.csi.as_ref()?;
    Some(format!("kubernetes.io/csi/{}^{}", csi.driver, csi.volume_handle))
}

/// Whether the node says that it has the volume no longer.
fn unused(node: &Node, attachment: &VolumeAttachment, view: &View) -> bool {
    let name = unique_name(attachment, view);
    name.is_none_or(|name| !node.status.volumes_in_use.contains(&name))
}

fn attached(
    there: &BTreeMap<String, Arc<Entry<VolumeAttachment>>>,
    view: &View,
) -> Vec<AttachedVolume> {
    let done = there.values().filter(|one| one.status.attached);
    let mut names: Vec<String> = done.filter_map(|one| unique_name(one, view)).collect();
    names.sort();
    let volume = |name| AttachedVolume { name, device_path: String::new() };
    names.into_iter().map(volume).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn what_pods_need_is_attached() {
        let volume = json!({"metadata": {"name": "v"},
            "spec": {"csi": {"driver": "d", "volumeHandle": "h"}}});
        let claim = json!({"metadata": {"name": "k", "namespace": "a",
                "annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
            "spec": {"volumeName": "v"}});
        let pod = |phase: &str| {
            json!({"metadata": {"name": "p", "namespace": "a"}, "status": {"phase": phase},
                "spec": {"nodeName": "n", "volumes": [
                    {"name": "x", "persistentVolumeClaim": {"claimName": "k"}}]}})
        };
        let name = name_of("h", "d", "n");
        let there = |attached: bool| {
            json!({"metadata": {"name": name}, "status": {"attached": attached},
                "spec": {"nodeName": "n", "attacher": "d",
                    "source": {"persistentVolumeName": "v"}}})
        };
        let unique = "kubernetes.io/csi/d^h";
        let node = |in_use: &[&str], attached: &[&str]| {
            let attached: Vec<Value> =
                attached.iter().map(|name| json!({"name": name, "devicePath": ""})).collect();
            json!({"metadata": {"name": "n"},
                "status": {"volumesInUse": in_use, "volumesAttached": attached}})
        };
        let free = json!({"metadata": {"name": "d"}, "spec": {"attachRequired": false}});
        for (pods, attachments, drivers, node, expected) in [
            (vec![pod("Pending")], vec![], vec![], node(&[], &[]), vec!["create"]),
            (vec![pod("Pending")], vec![], vec![free], node(&[], &[]), vec![]),
            (vec![pod("Pending")], vec![there(false)], vec![], node(&[], &[]), vec![]),
            (vec![pod("Running")], vec![there(true)], vec![], node(&[unique], &[]), vec!["patch"]),
            (vec![pod("Running")], vec![there(true)], vec![], node(&[unique], &[unique]), vec![]),
            (
                vec![pod("Succeeded")],
                vec![there(true)],
                vec![],
                node(&[], &[unique]),
                vec!["delete"],
            ),
            (vec![], vec![there(true)], vec![], node(&[unique], &[unique]), vec![]),
            (vec![], vec![there(true)], vec![], node(&[], &[unique]), vec!["delete"]),
        ] {
            let mut view = View::default()
                .with::<Pod>(&pods)
                .with::<PersistentVolume>(std::slice::from_ref(&volume))
                .with::<PersistentVolumeClaim>(std::slice::from_ref(&claim))
                .with::<CsiDriver>(&drivers)
                .with::<VolumeAttachment>(&attachments);
            view.start(Time::from_unix(0));
            let entry = Entry::decode(node.to_string().into()).unwrap();
            let plan = AttachDetach.plan(&entry, &view, Time::from_unix(0)).unwrap();
            let steps = plan.steps.iter().map(|step| match step {
                Step::Create(create) => {
                    assert_eq!(create.object["metadata"]["name"], name.as_str());
                    "create"
                }
                Step::Patch(_) => "patch",
                Step::Delete(_) => "delete",
                other => panic!("{other:?}"),
            });
            assert_eq!(steps.collect::<Vec<_>>(), expected, "{pods:?} {attachments:?} {node}");
        }
    }
}
