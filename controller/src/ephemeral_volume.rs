//! Generic ephemeral volumes: each is a claim that lives and dies with its pod.
//! <https://kubernetes.io/docs/concepts/storage/ephemeral-volumes/#generic-ephemeral-volumes>

use client::{Entry, Key};
use proto::kind::{PERSISTENT_VOLUME_CLAIM, POD};
use proto::time::Time;
use proto::view::persistent_volume_claim::PersistentVolumeClaim;
use proto::view::pod::Pod;
use serde_json::{Value, json};

use crate::plan::{Plan, controller_reference, reference};
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

/// Makes the claims of pods.
pub struct EphemeralVolumes;

impl Controller for EphemeralVolumes {
    type Object = Pod;
    const NAME: &'static str = "ephemeral-volume-controller";

    fn watches(watches: &mut Watches<Pod>) {
        watches.maps::<PersistentVolumeClaim>(|change, _| {
            // One that is gone is made again, as long as its pod is there.
            let gone = change.old.as_ref().filter(|_| change.new.is_none());
            let owner = gone.and_then(|claim| claim.metadata.controller());
            let pod = owner.filter(|owner| owner.kind == "Pod");
            pod.map(|pod| Key::new(&change.key.namespace, &pod.name)).into_iter().collect()
        });
    }

    fn plan(&self, pod: &Entry<Pod>, view: &View, _: Time) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        if pod.is_terminating() || !pod.claims().any(|used| used.ephemeral) {
            return Ok(plan);
        }
        let meta = &pod.metadata;
        let whole = pod.value();
        let volumes = whole["spec"]["volumes"].as_array();
        for used in pod.claims().filter(|used| used.ephemeral) {
            let named = |volume: &&Value| volume["name"] == used.volume.name.as_str();
            let Some(volume) = volumes.into_iter().flatten().find(named) else { continue };
            match view.get::<PersistentVolumeClaim>(&meta.namespace, &used.name) {
                None => {
                    let object =
                        claim(pod, &used.name, &volume["ephemeral"]["volumeClaimTemplate"]);
                    plan.create(&PERSISTENT_VOLUME_CLAIM, &meta.namespace, object);
                }
                Some(known) if known.is_of(pod) => {}
                Some(_) => {
                    let why = format!(
                        "PVC {}/{} was not created for pod {}/{} (pod is not owner)",
                        meta.namespace, used.name, meta.namespace, meta.name
                    );
                    plan.event(&reference(&POD, meta), "Warning", "FailedBinding", why);
                }
            }
        }
        Ok(plan)
    }
}

fn claim(pod: &Pod, name: &str, template: &Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {
            "name": name,
            "namespace": pod.metadata.namespace,
            "labels": template["metadata"]["labels"],
            "annotations": template["metadata"]["annotations"],
            "ownerReferences": [controller_reference(&POD, &pod.metadata)],
        },
        "spec": template["spec"],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Step;

    #[test]
    fn a_claim_for_each() {
        let template = json!({"metadata": {"labels": {"a": "b"}},
            "spec": {"accessModes": ["ReadWriteOnce"]}});
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"volumes": [{"name": "v", "ephemeral": {"volumeClaimTemplate": template}},
                {"name": "w", "emptyDir": {}}]}});
        let owned = |uid: &str| {
            json!({"metadata": {"name": "p-v", "namespace": "n", "ownerReferences": [
                {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": true}]}})
        };
        let entry = Entry::<Pod>::decode(pod.to_string().into()).unwrap();
        let planned = |claims: &[Value]| {
            let view = View::default().with::<PersistentVolumeClaim>(claims);
            EphemeralVolumes.plan(&entry, &view, Time::from_unix(0)).unwrap().steps
        };
        let steps = planned(&[]);
        let [Step::Create(create)] = steps.as_slice() else { panic!("{steps:?}") };
        assert_eq!(create.object["metadata"]["name"], "p-v");
        assert_eq!(create.object["metadata"]["labels"], json!({"a": "b"}));
        assert_eq!(create.object["metadata"]["ownerReferences"][0]["blockOwnerDeletion"], true);
        assert_eq!(create.object["spec"], json!({"accessModes": ["ReadWriteOnce"]}));
        assert_eq!(planned(&[owned("u")]), []);
        let steps = planned(&[owned("other")]);
        let [Step::Event(event)] = steps.as_slice() else { panic!("{steps:?}") };
        assert_eq!(event.message, "PVC n/p-v was not created for pod n/p (pod is not owner)");
    }
}
