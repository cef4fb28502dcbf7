//! What makes a pod of a StatefulSet itself: its ordinal, name, host name and volumes.
//! <https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#pod-identity>

use client::Entry;
use proto::kind::{POD, STATEFUL_SET};
use proto::meta::ObjectMeta;
use proto::view::pod::Pod;
use proto::view::stateful_set::StatefulSet;
use serde::Deserialize;
use serde_json::{Value, json};

use super::claims;
use crate::plan::{Patch, Step, Target, controller_reference};
use crate::revisions::{POD_HASH, Revision};
use crate::run::PlanError;

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The parts of a set that its view leaves out.
pub struct Whole {
    pub template: Value,
    pub claims: Vec<Value>,
}

impl Whole {
    pub fn of(set: &Entry<StatefulSet>) -> Result<Whole, PlanError> {
        #[derive(Deserialize)]
        struct Object {
            spec: Spec,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Spec {
            template: Value,
            volume_claim_templates: Option<Vec<Value>>,
        }
        let object: Object = serde_json::from_slice(&set.bytes).map_err(|source| {
            PlanError::Decode { kind: "StatefulSet", name: set.metadata.name.clone(), source }
        })?;
        let claims = object.spec.volume_claim_templates.unwrap_or_default();
        Ok(Whole { template: object.spec.template, claims })
    }
}

/// The ordinal in the name of a pod.
pub fn ordinal_of(pod: &str) -> Option<i32> {
    let (_, ordinal) = pod.rsplit_once('-')?;
    let digits = !ordinal.is_empty() && ordinal.bytes().all(|byte| byte.is_ascii_digit());
    if digits { ordinal.parse().ok() } else { None }
}

/// The ordinal of a pod that is named as one of the set's.
pub fn ordinal(set: &ObjectMeta, pod: &ObjectMeta) -> Option<i32> {
    let digits = pod.name.strip_prefix(set.name.as_str())?.strip_prefix('-')?;
    // As it is written when the pod is named: 07 is nobody's.
    let plain = digits == "0" || !digits.starts_with('0');
    ordinal_of(&pod.name).filter(|_| plain && !digits.contains('-'))
}

pub fn name(set: &ObjectMeta, ordinal: i32) -> String {
    format!("{}-{ordinal}", set.name)
}

/// The pod with this ordinal at this revision.
pub fn pod(set: &Entry<StatefulSet>, whole: &Whole, revision: &Revision, ordinal: i32) -> Value {
    let meta = &set.metadata;
    let name = name(meta, ordinal);
    let mut template = revision.template.clone();
    let mut metadata = json!({
        "name": name,
        "generateName": format!("{}-", meta.name),
        "namespace": meta.namespace,
        "ownerReferences": [controller_reference(&STATEFUL_SET, meta)],
    });
    for field in ["labels", "annotations", "finalizers"] {
        let value = template["metadata"][field].take();
        if !value.is_null() {
            metadata[field] = value;
        }
    }
    metadata["labels"][POD_NAME] = name.as_str().into();
    metadata["labels"][POD_INDEX] = ordinal.to_string().into();
    metadata["labels"][POD_HASH] = revision.name.as_str().into();
    let mut spec = template["spec"].take();
    spec["hostname"] = name.into();
    if !set.spec.service_name.is_empty() {
        spec["subdomain"] = set.spec.service_name.as_str().into();
    }
    if !whole.claims.is_empty() {
        spec["volumes"] = volumes(meta, whole, ordinal, spec["volumes"].take());
    }
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec })
}

/// A volume for each claim; those of the template stay unless one of these has their name.
fn volumes(set: &ObjectMeta, whole: &Whole, ordinal: i32, own: Value) -> Value {
    let claim = |template: &Value| {
        let name = claims::name(template, set, ordinal);
        json!({"name": claims::template_name(template), "persistentVolumeClaim": {"claimName": name}})
    };
    let mut volumes: Vec<Value> = whole.claims.iter().map(claim).collect();
    for volume in own.as_array().into_iter().flatten() {
        if !volumes.iter().any(|claim| claim["name"] == volume["name"]) {
            volumes.push(volume.clone());
        }
    }
    volumes.into()
}

/// Gives a pod back the labels that tell who it is.
pub fn repair(pod: &Entry<Pod>, ordinal: i32) -> Option<Step> {
    let meta = &pod.metadata;
    if meta.labels.get(POD_NAME) == Some(&meta.name) {
        return None;
    }
    let labels = json!({ POD_NAME: meta.name, POD_INDEX: ordinal.to_string() });
    let body =
        json!({ "metadata": { "resourceVersion": meta.resource_version, "labels": labels } });
    let target = Target::of(&POD, meta);
    Some(Step::Patch(Patch { target, subresource: "", strategic: false, body }))
}
