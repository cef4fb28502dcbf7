//! A claim is free once nobody is left for whom it is reserved, and goes with the pod for which it
//! was made.

use client::{Entry, Key};
use proto::kind::{POD, RESOURCE_CLAIM};
use proto::time::Time;
use proto::view::pod::Pod;
use proto::view::resource_claim::{Consumer, FINALIZER, ResourceClaim};
use serde_json::{Value, json};

use super::{NAME, is_done};
use crate::plan::{Patch, Plan, Step, Target};
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

/// Takes claims back.
pub struct Claims;

impl Controller for Claims {
    type Object = ResourceClaim;
    const NAME: &'static str = NAME;

    fn watches(watches: &mut Watches<ResourceClaim>) {
        watches.maps::<Pod>(|change, _| {
            let pods = change.old.iter().chain(&change.new);
            let claims = pods.flat_map(|pod| {
                let named = pod.spec.resource_claims.iter();
                let names = named.filter_map(|claim| pod.claim_name(claim)?.0);
                let mut names: Vec<String> = names.map(String::from).collect();
                names.extend(pod.extended_claim().map(|claim| claim.name));
                names.into_iter().map(|name| Key::new(&change.key.namespace, &name))
            });
            let mut keys: Vec<Key> = claims.collect();
            keys.sort();
            keys.dedup();
            keys
        });
    }

    fn plan(&self, claim: &Entry<ResourceClaim>, view: &View, _: Time) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        let (meta, status) = (&claim.metadata, &claim.status);
        let (kept, gone) = consumers(claim, view);
        let released = kept.len() < status.reserved_for.len();
        let protected = meta.finalizers.iter().any(|known| known == FINALIZER);
        let going = meta.deletion_timestamp.is_some();
        let free = kept.is_empty() && protected && (released || going);
        // Whom this cache does not know may only be too new for it.
        let pods = gone.iter().map(|consumer| Target {
            row: &POD,
            namespace: meta.namespace.clone(),
            name: consumer.name.clone(),
            uid: consumer.uid.clone(),
        });
        plan.steps.extend(pods.map(Step::Absent));
        if released || free && status.allocation.is_some() {
            let kept = if kept.is_empty() { Value::Null } else { json!(kept) };
            let mut written = json!({ "reservedFor": kept });
            if free {
                written["allocation"] = Value::Null;
                written["devices"] = Value::Null;
            }
            plan.status(&RESOURCE_CLAIM, meta, written);
        }
        if free {
            // Whoever else has a finalizer on it keeps it, also one put there just now.
            let body = json!({ "metadata": {
                "uid": meta.uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER],
            } });
            let target = Target::of(&RESOURCE_CLAIM, meta);
            plan.steps.push(Step::Patch(Patch { target, subresource: "", strategic: true, body }));
        }
        if consumers(claim, view).0.is_empty() && !going && outlived(claim, view) {
            plan.delete(&RESOURCE_CLAIM, meta);
        }
        Ok(plan)
    }
}

/// For whom the claim stays reserved, and those that seem to be gone.
fn consumers<'a>(
    claim: &'a Entry<ResourceClaim>,
    view: &View,
) -> (Vec<&'a Consumer>, Vec<&'a Consumer>) {
    let (mut kept, mut gone) = (Vec::new(), Vec::new());
    for consumer in &claim.status.reserved_for {
        // Only pods are known to use claims.
        if !consumer.is_pod() {
            kept.push(consumer);
            continue;
        }
        let pod = view.get::<Pod>(&claim.metadata.namespace, &consumer.name);
        match pod.filter(|pod| pod.metadata.uid == consumer.uid) {
            Some(pod) if is_done(&pod) => {}
            Some(_) => kept.push(consumer),
            None => gone.push(consumer),
        }
    }
    (kept, gone)
}

/// Whether the pod for which it was made is done. One that is gone is the garbage collector's affair.
fn outlived(claim: &Entry<ResourceClaim>, view: &View) -> bool {
    let owner = claim.metadata.controller().filter(|owner| owner.kind == "Pod");
    owner.is_some_and(|owner| {
        let pod = view.get::<Pod>(&claim.metadata.namespace, &owner.name);
        pod.is_some_and(|pod| pod.metadata.uid == owner.uid && is_done(&pod))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(changes: Value) -> Value {
        let mut claim = json!({
            "metadata": {"name": "c", "namespace": "n", "uid": "c", "resourceVersion": "5",
                "finalizers": [FINALIZER, "x/y"]},
            "status": {"allocation": {"devices": {"results": []}}, "reservedFor": [
                {"resource": "pods", "name": "p", "uid": "p"},
                {"resource": "pods", "name": "q", "uid": "q"}]}});
        for (pointer, value) in changes.as_object().unwrap() {
            *claim.pointer_mut(pointer).unwrap() = value.clone();
        }
        claim
    }

    fn pod(name: &str, changes: Value) -> Value {
        let mut pod = json!({"metadata": {"name": name, "namespace": "n", "uid": name},
            "spec": {"nodeName": "a"}});
        for (key, value) in changes.as_object().unwrap() {
            pod[key.as_str()] = value.clone();
        }
        pod
    }

    /// Each step in a line.
    fn lines(claim: Value, pods: &[Value]) -> Vec<String> {
        let view = View::default().with::<Pod>(pods);
        let entry = Entry::decode(claim.to_string().into()).unwrap();
        let plan = Claims.plan(&entry, &view, Time::from_unix(0)).unwrap();
        let line = |step: &Step| match step {
            Step::Absent(pod) => format!("absent {}", pod.name),
            Step::Patch(patch) if patch.subresource == "status" => {
                format!("status {}", patch.body["status"])
            }
            Step::Patch(patch) => {
                format!("without {}", patch.body["metadata"]["$deleteFromPrimitiveList/finalizers"])
            }
            Step::Delete(_) => "delete".to_string(),
            other => panic!("{other:?}"),
        };
        plan.steps.iter().map(line).collect()
    }

    #[test]
    fn who_is_done_lets_go() {
        let (ended, runs) = (json!({"status": {"phase": "Failed"}}), json!({}));
        let free = r#"status {"allocation":null,"devices":null,"reservedFor":null}"#;
        let finalizer = format!("without [{FINALIZER:?}]");
        let as_it_is = claim(json!({}));
        assert_eq!(
            lines(as_it_is.clone(), &[pod("p", runs.clone()), pod("q", runs.clone())]),
            [""; 0]
        );
        assert_eq!(
            lines(as_it_is.clone(), &[pod("p", runs.clone()), pod("q", ended.clone())]),
            [r#"status {"reservedFor":[{"name":"p","resource":"pods","uid":"p"}]}"#]
        );
        assert_eq!(
            lines(as_it_is, &[pod("p", ended)]),
            ["absent q", free, finalizer.as_str()],
            "the last one"
        );
        let unused = claim(json!({"/status/reservedFor": []}));
        assert_eq!(lines(unused, &[]), [""; 0], "it was allocated for whoever comes");
    }

    #[test]
    fn a_claim_that_is_going() {
        let mut going = claim(json!({"/status/reservedFor": []}));
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let finalizer = format!("without [{FINALIZER:?}]");
        let free = r#"status {"allocation":null,"devices":null,"reservedFor":null}"#;
        assert_eq!(lines(going.clone(), &[]), [free, finalizer.as_str()]);
        going["status"] = json!({});
        assert_eq!(lines(going, &[]), [finalizer]);
    }

    #[test]
    fn it_goes_with_its_pod() {
        let mut own = claim(json!({"/status/reservedFor": []}));
        own["metadata"]["ownerReferences"] = json!([
            {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "p", "controller": true}]);
        let runs = pod("p", json!({}));
        assert_eq!(lines(own.clone(), &[runs]), [""; 0]);
        let ended = pod("p", json!({"status": {"phase": "Succeeded"}}));
        assert_eq!(lines(own, &[ended]), ["delete"]);
    }
}
