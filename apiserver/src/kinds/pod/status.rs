//! The rules of a pod's status.

use proto::status::FieldError;
use serde_json::{Value, json};

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
    let nominated = status.text("nominatedNodeName");
    if !nominated.is_empty() {
        check::subdomain(&STATUS.field("nominatedNodeName"), nominated, &mut errors);
    }
    for list in ["podIPs", "hostIPs"] {
        addresses(&STATUS.field(list), status.items(list), &mut errors);
    }
    let (class, old_class) = (status.text("qosClass"), before.text("qosClass"));
    if !old_class.is_empty() && class != old_class {
        let path = STATUS.field("qosClass");
        errors.push(FieldError::invalid(path, class, "field is immutable"));
    }
    let path = STATUS.field("conditions");
    for (index, condition) in status.items("conditions").iter().enumerate() {
        let path = path.index(index);
        check::qualified(&path.field("type"), condition.text("type"), &mut errors);
    }
    finality(&STATUS, new, old, &mut errors);
    errors
}

fn addresses(path: &Path, addresses: &[Value], errors: &mut Errors) {
    let mut families = [0, 0];
    for (index, address) in addresses.iter().enumerate() {
        let text = address.text("ip");
        let path = path.index(index);
        check::ip(&path.field("ip"), text, errors);
        families[usize::from(text.contains(':'))] += 1;
    }
    if families.iter().any(|count| *count > 1) {
        let detail = "may specify no more than one IP for each IP family";
        errors.push(FieldError::invalid(path, addresses.to_vec(), detail));
    }
}

/// A container that may not run again stays terminated.
fn finality(path: &Path, new: &Value, old: &Value, errors: &mut Errors) {
    let policy = old.at("spec").text("restartPolicy");
    if policy == "Always" {
        return;
    }
    let path = path.field("containerStatuses");
    let statuses = new.at("status").items("containerStatuses");
    for before in old.at("status").items("containerStatuses") {
        let ended = before.at("state").at("terminated");
        if ended.is_null() || (policy == "OnFailure" && ended.int("exitCode") != Some(0)) {
            continue;
        }
        for (index, now) in statuses.iter().enumerate() {
            let same = now.text("name") == before.text("name");
            if same && !now.at("state").has("terminated") {
                let path = path.index(index);
                let detail = "may not be transitioned to non-terminated state";
                errors.push(FieldError::forbidden(path.field("state"), detail));
            }
        }
    }
}
