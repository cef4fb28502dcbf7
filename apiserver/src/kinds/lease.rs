//! Leases.

use proto::status::FieldError;
use proto::time::Time;
use serde_json::Value;

use super::check;
use super::lens::Lens;
use super::path::Path;
use super::table::{self, column};
use super::{Column, Strategy};

pub struct Lease;

impl Strategy for Lease {
    fn create_on_update(&self) -> bool {
        true
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        const SPEC: Path = Path::root("spec");
        let mut errors = Vec::new();
        let spec = object.at("spec");
        if let Some(seconds) = spec.int("leaseDurationSeconds").filter(|seconds| *seconds <= 0) {
            let path = SPEC.field("leaseDurationSeconds");
            errors.push(FieldError::invalid(path, seconds, "must be greater than 0"));
        }
        check::nonnegative(&SPEC, spec, &["leaseTransitions"], &mut errors);
        if spec.has("preferredHolder") && spec.vacant("strategy") {
            let holder = spec.at("preferredHolder").clone();
            let detail = "may only be specified if `strategy` is defined";
            errors.push(FieldError::invalid(SPEC.field("preferredHolder"), holder, detail));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const HOLDER: Column = column(
            "Holder",
            "string",
            0,
            "holderIdentity contains the identity of the holder of a current lease.",
        );
        &[table::NAME, HOLDER, table::AGE]
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let holder = object.at("spec").text("holderIdentity");
        vec![table::name(object), holder.into(), table::age(object, now)]
    }
}
