//! Validation of environment variables and of the references into the pod that they and downward
//! API volumes make.

use proto::quantity::Quantity;
use proto::status::{FieldError, Problem};
use serde_json::Value;

use super::security::no_backsteps;
use crate::kinds::check::{self, Errors};
use crate::kinds::lens::Lens;
use crate::kinds::metadata::sentences;
use crate::kinds::name;
use crate::kinds::path::Path;

/// Validates `env` and `envFrom`; `path` is the container's.
pub fn validate(path: &Path, container: &Value, errors: &mut Errors) {
    let path_env = path.field("env");
    for (index, variable) in container.items("env").iter().enumerate() {
        let path = path_env.index(index);
        match variable.text("name") {
            "" => errors.push(FieldError::required(path.field("name"), "")),
            name => {
                errors.extend(sentences(&path.field("name"), name, name::environment(name)));
            }
        }
        if variable.has("valueFrom") {
            let path = path.field("valueFrom");
            value_from(&path, variable.at("valueFrom"), variable.text("value"), errors);
        }
    }
    let path_from = path.field("envFrom");
    for (index, source) in container.items("envFrom").iter().enumerate() {
        env_from(&path_from, index, source, errors);
    }
}

fn value_from(path: &Path, from: &Value, value: &str, errors: &mut Errors) {
    let mut sources = 0;
    if from.has("fieldRef") {
        sources += 1;
        field_ref(&path.field("fieldRef"), from.at("fieldRef"), ENV_FIELDS, errors);
    }
    if from.has("resourceFieldRef") {
        sources += 1;
        resource_ref(&path.field("resourceFieldRef"), from.at("resourceFieldRef"), errors);
    }
    for field in ["configMapKeyRef", "secretKeyRef"] {
        if from.has(field) {
            sources += 1;
            key_ref(&path.field(field), from.at(field), errors);
        }
    }
    if from.has("fileKeyRef") {
        sources += 1;
        file_ref(&path.field("fileKeyRef"), from.at("fileKeyRef"), errors);
    }
    if sources == 0 {
        let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, \
                      `secretKeyRef` or `fileKeyRef`";
        errors.push(FieldError::invalid(path, "", detail));
    } else if !value.is_empty() {
        let detail = "may not be specified when `value` is not empty";
        errors.push(FieldError::invalid(path, "", detail));
    } else if sources > 1 {
        errors.push(FieldError::invalid(path, "", ONE_SOURCE));
    }
}

/// Upstream names the list at `path`, not the item, when the number of sources is wrong.
fn env_from(path: &Path, index: usize, source: &Value, errors: &mut Errors) {
    let item = path.index(index);
    let prefix = source.text("prefix");
    if !prefix.is_empty() {
        errors.extend(sentences(&item.field("prefix"), prefix, name::environment(prefix)));
    }
    let mut sources = 0;
    for field in ["configMapRef", "secretRef"] {
        if source.has(field) {
            sources += 1;
            let (item, name) = (item.field(field), source.at(field).text("name"));
            match name {
                "" => errors.push(FieldError::required(item.field("name"), "")),
                name => {
                    // With a dash at the end, as what names are generated from may have.
                    let bare = name.strip_suffix('-').filter(|bare| !bare.is_empty());
                    let problems = name::subdomain(bare.unwrap_or(name));
                    errors.extend(sentences(&item.field("name"), name, problems));
                }
            }
        }
    }
    if sources == 0 {
        let detail = "must specify one of: `configMapRef` or `secretRef`";
        errors.push(FieldError::invalid(path, "", detail));
    } else if sources > 1 {
        errors.push(FieldError::invalid(path, "", ONE_SOURCE));
    }
}

/// A variable in a file of a volume.
fn file_ref(path: &Path, reference: &Value, errors: &mut Errors) {
    match reference.text("key") {
        "" => errors.push(FieldError::required(path.field("key"), "")),
        key => errors.extend(sentences(&path.field("key"), key, name::environment(key))),
    }
    match reference.text("volumeName") {
        "" => errors.push(FieldError::required(path.field("volumeName"), "")),
        name => check::label(&path.field("volumeName"), name, errors),
    }
    match reference.text("path") {
        "" => errors.push(FieldError::required(path.field("path"), "")),
        text => no_backsteps(&path.field("path"), text, errors),
    }
}

/// That variables are read only from files of volumes that live and die with the pod; `path` is
/// the spec's.
pub fn file_volumes(path: &Path, spec: &Value, errors: &mut Errors) {
    let volume =
        |name: &str| spec.items("volumes").iter().rfind(|volume| volume.text("name") == name);
    for list in super::CONTAINERS {
        let path = path.field(list);
        for (index, container) in spec.items(list).iter().enumerate() {
            let path = path.index(index);
            let path = path.field("env");
            for (index, variable) in container.items("env").iter().enumerate() {
                let reference = variable.at("valueFrom").at("fileKeyRef");
                let name = reference.text("volumeName");
                let path = path.index(index);
                let path = path.field("valueFrom");
                let path = path.field("fileKeyRef");
                let path = path.field("volumeName");
                match volume(name) {
                    _ if reference.is_null() => {}
                    None => {
                        let problem = Problem::NotFound(name.into());
                        errors.push(FieldError::new(path, problem, ""));
                    }
                    Some(volume) if !volume.has("emptyDir") => {
                        let detail = "referenced volume must be of type emptyDir";
                        errors.push(FieldError::invalid(path, name, detail));
                    }
                    Some(_) => {}
                }
            }
        }
    }
}

fn key_ref(path: &Path, reference: &Value, errors: &mut Errors) {
    check::subdomain(&path.field("name"), reference.text("name"), errors);
    match reference.text("key") {
        "" => errors.push(FieldError::required(path.field("key"), "")),
        key => errors.extend(sentences(&path.field("key"), key, name::config_key(key))),
    }
}

/// Validates an ObjectFieldSelector that may name only `supported` paths.
pub fn field_ref(path: &Path, reference: &Value, supported: &[&str], errors: &mut Errors) {
    if reference.text("apiVersion").is_empty() {
        errors.push(FieldError::required(path.field("apiVersion"), ""));
        return;
    }
    let wanted = reference.text("fieldPath");
    if wanted.is_empty() {
        errors.push(FieldError::required(path.field("fieldPath"), ""));
        return;
    }
    if let Some((map, key)) = subscript(wanted) {
        match map {
            "metadata.annotations" => {
                errors.extend(sentences(path, key, name::qualified(&key.to_lowercase())));
            }
            "metadata.labels" => check::qualified(path, key, errors),
            _ => errors.push(FieldError::invalid(path, map, "does not support subscript")),
        }
        return;
    }
    if !DOWNWARD.contains(&wanted) {
        let detail = format!("error converting fieldPath: field label not supported: {wanted}");
        errors.push(FieldError::invalid(path.field("fieldPath"), wanted, detail));
    } else if !supported.contains(&wanted) {
        errors.push(FieldError::not_supported(path.field("fieldPath"), wanted, supported));
    }
}

/// Validates a ResourceFieldSelector.
pub fn resource_ref(path: &Path, reference: &Value, errors: &mut Errors) {
    let resource = reference.text("resource");
    let huge = ["limits.hugepages-", "requests.hugepages-"];
    if resource.is_empty() {
        errors.push(FieldError::required(path.field("resource"), ""));
        return;
    }
    if !RESOURCES.contains(&resource) && !huge.iter().any(|huge| resource.starts_with(huge)) {
        errors.push(FieldError::not_supported(path.field("resource"), resource, RESOURCES));
        return;
    }
    let divisor = reference.text("divisor");
    let zero = divisor.parse::<Quantity>().is_ok_and(|divisor| divisor.is_zero());
    let (kind, allowed): (_, &[&str]) = match resource.rsplit('.').next() {
        Some("cpu") => ("cpu", &["1m", "1"]),
        Some("memory") => ("memory", SIZES),
        Some("ephemeral-storage") => ("local ephemeral storage", SIZES),
        _ => ("hugepages", SIZES),
    };
    if !divisor.is_empty() && !zero && !allowed.contains(&divisor) {
        let mut list = allowed.join(", ");
        if kind == "cpu" {
            list = allowed.join(" and ");
        }
        let detail = format!("only divisor's values {list} are supported with the {kind} resource");
        errors.push(FieldError::invalid(path.field("divisor"), resource, detail));
    }
}

/// `metadata.labels['key']` in its two parts.
fn subscript(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['").filter(|(map, _)| !map.is_empty())
}

const ONE_SOURCE: &str = "may not have more than one field specified at a time";

/// What an environment variable may take from the pod, sorted.
pub const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// What a downward API file may take from the pod.
pub const FILE_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

/// What the downward API knows at all.
const DOWNWARD: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

const SIZES: &[&str] =
    &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];
