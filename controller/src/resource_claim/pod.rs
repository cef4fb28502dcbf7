//! For each claim of a pod that comes from a template there is one, and the pod's status names it.

use client::{Change, Entry, Key};
use proto::kind::{POD, RESOURCE_CLAIM};
use proto::time::Time;
use proto::view::pod::{Pod, PodClaim};
use proto::view::resource_claim::{Consumer, POD_CLAIM, ResourceClaim, ResourceClaimTemplate};
use serde_json::{Value, json};

use super::{NAME, merge_status};
use crate::plan::{Create, Patch, Plan, Step, Target, Told, controller_reference, reference};
use crate::run::{Controller, PlanError, Watches};
use crate::view::View;

const FAILED: &str = "FailedResourceClaimCreation";
/// A name has 63 characters, of which a hyphen and five at random are the API server's.
const LONGEST_BASE: usize = 57;

/// Makes claims for pods.
pub struct ClaimsOfPods;

impl Controller for ClaimsOfPods {
    type Object = Pod;
    const NAME: &'static str = NAME;

    fn watches(watches: &mut Watches<Pod>) {
        watches.maps::<ResourceClaim>(|change, view| {
            let claims = change.old.iter().chain(&change.new);
            let owners = claims.filter_map(|claim| claim.metadata.controller());
            let owners = owners.filter(|owner| owner.kind == "Pod");
            let namespace = &change.key.namespace;
            let mut keys: Vec<Key> = owners.map(|owner| Key::new(namespace, &owner.name)).collect();
            // Pods that were put on their node by hand wait for nobody to reserve it for them.
            let allocated = change.new.as_ref().is_some_and(|new| new.status.allocation.is_some());
            if allocated && change.old.as_ref().is_none_or(|old| old.status.allocation.is_none()) {
                keys.extend(pods(view, namespace, |claim| {
                    claim.resource_claim_name.as_deref() == Some(&*change.key.name)
                }));
            }
            keys.dedup();
            keys
        });
        watches.maps::<ResourceClaimTemplate>(|change: &Change<_>, view| {
            pods(view, &change.key.namespace, |claim| {
                claim.resource_claim_template_name.as_deref() == Some(&*change.key.name)
            })
        });
    }

    fn plan(&self, pod: &Entry<Pod>, view: &View, _: Time) -> Result<Plan, PlanError> {
        let mut plan = Plan::default();
        if pod.spec.resource_claims.is_empty() || !pod.is_active() {
            return Ok(plan);
        }
        let mut statuses: Vec<Value> = Vec::new();
        for claim in &pod.spec.resource_claims {
            if let Some(template) = &claim.resource_claim_template_name {
                make(&mut plan, pod, claim, template, view, &mut statuses);
            }
        }
        if !statuses.is_empty() {
            let meta = &pod.metadata;
            let status = json!({ "resourceClaimStatuses": statuses });
            let body = json!({ "metadata": { "uid": meta.uid }, "status": status });
            let target = Target::of(&POD, meta);
            let patch = Patch { target, subresource: "status", strategic: true, body };
            plan.steps.push(Step::Patch(patch));
        }
        // The scheduler reserves claims for the pods that it places. Others need us for that.
        if !pod.spec.node_name.is_empty() {
            reserve(&mut plan, pod, view);
        }
        Ok(plan)
    }
}

fn pods(view: &View, namespace: &str, uses: impl Fn(&PodClaim) -> bool) -> Vec<Key> {
    let mut pods = view.namespace::<Pod>(namespace);
    pods.retain(|pod| pod.spec.resource_claims.iter().any(&uses));
    pods.iter().map(|pod| Key::of(&pod.metadata)).collect()
}

/// Plans the claim, or, where there is one already, that the pod's status names it.
fn make(
    plan: &mut Plan,
    pod: &Entry<Pod>,
    claim: &PodClaim,
    template: &str,
    view: &View,
    statuses: &mut Vec<Value>,
) {
    let meta = &pod.metadata;
    let fail = |plan: &mut Plan, why: String| {
        let why = format!("PodResourceClaim {}: {why}", claim.name);
        plan.event(&reference(&POD, meta), "Warning", FAILED, why);
    };
    match pod.claim_name(claim) {
        // No claim is needed.
        Some((None, _)) => return,
        Some((Some(name), _)) => match view.get::<ResourceClaim>(&meta.namespace, name) {
            Some(known) if known.is_of(pod) => return,
            Some(_) => return fail(plan, not_of(name, meta)),
            None => {}
        },
        None => {}
    }
    let owned = view.owned_by::<ResourceClaim>(&meta.uid);
    let found = owned.iter().find(|known| {
        known.is_of(pod)
            && known.metadata.annotations.get(POD_CLAIM) == Some(&claim.name)
            && known.metadata.deletion_timestamp.is_none()
    });
    if let Some(found) = found {
        statuses.push(json!({"name": claim.name, "resourceClaimName": found.metadata.name}));
        return;
    }
    let Some(from) = view.get::<ResourceClaimTemplate>(&meta.namespace, template) else {
        let why = format!("resourceclaimtemplate.resource.k8s.io {template:?} not found");
        return fail(plan, format!("resource claim template {template:?}: {why}"));
    };
    let words = (FAILED, "PodResourceClaim {beside}: create ResourceClaim : ");
    plan.steps.push(Step::Create(Create {
        row: &RESOURCE_CLAIM,
        namespace: meta.namespace.clone(),
        object: object(pod, &claim.name, &from.value()).into(),
        count: 1,
        told: Some(Told {
            beside: claim.name.clone(),
            not_created: Some(words),
            ..Told::new(reference(&POD, meta))
        }),
    }));
}

fn not_of(claim: &str, pod: &proto::meta::ObjectMeta) -> String {
    format!(
        "ResourceClaim {0}/{claim} was not created for pod {0}/{1} (pod is not owner)",
        pod.namespace, pod.name
    )
}

fn object(pod: &Pod, name: &str, template: &Value) -> Value {
    let meta = &pod.metadata;
    let template = &template["spec"];
    let mut annotations = template["metadata"]["annotations"].clone();
    if annotations.is_null() {
        annotations = json!({});
    }
    annotations[POD_CLAIM] = name.into();
    let mut base = format!("{}-{name}", meta.name);
    if base.len() > LONGEST_BASE {
        // Half of what there is for each, so that both can be told.
        let half = LONGEST_BASE / 2;
        let (pod, claim) = (&meta.name, name);
        let of_pod = pod.len().min(LONGEST_BASE - 1 - claim.len().min(half));
        let of_claim = claim.len().min(LONGEST_BASE - 1 - of_pod);
        base = format!("{}-{}", &pod[..of_pod], &claim[..of_claim]);
    }
    json!({
        "apiVersion": RESOURCE_CLAIM.api_version(),
        "kind": RESOURCE_CLAIM.kind,
        "metadata": {
            "generateName": format!("{base}-"),
            "namespace": meta.namespace,
            "labels": template["metadata"]["labels"],
            "annotations": annotations,
            "ownerReferences": [controller_reference(&POD, meta)],
        },
        "spec": template["spec"],
    })
}

fn reserve(plan: &mut Plan, pod: &Entry<Pod>, view: &View) {
    for used in pod.resource_claims().unwrap_or_default() {
        let claim = view.get::<ResourceClaim>(&pod.metadata.namespace, &used.name);
        let Some(claim) = claim else { continue };
        let allocated = claim.status.allocation.is_some();
        let owned = !used.made || claim.is_of(pod);
        let going = claim.metadata.deletion_timestamp.is_some();
        if allocated && owned && !going && !claim.is_reserved_for(pod) {
            let status = json!({ "reservedFor": [Consumer::pod(&pod.metadata)] });
            merge_status(plan, &claim.metadata, status);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(status: Value) -> Entry<Pod> {
        let pod = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"resourceClaims": [
                {"name": "gpu", "resourceClaimTemplateName": "t"},
                {"name": "own", "resourceClaimName": "mine"}]},
            "status": status});
        Entry::decode(pod.to_string().into()).unwrap()
    }

    fn made(uid: &str) -> Value {
        json!({"metadata": {"name": "p-gpu-abcde", "namespace": "n", "uid": "c",
            "annotations": {POD_CLAIM: "gpu"}, "ownerReferences": [
            {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": uid, "controller": true}]}})
    }

    fn steps(status: Value, claims: &[Value], templates: &[Value]) -> Vec<Step> {
        let view =
            View::default().with::<ResourceClaim>(claims).with::<ResourceClaimTemplate>(templates);
        ClaimsOfPods.plan(&pod(status), &view, Time::from_unix(0)).unwrap().steps
    }

    fn template() -> Value {
        json!({"metadata": {"name": "t", "namespace": "n"}, "spec": {
            "metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
            "spec": {"devices": {"requests": [{"name": "r"}]}}}})
    }

    #[test]
    fn a_claim_from_its_template() {
        let steps = steps(json!({}), &[], &[template()]);
        let [Step::Create(create)] = steps.as_slice() else { panic!("{steps:?}") };
        let meta = &create.object["metadata"];
        assert_eq!(meta["generateName"], "p-gpu-");
        assert_eq!(meta["annotations"], json!({"c": "d", POD_CLAIM: "gpu"}));
        assert_eq!(meta["labels"], json!({"a": "b"}));
        assert_eq!(meta["ownerReferences"][0]["controller"], true);
        assert_eq!(meta["ownerReferences"][0]["blockOwnerDeletion"], true);
        assert_eq!(create.object["spec"], json!({"devices": {"requests": [{"name": "r"}]}}));
    }

    #[test]
    fn the_status_names_it() {
        let named = json!({"resourceClaimStatuses":
            [{"name": "gpu", "resourceClaimName": "p-gpu-abcde"}]});
        let steps_of = steps(json!({}), &[made("u")], &[template()]);
        let [Step::Patch(patch)] = steps_of.as_slice() else { panic!("{steps_of:?}") };
        assert_eq!(patch.body["status"], named);
        assert_eq!(steps(named.clone(), &[made("u")], &[]), [], "at rest");
        let needless = json!({"resourceClaimStatuses": [{"name": "gpu"}]});
        assert_eq!(steps(needless, &[], &[template()]), [], "none is needed");
        let ended = json!({"phase": "Succeeded"});
        assert_eq!(steps(ended, &[], &[template()]), [], "it needs nothing any more");
        let others = steps(named, &[made("other")], &[]);
        let [Step::Event(event)] = others.as_slice() else { panic!("{others:?}") };
        assert_eq!(
            event.message,
            "PodResourceClaim gpu: ResourceClaim n/p-gpu-abcde was not created for pod n/p (pod is not owner)"
        );
    }

    #[test]
    fn without_a_template() {
        let steps = steps(json!({}), &[], &[]);
        let [Step::Event(event)] = steps.as_slice() else { panic!("{steps:?}") };
        assert_eq!(
            (event.reason, event.message.as_str()),
            (
                FAILED,
                "PodResourceClaim gpu: resource claim template \"t\": resourceclaimtemplate.resource.k8s.io \"t\" not found"
            )
        );
    }

    #[test]
    fn long_names_are_cut() {
        let mut long = pod(json!({})).view;
        long.metadata.name = "p".repeat(60);
        let name =
            |claim: &str| object(&long, claim, &template())["metadata"]["generateName"].clone();
        assert_eq!(name("gpu"), format!("{}-gpu-", "p".repeat(53)));
        assert_eq!(name(&"c".repeat(40)), format!("{}-{}-", "p".repeat(28), "c".repeat(28)));
    }
}
