//! PersistentVolumeClaims.

use proto::status::FieldError;
use proto::time::Time;
use serde_json::{Value, json};

use super::check::{self, Errors};
use super::lens::Lens;
use super::metadata::immutable;
use super::path::Path;
use super::persistent_volume::{
    access_modes, class, classes, modes, or_unset, phase, positive, quantity,
};
use super::pod::resources;
use super::table::{self, column};
use super::{Column, Context, Strategy};

const SPEC: Path = Path::root("spec");
const STATUS: Path = Path::root("status");

pub struct PersistentVolumeClaim;

impl Strategy for PersistentVolumeClaim {
    /// The old and the new field for what fills the volume say the same.
    fn default(&self, object: &mut Value) {
        let spec = object.section("spec");
        let (old, new) = (spec.at("dataSource").clone(), spec.at("dataSourceRef").clone());
        if new.is_null() && !old.is_null() {
            spec.set("dataSourceRef", old);
        } else if old.is_null() && !new.is_null() && new.text("namespace").is_empty() {
            spec.set("dataSource", new);
        }
    }

    fn prepare_create(&self, new: &mut Value, _ctx: &Context) {
        new.set("status", json!({ "phase": "Pending" }));
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        spec(&SPEC, object.at("spec"), &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(new);
        let (spec, before) = (new.at("spec"), old.at("spec"));
        if allowed(new, old) != *spec {
            let detail = "spec is immutable after creation except resources.requests and \
                          volumeAttributesClassName for bound claims";
            errors.push(FieldError::forbidden(SPEC, detail));
        }
        let sizes = (resources::read(requested(spec)), resources::read(requested(before)));
        if let (Some(size), Some(previous)) = sizes
            && size < previous
        {
            // A request that could not be met may be taken back, but not down to what is there.
            let real = old.at("status").at("capacity").at("storage");
            if size <= resources::read(real).unwrap_or_default() {
                let path = SPEC.field("resources");
                let path = path.field("requests");
                let detail = "field can not be less than status.capacity";
                errors.push(FieldError::forbidden(path.field("storage"), detail));
            }
        }
        let path = Path::root("volumeMode");
        immutable(&path, spec.at("volumeMode"), before.at("volumeMode"), &mut errors);
        let path = SPEC.field("volumeAttributesClassName");
        if !old.at("status").vacant("currentVolumeAttributesClassName") {
            let detail = match spec.at("volumeAttributesClassName") {
                Value::Null => "update from non-nil value to nil is forbidden",
                Value::String(text) if text.is_empty() => {
                    "update from non-nil value to an empty string is forbidden"
                }
                _ => return errors,
            };
            errors.push(FieldError::forbidden(path, detail));
        }
        errors
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if new.at("spec").vacant("accessModes") {
            errors.push(FieldError::required(SPEC.field("accessModes"), ""));
        }
        for field in ["capacity", "allocatedResources"] {
            let path = STATUS.field(field);
            for (name, amount) in new.at("status").pairs(field) {
                if let Some(value) = resources::read(amount).filter(|value| value.is_negative()) {
                    let detail = "must be a valid resource quantity";
                    errors.push(FieldError::invalid(path.key(name), value.value(), detail));
                }
            }
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let (spec, status) = (object.at("spec"), object.at("status"));
        let volume = spec.text("volumeName");
        let (capacity, modes) = match volume {
            "" => (String::new(), String::new()),
            _ => (quantity(status.at("capacity").at("storage")).to_string(), modes(status)),
        };
        vec![
            table::name(object),
            phase(object).into(),
            volume.into(),
            capacity.into(),
            modes.into(),
            class(object).into(),
            or_unset(spec, "volumeAttributesClassName").into(),
            table::age(object, now),
            or_unset(spec, "volumeMode").into(),
        ]
    }
}

/// Validates the spec of a claim, or of a template of claims, at `path`.
pub fn spec(path: &Path, spec: &Value, errors: &mut Errors) {
    check::label_selector(&path.field("selector"), spec.at("selector"), errors);
    if spec.vacant("accessModes") {
        let detail = "at least one access mode is required";
        errors.push(FieldError::required(path.field("accessModes"), detail));
    }
    access_modes(path, spec, errors);
    let resources = path.field("resources");
    match requested(spec) {
        Value::Null => errors.push(FieldError::required(resources.key("storage"), "")),
        amount => positive(&resources.key("storage"), amount, errors),
    }
    classes(path, spec, errors);
    for field in ["dataSource", "dataSourceRef"] {
        data_source(&path.field(field), spec.at(field), errors);
    }
    data_sources(path, spec, errors);
}

fn requested(spec: &Value) -> &Value {
    spec.at("resources").at("requests").at("storage")
}

/// The old spec with the changes that are allowed: binding, the class where there was none, and
/// the size of a bound claim.
fn allowed(new: &Value, old: &Value) -> Value {
    let spec = new.at("spec");
    let mut allowed = old.at("spec").clone();
    if allowed.vacant("volumeName") {
        allowed.take_over("volumeName", spec);
        if !allowed.has("storageClassName") {
            allowed.take_over("storageClassName", spec);
        }
    }
    if new.at("status").text("phase") == "Bound" && spec.at("resources").has("requests") {
        let requests = allowed.section("resources").section("requests");
        requests.take_over("storage", spec.at("resources").at("requests"));
    }
    allowed.take_over("volumeAttributesClassName", spec);
    allowed
}

fn data_source(path: &Path, source: &Value, errors: &mut Errors) {
    if source.is_null() {
        return;
    }
    for field in ["name", "kind"] {
        check::required(path, source, field, errors);
    }
    let group = source.text("apiGroup");
    if !group.is_empty() {
        check::subdomain(&path.field("apiGroup"), group, errors);
    } else if source.text("kind") != "PersistentVolumeClaim" {
        let detail = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
        errors.push(FieldError::invalid(path, source.text("kind"), detail));
    }
}

fn data_sources(path: &Path, spec: &Value, errors: &mut Errors) {
    let (old, new) = (spec.at("dataSource"), spec.at("dataSourceRef"));
    if old.is_null() || new.is_null() {
        return;
    }
    if !new.text("namespace").is_empty() {
        let detail = "may not be specified when dataSourceRef.namespace is specified";
        errors.push(FieldError::invalid(path.field("dataSource"), old.clone(), detail));
    } else if ["apiGroup", "kind", "name"].iter().any(|field| old.text(field) != new.text(field)) {
        let detail = "must match dataSourceRef";
        errors.push(FieldError::invalid(path.field("dataSource"), old.clone(), detail));
    }
}

const COLUMNS: &[Column] = &[
    table::NAME,
    column(
        "Status",
        "string",
        0,
        "status represents the current information/status of a persistent volume claim. Read-only. \
         More info: \
         https://kubernetes.io/docs/concepts/storage/persistent-volumes#persistentvolumeclaims",
    ),
    column(
        "Volume",
        "string",
        0,
        "volumeName is the binding reference to the PersistentVolume backing this claim.",
    ),
    column(
        "Capacity",
        "string",
        0,
        "capacity represents the actual resources of the underlying volume.",
    ),
    column(
        "Access Modes",
        "string",
        0,
        "accessModes contains the actual access modes the volume backing the PVC has. More info: \
         https://kubernetes.io/docs/concepts/storage/persistent-volumes#access-modes-1",
    ),
    column("StorageClass", "string", 0, "StorageClass of the pvc"),
    column("VolumeAttributesClass", "string", 0, "VolumeAttributesClass of the pvc"),
    table::AGE,
    column(
        "VolumeMode",
        "string",
        1,
        "volumeMode defines what type of volume is required by the claim. Value of Filesystem is \
         implied when not included in claim spec.",
    ),
];
