//! DaemonSets.

use proto::status::FieldError;
use proto::time::Time;
use serde_json::{Value, json};

use super::check::{self, Errors};
use super::lens::Lens;
use super::path::Path;
use super::table::{self, column};
use super::{Column, Context, Strategy, begin, carry_on, metadata, template};

const SPEC: Path = Path::root("spec");
const STATUS: Path = Path::root("status");
/// Where apps/v1 keeps the number of template changes, a field of older versions.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

pub struct DaemonSet;

impl Strategy for DaemonSet {
    fn default(&self, object: &mut Value) {
        template::default(object.section("spec"));
    }

    fn counted(&self) -> &'static [&'static str] {
        &["/spec"]
    }

    fn prepare_create(&self, new: &mut Value, ctx: &Context) {
        begin(self.counted(), new, ctx);
        let zero = STATUS_COUNTS[..4].iter().map(|field| (field.to_string(), json!(0)));
        new.set("status", Value::Object(zero.collect()));
        set_template_generation(new, template_generation(new).max(1));
    }

    fn prepare_update(&self, new: &mut Value, old: &Value, ctx: &Context) {
        carry_on(self.counted(), new, old, ctx);
        let changed = new.at("spec").at("template") != old.at("spec").at("template");
        set_template_generation(new, template_generation(old) + i64::from(changed));
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let spec = object.at("spec");
        let (path, selector) = (SPEC.field("selector"), spec.at("selector"));
        check::label_selector(&path, selector, &mut errors);
        let path_template = SPEC.field("template");
        template::validate_labels(&path_template, spec.at("template"), selector, &mut errors);
        if selector.vacant("matchLabels") && selector.vacant("matchExpressions") {
            let detail = "empty selector is invalid for daemonset";
            errors.push(FieldError::invalid(path, selector.clone(), detail));
        }
        template::validate(&path_template, spec.at("template"), &mut errors);
        template::validate_forever(&path_template, spec.at("template"), "DaemonSet", &mut errors);
        check::nonnegative(&SPEC, spec, &["minReadySeconds"], &mut errors);
        strategy(&SPEC.field("updateStrategy"), spec.at("updateStrategy"), &mut errors);
        check::nonnegative(&SPEC, spec, &["revisionHistoryLimit"], &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(new);
        let (new, old) = (new.at("spec").at("selector"), old.at("spec").at("selector"));
        metadata::immutable(&SPEC.field("selector"), new, old, &mut errors);
        errors
    }

    fn validate_status(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let (status, before) = (new.at("status"), old.at("status"));
        let mut errors = Vec::new();
        check::nonnegative(&STATUS, status, STATUS_COUNTS, &mut errors);
        check::not_decremented(&STATUS, status, before, "collisionCount", &mut errors);
        errors
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        template::warnings(new, old)
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let (spec, status) = (object.at("spec"), object.at("status"));
        let pods = spec.at("template").at("spec");
        let (containers, images) = template::containers_and_images(pods);
        let count = |field| Value::from(status.int(field).unwrap_or(0));
        vec![
            table::name(object),
            count("desiredNumberScheduled"),
            count("currentNumberScheduled"),
            count("numberReady"),
            count("updatedNumberScheduled"),
            count("numberAvailable"),
            table::labels(pods.at("nodeSelector")).into(),
            table::age(object, now),
            containers.into(),
            images.into(),
            table::selector(spec.at("selector")).into(),
        ]
    }
}

fn strategy(path: &Path, strategy: &Value, errors: &mut Errors) {
    let (path_rolling, rolling) = (path.field("rollingUpdate"), strategy.at("rollingUpdate"));
    match strategy.text("type") {
        "OnDelete" => {}
        "RollingUpdate" if rolling.is_null() => errors.push(FieldError::required(path_rolling, "")),
        "RollingUpdate" => {
            for field in ["maxUnavailable", "maxSurge"] {
                check::share(&path_rolling.field(field), rolling.at(field), errors);
            }
            for field in ["maxUnavailable", "maxSurge"] {
                check::at_most_all(&path_rolling.field(field), rolling.at(field), errors);
            }
            let zero = |field| check::is_zero(rolling.at(field));
            match (zero("maxUnavailable"), zero("maxSurge")) {
                (false, false) => {
                    let detail = "may not be set when maxUnavailable is non-zero";
                    let value = rolling.at("maxSurge").clone();
                    errors.push(FieldError::invalid(path_rolling.field("maxSurge"), value, detail));
                }
                (true, true) => {
                    let detail = "cannot be 0 when maxSurge is 0";
                    errors.push(FieldError::required(path_rolling.field("maxUnavailable"), detail));
                }
                _ => {}
            }
        }
        other => {
            let supported = ["RollingUpdate", "OnDelete"];
            errors.push(FieldError::not_supported(path.field("type"), other, &supported));
        }
    }
}

fn template_generation(object: &Value) -> i64 {
    let text = object.at("metadata").at("annotations").text(TEMPLATE_GENERATION);
    text.parse().unwrap_or(0)
}

fn set_template_generation(object: &mut Value, generation: i64) {
    if generation > 0 {
        let annotations = object.section("metadata").section("annotations");
        annotations.set(TEMPLATE_GENERATION, generation.to_string());
    }
}

/// All that a status counts; the first four are there from the beginning.
const STATUS_COUNTS: &[&str] = &[
    "currentNumberScheduled",
    "numberMisscheduled",
    "desiredNumberScheduled",
    "numberReady",
    "observedGeneration",
    "updatedNumberScheduled",
    "numberAvailable",
    "numberUnavailable",
    "collisionCount",
];

const COLUMNS: &[Column] = &[
    table::NAME,
    column(
        "Desired",
        "integer",
        0,
        "The total number of nodes that should be running the daemon pod (including nodes \
         correctly running the daemon pod). More info: \
         https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/",
    ),
    column(
        "Current",
        "integer",
        0,
        "The number of nodes that are running at least 1 daemon pod and are supposed to run the \
         daemon pod. More info: \
         https://kubernetes.io/docs/concepts/workloads/controllers/daemonset/",
    ),
    column(
        "Ready",
        "integer",
        0,
        "numberReady is the number of nodes that should be running the daemon pod and have one or \
         more of the daemon pod running with a Ready Condition.",
    ),
    column(
        "Up-to-date",
        "integer",
        0,
        "The total number of nodes that are running updated daemon pod",
    ),
    column(
        "Available",
        "integer",
        0,
        "The number of nodes that should be running the daemon pod and have one or more of the \
         daemon pod running and available (ready for at least spec.minReadySeconds)",
    ),
    column(
        "Node Selector",
        "string",
        0,
        "NodeSelector is a selector which must be true for the pod to fit on a node. Selector \
         which must match a node's labels for the pod to be scheduled on that node. More info: \
         https://kubernetes.io/docs/concepts/configuration/assign-pod-node/",
    ),
    table::AGE,
    template::CONTAINERS,
    template::IMAGES,
    column(
        "Selector",
        "string",
        1,
        "A label query over pods that are managed by the daemon set. Must match in order to be \
         controlled. It must match the pod template's labels. More info: \
         https://kubernetes.io/docs/concepts/overview/working-with-objects/labels/#label-selectors",
    ),
];
