//! ReplicaSets.

use proto::status::FieldError;
use proto::time::Time;
use serde_json::{Value, json};

use super::check;
use super::lens::Lens;
use super::path::Path;
use super::table::{self, column};
use super::{Column, Context, Field, Strategy, begin, metadata, template};

const SPEC: Path = Path::root("spec");
pub struct ReplicaSet;

impl Strategy for ReplicaSet {
    fn default(&self, object: &mut Value) {
        template::default(object.section("spec"));
    }

    fn counted(&self) -> &'static [&'static str] {
        &["/spec"]
    }

    fn prepare_create(&self, new: &mut Value, ctx: &Context) {
        begin(self.counted(), new, ctx);
        new.set("status", json!({ "replicas": 0 }));
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let spec = object.at("spec");
        check::nonnegative(&SPEC, spec, &["replicas", "minReadySeconds"], &mut errors);
        template::validate_workload(&SPEC, spec, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(new);
        let (new, old) = (new.at("spec").at("selector"), old.at("spec").at("selector"));
        metadata::immutable(&SPEC.field("selector"), new, old, &mut errors);
        errors
    }

    fn validate_status(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        template::REPLICA_COUNTS.check(new, old)
    }

    fn fields(&self) -> &'static [Field] {
        &[Field { label: "status.replicas", path: "status.replicas", absent: "0" }]
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        template::warnings(new, old)
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let selector = table::selector(object.at("spec").at("selector"));
        template::replica_cells(object, selector, now)
    }
}

const SELECTOR: Column = column("Selector", "string", 1, super::SELECTOR_DESCRIPTION);

const COLUMNS: &[Column] = &[
    table::NAME,
    column(
        "Desired",
        "integer",
        0,
        "Replicas is the number of desired pods. This is a pointer to distinguish between \
                 explicit zero and unspecified. Defaults to 1. More info: \
                 https://kubernetes.io/docs/concepts/workloads/controllers/replicaset",
    ),
    column(
        "Current",
        "integer",
        0,
        "Replicas is the most recently observed number of non-terminating pods. More \
                 info: https://kubernetes.io/docs/concepts/workloads/controllers/replicaset",
    ),
    column(
        "Ready",
        "integer",
        0,
        "The number of non-terminating pods targeted by this ReplicaSet with a Ready \
                 Condition.",
    ),
    table::AGE,
    template::CONTAINERS,
    template::IMAGES,
    SELECTOR,
];
