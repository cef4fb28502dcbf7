//! Validation of the containers of a pod.

use std::collections::HashSet;

use proto::status::FieldError;
use serde_json::Value;

use super::volume::Volumes;
use super::{claim, env, mount, probe, resources, restart, security};
use crate::kinds::check::{self, Errors};
use crate::kinds::lens::Lens;
use crate::kinds::metadata::sentences;
use crate::kinds::name;
use crate::kinds::path::Path;

/// Validates containers and initContainers; `path` is the pod spec's.
pub fn validate(path: &Path, spec: &Value, volumes: &Volumes, errors: &mut Errors) {
    let of_pod = OfPod { spec, volumes, claims: &claim::names(spec) };
    let (containers, path_main) = (spec.items("containers"), path.field("containers"));
    if containers.is_empty() {
        errors.push(FieldError::required(path_main, ""));
    }
    let mut names = HashSet::new();
    let mut ports = HashSet::new();
    for (index, container) in containers.iter().enumerate() {
        let path = path_main.index(index);
        any(&path, container, &of_pod, errors);
        unique(&path, container, &mut names, errors);
        probe::validate(&path, container, spec, errors);
        restart::validate(&path, container, false, errors);
        host_ports(&path, container, &mut ports, errors);
    }
    let path_init = path.field("initContainers");
    for (index, container) in spec.items("initContainers").iter().enumerate() {
        // Upstream counts what is wrong with their ports as if each were the first.
        let first = path_init.index(0);
        let path = path_init.index(index);
        any(&path, container, &of_pod, errors);
        restart::validate(&path, container, true, errors);
        unique(&path, container, &mut names, errors);
        host_ports(&first, container, &mut HashSet::new(), errors);
        init(&path, container, spec, errors);
    }
}

/// What an init container may have depends on whether it is a sidecar (restartPolicy Always).
fn init(path: &Path, container: &Value, spec: &Value, errors: &mut Errors) {
    if container.text("restartPolicy") == "Always" {
        probe::validate(path, container, spec, errors);
    } else {
        for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if container.has(field) {
                let detail = "may not be set for init containers without restartPolicy=Always";
                errors.push(FieldError::forbidden(path.field(field), detail));
            }
        }
        let path = path.field("resizePolicy");
        for (index, policy) in container.items("resizePolicy").iter().enumerate() {
            let restart = policy.text("restartPolicy");
            if restart == "RestartContainer" {
                let path = path.index(index);
                let detail = "must not be set to 'RestartContainer' for non-sidecar initContainers";
                errors.push(FieldError::invalid(path.field("restartPolicy"), restart, detail));
            }
        }
    }
}

/// What a container may refer to.
pub(super) struct OfPod<'a> {
    pub spec: &'a Value,
    pub volumes: &'a Volumes<'a>,
    pub claims: &'a claim::Names<'a>,
}

/// What holds for a container of any sort.
pub(super) fn any(path: &Path, container: &Value, of_pod: &OfPod, errors: &mut Errors) {
    let OfPod { spec, volumes, claims } = of_pod;
    match container.text("name") {
        "" => errors.push(FieldError::required(path.field("name"), "")),
        name => check::label(&path.field("name"), name, errors),
    }
    if container.vacant("image") {
        errors.push(FieldError::required(path.field("image"), ""));
    }
    check::one_of(
        &path.field("terminationMessagePolicy"),
        container.text("terminationMessagePolicy"),
        &["File", "FallbackToLogsOnError"],
        errors,
    );
    ports(&path.field("ports"), container.items("ports"), errors);
    env::validate(path, container, errors);
    mount::validate(path, container, volumes, errors);
    check::one_of(
        &path.field("imagePullPolicy"),
        container.text("imagePullPolicy"),
        &["Always", "IfNotPresent", "Never"],
        errors,
    );
    resources::validate(&path.field("resources"), container.at("resources"), claims, errors);
    resize_policy(path, container, spec, errors);
    let (path, context) = (path.field("securityContext"), container.at("securityContext"));
    security::container(&path, context, spec.flag("hostUsers") != Some(false), errors);
}

/// What a template may have, to be set by something on the way to a pod, but not the pod.
pub fn padded_image(path: &Path, container: &Value, errors: &mut Errors) {
    let image = container.text("image");
    if image.trim() != image {
        let detail = "must not have leading or trailing whitespace";
        errors.push(FieldError::invalid(path.field("image"), image, detail));
    }
}

/// Where a pod is on its node's network, its ports are the node's. In a template they may be left
/// out: its pods will have them set. `path` is the spec's.
pub fn network_ports(path: &Path, spec: &Value, errors: &mut Errors) {
    if spec.flag("hostNetwork") != Some(true) {
        return;
    }
    let path = path.field("containers");
    for (index, container) in spec.items("containers").iter().enumerate() {
        let path = path.index(index);
        let path = path.field("ports");
        for (index, port) in container.items("ports").iter().enumerate() {
            let host = port.int("hostPort").unwrap_or(0);
            if host != 0 && Some(host) != port.int("containerPort") {
                let path = path.index(index);
                let detail = "must match `containerPort` when `hostNetwork` is true";
                errors.push(FieldError::invalid(path.field("hostPort"), host, detail));
            }
        }
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

fn ports(path: &Path, ports: &[Value], errors: &mut Errors) {
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
        // Upstream takes anything, and the node then fails; ours would have to guess.
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

/// Upstream names the list when the item is wrong.
fn resize_policy(path: &Path, container: &Value, spec: &Value, errors: &mut Errors) {
    let path = path.field("resizePolicy");
    let mut seen = HashSet::new();
    for (index, policy) in container.items("resizePolicy").iter().enumerate() {
        let resource = policy.text("resourceName");
        if !seen.insert(resource) {
            errors.push(FieldError::duplicate(path.index(index), resource));
        }
        check::one_of(&path, resource, &["cpu", "memory"], errors);
        let restart = policy.text("restartPolicy");
        check::one_of(&path, restart, &["NotRequired", "RestartContainer"], errors);
        if spec.text("restartPolicy") == "Never" && restart != "NotRequired" {
            let detail = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.push(FieldError::invalid(path, restart, detail));
        }
    }
}
