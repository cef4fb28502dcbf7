//! Validation of a pod's spec, alone or in a template.

use std::collections::HashSet;

use proto::status::FieldError;
use serde_json::Value;

use super::{container, ephemeral, placement, resources, security, volume};
use crate::kinds::check::{self, Errors};
use crate::kinds::lens::Lens;
use crate::kinds::path::Path;

pub fn validate(path: &Path, spec: &Value, errors: &mut Errors) {
    let volumes = volume::validate(path, spec, errors);
    container::validate(path, spec, &volumes, errors);
    ephemeral::validate(path, spec, &volumes, errors);
    check::one_of(
        &path.field("restartPolicy"),
        spec.text("restartPolicy"),
        &["Always", "OnFailure", "Never"],
        errors,
    );
    dns(path, spec, errors);
    security::pod(path, spec, errors);
    placement::validate(path, spec, errors);
    names(path, spec, errors);
    host_aliases(&path.field("hostAliases"), spec.items("hostAliases"), errors);
    gates(path, spec, errors);
    if let Some(seconds) = spec.int("activeDeadlineSeconds") {
        let path = path.field("activeDeadlineSeconds");
        check::between(&path, seconds, 1, i64::from(i32::MAX), errors);
    }
    let preemption = spec.text("preemptionPolicy");
    let supported = ["Never", "PreemptLowerPriority"];
    check::optional_one_of(&path.field("preemptionPolicy"), preemption, &supported, errors);
    let path_overhead = path.field("overhead");
    for (name, quantity) in spec.pairs("overhead") {
        resources::amount(&path_overhead.key(name), name, quantity, errors);
    }
    let os = spec.at("os");
    if !os.is_null() {
        let path = path.field("os");
        check::one_of(&path.field("name"), os.text("name"), &["linux", "windows"], errors);
    }
    for field in ["resourceClaims", "resources", "schedulingGroup", "workloadRef"] {
        if !spec.vacant(field) {
            errors.push(FieldError::forbidden(path.field(field), "not supported"));
        }
    }
}

/// What holds for a new pod but not for a template or an update.
pub fn validate_new(path: &Path, spec: &Value, errors: &mut Errors) {
    if !spec.vacant("ephemeralContainers") {
        let path = path.field("ephemeralContainers");
        errors.push(FieldError::forbidden(path, "cannot be set on create"));
    }
    if !spec.vacant("schedulingGates") && !spec.text("nodeName").is_empty() {
        let path = path.field("nodeName");
        errors.push(FieldError::forbidden(
            path,
            "cannot be set until all schedulingGates have been cleared",
        ));
    }
}

fn names(path: &Path, spec: &Value, errors: &mut Errors) {
    let subdomains =
        ["serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"].into_iter();
    for field in subdomains.filter(|field| !spec.text(field).is_empty()) {
        check::subdomain(&path.field(field), spec.text(field), errors);
    }
    for field in ["hostname", "subdomain"] {
        if !spec.text(field).is_empty() {
            check::label(&path.field(field), spec.text(field), errors);
        }
    }
    let host = spec.text("hostnameOverride");
    if !host.is_empty() {
        check::subdomain(&path.field("hostnameOverride"), host, errors);
    }
}

fn dns(path: &Path, spec: &Value, errors: &mut Errors) {
    let policy = spec.text("dnsPolicy");
    check::one_of(
        &path.field("dnsPolicy"),
        policy,
        &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"],
        errors,
    );
    let path = path.field("dnsConfig");
    let config = spec.at("dnsConfig");
    if policy == "None" && config.is_null() {
        let detail = "must provide `dnsConfig` when `dnsPolicy` is None";
        errors.push(FieldError::required(path, detail));
        return;
    }
    let path_servers = path.field("nameservers");
    let servers = config.items("nameservers");
    if policy == "None" && servers.is_empty() {
        let detail = "must provide at least one DNS nameserver when `dnsPolicy` is None";
        errors.push(FieldError::required(path_servers, detail));
    }
    if servers.len() > 3 {
        let detail = "must not have more than 3 nameservers";
        errors.push(FieldError::invalid(path_servers, servers.to_vec(), detail));
    }
    for (index, server) in check::texts(config, "nameservers").enumerate() {
        check::ip(&path_servers.index(index), server, errors);
    }
    let path_searches = path.field("searches");
    if config.items("searches").len() > 32 {
        let detail = "must not have more than 32 search paths";
        let value = config.at("searches").clone();
        errors.push(FieldError::invalid(path_searches, value, detail));
    }
    for (index, search) in check::texts(config, "searches").enumerate() {
        let trimmed = search.strip_suffix('.').unwrap_or(search).replace('_', "-");
        if search != "." {
            check::subdomain(&path_searches.index(index), &trimmed, errors);
        }
    }
    let path_options = path.field("options");
    for (index, option) in config.items("options").iter().enumerate() {
        if option.text("name").is_empty() {
            errors.push(FieldError::required(path_options.index(index), "must not be empty"));
        }
    }
}

fn host_aliases(path: &Path, aliases: &[Value], errors: &mut Errors) {
    for (index, alias) in aliases.iter().enumerate() {
        let path = path.index(index);
        check::ip(&path.field("ip"), alias.text("ip"), errors);
        let path = path.field("hostnames");
        for (index, name) in check::texts(alias, "hostnames").enumerate() {
            check::subdomain(&path.index(index), name, errors);
        }
    }
}

/// Readiness and scheduling gates.
fn gates(path: &Path, spec: &Value, errors: &mut Errors) {
    let path_ready = path.field("readinessGates");
    for (index, gate) in spec.items("readinessGates").iter().enumerate() {
        let path = path_ready.index(index);
        check::qualified(&path.field("conditionType"), gate.text("conditionType"), errors);
    }
    let path_gates = path.field("schedulingGates");
    let mut seen = HashSet::new();
    for (index, gate) in spec.items("schedulingGates").iter().enumerate() {
        let path = path_gates.index(index);
        let name = gate.text("name");
        check::qualified(&path.field("name"), name, errors);
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(path.field("name"), name));
        }
    }
}
