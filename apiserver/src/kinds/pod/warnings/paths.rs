//! Files of one volume that would lie in each other's place.

use serde_json::Value;

use crate::kinds::lens::Lens;

/// Warnings about a volume that is made of items with paths.
pub fn overlaps(volume: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    let name = volume.text("name");
    for (field, kind, key) in
        [("configMap", "ConfigMap", "name"), ("secret", "Secret", "secretName"), DOWNWARD_API]
    {
        let what = what("", kind, volume.at(field).text(key));
        let what = format!("volume {name:?} ({what}): overlapping paths");
        found(&what, &mut Vec::new(), items(volume.at(field)), &mut warnings);
    }
    let mut seen = Vec::new();
    for source in volume.at("projected").items("sources") {
        let Some((what, paths)) = projected(source) else {
            if source.as_object().is_some_and(|source| source.is_empty()) {
                warnings.push(format!("volume {name:?} (Projected) has no sources provided"));
            }
            continue;
        };
        let what = format!("volume {name:?} ({what}): overlapping paths");
        found(&what, &mut seen, paths, &mut warnings);
    }
    warnings
}

const DOWNWARD_API: (&str, &str, &str) = ("downwardAPI", "DownwardAPI", "");

/// What a source of a projected volume is called, and its paths.
fn projected(source: &Value) -> Option<(String, Vec<&str>)> {
    let of_items = [("configMap", "ConfigMap", "name"), ("secret", "Secret", "name"), DOWNWARD_API];
    for (field, kind, key) in of_items {
        if source.has(field) {
            let source = source.at(field);
            return Some((what("Projected ", kind, source.text(key)), items(source)));
        }
    }
    for (field, kind) in [
        ("serviceAccountToken", "ServiceAccountToken"),
        ("clusterTrustBundle", "ClusterTrustBundle"),
    ] {
        if source.has(field) {
            let source = source.at(field);
            let named = [source.text("name"), source.text("signerName")];
            let named = named.into_iter().find(|name| !name.is_empty()).unwrap_or_default();
            return Some((what("Projected ", kind, named), vec![source.text("path")]));
        }
    }
    None
}

fn what(prefix: &str, kind: &str, name: &str) -> String {
    match name {
        "" => format!("{prefix}{kind}"),
        name => format!("{prefix}{kind} {name:?}"),
    }
}

fn items(source: &Value) -> Vec<&str> {
    source.items("items").iter().map(|item| item.text("path")).collect()
}

/// Notes the paths as seen, and tells of each that is one of those, lies in one or holds one.
fn found<'a>(what: &str, seen: &mut Vec<&'a str>, paths: Vec<&'a str>, warnings: &mut Vec<String>) {
    for path in paths.into_iter().map(|path| path.trim_end_matches('/')) {
        if path.is_empty() {
            continue;
        }
        let within = |inner: &str, outer: &str| {
            inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let other = seen.iter().find(|other| within(path, other) || within(other, path));
        warnings.extend(other.map(|other| format!("{what}: {path:?} with {other:?}")));
        seen.push(path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn files_in_the_place_of_others() {
        let item = |path: &str| json!({"path": path});
        let overlapping = json!({"name": "v", "configMap": {"name": "c", "items": [
            item("a"), item("a/b"), item("ab")]}});
        assert_eq!(
            overlaps(&overlapping),
            [r#"volume "v" (ConfigMap "c"): overlapping paths: "a/b" with "a""#]
        );
        let projected = json!({"name": "v", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token"}},
            {"secret": {"name": "s", "items": [item("token/")]}},
            {"downwardAPI": {"items": [item("labels")]}},
            {},
        ]}});
        assert_eq!(
            overlaps(&projected),
            [
                r#"volume "v" (Projected Secret "s"): overlapping paths: "token" with "token""#,
                r#"volume "v" (Projected) has no sources provided"#,
            ]
        );
    }
}
