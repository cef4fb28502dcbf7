//! Pod templates: of workloads, and the kind PodTemplate.

use proto::status::FieldError;
use proto::time::Time;
use serde_json::Value;

use super::check::{self, Errors};
use super::lens::Lens;
use super::path::Path;
use super::table::{self, column};
use super::{Column, Strategy, metadata, pod};

/// Defaults of the template at `template` in `parent`.
pub fn default(parent: &mut Value) {
    if parent.at("template").has("spec") {
        pod::defaults::spec(parent.section("template").section("spec"));
    }
}

/// Validates any pod template.
pub fn validate(path: &Path, template: &Value, errors: &mut Errors) {
    let meta = template.at("metadata");
    metadata::labels(&path.field("labels"), meta.at("labels"), errors);
    metadata::annotations(&path.field("annotations"), meta.at("annotations"), errors);
    let path = path.field("spec");
    pod::spec::validate(&path, template.at("spec"), &Value::Null, errors);
    if !template.at("spec").vacant("ephemeralContainers") {
        let detail = "ephemeral containers not allowed in pod template";
        errors.push(FieldError::forbidden(path.field("ephemeralContainers"), detail));
    }
}

/// Warnings about the template of a workload, unless it is as it was.
pub fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let current = new.at("spec").at("template");
    if old.is_some_and(|old| old.at("spec").at("template") == current) {
        return Vec::new();
    }
    let path = Path::root("spec");
    let path = path.field("template");
    let name = new.at("metadata").text("name");
    let name = pod::warnings::name(name, "Pod names and hostnames");
    name.into_iter().chain(pod::warnings::spec(&path.field("spec"), current.at("spec"))).collect()
}

/// Validates the selector and the template of a workload whose pods run for ever; `path` is its
/// spec's. Upstream says "deployment" of ReplicaSets too.
pub fn validate_workload(path: &Path, spec: &Value, errors: &mut Errors) {
    let selector = spec.at("selector");
    let path_selector = path.field("selector");
    let empty = selector.vacant("matchLabels") && selector.vacant("matchExpressions");
    if selector.is_null() {
        errors.push(FieldError::required(path_selector, ""));
    } else {
        check::label_selector(&path_selector, selector, errors);
        if empty {
            let value = selector.clone();
            let detail = "empty selector is invalid for deployment";
            errors.push(FieldError::invalid(path_selector, value, detail));
        }
    }
    let template = spec.at("template");
    let path = path.field("template");
    if !empty {
        validate_labels(&path, template, selector, errors);
    }
    validate(&path, template, errors);
    validate_forever(&path, template, "ReplicaSet", errors);
}

/// That the pods of the template at `path` run for ever: they are restarted, and have no deadline.
/// `kind` is the workload's.
pub fn validate_forever(path: &Path, template: &Value, kind: &str, errors: &mut Errors) {
    let path = path.field("spec");
    let policy = template.at("spec").text("restartPolicy");
    if !matches!(policy, "" | "Always") {
        let path = path.field("restartPolicy");
        errors.push(FieldError::not_supported(path, policy, &["Always"]));
    }
    if template.at("spec").has("activeDeadlineSeconds") {
        let detail = format!("activeDeadlineSeconds in {kind} is not Supported");
        errors.push(FieldError::forbidden(path.field("activeDeadlineSeconds"), detail));
    }
}

/// That the selector selects the labels of the template at `path`.
pub fn validate_labels(path: &Path, template: &Value, selector: &Value, errors: &mut Errors) {
    if !selects(selector, template) {
        let path = path.field("metadata");
        let labels = template.at("metadata").at("labels").clone();
        let detail = "`selector` does not match template `labels`";
        errors.push(FieldError::invalid(path.field("labels"), labels, detail));
    }
}

/// Whether the selector, where it is valid, selects the template's labels; none selects nothing.
pub fn selects(selector: &Value, template: &Value) -> bool {
    if selector.is_null() {
        return false;
    }
    let labels = template.at("metadata").at("labels");
    let label = |key: &str| labels.get(key).and_then(Value::as_str);
    let equal = selector
        .pairs("matchLabels")
        .all(|(key, value)| label(key).is_some() && label(key) == value.as_str());
    equal
        && selector.items("matchExpressions").iter().all(|expression| {
            let value = label(expression.text("key"));
            let listed =
                value.is_some_and(|value| check::texts(expression, "values").any(|v| v == value));
            match expression.text("operator") {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => true,
            }
        })
}

/// The cells of a kind that keeps a number of replicas; `selector` as it is shown.
pub fn replica_cells(object: &Value, selector: String, now: Time) -> Vec<Value> {
    let (spec, status) = (object.at("spec"), object.at("status"));
    let (containers, images) = containers_and_images(spec.at("template").at("spec"));
    vec![
        table::name(object),
        spec.int("replicas").unwrap_or(0).into(),
        status.int("replicas").unwrap_or(0).into(),
        status.int("readyReplicas").unwrap_or(0).into(),
        table::age(object, now),
        containers.into(),
        images.into(),
        selector.into(),
    ]
}

/// The counts of such a kind's status.
pub const REPLICA_COUNTS: check::Counts = check::Counts {
    fields: &[
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "terminatingReplicas",
        "observedGeneration",
    ],
    pairs: &[
        ("fullyLabeledReplicas", "replicas"),
        ("readyReplicas", "replicas"),
        ("availableReplicas", "replicas"),
        ("availableReplicas", "readyReplicas"),
    ],
};

/// The cells Containers, Images and the names behind them.
pub fn containers_and_images(spec: &Value) -> (String, String) {
    let containers = spec.items("containers");
    let of = |field| containers.iter().map(move |container| container.text(field));
    (table::list(of("name")), table::list(of("image")))
}

pub const CONTAINERS: Column =
    column("Containers", "string", 1, "Names of each container in the template.");
pub const IMAGES: Column =
    column("Images", "string", 1, "Images referenced by each container in the template.");

pub struct PodTemplate;

impl Strategy for PodTemplate {
    fn default(&self, object: &mut Value) {
        default(object);
    }

    fn counted(&self) -> &'static [&'static str] {
        &["/template"]
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        validate(&Path::root("template"), object.at("template"), &mut errors);
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, object: &Value, _now: Time) -> Vec<Value> {
        let template = object.at("template");
        let (containers, images) = containers_and_images(template.at("spec"));
        let labels = table::labels(template.at("metadata").at("labels"));
        vec![table::name(object), containers.into(), images.into(), labels.into()]
    }
}

const LABELS: Column =
    column("Pod Labels", "string", 0, "Labels of the pods created from the template.");

const COLUMNS: &[Column] =
    &[table::NAME, Column { priority: 0, ..CONTAINERS }, Column { priority: 0, ..IMAGES }, LABELS];
