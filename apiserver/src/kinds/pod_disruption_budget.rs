//! PodDisruptionBudgets.

use proto::status::FieldError;
use proto::time::Time;
use serde_json::{Value, json};

use super::lens::Lens;
use super::path::Path;
use super::table::{self, column};
use super::{Column, Context, Strategy, begin, check, condition};

const SPEC: Path = Path::root("spec");
const STATUS: Path = Path::root("status");

pub struct PodDisruptionBudget;

impl Strategy for PodDisruptionBudget {
    fn unconditional_update(&self) -> bool {
        false
    }

    fn counted(&self) -> &'static [&'static str] {
        &["/spec"]
    }

    fn prepare_create(&self, new: &mut Value, ctx: &Context) {
        begin(self.counted(), new, ctx);
        let zero = COUNTS.iter().map(|field| (field.to_string(), json!(0)));
        new.set("status", Value::Object(zero.collect()));
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let spec = object.at("spec");
        if spec.has("minAvailable") && spec.has("maxUnavailable") {
            let detail = "minAvailable and maxUnavailable cannot be both set";
            errors.push(FieldError::invalid(SPEC, spec.clone(), detail));
        }
        for field in ["minAvailable", "maxUnavailable"] {
            check::share(&SPEC.field(field), spec.at(field), &mut errors);
            check::at_most_all(&SPEC.field(field), spec.at(field), &mut errors);
        }
        check::label_selector(&SPEC.field("selector"), spec.at("selector"), &mut errors);
        let path = SPEC.field("unhealthyPodEvictionPolicy");
        if let Some(policy) = spec.at("unhealthyPodEvictionPolicy").as_str() {
            let supported = ["AlwaysAllow", "IfHealthyBudget"];
            if !supported.contains(&policy) {
                errors.push(FieldError::not_supported(path, policy, &supported));
            }
        }
        errors
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let status = new.at("status");
        condition::validate(&STATUS.field("conditions"), status.items("conditions"), &mut errors);
        check::nonnegative(&STATUS, status, &COUNTS, &mut errors);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let (spec, status) = (object.at("spec"), object.at("status"));
        let limit = |field| match spec.at(field) {
            Value::Null => Value::from("N/A"),
            Value::String(text) => text.as_str().into(),
            number => number.to_string().into(),
        };
        vec![
            table::name(object),
            limit("minAvailable"),
            limit("maxUnavailable"),
            status.int("disruptionsAllowed").unwrap_or(0).into(),
            table::age(object, now),
        ]
    }
}

const COUNTS: [&str; 4] =
    ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];

const COLUMNS: &[Column] = &[
    table::NAME,
    column(
        "Min Available",
        "string",
        0,
        "An eviction is allowed if at least \"minAvailable\" pods selected by \"selector\" will \
         still be available after the eviction, i.e. even in the absence of the evicted pod.  So \
         for example you can prevent all voluntary evictions by specifying \"100%\".",
    ),
    column(
        "Max Unavailable",
        "string",
        0,
        "An eviction is allowed if at most \"maxUnavailable\" pods selected by \"selector\" are \
         unavailable after the eviction, i.e. even in absence of the evicted pod. For example, one \
         can prevent all voluntary evictions by specifying 0. This is a mutually exclusive setting \
         with \"minAvailable\".",
    ),
    column("Allowed Disruptions", "integer", 0, "Calculated number of pods that may be evicted."),
    table::AGE,
];
