//! ReplicationControllers.

use proto::status::FieldError;
use proto::time::Time;
use serde_json::{Value, json};

use super::check;
use super::lens::Lens;
use super::path::Path;
use super::table::{self, column};
use super::{Column, Context, Field, Strategy, begin, template};

const SPEC: Path = Path::root("spec");

pub struct ReplicationController;

impl Strategy for ReplicationController {
    /// The selector and the controller's own labels are the template's where they are not given.
    fn default(&self, object: &mut Value) {
        let labels = object.at("spec").at("template").at("metadata").at("labels").clone();
        if !object.at("spec").at("template").at("metadata").vacant("labels") {
            if object.at("spec").vacant("selector") {
                object.section("spec").set("selector", labels.clone());
            }
            if object.at("metadata").vacant("labels") {
                object.section("metadata").set("labels", labels);
            }
        }
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
        check::nonnegative(&SPEC, spec, &["minReadySeconds"], &mut errors);
        check::required(&SPEC, spec, "selector", &mut errors);
        check::nonnegative(&SPEC, spec, &["replicas"], &mut errors);
        let path = SPEC.field("template");
        if !spec.has("template") {
            errors.push(FieldError::required(path, ""));
            return errors;
        }
        let pods = spec.at("template");
        let selector = json!({ "matchLabels": spec.at("selector") });
        template::validate_labels(&path, pods, &selector, &mut errors);
        template::validate(&path, pods, &mut errors);
        template::validate_forever(&path, pods, "ReplicationController", &mut errors);
        errors
    }

    fn validate_status(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        template::REPLICA_COUNTS.check(new, old)
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        template::warnings(new, old)
    }

    fn orphans(&self) -> bool {
        true
    }

    fn fields(&self) -> &'static [Field] {
        &[Field { label: "status.replicas", path: "status.replicas", absent: "0" }]
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let selector = table::labels(object.at("spec").at("selector"));
        template::replica_cells(object, selector, now)
    }
}

const COLUMNS: &[Column] = &[
    table::NAME,
    column(
        "Desired",
        "integer",
        0,
        "Replicas is the number of desired replicas. This is a pointer to distinguish between \
         explicit zero and unspecified. Defaults to 1. More info: \
         https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller#what-is-a-replicationcontroller",
    ),
    column(
        "Current",
        "integer",
        0,
        "Replicas is the most recently observed number of replicas. More info: \
         https://kubernetes.io/docs/concepts/workloads/controllers/replicationcontroller#what-is-a-replicationcontroller",
    ),
    column("Ready", "integer", 0, "The number of ready replicas for this replication controller."),
    table::AGE,
    template::CONTAINERS,
    template::IMAGES,
    column(
        "Selector",
        "string",
        1,
        "Selector is a label query over pods that should match the Replicas count. If Selector is \
         empty, it is defaulted to the labels present on the Pod template. Label keys and values \
         that must match in order to be controlled by this replication controller, if empty \
         defaulted to labels on Pod template. More info: \
         https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
    ),
];
