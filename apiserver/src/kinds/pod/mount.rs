//! Validation of volume mounts and devices.

use std::collections::HashSet;

use proto::status::{FieldError, Problem};
use serde_json::Value;

use super::security::descending;
use super::volume::Volumes;
use crate::kinds::check::{self, Errors};
use crate::kinds::lens::Lens;
use crate::kinds::path::Path;

/// Validates `volumeMounts` and `volumeDevices`; `path` is the container's.
pub fn validate(path: &Path, container: &Value, volumes: &Volumes, errors: &mut Errors) {
    let devices = container.items("volumeDevices");
    let mut places = HashSet::new();
    let path_mounts = path.field("volumeMounts");
    for (index, mount) in container.items("volumeMounts").iter().enumerate() {
        let item = path_mounts.index(index);
        let (name, place) = (mount.text("name"), mount.text("mountPath"));
        volume(&item, name, volumes, errors);
        check::required(&item, mount, "mountPath", errors);
        if !places.insert(place) {
            errors.push(FieldError::invalid(item.field("mountPath"), place, "must be unique"));
        }
        if devices.iter().any(|device| device.text("name") == name) {
            let detail = "must not already exist in volumeDevices";
            errors.push(FieldError::invalid(item.field("name"), name, detail));
        }
        if devices.iter().any(|device| device.text("devicePath") == place) {
            let detail = "must not already exist as a path in volumeDevices";
            errors.push(FieldError::invalid(item.field("mountPath"), place, detail));
        }
        sub_path(&path_mounts, &item, mount, errors);
        propagation(&path_mounts, mount, container, errors);
        read_only(&path_mounts, mount, errors);
    }
    let path_devices = path.field("volumeDevices");
    let mounts = container.items("volumeMounts");
    let (mut names, mut places) = (HashSet::new(), HashSet::new());
    for (index, device) in devices.iter().enumerate() {
        let item = path_devices.index(index);
        let (name, place) = (device.text("name"), device.text("devicePath"));
        let (path_name, path_place) = (item.field("name"), item.field("devicePath"));
        if name.is_empty() {
            errors.push(FieldError::required(path_name, ""));
        } else if !names.insert(name) {
            errors.push(FieldError::invalid(path_name, name, "must be unique"));
        }
        match volumes.get(name) {
            None => errors.push(FieldError::new(path_name, Problem::NotFound(name.into()), "")),
            Some(volume) if !volume.has("persistentVolumeClaim") && !volume.has("ephemeral") => {
                let detail = "can only use volume source type of PersistentVolumeClaim or \
                              Ephemeral for block mode";
                errors.push(FieldError::invalid(path_name, name, detail));
            }
            Some(_) => {}
        }
        check::required(&item, device, "devicePath", errors);
        if places.contains(place) {
            errors.push(FieldError::invalid(path_place, place, "must be unique"));
        }
        if place.split('/').any(|part| part == "..") {
            let detail = "can not contain backsteps ('..')";
            errors.push(FieldError::invalid(path_place, place, detail));
        } else {
            places.insert(place);
        }
        if mounts.iter().any(|mount| mount.text("name") == name) {
            let detail = "must not already exist in volumeMounts";
            errors.push(FieldError::invalid(path_name, name, detail));
        }
        if mounts.iter().any(|mount| mount.text("mountPath") == place) {
            let detail = "must not already exist as a path in volumeMounts";
            errors.push(FieldError::invalid(path_place, place, detail));
        }
    }
}

fn volume(path: &Path, name: &str, volumes: &Volumes, errors: &mut Errors) {
    let path = path.field("name");
    if name.is_empty() {
        errors.push(FieldError::required(path, ""));
    }
    if !volumes.contains_key(name) {
        errors.push(FieldError::new(path, Problem::NotFound(name.into()), ""));
    }
}

fn sub_path(path: &Path, item: &Path, mount: &Value, errors: &mut Errors) {
    let (plain, expression) = (mount.text("subPath"), mount.text("subPathExpr"));
    if !plain.is_empty() {
        descending(&path.field("subPath"), plain, errors);
    }
    if expression.is_empty() {
        return;
    }
    if !plain.is_empty() {
        let detail = "subPathExpr and subPath are mutually exclusive";
        errors.push(FieldError::invalid(item.field("subPathExpr"), expression, detail));
    }
    descending(&path.field("subPathExpr"), expression, errors);
}

fn propagation(path: &Path, mount: &Value, container: &Value, errors: &mut Errors) {
    let path = path.field("mountPropagation");
    let mode = mount.text("mountPropagation");
    let supported = ["Bidirectional", "HostToContainer", "None"];
    check::optional_one_of(&path, mode, &supported, errors);
    let privileged = container.at("securityContext").flag("privileged") == Some(true);
    if mode == "Bidirectional" && !privileged {
        let detail = "Bidirectional mount propagation is available only to privileged containers";
        errors.push(FieldError::forbidden(path, detail));
    }
}

fn read_only(path: &Path, mount: &Value, errors: &mut Errors) {
    let path = path.field("recursiveReadOnly");
    let mode = mount.text("recursiveReadOnly");
    check::optional_one_of(&path, mode, &["Disabled", "Enabled", "IfPossible"], errors);
    if !matches!(mode, "Enabled" | "IfPossible") {
        return;
    }
    if mount.flag("readOnly") != Some(true) {
        let detail = "may only be specified when readOnly is true";
        errors.push(FieldError::forbidden(path, detail));
    }
    if !matches!(mount.text("mountPropagation"), "" | "None") {
        let detail = "may only be specified when mountPropagation is None or not specified";
        errors.push(FieldError::forbidden(path, detail));
    }
}
