//! Validation of the containers of a pod.

use std::collections::HashSet;

use proto::status::FieldError;
use serde_json::Value;

use super::volume::Volumes;
use super::{env, mount, probe, resources, security};
use crate::kinds::check::{self, Errors};
use crate::kinds::lens::Lens;
use crate::kinds::metadata::sentences;
use crate::kinds::name;
use crate::kinds::path::Path;

/// Validates containers and initContainers; `path` is the pod spec's.
pub fn validate(path: &Path, spec: &Value, volumes: &Volumes, errors: &mut Errors) {
    let (containers, path_main) = (spec.items("containers"), path.field("containers"));
    if containers.is_empty() {
        errors.push(FieldError::required(path_main, ""));
    }
    let mut names = HashSet::new();
    let mut ports = HashSet::new();
    for (index, container) in containers.iter().enumerate() {
        let path = path_main.index(index);
        any(&path, container, spec, volumes, errors);
        unique(&path, container, &mut names, errors);
        probe::validate(&path, container, errors);
        for field in ["restartPolicy", "restartPolicyRules"] {
            if container.has(field) {
                let detail = "may not be set for non-init containers";
                errors.push(FieldError::forbidden(path.field(field), detail));
            }
        }
        host_ports(&path, container, &mut ports, errors);
    }
    let path_init = path.field("initContainers");
    for (index, container) in spec.items("initContainers").iter().enumerate() {
        let path = path_init.index(index);
        any(&path, container, spec, volumes, errors);
        unique(&path, container, &mut names, errors);
        init(&path, container, errors);
        host_ports(&path, container, &mut HashSet::new(), errors);
    }
}

/// What an init container may have depends on whether it is a sidecar (restartPolicy Always).
fn init(path: &Path, container: &Value, errors: &mut Errors) {
    if container.text("restartPolicy") == "Always" {
        probe::validate(path, container, errors);
    } else {
        for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if container.has(field) {
                let detail = "may not be set for init containers without restartPolicy=Always";
                errors.push(FieldError::forbidden(path.field(field), detail));
            }
        }
    }
    let policy = container.text("restartPolicy");
    check::optional_one_of(&path.field("restartPolicy"), policy, &["Always"], errors);
}

/// What holds for a container of any sort.
pub(super) fn any(
    path: &Path,
    container: &Value,
    spec: &Value,
    volumes: &Volumes,
    errors: &mut Errors,
) {
    match container.text("name") {
        "" => errors.push(FieldError::required(path.field("name"), "")),
        name => check::label(&path.field("name"), name, errors),
    }
    image(path, container, errors);
    check::one_of(
        &path.field("terminationMessagePolicy"),
        container.text("terminationMessagePolicy"),
        &["FallbackToLogsOnError", "File"],
        errors,
    );
    let host_network = spec.flag("hostNetwork") == Some(true);
    ports(&path.field("ports"), container.items("ports"), host_network, errors);
    env::validate(path, container, errors);
    mount::validate(path, container, volumes, errors);
    check::one_of(
        &path.field("imagePullPolicy"),
        container.text("imagePullPolicy"),
        &["Always", "IfNotPresent", "Never"],
        errors,
    );
    resources::validate(&path.field("resources"), container.at("resources"), errors);
    resize_policy(path, container, errors);
    security::container(&path.field("securityContext"), container.at("securityContext"), errors);
}

pub fn image(path: &Path, container: &Value, errors: &mut Errors) {
    let image = container.text("image");
    if image.is_empty() {
        errors.push(FieldError::required(path.field("image"), ""));
    } else if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(path.field("image"), image, detail));
    }
}

pub(super) fn unique<'a>(
    path: &Path,
    container: &'a Value,
    names: &mut HashSet<&'a str>,
    errors: &mut Errors,
) {
    let name = container.text("name");
    if !name.is_empty() && !names.insert(name) {
        errors.push(FieldError::duplicate(path.field("name"), name));
    }
}

fn ports(path: &Path, ports: &[Value], host_network: bool, errors: &mut Errors) {
    let mut names = HashSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        let name = port.text("name");
        if !name.is_empty() {
            let problems = name::port(name);
            if problems.is_empty() && !names.insert(name) {
                errors.push(FieldError::duplicate(path.field("name"), name));
            }
            errors.extend(sentences(&path.field("name"), name, problems));
        }
        let number = port.int("containerPort").unwrap_or(0);
        match number {
            0 => errors.push(FieldError::required(path.field("containerPort"), "")),
            _ => check::port_number(&path.field("containerPort"), number, errors),
        }
        let host = port.int("hostPort").unwrap_or(0);
        if host != 0 {
            check::port_number(&path.field("hostPort"), host, errors);
        }
        // In a template it may be left out: its pods will have it set.
        if host_network && host != 0 && host != number {
            let detail = "must match `containerPort` when `hostNetwork` is true";
            errors.push(FieldError::invalid(path.field("hostPort"), host, detail));
        }
        if !port.text("hostIP").is_empty() {
            check::ip(&path.field("hostIP"), port.text("hostIP"), errors);
        }
        let protocol = port.text("protocol");
        check::one_of(&path.field("protocol"), protocol, &["SCTP", "TCP", "UDP"], errors);
    }
}

/// No two ports of a pod on the same protocol, address and number of the host.
fn host_ports(
    path: &Path,
    container: &Value,
    taken: &mut HashSet<(String, String, i64)>,
    errors: &mut Errors,
) {
    let path = path.field("ports");
    for (index, port) in container.items("ports").iter().enumerate() {
        let host = port.int("hostPort").unwrap_or(0);
        let (protocol, ip) = (port.text("protocol"), port.text("hostIP"));
        if host != 0 && !taken.insert((protocol.into(), ip.into(), host)) {
            let path = path.index(index);
            let value = format!("{protocol}/{ip}/{host}");
            errors.push(FieldError::duplicate(path.field("hostPort"), value));
        }
    }
}

fn resize_policy(path: &Path, container: &Value, errors: &mut Errors) {
    let path = path.field("resizePolicy");
    let mut seen = HashSet::new();
    for (index, policy) in container.items("resizePolicy").iter().enumerate() {
        let path = path.index(index);
        let resource = policy.text("resourceName");
        if !seen.insert(resource) {
            errors.push(FieldError::duplicate(path, resource));
        }
        let field = path.field("resourceName");
        check::one_of(&field, resource, &["cpu", "memory"], errors);
        let restart = policy.text("restartPolicy");
        let supported = ["NotRequired", "RestartContainer"];
        check::one_of(&path.field("restartPolicy"), restart, &supported, errors);
    }
}
