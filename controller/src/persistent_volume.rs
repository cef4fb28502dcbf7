//! Claims and volumes find each other. The bond is written on both sides, the volume's first:
//! whatever happens in between, the next look finishes it.
//! <https://kubernetes.io/docs/concepts/storage/persistent-volumes/#lifecycle-of-a-volume-and-claim>
//!
//! Nothing here makes or removes storage: that is for provisioners.

mod claim;
mod volume;

use futures::future::join;
use proto::kind::Row;
use proto::meta::ObjectMeta;
use serde_json::{Value, json};

use crate::plan::{Patch, Plan, Step, Target};
use crate::run::{self, Setup};

pub use claim::Claims;
pub use volume::Volumes;

pub const NAME: &str = "persistentvolume-binder-controller";

const NORMAL: &str = "Normal";
const WARNING: &str = "Warning";

/// Looks after claims and volumes until the future is dropped.
pub async fn run(setup: Setup) {
    join(run::run(Claims, setup.clone()), run::run(Volumes, setup)).await;
}

/// Merges into the status of this very object, whatever its revision: a step before may have
/// written it.
fn status(plan: &mut Plan, row: &'static Row, meta: &ObjectMeta, status: Value) {
    let body = json!({ "metadata": { "uid": meta.uid }, "status": status });
    let (target, subresource) = (Target::of(row, meta), "status");
    plan.steps.push(Step::Patch(Patch { target, subresource, strategic: false, body }));
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A free volume `v` of 5Gi and class `c`, changed so.
    pub fn volume(changes: Value) -> Value {
        let volume = json!({"metadata": {"name": "v", "uid": "w", "resourceVersion": "1"},
            "spec": {"capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce"],
                "storageClassName": "c", "persistentVolumeReclaimPolicy": "Retain"},
            "status": {"phase": "Available"}});
        merged(volume, changes)
    }

    /// A pending claim `k` for 4Gi of class `c`, changed so.
    pub fn claim(changes: Value) -> Value {
        let claim = json!({"metadata":
                {"name": "k", "namespace": "n", "uid": "u", "resourceVersion": "1"},
            "spec": {"resources": {"requests": {"storage": "4Gi"}}, "storageClassName": "c",
                "accessModes": ["ReadWriteOnce"]},
            "status": {"phase": "Pending"}});
        merged(claim, changes)
    }

    pub fn class(name: &str, changes: Value) -> Value {
        let class = json!({"metadata": {"name": name}, "provisioner": "example.com/p",
            "volumeBindingMode": "Immediate"});
        merged(class, changes)
    }

    fn merged(mut object: Value, changes: Value) -> Value {
        fn merge(into: &mut Value, from: Value) {
            match (into, from) {
                (Value::Object(into), Value::Object(from)) => {
                    for (key, value) in from {
                        merge(into.entry(key).or_insert(Value::Null), value);
                    }
                }
                (into, from) => *into = from,
            }
        }
        merge(&mut object, changes);
        object
    }

    /// Each step in a line, without what guards it.
    pub fn summary(plan: &Plan) -> Vec<String> {
        let line = |step: &Step| match step {
            Step::Patch(patch) if patch.subresource == "status" => {
                let Target { row, name, .. } = &patch.target;
                format!("{} {name} status {}", row.resource, patch.body["status"])
            }
            Step::Patch(patch) => {
                let mut body = patch.body.clone();
                let guarded = body["metadata"].as_object_mut().unwrap();
                guarded.remove("resourceVersion").unwrap();
                if guarded.is_empty() {
                    body.as_object_mut().unwrap().remove("metadata");
                }
                format!("{} {} {body}", patch.target.row.resource, patch.target.name)
            }
            Step::Event(event) => format!("{} {} {}", event.kind, event.reason, event.message),
            Step::Absent(target) => {
                format!("absent {} {} {}", target.row.resource, target.name, target.uid)
            }
            Step::Create(create) => format!("create {} {}", create.row.resource, create.object),
            Step::Delete(delete) => {
                format!("delete {} {}", delete.target.row.resource, delete.target.name)
            }
            other => panic!("{other:?}"),
        };
        plan.steps.iter().map(line).collect()
    }
}
