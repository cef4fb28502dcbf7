//! Validation of the security contexts of pods and containers.

use std::collections::HashSet;

use proto::status::FieldError;
use serde_json::Value;

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
    sysctls(&path.field("sysctls"), context.items("sysctls"), errors);
    let policy = context.text("fsGroupChangePolicy");
    let supported = ["Always", "OnRootMismatch"];
    check::optional_one_of(&path.field("fsGroupChangePolicy"), policy, &supported, errors);
    let policy = context.text("supplementalGroupsPolicy");
    let supported = ["Merge", "Strict"];
    check::optional_one_of(&path.field("supplementalGroupsPolicy"), policy, &supported, errors);
    profiles(&path, context, errors);
}

/// Validates a container's security context.
pub fn container(path: &Path, context: &Value, errors: &mut Errors) {
    if context.is_null() {
        return;
    }
    ids(path, context, &["runAsUser", "runAsGroup"], errors);
    let mount = context.text("procMount");
    check::optional_one_of(&path.field("procMount"), mount, &["Default", "Unmasked"], errors);
    profiles(path, context, errors);
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
    let local = profile.text("localhostProfile");
    match profile.text("type") {
        "" => {
            let detail = format!("type is required when {field} is set");
            errors.push(FieldError::required(path.field("type"), detail));
        }
        "Localhost" if local.is_empty() => {
            let detail = format!("must be set when {kind} type is Localhost");
            errors.push(FieldError::required(path.field("localhostProfile"), detail));
        }
        "Localhost" => descending(&path.field("localhostProfile"), local, errors),
        "RuntimeDefault" | "Unconfined" => {
            if profile.has("localhostProfile") {
                let detail = format!("can only be set when {kind} type is Localhost");
                errors.push(FieldError::invalid(path.field("localhostProfile"), local, detail));
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

fn sysctls(path: &Path, sysctls: &[Value], errors: &mut Errors) {
    let mut names = HashSet::new();
    for (index, sysctl) in sysctls.iter().enumerate() {
        let path = path.index(index);
        match sysctl.text("name") {
            "" => errors.push(FieldError::required(path.field("name"), "")),
            name if name.len() > 253 || !is_sysctl(name) => {
                let detail = format!("must have at most 253 characters and match regex {SYSCTL}");
                errors.push(FieldError::invalid(path.field("name"), name, detail));
            }
            name if !names.insert(name) => {
                errors.push(FieldError::duplicate(path.field("name"), name));
            }
            _ => {}
        }
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

const MAX_ID: i64 = i32::MAX as i64;
const SYSCTL: &str = "^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";
