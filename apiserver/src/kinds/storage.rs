//! StorageClasses, VolumeAttributesClasses, CSIStorageCapacities and VolumeAttachments.

use std::collections::{BTreeMap, BTreeSet};

use proto::status::FieldError;
use proto::time::Time;
use serde_json::Value;

use super::check::{self, Errors};
use super::described;
use super::lens::Lens;
use super::metadata;
use super::path::Path;
use super::pod::{resources, warnings};
use super::table::{self, column};
use super::{Column, Strategy};

const MOST_PARAMETERS: usize = 512;
/// Of parameters and of attachment metadata, in bytes.
const MOST_BYTES: usize = 256 * 1024;

pub struct StorageClass;
pub struct VolumeAttributesClass;
pub struct CsiStorageCapacity;
pub struct VolumeAttachment;

impl Strategy for StorageClass {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        const TOPOLOGIES: Path = Path::root("allowedTopologies");
        let mut errors = Vec::new();
        provisioner(object, "provisioner", &mut errors);
        parameters(object, &mut errors);
        let policy = object.text("reclaimPolicy");
        let policies = ["Delete", "Retain"];
        check::optional_one_of(&Path::root("reclaimPolicy"), policy, &policies, &mut errors);
        let mode = object.text("volumeBindingMode");
        let modes = ["Immediate", "WaitForFirstConsumer"];
        check::one_of(&Path::root("volumeBindingMode"), mode, &modes, &mut errors);
        let mut seen = Vec::new();
        for (index, term) in object.items("allowedTopologies").iter().enumerate() {
            let path = TOPOLOGIES.index(index);
            let parsed = topology(&path, term, &mut errors);
            if seen.contains(&parsed) {
                errors.push(FieldError::duplicate(path.field("matchLabelExpressions"), ""));
            }
            seen.push(parsed);
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(new);
        fixed(new, old, &["parameters", "provisioner", "reclaimPolicy"], &mut errors);
        let field = "volumeBindingMode";
        metadata::immutable(&Path::root(field), new.at(field), old.at(field), &mut errors);
        errors
    }

    fn warnings(&self, new: &Value, _old: Option<&Value>) -> Vec<String> {
        let mut found = Vec::new();
        for (i, term) in new.items("allowedTopologies").iter().enumerate() {
            for (j, expression) in term.items("matchLabelExpressions").iter().enumerate() {
                if let Some(old) = warnings::old_label(expression.text("key")) {
                    let path = format!("allowedTopologies[{i}].matchLabelExpressions[{j}].key");
                    found.push(format!("{path}: {old}"));
                }
            }
        }
        found
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                table::NAME,
                column("Provisioner", "string", 0, described::STORAGE_PROVISIONER),
                column("ReclaimPolicy", "string", 0, described::STORAGE_RECLAIM),
                column("VolumeBindingMode", "string", 0, described::STORAGE_BINDING),
                column("AllowVolumeExpansion", "string", 0, described::STORAGE_EXPANSION),
                table::AGE,
            ]
        }
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        vec![
            default_name(object, DEFAULT_STORAGE),
            object.text("provisioner").into(),
            object.text("reclaimPolicy").into(),
            object.text("volumeBindingMode").into(),
            object.flag("allowVolumeExpansion").unwrap_or(false).into(),
            table::age(object, now),
        ]
    }
}

impl Strategy for VolumeAttributesClass {
    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        provisioner(object, "driverName", &mut errors);
        parameters(object, &mut errors);
        if object.vacant("parameters") {
            let detail = "must contain at least one key/value pair";
            errors.push(FieldError::required("parameters", detail));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        fixed(new, old, &["driverName", "parameters"], &mut errors);
        errors.extend(self.validate(new));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                table::NAME,
                column("DriverName", "string", 0, described::ATTRIBUTES_DRIVER),
                table::AGE,
            ]
        }
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        vec![
            default_name(object, DEFAULT_ATTRIBUTES),
            object.text("driverName").into(),
            table::age(object, now),
        ]
    }
}

impl Strategy for CsiStorageCapacity {
    fn unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let topology = object.at("nodeTopology");
        check::label_selector(&Path::root("nodeTopology"), topology, &mut errors);
        let class = object.text("storageClassName");
        check::subdomain(&Path::root("storageClassName"), class, &mut errors);
        let capacity = object.at("capacity");
        if resources::read(capacity).is_some_and(|quantity| quantity.is_negative()) {
            let detail = "must be greater than or equal to 0";
            errors.push(FieldError::invalid("capacity", capacity.clone(), detail));
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(new);
        for field in ["nodeTopology", "storageClassName"] {
            metadata::immutable(&Path::root(field), new.at(field), old.at(field), &mut errors);
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                table::NAME,
                column("StorageClassName", "string", 0, described::CAPACITY_CLASS),
                column("Capacity", "string", 0, described::CAPACITY_AMOUNT),
            ]
        }
    }

    fn cells(&self, object: &Value, _now: Time) -> Vec<Value> {
        let capacity = match object.text("capacity") {
            "" => "<unset>",
            amount => amount,
        };
        vec![table::name(object), object.text("storageClassName").into(), capacity.into()]
    }
}

impl Strategy for VolumeAttachment {
    fn takes_metadata_with_status(&self) -> bool {
        false
    }

    fn unconditional_update(&self) -> bool {
        false
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        const SPEC: Path = Path::root("spec");
        let mut errors = Vec::new();
        let spec = object.at("spec");
        check::driver(&SPEC.field("attacher"), spec.text("attacher"), &mut errors);
        let (path, source) = (SPEC.field("source"), spec.at("source"));
        let detail = "must specify exactly one of inlineVolumeSpec and persistentVolumeName";
        match (source.has("inlineVolumeSpec"), source.has("persistentVolumeName")) {
            (false, false) => errors.push(FieldError::required(path, detail)),
            (true, true) => errors.push(FieldError::forbidden(path, detail)),
            (true, false) => {}
            (false, true) => {
                let path = path.field("persistentVolumeName");
                match source.text("persistentVolumeName") {
                    "" => {
                        let detail = "must specify non empty persistentVolumeName";
                        errors.push(FieldError::required(path, detail));
                    }
                    name => check::subdomain(&path, name, &mut errors),
                }
            }
        }
        check::subdomain(&SPEC.field("nodeName"), spec.text("nodeName"), &mut errors);
        attachment_status(object.at("status"), &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(new);
        metadata::immutable(&Path::root("spec"), new.at("spec"), old.at("spec"), &mut errors);
        errors
    }

    fn validate_status(&self, new: &Value, _old: &Value) -> Vec<FieldError> {
        self.validate(new)
    }

    fn columns(&self) -> &'static [Column] {
        const ATTACHER: Column = Column {
            format: "name",
            ..column("Attacher", "string", 0, described::ATTACHMENT_ATTACHER)
        };
        const {
            &[
                table::NAME,
                ATTACHER,
                column("PV", "string", 0, described::ATTACHMENT_VOLUME),
                column("Node", "string", 0, described::ATTACHMENT_NODE),
                column("Attached", "boolean", 0, described::ATTACHMENT_ATTACHED),
                table::AGE,
            ]
        }
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let spec = object.at("spec");
        vec![
            table::name(object),
            spec.text("attacher").into(),
            spec.at("source").text("persistentVolumeName").into(),
            spec.text("nodeName").into(),
            object.at("status").flag("attached").unwrap_or(false).into(),
            table::age(object, now),
        ]
    }
}

fn provisioner(object: &Value, field: &str, errors: &mut Errors) {
    match object.text(field) {
        "" => errors.push(FieldError::required(field, "")),
        name => check::qualified(&Path::root(field), &name.to_lowercase(), errors),
    }
}

fn parameters(object: &Value, errors: &mut Errors) {
    const PARAMETERS: Path = Path::root("parameters");
    let count = object.pairs("parameters").count();
    if count > MOST_PARAMETERS {
        errors.push(check::too_long(&PARAMETERS, MOST_PARAMETERS));
        return;
    }
    if object.at("parameters").has("") {
        errors.push(FieldError::invalid(PARAMETERS, "", "field can not be empty."));
    }
    if bytes(object, "parameters") > MOST_BYTES {
        errors.push(check::too_long(&PARAMETERS, MOST_BYTES));
    }
}

fn bytes(object: &Value, field: &str) -> usize {
    object.pairs(field).map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum()
}

/// `updates to x are forbidden.`, for each field that changed.
fn fixed(new: &Value, old: &Value, fields: &[&str], errors: &mut Errors) {
    for field in fields.iter().filter(|field| new.at(field) != old.at(field)) {
        let detail = format!("updates to {field} are forbidden.");
        errors.push(FieldError::forbidden(*field, detail));
    }
}

/// What a term selects by, so that equal terms are known.
fn topology(path: &Path, term: &Value, errors: &mut Errors) -> BTreeMap<String, BTreeSet<String>> {
    let mut found = BTreeMap::new();
    let path = path.field("matchLabelExpressions");
    for (index, expression) in term.items("matchLabelExpressions").iter().enumerate() {
        let path = path.index(index);
        let path_values = path.field("values");
        let mut values = BTreeSet::new();
        check::required(&path, expression, "values", errors);
        for (index, value) in check::texts(expression, "values").enumerate() {
            if !values.insert(value.to_string()) {
                errors.push(FieldError::duplicate(path_values.index(index), value));
            }
        }
        let key = expression.text("key");
        check::qualified(&path.field("key"), key, errors);
        if found.insert(key.to_string(), values).is_some() {
            errors.push(FieldError::duplicate(path.field("key"), key));
        }
    }
    found
}

fn attachment_status(status: &Value, errors: &mut Errors) {
    const STATUS: Path = Path::root("status");
    if bytes(status, "attachmentMetadata") > MOST_BYTES {
        errors.push(check::too_long(&STATUS.field("attachmentMetadata"), MOST_BYTES));
    }
    for field in ["attachError", "detachError"] {
        let (path, error) = (STATUS.field(field), status.at(field));
        if error.text("message").len() > 1024 {
            // Upstream names the bound of the metadata.
            errors.push(check::too_long(&path.field("message"), MOST_BYTES));
        }
        if let Some(code) = error.int("errorCode").filter(|code| *code < 0) {
            let most = i64::from(i32::MAX);
            check::between(&path.field("errorCode"), code, 0, most, errors);
        }
    }
}

/// `name (default)`, when one of these annotations says so.
fn default_name(object: &Value, annotations: &[&str]) -> Value {
    let (metadata, name) = (object.at("metadata"), object.at("metadata").text("name"));
    let marked = |key: &&str| metadata.at("annotations").text(key) == "true";
    match annotations.iter().any(marked) {
        true => format!("{name} (default)").into(),
        false => name.into(),
    }
}

const DEFAULT_STORAGE: &[&str] = &[
    "storageclass.kubernetes.io/is-default-class",
    "storageclass.beta.kubernetes.io/is-default-class",
];
const DEFAULT_ATTRIBUTES: &[&str] = &["volumeattributesclass.alpha.kubernetes.io/is-default-class"];
