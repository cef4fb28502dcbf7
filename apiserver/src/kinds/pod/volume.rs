//! Validation of a pod's volumes: which sources there are, and those that every node understands.

use std::collections::{HashMap, HashSet};

use proto::status::FieldError;
use serde_json::Value;

use super::env;
use super::security::{descending, no_backsteps};
use crate::kinds::check::{self, Errors};
use crate::kinds::lens::Lens;
use crate::kinds::path::Path;
use crate::kinds::{metadata, name, persistent_volume_claim};

mod disk;
mod projected;

/// The valid volumes of a pod by name, for the mounts that refer to them.
pub type Volumes<'a> = HashMap<&'a str, &'a Value>;

/// Validates the volumes of the spec at `path`; `pod` is the name of the pod, empty in a template.
pub fn validate<'a>(path: &Path, spec: &'a Value, pod: &str, errors: &mut Errors) -> Volumes<'a> {
    let mut volumes = Volumes::new();
    let path = path.field("volumes");
    let made: HashSet<String> = spec
        .items("volumes")
        .iter()
        .filter(|volume| !pod.is_empty() && volume.has("ephemeral"))
        .map(|volume| format!("{pod}-{}", volume.text("name")))
        .collect();
    for (index, volume) in spec.items("volumes").iter().enumerate() {
        let path = path.index(index);
        let before = errors.len();
        source(&path, volume, pod, errors);
        let name = volume.text("name");
        match name {
            "" => errors.push(FieldError::required(path.field("name"), "")),
            name => check::label(&path.field("name"), name, errors),
        }
        if volumes.contains_key(name) {
            errors.push(FieldError::duplicate(path.field("name"), name));
        }
        if errors.len() == before {
            volumes.insert(name, volume);
        }
        let claim = volume.at("persistentVolumeClaim").text("claimName");
        if made.contains(claim) {
            let path = path.field("persistentVolumeClaim");
            let detail = "must not reference a PVC that gets created for an ephemeral volume";
            errors.push(FieldError::invalid(path.field("claimName"), claim, detail));
        }
    }
    volumes
}

/// Exactly one source, and that one valid.
fn source(path: &Path, volume: &Value, pod: &str, errors: &mut Errors) {
    let mut sources = SOURCES.iter().filter(|(field, ..)| volume.has(field));
    let Some((kind, _, place)) = sources.next() else {
        errors.push(FieldError::required(path, "must specify a volume type"));
        return;
    };
    let (name, value) = (volume.text("name"), volume.at(kind));
    of_kind(&path.field(place), kind, value, errors);
    match *kind {
        "csi" => published_with(&path.field(place), value, errors),
        "ephemeral" => ephemeral(path, value, (pod, name), errors),
        "iscsi" => disk::portal(path, value, name, errors),
        _ => {}
    }
    for (_, place, _) in sources {
        errors.push(FieldError::forbidden(path.field(place), ONE_TYPE));
    }
}

/// Validates the source at `path`, which is of this kind.
pub fn of_kind(path: &Path, kind: &str, source: &Value, errors: &mut Errors) {
    match kind {
        "emptyDir" => {
            let size = super::resources::read(source.at("sizeLimit"));
            if size.is_some_and(|size| size.is_negative()) {
                let detail = "SizeLimit field must be a valid resource quantity";
                errors.push(FieldError::forbidden(path.field("sizeLimit"), detail));
            }
        }
        "hostPath" => host_path(path, source, errors),
        "secret" | "configMap" => {
            let name = if kind == "secret" { "secretName" } else { "name" };
            check::required(path, source, name, errors);
            mode(path, "defaultMode", source, errors);
            keyed_files(path, source, errors);
        }
        "downwardAPI" => {
            mode(path, "defaultMode", source, errors);
            for file in source.items("items") {
                downward_file(path, file, errors);
            }
        }
        "projected" => projected::validate(path, source, errors),
        "csi" => check::driver(&path.field("driver"), source.text("driver"), errors),
        "image" => {
            check::required(path, source, "reference", errors);
            let policy = source.text("pullPolicy");
            let supported = ["Always", "IfNotPresent", "Never"];
            check::one_of(&path.field("pullPolicy"), policy, &supported, errors);
        }
        "persistentVolumeClaim" => check::required(path, source, "claimName", errors),
        kind => disk::validate(path, kind, source, errors),
    }
}

fn host_path(path: &Path, source: &Value, errors: &mut Errors) {
    if source.vacant("path") {
        errors.push(FieldError::required(path.field("path"), ""));
        return;
    }
    no_backsteps(&path.field("path"), source.text("path"), errors);
    let kind = source.text("type");
    if !HOST_PATHS.contains(&kind) {
        errors.push(FieldError::not_supported(path.field("type"), kind, &HOST_PATHS));
    }
}

/// The secret with which a volume of a CSI driver is published.
fn published_with(path: &Path, source: &Value, errors: &mut Errors) {
    if !source.has("nodePublishSecretRef") {
        return;
    }
    match source.at("nodePublishSecretRef").text("name") {
        "" => {
            let path = path.field("nodePublishSecretRef");
            errors.push(FieldError::required(path.field("name"), ""));
        }
        name => check::subdomain(&path.field("name"), name, errors),
    }
}

/// A claim that is made for the pod and named for it and the volume; `path` is the volume's.
fn ephemeral(path: &Path, source: &Value, (pod, volume): (&str, &str), errors: &mut Errors) {
    let field = path.field("ephemeral");
    let field = field.field("volumeClaimTemplate");
    let template = source.at("volumeClaimTemplate");
    if template.is_null() {
        errors.push(FieldError::required(field, ""));
    } else {
        let (path, meta) = (field.field("metadata"), template.at("metadata"));
        metadata::annotations(&path.field("annotations"), meta.at("annotations"), errors);
        metadata::labels(&path.field("labels"), meta.at("labels"), errors);
        let set = meta.as_object().into_iter().flatten();
        for (name, _) in set.filter(|(name, _)| !["annotations", "labels"].contains(&&***name)) {
            if !meta.vacant(name) {
                errors.push(FieldError::forbidden(path.field(name), "cannot be set"));
            }
        }
        persistent_volume_claim::spec(&field.field("spec"), template.at("spec"), errors);
    }
    if !pod.is_empty() && !volume.is_empty() {
        let claim = format!("{pod}-{volume}");
        for problem in name::subdomain(&claim) {
            let detail = format!("PVC name {claim:?}: {problem}");
            errors.push(FieldError::invalid(path.field("name"), volume, detail));
        }
    }
}

/// `items` of secrets and config maps.
fn keyed_files(path: &Path, source: &Value, errors: &mut Errors) {
    let path = path.field("items");
    for (index, item) in source.items("items").iter().enumerate() {
        let path = path.index(index);
        check::required(&path, item, "key", errors);
        check::required(&path, item, "path", errors);
        file_path(&path.field("path"), item.text("path"), errors);
        mode(&path, "mode", item, errors);
    }
}

/// One item of the downward API; upstream names the source at `path`, not the item.
fn downward_file(path: &Path, file: &Value, errors: &mut Errors) {
    check::required(path, file, "path", errors);
    file_path(&path.field("path"), file.text("path"), errors);
    match (file.has("fieldRef"), file.has("resourceFieldRef")) {
        (false, false) => {
            let detail = "one of fieldRef and resourceFieldRef is required";
            errors.push(FieldError::required(path, detail));
        }
        (true, resource) => {
            let reference = file.at("fieldRef");
            env::field_ref(&path.field("fieldRef"), reference, env::FILE_FIELDS, errors);
            if resource {
                let detail = "fieldRef and resourceFieldRef can not be specified simultaneously";
                errors.push(FieldError::invalid(path, "resource", detail));
            }
        }
        (false, true) => {
            let (path, reference) = (path.field("resourceFieldRef"), file.at("resourceFieldRef"));
            if reference.vacant("containerName") {
                errors.push(FieldError::required(path.field("containerName"), ""));
            } else {
                env::resource_ref(&path, reference, errors);
            }
        }
    }
    mode(path, "mode", file, errors);
}

/// The path of a file in a volume: relative, below the volume, not beginning with `..`.
fn file_path(path: &Path, text: &str, errors: &mut Errors) {
    descending(path, text, errors);
    if text.starts_with("..") && !text.starts_with("../") {
        errors.push(FieldError::invalid(path, text, "must not start with '..'"));
    }
}

fn mode(path: &Path, field: &str, object: &Value, errors: &mut Errors) {
    if let Some(mode) = object.int(field).filter(|mode| !(0..=0o777).contains(mode)) {
        let detail = "must be a number between 0 and 0777 (octal), both inclusive";
        errors.push(FieldError::invalid(path.field(field), mode, detail));
    }
}

const ONE_TYPE: &str = "may not specify more than 1 volume type";

const HOST_PATHS: [&str; 8] = [
    "",
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];

/// The sources in upstream's order, the name by which upstream calls one too many, and the one by
/// which it calls what is wrong with it.
const SOURCES: &[(&str, &str, &str)] = &[
    ("emptyDir", "emptyDir", "emptyDir"),
    ("hostPath", "hostPath", "hostPath"),
    ("gitRepo", "gitRepo", "gitRepo"),
    ("gcePersistentDisk", "gcePersistentDisk", "persistentDisk"),
    ("awsElasticBlockStore", "awsElasticBlockStore", "awsElasticBlockStore"),
    ("secret", "secret", "secret"),
    ("nfs", "nfs", "nfs"),
    ("iscsi", "iscsi", "iscsi"),
    ("glusterfs", "glusterfs", "glusterfs"),
    ("flocker", "flocker", "flocker"),
    ("persistentVolumeClaim", "persistentVolumeClaim", "persistentVolumeClaim"),
    ("rbd", "rbd", "rbd"),
    ("cinder", "cinder", "cinder"),
    ("cephfs", "cephFS", "cephfs"),
    ("quobyte", "quobyte", "quobyte"),
    ("downwardAPI", "downwarAPI", "downwardAPI"),
    ("fc", "fc", "fc"),
    ("flexVolume", "flexVolume", "flexVolume"),
    ("configMap", "configMap", "configMap"),
    ("azureFile", "azureFile", "azureFile"),
    ("vsphereVolume", "vsphereVolume", "vsphereVolume"),
    ("photonPersistentDisk", "photonPersistentDisk", "photonPersistentDisk"),
    ("portworxVolume", "portworxVolume", "portworxVolume"),
    ("azureDisk", "azureDisk", "azureDisk"),
    ("storageos", "storageos", "storageos"),
    ("projected", "projected", "projected"),
    ("scaleIO", "scaleIO", "scaleIO"),
    ("csi", "csi", "csi"),
    ("ephemeral", "ephemeral", "ephemeral"),
    ("image", "image", "image"),
];
