//! Pods.

pub mod binding;
pub mod claim;
pub mod container;
pub mod defaults;
pub mod env;
pub mod ephemeral;
pub mod level;
pub mod mount;
pub mod placement;
pub mod probe;
pub mod qos;
pub mod resize;
pub mod resources;
pub mod restart;
pub mod security;
pub mod spec;
pub mod status;
pub mod table;
pub mod update;
pub mod volume;
pub mod warnings;
pub mod windows;

use proto::status::FieldError;
use proto::time::Time;
use serde_json::{Value, json};

use super::lens::Lens;
use super::path::Path;
use super::{Column, Context, Field, Strategy};

const SPEC: Path = Path::root("spec");

/// Where a spec keeps containers.
const CONTAINERS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

pub struct Pod;

impl Strategy for Pod {
    fn default(&self, object: &mut Value) {
        defaults::pod(object);
    }

    fn counted(&self) -> &'static [&'static str] {
        &["/spec"]
    }

    fn prepare_create(&self, new: &mut Value, _ctx: &Context) {
        placement::merge_label_keys(new);
        let mut status = json!({ "phase": "Pending", "qosClass": qos::class(new.at("spec")) });
        if !new.at("spec").vacant("schedulingGates") {
            status.set(
                "conditions",
                json!([{
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "SchedulingGated",
                    "message": "Scheduling is blocked due to non-empty scheduling gates",
                }]),
            );
        }
        new.set("status", status);
        new.section("metadata").set("generation", 1);
    }

    fn prepare_status(&self, new: &mut Value, old: &Value, ctx: &Context) {
        match ctx.subresource {
            "resize" => resize::prepare(new, old),
            "ephemeralcontainers" => ephemeral::prepare(new, old),
            _ => return prepare_status(new, old),
        }
        super::carry_on(self.counted(), new, old, ctx);
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = validate(object);
        spec::validate_new(&SPEC, object.at("spec"), &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = validate(new);
        update::validate(&SPEC, new.at("spec"), old.at("spec"), &mut errors);
        errors
    }

    fn validate_status(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        status::validate(new, old)
    }

    fn validate_part(&self, part: &str, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = match part {
            "resize" | "ephemeralcontainers" => validate(new),
            _ => return self.validate_status(new, old),
        };
        match part {
            "resize" => resize::validate(&SPEC, new, old, &mut errors),
            _ => ephemeral::validate_update(&SPEC, new, old, &mut errors),
        }
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        if old.is_some_and(|old| old.at("spec") == new.at("spec")) {
            return Vec::new();
        }
        let name = warnings::name(new.at("metadata").text("name"), "the Pod's hostname");
        name.into_iter().chain(warnings::spec(&SPEC, new.at("spec"))).collect()
    }

    /// Pods that are not on a node, or have finished, need no grace.
    fn grace(&self, object: &Value, requested: Option<i64>) -> Option<i64> {
        let spec = object.at("spec");
        let phase = object.at("status").text("phase");
        if spec.text("nodeName").is_empty() || matches!(phase, "Succeeded" | "Failed") {
            return Some(0);
        }
        let grace = requested.or_else(|| spec.int("terminationGracePeriodSeconds")).unwrap_or(0);
        Some(if grace < 0 { 1 } else { grace })
    }

    fn fields(&self) -> &'static [Field] {
        FIELDS
    }

    fn columns(&self) -> &'static [Column] {
        table::COLUMNS
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        table::cells(object, now)
    }
}

const FIELDS: &[Field] = &[
    Field::text("spec.nodeName"),
    Field::text("spec.restartPolicy"),
    Field::text("spec.schedulerName"),
    Field::text("spec.serviceAccountName"),
    Field { label: "spec.hostNetwork", path: "spec.hostNetwork", absent: "false" },
    Field::text("status.phase"),
    Field::text("status.podIP"),
    Field { label: "status.podIPs", path: "status.podIP", absent: "" },
    Field::text("status.nominatedNodeName"),
];

/// What holds for every pod.
fn validate(pod: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    spec::validate(&SPEC, pod.at("spec"), pod.at("metadata"), &mut errors);
    spec::validate_pod(&SPEC, pod.at("spec"), &mut errors);
    errors
}

/// The node's own word for a static pod.
fn is_mirror(meta: &Value) -> bool {
    meta.at("annotations").has("kubernetes.io/config.mirror")
}

fn prepare_status(new: &mut Value, old: &Value) {
    super::only_status(new, old);
    let metadata = old.at("metadata");
    new.section("metadata").take_over("ownerReferences", metadata);
    status::synchronise(new, old);
}
