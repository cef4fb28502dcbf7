//! The end of volumes: the node removes the folder, then the object goes.

use client::{Entry, Key};
use proto::kind::{NODE, PERSISTENT_VOLUME};
use proto::time::Time;
use proto::view::node::Node;
use proto::view::persistent_volume::PersistentVolume;
use proto::volume::{
    DONE, HOST_PATH, HOST_PATH_DISCARD, HOST_PATH_NODE, PROVISIONED_BY, PROVISIONER_FINALIZER,
    WANTED,
};
use serde_json::{Value, json};

use crate::plan::Plan;
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

/// Removes volumes.
pub struct Discard;

impl Controller for Discard {
    type Object = PersistentVolume;
    const NAME: &'static str = super::NAME;

    fn watches(watches: &mut Watches<PersistentVolume>) {
        watches.maps::<Node>(|change, view| {
            let nodes = change.old.iter().chain(&change.new);
            let mut keys: Vec<Key> = nodes
                .flat_map(|node| discarded(node).map(|(name, _)| Key::new("", name)))
                .collect();
            if change.new.is_none() {
                // What was on it is gone with it.
                let volumes = view.all::<PersistentVolume>();
                let here = volumes
                    .iter()
                    .filter(|it| is_ours(it) && node_of(it) == Some(&*change.key.name));
                keys.extend(here.map(|volume| Key::of(&volume.metadata)));
            }
            keys.sort();
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
        let meta = &volume.metadata;
        if !is_ours(volume) {
            return Ok(plan);
        }
        let deletes = volume.spec.persistent_volume_reclaim_policy == "Delete";
        let held = meta.finalizers.iter().any(|known| known == PROVISIONER_FINALIZER);
        let given_back = matches!(volume.status.phase.as_str(), "Released" | "Failed");
        // One that still has its claim stays, though its object is being deleted.
        if !deletes || !given_back {
            if volume.is_going() && held && given_back {
                // The user keeps the folder.
                release(&mut plan, volume);
            }
            return Ok(plan);
        }
        let node = node_of(volume).and_then(|name| view.get::<Node>("", name));
        let asked = node.as_ref().and_then(|node| {
            discarded(node).find(|(name, _)| *name == meta.name).map(|(_, said)| said.to_string())
        });
        match (node, asked.as_deref()) {
            (Some(node), None) => ask(&mut plan, &node, &meta.name, WANTED.into()),
            (Some(_), Some(WANTED)) => {}
            // Removed, or the node and its disk are no more.
            _ => {
                if held {
                    release(&mut plan, volume);
                }
                if !volume.is_going() {
                    plan.delete(&PERSISTENT_VOLUME, meta);
                }
            }
        }
        Ok(plan)
    }

    /// The volume is gone: so is what was said of it.
    fn plan_absent(&self, key: &Key, view: &View) -> Plan {
        let mut plan = Plan::default();
        for node in view.all::<Node>() {
            if discarded(&node).any(|(name, said)| *name == *key.name && said == DONE) {
                ask(&mut plan, &node, &key.name, Value::Null);
            }
        }
        plan
    }
}

fn is_ours(volume: &PersistentVolume) -> bool {
    volume.metadata.annotations.get(PROVISIONED_BY).is_some_and(|by| by == HOST_PATH)
}

/// The node that we have tied the volume to.
fn node_of(volume: &PersistentVolume) -> Option<&str> {
    volume.metadata.annotations.get(HOST_PATH_NODE).map(String::as_str)
}

/// The volumes whose folders the node is to remove or has removed, and which of the two.
fn discarded(node: &Node) -> impl Iterator<Item = (&str, &str)> {
    node.metadata
        .annotations
        .iter()
        .filter_map(|(key, said)| Some((key.strip_prefix(HOST_PATH_DISCARD)?, said.as_str())))
}

fn ask(plan: &mut Plan, node: &Node, volume: &str, what: Value) {
    let key = format!("{HOST_PATH_DISCARD}{volume}");
    plan.merge(&NODE, &node.metadata, json!({ "metadata": { "annotations": { key: what } } }));
}

fn release(plan: &mut Plan, volume: &PersistentVolume) {
    let finalizers: Vec<&String> =
        volume.metadata.finalizers.iter().filter(|known| *known != PROVISIONER_FINALIZER).collect();
    let body = json!({ "metadata": { "finalizers": finalizers } });
    plan.patch(&PERSISTENT_VOLUME, &volume.metadata, body);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::persistent_volume::tests::volume;
    use crate::plan::Step;

    #[test]
    fn the_folder_goes_first() {
        let ours = |policy: &str, phase: &str, going: bool| {
            let mut volume = volume(json!({
                "metadata": {"annotations": {PROVISIONED_BY: HOST_PATH, HOST_PATH_NODE: "a"},
                    "finalizers": [PROVISIONER_FINALIZER]},
                "spec": {"persistentVolumeReclaimPolicy": policy},
                "status": {"phase": phase}}));
            if going {
                volume["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
            }
            volume
        };
        let node = |said: &[(&str, &str)]| {
            let mut node = json!({"metadata": {"name": "a", "annotations": {}}});
            for (key, value) in said {
                node["metadata"]["annotations"][*key] = (*value).into();
            }
            node
        };
        let wanted = [("discard.host-path.coracle.dev/v", "wanted")];
        let done = [("discard.host-path.coracle.dev/v", "done")];
        for (volume, nodes, expected) in [
            (ours("Delete", "Bound", false), vec![node(&[])], vec![]),
            (ours("Delete", "Bound", true), vec![node(&[])], vec![]),
            (ours("Retain", "Released", false), vec![node(&[])], vec![]),
            (ours("Retain", "Released", true), vec![node(&[])], vec!["patch persistentvolumes"]),
            (ours("Delete", "Released", false), vec![node(&[])], vec!["patch nodes"]),
            (ours("Delete", "Released", false), vec![node(&wanted)], vec![]),
            (
                ours("Delete", "Released", false),
                vec![node(&done)],
                vec!["patch persistentvolumes", "delete persistentvolumes"],
            ),
            (ours("Delete", "Released", true), vec![node(&done)], vec!["patch persistentvolumes"]),
            (
                ours("Delete", "Released", false),
                vec![],
                vec!["patch persistentvolumes", "delete persistentvolumes"],
            ),
        ] {
            let view = View::default().with::<Node>(&nodes);
            let entry = Entry::decode(volume.to_string().into()).unwrap();
            let plan = Discard.plan(&entry, &view, Time::from_unix(0)).unwrap();
            assert_eq!(outline(&plan), expected, "{volume} {nodes:?}");
        }
        let view = View::default().with::<Node>(&[node(&done)]);
        let after = Discard.plan_absent(&Key::new("", "v"), &view);
        assert_eq!(outline(&after), ["patch nodes"]);
    }

    fn outline(plan: &Plan) -> Vec<String> {
        let line = |step: &Step| match step {
            Step::Patch(patch) => format!("patch {}", patch.target.row.resource),
            Step::Delete(delete) => format!("delete {}", delete.target.row.resource),
            other => panic!("{other:?}"),
        };
        plan.steps.iter().map(line).collect()
    }
}
