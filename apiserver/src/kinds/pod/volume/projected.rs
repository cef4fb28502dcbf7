//! Projected volumes: several sources whose files share one folder. Trust bundles and pod
//! certificates are behind gates that are off (`schema/gates.txt`); where an object of old has
//! them, only that their files meet no others is looked at.

use std::collections::HashSet;

use proto::status::FieldError;
use serde_json::Value;

use super::{downward_file, file_path, keyed_files, mode};
use crate::kinds::check::{self, Errors};
use crate::kinds::lens::Lens;
use crate::kinds::path::Path;

/// Validates the projected source at `path`.
pub fn validate(path: &Path, volume: &Value, errors: &mut Errors) {
    mode(path, "defaultMode", volume, errors);
    let sources = path.field("sources");
    let mut files = HashSet::new();
    for (index, source) in volume.items("sources").iter().enumerate() {
        let item = sources.index(index);
        let mut kinds = 0;
        for kind in KINDS.iter().filter(|kind| source.has(kind)) {
            kinds += 1;
            one(path, &item, kind, source.at(kind), errors);
            for (file, blamed) in files_of(kind, source.at(kind)) {
                if !file.is_empty() && !files.insert(file) {
                    let detail = "conflicting duplicate paths";
                    errors.push(FieldError::invalid(path, blamed, detail));
                }
            }
        }
        if kinds > 1 {
            let detail = "may not specify more than 1 volume type per source";
            errors.push(FieldError::forbidden(item, detail));
        }
    }
}

/// One source; `path` is the volume's, which upstream names for a token's file.
fn one(path: &Path, item: &Path, kind: &str, source: &Value, errors: &mut Errors) {
    let here = item.field(kind);
    match kind {
        "secret" | "configMap" => {
            check::required(&here, source, "name", errors);
            keyed_files(&here, source, errors);
        }
        "downwardAPI" => {
            for file in source.items("items") {
                downward_file(&here, file, errors);
            }
        }
        "serviceAccountToken" => {
            expiry(&here.field("expirationSeconds"), source, errors);
            match source.text("path") {
                "" => errors.push(FieldError::required(path.field("path"), "")),
                file => file_path(&path.field("path"), file, errors),
            }
        }
        _ => {}
    }
}

fn expiry(path: &Path, token: &Value, errors: &mut Errors) {
    let seconds = token.int("expirationSeconds").unwrap_or(0);
    if seconds < 600 {
        let detail = "may not specify a duration less than 10 minutes";
        errors.push(FieldError::invalid(path, seconds, detail));
    }
    if seconds > 1 << 32 {
        let detail = "may not specify a duration larger than 2^32 seconds";
        errors.push(FieldError::invalid(path, seconds, detail));
    }
}

/// The files of a source, each with what is named when another has the same path. Tokens are not
/// compared, as upstream.
fn files_of<'a>(kind: &str, source: &'a Value) -> Vec<(&'a str, &'a str)> {
    let single: &[&str] = match kind {
        "clusterTrustBundle" => &["path"],
        "podCertificate" => &["credentialBundlePath", "keyPath", "certificateChainPath"],
        _ => &[],
    };
    let named = matches!(kind, "secret" | "configMap");
    let listed = source.items("items").iter().map(|item| {
        let file = item.text("path");
        (file, if named { source.text("name") } else { file })
    });
    let single = single.iter().map(|field| (source.text(field), source.text(field)));
    listed.chain(single).collect()
}

const KINDS: [&str; 6] = [
    "secret",
    "configMap",
    "downwardAPI",
    "serviceAccountToken",
    "clusterTrustBundle",
    "podCertificate",
];
