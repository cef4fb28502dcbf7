//! Deployments.

use proto::status::FieldError;
use proto::time::Time;
use serde_json::{Value, json};

use super::check::{self, Errors};
use super::lens::Lens;
use super::path::Path;
use super::table::{self, column};
use super::{Column, Context, Strategy, begin, metadata, only_status, template};

const SPEC: Path = Path::root("spec");
const COUNTS: check::Counts = check::Counts {
    fields: &[
        "observedGeneration",
        "replicas",
        "updatedReplicas",
        "readyReplicas",
        "availableReplicas",
        "unavailableReplicas",
        "terminatingReplicas",
        "collisionCount",
    ],
    pairs: &[
        ("updatedReplicas", "replicas"),
        ("readyReplicas", "replicas"),
        ("availableReplicas", "replicas"),
        ("availableReplicas", "readyReplicas"),
    ],
};

pub struct Deployment;

impl Strategy for Deployment {
    fn default(&self, object: &mut Value) {
        template::default(object.section("spec"));
    }

    /// Annotations too: they carry what a rollback or a restart changes.
    fn counted(&self) -> &'static [&'static str] {
        &["/spec", "/metadata/annotations"]
    }

    fn prepare_create(&self, new: &mut Value, ctx: &Context) {
        begin(self.counted(), new, ctx);
        new.set("status", json!({}));
    }

    fn prepare_status(&self, new: &mut Value, old: &Value, _ctx: &Context) {
        only_status(new, old);
        new.section("metadata").take_over("labels", old.at("metadata"));
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let spec = object.at("spec");
        let numbers = ["replicas", "minReadySeconds", "revisionHistoryLimit"];
        check::nonnegative(&SPEC, spec, &numbers, &mut errors);
        template::validate_workload(&SPEC, spec, &mut errors);
        strategy(&SPEC.field("strategy"), spec.at("strategy"), &mut errors);
        if let Some(deadline) = spec.int("progressDeadlineSeconds") {
            let path = SPEC.field("progressDeadlineSeconds");
            check::nonnegative(&SPEC, spec, &["progressDeadlineSeconds"], &mut errors);
            if deadline <= spec.int("minReadySeconds").unwrap_or(0) {
                let detail = "must be greater than minReadySeconds";
                errors.push(FieldError::invalid(path, deadline, detail));
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(new);
        let (new, old) = (new.at("spec").at("selector"), old.at("spec").at("selector"));
        metadata::immutable(&SPEC.field("selector"), new, old, &mut errors);
        errors
    }

    fn validate_status(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        COUNTS.check(new, old)
    }

    fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        template::warnings(new, old)
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let (spec, status) = (object.at("spec"), object.at("status"));
        let (containers, images) = template::containers_and_images(spec.at("template").at("spec"));
        let count = |field| status.int(field).unwrap_or(0);
        vec![
            table::name(object),
            format!("{}/{}", count("readyReplicas"), spec.int("replicas").unwrap_or(0)).into(),
            count("updatedReplicas").into(),
            count("availableReplicas").into(),
            table::age(object, now),
            containers.into(),
            images.into(),
            table::selector(spec.at("selector")).into(),
        ]
    }
}

fn strategy(path: &Path, strategy: &Value, errors: &mut Errors) {
    let rolling = strategy.at("rollingUpdate");
    let path_rolling = path.field("rollingUpdate");
    match strategy.text("type") {
        "Recreate" => {
            if !rolling.is_null() {
                let detail = "may not be specified when strategy `type` is 'Recreate'";
                errors.push(FieldError::forbidden(path_rolling, detail));
            }
        }
        "RollingUpdate" => {
            if rolling.is_null() {
                let detail = "this should be defaulted and never be nil";
                errors.push(FieldError::required(path_rolling, detail));
                return;
            }
            for field in ["maxUnavailable", "maxSurge"] {
                check::share(&path_rolling.field(field), rolling.at(field), errors);
            }
            let zero = |field| check::is_zero(rolling.at(field));
            let field = path_rolling.field("maxUnavailable");
            if zero("maxUnavailable") && zero("maxSurge") {
                let detail = "may not be 0 when `maxSurge` is 0";
                let value = rolling.at("maxUnavailable").clone();
                errors.push(FieldError::invalid(field, value, detail));
            }
            if check::percent(rolling.at("maxUnavailable")).is_some_and(|percent| percent > 100) {
                let value = rolling.at("maxUnavailable").clone();
                errors.push(FieldError::invalid(field, value, "must not be greater than 100%"));
            }
        }
        other => {
            let supported = ["Recreate", "RollingUpdate"];
            errors.push(FieldError::not_supported(path.field("type"), other, &supported));
        }
    }
}

const SELECTOR: Column = column("Selector", "string", 1, super::SELECTOR_DESCRIPTION);

const COLUMNS: &[Column] = &[
    table::NAME,
    column("Ready", "string", 0, "Number of the pod with ready state"),
    column(
        "Up-to-date",
        "string",
        0,
        "Total number of non-terminating pods targeted by this deployment that have the \
                 desired template spec.",
    ),
    column(
        "Available",
        "string",
        0,
        "Total number of available non-terminating pods (ready for at least \
                 minReadySeconds) targeted by this deployment.",
    ),
    table::AGE,
    template::CONTAINERS,
    template::IMAGES,
    SELECTOR,
];
