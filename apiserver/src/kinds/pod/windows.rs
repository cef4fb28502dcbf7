//! What pods may say of the system that they are for, and of Windows. No node of ours runs Windows;
//! other nodes may.

use proto::status::FieldError;
use serde_json::Value;

use crate::kinds::check::{self, Errors};
use crate::kinds::lens::Lens;
use crate::kinds::path::Path;

/// Validates the system that the spec at `path` names, and that nothing else contradicts it.
pub fn system(path: &Path, spec: &Value, errors: &mut Errors) {
    let os = spec.at("os");
    if os.is_null() {
        return;
    }
    let field = path.field("os");
    match os.text("name") {
        "" => errors.push(FieldError::required(field.field("name"), "")),
        "linux" => {
            let mut refuse = |path: &Path, context: &Value| {
                if context.has("windowsOptions") {
                    let detail = "windows options cannot be set for a linux pod";
                    errors.push(FieldError::forbidden(path.field("windowsOptions"), detail));
                }
            };
            refuse(&path.field("securityContext"), spec.at("securityContext"));
            each_context(path, spec, refuse);
        }
        "windows" => {
            let mut refuse = |path: &Path, object: &Value, fields: &[&str]| {
                for field in fields.iter().filter(|field| is_set(object.at(field))) {
                    let detail = "cannot be set for a windows pod";
                    errors.push(FieldError::forbidden(path.field(field), detail));
                }
            };
            refuse(path, spec, OF_LINUX);
            refuse(&path.field("securityContext"), spec.at("securityContext"), OF_LINUX_PODS);
            each_context(path, spec, |path, context| refuse(path, context, OF_LINUX_CONTAINERS));
        }
        name => errors.push(FieldError::not_supported(field, name, &["linux", "windows"])),
    }
}

/// That either none or all containers run as processes of the node, and those on its network.
pub fn host_processes(path: &Path, spec: &Value, errors: &mut Errors) {
    let flag = |context: &Value| context.at("windowsOptions").flag("hostProcess");
    let of_pod = flag(spec.at("securityContext"));
    let (mut all, mut host) = (0, 0);
    each_container(path, spec, |path, container| {
        all += 1;
        let own = flag(container.at("securityContext"));
        if let (Some(pod), Some(own)) = (of_pod, own)
            && pod != own
        {
            let path = path.field("securityContext");
            let path = path.field("windowsOptions");
            let detail =
                format!("pod hostProcess value must be identical if both are specified, was {pod}");
            errors.push(FieldError::invalid(path.field("hostProcess"), own, detail));
        }
        host += usize::from(own.or(of_pod) == Some(true));
    });
    if host == 0 {
        return;
    }
    if host != all {
        let detail = "If pod contains any hostProcess containers then all containers must be \
                      HostProcess containers";
        errors.push(FieldError::invalid(path, "", detail));
    }
    if spec.flag("hostNetwork") != Some(true) {
        let detail = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.push(FieldError::invalid(path.field("hostNetwork"), false, detail));
    }
}

/// Validates `windowsOptions` at `path`.
pub fn options(path: &Path, options: &Value, errors: &mut Errors) {
    if options.has("gmsaCredentialSpecName") {
        let name = options.text("gmsaCredentialSpecName");
        check::subdomain(&path.field("gmsaCredentialSpecName"), name, errors);
    }
    if options.has("gmsaCredentialSpec") {
        let (field, text) = ("gmsaCredentialSpec", options.text("gmsaCredentialSpec"));
        let detail = match text.len() {
            0 => "gmsaCredentialSpec cannot be an empty string",
            length if length > 64 * 1024 => "gmsaCredentialSpec size must be under 64 KiB",
            _ => "",
        };
        if !detail.is_empty() {
            errors.push(FieldError::invalid(path.field(field), text, detail));
        }
    }
    if options.has("runAsUserName") {
        let name = options.text("runAsUserName");
        for detail in user(name) {
            errors.push(FieldError::invalid(path.field("runAsUserName"), name, detail));
        }
    }
}

/// What is wrong with `user` or `domain\user`.
fn user(name: &str) -> Vec<&'static str> {
    if name.is_empty() {
        return vec!["runAsUserName cannot be an empty string"];
    }
    if name.chars().any(|c| c.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters"];
    }
    let (domain, user) = match name.split_once('\\') {
        Some((_, rest)) if rest.contains('\\') => {
            return vec!["runAsUserName cannot contain more than one backslash"];
        }
        Some((domain, user)) => (Some(domain), user),
        None => (None, name),
    };
    let mut problems = Vec::new();
    if domain.is_some_and(|domain| domain.len() >= 256) {
        problems.push("runAsUserName's Domain length must be under 256 characters");
    }
    if domain.is_some_and(|domain| !is_netbios(domain) && !is_dns(domain)) {
        problems.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format");
    }
    match user.len() {
        0 => problems.push("runAsUserName's User cannot be empty"),
        length if length > 104 => {
            problems.push("runAsUserName's User length must not be longer than 104 characters");
        }
        _ => {}
    }
    if !user.is_empty() && user.chars().all(|c| matches!(c, '.' | ' ')) {
        problems.push("runAsUserName's User cannot contain only periods or spaces");
    }
    if user
        .contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']'])
    {
        problems.push(
            "runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]",
        );
    }
    problems
}

fn is_netbios(domain: &str) -> bool {
    let barred = ['\\', '/', ':', '*', '?', '"', '<', '>', '|'];
    (1..=15).contains(&domain.chars().count())
        && !domain.starts_with('.')
        && !domain.contains(barred)
}

fn is_dns(domain: &str) -> bool {
    domain.split('.').all(|label| {
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        (1..=63).contains(&label.len())
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    })
}

/// What Go holds a pointer to is set when it is there, a flag or list when it says something.
fn is_set(value: &Value) -> bool {
    !matches!(value, Value::Null) && value.as_array().is_none_or(|items| !items.is_empty())
}

fn each_container(path: &Path, spec: &Value, mut visit: impl FnMut(&Path, &Value)) {
    for list in super::CONTAINERS {
        let path = path.field(list);
        for (index, container) in spec.items(list).iter().enumerate() {
            visit(&path.index(index), container);
        }
    }
}

fn each_context(path: &Path, spec: &Value, mut visit: impl FnMut(&Path, &Value)) {
    each_container(path, spec, |path, container| {
        visit(&path.field("securityContext"), container.at("securityContext"));
    });
}

/// Fields of a spec that mean nothing on Windows.
const OF_LINUX: &[&str] = &["hostUsers", "hostPID", "hostIPC", "shareProcessNamespace"];

const OF_LINUX_PODS: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "fsGroup",
    "fsGroupChangePolicy",
    "sysctls",
    "runAsUser",
    "runAsGroup",
    "supplementalGroups",
    "supplementalGroupsPolicy",
    "seLinuxChangePolicy",
];

const OF_LINUX_CONTAINERS: &[&str] = &[
    "appArmorProfile",
    "seLinuxOptions",
    "seccompProfile",
    "capabilities",
    "readOnlyRootFilesystem",
    "privileged",
    "allowPrivilegeEscalation",
    "procMount",
    "runAsUser",
    "runAsGroup",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_of_windows() {
        for (name, problems) in [
            ("ContainerAdministrator", 0),
            ("NT AUTHORITY\\System", 0),
            ("a.example.com\\user", 0),
            ("", 1),
            ("a\tb", 1),
            ("a\\b\\c", 1),
            (".hidden\\user", 1),
            ("domain\\", 1),
            ("...", 1),
            ("a@b", 1),
        ] {
            assert_eq!(user(name).len(), problems, "{name:?}: {:?}", user(name));
        }
    }
}
