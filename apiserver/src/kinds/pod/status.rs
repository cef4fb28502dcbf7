//! The rules of a pod's status.

use std::collections::HashSet;

use proto::status::FieldError;
use serde_json::{Value, json};

use super::{claim, restart};
use crate::kinds::check::{self, Errors};
use crate::kinds::lens::Lens;
use crate::kinds::path::Path;

/// Keeps the single address and the first of the list the same, and the class that was computed
/// at creation.
pub fn synchronise(new: &mut Value, old: &Value) {
    let status = new.section("status");
    for (single, list) in [("podIP", "podIPs"), ("hostIP", "hostIPs")] {
        let first = status.items(list).first().map(|item| item.text("ip").to_string());
        match first {
            Some(first) => status.set(single, first),
            None if !status.text(single).is_empty() => {
                let address = status.at(single).clone();
                status.set(list, json!([{ "ip": address }]));
            }
            None => {}
        }
    }
    if !status.has("qosClass") {
        status.take_over("qosClass", old.at("status"));
    }
}

pub fn validate(new: &Value, old: &Value) -> Vec<FieldError> {
    const STATUS: Path = Path::root("status");
    let mut errors = Vec::new();
    let (status, before) = (new.at("status"), old.at("status"));
    conditions(&STATUS.field("conditions"), status.items("conditions"), &mut errors);
    nominated(&STATUS.field("nominatedNodeName"), status, old, &mut errors);
    generation(&STATUS, status, &mut errors);
    let (class, old_class) = (status.text("qosClass"), before.text("qosClass"));
    if !old_class.is_empty() && class != old_class {
        let path = STATUS.field("qosClass");
        errors.push(FieldError::invalid(path, class, "field is immutable"));
    }
    finality(&STATUS, new, old, &mut errors);
    claim::status(&STATUS, status, new.at("spec"), &mut errors);
    for list in ["podIPs", "hostIPs"] {
        addresses(&STATUS.field(list), status.items(list), &mut errors);
    }
    for (list, of_spec) in STATUSES {
        let containers = new.at("spec").items(of_spec);
        devices(&STATUS.field(list), status.items(list), containers, &mut errors);
    }
    errors
}

/// Where a status keeps what it says of containers, and where the spec has these.
const STATUSES: [(&str, &str); 3] = [
    ("containerStatuses", "containers"),
    ("initContainerStatuses", "initContainers"),
    ("ephemeralContainerStatuses", "ephemeralContainers"),
];

fn conditions(path: &Path, conditions: &[Value], errors: &mut Errors) {
    for (index, condition) in conditions.iter().enumerate() {
        let path = path.index(index);
        generation(&path, condition, errors);
        check::qualified(&path.field("Type"), condition.text("type"), errors);
    }
}

fn generation(path: &Path, object: &Value, errors: &mut Errors) {
    if let Some(number) = object.int("observedGeneration").filter(|number| *number < 0) {
        let detail = "must be a non-negative integer";
        errors.push(FieldError::invalid(path.field("observedGeneration"), number, detail));
    }
}

/// A node for which room was made; not of a pod that has one.
fn nominated(path: &Path, status: &Value, old: &Value, errors: &mut Errors) {
    let name = status.text("nominatedNodeName");
    if name.is_empty() || name == old.at("status").text("nominatedNodeName") {
        return;
    }
    check::subdomain(path, name, errors);
    if !old.at("spec").text("nodeName").is_empty() {
        let detail = "may not be set on pods that are already bound to a node";
        errors.push(FieldError::forbidden(path, detail));
    }
}

/// The health of what a container has from plugins and drivers.
fn devices(path: &Path, statuses: &[Value], containers: &[Value], errors: &mut Errors) {
    const HEALTH: [&str; 3] = ["Healthy", "Unhealthy", "Unknown"];
    for (index, status) in statuses.iter().enumerate() {
        let path = path.index(index);
        let path = path.field("allocatedResourcesStatus");
        let name = status.text("name");
        let container = containers.iter().find(|container| container.text("name") == name);
        for (index, resource) in status.items("allocatedResourcesStatus").iter().enumerate() {
            let path = path.index(index);
            if let Some(detail) = container.and_then(|it| unknown(it, resource.text("name"))) {
                let name = resource.text("name");
                errors.push(FieldError::invalid(path.field("name"), name, detail));
            }
            let path = path.field("resources");
            let mut seen = HashSet::new();
            for (index, device) in resource.items("resources").iter().enumerate() {
                let path = path.index(index);
                let health = device.text("health");
                if !HEALTH.contains(&health) {
                    let field = path.field("health");
                    errors.push(FieldError::not_supported(field, health, &HEALTH));
                }
                let id = device.text("resourceID");
                if !seen.insert(id) {
                    errors.push(FieldError::duplicate(path.field("resourceID"), id));
                }
            }
        }
    }
}

/// What is wrong with the name of a resource that the container does not ask for.
fn unknown(container: &Value, name: &str) -> Option<&'static str> {
    let resources = container.at("resources");
    let Some(claim) = name.strip_prefix("claim:") else {
        let detail = "must match one of the container's resource requests";
        return (!resources.at("requests").has(name)).then_some(detail);
    };
    let asked = resources.items("claims").iter().any(|asked| {
        let (name, request) = (asked.text("name"), asked.text("request"));
        match claim.split_once('/') {
            Some(parts) => parts == (name, request),
            None => claim == name && request.is_empty(),
        }
    });
    (!asked).then_some(
        "must match one of the container's resource claims in a format \
         'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty",
    )
}

fn addresses(path: &Path, addresses: &[Value], errors: &mut Errors) {
    let mut families = [0, 0];
    for (index, address) in addresses.iter().enumerate() {
        let text = address.text("ip");
        check::ip(&path.index(index), text, errors);
        families[usize::from(text.contains(':'))] += 1;
    }
    if families.iter().any(|count| *count > 1) {
        let detail = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid(path, addresses.to_vec(), detail));
    }
}

/// A container that is not started again stays terminated.
fn finality(path: &Path, new: &Value, old: &Value, errors: &mut Errors) {
    let spec = old.at("spec");
    for (list, of_spec) in STATUSES {
        let ephemeral = of_spec == "ephemeralContainers";
        if !ephemeral && restart::may_restart_all(spec) {
            continue;
        }
        let path = path.field(list);
        for (index, before) in old.at("status").items(list).iter().enumerate() {
            let ended = before.at("state").at("terminated");
            let name = before.text("name");
            let named = |one: &&Value| one.text("name") == name;
            let code = ended.int("exitCode").unwrap_or(0);
            let again = !ephemeral
                && spec
                    .items(of_spec)
                    .iter()
                    .find(named)
                    .is_some_and(|container| restart::restarts(container, spec, code));
            let now = new.at("status").items(list).iter().find(named);
            let alive = now.is_some_and(|now| !now.at("state").has("terminated"));
            if !ended.is_null() && alive && !again {
                let path = path.index(index);
                let detail = "may not be transitioned to non-terminated state";
                errors.push(FieldError::forbidden(path.field("state"), detail));
            }
        }
    }
}
