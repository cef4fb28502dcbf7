//! Validation of a pod's volumes.

use std::collections::{HashMap, HashSet};

use proto::status::FieldError;
use serde_json::Value;

use super::env;
use super::security::{descending, no_backsteps};
use crate::kinds::check::{self, Errors};
use crate::kinds::lens::Lens;
use crate::kinds::path::Path;

/// The valid volumes of a pod by name, for the mounts that refer to them.
pub type Volumes<'a> = HashMap<&'a str, &'a Value>;

pub fn validate<'a>(path: &Path, spec: &'a Value, errors: &mut Errors) -> Volumes<'a> {
    let mut volumes = Volumes::new();
    let path = path.field("volumes");
    for (index, volume) in spec.items("volumes").iter().enumerate() {
        let path = path.index(index);
        let before = errors.len();
        source(&path, volume, errors);
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
    }
    volumes
}

/// Exactly one source, and that one valid.
fn source(path: &Path, volume: &Value, errors: &mut Errors) {
    let mut sources = volume
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(field, value)| *field != "name" && !value.is_null());
    let Some((kind, first)) = sources.next() else {
        errors.push(FieldError::required(path, "must specify a volume type"));
        return;
    };
    for (other, _) in sources {
        errors.push(FieldError::forbidden(path.field(other), ONE_TYPE));
    }
    of_kind(&path.field(kind), kind, first, errors);
}

/// Validates the source at `path`, which is of this kind.
pub fn of_kind(path: &Path, kind: &str, first: &Value, errors: &mut Errors) {
    match kind {
        "emptyDir" => empty_dir(path, first, errors),
        "hostPath" => host_path(path, first, errors),
        "secret" | "configMap" => {
            let name = if kind == "secret" { "secretName" } else { "name" };
            check::required(path, first, name, errors);
            keyed_files(path, first, errors);
        }
        "downwardAPI" => downward(path, first, errors),
        "projected" => projected(path, first, errors),
        "nfs" => {
            check::required(path, first, "server", errors);
            check::required(path, first, "path", errors);
            let target = first.text("path");
            if !target.is_empty() && !target.starts_with('/') {
                let detail = "must be an absolute path";
                errors.push(FieldError::invalid(path.field("path"), target, detail));
            }
        }
        kind => {
            let needed = NEEDED.iter().find(|(known, _)| *known == kind);
            for field in needed.map_or(&[][..], |(_, fields)| fields) {
                check::required(path, first, field, errors);
            }
        }
    }
}

fn empty_dir(path: &Path, volume: &Value, errors: &mut Errors) {
    if super::resources::read(volume.at("sizeLimit")).is_some_and(|size| size.is_negative()) {
        let detail = "SizeLimit field must be a valid resource quantity";
        errors.push(FieldError::forbidden(path.field("sizeLimit"), detail));
    }
    let medium = volume.text("medium");
    if !matches!(medium, "" | "Memory") && !medium.starts_with("HugePages") {
        let supported = ["", "Memory", "HugePages"];
        errors.push(FieldError::not_supported(path.field("medium"), medium, &supported));
    }
}

fn host_path(path: &Path, volume: &Value, errors: &mut Errors) {
    check::required(path, volume, "path", errors);
    no_backsteps(&path.field("path"), volume.text("path"), errors);
    let supported = [
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    check::optional_one_of(&path.field("type"), volume.text("type"), &supported, errors);
}

/// `items` and `defaultMode` of secrets and config maps.
fn keyed_files(path: &Path, volume: &Value, errors: &mut Errors) {
    mode(path, "defaultMode", volume, errors);
    let path = path.field("items");
    for (index, item) in volume.items("items").iter().enumerate() {
        let path = path.index(index);
        check::required(&path, item, "key", errors);
        file_path(&path, item, errors);
        mode(&path, "mode", item, errors);
    }
}

fn downward(path: &Path, volume: &Value, errors: &mut Errors) {
    mode(path, "defaultMode", volume, errors);
    let path = path.field("items");
    for (index, item) in volume.items("items").iter().enumerate() {
        let path = path.index(index);
        file_path(&path, item, errors);
        mode(&path, "mode", item, errors);
        match (item.has("fieldRef"), item.has("resourceFieldRef")) {
            (false, false) => {
                let detail = "one of fieldRef and resourceFieldRef is required";
                errors.push(FieldError::required(path, detail));
            }
            (true, resource) => {
                let reference = item.at("fieldRef");
                env::field_ref(&path.field("fieldRef"), reference, env::FILE_FIELDS, errors);
                if resource {
                    let detail = "fieldRef and resourceFieldRef can not be specified \
                                  simultaneously";
                    errors.push(FieldError::invalid(path, "resource", detail));
                }
            }
            (false, true) => {
                let (path, reference) =
                    (path.field("resourceFieldRef"), item.at("resourceFieldRef"));
                check::required(&path, reference, "containerName", errors);
                env::resource_ref(&path, reference, errors);
            }
        }
    }
}

fn projected(path: &Path, volume: &Value, errors: &mut Errors) {
    mode(path, "defaultMode", volume, errors);
    let path = path.field("sources");
    let mut files = HashSet::new();
    for (index, source) in volume.items("sources").iter().enumerate() {
        let path = path.index(index);
        let mut kinds = source.as_object().into_iter().flatten().filter(|(_, v)| !v.is_null());
        let Some((kind, first)) = kinds.next() else {
            errors.push(FieldError::required(path, "must specify a volume type"));
            continue;
        };
        for (other, _) in kinds {
            errors.push(FieldError::forbidden(path.field(other), ONE_TYPE));
        }
        let path = path.field(kind);
        match kind.as_str() {
            "secret" | "configMap" => {
                check::required(&path, first, "name", errors);
                keyed_files(&path, first, errors);
            }
            "downwardAPI" => downward(&path, first, errors),
            "serviceAccountToken" => token(&path, first, errors),
            _ => errors.push(FieldError::forbidden(path, "not supported")),
        }
        let single = first.has("path").then(|| first.text("path"));
        let listed = first.items("items").iter().map(|item| item.text("path"));
        for file in listed.chain(single).filter(|file| !file.is_empty()) {
            if !files.insert(file) {
                let detail = "conflicting duplicate paths";
                errors.push(FieldError::invalid(path, first.text("name"), detail));
            }
        }
    }
}

fn token(path: &Path, token: &Value, errors: &mut Errors) {
    let path_expiry = path.field("expirationSeconds");
    if let Some(seconds) = token.int("expirationSeconds") {
        if seconds < 600 {
            let detail = "may not specify a duration less than 10 minutes";
            errors.push(FieldError::invalid(path_expiry, seconds, detail));
        } else if seconds > 1 << 32 {
            let detail = "may not specify a duration larger than 2^32 seconds";
            errors.push(FieldError::invalid(path_expiry, seconds, detail));
        }
    }
    file_path(path, token, errors);
}

/// The `path` of a projected file: relative, below the volume, not beginning with `..`.
fn file_path(path: &Path, item: &Value, errors: &mut Errors) {
    check::required(path, item, "path", errors);
    let (path, text) = (path.field("path"), item.text("path"));
    descending(&path, text, errors);
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

const ONE_TYPE: &str = "may not specify more than one volume type";

/// What the sources that only a node understands cannot do without.
const NEEDED: &[(&str, &[&str])] = &[
    ("awsElasticBlockStore", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("azureFile", &["secretName", "shareName"]),
    ("cephfs", &["monitors"]),
    ("cinder", &["volumeID"]),
    ("csi", &["driver"]),
    ("ephemeral", &["volumeClaimTemplate"]),
    ("flexVolume", &["driver"]),
    ("gcePersistentDisk", &["pdName"]),
    ("gitRepo", &["repository"]),
    ("glusterfs", &["endpoints", "path"]),
    ("image", &["reference"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("persistentVolumeClaim", &["claimName"]),
    ("portworxVolume", &["volumeID"]),
    ("quobyte", &["registry", "volume"]),
    ("rbd", &["monitors", "image"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("vsphereVolume", &["volumePath"]),
];
