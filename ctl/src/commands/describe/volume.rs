//! The volumes of a pod, each kind in its own words.

use serde_json::Value;

use super::shown;
use crate::output::sheet::Sheet;
use crate::resources::{items, text};

/// What is shown of a field.
enum Show {
    /// As it is; nothing where it is absent.
    Text,
    /// `<unset>` where it is absent.
    Amount,
    /// `false` where it is absent.
    Flag,
}

/// A source's field in the API, what it is called, and the lines below it.
type Source = (&'static str, &'static str, &'static [(&'static str, &'static str, Show)]);

const SOURCES: &[Source] = &[
    (
        "hostPath",
        "HostPath (bare host directory volume)",
        &[("Path", "path", Show::Text), ("HostPathType", "type", Show::Text)],
    ),
    (
        "emptyDir",
        "EmptyDir (a temporary directory that shares a pod's lifetime)",
        &[("Medium", "medium", Show::Text), ("SizeLimit", "sizeLimit", Show::Amount)],
    ),
    (
        "secret",
        "Secret (a volume populated by a Secret)",
        &[("SecretName", "secretName", Show::Text), ("Optional", "optional", Show::Flag)],
    ),
    (
        "configMap",
        "ConfigMap (a volume populated by a ConfigMap)",
        &[("Name", "name", Show::Text), ("Optional", "optional", Show::Flag)],
    ),
    (
        "persistentVolumeClaim",
        "PersistentVolumeClaim (a reference to a PersistentVolumeClaim in the same namespace)",
        &[("ClaimName", "claimName", Show::Text), ("ReadOnly", "readOnly", Show::Flag)],
    ),
    (
        "nfs",
        "NFS (an NFS mount that lasts the lifetime of a pod)",
        &[
            ("Server", "server", Show::Text),
            ("Path", "path", Show::Text),
            ("ReadOnly", "readOnly", Show::Flag),
        ],
    ),
    ("downwardAPI", "DownwardAPI (a volume populated by information about the pod)", &[]),
    ("projected", "Projected (a volume that contains injected data from multiple sources)", &[]),
];

/// Of a pod, or of a pod template: there kubectl sets the names only one column further.
pub fn describe(spec: &Value, template: bool, sheet: &mut Sheet) {
    if items(&spec["volumes"]).next().is_none() {
        sheet.field("Volumes", "<none>");
        return;
    }
    sheet.section("Volumes", |_| {});
    for volume in items(&spec["volumes"]) {
        let name = text(&volume["name"]);
        match template {
            true => {
                sheet.row(&[&format!(" {name}:")]);
                sheet.indented(|sheet| one(volume, sheet));
            }
            false => sheet.indented(|sheet| sheet.section(name, |sheet| one(volume, sheet))),
        }
    }
}

fn one(volume: &Value, sheet: &mut Sheet) {
    let known = SOURCES.iter().find(|(field, ..)| volume[*field].is_object());
    let Some((field, title, lines)) = known else { return unknown(volume, sheet) };
    let source = &volume[*field];
    sheet.field("Type", *title);
    for (head, field, show) in *lines {
        let value = match (show, &source[*field]) {
            (Show::Amount, Value::Null) => "<unset>".into(),
            (Show::Flag, value) => (*value == true).to_string(),
            (_, value) => text(value).to_string(),
        };
        sheet.field(head, value);
    }
    match *field {
        "downwardAPI" => sheet.section("Items", |sheet| {
            for item in items(&source["items"]) {
                let from = match text(&item["fieldRef"]["fieldPath"]) {
                    "" => text(&item["resourceFieldRef"]["resource"]),
                    path => path,
                };
                sheet.row(&[&format!("{from} -> {}", text(&item["path"]))]);
            }
        }),
        "projected" => items(&source["sources"]).for_each(|source| projected(source, sheet)),
        _ => {}
    }
}

fn projected(source: &Value, sheet: &mut Sheet) {
    for (field, head) in [("secret", "SecretName"), ("configMap", "ConfigMapName")] {
        if source[field].is_object() {
            sheet.field(head, text(&source[field]["name"]));
            sheet.field("Optional", (source[field]["optional"] == true).to_string());
        }
    }
    if source["downwardAPI"].is_object() {
        sheet.field("DownwardAPI", "true");
    }
    if let Some(seconds) = source["serviceAccountToken"]["expirationSeconds"].as_i64() {
        sheet.field("TokenExpirationSeconds", seconds.to_string());
    }
}

/// A source that has no words of its own: field by field.
fn unknown(volume: &Value, sheet: &mut Sheet) {
    let sources = volume.as_object().into_iter().flatten().filter(|(field, _)| *field != "name");
    for (kind, source) in sources {
        let mut letters = kind.chars();
        let first: String = letters.next().into_iter().flat_map(char::to_uppercase).collect();
        sheet.field("Type", first + letters.as_str());
        for (field, value) in source.as_object().into_iter().flatten() {
            sheet.field(&super::title(field), shown(value));
        }
    }
}
