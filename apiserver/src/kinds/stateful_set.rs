//! StatefulSets.

use proto::status::FieldError;
use proto::time::Time;
use serde_json::{Value, json};

use super::check::{self, Errors};
use super::lens::Lens;
use super::path::Path;
use super::table::{self, column};
use super::{Column, Context, NameRule, Strategy, begin, metadata, template};

const SPEC: Path = Path::root("spec");
const STATUS: Path = Path::root("status");

pub struct StatefulSet;

impl Strategy for StatefulSet {
    /// The name becomes the pods' hostnames.
    fn name_rule(&self) -> NameRule {
        NameRule::Label
    }

    fn default(&self, object: &mut Value) {
        let spec = object.section("spec");
        let strategy = spec.section("updateStrategy");
        if strategy.text("type").is_empty() {
            strategy.set("type", "RollingUpdate");
            strategy.section("rollingUpdate");
        }
        if strategy.text("type") == "RollingUpdate" && strategy.has("rollingUpdate") {
            strategy.section("rollingUpdate").fill("partition", 0);
        }
        let retention = spec.section("persistentVolumeClaimRetentionPolicy");
        for field in ["whenDeleted", "whenScaled"] {
            if retention.text(field).is_empty() {
                retention.set(field, "Retain");
            }
        }
        for claim in spec.items_mut("volumeClaimTemplates") {
            claim.set("apiVersion", "v1");
            claim.set("kind", "PersistentVolumeClaim");
        }
        template::default(spec);
    }

    fn counted(&self) -> &'static [&'static str] {
        &["/spec"]
    }

    fn prepare_create(&self, new: &mut Value, ctx: &Context) {
        begin(self.counted(), new, ctx);
        new.set("status", json!({ "replicas": 0, "availableReplicas": 0 }));
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let spec = object.at("spec");
        policies(spec, &mut errors);
        let numbers = ["replicas", "minReadySeconds", "revisionHistoryLimit"];
        check::nonnegative(&SPEC, spec, &numbers, &mut errors);
        check::nonnegative(&SPEC.field("ordinals"), spec.at("ordinals"), &["start"], &mut errors);
        let (path, selector) = (SPEC.field("selector"), spec.at("selector"));
        let empty = selector.vacant("matchLabels") && selector.vacant("matchExpressions");
        if selector.is_null() {
            errors.push(FieldError::required(path, ""));
        } else {
            check::label_selector(&path, selector, &mut errors);
            if empty {
                let detail = "empty selector is invalid for statefulset";
                errors.push(FieldError::invalid(path, selector.clone(), detail));
            }
        }
        let (path, pods) = (SPEC.field("template"), spec.at("template"));
        if !empty {
            template::validate_labels(&path, pods, selector, &mut errors);
        }
        // The rest of the template is checked when a pod is made of it: mounts may name the claims.
        let meta = pods.at("metadata");
        metadata::labels(&path.field("labels"), meta.at("labels"), &mut errors);
        metadata::annotations(&path.field("annotations"), meta.at("annotations"), &mut errors);
        template::validate_forever(&path, pods, "StatefulSet", &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(new);
        let mut fixed = old.at("spec").clone();
        for field in CHANGEABLE {
            fixed.take_over(field, new.at("spec"));
        }
        if fixed != *new.at("spec") {
            errors.push(FieldError::forbidden(SPEC, FORBIDDEN));
        }
        errors
    }

    fn validate_status(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let (status, before) = (new.at("status"), old.at("status"));
        let mut errors = Vec::new();
        check::nonnegative(&STATUS, status, STATUS_COUNTS, &mut errors);
        let pairs = [
            ("readyReplicas", "replicas"),
            ("currentReplicas", "replicas"),
            ("updatedReplicas", "replicas"),
            ("availableReplicas", "replicas"),
        ];
        check::counts(&STATUS, status, &pairs, &mut errors);
        let available = status.int("availableReplicas").unwrap_or(0);
        if available > status.int("readyReplicas").unwrap_or(0) {
            let path = STATUS.field("availableReplicas");
            let detail = "cannot be greater than status.readyReplicas";
            errors.push(FieldError::invalid(path, available, detail));
        }
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
        let (containers, images) = template::containers_and_images(spec.at("template").at("spec"));
        let ready = status.int("readyReplicas").unwrap_or(0);
        vec![
            table::name(object),
            format!("{ready}/{}", spec.int("replicas").unwrap_or(0)).into(),
            table::age(object, now),
            containers.into(),
            images.into(),
        ]
    }
}

/// How pods are made, replaced, and what becomes of their claims.
fn policies(spec: &Value, errors: &mut Errors) {
    let path = SPEC.field("podManagementPolicy");
    match spec.text("podManagementPolicy") {
        "" => errors.push(FieldError::required(path, "")),
        "OrderedReady" | "Parallel" => {}
        other => {
            let detail = "must be 'OrderedReady' or 'Parallel'";
            errors.push(FieldError::invalid(path, other, detail));
        }
    }
    let (path, strategy) = (SPEC.field("updateStrategy"), spec.at("updateStrategy"));
    let (path_rolling, rolling) = (path.field("rollingUpdate"), strategy.at("rollingUpdate"));
    match strategy.text("type") {
        "" => errors.push(FieldError::required(path, "")),
        "OnDelete" if rolling.is_null() => {}
        "OnDelete" => {
            let detail = "only allowed for updateStrategy 'RollingUpdate'";
            errors.push(FieldError::invalid(path_rolling, rolling.clone(), detail));
        }
        "RollingUpdate" => {
            check::nonnegative(&path_rolling, rolling, &["partition"], errors);
            let (path, most) = (path_rolling.field("maxUnavailable"), rolling.at("maxUnavailable"));
            check::share(&path, most, errors);
            if !most.is_null() && check::is_zero(most) {
                errors.push(FieldError::invalid(path, most.clone(), "cannot be 0"));
            }
            check::at_most_all(&path, most, errors);
        }
        _ => {
            let detail = "must be 'RollingUpdate' or 'OnDelete'";
            errors.push(FieldError::invalid(path, strategy.clone(), detail));
        }
    }
    let path = SPEC.field("persistentVolumeClaimRetentionPolicy");
    for field in ["whenDeleted", "whenScaled"] {
        let policy = spec.at("persistentVolumeClaimRetentionPolicy").text(field);
        if !matches!(policy, "Retain" | "Delete") {
            let supported = ["Retain", "Delete"];
            errors.push(FieldError::not_supported(path.field(field), policy, &supported));
        }
    }
}

const CHANGEABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

const FORBIDDEN: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', \
    'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' \
    and 'minReadySeconds' are forbidden";

const STATUS_COUNTS: &[&str] = &[
    "replicas",
    "readyReplicas",
    "currentReplicas",
    "updatedReplicas",
    "availableReplicas",
    "observedGeneration",
    "collisionCount",
];

const COLUMNS: &[Column] = &[
    table::NAME,
    column("Ready", "string", 0, "Number of the pod with ready state"),
    table::AGE,
    template::CONTAINERS,
    template::IMAGES,
];
