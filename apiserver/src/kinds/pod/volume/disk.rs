//! Volumes that come from elsewhere: disks, shares, and what vendors once built in. The API takes
//! them all; whether a node can mount one, the node says.

use proto::status::FieldError;
use serde_json::Value;

use crate::kinds::check::{self, Errors};
use crate::kinds::lens::Lens;
use crate::kinds::path::Path;
use crate::kinds::pod::security::descending;

/// Validates a source of one of these kinds at `path`.
pub fn validate(path: &Path, kind: &str, source: &Value, errors: &mut Errors) {
    if let Some((_, fields)) = NEEDED.iter().find(|(known, _)| *known == kind) {
        fields.iter().for_each(|field| check::required(path, source, field, errors));
    }
    match kind {
        "gitRepo" => descending(&path.field("directory"), source.text("directory"), errors),
        "gcePersistentDisk" | "awsElasticBlockStore" => {
            let partition = source.int("partition").unwrap_or(0);
            if !(0..=255).contains(&partition) {
                // The sentence forgets 0, which says that there is none.
                let detail = "must be between 1 and 255, inclusive";
                errors.push(FieldError::invalid(path.field("partition"), partition, detail));
            }
        }
        "nfs" => {
            let target = source.text("path");
            if !target.starts_with('/') {
                let detail = "must be an absolute path";
                errors.push(FieldError::invalid(path.field("path"), target, detail));
            }
        }
        "iscsi" => iscsi(path, source, errors),
        "fc" => fibre_channel(path, source, errors),
        "flocker" => flocker(path, source, errors),
        "quobyte" => quobyte(path, source, errors),
        "azureDisk" => azure_disk(path, source, errors),
        "flexVolume" => reserved_options(path, source, errors),
        "cinder" => secret_name(path, source, errors),
        "storageos" => {
            for field in ["volumeName", "volumeNamespace"] {
                if !source.vacant(field) {
                    check::label(&path.field(field), source.text(field), errors);
                }
            }
            secret_name(path, source, errors);
        }
        _ => {}
    }
}

/// What the initiator's name leaves of the room for the names of volume and portal; `path` is the
/// volume's.
pub fn portal(path: &Path, source: &Value, volume: &str, errors: &mut Errors) {
    let length = volume.len() + 1 + source.text("targetPortal").len();
    if source.has("initiatorName") && length > 64 {
        let detail = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 \
                      characters if iscsi.initiatorName is specified.";
        errors.push(FieldError::invalid(path.field("name"), volume, detail));
    }
}

fn iscsi(path: &Path, source: &Value, errors: &mut Errors) {
    if !source.vacant("iqn") {
        initiator(&path.field("iqn"), source.text("iqn"), errors);
    }
    let lun = source.int("lun").unwrap_or(0);
    check::between(&path.field("lun"), lun, 0, 255, errors);
    let authenticated = ["chapAuthDiscovery", "chapAuthSession"];
    let authenticated = authenticated.iter().any(|field| source.flag(field) == Some(true));
    if authenticated && !source.has("secretRef") {
        errors.push(FieldError::required(path.field("secretRef"), ""));
    }
    if source.has("initiatorName") {
        initiator(&path.field("initiatorname"), source.text("initiatorName"), errors);
    }
}

/// A qualified name of RFC 3720, `iqn.2001-04.com.example:storage`, or one of its two short forms.
fn initiator(path: &Path, text: &str, errors: &mut Errors) {
    let valid = match text.get(..3) {
        Some("iqn") => is_iqn(text),
        Some("eui") => is_short(text, 16),
        Some("naa") => is_short(text, 32),
        _ => {
            let detail = "must be valid format starting with iqn, eui, or naa";
            errors.push(FieldError::invalid(path, text, detail));
            return;
        }
    };
    if !valid {
        errors.push(FieldError::invalid(path, text, "must be valid format"));
    }
}

/// `iqn.`, year and month, the reversed domain, and after a colon the name.
fn is_iqn(text: &str) -> bool {
    let digits =
        |text: &str, count| text.len() == count && text.bytes().all(|b| b.is_ascii_digit());
    let parts = text.strip_prefix("iqn.").and_then(|rest| rest.split_once('.'));
    let Some((date, rest)) = parts else { return false };
    let dated = date.split_once('-').is_some_and(|(y, m)| digits(y, 4) && digits(m, 2));
    let in_domain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let in_name = |c: char| !matches!(c, ',' | ';' | '*' | '&' | '$' | '|') && !c.is_whitespace();
    let named = rest.split_once(':').is_some_and(|(domain, name)| {
        let domain = !domain.is_empty() && domain.bytes().all(in_domain);
        domain && !name.is_empty() && name.chars().all(in_name)
    });
    dated && named
}

fn is_short(text: &str, length: usize) -> bool {
    let rest = text.get(4..).unwrap_or("");
    rest.len() == length && rest.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn fibre_channel(path: &Path, source: &Value, errors: &mut Errors) {
    let names = path.field("targetWWNs");
    match (source.vacant("targetWWNs"), source.vacant("wwids")) {
        (true, true) => {
            let detail = "must specify either targetWWNs or wwids, but not both";
            errors.push(FieldError::required(names, detail));
        }
        (false, false) => {
            let detail = "targetWWNs and wwids can not be specified simultaneously";
            errors.push(FieldError::invalid(names, source.at("targetWWNs").clone(), detail));
        }
        _ => {}
    }
    if source.vacant("targetWWNs") {
        return;
    }
    match source.int("lun") {
        None => {
            let detail = "lun is required if targetWWNs is specified";
            errors.push(FieldError::required(path.field("lun"), detail));
        }
        Some(lun) => check::between(&path.field("lun"), lun, 0, 255, errors),
    }
}

fn flocker(path: &Path, source: &Value, errors: &mut Errors) {
    match (source.vacant("datasetName"), source.vacant("datasetUUID")) {
        (true, true) => {
            let detail = "one of datasetName and datasetUUID is required";
            errors.push(FieldError::required(path, detail));
        }
        (false, false) => {
            let detail = "datasetName and datasetUUID can not be specified simultaneously";
            errors.push(FieldError::invalid(path, "resource", detail));
        }
        _ => {}
    }
    let name = source.text("datasetName");
    if name.contains('/') {
        errors.push(FieldError::invalid(path.field("datasetName"), name, "must not contain '/'"));
    }
}

fn quobyte(path: &Path, source: &Value, errors: &mut Errors) {
    let registry = source.text("registry");
    let detail = "must be a host:port pair or multiple pairs separated by commas";
    if registry.is_empty() {
        errors.push(FieldError::required(path.field("registry"), detail));
    } else if source.text("tenant").len() >= 65 {
        let detail = "must be a UUID and may not exceed a length of 64 characters";
        errors.push(FieldError::required(path.field("tenant"), detail));
    } else {
        for _ in registry.split(',').filter(|pair| !is_host_and_port(pair)) {
            errors.push(FieldError::invalid(path.field("registry"), registry, detail));
        }
    }
    check::required(path, source, "volume", errors);
}

/// `host:port` or `[address]:port`; a bare address of IPv6 has too many colons.
fn is_host_and_port(text: &str) -> bool {
    match text.strip_prefix('[') {
        Some(rest) => rest.split_once("]:").is_some_and(|(_, port)| !port.contains(':')),
        None => text.matches(':').count() == 1 && !text.contains(['[', ']']),
    }
}

fn azure_disk(path: &Path, source: &Value, errors: &mut Errors) {
    let (kind, uri) = (source.text("kind"), source.text("diskURI"));
    let caching = ["None", "ReadOnly", "ReadWrite"];
    let mode = source.text("cachingMode");
    if source.has("cachingMode") && !caching.contains(&mode) {
        errors.push(FieldError::not_supported(path.field("cachingMode"), mode, &caching));
    }
    if !source.has("kind") {
        return;
    }
    let kinds = ["Dedicated", "Managed", "Shared"];
    if !kinds.contains(&kind) {
        errors.push(FieldError::not_supported(path.field("kind"), kind, &kinds));
    }
    let (start, form) = match kind {
        "Managed" => (
            "/subscriptions/",
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/\
             disks/{disk-id}",
        ),
        _ => (
            "https://",
            "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd",
        ),
    };
    if !uri.starts_with(start) {
        errors.push(FieldError::not_supported(path.field("diskURI"), uri, &[form]));
    }
}

/// Options of a flex volume that Kubernetes sets itself.
fn reserved_options(path: &Path, source: &Value, errors: &mut Errors) {
    let path = path.field("options");
    for (option, _) in source.pairs("options") {
        let domain = option.split_once('/').map_or(option, |(domain, _)| domain);
        let domain = format!(".{}", domain.to_lowercase());
        if domain.ends_with(".kubernetes.io") || domain.ends_with(".k8s.io") {
            let detail = "kubernetes.io and k8s.io namespaces are reserved";
            errors.push(FieldError::invalid(path.key(option), option, detail));
        }
    }
}

fn secret_name(path: &Path, source: &Value, errors: &mut Errors) {
    if source.has("secretRef") {
        check::required(&path.field("secretRef"), source.at("secretRef"), "name", errors);
    }
}

/// What they cannot do without.
const NEEDED: &[(&str, &[&str])] = &[
    ("awsElasticBlockStore", &["volumeID"]),
    ("azureDisk", &["diskName", "diskURI"]),
    ("azureFile", &["secretName", "shareName"]),
    ("cephfs", &["monitors"]),
    ("cinder", &["volumeID"]),
    ("flexVolume", &["driver"]),
    ("gcePersistentDisk", &["pdName"]),
    ("gitRepo", &["repository"]),
    ("glusterfs", &["endpoints", "path"]),
    ("iscsi", &["targetPortal", "iqn"]),
    ("nfs", &["server", "path"]),
    ("photonPersistentDisk", &["pdID"]),
    ("portworxVolume", &["volumeID"]),
    ("rbd", &["monitors", "image"]),
    ("scaleIO", &["gateway", "system", "volumeName"]),
    ("storageos", &["volumeName"]),
    ("vsphereVolume", &["volumePath"]),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_initiators() {
        for (text, valid) in [
            ("iqn.2001-04.com.example:storage.disk1", true),
            ("iqn.2001-04.com.example:a:b", true),
            ("iqn.2001-04.com.example", false),
            ("iqn.2001-4.com.example:x", false),
            ("iqn.2001-04.com.example:a b", false),
            ("eui.0123456789abcdef", true),
            ("eui.0123456789abcde", false),
            ("naa.0123456789abcdef0123456789abcdef", true),
            ("naa.0123456789abcdef", false),
        ] {
            let mut errors = Vec::new();
            initiator(&Path::root("iqn"), text, &mut errors);
            assert_eq!(errors.is_empty(), valid, "{text}");
        }
    }

    #[test]
    fn hosts_and_ports() {
        for (text, expected) in
            [("a:1", true), ("[::1]:1", true), ("a", false), ("::1", false), ("[::1]", false)]
        {
            assert_eq!(is_host_and_port(text), expected, "{text}");
        }
    }
}
