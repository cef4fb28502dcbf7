//! PersistentVolumes, and what they have in common with the claims to them.

use proto::status::FieldError;
use proto::time::Time;
use serde_json::{Value, json};

use super::check::{self, Errors};
use super::lens::Lens;
use super::metadata::{immutable, sentences};
use super::path::Path;
use super::pod::{placement, resources, volume};
use super::table::{self, column};
use super::{Column, Context, Strategy, name, only_status};

const SPEC: Path = Path::root("spec");
const STORAGE_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

pub struct PersistentVolume;

impl Strategy for PersistentVolume {
    fn prepare_create(&self, new: &mut Value, ctx: &Context) {
        let now = ctx.now.to_string();
        new.set("status", json!({ "phase": "Pending", "lastPhaseTransitionTime": now }));
    }

    fn prepare_status(&self, new: &mut Value, old: &Value, ctx: &Context) {
        only_status(new, old);
        let before = old.at("status");
        let status = new.section("status");
        let time = "lastPhaseTransitionTime";
        if status.at("phase") == before.at("phase") {
            if !status.has(time) {
                status.take_over(time, before);
            }
        } else if !status.has(time) || status.at(time) == before.at(time) {
            status.set(time, ctx.now.to_string());
        }
    }

    fn validate(&self, object: &Value) -> Vec<FieldError> {
        let mut errors = Vec::new();
        let spec = object.at("spec");
        if spec.vacant("accessModes") {
            errors.push(FieldError::required(SPEC.field("accessModes"), ""));
        }
        access_modes(&SPEC, spec, &mut errors);
        capacity(spec, &mut errors);
        let policy = spec.text("persistentVolumeReclaimPolicy");
        let path = SPEC.field("persistentVolumeReclaimPolicy");
        let policies = ["Delete", "Recycle", "Retain"];
        check::optional_one_of(&path, policy, &policies, &mut errors);
        node_affinity(spec, &mut errors);
        source(spec, &mut errors);
        let host = spec.at("hostPath").text("path");
        if !host.is_empty() && host.trim_matches('/').is_empty() && policy == "Recycle" {
            let detail = "may not be 'recycle' for a hostPath mount of '/'";
            errors.push(FieldError::forbidden(path, detail));
        }
        classes(&SPEC, spec, &mut errors);
        if spec.has("volumeAttributesClassName") {
            let path = SPEC.field("volumeAttributesClassName");
            if spec.text("volumeAttributesClassName").is_empty() {
                errors.push(FieldError::required(path, "an empty string is disallowed"));
            }
            if !spec.has("csi") {
                let detail = "has to be specified when using volumeAttributesClassName";
                errors.push(FieldError::required(SPEC.field("csi"), detail));
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> Vec<FieldError> {
        let mut errors = self.validate(new);
        let (spec, before) = (new.at("spec"), old.at("spec"));
        let expand = "controllerExpandSecretRef";
        let mut fixed = before.clone();
        if before.has("csi") && spec.has("csi") && !before.at("csi").has(expand) {
            fixed.section("csi").take_over(expand, spec.at("csi"));
        }
        if SOURCES.iter().any(|source| fixed.at(source) != spec.at(source)) {
            let path = SPEC.field("persistentvolumesource");
            let detail = "spec.persistentvolumesource is immutable after creation";
            errors.push(FieldError::forbidden(path, detail));
        }
        let path = SPEC.field("volumeMode");
        immutable(&path, spec.at("volumeMode"), before.at("volumeMode"), &mut errors);
        if before.has("nodeAffinity") {
            let path = SPEC.field("nodeAffinity");
            immutable(&path, spec.at("nodeAffinity"), before.at("nodeAffinity"), &mut errors);
        }
        if before.has("volumeAttributesClassName") && !spec.has("volumeAttributesClassName") {
            let path = SPEC.field("volumeAttributesClassName");
            let detail = "update from non-nil value to nil is forbidden";
            errors.push(FieldError::forbidden(path, detail));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, object: &Value, now: Time) -> Vec<Value> {
        let (spec, status) = (object.at("spec"), object.at("status"));
        let claim = spec.at("claimRef");
        let claim = match claim.is_null() {
            true => String::new(),
            false => format!("{}/{}", claim.text("namespace"), claim.text("name")),
        };
        vec![
            table::name(object),
            quantity(spec.at("capacity").at("storage")).into(),
            modes(spec).into(),
            spec.text("persistentVolumeReclaimPolicy").into(),
            phase(object).into(),
            claim.into(),
            class(object).into(),
            or_unset(spec, "volumeAttributesClassName").into(),
            status.text("reason").into(),
            table::age(object, now),
            or_unset(spec, "volumeMode").into(),
        ]
    }
}

/// Validates the modes of a volume or claim whose spec is at `path`.
pub fn access_modes(path: &Path, spec: &Value, errors: &mut Errors) {
    let path = path.field("accessModes");
    let supported = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
    let listed: Vec<&str> = check::texts(spec, "accessModes").collect();
    for mode in &listed {
        if !supported.contains(mode) {
            errors.push(FieldError::not_supported(path, *mode, &supported));
        }
    }
    let alone = listed.iter().filter(|mode| **mode == "ReadWriteOncePod").count();
    if alone > 0 && alone < listed.len() {
        let detail = "may not use ReadWriteOncePod with other access modes";
        errors.push(FieldError::forbidden(path, detail));
    }
}

/// Validates the names of classes, and the volume's mode.
pub fn classes(path: &Path, spec: &Value, errors: &mut Errors) {
    for field in ["storageClassName", "volumeAttributesClassName"] {
        let class = spec.text(field);
        if !class.is_empty() {
            errors.extend(sentences(&path.field(field), class, name::subdomain(class)));
        }
    }
    let mode = spec.text("volumeMode");
    check::optional_one_of(&path.field("volumeMode"), mode, &["Block", "Filesystem"], errors);
}

/// `must be greater than zero`, after what is wrong with any quantity.
pub fn positive(path: &Path, amount: &Value, errors: &mut Errors) {
    let Some(value) = resources::read(amount) else { return };
    if value.is_negative() {
        let detail = "must be a valid resource quantity";
        errors.push(FieldError::invalid(path, value.value(), detail));
    }
    if value.is_negative() || value.is_zero() {
        errors.push(FieldError::invalid(path, amount.clone(), "must be greater than zero"));
    }
}

/// `RWO,ROX`, each once, in this order.
pub fn modes(object: &Value) -> String {
    let known = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let listed = |mode: &str| check::texts(object, "accessModes").any(|one| one == mode);
    table::list(known.into_iter().filter(|(mode, _)| listed(mode)).map(|(_, short)| short))
}

/// The storage class; the annotation of old wins.
pub fn class(object: &Value) -> &str {
    match object.at("metadata").at("annotations").at(STORAGE_CLASS).as_str() {
        Some(class) => class,
        None => object.at("spec").text("storageClassName"),
    }
}

pub fn phase(object: &Value) -> &str {
    match object.at("metadata").has("deletionTimestamp") {
        true => "Terminating",
        false => object.at("status").text("phase"),
    }
}

pub fn or_unset<'a>(spec: &'a Value, field: &str) -> &'a str {
    spec.at(field).as_str().unwrap_or("<unset>")
}

/// A quantity as it is; a missing one is 0.
pub fn quantity(amount: &Value) -> &str {
    amount.as_str().unwrap_or("0")
}

fn capacity(spec: &Value, errors: &mut Errors) {
    let (path, capacity) = (SPEC.field("capacity"), spec.at("capacity"));
    if spec.vacant("capacity") {
        errors.push(FieldError::required(path, ""));
    }
    if !capacity.has("storage") || spec.pairs("capacity").count() > 1 {
        errors.push(FieldError::not_supported(path, capacity.clone(), &["storage"]));
    }
    for (name, amount) in spec.pairs("capacity") {
        positive(&path.key(name), amount, errors);
    }
}

fn node_affinity(spec: &Value, errors: &mut Errors) {
    let affinity = spec.at("nodeAffinity");
    if affinity.is_null() {
        return;
    }
    let path = SPEC.field("nodeAffinity");
    let path = path.field("required");
    if !affinity.has("required") {
        errors.push(FieldError::required(path, "must specify required node constraints"));
        return;
    }
    let path = path.field("nodeSelectorTerms");
    let terms = affinity.at("required").items("nodeSelectorTerms");
    if terms.is_empty() {
        let detail = "must have at least one node selector term";
        errors.push(FieldError::required(path, detail));
    }
    for (index, term) in terms.iter().enumerate() {
        placement::node_term(&path.index(index), term, errors);
    }
}

/// Exactly one source, and that one valid.
fn source(spec: &Value, errors: &mut Errors) {
    let mut given = SOURCES.iter().filter(|source| spec.has(source));
    let Some(kind) = given.next() else {
        errors.push(FieldError::required(SPEC, "must specify a volume type"));
        return;
    };
    for other in given {
        let detail = "may not specify more than 1 volume type";
        errors.push(FieldError::forbidden(SPEC.field(other), detail));
    }
    let (path, value) = (SPEC.field(kind), spec.at(kind));
    volume::of_kind(&path, kind, value, errors);
    match *kind {
        "csi" => check::required(&path, value, "volumeHandle", errors),
        "local" => {
            check::required(&path, value, "path", errors);
            if !spec.has("nodeAffinity") {
                let detail = "Local volume requires node affinity";
                errors.push(FieldError::required(SPEC.field("nodeAffinity"), detail));
            }
        }
        _ => {}
    }
}

const SOURCES: [&str; 22] = [
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "csi",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "glusterfs",
    "hostPath",
    "iscsi",
    "local",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];

const COLUMNS: &[Column] = &[
    table::NAME,
    column(
        "Capacity",
        "string",
        0,
        "capacity is the description of the persistent volume's resources and capacity. More info: \
         https://kubernetes.io/docs/concepts/storage/persistent-volumes#capacity",
    ),
    column(
        "Access Modes",
        "string",
        0,
        "accessModes contains all ways the volume can be mounted. More info: \
         https://kubernetes.io/docs/concepts/storage/persistent-volumes#access-modes",
    ),
    column(
        "Reclaim Policy",
        "string",
        0,
        "persistentVolumeReclaimPolicy defines what happens to a persistent volume when released \
         from its claim. Valid options are Retain (default for manually created \
         PersistentVolumes), Delete (default for dynamically provisioned PersistentVolumes), and \
         Recycle (deprecated). Recycle must be supported by the volume plugin underlying this \
         PersistentVolume. More info: \
         https://kubernetes.io/docs/concepts/storage/persistent-volumes#reclaiming",
    ),
    column(
        "Status",
        "string",
        0,
        "status represents the current information/status for the persistent volume. Populated by \
         the system. Read-only. More info: \
         https://kubernetes.io/docs/concepts/storage/persistent-volumes#persistent-volumes",
    ),
    column(
        "Claim",
        "string",
        0,
        "claimRef is part of a bi-directional binding between PersistentVolume and \
         PersistentVolumeClaim. Expected to be non-nil when bound. claim.VolumeName is the \
         authoritative bind between PV and PVC. More info: \
         https://kubernetes.io/docs/concepts/storage/persistent-volumes#binding",
    ),
    column("StorageClass", "string", 0, "StorageClass of the pv"),
    column("VolumeAttributesClass", "string", 0, "VolumeAttributesClass of the pv"),
    column(
        "Reason",
        "string",
        0,
        "reason is a brief CamelCase string that describes any failure and is meant for machine \
         parsing and tidy display in the CLI.",
    ),
    table::AGE,
    column(
        "VolumeMode",
        "string",
        1,
        "volumeMode defines if a volume is intended to be used with a formatted filesystem or to \
         remain in raw block state. Value of Filesystem is implied when not included in spec.",
    ),
];
