//! Validation of a pod's spec, alone or in a template.

use std::collections::HashSet;

use proto::status::FieldError;
use serde_json::{Value, json};

use super::{
    claim, container, env, ephemeral, level, placement, resources, security, volume, windows,
};
use crate::kinds::check::{self, Errors};
use crate::kinds::lens::Lens;
use crate::kinds::path::Path;

/// Validates a spec; `meta` is the pod's metadata, null in a template.
pub fn validate(path: &Path, spec: &Value, meta: &Value, errors: &mut Errors) {
    let volumes = volume::validate(path, spec, meta.text("name"), errors);
    claim::validate(path, spec, meta, errors);
    container::validate(path, spec, &volumes, errors);
    ephemeral::validate(path, spec, &volumes, errors);
    level::validate(path, spec, errors);
    container::network_ports(path, spec, errors);
    check::one_of(
        &path.field("restartPolicy"),
        spec.text("restartPolicy"),
        &["Always", "OnFailure", "Never"],
        errors,
    );
    dns(path, spec, errors);
    security::pod(path, spec, errors);
    placement::validate(path, spec, errors);
    windows::host_processes(path, spec, errors);
    host_users(path, spec, errors);
    names(path, spec, errors);
    host_aliases(&path.field("hostAliases"), spec.items("hostAliases"), errors);
    gates(path, spec, errors);
    if let Some(seconds) = spec.int("activeDeadlineSeconds") {
        let path = path.field("activeDeadlineSeconds");
        check::between(&path, seconds, 1, i64::from(i32::MAX), errors);
    }
    if spec.has("preemptionPolicy") {
        let supported = ["PreemptLowerPriority", "Never"];
        let policy = spec.text("preemptionPolicy");
        check::one_of(&path.field("preemptionPolicy"), policy, &supported, errors);
    }
    if spec.has("overhead") {
        let limits = json!({ "limits": spec.at("overhead") });
        resources::validate(&path.field("overhead"), &limits, &Default::default(), errors);
    }
    windows::system(path, spec, errors);
    env::file_volumes(path, spec, errors);
}

/// What holds for a pod but not for a template.
pub fn validate_pod(path: &Path, spec: &Value, errors: &mut Errors) {
    if spec.text("serviceAccountName").is_empty() {
        let path = path.field("volumes");
        for (index, volume) in spec.items("volumes").iter().enumerate() {
            let path = path.index(index);
            let path = path.field("projected");
            let path = path.field("sources");
            for (index, source) in volume.at("projected").items("sources").iter().enumerate() {
                if source.has("serviceAccountToken") {
                    let path = path.index(index);
                    let detail = "must not be specified when serviceAccountName is not set";
                    errors.push(FieldError::forbidden(path.field("serviceAccountToken"), detail));
                }
            }
        }
    }
    for list in super::CONTAINERS {
        let path = path.field(list);
        for (index, container) in spec.items(list).iter().enumerate() {
            container::padded_image(&path.index(index), container, errors);
        }
    }
}

/// What holds for a new pod but not for an update.
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
    if spec.has("hostnameOverride") {
        hostname(path, spec, errors);
    }
}

/// A pod's name on its network that is not made from others.
fn hostname(path: &Path, spec: &Value, errors: &mut Errors) {
    let (path, host) = (path.field("hostnameOverride"), spec.text("hostnameOverride"));
    for field in ["setHostnameAsFQDN", "hostNetwork"] {
        if spec.flag(field) == Some(true) {
            let detail = format!("may not be specified when {field} is true");
            errors.push(FieldError::forbidden(path, detail));
        }
    }
    check::length(&path, host, LONGEST_HOSTNAME, errors);
    check::subdomain(&path, host, errors);
}

/// A pod with users of its own has no other namespace of the node's, nor its devices.
fn host_users(path: &Path, spec: &Value, errors: &mut Errors) {
    if spec.flag("hostUsers") != Some(false) {
        return;
    }
    let detail = "when `hostUsers` is false";
    // With upstream's capitals.
    for (field, named) in
        [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")]
    {
        if spec.flag(field) == Some(true) {
            errors.push(FieldError::forbidden(path.field(named), detail));
        }
    }
    for list in super::CONTAINERS {
        let path = path.field(list);
        for (index, container) in spec.items(list).iter().enumerate() {
            if !container.vacant("volumeDevices") {
                let path = path.index(index);
                errors.push(FieldError::forbidden(path.field("volumeDevices"), detail));
            }
        }
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
        return;
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
    let length = check::texts(config, "searches").map(|search| search.len() + 1).sum::<usize>();
    if length > LONGEST_SEARCH + 1 {
        let detail = "must not have more than 2048 characters (including spaces) in the search \
                      list";
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
        check::qualified(&path, name, errors);
        if !seen.insert(name) {
            errors.push(FieldError::duplicate(path, name));
        }
    }
}

const LONGEST_HOSTNAME: usize = 64;
/// With the spaces between.
const LONGEST_SEARCH: usize = 2048;
