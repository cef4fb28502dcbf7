//! Validation of probes and lifecycle hooks.

use proto::status::FieldError;
use serde_json::Value;

use crate::kinds::check::{self, Errors};
use crate::kinds::lens::Lens;
use crate::kinds::path::Path;

/// Validates the probes and hooks of a container that may have them.
pub fn validate(path: &Path, container: &Value, spec: &Value, errors: &mut Errors) {
    let grace = spec.int("terminationGracePeriodSeconds");
    let lifecycle = container.at("lifecycle");
    for hook in ["postStart", "preStop"] {
        if lifecycle.has(hook) {
            let path = path.field("lifecycle");
            let action = (lifecycle.at(hook), grace);
            handler(&path.field(hook), action, &HOOK_HANDLERS, errors);
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if container.has(name) {
            probe(&path.field(name), name, container.at(name), errors);
        }
    }
}

fn probe(path: &Path, name: &str, probe: &Value, errors: &mut Errors) {
    handler(path, (probe, None), &PROBE_HANDLERS, errors);
    let numbers = [
        "initialDelaySeconds",
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
    ];
    check::nonnegative(path, probe, &numbers, errors);
    let grace = probe.int("terminationGracePeriodSeconds");
    let path_grace = path.field("terminationGracePeriodSeconds");
    if name == "readinessProbe" {
        if let Some(grace) = grace {
            let detail = "must not be set for readinessProbes";
            errors.push(FieldError::invalid(path_grace, grace, detail));
        }
    } else if let Some(threshold) = probe.int("successThreshold").filter(|count| *count != 1) {
        errors.push(FieldError::invalid(path.field("successThreshold"), threshold, "must be 1"));
    }
    if let Some(grace) = grace.filter(|grace| *grace <= 0) {
        errors.push(FieldError::invalid(path_grace, grace, "must be greater than 0"));
    }
}

/// Exactly one of the handlers, and that one valid. The pod's grace bounds how long one sleeps.
fn handler(
    path: &Path,
    (object, grace): (&Value, Option<i64>),
    known: &[&str],
    errors: &mut Errors,
) {
    let mut present = known.iter().filter(|name| object.has(name));
    let Some(first) = present.next() else {
        errors.push(FieldError::required(path, "must specify a handler type"));
        return;
    };
    for other in present {
        let detail = "may not specify more than 1 handler type";
        errors.push(FieldError::forbidden(path.field(other), detail));
    }
    let (path, action) = (path.field(first), object.at(first));
    match *first {
        "exec" => check::required(&path, action, "command", errors),
        "httpGet" => {
            check::required(&path, action, "path", errors);
            check::port(&path.field("port"), action.at("port"), errors);
            let scheme = action.text("scheme");
            let supported = ["HTTP", "HTTPS"];
            if !supported.contains(&scheme) {
                errors.push(FieldError::not_supported(path.field("scheme"), scheme, &supported));
            }
            for header in action.items("httpHeaders") {
                http_header(&path.field("httpHeaders"), header.text("name"), errors);
            }
        }
        "tcpSocket" => check::port(&path.field("port"), action.at("port"), errors),
        "grpc" => {
            let port = action.int("port").unwrap_or(0);
            check::port_number(&path.field("port"), port, errors);
        }
        _ => {
            let seconds = action.int("seconds").unwrap_or(0);
            if let Some(grace) = grace.filter(|grace| !(0..=*grace).contains(&seconds)) {
                let detail = format!(
                    "must be non-negative and less than terminationGracePeriodSeconds ({grace})"
                );
                errors.push(FieldError::invalid(path, seconds, detail));
            }
        }
    }
}

fn http_header(path: &Path, name: &str, errors: &mut Errors) {
    let fine = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    if name.is_empty() || !name.bytes().all(fine) {
        let detail = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. \
                      'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";
        errors.push(FieldError::invalid(path, name, detail));
    }
}

const PROBE_HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "grpc"];
const HOOK_HANDLERS: [&str; 4] = ["exec", "httpGet", "tcpSocket", "sleep"];
