//! ResourceClaims: those of pods are made from their templates, and all are let go when nobody uses
//! them any more.
//! <https://kubernetes.io/docs/concepts/scheduling-eviction/dynamic-resource-allocation/>

mod claim;
mod pod;

use futures::future::join;
use proto::kind::RESOURCE_CLAIM;
use proto::meta::ObjectMeta;
use proto::view::pod::Pod;
use serde_json::{Value, json};

use crate::plan::{Patch, Plan, Step, Target};
use crate::run::{self, Setup};

pub use claim::Claims;
pub use pod::ClaimsOfPods;

pub const NAME: &str = "resourceclaim-controller";

/// Looks after claims, and after pods that need some, until the future is dropped.
pub async fn run(setup: Setup) {
    join(run::run(ClaimsOfPods, setup.clone()), run::run(Claims, setup)).await;
}

/// It uses nothing any more, or never will: it has ended, or goes without ever having had a node.
fn is_done(pod: &Pod) -> bool {
    pod.is_terminal() || pod.is_terminating() && pod.spec.node_name.is_empty()
}

/// Merges into the status of this very claim, lists by their keys, whatever its revision.
fn merge_status(plan: &mut Plan, meta: &ObjectMeta, status: Value) {
    let body = json!({ "metadata": { "uid": meta.uid }, "status": status });
    let target = Target::of(&RESOURCE_CLAIM, meta);
    plan.steps.push(Step::Patch(Patch { target, subresource: "status", strategic: true, body }));
}
