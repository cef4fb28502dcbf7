//! Validation of the security contexts of pods and containers.

use std::collections::HashSet;

use proto::status::FieldError;
use serde_json::{Value, json};

use super::windows;
use crate::kinds::check::{self, Errors};
use crate::kinds::lens::Lens;
use crate::kinds::path::Path;

/// Validates a pod's security context; `path` is the pod spec's.
pub fn pod(path: &Path, spec: &Value, errors: &mut Errors) {
    let context = spec.at("securityContext");
    let root = path;
    let path = path.field("securityContext");
    ids(&path, context, &["fsGroup", "runAsUser", "runAsGroup"], errors);
    let groups = path.field("supplementalGroups");
    for (index, group) in context.items("supplementalGroups").iter().enumerate() {
        check::between(&groups.index(index), group.as_i64().unwrap_or(0), 0, MAX_ID, errors);
    }
    if spec.flag("shareProcessNamespace") == Some(true) && spec.flag("hostPID") == Some(true) {
        let detail = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(FieldError::invalid(root.field("shareProcessNamespace"), true, detail));
    }
    sysctls(&path.field("sysctls"), spec, errors);
    let policies = [
        ("fsGroupChangePolicy", ["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", ["Merge", "Strict"]),
        ("seLinuxChangePolicy", ["MountOption", "Recursive"]),
    ];
    for (field, supported) in policies {
        let policy = context.text(field);
        if context.has(field) && !supported.contains(&policy) {
            errors.push(FieldError::not_supported(path.field(field), policy, &supported));
        }
    }
    profiles(&path, context, errors);
    windows::options(&path.field("windowsOptions"), context.at("windowsOptions"), errors);
}

/// Validates the security context of a container whose pod has the node's users, or has not.
pub fn container(path: &Path, context: &Value, host_users: bool, errors: &mut Errors) {
    if context.is_null() {
        return;
    }
    ids(path, context, &["runAsUser", "runAsGroup"], errors);
    let (field, mount) = (path.field("procMount"), context.text("procMount"));
    let supported = ["Default", "Unmasked"];
    if context.has("procMount") && !supported.contains(&mount) {
        errors.push(FieldError::not_supported(field, mount, &supported));
    }
    if host_users && mount == "Unmasked" {
        let detail = "`hostUsers` must be false to use `Unmasked`";
        errors.push(FieldError::invalid(field, mount, detail));
    }
    profiles(path, context, errors);
    windows::options(&path.field("windowsOptions"), context.at("windowsOptions"), errors);
    if context.flag("allowPrivilegeEscalation") != Some(false) {
        return;
    }
    let mut refuse = |what: &str| {
        let detail = format!("cannot set `allowPrivilegeEscalation` to false and {what}");
        errors.push(FieldError::invalid(path, context.clone(), detail));
    };
    if context.flag("privileged") == Some(true) {
        refuse("`privileged` to true");
    }
    if check::texts(context.at("capabilities"), "add").any(|cap| cap == "CAP_SYS_ADMIN") {
        refuse("`capabilities.Add` CAP_SYS_ADMIN");
    }
}

fn ids(path: &Path, context: &Value, fields: &[&str], errors: &mut Errors) {
    for field in fields {
        if let Some(id) = context.int(field) {
            check::between(&path.field(field), id, 0, MAX_ID, errors);
        }
    }
}

fn profiles(path: &Path, context: &Value, errors: &mut Errors) {
    for (field, kind) in [("seccompProfile", "seccomp"), ("appArmorProfile", "AppArmor")] {
        if context.has(field) {
            profile(&path.field(field), (field, kind), context.at(field), errors);
        }
    }
}

fn profile(path: &Path, (field, kind): (&str, &str), profile: &Value, errors: &mut Errors) {
    let (path_local, local) = (path.field("localhostProfile"), profile.text("localhostProfile"));
    let seccomp = kind == "seccomp";
    match profile.text("type") {
        "" => {
            let detail = format!("type is required when {field} is set");
            errors.push(FieldError::required(path.field("type"), detail));
        }
        "Localhost" if local.is_empty() && !(seccomp && profile.has("localhostProfile")) => {
            let detail = format!("must be set when {kind} type is Localhost");
            errors.push(FieldError::required(path_local, detail));
        }
        "Localhost" if seccomp => descending(&path_local, local, errors),
        "Localhost" => {
            if local.trim() != local {
                let detail = "must not be padded with whitespace";
                errors.push(FieldError::invalid(path_local, local, detail));
            }
            check::length(&path_local, local, LONGEST_PROFILE, errors);
        }
        "RuntimeDefault" | "Unconfined" => {
            if profile.has("localhostProfile") {
                // As Go writes the struct, whose field says it all for AppArmor.
                let value = match seccomp {
                    true => json!({"LocalhostProfile": local, "Type": profile.text("type")}),
                    false => local.into(),
                };
                let detail = format!("can only be set when {kind} type is Localhost");
                errors.push(FieldError::invalid(path_local, value, detail));
            }
        }
        other => {
            let supported = ["Localhost", "RuntimeDefault", "Unconfined"];
            errors.push(FieldError::not_supported(path.field("type"), other, &supported));
        }
    }
}

/// A relative path without `..`.
pub fn descending(path: &Path, text: &str, errors: &mut Errors) {
    if text.starts_with('/') {
        errors.push(FieldError::invalid(path, text, "must be a relative path"));
    }
    no_backsteps(path, text, errors);
}

pub fn no_backsteps(path: &Path, text: &str, errors: &mut Errors) {
    if text.split('/').any(|part| part == "..") {
        errors.push(FieldError::invalid(path, text, "must not contain '..'"));
    }
}

fn sysctls(path: &Path, spec: &Value, errors: &mut Errors) {
    let mut names = HashSet::new();
    for (index, sysctl) in spec.at("securityContext").items("sysctls").iter().enumerate() {
        let path = path.index(index);
        match sysctl.text("name") {
            "" => errors.push(FieldError::required(path.field("name"), "")),
            name if name.len() > 253 || !is_sysctl(name) => {
                let detail = format!("must have at most 253 characters and match regex {SYSCTL}");
                errors.push(FieldError::invalid(path.field("name"), name, detail));
            }
            name if names.contains(name) => {
                errors.push(FieldError::duplicate(path.field("name"), name));
            }
            _ => {}
        }
        let name = sysctl.text("name");
        names.insert(name);
        if let Some(host) = namespace(name).filter(|host| spec.flag(host) == Some(true)) {
            let detail = format!("may not be specified when '{host}' is true");
            errors.push(FieldError::invalid(path.field("name"), name, detail));
        }
    }
}

/// The flag of a pod that has the node's instead of its own of what the sysctl is about.
fn namespace(sysctl: &str) -> Option<&'static str> {
    // `net/ipv4/...` is `net.ipv4...`: the first separator is the one that separates.
    let name = match sysctl.find(['.', '/']) {
        Some(at) if sysctl[at..].starts_with('/') => sysctl.replace('.', " ").replace('/', "."),
        _ => sysctl.to_string(),
    };
    let starts = |prefix: &&str| name.starts_with(*prefix);
    match () {
        () if name == "kernel.sem" => Some("hostIPC"),
        () if ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(starts) => Some("hostIPC"),
        () if name.starts_with("net.") => Some("hostNetwork"),
        () => None,
    }
}

fn is_sysctl(name: &str) -> bool {
    name.split(['.', '/']).all(|part| {
        let bytes = part.as_bytes();
        let end = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        bytes.first().is_some_and(end)
            && bytes.last().is_some_and(end)
            && bytes.iter().all(|byte| end(byte) || matches!(byte, b'-' | b'_'))
    })
}

/// A path of Linux without its end.
const LONGEST_PROFILE: usize = 4095;
const MAX_ID: i64 = i32::MAX as i64;
const SYSCTL: &str = "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
